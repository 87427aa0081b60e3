//! Checks whether a tensor in host memory has only finite numbers.

use burn::tensor::{Tensor, backend::Backend};

use super::{Heads, dispatch::host_tensor};

/// Whether all numbers of a tensor are finite. `None` if the tensor is not in host memory, because the check would have
/// to wait for the device.
pub(crate) fn all_finite<B: Backend, const D: usize>(tensor: &Tensor<B, D>) -> Option<bool> {
    let tensor = host_tensor(tensor)?;
    Some(match tensor.heads() {
        Heads::F32(heads) => all(&heads, f32::is_finite),
        Heads::F64(heads) => all(&heads, f64::is_finite),
        Heads::F16(heads) => all(&heads, half::f16::is_finite),
        Heads::BF16(heads) => all(&heads, half::bf16::is_finite),
    })
}

/// Numbers in a piece. The loop over a piece has no branch, so the compiler vectorizes it.
const TOGETHER: usize = 1024;

fn all<T: Copy>(heads: &[&[T]], is_finite: impl Fn(T) -> bool) -> bool {
    let mut pieces = heads.iter().flat_map(|head| head.chunks(TOGETHER));
    pieces.all(|piece| piece.iter().fold(true, |all, &number| all & is_finite(number)))
}

use half::{bf16, f16};

/// A tensor of up to four dimensions in the memory of the host.
pub trait HostTensor: Send + Sync {
    /// The lengths of its dimensions, after ones in place of those that it does not have.
    fn dims(&self) -> [usize; 4];

    /// Each of its `dims[0] * dims[1]` heads, `[dims[2], dims[3]]` without gaps, borrowed from where it lies.
    fn heads(&self) -> Heads<'_>;
}

/// The heads of a [tensor](HostTensor), by type of number.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Heads<'a> {
    /// Single precision.
    F32(Vec<&'a [f32]>),
    /// Double precision.
    F64(Vec<&'a [f64]>),
    /// Half precision.
    F16(Vec<&'a [f16]>),
    /// Brain floating point.
    BF16(Vec<&'a [bf16]>),
}

/// The lengths of four dimensions of a tensor that may have fewer.
pub(super) fn of_four(dims: &[usize]) -> [usize; 4] {
    let mut four = [1; 4];
    four[4 - dims.len()..].copy_from_slice(dims);
    four
}

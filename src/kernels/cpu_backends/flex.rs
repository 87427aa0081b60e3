use burn::tensor::{
    DType, Slice,
    ops::{FloatTensor, FloatTensorOps},
};
use burn_flex::{Flex, FlexTensor};
use half::{bf16, f16};

use super::{
    super::{
        SparseBackend,
        cpu::{Heads, HostTensor, host::of_four},
    },
    band_attention, band_backward, gather_attention, gather_backward,
};
use crate::{
    mask::{KeyIndices, Pattern},
    problem::{AttentionGradients, AttentionInputs, AttentionOutput, AttentionTrace, Requested},
};

impl SparseBackend for Flex {
    fn host_tensor(tensor: FloatTensor<Self>) -> Option<Box<dyn HostTensor>> {
        let known = matches!(tensor.dtype(), DType::F32 | DType::F64 | DType::F16 | DType::BF16);
        (known && (2..=4).contains(&tensor.layout().num_dims())).then(|| {
            let gapless = heads_without_gaps(&tensor);
            Box::new(if gapless { tensor } else { tensor.to_contiguous() }) as Box<dyn HostTensor>
        })
    }

    /// Flex's own assignment holds a second reference to the tensor while it writes, so it copies the whole tensor
    /// first.
    fn write_along(
        mut tensor: FloatTensor<Self>,
        dim: usize,
        first: usize,
        new: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let (dims, count) = (tensor.layout().shape().to_vec(), new.layout().shape()[dim]);
        if !is_whole(&tensor) {
            let mut ranges = dims.iter().map(|&length| Slice::from(0..length)).collect::<Vec<_>>();
            ranges[dim] = Slice::from(first..first + count);
            return Self::float_slice_assign(tensor, &ranges, new);
        }
        let width = dims[dim + 1..].iter().product::<usize>();
        let outer = dims[..dim].iter().product::<usize>();
        let places = (0..outer).map(|at| (at * dims[dim] + first) * width);
        let new = new.to_contiguous();
        match tensor.dtype() {
            DType::F64 => copy(new.storage::<f64>(), tensor.storage_mut(), count * width, places),
            DType::F16 => copy(new.storage::<f16>(), tensor.storage_mut(), count * width, places),
            DType::BF16 => copy(new.storage::<bf16>(), tensor.storage_mut(), count * width, places),
            _ => copy(new.storage::<f32>(), tensor.storage_mut(), count * width, places),
        }
        tensor
    }

    fn band_attention(
        inputs: &AttentionInputs<Self>,
        pattern: Pattern,
        requested: Requested,
    ) -> Option<AttentionOutput<Self>> {
        band_attention(inputs, pattern, requested)
    }

    fn gather_attention(
        inputs: &AttentionInputs<Self>,
        rows: &KeyIndices<Self>,
        requested: Requested,
    ) -> Option<AttentionOutput<Self>> {
        gather_attention(inputs, rows, requested)
    }

    fn band_backward(
        inputs: &AttentionInputs<Self>,
        pattern: Pattern,
        trace: &AttentionTrace<Self>,
    ) -> Option<AttentionGradients<Self>> {
        band_backward(inputs, pattern, trace)
    }

    fn gather_backward(
        inputs: &AttentionInputs<Self>,
        rows: &KeyIndices<Self>,
        trace: &AttentionTrace<Self>,
    ) -> Option<AttentionGradients<Self>> {
        gather_backward(inputs, rows, trace)
    }
}

/// Whether the tensor is contiguous and covers all of its memory.
fn is_whole(tensor: &FlexTensor) -> bool {
    let layout = tensor.layout();
    let bytes = layout.num_elements() * tensor.dtype().size();
    layout.is_contiguous() && layout.start_offset() == 0 && tensor.bytes().len() == bytes
}

/// Copies consecutive pieces of `from` to their places.
fn copy<T: Copy>(from: &[T], to: &mut [T], length: usize, places: impl Iterator<Item = usize>) {
    for (piece, place) in from.chunks_exact(length).zip(places) {
        to[place..place + length].copy_from_slice(piece);
    }
}

/// Whether the last two dimensions have no gaps, so that a head is one slice.
fn heads_without_gaps(tensor: &FlexTensor) -> bool {
    let layout = tensor.layout();
    let (dims, strides) = (layout.shape().to_vec(), layout.strides());
    let (outer, inner) = strides.split_at(strides.len() - 2);
    *inner == [dims[dims.len() - 1] as isize, 1] && outer.iter().all(|&stride| stride >= 0)
}

impl HostTensor for FlexTensor {
    fn dims(&self) -> [usize; 4] {
        of_four(self.layout().shape())
    }

    fn heads(&self) -> Heads<'_> {
        match self.dtype() {
            DType::F64 => Heads::F64(slices(self, self.storage())),
            DType::F16 => Heads::F16(slices(self, self.storage())),
            DType::BF16 => Heads::BF16(slices(self, self.storage())),
            _ => Heads::F32(slices(self, self.storage())),
        }
    }
}

fn slices<'a, T>(tensor: &FlexTensor, storage: &'a [T]) -> Vec<&'a [T]> {
    let [batch, heads, length, width] = tensor.dims();
    let (start, mut strides) = (tensor.layout().start_offset(), [0; 4]);
    // A missing dimension has length 1 and stride 0.
    let known = tensor.layout().strides();
    strides[4 - known.len()..].copy_from_slice(known);
    let head = |at: usize| {
        let (batch, head) = (at / heads, at % heads);
        let first = start + batch * strides[0].unsigned_abs() + head * strides[1].unsigned_abs();
        &storage[first..first + length * width]
    };
    (0..batch * heads).map(head).collect()
}

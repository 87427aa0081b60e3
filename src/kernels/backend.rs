use burn::tensor::{Slice, TensorMetadata, backend::Backend, ops::FloatTensor};

use super::HostTensor;
use crate::{
    mask::{KeyIndices, Pattern},
    problem::{AttentionGradients, AttentionInputs, AttentionOutput, AttentionTrace, Requested},
};

/// The operations that a backend can do natively.
///
/// A function with an optional result returns `None` if the backend cannot do this call. Generic tensor operations then
/// compute the result. The native kernels are tested against these operations.
pub trait SparseBackend: Backend {
    /// Borrows a tensor of up to four dimensions from host memory. `None` if the tensor lies elsewhere.
    fn host_tensor(tensor: FloatTensor<Self>) -> Option<Box<dyn HostTensor>> {
        let _ = tensor;
        None
    }

    /// Writes `new` over a tensor along dimension `dim`, from index `first` on, and returns the tensor. The tensor is
    /// changed in place if nothing else holds its memory.
    fn write_along(tensor: FloatTensor<Self>, dim: usize, first: usize, new: FloatTensor<Self>) -> FloatTensor<Self> {
        let mut ranges = new.shape().iter().map(|&length| Slice::from(0..length)).collect::<Vec<_>>();
        ranges[dim] = Slice::from(first..first + new.shape()[dim]);
        Self::float_slice_assign(tensor, &ranges, new)
    }

    /// The part of a tensor before index `end` along dimension `dim`, as a view if the backend can make one.
    fn before(tensor: FloatTensor<Self>, dim: usize, end: usize) -> FloatTensor<Self> {
        let mut ranges = tensor.shape().iter().map(|&length| Slice::from(0..length)).collect::<Vec<_>>();
        ranges[dim] = Slice::from(0..end);
        Self::float_slice(tensor, &ranges)
    }

    /// Attention over the keys that a pattern keeps and that are [visible](AttentionInputs::visibility). Time and
    /// memory should grow with the number of these keys. If a query does not keep or see a key, then the contents of
    /// this key and its value must not change the query's output. Callers never request the weights.
    fn band_attention(
        inputs: &AttentionInputs<Self>,
        pattern: Pattern,
        requested: Requested,
    ) -> Option<AttentionOutput<Self>> {
        let _ = (inputs, pattern, requested);
        None
    }

    /// Attention over the listed keys that are [visible](AttentionInputs::visibility). The contents of all other keys
    /// and values must not change the output. Callers never request the weights.
    fn gather_attention(
        inputs: &AttentionInputs<Self>,
        rows: &KeyIndices<Self>,
        requested: Requested,
    ) -> Option<AttentionOutput<Self>> {
        let _ = (inputs, rows, requested);
        None
    }

    /// The gradients of [band attention](Self::band_attention), at the same cost in time and memory. Query-key pairs
    /// that are not kept or not visible are left out of the sums. They are not multiplied by 0, because 0 times NaN is
    /// NaN.
    fn band_backward(
        inputs: &AttentionInputs<Self>,
        pattern: Pattern,
        trace: &AttentionTrace<Self>,
    ) -> Option<AttentionGradients<Self>> {
        let _ = (inputs, pattern, trace);
        None
    }

    /// The gradients of [attention over listed keys](Self::gather_attention), at the same cost in time and memory.
    fn gather_backward(
        inputs: &AttentionInputs<Self>,
        rows: &KeyIndices<Self>,
        trace: &AttentionTrace<Self>,
    ) -> Option<AttentionGradients<Self>> {
        let _ = (inputs, rows, trace);
        None
    }
}

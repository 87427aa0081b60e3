use burn::tensor::{Slice, TensorMetadata, backend::Backend, ops::FloatTensor};

use super::HostTensor;
use crate::{
    attention::{AttentionGradients, AttentionInputs, AttentionOutput, AttentionTrace, Requested},
    mask::{KeyIndices, Pattern},
};

/// What a backend can do natively. `None` from those that may give it means that it cannot, there and then: generic tensor
/// operations do it instead, which are the reference that native kernels are tested against.
pub trait SparseBackend: Backend {
    /// Borrows a tensor of up to four dimensions from the memory of the host, if it lies there.
    fn host_tensor(tensor: FloatTensor<Self>) -> Option<Box<dyn HostTensor>> {
        let _ = tensor;
        None
    }

    /// A tensor with `new` written over what stands from `first` on along a dimension, in place where nobody else holds the
    /// tensor.
    fn write_along(tensor: FloatTensor<Self>, dim: usize, first: usize, new: FloatTensor<Self>) -> FloatTensor<Self> {
        let mut ranges = new.shape().iter().map(|&length| Slice::from(0..length)).collect::<Vec<_>>();
        ranges[dim] = Slice::from(first..first + new.shape()[dim]);
        Self::float_slice_assign(tensor, &ranges, new)
    }

    /// What stands before `end` along a dimension of a tensor, a view where that can be.
    fn before(tensor: FloatTensor<Self>, dim: usize, end: usize) -> FloatTensor<Self> {
        let mut ranges = tensor.shape().iter().map(|&length| Slice::from(0..length)).collect::<Vec<_>>();
        ranges[dim] = Slice::from(0..end);
        Self::float_slice(tensor, &ranges)
    }

    /// Attention over the keys that a pattern keeps and the [visibility](AttentionInputs::visibility) shows. Time and
    /// memory should grow with these. What a key and its value hold must not matter to a query that does not keep or see
    /// the key. The weights are never requested.
    fn band_attention(
        inputs: &AttentionInputs<Self>,
        pattern: Pattern,
        requested: Requested,
    ) -> Option<AttentionOutput<Self>> {
        let _ = (inputs, pattern, requested);
        None
    }

    /// Attention over listed keys, of those which the [visibility](AttentionInputs::visibility) shows. What the keys and
    /// values of other positions hold must not matter. The weights are never requested.
    fn gather_attention(
        inputs: &AttentionInputs<Self>,
        rows: &KeyIndices<Self>,
        requested: Requested,
    ) -> Option<AttentionOutput<Self>> {
        let _ = (inputs, rows, requested);
        None
    }

    /// The gradients of [band attention](Self::band_attention), at its cost in time and memory. Pairs of queries and keys
    /// that are not kept or seen add nothing, not 0 times something.
    fn band_backward(
        inputs: &AttentionInputs<Self>,
        pattern: Pattern,
        trace: &AttentionTrace<Self>,
    ) -> Option<AttentionGradients<Self>> {
        let _ = (inputs, pattern, trace);
        None
    }

    /// The gradients of [attention over listed keys](Self::gather_attention), at its cost in time and memory.
    fn gather_backward(
        inputs: &AttentionInputs<Self>,
        rows: &KeyIndices<Self>,
        trace: &AttentionTrace<Self>,
    ) -> Option<AttentionGradients<Self>> {
        let _ = (inputs, rows, trace);
        None
    }
}

use burn::tensor::{Slice, TensorMetadata, backend::Backend, ops::FloatTensor};

use super::HostTensor;
use crate::{
    attention::{AttentionInputs, AttentionOutput, Requested},
    mask::{Pattern, Rows},
};

/// What a backend can do natively. `None` from those that may give it means that it cannot, there and then: generic tensor
/// operations do it instead, which are the reference that native kernels are tested against.
pub trait SparseBackend: Backend {
    /// Borrows a tensor of four dimensions from the memory of the host, if it lies there.
    fn host_tensor(tensor: FloatTensor<Self>) -> Option<Box<dyn HostTensor>> {
        let _ = tensor;
        None
    }

    /// A tensor `[batch, heads, length, width]` with rows `[batch, heads, rows, width]` written over those from `first`
    /// on, in place where nobody else holds the tensor.
    fn write_rows(tensor: FloatTensor<Self>, first: usize, rows: FloatTensor<Self>) -> FloatTensor<Self> {
        let [batch, heads, count, width] = rows.shape().dims();
        let ranges = [0..batch, 0..heads, first..first + count, 0..width].map(Slice::from);
        Self::float_slice_assign(tensor, &ranges, rows)
    }

    /// The first rows of a tensor `[batch, heads, length, width]`, `[batch, heads, count, width]`, a view where that can
    /// be.
    fn first_rows(tensor: FloatTensor<Self>, count: usize) -> FloatTensor<Self> {
        let [batch, heads, _, width] = tensor.shape().dims();
        Self::float_slice(tensor, &[0..batch, 0..heads, 0..count, 0..width].map(Slice::from))
    }

    /// Attention over the keys that a pattern keeps and the [visibility](AttentionInputs::visibility) shows. Time and
    /// memory should grow with these. The weights are never requested.
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
        rows: &Rows<Self>,
        requested: Requested,
    ) -> Option<AttentionOutput<Self>> {
        let _ = (inputs, rows, requested);
        None
    }
}

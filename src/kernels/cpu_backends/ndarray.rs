use burn::tensor::{TensorMetadata, ops::FloatTensor};
use burn_ndarray::{FloatNdArrayElement, IntNdArrayElement, NdArray, NdArrayTensor, QuantElement, SharedArray};
use ndarray::{ArrayView, Axis, IxDyn, Slice};

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

impl<E: FloatNdArrayElement, I: IntNdArrayElement, Q: QuantElement> SparseBackend for NdArray<E, I, Q>
where
    NdArrayTensor: From<SharedArray<E>> + From<SharedArray<I>>,
{
    fn host_tensor(tensor: FloatTensor<Self>) -> Option<Box<dyn HostTensor>> {
        if !(2..=4).contains(&tensor.shape().num_dims()) {
            return None;
        }
        let gapless = match tensor {
            NdArrayTensor::F32(storage) if slices(storage.view()).is_none() => {
                NdArrayTensor::from(storage.view().as_standard_layout().into_owned().into_shared())
            }
            NdArrayTensor::F64(storage) if slices(storage.view()).is_none() => {
                NdArrayTensor::from(storage.view().as_standard_layout().into_owned().into_shared())
            }
            NdArrayTensor::F32(_) | NdArrayTensor::F64(_) => tensor,
            _ => return None,
        };
        Some(Box::new(gapless))
    }

    /// A view, because the slice of burn's ndarray backend is a copy.
    fn before(tensor: FloatTensor<Self>, dim: usize, end: usize) -> FloatTensor<Self> {
        match tensor {
            NdArrayTensor::F32(storage) => NdArrayTensor::from(before(storage.into_shared(), dim, end)),
            NdArrayTensor::F64(storage) => NdArrayTensor::from(before(storage.into_shared(), dim, end)),
            // ndarray has no other float type.
            other => other,
        }
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

impl HostTensor for NdArrayTensor {
    fn dims(&self) -> [usize; 4] {
        of_four(&self.shape())
    }

    fn heads(&self) -> Heads<'_> {
        match self {
            NdArrayTensor::F64(storage) => Heads::F64(slices(storage.view()).unwrap_or_default()),
            NdArrayTensor::F32(storage) => Heads::F32(slices(storage.view()).unwrap_or_default()),
            // `host_tensor` refuses every other type.
            _ => Heads::F32(Vec::new()),
        }
    }
}

/// The part of an array before index `end` along dimension `dim`, as a view of the same memory.
fn before<T>(mut array: SharedArray<T>, dim: usize, end: usize) -> SharedArray<T> {
    array.slice_axis_inplace(Axis(dim), Slice::from(0..end));
    array
}

/// One slice for each head of an array. `None` if a head has gaps in memory.
fn slices<T>(mut array: ArrayView<'_, T, IxDyn>) -> Option<Vec<&[T]>> {
    while array.ndim() < 4 {
        array = array.insert_axis(Axis(0));
    }
    let [batch, heads, ..] = *array.shape() else { return None };
    let head = |at: usize| {
        let head = array.clone().index_axis_move(Axis(0), at / heads).index_axis_move(Axis(0), at % heads);
        head.to_slice()
    };
    (0..batch * heads).map(head).collect()
}

//! Finds the native kernels of a backend by its type, at run time.

use std::{
    any::{Any, TypeId},
    collections::HashMap,
    sync::{OnceLock, PoisonError, RwLock},
};

use burn::tensor::{Tensor, TensorPrimitive, backend::Backend, ops::FloatTensor};

use super::{HostTensor, SparseBackend};
use crate::{
    mask::{KeyIndices, Pattern},
    problem::{AttentionInputs, AttentionOutput, Requested},
};

type Band<B> = fn(&AttentionInputs<B>, Pattern, Requested) -> Option<AttentionOutput<B>>;
type Gather<B> = fn(&AttentionInputs<B>, &KeyIndices<B>, Requested) -> Option<AttentionOutput<B>>;

/// The functions of a [SparseBackend]. The type only needs `B: Backend`, so that code without the bound
/// `B: SparseBackend` can downcast to it.
pub(super) struct Table<B: Backend> {
    host_tensor: fn(FloatTensor<B>) -> Option<Box<dyn HostTensor>>,
    write_along: fn(FloatTensor<B>, usize, usize, FloatTensor<B>) -> FloatTensor<B>,
    before: fn(FloatTensor<B>, usize, usize) -> FloatTensor<B>,
    pub band_attention: Band<B>,
    pub gather_attention: Gather<B>,
}

impl<B: Backend> Clone for Table<B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend> Copy for Table<B> {}

impl<B: SparseBackend> Table<B> {
    const fn of() -> Self {
        Self {
            host_tensor: B::host_tensor,
            write_along: B::write_along,
            before: B::before,
            band_attention: B::band_attention,
            gather_attention: B::gather_attention,
        }
    }
}

/// The tables of backends outside of this crate, by the type of the backend.
static REGISTERED: RwLock<Option<HashMap<TypeId, Box<dyn Any + Send + Sync>>>> = RwLock::new(None);

/// Adds the native kernels of a backend. The backends of this crate's features are known without this call.
pub fn register<B: SparseBackend>() {
    let mut registered = REGISTERED.write().unwrap_or_else(PoisonError::into_inner);
    registered.get_or_insert_default().insert(TypeId::of::<B>(), Box::new(Table::<B>::of()));
}

/// Whether a backend has native kernels. Other backends compute the same results with generic tensor operations.
///
/// With the feature `train`, `Autodiff` over a backend with native kernels has them too. Sparse attention is then one
/// step of the autodiff graph, and its gradients cost as much as its forward step. Dense attention, and attention that
/// returns weights, is tracked operation by operation.
pub fn native_path<B: Backend>() -> bool {
    table::<B>().is_some()
}

/// The tables of the backends that this crate names. This function must not be generic. Otherwise every program would
/// compile the kernels of all these backends again for each backend that it uses.
#[inline(never)]
fn known() -> Vec<&'static (dyn Any + Send + Sync)> {
    #[cfg(any(feature = "flex", feature = "ndarray"))]
    macro_rules! tables {
        ($($backend:ty),*) => { [$({
            static TABLE: Table<$backend> = Table::<$backend>::of();
            &TABLE as &'static (dyn Any + Send + Sync)
        }),*] };
    }
    #[cfg(all(feature = "train", any(feature = "flex", feature = "ndarray")))]
    use burn::backend::autodiff::{Autodiff, checkpoint::strategy::BalancedCheckpointing};
    #[allow(unused_mut)] // Nothing is added in a build without a CPU backend.
    let mut known = Vec::new();
    #[cfg(feature = "flex")]
    {
        use burn_flex::Flex;
        known.extend(tables![Flex]);
        #[cfg(feature = "train")]
        known.extend(tables![Autodiff<Flex>, Autodiff<Flex, BalancedCheckpointing>]);
    }
    #[cfg(feature = "ndarray")]
    {
        use burn_ndarray::NdArray;
        known.extend(tables![NdArray, NdArray<f64>, NdArray<f32, i32>, NdArray<f64, i32>]);
        #[cfg(feature = "train")]
        {
            type Balanced<B> = Autodiff<B, BalancedCheckpointing>;
            known.extend(tables![Autodiff<NdArray>, Autodiff<NdArray<f64>>]);
            known.extend(tables![Autodiff<NdArray<f32, i32>>, Autodiff<NdArray<f64, i32>>]);
            known.extend(tables![Balanced<NdArray>, Balanced<NdArray<f64>>]);
            known.extend(tables![Balanced<NdArray<f32, i32>>, Balanced<NdArray<f64, i32>>]);
        }
    }
    known
}

pub(super) fn table<B: Backend>() -> Option<Table<B>> {
    static KNOWN: OnceLock<Vec<&'static (dyn Any + Send + Sync)>> = OnceLock::new();
    if let Some(table) = KNOWN.get_or_init(known).iter().find_map(|table| table.downcast_ref::<Table<B>>()) {
        return Some(*table);
    }
    let registered = REGISTERED.read().unwrap_or_else(PoisonError::into_inner);
    registered.as_ref()?.get(&TypeId::of::<B>())?.downcast_ref::<Table<B>>().copied()
}

/// Borrows a tensor of up to four dimensions from host memory. `None` if the tensor lies elsewhere.
pub(crate) fn host_tensor<B: Backend, const D: usize>(tensor: &Tensor<B, D>) -> Option<Box<dyn HostTensor>> {
    let table = table::<B>()?;
    match tensor.clone().into_primitive() {
        TensorPrimitive::Float(tensor) => (table.host_tensor)(tensor),
        TensorPrimitive::QFloat(_) => None,
    }
}

/// Writes `new` over a tensor along dimension `dim`, from index `first` on, and returns the tensor. The tensor is
/// changed in place if nothing else holds its memory.
pub(crate) fn write_along<B: Backend, const D: usize>(
    tensor: Tensor<B, D>,
    dim: usize,
    first: usize,
    new: Tensor<B, D>,
) -> Tensor<B, D> {
    match table::<B>() {
        Some(table) => {
            let (tensor, new) = (tensor.into_primitive().tensor(), new.into_primitive().tensor());
            Tensor::from_primitive(TensorPrimitive::Float((table.write_along)(tensor, dim, first, new)))
        }
        None => {
            let mut ranges = new.dims().map(|length| 0..length);
            ranges[dim] = first..first + new.dims()[dim];
            tensor.slice_assign(ranges, new)
        }
    }
}

/// The part of a tensor before index `end` along dimension `dim`, as a view if the backend can make one.
pub(crate) fn before<B: Backend, const D: usize>(tensor: &Tensor<B, D>, dim: usize, end: usize) -> Tensor<B, D> {
    match table::<B>() {
        Some(table) => {
            let part = (table.before)(tensor.clone().into_primitive().tensor(), dim, end);
            Tensor::from_primitive(TensorPrimitive::Float(part))
        }
        None => tensor.clone().slice_dim(dim, 0..end),
    }
}

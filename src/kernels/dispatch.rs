//! Which backend has native kernels: asked by type, at run time.

use std::{
    any::{Any, TypeId},
    collections::HashMap,
    sync::{OnceLock, PoisonError, RwLock},
};

use burn::tensor::{Tensor, TensorPrimitive, backend::Backend, ops::FloatTensor};

use super::{HostTensor, SparseBackend};
use crate::{
    attention::{AttentionInputs, AttentionOutput, Requested},
    mask::{Pattern, Rows},
};

type Band<B> = fn(&AttentionInputs<B>, Pattern, Requested) -> Option<AttentionOutput<B>>;
type Gather<B> = fn(&AttentionInputs<B>, &Rows<B>, Requested) -> Option<AttentionOutput<B>>;

/// The functions of a [SparseBackend]. For the same `B` it is the same type whether or not `B: SparseBackend` is known,
/// which is what lets a downcast find it.
pub(super) struct Table<B: Backend> {
    host_tensor: fn(FloatTensor<B>) -> Option<Box<dyn HostTensor>>,
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
        Self { host_tensor: B::host_tensor, band_attention: B::band_attention, gather_attention: B::gather_attention }
    }
}

/// The tables of backends that this crate cannot name.
static REGISTERED: RwLock<Option<HashMap<TypeId, Box<dyn Any + Send + Sync>>>> = RwLock::new(None);

/// Makes the native kernels of a backend known. Those of this crate's own features are known without it.
pub fn register<B: SparseBackend>() {
    let mut registered = REGISTERED.write().unwrap_or_else(PoisonError::into_inner);
    registered.get_or_insert_default().insert(TypeId::of::<B>(), Box::new(Table::<B>::of()));
}

/// Whether a backend has native kernels. Others compute the same with generic tensor operations; so does `Autodiff`,
/// which tracks them.
pub fn native_path<B: Backend>() -> bool {
    table::<B>().is_some()
}

/// The tables of the backends that this crate names. Made here and not in a generic function: otherwise every program would
/// compile the kernels of all of them again, for every backend that it uses.
#[inline(never)]
fn known() -> Vec<&'static (dyn Any + Send + Sync)> {
    #[cfg(any(feature = "flex", feature = "ndarray"))]
    macro_rules! tables {
        ($($backend:ty),*) => { [$({
            static TABLE: Table<$backend> = Table::<$backend>::of();
            &TABLE as &'static (dyn Any + Send + Sync)
        }),*] };
    }
    #[allow(unused_mut)] // In a build without a CPU backend.
    let mut known = Vec::new();
    #[cfg(feature = "flex")]
    known.extend(tables![burn_flex::Flex]);
    #[cfg(feature = "ndarray")]
    {
        use burn_ndarray::NdArray;
        known.extend(tables![NdArray, NdArray<f64>, NdArray<f32, i32>, NdArray<f64, i32>]);
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

/// A tensor borrowed from the memory of the host, if it lies there.
pub(crate) fn host_tensor<B: Backend>(tensor: &Tensor<B, 4>) -> Option<Box<dyn HostTensor>> {
    let table = table::<B>()?;
    match tensor.clone().into_primitive() {
        TensorPrimitive::Float(tensor) => (table.host_tensor)(tensor),
        TensorPrimitive::QFloat(_) => None,
    }
}

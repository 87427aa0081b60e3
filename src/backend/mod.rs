//! The backends that cargo features select, for examples and programs that need one.
//!
//! The library itself is generic over [Backend](burn::tensor::backend::Backend) and names no backend. With several
//! features enabled, the [default](DefaultBackend) is the first of cuda, tch, wgpu, flex, ndarray. [run_on] takes any
//! enabled backend by name.

mod description;
mod run_on;

pub use description::describe;
pub use run_on::{BackendError, COMPILED, Work, run_on};

/// The backend that the enabled features select.
#[cfg(feature = "cuda")]
pub type DefaultBackend = burn_cuda::Cuda;
/// The backend that the enabled features select.
#[cfg(all(feature = "tch", not(feature = "cuda")))]
pub type DefaultBackend = burn_tch::LibTorch;
/// The backend that the enabled features select.
#[cfg(all(feature = "wgpu", not(any(feature = "cuda", feature = "tch"))))]
pub type DefaultBackend = burn_wgpu::Wgpu;
/// The backend that the enabled features select.
#[cfg(all(feature = "flex", not(any(feature = "cuda", feature = "tch", feature = "wgpu"))))]
pub type DefaultBackend = burn_flex::Flex;
/// The backend that the enabled features select.
#[cfg(all(feature = "ndarray", not(any(feature = "cuda", feature = "tch", feature = "wgpu", feature = "flex"))))]
pub type DefaultBackend = burn_ndarray::NdArray;

/// The [default backend](DefaultBackend).
pub type Selected = DefaultBackend;

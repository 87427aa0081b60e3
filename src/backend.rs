//! The backend that a cargo feature picks, for examples and programs that need one.
//!
//! The library itself is generic over [Backend](burn::tensor::backend::Backend) and names no backend. With several
//! features enabled the first of cuda, tch, wgpu, flex, ndarray is taken.

/// The backend picked by feature.
#[cfg(feature = "cuda")]
pub type Selected = burn_cuda::Cuda;
/// The backend picked by feature.
#[cfg(all(feature = "tch", not(feature = "cuda")))]
pub type Selected = burn_tch::LibTorch;
/// The backend picked by feature.
#[cfg(all(feature = "wgpu", not(any(feature = "cuda", feature = "tch"))))]
pub type Selected = burn_wgpu::Wgpu;
/// The backend picked by feature.
#[cfg(all(feature = "flex", not(any(feature = "cuda", feature = "tch", feature = "wgpu"))))]
pub type Selected = burn_flex::Flex;
/// The backend picked by feature.
#[cfg(all(feature = "ndarray", not(any(feature = "cuda", feature = "tch", feature = "wgpu", feature = "flex"))))]
pub type Selected = burn_ndarray::NdArray;

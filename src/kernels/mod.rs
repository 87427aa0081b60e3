//! Native kernels behind a plain `Backend` bound.
//!
//! Every operation of this library is first written in generic tensor operations. A backend with faster kernels
//! implements [SparseBackend]. [attention](crate::attention) looks these kernels up at run time, so the public
//! interface has no bound but `B: Backend`. The backends of this crate's features are known. [register] adds another
//! backend.

#[cfg(feature = "train")]
mod autodiff;
mod backend;
mod native_attention;
// A build without a CPU backend leaves some of these functions unused. The scorers use the others in every build.
#[cfg_attr(not(any(feature = "flex", feature = "ndarray")), allow(dead_code, unused_imports))]
pub(crate) mod cpu;
#[cfg_attr(not(any(feature = "flex", feature = "ndarray")), allow(dead_code, unused_imports))]
mod cpu_backends;
mod dispatch;
mod finite;
mod host_memory;
pub(crate) mod reference;

pub use backend::SparseBackend;
pub use cpu::{Heads, HostTensor};
pub(crate) use dispatch::{before, host_tensor, write_along};
pub use dispatch::{native_path, register};
pub(crate) use finite::all_finite;
pub(crate) use host_memory::in_host_memory;
pub(crate) use native_attention::attend;

pub use crate::device::{DeviceLimit, largest_tensor};

//! Native speed behind a plain `Backend` bound.
//!
//! Everything in this library is written in generic tensor operations first. A backend that can do better implements
//! [SparseBackend]; [attention](crate::attention) looks it up at run time, so that no bound but `B: Backend` shows in the
//! public interface. The backends of this crate's features are known; [register] adds another.

#[cfg(feature = "train")]
mod autodiff;
mod backend;
mod capabilities;
mod native_attention;
// A build without a CPU backend has no caller for some of these; the scorers use the others in every build.
#[cfg_attr(not(any(feature = "flex", feature = "ndarray")), allow(dead_code, unused_imports))]
pub(crate) mod cpu;
mod dispatch;
mod finite;

pub use backend::SparseBackend;
pub use capabilities::{DeviceLimit, largest_tensor};
pub(crate) use capabilities::{as_indices, check_size, in_host_memory};
pub use cpu::{Heads, HostTensor};
pub(crate) use dispatch::{before, host_tensor, write_along};
pub use dispatch::{native_path, register};
pub(crate) use finite::all_finite;
pub(crate) use native_attention::attend;

//! The CPU backends: how their tensors become slices, on which the [CPU kernels](super::cpu) work, and slices become
//! tensors.

#[cfg(feature = "flex")]
mod flex;
mod gradient_tensor_io;
#[cfg(feature = "ndarray")]
mod ndarray;
mod tensor_io;

use gradient_tensor_io::{band_backward, gather_backward};
use tensor_io::{band_attention, gather_attention};

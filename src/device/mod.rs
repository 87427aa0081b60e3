//! What a backend and its device can do. No other file checks for this.

#[cfg(any(feature = "wgpu", feature = "cuda"))]
use std::any::Any;

use burn::tensor::{DType, Element, Int, IntDType, Tensor, backend::Backend};
use thiserror::Error;

/// A tensor would be larger than the device can hold.
///
/// Devices limit the size of a single tensor to less than their memory. burn reports no error for a tensor above the
/// limit: its values are garbage, and a thread inside burn panics.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the {what}, of shape {shape:?}, would take {bytes} bytes, but a tensor on this device has at most {limit}")]
pub struct DeviceLimit {
    /// What the tensor holds.
    pub what: &'static str,
    /// Its shape.
    pub shape: Vec<usize>,
    /// The bytes that it would take.
    pub bytes: u64,
    /// The bytes that a tensor on the device can take.
    pub limit: u64,
}

/// The bytes of the largest tensor that a device can hold. `None` if its memory is the only limit.
///
/// This is the largest binding of a storage buffer on wgpu, and a quarter of the memory on CUDA.
pub fn largest_tensor<B: Backend>(device: &B::Device) -> Option<u64> {
    #[cfg(feature = "wgpu")]
    if let Some(device) = (device as &dyn Any).downcast_ref() {
        return Some(largest_page::<cubecl::wgpu::WgpuRuntime>(device));
    }
    #[cfg(feature = "cuda")]
    if let Some(device) = (device as &dyn Any).downcast_ref() {
        return Some(largest_page::<cubecl::cuda::CudaRuntime>(device));
    }
    let _ = device;
    None
}

#[cfg(any(feature = "wgpu", feature = "cuda"))]
fn largest_page<R: cubecl::Runtime>(device: &R::Device) -> u64 {
    R::client(device).properties().memory.max_page_size
}

/// From which absolute value on a backend's products round a finite f32 to an infinity; `None` if none does. burn-cuda
/// rounds the operands of f32 products to TF32, to the nearest; 2^128 - 2^116 is half way beyond its largest number.
pub(crate) fn infinite_in_products<B: Backend>(device: &B::Device) -> Option<f32> {
    #[cfg(feature = "cuda")]
    if (device as &dyn Any).is::<<cubecl::cuda::CudaRuntime as cubecl::Runtime>::Device>() {
        return Some(f32::from_bits(0x7f7f_f000));
    }
    let _ = device;
    None
}

/// Returns an error if a device cannot hold a tensor of this shape.
pub(crate) fn check_size<B: Backend>(
    what: &'static str,
    shape: &[usize],
    dtype: DType,
    device: &B::Device,
) -> Result<(), DeviceLimit> {
    let Some(limit) = largest_tensor::<B>(device) else { return Ok(()) };
    let bytes = shape.iter().fold(dtype.size() as u64, |bytes, &length| bytes.saturating_mul(length as u64));
    match bytes <= limit {
        true => Ok(()),
        false => Err(DeviceLimit { what, shape: shape.to_vec(), bytes, limit }),
    }
}

/// Casts indices to the integer type with which a backend gathers and scatters. This is 64 bits on libtorch, which
/// refuses other types, and 32 bits on GPUs.
pub(crate) fn as_indices<B: Backend, const D: usize>(indices: Tensor<B, D, Int>) -> Tensor<B, D, Int> {
    let dtype = <B::IntElem as Element>::dtype();
    match indices.dtype() == dtype {
        true => indices,
        false => indices.cast(IntDType::from(dtype)),
    }
}

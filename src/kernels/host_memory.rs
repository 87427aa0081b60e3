#[cfg(feature = "tch")]
use std::any::Any;

use burn::tensor::{Tensor, backend::Backend};

use super::host_tensor;

/// Whether a tensor lies in host memory. This holds where native kernels can read it, and on libtorch's CPU.
pub(crate) fn in_host_memory<B: Backend, const D: usize>(tensor: &Tensor<B, D>) -> bool {
    #[cfg(feature = "tch")]
    if let Some(device) = (&tensor.device() as &dyn Any).downcast_ref() {
        return matches!(device, burn_tch::LibTorchDevice::Cpu);
    }
    host_tensor(tensor).is_some()
}

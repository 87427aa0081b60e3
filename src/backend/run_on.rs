//! Runs work on a backend and a device that are given by name.

use burn::tensor::backend::Backend;
use thiserror::Error;

/// Work that is generic over the backend, so that the backend can be chosen at run time.
///
/// # Example
/// ```
/// # #[cfg(feature = "flex")] {
/// use burn::tensor::{Tensor, backend::Backend};
/// use sparse_attention_hub::backend::{Work, run_on};
///
/// struct Sum(Vec<f32>);
///
/// impl Work for Sum {
///     type Output = f32;
///
///     fn run<B: Backend>(self, device: B::Device) -> f32 {
///         let sum = Tensor::<B, 1>::from_floats(self.0.as_slice(), &device).sum();
///         sum.into_data().convert::<f32>().iter::<f32>().sum()
///     }
/// }
///
/// assert_eq!(run_on(Some("flex"), None, Sum(vec![1.0, 2.0]))?, 3.0);
/// # }
/// # Ok::<(), sparse_attention_hub::backend::BackendError>(())
/// ```
pub trait Work {
    /// The result of the work.
    type Output;

    /// Does the work on a device of a backend.
    fn run<B: Backend>(self, device: B::Device) -> Self::Output;
}

/// Why a backend or a device is not available.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BackendError {
    /// The backend is unknown, or its feature is not enabled.
    #[error("the backend is `{found}`, but this program was compiled with {compiled}; `--features` adds others")]
    Backend {
        /// The name that was given.
        found: String,
        /// The names that are known.
        compiled: String,
    },
    /// The backend has no such device.
    #[error("the device of the backend {backend} is `{found}`, but must be {allowed}")]
    Device {
        /// The backend.
        backend: &'static str,
        /// The device that was given.
        found: String,
        /// What is allowed.
        allowed: &'static str,
    },
}

/// The backends that are compiled in, by name; the first is the default.
pub const COMPILED: &[&str] = &[
    #[cfg(feature = "cuda")]
    "cuda",
    #[cfg(feature = "tch")]
    "tch",
    #[cfg(feature = "wgpu")]
    "wgpu",
    #[cfg(feature = "flex")]
    "flex",
    #[cfg(feature = "ndarray")]
    "ndarray",
];

/// Does work on the backend and the device of the given names. Without a name, it is the default backend, or the
/// default device of the backend.
///
/// Devices are `cpu` on every backend except cuda; `cuda:0` and so on for cuda and tch; `mps` for tch; `discrete:0`,
/// `integrated:0`, `virtual:0` and so on for wgpu.
///
/// # Errors
/// If the backend is not compiled in, or has no device of such a name.
///
/// # Panics
/// If wgpu does not find the device, or the program has used the device before without a call of
/// [describe](super::describe).
pub fn run_on<W: Work>(backend: Option<&str>, device: Option<&str>, work: W) -> Result<W::Output, BackendError> {
    match backend.unwrap_or(COMPILED[0]) {
        #[cfg(feature = "cuda")]
        "cuda" => Ok(work.run::<burn_cuda::Cuda>(cuda(device)?)),
        #[cfg(feature = "tch")]
        "tch" => Ok(work.run::<burn_tch::LibTorch>(tch(device)?)),
        #[cfg(feature = "wgpu")]
        "wgpu" => Ok(work.run::<burn_wgpu::Wgpu>(wgpu(device)?)),
        #[cfg(feature = "flex")]
        "flex" => {
            only_cpu("flex", device)?;
            Ok(work.run::<burn_flex::Flex>(Default::default()))
        }
        #[cfg(feature = "ndarray")]
        "ndarray" => {
            only_cpu("ndarray", device)?;
            Ok(work.run::<burn_ndarray::NdArray>(Default::default()))
        }
        other => Err(BackendError::Backend { found: other.to_owned(), compiled: COMPILED.join(", ") }),
    }
}

fn no_device(backend: &'static str, found: &str, allowed: &'static str) -> BackendError {
    BackendError::Device { backend, found: found.to_owned(), allowed }
}

#[cfg(any(feature = "flex", feature = "ndarray"))]
fn only_cpu(backend: &'static str, device: Option<&str>) -> Result<(), BackendError> {
    match device {
        None | Some("cpu") => Ok(()),
        Some(other) => Err(no_device(backend, other, "cpu")),
    }
}

/// The number after a kind of device, as in `cuda:1`.
#[cfg(any(feature = "cuda", feature = "tch", feature = "wgpu"))]
fn numbered(device: &str, kind: &str) -> Option<usize> {
    device.strip_prefix(kind)?.strip_prefix(':')?.parse().ok()
}

#[cfg(feature = "cuda")]
fn cuda(device: Option<&str>) -> Result<burn_cuda::CudaDevice, BackendError> {
    let Some(name) = device else { return Ok(Default::default()) };
    let index = numbered(name, "cuda").ok_or_else(|| no_device("cuda", name, "cuda:0, cuda:1 and so on"))?;
    Ok(burn_cuda::CudaDevice::new(index))
}

#[cfg(feature = "tch")]
fn tch(device: Option<&str>) -> Result<burn_tch::LibTorchDevice, BackendError> {
    use burn_tch::LibTorchDevice;
    match device {
        None | Some("cpu") => Ok(LibTorchDevice::Cpu),
        Some("mps") => Ok(LibTorchDevice::Mps),
        Some(name) => match numbered(name, "cuda") {
            Some(index) => Ok(LibTorchDevice::Cuda(index)),
            None => Err(no_device("tch", name, "cpu, mps, or cuda:0, cuda:1 and so on")),
        },
    }
}

#[cfg(feature = "wgpu")]
fn wgpu(device: Option<&str>) -> Result<burn_wgpu::WgpuDevice, BackendError> {
    let device = wgpu_device(device)?;
    // The name is asked for now, because it is known only while the device is opened.
    super::describe::<burn_wgpu::Wgpu>(&device);
    Ok(device)
}

#[cfg(feature = "wgpu")]
fn wgpu_device(device: Option<&str>) -> Result<burn_wgpu::WgpuDevice, BackendError> {
    use burn_wgpu::WgpuDevice;
    let Some(name) = device else { return Ok(WgpuDevice::DefaultDevice) };
    let kinds: [(&str, fn(usize) -> WgpuDevice); 3] = [
        ("discrete", WgpuDevice::DiscreteGpu),
        ("integrated", WgpuDevice::IntegratedGpu),
        ("virtual", WgpuDevice::VirtualGpu),
    ];
    let found = kinds.into_iter().find_map(|(kind, device)| numbered(name, kind).map(device));
    match (found, name) {
        (Some(device), _) => Ok(device),
        (None, "cpu") => Ok(WgpuDevice::Cpu),
        _ => Err(no_device("wgpu", name, "cpu, or discrete:0, integrated:0, virtual:0 and so on")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Name;

    impl Work for Name {
        type Output = String;

        fn run<B: Backend>(self, device: B::Device) -> String {
            B::name(&device)
        }
    }

    #[test]
    fn what_is_not_there_is_named() {
        let error = run_on(Some("abacus"), None, Name).unwrap_err().to_string();
        assert!(error.contains("`abacus`") && COMPILED.iter().all(|name| error.contains(name)), "{error}");
        for backend in COMPILED {
            let error = run_on(Some(backend), Some("cuda:x"), Name).unwrap_err();
            assert!(matches!(error, BackendError::Device { .. }), "{backend}: {error}");
        }
    }

    #[cfg(feature = "flex")]
    #[test]
    fn backends_are_found_by_name() {
        assert_eq!(run_on(Some("flex"), Some("cpu"), Name).as_deref(), Ok("flex"));
    }
}

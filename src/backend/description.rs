//! The name of a device, for the heading of a table.

use std::{any::Any, process::Command};

use burn::tensor::backend::Backend;

/// The name of a device, and its driver if it has one.
///
/// The adapter of a wgpu device is known only while the device is opened. The first call for the device must therefore
/// come before any other use of it, including a call for the backend's name. [run_on](super::run_on) makes this first
/// call.
///
/// # Panics
/// If a wgpu device was used before the first call for it, or does not exist.
pub fn describe<B: Backend>(device: &B::Device) -> String {
    let device = device as &dyn Any;
    #[cfg(feature = "wgpu")]
    if let Some(device) = device.downcast_ref() {
        return adapter(device);
    }
    match cuda_index(device) {
        Some(index) => nvidia(index).unwrap_or_else(|| format!("CUDA device {index}")),
        None => processor(),
    }
}

/// The index of a CUDA device.
fn cuda_index(device: &dyn Any) -> Option<usize> {
    #[cfg(feature = "cuda")]
    if let Some(burn_cuda::CudaDevice { index }) = device.downcast_ref() {
        return Some(*index);
    }
    #[cfg(feature = "tch")]
    if let Some(burn_tch::LibTorchDevice::Cuda(index)) = device.downcast_ref() {
        return Some(*index);
    }
    let _ = device;
    None
}

#[cfg(feature = "wgpu")]
fn adapter(device: &burn_wgpu::WgpuDevice) -> String {
    use std::sync::{Mutex, PoisonError};
    static OPENED: Mutex<Vec<(burn_wgpu::WgpuDevice, String)>> = Mutex::new(Vec::new());
    let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, name)) = opened.iter().find(|(other, _)| other == device) {
        return name.clone();
    }
    let info =
        burn_wgpu::init_setup::<burn_wgpu::graphics::AutoGraphicsApi>(device, Default::default()).adapter.get_info();
    let name = format!("{}, {}, {} {}", info.name, info.backend, info.driver, info.driver_info);
    opened.push((device.clone(), name.trim_end().to_owned()));
    name.trim_end().to_owned()
}

/// The name and the driver of a device from `nvidia-smi`. `None` if the tool is missing or fails.
fn nvidia(index: usize) -> Option<String> {
    let mut command = Command::new("nvidia-smi");
    command.args(["--query-gpu=name,driver_version", "--format=csv,noheader", "-i", &index.to_string()]);
    let output = command.output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?;
    let (name, driver) = text.trim().split_once(", ")?;
    Some(format!("{name}, driver {driver}"))
}

/// The name of the processor on Linux (elsewhere the name of its architecture), and the number of its threads.
fn processor() -> String {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let name = model.map_or(std::env::consts::ARCH, |(_, name)| name.trim());
    format!("{name}, {threads} threads")
}

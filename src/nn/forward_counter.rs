use std::sync::atomic::{AtomicU64, Ordering};

use burn::tensor::backend::Backend;

use crate::state::mix;

/// Counts the forward passes of a layer in training. Each pass draws other random numbers, and a run can be repeated.
#[derive(Debug, Default)]
pub(super) struct ForwardCounter(AtomicU64);

impl ForwardCounter {
    /// The seed of a forward pass. Under autodiff, each pass has another seed. Without autodiff, all passes have the
    /// seed of the layer, so the same input gives the same output.
    pub fn seed<B: Backend>(&self, seed: u64, device: &B::Device) -> u64 {
        match B::ad_enabled(device) {
            true => mix(seed, self.0.fetch_add(1, Ordering::Relaxed)),
            false => seed,
        }
    }
}

impl Clone for ForwardCounter {
    /// The copy starts with the current count. After that, the two count independently.
    fn clone(&self) -> Self {
        Self(AtomicU64::new(self.0.load(Ordering::Relaxed)))
    }
}

use std::sync::atomic::{AtomicU64, Ordering};

use burn::tensor::backend::Backend;

use crate::state::mix;

/// Counts a layer's forward passes in training, so that each draws anew and a run can be repeated.
#[derive(Debug, Default)]
pub(super) struct ForwardCounter(AtomicU64);

impl ForwardCounter {
    /// The seed of a forward pass that has no cache. Under autodiff, each pass has one of its own; without, all have the
    /// layer's, so that the same input gives the same output.
    pub fn seed<B: Backend>(&self, seed: u64, device: &B::Device) -> u64 {
        match B::ad_enabled(device) {
            true => mix(seed, self.0.fetch_add(1, Ordering::Relaxed)),
            false => seed,
        }
    }
}

impl Clone for ForwardCounter {
    /// A copy goes on from here, and the two count apart.
    fn clone(&self) -> Self {
        Self(AtomicU64::new(self.0.load(Ordering::Relaxed)))
    }
}

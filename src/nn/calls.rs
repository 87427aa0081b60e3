use std::sync::atomic::{AtomicU64, Ordering};

use burn::tensor::backend::Backend;

use crate::masker::LayerState;

/// Counts a layer's forward passes in training, so that each draws anew and a run can be repeated.
#[derive(Debug, Default)]
pub(super) struct Calls(AtomicU64);

impl Calls {
    /// What selectors remember in a forward pass that has no cache: nothing. Under autodiff, each pass has random numbers
    /// of its own; without, all have the same, so that the same input gives the same output.
    pub fn state<B: Backend>(&self, seed: u64, device: &B::Device) -> LayerState {
        match B::ad_enabled(device) {
            true => LayerState::of_call(seed, self.0.fetch_add(1, Ordering::Relaxed)),
            false => LayerState::new(seed),
        }
    }
}

impl Clone for Calls {
    /// A copy goes on from here, and the two count apart.
    fn clone(&self) -> Self {
        Self(AtomicU64::new(self.0.load(Ordering::Relaxed)))
    }
}

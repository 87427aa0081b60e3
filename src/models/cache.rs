use burn::tensor::backend::Backend;

use crate::{attention::AttentionError, nn::KvCache};

/// The keys and values of a sequence in all layers of a [LanguageModel](super::LanguageModel), and what their methods
/// remember of them.
#[derive(Debug)]
pub struct LanguageModelCache<B: Backend> {
    layers: Vec<KvCache<B>>,
}

impl<B: Backend> LanguageModelCache<B> {
    /// An empty cache for a number of layers. The seed is that of what the methods draw.
    pub fn new(layers: usize, seed: u64) -> Self {
        Self::with_capacity(layers, seed, 0)
    }

    /// An empty cache whose buffers, once the first tokens come, take a number of tokens without growing.
    ///
    /// Layers with a sliding window keep all tokens too, so that a question can be taken back to any length.
    pub fn with_capacity(layers: usize, seed: u64, capacity: usize) -> Self {
        let layer = || KvCache::with_capacity(seed, capacity).with_spare(usize::MAX);
        Self { layers: (0..layers).map(|_| layer()).collect() }
    }

    /// The cache of each layer.
    pub fn layers(&self) -> &[KvCache<B>] {
        &self.layers
    }

    /// The same, to be written to.
    pub(super) fn layers_mut(&mut self) -> &mut [KvCache<B>] {
        &mut self.layers
    }

    /// How many tokens are cached, which is the position of the next one.
    pub fn len(&self) -> usize {
        self.layers.first().map_or(0, KvCache::len)
    }

    /// Whether no token is cached.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets all tokens but the first `length`, as [KvCache::truncate] does in each layer.
    ///
    /// # Errors
    /// If a layer no longer has the tokens that it would need.
    pub fn truncate(&mut self, length: usize) -> Result<(), AttentionError> {
        self.layers.iter_mut().try_for_each(|layer| layer.truncate(length))
    }

    /// Forgets what the methods remember of the keys, and nothing else: they draw again from the seed, and look at all
    /// keys anew when they are next asked. Where they have not been asked yet, that changes nothing.
    pub fn forget_states(&mut self) {
        for layer in &mut self.layers {
            layer.state_mut().clear();
        }
    }

    /// Forgets everything and keeps the capacity, for another sequence.
    pub fn reset(&mut self) {
        for layer in &mut self.layers {
            layer.reset();
        }
    }
}

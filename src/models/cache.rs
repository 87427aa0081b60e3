use burn::tensor::backend::Backend;

use crate::{nn::KvCache, problem::AttentionError};

/// The keys and values of a sequence in all layers of a [LanguageModel](super::LanguageModel), with the state of the
/// methods. A clone is a fork, as that of a [KvCache](KvCache#forks).
#[derive(Debug, Clone)]
pub struct LanguageModelCache<B: Backend> {
    layers: Vec<KvCache<B>>,
}

impl<B: Backend> LanguageModelCache<B> {
    /// An empty cache for a number of layers. The methods draw random numbers from the seed.
    pub fn new(layers: usize, seed: u64) -> Self {
        Self::with_capacity(layers, seed, 0)
    }

    /// An empty cache whose buffers hold `capacity` tokens without growing. They are allocated with the first tokens.
    ///
    /// Layers with a sliding window also keep all tokens, so that the cache can be truncated to any length.
    pub fn with_capacity(layers: usize, seed: u64, capacity: usize) -> Self {
        let layer = || KvCache::with_capacity(seed, capacity).with_spare(usize::MAX);
        Self { layers: (0..layers).map(|_| layer()).collect() }
    }

    /// The cache of each layer.
    pub fn layers(&self) -> &[KvCache<B>] {
        &self.layers
    }

    /// The cache of each layer, mutable.
    pub(super) fn layers_mut(&mut self) -> &mut [KvCache<B>] {
        &mut self.layers
    }

    /// The number of cached tokens, which is the position of the next token.
    pub fn len(&self) -> usize {
        self.layers.first().map_or(0, KvCache::len)
    }

    /// Whether no token is cached.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Keeps the first `length` tokens and drops the others, as [KvCache::truncate] does in each layer.
    ///
    /// # Errors
    /// If a layer no longer holds the tokens that it needs.
    pub fn truncate(&mut self, length: usize) -> Result<(), AttentionError> {
        self.layers.iter_mut().try_for_each(|layer| layer.truncate(length))
    }

    /// Makes sequence `i` of the batch what sequence `indices[i]` was, as [KvCache::reorder] does in each layer.
    ///
    /// [LanguageModel::forward](super::LanguageModel::forward) takes one sequence. For several continuations of one
    /// context, clone the cache.
    ///
    /// # Errors
    /// As [KvCache::reorder]. The cache is then as before.
    pub fn reorder(&mut self, indices: &[usize]) -> Result<(), AttentionError> {
        self.layers.iter().try_for_each(|layer| layer.check_reorder(indices))?;
        self.layers.iter_mut().try_for_each(|layer| layer.reorder(indices))
    }

    /// Clears the state of the methods and keeps the tokens. The methods draw again from the seed, and read all keys
    /// again at their next call. If they have not run yet, this changes nothing.
    pub fn forget_states(&mut self) {
        for layer in &mut self.layers {
            layer.state_mut().clear();
        }
    }

    /// Clears everything except the capacity, for another sequence.
    pub fn reset(&mut self) {
        for layer in &mut self.layers {
            layer.reset();
        }
    }
}

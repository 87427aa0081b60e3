use burn::tensor::backend::Backend;

use super::{
    growable_tensor::GrowableTensor,
    kv_cache::{KvCache, Undo},
};
use crate::{problem::AttentionError, state::check_indices};

/// Keys and values of the positions that a [SparseMultiHeadAttention](super::SparseMultiHeadAttention) has seen, and
/// what its selectors remember of them.
///
/// It has the constructors of burn's `MhaCache`. Keys and values are stored in buffers with reserved space. A step
/// computes the new positions only: earlier positions are neither copied nor computed again. A step that fails does not
/// change the cache. A clone is a fork, as that of a [KvCache](KvCache#forks).
#[derive(Debug, Clone)]
pub struct MhaCache<B: Backend> {
    /// Keys and values. The layer creates them, because it knows the seed.
    pub(super) past: Option<KvCache<B>>,
    /// The context of all queries so far, `[batch, queries, d_model]`. Only `forward_cache` of the layer fills it.
    pub(super) context: GrowableTensor<B, 3>,
    /// How many queries were computed so far.
    pub(super) queries: usize,
    /// Whether keys and values stay those of the first call.
    pub(super) fixed: bool,
}

/// What is needed to restore a cache to its content before a step.
pub(super) struct UndoStep<B: Backend> {
    pub queries: usize,
    pub past: UndoPast<B>,
}

/// What a step did to keys and values.
pub(super) enum UndoPast<B: Backend> {
    /// Nothing.
    Kept,
    /// It created them.
    Made,
    /// It appended to them.
    Grew(Undo<B>),
}

impl<B: Backend> MhaCache<B> {
    /// An empty cache for autoregressive inference.
    pub fn autoregressive() -> Self {
        Self { past: None, context: GrowableTensor::along(1), queries: 0, fixed: false }
    }

    /// An empty cache for autoregressive cross-attention. Its keys and values are those of the first call.
    pub fn autoregressive_cross_attention() -> Self {
        Self { fixed: true, ..Self::autoregressive() }
    }

    /// How many keys and values it holds of each sequence, padding included.
    pub fn len(&self) -> usize {
        self.past.as_ref().map_or(0, KvCache::len)
    }

    /// Whether the cache is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Makes sequence `i` of the batch what sequence `indices[i]` was, as [KvCache::reorder] does.
    ///
    /// # Errors
    /// As [KvCache::reorder]. The cache is then as before.
    pub fn reorder(&mut self, indices: &[usize]) -> Result<(), AttentionError> {
        self.check_reorder(indices)?;
        if let Some(past) = &mut self.past {
            past.reorder(indices)?;
        }
        self.context.reorder(indices);
        Ok(())
    }

    /// Checks that the cache can be [reordered](Self::reorder).
    ///
    /// # Errors
    /// As [reorder](Self::reorder).
    pub(super) fn check_reorder(&self, indices: &[usize]) -> Result<(), AttentionError> {
        match &self.past {
            Some(past) => past.check_reorder(indices)?,
            None => check_indices(indices, usize::MAX)?,
        }
        self.context.check_reorder("context", indices.len())
    }

    /// Empties the cache for another sequence.
    pub fn reset(&mut self) {
        *self = Self { fixed: self.fixed, ..Self::autoregressive() };
    }

    /// Restores the cache to its content before a step.
    pub(super) fn undo(&mut self, step: UndoStep<B>) {
        self.queries = step.queries;
        match (step.past, &mut self.past) {
            (UndoPast::Grew(undo), Some(past)) => past.undo(undo),
            (UndoPast::Made, _) => self.past = None,
            (UndoPast::Kept, _) | (UndoPast::Grew(_), None) => {}
        }
    }
}

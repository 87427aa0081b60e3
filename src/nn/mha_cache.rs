use burn::tensor::backend::Backend;

use super::growing::Growing;
use crate::masker::LayerState;

/// Keys and values of the positions that a [SparseMultiHeadAttention](super::SparseMultiHeadAttention) has seen, and what
/// its selectors remember of them.
///
/// It has the constructors of burn's type of this name. Keys and values lie in memory that is reserved ahead, so that a
/// new position costs its own projection and nothing of the past is copied or attended again.
#[derive(Debug)]
pub struct MhaCache<B: Backend> {
    /// `[batch, kv_heads, keys, d_k]`.
    pub(super) keys: Growing<B, 4>,
    /// `[batch, kv_heads, keys, d_k]`.
    pub(super) values: Growing<B, 4>,
    /// `[batch, queries, d_model]`, if it is asked for with the past.
    pub(super) context: Growing<B, 3>,
    /// How many queries have been answered.
    pub(super) queries: usize,
    /// Whether keys and values are those of the first call for good.
    pub(super) fixed: bool,
    /// Made by the layer, which knows the seed.
    pub(super) state: Option<LayerState>,
}

impl<B: Backend> MhaCache<B> {
    /// An empty cache for autoregressive inference.
    pub fn autoregressive() -> Self {
        Self {
            keys: Growing::along(2),
            values: Growing::along(2),
            context: Growing::along(1),
            queries: 0,
            fixed: false,
            state: None,
        }
    }

    /// An empty cache for autoregressive inference over keys and values that never change: cross-attention.
    pub fn autoregressive_cross_attention() -> Self {
        Self { fixed: true, ..Self::autoregressive() }
    }

    /// How many keys and values it holds.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets everything, for another sequence.
    pub fn reset(&mut self) {
        *self = Self { fixed: self.fixed, ..Self::autoregressive() };
    }
}

//! Scorers: each estimates how much every query cares for every key, and a selector picks by it.

mod oracle;

use std::fmt::Debug;

use burn::tensor::{Tensor, backend::Backend};
use serde::{Deserialize, Serialize};

pub use oracle::Oracle;

use crate::{
    attention::{AttentionError, AttentionInputs},
    masker::LayerState,
};

/// An estimate of the logit of every query-key pair.
pub trait Scorer<B: Backend>: Debug + Send + Sync {
    /// The scores: higher means more important. What is hidden or already kept may have any score; selectors leave it
    /// out.
    ///
    /// # Shapes
    /// - output: `[batch, heads, queries, keys]`
    ///
    /// # Errors
    /// If the scorer cannot work with the inputs.
    fn score(&self, inputs: &AttentionInputs<B>, state: &mut LayerState) -> Result<Tensor<B, 4>, AttentionError>;
}

/// Configuration of a scorer, `{"type": "oracle"}`.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum ScorerConfig {
    /// The exact logits, [Oracle].
    #[default]
    Oracle,
}

impl ScorerConfig {
    /// The scorer.
    pub fn init<B: Backend>(&self) -> Box<dyn Scorer<B>> {
        match self {
            Self::Oracle => Box::new(Oracle),
        }
    }
}

use burn::tensor::{Tensor, backend::Backend};
use serde::{Deserialize, Serialize};

use super::{Scorer, ScorerConfig};
use crate::{
    attention::{AttentionError, AttentionInputs, scores::logits},
    masker::{ConfigError, Context, LayerState},
};

/// The exact logits: scaled products of queries and keys, plus the bias. It costs as much as dense attention, and shows
/// how good a selector is when nothing is guessed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Oracle;

/// Configuration of [Oracle], `{"type": "oracle"}`.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OracleConfig {}

impl<B: Backend> ScorerConfig<B> for OracleConfig {
    type Scorer = Oracle;

    fn init(&self, _context: &Context<B>) -> Result<Oracle, ConfigError> {
        Ok(Oracle)
    }
}

impl<B: Backend> Scorer<B> for Oracle {
    fn score(&self, inputs: &AttentionInputs<B>, _state: &mut LayerState) -> Result<Tensor<B, 4>, AttentionError> {
        let shape = inputs.mask_shape();
        let all = 0..shape.keys;
        Ok(logits(inputs, 0..shape.queries, &[all]))
    }
}

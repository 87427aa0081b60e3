use burn::tensor::{Tensor, backend::Backend};
use serde::{Deserialize, Serialize};

use super::{
    Scorer, ScorerConfig,
    keys::{Host, dot, scores_by_row, with_bias},
    quantize::{Rounding, pseudo_quantize},
    validate_label_bits,
};
use crate::{
    attention::{AttentionError, AttentionInputs, scores::logits},
    masker::{ConfigError, Context, LayerState},
};

/// Configuration of [Oracle], `{"type": "oracle"}`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OracleConfig {
    /// To how many bits the keys are quantised for the estimate, in 1..=16. Default: 16, not at all.
    #[serde(default = "sixteen")]
    pub label_bits: u32,
}

fn sixteen() -> u32 {
    16
}

/// The exact logits: scaled products of queries and keys, plus the bias.
///
/// It costs as much as dense attention, and shows how good a selector is when nothing is guessed. With fewer
/// `label_bits` the keys are quantised vector by vector first, which is the fine estimate of
/// [Twilight](https://arxiv.org/abs/2502.02770) at 4 bits.
///
/// Should be created with [OracleConfig].
#[derive(Debug, Clone, Copy)]
pub struct Oracle {
    label_bits: u32,
}

impl Default for Oracle {
    fn default() -> Self {
        Self { label_bits: sixteen() }
    }
}

impl<B: Backend> ScorerConfig<B> for OracleConfig {
    type Scorer = Oracle;

    fn init(&self, _context: &Context<B>) -> Result<Oracle, ConfigError> {
        validate_label_bits(self.label_bits)?;
        Ok(Oracle { label_bits: self.label_bits })
    }
}

impl<B: Backend> Scorer<B> for Oracle {
    fn score(&self, inputs: &AttentionInputs<B>, _state: &mut LayerState) -> Result<Tensor<B, 4>, AttentionError> {
        if self.label_bits >= 16 {
            let shape = inputs.mask_shape();
            let all = 0..shape.keys;
            return Ok(logits(inputs, 0..shape.queries, &[all]));
        }
        let queries = Host::of(inputs.queries());
        let keys = Host::of(inputs.keys());
        let width = keys.dims[3];
        let labels = (0..keys.heads())
            .map(|head| {
                let mut labels = keys.head(head).to_vec();
                labels.chunks_mut(width).for_each(|key| pseudo_quantize(key, self.label_bits, Rounding::Nearest));
                labels
            })
            .collect::<Vec<_>>();
        let scale = inputs.scale() as f32;
        let scores = scores_by_row(inputs, |head, kv_head, query, scores| {
            let query = queries.vector(head, query);
            for (score, key) in scores.iter_mut().zip(labels[kv_head].chunks(width)) {
                *score = dot(query, key) * scale;
            }
        });
        Ok(with_bias(inputs, scores))
    }
}

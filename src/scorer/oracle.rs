use burn::{
    module::Module,
    tensor::{Tensor, backend::Backend},
};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{
    Context, RowScorer, Scorer, ScorerConfig,
    keys::{Host, all_scores},
    quantize::{Rounding, pseudo_quantize},
    validate_label_bits,
};
use crate::{
    config::ConfigError,
    kernels::{
        HostTensor,
        cpu::{group_logits, products, softcap},
        host_tensor,
        reference::scores::{check_scores, logits},
    },
    problem::{AttentionError, AttentionInputs},
    state::LayerState,
};

/// Configuration of [Oracle], `{"type": "oracle"}`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OracleConfig {
    /// The bits to which the keys are quantised for the estimate, in 1..=16. Default: 16, which does not quantise.
    #[serde(default = "sixteen")]
    pub label_bits: u32,
}

fn sixteen() -> u32 {
    16
}

/// The exact logits: scaled dot products of queries and keys, soft-capped if there is a cap, plus the bias.
///
/// It costs as much as dense attention. It shows how good a selector is with perfect scores. If `label_bits` is below
/// 16, each key is quantised first. With 4 bits, this is the fine estimate of
/// [Twilight](https://arxiv.org/abs/2502.02770).
///
/// Should be created with [OracleConfig].
#[derive(Module, Debug, Clone, Copy)]
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
    fn score(&self, inputs: &AttentionInputs<B>, state: &mut LayerState) -> Result<Tensor<B, 4>, AttentionError> {
        state.continue_with(inputs)?;
        match self.label_bits < 16 {
            true => all_scores(inputs, &self.quantized(inputs)),
            false => {
                check_scores(inputs)?;
                Ok(logits(inputs, 0..inputs.mask_shape().queries, &[inputs.mask_shape().all_keys()]))
            }
        }
    }

    fn by_row<'a>(
        &'a self,
        inputs: &'a AttentionInputs<B>,
        state: &'a mut LayerState,
    ) -> Result<Option<Box<dyn RowScorer + 'a>>, AttentionError> {
        state.continue_with(inputs)?;
        if self.label_bits < 16 {
            return Ok(Some(Box::new(self.quantized(inputs))));
        }
        let (Some(queries), Some(keys)) = (host_tensor(inputs.queries()), host_tensor(inputs.keys())) else {
            return Ok(None);
        };
        Ok(Some(Box::new(ExactRows { queries, keys, scale: inputs.scale(), softcap: inputs.softcap() })))
    }

    fn remembers(&self) -> bool {
        false
    }
}

impl Oracle {
    fn quantized<B: Backend>(&self, inputs: &AttentionInputs<B>) -> QuantizedRows {
        let keys = Host::of(inputs.keys());
        let width = keys.dims[3];
        let label = |head: usize| {
            let mut labels = keys.head(head).to_vec();
            labels.chunks_mut(width).for_each(|key| pseudo_quantize(key, self.label_bits, Rounding::Nearest));
            labels
        };
        QuantizedRows {
            scale: inputs.scale() as f32,
            softcap: inputs.softcap(),
            group: inputs.mask_shape().heads / inputs.kv_heads(),
            queries: Host::of(inputs.queries()),
            labels: (0..keys.heads()).into_par_iter().map(label).collect(),
        }
    }
}

struct QuantizedRows {
    scale: f32,
    softcap: Option<f64>,
    group: usize,
    queries: Host,
    labels: Vec<Vec<f32>>,
}

impl RowScorer for QuantizedRows {
    fn score_group(&self, kv_head: usize, query: usize, scores: &mut [f32]) {
        let heads = kv_head * self.group..(kv_head + 1) * self.group;
        let queries = heads.flat_map(|head| self.queries.vector(head, query)).map(|x| x * self.scale);
        products(&queries.collect::<Vec<_>>(), &self.labels[kv_head], self.queries.dims[3], scores);
        softcap(scores, self.softcap);
    }
}

/// Dot products with the keys in host memory, without a copy.
struct ExactRows {
    queries: Box<dyn HostTensor>,
    keys: Box<dyn HostTensor>,
    scale: f64,
    softcap: Option<f64>,
}

impl RowScorer for ExactRows {
    fn score_group(&self, kv_head: usize, query: usize, scores: &mut [f32]) {
        let (queries, keys) = (self.queries.as_ref(), self.keys.as_ref());
        group_logits(queries, keys, kv_head, query, self.scale, self.softcap, scores);
    }
}

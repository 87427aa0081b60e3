use std::{f64::consts::FRAC_1_SQRT_2, path::PathBuf};

use burn::{
    module::Module,
    tensor::{Tensor, activation, backend::Backend},
};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use statrs::function::erf::erf;

use super::{
    Context, HashWeights, RowScorer, Scorer, ScorerConfig,
    hash_weights::{FEW, of_few},
    keys::{Host, KeyCursor, all_scores, reorder, truncate},
};
use crate::{
    config::{ConfigError, limits},
    kernels::{
        cpu::{add_sign_matches, exp_f32, sign_matches},
        host_tensor,
    },
    problem::{AttentionError, AttentionInputs},
    state::{KeyMemory, LayerState},
};

/// Configuration of [Hash](struct@Hash).
///
/// ```json
/// {"type": "hash", "hat_bits": 32, "hat_mlp_layers": 3, "hat_mlp_hidden_size": 128, "hat_mlp_activation": "silu",
///  "hat_weights": "hash_weights.safetensors"}
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HashConfig {
    /// Bits of a signature, in 1..=65536.
    pub hat_bits: usize,
    /// Number of matrices of each perceptron, in 1..=256.
    pub hat_mlp_layers: usize,
    /// Width between the matrices, in 1..=65536.
    pub hat_mlp_hidden_size: usize,
    /// The function between the matrices.
    pub hat_mlp_activation: Activation,
    /// The file with the weights, [as described](HashWeights::from_file). The scorer of a single layer needs it. A
    /// scorer for any layer may be created without it. It then has no weights, and returns an error when it is used.
    /// [Hash::new] takes weights from memory.
    #[serde(default)]
    pub hat_weights: Option<PathBuf>,
}

/// The function between two matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// `max(x, 0)`.
    Relu,
    /// `x * Phi(x)`, exactly.
    Gelu,
    /// `tanh(x)`.
    Tanh,
}

impl HashConfig {
    /// Checks the sizes.
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        limits::WIDTH.check("hat_bits", self.hat_bits)?;
        limits::MATRICES.check("hat_mlp_layers", self.hat_mlp_layers)?;
        limits::WIDTH.check("hat_mlp_hidden_size", self.hat_mlp_hidden_size)
    }
}

impl Activation {
    pub(super) fn apply<B: Backend>(self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        match self {
            Self::Silu => activation::silu(x),
            Self::Relu => activation::relu(x),
            Self::Gelu => activation::gelu(x),
            Self::Tanh => x.tanh(),
        }
    }

    /// The function for a single number.
    pub(super) fn of(self, x: f32) -> f32 {
        match self {
            Self::Silu => x / (1.0 + exp_f32(-x)),
            Self::Relu => x.max(0.0),
            Self::Gelu => x * (1.0 + erf(f64::from(x) * FRAC_1_SQRT_2) as f32) / 2.0,
            Self::Tanh => x.tanh(),
        }
    }
}

/// The agreement of learned signatures of query and key ([HashAttention](https://arxiv.org/abs/2412.14468)).
///
/// Each head has a perceptron for queries and another for keys, which turn a vector into `hat_bits` numbers. The signs
/// of these numbers are the signature. The score is the number of equal bits minus the number of different bits, by
/// population count. The signatures of keys are packed, 32 bits to a word, and remembered, so a decode step only makes
/// the signatures of the new keys.
///
/// The weights are parameters, but the selection of keys has no gradient, so the loss of a model does not train them.
/// The feature `train` trains them with a separate loss. Should be created with [HashConfig], or with [Hash::new] for
/// weights in memory.
#[derive(Module, Debug)]
pub struct Hash<B: Backend> {
    activation: Activation,
    weights: HashWeights<B>,
}

impl<B: Backend> Hash<B> {
    /// A scorer with weights in memory.
    pub fn new(weights: HashWeights<B>, activation: Activation) -> Self {
        Self { weights, activation }
    }

    /// The weights, for each layer of the model.
    pub fn weights(&self) -> &HashWeights<B> {
        &self.weights
    }
}

impl<B: Backend> ScorerConfig<B> for HashConfig {
    type Scorer = Hash<B>;

    fn init(&self, context: &Context<B>) -> Result<Hash<B>, ConfigError> {
        self.validate()?;
        let weights = match (&self.hat_weights, context.layer()) {
            (Some(file), None) => HashWeights::from_file(context.path(file), self, context.device())?,
            (Some(file), Some(layer)) => {
                let path = context.path(file);
                HashWeights::from_file(path.clone(), self, context.device())?.only(layer, path)?
            }
            (None, None) => HashWeights::new([]),
            (None, Some(layer)) => {
                let reason = format!("is missing: layer {layer} needs the file with the weights of the perceptrons");
                return Err(ConfigError::Field { part: "hash".to_owned(), field: "hat_weights".to_owned(), reason });
            }
        };
        Ok(Hash::new(weights, self.hat_mlp_activation))
    }
}

/// The packed signatures of the keys, by query head.
#[derive(Debug, Clone, Default)]
struct Signatures {
    cursor: KeyCursor,
    by_head: Vec<Vec<u32>>,
}

impl KeyMemory for Signatures {
    fn truncate(&mut self, keys: usize) {
        self.by_head.iter_mut().for_each(|signatures| truncate(signatures, self.cursor.keys(), keys));
        self.cursor.truncate(keys);
    }

    fn reorder(&mut self, indices: &[usize], batch: usize) {
        reorder(&mut self.by_head, indices, batch);
        self.cursor.reorder(indices, batch);
    }
}

/// The bits in a word of a signature.
const WORD: usize = u32::BITS as usize;

impl<B: Backend> Scorer<B> for Hash<B> {
    fn score(&self, inputs: &AttentionInputs<B>, state: &mut LayerState) -> Result<Tensor<B, 4>, AttentionError> {
        all_scores(inputs, &self.rows(inputs, state)?)
    }

    fn by_row<'a>(
        &'a self,
        inputs: &'a AttentionInputs<B>,
        state: &'a mut LayerState,
    ) -> Result<Option<Box<dyn RowScorer + 'a>>, AttentionError> {
        Ok(Some(Box::new(self.rows(inputs, state)?)))
    }
}

impl<B: Backend> Hash<B> {
    fn rows<'a>(&self, inputs: &AttentionInputs<B>, state: &'a mut LayerState) -> Result<HashRows<'a>, AttentionError> {
        let shape = inputs.mask_shape();
        let layer = inputs.layer();
        let weights = self.weights.layer(layer).ok_or_else(|| AttentionError::NoWeights {
            scorer: "hash",
            layer,
            origin: self.weights.origin(),
            known: format!("{:?}", self.weights.known()),
        })?;
        weights.check(inputs.queries().dims(), inputs.keys().dims())?;
        let heads = shape.batch * shape.heads;
        state.continue_with(inputs)?;
        let memory = state.key_memory::<Signatures>();
        let (new, anew) = memory.cursor.advance(heads, shape.keys);
        if anew {
            memory.by_head = vec![Vec::new(); heads];
        }
        let keys = Host::of_range(inputs.keys(), new.clone());
        // Queries that are not in host memory stay on their device.
        let few = shape.queries <= FEW && host_tensor(inputs.queries()).is_some();
        let queries = Host::of_range(inputs.queries(), if few { 0..shape.queries } else { 0..0 });
        let parts = [(&weights.key, &keys), (&weights.query, &queries)];
        let [signs_of_keys, signs_of_queries] = of_few(parts, shape.heads, self.activation);
        if !new.is_empty() {
            let signs = signs_of_keys.unwrap_or_else(|| {
                let keys = repeat_heads(keys.to_tensor::<B>(&inputs.device()), shape.heads);
                Host::of(&weights.key.forward(keys, self.activation))
            });
            let packed = pack_signs(&signs);
            memory.by_head.iter_mut().zip(packed).for_each(|(known, new)| known.extend(new));
        }
        let signs = signs_of_queries
            .unwrap_or_else(|| Host::of(&weights.query.forward(inputs.queries().clone(), self.activation)));
        Ok(HashRows {
            bits: signs.dims[3],
            group: shape.heads / inputs.kv_heads(),
            queries: pack_signs(&signs),
            keys: &memory.by_head,
        })
    }
}

struct HashRows<'a> {
    bits: usize,
    group: usize,
    queries: Vec<Vec<u32>>,
    keys: &'a [Vec<u32>],
}

impl RowScorer for HashRows<'_> {
    fn score_group(&self, kv_head: usize, query: usize, scores: &mut [f32]) {
        let words = self.bits.div_ceil(WORD);
        let heads = kv_head * self.group..(kv_head + 1) * self.group;
        let count = scores.len() / self.group;
        for (head, scores) in heads.zip(scores.chunks_exact_mut(count)) {
            let query = &self.queries[head][query * words..][..words];
            sign_matches(query, &self.keys[head], self.bits, scores);
        }
    }

    fn score_group_sum(&self, kv_head: usize, query: usize, heads: usize, scores: &mut [f32]) {
        let words = self.bits.div_ceil(WORD);
        let keys = scores.len() / heads;
        let sums = &mut scores[..keys];
        for (at, head) in (kv_head * heads..(kv_head + 1) * heads).enumerate() {
            let query = &self.queries[head][query * words..][..words];
            match at {
                0 => sign_matches(query, &self.keys[head], self.bits, sums),
                _ => add_sign_matches(query, &self.keys[head], self.bits, sums),
            }
        }
    }
}

/// Repeats each key-value head for the query heads that read it. Each query head has its own weights, so the signatures
/// of its keys differ.
pub(crate) fn repeat_heads<B: Backend>(keys: Tensor<B, 4>, heads: usize) -> Tensor<B, 4> {
    let [batch, kv_heads, length, width] = keys.dims();
    if kv_heads == heads {
        return keys;
    }
    keys.unsqueeze_dim::<5>(2)
        .expand([batch, kv_heads, heads / kv_heads, length, width])
        .reshape([batch, heads, length, width])
}

/// The smallest number of signs that a thread packs.
const FEW_SIGNS: usize = 8192;

/// The signs of the last dimension, packed, for each head.
fn pack_signs(signs: &Host) -> Vec<Vec<u32>> {
    let word = |signs: &[f32]| (0..).zip(signs).map(|(at, &sign)| u32::from(sign > 0.0) << at).sum::<u32>();
    let pack = |signature: &[f32]| signature.chunks(WORD).map(word).collect::<Vec<_>>();
    let head = |head: usize| signs.head(head).chunks(signs.dims[3]).flat_map(pack).collect();
    // Packing the signs of a few keys takes less time than waking a thread.
    let heads_at_a_time = FEW_SIGNS / (signs.dims[2] * signs.dims[3]).max(1) + 1;
    (0..signs.heads()).into_par_iter().with_min_len(heads_at_a_time).map(head).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_of_a_group_is_that_of_its_scores() {
        let (heads, count) = (4, 37);
        for bits in [7usize, 32, 70] {
            let words = bits.div_ceil(WORD);
            let mask = |word: usize| u32::MAX >> (WORD - (bits - word * WORD).min(WORD));
            let signature = |seed: usize| move |word: usize| (seed as u32 + 1).wrapping_mul(0x9e37_79b9) & mask(word);
            let signatures = |from: usize, keys: usize| -> Vec<u32> {
                (0..keys).flat_map(|key| (0..words).map(signature(from + 31 * key))).collect()
            };
            let keys = (0..2 * heads).map(|head| signatures(head, count)).collect::<Vec<_>>();
            let queries = (0..2 * heads).map(|head| signatures(100 + head, 2)).collect();
            let rows = HashRows { bits, group: heads, queries, keys: &keys };
            for (kv_head, query) in [(0, 0), (1, 1)] {
                let (mut sums, mut scores) = (vec![f32::NAN; heads * count], vec![f32::NAN; heads * count]);
                rows.score_group_sum(kv_head, query, heads, &mut sums);
                rows.score_group(kv_head, query, &mut scores);
                let wanted = (0..count).map(|key| scores.iter().skip(key).step_by(count).sum::<f32>());
                assert_eq!(sums[..count], wanted.collect::<Vec<_>>(), "{bits} bits");
            }
        }
    }
}

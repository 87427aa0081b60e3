//! The adaptive rule of the Python project as a custom masker, for comparison.

use std::collections::BTreeMap;

use burn::tensor::{Tensor, backend::Backend};
use rand::RngExt;
use serde::Deserialize;
use sparse_attention_hub::{
    attention::AttentionError,
    mask::Csr,
    masker::{AdaptiveBudget, ConfigError},
    prelude::*,
    scorer::{Oracle, Scorer},
};

/// The fields of the Python project's `AdaptiveSamplingMaskerConfig`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OriginalAdaptiveConfig {
    base_rate_sampling: f64,
    epsilon: f64,
    delta: f64,
    init_offset: usize,
    local_offset: usize,
}

impl<B: Backend> MaskerConfig<B> for OriginalAdaptiveConfig {
    type Masker = Self;

    fn init(&self, _context: &Context<B>) -> Result<Self, ConfigError> {
        Ok(*self)
    }
}

/// Draws with replacement from the whole range, including keys that are kept already, and does not count repeated
/// draws. The deviation is that of the whole range. The denominator counts kept keys twice. The pilot sample is
/// discarded. A drawn key has the weight `budget / range`, however often it was drawn.
impl<B: Backend> Masker<B> for OriginalAdaptiveConfig {
    fn add(
        &self,
        inputs: &AttentionInputs<B>,
        state: &mut LayerState,
        mask: Mask<B>,
    ) -> Result<Mask<B>, AttentionError> {
        let shape = mask.shape();
        let logits = host(Oracle::default().score(inputs, state)?);
        let kept = host(mask.to_dense());
        let randomness = state.randomness(inputs);
        let rule = AdaptiveBudget::new(self.epsilon, self.delta);
        let range = self.init_offset..shape.keys - self.local_offset;
        let base = ((self.base_rate_sampling * range.len() as f64) as usize).max(2);
        let mut drawn = Csr { indices: Vec::new(), ptr: vec![0], data: Vec::new() };
        for (row, logits) in logits.chunks(shape.keys).enumerate() {
            let mut rng = randomness.row(row);
            let maximum = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let exponential = |key: usize| f64::from(logits[key] - maximum).exp();
            let mut draw = |count: usize| (0..count).map(|_| rng.random_range(range.clone())).collect::<Vec<_>>();
            let pilot = draw(base);
            let values = pilot.iter().map(|&key| exponential(key)).collect::<Vec<_>>();
            let mean = values.iter().sum::<f64>() / base as f64;
            let deviation = (values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (base - 1) as f64).sqrt();
            let distinct = pilot.into_iter().map(|key| (key, ())).collect::<BTreeMap<_, _>>();
            let sampled = distinct.keys().map(|&key| exponential(key)).sum::<f64>() * range.len() as f64 / base as f64;
            let of_row = |key: usize| kept[row * shape.keys + key];
            let fixed = (0..shape.keys).filter(|&key| of_row(key) > 0.0).map(exponential).sum::<f64>();
            let budget = rule.keys(deviation, fixed + sampled, range.len(), base);
            let keys = draw(budget).into_iter().map(|key| (key, ())).collect::<BTreeMap<_, _>>();
            drawn.indices.extend(keys.into_keys());
            drawn.data.resize(drawn.indices.len(), budget as f32 / range.len() as f32);
            drawn.ptr.push(drawn.indices.len());
        }
        Ok(mask.merge(&Mask::from_csr(shape, &drawn, &mask.device())?)?)
    }

    fn samples(&self) -> bool {
        true
    }
}

fn host<B: Backend>(tensor: Tensor<B, 4>) -> Vec<f32> {
    tensor.into_data().convert::<f32>().iter::<f32>().collect()
}

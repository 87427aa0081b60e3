use std::marker::PhantomData;

use burn::{
    module::{Content, Module, ModuleDisplay},
    tensor::backend::Backend,
};
use serde::{Deserialize, Serialize};

use super::{
    Masker, MaskerConfig,
    rows::{KeptKeys, by_candidates},
};
use crate::{
    config::{ConfigError, NamedConfig},
    mask::{Kept, Mask},
    problem::{AttentionError, AttentionInputs},
    scorer::{Context, HeldScorer, Scorer},
    state::LayerState,
};

/// Configuration of [Threshold], `{"type": "threshold", "threshold": 0.001, "scorer": {"type": "oracle"}}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ThresholdConfig {
    /// The least share of the attention mass that a key must have, in [0, 1].
    pub threshold: f64,
    /// The scorer that estimates the attention mass of each key.
    pub scorer: NamedConfig,
}

/// Adds every key whose share of the attention mass reaches a threshold, as the gates of
/// [SeerAttention](https://arxiv.org/abs/2410.13276) do. The number of keys depends on the query.
///
/// The share refers to the mass of all visible keys, as the scorer estimates it. A threshold of 0 keeps every visible
/// key. A row in which no key reaches the threshold gains nothing.
///
/// It is a burn module if its scorer is one. Should be created with [ThresholdConfig].
#[derive(Module, Debug)]
#[module(custom_display)]
pub struct Threshold<B: Backend, E = Box<dyn Scorer<B>>> {
    threshold: f64,
    scorer: E,
    backend: PhantomData<B>,
}

impl<B: Backend, E: Module<B> + ModuleDisplay> ModuleDisplay for Threshold<B, E> {
    fn custom_content(&self, content: Content) -> Option<Content> {
        content.add("threshold", &self.threshold).add("scorer", &self.scorer).optional()
    }
}

impl ThresholdConfig {
    /// The selector, with a scorer that `E` holds.
    pub(crate) fn over<B: Backend, E: HeldScorer<B>>(
        &self,
        context: &Context<B>,
    ) -> Result<Threshold<B, E>, ConfigError> {
        let scorer = E::from_config(&self.scorer, context)?;
        match (0.0..=1.0).contains(&self.threshold) {
            true => Ok(Threshold { threshold: self.threshold, scorer, backend: PhantomData }),
            false => Err(ConfigError::value("threshold", self.threshold, "a share of the mass, in [0, 1]")),
        }
    }
}

impl<B: Backend> MaskerConfig<B> for ThresholdConfig {
    type Masker = Threshold<B>;

    fn init(&self, context: &Context<B>) -> Result<Threshold<B>, ConfigError> {
        self.over(context)
    }
}

impl<B: Backend, E: Scorer<B>> Masker<B> for Threshold<B, E> {
    fn add(
        &self,
        inputs: &AttentionInputs<B>,
        state: &mut LayerState,
        mask: Mask<B>,
    ) -> Result<Mask<B>, AttentionError> {
        let (shape, device) = (inputs.mask_shape(), inputs.device());
        if self.threshold == 0.0 {
            return Ok(Mask::full(shape, &device));
        }
        let (kept, nothing) = (KeptKeys::of(&mask), Mask::empty(shape, &device));
        let chosen = by_candidates(inputs, &nothing, &self.scorer, state, |row, scores| {
            let kept = kept.weights(row, row % shape.queries, shape.keys);
            let limit = limit(scores, self.threshold);
            // A key with a NaN score is kept, so that the NaN shows in the output.
            let reaches = |score: f32| score.is_nan() || score > f32::NEG_INFINITY && f64::from(score) >= limit;
            let is_new = |key: u32| kept.as_ref().is_none_or(|kept| kept[key as usize] == 0.0);
            let chosen = (0..).zip(scores).filter(|&(key, &score)| reaches(score) && is_new(key));
            chosen.map(|(key, _)| Kept::certainly(key)).collect()
        })?;
        Ok(mask.merge_disjoint(&chosen)?)
    }

    fn keys_before_window(&self) -> Option<usize> {
        (!self.scorer.remembers()).then_some(0)
    }
}

/// The score of a key that has exactly the given share of the mass. Minus infinity if no key has any mass.
fn limit(scores: &[f32], share: f64) -> f64 {
    let maximum = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mass = scores.iter().filter(|score| **score > f32::NEG_INFINITY);
    let mass = mass.map(|score| f64::from(score - maximum).exp()).sum::<f64>();
    f64::from(maximum) + (share * mass).ln()
}

#[cfg(test)]
mod tests {
    use super::limit;

    #[test]
    fn the_limit_is_where_the_share_is() {
        let scores = [0.4f32, 0.1, 0.3, 0.2].map(f32::ln);
        assert!((limit(&scores, 0.25) - 0.25f64.ln()).abs() < 1e-6);
    }
}

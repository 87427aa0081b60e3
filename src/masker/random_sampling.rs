use burn::{module::Module, tensor::backend::Backend};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{
    Masker, MaskerConfig,
    population::{Population, Sample},
    rows::KeptKeys,
    sampling::{draw_with_replacement, without_replacement},
};
use crate::{
    config::ConfigError,
    mask::Mask,
    problem::{AttentionError, AttentionInputs, VisibleKeys},
    scorer::Context,
    state::LayerState,
};

/// Configuration of [RandomSampling], `{"type": "random_sampling", "sampling_rate": 0.05}`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RandomSamplingConfig {
    /// The share of keys to draw, in (0, 1]. It refers to the visible keys that are not kept yet.
    pub sampling_rate: f64,
    /// Draw with replacement and count how often a key was drawn. Default: false.
    #[serde(default)]
    pub replacement: bool,
}

/// Draws keys uniformly from the visible keys that are not kept yet. The drawn keys stand for all of them.
///
/// If `n` keys of a row are visible and not kept yet, it draws `m = ceil(rate * n)` of them without replacement. Each
/// drawn key has the probability `m / n`. Sums over keys are unbiased, and a rate of 1 gives dense attention.
///
/// Should be created with [RandomSamplingConfig].
#[derive(Module, Debug, Clone, Copy)]
pub struct RandomSampling {
    rate: f64,
    replacement: bool,
}

impl<B: Backend> MaskerConfig<B> for RandomSamplingConfig {
    type Masker = RandomSampling;

    fn init(&self, _context: &Context<B>) -> Result<RandomSampling, ConfigError> {
        if !(self.sampling_rate > 0.0 && self.sampling_rate <= 1.0) {
            let allowed = "a share of the keys, in (0, 1]";
            return Err(ConfigError::value("sampling_rate", self.sampling_rate, allowed));
        }
        Ok(RandomSampling { rate: self.sampling_rate, replacement: self.replacement })
    }
}

impl<B: Backend> Masker<B> for RandomSampling {
    fn add(
        &self,
        inputs: &AttentionInputs<B>,
        state: &mut LayerState,
        mask: Mask<B>,
    ) -> Result<Mask<B>, AttentionError> {
        state.continue_with(inputs)?;
        let randomness = state.randomness(inputs);
        let (shape, visible, taken) = (mask.shape(), VisibleKeys::of(inputs), KeptKeys::of(&mask));
        let rows = (0..shape.rows()).into_par_iter().map(|row| {
            let (head, query) = (row / shape.queries, row % shape.queries);
            let kept = taken.kept(row, query, shape.keys);
            let kept = kept.iter().map(|kept| kept.key);
            let population = Population::of(&visible.row(head, query), shape.all_keys(), kept);
            let mut rng = randomness.row(row);
            let draws = (self.rate * population.len() as f64).ceil() as usize;
            match (draws, self.replacement) {
                (0, _) => Vec::new(),
                (draws, true) => draw_with_replacement(&population, Vec::new(), draws, &mut rng),
                (draws, false) => {
                    let mut sample = Sample::from(&population);
                    sample.extend_to(draws, &mut rng);
                    without_replacement(&sample.keys(), population.len())
                }
            }
        });
        Ok(mask.merge_disjoint(&rows.collect::<Vec<_>>())?)
    }

    fn samples(&self) -> bool {
        true
    }
}

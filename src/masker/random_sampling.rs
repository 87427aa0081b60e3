use burn::{
    module::Module,
    tensor::{DType, Tensor, backend::Backend},
};
use serde::{Deserialize, Serialize};

use super::{
    ConfigError, Context, LayerState, Masker, MaskerConfig,
    rows::{add_by_row, candidate_scores, candidates},
    sampling::{RandomOrder, draw_with_replacement, without_replacement},
};
use crate::{
    attention::{AttentionError, AttentionInputs, scores::check_scores},
    mask::Mask,
};

/// Configuration of [RandomSampling], `{"type": "random_sampling", "sampling_rate": 0.05}`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RandomSamplingConfig {
    /// Which share of the keys left over to draw, in (0, 1].
    pub sampling_rate: f64,
    /// Draw with replacement and count how often a key was drawn. Default: false.
    #[serde(default)]
    pub replacement: bool,
}

/// Draws keys uniformly from those that are visible and not kept yet, and lets them stand for all of these.
///
/// Of `n` keys left over in a row it draws `m = ceil(rate * n)` without replacement, each then kept with probability
/// `m / n`: sums over keys are unbiased, and a rate of 1 is dense attention.
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
        check_scores(inputs)?;
        state.continue_with(inputs)?;
        let randomness = state.randomness(inputs);
        let zeros = Tensor::zeros(inputs.mask_shape().dims(), (&inputs.device(), DType::F32));
        let open = candidate_scores(inputs, &mask, zeros);
        add_by_row(&mask, &open, |row, open| {
            let mut rng = randomness.row(row);
            let population = candidates(open);
            let draws = (self.rate * population.len() as f64).ceil() as usize;
            match (draws, self.replacement) {
                (0, _) => Vec::new(),
                (draws, true) => draw_with_replacement(&population, &[], draws, &mut rng),
                (draws, false) => {
                    let size = population.len();
                    without_replacement(RandomOrder::of(population).first(draws, &mut rng), size)
                }
            }
        })
    }

    fn samples(&self) -> bool {
        true
    }
}

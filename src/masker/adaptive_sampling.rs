use std::ops::Range;

use burn::{module::Module, tensor::backend::Backend};
use rand::{Rng, RngExt};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, Normal};

use super::{
    Masker, MaskerConfig,
    exact_logits::ExactLogits,
    population::{Population, Sample},
    residual::{Residual, SinkLogits},
    rows::KeptKeys,
    sampling::{draw_with_replacement, without_replacement},
};
use crate::{
    config::{ConfigError, Size},
    mask::{Kept, Mask},
    problem::{AttentionError, AttentionInputs, VisibleKeys},
    scorer::Context,
    state::LayerState,
};

/// Configuration of [AdaptiveSampling].
///
/// ```json
/// {"type": "adaptive_sampling", "base_rate_sampling": 0.05, "epsilon": 0.1, "delta": 0.1, "init_offset": 128, "local_offset": 128}
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdaptiveSamplingConfig {
    /// Size of the pilot sample: a count of at least 1, or a fraction in (0, 1) of the population. At least two keys
    /// are drawn. 0 switches sampling off.
    pub base_rate_sampling: Size,
    /// The bound on the relative error of the softmax denominator, in (0, 1).
    pub epsilon: f64,
    /// The probability with which each tail of the error may exceed `epsilon`, in (0, 1).
    pub delta: f64,
    /// How many keys at the start are never drawn, because a sink keeps them: a count, or a fraction in [0, 1].
    pub init_offset: Size,
    /// How many of the last keys that a query sees are never drawn, because a window keeps them: a count, or a fraction
    /// in [0, 1].
    pub local_offset: Size,
    /// Draw with replacement and count how often a key was drawn. Default: false.
    #[serde(default)]
    pub replacement: bool,
}

impl AdaptiveSamplingConfig {
    /// The keys that may be drawn for a query that sees all keys: the keys between the two offsets. Empty if the
    /// offsets meet.
    pub fn range(&self, keys: usize) -> Range<usize> {
        self.range_of_row(keys, keys)
    }

    /// The same for a query that sees only keys before `end`. Fractions refer to all `keys`.
    pub fn range_of_row(&self, end: usize, keys: usize) -> Range<usize> {
        let end = end.saturating_sub(self.local_offset.floor_of(keys));
        self.init_offset.floor_of(keys).min(end)..end
    }

    /// The size of the pilot sample from a population of `keys` keys: at least two keys, at most all of them.
    pub fn base_count(&self, keys: usize) -> usize {
        self.base_rate_sampling.floor_of(keys).max(2).min(keys)
    }

    fn validate(&self) -> Result<(), ConfigError> {
        let share = |field, value: f64| match value > 0.0 && value < 1.0 {
            true => Ok(()),
            false => Err(ConfigError::value(field, value, "in (0, 1)")),
        };
        match self.base_rate_sampling {
            Size::Fraction(fraction) if !(0.0..1.0).contains(&fraction) => {
                return Err(ConfigError::value(
                    "base_rate_sampling",
                    self.base_rate_sampling,
                    "a count of keys (a whole number) or a fraction of them (a number with a point, below 1); 0 switches sampling off",
                ));
            }
            _ => {}
        }
        share("epsilon", self.epsilon)?;
        share("delta", self.delta)?;
        for (field, offset) in [("init_offset", self.init_offset), ("local_offset", self.local_offset)] {
            match offset {
                Size::Fraction(fraction) if !(0.0..=1.0).contains(&fraction) => {
                    let allowed =
                        "a count of keys (a whole number) or a fraction of them (a number with a point, in [0, 1])";
                    return Err(ConfigError::value(field, offset, allowed));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Draws the number of keys that each query needs for an (epsilon, delta) bound on its softmax denominator
/// ([vAttention](https://arxiv.org/abs/2510.05688)).
///
/// In each row, the population is the visible keys between the two offsets that no earlier masker kept. A pilot sample
/// of the population gives the standard deviation of the exponentials. Together with the kept keys it also gives an
/// estimate of the denominator. The [budget](AdaptiveBudget) follows from both. The pilot is extended to the budget
/// without replacement, so that a budget of the whole population gives the exact result.
///
/// The quantile is one-sided, as published. Each tail of the error exceeds `epsilon` with probability at most `delta`,
/// and both tails together with probability at most `2 delta`. This holds if the sample mean is normally distributed
/// and the pilot sample shows the true spread. The pilot misses the spread if a few keys that are not kept hold most of
/// the mass, so put a top-k before this masker. A key inside an offset is never drawn, and is lost if no sink or window
/// keeps it. Set the offsets to the sizes of the sink and the window.
///
/// A row with fewer than two keys between the offsets keeps all keys that it sees.
///
/// Should be created with [AdaptiveSamplingConfig].
#[derive(Module, Debug, Clone, Copy)]
pub struct AdaptiveSampling {
    config: AdaptiveSamplingConfig,
    budget: AdaptiveBudget,
}

/// The number of keys to draw so that an estimated sum stays within a relative error.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdaptiveBudget {
    quantile: f64,
    epsilon: f64,
}

impl AdaptiveBudget {
    /// The rule for a relative error `epsilon` that each tail exceeds with probability `delta`. Both are in (0, 1).
    pub fn new(epsilon: f64, delta: f64) -> Self {
        // A delta above one half has a negative quantile and needs no keys. The quantile is set to 0, because the
        // budget squares it.
        let quantile = Normal::standard().inverse_cdf(1.0 - delta).max(0.0);
        Self { quantile, epsilon }
    }

    /// The standard normal quantile `ppf(1 - delta)`, not below 0.
    pub fn quantile(&self) -> f64 {
        self.quantile
    }

    /// `(quantile * deviation * population / (epsilon * denominator))^2` keys, rounded up, at least `base` and at most
    /// `population`.
    ///
    /// `deviation` is the standard deviation of the exponentials over the population. `denominator` is the estimated
    /// sum of the exponentials of the population and of the kept keys.
    pub fn keys(&self, deviation: f64, denominator: f64, population: usize, base: usize) -> usize {
        let error = self.epsilon * denominator;
        let root = self.quantile * deviation * population as f64 / error;
        // `as` saturates: a denominator of 0 gives an infinite demand, and so the whole population.
        let demand = if root.is_nan() { 0 } else { (root * root).ceil() as usize };
        demand.max(base).min(population)
    }
}

impl<B: Backend> MaskerConfig<B> for AdaptiveSamplingConfig {
    type Masker = AdaptiveSampling;

    fn init(&self, _context: &Context<B>) -> Result<AdaptiveSampling, ConfigError> {
        self.validate()?;
        let budget = AdaptiveBudget::new(self.epsilon, self.delta);
        Ok(AdaptiveSampling { config: *self, budget })
    }
}

impl<B: Backend> Masker<B> for AdaptiveSampling {
    fn add(
        &self,
        inputs: &AttentionInputs<B>,
        state: &mut LayerState,
        mask: Mask<B>,
    ) -> Result<Mask<B>, AttentionError> {
        if self.config.base_rate_sampling.is_zero() {
            return Ok(mask);
        }
        let (shape, device) = (inputs.mask_shape(), inputs.device());
        // A row that sees all keys has the longest range. If even this range is too short, every row keeps everything.
        if self.config.range(shape.keys).len() < 2 {
            return Ok(Mask::full(shape, &device));
        }
        state.continue_with(inputs)?;
        let randomness = state.randomness(inputs);
        let (logits, sink_logits) = (ExactLogits::of(inputs)?, SinkLogits::of(inputs));
        let (visible, taken) = (VisibleKeys::of(inputs), KeptKeys::of(&mask));
        let rows = (0..shape.rows()).into_par_iter().map(|row| {
            let (head, query) = (row / shape.queries, row % shape.queries);
            let (seen, kept) = (visible.row(head, query), taken.kept(row, query, shape.keys));
            let end = seen.end();
            let range = self.config.range_of_row(end, shape.keys);
            if range.len() < 2 {
                let population = Population::of(&seen, 0..end, kept.iter().map(|kept| kept.key));
                return population.all().into_iter().map(Kept::certainly).collect();
            }
            let residual = Residual::of(row, &seen, &kept, range, &logits, sink_logits.row(row));
            self.draw(row, &residual, &logits, &mut randomness.row(row))
        });
        Ok(mask.merge_disjoint(&rows.collect::<Vec<_>>())?)
    }

    fn samples(&self) -> bool {
        true
    }
}

impl AdaptiveSampling {
    /// Draws the pilot sample and extends it to the budget that follows from it.
    fn draw(&self, row: usize, residual: &Residual, logits: &ExactLogits, rng: &mut impl Rng) -> Vec<Kept> {
        let population = &residual.population;
        if population.len() < 2 {
            return residual.keep_all().0;
        }
        let base = self.config.base_count(population.len());
        let budget = |pilot: &[u32]| {
            let sums = residual.sums(&logits.row(row, pilot));
            self.budget.keys(sums.deviation, sums.denominator, population.len(), base)
        };
        if self.config.replacement {
            let pilot = (0..base).map(|_| population.key(rng.random_range(0..population.len()))).collect::<Vec<_>>();
            let budget = budget(&pilot);
            draw_with_replacement(population, pilot, budget, rng)
        } else {
            let mut sample = Sample::from(population);
            sample.extend_to(base, rng);
            sample.extend_to(budget(&sample.keys()), rng);
            without_replacement(&sample.keys(), population.len())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_is_the_published_formula() {
        let rule = AdaptiveBudget::new(0.1, 0.05);
        assert!((rule.quantile() - 1.6448536269514722).abs() < 1e-9);
        // (1.6448536 * 0.5 * 1000 / (0.1 * 800))^2 = 105.7
        assert_eq!(rule.keys(0.5, 800.0, 1000, 2), 106);
        assert_eq!(rule.keys(0.5, 800.0, 1000, 200), 200);
        assert_eq!(rule.keys(5.0, 800.0, 1000, 2), 1000);
        assert_eq!(rule.keys(0.5, 0.0, 1000, 2), 1000);
        assert_eq!(rule.keys(0.0, 0.0, 1000, 7), 7);
    }

    #[test]
    fn a_delta_above_one_half_asks_for_the_pilot_only() {
        assert_eq!(AdaptiveBudget::new(0.1, 0.9).keys(0.5, 800.0, 1000, 20), 20);
    }

    #[test]
    fn offsets_that_meet_leave_nothing() {
        let config = AdaptiveSamplingConfig {
            base_rate_sampling: Size::Fraction(0.1),
            epsilon: 0.1,
            delta: 0.1,
            init_offset: Size::Count(182),
            local_offset: Size::Fraction(0.1),
            replacement: false,
        };
        assert!(config.range(2).is_empty());
        assert_eq!(config.range(1000), 182..900);
        assert_eq!(config.base_count(7), 2);
    }
}

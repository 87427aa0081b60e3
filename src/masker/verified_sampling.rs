use burn::{module::Module, tensor::backend::Backend};
use rand::Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, StudentsT};

use super::{
    Masker, MaskerConfig,
    exact_logits::ExactLogits,
    population::Sample,
    residual::{Residual, RowValues, SinkLogits, Values},
    rows::KeptKeys,
    sampling::without_replacement,
};
use crate::{
    config::{ConfigError, Size},
    mask::{Kept, Mask},
    problem::{AttentionError, AttentionInputs, VisibleKeys},
    scorer::Context,
    state::{LayerState, RowSample, SamplingReport},
};

/// Configuration of [VerifiedSampling].
///
/// ```json
/// {"type": "verified_sampling", "target": "output", "epsilon": 0.1, "delta": 0.1, "pilot_size": 0.05}
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerifiedSamplingConfig {
    /// The quantity whose relative error is bounded.
    pub target: Target,
    /// The bound on the relative error, in (0, 1).
    pub epsilon: f64,
    /// The probability with which the error may exceed the bound, in (0, 1). At most 0.215 for the targets `numerator`
    /// and `output`.
    pub delta: f64,
    /// The size of the pilot sample: a count of at least 1, or a fraction in (0, 1] of the visible keys that are not
    /// kept yet. At least 2 keys are drawn.
    pub pilot_size: Size,
}

/// The quantity whose relative error [VerifiedSampling] bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// The sum of the exponentials.
    Denominator,
    /// The sum of exponentials times values, in the Euclidean norm.
    Numerator,
    /// The numerator over the denominator, which is the output of attention, in the Euclidean norm.
    Output,
}

/// Draws the number of keys that each query needs for an (epsilon, delta) bound on the denominator, the numerator or
/// the output of its attention. The method is verified sparse attention
/// ([vAttention](https://arxiv.org/abs/2510.05688)), with the output linearised.
///
/// In each row, the population is the `n` visible keys that no earlier masker kept. Let `w` be the exponentials and `v`
/// the values. The sampled sums are linear in `z`: `z = w` for the denominator, `z = w v` for the numerator, and to
/// first order `z = w (v - O)` for the output `O`. A pilot sample of `m` keys gives estimates of the sums and the trace
/// `t` of the covariance of `z`. Let `q` be the Student quantile of `1 - delta / 2` at `m - 1` degrees of freedom,
/// which gives a two-sided bound, and `T` the norm of the bounded quantity. Then `b` keys are enough:
///
/// ```text
/// b0 = (q n sqrt(t) / (epsilon T))^2,    1 / b = 1 / b0 + 1 / n
/// ```
///
/// The second formula accounts for draws without replacement. The pilot is extended to `b` keys. A row that would need
/// more than half of its population keeps the whole population and is exact.
///
/// The bound is asymptotic and takes its variance from the pilot. It fails if a few keys that are not kept hold most of
/// the mass and the pilot misses them, so put a top-k before this masker. For a vector (the numerator or the output),
/// the quantile bounds the norm for `delta` up to 0.215 (Székely and Bakirov, 2003). A larger `delta` is refused for
/// these targets.
///
/// Should be created with [VerifiedSamplingConfig].
#[derive(Module, Debug, Clone, Copy)]
pub struct VerifiedSampling {
    config: VerifiedSamplingConfig,
}

/// The largest `delta` for which the quantile of one component bounds a sum of several.
const LARGEST_DELTA_OF_VECTORS: f64 = 0.215;

impl<B: Backend> MaskerConfig<B> for VerifiedSamplingConfig {
    type Masker = VerifiedSampling;

    fn init(&self, _context: &Context<B>) -> Result<VerifiedSampling, ConfigError> {
        let inside = |value: f64, limit: f64| value > 0.0 && value < limit;
        if !inside(self.epsilon, 1.0) {
            return Err(ConfigError::value("epsilon", self.epsilon, "in (0, 1)"));
        }
        if !inside(self.delta, 1.0) {
            return Err(ConfigError::value("delta", self.delta, "in (0, 1)"));
        }
        if self.target != Target::Denominator && self.delta > LARGEST_DELTA_OF_VECTORS {
            let allowed = "at most 0.215 for the targets `numerator` and `output`, whose bound holds no further";
            return Err(ConfigError::value("delta", self.delta, allowed));
        }
        self.pilot_size.validate_positive("pilot_size")?;
        Ok(VerifiedSampling { config: *self })
    }
}

impl VerifiedSampling {
    /// The mask with the drawn keys, and a report of the draws and the estimated error of each row.
    ///
    /// # Errors
    /// If attention cannot be computed over the inputs.
    pub fn sample<B: Backend>(
        &self,
        inputs: &AttentionInputs<B>,
        state: &mut LayerState,
        mask: &Mask<B>,
    ) -> Result<(Mask<B>, SamplingReport), AttentionError> {
        let shape = mask.shape();
        state.continue_with(inputs)?;
        let randomness = state.randomness(inputs);
        let (logits, sink_logits) = (ExactLogits::of(inputs)?, SinkLogits::of(inputs));
        let (visible, taken) = (VisibleKeys::of(inputs), KeptKeys::of(mask));
        let values = (self.config.target != Target::Denominator).then(|| Values::of(inputs));
        let rows = (0..shape.rows()).into_par_iter().map(|row| {
            let (head, query) = (row / shape.queries, row % shape.queries);
            let (seen, kept) = (visible.row(head, query), taken.kept(row, query, shape.keys));
            let residual = Residual::of(row, &seen, &kept, shape.all_keys(), &logits, sink_logits.row(row));
            let row =
                Row { row, residual: &residual, logits: &logits, values: values.as_ref().map(|all| all.row(row)) };
            self.draw(&row, &mut randomness.row(row.row))
        });
        let (kept, report): (Vec<_>, Vec<_>) = rows.collect::<Vec<_>>().into_iter().unzip();
        Ok((mask.merge_disjoint(&kept)?, SamplingReport { rows: report }))
    }

    fn draw(&self, row: &Row, rng: &mut impl Rng) -> (Vec<Kept>, RowSample) {
        let population = row.residual.population.len();
        let pilot = self.config.pilot_size.floor_of(population).max(2);
        if pilot >= population {
            return row.residual.keep_all();
        }
        let mut sample = Sample::from(&row.residual.population);
        sample.extend_to(pilot, rng);
        let quantile = student_quantile(self.config.delta, pilot);
        let estimate = self.estimate(row, &sample.keys());
        let needed =
            (quantile * population as f64 * estimate.deviation / (self.config.epsilon * estimate.norm)).powi(2);
        // A norm of 0 gives an infinite or undefined demand. It stands for the whole population.
        let corrected =
            if needed.is_finite() { needed / (1.0 + needed / population as f64) } else { population as f64 };
        let budget = (corrected.ceil() as usize).max(pilot);
        if budget > population / 2 {
            return row.residual.keep_all();
        }
        sample.extend_to(budget, rng);
        let drawn = sample.keys();
        let estimate = self.estimate(row, &drawn);
        let unseen = 1.0 - budget as f64 / population as f64;
        let standard_error = population as f64 * estimate.deviation * (unseen / budget as f64).sqrt() / estimate.norm;
        let report = RowSample {
            population,
            drawn: budget,
            standard_error,
            half_width: student_quantile(self.config.delta, budget) * standard_error,
        };
        (without_replacement(&drawn, population), report)
    }

    /// The norm of the target and the square root of the trace of the covariance of `z`, estimated from some drawn
    /// keys.
    fn estimate(&self, row: &Row, drawn: &[u32]) -> Estimate {
        let Row { residual, logits, .. } = row;
        let population = residual.population.len() as f64;
        let count = drawn.len() as f64;
        let sums = residual.sums(&logits.row(row.row, drawn));
        let Some(values) = &row.values else {
            return Estimate { norm: sums.denominator, deviation: sums.deviation };
        };
        let mut numerator = vec![0.0; values.width()];
        for (&key, exponential) in drawn.iter().zip(&sums.sample) {
            values.add_to(&mut numerator, key, exponential * population / count);
        }
        for ((key, _), exponential) in residual.kept.iter().zip(&sums.kept) {
            values.add_to(&mut numerator, *key, *exponential);
        }
        let norm = numerator.iter().map(|x| x * x).sum::<f64>().sqrt();
        // `z` is `w v - w O` for the output, and `w v` for the numerator.
        let center = |exponential: f64, at: usize| match self.config.target {
            Target::Output => exponential * numerator[at] / sums.denominator,
            _ => 0.0,
        };
        let mut totals = vec![0.0; values.width()];
        let mut squares = 0.0;
        for (&key, &exponential) in drawn.iter().zip(&sums.sample) {
            values.each(key, |at, value| {
                let z = exponential * value - center(exponential, at);
                totals[at] += z;
                squares += z * z;
            });
        }
        let around_mean = squares - totals.iter().map(|total| total * total).sum::<f64>() / count;
        Estimate { norm, deviation: (around_mean.max(0.0) / (count - 1.0)).sqrt() }
    }
}

/// A row and the data that its draw needs.
struct Row<'a> {
    row: usize,
    residual: &'a Residual,
    logits: &'a ExactLogits,
    /// The values, if the target depends on them.
    values: Option<RowValues<'a>>,
}

struct Estimate {
    norm: f64,
    deviation: f64,
}

/// Student's quantile of `1 - delta / 2` for a mean of `count` draws. `count` is at least 2.
fn student_quantile(delta: f64, count: usize) -> f64 {
    match StudentsT::new(0.0, 1.0, (count - 1) as f64) {
        Ok(student) => student.inverse_cdf(1.0 - delta / 2.0),
        Err(_) => unreachable!("a location of 0, a scale of 1 and at least one degree of freedom are a distribution"),
    }
}

impl<B: Backend> Masker<B> for VerifiedSampling {
    fn add(
        &self,
        inputs: &AttentionInputs<B>,
        state: &mut LayerState,
        mask: Mask<B>,
    ) -> Result<Mask<B>, AttentionError> {
        match mask.is_full() {
            true => Ok(mask),
            false => {
                let (mask, report) = self.sample(inputs, state, &mask)?;
                state.set_sampling_report(Some(report));
                Ok(mask)
            }
        }
    }

    fn samples(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::student_quantile;

    #[test]
    fn quantiles_are_two_sided() {
        // Tables of Student's distribution.
        assert!((student_quantile(0.05, 11) - 2.228_138_852).abs() < 1e-6);
        assert!((student_quantile(0.1, 1_000_001) - 1.644_854).abs() < 1e-4);
    }
}

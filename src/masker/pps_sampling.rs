use std::marker::PhantomData;

use burn::{
    module::{Content, Module, ModuleDisplay},
    tensor::backend::Backend,
};
use rand::{Rng, RngExt, seq::SliceRandom};
use serde::{Deserialize, Serialize};

use super::{
    Masker, MaskerConfig,
    rows::{by_candidates, numbers_and_others},
};
use crate::{
    config::{ConfigError, NamedConfig, Size},
    mask::{Kept, Mask},
    problem::{AttentionError, AttentionInputs},
    scorer::{Context, HeldScorer, Scorer},
    state::{LayerState, RowSample, SamplingReport},
};

/// Configuration of [PpsSampling].
///
/// ```json
/// {"type": "pps_sampling", "sampling_size": 0.05, "scorer": {"type": "oracle"}, "uniform_share": 0.5}
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PpsSamplingConfig {
    /// How many keys to draw for each query: a count of at least 1 or a fraction in (0, 1].
    pub sampling_size: Size,
    /// The scorer that estimates the logit of each key. Default: the exact logit.
    #[serde(default = "oracle")]
    pub scorer: NamedConfig,
    /// The share of the draws that is uniform, in [0, 1]. Default: 0.5.
    #[serde(default = "half")]
    pub uniform_share: f64,
}

fn oracle() -> NamedConfig {
    NamedConfig::new("oracle")
}

fn half() -> f64 {
    0.5
}

/// Draws keys by *sampling with probability proportional to size*. The probability of a key is in proportion to a
/// scorer's estimate of its weight, mixed with a uniform probability. Sums use the estimator of
/// [Horvitz and Thompson (1952)](https://doi.org/10.1080/01621459.1952.10483446).
///
/// In each row, a visible key that is not kept yet is drawn with probability `b (u / n + (1 - u) w / sum w)`. Here `b`
/// is the number of keys to draw, `u` the uniform share, `n` the number of visible keys that are not kept yet, and
/// `w = exp(score)`. A probability above 1 is set to 1, and the other probabilities are raised so that the sum stays
/// `b`. The draw is systematic sampling over a random order of the keys. It draws exactly `b` keys, each with exactly
/// its probability. The estimate is unbiased over any scorer. The uniform share limits the error if the scorer gives a
/// heavy key a low score.
///
/// It is a burn module if its scorer is one. Should be created with [PpsSamplingConfig].
#[derive(Module, Debug)]
#[module(custom_display)]
pub struct PpsSampling<B: Backend, E = Box<dyn Scorer<B>>> {
    size: Size,
    uniform_share: f64,
    scorer: E,
    backend: PhantomData<B>,
}

impl<B: Backend, E: Module<B> + ModuleDisplay> ModuleDisplay for PpsSampling<B, E> {
    fn custom_content(&self, content: Content) -> Option<Content> {
        content
            .add_debug_attribute("sampling_size", &self.size)
            .add("uniform_share", &self.uniform_share)
            .add("scorer", &self.scorer)
            .optional()
    }
}

impl PpsSamplingConfig {
    /// The sampler, with a scorer that `E` holds.
    pub(crate) fn over<B: Backend, E: HeldScorer<B>>(
        &self,
        context: &Context<B>,
    ) -> Result<PpsSampling<B, E>, ConfigError> {
        let scorer = E::from_config(&self.scorer, context)?;
        self.sampling_size.validate_positive("sampling_size")?;
        if !(0.0..=1.0).contains(&self.uniform_share) {
            return Err(ConfigError::value("uniform_share", self.uniform_share, "a share of the draws, in [0, 1]"));
        }
        Ok(PpsSampling { size: self.sampling_size, uniform_share: self.uniform_share, scorer, backend: PhantomData })
    }
}

impl<B: Backend> MaskerConfig<B> for PpsSamplingConfig {
    type Masker = PpsSampling<B>;

    fn init(&self, context: &Context<B>) -> Result<PpsSampling<B>, ConfigError> {
        self.over(context)
    }
}

impl<B: Backend, E: Scorer<B>> PpsSampling<B, E> {
    /// The mask with the drawn keys, and a report of the draws of each row. The standard error is the error of the sum
    /// of the scorer's weights, relative to this sum. It uses the approximation of Deville (1999) for samples of fixed
    /// size.
    ///
    /// # Errors
    /// If the scorer cannot work with the inputs.
    pub fn sample(
        &self,
        inputs: &AttentionInputs<B>,
        state: &mut LayerState,
        mask: &Mask<B>,
    ) -> Result<(Mask<B>, SamplingReport), AttentionError> {
        let keys = mask.shape().keys;
        let size = self.size.of(keys);
        state.continue_with(inputs)?;
        let randomness = state.randomness(inputs);
        let rows = by_candidates(inputs, mask, &self.scorer, state, |row, scores| {
            draw(scores, size, self.uniform_share, &mut randomness.row(row))
        })?;
        let (kept, report): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
        Ok((mask.merge_disjoint(&kept)?, SamplingReport { rows: report }))
    }
}

fn draw(scores: &[f32], size: usize, uniform_share: f64, rng: &mut impl Rng) -> (Vec<Kept>, RowSample) {
    let (mut keys, others) = numbers_and_others(scores);
    let population = keys.len() + others.len();
    if !others.is_empty() || population <= size {
        // If a score is NaN, so is the sum that a sample would estimate. Only the keys with a NaN score are then kept.
        if !others.is_empty() {
            keys = others;
        }
        let report = RowSample { population, drawn: keys.len(), standard_error: 0.0, half_width: 0.0 };
        return (keys.into_iter().map(Kept::certainly).collect(), report);
    }
    let maximum = keys.iter().map(|&key| scores[key as usize]).fold(f32::NEG_INFINITY, f32::max);
    let weight = |key: u32| f64::from(scores[key as usize] - maximum).exp();
    let total = keys.iter().map(|&key| weight(key)).sum::<f64>();
    keys.shuffle(rng);
    let shares = keys
        .iter()
        .map(|&key| uniform_share / population as f64 + (1.0 - uniform_share) * weight(key) / total)
        .collect::<Vec<_>>();
    let probabilities = inclusion_probabilities(&shares, size);
    // Systematic sampling: the probabilities are laid end to end as intervals. A key is drawn if its interval contains
    // one of the points `tooth, tooth + 1, tooth + 2, ...`, whose start is random in [0, 1).
    let mut tooth = rng.random::<f64>();
    let mut end = 0.0;
    let mut kept = Vec::with_capacity(size);
    for (&key, &probability) in keys.iter().zip(&probabilities) {
        end += probability;
        if tooth < end {
            kept.push(Kept { key, probability: probability as f32 });
            tooth += 1.0;
        }
    }
    kept.sort_unstable_by_key(|kept| kept.key);
    let standard_error = standard_error(&kept, weight);
    (kept, RowSample { population, drawn: size, standard_error, half_width: standard_error })
}

/// Probabilities in proportion to the shares, each at most 1, that sum to `size`. There must be more shares than
/// `size`. A share of 0 has the probability 0. The sum is lower than `size` if fewer than `size` shares are positive.
fn inclusion_probabilities(shares: &[f64], size: usize) -> Vec<f64> {
    let mut certain = vec![false; shares.len()];
    loop {
        let (mut left, mut sum) = (size as f64, 0.0);
        for (&share, &certain) in shares.iter().zip(&certain) {
            if certain {
                left -= 1.0;
            } else {
                sum += share;
            }
        }
        let factor = if sum > 0.0 { left / sum } else { 0.0 };
        let mut settled = true;
        for (&share, certain) in shares.iter().zip(&mut certain) {
            if !*certain && share * factor >= 1.0 {
                *certain = true;
                settled = false;
            }
        }
        if settled {
            let probability = |(&share, &certain): (&f64, &bool)| if certain { 1.0 } else { share * factor };
            return shares.iter().zip(&certain).map(probability).collect();
        }
    }
}

/// Deville's estimate of the standard error of the sum of the weights, relative to the estimated sum.
fn standard_error(kept: &[Kept], weight: impl Fn(u32) -> f64) -> f64 {
    let expanded = kept
        .iter()
        .map(|kept| (weight(kept.key) / f64::from(kept.probability), 1.0 - f64::from(kept.probability)))
        .collect::<Vec<_>>();
    let sum = expanded.iter().map(|(value, _)| value).sum::<f64>();
    let freedom = expanded.iter().map(|(_, left)| left).sum::<f64>();
    let uncertain = expanded.iter().filter(|(_, left)| *left > 0.0).count() as f64;
    if uncertain < 2.0 {
        return 0.0;
    }
    let center = expanded.iter().map(|(value, left)| left * value).sum::<f64>() / freedom;
    let squares = expanded.iter().map(|(value, left)| left * (value - center).powi(2)).sum::<f64>();
    (squares * uncertain / (uncertain - 1.0)).sqrt() / sum
}

impl<B: Backend, E: Scorer<B>> Masker<B> for PpsSampling<B, E> {
    fn add(
        &self,
        inputs: &AttentionInputs<B>,
        state: &mut LayerState,
        mask: Mask<B>,
    ) -> Result<Mask<B>, AttentionError> {
        match mask.is_full() {
            true => Ok(mask),
            false => Ok(self.sample(inputs, state, &mask)?.0),
        }
    }

    fn samples(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_xoshiro::Xoshiro256PlusPlus;

    use super::{draw, inclusion_probabilities};

    #[test]
    fn probabilities_are_proportional_capped_and_sum_to_the_size() {
        let probabilities = inclusion_probabilities(&[0.7, 0.1, 0.1, 0.05, 0.05], 3);
        let wanted = [1.0, 2.0 / 3.0, 2.0 / 3.0, 1.0 / 3.0, 1.0 / 3.0];
        assert!(probabilities.iter().zip(wanted).all(|(found, wanted)| (found - wanted).abs() < 1e-12));
    }

    #[test]
    fn keys_are_drawn_with_their_probability() {
        let scores = [2.0, 0.0, f32::NEG_INFINITY, 1.0, -1.0, 0.5, 0.0];
        let runs = 20_000;
        let mut hits = [0usize; 7];
        let mut probability = [0f32; 7];
        for seed in 0..runs {
            let (kept, _) = draw(&scores, 2, 0.5, &mut Xoshiro256PlusPlus::seed_from_u64(seed));
            assert_eq!(kept.len(), 2);
            for kept in kept {
                hits[kept.key as usize] += 1;
                probability[kept.key as usize] = kept.probability;
            }
        }
        assert_eq!(hits[2], 0);
        for (hits, p) in hits.into_iter().zip(probability).filter(|(hits, _)| *hits > 0) {
            let p = f64::from(p);
            let deviation = (runs as f64 * p * (1.0 - p)).sqrt();
            assert!((hits as f64 - runs as f64 * p).abs() < 4.5 * deviation, "{hits} hits at probability {p}");
        }
    }
}

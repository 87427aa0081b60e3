use std::marker::PhantomData;

use burn::{
    module::{Content, Module, ModuleDisplay},
    tensor::backend::Backend,
};
use rand::RngExt;
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

/// Configuration of [PrioritySampling].
///
/// ```json
/// {"type": "priority_sampling", "k": 410, "scorer": {"type": "oracle"}}
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrioritySamplingConfig {
    /// How many keys to keep for each query: a count of at least 1 or a fraction in (0, 1].
    pub k: Size,
    /// The scorer that estimates the logit of each key. Default: the exact logit.
    #[serde(default = "oracle")]
    pub scorer: NamedConfig,
}

fn oracle() -> NamedConfig {
    NamedConfig::new("oracle")
}

/// Keeps a fixed number of keys by *priority sampling* ([Duffield, Lund and Thorup,
/// 2007](https://doi.org/10.1145/1314690.1314696)). Heavy keys are kept nearly always, and light keys with a
/// probability in proportion to their weight. Sums over the kept keys are unbiased. In attention the method is known as
/// the softmax lift.
///
/// In each row, every visible key that is not kept yet has the weight `w = exp(score)` and the priority `w / u`, with
/// `u` uniform in (0, 1]. The logarithm of the priority is the score plus an exponential random number. The `k` keys
/// with the highest priorities are kept. A kept key has the probability `min(1, w / t)`, where `t` is the next highest
/// priority. A row with at most `k` keys left keeps all of them.
///
/// Unlike in a top-k, the kept keys also stand for the dropped keys. At equal budgets the error is below the error of a
/// top-k if the dropped keys hold a relevant share of the mass. The method works over any [scorer](Scorer) that
/// estimates logits. It stays unbiased if the estimates are bad.
///
/// It is a burn module if its scorer is one. Should be created with [PrioritySamplingConfig].
#[derive(Module, Debug)]
#[module(custom_display)]
pub struct PrioritySampling<B: Backend, E = Box<dyn Scorer<B>>> {
    size: Size,
    scorer: E,
    backend: PhantomData<B>,
}

impl<B: Backend, E: Module<B> + ModuleDisplay> ModuleDisplay for PrioritySampling<B, E> {
    fn custom_content(&self, content: Content) -> Option<Content> {
        content.add_debug_attribute("k", &self.size).add("scorer", &self.scorer).optional()
    }
}

impl PrioritySamplingConfig {
    /// The sampler, with a scorer that `E` holds.
    pub(crate) fn over<B: Backend, E: HeldScorer<B>>(
        &self,
        context: &Context<B>,
    ) -> Result<PrioritySampling<B, E>, ConfigError> {
        let scorer = E::from_config(&self.scorer, context)?;
        self.k.validate_positive("k")?;
        Ok(PrioritySampling { size: self.k, scorer, backend: PhantomData })
    }
}

impl<B: Backend> MaskerConfig<B> for PrioritySamplingConfig {
    type Masker = PrioritySampling<B>;

    fn init(&self, context: &Context<B>) -> Result<PrioritySampling<B>, ConfigError> {
        self.over(context)
    }
}

impl<B: Backend, E: Scorer<B>> PrioritySampling<B, E> {
    /// The mask with the drawn keys, and a report of the draws of each row. The standard error is the error of the sum
    /// of the drawn weights, relative to this sum. With an exact scorer, this sum is the part of the softmax
    /// denominator that earlier maskers did not keep.
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
            draw(scores, size, &mut randomness.row(row))
        })?;
        let (kept, report): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
        Ok((mask.merge_disjoint(&kept)?, SamplingReport { rows: report }))
    }
}

fn draw(scores: &[f32], size: usize, rng: &mut impl rand::Rng) -> (Vec<Kept>, RowSample) {
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
    // The logarithms of the priorities: the score plus an exponential random number.
    let mut priorities = keys
        .into_iter()
        .map(|key| (f64::from(scores[key as usize]) - (1.0 - rng.random::<f64>()).ln(), key))
        .collect::<Vec<_>>();
    let (_, &mut (threshold, _), _) =
        priorities.select_nth_unstable_by(size, |(a, i), (b, j)| b.total_cmp(a).then(i.cmp(j)));
    priorities.truncate(size);
    priorities.sort_unstable_by_key(|&(_, key)| key);
    let (mut sum, mut variance) = (0.0, 0.0);
    let kept = priorities
        .into_iter()
        .map(|(_, key)| {
            // Relative to the threshold, so that nothing overflows.
            let weight = (f64::from(scores[key as usize]) - threshold).exp();
            sum += weight.max(1.0);
            variance += (1.0 - weight).max(0.0);
            Kept { key, probability: weight.min(1.0) as f32 }
        })
        .collect();
    let standard_error = variance.sqrt() / sum;
    (kept, RowSample { population, drawn: size, standard_error, half_width: standard_error })
}

impl<B: Backend, E: Scorer<B>> Masker<B> for PrioritySampling<B, E> {
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

    use super::draw;

    #[test]
    fn heavy_keys_are_certain_and_the_sum_is_unbiased() {
        let scores = [8.0, 7.5, 0.0, 0.5, -1.0, 0.2, f32::NEG_INFINITY, 0.3];
        let total = scores.iter().map(|&score| f64::from(score).exp()).sum::<f64>();
        let runs = 4000;
        let (mut sum, mut squares, mut own) = (0.0, 0.0, 0.0);
        for seed in 0..runs {
            let (kept, report) = draw(&scores, 4, &mut Xoshiro256PlusPlus::seed_from_u64(seed));
            assert_eq!((kept.len(), report.drawn, report.population), (4, 4, 7));
            assert!(kept.iter().all(|kept| kept.key > 1 || kept.probability > 0.99));
            let estimate = kept
                .iter()
                .map(|kept| f64::from(scores[kept.key as usize]).exp() / f64::from(kept.probability))
                .sum::<f64>();
            sum += estimate;
            squares += (estimate - total).powi(2);
            own += (report.standard_error * estimate).powi(2);
        }
        let (mean, variance, own) = (sum / runs as f64, squares / runs as f64, own / runs as f64);
        assert!((mean - total).abs() < 4.0 * (variance / runs as f64).sqrt(), "{mean} for {total}");
        assert!((own / variance - 1.0).abs() < 0.2, "own variance {own}, observed {variance}");
    }
}

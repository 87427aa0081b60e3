use burn::{
    module::{Content, Module, ModuleDisplay},
    tensor::backend::Backend,
};
use serde::{Deserialize, Serialize};

use super::{
    Masker, MaskerConfig, TopK, TopKConfig,
    rows::{KeptKeys, by_candidates, by_falling_score, candidates},
};
use crate::{
    config::{ConfigError, NamedConfig},
    kernels::cpu::heaviest,
    mask::{Kept, Mask},
    problem::{AttentionError, AttentionInputs},
    scorer::{Context, HeldScorer, Oracle, Scorer},
    state::LayerState,
};

/// Configuration of [TopP], `{"type": "top_p", "top_p": 0.9, "scorer": {"type": "oracle"}}`.
///
/// With [candidates](Self::candidates) it is Twilight:
///
/// ```json
/// {"type": "top_p", "top_p": 0.85, "scorer": {"type": "oracle", "label_bits": 4},
///  "candidates": {"heavy_size": 0.25, "scorer": {"type": "pages", "page_size": 16}}}
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopPConfig {
    /// Which share of the attention mass to keep, in [0, 1].
    pub top_p: f64,
    /// The scorer that estimates the attention mass of each key.
    pub scorer: NamedConfig,
    /// A coarser top-k whose keys are the candidates. The share then refers to the mass of the candidates and of the
    /// keys that earlier maskers kept. Default: none, so that every visible key is a candidate.
    #[serde(default)]
    pub candidates: Option<TopKConfig>,
}

/// Configuration of [TopP] over exact scores, `{"type": "oracle_top_p", "top_p": 0.9}`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OracleTopPConfig {
    /// Which share of the attention mass to keep, in [0, 1].
    pub top_p: f64,
}

/// Adds the fewest keys with which the kept share of the attention mass reaches `p`
/// ([Twilight](https://arxiv.org/abs/2502.02770)). A query with peaked attention needs few keys, and a query with flat
/// attention needs many.
///
/// The share refers to the mass of *all* visible keys. Keys that earlier maskers kept count towards it, and a sampled
/// key counts as `1 / probability` keys. A sink and a window earlier in the chain therefore lower the number of keys
/// that are added, but not the quality. A row that keeps nothing yet gets at least its heaviest key. `p = 1` keeps
/// every visible key. Among equal scores the lower key wins. With [candidates](TopPConfig::candidates), a coarse top-k
/// runs first, and the share refers to the keys that it found.
///
/// It is a burn module if its scorer is one. Should be created with [TopPConfig] or [OracleTopPConfig].
#[derive(Module, Debug)]
#[module(custom_display)]
pub struct TopP<B: Backend, E = Box<dyn Scorer<B>>> {
    share: f64,
    scorer: E,
    candidates: Option<TopK<B, E>>,
}

impl<B: Backend, E: Module<B> + ModuleDisplay> ModuleDisplay for TopP<B, E> {
    fn custom_content(&self, content: Content) -> Option<Content> {
        let content = content.add("top_p", &self.share).add("scorer", &self.scorer);
        match &self.candidates {
            Some(candidates) => content.add("candidates", candidates),
            None => content,
        }
        .optional()
    }
}

impl<B: Backend, E: Scorer<B>> TopP<B, E> {
    /// A selector of the share `top_p` of the mass that a scorer estimates.
    ///
    /// # Errors
    /// If the share is not in [0, 1].
    pub fn new(top_p: f64, scorer: E) -> Result<Self, ConfigError> {
        match (0.0..=1.0).contains(&top_p) {
            true => Ok(Self { share: top_p, scorer, candidates: None }),
            false => Err(ConfigError::value("top_p", top_p, "a share of the mass, in [0, 1]")),
        }
    }
}

impl TopPConfig {
    /// The selector, with scorers that `E` holds.
    pub(crate) fn over<B: Backend, E: HeldScorer<B>>(&self, context: &Context<B>) -> Result<TopP<B, E>, ConfigError> {
        let mut selector = TopP::new(self.top_p, E::from_config(&self.scorer, context)?)?;
        if let Some(candidates) = &self.candidates {
            selector.candidates = Some(candidates.over(context)?);
        }
        Ok(selector)
    }
}

impl OracleTopPConfig {
    /// The selector, with a scorer that `E` holds.
    pub(crate) fn over<B: Backend, E: HeldScorer<B>>(&self, _context: &Context<B>) -> Result<TopP<B, E>, ConfigError> {
        TopP::new(self.top_p, E::holding(Oracle::default()))
    }
}

impl<B: Backend> MaskerConfig<B> for TopPConfig {
    type Masker = TopP<B>;

    fn init(&self, context: &Context<B>) -> Result<TopP<B>, ConfigError> {
        self.over(context)
    }
}

impl<B: Backend> MaskerConfig<B> for OracleTopPConfig {
    type Masker = TopP<B>;

    fn init(&self, context: &Context<B>) -> Result<TopP<B>, ConfigError> {
        self.over(context)
    }
}

impl<B: Backend, E: Scorer<B>> Masker<B> for TopP<B, E> {
    fn add(
        &self,
        inputs: &AttentionInputs<B>,
        state: &mut LayerState,
        mask: Mask<B>,
    ) -> Result<Mask<B>, AttentionError> {
        let (shape, device) = (inputs.mask_shape(), inputs.device());
        let reach = match &self.candidates {
            Some(candidates) => state.part(1, |state| candidates.add(inputs, state, mask.clone()))?,
            None => Mask::full(shape, &device),
        };
        if self.share >= 1.0 {
            return Ok(reach);
        }
        let (kept, reach) = (KeptKeys::of(&mask), (!reach.is_full()).then(|| KeptKeys::of(&reach)));
        let nothing = Mask::empty(shape, &device);
        let chosen = by_candidates(inputs, &nothing, &self.scorer, state, |row, visible| {
            let query = row % shape.queries;
            let kept = kept.weights(row, query, shape.keys);
            // A row without candidates has an empty list here. `None` would mean that every key is a candidate.
            let reach = reach.as_ref().map(|reach| reach.weights(row, query, shape.keys).unwrap_or_default());
            let reached = |key: u32| {
                reach.as_ref().is_none_or(|reach| reach.get(key as usize).is_some_and(|weight| *weight > 0.0))
            };
            let keys = candidates(visible).into_iter().filter(|&key| reached(key)).collect();
            nucleus(visible, keys, kept.as_deref(), self.share).into_iter().map(Kept::certainly).collect()
        })?;
        Ok(mask.merge_disjoint(&chosen)?)
    }

    fn keys_before_window(&self) -> Option<usize> {
        let candidates = self.candidates.as_ref().map_or(Some(0), Masker::<B>::keys_before_window);
        candidates.filter(|_| !self.scorer.remembers())
    }
}

/// The fewest of `keys`, in ascending order, that bring the kept mass to a share of the mass of all `keys`. If any
/// score is NaN, these are all keys with a NaN score that are not kept yet.
fn nucleus(scores: &[f32], mut keys: Vec<u32>, kept: Option<&[f32]>, share: f64) -> Vec<u32> {
    if keys.iter().any(|&key| scores[key as usize].is_nan()) {
        let is_new = |key: u32| kept.is_none_or(|kept| kept[key as usize] == 0.0);
        keys.retain(|&key| scores[key as usize].is_nan() && is_new(key));
        return keys;
    }
    let maximum = keys.iter().map(|&key| scores[key as usize]).fold(f32::NEG_INFINITY, f32::max);
    let mass = |key: u32| f64::from(scores[key as usize] - maximum).exp();
    let probability = |key: u32| kept.map_or(0.0, |kept| f64::from(kept[key as usize]));
    let (mut total, mut reached, mut keeps_something) = (0.0, 0.0, false);
    for &key in &keys {
        total += mass(key);
        if probability(key) > 0.0 {
            reached += mass(key) / probability(key);
            keeps_something = true;
        }
    }
    keys.retain(|&key| probability(key) == 0.0);
    let at_least = usize::from(!keeps_something).min(keys.len());
    let chosen = heaviest(&mut keys, by_falling_score(scores), mass, share * total - reached).max(at_least);
    if chosen == 1 {
        // `heaviest` does not order the keys if it needs none of them.
        let first = keys.iter().copied().min_by(by_falling_score(scores));
        return first.into_iter().collect();
    }
    keys.truncate(chosen);
    keys.sort_unstable();
    keys
}

#[cfg(test)]
mod tests {
    use super::{candidates, nucleus};

    /// Masses 0.4, 0.1, 0.3, 0.2.
    fn scores() -> [f32; 4] {
        [0.4f32, 0.1, 0.3, 0.2].map(f32::ln)
    }

    #[test]
    fn the_fewest_keys_reach_the_share() {
        assert_eq!(nucleus(&scores(), vec![0, 1, 2, 3], None, 0.0), [0]);
        assert_eq!(nucleus(&scores(), vec![0, 1, 2, 3], None, 0.39), [0]);
        assert_eq!(nucleus(&scores(), vec![0, 1, 2, 3], None, 0.65), [0, 2]);
        assert_eq!(nucleus(&scores(), vec![0, 1, 2, 3], None, 0.75), [0, 2, 3]);
    }

    #[test]
    fn what_is_kept_counts_towards_the_share() {
        assert!(nucleus(&scores(), vec![0, 1, 2, 3], Some(&[0.0, 0.0, 1.0, 1.0]), 0.45).is_empty());
        assert_eq!(nucleus(&scores(), vec![0, 1, 2, 3], Some(&[0.0, 1.0, 0.0, 0.0]), 0.45), [0]);
        // The last key stands for two: 0.4 of the mass.
        assert!(nucleus(&scores(), vec![0, 1, 2, 3], Some(&[0.0, 0.0, 0.0, 0.5]), 0.39).is_empty());
    }

    #[test]
    fn what_is_not_a_number_is_kept() {
        let scores = [0.0, f32::NAN, f32::NEG_INFINITY, f32::NAN];
        assert_eq!(nucleus(&scores, candidates(&scores), None, 0.4), [1, 3]);
        assert_eq!(nucleus(&scores, candidates(&scores), Some(&[0.0, 0.5, 0.0, 0.0]), 0.4), [3]);
    }

    #[test]
    fn hidden_keys_have_no_mass() {
        let scores = [f32::NEG_INFINITY, 0.0, 0.0, f32::NEG_INFINITY];
        assert_eq!(nucleus(&scores, candidates(&scores), None, 0.4), [1]);
        assert!(nucleus(&[f32::NEG_INFINITY; 3], Vec::new(), None, 0.5).is_empty());
    }
}

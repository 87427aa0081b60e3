use burn::{module::Module, tensor::backend::Backend};
use serde::{Deserialize, Serialize};

use super::{Masker, MaskerConfig, rows::choose_together};
use crate::{
    config::{ConfigError, Size},
    kernels::cpu::largest,
    mask::Mask,
    problem::{AttentionError, AttentionInputs},
    scorer::{Context, PageFit, Pages, PagesConfig, ScorerConfig, ShareGroup},
    state::LayerState,
};

/// Configuration of [QuestTopK], `{"type": "quest_top_k", "heavy_size": 1024, "page_size": 16, "label_bits": 16}`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuestTopKConfig {
    /// How many keys to add for each query, in whole pages.
    pub heavy_size: Size,
    /// Number of keys in a page, in 1..=1073741824.
    pub page_size: usize,
    /// The number of bits to which the bounds of a page are quantised, in 1..=16. 16 switches quantisation off.
    pub label_bits: u32,
    /// The smallest number of pages to take. Default: 3, as in the paper's code.
    #[serde(default = "three")]
    pub minimum_pages: usize,
    /// The keys of a page that its bounds cover. Default: the keys that the query sees.
    #[serde(default)]
    pub fit: PageFit,
    /// Whether the query heads of a GQA group choose their keys together. Default: each head chooses for itself.
    #[serde(default)]
    pub share_group: ShareGroup,
}

fn three() -> usize {
    3
}

/// Adds the pages of keys with the highest [bounds](Pages) ([Quest](https://arxiv.org/abs/2406.10774)).
///
/// It takes `heavy_size / page_size` pages, rounded down, but at least `minimum_pages`. A page competes if at least one
/// of its keys is visible and not kept yet. Its score is the upper bound of its logits. A chosen page adds all of its
/// visible keys that are not kept yet. Among equal bounds the lower page wins. A row with at most `heavy_size`
/// competing keys gains all of them. With `"fit": "prompt"`, this happens only if the sequence has at most `heavy_size`
/// keys.
///
/// Should be created with [QuestTopKConfig].
#[derive(Module, Debug, Clone, Copy)]
pub struct QuestTopK {
    config: QuestTopKConfig,
    pages: Pages,
}

impl<B: Backend> MaskerConfig<B> for QuestTopKConfig {
    type Masker = QuestTopK;

    fn init(&self, context: &Context<B>) -> Result<QuestTopK, ConfigError> {
        self.heavy_size.validate_positive("heavy_size")?;
        let pages = PagesConfig { page_size: self.page_size, label_bits: self.label_bits, fit: self.fit };
        let pages = ScorerConfig::<B>::init(&pages, context)?;
        Ok(QuestTopK { config: *self, pages })
    }
}

impl<B: Backend> Masker<B> for QuestTopK {
    fn add(
        &self,
        inputs: &AttentionInputs<B>,
        state: &mut LayerState,
        mask: Mask<B>,
    ) -> Result<Mask<B>, AttentionError> {
        let (shape, device) = (inputs.mask_shape(), inputs.device());
        let QuestTopKConfig { page_size, minimum_pages, heavy_size, share_group, fit, .. } = self.config;
        let size = heavy_size.of(shape.keys);
        if size >= shape.keys {
            return Ok(Mask::full(shape, &device));
        }
        let count = (size / page_size).max(minimum_pages);
        let few = if fit == PageFit::Visible { size } else { 0 };
        let choose = |scores: &[f32]| all_of_few(scores, few).unwrap_or_else(|| best_pages(scores, page_size, count));
        Ok(mask.with_chosen(&choose_together(inputs, &mask, &self.pages, state, share_group, choose)?)?)
    }
}

/// All candidates, if there are at most `few`. The first queries of a prompt then keep the same keys as the first
/// decode steps do, which have so few keys that they keep all of them.
fn all_of_few(scores: &[f32], few: usize) -> Option<Vec<u32>> {
    let candidates = (0..).zip(scores).filter(|(_, score)| **score != f32::NEG_INFINITY).map(|(key, _)| key);
    let candidates = candidates.take(few + 1).collect::<Vec<u32>>();
    (candidates.len() <= few).then_some(candidates)
}

/// The candidates of the `count` pages with the highest scores.
fn best_pages(scores: &[f32], page_size: usize, count: usize) -> Vec<u32> {
    // NaN is above all numbers.
    let higher = |best: f32, score: f32| if score > best || score.is_nan() { score } else { best };
    let best = |page: &[f32]| page.iter().copied().fold(f32::NEG_INFINITY, higher);
    let pages = scores.chunks(page_size).map(best).collect::<Vec<_>>();
    let pages = largest(&pages, count).into_iter().map(|page| page as usize * page_size);
    let keys = pages.flat_map(|first| first..(first + page_size).min(scores.len()));
    keys.filter(|&key| scores[key] != f32::NEG_INFINITY).map(|key| key as u32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_bring_their_candidates() {
        let hidden = f32::NEG_INFINITY;
        let scores = [hidden, 1.0, 5.0, 5.0, 3.0, hidden, hidden, hidden, 5.0];
        let keys = |count| best_pages(&scores, 2, count);
        assert_eq!(keys(1), [2, 3]);
        assert_eq!(keys(2), [2, 3, 8]);
        assert_eq!(keys(9), [1, 2, 3, 4, 8]);
        assert_eq!(all_of_few(&scores, 4), None);
        assert_eq!(all_of_few(&scores, 5), Some(vec![1, 2, 3, 4, 8]));
        assert_eq!(best_pages(&[0.0, 9.0, f32::NAN, hidden, 8.0], 2, 1), [2]);
    }
}

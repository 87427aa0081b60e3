use burn::tensor::backend::Backend;
use serde::{Deserialize, Serialize};

use super::{
    ConfigError, Context, LayerState, Masker, MaskerConfig, Size,
    rows::{add_by_row, candidate_scores},
};
use crate::{
    attention::{AttentionError, AttentionInputs},
    mask::{Kept, Mask},
    scorer::{Pages, PagesConfig, Scorer, ScorerConfig},
};

/// Configuration of [QuestTopK], `{"type": "quest_top_k", "heavy_size": 1024, "page_size": 16, "label_bits": 16}`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuestTopKConfig {
    /// How many keys to add for each query, in whole pages.
    pub heavy_size: Size,
    /// Keys to a page, at least 1.
    pub page_size: usize,
    /// To how many bits the bounds of a page are quantised, in 1..=16; 16: not at all.
    pub label_bits: u32,
    /// How many pages to take at least. Default: 3, as in the paper's code.
    #[serde(default = "three")]
    pub minimum_pages: usize,
}

fn three() -> usize {
    3
}

/// Adds the pages of keys with the highest [bounds](Pages) ([Quest](https://arxiv.org/abs/2406.10774)).
///
/// It takes `heavy_size / page_size` pages, rounded down, and at least `minimum_pages`. A page competes by the bound of
/// its logits as long as one of its keys is visible and not kept yet, and brings all of these; among equal bounds the
/// lower page wins.
///
/// Should be created with [QuestTopKConfig].
#[derive(Debug, Clone, Copy)]
pub struct QuestTopK {
    config: QuestTopKConfig,
    pages: Pages,
}

impl<B: Backend> MaskerConfig<B> for QuestTopKConfig {
    type Masker = QuestTopK;

    fn init(&self, context: &Context<B>) -> Result<QuestTopK, ConfigError> {
        self.heavy_size.validate_positive("heavy_size")?;
        let pages = PagesConfig { page_size: self.page_size, label_bits: self.label_bits };
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
        let QuestTopKConfig { page_size, minimum_pages, heavy_size, .. } = self.config;
        let size = heavy_size.of(shape.keys);
        if size >= shape.keys {
            return Ok(Mask::full(shape, &device));
        }
        let count = (size / page_size).max(minimum_pages);
        let scores = candidate_scores(inputs, &mask, self.pages.score(inputs, state)?);
        Ok(add_by_row(&mask, &scores, |_, scores| best_pages(scores, page_size, count)))
    }
}

/// The candidates of the `count` pages with the highest scores.
fn best_pages(scores: &[f32], page_size: usize, count: usize) -> Vec<Kept> {
    let best = |page: &[f32]| page.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut pages = scores.chunks(page_size).map(best).enumerate().collect::<Vec<_>>();
    pages.retain(|(_, score)| *score > f32::NEG_INFINITY);
    pages.sort_unstable_by(|(i, a), (j, b)| b.total_cmp(a).then(i.cmp(j)));
    pages.truncate(count);
    let keys = pages.into_iter().flat_map(|(page, _)| page * page_size..((page + 1) * page_size).min(scores.len()));
    let mut keys = keys.filter(|&key| scores[key] > f32::NEG_INFINITY).map(|key| key as u32).collect::<Vec<_>>();
    keys.sort_unstable();
    keys.into_iter().map(Kept::certainly).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_bring_their_candidates() {
        let hidden = f32::NEG_INFINITY;
        let scores = [hidden, 1.0, 5.0, 5.0, 3.0, hidden, hidden, hidden, 5.0];
        let keys = |count| best_pages(&scores, 2, count).iter().map(|kept| kept.key).collect::<Vec<_>>();
        assert_eq!(keys(1), [2, 3]);
        assert_eq!(keys(2), [2, 3, 8]);
        assert_eq!(keys(9), [1, 2, 3, 4, 8]);
    }
}

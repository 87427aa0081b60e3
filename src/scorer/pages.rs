use burn::tensor::{Tensor, backend::Backend};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{
    Scorer, ScorerConfig,
    keys::{Host, Seen, scores_by_row, with_bias},
    quantize::{Rounding, pseudo_quantize},
    validate_label_bits,
};
use crate::{
    attention::{AttentionError, AttentionInputs},
    masker::{ConfigError, Context, LayerState},
};

/// Configuration of [Pages], `{"type": "pages", "page_size": 16}`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PagesConfig {
    /// Keys to a page, at least 1.
    pub page_size: usize,
    /// To how many bits the bounds are quantised, in 1..=16. Default: 16, not at all.
    #[serde(default = "sixteen")]
    pub label_bits: u32,
}

fn sixteen() -> u32 {
    16
}

/// An upper bound of the logits of each page of keys ([Quest](https://arxiv.org/abs/2406.10774)).
///
/// Of every page, the least and the greatest value in each channel are remembered, and grown by the new keys only. No
/// key of the page has a greater product with the query than `sum over channels of max(q * least, q * greatest)`, which
/// is the score of all its keys. Quantised bounds are rounded outwards, so that they stay bounds.
///
/// Should be created with [PagesConfig].
#[derive(Debug, Clone, Copy)]
pub struct Pages {
    config: PagesConfig,
}

impl<B: Backend> ScorerConfig<B> for PagesConfig {
    type Scorer = Pages;

    fn init(&self, _context: &Context<B>) -> Result<Pages, ConfigError> {
        if self.page_size == 0 {
            return Err(ConfigError::value("page_size", 0, "at least 1"));
        }
        validate_label_bits(self.label_bits)?;
        Ok(Pages { config: *self })
    }
}

/// The bounds of one key-value head, page after page.
#[derive(Debug, Default, Clone)]
struct Bounds {
    least: Vec<f32>,
    greatest: Vec<f32>,
}

/// The bounds by key-value head.
#[derive(Debug, Default)]
struct Memory {
    seen: Seen,
    by_head: Vec<Bounds>,
}

impl Bounds {
    /// Takes in a key that stands at a position.
    fn grow(&mut self, position: usize, page_size: usize, key: &[f32]) {
        let start = position / page_size * key.len();
        if start == self.least.len() {
            self.least.extend(key);
            self.greatest.extend(key);
            return;
        }
        let page = self.least[start..].iter_mut().zip(&mut self.greatest[start..]);
        for ((least, greatest), &value) in page.zip(key) {
            *least = least.min(value);
            *greatest = greatest.max(value);
        }
    }

    fn quantized(&self, width: usize, bits: u32) -> Self {
        let mut bounds = self.clone();
        bounds.least.chunks_mut(width).for_each(|page| pseudo_quantize(page, bits, Rounding::Down));
        bounds.greatest.chunks_mut(width).for_each(|page| pseudo_quantize(page, bits, Rounding::Up));
        bounds
    }
}

impl<B: Backend> Scorer<B> for Pages {
    fn score(&self, inputs: &AttentionInputs<B>, state: &mut LayerState) -> Result<Tensor<B, 4>, AttentionError> {
        let PagesConfig { page_size, label_bits } = self.config;
        let [batch, kv_heads, count, width] = inputs.keys().dims();
        let memory = state.memory::<Memory>();
        let (new, anew) = memory.seen.advance(batch * kv_heads, count);
        if anew {
            memory.by_head = vec![Bounds::default(); batch * kv_heads];
        }
        if !new.is_empty() {
            let keys = Host::of_range(inputs.keys(), new.clone());
            memory.by_head.par_iter_mut().enumerate().for_each(|(head, bounds)| {
                for (at, key) in keys.head(head).chunks(width).enumerate() {
                    bounds.grow(new.start + at, page_size, key);
                }
            });
        }
        let queries = Host::of(inputs.queries());
        let bounds = match label_bits {
            16 => memory.by_head.clone(),
            bits => memory.by_head.iter().map(|bounds| bounds.quantized(width, bits)).collect(),
        };
        let scale = inputs.scale() as f32;
        let scores = scores_by_row(inputs, |head, kv_head, query, scores| {
            let query = queries.vector(head, query);
            let Bounds { least, greatest } = &bounds[kv_head];
            let pages = least.chunks(width).zip(greatest.chunks(width));
            for (scores, (least, greatest)) in scores.chunks_mut(page_size).zip(pages) {
                let bound = query.iter().zip(least).zip(greatest).map(|((q, l), g)| (q * l).max(q * g)).sum::<f32>();
                scores.fill(bound * scale);
            }
        });
        Ok(with_bias(inputs, scores))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_grow_with_the_page() {
        let mut bounds = Bounds::default();
        for (position, key) in [[1.0, -2.0], [3.0, 0.0], [-1.0, 5.0]].iter().enumerate() {
            bounds.grow(position, 2, key);
        }
        assert_eq!(bounds.least, [1.0, -2.0, -1.0, 5.0]);
        assert_eq!(bounds.greatest, [3.0, 0.0, -1.0, 5.0]);
    }
}

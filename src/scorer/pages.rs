use burn::{
    module::Module,
    tensor::{Tensor, backend::Backend},
};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{
    RowScorer, Scorer, ScorerConfig,
    keys::{Host, Seen, all_scores, truncate},
    quantize::{Rounding, pseudo_quantize},
    validate_label_bits,
};
use crate::{
    attention::{AttentionError, AttentionInputs},
    kernels::cpu::{products, softcap},
    masker::{ConfigError, Context, KeyMemory, LayerState, limits},
};

/// Configuration of [Pages], `{"type": "pages", "page_size": 16}`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PagesConfig {
    /// Keys to a page, in 1..=1073741824.
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
#[derive(Module, Debug, Clone, Copy)]
pub struct Pages {
    config: PagesConfig,
}

impl<B: Backend> ScorerConfig<B> for PagesConfig {
    type Scorer = Pages;

    fn init(&self, _context: &Context<B>) -> Result<Pages, ConfigError> {
        limits::PAGE_SIZE.check("page_size", self.page_size)?;
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
    page_size: usize,
    exact: Vec<Bounds>,
    /// The same after quantisation, if there is any.
    quantized: Vec<Bounds>,
}

impl KeyMemory for Memory {
    /// A page that loses keys is made anew.
    fn truncate(&mut self, keys: usize) {
        if keys < self.seen.keys() {
            let pages = keys / self.page_size;
            let count = self.seen.keys().div_ceil(self.page_size);
            for bounds in self.exact.iter_mut().chain(&mut self.quantized) {
                truncate(&mut bounds.least, count, pages);
                truncate(&mut bounds.greatest, count, pages);
            }
            self.seen.truncate(pages * self.page_size);
        }
    }
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

    /// Takes in the bounds of others from a page on, quantised.
    fn quantize_from(&mut self, exact: &Self, page: usize, width: usize, bits: u32) {
        let renew = |mine: &mut Vec<f32>, exact: &[f32], rounding| {
            mine.truncate(page * width);
            mine.extend(&exact[page * width..]);
            mine[page * width..].chunks_mut(width).for_each(|page| pseudo_quantize(page, bits, rounding));
        };
        renew(&mut self.least, &exact.least, Rounding::Down);
        renew(&mut self.greatest, &exact.greatest, Rounding::Up);
    }
}

impl<B: Backend> Scorer<B> for Pages {
    fn score(&self, inputs: &AttentionInputs<B>, state: &mut LayerState) -> Result<Tensor<B, 4>, AttentionError> {
        all_scores(inputs, &self.pages(inputs, state))
    }

    fn by_row<'a>(
        &'a self,
        inputs: &'a AttentionInputs<B>,
        state: &'a mut LayerState,
    ) -> Result<Option<Box<dyn RowScorer + 'a>>, AttentionError> {
        Ok(Some(Box::new(self.pages(inputs, state))))
    }
}

impl Pages {
    fn pages<'a, B: Backend>(&self, inputs: &AttentionInputs<B>, state: &'a mut LayerState) -> PageRows<'a> {
        let PagesConfig { page_size, label_bits } = self.config;
        let [batch, kv_heads, count, width] = inputs.keys().dims();
        let memory = state.key_memory::<Memory>();
        let (new, anew) = memory.seen.advance(batch * kv_heads, count);
        if anew {
            memory.page_size = page_size;
            memory.exact = vec![Bounds::default(); batch * kv_heads];
            memory.quantized = memory.exact.clone();
        }
        if !new.is_empty() {
            let keys = Host::of_range(inputs.keys(), new.clone());
            let heads = memory.exact.par_iter_mut().zip(&mut memory.quantized).enumerate();
            heads.for_each(|(head, (exact, quantized))| {
                for (at, key) in keys.head(head).chunks(width).enumerate() {
                    exact.grow(new.start + at, page_size, key);
                }
                if label_bits < 16 {
                    quantized.quantize_from(exact, new.start / page_size, width, label_bits);
                }
            });
        }
        PageRows {
            page_size,
            scale: inputs.scale() as f32,
            softcap: inputs.softcap(),
            group: inputs.mask_shape().heads / kv_heads,
            queries: Host::of(inputs.queries()),
            bounds: if label_bits < 16 { &memory.quantized } else { &memory.exact },
        }
    }
}

struct PageRows<'a> {
    page_size: usize,
    scale: f32,
    softcap: Option<f64>,
    group: usize,
    queries: Host,
    bounds: &'a [Bounds],
}

impl RowScorer for PageRows<'_> {
    /// `max(q * least, q * greatest)` is `q * greatest` where `q` is positive and `q * least` where it is negative, so
    /// that the bound is the sum of two products of vectors.
    fn score_group(&self, kv_head: usize, query: usize, scores: &mut [f32]) {
        let Bounds { least, greatest } = &self.bounds[kv_head];
        let width = self.queries.dims[3];
        let heads = kv_head * self.group..(kv_head + 1) * self.group;
        let queries = heads.flat_map(|head| self.queries.vector(head, query)).map(|x| x * self.scale);
        let (positive, negative): (Vec<f32>, Vec<f32>) = queries.map(|x| (x.max(0.0), x.min(0.0))).unzip();
        let pages = least.len() / width;
        let mut above = vec![0f32; self.group * pages];
        let mut below = above.clone();
        products(&positive, greatest, width, &mut above);
        products(&negative, least, width, &mut below);
        let bounds = above.chunks_exact(pages).zip(below.chunks_exact(pages));
        let count = scores.len() / self.group;
        for (scores, (above, below)) in scores.chunks_exact_mut(count).zip(bounds) {
            for (scores, (above, below)) in scores.chunks_mut(self.page_size).zip(above.iter().zip(below)) {
                scores.fill(above + below);
            }
        }
        softcap(scores, self.softcap);
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

    #[test]
    fn quantised_bounds_do_not_depend_on_how_they_grew() {
        let keys = (0..7).map(|key| [0, 1, 2, 3].map(|at| ((key * 5 + at * 3) % 11) as f32)).collect::<Vec<_>>();
        let grown = |ends: &[usize]| {
            let (mut exact, mut quantized) = (Bounds::default(), Bounds::default());
            let mut start = 0;
            for &end in ends {
                (start..end).for_each(|at| exact.grow(at, 3, &keys[at]));
                quantized.quantize_from(&exact, start / 3, 4, 2);
                start = end;
            }
            (quantized.least, quantized.greatest)
        };
        assert_eq!(grown(&[7]), grown(&[2, 5, 6, 7]));
    }
}

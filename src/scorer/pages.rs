use std::ops::Range;

use burn::{
    module::Module,
    tensor::{Tensor, backend::Backend},
};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{
    Context, RowScorer, Scorer, ScorerConfig,
    keys::{Host, KeyCursor, all_scores, reorder, truncate},
    quantize::{Rounding, pseudo_quantize},
    validate_label_bits,
};
use crate::{
    config::{ConfigError, limits},
    kernels::cpu::{products, softcap},
    problem::{AttentionError, AttentionInputs, RowKeys, VisibleKeys},
    state::{KeyMemory, LayerState},
};

/// Configuration of [Pages], `{"type": "pages", "page_size": 16}`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PagesConfig {
    /// Keys in a page, in 1..=1073741824.
    pub page_size: usize,
    /// The bits to which the bounds are quantised, in 1..=16. Default: 16, which does not quantise.
    #[serde(default = "sixteen")]
    pub label_bits: u32,
    /// The keys of a page that its bounds cover. Default: the keys that the query sees.
    #[serde(default)]
    pub fit: PageFit,
}

/// The keys of a page that its bounds cover.
///
/// In a file: `"fit": "visible"` (the default) or `"fit": "prompt"`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PageFit {
    /// The keys that the query sees.
    #[default]
    Visible,
    /// All keys that the page has, which is the published rule. A query in a prompt then depends on later keys of its
    /// page.
    Prompt,
}

fn sixteen() -> u32 {
    16
}

/// An upper bound of the logits of each page of keys ([Quest](https://arxiv.org/abs/2406.10774)).
///
/// For each page, the minimum and the maximum of each channel are remembered, so a decode step only updates them with
/// the new keys. The score of all keys in a page is `sum over channels of max(q * minimum, q * maximum)`. No key of the
/// page has a larger dot product with the query. Quantised bounds are rounded outwards, so that they remain bounds. If
/// a query sees only some keys of a page, the bounds cover only these keys. If a key has a NaN, the bound of its page
/// is NaN.
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

/// The bounds of a key-value head, page after page.
#[derive(Debug, Default, Clone)]
struct Bounds {
    least: Vec<f32>,
    greatest: Vec<f32>,
}

/// The bounds of all key-value heads.
#[derive(Debug, Clone, Default)]
struct Memory {
    cursor: KeyCursor,
    page_size: usize,
    exact: Vec<Bounds>,
    /// The bounds after quantisation, if they are quantised.
    quantized: Vec<Bounds>,
}

impl KeyMemory for Memory {
    /// A page that loses keys is made again from its remaining keys.
    fn truncate(&mut self, keys: usize) {
        if keys < self.cursor.keys() {
            let pages = keys / self.page_size;
            let count = self.cursor.keys().div_ceil(self.page_size);
            for bounds in self.exact.iter_mut().chain(&mut self.quantized) {
                truncate(&mut bounds.least, count, pages);
                truncate(&mut bounds.greatest, count, pages);
            }
            self.cursor.truncate(pages * self.page_size);
        }
    }

    fn reorder(&mut self, indices: &[usize], batch: usize) {
        reorder(&mut self.exact, indices, batch);
        reorder(&mut self.quantized, indices, batch);
        self.cursor.reorder(indices, batch);
    }
}

impl Bounds {
    /// Extends the bounds by the key at a position.
    fn grow(&mut self, position: usize, page_size: usize, key: &[f32]) {
        let start = position / page_size * key.len();
        if start == self.least.len() {
            self.least.extend(key);
            self.greatest.extend(key);
            return;
        }
        let page = self.least[start..].iter_mut().zip(&mut self.greatest[start..]);
        for ((least, greatest), &value) in page.zip(key) {
            // A NaN stays in the bounds.
            if value < *least || value.is_nan() {
                *least = value;
            }
            if value > *greatest || value.is_nan() {
                *greatest = value;
            }
        }
    }

    /// Quantises the exact bounds from a page on.
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
        all_scores(inputs, &self.pages(inputs, state)?)
    }

    fn by_row<'a>(
        &'a self,
        inputs: &'a AttentionInputs<B>,
        state: &'a mut LayerState,
    ) -> Result<Option<Box<dyn RowScorer + 'a>>, AttentionError> {
        Ok(Some(Box::new(self.pages(inputs, state)?)))
    }
}

impl Pages {
    fn pages<'a, B: Backend>(
        &self,
        inputs: &AttentionInputs<B>,
        state: &'a mut LayerState,
    ) -> Result<PageRows<'a>, AttentionError> {
        let PagesConfig { page_size, label_bits, fit } = self.config;
        let [batch, kv_heads, count, width] = inputs.keys().dims();
        state.continue_with(inputs)?;
        let memory = state.key_memory::<Memory>();
        let (new, anew) = memory.cursor.advance(batch * kv_heads, count);
        if anew {
            memory.page_size = page_size;
            memory.exact = vec![Bounds::default(); batch * kv_heads];
            memory.quantized = memory.exact.clone();
        }
        let visible = (fit == PageFit::Visible).then(|| VisibleKeys::of(inputs));
        // The first key of the first page that a row sees only in part.
        let mut partial = count;
        for row in visible.iter().flat_map(VisibleKeys::rows) {
            row.partial_pages(page_size, count, |page| partial = partial.min(page.start));
        }
        let first = new.start.min(partial);
        let keys = Host::of_range(inputs.keys(), first..count);
        if !new.is_empty() {
            let heads = memory.exact.par_iter_mut().zip(&mut memory.quantized).enumerate();
            heads.for_each(|(head, (exact, quantized))| {
                for (at, key) in keys.head(head).chunks(width).enumerate().skip(new.start - first) {
                    exact.grow(first + at, page_size, key);
                }
                if label_bits < 16 {
                    quantized.quantize_from(exact, new.start / page_size, width, label_bits);
                }
            });
        }
        Ok(PageRows {
            config: self.config,
            scale: inputs.scale() as f32,
            softcap: inputs.softcap(),
            group: inputs.mask_shape().heads / kv_heads,
            queries: Host::of(inputs.queries()),
            bounds: if label_bits < 16 { &memory.quantized } else { &memory.exact },
            visible: visible.filter(|_| partial < count),
            keys,
            first,
        })
    }
}

struct PageRows<'a> {
    config: PagesConfig,
    scale: f32,
    softcap: Option<f64>,
    group: usize,
    queries: Host,
    bounds: &'a [Bounds],
    /// The keys that each row sees. `None` if no row sees only a part of a page.
    visible: Option<VisibleKeys>,
    /// The keys from `first` on.
    keys: Host,
    first: usize,
}

impl RowScorer for PageRows<'_> {
    /// `max(q * least, q * greatest)` is `q * greatest` for a positive `q`, and `q * least` for a negative `q`. So the
    /// bound is the sum of two dot products.
    fn score_group(&self, kv_head: usize, query: usize, scores: &mut [f32]) {
        let Bounds { least, greatest } = &self.bounds[kv_head];
        let width = self.queries.dims[3];
        let heads = kv_head * self.group..(kv_head + 1) * self.group;
        let queries = heads.clone().flat_map(|head| self.queries.vector(head, query)).map(|x| x * self.scale);
        // A NaN is in both parts.
        let part = |x: f32, inside: bool| if inside || x.is_nan() { x } else { 0.0 };
        let (positive, negative): (Vec<f32>, Vec<f32>) = queries.map(|x| (part(x, x > 0.0), part(x, x < 0.0))).unzip();
        let pages = least.len() / width;
        let mut above = vec![0f32; self.group * pages];
        let mut below = above.clone();
        products(&positive, greatest, width, &mut above);
        products(&negative, least, width, &mut below);
        let bounds = above.chunks_exact(pages).zip(below.chunks_exact(pages));
        let count = scores.len() / self.group;
        for (scores, (above, below)) in scores.chunks_exact_mut(count).zip(bounds) {
            for (scores, (above, below)) in scores.chunks_mut(self.config.page_size).zip(above.iter().zip(below)) {
                scores.fill(above + below);
            }
        }
        if let Some(visible) = &self.visible {
            let parts = positive.chunks_exact(width).zip(negative.chunks_exact(width));
            for ((head, scores), (positive, negative)) in heads.zip(scores.chunks_exact_mut(count)).zip(parts) {
                let row = visible.row(head, query);
                row.partial_pages(self.config.page_size, count, |page| {
                    let Bounds { least, greatest } = self.bounds_of_visible(kv_head, page.clone(), &row);
                    let (mut above, mut below) = ([0.0], [0.0]);
                    products(positive, &greatest, width, &mut above);
                    products(negative, &least, width, &mut below);
                    scores[page].fill(above[0] + below[0]);
                });
            }
        }
        softcap(scores, self.softcap);
    }
}

impl PageRows<'_> {
    /// The bounds over the keys of a page that a row sees. The row sees at least one of them.
    fn bounds_of_visible(&self, kv_head: usize, page: Range<usize>, row: &RowKeys) -> Bounds {
        let mut bounds = Bounds::default();
        for key in page.filter(|&key| row.sees(key)) {
            // All keys extend the same page.
            bounds.grow(0, 1, self.keys.vector(kv_head, key - self.first));
        }
        if self.config.label_bits < 16 {
            pseudo_quantize(&mut bounds.least, self.config.label_bits, Rounding::Down);
            pseudo_quantize(&mut bounds.greatest, self.config.label_bits, Rounding::Up);
        }
        bounds
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

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::{
    attend::{PARTS, Problem, RowSoftmax, TILES_OF_A_PART, join_units},
    dropped::Dropped,
    products::TILE,
    simd_float::{SimdFloat, StoredFloat},
    softmax::{OnlineSoftmax, Softmax},
    streams::interleaved,
    tile::{Buffers, Tile},
};

/// Lists of keys, as the rows of a mask store them.
pub(crate) struct Lists<'a> {
    /// `[heads, queries, width]`, with the heads of all sequences in the batch. Unused slots are negative.
    pub indices: &'a [i32],
    /// The probabilities in the same shape. `None` if all keys have probability 1.
    pub probability: Option<&'a [f32]>,
    pub width: usize,
}

impl Lists<'_> {
    /// The keys and probabilities of a row.
    pub fn row(&self, row: usize) -> List<'_> {
        List { indices: self.indices, probability: self.probability }.slots(row * self.width..(row + 1) * self.width)
    }
}

/// The keys and probabilities of some slots.
#[derive(Clone, Copy, PartialEq)]
pub(crate) struct List<'a> {
    indices: &'a [i32],
    probability: Option<&'a [f32]>,
}

impl List<'_> {
    fn slots(&self, slots: Range<usize>) -> Self {
        let probability = self.probability.map(|probability| &probability[slots.clone()]);
        Self { indices: &self.indices[slots], probability }
    }
}

/// Attention over lists of keys. If all heads of a GQA group have the same list, its keys and values are read once for
/// all of them.
pub(crate) fn gather<T: StoredFloat>(problem: &Problem<T>, lists: &Lists) -> RowSoftmax<T::Float> {
    let (group, count) = (problem.group(), problem.query_count);
    let units = problem.keys.len() * count;
    let parts = PARTS.div_ceil(units).min(lists.width.div_ceil(TILE * TILES_OF_A_PART)).max(1);
    let done = (0..units * parts).into_par_iter().map(|task| {
        let (unit, part) = (task / parts, task % parts);
        let (kv_head, query) = (unit / count, unit % count);
        let share = lists.width.div_ceil(TILE).div_ceil(parts) * TILE;
        let slots = (part * share).min(lists.width)..((part + 1) * share).min(lists.width);
        let rows = (0..group).map(|head| lists.row((kv_head * group + head) * count + query).slots(slots.clone()));
        (unit, Arch::new().dispatch(GatherTask { problem, kv_head, query, rows: rows.collect() }))
    });
    join_units(problem, done.collect(), |unit| (unit / count, unit % count..unit % count + 1))
}

/// The number of places at which a list is read at once. A list of pages has runs of adjacent keys. Each place then
/// reads memory in order.
const STREAMS: usize = 8;

struct GatherTask<'a, T> {
    problem: &'a Problem<'a, T>,
    kv_head: usize,
    query: usize,
    /// The list of each head of the group.
    rows: Vec<List<'a>>,
}

impl<T: StoredFloat> WithSimd for GatherTask<'_, T> {
    type Output = Softmax<T::Float>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Softmax<T::Float> {
        let Self { problem, kv_head, query, rows } = self;
        let queries = problem.scaled(kv_head, &(query..query + 1));
        let group = rows.len();
        let (head_dim, value_dim) = (problem.head_dim, problem.value_dim);
        let seen = problem.seen(query);
        let shared = rows.iter().all(|row| *row == rows[0]);
        let heads_at_a_time = if shared { group } else { 1 };
        let mut softmax = Softmax::new(0, value_dim.max(1));
        let mut scores = vec![T::Float::ZERO; heads_at_a_time * TILE];
        let mut buffers = Buffers::new(problem);
        // All listed keys that are visible are kept. No other key is read.
        let dropped = Dropped::nothing(1);
        for (list, queries) in rows.iter().zip(queries.chunks_exact(heads_at_a_time * head_dim)) {
            let mut sums = OnlineSoftmax::new(heads_at_a_time, value_dim);
            let (keys, log_probability) = used::<T::Float>(list, seen);
            let sampled = !log_probability.is_empty();
            let count = keys.len();
            let places = |tile: usize| interleaved::<STREAMS>(0..count, tile);
            let tile_of =
                |tile: usize| Tile::new(problem, kv_head, places(tile).map(|at| keys[at] as usize)).scattered();
            let mut tile = tile_of(0);
            let tiles = count.div_ceil(TILE);
            for at in 0..tiles {
                let next = if at + 1 < tiles { tile_of(at + 1) } else { Tile::empty() };
                let scores = &mut scores[..heads_at_a_time * tile.len()];
                buffers.absorb(simd, problem, &tile, &next, queries, scores, &mut sums, &dropped, |scores| {
                    if sampled {
                        for scores in scores.chunks_exact_mut(tile.len()) {
                            let scores = scores.iter_mut().zip(places(at));
                            scores.for_each(|(score, place)| *score = score.sub(log_probability[place]));
                        }
                    }
                });
                tile = next;
            }
            let sums = sums.finish();
            softmax.maximum.extend(sums.maximum);
            softmax.denominator.extend(sums.denominator);
            softmax.numerator.extend(sums.numerator);
        }
        softmax
    }
}

/// The visible keys of the used slots, and the logarithms of their probabilities. There are no logarithms if all
/// probabilities are 1.
pub(super) fn used<R: SimdFloat>(list: &List, seen: usize) -> (Vec<u32>, Vec<R>) {
    let is_used = |index: &i32| *index >= 0 && (*index as usize) < seen;
    let keys = list.indices.iter().copied().filter(is_used).map(|index| index as u32).collect();
    let Some(probability) = list.probability else { return (keys, Vec::new()) };
    let used = || list.indices.iter().zip(probability).filter(|(index, _)| is_used(index));
    let sampled = used().any(|(_, &probability)| probability != 1.0);
    let logarithm = |&probability: &f32| R::of(f64::from(probability)).ln();
    (keys, if sampled { used().map(|(_, probability)| logarithm(probability)).collect() } else { Vec::new() })
}

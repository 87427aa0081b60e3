//! Attention over bands and over lists of keys, in one pass.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::{
    products::{TILE, score},
    real::{Real, Stored},
    softcap::soften,
    softmax::Softmax,
};
use crate::mask::Pattern;

/// Rows of the score matrix that share a tile of keys: queries times heads of a group.
const ROWS_AT_A_TIME: usize = 64;

/// Work is cut into so many parts at least, if it is long enough. It does not depend on the number of threads, so that
/// neither does the result.
const PARTS: usize = 16;

/// The shortest part worth a task of its own, in tiles.
const TILES_OF_A_PART: usize = 16;

/// Queries, keys and values on the host.
pub(crate) struct Problem<'a, T> {
    /// By head over the batch, `[queries, head_dim]`.
    pub queries: Vec<&'a [T]>,
    /// By key-value head over the batch, `[keys, head_dim]`.
    pub keys: Vec<&'a [T]>,
    /// By key-value head over the batch, `[keys, value_dim]`.
    pub values: Vec<&'a [T]>,
    pub query_count: usize,
    pub key_count: usize,
    pub head_dim: usize,
    pub value_dim: usize,
    pub scale: f64,
    /// What bounds the logits, if anything does.
    pub softcap: Option<f64>,
    /// The position of the first query, up to which it sees; `None`: all see everything.
    pub causal: Option<usize>,
}

impl<T: Stored> Problem<'_, T> {
    /// Query heads that share a key-value head.
    pub fn group(&self) -> usize {
        self.queries.len() / self.keys.len()
    }

    /// How many of the first keys a query sees.
    pub fn seen(&self, query: usize) -> usize {
        self.causal.map_or(self.key_count, |offset| self.key_count.min(offset + query + 1))
    }

    /// Scaled queries of a group, `[heads of the group, queries, head_dim]`.
    fn scaled(&self, kv_head: usize, queries: &Range<usize>) -> Vec<T::Real> {
        let group = self.group();
        let scale = T::Real::of(self.scale);
        let mut buffer = vec![T::Real::ZERO; self.head_dim];
        let mut scaled = Vec::with_capacity(group * queries.len() * self.head_dim);
        for head in &self.queries[kv_head * group..][..group] {
            for query in head.chunks_exact(self.head_dim).skip(queries.start).take(queries.len()) {
                scaled.extend(T::widen(query, &mut buffer).iter().map(|number| number.mul(scale)));
            }
        }
        scaled
    }

    fn key(&self, kv_head: usize, key: usize) -> &[T] {
        &self.keys[kv_head][key * self.head_dim..][..self.head_dim]
    }

    fn value(&self, kv_head: usize, key: usize) -> &[T] {
        &self.values[kv_head][key * self.value_dim..][..self.value_dim]
    }
}

/// A softmax for every query, `[heads, queries]`, heads over the batch.
pub(crate) type Rows<R> = Softmax<R>;

/// Attention over the keys of a pattern. Time and memory grow with what is kept, not with the number of keys.
pub(crate) fn band<T: Stored>(problem: &Problem<T>, pattern: Pattern) -> Rows<T::Real> {
    let group = problem.group();
    let block = (ROWS_AT_A_TIME / group).max(1);
    let blocks = problem.query_count.div_ceil(block);
    let units = problem.keys.len() * blocks;
    let unit = |unit: usize| {
        let (kv_head, first) = (unit / blocks, unit % blocks * block);
        let queries = first..(first + block).min(problem.query_count);
        let end = problem.seen(queries.end - 1);
        let columns = pattern.columns(queries.clone(), problem.key_count);
        let columns = columns.map(|range| range.start.min(end)..range.end.min(end));
        let tiles = columns.iter().map(|range| range.len().div_ceil(TILE)).sum::<usize>();
        BandUnit { kv_head, queries, columns, tiles }
    };
    let parts = |unit: &BandUnit| (PARTS.div_ceil(units)).min(unit.tiles.div_ceil(TILES_OF_A_PART)).max(1);
    let tasks = (0..units).flat_map(|at| {
        let unit = unit(at);
        let parts = parts(&unit);
        let share = unit.tiles.div_ceil(parts);
        (0..parts).map(move |part| (at, part * share..((part + 1) * share).min(unit.tiles)))
    });
    let done = tasks.collect::<Vec<_>>().into_par_iter().map(|(at, tiles)| {
        let task = BandTask { problem, pattern, unit: unit(at), tiles };
        (at, Arch::new().dispatch(task))
    });
    gather_units(problem, done.collect(), |at| {
        let unit = unit(at);
        (unit.kv_head, unit.queries)
    })
}

/// A block of queries of a key-value head's group.
struct BandUnit {
    kv_head: usize,
    queries: Range<usize>,
    /// The keys that any of the queries keeps.
    columns: [Range<usize>; 2],
    /// How many tiles they make.
    tiles: usize,
}

impl BandUnit {
    /// The keys of a tile.
    fn tile(&self, tile: usize) -> Range<usize> {
        let [first, second] = &self.columns;
        let in_first = first.len().div_ceil(TILE);
        let (range, tile) = if tile < in_first { (first, tile) } else { (second, tile - in_first) };
        let start = range.start + tile * TILE;
        start..(start + TILE).min(range.end)
    }
}

struct BandTask<'a, T> {
    problem: &'a Problem<'a, T>,
    pattern: Pattern,
    unit: BandUnit,
    tiles: Range<usize>,
}

impl<T: Stored> WithSimd for BandTask<'_, T> {
    type Output = Softmax<T::Real>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Softmax<T::Real> {
        let Self { problem, pattern, unit, tiles } = self;
        let queries = problem.scaled(unit.kv_head, &unit.queries);
        let rows = problem.group() * unit.queries.len();
        let mut softmax = Softmax::new(rows, problem.value_dim);
        let mut scores = vec![T::Real::ZERO; rows * TILE];
        let mut tile = Tile::new(problem);
        for at in tiles.clone() {
            let range = unit.tile(at);
            let scores = &mut scores[..rows * range.len()];
            let next = if at + 1 < tiles.end { unit.tile(at + 1) } else { 0..0 };
            tile.absorb(simd, unit.kv_head, range.clone(), next, &queries, scores, &mut softmax, |scores| {
                for (row, scores) in scores.chunks_exact_mut(range.len()).enumerate() {
                    let query = unit.queries.start + row % unit.queries.len();
                    let seen = problem.seen(query);
                    let kept = pattern.row(query, problem.key_count).map(|kept| kept.start..kept.end.min(seen));
                    if kept.iter().any(|kept| kept.start <= range.start && range.end <= kept.end) {
                        continue;
                    }
                    for (score, key) in scores.iter_mut().zip(range.clone()) {
                        if !kept.iter().any(|kept| kept.contains(&key)) {
                            *score = T::Real::LEAST;
                        }
                    }
                }
            });
        }
        softmax
    }
}

/// Lists of keys, as rows of a mask hold them.
pub(crate) struct Lists<'a> {
    /// `[heads, queries, width]`, heads over the batch; negative in unused slots.
    pub indices: &'a [i32],
    /// Likewise.
    pub probability: &'a [f32],
    pub width: usize,
}

impl Lists<'_> {
    fn row(&self, row: usize) -> (&[i32], &[f32]) {
        let range = row * self.width..(row + 1) * self.width;
        (&self.indices[range.clone()], &self.probability[range])
    }
}

/// Attention over lists of keys. Heads of a group whose lists are the same read their keys and values once.
pub(crate) fn gather<T: Stored>(problem: &Problem<T>, lists: &Lists) -> Rows<T::Real> {
    let (group, count) = (problem.group(), problem.query_count);
    let units = problem.keys.len() * count;
    let parts = PARTS.div_ceil(units).min(lists.width.div_ceil(TILE * TILES_OF_A_PART)).max(1);
    let done = (0..units * parts).into_par_iter().map(|task| {
        let (unit, part) = (task / parts, task % parts);
        let (kv_head, query) = (unit / count, unit % count);
        let share = lists.width.div_ceil(TILE).div_ceil(parts) * TILE;
        let slots = (part * share).min(lists.width)..((part + 1) * share).min(lists.width);
        let rows = (0..group).map(|head| {
            let (indices, probability) = lists.row((kv_head * group + head) * count + query);
            (&indices[slots.clone()], &probability[slots.clone()])
        });
        (unit, Arch::new().dispatch(GatherTask { problem, kv_head, query, rows: rows.collect() }))
    });
    gather_units(problem, done.collect(), |unit| (unit / count, unit % count..unit % count + 1))
}

struct GatherTask<'a, T> {
    problem: &'a Problem<'a, T>,
    kv_head: usize,
    query: usize,
    /// Keys and probabilities by head of the group.
    rows: Vec<(&'a [i32], &'a [f32])>,
}

impl<T: Stored> WithSimd for GatherTask<'_, T> {
    type Output = Softmax<T::Real>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Softmax<T::Real> {
        let Self { problem, kv_head, query, rows } = self;
        let queries = problem.scaled(kv_head, &(query..query + 1));
        let group = rows.len();
        let (head_dim, value_dim) = (problem.head_dim, problem.value_dim);
        let seen = problem.seen(query);
        let shared = rows.iter().all(|row| *row == rows[0]);
        let heads_at_a_time = if shared { group } else { 1 };
        let mut softmax = Softmax::new(0, value_dim.max(1));
        let mut scores = vec![T::Real::ZERO; heads_at_a_time * TILE];
        let mut tile = Tile::new(problem);
        for (list, queries) in rows.iter().zip(queries.chunks_exact(heads_at_a_time * head_dim)) {
            let mut sums = Softmax::new(heads_at_a_time, value_dim);
            let (keys, log_probability) = used::<T::Real>(list, seen);
            let sampled = !log_probability.is_empty();
            for first in (0..keys.len()).step_by(TILE) {
                let end = (first + TILE).min(keys.len());
                let next = &keys[end..(end + TILE).min(keys.len())];
                let (these, scores) = (&keys[first..end], &mut scores[..heads_at_a_time * (end - first)]);
                let (these, next) = (these.iter().map(|&key| key as usize), next.iter().map(|&key| key as usize));
                tile.absorb(simd, kv_head, these, next, queries, scores, &mut sums, |scores| {
                    if sampled {
                        for scores in scores.chunks_exact_mut(end - first) {
                            let log_probability = &log_probability[first..end];
                            scores.iter_mut().zip(log_probability).for_each(|(score, &log)| *score = score.sub(log));
                        }
                    }
                });
            }
            softmax.maximum.extend(sums.maximum);
            softmax.denominator.extend(sums.denominator);
            softmax.numerator.extend(sums.numerator);
        }
        softmax
    }
}

/// The keys of the used slots that are seen, and the logarithms of their probabilities, without these if all are 1.
fn used<R: Real>((indices, probability): &(&[i32], &[f32]), seen: usize) -> (Vec<u32>, Vec<R>) {
    let is_used = |index: i32| index >= 0 && (index as usize) < seen;
    let used = || indices.iter().zip(*probability).filter(|(index, _)| is_used(**index));
    let keys = used().map(|(&index, _)| index as u32).collect();
    let sampled = used().any(|(_, &probability)| probability != 1.0);
    let logarithm = |&probability: &f32| R::of(f64::from(probability)).ln();
    (keys, if sampled { used().map(|(_, probability)| logarithm(probability)).collect() } else { Vec::new() })
}

/// Buffers for the keys and values of a tile, where they must be widened.
struct Tile<'a, T: Stored> {
    problem: &'a Problem<'a, T>,
    keys: Vec<T::Real>,
    values: Vec<T::Real>,
}

impl<'a, T: Stored> Tile<'a, T> {
    fn new(problem: &'a Problem<'a, T>) -> Self {
        let buffer = |width| if T::AS_IT_IS { Vec::new() } else { vec![T::Real::ZERO; TILE * width] };
        Self { problem, keys: buffer(problem.head_dim), values: buffer(problem.value_dim) }
    }

    /// Scores the keys of a tile, lets `drop` have a look at the scores, and adds up. The keys and values of the next tile
    /// are asked for meanwhile: the machine itself looks ahead no further than a page of memory.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)] // What a tile is made of; a struct would only be taken apart again.
    fn absorb<S: Simd>(
        &mut self,
        simd: S,
        kv_head: usize,
        tile: impl ExactSizeIterator<Item = usize> + Clone,
        next: impl ExactSizeIterator<Item = usize> + Clone,
        queries: &[T::Real],
        scores: &mut [T::Real],
        softmax: &mut Softmax<T::Real>,
        drop: impl FnOnce(&mut [T::Real]),
    ) {
        let Self { problem, keys, values } = self;
        let (count, coming) = (tile.len(), next.len());
        let mut rows = [&[][..]; TILE];
        let mut ahead = [&[][..]; TILE];
        for (row, key) in ahead.iter_mut().zip(next.clone()) {
            *row = problem.key(kv_head, key);
        }
        fill(&mut rows, keys, problem.head_dim, tile.clone().map(|key| problem.key(kv_head, key)));
        score(simd, queries, &rows[..count], scores, &ahead[..coming]);
        if let Some(cap) = problem.softcap {
            soften(scores, cap);
        }
        drop(scores);
        let mut rows = [&[][..]; TILE];
        fill(&mut rows, values, problem.value_dim, tile.map(|key| problem.value(kv_head, key)));
        for (row, key) in ahead.iter_mut().zip(next) {
            *row = problem.value(kv_head, key);
        }
        softmax.absorb(simd, scores, &rows[..count], &ahead[..coming]);
    }
}

#[inline(always)]
fn fill<'a, T: Stored>(
    rows: &mut [&'a [T::Real]; TILE],
    buffer: &'a mut [T::Real],
    width: usize,
    vectors: impl Iterator<Item = &'a [T]>,
) {
    let mut rest = buffer;
    for (row, vector) in rows.iter_mut().zip(vectors) {
        let (buffer, later) = std::mem::take(&mut rest).split_at_mut(if T::AS_IT_IS { 0 } else { width });
        *row = T::widen(vector, buffer);
        rest = later;
    }
}

/// Puts the softmaxes of units, each in parts and over `[heads of a group, queries of a block]`, in their places.
fn gather_units<T: Stored>(
    problem: &Problem<T>,
    parts: Vec<(usize, Softmax<T::Real>)>,
    place: impl Fn(usize) -> (usize, Range<usize>),
) -> Rows<T::Real> {
    let (group, count, value_dim) = (problem.group(), problem.query_count, problem.value_dim);
    let mut rows = Softmax::new(problem.queries.len() * count, value_dim);
    let mut parts = parts.into_iter().peekable();
    while let Some((unit, mut whole)) = parts.next() {
        while let Some((_, part)) = parts.next_if(|(other, _)| *other == unit) {
            whole.merge(&part);
        }
        let (kv_head, queries) = place(unit);
        let length = queries.len();
        for head in 0..group {
            let (from, to) = (head * length, (kv_head * group + head) * count + queries.start);
            rows.maximum[to..to + length].copy_from_slice(&whole.maximum[from..from + length]);
            rows.denominator[to..to + length].copy_from_slice(&whole.denominator[from..from + length]);
            rows.numerator[to * value_dim..(to + length) * value_dim]
                .copy_from_slice(&whole.numerator[from * value_dim..(from + length) * value_dim]);
        }
    }
    rows
}

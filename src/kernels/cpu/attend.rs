//! Attention over bands of keys, in one pass.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::{
    dropped::Dropped,
    products::TILE,
    simd_float::{SimdFloat, StoredFloat},
    softmax::{OnlineSoftmax, Softmax},
    streams::{STREAMS, interleaved},
    tile::{Buffers, Tile},
};
use crate::mask::Pattern;

/// Rows of the score matrix that share a tile of keys: queries times heads of a group.
const ROWS_AT_A_TIME: usize = 64;

/// Work is split into at least this number of parts, if it is long enough. The number of parts does not depend on the
/// number of threads, so the result does not depend on it either.
pub(super) const PARTS: usize = 16;

/// The shortest part that is worth its own task, in tiles.
pub(super) const TILES_OF_A_PART: usize = 16;

/// Queries, keys and values on the host.
pub(crate) struct Problem<'a, T> {
    /// `[queries, head_dim]` for each head of each sequence in the batch.
    pub queries: Vec<&'a [T]>,
    /// `[keys, head_dim]` for each key-value head of each sequence in the batch.
    pub keys: Vec<&'a [T]>,
    /// `[keys, value_dim]` for each key-value head of each sequence in the batch.
    pub values: Vec<&'a [T]>,
    pub query_count: usize,
    pub key_count: usize,
    pub head_dim: usize,
    pub value_dim: usize,
    pub scale: f64,
    /// The soft cap of the logits, if there is one.
    pub softcap: Option<f64>,
    /// The position of the first query under causal visibility. `None` if all queries see all keys.
    pub causal: Option<usize>,
}

impl<T: StoredFloat> Problem<'_, T> {
    /// The number of query heads that share a key-value head.
    pub fn group(&self) -> usize {
        self.queries.len() / self.keys.len()
    }

    /// The number of keys that a query sees. They are the first keys.
    pub fn seen(&self, query: usize) -> usize {
        self.causal.map_or(self.key_count, |offset| self.key_count.min(offset + query + 1))
    }

    /// The scaled queries of a GQA group, `[heads of the group, queries, head_dim]`.
    pub fn scaled(&self, kv_head: usize, queries: &Range<usize>) -> Vec<T::Float> {
        let group = self.group();
        let scale = T::Float::of(self.scale);
        let mut buffer = vec![T::Float::ZERO; self.head_dim];
        let mut scaled = Vec::with_capacity(group * queries.len() * self.head_dim);
        for head in &self.queries[kv_head * group..][..group] {
            for query in head.chunks_exact(self.head_dim).skip(queries.start).take(queries.len()) {
                scaled.extend(T::widen(query, &mut buffer).iter().map(|number| number.mul(scale)));
            }
        }
        scaled
    }
}

/// A softmax for every query, `[heads, queries]`, with the heads of all sequences in the batch.
pub(crate) type RowSoftmax<R> = Softmax<R>;

/// Attention over the keys of a pattern. Time and memory grow with the number of kept keys, not of all keys.
pub(crate) fn band<T: StoredFloat>(problem: &Problem<T>, pattern: Pattern) -> RowSoftmax<T::Float> {
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
    join_units(problem, done.collect(), |at| {
        let unit = unit(at);
        (unit.kv_head, unit.queries)
    })
}

/// A block of queries of the GQA group of a key-value head.
struct BandUnit {
    kv_head: usize,
    queries: Range<usize>,
    /// Two ranges that contain every key that a query of the block keeps.
    columns: [Range<usize>; 2],
    /// The number of tiles in `columns`.
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

impl<T: StoredFloat> BandTask<'_, T> {
    /// The keys of the part, if the unit has a single query and this query keeps all of them.
    fn streams(&self) -> Option<Range<usize>> {
        let Self { problem, pattern, unit, tiles } = self;
        let keys = unit.tile(tiles.start).start..unit.tile(tiles.end - 1).end;
        let in_one_piece = keys.len().div_ceil(TILE) == tiles.len();
        let within = |kept: &Range<usize>| kept.start <= keys.start && keys.end <= kept.end;
        let kept = |query| kept(problem, *pattern, query).iter().any(within);
        (unit.queries.len() == 1 && in_one_piece && kept(unit.queries.start)).then_some(keys)
    }
}

/// The keys that a query keeps and sees.
fn kept<T: StoredFloat>(problem: &Problem<T>, pattern: Pattern, query: usize) -> [Range<usize>; 2] {
    let seen = problem.seen(query);
    pattern.row(query, problem.key_count).map(|kept| kept.start..kept.end.min(seen))
}

impl<T: StoredFloat> WithSimd for BandTask<'_, T> {
    type Output = Softmax<T::Float>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Softmax<T::Float> {
        let rows = self.problem.group() * self.unit.queries.len();
        let mut softmax = OnlineSoftmax::new(rows, self.problem.value_dim);
        if self.tiles.is_empty() {
            return softmax.finish();
        }
        let streams = self.streams();
        let Self { problem, pattern, unit, tiles } = self;
        let queries = problem.scaled(unit.kv_head, &unit.queries);
        let mut scores = vec![T::Float::ZERO; rows * TILE];
        let mut buffers = Buffers::new(problem);
        let mut dropped = Dropped::nothing(unit.queries.len());
        let tile_at = |at: usize| match &streams {
            Some(keys) => Tile::new(problem, unit.kv_head, interleaved::<STREAMS>(keys.clone(), at - tiles.start)),
            None => Tile::new(problem, unit.kv_head, unit.tile(at)),
        };
        let mut tile = tile_at(tiles.start);
        for at in tiles.clone() {
            let next = if at + 1 < tiles.end { tile_at(at + 1) } else { Tile::empty() };
            if streams.is_none() {
                dropped.note(&unit.tile(at), unit.queries.clone().map(|query| kept(problem, pattern, query)));
            }
            let scores = &mut scores[..rows * tile.len()];
            buffers.absorb(simd, problem, &tile, &next, &queries, scores, &mut softmax, &dropped, |_| ());
            tile = next;
        }
        softmax.finish()
    }
}

/// Merges the parts of each unit and writes the result to the unit's rows. A part is a softmax over
/// `[heads of a group, queries of a block]`.
pub(super) fn join_units<T: StoredFloat>(
    problem: &Problem<T>,
    parts: Vec<(usize, Softmax<T::Float>)>,
    place: impl Fn(usize) -> (usize, Range<usize>),
) -> RowSoftmax<T::Float> {
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

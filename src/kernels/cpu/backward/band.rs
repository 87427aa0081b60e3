use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};

use super::{
    super::{
        attend::Problem,
        dropped::{Dropped, add_kept, add_kept_by_key, are_finite},
        prefetch::Ahead,
        products::{TILE, add_weighted, score},
        simd_float::{SimdFloat, StoredFloat},
        tile::fill,
    },
    Gradients, Part, RowBlock, Trace, add_by_key, bend, in_parts, queries_of_a_part, unbend, weigh,
};
use crate::mask::Pattern;

/// Rows of the score matrix that share a tile of keys: queries times heads of a group.
const ROWS_AT_A_TIME: usize = 64;

/// Gradients of attention over the keys of a pattern.
pub(crate) fn band<T: StoredFloat>(problem: &Problem<T>, trace: &Trace<T>, pattern: Pattern) -> Gradients<T::Float> {
    let block = (ROWS_AT_A_TIME / problem.group()).max(1);
    in_parts(problem, queries_of_a_part(problem, block), |kv_head, queries| {
        Arch::new().dispatch(BandTask { problem, trace, pattern, kv_head, queries, block })
    })
}

struct BandTask<'a, T: StoredFloat> {
    problem: &'a Problem<'a, T>,
    trace: &'a Trace<'a, T>,
    pattern: Pattern,
    kv_head: usize,
    queries: Range<usize>,
    /// The number of queries in a block.
    block: usize,
}

impl<T: StoredFloat> BandTask<'_, T> {
    /// Two ranges that contain every key that one of the queries keeps and sees.
    fn columns(&self, queries: &Range<usize>) -> [Range<usize>; 2] {
        let seen = self.problem.seen(queries.end - 1);
        let columns = self.pattern.columns(queries.clone(), self.problem.key_count);
        columns.map(|range| range.start.min(seen)..range.end.min(seen))
    }

    /// The keys that a query keeps and sees.
    fn kept(&self, query: usize) -> [Range<usize>; 2] {
        let seen = self.problem.seen(query);
        self.pattern.row(query, self.problem.key_count).map(|kept| kept.start..kept.end.min(seen))
    }
}

impl<T: StoredFloat> WithSimd for BandTask<'_, T> {
    type Output = Part<T::Float>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Part<T::Float> {
        let Self { problem, trace, kv_head, block, .. } = self;
        let (head_dim, value_dim) = (problem.head_dim, problem.value_dim);
        let (all_keys, all_values) = (problem.keys[kv_head], problem.values[kv_head]);
        let mut part = Part::new(problem, self.queries.clone(), self.columns(&self.queries));
        let most = problem.group() * block * TILE;
        let (mut scores, mut slopes) = (vec![T::Float::ZERO; most], vec![T::Float::ZERO; most]);
        let buffer = |width| vec![T::Float::ZERO; if T::AS_IT_IS { 0 } else { TILE * width }];
        let (mut wide_keys, mut wide_values) = (buffer(head_dim), buffer(value_dim));
        for first in self.queries.clone().step_by(block) {
            let queries = first..(first + block).min(self.queries.end);
            let rows = RowBlock::of(problem, trace, kv_head, &queries);
            let count = rows.means.len();
            let kept = queries.clone().map(|query| self.kept(query)).collect::<Vec<_>>();
            let rows_are_finite = are_finite(&[&rows.queries[..], &rows.gradients[..]]);
            let mut dropped = Dropped::nothing(queries.len());
            let mut of_queries = vec![T::Float::ZERO; count * head_dim];
            for range in self.columns(&queries) {
                for start in range.clone().step_by(TILE) {
                    let tile = start..(start + TILE).min(range.end);
                    let length = tile.len();
                    let (mut keys, mut values) = ([&[][..]; TILE], [&[][..]; TILE]);
                    let these = all_keys[start * head_dim..tile.end * head_dim].chunks_exact(head_dim);
                    fill(&mut keys, &mut wide_keys, head_dim, these);
                    let these = all_values[start * value_dim..tile.end * value_dim].chunks_exact(value_dim);
                    fill(&mut values, &mut wide_values, value_dim, these);
                    let (keys, values) = (&keys[..length], &values[..length]);
                    let (scores, slopes) = (&mut scores[..count * length], &mut slopes[..count * length]);
                    score(simd, &rows.queries, keys, scores, Ahead::<T>::nothing());
                    let bends = problem.softcap.map(|cap| bend(scores, cap));
                    score(simd, &rows.gradients, values, slopes, Ahead::<T>::nothing());
                    weigh(scores, slopes, length, &rows.log_sum_exp, &rows.means);
                    unbend(slopes, bends);
                    dropped.note(&tile, kept.iter().cloned());
                    dropped.fill(scores, length, T::Float::ZERO);
                    dropped.fill(slopes, length, T::Float::ZERO);
                    let place = part.place(start);
                    let of_keys = &mut part.of_keys[place * head_dim..][..length * head_dim];
                    let of_values = &mut part.of_values[place * value_dim..][..length * value_dim];
                    if dropped.any() && !(rows_are_finite && are_finite(keys)) {
                        add_kept(simd, slopes, keys, &mut of_queries, &dropped);
                        add_kept_by_key(simd, slopes, length, &rows.queries, of_keys, &dropped);
                        add_kept_by_key(simd, scores, length, &rows.gradients, of_values, &dropped);
                        continue;
                    }
                    add_weighted(simd, slopes, keys, &mut of_queries, Ahead::<T>::nothing());
                    add_by_key(simd, slopes, length, &rows.queries, head_dim, of_keys);
                    add_by_key(simd, scores, length, &rows.gradients, value_dim, of_values);
                }
            }
            let (before, length) = (first - self.queries.start, queries.len());
            for (head, of_queries) in of_queries.chunks_exact(length * head_dim).enumerate() {
                let at = (head * self.queries.len() + before) * head_dim;
                part.of_queries[at..at + length * head_dim].copy_from_slice(of_queries);
            }
        }
        part
    }
}

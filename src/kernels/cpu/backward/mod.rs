//! Gradients of attention over bands and over lists of keys.
//!
//! The weights are computed again from the scores and the log-sum-exp, one tile at a time, so they are never all in
//! memory. Each task takes some queries of a GQA group. It computes the gradients of these queries, and their
//! contribution to the gradients of the keys and values. The contributions are added up in order when all tasks of the
//! group are done. The split into tasks does not depend on the number of threads, so the result does not depend on it
//! either.

pub(crate) mod band;
pub(crate) mod gather;

use std::ops::Range;

use pulp::Simd;
use rayon::prelude::*;

use super::{
    attend::Problem,
    prefetch::Ahead,
    products::{TILE, add_weighted},
    simd_float::{SimdFloat, StoredFloat},
    softcap::soften,
};

/// Work is split into at least this number of parts, if it is long enough. Each part holds gradients of the keys that
/// it reads.
const PARTS: usize = 16;

/// The smallest number of queries in a part.
const QUERIES_OF_A_PART: usize = 64;

/// The log-sum-exp of attention and the gradients of its outputs, for each head of each sequence in the batch.
pub(crate) struct Trace<'a, T: StoredFloat> {
    /// The gradients of the outputs, `[queries, value_dim]`.
    pub gradients: Vec<&'a [T]>,
    /// `[queries]`, minus infinity for a query that keeps no key.
    pub log_sum_exp: Vec<&'a [T::Float]>,
    /// `[queries]`. The backward step of the softmax subtracts it from the gradient of each weight.
    pub means: Vec<&'a [T::Float]>,
}

/// The gradients of the inputs, with the heads of all sequences in the batch.
pub(crate) struct Gradients<R> {
    /// `[heads, queries, head_dim]`
    pub queries: Vec<R>,
    /// `[kv_heads, keys, head_dim]`
    pub keys: Vec<R>,
    /// `[kv_heads, keys, value_dim]`
    pub values: Vec<R>,
}

/// Some queries of a GQA group with their gradients and statistics, by row of `[heads of the group, queries]`.
struct RowBlock<R> {
    /// The scaled queries, `[rows, head_dim]`.
    queries: Vec<R>,
    /// The gradients of the outputs, `[rows, value_dim]`.
    gradients: Vec<R>,
    log_sum_exp: Vec<R>,
    means: Vec<R>,
}

impl<R: SimdFloat> RowBlock<R> {
    fn of<T: StoredFloat<Float = R>>(
        problem: &Problem<T>,
        trace: &Trace<T>,
        kv_head: usize,
        queries: &Range<usize>,
    ) -> Self {
        let (group, width) = (problem.group(), problem.value_dim);
        let count = group * queries.len();
        let mut rows = Self {
            queries: problem.scaled(kv_head, queries),
            gradients: Vec::with_capacity(count * width),
            log_sum_exp: Vec::with_capacity(count),
            means: Vec::with_capacity(count),
        };
        let mut wide = vec![R::ZERO; width];
        for head in kv_head * group..(kv_head + 1) * group {
            rows.log_sum_exp.extend_from_slice(&trace.log_sum_exp[head][queries.clone()]);
            rows.means.extend_from_slice(&trace.means[head][queries.clone()]);
            for gradient in trace.gradients[head].chunks_exact(width).skip(queries.start).take(queries.len()) {
                rows.gradients.extend_from_slice(T::widen(gradient, &mut wide));
            }
        }
        rows
    }
}

/// Turns the scores of a tile into weights. Turns `slopes`, the gradients of the weights, into the gradients of the
/// scores. Both are `[rows, keys]`.
#[inline(always)]
fn weigh<R: SimdFloat>(scores: &mut [R], slopes: &mut [R], keys: usize, log_sum_exp: &[R], means: &[R]) {
    let rows = scores.chunks_exact_mut(keys).zip(slopes.chunks_exact_mut(keys));
    for ((scores, slopes), (&log_sum_exp, &mean)) in rows.zip(log_sum_exp.iter().zip(means)) {
        if log_sum_exp == R::LEAST {
            scores.fill(R::ZERO);
            slopes.fill(R::ZERO);
            continue;
        }
        for (score, slope) in scores.iter_mut().zip(slopes) {
            *score = score.sub(log_sum_exp).exp();
            *slope = score.mul(slope.sub(mean));
        }
    }
}

/// Caps the scores, and returns the derivative of each capped score with respect to the score before the cap.
#[inline(always)]
fn bend<R: SimdFloat>(scores: &mut [R], cap: f64) -> Vec<R> {
    soften(scores, cap);
    let inverse = R::of(1.0 / cap);
    let square = |score: R| score.mul(inverse).mul(score.mul(inverse));
    scores.iter().map(|&score| R::of(1.0).sub(square(score))).collect()
}

/// Multiplies the gradients of capped scores by the [derivatives](bend) of the cap.
#[inline(always)]
fn unbend<R: SimdFloat>(slopes: &mut [R], bends: Option<Vec<R>>) {
    if let Some(bends) = bends {
        slopes.iter_mut().zip(bends).for_each(|(slope, bend)| *slope = slope.mul(bend));
    }
}

/// Adds each row times its weight to the sums of some keys, `[keys, width]`: `weights` is `[rows, keys]`.
#[inline(always)]
fn add_by_key<R: SimdFloat, S: Simd>(simd: S, weights: &[R], keys: usize, rows: &[R], width: usize, sums: &mut [R]) {
    let mut turned = [R::ZERO; TILE * TILE];
    for (weights, rows) in weights.chunks(TILE * keys).zip(rows.chunks(TILE * width)) {
        let count = weights.len() / keys;
        for (row, weights) in weights.chunks_exact(keys).enumerate() {
            for (key, &weight) in weights.iter().enumerate() {
                turned[key * count + row] = weight;
            }
        }
        let mut vectors = [&[][..]; TILE];
        vectors.iter_mut().zip(rows.chunks_exact(width)).for_each(|(vector, row)| *vector = row);
        add_weighted(simd, &turned[..keys * count], &vectors[..count], sums, Ahead::<R>::nothing());
    }
}

/// The number of queries in each part except the last. It is a multiple of `block`.
fn queries_of_a_part<T: StoredFloat>(problem: &Problem<T>, block: usize) -> usize {
    let parts = PARTS.div_ceil(problem.keys.len());
    problem.query_count.div_ceil(parts).max(QUERIES_OF_A_PART).next_multiple_of(block)
}

/// What some queries of a GQA group contribute to the gradients.
struct Part<R> {
    queries: Range<usize>,
    /// `[heads of the group, queries, head_dim]`, before the multiplication by the scale.
    of_queries: Vec<R>,
    /// Two ranges that contain every key that one of the queries may keep.
    columns: [Range<usize>; 2],
    /// `[columns, head_dim]`
    of_keys: Vec<R>,
    /// `[columns, value_dim]`
    of_values: Vec<R>,
}

impl<R: SimdFloat> Part<R> {
    fn new<T: StoredFloat<Float = R>>(problem: &Problem<T>, queries: Range<usize>, columns: [Range<usize>; 2]) -> Self {
        let zeros = |count, width| vec![R::ZERO; count * width];
        let keys = columns.iter().map(Range::len).sum();
        Self {
            of_queries: zeros(problem.group() * queries.len(), problem.head_dim),
            of_keys: zeros(keys, problem.head_dim),
            of_values: zeros(keys, problem.value_dim),
            queries,
            columns,
        }
    }

    /// The row of a key in `of_keys` and `of_values`.
    fn place(&self, key: usize) -> usize {
        let [first, second] = &self.columns;
        if first.contains(&key) { key - first.start } else { first.len() + key - second.start }
    }
}

/// Computes the parts of all groups and adds up their contributions. The parts of a group are added as soon as they are
/// all done, so that few parts are in memory at once.
fn in_parts<T: StoredFloat>(
    problem: &Problem<T>,
    share: usize,
    work: impl Fn(usize, Range<usize>) -> Part<T::Float> + Sync,
) -> Gradients<T::Float> {
    let (group, count, key_count) = (problem.group(), problem.query_count, problem.key_count);
    let (head_dim, value_dim) = (problem.head_dim, problem.value_dim);
    let scale = T::Float::of(problem.scale);
    let zeros = |count, width| vec![T::Float::ZERO; count * width];
    let mut gradients = Gradients {
        queries: zeros(problem.queries.len() * count, head_dim),
        keys: zeros(problem.keys.len() * key_count, head_dim),
        values: zeros(problem.keys.len() * key_count, value_dim),
    };
    let groups = gradients.queries.par_chunks_mut(group * count * head_dim);
    let groups = groups.zip(gradients.keys.par_chunks_mut(key_count * head_dim));
    let groups = groups.zip(gradients.values.par_chunks_mut(key_count * value_dim));
    groups.enumerate().for_each(|(kv_head, ((queries, keys), values))| {
        let parts = (0..count.div_ceil(share)).into_par_iter();
        let parts = parts.map(|part| work(kv_head, part * share..((part + 1) * share).min(count)));
        for part in parts.collect::<Vec<_>>() {
            let length = part.queries.len() * head_dim;
            for (head, from) in part.of_queries.chunks_exact(length).enumerate() {
                let to = &mut queries[(head * count + part.queries.start) * head_dim..][..length];
                to.iter_mut().zip(from).for_each(|(to, from)| *to = from.mul(scale));
            }
            for range in part.columns.iter().filter(|range| !range.is_empty()) {
                let from = part.place(range.start);
                add(&mut keys[range.start * head_dim..range.end * head_dim], &part.of_keys[from * head_dim..]);
                add(&mut values[range.start * value_dim..range.end * value_dim], &part.of_values[from * value_dim..]);
            }
        }
    });
    gradients
}

fn add<R: SimdFloat>(sums: &mut [R], numbers: &[R]) {
    sums.iter_mut().zip(numbers).for_each(|(sum, &number)| *sum = sum.add(number));
}

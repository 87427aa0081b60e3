//! The two products that attention is made of, for a few queries and a tile of keys at a time.

use pulp::Simd;

use super::real::Real;

/// Keys whose scores are made together. Their keys and values fit the first-level cache.
pub(crate) const TILE: usize = 32;

/// The scores of some queries, `[queries, head_dim]`, for a tile of keys: `scores` is `[queries, keys]`.
#[inline(always)]
pub(crate) fn score<R: Real, S: Simd>(simd: S, queries: &[R], keys: &[&[R]], scores: &mut [R]) {
    let (Some(width), count) = (keys.first().map(|key| key.len()), keys.len()) else { return };
    let mut queries = queries.chunks_exact(width);
    let mut scores = scores.chunks_exact_mut(count);
    let mut left = queries.len();
    while left >= 4 {
        let four = std::array::from_fn(|_| queries.next().unwrap_or_default());
        score_some::<R, S, 4, 2>(simd, four, keys, std::array::from_fn(|_| scores.next().unwrap_or_default()));
        left -= 4;
    }
    if left >= 2 {
        let two = std::array::from_fn(|_| queries.next().unwrap_or_default());
        score_some::<R, S, 2, 4>(simd, two, keys, std::array::from_fn(|_| scores.next().unwrap_or_default()));
        left -= 2;
    }
    if left == 1 {
        let one = std::array::from_fn(|_| queries.next().unwrap_or_default());
        score_some::<R, S, 1, 4>(simd, one, keys, std::array::from_fn(|_| scores.next().unwrap_or_default()));
    }
}

/// `K` keys at a time, so that a query's vector is read once for them, and `Q` queries, so that a key's is.
#[inline(always)]
fn score_some<R: Real, S: Simd, const Q: usize, const K: usize>(
    simd: S,
    queries: [&[R]; Q],
    keys: &[&[R]],
    mut scores: [&mut [R]; Q],
) {
    let whole = keys.len() / K * K;
    for first in (0..whole).step_by(K) {
        let dots = dots::<R, S, Q, K>(simd, queries, std::array::from_fn(|key| keys[first + key]));
        for (scores, dots) in scores.iter_mut().zip(dots) {
            scores[first..first + K].copy_from_slice(&dots);
        }
    }
    for (key, vector) in keys.iter().enumerate().skip(whole) {
        let dots = dots::<R, S, Q, 1>(simd, queries, [vector]);
        for (scores, [dot]) in scores.iter_mut().zip(dots) {
            scores[key] = dot;
        }
    }
}

#[inline(always)]
fn dots<R: Real, S: Simd, const Q: usize, const K: usize>(simd: S, queries: [&[R]; Q], keys: [&[R]; K]) -> [[R; K]; Q] {
    let zero = R::splat(simd, R::ZERO);
    let mut sums = [[zero; K]; Q];
    let queries = queries.map(R::vectors::<S>);
    let keys = keys.map(R::vectors::<S>);
    let length = queries[0].0.len();
    let (query_vectors, key_vectors) = (queries.map(|(all, _)| &all[..length]), keys.map(|(all, _)| &all[..length]));
    for at in 0..length {
        let key: [_; K] = std::array::from_fn(|key| key_vectors[key][at]);
        for (sums, query) in sums.iter_mut().zip(query_vectors) {
            for (sum, key) in sums.iter_mut().zip(key) {
                *sum = R::mul_add(simd, query[at], key, *sum);
            }
        }
    }
    if !queries[0].1.is_empty() {
        let key = keys.map(|(_, rest)| R::load(simd, rest));
        for (sums, (_, rest)) in sums.iter_mut().zip(queries) {
            let query = R::load(simd, rest);
            for (sum, key) in sums.iter_mut().zip(key) {
                *sum = R::mul_add(simd, query, key, *sum);
            }
        }
    }
    sums.map(|sums| sums.map(|sum| R::sum(simd, sum)))
}

/// Adds a tile of values, each times its weight, to the sums of some queries: `weights` is `[queries, values]`, `sums`
/// is `[queries, value_dim]`.
#[inline(always)]
pub(crate) fn add_weighted<R: Real, S: Simd>(simd: S, weights: &[R], values: &[&[R]], sums: &mut [R]) {
    let (Some(width), count) = (values.first().map(|value| value.len()), values.len()) else { return };
    let mut vectors = [&[][..]; TILE];
    vectors.iter_mut().zip(values).for_each(|(vectors, value)| *vectors = R::vectors::<S>(value).0);
    let vectors = &vectors[..count];
    let mut left = weights.len() / count;
    let (mut weights, mut sums) = (weights, sums);
    while left > 0 {
        let queries = match left {
            4.. => 4,
            2.. => 2,
            _ => 1,
        };
        let (these, later) = std::mem::take(&mut sums).split_at_mut(queries * width);
        match queries {
            4 => add_some::<R, S, 4, 2>(simd, &weights[..4 * count], values, vectors, these),
            2 => add_some::<R, S, 2, 4>(simd, &weights[..2 * count], values, vectors, these),
            _ => add_some::<R, S, 1, 8>(simd, &weights[..count], values, vectors, these),
        }
        (weights, sums) = (&weights[queries * count..], later);
        left -= queries;
    }
}

#[inline(always)]
fn add_some<R: Real, S: Simd, const Q: usize, const V: usize>(
    simd: S,
    weights: &[R],
    values: &[&[R]],
    vectors: &[&[R::Vector<S>]],
    sums: &mut [R],
) {
    let (width, count) = (sums.len() / Q, values.len());
    let length = vectors.first().map_or(0, |vectors| vectors.len());
    let weights: [&[R]; Q] = std::array::from_fn(|query| &weights[query * count..][..count]);
    let mut at = 0;
    while at + V <= length {
        add_block::<R, S, Q, V>(simd, weights, vectors, at, sums, width);
        at += V;
    }
    while at < length {
        add_block::<R, S, Q, 1>(simd, weights, vectors, at, sums, width);
        at += 1;
    }
    let lanes = size_of::<R::Vector<S>>() / size_of::<R>();
    let rest = length * lanes;
    if rest < width {
        let mut totals: [_; Q] = std::array::from_fn(|query| R::load(simd, &sums[query * width..][rest..width]));
        for (at, value) in values.iter().enumerate() {
            let value = R::load(simd, &value[rest..]);
            for (total, weights) in totals.iter_mut().zip(weights) {
                *total = R::mul_add(simd, R::splat(simd, weights[at]), value, *total);
            }
        }
        for (query, total) in totals.into_iter().enumerate() {
            R::store(simd, &mut sums[query * width..][rest..width], total);
        }
    }
}

/// `V` vectors of the sums of `Q` queries stay in registers while all values pass by.
#[inline(always)]
fn add_block<R: Real, S: Simd, const Q: usize, const V: usize>(
    simd: S,
    weights: [&[R]; Q],
    vectors: &[&[R::Vector<S>]],
    first: usize,
    sums: &mut [R],
    width: usize,
) {
    let mut totals: [[R::Vector<S>; V]; Q] = std::array::from_fn(|query| {
        let sums = R::vectors::<S>(&sums[query * width..][..width]).0;
        std::array::from_fn(|vector| sums[first + vector])
    });
    let weights = weights.map(|weights| &weights[..vectors.len()]);
    for (at, vectors) in vectors.iter().enumerate() {
        let vectors = &vectors[first..first + V];
        for (totals, weights) in totals.iter_mut().zip(weights) {
            let weight = R::splat(simd, weights[at]);
            for (total, &vector) in totals.iter_mut().zip(vectors) {
                *total = R::mul_add(simd, weight, vector, *total);
            }
        }
    }
    for (query, totals) in totals.into_iter().enumerate() {
        let sums = R::vectors_mut::<S>(&mut sums[query * width..][..width]).0;
        sums[first..first + V].copy_from_slice(&totals);
    }
}

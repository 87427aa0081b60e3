//! The two matrix products of attention, for a few queries and a tile of keys.

use pulp::{Simd, WithSimd};

use super::{
    prefetch::{Ahead, Requests},
    simd_float::SimdFloat,
};

/// Keys in a tile. Their scores are computed together. The keys and values of a tile fit the first-level cache.
pub(crate) const TILE: usize = 16;

/// The scores of some queries, `[queries, head_dim]`, for a tile of keys: `scores` is `[queries, keys]`. `ahead` has
/// one row for each key, or none. Its rows are prefetched meanwhile.
///
/// This is never inlined, because the caller's constants would take registers that the products need.
#[inline(never)]
pub(crate) fn score<R: SimdFloat, S: Simd, T>(
    simd: S,
    queries: &[R],
    keys: &[&[R]],
    scores: &mut [R],
    ahead: Ahead<T>,
) {
    simd.vectorize(Score { queries, keys, scores, ahead });
}

struct Score<'a, R, T> {
    queries: &'a [R],
    keys: &'a [&'a [R]],
    scores: &'a mut [R],
    ahead: Ahead<'a, T>,
}

impl<R: SimdFloat, T> WithSimd for Score<'_, R, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { mut queries, keys, mut scores, ahead } = self;
        let (Some(width), count) = (keys.first().map(|key| key.len()), keys.len()) else { return };
        let mut requests = Requests::new(ahead);
        while !queries.is_empty() {
            let some = match queries.len() / width {
                4.. => 4,
                2.. => 2,
                _ => 1,
            };
            let (these, later) = std::mem::take(&mut scores).split_at_mut(some * count);
            match some {
                4 => score_some::<R, S, T, 4, 2>(simd, &queries[..4 * width], keys, these, &mut requests),
                2 => score_some::<R, S, T, 2, 4>(simd, &queries[..2 * width], keys, these, &mut requests),
                _ => score_some::<R, S, T, 1, 4>(simd, &queries[..width], keys, these, &mut requests),
            }
            (queries, scores) = (&queries[some * width..], later);
        }
        requests.send_all();
    }
}

/// Scores `K` keys and `Q` queries at a time. A query is then read once for `K` keys, and a key once for `Q` queries.
#[inline(always)]
fn score_some<R: SimdFloat, S: Simd, T, const Q: usize, const K: usize>(
    simd: S,
    queries: &[R],
    keys: &[&[R]],
    scores: &mut [R],
    requests: &mut Requests<T>,
) {
    let (these, rest) = keys.as_chunks::<K>();
    for (at, keys) in these.iter().enumerate() {
        dots::<R, S, T, Q, K>(simd, queries, keys, &mut scores[at * K..], these.len() * K + rest.len(), requests);
    }
    for (at, key) in rest.iter().enumerate() {
        let at = these.len() * K + at;
        dots::<R, S, T, Q, 1>(simd, queries, &[key], &mut scores[at..], these.len() * K + rest.len(), requests);
    }
}

/// Writes the dot product of query `q` with key `k` to `products[q * stride + k]`.
///
/// The loops are plain, because the closures of `array::map` and `from_fn` are not always inlined. Outside of the
/// caller, they are compiled without the caller's vector instructions.
#[inline(always)]
#[allow(clippy::needless_range_loop)]
fn dots<R: SimdFloat, S: Simd, T, const Q: usize, const K: usize>(
    simd: S,
    queries: &[R],
    keys: &[&[R]; K],
    products: &mut [R],
    stride: usize,
    requests: &mut Requests<T>,
) {
    let width = keys[0].len();
    let (first, rest) = R::vectors::<S>(&queries[..width]);
    let length = first.len();
    let mut query_vectors = [first; Q];
    let mut key_vectors = [first; K];
    for query in 0..Q {
        query_vectors[query] = &R::vectors::<S>(&queries[query * width..][..width]).0[..length];
    }
    for key in 0..K {
        key_vectors[key] = &R::vectors::<S>(&keys[key][..width]).0[..length];
    }
    let zero = R::splat(simd, R::ZERO);
    let mut sums = [[zero; K]; Q];
    for at in 0..length {
        requests.send(K * size_of::<R::Vector<S>>());
        let mut key_now = [zero; K];
        for key in 0..K {
            key_now[key] = key_vectors[key][at];
        }
        for query in 0..Q {
            let query_now = query_vectors[query][at];
            for key in 0..K {
                sums[query][key] = R::mul_add(simd, query_now, key_now[key], sums[query][key]);
            }
        }
    }
    if !rest.is_empty() {
        let tail = width - rest.len();
        for key in 0..K {
            let key_now = R::load(simd, &keys[key][tail..]);
            for query in 0..Q {
                let query_now = R::load(simd, &queries[query * width + tail..][..rest.len()]);
                sums[query][key] = R::mul_add(simd, query_now, key_now, sums[query][key]);
            }
        }
    }
    for query in 0..Q {
        for key in 0..K {
            products[query * stride + key] = R::sum(simd, sums[query][key]);
        }
    }
}

/// Adds a tile of values, each times its weight, to the sums of some queries: `weights` is `[queries, values]`, `sums`
/// is `[queries, value_dim]`. The rows of `ahead` are prefetched meanwhile.
///
/// This is never inlined, for the same reason as [score].
#[inline(never)]
pub(crate) fn add_weighted<R: SimdFloat, S: Simd, T>(
    simd: S,
    weights: &[R],
    values: &[&[R]],
    sums: &mut [R],
    ahead: Ahead<T>,
) {
    simd.vectorize(AddWeighted { weights, values, sums, ahead });
}

struct AddWeighted<'a, R, T> {
    weights: &'a [R],
    values: &'a [&'a [R]],
    sums: &'a mut [R],
    ahead: Ahead<'a, T>,
}

impl<R: SimdFloat, T> WithSimd for AddWeighted<'_, R, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { mut weights, values, mut sums, ahead } = self;
        let (Some(width), count) = (values.first().map(|value| value.len()), values.len()) else { return };
        let mut requests = Requests::new(ahead);
        let mut vectors = [&[][..]; TILE];
        vectors.iter_mut().zip(values).for_each(|(vectors, value)| *vectors = R::vectors::<S>(value).0);
        let vectors = &vectors[..count];
        let mut left = weights.len() / count;
        while left > 0 {
            let queries = match left {
                4.. => 4,
                2.. => 2,
                _ => 1,
            };
            let (these, later) = std::mem::take(&mut sums).split_at_mut(queries * width);
            let some = &weights[..queries * count];
            match queries {
                4 => add_some::<R, S, T, 4, 2>(simd, some, values, vectors, these, &mut requests),
                2 => add_some::<R, S, T, 2, 4>(simd, some, values, vectors, these, &mut requests),
                _ => add_some::<R, S, T, 1, 8>(simd, some, values, vectors, these, &mut requests),
            }
            (weights, sums) = (&weights[queries * count..], later);
            left -= queries;
        }
        requests.send_all();
    }
}

/// Adds a row times its weight to another row. The steps are those of [add_weighted], so the sums are bitwise equal.
#[inline(always)]
pub(crate) fn add_row<R: SimdFloat, S: Simd>(simd: S, weight: R, row: &[R], sums: &mut [R]) {
    let weight = R::splat(simd, weight);
    let (vectors, rest) = R::vectors::<S>(row);
    let (sums, rest_of_sums) = R::vectors_mut::<S>(sums);
    for (sum, &vector) in sums.iter_mut().zip(vectors) {
        *sum = R::mul_add(simd, weight, vector, *sum);
    }
    if !rest.is_empty() {
        let sum = R::mul_add(simd, weight, R::load(simd, rest), R::load(simd, rest_of_sums));
        R::store(simd, rest_of_sums, sum);
    }
}

#[inline(always)]
#[allow(clippy::needless_range_loop)] // See `dots`.
fn add_some<R: SimdFloat, S: Simd, T, const Q: usize, const V: usize>(
    simd: S,
    weights: &[R],
    values: &[&[R]],
    vectors: &[&[R::Vector<S>]],
    sums: &mut [R],
    requests: &mut Requests<T>,
) {
    let (width, count) = (sums.len() / Q, values.len());
    let length = vectors.first().map_or(0, |vectors| vectors.len());
    // In an array of fixed size, the weights of all queries are reached from one pointer.
    let mut fixed = [[R::ZERO; TILE]; Q];
    for query in 0..Q {
        fixed[query][..count].copy_from_slice(&weights[query * count..][..count]);
    }
    let mut at = 0;
    while at + V <= length {
        add_block::<R, S, T, Q, V>(simd, &fixed, vectors, at, sums, width, requests);
        at += V;
    }
    while at < length {
        add_block::<R, S, T, Q, 1>(simd, &fixed, vectors, at, sums, width, requests);
        at += 1;
    }
    let lanes = size_of::<R::Vector<S>>() / size_of::<R>();
    let rest = length * lanes;
    if rest < width {
        for query in 0..Q {
            let sums = &mut sums[query * width..][rest..width];
            let mut total = R::load(simd, sums);
            for (&weight, value) in fixed[query].iter().zip(values) {
                total = R::mul_add(simd, R::splat(simd, weight), R::load(simd, &value[rest..]), total);
            }
            R::store(simd, sums, total);
        }
    }
}

/// Adds all values while `V` vectors of the sums of `Q` queries stay in registers.
#[inline(always)]
#[allow(clippy::needless_range_loop, clippy::manual_memcpy)] // See `dots`.
fn add_block<R: SimdFloat, S: Simd, T, const Q: usize, const V: usize>(
    simd: S,
    weights: &[[R; TILE]; Q],
    vectors: &[&[R::Vector<S>]],
    first: usize,
    sums: &mut [R],
    width: usize,
    requests: &mut Requests<T>,
) {
    let mut totals = [[R::splat(simd, R::ZERO); V]; Q];
    for query in 0..Q {
        let sums = &R::vectors::<S>(&sums[query * width..][..width]).0[first..first + V];
        for at in 0..V {
            totals[query][at] = sums[at];
        }
    }
    for key in 0..vectors.len().min(TILE) {
        requests.send(V * size_of::<R::Vector<S>>());
        let vectors = &vectors[key][first..first + V];
        for query in 0..Q {
            let weight = R::splat(simd, weights[query][key]);
            for at in 0..V {
                totals[query][at] = R::mul_add(simd, weight, vectors[at], totals[query][at]);
            }
        }
    }
    for query in 0..Q {
        let sums = &mut R::vectors_mut::<S>(&mut sums[query * width..][..width]).0[first..first + V];
        for at in 0..V {
            sums[at] = totals[query][at];
        }
    }
}

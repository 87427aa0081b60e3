//! The two products that attention is made of, for a few queries and a tile of keys at a time.

use pulp::Simd;

use super::{prefetch::prefetch, real::Real};

/// Keys whose scores are made together. Their keys and values fit the first-level cache.
pub(crate) const TILE: usize = 16;

/// The scores of some queries, `[queries, head_dim]`, for a tile of keys: `scores` is `[queries, keys]`. The rows of
/// `ahead`, one a key or none, are asked for meanwhile.
#[inline(always)]
pub(crate) fn score<R: Real, S: Simd, T>(simd: S, queries: &[R], keys: &[&[R]], scores: &mut [R], mut ahead: &[&[T]]) {
    let (Some(width), count) = (keys.first().map(|key| key.len()), keys.len()) else { return };
    let (mut queries, mut scores) = (queries, scores);
    while !queries.is_empty() {
        let some = match queries.len() / width {
            4.. => 4,
            2.. => 2,
            _ => 1,
        };
        let (these, later) = std::mem::take(&mut scores).split_at_mut(some * count);
        match some {
            4 => score_some::<R, S, T, 4, 2>(simd, &queries[..4 * width], keys, these, ahead),
            2 => score_some::<R, S, T, 2, 4>(simd, &queries[..2 * width], keys, these, ahead),
            _ => score_some::<R, S, T, 1, 4>(simd, &queries[..width], keys, these, ahead),
        }
        (queries, scores, ahead) = (&queries[some * width..], later, &[]);
    }
}

/// `K` keys at a time, so that a query's vector is read once for them, and `Q` queries, so that a key's is.
#[inline(always)]
fn score_some<R: Real, S: Simd, T, const Q: usize, const K: usize>(
    simd: S,
    queries: &[R],
    keys: &[&[R]],
    scores: &mut [R],
    ahead: &[&[T]],
) {
    let (these, rest) = keys.as_chunks::<K>();
    for (at, keys) in these.iter().enumerate() {
        for row in ahead.iter().skip(at * K).take(K) {
            prefetch(row);
        }
        dots::<R, S, Q, K>(simd, queries, keys, &mut scores[at * K..], these.len() * K + rest.len());
    }
    for row in ahead.iter().skip(these.len() * K) {
        prefetch(row);
    }
    for (at, key) in rest.iter().enumerate() {
        dots::<R, S, Q, 1>(simd, queries, &[key], &mut scores[these.len() * K + at..], these.len() * K + rest.len());
    }
}

/// Writes the product of query `q` with key `k` to `products[q * stride + k]`.
///
/// Plain loops: the closures of `array::map` and `from_fn` are not always compiled into their caller, and outside of it
/// they may not use its instructions.
#[inline(always)]
#[allow(clippy::needless_range_loop)]
fn dots<R: Real, S: Simd, const Q: usize, const K: usize>(
    simd: S,
    queries: &[R],
    keys: &[&[R]; K],
    products: &mut [R],
    stride: usize,
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
/// is `[queries, value_dim]`. The rows of `ahead`, at most as many as values, are asked for meanwhile.
#[inline(always)]
pub(crate) fn add_weighted<R: Real, S: Simd, T>(
    simd: S,
    weights: &[R],
    values: &[&[R]],
    sums: &mut [R],
    mut ahead: &[&[T]],
) {
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
            4 => add_some::<R, S, T, 4, 2>(simd, &weights[..4 * count], values, vectors, these, ahead),
            2 => add_some::<R, S, T, 2, 4>(simd, &weights[..2 * count], values, vectors, these, ahead),
            _ => add_some::<R, S, T, 1, 8>(simd, &weights[..count], values, vectors, these, ahead),
        }
        (weights, sums, ahead) = (&weights[queries * count..], later, &[]);
        left -= queries;
    }
}

#[inline(always)]
#[allow(clippy::needless_range_loop)] // See `dots`.
fn add_some<R: Real, S: Simd, T, const Q: usize, const V: usize>(
    simd: S,
    weights: &[R],
    values: &[&[R]],
    vectors: &[&[R::Vector<S>]],
    sums: &mut [R],
    ahead: &[&[T]],
) {
    let (width, count) = (sums.len() / Q, values.len());
    let length = vectors.first().map_or(0, |vectors| vectors.len());
    let mut at = 0;
    while at + V <= length {
        add_block::<R, S, T, Q, V>(simd, weights, vectors, at, sums, width, ahead);
        at += V;
    }
    while at < length {
        add_block::<R, S, T, Q, 1>(simd, weights, vectors, at, sums, width, ahead);
        at += 1;
    }
    let lanes = size_of::<R::Vector<S>>() / size_of::<R>();
    let rest = length * lanes;
    if rest < width {
        for query in 0..Q {
            let weights = &weights[query * count..][..count];
            let sums = &mut sums[query * width..][rest..width];
            let mut total = R::load(simd, sums);
            for (&weight, value) in weights.iter().zip(values) {
                total = R::mul_add(simd, R::splat(simd, weight), R::load(simd, &value[rest..]), total);
            }
            R::store(simd, sums, total);
        }
    }
}

/// `V` vectors of the sums of `Q` queries stay in registers while all values pass by.
#[inline(always)]
#[allow(clippy::needless_range_loop, clippy::manual_memcpy)] // See `dots`.
fn add_block<R: Real, S: Simd, T, const Q: usize, const V: usize>(
    simd: S,
    weights: &[R],
    vectors: &[&[R::Vector<S>]],
    first: usize,
    sums: &mut [R],
    width: usize,
    ahead: &[&[T]],
) {
    let count = vectors.len();
    let lanes = size_of::<R::Vector<S>>() / size_of::<R>();
    // The part of the rows ahead that corresponds, so that requests are spread over the work.
    let part = first * lanes..(first + V) * lanes;
    for row in ahead.iter().take(count) {
        if let Some(row) = row.get(part.clone()) {
            prefetch(row);
        }
    }
    let mut totals = [[R::splat(simd, R::ZERO); V]; Q];
    let mut lists = [&weights[..count]; Q];
    for query in 0..Q {
        lists[query] = &weights[query * count..][..count];
        let sums = &R::vectors::<S>(&sums[query * width..][..width]).0[first..first + V];
        for at in 0..V {
            totals[query][at] = sums[at];
        }
    }
    // Nothing but products here: with the requests between them, sums were kept on the stack.
    for key in 0..count {
        let vectors = &vectors[key][first..first + V];
        for query in 0..Q {
            let weight = R::splat(simd, lists[query][key]);
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

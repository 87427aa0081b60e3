//! Scores for selection: products of a few vectors with many, in whatever form the many are kept.

use pulp::{Arch, Simd, WithSimd};

use super::{
    Heads, HostTensor,
    products::{TILE, score},
    real::{Real, Stored},
    softcap::softcap,
};

/// The products of some vectors with many, both of a `width` and one after the other: `products` is `[some, many]`.
pub(crate) fn products(some: &[f32], many: &[f32], width: usize, products: &mut [f32]) {
    Arch::new().dispatch(Products::<f32> { some, many, width, products });
}

/// Keys that follow each other are fetched ahead by the machine itself.
const NOTHING_AHEAD: &[&[f32]] = &[];

struct Products<'a, T: Stored> {
    some: &'a [T::Real],
    many: &'a [T],
    width: usize,
    products: &'a mut [f32],
}

impl<T: Stored> WithSimd for Products<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { some, many, width, products } = self;
        let (rows, count) = (some.len() / width, many.len() / width);
        let mut buffer = vec![T::Real::ZERO; if T::AS_IT_IS { 0 } else { TILE * width }];
        let mut tile = vec![T::Real::ZERO; rows * TILE];
        for (first, vectors) in (0..count).step_by(TILE).zip(many.chunks(TILE * width)) {
            let length = vectors.len() / width;
            let mut keys = [&[][..]; TILE];
            let mut rest = &mut buffer[..];
            for (key, vector) in keys.iter_mut().zip(vectors.chunks_exact(width)) {
                let (buffer, later) = std::mem::take(&mut rest).split_at_mut(if T::AS_IT_IS { 0 } else { width });
                *key = T::widen(vector, buffer);
                rest = later;
            }
            score(simd, some, &keys[..length], &mut tile[..rows * length], NOTHING_AHEAD);
            for (row, tile) in tile[..rows * length].chunks_exact(length).enumerate() {
                let products = &mut products[row * count + first..][..length];
                products.iter_mut().zip(tile).for_each(|(to, from)| *to = from.to_f32());
            }
        }
    }
}

/// The scaled products of a query of a group's heads with the keys of their key-value head, capped if there is a cap:
/// `logits` is `[heads of the group, keys]`.
pub(crate) fn group_logits(
    queries: &dyn HostTensor,
    keys: &dyn HostTensor,
    kv_head: usize,
    query: usize,
    scale: f64,
    cap: Option<f64>,
    logits: &mut [f32],
) {
    match (queries.heads(), keys.heads()) {
        (Heads::F32(q), Heads::F32(k)) => logits_of(&q, &k, kv_head, query, scale, logits),
        (Heads::F64(q), Heads::F64(k)) => logits_of(&q, &k, kv_head, query, scale, logits),
        (Heads::F16(q), Heads::F16(k)) => logits_of(&q, &k, kv_head, query, scale, logits),
        (Heads::BF16(q), Heads::BF16(k)) => logits_of(&q, &k, kv_head, query, scale, logits),
        // Tensors of one attention problem are of one type, or tensor operations would have refused them.
        _ => logits.fill(f32::NAN),
    }
    softcap(logits, cap);
}

fn logits_of<T: Stored>(queries: &[&[T]], keys: &[&[T]], kv_head: usize, query: usize, scale: f64, logits: &mut [f32]) {
    let group = queries.len() / keys.len();
    let many = keys[kv_head];
    let width = many.len() / (logits.len() / group);
    let mut buffer = vec![T::Real::ZERO; width];
    let mut some = Vec::with_capacity(group * width);
    for head in &queries[kv_head * group..][..group] {
        let vector = T::widen(&head[query * width..][..width], &mut buffer);
        some.extend(vector.iter().map(|x| x.mul(T::Real::of(scale))));
    }
    Arch::new().dispatch(Products { some: &some, many, width, products: logits });
}

/// How many bits of packed signatures agree, less those that differ: `keys` are of as many words as the query.
pub(crate) fn agreement(query: &[u32], keys: &[u32], bits: usize, scores: &mut [f32]) {
    Arch::new().dispatch(|| {
        let bits = bits as i32;
        if let [query] = query {
            for (score, key) in scores.iter_mut().zip(keys) {
                *score = (bits - 2 * (query ^ key).count_ones() as i32) as f32;
            }
        } else {
            for (score, key) in scores.iter_mut().zip(keys.chunks_exact(query.len())) {
                let different = query.iter().zip(key).map(|(a, b)| (a ^ b).count_ones()).sum::<u32>();
                *score = (bits - 2 * different as i32) as f32;
            }
        }
    });
}

/// Keys of a block of labels.
pub(crate) const LABELS_AT_A_TIME: usize = 32;

/// The products of a label with many, which lie in blocks, `[block, channel, key]`.
pub(crate) fn label_products<T: Copy + Into<f32>>(query: &[f32], labels: &[T], scores: &mut [f32]) {
    Arch::new().dispatch(|| {
        let blocks = labels.chunks_exact(query.len() * LABELS_AT_A_TIME);
        for (scores, block) in scores.chunks_mut(LABELS_AT_A_TIME).zip(blocks) {
            let mut sums = [0f32; LABELS_AT_A_TIME];
            let (lines, _) = block.as_chunks::<LABELS_AT_A_TIME>();
            for (&x, line) in query.iter().zip(lines) {
                for (sum, &y) in sums.iter_mut().zip(line) {
                    *sum += x * y.into();
                }
            }
            scores.copy_from_slice(&sums[..scores.len()]);
        }
    });
}

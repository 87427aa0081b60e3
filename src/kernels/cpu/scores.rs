//! Scores for selection: dot products of a few vectors with many. The many vectors are stored in one of several forms.

use pulp::{Arch, Simd, WithSimd};

use super::{
    Heads, HostTensor,
    prefetch::Ahead,
    products::{TILE, score},
    simd_float::{SimdFloat, StoredFloat},
    softcap::softcap,
    streams::{STREAMS, interleaved},
    tile::fill,
};

/// The dot products of some vectors with many. Each vector has `width` numbers, and the vectors lie one after the
/// other. `products` is `[some, many]`.
pub(crate) fn products(some: &[f32], many: &[f32], width: usize, products: &mut [f32]) {
    Arch::new().dispatch(Products::<f32> { some, many, width, products });
}

struct Products<'a, T: StoredFloat> {
    some: &'a [T::Float],
    many: &'a [T],
    width: usize,
    products: &'a mut [f32],
}

impl<T: StoredFloat> WithSimd for Products<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { some, many, width, products } = self;
        let (rows, count) = (some.len() / width, many.len() / width);
        let mut buffer = vec![T::Float::ZERO; if T::AS_IT_IS { 0 } else { TILE * width }];
        let mut tile = vec![T::Float::ZERO; rows * TILE];
        let vectors_of = |tile: usize| {
            let mut vectors = [&[][..]; TILE];
            let places = interleaved::<STREAMS>(0..count, tile);
            vectors.iter_mut().zip(places).for_each(|(vector, at)| *vector = &many[at * width..][..width]);
            vectors
        };
        let tiles = count.div_ceil(TILE);
        let length = |tile: usize| TILE.min(count - tile * TILE);
        let mut vectors = vectors_of(0);
        for at in 0..tiles {
            let (next, ahead) =
                if at + 1 < tiles { (vectors_of(at + 1), length(at + 1)) } else { ([&[][..]; TILE], 0) };
            let length = length(at);
            let mut keys = [&[][..]; TILE];
            fill::<T>(&mut keys, &mut buffer, width, vectors[..length].iter().copied());
            let tile = &mut tile[..rows * length];
            score(simd, some, &keys[..length], tile, Ahead::in_order(&next[..ahead]));
            for (row, tile) in tile.chunks_exact(length).enumerate() {
                let products = &mut products[row * count..][..count];
                interleaved::<STREAMS>(0..count, at)
                    .zip(tile)
                    .for_each(|(place, from)| products[place] = from.to_f32());
            }
            vectors = next;
        }
    }
}

/// The scaled dot products of a query position, for all heads of a GQA group, with the keys of their key-value head.
/// The logits are soft-capped if there is a cap. `logits` is `[heads of the group, keys]`.
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
        // All tensors of an attention problem have the same type, because tensor operations refuse mixed types.
        _ => logits.fill(f32::NAN),
    }
    softcap(logits, cap);
}

fn logits_of<T: StoredFloat>(
    queries: &[&[T]],
    keys: &[&[T]],
    kv_head: usize,
    query: usize,
    scale: f64,
    logits: &mut [f32],
) {
    let group = queries.len() / keys.len();
    let many = keys[kv_head];
    let width = many.len() / (logits.len() / group);
    let mut buffer = vec![T::Float::ZERO; width];
    let mut some = Vec::with_capacity(group * width);
    for head in &queries[kv_head * group..][..group] {
        let vector = T::widen(&head[query * width..][..width], &mut buffer);
        some.extend(vector.iter().map(|x| x.mul(T::Float::of(scale))));
    }
    Arch::new().dispatch(Products { some: &some, many, width, products: logits });
}

/// The scaled dot products of a query with listed keys of its key-value head. `head` counts the heads of all sequences
/// in the batch. The logits are soft-capped if there is a cap.
#[allow(clippy::too_many_arguments)] // A struct would only be taken apart again.
pub(crate) fn listed_logits(
    queries: &dyn HostTensor,
    keys: &dyn HostTensor,
    head: usize,
    query: usize,
    scale: f64,
    cap: Option<f64>,
    listed: &[u32],
    logits: &mut [f32],
) {
    let width = keys.dims()[3];
    match (queries.heads(), keys.heads()) {
        (Heads::F32(q), Heads::F32(k)) => listed_of(&q, &k, [head, query, width], scale, listed, logits),
        (Heads::F64(q), Heads::F64(k)) => listed_of(&q, &k, [head, query, width], scale, listed, logits),
        (Heads::F16(q), Heads::F16(k)) => listed_of(&q, &k, [head, query, width], scale, listed, logits),
        (Heads::BF16(q), Heads::BF16(k)) => listed_of(&q, &k, [head, query, width], scale, listed, logits),
        // All tensors of an attention problem have the same type.
        _ => logits.fill(f32::NAN),
    }
    softcap(logits, cap);
}

fn listed_of<T: StoredFloat>(
    queries: &[&[T]],
    keys: &[&[T]],
    [head, query, width]: [usize; 3],
    scale: f64,
    listed: &[u32],
    logits: &mut [f32],
) {
    let mut buffer = vec![T::Float::ZERO; width];
    let vector = T::widen(&queries[head][query * width..][..width], &mut buffer);
    let query = vector.iter().map(|x| x.mul(T::Float::of(scale))).collect::<Vec<_>>();
    let keys = keys[head * keys.len() / queries.len()];
    Arch::new().dispatch(Listed { query: &query, keys, listed, logits });
}

struct Listed<'a, T: StoredFloat> {
    query: &'a [T::Float],
    keys: &'a [T],
    listed: &'a [u32],
    logits: &'a mut [f32],
}

impl<T: StoredFloat> WithSimd for Listed<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { query, keys, listed, logits } = self;
        let width = query.len();
        let mut buffer = vec![T::Float::ZERO; if T::AS_IT_IS { 0 } else { TILE * width }];
        let vectors_of = |tile: &[u32]| {
            let mut vectors = [&[][..]; TILE];
            vectors.iter_mut().zip(tile).for_each(|(vector, &key)| *vector = &keys[key as usize * width..][..width]);
            vectors
        };
        let mut tiles = listed.chunks(TILE);
        let mut vectors = tiles.next().map(vectors_of);
        for logits in logits.chunks_mut(TILE) {
            let Some(now) = vectors else { return };
            let next = tiles.next();
            vectors = next.map(vectors_of);
            let ahead = vectors.as_ref().map_or(&[][..], |ahead| &ahead[..next.map_or(0, <[u32]>::len)]);
            let mut rows = [&[][..]; TILE];
            fill::<T>(&mut rows, &mut buffer, width, now[..logits.len()].iter().copied());
            let mut scores = [T::Float::ZERO; TILE];
            let scores = &mut scores[..logits.len()];
            score(simd, query, &rows[..logits.len()], scores, Ahead::scattered(ahead));
            logits.iter_mut().zip(scores).for_each(|(logit, score)| *logit = score.to_f32());
        }
    }
}

/// For each key, the number of bits in which its packed signature equals the query's, minus the number of bits in which
/// they differ. Keys and the query have the same number of words.
pub(crate) fn sign_matches(query: &[u32], keys: &[u32], bits: usize, scores: &mut [f32]) {
    Arch::new().dispatch(SignMatches::<false> { query, keys, bits, scores });
}

/// Adds the [sign_matches] to scores.
pub(crate) fn add_sign_matches(query: &[u32], keys: &[u32], bits: usize, scores: &mut [f32]) {
    Arch::new().dispatch(SignMatches::<true> { query, keys, bits, scores });
}

struct SignMatches<'a, const ADD: bool> {
    query: &'a [u32],
    keys: &'a [u32],
    bits: usize,
    scores: &'a mut [f32],
}

impl<const ADD: bool> WithSimd for SignMatches<'_, ADD> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        let Self { query, keys, bits, scores } = self;
        let bits = bits as i32;
        let before = |score: f32| if ADD { score } else { 0.0 };
        if let [query] = query {
            for (score, key) in scores.iter_mut().zip(keys) {
                *score = before(*score) + (bits - 2 * (query ^ key).count_ones() as i32) as f32;
            }
        } else {
            for (score, key) in scores.iter_mut().zip(keys.chunks_exact(query.len())) {
                let different = query.iter().zip(key).map(|(a, b)| (a ^ b).count_ones()).sum::<u32>();
                *score = before(*score) + (bits - 2 * different as i32) as f32;
            }
        }
    }
}

/// Keys in a block of labels.
pub(crate) const LABELS_AT_A_TIME: usize = 32;

/// A number of a label, in the form in which it is stored.
pub(crate) trait Label: Copy {
    /// The place of a key in a line of a block. A line holds one channel of all keys of the block.
    fn place(key: usize) -> usize;

    /// Converts a line to numbers in the order of the keys.
    fn widen(line: &[Self; LABELS_AT_A_TIME], numbers: &mut [f32; LABELS_AT_A_TIME]);
}

impl Label for f32 {
    fn place(key: usize) -> usize {
        key
    }

    #[inline(always)]
    fn widen(line: &[f32; LABELS_AT_A_TIME], numbers: &mut [f32; LABELS_AT_A_TIME]) {
        *numbers = *line;
    }
}

/// Words in a line. A word holds four codes.
const WORDS: usize = LABELS_AT_A_TIME / 4;

/// Word `i` holds the codes of the keys `i`, `i + 8`, `i + 16` and `i + 24`. If all words are shifted alike, each of
/// them yields the code of the next key. Compilers vectorize such shifts, but not the conversion of single bytes.
impl Label for u8 {
    fn place(key: usize) -> usize {
        key % WORDS * 4 + key / WORDS
    }

    #[inline(always)]
    fn widen(line: &[u8; LABELS_AT_A_TIME], numbers: &mut [f32; LABELS_AT_A_TIME]) {
        let mut words = [0u32; WORDS];
        let (bytes, _) = line.as_chunks::<4>();
        for at in 0..WORDS {
            words[at] = u32::from_le_bytes(bytes[at]);
        }
        for byte in 0..4 {
            for at in 0..WORDS {
                numbers[byte * WORDS + at] = ((words[at] >> (8 * byte)) & 255) as i32 as f32;
            }
        }
    }
}

/// How to read labels that are stored as codes. For each key, `least` is the number that code 0 stands for, and `step`
/// is the difference between adjacent codes.
pub(crate) struct Steps<'a> {
    pub least: &'a [f32],
    pub step: &'a [f32],
}

/// Adds the dot products of a query's label with many labels to scores. The labels lie in blocks,
/// `[block, channel, key]`.
pub(crate) fn add_label_products<T: Label>(query: &[f32], labels: &[T], steps: Option<Steps>, scores: &mut [f32]) {
    Arch::new().dispatch(LabelProducts { query, labels, steps, scores });
}

struct LabelProducts<'a, T> {
    query: &'a [f32],
    labels: &'a [T],
    steps: Option<Steps<'a>>,
    scores: &'a mut [f32],
}

/// The dot products of a query's label with the labels of a block.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // Plain loops are vectorized.
fn block_products<T: Label>(query: &[f32], block: &[T]) -> [f32; LABELS_AT_A_TIME] {
    let mut sums = [0f32; LABELS_AT_A_TIME];
    let (lines, _) = block.as_chunks::<LABELS_AT_A_TIME>();
    for channel in 0..lines.len() {
        let x = query[channel];
        let mut numbers = [0f32; LABELS_AT_A_TIME];
        T::widen(&lines[channel], &mut numbers);
        for key in 0..LABELS_AT_A_TIME {
            sums[key] += x * numbers[key];
        }
    }
    sums
}

/// This is a type because a closure is not always inlined into its caller. Outside of the caller, it is compiled
/// without the caller's vector instructions.
impl<T: Label> WithSimd for LabelProducts<'_, T> {
    type Output = ();

    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // Plain loops are vectorized.
    fn with_simd<S: Simd>(self, _simd: S) {
        let Self { query, labels, steps, scores } = self;
        let total = query.iter().sum::<f32>();
        let blocks = labels.chunks_exact(query.len() * LABELS_AT_A_TIME);
        for (at, (scores, block)) in scores.chunks_mut(LABELS_AT_A_TIME).zip(blocks).enumerate() {
            let sums = block_products(query, block);
            let Some(Steps { least, step }) = &steps else {
                scores.iter_mut().zip(&sums).for_each(|(score, sum)| *score += sum);
                continue;
            };
            let first = at * LABELS_AT_A_TIME;
            let (least, step) = (&least[first..][..scores.len()], &step[first..][..scores.len()]);
            let sums = &sums[..scores.len()];
            for (((score, sum), step), least) in scores.iter_mut().zip(sums).zip(step).zip(least) {
                *score += sum * step + least * total;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listed_logits_are_those_of_all_keys() {
        struct Tensor([usize; 4], Vec<f32>);
        impl HostTensor for Tensor {
            fn dims(&self) -> [usize; 4] {
                self.0
            }
            fn heads(&self) -> Heads<'_> {
                Heads::F32(self.1.chunks(self.0[2] * self.0[3]).collect())
            }
        }
        let number = |at: usize| ((at * 37 + 11) % 101) as f32 / 50.0 - 1.0;
        let tensor = |dims: [usize; 4]| Tensor(dims, (0..dims.iter().product()).map(number).collect());
        for width in [60, 7] {
            let (queries, keys) = (tensor([2, 6, 3, width]), tensor([2, 2, 63, width]));
            let mut all = vec![0.0; 3 * 63];
            for (kv_head, query) in [(0, 0), (1, 2), (3, 1)] {
                group_logits(&queries, &keys, kv_head, query, 0.3, Some(5.0), &mut all);
                for head in 0..3 {
                    for listed in [vec![], vec![62], (0..63).rev().step_by(2).collect::<Vec<u32>>()] {
                        let mut found = vec![f32::NAN; listed.len()];
                        let head_of_all = kv_head * 3 + head;
                        listed_logits(&queries, &keys, head_of_all, query, 0.3, Some(5.0), &listed, &mut found);
                        let wanted = listed.iter().map(|&key| all[head * 63 + key as usize]).collect::<Vec<_>>();
                        assert_eq!(found, wanted, "width {width}, head {head_of_all}, query {query}");
                    }
                }
            }
        }
    }
}

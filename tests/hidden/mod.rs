//! A key that a query does not see or does not keep has no influence on it, for any numbers in the key and its value.
//! NaN and infinities that are seen and kept show in the output.

#[cfg(feature = "train")]
mod backward;
mod forward;

use burn::tensor::{Tensor, TensorData, backend::Backend};
use rand::RngExt;
use sparse_attention_hub::prelude::*;

use crate::common::*;

/// One query and several, groups of 1 to 8 heads, and more keys and queries than a tile or a block of the kernels.
const CASES: [Sizes; 6] = [
    Sizes::new(2, 2, 2, 1, 63, 60),
    Sizes::new(1, 8, 1, 5, 111, 12),
    Sizes::new(2, 6, 3, 63, 63, 8),
    Sizes::new(1, 4, 1, 7, 40, 60),
    Sizes::new(1, 3, 3, 31, 33, 5),
    Sizes::new(1, 4, 2, 70, 150, 16),
];

/// Unwanted numbers in keys and values.
const ANYTHING: [f32; 6] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30, f32::MAX, -1e30];

/// Inputs of every visibility, with masks of every form. They are plain, with a softcap, with sinks, or with both.
fn cases<B: Backend>(sizes: Sizes, seed: u64) -> Vec<(String, AttentionInputs<B>, Mask<B>)> {
    let offset = sizes.keys - sizes.queries;
    let mut seen = visibilities::<B>(sizes, seed);
    seen.push(("window", Visibility::Window { offset, window: 9 }));
    let mut cases = Vec::new();
    for (name, visibility) in seen {
        for (form, mask) in masks::<B>(sizes, seed) {
            let plain = inputs::<B>(sizes, seed).with_visibility(visibility.clone()).unwrap();
            let (kind, inputs) = match cases.len() % 4 {
                0 => ("plain", plain),
                1 => ("softcap", plain.with_softcap(2.0).unwrap()),
                2 => ("sinks", plain.with_sink_logits(sink_logits(sizes.heads)).unwrap()),
                _ => ("both", plain.with_softcap(2.0).unwrap().with_sink_logits(sink_logits(sizes.heads)).unwrap()),
            };
            cases.push((format!("{kind}, {sizes:?}, {name}, {form}"), inputs, mask));
        }
    }
    cases
}

fn sink_logits<B: Backend>(heads: usize) -> Tensor<B, 1> {
    let logits = (0..heads).map(|head| (head * 7 % 5) as f32 - 1.5).collect::<Vec<_>>();
    Tensor::from_data(TensorData::new(logits, [heads]), &B::Device::default())
}

fn masks<B: Backend>(sizes: Sizes, seed: u64) -> Vec<(&'static str, Mask<B>)> {
    let (shape, device) = (sizes.mask_shape(), B::Device::default());
    let offset = sizes.keys as isize - sizes.queries as isize;
    let mut rng = generator(seed);
    let weights = (0..shape.pairs()).map(|_| match rng.random_range(0..5) {
        0..3 => 0.0,
        3 => 1.0,
        _ => rng.random_range(0.1..1.0f32),
    });
    let dense = Mask::from_dense(tensor::<B>(&weights.collect::<Vec<_>>(), shape.dims())).unwrap();
    vec![
        ("full", Mask::full(shape, &device)),
        ("empty", Mask::empty(shape, &device)),
        ("causal", Mask::pattern(shape, Pattern::causal(offset), &device)),
        ("sink and window", Mask::pattern(shape, Pattern { sink: 3, window: 5, offset }, &device)),
        ("lists", Mask::from_csr(shape, &dense.to_csr(), &device).unwrap()),
        ("dense", dense),
    ]
}

/// The pairs that each row sees and keeps.
struct Kept {
    pairs: Vec<bool>,
    sizes: Sizes,
}

impl Kept {
    fn of<B: Backend>(inputs: &AttentionInputs<B>, mask: &Mask<B>, sizes: Sizes) -> Self {
        let weights = host(&mask.to_dense());
        let seen = naive_logits(inputs).into_iter().map(|logit| logit > f64::NEG_INFINITY);
        Self { pairs: seen.zip(weights).map(|(seen, weight)| seen && weight > 0.0).collect(), sizes }
    }

    fn rows(&self) -> usize {
        self.sizes.mask_shape().rows()
    }

    /// The index of a key in `[batch, kv_heads, keys]`, for the key-value head that the row reads.
    fn place(&self, row: usize, key: usize) -> usize {
        let Sizes { heads, kv_heads, queries, keys, .. } = self.sizes;
        (row / queries / heads * kv_heads + row / queries % heads / (heads / kv_heads)) * keys + key
    }

    /// The indices in `[batch, kv_heads, keys]` of the keys that a row keeps.
    fn places(&self, row: usize) -> impl Iterator<Item = usize> {
        let keys = self.sizes.keys;
        (0..keys).filter(move |key| self.pairs[row * keys + key]).map(move |key| self.place(row, key))
    }

    /// For each key in `[batch, kv_heads, keys]`, whether no row keeps it.
    fn kept_by_no_row(&self) -> Vec<bool> {
        let mut none = vec![true; self.sizes.batch * self.sizes.kv_heads * self.sizes.keys];
        (0..self.rows()).flat_map(|row| self.places(row)).for_each(|place| none[place] = false);
        none
    }
}

/// A tensor `[batch, kv_heads, keys, width]` in which some keys are overwritten with unwanted numbers.
fn spoiled<B: Backend>(tensor_of: &Tensor<B, 4>, places: &[bool]) -> Tensor<B, 4> {
    let dims = tensor_of.dims();
    let mut numbers = host(tensor_of);
    for (at, number) in numbers.iter_mut().enumerate() {
        if places[at / dims[3]] {
            *number = anything(at / dims[3]);
        }
    }
    tensor(&numbers, dims)
}

/// The number that [spoiled] writes at an index.
fn anything(place: usize) -> f32 {
    ANYTHING[place % ANYTHING.len()]
}

/// Values in which one entry at each of some indices of `[batch, kv_heads, keys]` is NaN or infinite. The returned
/// function gives the entry and the number for an index.
fn sprinkled<B: Backend>(values: &Tensor<B, 4>, places: &[bool]) -> (Tensor<B, 4>, impl Fn(usize) -> (usize, f32)) {
    let dims = values.dims();
    let special = move |place: usize| (place % 3 % dims[3], ANYTHING[place / 3 % 3]);
    let mut numbers = host(values);
    for place in (0..places.len()).filter(|&place| places[place]) {
        let (entry, number) = special(place);
        numbers[place * dims[3] + entry] = number;
    }
    (tensor(&numbers, dims), special)
}

/// The same visibility and options over other queries, keys and values.
fn over<B: Backend>(
    inputs: &AttentionInputs<B>,
    queries: Tensor<B, 4>,
    keys: Tensor<B, 4>,
    values: Tensor<B, 4>,
) -> AttentionInputs<B> {
    let over =
        AttentionInputs::new(queries, keys, values).unwrap().with_visibility(inputs.visibility().clone()).unwrap();
    let over = match inputs.softcap() {
        Some(cap) => over.with_softcap(cap).unwrap(),
        None => over,
    };
    match inputs.sink_logits() {
        Some(sink_logits) => over.with_sink_logits(sink_logits.clone()).unwrap(),
        None => over,
    }
}

/// A random share of the indices, and all indices of `all_of`.
fn some_of(count: usize, seed: u64, share: f32, all_of: &[bool]) -> Vec<bool> {
    let mut rng = generator(seed);
    (0..count).map(|at| rng.random::<f32>() < share || all_of[at]).collect()
}

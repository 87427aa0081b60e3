//! Code that the test files share: backends, random tensors, and a naive attention as the reference.
#![allow(dead_code, unused_imports, unused_macros)] // Each test file uses only a part of it.

pub mod backends;
#[cfg(feature = "hf")]
pub mod checkpoints;
pub mod files;
pub mod gqa;
mod methods;

pub use backends::{OnHost, computes_in, has_kernels, product_rounding};
pub(crate) use backends::{on_each_backend, on_host_backends};
use burn::tensor::{Tensor, TensorData, backend::Backend};
pub use files::{channels, hash};
pub use methods::{METHODS, Method, adaptive, label, with_counts};
use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use sparse_attention_hub::prelude::*;

pub fn generator(seed: u64) -> Xoshiro256PlusPlus {
    Xoshiro256PlusPlus::seed_from_u64(seed)
}

/// Approximately normal numbers of mean 0 and standard deviation 1.
pub fn normal(rng: &mut Xoshiro256PlusPlus, count: usize) -> Vec<f32> {
    (0..count).map(|_| (0..12).map(|_| rng.random::<f32>()).sum::<f32>() - 6.0).collect()
}

pub fn tensor<B: Backend>(values: &[f32], dims: [usize; 4]) -> Tensor<B, 4> {
    Tensor::from_data(TensorData::new(values.to_vec(), dims), &B::Device::default())
}

pub fn host<B: Backend>(tensor: &Tensor<B, 4>) -> Vec<f32> {
    tensor.to_data().convert::<f32>().iter::<f32>().collect()
}

pub fn all_numbers<B: Backend, const D: usize>(tensor: &Tensor<B, D>) -> Vec<f32> {
    tensor.to_data().convert::<f32>().iter::<f32>().collect()
}

/// The sizes of one attention problem.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sizes {
    pub batch: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub queries: usize,
    pub keys: usize,
    pub head_dim: usize,
}

impl Sizes {
    pub const fn new(
        batch: usize,
        heads: usize,
        kv_heads: usize,
        queries: usize,
        keys: usize,
        head_dim: usize,
    ) -> Self {
        Self { batch, heads, kv_heads, queries, keys, head_dim }
    }

    pub fn mask_shape(&self) -> MaskShape {
        MaskShape::new([self.batch, self.heads, self.queries, self.keys])
    }
}

/// Odd sizes that no block size divides. They contain every GQA ratio, one query, one key, and a case with equal
/// numbers of queries and keys.
pub const SIZES: [Sizes; 7] = [
    Sizes::new(1, 1, 1, 1, 1, 1),
    Sizes::new(2, 2, 2, 1, 63, 60),
    Sizes::new(1, 8, 1, 5, 111, 12),
    Sizes::new(2, 6, 3, 63, 63, 8),
    Sizes::new(1, 4, 1, 7, 40, 60),
    Sizes::new(1, 3, 3, 31, 33, 5),
    Sizes::new(3, 4, 2, 1, 17, 16),
];

pub fn inputs<B: Backend>(sizes: Sizes, seed: u64) -> AttentionInputs<B> {
    let Sizes { batch, heads, kv_heads, queries, keys, head_dim } = sizes;
    let mut rng = generator(seed);
    let mut random = |dims: [usize; 4]| tensor::<B>(&normal(&mut rng, dims.iter().product()), dims);
    let query = random([batch, heads, queries, head_dim]);
    let key = random([batch, kv_heads, keys, head_dim]);
    let value = random([batch, kv_heads, keys, head_dim + 1]);
    AttentionInputs::new(query, key, value).unwrap()
}

/// Several visibilities: all keys; causal; a boolean tensor that hides every key from the first query; a bias that
/// hides some keys.
pub fn visibilities<B: Backend>(sizes: Sizes, seed: u64) -> Vec<(&'static str, Visibility<B>)> {
    let Sizes { batch, queries, keys, .. } = sizes;
    let mut rng = generator(seed);
    let dims = [batch, 1, queries, keys];
    let hidden = (0..batch * queries * keys)
        .map(|at| at / keys % queries == 0 || rng.random::<f32>() < 0.4)
        .collect::<Vec<bool>>();
    let bias = hidden
        .iter()
        .zip(normal(&mut rng, hidden.len()))
        .enumerate()
        .map(|(at, (&hidden, bias))| match (hidden, at % 2) {
            (false, _) => bias,
            (true, 0) => f32::MIN,
            (true, _) => f32::NEG_INFINITY,
        })
        .collect::<Vec<_>>();
    let device = B::Device::default();
    vec![
        ("full", Visibility::Full),
        ("causal", Visibility::Causal { offset: keys - queries }),
        ("causal from 2", Visibility::Causal { offset: 2 }),
        ("masked", Visibility::Masked(Tensor::from_data(TensorData::new(hidden, dims), &device))),
        ("biased", Visibility::Biased(Tensor::from_data(TensorData::new(bias, dims), &device))),
    ]
}

/// The logits of all pairs in f64, minus infinity where hidden.
pub fn naive_logits<B: Backend>(inputs: &AttentionInputs<B>) -> Vec<f64> {
    let [batch, heads, queries, keys] = inputs.mask_shape().dims();
    let head_dim = inputs.queries().dims()[3];
    let kv_heads = inputs.kv_heads();
    let (query, key) = (host(inputs.queries()), host(inputs.keys()));
    let extra = match inputs.visibility() {
        Visibility::Masked(hidden) => Some((
            hidden.dims(),
            hidden.to_data().iter::<bool>().map(|h| if h { f32::MIN } else { 0.0 }).collect::<Vec<f32>>(),
        )),
        Visibility::Biased(bias) => Some((bias.dims(), host(bias))),
        _ => None,
    };
    let mut logits = Vec::with_capacity(batch * heads * queries * keys);
    for b in 0..batch {
        for h in 0..heads {
            let kv = h / (heads / kv_heads);
            for i in 0..queries {
                for j in 0..keys {
                    let q = &query[((b * heads + h) * queries + i) * head_dim..][..head_dim];
                    let k = &key[((b * kv_heads + kv) * keys + j) * head_dim..][..head_dim];
                    let dot = q.iter().zip(k).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
                    let bias = match inputs.visibility() {
                        Visibility::Causal { offset } if j > i + offset => f64::NEG_INFINITY,
                        Visibility::Window { offset, window } if j > i + offset || (i + offset - j) >= *window => {
                            f64::NEG_INFINITY
                        }
                        _ => extra.as_ref().map_or(0.0, |(dims, values)| {
                            let at = (((b % dims[0]) * dims[1] + h % dims[1]) * queries + i) * keys + j;
                            match values[at] {
                                hidden if hidden < -1e30 => f64::NEG_INFINITY,
                                bias => f64::from(bias),
                            }
                        }),
                    };
                    let logit = dot * inputs.scale();
                    logits.push(inputs.softcap().map_or(logit, |cap| cap * (logit / cap).tanh()) + bias);
                }
            }
        }
    }
    logits
}

/// Attention over a mask in f64, computed naively: output, weights and log-sum-exp.
pub fn naive_attention<B: Backend>(inputs: &AttentionInputs<B>, weights: &[f32]) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let [_, heads, queries, keys] = inputs.mask_shape().dims();
    let (kv_heads, value_dim) = (inputs.kv_heads(), inputs.values().dims()[3]);
    let value = host(inputs.values());
    let sink_logits = inputs
        .sink_logits()
        .map(|sink_logits| sink_logits.to_data().convert::<f32>().iter::<f32>().collect::<Vec<_>>());
    let logits = naive_logits(inputs);
    let (mut output, mut shares, mut log_sum_exp) = (Vec::new(), Vec::new(), Vec::new());
    for (row, logits) in logits.chunks(keys).enumerate() {
        let (b, h) = (row / queries / heads, row / queries % heads);
        let kv = b * kv_heads + h / (heads / kv_heads);
        let kept = &weights[row * keys..][..keys];
        let exponentials = logits
            .iter()
            .zip(kept)
            .map(|(logit, &weight)| if weight > 0.0 { logit.exp() / f64::from(weight) } else { 0.0 })
            .collect::<Vec<_>>();
        let sink = sink_logits.as_ref().map_or(0.0, |sink_logits| f64::from(sink_logits[h]).exp());
        let sum = exponentials.iter().sum::<f64>() + sink;
        let share = |key: usize| if sum > 0.0 { exponentials[key] / sum } else { 0.0 };
        shares.extend((0..keys).map(share));
        log_sum_exp.push(sum.ln());
        for d in 0..value_dim {
            let value_of = |key: usize| f64::from(value[(kv * keys + key) * value_dim + d]);
            output.push((0..keys).map(|key| share(key) * value_of(key)).sum());
        }
    }
    (output, shares, log_sum_exp)
}

/// The addition for [rounded operands](product_rounding) to the tolerance of the output and the log-sum-exp of
/// attention over [inputs], for scales up to 0.31. A logit is a sum of up to 60 products of normal numbers. The root
/// mean square error of each product is 0.6 roundings, as for two errors that are uniform up to half of the last digit.
/// The error of a logit is therefore 0.6 * 60^0.5 * 0.31 = 1.4 roundings. It is up to 9 roundings for the longest
/// vectors of ten thousand rows. The relative error of a weight is the error of its logit. The values have a standard
/// deviation of 1, and their own rounding is added. In ten thousand rows computed with rounded operands no output was
/// off by more than 6.3 roundings of `1 + |output|`, and no log-sum-exp by more than 4.4.
pub fn attention_rounding<B: Backend>() -> f64 {
    8.0 * product_rounding::<B>()
}

/// The same for the attention weights. Two logits differ by at most 18 roundings from their exact difference. A weight
/// is therefore off by at most `18 * weight * (1 - weight)`, which is 3.1 roundings of `1 + weight`. In the same rows
/// the largest error was 1.3.
pub fn weights_rounding<B: Backend>() -> f64 {
    4.0 * product_rounding::<B>()
}

/// Fails if a number differs from the wanted one by more than `tolerance * (1 + |wanted|)`.
#[track_caller]
pub fn assert_close(found: &[f32], wanted: &[f64], tolerance: f64, what: &str) {
    assert_eq!(found.len(), wanted.len(), "{what}: number of entries");
    for (at, (&found, &wanted)) in found.iter().zip(wanted).enumerate() {
        let close = f64::from(found) == wanted || (f64::from(found) - wanted).abs() <= tolerance * (1.0 + wanted.abs());
        assert!(close, "{what}: entry {at} is {found}, not {wanted}");
    }
}

/// Fails if two masks do not keep the same keys, or if their probabilities differ by more than the order of summation
/// explains.
#[track_caller]
pub fn assert_same_choice(found: &[f32], wanted: &[f32], what: &str) {
    assert_eq!(found.len(), wanted.len(), "{what}: number of entries");
    for (at, (&found, &wanted)) in found.iter().zip(wanted).enumerate() {
        let same = (found > 0.0) == (wanted > 0.0) && (found - wanted).abs() <= 1e-5;
        assert!(same, "{what}: the weight {at} is {found}, not {wanted}");
    }
}

/// Fails if more than `1 + rows / 20` of the rows have a number that differs from the wanted one by more than
/// `tolerance * (1 + |wanted|)`.
#[track_caller]
pub fn assert_most_close(found: &[f32], wanted: &[f32], width: usize, tolerance: f64, what: &str) {
    assert_eq!(found.len(), wanted.len(), "{what}: number of entries");
    let is_close = |(found, wanted): (&f32, &f32)| {
        let (found, wanted) = (f64::from(*found), f64::from(*wanted));
        (found - wanted).abs() <= tolerance * (1.0 + wanted.abs())
    };
    let rows = found.chunks(width).zip(wanted.chunks(width));
    let others = rows.clone().filter(|(found, wanted)| !found.iter().zip(*wanted).all(is_close)).count();
    assert!(others <= 1 + rows.len() / 20, "{what}: {others} of {} rows are off", rows.len());
}

/// [assert_close] for sequences `[batch, length, width]` of a chain that chooses keys by score. An operand that is
/// rounded in the other direction moves scores by about 1e-4. With some dozens of keys, the last chosen score and the
/// next one are that close in about one of a thousand rows. A few tokens may therefore have other keys.
#[track_caller]
pub fn assert_close_but_for_near_scores<B: Backend>(
    found: &Tensor<B, 3>,
    wanted: &Tensor<B, 3>,
    tolerance: f64,
    what: &str,
) {
    assert_eq!(found.dims(), wanted.dims(), "{what}: dims");
    let (found, wanted, width) = (all_numbers(found), all_numbers(wanted), found.dims()[2]);
    if product_rounding::<B>() == 0.0 {
        let wanted = wanted.into_iter().map(f64::from).collect::<Vec<_>>();
        return assert_close(&found, &wanted, tolerance, what);
    }
    assert_most_close(&found, &wanted, width, tolerance, what);
}

//! Grouped-query attention in tests: layers with the same parameters in every run, tokens, chunks.

use burn::{
    module::{Module, ModuleMapper, Param},
    tensor::{Tensor, TensorData, backend::Backend},
};
use rand_xoshiro::Xoshiro256PlusPlus;
use serde_json::Value;
use sparse_attention_hub::{
    nn::{GroupedQueryAttention, GroupedQueryAttentionConfig, KvCache, RotaryEncodingConfig},
    prelude::*,
};

use super::{all_numbers, assert_close, assert_close_but_for_near_scores, generator, normal, product_rounding};

pub type Layer<B> = GroupedQueryAttention<B>;

pub fn layer<B: Backend>(config: &GroupedQueryAttentionConfig, chain: Option<Value>) -> Layer<B> {
    let chain = chain.map_or("[]".to_owned(), |chain| chain.to_string());
    let maskers = MaskerChainConfig::from_json(&chain).expect("a chain");
    let layer: Layer<B> =
        config.clone().with_maskers(maskers).init(&B::Device::default()).expect("a sensible configuration");
    drawn(layer)
}

/// The module with the same parameters in every run.
pub fn drawn<B: Backend, M: Module<B>>(layer: M) -> M {
    layer.map(&mut Draw(generator(17)))
}

/// Draws the parameters from a fixed seed. burn draws them from a generator of the backend, which other tests use at
/// the same time. Different parameters could change which of two near-equal scores is chosen.
struct Draw(Xoshiro256PlusPlus);

impl<B: Backend> ModuleMapper<B> for Draw {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        param.map(|tensor| {
            let dims = tensor.dims();
            // Norms, biases and sinks are about 1. Matrices are scaled so that they keep the length of vectors about
            // the same.
            let (offset, scale) = if D == 1 { (1.0, 0.3) } else { (0.0, 1.0 / (dims[0] as f32).sqrt()) };
            let numbers = normal(&mut self.0, dims.iter().product()).into_iter().map(|x| offset + x * scale);
            Tensor::from_data(TensorData::new(numbers.collect::<Vec<_>>(), dims), &tensor.device())
        })
    }
}

pub fn tokens<B: Backend>(batch: usize, length: usize, width: usize, seed: u64) -> Tensor<B, 3> {
    let numbers = normal(&mut generator(seed), batch * length * width);
    Tensor::from_data(TensorData::new(numbers, [batch, length, width]), &B::Device::default())
}

/// A layer in which `heads / kv_heads` query heads share each key-value head.
pub fn config(heads: usize, kv_heads: usize) -> GroupedQueryAttentionConfig {
    GroupedQueryAttentionConfig::new(20, heads, kv_heads)
        .with_head_dim(Some(12))
        .with_rotary(Some(RotaryEncodingConfig::new()))
}

/// The output for tokens that are given in chunks.
pub fn in_chunks<B: Backend>(
    layer: &Layer<B>,
    cache: &mut KvCache<B>,
    input: &Tensor<B, 3>,
    chunks: impl IntoIterator<Item = usize>,
) -> Tensor<B, 3> {
    let mut start = 0;
    let outputs = chunks.into_iter().map(|length| {
        let chunk = input.clone().slice_dim(1, start..start + length);
        start += length;
        layer.forward_cache(chunk, cache).unwrap()
    });
    let outputs = Tensor::cat(outputs.collect(), 1);
    assert_eq!(start, input.dims()[1]);
    outputs
}

/// Projections of a chunk sum in another order than projections of the whole input. If operands are rounded, the last
/// digit of a sum can decide the direction of the rounding in the next product. A matrix is also rounded differently
/// after it is multiplied by a number. The resulting error is as large as the rounding error of attention with its
/// default scale, because the projections keep lengths. In hundreds of layers computed with rounded operands it was at
/// most 3.5 roundings.
pub fn tolerance<B: Backend>() -> f64 {
    5e-6 + 5.0 * product_rounding::<B>()
}

#[track_caller]
pub fn close<B: Backend>(found: &Tensor<B, 3>, wanted: &Tensor<B, 3>, what: &str) {
    assert_eq!(found.dims(), wanted.dims(), "{what}");
    let wanted = all_numbers(wanted).into_iter().map(f64::from).collect::<Vec<_>>();
    assert_close(&all_numbers(found), &wanted, tolerance::<B>(), what);
}

/// [close] for a chain that chooses keys by score, for about 41 keys.
#[track_caller]
pub fn close_but_for_near_scores<B: Backend>(found: &Tensor<B, 3>, wanted: &Tensor<B, 3>, what: &str) {
    assert_close_but_for_near_scores(found, wanted, tolerance::<B>(), what);
}

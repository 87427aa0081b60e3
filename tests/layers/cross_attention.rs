//! Cross-attention, with burn's layer as the reference.

use burn::{module::Module, nn::attention::CrossAttentionConfig, tensor::backend::Backend};
use sparse_attention_hub::nn::{SparseCrossAttention, SparseCrossAttentionCache, SparseCrossAttentionConfig};

use crate::{
    common::on_each_backend,
    layers::support::{AB, B, assert_same, made, method, numbers, padding, sequence},
};

fn config(kv_heads: usize) -> SparseCrossAttentionConfig {
    SparseCrossAttentionConfig::new(24, 20, 8, kv_heads, 5).with_dropout(0.0)
}

/// This library's layer and burn's, with the same parameters.
fn both<B: Backend>(kv_heads: usize, quiet: bool) -> (SparseCrossAttention<B>, burn::nn::attention::CrossAttention<B>) {
    let device = Default::default();
    let ours = made::<B, _>(config(kv_heads).with_quiet_softmax(quiet).init::<B>(&device));
    let burns = CrossAttentionConfig::new(24, 20, 8, kv_heads, 5).with_dropout(0.0).with_quiet_softmax(quiet);
    let recorder = burn::record::NamedMpkBytesRecorder::<burn::record::FullPrecisionSettings>::new();
    let bytes = burn::record::Recorder::<B>::record(&recorder, ours.clone().into_record(), ()).unwrap();
    let record = burn::record::Recorder::<B>::load(&recorder, bytes, &device).unwrap();
    (ours, burns.init::<B>(&device).load_record(record))
}

fn output_equals_burns<B: Backend>() {
    for kv_heads in [1, 2, 4, 8] {
        for quiet in [false, true] {
            let (ours, burns) = both::<B>(kv_heads, quiet);
            for (queries, keys) in [(1, 33), (33, 7), (9, 9)] {
                let (query, context) = (sequence([2, queries, 24], 1), sequence([2, keys, 20], 2));
                for mask in [None, Some(padding([2, keys], false)), Some(padding([2, keys], true))] {
                    let wanted = burns.forward(query.clone(), context.clone(), mask.clone());
                    let found = ours.forward(query.clone(), context.clone(), mask.clone());
                    assert_same(&found, &wanted, "cross-attention");
                    let mut cache = SparseCrossAttentionCache::new();
                    for _ in 0..2 {
                        let found = ours.forward_cache(query.clone(), context.clone(), mask.clone(), &mut cache);
                        assert_same(&found, &wanted, "cross-attention with a cache");
                    }
                }
            }
        }
    }
}

on_each_backend!(output_equals_burns);

#[test]
fn gradients_equal_burns() {
    let (ours, burns) = both::<AB>(2, false);
    let toward = sequence::<AB>([2, 9, 24], 3);
    let gradients = |forward: &dyn Fn(_, _) -> burn::tensor::Tensor<AB, 3>| {
        let query = sequence::<AB>([2, 9, 24], 1).require_grad();
        let context = sequence::<AB>([2, 33, 20], 2).require_grad();
        let gradients = (forward(query.clone(), context.clone()) * toward.clone()).sum().backward();
        (query.grad(&gradients).unwrap(), context.grad(&gradients).unwrap())
    };
    let wanted = gradients(&|query, context| burns.forward(query, context, None));
    let found = gradients(&|query, context| ours.forward(query, context, None));
    assert_same(&found.0, &wanted.0, "of the queries");
    assert_same(&found.1, &wanted.1, "of the context");
}

#[test]
fn a_full_budget_is_dense_and_a_small_one_is_not() {
    let device = Default::default();
    let (dense, _) = both::<B>(4, false);
    let (query, context) = (sequence::<B>([2, 9, 24], 1), sequence::<B>([2, 33, 20], 2));
    let with = |size: &str| {
        let maskers = method(&format!(r#"[{{"type": "oracle_top_k", "heavy_size": {size}}}]"#));
        dense.clone().with_maskers(maskers.init::<B>(&device).unwrap()).forward(query.clone(), context.clone(), None)
    };
    let wanted = dense.forward(query.clone(), context.clone(), None);
    assert_same(&with("1.0"), &wanted, "a full budget");
    let difference = numbers(&(with("3") - wanted)).into_iter().map(f32::abs).fold(0.0, f32::max);
    assert!(difference > 1e-3, "{difference}");
}

#[test]
fn invalid_fields_and_shapes_are_errors() {
    let device = Default::default();
    let message = |config: SparseCrossAttentionConfig| config.try_init::<B>(&device).unwrap_err().to_string();
    assert!(message(config(3)).contains("`n_heads_kv` is 3"));
    assert!(message(config(2).with_dropout(1.0)).contains("`dropout` is 1"));
    let layer = config(2).init::<B>(&device);
    let error = layer.try_forward(sequence::<B>([2, 9, 24], 1), sequence::<B>([2, 33, 24], 2), None).unwrap_err();
    assert!(error.to_string().contains("`context`"), "{error}");
    let mask = Some(padding([2, 32], false));
    let error = layer.try_forward(sequence::<B>([2, 9, 24], 1), sequence::<B>([2, 33, 20], 2), mask).unwrap_err();
    assert!(error.to_string().contains("mask_pad"), "{error}");
}

//! Every method over a cache. A failed step does not change the cache, and chunks of a prompt equal the prompt in one
//! call.

mod common;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use burn::tensor::{Tensor, backend::Backend};
use common::{gqa::*, *};
use serde_json::{Value, json};
use sparse_attention_hub::{
    attention::AttentionError,
    nn::{
        GqaInput, KvCache, MhaCache, MhaInput, SparseCrossAttentionCache, SparseCrossAttentionConfig,
        SparseMultiHeadAttentionConfig, SparseTransformerEncoderConfig, TransformerEncoderInput,
    },
    prelude::*,
};

on_host_backends!(
    a_failed_step_leaves_a_grouped_cache_as_it_was,
    a_failed_step_leaves_the_caches_of_burns_layers_as_they_were,
    a_failed_layer_leaves_all_layers_as_they_were,
    chunks_equal_one_call,
);

/// A masker that fails on request. It stands after the masker of the test, which has then already updated its state.
#[derive(Debug, Clone, Default)]
struct Fails(Arc<AtomicBool>);

impl<B: Backend> Masker<B> for Fails {
    fn add(&self, _: &AttentionInputs<B>, _: &mut LayerState, mask: Mask<B>) -> Result<Mask<B>, AttentionError> {
        match self.0.load(Ordering::Relaxed) {
            false => Ok(mask),
            true => Err(AttentionError::Value { field: "keys", value: "told to fail".to_owned(), allowed: "others" }),
        }
    }
}

impl Fails {
    /// Runs a step with the failure switched on, and asserts that the step fails.
    fn once<T>(&self, step: impl FnOnce() -> Result<T, AttentionError>) {
        self.0.store(true, Ordering::Relaxed);
        let result = step();
        self.0.store(false, Ordering::Relaxed);
        assert!(matches!(result, Err(AttentionError::Value { field: "keys", .. })), "the step did not fail");
    }
}

fn methods(sizes: &Sizes) -> Vec<Value> {
    METHODS.iter().map(|method| (method.config)(sizes)).collect()
}

fn chain<B: Backend>(config: &Value, layer: usize) -> MaskerChain<B> {
    let chain = MaskerChainConfig::from_json(&json!([config]).to_string()).unwrap();
    chain.init_for_layer(layer, &B::Device::default()).unwrap()
}

fn columns<B: Backend>(x: &Tensor<B, 3>, range: std::ops::Range<usize>) -> Tensor<B, 3> {
    x.clone().slice_dim(1, range)
}

fn a_failed_step_leaves_a_grouped_cache_as_it_was<B: Backend>() {
    let device = B::Device::default();
    let x = tokens::<B>(2, 30, 20, 1);
    let loud = tokens::<B>(2, 7, 20, 2) * 30.0;
    for config in methods(&Sizes::new(1, 4, 2, 1, 1, 12)) {
        for padded in [false, true] {
            let fails = Fails::default();
            let plain = layer::<B>(&common::gqa::config(4, 2), None);
            let mut layer =
                common::gqa::config(4, 2).init_with::<B, _>((chain(&config, 0), fails.clone()), &device).unwrap();
            (layer.query, layer.key, layer.value, layer.output) = (plain.query, plain.key, plain.value, plain.output);
            let part = |start: usize, end: usize| {
                let input = GqaInput::new(columns(&x, start..end));
                if padded && start == 0 { input.right_aligned(&[end, end - 3]).unwrap() } else { input }
            };
            let steps = [(0, 20), (20, 21), (21, 28), (28, 30)];
            let mut never = KvCache::new(3);
            let wanted = steps.map(|(start, end)| layer.forward_cache(part(start, end), &mut never).unwrap());
            let mut cache = KvCache::new(3);
            let found = steps.map(|(start, end)| {
                let before = (cache.len(), cache.is_apart(), cache.real_len(1));
                fails.once(|| layer.forward_cache(loud.clone(), &mut cache));
                // An input that would give the sequences different lengths.
                let late = GqaInput::new(loud.clone()).left_aligned(&[7, 4]).unwrap();
                fails.once(|| layer.forward_cache(late, &mut cache));
                let narrow = layer.forward_cache(tokens::<B>(2, 2, 19, 1), &mut cache);
                assert!(matches!(narrow, Err(AttentionError::Shape { tensor: "input", .. })));
                let other_batch = layer.forward_cache(tokens::<B>(3, 2, 20, 1), &mut cache);
                assert!(start == 0 || matches!(other_batch, Err(AttentionError::Shape { .. })));
                if start == 0 {
                    cache = KvCache::new(3);
                } else {
                    assert_eq!((cache.len(), cache.is_apart(), cache.real_len(1)), before, "{config}");
                }
                layer.forward_cache(part(start, end), &mut cache).unwrap()
            });
            for (found, wanted) in found.iter().zip(&wanted) {
                close(found, wanted, &format!("{config}, padded {padded}"));
            }
        }
    }
}

fn a_failed_step_leaves_the_caches_of_burns_layers_as_they_were<B: Backend>() {
    let device = B::Device::default();
    let (x, context) = (tokens::<B>(2, 30, 24, 3), tokens::<B>(2, 26, 24, 4));
    let loud = tokens::<B>(2, 7, 24, 5) * 30.0;
    for config in methods(&Sizes::new(1, 4, 4, 1, 1, 6)) {
        let fails = Fails::default();
        let layer = drawn(SparseMultiHeadAttentionConfig::new(24, 4).with_dropout(0.0).init::<B>(&device));
        let layer = layer.with_maskers((chain(&config, 0), fails.clone()));
        let own = drawn(SparseCrossAttentionConfig::new(24, 24, 4, 4, 6).with_dropout(0.0).init::<B>(&device));
        let own = own.with_maskers((chain(&config, 0), fails.clone()));
        let over = |queries: Tensor<B, 3>| MhaInput::new(queries, context.clone(), context.clone());
        let (mut never, mut cache) = (MhaCache::autoregressive(), MhaCache::autoregressive());
        let (mut never_cross, mut cross) =
            (MhaCache::autoregressive_cross_attention(), MhaCache::autoregressive_cross_attention());
        let (mut never_own, mut own_cache) = (SparseCrossAttentionCache::new(), SparseCrossAttentionCache::new());
        for (start, end) in [(0, 20), (20, 21), (21, 30)] {
            let part = columns(&x, start..end);
            let wide = || tokens::<B>(2, 2, 25, 1);
            fails.once(|| layer.forward_step(MhaInput::self_attn(loud.clone()), &mut cache));
            fails.once(|| layer.forward_step(over(loud.clone()), &mut cross));
            fails.once(|| own.try_forward_cache(loud.clone(), context.clone(), None, &mut own_cache));
            assert!(layer.forward_step(MhaInput::self_attn(wide()), &mut cache).is_err());
            assert!(own.try_forward_cache(wide(), context.clone(), None, &mut own_cache).is_err());
            assert_eq!((cache.len(), cross.is_empty(), own_cache.is_empty()), (start, start == 0, start == 0));
            // As in burn, the input of `forward_cache` is the whole sequence so far.
            let so_far = MhaInput::self_attn(columns(&x, 0..end));
            let found = layer.forward_cache(so_far.clone(), &mut cache).context;
            close(&found, &layer.forward_cache(so_far, &mut never).context, &format!("{config}, self-attention"));
            let found = layer.forward_step(over(part.clone()), &mut cross).unwrap().context;
            let wanted = layer.forward_step(over(part.clone()), &mut never_cross).unwrap().context;
            close(&found, &wanted, &format!("{config}, cross-attention"));
            let found = own.forward_cache(part.clone(), context.clone(), None, &mut own_cache);
            close(
                &found,
                &own.forward_cache(part, context.clone(), None, &mut never_own),
                &format!("{config}, its own"),
            );
        }
    }
}

fn a_failed_layer_leaves_all_layers_as_they_were<B: Backend>() {
    let config = SparseTransformerEncoderConfig::new(24, 40, 4, 3).with_dropout(0.0);
    let mut encoder = drawn(config.init::<B>(&B::Device::default())).with_maskers(Fails::default());
    let last = Fails::default();
    for (index, layer) in encoder.layers.iter_mut().enumerate() {
        // Each layer has its own switch.
        layer.mha.maskers.0 = if index == 2 { last.clone() } else { Fails::default() };
    }
    let x = tokens::<B>(2, 12, 24, 6);
    let (mut cache, mut never) = (encoder.new_autoregressive_cache(), encoder.new_autoregressive_cache());
    for (start, end) in [(0, 7), (7, 8), (8, 12)] {
        let input = || TransformerEncoderInput::new(columns(&x, start..end));
        last.once(|| encoder.forward_step(TransformerEncoderInput::new(x.clone() * 20.0), &mut cache));
        assert!(cache.layers().iter().all(|layer| layer.len() == start));
        let found = encoder.forward_step(input(), &mut cache).unwrap();
        close(&found, &encoder.forward_step(input(), &mut never).unwrap(), "the step after a failed one");
    }
}

fn chunks_equal_one_call<B: Backend>() {
    let x = tokens::<B>(1, 61, 20, 7);
    for config in methods(&Sizes::new(1, 4, 2, 1, 1, 12)) {
        let config = with_counts(config);
        let layer = layer::<B>(&common::gqa::config(4, 2), Some(json!([config])));
        let wanted = layer.forward(x.clone()).unwrap();
        for chunks in [vec![61], vec![20, 20, 21], vec![1; 61], vec![60, 1]] {
            let what = format!("{config}, chunks {chunks:?}");
            let found = in_chunks(&layer, &mut KvCache::new(0), &x, chunks);
            close_but_for_near_scores(&found, &wanted, &what);
        }
    }
}

//! Efficient attention equals the research chain with the same parts.

mod common;

use burn::tensor::{Tensor, backend::Backend};
use common::*;
use serde_json::{Value, json};
use sparse_attention_hub::{
    method::{DoubleSparsityConfig, EfficientAttention, HashAttentionConfig},
    prelude::*,
};

on_each_backend!(a_prefill_and_its_steps_equal_the_chain, reports_what_is_requested, bad_sizes_are_named);

type Efficient<B> = Box<dyn EfficientAttention<B>>;

/// Efficient attention with the fields of a selector, and the research chain with the same parts.
fn methods<B: Backend>(sizes: &Sizes, share: Value, heavy: Value) -> [(Efficient<B>, ResearchAttention<B>); 2] {
    let registry = MaskerRegistry::<B>::new();
    let device = B::Device::default();
    let context = registry.context(&device);
    let fields = |mut config: Value| {
        config.as_object_mut().unwrap().remove("type");
        config["heavy_size"] = heavy.clone();
        config["share_group"] = share.clone();
        config
    };
    let chain = |name: &str, mut config: Value| {
        config["type"] = json!(name);
        let chain = json!([{"type": "sink", "sink_size": 2}, {"type": "local", "window_size": 3}, config]);
        registry.research_attention(&chain.to_string(), &device).unwrap()
    };
    let parts = |config: &Value| json!({"sink_size": 2, "window_size": 3, "top_k": config});
    let (hash, channels) = (fields(hash(sizes)), fields(channels(sizes)));
    let signed = serde_json::from_value::<HashAttentionConfig>(parts(&hash)).unwrap().init(&context).unwrap();
    let sparse = serde_json::from_value::<DoubleSparsityConfig>(parts(&channels)).unwrap().init(&context).unwrap();
    [
        (Box::new(signed), chain("hash_attention_top_k", hash)),
        (Box::new(sparse), chain("double_sparsity_top_k", channels)),
    ]
}

/// A prefill of all but the last three keys, then one key per step. Each method has one state for all calls.
fn a_prefill_and_its_steps_equal_the_chain<B: Backend>() {
    let all = [
        Sizes::new(1, 8, 1, 40, 40, 60),
        Sizes::new(2, 6, 3, 63, 63, 12),
        Sizes::new(1, 3, 3, 33, 33, 8),
        Sizes::new(1, 4, 2, 111, 111, 16),
        Sizes::new(1, 2, 1, 5, 5, 4),
    ];
    for (case, sizes) in all.into_iter().enumerate() {
        for share in [json!(false), json!(true), json!("max")] {
            for (which, (fast, chain)) in methods::<B>(&sizes, share.clone(), json!(4)).into_iter().enumerate() {
                let whole = inputs::<B>(sizes, case as u64);
                let (mut fast_state, mut chain_state) = (LayerState::new(1), LayerState::new(1));
                let prefill = 0..sizes.keys - 3;
                let steps = (sizes.keys - 3..sizes.keys).map(|at| at..at + 1);
                for queries in std::iter::once(prefill).chain(steps) {
                    let cut = |tensor: &Tensor<B, 4>| tensor.clone().slice_dim(2, 0..queries.end);
                    let query = whole.queries().clone().slice_dim(2, queries.clone());
                    let inputs = AttentionInputs::new(query, cut(whole.keys()), cut(whole.values())).unwrap();
                    let inputs = inputs.causal().unwrap();
                    let found = fast.forward(&inputs, &mut fast_state, Requested::default()).unwrap().output;
                    let wanted =
                        chain.forward(&inputs, &mut chain_state, Requested::default()).unwrap().attention.output;
                    let furthest =
                        (found - wanted).abs().max().into_data().convert::<f32>().to_vec::<f32>().unwrap()[0];
                    assert!(furthest <= 1e-5, "method {which} on {sizes:?}, {share}, {queries:?}: {furthest}");
                }
            }
        }
    }
}

fn reports_what_is_requested<B: Backend>() {
    let sizes = Sizes::new(1, 4, 2, 3, 41, 12);
    let inputs = inputs::<B>(sizes, 3).causal().unwrap();
    for (fast, chain) in methods::<B>(&sizes, json!(false), json!(0.2)) {
        let requested = Requested { weights: true, statistics: true };
        let found = fast.forward(&inputs, &mut LayerState::new(1), requested).unwrap();
        let wanted = chain.forward(&inputs, &mut LayerState::new(1), requested).unwrap().attention;
        let near = |found: Tensor<B, 4>, wanted: Tensor<B, 4>| {
            let (found, wanted) = (host(&found), host(&wanted));
            found.iter().zip(&wanted).all(|(found, wanted)| (found - wanted).abs() <= 1e-5 * wanted.abs().max(1.0))
        };
        assert!(near(found.weights.unwrap(), wanted.weights.unwrap()));
        let (found, wanted) = (found.statistics.unwrap(), wanted.statistics.unwrap());
        assert!(near(found.log_sum_exp, wanted.log_sum_exp));
    }
}

fn bad_sizes_are_named<B: Backend>() {
    let sizes = Sizes::new(1, 2, 1, 3, 41, 12);
    let mut channels = channels(&sizes);
    channels.as_object_mut().unwrap().remove("type");
    channels["heavy_size"] = json!(4);
    let registry = MaskerRegistry::<B>::new();
    let context = registry.context(&B::Device::default());
    for (field, sink, window) in [("sink_size", json!(0), json!(3)), ("window_size", json!(1), json!(1.5))] {
        let config = json!({"sink_size": sink, "window_size": window, "top_k": channels});
        let error = serde_json::from_value::<DoubleSparsityConfig>(config)
            .map_err(|error| error.to_string())
            .and_then(|config| config.init(&context).map(|_| ()).map_err(|error| error.to_string()))
            .unwrap_err();
        assert!(error.contains(field), "{error}");
    }
}

//! Grouped-query attention over a cache: steps and chunks against one causal forward pass, and truncation of the cache.

mod common;

use burn::{
    module::Param,
    tensor::{ElementConversion, Tensor, TensorData, backend::Backend},
};
use common::{gqa::*, *};
use serde_json::{Value, json};
use sparse_attention_hub::{
    attention::AttentionError,
    masker::ConfigError,
    nn::{GroupedQueryAttentionConfig, KvCache, RotaryEncodingConfig},
    prelude::*,
};

on_each_backend!(
    steps_and_chunks_equal_one_forward,
    every_option_holds_in_a_cache,
    truncated_tokens_leave_no_trace,
    a_reset_cache_equals_a_new_one,
    identity_projections_give_plain_attention,
    a_window_hides_earlier_keys_from_every_method,
    norms_remove_the_length,
    errors_leave_the_cache_as_it_was,
    caches_grow_by_doubling_and_return_appended_tokens,
    invalid_configurations_name_the_field,
);

/// A masker that always returns the same mask.
#[derive(Debug)]
struct Given<B: Backend>(Mask<B>);

impl<B: Backend> Masker<B> for Given<B> {
    fn add(&self, _: &AttentionInputs<B>, _: &mut LayerState, _: Mask<B>) -> Result<Mask<B>, AttentionError> {
        Ok(self.0.clone())
    }
}

/// A masker that fails for more than three keys.
#[derive(Debug)]
struct Fails;

impl<B: Backend> Masker<B> for Fails {
    fn add(&self, inputs: &AttentionInputs<B>, _: &mut LayerState, mask: Mask<B>) -> Result<Mask<B>, AttentionError> {
        match inputs.mask_shape().keys {
            0..=3 => Ok(mask),
            keys => Err(AttentionError::Value { field: "keys", value: keys.to_string(), allowed: "at most 3" }),
        }
    }
}

const RATIOS: [(usize, usize); 5] = [(8, 1), (8, 2), (8, 4), (6, 2), (8, 8)];

/// Each method after a sink and a window. If sizes are counts, the keys that a row keeps do not depend on later keys.
fn independent_of_later_keys(sizes: &Sizes) -> Vec<Value> {
    let chain = |method: &Method| {
        json!([{"type": "sink", "sink_size": 2}, {"type": "local", "window_size": 3},
               with_counts((method.config)(sizes))])
    };
    METHODS.iter().map(chain).collect()
}

/// Whether a chain selects keys by anything other than their position.
fn selects_by_content(chain: &Value) -> bool {
    let by_position = |masker: &Value| ["sink", "local", "causal"].iter().any(|name| masker["type"] == *name);
    !chain.as_array().expect("a chain").iter().all(by_position)
}

fn steps_and_chunks_equal_one_forward<B: Backend>() {
    for (heads, kv_heads) in RATIOS {
        let (batch, length) = (if heads == 6 { 3 } else { 1 }, 41);
        let sizes = Sizes::new(batch, heads, kv_heads, length, length, 12);
        let input = tokens::<B>(batch, length, 20, 1);
        for chain in [None].into_iter().chain(independent_of_later_keys(&sizes).into_iter().map(Some)) {
            let layer = layer::<B>(&config(heads, kv_heads), chain.clone());
            let wanted = layer.forward(input.clone()).unwrap();
            for chunks in [vec![41], vec![40, 1], vec![1; 41], vec![13, 20, 1, 7]] {
                let what = format!("{heads} over {kv_heads} heads, {chain:?}, chunks {chunks:?}");
                // A scorer that draws random numbers takes its seed from the layer, or from the cache if there is one.
                // Both seeds are 0.
                let found = in_chunks(&layer, &mut KvCache::new(0), &input, chunks);
                match &chain {
                    Some(chain) if selects_by_content(chain) => close_but_for_near_scores(&found, &wanted, &what),
                    _ => close(&found, &wanted, &what),
                }
            }
        }
    }
}

/// The options of a layer: each one alone, and all together.
fn options() -> Vec<GroupedQueryAttentionConfig> {
    let plain = GroupedQueryAttentionConfig::new(20, 4, 2);
    vec![
        plain.clone(),
        plain.clone().with_bias(true).with_output_bias(true),
        plain.clone().with_norm_epsilon(Some(1e-6)),
        plain.clone().with_rotary(Some(RotaryEncodingConfig::new().with_partial_factor(0.4))),
        plain.clone().with_sliding_window(Some(6)),
        plain.clone().with_softcap(Some(0.5)),
        plain.clone().with_sink_logits(true).with_scale(Some(0.9)),
        GroupedQueryAttentionConfig::new(20, 4, 1)
            .with_head_dim(Some(12))
            .with_bias(true)
            .with_norm_epsilon(Some(1e-6))
            .with_rotary(Some(RotaryEncodingConfig::new().with_theta(500.0)))
            .with_sliding_window(Some(9))
            .with_softcap(Some(0.5))
            .with_sink_logits(true),
    ]
}

fn every_option_holds_in_a_cache<B: Backend>() {
    let input = tokens::<B>(2, 23, 20, 2);
    let top_k = json!([{"type": "sink", "sink_size": 1}, {"type": "oracle_top_k", "heavy_size": 3}]);
    for config in options() {
        for chain in [None, Some(top_k.clone())] {
            let layer = layer::<B>(&config, chain.clone());
            let wanted = layer.forward(input.clone()).unwrap();
            for chunks in [vec![22, 1], vec![1; 23], vec![3, 12, 8]] {
                let found = in_chunks(&layer, &mut KvCache::new(7), &input, chunks);
                match &chain {
                    Some(_) => close_but_for_near_scores(&found, &wanted, &config.to_string()),
                    None => close(&found, &wanted, &config.to_string()),
                }
            }
        }
    }
}

/// Every deterministic method that remembers keys. The truncated tokens have large values, so that any trace of them
/// would show in the output.
fn truncated_tokens_leave_no_trace<B: Backend>() {
    let sizes = Sizes::new(1, 4, 2, 40, 40, 12);
    let top_k = |scorer| json!([{"type": "top_k", "heavy_size": 4, "scorer": scorer}]);
    let methods = [
        top_k(json!({"type": "oracle"})),
        top_k(hash(&sizes)),
        top_k(channels(&sizes)),
        top_k(json!({"type": "pages", "page_size": 4, "label_bits": 5})),
        json!([{"type": "quest_top_k", "heavy_size": 6, "page_size": 3, "label_bits": 16, "minimum_pages": 2}]),
        top_k(json!({"type": "pq", "pq_sub_dim": 5, "pq_bits": 3})),
        json!([{"type": "pq_cache", "heavy_size": 5, "pq_sub_dim": 4, "pq_bits": 2}]),
        top_k(json!({"type": "socket", "tables": 9, "bits": 5, "temperature": 0.4})),
        json!([{"type": "magic_pig", "lsh_l": 9, "lsh_k": 3}]),
    ];
    let input = tokens::<B>(1, 31, 20, 3);
    let loud = tokens::<B>(1, 17, 20, 4) * 30.0;
    for chain in [None].into_iter().chain(methods.into_iter().map(Some)) {
        let layer = layer::<B>(&config(4, 2), chain.clone());
        // The number of tokens of the first chunk, the number of single-token steps after it, and the length after
        // truncation.
        for (first, more, stay) in [(20, 5, 25), (20, 5, 22), (20, 0, 20), (20, 5, 9), (20, 5, 7)] {
            let what = format!("{chain:?}, {first} and {more} tokens, {stay} stay");
            let tail = input.clone().slice_dim(1, stay..31);
            let rest = || [3].into_iter().chain(std::iter::repeat_n(1, 31 - stay - 3));
            let begin = |cache: &mut KvCache<B>, first: usize, more: usize| {
                let begin = input.clone().slice_dim(1, 0..first + more);
                in_chunks(&layer, cache, &begin, [first].into_iter().chain(std::iter::repeat_n(1, more)))
            };
            let mut cache = KvCache::new(7);
            begin(&mut cache, first, more);
            in_chunks(&layer, &mut cache, &loud, [10, 1, 1, 5]);
            cache.truncate(stay + 2).unwrap();
            cache.truncate(stay).unwrap();
            assert_eq!(cache.len(), stay);
            let found = in_chunks(&layer, &mut cache, &tail, rest());
            let mut never = KvCache::new(7);
            begin(&mut never, first.min(stay), stay.saturating_sub(first));
            let wanted = in_chunks(&layer, &mut never, &tail, rest());
            close(&found, &wanted, &what);
        }
    }
}

fn a_reset_cache_equals_a_new_one<B: Backend>() {
    let input = tokens::<B>(1, 30, 20, 5);
    let other = tokens::<B>(1, 35, 20, 6) * 10.0;
    let methods = [
        json!([{"type": "random_sampling", "sampling_rate": 0.3}]),
        json!([{"type": "magic_pig", "lsh_l": 9, "lsh_k": 3}]),
        json!([{"type": "pq_cache", "heavy_size": 5, "pq_sub_dim": 4, "pq_bits": 2}]),
    ];
    for chain in methods {
        let layer = layer::<B>(&config(4, 2), Some(chain));
        let run =
            |cache: &mut KvCache<B>, input: &Tensor<B, 3>| in_chunks(&layer, cache, input, [input.dims()[1] - 4, 1, 3]);
        let mut cache = KvCache::new(7);
        run(&mut cache, &other);
        let capacity = cache.capacity();
        cache.reset();
        assert!(cache.is_empty() && cache.keys().is_none() && cache.capacity() == capacity);
        assert_eq!(run(&mut cache, &input).to_data(), run(&mut KvCache::new(7), &input).to_data());
    }
}

fn identity<B: Backend>(width: usize) -> Param<Tensor<B, 2>> {
    Param::from_tensor(Tensor::eye(width, &B::Device::default()))
}

/// With identity projections, the layer is self-attention over its input.
fn identity_projections_give_plain_attention<B: Backend>() {
    let input = tokens::<B>(2, 19, 12, 8);
    let device = B::Device::default();
    for (heads, softcap, sink_logits, window, scale) in [
        (1, None, false, None, None),
        (3, Some(0.8), false, None, None),
        (4, None, true, None, Some(0.7)),
        (2, Some(2.0), true, Some(5), None),
    ] {
        let config = GroupedQueryAttentionConfig::new(12, heads, heads)
            .with_softcap(softcap)
            .with_sink_logits(sink_logits)
            .with_sliding_window(window)
            .with_scale(scale);
        let mut layer = layer::<B>(&config, None);
        for linear in [&mut layer.query, &mut layer.key, &mut layer.value, &mut layer.output] {
            linear.weight = identity(12);
        }
        let logits = Tensor::from_data(TensorData::new((0..heads).map(|h| h as f32 - 1.0).collect(), [heads]), &device);
        if sink_logits {
            layer.sink_logits = Some(Param::from_tensor(logits.clone()));
        }
        let by_head = input.clone().reshape([2, 19, heads, 12 / heads]).swap_dims(1, 2);
        let visibility = match window {
            Some(window) => Visibility::Window { offset: 0, window },
            None => Visibility::Causal { offset: 0 },
        };
        let mut inputs = AttentionInputs::new(by_head.clone(), by_head.clone(), by_head).unwrap();
        inputs = inputs.with_visibility(visibility).unwrap();
        if let Some(cap) = softcap {
            inputs = inputs.with_softcap(cap).unwrap();
        }
        if sink_logits {
            inputs = inputs.with_sink_logits(logits).unwrap();
        }
        if let Some(scale) = scale {
            inputs = inputs.with_scale(scale).unwrap();
        }
        let (wanted, ..) = naive_attention(&inputs, &vec![1.0; inputs.mask_shape().pairs()]);
        let found = layer.forward(input.clone()).unwrap().reshape([2, 19, heads, 12 / heads]).swap_dims(1, 2);
        // The projections round their outputs. The logit of a token with itself has the rounding error of all terms of
        // `|x|^2`. In thousands of inputs computed with rounded operands no output was off by more than 3.0 roundings.
        let tolerance = 2e-6 + 5.0 * product_rounding::<B>();
        assert_close(&host(&found), &wanted, tolerance, &config.to_string());
    }
}

/// The window of a layer hides earlier keys from any method. A chain keeps only those of its keys that are in the
/// window.
fn a_window_hides_earlier_keys_from_every_method<B: Backend>() {
    let input = tokens::<B>(1, 27, 20, 9);
    let shape = MaskShape::new([1, 4, 27, 27]);
    let plain = config(4, 2);
    let device = B::Device::default();
    let chain = json!([{"type": "sink", "sink_size": 2}, {"type": "local", "window_size": 3}]);
    let cases = [
        (None, Pattern::local(usize::MAX, 0)),
        (Some(chain), Pattern { sink: 2, window: 3, offset: 0 }),
        (Some(json!([{"type": "oracle_top_k", "heavy_size": 7}])), Pattern::local(usize::MAX, 0)),
        (Some(json!([{"type": "sink", "sink_size": 2}, {"type": "local", "window_size": 9}])), Pattern::causal(0)),
    ];
    for (chain, kept) in cases {
        let windowed = layer::<B>(&plain.clone().with_sliding_window(Some(7)), chain.clone());
        let seen = |row: usize, key: usize| key <= row && row - key < 7 && kept.keeps(row, key);
        let weights = (0..shape.pairs()).map(|at| f32::from(u8::from(seen(at / 27 % 27, at % 27))));
        let given = Given(Mask::from_dense(tensor::<B>(&weights.collect::<Vec<_>>(), shape.dims())).unwrap());
        // burn initializes the parameters when they are first read. Each copy of a layer would get different numbers.
        let found = windowed.forward(input.clone()).unwrap();
        let mut naive = plain.init_with(given, &device).unwrap();
        (naive.query, naive.key) = (windowed.query.clone(), windowed.key.clone());
        (naive.value, naive.output) = (windowed.value.clone(), windowed.output.clone());
        let wanted = naive.forward(input.clone()).unwrap();
        close(&found, &wanted, &format!("{chain:?}"));
        close(
            &in_chunks(&windowed, &mut KvCache::new(7), &input, [20, 1, 1, 5]),
            &wanted,
            &format!("{chain:?}, cached"),
        );
    }
}

fn norms_remove_the_length<B: Backend>() {
    let input = tokens::<B>(1, 9, 20, 10);
    let mut layer = layer::<B>(&config(4, 2).with_norm_epsilon(Some(1e-12)), None);
    let wanted = layer.forward(input.clone()).unwrap();
    let times = |param: Param<Tensor<B, 2>>, factor: f64| param.map(|weight| weight * factor);
    layer.query.weight = times(layer.query.weight, 3.0);
    layer.key.weight = times(layer.key.weight, 0.2);
    close(&layer.forward(input.clone()).unwrap(), &wanted, "longer projections");
    // The weight of each norm multiplies the logits, as the scale does.
    let twice = |norm: Option<burn::nn::RmsNorm<B>>, factor: f64| {
        norm.map(|mut norm| {
            norm.gamma = norm.gamma.map(|gamma| gamma * factor);
            norm
        })
    };
    layer.query_norm = twice(layer.query_norm, 4.0);
    layer.key_norm = twice(layer.key_norm, 0.25);
    close(&layer.forward(input.clone()).unwrap(), &wanted, "one norm for the other");
    layer.query_norm = twice(layer.query_norm, 4.0);
    let apart = layer.forward(input).unwrap() - wanted;
    assert!(apart.abs().max().into_scalar().elem::<f32>() > 1e-3);
}

fn errors_leave_the_cache_as_it_was<B: Backend>() {
    let mut cache = KvCache::<B>::new(1);
    let mut zeros = |dims: [usize; 4], values: [usize; 4]| {
        let tensor = |dims: [usize; 4]| tensor::<B>(&vec![0.0; dims.iter().product()], dims);
        let result = cache.append(tensor(dims), tensor(values)).map_err(|error| error.to_string());
        (result, cache.len())
    };
    assert_eq!(zeros([2, 3, 5, 4], [2, 3, 5, 6]), (Ok(()), 5));
    let message = |(result, length): (Result<(), String>, usize)| {
        assert_eq!(length, 5);
        result.unwrap_err()
    };
    let error = message(zeros([2, 3, 0, 4], [2, 3, 0, 6]));
    assert!(error.starts_with("`keys` has the shape [2, 3, 0, 4], but must be at least 1"), "{error}");
    let error = message(zeros([2, 3, 2, 4], [2, 3, 1, 6]));
    assert!(error.contains("`values` has the shape [2, 3, 1, 6], but must be [2, 3, 2, value_dim]"), "{error}");
    let error = message(zeros([1, 3, 2, 4], [1, 3, 2, 6]));
    assert!(error.contains("`keys` has the shape [1, 3, 2, 4], but must be [2, 3, tokens, 4]"), "{error}");
    let error = message(zeros([2, 3, 2, 4], [2, 3, 2, 5]));
    assert!(error.contains("`values` has the shape [2, 3, 2, 5], but must be [2, 3, tokens, 6]"), "{error}");
    // Tokens for which the method fails are removed from the cache.
    let layer = config(4, 2).init_with::<B, _>(Fails, &B::Device::default()).unwrap();
    let mut cache = KvCache::new(1);
    layer.forward_cache(tokens(1, 2, 20, 1), &mut cache).unwrap();
    let error = layer.forward_cache(tokens(1, 9, 20, 1), &mut cache).unwrap_err();
    assert!(matches!(error, AttentionError::Value { field: "keys", .. }), "{error}");
    assert_eq!(cache.len(), 2);
    layer.forward_cache(tokens(1, 1, 20, 1), &mut cache).unwrap();
    let error = layer.forward(tokens(1, 3, 19, 1)).unwrap_err().to_string();
    assert!(error.contains("`input` has the shape [1, 3, 19], but must be [batch, length, 20]"), "{error}");
}

fn caches_grow_by_doubling_and_return_appended_tokens<B: Backend>() {
    let all = |seed| tensor::<B>(&normal(&mut generator(seed), 2 * 3 * 75 * 4), [2, 3, 75, 4]);
    let (keys, values) = (all(1), all(2));
    let mut cache = KvCache::new(1);
    let (mut start, mut capacities) = (0, Vec::new());
    for length in [1, 15, 1, 40, 1, 1, 6, 10] {
        let part = |tensor: &Tensor<B, 4>| tensor.clone().slice_dim(2, start..start + length);
        // A view that is still held does not change.
        let before = cache.keys();
        let shown = before.as_ref().map(host);
        cache.append(part(&keys), part(&values)).unwrap();
        assert_eq!(before.as_ref().map(host), shown);
        start += length;
        capacities.push(cache.capacity());
        assert_eq!(host(&cache.keys().unwrap()), host(&keys.clone().slice_dim(2, 0..start)));
        assert_eq!(host(&cache.values().unwrap()), host(&values.clone().slice_dim(2, 0..start)));
    }
    assert_eq!(capacities, [64, 64, 64, 64, 64, 64, 128, 128]);
    // Truncated tokens are overwritten by later ones.
    cache.truncate(20).unwrap();
    cache.append(values.clone().slice_dim(2, 0..2), keys.clone().slice_dim(2, 0..2)).unwrap();
    let wanted = Tensor::cat(vec![keys.slice_dim(2, 0..20), values.slice_dim(2, 0..2)], 2);
    assert_eq!(host(&cache.keys().unwrap()), host(&wanted));
    assert_eq!((cache.len(), cache.capacity()), (22, 128));
    cache.truncate(30).unwrap();
    assert_eq!(cache.len(), 22);
    assert_eq!(KvCache::<B>::with_capacity(1, 1000).capacity(), 1000);
}

fn invalid_configurations_name_the_field<B: Backend>() {
    let field = |config: GroupedQueryAttentionConfig| match config.init::<B>(&B::Device::default()).map(|_| ()) {
        Err(ConfigError::Value { field, .. }) => field,
        other => panic!("{other:?}"),
    };
    let good = GroupedQueryAttentionConfig::new(24, 4, 2);
    assert_eq!(field(GroupedQueryAttentionConfig::new(0, 4, 2)), "d_model");
    assert_eq!(field(GroupedQueryAttentionConfig::new(25, 4, 2)), "d_model");
    assert_eq!(field(GroupedQueryAttentionConfig::new(24, 4, 0)), "n_kv_heads");
    assert_eq!(field(GroupedQueryAttentionConfig::new(24, 4, 3)), "n_heads");
    assert_eq!(field(good.clone().with_head_dim(Some(0))), "head_dim");
    assert_eq!(field(good.clone().with_head_dim(Some(5)).with_rotary(Some(RotaryEncodingConfig::new()))), "head_dim");
    assert_eq!(field(good.clone().with_norm_epsilon(Some(0.0))), "norm_epsilon");
    assert_eq!(field(good.clone().with_softcap(Some(f64::INFINITY))), "softcap");
    assert_eq!(field(good.clone().with_scale(Some(f64::NAN))), "scale");
    assert_eq!(field(good.with_sliding_window(Some(0))), "sliding_window");
}

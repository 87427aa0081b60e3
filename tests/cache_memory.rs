//! The memory that one token takes in a long cache. A step does not copy earlier tokens. Only the scores of the heads
//! that are being computed grow with the length of the cache. This file is a program by itself, because it counts all
//! allocations.
#![cfg(feature = "flex")]

mod common;

use std::{collections::BTreeSet, time::Instant};

use burn::tensor::{Distribution, Tensor, backend::Backend};
use common::*;
use peak_alloc::PeakAlloc;
use serde_json::json;
use sparse_attention_hub::{
    nn::{GroupedQueryAttentionConfig, KvCache, RotaryEncodingConfig},
    prelude::*,
};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

const LENGTH: usize = 32_768;

/// The peak of the additional bytes that are allocated while `work` runs.
fn extra<T>(work: impl FnOnce() -> T) -> (T, usize) {
    MEMORY.reset_peak_usage();
    let before = MEMORY.current_usage();
    let result = work();
    (result, MEMORY.peak_usage().saturating_sub(before))
}

fn check<B: Backend>(name: &str) {
    let (kv_heads, width) = (4, 64);
    let device = B::Device::default();
    let past = kv_heads * LENGTH * width * size_of::<f32>();
    let tokens = |count| Tensor::<B, 4>::zeros([1, kv_heads, count, width], &device) + 1.0;
    let mut cache = KvCache::<B>::with_capacity(1, 2 * LENGTH);
    cache.append(tokens(LENGTH), tokens(LENGTH)).unwrap();
    // The first write to fresh zeros of ndarray copies them into memory that ndarray owns.
    cache.append(tokens(1), tokens(1)).unwrap();

    let mut times = Vec::new();
    for _ in 0..200 {
        let (key, value) = (tokens(1), tokens(1));
        let ((), bytes) = extra(|| {
            let start = Instant::now();
            cache.append(key, value).unwrap();
            times.push(start.elapsed());
        });
        assert!(bytes < 16 << 10, "{name}: a token takes {bytes} bytes beside a past of {past}");
        let (dims, bytes) = extra(|| cache.keys().unwrap().dims());
        assert_eq!(dims[2], cache.len());
        assert!(bytes < 16 << 10, "{name}: a view takes {bytes} bytes beside a past of {past}");
    }
    times.sort();
    println!("{name}: a token into a cache of {LENGTH}: median {:?}, slowest {:?}", times[100], times[199]);

    // A fork shares the buffers. The cache that writes first copies its own once. Then both write in place.
    let buffers = 2 * kv_heads * cache.capacity() * width * size_of::<f32>();
    let (mut fork, bytes) = extra(|| cache.clone());
    assert!(bytes < 16 << 10, "{name}: a clone takes {bytes} bytes");
    let (key, value) = (tokens(1), tokens(1));
    let ((), bytes) = extra(|| fork.append(key, value).unwrap());
    assert!(bytes.abs_diff(buffers) < 16 << 10, "{name}: a fork takes {bytes} bytes of {buffers}");
    for cache in [&mut cache, &mut fork] {
        let (key, value) = (tokens(1), tokens(1));
        let ((), bytes) = extra(|| cache.append(key, value).unwrap());
        assert!(bytes < 16 << 10, "{name}: a token after a fork takes {bytes} bytes");
    }
    drop(fork);

    let config = GroupedQueryAttentionConfig::new(64, 8, kv_heads)
        .with_head_dim(Some(width))
        .with_rotary(Some(RotaryEncodingConfig::new()));
    let method = r#"[{"type": "sink", "sink_size": 16}, {"type": "local", "window_size": 64}]"#;
    let maskers = MaskerChainConfig::from_json(method).unwrap();
    let layer = config.with_maskers(maskers).init::<B>(&device).unwrap();
    let input = || Tensor::<B, 3>::ones([1, 1, 64], &device);
    layer.forward_cache(input(), &mut cache).unwrap();
    for _ in 0..20 {
        let input = input();
        let (output, bytes) = extra(|| layer.forward_cache(input, &mut cache).unwrap());
        assert!(bytes < 1 << 20, "{name}: a step takes {bytes} bytes beside a past of {past}");
        assert_eq!(output.dims(), [1, 1, 64]);
    }
}

/// A decode step that keeps a fixed number of keys takes the same memory for any cache length, except for one row of
/// scores for each thread.
fn check_steps<B: Backend>(name: &str) {
    let device = B::Device::default();
    let threads = rayon::current_num_threads();
    let sizes = Sizes::new(1, 8, 4, 1, LENGTH, 64);
    let mut checked = BTreeSet::new();
    for mut heavy in METHODS.iter().map(|method| (method.config)(&sizes)) {
        // The first row of `top_k` over each scorer.
        let scorer = heavy["scorer"]["type"].to_string();
        if heavy["type"] != "top_k" || !checked.insert(scorer.clone()) {
            continue;
        }
        heavy["heavy_size"] = json!(64);
        let method = json!([{"type": "sink", "sink_size": 16}, {"type": "local", "window_size": 64}, heavy]);
        let attention = MaskerRegistry::<B>::new().research_attention(&method.to_string(), &device).unwrap();
        let step = |length: usize| {
            let room = length + 8;
            let random = |heads, length| Tensor::<B, 4>::random([1, heads, length, 64], Distribution::Default, &device);
            let (queries, keys, values) = (random(8, 1), random(4, room), random(4, room));
            let mut state = LayerState::new(1);
            let steps = (length..room).map(|length| {
                let part = |tensor: &Tensor<B, 4>| tensor.clone().slice_dim(2, 0..length);
                let inputs =
                    AttentionInputs::new(queries.clone(), part(&keys), part(&values)).unwrap().causal().unwrap();
                extra(|| attention.forward(&inputs, &mut state, Requested::default()).unwrap()).1
            });
            // The first step fills the state. A later step may find the state full and double its capacity.
            steps.min().unwrap()
        };
        let (short, long) = (step(LENGTH / 8), step(LENGTH));
        println!("{name}: {scorer}: {short} bytes at {} keys, {long} at {LENGTH}", LENGTH / 8);
        // One row holds the scores and the indices of the candidate keys.
        let row = (LENGTH - LENGTH / 8) * (size_of::<f32>() + size_of::<u32>());
        assert!(long <= short + threads * row + (16 << 10), "{name}: {heavy} takes {short} bytes, then {long}");
    }
}

/// A layer with a window of 16 takes memory proportional to the window, for any number of tokens.
fn check_window<B: Backend>(name: &str) {
    let device = B::Device::default();
    let (kv_heads, width) = (4, 64);
    let config = GroupedQueryAttentionConfig::new(64, 8, kv_heads).with_head_dim(Some(width));
    let layer = config.with_sliding_window(Some(16)).init::<B>(&device).unwrap();
    let input = |count| Tensor::<B, 3>::ones([1, count, 64], &device);
    // burn initializes the parameters when they are first read.
    layer.forward(input(1)).unwrap();
    let mut cache = KvCache::<B>::new(1);
    layer.forward_cache(input(150), &mut cache).unwrap();
    let mut used = Vec::new();
    while cache.len() < 2000 {
        layer.forward_cache(input(1), &mut cache).unwrap();
        used.push(MEMORY.current_usage());
    }
    let most = |steps: &[usize]| steps.iter().max().copied().unwrap_or(0);
    let (early, late) = (most(&used[50..250]), most(&used[used.len() - 200..]));
    let window = 2 * kv_heads * 16 * width * size_of::<f32>();
    println!("{name}: {early} bytes after 400 tokens, {late} after 2,000, a window takes {window}");
    assert!(late <= early + window, "{name}: {early} bytes, then {late}, for a window of {window}");
    assert!(cache.capacity() <= 128, "{name}: {} places", cache.capacity());
}

/// There is one test for all backends, because allocations of a test in another thread would be counted.
#[test]
fn a_token_does_not_copy_the_past() {
    check::<burn_flex::Flex>("flex");
    #[cfg(feature = "ndarray")]
    {
        check::<burn_ndarray::NdArray>("ndarray");
        check_steps::<burn_ndarray::NdArray>("ndarray");
    }
    check_steps::<burn_flex::Flex>("flex");
    check_window::<burn_flex::Flex>("flex");
    #[cfg(feature = "ndarray")]
    check_window::<burn_ndarray::NdArray>("ndarray");
    let _ = generator(0);
}

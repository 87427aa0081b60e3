//! What a token costs in a long cache: no copy of the past, in memory or in time. Alone in its program, since it counts
//! all that is allocated.
#![cfg(feature = "flex")]

mod common;

use std::time::Instant;

use burn::tensor::{Tensor, backend::Backend};
use common::*;
use peak_alloc::PeakAlloc;
use sparse_attention_hub::{
    nn::{GroupedQueryAttentionConfig, KvCache, RotaryEncodingConfig},
    prelude::*,
};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

const LENGTH: usize = 32_768;

/// Bytes that are allocated on top while something is done, at their most.
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
    // The first write to fresh zeros of ndarray is a copy: into memory that it owns.
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

/// One test for all: another thread's allocations would count.
#[test]
fn a_token_does_not_copy_the_past() {
    check::<burn_flex::Flex>("flex");
    #[cfg(feature = "ndarray")]
    check::<burn_ndarray::NdArray>("ndarray");
    let _ = generator(0);
}

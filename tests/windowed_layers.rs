//! Layers with a sliding window. The cache holds only the window, and the output is that of a cache that holds all
//! keys.

mod common;

use burn::tensor::{Tensor, backend::Backend};
use common::{gqa::*, *};
use serde_json::{Value, json};
use sparse_attention_hub::{
    attention::AttentionError,
    nn::{GqaInput, KvCache},
};

on_host_backends!(
    a_cache_of_the_window_gives_what_all_keys_give,
    tokens_truncated_within_the_spare_leave_no_trace,
    given_up_keys_cannot_be_restored,
    sequences_of_unequal_lengths_give_up_their_own_keys,
);

const WINDOW: usize = 16;

fn windowed<B: Backend>(chain: Option<Value>) -> Layer<B> {
    layer::<B>(&config(4, 2).with_sliding_window(Some(WINDOW)), chain)
}

/// Chains that read no keys before the window, except for a few.
fn chains_within_the_window() -> Vec<Option<Value>> {
    let sink = json!({"type": "sink", "sink_size": 3});
    let local = json!({"type": "local", "window_size": 5});
    let oracle = json!({"type": "oracle"});
    vec![
        None,
        Some(json!([sink, local])),
        Some(json!([{"type": "local", "window_size": 40}])),
        Some(json!([sink, {"type": "oracle_top_k", "heavy_size": 4}])),
        Some(
            json!([{"type": "top_k", "heavy_size": 4, "share_group": true, "scorer": {"type": "oracle", "label_bits": 4}}]),
        ),
        Some(json!([sink, {"type": "oracle_top_p", "top_p": 0.6}])),
        Some(json!([{"type": "threshold", "threshold": 0.05, "scorer": oracle}])),
        Some(
            json!([sink, {"type": "top_p", "top_p": 0.7, "scorer": oracle, "candidates": {"heavy_size": 8, "scorer": oracle}}]),
        ),
        Some(json!([sink, {"type": "causal"}])),
    ]
}

fn a_cache_of_the_window_gives_what_all_keys_give<B: Backend>() {
    let x = tokens::<B>(2, 401, 20, 1);
    let methods = METHODS.iter().map(|method| Some(json!([(method.config)(&Sizes::new(1, 4, 2, 1, 1, 12))])));
    let chains_within_the_window = chains_within_the_window();
    let count = chains_within_the_window.len();
    for (index, chain) in chains_within_the_window.into_iter().chain(methods).enumerate() {
        let layer = windowed::<B>(chain.clone());
        for chunks in [vec![300, 1, 70, 30], [vec![7; 50], vec![1; 51]].concat()] {
            let mut all = KvCache::new(0).with_spare(usize::MAX);
            let wanted = in_chunks(&layer, &mut all, &x, chunks.clone());
            assert_eq!((all.len(), all.start()), (401, 0));
            let mut cache = KvCache::new(0);
            let found = in_chunks(&layer, &mut cache, &x, chunks);
            close_but_for_near_scores(&found, &wanted, &format!("{chain:?}"));
            assert_eq!(cache.len(), 401);
            if index < count {
                assert!(cache.capacity() <= 128, "{chain:?}: {} places for a window of {WINDOW}", cache.capacity());
                assert!(cache.start() > 401 - 128, "{chain:?}: {}", cache.start());
            }
        }
    }
}

fn tokens_truncated_within_the_spare_leave_no_trace<B: Backend>() {
    let x = tokens::<B>(1, 330, 20, 2);
    let loud = tokens::<B>(1, 9, 20, 3) * 30.0;
    let part = |start: usize, end: usize| x.clone().slice_dim(1, start..end);
    for chain in chains_within_the_window() {
        let layer = windowed::<B>(chain.clone());
        let mut never = KvCache::new(0).with_spare(usize::MAX);
        let mut cache = KvCache::new(0).with_spare(9);
        for cache in [&mut never, &mut cache] {
            layer.forward_cache(part(0, 200), cache).unwrap();
        }
        for start in (200..330).step_by(10) {
            for draft in [9, 4] {
                layer.forward_cache(loud.clone().slice_dim(1, 0..draft), &mut cache).unwrap();
                cache.truncate(start).unwrap();
            }
            assert_eq!(cache.len(), start);
            let found = layer.forward_cache(part(start, start + 10), &mut cache).unwrap();
            let wanted = layer.forward_cache(part(start, start + 10), &mut never).unwrap();
            close_but_for_near_scores(&found, &wanted, &format!("{chain:?}, {start}"));
        }
        assert!(cache.capacity() <= 128 && cache.start() > 0);
    }
}

fn given_up_keys_cannot_be_restored<B: Backend>() {
    let layer = windowed::<B>(None);
    let x = tokens::<B>(1, 300, 20, 4);
    let mut cache = KvCache::new(0).with_spare(5);
    in_chunks(&layer, &mut cache, &x, [300]);
    let error = cache.truncate(100).unwrap_err();
    let AttentionError::GivenUp { length: 100, earliest } = error else { panic!("{error}") };
    assert!((200..=295).contains(&earliest), "{earliest}");
    assert!(error.to_string().contains(&format!("to {earliest} at the earliest")), "{error}");
    assert!(matches!(cache.truncate(earliest - 1), Err(AttentionError::GivenUp { .. })));
    assert_eq!(cache.len(), 300);
    cache.truncate(earliest).unwrap();
    assert_eq!(cache.len(), earliest);
    // The remaining tokens of the cache are right: the last tokens give the same output again.
    let rest = |start: usize| x.clone().slice_dim(1, start..300);
    let found = layer.forward_cache(rest(earliest), &mut cache).unwrap();
    let wanted = layer.forward(x.clone()).unwrap().slice_dim(1, earliest..300);
    close(&found, &wanted, "after the way back");
    cache.reset();
    assert_eq!((cache.len(), cache.start()), (0, 0));
    let again = in_chunks(&layer, &mut cache, &x, [299, 1]);
    close(&again, &layer.forward(x.clone()).unwrap(), "after a reset");
    cache.truncate(300).unwrap();
    // Without a window the cache can be truncated to any length.
    let plain = common::gqa::layer::<B>(&config(4, 2), None);
    let mut cache = KvCache::new(0);
    in_chunks(&plain, &mut cache, &x, [300]);
    cache.truncate(0).unwrap();
    assert!(cache.is_empty());
}

fn sequences_of_unequal_lengths_give_up_their_own_keys<B: Backend>() {
    let chain = json!([{"type": "sink", "sink_size": 2}, {"type": "oracle_top_k", "heavy_size": 6}]);
    let layer = windowed::<B>(Some(chain));
    let x = tokens::<B>(2, 260, 20, 5);
    let (mut cache, mut all) = (KvCache::new(0), KvCache::new(0).with_spare(usize::MAX));
    let mut run = |input: GqaInput<B>| {
        let found = layer.forward_cache(input.clone(), &mut cache).unwrap();
        close_but_for_near_scores(&found, &layer.forward_cache(input, &mut all).unwrap(), "apart");
    };
    run(GqaInput::new(x.clone().slice_dim(1, 0..200)).right_aligned(&[200, 20]).unwrap());
    for step in 200..260 {
        run(x.clone().slice_dim(1, step..step + 1).into());
    }
    assert_eq!((cache.real_len(0), cache.real_len(1)), (260, 80));
    assert!(cache.capacity() <= 128);
    let error = cache.truncate(150).unwrap_err();
    let AttentionError::GivenUp { earliest, .. } = error else { panic!("{error}") };
    cache.truncate(earliest).unwrap();
    let rest = x.slice_dim(1, earliest..260);
    all.truncate(earliest).unwrap();
    let wanted: Tensor<B, 3> = layer.forward_cache(rest.clone(), &mut all).unwrap();
    close_but_for_near_scores(&layer.forward_cache(rest, &mut cache).unwrap(), &wanted, "after the way back");
}

//! Clones of caches. Each branch of a forked cache gives, bit for bit, what a cache of its own gives that was given the
//! same tokens.

mod common;

use burn::tensor::{Tensor, backend::Backend};
use common::{gqa::*, *};
use serde_json::{Value, json};
use sparse_attention_hub::{
    nn::{
        GqaInput, KvCache, MhaCache, MhaInput, SparseCrossAttentionCache, SparseCrossAttentionConfig,
        SparseMultiHeadAttentionConfig, SparseTransformerEncoderConfig, TransformerEncoderInput,
    },
    prelude::*,
};

on_host_backends!(
    branches_of_a_grouped_cache_equal_separate_caches,
    branches_of_a_cache_of_a_window_equal_separate_caches,
    branches_of_the_caches_of_burns_layers_equal_separate_caches,
);

/// The methods of the matrix, and those that are fitted to the first call.
fn methods(sizes: &Sizes) -> Vec<Value> {
    let pq = json!({"type": "pq", "pq_sub_dim": 5, "pq_bits": 3, "fit": "prompt"});
    let fitted_to_the_prompt = [
        json!({"type": "top_k", "heavy_size": 4, "scorer": pq}),
        json!({"type": "quest_top_k", "heavy_size": 6, "page_size": 3, "label_bits": 4, "fit": "prompt"}),
        json!({"type": "magic_pig", "lsh_l": 12, "lsh_k": 2, "minimum_hits": 2, "fit": "prompt"}),
    ];
    METHODS.iter().map(|method| (method.config)(sizes)).chain(fitted_to_the_prompt).collect()
}

fn columns<B: Backend>(x: &Tensor<B, 3>, range: std::ops::Range<usize>) -> Tensor<B, 3> {
    x.clone().slice_dim(1, range)
}

#[track_caller]
fn same<B: Backend>(found: &[Tensor<B, 3>], wanted: &[Tensor<B, 3>], what: &str) {
    assert_eq!(found.len(), wanted.len(), "{what}");
    for (found, wanted) in found.iter().zip(wanted) {
        assert_eq!(found.to_data(), wanted.to_data(), "{what}");
    }
}

/// The steps after the fork, by branch: a step of one token, a chunk, and another step.
const STEPS: [(usize, usize); 3] = [(20, 21), (21, 25), (25, 26)];

fn branches_of_a_grouped_cache_equal_separate_caches<B: Backend>() {
    let context = tokens::<B>(2, 20, 20, 1);
    // The branches differ by 7 times in length, so that what one of them leaves in a memory of the other is seen.
    let branches = [tokens::<B>(2, 26, 20, 2), tokens::<B>(2, 26, 20, 3) * 7.0];
    for config in methods(&Sizes::new(2, 4, 2, 1, 1, 12)) {
        let layer = layer::<B>(&common::gqa::config(4, 2), Some(json!([config])));
        for padded in [false, true] {
            let what = format!("{config}, padded {padded}");
            let of_context = || {
                let mut cache = KvCache::new(3);
                let input = GqaInput::new(columns(&context, 0..15));
                let input = if padded { input.right_aligned(&[15, 12]).unwrap() } else { input };
                layer.forward_cache(input, &mut cache).unwrap();
                layer.forward_cache(columns(&context, 15..20), &mut cache).unwrap();
                cache
            };
            let step = |cache: &mut KvCache<B>, branch: usize, (start, end): (usize, usize)| {
                layer.forward_cache(columns(&branches[branch], start..end), cache).unwrap()
            };
            let steps = |cache: &mut KvCache<B>, branch| STEPS.map(|of_step| step(cache, branch, of_step));
            let alone = [0, 1].map(|branch| steps(&mut of_context(), branch));
            let mut first = of_context();
            let mut second = first.clone();
            assert_eq!(
                (second.len(), second.is_apart(), second.real_len(1)),
                (20, padded, 20 - 3 * usize::from(padded))
            );
            let together = STEPS.map(|of_step| (step(&mut first, 0, of_step), step(&mut second, 1, of_step)));
            let (found_first, found_second): (Vec<_>, Vec<_>) = together.into_iter().unzip();
            same(&found_first, &alone[0], &what);
            same(&found_second, &alone[1], &what);

            // One branch goes back before the fork and takes the other way. The other branch and a later fork of it
            // notice nothing.
            let mut third = second.clone();
            first.truncate(17).unwrap();
            let mut truncated = of_context();
            steps(&mut truncated, 0);
            truncated.truncate(17).unwrap();
            let mut kept = of_context();
            steps(&mut kept, 1);
            let wanted = [step(&mut truncated, 1, (17, 22)), step(&mut truncated, 1, (22, 23))];
            let found = [step(&mut first, 1, (17, 22)), step(&mut first, 1, (22, 23))];
            same(&found, &wanted, &what);
            let wanted = [step(&mut kept, 0, (0, 1)), step(&mut kept, 0, (1, 6))];
            for other in [&mut second, &mut third] {
                same(&[step(other, 0, (0, 1)), step(other, 0, (1, 6))], &wanted, &what);
            }
        }
    }
}

/// The first branch gives up tokens before the window while the second stands still.
fn branches_of_a_cache_of_a_window_equal_separate_caches<B: Backend>() {
    let x = tokens::<B>(2, 700, 20, 4);
    for chain in [json!([]), json!([{"type": "local", "window_size": 3}]), json!([{"type": "causal"}])] {
        let layer = layer::<B>(&common::gqa::config(4, 2).with_sliding_window(Some(11)), Some(chain.clone()));
        let mut steps = vec![300];
        steps.extend([1; 30]);
        let of_context = || {
            let mut cache = KvCache::new(0);
            in_chunks(&layer, &mut cache, &columns(&x, 0..330), steps.clone());
            cache
        };
        let mut first = of_context();
        assert!(first.start() > 0, "{chain}");
        let mut second = first.clone();
        let run = |cache: &mut KvCache<B>| in_chunks(&layer, cache, &columns(&x, 330..700), vec![1; 370]);
        let wanted = run(&mut of_context());
        same(&[run(&mut first)], std::slice::from_ref(&wanted), &chain.to_string());
        assert_eq!(second.len(), 330);
        same(&[run(&mut second)], &[wanted], &chain.to_string());
    }
}

fn branches_of_the_caches_of_burns_layers_equal_separate_caches<B: Backend>() {
    let device = B::Device::default();
    let (x, context) = (tokens::<B>(2, 20, 24, 3), tokens::<B>(2, 26, 24, 4));
    let branches = [tokens::<B>(2, 26, 24, 5), tokens::<B>(2, 26, 24, 6) * 7.0];
    for config in methods(&Sizes::new(2, 4, 4, 1, 1, 6)) {
        let chain = MaskerChainConfig::from_json(&json!([config]).to_string()).unwrap();
        let layer = SparseMultiHeadAttentionConfig::new(24, 4).with_dropout(0.0).with_maskers(chain.clone());
        let layer = drawn(layer.init::<B>(&device));
        let own = SparseCrossAttentionConfig::new(24, 24, 4, 4, 6).with_dropout(0.0).with_maskers(chain.clone());
        let own = drawn(own.init::<B>(&device));
        let encoder = SparseTransformerEncoderConfig::new(24, 40, 4, 2).with_dropout(0.0).with_maskers(chain);
        let encoder = drawn(encoder.init::<B>(&device));

        let so_far = |branch: usize, end: usize| Tensor::cat(vec![x.clone(), columns(&branches[branch], 20..end)], 1);
        equal_branches(
            &format!("{config}, self-attention, steps"),
            || {
                let mut cache = MhaCache::autoregressive();
                layer.forward_step(MhaInput::self_attn(x.clone()), &mut cache).unwrap();
                cache
            },
            |cache, branch, (start, end)| {
                let input = MhaInput::self_attn(columns(&branches[branch], start..end));
                layer.forward_step(input, cache).unwrap().context
            },
        );
        // As in burn, the input of `forward_cache` is the whole sequence so far, and so is its output.
        equal_branches(
            &format!("{config}, self-attention, the sequence so far"),
            || {
                let mut cache = MhaCache::autoregressive();
                layer.forward_cache(MhaInput::self_attn(x.clone()), &mut cache);
                cache
            },
            |cache, branch, (_, end)| layer.forward_cache(MhaInput::self_attn(so_far(branch, end)), cache).context,
        );
        let over = |queries: Tensor<B, 3>| MhaInput::new(queries, context.clone(), context.clone());
        equal_branches(
            &format!("{config}, cross-attention"),
            || {
                let mut cache = MhaCache::autoregressive_cross_attention();
                layer.forward_step(over(x.clone()), &mut cache).unwrap();
                cache
            },
            |cache, branch, (start, end)| {
                layer.forward_step(over(columns(&branches[branch], start..end)), cache).unwrap().context
            },
        );
        equal_branches(
            &format!("{config}, its own cross-attention"),
            || {
                let mut cache = SparseCrossAttentionCache::new();
                own.forward_cache(x.clone(), context.clone(), None, &mut cache);
                cache
            },
            |cache, branch, (start, end)| {
                own.forward_cache(columns(&branches[branch], start..end), context.clone(), None, cache)
            },
        );
        equal_branches(
            &format!("{config}, encoder, steps"),
            || {
                let mut cache = encoder.new_autoregressive_cache();
                encoder.forward_step(TransformerEncoderInput::new(x.clone()), &mut cache).unwrap();
                cache
            },
            |cache, branch, (start, end)| {
                let input = TransformerEncoderInput::new(columns(&branches[branch], start..end));
                encoder.forward_step(input, cache).unwrap()
            },
        );
        equal_branches(
            &format!("{config}, encoder, the sequence so far"),
            || {
                let mut cache = encoder.new_autoregressive_cache();
                encoder.forward_autoregressive_inference(TransformerEncoderInput::new(x.clone()), &mut cache);
                cache
            },
            |cache, branch, (_, end)| {
                encoder.forward_autoregressive_inference(TransformerEncoderInput::new(so_far(branch, end)), cache)
            },
        );
    }
}

/// Checks that two branches, whose steps alternate, equal two caches that were never forked.
fn equal_branches<B: Backend, C: Clone>(
    what: &str,
    of_context: impl Fn() -> C,
    step: impl Fn(&mut C, usize, (usize, usize)) -> Tensor<B, 3>,
) {
    let alone = [0, 1].map(|branch| {
        let mut cache = of_context();
        STEPS.map(|of_step| step(&mut cache, branch, of_step))
    });
    let mut first = of_context();
    let mut second = first.clone();
    let together = STEPS.map(|of_step| (step(&mut first, 0, of_step), step(&mut second, 1, of_step)));
    let (found_first, found_second): (Vec<_>, Vec<_>) = together.into_iter().unzip();
    same(&found_first, &alone[0], what);
    same(&found_second, &alone[1], what);
}

//! Clones of caches, and caches whose sequences are reordered. Each branch of a forked cache gives, bit for bit, what a cache of its own gives that was given the
//! same tokens. A reordered cache goes on as separate caches of its sequences.

mod common;

use std::ops::Range;

use burn::tensor::{Tensor, backend::Backend};
use common::{gqa::*, *};
use serde_json::{Value, json};
use sparse_attention_hub::{
    attention::AttentionError,
    nn::{
        GqaInput, KvCache, MhaCache, MhaInput, SparseCrossAttentionCache, SparseCrossAttentionConfig,
        SparseMultiHeadAttentionConfig, SparseTransformerEncoderAutoregressiveCache, SparseTransformerEncoderConfig,
        TransformerEncoderInput,
    },
    prelude::*,
};

on_host_backends!(
    branches_of_a_grouped_cache_equal_separate_caches,
    branches_of_a_cache_of_a_window_equal_separate_caches,
    branches_of_the_caches_of_burns_layers_equal_separate_caches,
    a_reordered_grouped_cache_equals_separate_caches,
    reordered_caches_of_burns_layers_equal_separate_caches,
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

fn columns<B: Backend>(x: &Tensor<B, 3>, range: Range<usize>) -> Tensor<B, 3> {
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

/// How the sequences are reordered: three sequences become five, five become others, and these become two. A memory that
/// is not reordered is only found out where the batch keeps its size, because it is otherwise made anew.
const ORDERS: [&[usize]; 3] = [&[2, 0, 2, 1, 2], &[1, 3, 4, 0, 0], &[4, 1]];

fn a_reordered_grouped_cache_equals_separate_caches<B: Backend>() {
    let short = tokens::<B>(3, 20, 20, 1);
    let part = |x: &Tensor<B, 3>, range| GqaInput::new(columns(x, range));
    for config in methods(&Sizes::new(1, 4, 2, 1, 1, 12)) {
        let layer = layer::<B>(&common::gqa::config(4, 2), Some(json!([config])));
        for padded in [false, true] {
            let what = format!("{config}, padded {padded}");
            let of_context = |sequences: &[usize]| {
                let (mut cache, x) = (KvCache::new(3), rows(&short, sequences));
                let lengths = sequences.iter().map(|&sequence| [15, 12, 14][sequence]).collect::<Vec<_>>();
                let first = part(&x, 0..15);
                let first = if padded { first.right_aligned(&lengths).unwrap() } else { first };
                layer.forward_cache(first, &mut cache).unwrap();
                layer.forward_cache(columns(&x, 15..20), &mut cache).unwrap();
                cache
            };
            let step =
                |cache: &mut KvCache<B>, x: &Tensor<B, 3>, range| layer.forward_cache(part(x, range), cache).unwrap();
            let (mut together, alone) = equal_alone(&what, &short, of_context, step, KvCache::reorder);
            // What was reordered can be taken back like anything else.
            let next = tokens::<B>(2, 30, 20, 9);
            together.truncate(22).unwrap();
            let found = step(&mut together, &next, 22..25);
            for (sequence, mut cache) in alone.into_iter().enumerate() {
                cache.truncate(22).unwrap();
                let wanted = step(&mut cache, &rows(&next, &[sequence]), 22..25);
                close_but_for_near_scores(&rows(&found, &[sequence]), &wanted, &what);
            }
        }
    }
    // Where tokens before the window have been given up.
    let long = tokens::<B>(3, 330, 20, 4);
    let layer = layer::<B>(&common::gqa::config(4, 2).with_sliding_window(Some(11)), None);
    let of_context = |sequences: &[usize]| {
        let mut cache = KvCache::new(0);
        in_chunks(&layer, &mut cache, &rows(&long, sequences), [vec![300], vec![1; 30]].concat());
        assert!(cache.start() > 0);
        cache
    };
    let step = |cache: &mut KvCache<B>, x: &Tensor<B, 3>, range| layer.forward_cache(part(x, range), cache).unwrap();
    equal_alone("a sliding window", &long, of_context, step, KvCache::reorder);
}

fn reordered_caches_of_burns_layers_equal_separate_caches<B: Backend>() {
    let device = B::Device::default();
    let (x, context) = (tokens::<B>(3, 20, 24, 3), tokens::<B>(3, 26, 24, 4));
    for config in methods(&Sizes::new(1, 4, 4, 1, 1, 6)) {
        let chain = MaskerChainConfig::from_json(&json!([config]).to_string()).unwrap();
        let layer = SparseMultiHeadAttentionConfig::new(24, 4).with_dropout(0.0).with_maskers(chain.clone());
        let layer = drawn(layer.init::<B>(&device));
        let own = SparseCrossAttentionConfig::new(24, 24, 4, 4, 6).with_dropout(0.0).with_maskers(chain.clone());
        let own = drawn(own.init::<B>(&device));
        let encoder = SparseTransformerEncoderConfig::new(24, 40, 4, 2).with_dropout(0.0).with_maskers(chain);
        let encoder = drawn(encoder.init::<B>(&device));

        let of_context = |sequences: &[usize]| {
            let mut cache = MhaCache::autoregressive();
            layer.forward_cache(MhaInput::self_attn(rows(&x, sequences)), &mut cache);
            cache
        };
        // As in burn, the input of `forward_cache` is the whole sequence so far, and so is its output.
        let step = |cache: &mut MhaCache<B>, x: &Tensor<B, 3>, range: Range<usize>| {
            layer.forward_cache(MhaInput::self_attn(columns(x, 0..range.end)), cache).context
        };
        equal_alone(&format!("{config}, self-attention"), &x, of_context, step, MhaCache::reorder);

        // Keys and values are read in the first call only.
        let unread = |x: &Tensor<B, 3>| Tensor::<B, 3>::zeros([x.dims()[0], 26, 24], &device);
        let of_context = |sequences: &[usize]| {
            let (mut cache, context) = (MhaCache::autoregressive_cross_attention(), rows(&context, sequences));
            layer.forward_step(MhaInput::new(rows(&x, sequences), context.clone(), context), &mut cache).unwrap();
            cache
        };
        let step = |cache: &mut MhaCache<B>, x: &Tensor<B, 3>, range: Range<usize>| {
            layer.forward_step(MhaInput::new(columns(x, range), unread(x), unread(x)), cache).unwrap().context
        };
        equal_alone(&format!("{config}, cross-attention"), &x, of_context, step, MhaCache::reorder);

        let of_context = |sequences: &[usize]| {
            let mut cache = SparseCrossAttentionCache::new();
            own.forward_cache(rows(&x, sequences), rows(&context, sequences), None, &mut cache);
            cache
        };
        let step = |cache: &mut SparseCrossAttentionCache<B>, x: &Tensor<B, 3>, range: Range<usize>| {
            own.forward_cache(columns(x, range), unread(x), None, cache)
        };
        let what = format!("{config}, its own cross-attention");
        equal_alone(&what, &x, of_context, step, SparseCrossAttentionCache::reorder);

        let of_context = |sequences: &[usize]| {
            let mut cache = encoder.new_autoregressive_cache();
            encoder.forward_autoregressive_inference(TransformerEncoderInput::new(rows(&x, sequences)), &mut cache);
            cache
        };
        let step =
            |cache: &mut SparseTransformerEncoderAutoregressiveCache<B>, x: &Tensor<B, 3>, range: Range<usize>| {
                encoder.forward_autoregressive_inference(TransformerEncoderInput::new(columns(x, 0..range.end)), cache)
            };
        let reorder = SparseTransformerEncoderAutoregressiveCache::reorder;
        equal_alone(&format!("{config}, encoder"), &x, of_context, step, reorder);
    }
}

/// Checks that the sequences of a reordered cache go on as in caches of one sequence each, and returns all caches.
///
/// - of_context: the cache of some sequences of `x`.
/// - step: takes all tokens so far, and the range of those that are new.
fn equal_alone<B: Backend, C: Clone>(
    what: &str,
    x: &Tensor<B, 3>,
    of_context: impl Fn(&[usize]) -> C,
    step: impl Fn(&mut C, &Tensor<B, 3>, Range<usize>) -> Tensor<B, 3>,
    reorder: impl Fn(&mut C, &[usize]) -> Result<(), AttentionError>,
) -> (C, Vec<C>) {
    let mut together = of_context(&[0, 1, 2]);
    let mut alone = [0, 1, 2].map(|sequence| of_context(&[sequence])).to_vec();
    let mut so_far = x.clone();
    for indices in ORDERS {
        let batch = alone.len();
        assert!(matches!(reorder(&mut together, &[]), Err(AttentionError::Value { field: "indices", .. })), "{what}");
        let refused = AttentionError::NoSequence { place: 1, found: batch, batch };
        assert_eq!(reorder(&mut together, &[0, batch]), Err(refused), "{what}");
        reorder(&mut together, indices).unwrap();
        alone = indices.iter().map(|&index| alone[index].clone()).collect();
        so_far = rows(&so_far, indices);
        let [batch, mut start, width] = so_far.dims();
        for count in [1, 4, 1] {
            so_far = Tensor::cat(vec![so_far, tokens(batch, count, width, start as u64)], 1);
            let found = step(&mut together, &so_far, start..start + count);
            for (sequence, cache) in alone.iter_mut().enumerate() {
                let wanted = step(cache, &rows(&so_far, &[sequence]), start..start + count);
                close_but_for_near_scores(&rows(&found, &[sequence]), &wanted, what);
            }
            start += count;
        }
    }
    (together, alone)
}

fn rows<B: Backend>(x: &Tensor<B, 3>, indices: &[usize]) -> Tensor<B, 3> {
    Tensor::cat(indices.iter().map(|&index| x.clone().slice_dim(0, index..index + 1)).collect(), 0)
}

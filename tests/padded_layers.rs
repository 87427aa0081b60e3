//! Batches of unequal lengths: the output of each sequence is the output of the sequence alone. This holds for every
//! layer and every method, with and without a cache.
#![cfg(feature = "train")]

mod common;

use std::ops::Range;

use burn::tensor::{Bool, Int, Tensor, TensorData, backend::Backend};
use common::{gqa::*, *};
use serde_json::{Value, json};
use sparse_attention_hub::{
    attention::AttentionError,
    nn::{
        GqaInput, KvCache, MhaCache, MhaInput, SparseCrossAttentionCache, SparseCrossAttentionConfig,
        SparseMultiHeadAttention, SparseMultiHeadAttentionConfig, SparseTransformerEncoderConfig,
        TransformerEncoderInput,
    },
    prelude::*,
};

on_host_backends!(
    batched_grouped_queries_equal_single_sequences,
    batched_self_attention_equals_single_sequences,
    batched_cross_attention_equals_single_sequences,
    given_positions_are_used,
    padding_that_changes_is_refused,
    padding_may_begin_late,
    encoders_decode_batches_of_unequal_lengths,
);

/// The lengths of the sequences of a batch.
const LENGTHS: [usize; 3] = [34, 25, 14];
const PROMPT: usize = 34;
const STEPS: usize = 10;
const WIDTH: usize = 20;

/// The position of the padding in a prompt.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Side {
    Left,
    Right,
    Middle,
}

const SIDES: [Side; 3] = [Side::Left, Side::Right, Side::Middle];

impl Side {
    /// Whether a column of a prompt is padding.
    fn pads(self, length: usize, column: usize) -> bool {
        match self {
            Self::Left => column < PROMPT - length,
            Self::Right => column >= length,
            Self::Middle => (5..5 + PROMPT - length).contains(&column),
        }
    }

    /// The real columns of a prompt.
    fn real(self, length: usize) -> Vec<usize> {
        (0..PROMPT).filter(|&column| !self.pads(length, column)).collect()
    }

    /// The padding mask of the prompts and of some steps after them.
    fn mask<B: Backend>(self, steps: usize) -> Tensor<B, 2, Bool> {
        let columns = PROMPT + steps;
        let row = |length: &usize| (0..columns).map(|column| column < PROMPT && self.pads(*length, column)).collect();
        let mask = LENGTHS.iter().flat_map(|length| -> Vec<bool> { row(length) }).collect();
        Tensor::from_data(TensorData::new(mask, [LENGTHS.len(), columns]), &B::Device::default())
    }
}

fn sequence<B: Backend>(x: &Tensor<B, 3>, row: usize) -> Tensor<B, 3> {
    x.clone().slice_dim(0, row..row + 1)
}

fn columns<B: Backend>(x: &Tensor<B, 3>, range: Range<usize>) -> Tensor<B, 3> {
    x.clone().slice_dim(1, range)
}

fn chosen<B: Backend>(x: &Tensor<B, 3>, columns: &[usize]) -> Tensor<B, 3> {
    let columns = columns.iter().map(|&column| column as i64).collect::<Vec<_>>();
    let count = columns.len();
    let columns = Tensor::<B, 1, Int>::from_data(TensorData::new(columns, [count]), &x.device());
    x.clone().select(1, columns)
}

/// A method after a sink of size 1. The sink must not be a padding position.
fn after_a_sink(method: &Method, sizes: &Sizes) -> Value {
    json!([{"type": "sink", "sink_size": 1}, (method.config)(sizes)])
}

fn batched_grouped_queries_equal_single_sequences<B: Backend>() {
    let sizes = Sizes::new(1, 4, 2, 1, 1, 12);
    let x = tokens::<B>(LENGTHS.len(), PROMPT + STEPS, WIDTH, 1);
    let chains = METHODS.iter().map(|method| Some(after_a_sink(method, &sizes)));
    for (index, chain) in [None].into_iter().chain(chains).enumerate() {
        let window = (index % 5 == 1).then_some(9);
        let layer = layer::<B>(&config(4, 2).with_sliding_window(window), chain.clone());
        let alone = LENGTHS.iter().enumerate().map(|(row, length)| {
            let prompt = |side: Side| chosen(&sequence(&x, row), &side.real(*length));
            SIDES.map(|side| {
                let prompt = prompt(side);
                let mut cache = KvCache::new(0);
                let mut steps = vec![layer.forward_cache(prompt.clone(), &mut cache).unwrap()];
                for step in PROMPT..PROMPT + STEPS {
                    steps.push(layer.forward_cache(columns(&sequence(&x, row), step..step + 1), &mut cache).unwrap());
                }
                (layer.forward(prompt).unwrap(), steps)
            })
        });
        let alone = alone.collect::<Vec<_>>();
        for (at, side) in SIDES.into_iter().enumerate() {
            let prompt = GqaInput::new(columns(&x, 0..PROMPT));
            let prompt = match side {
                Side::Left => prompt.right_aligned(&LENGTHS).unwrap(),
                Side::Right => prompt.left_aligned(&LENGTHS).unwrap(),
                Side::Middle => prompt.mask_pad(side.mask(0)),
            };
            let whole = layer.forward(prompt.clone()).unwrap();
            let mut cache = KvCache::new(0);
            let mut steps = vec![layer.forward_cache(prompt, &mut cache).unwrap()];
            for step in PROMPT..PROMPT + STEPS {
                steps.push(layer.forward_cache(columns(&x, step..step + 1), &mut cache).unwrap());
            }
            assert_eq!(cache.len(), PROMPT + STEPS);
            for (row, length) in LENGTHS.into_iter().enumerate() {
                let what = format!("{chain:?}, {side:?}, sequence {row}");
                let (wanted, wanted_steps) = &alone[row][at];
                let of_row = |found: &Tensor<B, 3>| match found.dims()[1] {
                    1 => sequence(found, row),
                    _ => chosen(&sequence(found, row), &side.real(length)),
                };
                close_but_for_near_scores(&of_row(&whole), wanted, &what);
                for (found, wanted) in steps.iter().zip(wanted_steps) {
                    close_but_for_near_scores(&of_row(found), wanted, &format!("{what}, cached"));
                }
                assert_eq!(cache.real_len(row), length + STEPS);
            }
            // The output at padding positions is the output projection of 0.
            let padding = chosen(&sequence(&whole, 2), &(0..PROMPT).filter(|&c| side.pads(14, c)).collect::<Vec<_>>());
            assert!(all_numbers(&padding).iter().all(|&x| x == 0.0), "{chain:?}, {side:?}");
        }
    }
}

fn self_attention<B: Backend>(chain: &Value) -> SparseMultiHeadAttention<B> {
    let maskers = MaskerChainConfig::from_json(&chain.to_string()).unwrap();
    drawn(
        SparseMultiHeadAttentionConfig::new(24, 4)
            .with_dropout(0.0)
            .with_n_heads_kv(Some(2))
            .with_maskers(maskers)
            .init::<B>(&B::Device::default()),
    )
}

fn batched_self_attention_equals_single_sequences<B: Backend>() {
    let sizes = Sizes::new(1, 4, 2, 1, 1, 6);
    let x = tokens::<B>(LENGTHS.len(), PROMPT + STEPS, 24, 2);
    for method in METHODS {
        let chain = after_a_sink(method, &sizes);
        let layer = self_attention::<B>(&chain);
        for side in SIDES {
            let input = || MhaInput::self_attn(columns(&x, 0..PROMPT)).mask_pad(side.mask(0));
            let whole = layer.forward(input().causal()).context;
            let all_see_all = layer.forward(input()).context;
            let mut cache = MhaCache::autoregressive();
            let mut steps = vec![layer.forward_step(input(), &mut cache).unwrap().context];
            for step in PROMPT..PROMPT + STEPS {
                let input = MhaInput::self_attn(columns(&x, step..step + 1));
                // The mask may be given or left out, because the new position is not padding.
                let input = if step % 2 == 0 { input.mask_pad(side.mask(step + 1 - PROMPT)) } else { input };
                steps.push(layer.forward_step(input, &mut cache).unwrap().context);
            }
            for (row, length) in LENGTHS.into_iter().enumerate() {
                let what = format!("{chain}, {side:?}, sequence {row}");
                let real = side.real(length);
                let prompt = chosen(&sequence(&x, row), &real);
                let of_row = |found: &Tensor<B, 3>| chosen(&sequence(found, row), &real);
                let wanted = layer.forward(MhaInput::self_attn(prompt.clone()).causal()).context;
                close_but_for_near_scores(&of_row(&whole), &wanted, &what);
                let wanted = layer.forward(MhaInput::self_attn(prompt.clone())).context;
                close_but_for_near_scores(&of_row(&all_see_all), &wanted, &format!("{what}, not causal"));
                let mut cache = MhaCache::autoregressive();
                let wanted = layer.forward_step(MhaInput::self_attn(prompt), &mut cache).unwrap().context;
                close_but_for_near_scores(&of_row(&steps[0]), &wanted, &format!("{what}, cached"));
                for (at, found) in steps[1..].iter().enumerate() {
                    let token = columns(&sequence(&x, row), PROMPT + at..PROMPT + at + 1);
                    let wanted = layer.forward_step(MhaInput::self_attn(token), &mut cache).unwrap().context;
                    close_but_for_near_scores(&sequence(found, row), &wanted, &format!("{what}, step {at}"));
                }
            }
        }
    }
}

fn batched_cross_attention_equals_single_sequences<B: Backend>() {
    let sizes = Sizes::new(1, 4, 2, 1, 1, 6);
    let (queries, context) = (tokens::<B>(LENGTHS.len(), 7, 24, 3), tokens::<B>(LENGTHS.len(), PROMPT, 24, 4));
    for method in METHODS {
        let chain = after_a_sink(method, &sizes);
        let maskers = MaskerChainConfig::from_json(&chain.to_string()).unwrap();
        let own = SparseCrossAttentionConfig::new(24, 24, 4, 2, 6).with_dropout(0.0).with_maskers(maskers);
        let own = drawn(own.init::<B>(&B::Device::default()));
        let layer = self_attention::<B>(&chain);
        for side in SIDES {
            let mask = || Some(side.mask::<B>(0));
            let input = |queries: Tensor<B, 3>, context: Tensor<B, 3>| MhaInput::new(queries, context.clone(), context);
            let whole = layer.forward(input(queries.clone(), context.clone()).mask_pad(side.mask(0))).context;
            let of_own = own.forward(queries.clone(), context.clone(), mask());
            let (mut cache, mut own_cache) =
                (MhaCache::autoregressive_cross_attention(), SparseCrossAttentionCache::new());
            let mut steps = Vec::new();
            for step in 0..7 {
                let query = columns(&queries, step..step + 1);
                let input = input(query.clone(), context.clone()).mask_pad(side.mask(0));
                let found = layer.forward_step(input, &mut cache).unwrap().context;
                steps.push((found, own.forward_cache(query, context.clone(), mask(), &mut own_cache)));
            }
            for (row, length) in LENGTHS.into_iter().enumerate() {
                let what = format!("{chain}, {side:?}, sequence {row}");
                let (query, real) = (sequence(&queries, row), chosen(&sequence(&context, row), &side.real(length)));
                let wanted = layer.forward(input(query.clone(), real.clone())).context;
                close_but_for_near_scores(&sequence(&whole, row), &wanted, &what);
                let wanted = own.forward(query.clone(), real.clone(), None);
                close_but_for_near_scores(&sequence(&of_own, row), &wanted, &format!("{what}, its own layer"));
                let mut cache = MhaCache::autoregressive_cross_attention();
                let mut own_cache = SparseCrossAttentionCache::new();
                for (at, (found, of_own)) in steps.iter().enumerate() {
                    let query = columns(&query, at..at + 1);
                    let what = format!("{what}, step {at}");
                    let wanted = layer.forward_step(input(query.clone(), real.clone()), &mut cache).unwrap().context;
                    close_but_for_near_scores(&sequence(found, row), &wanted, &what);
                    let wanted = own.forward_cache(query, real.clone(), None, &mut own_cache);
                    close_but_for_near_scores(&sequence(of_own, row), &wanted, &format!("{what}, its own layer"));
                }
            }
        }
    }
}

/// A sink is the first key that is not padding.
fn encoders_decode_batches_of_unequal_lengths<B: Backend>() {
    let chain = json!([{"type": "sink", "sink_size": 1}, {"type": "local", "window_size": 1}]);
    let maskers = MaskerChainConfig::from_json(&chain.to_string()).unwrap();
    let config = SparseTransformerEncoderConfig::new(24, 40, 4, 2).with_dropout(0.0).with_maskers(maskers);
    let encoder = drawn(config.init::<B>(&B::Device::default()));
    let x = tokens::<B>(LENGTHS.len(), PROMPT + STEPS, 24, 5);
    for side in SIDES {
        let mut cache = encoder.new_autoregressive_cache();
        let mut found = Vec::new();
        for (start, end) in [(0, PROMPT), (PROMPT, PROMPT + 1), (PROMPT + 1, PROMPT + STEPS)] {
            let input = TransformerEncoderInput::new(columns(&x, start..end)).mask_pad(side.mask(end - PROMPT));
            found.push(encoder.forward_step(input, &mut cache).unwrap());
        }
        let found = Tensor::cat(found, 1);
        for (row, length) in LENGTHS.into_iter().enumerate() {
            let real = side.real(length).into_iter().chain(PROMPT..PROMPT + STEPS).collect::<Vec<_>>();
            let alone = TransformerEncoderInput::new(chosen(&sequence(&x, row), &real)).causal();
            close(
                &chosen(&sequence(&found, row), &real),
                &encoder.forward(alone),
                &format!("{side:?}, sequence {row}"),
            );
        }
    }
}

fn given_positions_are_used<B: Backend>() {
    let layer = layer::<B>(&config(4, 2), None);
    let x = tokens::<B>(2, 9, WIDTH, 6);
    let given = |positions: Vec<i64>| Tensor::from_data(TensorData::new(positions, [2, 9]), &B::Device::default());
    let plain = layer.forward(x.clone()).unwrap();
    let counted = given((0..9).chain(0..9).collect());
    close(&layer.forward(GqaInput::new(x.clone()).positions(counted)).unwrap(), &plain, "counted");
    // Only the distances between positions matter, and they are unchanged in each sequence.
    let moved = given((100..109).chain(7..16).collect());
    close(&layer.forward(GqaInput::new(x.clone()).positions(moved)).unwrap(), &plain, "moved");
    let stretched = given((0..9).chain((0..9).map(|at| 3 * at)).collect());
    let found = layer.forward(GqaInput::new(x.clone()).positions(stretched.clone())).unwrap();
    close(&sequence(&found, 0), &sequence(&plain, 0), "the first is counted");
    let difference = all_numbers(&(sequence(&found, 1) - sequence(&plain, 1)));
    assert!(difference.iter().any(|x| x.abs() > 1e-3));
    let mut cache = KvCache::new(0);
    let chunk = |start: usize, end: usize| {
        GqaInput::new(columns(&x, start..end)).positions(stretched.clone().slice_dim(1, start..end))
    };
    let cached =
        [(0, 4), (4, 5), (5, 9)].map(|(start, end)| layer.forward_cache(chunk(start, end), &mut cache).unwrap());
    close(&Tensor::cat(cached.to_vec(), 1), &found, "cached");
    let error = |positions| layer.forward(GqaInput::new(x.clone()).positions(positions)).unwrap_err().to_string();
    assert!(error(given(vec![-1; 18])).contains("`positions` is -1"));
    assert!(error(stretched.slice_dim(1, 0..8)).contains("`positions` has the shape [2, 8]"));
}

fn bools<B: Backend>(rows: &[&[bool]]) -> Tensor<B, 2, Bool> {
    Tensor::from_data(TensorData::new(rows.concat(), [rows.len(), rows[0].len()]), &B::Device::default())
}

fn padding_that_changes_is_refused<B: Backend>() {
    let layer = self_attention::<B>(&json!([{"type": "sink", "sink_size": 1}, {"type": "local", "window_size": 2}]));
    let x = tokens::<B>(2, 4, 24, 7);
    let step = |cache: &mut MhaCache<B>, range: Range<usize>, mask: &[&[bool]]| {
        layer
            .forward_step(MhaInput::self_attn(columns(&x, range)).mask_pad(bools(mask)), cache)
            .map(|output| output.context)
    };
    let mut cache = MhaCache::autoregressive();
    step(&mut cache, 0..3, &[&[true, false, false], &[false; 3]]).unwrap();
    let error = step(&mut cache, 3..4, &[&[false; 4], &[false; 4]]).unwrap_err();
    assert_eq!(error, AttentionError::Padding { sequence: 0, position: 0, was_padding: true });
    let error = step(&mut cache, 3..4, &[&[true, false, false, false], &[false, true, false, false]]).unwrap_err();
    assert_eq!(error, AttentionError::Padding { sequence: 1, position: 1, was_padding: false });
    let error = step(&mut cache, 3..4, &[&[true, false, false], &[false; 3]]).unwrap_err();
    assert!(matches!(error, AttentionError::Shape { tensor: "mask_pad", .. }), "{error}");
    assert_eq!(cache.len(), 3);
    // The failed steps do not change the output of the valid step after them.
    let found = step(&mut cache, 3..4, &[&[true, false, false, false], &[false; 4]]).unwrap();
    let input = MhaInput::self_attn(x.clone()).mask_pad(bools(&[&[true, false, false, false], &[false; 4]]));
    close(&found, &columns(&layer.forward(input.causal()).context, 3..4), "position 3");

    let gqa = common::gqa::layer::<B>(&config(4, 2), None);
    let input = GqaInput::new(tokens::<B>(2, 4, WIDTH, 7));
    let error = gqa.forward(input.clone().mask_pad(bools(&[&[true; 3], &[true; 3]]))).unwrap_err();
    assert!(matches!(error, AttentionError::Shape { tensor: "mask_pad", .. }), "{error}");
    assert!(matches!(input.clone().left_aligned(&[4]), Err(AttentionError::Shape { tensor: "lengths", .. })));
    assert!(matches!(input.right_aligned(&[4, 5]), Err(AttentionError::Value { field: "lengths", .. })));
}

/// A sequence that has ended is padded while the other sequences continue.
fn padding_may_begin_late<B: Backend>() {
    for method in METHODS {
        let chain = after_a_sink(method, &Sizes::new(1, 4, 2, 1, 1, 12));
        let layer = layer::<B>(&config(4, 2), Some(chain.clone()));
        let x = tokens::<B>(2, 30, WIDTH, 8);
        let mut cache = KvCache::new(0);
        let mut run = |input: GqaInput<B>| layer.forward_cache(input, &mut cache).unwrap();
        run(columns(&x, 0..20).into());
        run(columns(&x, 20..21).into());
        let found = (21..30).map(|at| run(GqaInput::new(columns(&x, at..at + 1)).right_aligned(&[1, 0]).unwrap()));
        let found = Tensor::cat(found.collect(), 1);
        let mut alone = KvCache::new(0);
        let first = sequence(&x, 0);
        layer.forward_cache(columns(&first, 0..20), &mut alone).unwrap();
        let wanted = (20..30).map(|at| layer.forward_cache(columns(&first, at..at + 1), &mut alone).unwrap());
        let wanted = Tensor::cat(wanted.skip(1).collect(), 1);
        close_but_for_near_scores(&sequence(&found, 0), &wanted, &chain.to_string());
        assert!(all_numbers(&sequence(&found, 1)).iter().all(|&x| x == 0.0));
        assert_eq!((cache.real_len(0), cache.real_len(1)), (30, 21));
    }
}

//! Padding does not change the output of the real positions.

use burn::tensor::{Tensor, backend::Backend};
use sparse_attention_hub::nn::{
    GqaInput, GroupedQueryAttentionConfig, MhaInput, RotaryEncodingConfig, TransformerEncoderInput,
};

use crate::{
    common::on_each_backend,
    layers::support::{AB, B, D_MODEL, SINK_LOCAL, assert_same, bools, configs, method, numbers, padding, sequence},
};

const BATCH: usize = 3;
const LENGTH: usize = 33;

const METHODS: [&str; 4] = [
    "[]",
    SINK_LOCAL,
    r#"[{"type": "sink", "sink_size": 0.1}, {"type": "oracle_top_k", "heavy_size": 0.2}]"#,
    r#"[{"type": "local", "window_size": 3}, {"type": "oracle_top_p", "top_p": 0.5}]"#,
];

/// The range of the real positions of a sequence; see [padding].
fn real(sequence: usize, on_the_left: bool) -> std::ops::Range<usize> {
    let padded = 3 * sequence + 1;
    if on_the_left { padded..LENGTH } else { 0..LENGTH - padded }
}

fn part<B: Backend>(x: &Tensor<B, 3>, sequence: usize, range: std::ops::Range<usize>) -> Tensor<B, 3> {
    x.clone().slice_dim(0, sequence..sequence + 1).slice_dim(1, range)
}

fn a_padded_sequence_equals_the_sequence<B: Backend>() {
    let device = Default::default();
    let x = sequence::<B>([BATCH, LENGTH, D_MODEL], 1);
    for maskers in METHODS {
        let mut layer = configs().0.with_maskers(method(maskers)).with_n_heads_kv(Some(2)).init::<B>(&device);
        for (on_the_left, causal, weights) in [
            (false, false, false),
            (false, true, false),
            (true, false, false),
            (true, true, false),
            (true, true, true),
            (false, false, true),
        ] {
            layer.fill_weights = weights;
            let run = |input: MhaInput<B>| layer.forward(if causal { input.causal() } else { input });
            let pad = padding([BATCH, LENGTH], on_the_left);
            let found = run(MhaInput::self_attn(x.clone()).mask_pad(pad));
            for at in 0..BATCH {
                let range = real(at, on_the_left);
                let wanted = run(MhaInput::self_attn(part(&x, at, range.clone())));
                let what = format!("{maskers}, left {on_the_left}, causal {causal}, sequence {at}");
                assert_same(&part(&found.context, at, range.clone()), &wanted.context, &what);
                if let (Some(found), Some(wanted)) = (&found.weights, wanted.weights) {
                    let heads = found.clone().slice_dim(0, at..at + 1).slice_dim(2, range.clone());
                    assert_same(&heads.clone().slice_dim(3, range), &wanted, &what);
                    let (all, real) = (numbers(&heads.sum()), numbers(&wanted.sum()));
                    assert!((all[0] - real[0]).abs() < 1e-3, "{what}: padding has weight");
                }
            }
        }
    }
}

on_each_backend!(a_padded_sequence_equals_the_sequence);

/// With a pair mask that hides nothing, the layer turns the padding into a mask over all pairs. It hides the same keys.
#[test]
fn both_ways_to_hide_padding_agree() {
    let device = Default::default();
    let x = sequence::<B>([BATCH, LENGTH, D_MODEL], 1);
    let pairs = || bools::<B, 3>([BATCH, LENGTH, LENGTH], |_| false);
    // The chain has a window, and a choice by score. A sink would differ, because with a pair mask its first keys are
    // the padding.
    let maskers = r#"[{"type": "local", "window_size": 7}, {"type": "oracle_top_k", "heavy_size": 3}]"#;
    for maskers in ["[]", maskers] {
        let layer = configs().0.with_maskers(method(maskers)).init::<B>(&device);
        for on_the_left in [false, true] {
            let input = || MhaInput::self_attn(x.clone()).mask_pad(padding([BATCH, LENGTH], on_the_left));
            let (found, wanted) = (layer.forward(input()), layer.forward(input().mask_attn(pairs())));
            assert_same(&found.context, &wanted.context, maskers);
            let (found, wanted) = (layer.forward(input().causal()), layer.forward(input().causal().mask_attn(pairs())));
            assert_same(&found.context, &wanted.context, maskers);
        }
    }
}

/// Padding in the middle, a sequence of padding only, and no padding.
#[test]
fn padding_may_be_anywhere_or_everywhere() {
    let layer = configs().0.with_maskers(method(SINK_LOCAL)).init::<B>(&Default::default());
    let x = sequence::<B>([2, 9, D_MODEL], 1);
    let plain = layer.forward(MhaInput::self_attn(x.clone())).context;
    let none = MhaInput::self_attn(x.clone()).mask_pad(bools([2, 9], |_| false));
    assert_same(&layer.forward(none).context, &plain, "no padding");
    let one = MhaInput::self_attn(x.clone()).mask_pad(bools([2, 9], |at| at < 9));
    let found = layer.forward(one).context;
    let bias = layer.output.bias.as_ref().unwrap().val().reshape([1, 1, D_MODEL]).expand([1, 9, D_MODEL]);
    assert_same(&found.clone().slice_dim(0, 0..1), &bias, "nothing but padding");
    assert_same(&found.slice_dim(0, 1..2), &plain.slice_dim(0, 1..2), "the other sequence");
    let hole = bools([2, 9], |at| at == 5);
    let pairs = bools([2, 9, 9], |at| at / 81 == 0 && at % 9 == 5);
    let wanted = layer.forward(MhaInput::self_attn(x.clone()).mask_attn(pairs)).context;
    // The output of a query at a padding position is undefined.
    let found = layer.forward(MhaInput::self_attn(x).mask_pad(hole)).context;
    for range in [0..5, 6..9] {
        assert_same(&found.clone().slice_dim(1, range.clone()), &wanted.clone().slice_dim(1, range), "a hole");
    }
}

#[test]
fn padding_has_no_gradient() {
    let layer = configs().0.with_maskers(method(SINK_LOCAL)).init::<AB>(&Default::default());
    let x = sequence::<AB>([BATCH, LENGTH, D_MODEL], 1).require_grad();
    for on_the_left in [false, true] {
        let input = MhaInput::self_attn(x.clone()).mask_pad(padding([BATCH, LENGTH], on_the_left)).causal();
        let context = layer.forward(input).context;
        let real_only = Tensor::cat((0..BATCH).map(|at| part(&context, at, real(at, on_the_left))).collect(), 1);
        let gradient = x.grad(&real_only.powi_scalar(2).sum().backward()).unwrap();
        for at in 0..BATCH {
            let range = real(at, on_the_left);
            let pad = if on_the_left { 0..range.start } else { range.end..LENGTH };
            let of = |range| gradient.clone().slice_dim(0, at..at + 1).slice_dim(1, range).abs().max();
            assert_eq!(numbers(&of(pad)), [0.0]);
            assert!(numbers(&of(range))[0] > 0.0);
        }
    }
}

#[test]
fn padding_of_grouped_queries_has_no_gradient() {
    let config = GroupedQueryAttentionConfig::new(D_MODEL, 8, 2).with_maskers(method(SINK_LOCAL));
    let layer = config.with_rotary(Some(RotaryEncodingConfig::new())).init::<AB>(&Default::default()).unwrap();
    let x = sequence::<AB>([BATCH, LENGTH, D_MODEL], 1).require_grad();
    for on_the_left in [false, true] {
        let output = layer.forward(GqaInput::new(x.clone()).mask_pad(padding([BATCH, LENGTH], on_the_left))).unwrap();
        let gradient = x.grad(&output.powi_scalar(2).sum().backward()).unwrap();
        for at in 0..BATCH {
            let range = real(at, on_the_left);
            let pad = if on_the_left { 0..range.start } else { range.end..LENGTH };
            assert!(numbers(&part(&gradient, at, pad)).iter().all(|&x| x == 0.0));
            // The gradient of the sequence without padding.
            let alone = Tensor::from_inner(part(&x.clone().inner(), at, range.clone())).require_grad();
            let output = layer.forward(alone.clone()).unwrap();
            let wanted = alone.grad(&output.powi_scalar(2).sum().backward()).unwrap();
            assert_same(&part(&gradient, at, range), &wanted, "the gradient");
        }
    }
}

#[test]
fn encoders_support_padding() {
    let device = Default::default();
    let encoder = sparse_attention_hub::nn::SparseTransformerEncoderConfig::new(D_MODEL, 64, 8, 2)
        .with_maskers(method(SINK_LOCAL))
        .init::<B>(&device);
    let x = sequence::<B>([BATCH, LENGTH, D_MODEL], 1);
    let input = TransformerEncoderInput::new(x.clone()).mask_pad(padding([BATCH, LENGTH], false));
    let found = encoder.forward(input);
    for at in 0..BATCH {
        let range = real(at, false);
        let wanted = encoder.forward(TransformerEncoderInput::new(part(&x, at, range.clone())));
        assert_same(&part(&found, at, range), &wanted, "an encoder");
    }
}

//! Without a method the layers equal burn's in output, weights and gradients.

use burn::{
    nn::{
        attention::{MhaInput as BurnInput, MultiHeadAttention, generate_autoregressive_mask},
        transformer::{TransformerEncoderConfig, TransformerEncoderInput as BurnEncoderInput},
    },
    tensor::{Bool, Tensor, backend::Backend},
};
use sparse_attention_hub::nn::{
    MhaInput, SparseMultiHeadAttention, SparseTransformerEncoder, SparseTransformerEncoderConfig,
    TransformerEncoderInput,
};

use crate::{
    common::{on_each_backend, product_rounding},
    layers::support::{AB, B, assert_near, assert_same, bools, configs, made, numbers, padding, sequence},
};

/// A name, the mask of the padding, and the mask of the pairs.
type Masks<B> = (&'static str, Option<Tensor<B, 2, Bool>>, Option<Tensor<B, 3, Bool>>);

/// No mask, each mask alone, and both masks.
fn masks<B: Backend>(batch: usize, length: usize) -> Vec<Masks<B>> {
    let pair = |at: usize| at * 7 % 5 == 1 && !at.is_multiple_of(length);
    let pairs = || Some(bools([batch, length, length], pair));
    vec![
        ("no mask", None, None),
        ("padding on the right", Some(padding([batch, length], false)), None),
        ("padding on the left", Some(padding([batch, length], true)), None),
        ("pairs", None, pairs()),
        ("padding and pairs", Some(padding([batch, length], false)), pairs()),
        ("causal", None, Some(generate_autoregressive_mask(batch, length, &Default::default()))),
    ]
}

fn both_inputs<B: Backend>(x: Tensor<B, 3>, (_, pad, pairs): &Masks<B>) -> (MhaInput<B>, BurnInput<B>) {
    let (mut ours, mut burns) = (MhaInput::self_attn(x.clone()), BurnInput::self_attn(x));
    if let Some(pad) = pad {
        (ours, burns) = (ours.mask_pad(pad.clone()), burns.mask_pad(pad.clone()));
    }
    if let Some(pairs) = pairs {
        (ours, burns) = (ours.mask_attn(pairs.clone()), burns.mask_attn(pairs.clone()));
    }
    (ours, burns)
}

fn outputs_equal_burns<B: Backend>() {
    let device = Default::default();
    for quiet in [false, true] {
        let burns = made::<B, _>(configs().1.with_quiet_softmax(quiet).init::<B>(&device));
        for (batch, length) in [(3, 21), (1, 1), (2, 63)] {
            for masks in masks::<B>(batch, length) {
                if length == 1 && masks.1.is_some() {
                    continue;
                }
                for conventions in [false, true] {
                    let mut ours = SparseMultiHeadAttention::from(burns.clone());
                    (ours.fill_weights, ours.burn_conventions) = (true, conventions);
                    let (input, burn_input) = both_inputs(sequence::<B>([batch, length, 48], 1), &masks);
                    let (found, wanted) = (ours.forward(input.clone()), burns.forward(burn_input));
                    let what = format!("{}, quiet {quiet}, burn's conventions {conventions}", masks.0);
                    assert_same(&found.context, &wanted.context, &what);
                    assert_same(&found.weights.unwrap(), &wanted.weights, &what);
                    // Without a request for the weights the layer takes another path, with the same result.
                    ours.fill_weights = false;
                    let found = ours.forward(input);
                    assert!(found.weights.is_none());
                    assert_same(&found.context, &wanted.context, &what);
                }
            }
        }
    }
}

on_each_backend!(outputs_equal_burns);

#[test]
fn a_causal_input_is_the_autoregressive_mask() {
    let device = Default::default();
    for (queries, keys) in [(21, 21), (5, 21), (1, 9)] {
        let layer = configs().0.init::<B>(&device);
        let (query, key) = (sequence::<B>([2, queries, 48], 1), sequence::<B>([2, keys, 48], 2));
        let hidden = bools([2, queries, keys], |at| at % keys > at / keys % queries + keys - queries);
        let input = || MhaInput::new(query.clone(), key.clone(), key.clone());
        let wanted = layer.forward(input().mask_attn(hidden.clone())).context;
        assert_same(&layer.forward(input().causal()).context, &wanted, "causal");
        let pad = padding([2, keys], false);
        let wanted = layer.forward(input().mask_attn(hidden).mask_pad(pad.clone())).context;
        assert_same(&layer.forward(input().causal().mask_pad(pad)).context, &wanted, "causal with padding");
    }
}

/// In a row in which everything is hidden, burn gives all keys the same weight. This library gives 0.
#[test]
fn conventions_differ_where_everything_is_hidden() {
    let device = Default::default();
    let burns = configs().1.init::<B>(&device);
    let x = sequence::<B>([1, 5, 48], 3);
    let pad = bools([1, 5], |_| true);
    let wanted = burns.forward(BurnInput::self_attn(x.clone()).mask_pad(pad.clone())).context;
    let mut ours = SparseMultiHeadAttention::from(burns);
    let input = || MhaInput::self_attn(x.clone()).mask_pad(pad.clone());
    let bias = ours.output.bias.as_ref().unwrap().val().reshape([1, 1, 48]).expand([1, 5, 48]);
    assert_same(&ours.forward(input()).context, &bias, "nothing is seen");
    ours.burn_conventions = true;
    assert_same(&ours.forward(input()).context, &wanted, "all alike");
}

/// The gradients of the parameters and of the input.
fn gradients(layer: &MultiHeadAttention<AB>, x: &Tensor<AB, 3>, loss: Tensor<AB, 1>) -> Vec<Vec<f32>> {
    let gradients = loss.backward();
    let linears = [&layer.query, &layer.key, &layer.value, &layer.output];
    let mut all = vec![numbers(&x.grad(&gradients).unwrap())];
    for linear in linears {
        all.push(numbers(&linear.weight.val().grad(&gradients).unwrap()));
        all.push(numbers(&linear.bias.as_ref().unwrap().val().grad(&gradients).unwrap()));
    }
    all
}

#[test]
fn gradients_equal_burns() {
    let device = Default::default();
    let (batch, length) = (2, 21);
    let toward = sequence::<AB>([batch, length, 48], 7);
    for quiet in [false, true] {
        for masks in masks::<AB>(batch, length) {
            let layer = configs().1.with_quiet_softmax(quiet).init::<AB>(&device);
            let x = sequence::<AB>([batch, length, 48], 5).require_grad();
            let (_, burn_input) = both_inputs(x.clone(), &masks);
            let wanted = gradients(&layer, &x, (layer.forward(burn_input).context * toward.clone()).sum());
            for conventions in [false, true] {
                let mut ours = SparseMultiHeadAttention::from(layer.clone());
                ours.burn_conventions = conventions;
                let (input, _) = both_inputs(x.clone(), &masks);
                let found = gradients(&layer, &x, (ours.forward(input).context * toward.clone()).sum());
                for (which, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
                    let wanted = wanted.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
                    let what = format!("{}, quiet {quiet}, burn's conventions {conventions}, {which}", masks.0);
                    // Numbers that are rounded in the forward pass are rounded again in the backward pass. Gradients of
                    // weights sum over 42 tokens.
                    let tolerance = 1e-5 + 8.0 * product_rounding::<AB>();
                    crate::common::assert_close(found, &wanted, tolerance, &what);
                }
            }
        }
    }
}

#[test]
fn encoders_equal_burns() {
    let device = Default::default();
    let (batch, length) = (2, 21);
    for norm_first in [false, true] {
        let config = TransformerEncoderConfig::new(48, 64, 8, 3).with_dropout(0.0).with_norm_first(norm_first);
        let burns = made::<AB, _>(config.init::<AB>(&device));
        let ours = SparseTransformerEncoder::from(burns.clone());
        assert_eq!(ours.layers.iter().map(|layer| layer.mha.layer).collect::<Vec<_>>(), [0, 1, 2]);
        for (what, pad, pairs) in masks::<AB>(batch, length) {
            // The two graphs are built one after the other. In burn 0.21, the gradients of one graph are sometimes lost
            // if two graphs share tensors.
            let toward = sequence::<AB>([batch, length, 48], 10);
            let run = |forward: &dyn Fn(Tensor<AB, 3>) -> Tensor<AB, 3>| {
                let x = sequence::<AB>([batch, length, 48], 9).require_grad();
                let output = forward(x.clone());
                let gradients = (output.clone() * toward.clone()).sum().backward();
                let weight = ours.layers[0].pwff.linear_inner.weight.val();
                (x.grad(&gradients).unwrap(), weight.grad(&gradients).unwrap(), output.inner())
            };
            let found = run(&|x| {
                let mut input = TransformerEncoderInput::new(x);
                if let Some(pad) = pad.clone() {
                    input = input.mask_pad(pad);
                }
                if let Some(pairs) = pairs.clone() {
                    input = input.mask_attn(pairs);
                }
                ours.forward(input)
            });
            let wanted = run(&|x| {
                let mut input = BurnEncoderInput::new(x);
                if let Some(pad) = pad.clone() {
                    input = input.mask_pad(pad);
                }
                if let Some(pairs) = pairs.clone() {
                    input = input.mask_attn(pairs);
                }
                burns.forward(input)
            });
            // In both passes each layer adds rounding errors to those of the layer before it. Gradients of weights sum
            // over 42 tokens.
            let rounding = product_rounding::<AB>();
            assert_near(&found.2, &wanted.2, 1e-5 + 8.0 * rounding, what);
            assert_near(&found.0, &wanted.0, 1e-5 + 16.0 * rounding, what);
            assert_near(&found.1, &wanted.1, 1e-5 + 32.0 * rounding, what);
        }
    }
}

#[test]
fn a_causal_encoder_input_is_the_autoregressive_mask() {
    let encoder = SparseTransformerEncoderConfig::new(48, 64, 8, 2).init::<B>(&Default::default());
    let x = sequence::<B>([2, 21, 48], 9);
    let hidden = generate_autoregressive_mask(2, 21, &Default::default());
    let wanted = encoder.forward(TransformerEncoderInput::new(x.clone()).mask_attn(hidden));
    assert_same(&encoder.forward(TransformerEncoderInput::new(x).causal()), &wanted, "causal");
}

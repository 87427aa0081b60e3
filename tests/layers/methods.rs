//! Every method inside a layer: forward and backward, in training and in inference.

use burn::{
    module::{AutodiffModule, Module, ModuleVisitor, Param},
    optim::{AdamConfig, GradientsParams, Optimizer},
    tensor::{Tensor, backend::Backend},
};
use serde_json::{Value, json};
use sparse_attention_hub::{
    attention::reference_attention,
    nn::{MhaInput, SparseMultiHeadAttention},
    prelude::*,
};

use crate::{
    common::{METHODS, Sizes, hash},
    layers::support::{
        AB, D_MODEL, HEADS, SINK_LOCAL, assert_same, configs, made, method, numbers, padding, parameters, sequence,
    },
};

const LENGTH: usize = 63;

fn sizes() -> Sizes {
    Sizes::new(1, HEADS, HEADS, 1, 1, D_MODEL / HEADS)
}

/// The methods of the tests, for the sizes of the layers here.
fn methods() -> Vec<Value> {
    METHODS.iter().map(|method| (method.config)(&sizes())).collect()
}

/// The heads of a projected sequence.
fn heads<B: Backend>(x: Tensor<B, 3>, heads: usize) -> Tensor<B, 4> {
    let [batch, length, width] = x.dims();
    x.reshape([batch, length, heads, width / heads]).swap_dims(1, 2)
}

/// The expected output: the projections of the layer around reference attention over the mask of its chain.
fn by_hand(layer: &SparseMultiHeadAttention<AB>, x: Tensor<AB, 3>, samples: bool) -> Option<Tensor<AB, 3>> {
    let [batch, length, _] = x.dims();
    let [query, key, value] =
        [(&layer.query, layer.n_heads), (&layer.key, layer.n_heads_kv), (&layer.value, layer.n_heads_kv)]
            .map(|(linear, count)| heads(linear.forward(x.clone()), count));
    let inputs = AttentionInputs::new(query, key, value).unwrap().causal().unwrap();
    let mask = layer.maskers.0.mask(&inputs, &mut LayerState::new(layer.seed)).unwrap();
    let output = reference_attention(&inputs, &mask, Requested::default()).unwrap().output;
    (!samples).then(|| layer.output.forward(output.swap_dims(1, 2).reshape([batch, length, D_MODEL])))
}

#[test]
fn every_method_runs_forward_and_backward() {
    let device = Default::default();
    for config in methods() {
        for kv_heads in [HEADS, 2] {
            let maskers = method(&json!([{"type": "sink", "sink_size": 1}, config]).to_string());
            let layer = configs().0.with_maskers(maskers).with_n_heads_kv(Some(kv_heads)).init::<AB>(&device);
            let toward = sequence::<AB>([2, LENGTH, D_MODEL], 3);
            let x = sequence::<AB>([2, LENGTH, D_MODEL], 2).require_grad();
            let run = |output: Tensor<AB, 3>| {
                let gradients = (output.clone() * toward.clone()).sum().backward();
                let weight = layer.value.weight.val().grad(&gradients).unwrap();
                (output, x.grad(&gradients).unwrap(), weight)
            };
            let (output, of_x, of_weight) = run(layer.forward(MhaInput::self_attn(x.clone()).causal()).context);
            for found in [numbers(&output), numbers(&of_x), numbers(&of_weight)] {
                assert!(found.iter().all(|x| x.is_finite()) && found.iter().any(|&x| x != 0.0), "{config}");
            }
            // Methods that draw use another seed in a training step than the state of `by_hand`.
            let draws =
                layer.maskers.0.samples() || config.to_string().contains("socket") || config.to_string().contains("pq");
            if let Some(wanted) = by_hand(&layer, x.clone(), draws) {
                let (output_by_hand, of_x_by_hand, of_weight_by_hand) = run(wanted);
                assert_same(&output, &output_by_hand, &format!("{config}: output"));
                assert_same(&of_x, &of_x_by_hand, &format!("{config}: gradient of the input"));
                assert_same(&of_weight, &of_weight_by_hand, &format!("{config}: gradient of the values' weight"));
            }
            // Inference is deterministic.
            let (layer, x) = (layer.valid(), x.inner());
            let run = || numbers(&layer.forward(MhaInput::self_attn(x.clone()).causal()).context);
            assert_eq!(run(), run(), "{config}");
        }
    }
}

/// In training each step draws new keys. The same seed gives the same sequence of steps.
#[test]
fn each_training_step_draws_new_keys_from_the_seed() {
    let device = Default::default();
    let sampling = method(r#"[{"type": "sink", "sink_size": 1}, {"type": "random_sampling", "sampling_rate": 0.3}]"#);
    for (maskers, dropout) in [(sampling.clone(), 0.0), (method(SINK_LOCAL), 0.5), (sampling, 0.5)] {
        let config = configs().0.with_maskers(maskers).with_dropout(dropout).with_seed(3);
        let first = made::<AB, _>(config.init::<AB>(&device));
        let x = sequence::<AB>([2, LENGTH, D_MODEL], 2);
        let run =
            |layer: &SparseMultiHeadAttention<AB>| numbers(&layer.forward(MhaInput::self_attn(x.clone())).context);
        let again = first.clone();
        let (one, two) = (run(&first), run(&first));
        assert_ne!(one, two);
        assert_eq!([&one, &two], [&run(&again), &run(&again)]);
        let mut other = first.clone();
        other.seed = 4;
        assert!(run(&other) != one && run(&other) != two);
    }
}

/// The mean over many dropout masks is the output without dropout. Both implementations are tested: over lists and over
/// weights.
#[test]
fn dropout_keeps_the_mean() {
    let device = Default::default();
    let draws = 600;
    for (maskers, what) in
        [(SINK_LOCAL, "lists"), ("[]", "weights"), (r#"[{"type": "oracle_top_k", "heavy_size": 9}]"#, "top-k")]
    {
        for padded in [false, true] {
            let mut layer = configs().0.with_maskers(method(maskers)).init::<AB>(&device);
            let x = sequence::<AB>([1, 17, D_MODEL], 2);
            let input = || {
                let input = MhaInput::self_attn(x.clone()).causal();
                if padded { input.mask_pad(padding([1, 17], false)) } else { input }
            };
            let wanted = layer.forward(input()).context;
            layer.dropout.prob = 0.3;
            let outputs = (0..draws).map(|_| layer.forward(input()).context).collect::<Vec<_>>();
            let mean = Tensor::stack::<4>(outputs.clone(), 0).mean_dim(0).squeeze_dim::<3>(0);
            let deviation = Tensor::stack::<4>(outputs, 0).var(0).squeeze_dim::<3>(0).sqrt();
            // The limit is seven standard errors. Of some thousands of numbers, one exceeds it in less than one of a
            // million runs. This holds although the distribution over few keys is far from normal.
            let limits = numbers(&deviation).into_iter().map(|x| 7.0 * x / (draws as f32).sqrt() + 1e-5);
            let differences = numbers(&(mean - wanted)).into_iter().map(f32::abs);
            assert!(differences.zip(limits).all(|(found, limit)| found < limit), "{what}, padded {padded}");
            assert!(numbers(&deviation).iter().any(|&x| x > 0.01), "{what}, padded {padded}");
        }
    }
}

/// The sum of the squares of all parameters.
fn squares<M: Module<AB>>(module: &M) -> Tensor<AB, 1> {
    struct Squares(Tensor<AB, 1>);
    impl ModuleVisitor<AB> for Squares {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<AB, D>>) {
            self.0 = self.0.clone() + param.val().powi_scalar(2).sum();
        }
    }
    let mut sum = Squares(Tensor::zeros([1], &Default::default()));
    module.visit(&mut sum);
    sum.0
}

/// Attention gives learned signatures no gradient. Another loss may give them one, and then an optimizer changes them.
#[test]
fn an_optimizer_updates_learned_weights() {
    let maskers = method(&json!([{"type": "top_k", "heavy_size": 5, "scorer": hash(&sizes())}]).to_string());
    let layer = configs().0.with_maskers(maskers).init::<AB>(&Default::default());
    let learned = layer.maskers.num_params();
    assert_eq!(learned, 2 * HEADS * (6 * 7 + 7 + 7 * 70 + 70));
    assert_eq!(layer.num_params(), learned + 4 * (D_MODEL * D_MODEL + D_MODEL));
    let step = |layer: SparseMultiHeadAttention<AB>| {
        let loss = squares(&layer.maskers);
        let gradients = GradientsParams::from_grads(loss.backward(), &layer);
        AdamConfig::new().init().step(0.1, layer, gradients)
    };
    let moved = step(layer.clone());
    let (before, after) = (parameters::<AB, _>(&layer.maskers), parameters::<AB, _>(&moved.maskers));
    assert!(before.iter().zip(&after).all(|(before, after)| before != after));
    assert_eq!(parameters::<AB, _>(&layer.query), parameters::<AB, _>(&moved.query));

    // Frozen signatures do not change, for any loss.
    let mut frozen = layer.clone();
    frozen.maskers = frozen.maskers.no_grad();
    let gradients = GradientsParams::from_grads(squares(&frozen).backward(), &frozen);
    let stepped = AdamConfig::new().init().step(0.1, frozen, gradients);
    assert_eq!(parameters::<AB, _>(&stepped.maskers), before);
    assert_ne!(parameters::<AB, _>(&stepped.query), parameters::<AB, _>(&layer.query));

    // The loss of attention trains the projections and does not change the signatures.
    let x = sequence::<AB>([2, LENGTH, D_MODEL], 2);
    let loss = layer.forward(MhaInput::self_attn(x)).context.powi_scalar(2).sum();
    let gradients = GradientsParams::from_grads(loss.backward(), &layer);
    let trained = AdamConfig::new().init().step(0.1, layer.clone(), gradients);
    assert_ne!(parameters::<AB, _>(&trained.query), parameters::<AB, _>(&layer.query));
    assert_eq!(parameters::<AB, _>(&trained.maskers), before);
}

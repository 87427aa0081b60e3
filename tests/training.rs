//! Learned signatures: their training, their recall, and their files.
#![cfg(feature = "train")]

mod common;

use burn::{
    backend::Autodiff,
    module::{AutodiffModule, Module, Param},
    record::{FullPrecisionSettings, NamedMpkBytesRecorder, Recorder},
    tensor::{Tensor, backend::Backend},
    train::metric::{Metric, MetricMetadata, Numeric},
};
use sparse_attention_hub::{
    eval::TopKRecall,
    masker::{ConfigError, Size},
    prelude::*,
    scorer::{Activation, Hash, HashConfig, HashWeights, LayerPerceptrons, Oracle, Scorer},
    train::{
        DensityInput, DensityMetric, HashDistillationConfig, OutputErrorInput, OutputErrorMetric, Relaxation,
        straight_through_sign,
    },
};

use common::{Sizes, assert_close, host, inputs as inputs_of, naive_logits, on_each_backend};

on_each_backend!(
    straight_through_has_the_gradient_of_tanh,
    the_loss_is_cross_entropy,
    the_gradient_is_the_slope_of_the_loss,
    recall_is_what_sorting_gives,
    training_increases_recall,
    frozen_parameters_stay,
    weights_that_do_not_fit_are_refused,
    saved_weights_load,
);

const SIZES: Sizes = Sizes::new(1, 4, 2, 111, 111, 12);

fn inputs<B: Backend>(seed: u64) -> AttentionInputs<B> {
    inputs_of::<B>(SIZES, seed).causal().unwrap()
}

fn config() -> HashConfig {
    HashConfig {
        hat_bits: 16,
        hat_mlp_layers: 2,
        hat_mlp_hidden_size: 24,
        hat_mlp_activation: Activation::Silu,
        hat_weights: None,
    }
}

fn random<B: Backend>(seed: u64) -> LayerPerceptrons<B> {
    LayerPerceptrons::random(&config(), SIZES.heads, SIZES.head_dim, seed, &B::Device::default())
}

fn distillation() -> HashDistillationConfig {
    HashDistillationConfig::new().with_top_k(5).with_sink_size(2).with_window_size(3).with_learning_rate(1e-2)
}

/// The recall of the exact top 5 within a budget of an eighth of the keys.
const RECALL: TopKRecall = TopKRecall { top_k: 5, budget: Size::Fraction(0.125), sink_size: 2, window_size: 3 };

fn hash<B: Backend>(layer: LayerPerceptrons<B>) -> Hash<B> {
    Hash::new(HashWeights::new([(0, layer)]), Activation::Silu)
}

/// All numbers of the parameters of a layer.
fn numbers<B: Backend>(layer: &LayerPerceptrons<B>) -> Vec<f32> {
    let linears = layer.query.layers.iter().chain(&layer.key.layers);
    let numbers = linears.flat_map(|linear| [linear.matrix.val().into_data(), linear.bias.val().into_data()]);
    numbers.flat_map(|data| data.convert::<f32>().to_vec::<f32>().unwrap()).collect()
}

fn straight_through_has_the_gradient_of_tanh<B: Backend>() {
    let x = [-2.0, -0.5, 0.0, 0.3, 1.5];
    let leaf = Tensor::<Autodiff<B>, 1>::from_floats(x, &B::Device::default()).require_grad();
    let sign = straight_through_sign(leaf.clone());
    let values = sign.to_data().convert::<f32>().to_vec::<f32>().unwrap();
    assert_eq!(values, [-1.0, -1.0, -1.0, 1.0, 1.0]);
    // The derivative of (sign(x) - 3)^2 with the derivative of tanh in place of that of sign.
    let gradients = (sign - 3.0).powi_scalar(2).sum().backward();
    let found = leaf.grad(&gradients).unwrap().into_data().convert::<f32>().to_vec::<f32>().unwrap();
    let wanted = x.map(|x: f64| {
        let sign = if x > 0.0 { 1.0 } else { -1.0 };
        2.0 * (sign - 3.0) / x.cosh().powi(2)
    });
    assert_close(&found, &wanted, 1e-5, "gradient");
}

/// The keys that each query chooses from, and whether each is a target, from exact scores.
fn naive_targets<B: Backend>(inputs: &AttentionInputs<B>) -> Vec<Vec<(usize, bool)>> {
    let keys = inputs.mask_shape().keys;
    let rows = naive_logits(inputs).chunks(keys).map(<[f64]>::to_vec).collect::<Vec<_>>();
    let row = |(row, logits): (usize, Vec<f64>)| {
        let position = row % SIZES.queries;
        let mut candidates = (2..keys).filter(|&key| key + 3 <= position).collect::<Vec<_>>();
        candidates.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
        candidates.into_iter().enumerate().map(|(place, key)| (key, place < 5)).collect()
    };
    rows.into_iter().enumerate().map(row).collect()
}

fn the_loss_is_cross_entropy<B: Backend>() {
    let inputs = inputs::<B>(3);
    let heads = SIZES.heads;
    for relaxation in [Relaxation::Tanh, Relaxation::StraightThrough] {
        let config = distillation().with_relaxation(relaxation).with_positive_weight_per_key(0.1);
        let trainer = config.init::<Autodiff<B>>(random(1), Activation::Silu).unwrap();
        let loss = trainer.loss(&inputs).unwrap().unwrap().into_data().iter::<f64>().next().unwrap();
        let relaxed = |x: f32| match relaxation {
            Relaxation::Tanh => f64::from(x).tanh(),
            Relaxation::StraightThrough => f64::from(if x > 0.0 { 1.0f32 } else { -1.0 }),
        };
        let layer = trainer.valid();
        let repeated = inputs.keys().clone().unsqueeze_dim::<5>(2).repeat_dim(2, heads / SIZES.kv_heads);
        let repeated = repeated.reshape([1, heads, SIZES.keys, SIZES.head_dim]);
        let [queries, keys] = [
            layer.query.forward(inputs.queries().clone(), Activation::Silu),
            layer.key.forward(repeated, Activation::Silu),
        ]
        .map(|x| host(&x).into_iter().map(relaxed).collect::<Vec<_>>());
        let (mut sum, mut count) = (0.0, 0);
        for (row, candidates) in naive_targets(&inputs).into_iter().enumerate() {
            for (key, target) in candidates {
                let query = &queries[row * 16..][..16];
                let key = &keys[(row / SIZES.queries * SIZES.keys + key) * 16..][..16];
                let agreement = query.iter().zip(key).map(|(a, b)| a * b).sum::<f64>();
                let probability = 1.0 / (1.0 + (-agreement).exp());
                sum -= if target { (20.0 + 11.1) * probability.ln() } else { (1.0 - probability).ln() };
                count += 1;
            }
        }
        let wanted = sum / f64::from(count);
        assert!((loss - wanted).abs() < 1e-4 * wanted, "{relaxation:?}: {loss}, not {wanted}");
    }
}

fn the_gradient_is_the_slope_of_the_loss<B: Backend>() {
    let inputs = inputs::<B>(3);
    let trainer = |layer| distillation().init::<Autodiff<B>>(layer, Activation::Silu).unwrap();
    let (still, first) = (trainer(random(1)), 0);
    let gradients = still.loss(&inputs).unwrap().unwrap().backward();
    let gradient = still.layer().query.layers[first].bias.val().grad(&gradients).unwrap();
    // The loss after a step `way` along the gradient. Its slope is the square of the gradient's length.
    let moved = |way: f64| {
        let mut layer = random::<Autodiff<B>>(1);
        let bias = layer.query.layers[first].bias.val() + Tensor::from_inner(gradient.clone()).mul_scalar(way);
        layer.query.layers[first].bias = Param::from_tensor(bias.detach());
        let loss = trainer(layer).loss(&inputs).unwrap().unwrap();
        loss.into_data().iter::<f64>().next().unwrap()
    };
    let square = gradient.clone().powi_scalar(2).sum().into_data().iter::<f64>().next().unwrap();
    let way = 0.1;
    let slope = (moved(way) - moved(-way)) / (2.0 * way);
    assert!((slope - square).abs() < 1e-2 * square, "{slope}, not {square}: {} {}", moved(way), moved(-way));
}

fn recall_is_what_sorting_gives<B: Backend>() {
    let inputs = inputs::<B>(5);
    let hash = hash(random::<B>(2));
    let scores = host(&hash.score(&inputs, &mut LayerState::new(0)).unwrap());
    let (mut hits, mut all) = (0, 0);
    for (row, candidates) in naive_targets(&inputs).into_iter().enumerate().filter(|(_, row)| row.len() >= 5) {
        let scores = &scores[row * SIZES.keys..][..SIZES.keys];
        let mut found = candidates.iter().map(|(key, _)| *key).collect::<Vec<_>>();
        // Among equal scores the scorer takes the lower key.
        found.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
        let seen = row % SIZES.queries + 1;
        found.truncate((seen / 8).max(1));
        hits += candidates.iter().filter(|(key, target)| *target && found.contains(key)).count();
        all += 5;
    }
    let recall = RECALL.measure(&hash, &inputs).unwrap();
    assert!((recall - hits as f64 / f64::from(all)).abs() < 1e-12, "{recall}, not {hits} of {all}");
    let oracle = TopKRecall { budget: Size::Count(5), ..RECALL };
    assert_eq!(oracle.measure(&Oracle::default(), &inputs).unwrap(), 1.0);
    // No query has 107 keys to choose from, so the recall is 1.
    assert_eq!(TopKRecall { top_k: 107, ..RECALL }.measure(&hash, &inputs).unwrap(), 1.0);
}

fn training_increases_recall<B: Backend>() {
    let (train, held_out) = (inputs::<B>(7), inputs::<B>(8));
    for relaxation in [Relaxation::Tanh, Relaxation::StraightThrough] {
        let config = distillation().with_relaxation(relaxation).with_chunk_size(40);
        let train = || {
            let mut trainer = config.init::<Autodiff<B>>(random(1), Activation::Silu).unwrap();
            let losses = (0..40).map(|_| trainer.epoch(&train).unwrap()).collect::<Vec<_>>();
            (losses, trainer.valid())
        };
        let (losses, trained) = train();
        assert_eq!(losses[0].len(), 3);
        let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
        let (first, last) = (mean(&losses[0]), mean(&losses[39]));
        assert!(last < 0.7 * first, "{relaxation:?}: loss {first}, then {last}");
        let before = RECALL.measure(&hash(random::<B>(1)), &held_out).unwrap();
        let after = RECALL.measure(&hash(trained.clone()), &held_out).unwrap();
        assert!(after > 2.0 * before, "{relaxation:?}: recall {before}, then {after}");
        let (again, weights) = train();
        assert_eq!((again, numbers(&weights)), (losses, numbers(&trained)), "the same seed, other weights");
    }
}

fn frozen_parameters_stay<B: Backend>() {
    let inputs = inputs::<B>(9);
    let step = |layer: LayerPerceptrons<Autodiff<B>>| {
        let mut trainer = distillation().init(layer, Activation::Silu).unwrap();
        assert!(trainer.step(&inputs).unwrap().is_some());
        trainer.valid()
    };
    let before = random::<B>(4);
    let frozen = step(random(4).no_grad());
    assert_eq!(numbers(&frozen), numbers(&before));
    let LayerPerceptrons { query, key } = random(4);
    let half = step(LayerPerceptrons { query, key: key.no_grad() });
    let [found, before] = [half, before].map(|layer| {
        let count = layer.query.num_params();
        let numbers = numbers(&layer);
        (numbers[..count].to_vec(), numbers[count..].to_vec())
    });
    assert_ne!(found.0, before.0);
    assert_eq!(found.1, before.1);
    // If the sink and the window cover all keys, there is nothing to learn.
    let config = distillation().with_window_size(111);
    let mut trainer = config.init::<Autodiff<B>>(random(4), Activation::Silu).unwrap();
    assert_eq!(trainer.step(&inputs).unwrap(), None);
    assert!(trainer.epoch(&inputs).unwrap().is_empty());
}

fn weights_that_do_not_fit_are_refused<B: Backend>() {
    let other = HashConfig { hat_bits: 8, ..config() };
    let device = B::Device::default();
    let misfits: [LayerPerceptrons<Autodiff<B>>; 3] = [
        LayerPerceptrons::random(&config(), 3, SIZES.head_dim, 0, &device),
        LayerPerceptrons::random(&config(), SIZES.heads, 13, 0, &device),
        LayerPerceptrons { key: LayerPerceptrons::random(&other, SIZES.heads, 12, 0, &device).key, ..random(0) },
    ];
    for layer in misfits {
        let error = distillation().init(layer, Activation::Silu).unwrap().loss(&inputs::<B>(1)).unwrap_err();
        assert!(error.to_string().contains("hash"), "{error}");
    }
    let bad = [
        ("top_k", distillation().with_top_k(0)),
        ("chunk_size", distillation().with_chunk_size(0)),
        ("learning_rate", distillation().with_learning_rate(f64::NAN)),
        ("positive_weight", distillation().with_positive_weight(0.0)),
        ("positive_weight_per_key", distillation().with_positive_weight_per_key(-1.0)),
    ];
    for (name, config) in bad {
        let found = config.init::<Autodiff<B>>(random(0), Activation::Silu).err();
        assert!(matches!(found, Some(ConfigError::Value { field, .. }) if field == name), "{name}");
    }
}

fn saved_weights_load<B: Backend>() {
    let device = B::Device::default();
    let weights = HashWeights::<Autodiff<B>>::new([(5, random(5)), (2, random(2)), (5, random(6))]);
    let layers = weights.layers().map(|(layer, _)| layer).collect::<Vec<_>>();
    assert_eq!(layers, [2, 5]);
    assert_eq!(weights.num_params(), 2 * numbers(&random::<B>(0)).len());
    let name = format!("saved-{}.safetensors", B::name(&device).replace(|c: char| !c.is_alphanumeric(), "_"));
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    weights.save(path.clone()).unwrap();
    let read = HashWeights::<B>::from_file(path.clone(), &config(), &device).unwrap();
    let all = |weights: &HashWeights<B>| weights.layers().map(|(at, layer)| (at, numbers(layer))).collect::<Vec<_>>();
    assert_eq!(all(&read), [(2, numbers(&random::<B>(2))), (5, numbers(&random::<B>(6)))]);
    // A record loads into weights for the same layers. Frozen weights stay frozen.
    let recorder = NamedMpkBytesRecorder::<FullPrecisionSettings>::default();
    let bytes = Recorder::<Autodiff<B>>::record(&recorder, weights.into_record(), ()).unwrap();
    let others = HashWeights::<Autodiff<B>>::new([(2, random(8)), (5, random(9))]).no_grad();
    let others = others.load_record(recorder.load(bytes, &device).unwrap());
    assert_eq!(all(&others.valid()), all(&read));
    let layer = others.layer(5).unwrap();
    assert!(!layer.query.layers[0].matrix.is_require_grad() && !layer.key.layers[1].bias.is_require_grad());
    // A failed save leaves no file behind.
    let error = read.save("/no/such/folder/weights.safetensors".into()).unwrap_err();
    assert!(error.to_string().contains("/no/such/folder/weights.safetensors"), "{error}");
    assert!(read.save("weights.pt".into()).unwrap_err().to_string().contains("weights.pt"));
    std::fs::remove_file(path).unwrap();
}

#[test]
fn metrics_are_means_over_heads() {
    use sparse_attention_hub::mask::{Mask, Pattern};
    type B = common::OnHost;
    let metadata = MetricMetadata {
        progress: burn::data::dataloader::Progress { items_processed: 1, items_total: 1 },
        global_progress: burn::data::dataloader::Progress { items_processed: 0, items_total: 1 },
        iteration: Some(0),
        lr: None,
    };
    let (mut density, mut error) = (DensityMetric::new(), OutputErrorMetric::new());
    density.update(&DensityInput::new(0.25, 3), &metadata);
    let entry = density.update(&DensityInput::new(0.05, 1), &metadata);
    assert!(entry.formatted.contains("20.00 %") && entry.formatted.contains("5.00 %"), "{}", entry.formatted);
    assert!((density.value().current() - 5.0).abs() < 1e-9 && (density.running_value().current() - 20.0).abs() < 1e-9);
    error.update(&OutputErrorInput::new(0.5, 1), &metadata);
    error.update(&OutputErrorInput::new(0.1, 3), &metadata);
    assert!((error.running_value().current() - 0.2).abs() < 1e-9);
    error.clear();
    density.clear();
    // Two reports: a dense layer, and a layer with a window of 1.
    let inputs = inputs_of::<B>(Sizes::new(1, 2, 1, 4, 4, 3), 1).causal().unwrap();
    let (shape, device) = (inputs.mask_shape(), inputs.device());
    let reports = [Pattern::causal(0), Pattern::local(1, 0)]
        .map(|pattern| AttentionReport::of(&inputs, &Mask::pattern(shape, pattern, &device)).unwrap());
    density.update(&DensityInput::of(&reports), &metadata);
    error.update(&OutputErrorInput::of(&reports), &metadata);
    // There are 10 visible pairs, and the window keeps 4 of them.
    assert!((density.running_value().current() - 70.0).abs() < 1e-9);
    let wanted = reports[1].heads.iter().map(|head| head.output_error).sum::<f64>() / 4.0;
    assert!(wanted > 0.1 && (error.running_value().current() - wanted).abs() < 1e-9);
}

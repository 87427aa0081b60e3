//! The gradients of grouped-query attention reach every parameter and equal finite differences. The file also has the
//! other tests that need their own program.
#![cfg(all(feature = "train", feature = "ndarray"))]

mod common;

use burn::{
    backend::Autodiff,
    module::{AutodiffModule, Module, ModuleMapper, ModuleVisitor, Param, ParamId},
    nn::attention::{MhaInput, MultiHeadAttentionConfig},
    tensor::{
        ElementConversion, Tensor, TensorData,
        backend::{AutodiffBackend, Backend},
    },
};
use burn_ndarray::NdArray;
use common::*;
use sparse_attention_hub::{
    nn::{
        GroupedQueryAttention, GroupedQueryAttentionConfig, RotaryEncodingConfig, SparseMultiHeadAttention,
        SparseMultiHeadAttentionConfig,
    },
    prelude::*,
};

/// The tests compute in f64, so that differences of small steps are precise. The first backend that a program uses on a
/// device sets the number type of the tensors made there. Therefore this file is a program by itself.
type B = Autodiff<NdArray<f64>>;

/// A sink and a window. A small step of a parameter does not change which keys they keep.
const POSITIONS: &str = r#"[{"type": "sink", "sink_size": 1}, {"type": "local", "window_size": 3}]"#;

/// Collects the gradients of all parameters, one entry per parameter.
struct Gradients<'a> {
    all: &'a <B as AutodiffBackend>::Gradients,
    found: Vec<(ParamId, Vec<f64>)>,
}

impl ModuleVisitor<B> for Gradients<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        let gradient = param.val().grad(self.all).expect("a gradient for every parameter");
        self.found.push((param.id, gradient.into_data().convert::<f64>().iter::<f64>().collect()));
    }
}

/// Adds a step to one number of a parameter.
struct Nudge {
    id: ParamId,
    at: usize,
    by: f64,
}

impl<B: Backend> ModuleMapper<B> for Nudge {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        if param.id != self.id {
            return param;
        }
        param.map(|tensor| {
            let mut numbers = tensor.to_data().convert::<f64>().iter::<f64>().collect::<Vec<_>>();
            numbers[self.at] += self.by;
            Tensor::from_data(TensorData::new(numbers, tensor.dims()), &tensor.device())
        })
    }
}

/// A sum over the output in which every number has a different weight.
fn loss<B: Backend>(layer: &GroupedQueryAttention<B>) -> Tensor<B, 1> {
    let numbers = |seed| {
        let data = TensorData::new(normal(&mut generator(seed), 2 * 7 * 12), [2, 7, 12]);
        Tensor::<B, 3>::from_data(data, &B::Device::default())
    };
    (layer.forward(numbers(1)).unwrap() * numbers(2)).sum()
}

fn check(config: &GroupedQueryAttentionConfig, maskers: &str, step: f64, tolerance: f64) {
    B::seed(&Default::default(), 5);
    let maskers = MaskerChainConfig::from_json(maskers).unwrap();
    let mut layer = config.clone().with_maskers(maskers).init::<B>(&Default::default()).unwrap();
    // With weights of 1 and biases of 0, errors in some gradients would not show.
    let mut rng = generator(3);
    struct Shake<'a>(&'a mut rand_xoshiro::Xoshiro256PlusPlus);
    impl ModuleMapper<B> for Shake<'_> {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
            param.map(|tensor| {
                let noise = TensorData::new(normal(self.0, tensor.dims().iter().product()), tensor.dims());
                (tensor.clone() + Tensor::from_data(noise, &tensor.device()) * 0.3).detach().require_grad()
            })
        }
    }
    layer = layer.map(&mut Shake(&mut rng));
    let all = loss(&layer).backward();
    let mut gradients = Gradients { all: &all, found: Vec::new() };
    layer.visit(&mut gradients);
    assert_eq!(gradients.found.iter().map(|(_, numbers)| numbers.len()).sum::<usize>(), layer.num_params());
    let plain = layer.valid();
    for (id, found) in gradients.found {
        for at in [0, found.len() / 2, found.len() - 1] {
            let at_distance = |by| {
                let nudged = plain.clone().map(&mut Nudge { id, at, by });
                loss(&nudged).into_scalar().elem::<f64>()
            };
            let wanted = (at_distance(step) - at_distance(-step)) / (2.0 * step);
            let close = (found[at] - wanted).abs() <= tolerance * (1.0 + wanted.abs());
            assert!(close, "{config}: entry {at} of {} is {}, not {wanted}", found.len(), found[at]);
        }
    }
}

#[test]
fn gradients_equal_finite_differences() {
    let plain = || GroupedQueryAttentionConfig::new(12, 4, 2).with_head_dim(Some(4));
    let options = [
        plain(),
        plain().with_bias(true).with_output_bias(true),
        plain().with_rotary(Some(RotaryEncodingConfig::new())),
        plain().with_sliding_window(Some(3)),
        plain().with_softcap(Some(0.5)),
        plain().with_sink_logits(true),
        plain().with_sink_logits(true).with_softcap(Some(0.7)).with_sliding_window(Some(4)),
    ];
    for config in options {
        for maskers in ["[]", POSITIONS] {
            // The tolerance is the second-order error of the step. It is largest for a strong softcap.
            check(&config, maskers, 1e-4, 2e-7);
        }
    }
    // burn's norm computes squares in f32.
    check(&plain().with_norm_epsilon(Some(1e-6)), "[]", 1e-3, 1e-3);
    check(&plain().with_norm_epsilon(Some(1e-6)).with_sink_logits(true), POSITIONS, 1e-3, 1e-3);
}

/// In training each call draws new keys. The same seed gives the same sequence of draws.
#[test]
fn training_draws_anew_at_each_call() {
    let draws = r#"[{"type": "random_sampling", "sampling_rate": 0.4}]"#;
    let config = GroupedQueryAttentionConfig::new(12, 4, 2).with_maskers(MaskerChainConfig::from_json(draws).unwrap());
    let layer = config.init::<B>(&Default::default()).unwrap();
    // burn initializes the parameters when they are first read, and each earlier copy would get different numbers.
    loss(&layer).into_scalar();
    let copy = layer.clone();
    let losses = |layer: &GroupedQueryAttention<B>| [0; 2].map(|_| loss(layer).into_scalar().elem::<f64>());
    let [first, second] = losses(&layer);
    assert_ne!(first, second);
    assert_eq!(losses(&copy), [first, second]);
    let [first, second] = [0; 2].map(|_| loss(&layer.valid()).into_scalar().elem::<f64>());
    assert_eq!(first, second);
}

/// A record of a layer without a method loads into a layer with a method, and the other way round.
#[test]
fn records_load_with_and_without_a_method() {
    let config = GroupedQueryAttentionConfig::new(12, 4, 2)
        .with_head_dim(Some(4))
        .with_bias(true)
        .with_norm_epsilon(Some(1e-6))
        .with_sink_logits(true)
        .with_rotary(Some(RotaryEncodingConfig::new()));
    let of = |maskers: &str| {
        let maskers = MaskerChainConfig::from_json(maskers).unwrap();
        config.clone().with_maskers(maskers).init::<NdArray<f64>>(&Default::default()).unwrap()
    };
    let (dense, sparse) = (of("[]"), of(POSITIONS));
    assert_eq!(dense.num_params(), sparse.num_params());
    assert_ne!(loss(&dense).into_scalar(), loss(&sparse).into_scalar());
    let wanted = loss(&sparse).into_scalar().elem::<f64>();
    let found = loss(&of(POSITIONS).load_record(dense.load_record(sparse.into_record()).into_record()));
    assert_eq!(found.into_scalar().elem::<f64>(), wanted);
}

/// Flex has one random generator for the whole process. While a test seeds it and draws from it, no other test may
/// draw. Only this program ensures that.
#[cfg(feature = "flex")]
static DRAWS: std::sync::Mutex<()> = std::sync::Mutex::new(());

/// With burn's conventions dropout acts on the same numbers as in burn. The same draws then give the same output.
#[cfg(feature = "flex")]
#[test]
fn dropout_equals_burns_under_its_conventions() {
    type B = Autodiff<burn_flex::Flex>;
    let _alone = DRAWS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let device = Default::default();
    let layer = MultiHeadAttentionConfig::new(48, 8).with_dropout(0.3).init::<B>(&device);
    let x = Tensor::<B, 3>::from_data(TensorData::new(normal(&mut generator(5), 2 * 21 * 48), [2, 21, 48]), &device);
    // burn initializes the parameters when they are first read.
    layer.forward(MhaInput::self_attn(x.clone()));
    let mut ours = SparseMultiHeadAttention::from(layer.clone());
    ours.burn_conventions = true;
    B::seed(&device, 11);
    let wanted = layer.forward(MhaInput::self_attn(x.clone())).context;
    B::seed(&device, 11);
    let found = ours.forward(sparse_attention_hub::nn::MhaInput::self_attn(x)).context;
    let [found, wanted] = [found, wanted].map(|tensor| tensor.into_data().iter::<f32>().collect::<Vec<_>>());
    assert_close(&found, &wanted.into_iter().map(f64::from).collect::<Vec<_>>(), 1e-5, "dropout");
}

/// Hidden positions may hold any number, also with dropout, and also with burn's conventions, which multiply by weights
/// of 0.
#[cfg(feature = "flex")]
#[test]
fn hidden_positions_do_not_leak_through_dropout() {
    type B = Autodiff<burn_flex::Flex>;
    let _alone = DRAWS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let device = Default::default();
    let sequence = |seed, bad: Option<f32>| {
        let mut numbers = normal(&mut generator(seed), 2 * 21 * 48);
        for (at, number) in numbers.iter_mut().enumerate() {
            *number = if is_hidden(at / 48) { bad.unwrap_or(*number) } else { *number };
        }
        Tensor::<B, 3>::from_data(TensorData::new(numbers, [2, 21, 48]), &device)
    };
    // A hidden position in the middle, which cannot be cut off, and one at the end.
    fn is_hidden(position: usize) -> bool {
        [4, 20].contains(&(position % 21))
    }
    let hidden = TensorData::new((0..42).map(is_hidden).collect::<Vec<_>>(), [2, 21]);
    let hidden = Tensor::from_data(hidden, &device);
    for (at, maskers) in ["[]", POSITIONS, "[]", POSITIONS].into_iter().enumerate() {
        let config = SparseMultiHeadAttentionConfig::new(48, 8).with_dropout(0.3).with_quiet_softmax(at >= 2);
        let mut layer = config.with_maskers(MaskerChainConfig::from_json(maskers).unwrap()).init::<B>(&device);
        for (burn_conventions, fill_weights) in [(false, false), (false, true), (true, false), (true, true)] {
            (layer.burn_conventions, layer.fill_weights) = (burn_conventions, fill_weights);
            let run = |bad| {
                let query = sequence(1, None).require_grad();
                let input = sparse_attention_hub::nn::MhaInput::new(query.clone(), sequence(2, bad), sequence(3, bad));
                B::seed(&device, 11);
                let context = layer.clone().forward(input.mask_pad(hidden.clone())).context;
                let gradient = query.grad(&context.clone().powi_scalar(2).sum().backward()).unwrap();
                [context.into_data(), gradient.into_data()].map(|data| data.iter::<f32>().collect::<Vec<_>>())
            };
            let wanted = run(None);
            assert!(wanted.iter().flatten().all(|number| number.is_finite()));
            for bad in [f32::NAN, f32::INFINITY, 1e30] {
                let what = format!("{bad} with {maskers}, burn's {burn_conventions}, weights {fill_weights}");
                assert_eq!(run(Some(bad)), wanted, "{what}");
            }
        }
    }
}

//! Code that these tests share: a backend with gradients, sequences, masks, comparisons.

use std::path::PathBuf;

use burn::{
    backend::Autodiff,
    module::{Module, ModuleVisitor, Param},
    nn::attention::MultiHeadAttentionConfig,
    tensor::{Bool, Tensor, TensorData, backend::Backend},
};
use sparse_attention_hub::{backend::Selected, method::MaskerChainConfig, nn::SparseMultiHeadAttentionConfig};

pub use crate::common::all_numbers as numbers;
use crate::common::{assert_close_but_for_near_scores, generator, normal, product_rounding};

pub type B = Selected;
pub type AB = Autodiff<Selected>;

pub const D_MODEL: usize = 48;
pub const HEADS: usize = 8;

pub fn sequence<B: Backend>(dims: [usize; 3], seed: u64) -> Tensor<B, 3> {
    let numbers = normal(&mut generator(seed), dims.iter().product());
    Tensor::from_data(TensorData::new(numbers, dims), &B::Device::default())
}

/// The tolerance of [assert_same]. With rounded operands, this library's layers and burn's compute the same queries,
/// keys and values. Then they round different numbers: this library rounds scaled queries and exponentials, burn rounds
/// queries and weights. Logits have a standard deviation of 0.3, so this changes them by less than one rounding. The
/// last projection sums errors of up to one rounding of 0.6 with weights of 0.1. In hundreds of layers computed with
/// rounded operands no output was off by more than 0.7 roundings, and no weight by more than 0.4.
fn tolerance<B: Backend>() -> f64 {
    1e-5 + 2.0 * product_rounding::<B>()
}

#[track_caller]
pub fn assert_same<B: Backend, C: Backend, const D: usize>(found: &Tensor<B, D>, wanted: &Tensor<C, D>, what: &str) {
    assert_near(found, wanted, tolerance::<B>(), what);
}

#[track_caller]
pub fn assert_near<B: Backend, C: Backend, const D: usize>(
    found: &Tensor<B, D>,
    wanted: &Tensor<C, D>,
    tolerance: f64,
    what: &str,
) {
    assert_eq!(found.dims(), wanted.dims(), "{what}: dims");
    let wanted = numbers(wanted).into_iter().map(f64::from).collect::<Vec<_>>();
    crate::common::assert_close(&numbers(found), &wanted, tolerance, what);
}

/// [assert_same] for sequences of a chain that chooses keys by score.
#[track_caller]
pub fn assert_same_but_for_near_scores<B: Backend>(found: &Tensor<B, 3>, wanted: &Tensor<B, 3>, what: &str) {
    assert_close_but_for_near_scores(found, wanted, tolerance::<B>(), what);
}

pub fn bools<B: Backend, const D: usize>(dims: [usize; D], hidden: impl Fn(usize) -> bool) -> Tensor<B, D, Bool> {
    let bools = (0..dims.iter().product()).map(hidden).collect::<Vec<bool>>();
    Tensor::from_data(TensorData::new(bools, dims), &B::Device::default())
}

/// A padding mask: each sequence has a different number of real keys, with the padding before them or after them.
pub fn padding<B: Backend>([batch, keys]: [usize; 2], on_the_left: bool) -> Tensor<B, 2, Bool> {
    bools([batch, keys], |at| {
        let (sequence, key) = (at / keys, at % keys);
        let padded = 3 * sequence + 1;
        if on_the_left { key < padded } else { key >= keys - padded }
    })
}

/// The configurations of this library's layer and burn's layer, without dropout.
pub fn configs() -> (SparseMultiHeadAttentionConfig, MultiHeadAttentionConfig) {
    (
        SparseMultiHeadAttentionConfig::new(D_MODEL, HEADS).with_dropout(0.0),
        MultiHeadAttentionConfig::new(D_MODEL, HEADS).with_dropout(0.0),
    )
}

pub fn method(json: &str) -> MaskerChainConfig {
    MaskerChainConfig::from_json(json).unwrap()
}

pub const SINK_LOCAL: &str = r#"[{"type": "sink", "sink_size": 2}, {"type": "local", "window_size": 9}]"#;

/// All parameters of a module, in order.
pub fn parameters<B: Backend, M: Module<B>>(module: &M) -> Vec<Vec<f32>> {
    struct Collect(Vec<Vec<f32>>);
    impl<B: Backend> ModuleVisitor<B> for Collect {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
            self.0.push(numbers(&param.val()));
        }
    }
    let mut collect = Collect(Vec::new());
    module.visit(&mut collect);
    collect.0
}

/// The module with its parameters initialized. burn initializes them when they are first read, and each copy made
/// earlier gets different numbers.
pub fn made<B: Backend, M: Module<B>>(module: M) -> M {
    parameters::<B, M>(&module);
    module
}

/// The path of a file for this test run.
pub fn scratch(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("layers-{name}"))
}

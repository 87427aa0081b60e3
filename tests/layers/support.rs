//! What these tests share: a backend with gradients, sequences, masks, comparisons.

use std::path::PathBuf;

use burn::{
    backend::Autodiff,
    module::{Module, ModuleVisitor, Param},
    nn::attention::MultiHeadAttentionConfig,
    tensor::{Bool, Tensor, TensorData, backend::Backend},
};
use sparse_attention_hub::{backend::Selected, masker::MaskerChainConfig, nn::SparseMultiHeadAttentionConfig};

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

/// What [assert_same] allows. Where operands are rounded, this library's layers and burn's make the same queries, keys
/// and values, and then round other numbers: scaled queries and the exponentials here, queries and the weights there.
/// As logits have a deviation of 0.3, that moves them by less than a rounding, and the last projection sums errors of
/// up to one rounding of 0.6 with weights of 0.1: in hundreds of layers computed with rounded operands no output was
/// off by more than 0.7 roundings, and no weight by more than 0.4.
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

/// The same for sequences of a chain that chooses by score.
#[track_caller]
pub fn assert_same_but_for_near_scores<B: Backend>(found: &Tensor<B, 3>, wanted: &Tensor<B, 3>, what: &str) {
    assert_close_but_for_near_scores(found, wanted, tolerance::<B>(), what);
}

pub fn bools<B: Backend, const D: usize>(dims: [usize; D], hidden: impl Fn(usize) -> bool) -> Tensor<B, D, Bool> {
    let bools = (0..dims.iter().product()).map(hidden).collect::<Vec<bool>>();
    Tensor::from_data(TensorData::new(bools, dims), &B::Device::default())
}

/// Padding after the first keys of each sequence, or before the last.
pub fn padding<B: Backend>([batch, keys]: [usize; 2], on_the_left: bool) -> Tensor<B, 2, Bool> {
    bools([batch, keys], |at| {
        let (sequence, key) = (at / keys, at % keys);
        let padded = 3 * sequence + 1;
        if on_the_left { key < padded } else { key >= keys - padded }
    })
}

/// The layer's configuration without dropout, and burn's.
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

/// All parameters of a module in order.
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

/// The module with its parameters drawn: burn draws them where they are first read, and in each clone anew until then.
pub fn made<B: Backend, M: Module<B>>(module: M) -> M {
    parameters::<B, M>(&module);
    module
}

/// A path for a file of this test run.
pub fn scratch(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("layers-{name}"))
}

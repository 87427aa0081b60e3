//! Gradients of masked attention and of the reference, and the masks for which they are compared.

use burn::{
    backend::Autodiff,
    tensor::{
        DType, Tensor, TensorData,
        backend::{AutodiffBackend, Backend},
    },
};
use rand::{RngExt, seq::SliceRandom};
use sparse_attention_hub::{
    attention::reference_attention,
    kernels::native_path,
    mask::{KeyIndices, MaskForm},
    prelude::*,
};

use super::{Method, Sizes, generator, has_kernels, normal, tensor};

pub type Leaf<B> = Tensor<B, 4>;

pub type Attend<B> = fn(&AttentionInputs<B>, &Mask<B>) -> Leaf<B>;

/// The tolerance for sums in another order, of 450 terms in the longest case, relative to the largest gradient.
pub const F32: f64 = 2e-5;

pub fn masked<B: Backend>(inputs: &AttentionInputs<B>, mask: &Mask<B>) -> Leaf<B> {
    masked_attention(inputs, mask, Requested::default()).unwrap().output
}

pub fn reference<B: Backend>(inputs: &AttentionInputs<B>, mask: &Mask<B>) -> Leaf<B> {
    reference_attention(inputs, mask, Requested::default()).unwrap().output
}

/// The same visibility and options over other queries, keys and values.
pub fn over<B: Backend>(inputs: &AttentionInputs<B>, [queries, keys, values]: [Leaf<B>; 3]) -> AttentionInputs<B> {
    let over = AttentionInputs::new(queries, keys, values).unwrap();
    let over = over.with_visibility(inputs.visibility().clone()).unwrap().with_scale(inputs.scale()).unwrap();
    match inputs.softcap() {
        Some(cap) => over.with_softcap(cap).unwrap(),
        None => over,
    }
}

pub fn numbers<B: Backend>(tensor: Tensor<B, 4>) -> Vec<f64> {
    tensor.into_data().convert::<f64>().iter::<f64>().collect()
}

/// The weights of the loss: the output is multiplied by them and summed. They make it unlikely that two different
/// gradients are equal by accident.
pub fn multipliers<B: Backend>(output: &Tensor<B, 4>) -> Tensor<B, 4> {
    let dims = output.dims();
    tensor::<B>(&normal(&mut generator(77), dims.iter().product()), dims).cast(output.dtype())
}

/// The gradients of queries, keys and values.
pub fn gradients<B: AutodiffBackend>(
    inputs: &AttentionInputs<B>,
    attend: impl Fn(&AttentionInputs<B>) -> Leaf<B>,
) -> [Vec<f64>; 3] {
    let leaf = |tensor: &Leaf<B>| tensor.clone().detach().require_grad();
    let leaves = [leaf(inputs.queries()), leaf(inputs.keys()), leaf(inputs.values())];
    let output = attend(&over(inputs, leaves.clone()));
    // A tensor of which nothing is kept may not be part of the graph. These terms put it there with a gradient of 0.
    let [queries, keys, values] = leaves.clone().map(|leaf| leaf.sum().mul_scalar(0));
    let loss = (output.clone() * multipliers(&output)).sum() + queries + keys + values;
    let gradients = loss.backward();
    leaves.map(|leaf| numbers(leaf.grad(&gradients).unwrap()))
}

#[track_caller]
pub fn assert_same(found: &[Vec<f64>], wanted: &[Vec<f64>], tolerance: f64, what: &str) {
    for (at, (found, wanted)) in found.iter().zip(wanted).enumerate() {
        let name = ["queries", "keys", "values"][at];
        let largest = wanted.iter().fold(1f64, |most, x| most.max(x.abs()));
        assert_eq!(found.len(), wanted.len(), "{what}: number of gradients of {name}");
        for (at, (found, wanted)) in found.iter().zip(wanted).enumerate() {
            let error = (found - wanted).abs();
            // The condition is written so that NaN fails.
            assert!(error <= tolerance * largest, "{what}: gradient {at} of {name} is {found}, not {wanted}");
        }
    }
}

#[track_caller]
pub fn check<B: AutodiffBackend>(inputs: &AttentionInputs<B>, mask: &Mask<B>, tolerance: f64, what: &str) {
    assert_eq!(native_path::<B>(), has_kernels::<B>(), "{what}");
    let found = gradients(inputs, |inputs| masked(inputs, mask));
    let wanted = gradients(inputs, |inputs| reference(inputs, mask));
    assert_same(&found, &wanted, tolerance, what);
}

/// The masks of a method: alone, and after a sink and a window.
pub fn masks_of<B: Backend>(method: &Method, inputs: &AttentionInputs<B>, sizes: &Sizes) -> [Mask<B>; 2] {
    let shape = sizes.mask_shape();
    let masker = MaskerRegistry::new().masker(&(method.config)(sizes), &Context::new(&inputs.device())).unwrap();
    let window = Pattern { sink: 1, window: 2, offset: inputs.offset() };
    let before = [Mask::empty(shape, &inputs.device()), Mask::pattern(shape, window, &inputs.device())];
    before.map(|mask| masker.add(inputs, &mut LayerState::new(1), mask).unwrap())
}

/// Rows of keys in any order. Some slots are unused, and some rows have no keys.
pub fn random_rows<B: Backend>(sizes: Sizes, seed: u64, share: f64) -> Mask<B> {
    let mut rng = generator(seed);
    let shape = sizes.mask_shape();
    let width = (sizes.keys as f64 * share).ceil() as usize;
    let (mut indices, mut probability) = (Vec::new(), Vec::new());
    for row in 0..shape.rows() {
        let mut keys = (0..sizes.keys as i32).collect::<Vec<_>>();
        keys.shuffle(&mut rng);
        for &key in &keys[..width] {
            let unused = row % 5 == 3 || rng.random::<f32>() < 0.2;
            indices.push(if unused { -1 } else { key });
            probability.push(if rng.random::<f32>() < 0.5 { rng.random_range(0.05..1.0f32) } else { 1.0 });
        }
    }
    let dims = [shape.batch, shape.heads, shape.queries, width];
    let indices = Tensor::from_data(TensorData::new(indices, dims), &B::Device::default());
    let probability = Tensor::from_data(TensorData::new(probability, dims), (&B::Device::default(), DType::F32));
    Mask::from_indices(shape, KeyIndices::new(indices, probability).unwrap()).unwrap()
}

/// The output on the inner backend.
pub fn inside<B: Backend>(inputs: &AttentionInputs<Autodiff<B>>, mask: &Mask<Autodiff<B>>) -> Tensor<B, 4> {
    let [queries, keys, values] =
        [inputs.queries(), inputs.keys(), inputs.values()].map(|tensor| tensor.clone().inner());
    let inner = AttentionInputs::new(queries, keys, values).unwrap().causal().unwrap();
    masked(&inner, &carried(mask))
}

/// The same mask in the same form, on another backend.
pub fn carried<A: Backend, B: Backend>(mask: &Mask<A>) -> Mask<B> {
    let (shape, device) = (mask.shape(), B::Device::default());
    match mask.form() {
        MaskForm::Empty => Mask::empty(shape, &device),
        MaskForm::Full => Mask::full(shape, &device),
        MaskForm::Pattern(pattern) => Mask::pattern(shape, *pattern, &device),
        MaskForm::Indices(rows) => {
            let data = (rows.indices().into_data(), rows.probability().into_data());
            let probability = Tensor::from_data(data.1, (&device, DType::F32));
            let rows = KeyIndices::new(Tensor::from_data(data.0, &device), probability).unwrap();
            Mask::from_indices(shape, rows).unwrap()
        }
        MaskForm::Dense(weights) => {
            Mask::from_dense(Tensor::from_data(weights.to_data(), (&device, DType::F32))).unwrap()
        }
    }
}

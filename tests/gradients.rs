//! Gradients of sparse attention against those of the reference under `Autodiff`, and against finite differences.
#![cfg(feature = "train")]

mod common;

use burn::{
    backend::autodiff::{Autodiff, checkpoint::strategy::BalancedCheckpointing},
    tensor::{
        DType, Tensor, TensorData,
        backend::{AutodiffBackend, Backend},
    },
};
use common::*;
use rand::{RngExt, seq::SliceRandom};
use sparse_attention_hub::{
    attention::{SoftmaxStatistics, reference_attention},
    kernels::native_path,
    mask::{Csr, MaskForm, Rows},
    prelude::*,
};

on_each_backend!(
    every_method_has_the_gradients_of_the_reference,
    bands_have_the_gradients_of_the_reference,
    lists_have_the_gradients_of_the_reference,
    lists_that_a_group_shares_have_the_gradients_of_the_reference,
    only_what_is_kept_has_gradients,
    one_tensor_may_be_queries_keys_and_values,
    what_asks_for_no_gradient_gets_none,
    parts_of_a_longer_cache_pass_gradients_on,
    checkpointing_changes_nothing,
    statistics_have_the_gradients_of_the_reference,
    the_gradient_of_a_log_sum_exp_is_the_mean_key,
);

type Leaf<B> = Tensor<B, 4>;

/// Sums in another order, relative to the largest gradient. On ndarray it is the reference that is off: its gradient of a
/// division multiplies with reciprocals, which burn-ndarray's vectors have to 12 bits.
fn f32_tolerance<B: Backend>() -> f64 {
    if B::name(&B::Device::default()).contains("ndarray") { 5e-4 } else { 1e-5 }
}

fn masked<B: Backend>(inputs: &AttentionInputs<B>, mask: &Mask<B>) -> Leaf<B> {
    masked_attention(inputs, mask, Requested::default()).unwrap().output
}

fn reference<B: Backend>(inputs: &AttentionInputs<B>, mask: &Mask<B>) -> Leaf<B> {
    reference_attention(inputs, mask, Requested::default()).unwrap().output
}

/// Inputs over other tensors that see the same.
fn over<B: Backend>(inputs: &AttentionInputs<B>, [queries, keys, values]: [Leaf<B>; 3]) -> AttentionInputs<B> {
    let inputs_over = AttentionInputs::new(queries, keys, values).unwrap();
    inputs_over.with_visibility(inputs.visibility().clone()).unwrap().with_scale(inputs.scale()).unwrap()
}

fn numbers<B: Backend>(tensor: Tensor<B, 4>) -> Vec<f64> {
    tensor.into_data().convert::<f64>().iter::<f64>().collect()
}

/// What an output is multiplied with to make one number of it, so that no two gradients are alike by accident.
fn multipliers<B: Backend>(output: &Tensor<B, 4>) -> Tensor<B, 4> {
    let dims = output.dims();
    tensor::<B>(&normal(&mut generator(77), dims.iter().product()), dims).cast(output.dtype())
}

/// The gradients of queries, keys and values.
fn gradients<B: AutodiffBackend>(
    inputs: &AttentionInputs<B>,
    attend: impl Fn(&AttentionInputs<B>) -> Leaf<B>,
) -> [Vec<f64>; 3] {
    let leaf = |tensor: &Leaf<B>| tensor.clone().detach().require_grad();
    let leaves = [leaf(inputs.queries()), leaf(inputs.keys()), leaf(inputs.values())];
    let output = attend(&over(inputs, leaves.clone()));
    // What nothing is kept of is not part of the graph; like this it is, with a gradient of 0.
    let [queries, keys, values] = leaves.clone().map(|leaf| leaf.sum().mul_scalar(0));
    let loss = (output.clone() * multipliers(&output)).sum() + queries + keys + values;
    let gradients = loss.backward();
    leaves.map(|leaf| numbers(leaf.grad(&gradients).unwrap()))
}

#[track_caller]
fn assert_same(found: &[Vec<f64>], wanted: &[Vec<f64>], tolerance: f64, what: &str) {
    for (at, (found, wanted)) in found.iter().zip(wanted).enumerate() {
        let name = ["queries", "keys", "values"][at];
        let largest = wanted.iter().fold(1f64, |most, x| most.max(x.abs()));
        assert_eq!(found.len(), wanted.len(), "{what}: number of gradients of {name}");
        for (at, (found, wanted)) in found.iter().zip(wanted).enumerate() {
            let error = (found - wanted).abs();
            // Written so that what is not a number fails.
            assert!(error <= tolerance * largest, "{what}: gradient {at} of {name} is {found}, not {wanted}");
        }
    }
}

#[track_caller]
fn check<B: AutodiffBackend>(inputs: &AttentionInputs<B>, mask: &Mask<B>, tolerance: f64, what: &str) {
    assert!(native_path::<B>(), "{what}");
    let found = gradients(inputs, |inputs| masked(inputs, mask));
    let wanted = gradients(inputs, |inputs| reference(inputs, mask));
    assert_same(&found, &wanted, tolerance, what);
}

/// What a method keeps, alone and after a sink and a window.
fn masks_of<B: Backend>(method: &Method, inputs: &AttentionInputs<B>, sizes: &Sizes) -> [Mask<B>; 2] {
    let shape = sizes.mask_shape();
    let masker = MaskerRegistry::new().masker(&(method.config)(sizes), &Context::new(&inputs.device())).unwrap();
    let window = Pattern { sink: 1, window: 2, offset: inputs.offset() };
    let before = [Mask::empty(shape, &inputs.device()), Mask::pattern(shape, window, &inputs.device())];
    before.map(|mask| masker.add(inputs, &mut LayerState::new(1), mask).unwrap())
}

fn every_method_has_the_gradients_of_the_reference<B: Backend>() {
    for (case, sizes) in SIZES.into_iter().enumerate() {
        for (name, visibility) in visibilities::<Autodiff<B>>(sizes, case as u64) {
            let inputs = inputs(sizes, case as u64).with_visibility(visibility).unwrap();
            for method in &METHODS {
                for mask in masks_of(method, &inputs, &sizes) {
                    check(
                        &inputs,
                        &mask,
                        f32_tolerance::<B>(),
                        &format!("{} on {sizes:?}, {name}", (method.config)(&sizes)),
                    );
                }
            }
        }
    }
}

/// More queries than a part or a block has, and of every length beside these.
const LONG: [Sizes; 4] = [
    Sizes::new(1, 8, 2, 150, 201, 20),
    Sizes::new(2, 3, 3, 65, 80, 7),
    Sizes::new(1, 1, 1, 300, 300, 16),
    Sizes::new(1, 5, 1, 90, 40, 33),
];

fn closed_forms<B: Backend>(sizes: Sizes) -> Vec<Visibility<B>> {
    let mut offsets = vec![sizes.keys.saturating_sub(sizes.queries), 0, 2];
    offsets.dedup();
    let causal = offsets.into_iter().map(|offset| Visibility::Causal { offset });
    [Visibility::Full].into_iter().chain(causal).collect()
}

fn bands_have_the_gradients_of_the_reference<B: Backend>() {
    for (case, sizes) in SIZES.into_iter().chain(LONG).enumerate() {
        let (shape, device, keys) = (sizes.mask_shape(), B::Device::default(), sizes.keys);
        for visibility in closed_forms::<Autodiff<B>>(sizes) {
            let inputs = inputs(sizes, case as u64).with_visibility(visibility).unwrap();
            let inputs = inputs.with_scale(0.31).unwrap();
            for (sink, window) in [(0, 0), (1, 0), (0, 1), (3, 5), (keys / 2, keys / 3), (0, usize::MAX), (keys + 1, 0)]
            {
                for offset in [keys as isize - sizes.queries as isize, -3] {
                    let mask = Mask::pattern(shape, Pattern { sink, window, offset }, &device);
                    let seen = inputs.visibility();
                    check(
                        &inputs,
                        &mask,
                        f32_tolerance::<B>(),
                        &format!("{sizes:?} {seen:?} sink {sink} window {window} at {offset}"),
                    );
                }
            }
        }
    }
}

/// Rows with keys in any order, unused slots among them, some rows without any.
fn random_rows<B: Backend>(sizes: Sizes, seed: u64, share: f64) -> Mask<B> {
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
    Mask::from_rows(shape, Rows::new(indices, probability).unwrap()).unwrap()
}

fn lists_have_the_gradients_of_the_reference<B: Backend>() {
    for (case, sizes) in SIZES.into_iter().chain(LONG).enumerate() {
        for visibility in closed_forms::<Autodiff<B>>(sizes) {
            let inputs = inputs(sizes, case as u64).with_visibility(visibility).unwrap();
            for share in [0.1, 0.6, 1.0] {
                let mask = random_rows(sizes, case as u64, share);
                check(
                    &inputs,
                    &mask,
                    f32_tolerance::<B>(),
                    &format!("{sizes:?} {:?} share {share}", inputs.visibility()),
                );
            }
        }
    }
}

fn lists_that_a_group_shares_have_the_gradients_of_the_reference<B: Backend>() {
    for group in [1, 2, 3, 8, 17] {
        let sizes = Sizes::new(1, 2 * group, 2, 3, 63, 12);
        let Csr { indices, ptr, data } = random_rows::<B>(Sizes { heads: 2, ..sizes }, 5, 0.4).to_csr();
        let mut shared = Csr { indices: Vec::new(), ptr: vec![0], data: Vec::new() };
        for row in 0..sizes.mask_shape().rows() {
            let from = row / sizes.queries / group * sizes.queries + row % sizes.queries;
            shared.indices.extend(&indices[ptr[from]..ptr[from + 1]]);
            shared.data.extend(&data[ptr[from]..ptr[from + 1]]);
            shared.ptr.push(shared.indices.len());
        }
        let mask = Mask::from_csr(sizes.mask_shape(), &shared, &B::Device::default()).unwrap();
        check::<Autodiff<B>>(&inputs(sizes, 5), &mask, f32_tolerance::<B>(), &format!("a group of {group}"));
    }
}

/// Keys and values that no row keeps may hold anything, which would not be so if they were computed with: the step is
/// the native one.
fn only_what_is_kept_has_gradients<B: Backend>() {
    assert!(native_path::<Autodiff<B>>() && native_path::<Autodiff<B, BalancedCheckpointing>>());
    let sizes = Sizes::new(1, 4, 2, 3, 63, 12);
    let good = inputs::<Autodiff<B>>(sizes, 3);
    let mask = random_rows(sizes, 9, 0.3);
    let kept = mask.to_csr().indices;
    assert!((0..sizes.keys).any(|key| !kept.contains(&key)), "every key is kept somewhere");
    let spoil = |tensor_of: &Leaf<Autodiff<B>>| {
        let dims = tensor_of.dims();
        let mut values = host(tensor_of);
        for (at, value) in values.iter_mut().enumerate() {
            if !kept.contains(&(at / dims[3] % dims[2])) {
                *value = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY][at % 3];
            }
        }
        tensor(&values, dims)
    };
    let bad = over(&good, [good.queries().clone(), spoil(good.keys()), spoil(good.values())]);
    let found = gradients(&bad, |inputs| masked(inputs, &mask));
    assert_eq!(found, gradients(&good, |inputs| masked(inputs, &mask)));
    let of_others = found[1].iter().enumerate().filter(|(at, _)| !kept.contains(&(at / 12 % sizes.keys)));
    assert!(of_others.into_iter().all(|(_, &gradient)| gradient == 0.0));
}

fn one_tensor_may_be_queries_keys_and_values<B: Backend>() {
    let sizes = Sizes::new(2, 3, 3, 33, 33, 5);
    let inputs = inputs::<Autodiff<B>>(sizes, 1).causal().unwrap();
    let window = Mask::pattern(sizes.mask_shape(), Pattern { sink: 2, window: 6, offset: 0 }, &inputs.device());
    for mask in [window, random_rows(sizes, 2, 0.4)] {
        let gradient = |attend: fn(&AttentionInputs<Autodiff<B>>, &Mask<Autodiff<B>>) -> Leaf<Autodiff<B>>| {
            let leaf = inputs.keys().clone().require_grad();
            // Once as it is, once through another step.
            let twice = leaf.clone().mul_scalar(2);
            let one = attend(&over(&inputs, [leaf.clone(), leaf.clone(), leaf.clone()]), &mask);
            let two = attend(&over(&inputs, [twice.clone(), leaf.clone(), twice]), &mask);
            let gradients = (one.clone() * multipliers(&one) + two.clone() * one).sum().backward();
            vec![numbers(leaf.grad(&gradients).unwrap())]
        };
        assert_same(&gradient(masked), &gradient(reference), f32_tolerance::<B>(), "one tensor");
    }
}

fn what_asks_for_no_gradient_gets_none<B: Backend>() {
    let sizes = Sizes::new(1, 4, 2, 7, 40, 12);
    let inputs = inputs::<Autodiff<B>>(sizes, 1).causal().unwrap();
    let window = Mask::pattern(sizes.mask_shape(), Pattern { sink: 2, window: 6, offset: 33 }, &inputs.device());
    for mask in [window, random_rows(sizes, 2, 0.4)] {
        let all = gradients(&inputs, |inputs| masked(inputs, &mask));
        for wanted in 0..8 {
            let wants = |at: usize| wanted >> at & 1 == 1;
            let leaf = |at, tensor: &Leaf<_>| if wants(at) { tensor.clone().require_grad() } else { tensor.clone() };
            let leaves = [leaf(0, inputs.queries()), leaf(1, inputs.keys()), leaf(2, inputs.values())];
            let output = masked(&over(&inputs, leaves.clone()), &mask);
            assert_eq!(numbers(output.clone()), numbers(inside(&inputs, &mask)), "forward for {wanted:b}");
            if wanted == 0 {
                continue;
            }
            let gradients = (output.clone() * multipliers(&output)).sum().backward();
            for (at, leaf) in leaves.iter().enumerate() {
                let gradient = leaf.grad(&gradients).map(numbers);
                assert_eq!(gradient, wants(at).then(|| all[at].clone()), "gradient {at} for {wanted:b}");
            }
        }
    }
}

/// The forward step on the backend inside.
fn reference_like<B: Backend>(inputs: &AttentionInputs<Autodiff<B>>, mask: &Mask<Autodiff<B>>) -> Tensor<B, 4> {
    let [queries, keys, values] =
        [inputs.queries(), inputs.keys(), inputs.values()].map(|tensor| tensor.clone().inner());
    let inner = AttentionInputs::new(queries, keys, values).unwrap().causal().unwrap();
    masked(&inner, &carried(mask))
}

/// A mask on another backend, in the same form.
fn carried<A: Backend, B: Backend>(mask: &Mask<A>) -> Mask<B> {
    let (shape, device) = (mask.shape(), B::Device::default());
    match mask.form() {
        MaskForm::Empty => Mask::empty(shape, &device),
        MaskForm::Full => Mask::full(shape, &device),
        MaskForm::Pattern(pattern) => Mask::pattern(shape, *pattern, &device),
        MaskForm::Rows(rows) => {
            let data = (rows.indices().into_data(), rows.probability().into_data());
            let probability = Tensor::from_data(data.1, (&device, DType::F32));
            let rows = Rows::new(Tensor::from_data(data.0, &device), probability).unwrap();
            Mask::from_rows(shape, rows).unwrap()
        }
        MaskForm::Dense(weights) => {
            Mask::from_dense(Tensor::from_data(weights.to_data(), (&device, DType::F32))).unwrap()
        }
    }
}

fn parts_of_a_longer_cache_pass_gradients_on<B: Backend>() {
    let sizes = Sizes::new(2, 6, 3, 2, 63, 20);
    let long = inputs::<Autodiff<B>>(Sizes { keys: 90, ..sizes }, 4);
    let window = Mask::pattern(sizes.mask_shape(), Pattern { sink: 5, window: 9, offset: 61 }, &long.device());
    for mask in [window, random_rows(sizes, 2, 0.4)] {
        for swapped in [false, true] {
            let attend = |long: &AttentionInputs<Autodiff<B>>, by: fn(&AttentionInputs<_>, &Mask<_>) -> Leaf<_>| {
                let part = |tensor: &Leaf<Autodiff<B>>| {
                    // Swapped, the heads of a layer's projection lie between each other.
                    let tensor = if swapped { tensor.clone().swap_dims(1, 2) } else { tensor.clone() };
                    tensor.slice_dim(if swapped { 1 } else { 2 }, 11..74)
                };
                let keys = [part(long.keys()), part(long.values())];
                let [keys, values] = if swapped { keys.map(|part| part.swap_dims(1, 2)) } else { keys };
                by(&AttentionInputs::new(long.queries().clone(), keys, values).unwrap().causal().unwrap(), &mask)
            };
            let found = gradients(&long, |long| attend(long, masked));
            let wanted = gradients(&long, |long| attend(long, reference));
            assert_same(&found, &wanted, f32_tolerance::<B>(), "a part of a cache");
            let outside = |at: usize| !(11..74).contains(&(at / 20 % 90));
            assert!(found[1].iter().enumerate().all(|(at, &gradient)| !outside(at) || gradient == 0.0));
        }
    }
}

fn checkpointing_changes_nothing<B: Backend>() {
    type Balanced<B> = Autodiff<B, BalancedCheckpointing>;
    let sizes = Sizes::new(1, 4, 2, 33, 63, 12);
    let plain = inputs::<Autodiff<B>>(sizes, 1).causal().unwrap();
    let balanced = inputs::<Balanced<B>>(sizes, 1).causal().unwrap();
    let window = Mask::pattern(sizes.mask_shape(), Pattern { sink: 2, window: 6, offset: 30 }, &plain.device());
    // Steps before and after which are computed again instead of kept.
    fn attend<B: Backend>(inputs: &AttentionInputs<B>, mask: &Mask<B>) -> Leaf<B> {
        let around = [inputs.queries().clone(), inputs.keys().clone().mul_scalar(2), inputs.values().clone().exp()];
        masked(&over(inputs, around), mask).mul_scalar(3).sin()
    }
    for mask in [window, random_rows(sizes, 2, 0.4)] {
        let found = gradients(&balanced, |inputs| attend(inputs, &carried(&mask)));
        assert_eq!(found, gradients(&plain, |inputs| attend(inputs, &mask)));
    }
}

fn statistics_have_the_gradients_of_the_reference<B: Backend>() {
    let requested = Requested { weights: false, statistics: true };
    // With each row keeping something: the logarithm of nothing has no gradient.
    let all = |statistics: SoftmaxStatistics<Autodiff<B>>, output: Leaf<Autodiff<B>>| {
        let SoftmaxStatistics { maximum, numerator, denominator, log_sum_exp } = statistics;
        // Another maximum is as good.
        let shift = maximum.exp();
        let parts = vec![output, numerator * shift.clone(), log_sum_exp.clone() * log_sum_exp, denominator * shift];
        Tensor::cat(parts, 3)
    };
    for (case, sizes) in SIZES.into_iter().chain(LONG).enumerate() {
        let inputs = inputs::<Autodiff<B>>(sizes, case as u64).with_scale(0.2).unwrap();
        let (sink, window) = (sizes.keys.min(3), 9);
        let window =
            Mask::pattern(sizes.mask_shape(), Pattern { sink, window, offset: inputs.offset() }, &inputs.device());
        let sink = Mask::pattern(sizes.mask_shape(), Pattern::sink(1), &inputs.device());
        let lists = sink.merge(&random_rows(sizes, case as u64, 0.4)).unwrap();
        for mask in [window, lists] {
            let found = gradients(&inputs, |inputs| {
                let found = masked_attention(inputs, &mask, requested).unwrap();
                all(found.statistics.unwrap(), found.output)
            });
            let wanted = gradients(&inputs, |inputs| {
                let wanted = reference_attention(inputs, &mask, requested).unwrap();
                all(wanted.statistics.unwrap(), wanted.output)
            });
            assert_same(&found, &wanted, f32_tolerance::<B>(), &format!("statistics on {sizes:?}"));
        }
    }
}

/// The gradient of a log-sum-exp by a query is the attention over the keys in place of the values, times the scale. A
/// row that keeps nothing has none.
fn the_gradient_of_a_log_sum_exp_is_the_mean_key<B: Backend>() {
    let sizes = Sizes::new(1, 4, 2, 7, 40, 12);
    let inputs = inputs::<Autodiff<B>>(sizes, 1).causal().unwrap();
    let window = Mask::pattern(sizes.mask_shape(), Pattern { sink: 2, window: 6, offset: 33 }, &inputs.device());
    for mask in [window, random_rows(sizes, 3, 0.2)] {
        let queries = inputs.queries().clone().require_grad();
        let tracked = over(&inputs, [queries.clone(), inputs.keys().clone(), inputs.values().clone()]);
        let requested = Requested { weights: false, statistics: true };
        let statistics = masked_attention(&tracked, &mask, requested).unwrap().statistics.unwrap();
        let gradient = queries.grad(&statistics.log_sum_exp.sum().backward()).unwrap();
        let keys = inputs.keys().clone();
        let mean = masked(&over(&inputs, [inputs.queries().clone(), keys.clone(), keys]), &mask);
        let wanted = numbers(mean.mul_scalar(inputs.scale()));
        assert_same(&[numbers(gradient)], &[wanted], f32_tolerance::<B>(), "log-sum-exp");
    }
}

/// Half precision: what is summed is f32, but outputs and gradients are rounded to the type. Double precision: the
/// reference takes logarithms of probabilities in f32.
#[cfg(feature = "flex")]
#[test]
fn other_types_of_numbers_on_flex() {
    type B = Autodiff<burn_flex::Flex>;
    for (dtype, tolerance) in [(DType::F16, 1.5e-3), (DType::BF16, 1.2e-2), (DType::F64, 1e-7)] {
        for (case, sizes) in SIZES.into_iter().chain([LONG[0]]).enumerate() {
            let inputs = inputs::<B>(sizes, case as u64);
            let cast = [inputs.queries(), inputs.keys(), inputs.values()].map(|tensor| tensor.clone().cast(dtype));
            let inputs = over(&inputs, cast);
            let pattern = Pattern { sink: 3, window: 9, offset: inputs.offset() };
            let window = Mask::pattern(sizes.mask_shape(), pattern, &inputs.device());
            for mask in [window, random_rows(sizes, 3, 0.5)] {
                check(&inputs, &mask, tolerance, &format!("{dtype:?} on {sizes:?}"));
            }
        }
    }
}

/// The kernels are the same, whatever the backend brings along.
#[cfg(all(feature = "flex", feature = "ndarray"))]
#[test]
fn backends_agree() {
    fn of<B: Backend>(sizes: Sizes) -> [[Vec<f64>; 3]; 2] {
        let inputs = inputs::<Autodiff<B>>(sizes, 8).with_scale(0.31).unwrap();
        let pattern = Pattern { sink: 3, window: 20, offset: inputs.offset() };
        let window = Mask::pattern(sizes.mask_shape(), pattern, &inputs.device());
        [window, random_rows(sizes, 2, 0.4)].map(|mask| gradients(&inputs, |inputs| masked(inputs, &mask)))
    }
    for sizes in SIZES.into_iter().chain(LONG) {
        let (flex, ndarray) = (of::<burn_flex::Flex>(sizes), of::<burn_ndarray::NdArray>(sizes));
        for (flex, ndarray) in flex.iter().zip(&ndarray) {
            assert_same(ndarray, flex, 2e-6, &format!("{sizes:?}"));
        }
    }
}

/// Central differences in f64 of the attention on the backend inside.
#[cfg(feature = "ndarray")]
mod finite_differences {
    use burn_ndarray::NdArray;

    use super::*;

    type Inner = NdArray<f64>;
    const STEP: f64 = 1e-5;

    fn in_f64(inputs: &AttentionInputs<Autodiff<NdArray>>) -> [(Vec<f64>, [usize; 4]); 3] {
        [inputs.queries(), inputs.keys(), inputs.values()].map(|tensor| (numbers(tensor.clone()), tensor.dims()))
    }

    fn leaf<B: Backend>((numbers, dims): &(Vec<f64>, [usize; 4])) -> Leaf<B> {
        Tensor::from_data(TensorData::new(numbers.clone(), *dims), (&B::Device::default(), DType::F64))
    }

    fn inputs_of<B: Backend>(
        tensors: &[(Vec<f64>, [usize; 4]); 3],
        like: &AttentionInputs<Autodiff<NdArray>>,
    ) -> AttentionInputs<B> {
        let [queries, keys, values] = tensors.each_ref().map(leaf);
        let visibility = match like.visibility() {
            Visibility::Causal { offset } => Visibility::Causal { offset: *offset },
            Visibility::Masked(hidden) => {
                Visibility::Masked(Tensor::from_data(hidden.to_data(), &B::Device::default()))
            }
            _ => Visibility::Full,
        };
        let inputs = AttentionInputs::new(queries, keys, values).unwrap().with_visibility(visibility).unwrap();
        inputs.with_scale(like.scale()).unwrap()
    }

    fn check_differences(inputs: &AttentionInputs<Autodiff<NdArray>>, mask: &Mask<Autodiff<NdArray>>, what: &str) {
        let tensors = in_f64(inputs);
        let tracked = inputs_of::<Autodiff<Inner>>(&tensors, inputs);
        let found = gradients(&tracked, |inputs| masked(inputs, &carried(mask)));
        let mask = carried::<_, Inner>(mask);
        let loss = |tensors: &[(Vec<f64>, [usize; 4]); 3]| {
            let output = masked(&inputs_of::<Inner>(tensors, inputs), &mask);
            numbers((output.clone() * multipliers(&output)).sum().reshape([1, 1, 1, 1]))[0]
        };
        let mut wanted = [Vec::new(), Vec::new(), Vec::new()];
        for (at, wanted) in wanted.iter_mut().enumerate() {
            for entry in 0..tensors[at].0.len() {
                let moved = |by: f64| {
                    let mut tensors = tensors.clone();
                    tensors[at].0[entry] += by;
                    loss(&tensors)
                };
                wanted.push((moved(STEP) - moved(-STEP)) / (2.0 * STEP));
            }
        }
        assert_same(&found, &wanted, 1e-7, what);
    }

    /// With and without groups of heads, one query and several.
    const SMALL: [Sizes; 3] =
        [Sizes::new(1, 2, 2, 4, 11, 3), Sizes::new(1, 4, 2, 3, 13, 4), Sizes::new(2, 3, 1, 1, 9, 5)];

    #[test]
    fn of_every_method() {
        for (case, sizes) in SMALL.into_iter().enumerate() {
            for (name, visibility) in visibilities(sizes, case as u64).into_iter().take(4) {
                let inputs = inputs(sizes, case as u64).with_visibility(visibility).unwrap();
                for method in &METHODS {
                    for mask in masks_of(method, &inputs, &sizes) {
                        check_differences(&inputs, &mask, &format!("{} on {sizes:?}, {name}", (method.config)(&sizes)));
                    }
                }
            }
        }
    }

    #[test]
    fn of_rows_that_keep_nothing_and_of_sampled_keys() {
        for (case, sizes) in SMALL.into_iter().enumerate() {
            for offset in [0, sizes.keys - sizes.queries] {
                let inputs = inputs(sizes, case as u64).with_visibility(Visibility::Causal { offset }).unwrap();
                check_differences(&inputs, &random_rows(sizes, case as u64, 0.5), &format!("lists on {sizes:?}"));
                let outside = Pattern { sink: 0, window: 2, offset: -2 };
                let mask = Mask::pattern(sizes.mask_shape(), outside, &inputs.device());
                check_differences(&inputs, &mask, &format!("no keys on {sizes:?}"));
                let full = Mask::full(sizes.mask_shape(), &inputs.device());
                check_differences(&inputs, &full, &format!("all keys on {sizes:?}"));
            }
        }
    }
}

/// The same gradients to the last bit, however many threads there are.
#[test]
fn threads_do_not_matter() {
    type B = Autodiff<sparse_attention_hub::backend::Selected>;
    let sizes = Sizes::new(1, 4, 1, 333, 333, 20);
    let inputs = inputs::<B>(sizes, 1).causal().unwrap();
    let window = Mask::pattern(sizes.mask_shape(), Pattern { sink: 20, window: 70, offset: 0 }, &inputs.device());
    for mask in [window, random_rows(sizes, 2, 0.2)] {
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| gradients(&inputs, |inputs| masked(inputs, &mask)))
        };
        let one = run(1);
        assert_eq!(one, run(2));
        assert_eq!(one, run(5));
    }
}

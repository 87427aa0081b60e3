//! Gradients of sparse attention against gradients of the reference under `Autodiff`, and against finite differences.
#![cfg(feature = "train")]

mod common;
#[cfg(feature = "ndarray")]
#[path = "gradients_support/finite_differences.rs"]
mod finite_differences;
mod gradients_support;
#[path = "gradients_support/precision.rs"]
mod precision;

use burn::{
    backend::autodiff::{Autodiff, checkpoint::strategy::BalancedCheckpointing},
    tensor::{Tensor, backend::Backend},
};
use common::*;
use gradients_support::*;
use sparse_attention_hub::{
    attention::{SoftmaxStatistics, reference_attention},
    kernels::native_path,
    mask::Csr,
    prelude::*,
};

on_each_backend!(
    every_method_has_the_gradients_of_the_reference,
    bands_have_the_gradients_of_the_reference,
    lists_have_the_gradients_of_the_reference,
    lists_shared_by_a_group_have_the_gradients_of_the_reference,
    only_what_is_kept_has_gradients,
    one_tensor_may_be_queries_keys_and_values,
    untracked_tensors_get_no_gradient,
    parts_of_a_longer_cache_pass_gradients_on,
    checkpointing_changes_nothing,
    statistics_have_the_gradients_of_the_reference,
    the_gradient_of_a_log_sum_exp_is_the_mean_key,
);

fn every_method_has_the_gradients_of_the_reference<B: Backend>() {
    for (case, sizes) in SIZES.into_iter().enumerate() {
        for (name, visibility) in visibilities::<Autodiff<B>>(sizes, case as u64) {
            let inputs = inputs(sizes, case as u64).with_visibility(visibility).unwrap();
            for method in METHODS {
                for mask in masks_of(method, &inputs, &sizes) {
                    check(&inputs, &mask, F32, &format!("{} on {sizes:?}, {name}", (method.config)(&sizes)));
                }
            }
        }
    }
}

/// Sizes with more queries than a part or a block. There are more keys than queries, as many, or fewer.
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
                    check(&inputs, &mask, F32, &format!("{sizes:?} {seen:?} sink {sink} window {window} at {offset}"));
                }
            }
        }
    }
}

fn lists_have_the_gradients_of_the_reference<B: Backend>() {
    for (case, sizes) in SIZES.into_iter().chain(LONG).enumerate() {
        for visibility in closed_forms::<Autodiff<B>>(sizes) {
            let inputs = inputs(sizes, case as u64).with_visibility(visibility).unwrap();
            for share in [0.1, 0.6, 1.0] {
                let mask = random_rows(sizes, case as u64, share);
                check(&inputs, &mask, F32, &format!("{sizes:?} {:?} share {share}", inputs.visibility()));
            }
        }
    }
}

fn lists_shared_by_a_group_have_the_gradients_of_the_reference<B: Backend>() {
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
        check::<Autodiff<B>>(&inputs(sizes, 5), &mask, F32, &format!("a group of {group}"));
    }
}

/// Keys and values that no row keeps may hold any number.
fn only_what_is_kept_has_gradients<B: Backend>() {
    assert_eq!(native_path::<Autodiff<B>>(), has_kernels::<B>());
    assert_eq!(native_path::<Autodiff<B, BalancedCheckpointing>>(), has_kernels::<B>());
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
        let gradient = |attend: Attend<Autodiff<B>>| {
            let leaf = inputs.keys().clone().require_grad();
            // The tensor is used directly, and through another operation.
            let twice = leaf.clone().mul_scalar(2);
            let one = attend(&over(&inputs, [leaf.clone(), leaf.clone(), leaf.clone()]), &mask);
            let two = attend(&over(&inputs, [twice.clone(), leaf.clone(), twice]), &mask);
            let gradients = (one.clone() * multipliers(&one) + two.clone() * one).sum().backward();
            vec![numbers(leaf.grad(&gradients).unwrap())]
        };
        assert_same(&gradient(masked), &gradient(reference), F32, "one tensor");
    }
}

fn untracked_tensors_get_no_gradient<B: Backend>() {
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
            let [found, without] = [numbers(output.clone()), numbers(inside(&inputs, &mask))];
            match native_path::<Autodiff<B>>() {
                true => assert_eq!(found, without, "forward for {wanted:b}"),
                // In tensor operations, autodiff multiplies by a reciprocal in place of dividing: two roundings more.
                false => {
                    assert_same(&[found], &[without], 2.0 * f64::from(f32::EPSILON), &format!("forward for {wanted:b}"))
                }
            }
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

fn parts_of_a_longer_cache_pass_gradients_on<B: Backend>() {
    let sizes = Sizes::new(2, 6, 3, 2, 63, 20);
    let long = inputs::<Autodiff<B>>(Sizes { keys: 90, ..sizes }, 4);
    let window = Mask::pattern(sizes.mask_shape(), Pattern { sink: 5, window: 9, offset: 61 }, &long.device());
    for mask in [window, random_rows(sizes, 2, 0.4)] {
        for swapped in [false, true] {
            let attend = |long: &AttentionInputs<Autodiff<B>>, by: Attend<Autodiff<B>>| {
                let part = |tensor: &Leaf<Autodiff<B>>| {
                    // If swapped, the tokens are the second dimension, as in the projections of a layer. The heads of a
                    // token are then next to each other in memory.
                    let tensor = if swapped { tensor.clone().swap_dims(1, 2) } else { tensor.clone() };
                    tensor.slice_dim(if swapped { 1 } else { 2 }, 11..74)
                };
                let keys = [part(long.keys()), part(long.values())];
                let [keys, values] = if swapped { keys.map(|part| part.swap_dims(1, 2)) } else { keys };
                by(&AttentionInputs::new(long.queries().clone(), keys, values).unwrap().causal().unwrap(), &mask)
            };
            let found = gradients(&long, |long| attend(long, masked));
            let wanted = gradients(&long, |long| attend(long, reference));
            assert_same(&found, &wanted, F32, "a part of a cache");
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
    // Operations before and after the attention that checkpointing computes again in the backward pass.
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
    // Each row keeps a key, because the logarithm of 0 has no gradient.
    let all = |statistics: SoftmaxStatistics<Autodiff<B>>, output: Leaf<Autodiff<B>>| {
        let SoftmaxStatistics { maximum, numerator, denominator, log_sum_exp } = statistics;
        // The choice of the maximum is free. The factor `exp(maximum)` makes the sums independent of it.
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
            assert_same(&found, &wanted, F32, &format!("statistics on {sizes:?}"));
        }
    }
}

/// The gradient of the log-sum-exp with respect to a query is the attention output with the keys as values, times the
/// scale. It is 0 for a row that keeps nothing.
fn the_gradient_of_a_log_sum_exp_is_the_mean_key<B: Backend>() {
    let sizes = Sizes::new(1, 4, 2, 7, 40, 12);
    let inputs = inputs::<Autodiff<B>>(sizes, 1).causal().unwrap();
    let window = Mask::pattern(sizes.mask_shape(), Pattern { sink: 2, window: 6, offset: 33 }, &inputs.device());
    // Both sides round weights that sum to 1, before or after the multiplication by the scale. The weights multiply
    // keys of up to 4.
    let rounding = 2.0 * 4.0 * inputs.scale() * product_rounding::<B>();
    for mask in [window, random_rows(sizes, 3, 0.2)] {
        let queries = inputs.queries().clone().require_grad();
        let tracked = over(&inputs, [queries.clone(), inputs.keys().clone(), inputs.values().clone()]);
        let requested = Requested { weights: false, statistics: true };
        let statistics = masked_attention(&tracked, &mask, requested).unwrap().statistics.unwrap();
        let gradient = queries.grad(&statistics.log_sum_exp.sum().backward()).unwrap();
        let keys = inputs.keys().clone();
        let mean = masked(&over(&inputs, [inputs.queries().clone(), keys.clone(), keys]), &mask);
        let wanted = numbers(mean.mul_scalar(inputs.scale()));
        assert_same(&[numbers(gradient)], &[wanted], F32 + rounding, "log-sum-exp");
    }
}

/// In half precision sums are f32, but outputs and gradients are rounded to the type. In double precision the reference
/// takes logarithms of probabilities in f32.
#[cfg(feature = "flex")]
#[test]
fn other_number_types_on_flex() {
    use burn::tensor::DType;
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

/// All backends use the same kernels.
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

/// The gradients have the same bits for every number of threads.
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

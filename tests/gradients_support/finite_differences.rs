//! Gradients against central differences in f64, computed on the inner backend.

use burn::tensor::{DType, TensorData};
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
        Visibility::Masked(hidden) => Visibility::Masked(Tensor::from_data(hidden.to_data(), &B::Device::default())),
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

/// Sizes with and without GQA groups, with one query and with several.
const SMALL: [Sizes; 3] = [Sizes::new(1, 2, 2, 4, 11, 3), Sizes::new(1, 4, 2, 3, 13, 4), Sizes::new(2, 3, 1, 1, 9, 5)];

#[test]
fn of_every_method() {
    for (case, sizes) in SMALL.into_iter().enumerate() {
        for (name, visibility) in visibilities(sizes, case as u64).into_iter().take(4) {
            let inputs = inputs(sizes, case as u64).with_visibility(visibility).unwrap();
            for method in METHODS {
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

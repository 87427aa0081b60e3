//! Gradients.

use burn::{backend::Autodiff, tensor::backend::AutodiffBackend};
use sparse_attention_hub::attention::reference_attention;

use super::*;
use crate::common::backends::product_rounding;

on_each_backend!(
    hidden_and_unkept_keys_leave_no_trace_in_gradients,
    a_value_that_is_not_finite_affects_gradients_only_where_it_is_kept,
    a_hidden_value_of_two_keys_has_no_gradient,
);

type Attend<B> = fn(&AttentionInputs<B>, &Mask<B>) -> Tensor<B, 4>;

fn output<B: Backend>(inputs: &AttentionInputs<B>, mask: &Mask<B>) -> Tensor<B, 4> {
    masked_attention(inputs, mask, Requested::default()).unwrap().output
}

fn reference<B: Backend>(inputs: &AttentionInputs<B>, mask: &Mask<B>) -> Tensor<B, 4> {
    reference_attention(inputs, mask, Requested::default()).unwrap().output
}

fn output_and_weights<B: Backend>(inputs: &AttentionInputs<B>, mask: &Mask<B>) -> Tensor<B, 4> {
    let found = masked_attention(inputs, mask, Requested { weights: true, statistics: false }).unwrap();
    Tensor::cat(vec![found.output, found.weights.unwrap()], 3)
}

fn output_and_log_sum_exp<B: Backend>(inputs: &AttentionInputs<B>, mask: &Mask<B>) -> Tensor<B, 4> {
    let found = masked_attention(inputs, mask, Requested { weights: false, statistics: true }).unwrap();
    Tensor::cat(vec![found.output, found.statistics.unwrap().log_sum_exp], 3)
}

/// The gradients of queries, keys and values, for a sum in which every number has a different weight.
fn gradients<B: AutodiffBackend>(inputs: &AttentionInputs<B>, mask: &Mask<B>, attend: Attend<B>) -> [Vec<f32>; 3] {
    let leaves = [inputs.queries(), inputs.keys(), inputs.values()].map(|leaf| leaf.clone().detach().require_grad());
    let [queries, keys, values] = leaves.clone();
    let output = attend(&over(inputs, queries, keys, values), mask);
    let dims = output.dims();
    let multipliers = tensor::<B>(&normal(&mut generator(77), dims.iter().product()), dims);
    // A tensor of which nothing is kept may not be part of the graph. These terms put it there with a gradient of 0.
    let [queries, keys, values] = leaves.clone().map(|leaf| leaf.sum().mul_scalar(0));
    let gradients = ((output * multipliers).sum() + queries + keys + values).backward();
    leaves.map(|leaf| leaf.grad(&gradients).unwrap().into_data().convert::<f32>().iter::<f32>().collect())
}

const NAMES: [&str; 3] = ["queries", "keys", "values"];

fn ways<B: Backend>() -> [(&'static str, Attend<B>); 4] {
    [
        ("output", output),
        ("reference", reference),
        ("output and weights", output_and_weights),
        ("output and log-sum-exp", output_and_log_sum_exp),
    ]
}

fn hidden_and_unkept_keys_leave_no_trace_in_gradients<B: Backend>() {
    let mut spoiled_keys = 0;
    for (case, sizes) in CASES.into_iter().enumerate() {
        for (what, good, mask) in cases::<Autodiff<B>>(sizes, case as u64) {
            let bad = Kept::of(&good, &mask, sizes).kept_by_no_row();
            let (keys, values) = (spoiled(good.keys(), &bad), spoiled(good.values(), &bad));
            let spoiled = over(&good, good.queries().clone(), keys, values);
            for (way, attend) in ways() {
                let (found, wanted) = (gradients(&spoiled, &mask, attend), gradients(&good, &mask, attend));
                for ((found, wanted), name) in found.iter().zip(&wanted).zip(NAMES) {
                    assert!(wanted.iter().all(|x| x.is_finite()), "gradients of {name}, {way}: {what}");
                    assert_eq!(found, wanted, "gradients of {name}, {way}: {what}");
                }
                for (gradients, width) in [(&found[1], sizes.head_dim), (&found[2], sizes.head_dim + 1)] {
                    for place in (0..bad.len()).filter(|&place| bad[place]) {
                        spoiled_keys += 1;
                        assert!(gradients[place * width..][..width].iter().all(|&x| x == 0.0), "{way}: {what}");
                    }
                }
            }
        }
    }
    assert!(spoiled_keys > 1000, "{spoiled_keys}");
}

fn a_value_that_is_not_finite_affects_gradients_only_where_it_is_kept<B: Backend>() {
    let mut spoiled_rows = 0;
    for (case, sizes) in CASES.into_iter().enumerate() {
        for (what, good, mask) in cases::<Autodiff<B>>(sizes, case as u64) {
            let kept = Kept::of(&good, &mask, sizes);
            let kept_by_no_row = kept.kept_by_no_row();
            let bad = some_of(kept_by_no_row.len(), case as u64, 0.03, &kept_by_no_row);
            let (values, _) = sprinkled(good.values(), &bad);
            let sprinkled = over(&good, good.queries().clone(), good.keys().clone(), values);
            let bad_rows = (0..kept.rows()).map(|row| kept.places(row).any(|place| bad[place])).collect::<Vec<_>>();
            let mut touched = bad.clone();
            for row in (0..kept.rows()).filter(|&row| bad_rows[row]) {
                kept.places(row).for_each(|place| touched[place] = true);
            }
            for (way, attend) in ways() {
                let (found, wanted) = (gradients(&sprinkled, &mask, attend), gradients(&good, &mask, attend));
                let widths = [sizes.head_dim, sizes.head_dim, sizes.head_dim + 1];
                // All weights are finite, so the gradients of values that are not spoiled do not change.
                for (at, spoiled) in [&bad_rows, &touched, &bad].into_iter().enumerate() {
                    let (name, width) = (NAMES[at], widths[at]);
                    for place in (0..spoiled.len()).filter(|&place| !spoiled[place]) {
                        let (found, wanted) =
                            (&found[at][place * width..][..width], &wanted[at][place * width..][..width]);
                        assert_eq!(found, wanted, "gradient {place} of {name}, {way}: {what}");
                    }
                }
                for row in (0..kept.rows()).filter(|&row| bad_rows[row]) {
                    spoiled_rows += 1;
                    let gradients = &found[0][row * sizes.head_dim..][..sizes.head_dim];
                    assert!(gradients.iter().all(|x| !x.is_finite()), "gradient of query {row}, {way}: {what}");
                }
            }
        }
    }
    assert!(spoiled_rows > 100, "{spoiled_rows}");
}

/// The smallest cases: a key is hidden by a boolean tensor, by a bias of minus infinity, by a dense mask, or by lists.
fn a_hidden_value_of_two_keys_has_no_gradient<B: Backend>() {
    let device = B::Device::default();
    let zeros = |count: usize| tensor::<Autodiff<B>>(&vec![0.0; count], [1, 1, count, 1]);
    for bad in ANYTHING {
        let keys = || tensor(&[0.5, bad], [1, 1, 2, 1]);
        let values = || tensor::<Autodiff<B>>(&[1.0, bad], [1, 1, 2, 1]);
        let one = AttentionInputs::new(zeros(1), keys(), values()).unwrap();
        let hidden = TensorData::new(vec![false, true], [1, 1, 1, 2]);
        let hidden = one.clone().with_visibility(Visibility::Masked(Tensor::from_data(hidden, &device))).unwrap();
        let bias = tensor(&[0.0, f32::NEG_INFINITY], [1, 1, 1, 2]);
        let biased = one.clone().with_visibility(Visibility::Biased(bias)).unwrap();
        let full = Mask::full(one.mask_shape(), &device);
        let dense = Mask::from_dense(tensor(&[1.0, 0.0], [1, 1, 1, 2])).unwrap();
        let lists = Mask::from_csr(one.mask_shape(), &dense.to_csr(), &device).unwrap();
        let cases = [
            ("hidden", hidden, full.clone()),
            ("biased", biased, full),
            ("dense", one.clone(), dense),
            ("lists", one, lists),
        ];
        for (what, inputs, mask) in cases {
            let [queries, keys, values] = gradients(&inputs, &mask, output);
            // The gradient of the query is a difference of two products, each of which may be rounded.
            let rounding = product_rounding::<B>() as f32;
            assert!(queries[0].abs() <= rounding, "{bad}, {what}: {queries:?}");
            assert_eq!((&keys[..], values[1]), (&[0.0, 0.0][..], 0.0), "{bad}, {what}");
            assert_ne!(values[0], 0.0, "{bad}, {what}");
        }
    }
}

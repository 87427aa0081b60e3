//! Dense and masked attention against naive attention, for every visibility, GQA grouping and mask form.

mod common;

use burn::tensor::{DType, Tensor, TensorData, backend::Backend};
use common::*;
use rand::RngExt;
use sparse_attention_hub::attention::AttentionError;
use sparse_attention_hub::prelude::*;

on_each_backend!(
    dense_equals_naive,
    masked_equals_naive,
    blocks_do_not_change_the_result,
    chunks_of_a_prefill_equal_the_prefill,
    rows_without_keys_give_zero,
    a_dropped_key_with_a_large_logit_does_not_affect_kept_keys,
    report_has_the_errors_of_each_head,
    wrong_shapes_are_named,
    half_precision_is_summed_in_f32,
    hidden_keys_are_hidden_and_the_last_query_sees_all,
);

const ALL: Requested = Requested { weights: true, statistics: true };

/// Rounding of f32 sums of up to 111 terms with exponents of moderate size.
const F32: f64 = 2e-5;

/// [F32], plus the error of rounded operands.
fn tolerance<B: Backend>() -> f64 {
    F32 + attention_rounding::<B>()
}

fn dense_equals_naive<B: Backend>() {
    for (case, sizes) in SIZES.into_iter().enumerate() {
        for (name, visibility) in visibilities::<B>(sizes, case as u64) {
            let inputs = inputs::<B>(sizes, case as u64).with_visibility(visibility).unwrap();
            let ones = vec![1.0; sizes.mask_shape().pairs()];
            check(&inputs, &dense_attention(&inputs, ALL), &ones, &format!("{sizes:?}, {name}"));
        }
    }
}

fn masked_equals_naive<B: Backend>() {
    for (case, sizes) in SIZES.into_iter().enumerate() {
        let shape = sizes.mask_shape();
        let device = B::Device::default();
        let mut rng = generator(case as u64);
        let weights = (0..shape.pairs())
            .map(|_| match rng.random_range(0..3) {
                0 => 0.0,
                1 => 1.0,
                _ => rng.random_range(0.02..1.0f32),
            })
            .collect::<Vec<_>>();
        let dense = Mask::from_dense(tensor::<B>(&weights, shape.dims())).unwrap();
        let masks = [
            Mask::empty(shape, &device),
            Mask::full(shape, &device),
            Mask::pattern(
                shape,
                Pattern { sink: 3, window: 5, offset: sizes.keys as isize - sizes.queries as isize },
                &device,
            ),
            Mask::from_csr(shape, &dense.to_csr(), &device).unwrap(),
            dense,
        ];
        for (name, visibility) in visibilities::<B>(sizes, case as u64) {
            let inputs = inputs::<B>(sizes, case as u64).with_scale(0.31).unwrap().with_visibility(visibility).unwrap();
            for mask in &masks {
                let output = masked_attention(&inputs, mask, ALL).unwrap();
                check(&inputs, &output, &host(&mask.to_dense()), &format!("{sizes:?}, {name}, {:?}", mask.form()));
                let only_output = masked_attention(&inputs, mask, Requested::default()).unwrap();
                assert!(only_output.weights.is_none() && only_output.statistics.is_none());
                let wanted = host(&output.output).into_iter().map(f64::from).collect::<Vec<_>>();
                assert_close(&host(&only_output.output), &wanted, tolerance::<B>(), "output alone");
            }
        }
    }
}

fn check<B: Backend>(inputs: &AttentionInputs<B>, found: &AttentionOutput<B>, weights: &[f32], what: &str) {
    let (output, shares, log_sum_exp) = naive_attention(inputs, weights);
    let tolerance = tolerance::<B>();
    assert_close(&host(&found.output), &output, tolerance, &format!("{what}: output"));
    let of_weights = F32 + weights_rounding::<B>();
    assert_close(&host(found.weights.as_ref().unwrap()), &shares, of_weights, &format!("{what}: weights"));
    let statistics = found.statistics.as_ref().unwrap();
    assert_close(&host(&statistics.log_sum_exp), &log_sum_exp, tolerance, &format!("{what}: log-sum-exp"));
    let (numerator, denominator) = (host(&statistics.numerator), host(&statistics.denominator));
    let value_dim = inputs.values().dims()[3];
    let quotient = |at: usize| match denominator[at / value_dim] {
        0.0 => numerator[at],
        denominator => numerator[at] / denominator,
    };
    let quotients = (0..numerator.len()).map(quotient).collect::<Vec<_>>();
    assert_close(&quotients, &output, tolerance, &format!("{what}: numerator over denominator"));
}

/// A long sequence is computed in blocks of queries. Under a window it is computed in blocks of keys too. A request for
/// the weights forces one block, so both results must be equal.
fn blocks_do_not_change_the_result<B: Backend>() {
    let sizes = Sizes::new(1, 2, 1, 401, 463, 4);
    let causal = inputs::<B>(sizes, 3).causal().unwrap();
    let device = B::Device::default();
    for (sink, window) in [(0, 7), (5, 64), (3, 111), (0, 0), (9, 0), (0, usize::MAX)] {
        let mask = Mask::pattern(sizes.mask_shape(), Pattern { sink, window, offset: 62 }, &device);
        let whole = masked_attention(&causal, &mask, ALL).unwrap();
        let blocks = masked_attention(&causal, &mask, Requested { statistics: true, weights: false }).unwrap();
        let pairs = [
            (&whole.output, &blocks.output),
            (&whole.statistics.as_ref().unwrap().log_sum_exp, &blocks.statistics.as_ref().unwrap().log_sum_exp),
        ];
        for (whole, blocks) in pairs {
            let whole = host(whole).into_iter().map(f64::from).collect::<Vec<_>>();
            assert_close(&host(blocks), &whole, F32, &format!("sink {sink}, window {window}"));
        }
    }
}

fn chunks_of_a_prefill_equal_the_prefill<B: Backend>() {
    let sizes = Sizes::new(2, 4, 2, 63, 63, 12);
    let whole = inputs::<B>(sizes, 5).causal().unwrap();
    let wanted = dense_attention(&whole, Requested::default()).output;
    for (start, end) in [(0, 1), (0, 20), (20, 61), (62, 63)] {
        let chunk = AttentionInputs::new(
            whole.queries().clone().slice_dim(2, start..end),
            whole.keys().clone().slice_dim(2, 0..end),
            whole.values().clone().slice_dim(2, 0..end),
        )
        .unwrap()
        .causal()
        .unwrap();
        let output = dense_attention(&chunk, Requested::default()).output;
        let wanted = host(&wanted.clone().slice_dim(2, start..end)).into_iter().map(f64::from).collect::<Vec<_>>();
        assert_close(&host(&output), &wanted, F32, "chunk");
    }
}

fn rows_without_keys_give_zero<B: Backend>() {
    let sizes = Sizes::new(1, 4, 2, 5, 40, 12);
    let hidden = Tensor::from_data(TensorData::new(vec![true; 5 * 40], [1, 1, 5, 40]), &B::Device::default());
    let inputs = inputs::<B>(sizes, 1).with_visibility(Visibility::Masked(hidden)).unwrap();
    let output = dense_attention(&inputs, ALL);
    assert!(host(&output.output).iter().chain(&host(&output.weights.unwrap())).all(|&value| value == 0.0));
    assert!(host(&output.statistics.unwrap().log_sum_exp).iter().all(|&value| value == f32::NEG_INFINITY));
}

/// The row's maximum must be that of the kept keys. Relative to the maximum of all keys, every kept exponential would
/// underflow to 0.
fn a_dropped_key_with_a_large_logit_does_not_affect_kept_keys<B: Backend>() {
    let query = tensor::<B>(&[1.0], [1, 1, 1, 1]);
    let key = tensor::<B>(&[0.5, 400.0, 0.25], [1, 1, 3, 1]);
    let value = tensor::<B>(&[1.0, 100.0, 3.0], [1, 1, 3, 1]);
    let inputs = AttentionInputs::new(query, key, value).unwrap();
    let mask = Mask::from_dense(tensor(&[1.0, 0.0, 1.0], [1, 1, 1, 3])).unwrap();
    let output = masked_attention(&inputs, &mask, Requested::default()).unwrap().output;
    let share = 1.0 / (1.0 + (-0.25f64).exp());
    // Rounding affects only one operand here: the second kept exponential, where it weighs the value 3. The error is
    // `3 * (1 - share)`, 1.3 roundings, which is 0.46 roundings of `1 + output`.
    let tolerance = 1e-6 + 0.5 * product_rounding::<B>();
    assert_close(&host(&output), &[share + 3.0 * (1.0 - share)], tolerance, "output");
}

fn report_has_the_errors_of_each_head<B: Backend>() {
    // Head 0 attends to the first key only. Head 1 attends to both keys equally. The mask keeps the first key.
    let query = tensor::<B>(&[100.0, 0.0], [1, 2, 1, 1]);
    let key = tensor::<B>(&[1.0, 0.0], [1, 1, 2, 1]);
    let value = tensor::<B>(&[2.0, 4.0], [1, 1, 2, 1]);
    let inputs = AttentionInputs::new(query, key, value).unwrap();
    let mask = Mask::pattern(inputs.mask_shape(), Pattern::sink(1), &inputs.device());
    let report = AttentionReport::of(&inputs, &mask).unwrap();
    let [sure, torn] = report.heads[..] else { panic!("two heads") };
    assert!((sure.mass_kept - 1.0).abs() < 1e-6 && sure.output_error < 1e-6 && sure.log_sum_exp_error < 1e-6);
    assert!((torn.mass_kept - 0.5).abs() < 1e-6);
    assert!((torn.output_error - 1.0 / 3.0).abs() < 1e-6);
    assert!((torn.log_sum_exp_error - 2f64.ln()).abs() < 1e-6);
    assert_eq!((torn.density.visible, torn.density.all), (0.5, 0.5));
    assert!((report.output_error_median() - 1.0 / 6.0).abs() < 1e-6);
    assert!((report.output_error_worst() - 1.0 / 3.0).abs() < 1e-6);
}

fn wrong_shapes_are_named<B: Backend>() {
    let zeros = |dims: [usize; 4]| tensor::<B>(&vec![0.0; dims.iter().product()], dims);
    let error = |q, k, v| AttentionInputs::new(zeros(q), zeros(k), zeros(v)).unwrap_err().to_string();
    assert!(error([1, 2, 3, 4], [1, 2, 5, 6], [1, 2, 5, 6]).contains("`keys` has the shape [1, 2, 5, 6]"));
    assert!(error([1, 2, 3, 4], [1, 2, 5, 4], [1, 2, 6, 4]).contains("`values` has the shape [1, 2, 6, 4]"));
    assert!(error([1, 3, 3, 4], [1, 2, 5, 4], [1, 2, 5, 4]).contains("3 query heads and 2 key-value heads"));
    let inputs = AttentionInputs::new(zeros([1, 2, 7, 4]), zeros([1, 2, 5, 4]), zeros([1, 2, 5, 4])).unwrap();
    assert!(matches!(inputs.clone().causal(), Err(AttentionError::Shape { tensor: "queries", .. })));
    let bias = Visibility::Biased(zeros([1, 3, 7, 5]));
    assert!(matches!(inputs.clone().with_visibility(bias), Err(AttentionError::Shape { tensor: "visibility", .. })));
    assert!(matches!(inputs.clone().with_scale(f64::NAN), Err(AttentionError::Value { field: "scale", .. })));
    let other = Mask::full(MaskShape::new([1, 2, 7, 6]), &inputs.device());
    assert!(matches!(masked_attention(&inputs, &other, ALL), Err(AttentionError::Mask(_))));
}

/// Weights and sums are f32 for every input type. The result is the reference over the rounded inputs, up to half of
/// the last place of the output.
fn half_precision_is_summed_in_f32<B: Backend>() {
    let sizes = Sizes::new(1, 4, 2, 5, 111, 12);
    let shape = sizes.mask_shape();
    let single = inputs::<B>(sizes, 9);
    let mask = Mask::<B>::from_dense(tensor(&vec![0.1; shape.pairs()], shape.dims())).unwrap();
    for (dtype, tolerance) in [(DType::F16, 5e-4), (DType::BF16, 4e-3)] {
        if !computes_in::<B>(dtype) {
            continue;
        }
        let [queries, keys, values] =
            [single.queries(), single.keys(), single.values()].map(|tensor| tensor.clone().cast(dtype));
        let half = AttentionInputs::new(queries, keys, values).unwrap().causal().unwrap();
        let found = masked_attention(&half, &mask, ALL).unwrap();
        assert_eq!(found.output.dtype(), dtype);
        // Tensor cores take all bits of half-precision numbers. Therefore only one operand of each product is rounded:
        // the scaled query in the first product, the exponential in the second.
        let (of_sums, of_weights) = (attention_rounding::<B>() / 2.0, F32 + weights_rounding::<B>() / 2.0);
        let (wanted, shares, log_sum_exp) = naive_attention(&half, &vec![0.1; shape.pairs()]);
        assert_close(&host(&found.output), &wanted, tolerance + of_sums, &format!("output in {dtype:?}"));
        // Only the output is rounded. In bf16, ln 0.1 would be wrong by 1e-3.
        assert_close(&host(&found.weights.unwrap()), &shares, of_weights, &format!("weights in {dtype:?}"));
        let statistics = found.statistics.unwrap();
        assert_close(&host(&statistics.log_sum_exp), &log_sum_exp, F32 + of_sums, &format!("log-sum-exp in {dtype:?}"));
    }
}

/// `true` hides a key, and the last query is at the position of the last key. The attention of burn-tch reads a boolean
/// mask the other way round, and aligns the first query with the first key.
fn hidden_keys_are_hidden_and_the_last_query_sees_all<B: Backend>() {
    let zeros = |dims: [usize; 4]| tensor::<B>(&vec![0.0; dims.iter().product()], dims);
    let inputs = || {
        let values = tensor::<B>(&[1.0, 2.0, 4.0, 8.0], [1, 1, 4, 1]);
        AttentionInputs::new(zeros([1, 1, 2, 3]), zeros([1, 1, 4, 3]), values).unwrap()
    };
    let hidden = vec![true, false, true, true, false, false, false, true];
    let hidden = Tensor::from_data(TensorData::new(hidden, [1, 1, 2, 4]), &B::Device::default());
    let masked = inputs().with_visibility(Visibility::Masked(hidden)).unwrap();
    for requested in [ALL, Requested::default()] {
        let output = dense_attention(&masked, requested).output;
        assert_close(&host(&output), &[2.0, 7.0 / 3.0], 1e-6, "hidden by a tensor");
        let output = dense_attention(&inputs().causal().unwrap(), requested).output;
        assert_close(&host(&output), &[7.0 / 3.0, 15.0 / 4.0], 1e-6, "causal");
    }
}

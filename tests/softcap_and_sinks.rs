//! Softcaps and sinks against naive attention in f64, in every function that computes logits.

mod common;

use burn::tensor::{Tensor, TensorData, backend::Backend};
use common::*;
use rand::RngExt;
use serde_json::json;
use sparse_attention_hub::{
    attention::{AttentionError, reference_attention},
    kernels::native_path,
    prelude::*,
};

on_each_backend!(
    attention_equals_naive,
    a_sink_without_keys_takes_everything,
    a_heavy_sink_does_not_overflow,
    a_sink_is_a_key_without_value,
    windows_equal_naive,
    reports_give_the_share_of_the_keys,
    scorers_see_capped_logits,
    samplers_draw_from_capped_logits_and_count_the_sink,
    invalid_values_name_the_field,
);

const ALL: Requested = Requested { weights: true, statistics: true };
const STATISTICS: Requested = Requested { weights: false, statistics: true };

/// Rounding of f32 sums of up to 111 terms with exponents of moderate size.
const F32: f64 = 2e-5;

fn sink_logits<B: Backend>(heads: usize) -> Tensor<B, 1> {
    let logits = (0..heads).map(|head| (head * 7 % 5) as f32 - 1.5).collect::<Vec<_>>();
    Tensor::from_data(TensorData::new(logits, [heads]), &B::Device::default())
}

/// [F32] plus the error of rounded operands, for sums and for weights. Softcaps bring logits closer together, and sinks
/// reduce the weights. Neither increases the error.
fn tolerances<B: Backend>() -> (f64, f64) {
    (F32 + attention_rounding::<B>(), F32 + weights_rounding::<B>())
}

fn attention_equals_naive<B: Backend>() {
    let (tolerance, of_weights) = tolerances::<B>();
    for (case, sizes) in SIZES.into_iter().enumerate() {
        let (shape, device) = (sizes.mask_shape(), B::Device::default());
        let mut rng = generator(case as u64);
        let weights =
            (0..shape.pairs()).map(|_| if rng.random::<f32>() < 0.5 { 0.0 } else { rng.random_range(0.02..=1.0) });
        let dense = Mask::from_dense(tensor::<B>(&weights.collect::<Vec<f32>>(), shape.dims())).unwrap();
        let masks = [
            Mask::full(shape, &device),
            Mask::empty(shape, &device),
            Mask::pattern(shape, Pattern { sink: 3, window: 5, offset: 2 }, &device),
            Mask::from_csr(shape, &dense.to_csr(), &device).unwrap(),
            dense,
        ];
        for (name, visibility) in visibilities::<B>(sizes, case as u64) {
            let plain = inputs::<B>(sizes, case as u64).with_visibility(visibility).unwrap();
            // The logits have a standard deviation of about 1, so a softcap of 0.7 changes them.
            let capped = plain.clone().with_softcap(0.7).unwrap();
            let both = capped.clone().with_sink_logits(sink_logits(sizes.heads)).unwrap();
            for (kind, inputs) in [
                ("softcap", capped),
                ("sinks", plain.with_sink_logits(sink_logits(sizes.heads)).unwrap()),
                ("both", both),
            ] {
                for mask in &masks {
                    let what = format!("{kind}, {sizes:?}, {name}, {:?}", mask.form());
                    let (output, shares, log_sum_exp) = naive_attention(&inputs, &host(&mask.to_dense()));
                    for requested in [ALL, STATISTICS, Requested::default()] {
                        let found = masked_attention(&inputs, mask, requested).unwrap();
                        assert_close(&host(&found.output), &output, tolerance, &what);
                        assert_eq!(
                            (found.weights.is_some(), found.statistics.is_some()),
                            (requested.weights, requested.statistics)
                        );
                        if let Some(weights) = &found.weights {
                            assert_close(&host(weights), &shares, of_weights, &what);
                        }
                        if let Some(statistics) = &found.statistics {
                            assert_close(&host(&statistics.log_sum_exp), &log_sum_exp, tolerance, &what);
                            let (numerator, denominator) = (host(&statistics.numerator), host(&statistics.denominator));
                            let width = numerator.len() / denominator.len();
                            let quotient = |at: usize| numerator[at] / denominator[at / width].max(f32::MIN_POSITIVE);
                            assert_close(
                                &(0..numerator.len()).map(quotient).collect::<Vec<_>>(),
                                &output,
                                tolerance,
                                &what,
                            );
                        }
                    }
                    let reference = reference_attention(&inputs, mask, STATISTICS).unwrap();
                    assert_close(&host(&reference.output), &output, tolerance, &what);
                }
                let dense = dense_attention(&inputs, STATISTICS);
                let (output, ..) = naive_attention(&inputs, &vec![1.0; shape.pairs()]);
                assert_close(&host(&dense.output), &output, tolerance, "dense");
            }
        }
    }
    assert_eq!(native_path::<B>(), has_kernels::<B>());
}

fn a_sink_without_keys_takes_everything<B: Backend>() {
    let sizes = Sizes::new(2, 4, 2, 5, 40, 12);
    // The first logit is far below 0. If a row without keys had a maximum of 0, the exponential of this logit would
    // underflow.
    let sink_logits = Tensor::<B, 1>::from_data([-300.0, 0.0, 2.0, f32::NEG_INFINITY], &B::Device::default());
    let inputs = inputs::<B>(sizes, 1).with_sink_logits(sink_logits).unwrap();
    let mask = Mask::empty(inputs.mask_shape(), &inputs.device());
    for found in [masked_attention(&inputs, &mask, ALL), reference_attention(&inputs, &mask, STATISTICS)] {
        let found = found.unwrap();
        assert!(host(&found.output).iter().all(|&value| value == 0.0));
        assert!(found.weights.is_none_or(|weights| host(&weights).iter().all(|&value| value == 0.0)));
        let log_sum_exp = host(&found.statistics.unwrap().log_sum_exp);
        for (row, found) in log_sum_exp.into_iter().enumerate() {
            assert_eq!(found, [-300.0, 0.0, 2.0, f32::NEG_INFINITY][row / 5 % 4]);
        }
    }
}

fn a_heavy_sink_does_not_overflow<B: Backend>() {
    let sizes = Sizes::new(1, 2, 1, 3, 33, 8);
    let sink_logits = Tensor::<B, 1>::from_data([500.0, 80.0], &B::Device::default());
    let inputs = inputs::<B>(sizes, 1).with_sink_logits(sink_logits).unwrap();
    let found = dense_attention(&inputs, STATISTICS);
    assert!(host(&found.output).iter().all(|&value| value.abs() < 1e-30));
    let log_sum_exp = host(&found.statistics.unwrap().log_sum_exp);
    assert_close(&log_sum_exp, &[500.0, 500.0, 500.0, 80.0, 80.0, 80.0], 1e-7, "log-sum-exp");
}

/// A sink of logit 0 equals a key of zeros with a value of zeros.
fn a_sink_is_a_key_without_value<B: Backend>() {
    let sizes = Sizes::new(1, 6, 2, 7, 39, 8);
    let plain = inputs::<B>(sizes, 4).causal().unwrap();
    let zeros = |like: &Tensor<B, 4>| Tensor::cat(vec![like.clone().slice_dim(2, 0..1).zeros_like(), like.clone()], 2);
    let longer = AttentionInputs::new(plain.queries().clone(), zeros(plain.keys()), zeros(plain.values())).unwrap();
    let wanted = dense_attention(&longer.causal().unwrap(), STATISTICS);
    let sink_logits = Tensor::zeros([6], &B::Device::default());
    let found = dense_attention(&plain.with_sink_logits(sink_logits).unwrap(), STATISTICS);
    let f64s = |tensor: &Tensor<B, 4>| host(tensor).into_iter().map(f64::from).collect::<Vec<_>>();
    assert_close(&host(&found.output), &f64s(&wanted.output), 2e-6, "output");
    let log_sum_exp = |output: AttentionOutput<B>| output.statistics.unwrap().log_sum_exp;
    assert_close(&host(&log_sum_exp(found)), &f64s(&log_sum_exp(wanted)), 2e-6, "log-sum-exp");
}

/// A sliding window, alone and with every form of mask.
fn windows_equal_naive<B: Backend>() {
    let (tolerance, of_weights) = tolerances::<B>();
    for (case, sizes) in SIZES.into_iter().enumerate() {
        let (shape, device) = (sizes.mask_shape(), B::Device::default());
        let offset = sizes.keys - sizes.queries;
        for window in [1, 4, 30, sizes.keys, usize::MAX] {
            for offset in [offset, 2, offset + 3] {
                let inputs = inputs::<B>(sizes, case as u64).with_softcap(3.0).unwrap();
                let inputs = inputs.with_visibility(Visibility::Window { offset, window }).unwrap();
                let mut rng = generator(case as u64);
                let weights = (0..shape.pairs()).map(|_| if rng.random::<f32>() < 0.5 { 0.0 } else { 0.5 });
                let dense = Mask::from_dense(tensor::<B>(&weights.collect::<Vec<f32>>(), shape.dims())).unwrap();
                let position = offset as isize;
                let masks = [
                    Mask::full(shape, &device),
                    Mask::pattern(shape, Pattern { sink: 0, window: 3, offset: position }, &device),
                    Mask::pattern(shape, Pattern { sink: 2, window: 3, offset: position }, &device),
                    Mask::pattern(shape, Pattern { sink: 2, window: 40, offset: position }, &device),
                    Mask::pattern(shape, Pattern { sink: 5, window: 3, offset: position - 1 }, &device),
                    Mask::from_csr(shape, &dense.to_csr(), &device).unwrap(),
                    dense,
                ];
                for mask in &masks {
                    let weights = host(&mask.to_dense());
                    let what = format!("{sizes:?}, window {window} at {offset}, {:?}", mask.form());
                    let (output, shares, log_sum_exp) = naive_attention(&inputs, &weights);
                    for requested in [ALL, STATISTICS] {
                        let found = masked_attention(&inputs, mask, requested).unwrap();
                        assert_close(&host(&found.output), &output, tolerance, &what);
                        assert_close(&host(&found.statistics.unwrap().log_sum_exp), &log_sum_exp, tolerance, &what);
                        if let Some(weights) = found.weights {
                            assert_close(&host(&weights), &shares, of_weights, &what);
                        }
                    }
                    let visible =
                        naive_logits(&inputs).iter().map(|&logit| logit > f64::NEG_INFINITY).collect::<Vec<_>>();
                    let both = visible.iter().zip(&weights).filter(|(seen, weight)| **seen && **weight > 0.0).count();
                    let all = visible.iter().filter(|seen| **seen).count();
                    let density = mask.density(inputs.visibility()).visible;
                    assert!((density - both as f64 / all.max(1) as f64).abs() < 1e-12, "{what}: density {density}");
                }
            }
        }
    }
}

fn reports_give_the_share_of_the_keys<B: Backend>() {
    // Two keys of logit 0, and a sink with the mass of both. The kept key has half of the mass of the keys.
    let query = tensor::<B>(&[0.0], [1, 1, 1, 1]);
    let key = tensor::<B>(&[1.0, 0.0], [1, 1, 2, 1]);
    let value = tensor::<B>(&[2.0, 4.0], [1, 1, 2, 1]);
    let sink = Tensor::from_data([2f32.ln()], &B::Device::default());
    let inputs = AttentionInputs::new(query, key, value).unwrap().with_sink_logits(sink).unwrap();
    let mask = Mask::pattern(inputs.mask_shape(), Pattern::sink(1), &inputs.device());
    let report = AttentionReport::of(&inputs, &mask).unwrap();
    let head = report.heads[0];
    assert!((head.mass_kept - 0.5).abs() < 1e-6, "{head:?}");
    // The dense output is (2 + 4) / 4, and the output of the kept key is 2 / 3.
    assert!((head.output_error - (1.5 - 2.0 / 3.0) / 1.5).abs() < 1e-6, "{head:?}");
    assert!((head.log_sum_exp_error - (4f64 / 3.0).ln()).abs() < 1e-6, "{head:?}");
}

/// The dense mask of a chain.
fn kept<B: Backend>(chain: serde_json::Value, inputs: &AttentionInputs<B>, seed: u64) -> Vec<f32> {
    let attention = MaskerRegistry::new().research_attention(&chain.to_string(), &inputs.device()).unwrap();
    host(&attention.mask(inputs, &mut LayerState::new(seed)).unwrap().to_dense())
}

/// A share of the mass depends on the values of the logits, not only on their order.
fn scorers_see_capped_logits<B: Backend>() {
    let sizes = Sizes::new(1, 4, 2, 3, 63, 12);
    for (name, visibility) in visibilities::<B>(sizes, 3) {
        let inputs = inputs::<B>(sizes, 3).with_scale(1.0).unwrap().with_softcap(2.0).unwrap();
        let inputs = inputs.with_visibility(visibility).unwrap();
        let chain = json!([{"type": "threshold", "threshold": 0.02, "scorer": {"type": "oracle"}}]);
        let kept = kept(chain, &inputs, 1);
        for (row, logits) in naive_logits(&inputs).chunks(63).enumerate() {
            let sum = logits.iter().map(|logit| logit.exp()).sum::<f64>();
            for (key, logit) in logits.iter().enumerate() {
                let share = logit.exp() / sum;
                let near = (share / 0.02 - 1.0).abs() < 1e-4;
                assert!(
                    near || (kept[row * 63 + key] > 0.0) == (share > 0.02),
                    "{name}: row {row}, key {key}: {share}"
                );
            }
        }
    }
    // Estimates that equal the exact logits are capped in the same way.
    let inputs = inputs::<B>(sizes, 3).with_scale(1.0).unwrap().with_softcap(2.0).unwrap();
    let top_p = |scorer| kept(json!([{"type": "top_p", "top_p": 0.5, "scorer": scorer}]), &inputs, 1);
    let exact = top_p(json!({"type": "oracle"}));
    assert_eq!(top_p(json!({"type": "oracle", "label_bits": 15})), exact);
    assert_eq!(top_p(json!({"type": "pages", "page_size": 1})), exact);
    assert_eq!(top_p(json!({"type": "pq", "pq_sub_dim": 12, "pq_bits": 6})), exact);
}

/// The number of drawn keys depends on the standard deviation of the exponentials relative to the denominator.
fn samplers_draw_from_capped_logits_and_count_the_sink<B: Backend>() {
    let sizes = Sizes::new(1, 2, 1, 1, 4000, 12);
    let plain = inputs::<B>(sizes, 3);
    let capped = plain.clone().with_softcap(0.05).unwrap();
    let heavy = Tensor::from_data([20.0, 20.0], &B::Device::default());
    let sunk = plain.clone().with_sink_logits(heavy).unwrap();
    let adaptive = json!([{"type": "adaptive_sampling", "base_rate_sampling": 50, "epsilon": 0.05, "delta": 0.1,
                           "init_offset": 0, "local_offset": 0}]);
    let verified = json!([{"type": "verified_sampling", "target": "output", "epsilon": 0.4, "delta": 0.1,
                           "pilot_size": 50}]);
    let denominator = json!([{"type": "verified_sampling", "target": "denominator", "epsilon": 0.05, "delta": 0.1,
                              "pilot_size": 50}]);
    let drawn = |chain: &serde_json::Value, inputs: &AttentionInputs<B>| {
        kept(chain.clone(), inputs, 5).into_iter().filter(|&weight| weight > 0.0).count() / 2
    };
    for chain in [&adaptive, &denominator] {
        assert!(drawn(chain, &plain) > 300, "{}", drawn(chain, &plain));
        assert_eq!(drawn(chain, &capped), 50, "{chain}");
        assert_eq!(drawn(chain, &sunk), 50, "{chain}");
    }
    assert!(drawn(&verified, &plain) > 50);
    // Light sinks do not change the draws.
    let light = plain.clone().with_sink_logits(Tensor::from_data([-60.0, -60.0], &B::Device::default())).unwrap();
    for chain in [adaptive, denominator, verified] {
        assert_eq!(kept(chain.clone(), &light, 5), kept(chain, &plain, 5));
    }
}

fn invalid_values_name_the_field<B: Backend>() {
    let inputs = inputs::<B>(Sizes::new(1, 4, 2, 3, 7, 5), 1);
    for cap in [0.0, -3.0, f64::NAN, f64::INFINITY] {
        let error = inputs.clone().with_softcap(cap).unwrap_err();
        assert!(matches!(error, AttentionError::Value { field: "softcap", .. }), "{error}");
    }
    let error = inputs.clone().with_sink_logits(sink_logits(2)).unwrap_err();
    assert_eq!(error.to_string(), "`sink_logits` has the shape [2], but must be [4] (heads)");
    let error = inputs.with_visibility(Visibility::Window { offset: 4, window: 0 }).unwrap_err();
    assert_eq!(error.to_string(), "`window` is 0, but must be at least 1");
}

//! Whether sampling keeps what it promises: 400 seeded draws against binomial and normal bounds.

mod common;

use burn::tensor::backend::Backend;
use common::*;
use serde_json::json;
use sparse_attention_hub::prelude::*;

on_each_backend!(
    adaptive_sampling_keeps_its_bound_on_flat_scores,
    adaptive_sampling_keeps_its_bound_on_heavy_tails_after_top_k,
    adaptive_sampling_does_not_keep_its_bound_where_the_pilot_misses_the_tail,
    sampled_sums_are_unbiased,
    a_full_budget_is_exact,
);

const RUNS: usize = 400;
const KEYS: usize = 2048;
const EDGE: usize = 32;

/// How often of [RUNS] something of probability `p` may happen: exceeded with probability below 1e-4 (normal limit of
/// the binomial, 3.72 standard deviations, and one for its discreteness).
fn at_most(p: f64) -> usize {
    let runs = RUNS as f64;
    (runs * p + 3.72 * (runs * p * (1.0 - p)).sqrt() + 1.0) as usize
}

/// Four heads whose logits have the given standard deviation. One query; the "key" is the logit.
fn heads<B: Backend>(deviation: f32, tail: impl Fn(f32) -> f32) -> AttentionInputs<B> {
    let logits = normal(&mut generator(11), 4 * KEYS).into_iter().map(|z| tail(z) * deviation).collect::<Vec<_>>();
    let values = normal(&mut generator(12), 4 * KEYS);
    let query = tensor(&[1.0; 4], [1, 4, 1, 1]);
    AttentionInputs::new(query, tensor(&logits, [1, 4, KEYS, 1]), tensor(&values, [1, 4, KEYS, 1])).unwrap()
}

fn attention<B: Backend>(top_k: Option<f64>, epsilon: f64, delta: f64) -> ResearchAttention<B> {
    let mut chain = vec![json!({"type": "sink", "sink_size": EDGE}), json!({"type": "local", "window_size": EDGE})];
    chain.extend(top_k.map(|share| json!({"type": "oracle_top_k", "heavy_size": share})));
    chain.push(json!({"type": "adaptive_sampling", "base_rate_sampling": 0.1, "epsilon": epsilon, "delta": delta,
                      "init_offset": EDGE, "local_offset": EDGE}));
    let chain = serde_json::to_string(&chain).unwrap();
    MaskerRegistry::new().research_attention(&chain, &B::Device::default()).unwrap()
}

/// Relative error of the denominator, head by head, run by run; and the mean density.
fn denominator_errors<B: Backend>(inputs: &AttentionInputs<B>, method: &ResearchAttention<B>) -> (Vec<Vec<f64>>, f64) {
    let requested = Requested { statistics: true, weights: false };
    let log_sums = |output: AttentionOutput<B>| host(&output.statistics.unwrap().log_sum_exp);
    let dense = log_sums(dense_attention(inputs, requested));
    let mut errors = vec![Vec::new(); dense.len()];
    let mut density = 0.0;
    for seed in 0..RUNS as u64 {
        let output = method.forward(inputs, &mut LayerState::new(seed), requested).unwrap();
        density += output.mask.density(inputs.visibility()).visible / RUNS as f64;
        for (head, (found, dense)) in log_sums(output.attention).iter().zip(&dense).enumerate() {
            errors[head].push(f64::from(found - dense).exp() - 1.0);
        }
    }
    (errors, density)
}

/// The bound as published: a one-sided quantile, so `delta` for each tail and `2 delta` for both.
fn assert_bound(errors: &[Vec<f64>], epsilon: f64, delta: f64) {
    for (head, errors) in errors.iter().enumerate() {
        let above = errors.iter().filter(|&&error| error > epsilon).count();
        let below = errors.iter().filter(|&&error| error < -epsilon).count();
        let limit = at_most(delta);
        let what = format!("epsilon {epsilon}, delta {delta}, head {head}: {above} above and {below} below of {RUNS}");
        assert!(above <= limit && below <= limit, "{what}, limit {limit} a tail");
        assert!(above + below <= at_most(2.0 * delta), "{what}, limit {} in all", at_most(2.0 * delta));
    }
}

/// Logits of standard deviation 0.5: the mean of a pilot of 200 exponentials is normal to the eye.
fn adaptive_sampling_keeps_its_bound_on_flat_scores<B: Backend>() {
    let inputs = heads::<B>(0.5, |z| z);
    for (epsilon, delta) in [(0.1, 0.1), (0.05, 0.05), (0.05, 0.2), (0.02, 0.1)] {
        let (errors, density) = denominator_errors(&inputs, &attention(None, epsilon, delta));
        assert_bound(&errors, epsilon, delta);
        // The bound must not come from drawing everything.
        assert!(density < 0.6, "epsilon {epsilon}, delta {delta}: density {density}");
    }
}

/// Logits of standard deviation 2 and a few outliers: the top-k takes the tail, and what is left is benign.
fn adaptive_sampling_keeps_its_bound_on_heavy_tails_after_top_k<B: Backend>() {
    let inputs = heads::<B>(2.0, |z| if z > 2.2 { z * 1.5 } else { z });
    for (epsilon, delta) in [(0.1, 0.1), (0.05, 0.1), (0.05, 0.05)] {
        let (errors, density) = denominator_errors(&inputs, &attention(Some(0.1), epsilon, delta));
        assert_bound(&errors, epsilon, delta);
        assert!(density < 0.6, "epsilon {epsilon}, delta {delta}: density {density}");
    }
}

/// Without a top-k a dozen keys hold nearly all the mass. A pilot of 200 mostly misses them, believes the rest to be
/// everything, and the error is far larger than promised: the limit of every bound from a pilot's variance, stated in
/// the documentation of the masker.
fn adaptive_sampling_does_not_keep_its_bound_where_the_pilot_misses_the_tail<B: Backend>() {
    let inputs = heads::<B>(2.0, |z| if z > 2.5 { z * 2.0 } else { z });
    let (epsilon, delta) = (0.1, 0.1);
    let (errors, _) = denominator_errors(&inputs, &attention(None, epsilon, delta));
    let failures = errors.iter().flatten().filter(|error| error.abs() > epsilon).count();
    assert!(failures > 4 * at_most(2.0 * delta), "{failures} failures");
}

/// The mean over 400 draws of the estimated denominator is the denominator, within four standard errors.
fn sampled_sums_are_unbiased<B: Backend>() {
    let inputs = heads::<B>(1.0, |z| z);
    for replacement in [false, true] {
        for rate in [0.02, 0.2, 0.7] {
            let chain = json!([{"type": "sink", "sink_size": EDGE},
                               {"type": "random_sampling", "sampling_rate": rate, "replacement": replacement}]);
            let method = MaskerRegistry::new().research_attention(&chain.to_string(), &inputs.device()).unwrap();
            let (errors, _) = denominator_errors(&inputs, &method);
            for errors in errors {
                let mean = errors.iter().sum::<f64>() / RUNS as f64;
                let variance = errors.iter().map(|e| (e - mean).powi(2)).sum::<f64>() / (RUNS - 1) as f64;
                let standard_error = (variance / RUNS as f64).sqrt();
                assert!(mean.abs() < 4.0 * standard_error, "rate {rate}: bias {mean}, standard error {standard_error}");
            }
        }
    }
}

/// Asked for an error that only the whole population keeps to, the sampler draws it all and is exact.
fn a_full_budget_is_exact<B: Backend>() {
    let inputs = heads::<B>(1.0, |z| z);
    let (errors, density) = denominator_errors(&inputs, &attention(None, 1e-6, 0.05));
    assert!((density - 1.0).abs() < 1e-9, "density {density}");
    assert!(errors.iter().flatten().all(|error| error.abs() < 1e-5));
}

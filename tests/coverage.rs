//! The guarantees of sampling: 400 seeded draws are tested against binomial and normal bounds.

mod common;

use burn::tensor::backend::Backend;
use common::*;
use serde_json::json;
use sparse_attention_hub::{
    eval::{ErrorStudy, Recording, RowErrors},
    prelude::*,
};

on_each_backend!(
    adaptive_sampling_keeps_its_bound_on_flat_scores,
    adaptive_sampling_keeps_its_bound_on_heavy_tails_after_top_k,
    adaptive_sampling_does_not_keep_its_bound_where_the_pilot_misses_the_tail,
    a_full_budget_is_exact;
    host:
    samplers_are_unbiased,
    verified_sampling_keeps_its_bound,
    verified_sampling_keeps_its_bound_on_real_heads,
    priority_sampling_errs_a_third_of_top_k_on_real_heads,
    samplers_know_their_variance,
);

const RUNS: usize = 400;
const KEYS: usize = 2048;
const EDGE: usize = 32;

/// The largest number of [RUNS] in which an event of probability `p` may happen. More events have a probability below
/// 1e-4. The bound is 3.72 standard deviations of the normal approximation, plus one because the number is an integer.
fn at_most(p: f64) -> usize {
    let runs = RUNS as f64;
    (runs * p + 3.72 * (runs * p * (1.0 - p)).sqrt() + 1.0) as usize
}

/// Four heads with one query, whose logits have the given standard deviation. The query is 1, so each key is its logit.
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

/// The relative errors of the denominator for each head and run, and the mean density.
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

/// The bound as published: a one-sided quantile. The probability of an error is `delta` for each tail, and `2 delta`
/// for both.
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

/// Logits of standard deviation 0.5. The mean of a pilot sample of 200 exponentials is nearly normal.
fn adaptive_sampling_keeps_its_bound_on_flat_scores<B: Backend>() {
    let inputs = heads::<B>(0.5, |z| z);
    for (epsilon, delta) in [(0.1, 0.1), (0.05, 0.05), (0.05, 0.2), (0.02, 0.1)] {
        let (errors, density) = denominator_errors(&inputs, &attention(None, epsilon, delta));
        assert_bound(&errors, epsilon, delta);
        // A sampler that draws all keys would keep any bound.
        assert!(density < 0.6, "epsilon {epsilon}, delta {delta}: density {density}");
    }
}

/// Logits of standard deviation 2 and a few outliers. The top-k keeps the heavy tail, and the remaining logits are easy
/// to sample.
fn adaptive_sampling_keeps_its_bound_on_heavy_tails_after_top_k<B: Backend>() {
    let inputs = heads::<B>(2.0, |z| if z > 2.2 { z * 1.5 } else { z });
    for (epsilon, delta) in [(0.1, 0.1), (0.05, 0.1), (0.05, 0.05)] {
        let (errors, density) = denominator_errors(&inputs, &attention(Some(0.1), epsilon, delta));
        assert_bound(&errors, epsilon, delta);
        assert!(density < 0.6, "epsilon {epsilon}, delta {delta}: density {density}");
    }
}

/// Without a top-k, a dozen keys hold nearly all the mass. A pilot sample of 200 mostly misses them, so its estimates
/// leave them out. The error is then far larger than the bound. Every bound that uses a pilot's variance has this
/// limit. The documentation of the masker states it.
fn adaptive_sampling_does_not_keep_its_bound_where_the_pilot_misses_the_tail<B: Backend>() {
    let inputs = heads::<B>(2.0, |z| if z > 2.5 { z * 2.0 } else { z });
    let (epsilon, delta) = (0.1, 0.1);
    let (errors, _) = denominator_errors(&inputs, &attention(None, epsilon, delta));
    let failures = errors.iter().flatten().filter(|error| error.abs() > epsilon).count();
    assert!(failures > 4 * at_most(2.0 * delta), "{failures} failures");
}

/// If the requested error needs the whole population, the sampler draws all keys and the result is exact.
fn a_full_budget_is_exact<B: Backend>() {
    let inputs = heads::<B>(1.0, |z| z);
    let (errors, density) = denominator_errors(&inputs, &attention(None, 1e-6, 0.05));
    assert!((density - 1.0).abs() < 1e-9, "density {density}");
    assert!(errors.iter().flatten().all(|error| error.abs() < 1e-5));
}

/// Two heads with one query and 1024 keys of eight dimensions each. The logits have the given standard deviation, and
/// the values are correlated with the keys. The deviations in use give flat, mixed and peaked attention.
fn vector_heads<B: Backend>(deviation: f32) -> AttentionInputs<B> {
    const WIDTH: usize = 8;
    let mut rng = generator(21);
    let query = normal(&mut rng, 2 * WIDTH);
    let query = query.chunks(WIDTH).flat_map(|query| {
        let length = query.iter().map(|x| x * x).sum::<f32>().sqrt();
        query.iter().map(move |x| x * deviation / length)
    });
    let query = query.collect::<Vec<_>>();
    let key = normal(&mut rng, 2 * 1024 * WIDTH);
    let noise = normal(&mut rng, 2 * 1024 * WIDTH);
    let value = key.iter().zip(noise).map(|(key, noise)| 0.5 * key + noise).collect::<Vec<_>>();
    let dims = [1, 2, 1024, WIDTH];
    let inputs = AttentionInputs::new(tensor(&query, [1, 2, 1, WIDTH]), tensor(&key, dims), tensor(&value, dims));
    inputs.unwrap().with_scale(1.0).unwrap()
}

/// The last two queries of a recorded layer.
fn recorded<B: Backend>(layer: usize) -> AttentionInputs<B> {
    let path = format!("{}/examples/data/layer{layer}.safetensors", env!("CARGO_MANIFEST_DIR"));
    let whole = Recording::<B>::open(path, &B::Device::default()).unwrap().inputs;
    let queries = whole.queries().clone().slice_dim(2, 62..64);
    let inputs = AttentionInputs::new(queries, whole.keys().clone(), whole.values().clone()).unwrap();
    inputs.causal().unwrap().with_scale(whole.scale()).unwrap()
}

fn study<B: Backend>(inputs: &AttentionInputs<B>, chain: serde_json::Value) -> (Vec<RowErrors>, f64) {
    let method = MaskerRegistry::new().research_attention(&chain.to_string(), &inputs.device()).unwrap();
    let study = ErrorStudy::run(inputs, &method, 0..RUNS as u64, || ()).unwrap();
    (study.rows, study.density)
}

fn mean_and_variance(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    (mean, values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (count - 1.0))
}

/// Asserts that the mean of 400 signed errors is 0 within 4.5 standard errors, for each of about 250 rows and sums.
/// Without a bias, the test fails with a probability of 0.2 %. A relative error of 1e-5 is allowed for rounding.
fn assert_unbiased(rows: &[RowErrors], what: &str) {
    for (at, row) in rows.iter().enumerate() {
        for (sum, errors) in [("denominator", &row.denominator), ("numerator", &row.numerator_along)] {
            let (mean, variance) = mean_and_variance(errors);
            let limit = 4.5 * (variance / RUNS as f64).sqrt() + 1e-5;
            assert!(mean.abs() < limit, "{what}, row {at}: bias {mean} of the {sum}, limit {limit}");
        }
    }
}

/// Heads with flat, mixed and peaked logits, and a recorded layer.
fn heads_of_every_kind<B: Backend>() -> Vec<(String, AttentionInputs<B>)> {
    let synthetic = [0.5, 1.5, 3.0].map(|deviation| (format!("deviation {deviation}"), vector_heads(deviation)));
    synthetic.into_iter().chain([("layer 5".into(), recorded(5))]).collect()
}

fn samplers_are_unbiased<B: Backend>() {
    let samplers = [
        json!({"type": "random_sampling", "sampling_rate": 0.1}),
        json!({"type": "random_sampling", "sampling_rate": 0.7, "replacement": true}),
        json!({"type": "priority_sampling", "k": 40}),
        json!({"type": "priority_sampling", "k": 40, "scorer": {"type": "pages", "page_size": 16}}),
        json!({"type": "pps_sampling", "sampling_size": 40}),
        json!({"type": "pps_sampling", "sampling_size": 40, "scorer": {"type": "pages", "page_size": 16}}),
        json!({"type": "magic_pig", "lsh_l": 12, "lsh_k": 3}),
        json!({"type": "magic_pig", "lsh_l": 20, "lsh_k": 3, "minimum_hits": 2}),
    ];
    for (name, inputs) in heads_of_every_kind::<B>() {
        for sampler in &samplers {
            let chain =
                json!([{"type": "sink", "sink_size": 16}, {"type": "oracle_top_k", "heavy_size": 0.02}, sampler]);
            let (rows, density) = study(&inputs, chain);
            assert!(density < 0.9, "{name}, {sampler}: nothing is sampled at density {density}");
            assert_unbiased(&rows, &format!("{name}, {sampler}"));
        }
    }
}

/// Asserts how many of 400 relative errors exceed `epsilon`, for the target that the sampler bounds.
fn assert_verified(rows: &[RowErrors], target: &str, epsilon: f64, delta: f64, what: &str) {
    for (at, row) in rows.iter().enumerate() {
        let errors = match target {
            "denominator" => &row.denominator,
            "numerator" => &row.numerator,
            _ => &row.output,
        };
        let exceeded = errors.iter().filter(|error| error.abs() > epsilon).count();
        let limit = at_most(delta);
        assert!(exceeded <= limit, "{what}, {target}, row {at}: {exceeded} of {RUNS} exceed {epsilon}, limit {limit}");
    }
}

fn verified(target: &str, epsilon: f64, delta: f64) -> serde_json::Value {
    json!([{"type": "sink", "sink_size": 16}, {"type": "local", "window_size": 16},
           {"type": "oracle_top_k", "heavy_size": 0.05},
           {"type": "verified_sampling", "target": target, "epsilon": epsilon, "delta": delta, "pilot_size": 0.05}])
}

/// The bound is for both tails together. It is tested on flat, mixed and peaked heads after a top-k.
fn verified_sampling_keeps_its_bound<B: Backend>() {
    for deviation in [0.5, 1.5, 3.0] {
        let inputs = vector_heads::<B>(deviation);
        for (target, epsilon, delta) in [
            ("denominator", 0.05, 0.1),
            ("denominator", 0.02, 0.2),
            ("numerator", 0.1, 0.1),
            ("output", 0.1, 0.1),
            ("output", 0.2, 0.05),
        ] {
            let (rows, _) = study(&inputs, verified(target, epsilon, delta));
            assert_verified(&rows, target, epsilon, delta, &format!("deviation {deviation}"));
        }
    }
}

fn verified_sampling_keeps_its_bound_on_real_heads<B: Backend>() {
    for layer in [3, 5, 7] {
        let inputs = recorded::<B>(layer);
        for (target, epsilon, delta) in [("denominator", 0.05, 0.1), ("output", 0.1, 0.1)] {
            let (rows, density) = study(&inputs, verified(target, epsilon, delta));
            assert_verified(&rows, target, epsilon, delta, &format!("layer {layer}"));
            assert!(density < 0.5, "layer {layer}, {target}: density {density}");
        }
    }
}

/// On the rows of a recorded layer, with sink 16 and local 64, priority sampling of 410 keys has a third of the median
/// output error of a top-k of 410 keys. Both have the same density.
fn priority_sampling_errs_a_third_of_top_k_on_real_heads<B: Backend>() {
    let limits = [(3, 0.016, 0.041), (5, 0.009, 0.031), (7, 0.013, 0.034)];
    for (layer, limit, of_top_k) in limits {
        let path = format!("{}/examples/data/layer{layer}.safetensors", env!("CARGO_MANIFEST_DIR"));
        let inputs = Recording::<B>::open(path, &Default::default()).unwrap().inputs;
        let median = |last: serde_json::Value, seeds| {
            let chain = json!([{"type": "sink", "sink_size": 16}, {"type": "local", "window_size": 64}, last]);
            let method = MaskerRegistry::new().research_attention(&chain.to_string(), &inputs.device()).unwrap();
            let study = ErrorStudy::run(&inputs, &method, 0..seeds, || ()).unwrap();
            assert!((study.density - 0.121).abs() < 0.001, "density {}", study.density);
            let mut errors = study.rows.into_iter().flat_map(|row| row.output).collect::<Vec<_>>();
            errors.sort_by(f64::total_cmp);
            errors[errors.len() / 2]
        };
        let found = median(json!({"type": "priority_sampling", "k": 410}), 5);
        assert!(found <= limit, "layer {layer}: {found}, limit {limit}");
        let found = median(json!({"type": "oracle_top_k", "heavy_size": 410}), 1);
        assert!((found - of_top_k).abs() < 0.001, "layer {layer}: top-k {found}, known {of_top_k}");
    }
}

/// The mean of the variances that a sampler reports equals the observed variance. The observed variance of 400 draws
/// has a standard error of 7 % if the errors are nearly normal. The tolerance of a quarter is 3.5 standard errors.
fn samplers_know_their_variance<B: Backend>() {
    use sparse_attention_hub::{
        attention::AttentionError,
        masker::{
            NamedConfig, PpsSamplingConfig, PrioritySamplingConfig, SamplingReport, Size, Target,
            VerifiedSamplingConfig,
        },
    };
    let context = Context::<B>::new(&Default::default());
    let oracle = || NamedConfig::new("oracle");
    let priority = PrioritySamplingConfig { k: Size::Count(60), scorer: oracle() }.init(&context).unwrap();
    let pps = PpsSamplingConfig { sampling_size: Size::Count(60), scorer: oracle(), uniform_share: 0.5 };
    let pps = pps.init(&context).unwrap();
    let verified =
        VerifiedSamplingConfig { target: Target::Denominator, epsilon: 0.1, delta: 0.1, pilot_size: Size::Count(60) };
    let verified = MaskerConfig::<B>::init(&verified, &context).unwrap();
    type Sample<'a, B> =
        Box<dyn Fn(&mut LayerState, &Mask<B>) -> Result<(Mask<B>, SamplingReport), AttentionError> + 'a>;
    for deviation in [0.5, 1.5] {
        let inputs = vector_heads::<B>(deviation);
        let samplers: [(&str, Sample<B>); 3] = [
            ("priority", Box::new(|state, mask| priority.sample(&inputs, state, mask))),
            ("pps", Box::new(|state, mask| pps.sample(&inputs, state, mask))),
            ("verified", Box::new(|state, mask| verified.sample(&inputs, state, mask))),
        ];
        let requested = Requested { statistics: true, weights: false };
        let log_sums = |output: AttentionOutput<B>| host(&output.statistics.unwrap().log_sum_exp);
        let dense = log_sums(dense_attention(&inputs, requested));
        for (name, sample) in samplers {
            let empty = Mask::empty(inputs.mask_shape(), &inputs.device());
            let (mut errors, mut own) = (vec![Vec::new(); 2], vec![Vec::new(); 2]);
            for seed in 0..RUNS as u64 {
                let (mask, report) = sample(&mut LayerState::new(seed), &empty).unwrap();
                let found = log_sums(masked_attention(&inputs, &mask, requested).unwrap());
                for row in 0..2 {
                    let ratio = f64::from(found[row] - dense[row]).exp();
                    errors[row].push(ratio);
                    own[row].push((report.rows[row].standard_error * ratio).powi(2));
                }
            }
            for row in 0..2 {
                let observed = mean_and_variance(&errors[row]).1;
                let reported = mean_and_variance(&own[row]).0;
                let ratio = reported / observed;
                assert!((0.75..1.25).contains(&ratio), "{name}, deviation {deviation}, row {row}: {ratio}");
            }
        }
    }
}

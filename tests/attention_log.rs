//! What research attention logs: the figures of the log, of the report and of a naive computation are the same.

mod common;

use std::collections::HashMap;

use burn::tensor::backend::Backend;
use common::*;
use sparse_attention_hub::{
    attention::QueryReport,
    metrics::{Enabled, MetricLogger, MetricLoggerConfig, Record, built_in::*},
    prelude::*,
};

on_each_backend!(
    query_reports_equal_naive_attention,
    every_figure_of_a_call_is_logged,
    sampled_steps_are_logged_and_others_are_not,
    samplers_report_their_bounds,
    what_is_not_requested_is_not_returned,
);

fn logger(metrics: Enabled) -> MetricLogger {
    MetricLoggerConfig { metrics, ..Default::default() }.init().unwrap()
}

fn method<B: Backend>(json: &str) -> ResearchAttention<B> {
    MaskerRegistry::new().research_attention(json, &B::Device::default()).unwrap()
}

const SINK_AND_TOP_K: &str = r#"[{"type": "sink", "sink_size": 1}, {"type": "oracle_top_k", "heavy_size": 0.2}]"#;
const SAMPLING: &str = r#"[{"type": "sink", "sink_size": 1}, {"type": "random_sampling", "sampling_rate": 0.5}]"#;

fn close(found: f64, wanted: f64, tolerance: f64) -> bool {
    found == wanted || (found - wanted).abs() <= tolerance * (1.0 + wanted.abs())
}

fn query_reports_equal_naive_attention<B: Backend>() {
    for (seed, sizes) in SIZES.into_iter().enumerate() {
        for (name, visibility) in visibilities::<B>(sizes, seed as u64) {
            let inputs = inputs::<B>(sizes, seed as u64).with_visibility(visibility).unwrap();
            for json in [SINK_AND_TOP_K, SAMPLING, "[]"] {
                let mask = method::<B>(json).mask(&inputs, &mut LayerState::new(7)).unwrap();
                let report = AttentionReport::of(&inputs, &mask).unwrap();
                check_queries(&inputs, &mask, &report, &format!("{sizes:?}, {name}, {json}"));
            }
        }
    }
}

fn check_queries<B: Backend>(inputs: &AttentionInputs<B>, mask: &Mask<B>, report: &AttentionReport, what: &str) {
    let [_, heads, queries, keys] = inputs.mask_shape().dims();
    let weights = host(&mask.to_dense());
    let (dense, shares, dense_sum) = naive_attention(inputs, &vec![1.0; weights.len()]);
    let (sparse, _, sparse_sum) = naive_attention(inputs, &weights);
    let width = inputs.values().dims()[3];
    let norm = |numbers: &mut dyn Iterator<Item = f64>| numbers.map(|x| x * x).sum::<f64>().sqrt();
    let tolerance = 1e-5 + 2.0 * attention_rounding::<B>();
    assert_eq!(report.queries.len(), weights.len() / keys, "{what}");
    for (row, found) in report.queries.iter().enumerate() {
        let QueryReport { batch, head, query, density, output_error, log_sum_exp_error, mass_kept, .. } = *found;
        assert_eq!((batch, head, query), (row / queries / heads, row / queries % heads, row % queries), "{what}");
        let (shares, weights) = (&shares[row * keys..][..keys], &weights[row * keys..][..keys]);
        let visible = shares.iter().filter(|share| **share > 0.0).count() as f64;
        let read = shares.iter().zip(weights).filter(|(share, weight)| **share > 0.0 && **weight > 0.0);
        let (count, mass) = (read.clone().count() as f64, read.map(|(share, _)| share).sum::<f64>());
        assert_eq!(density.visible, if visible > 0.0 { count / visible } else { 0.0 }, "{what}, row {row}");
        let kept = weights.iter().filter(|weight| **weight > 0.0).count() as f64;
        assert_eq!(density.all, kept / keys as f64, "{what}, row {row}");
        let (wanted, sparse) = (&dense[row * width..][..width], &sparse[row * width..][..width]);
        let difference = norm(&mut sparse.iter().zip(wanted).map(|(a, b)| a - b));
        let length = norm(&mut wanted.iter().copied());
        // The tolerance is for the rounding of the outputs, not of their difference.
        assert!(
            (output_error * length - difference).abs() < tolerance * (1.0 + length) || length == 0.0,
            "{what}, row {row}: {found:?}"
        );
        let shift = if visible > 0.0 { sparse_sum[row] - dense_sum[row] } else { 0.0 };
        assert!(close(log_sum_exp_error, shift, tolerance), "{what}, row {row}: {found:?}, not {shift}");
        let mass = if visible > 0.0 { mass } else { 1.0 };
        assert!(close(mass_kept, mass, tolerance), "{what}, row {row}: {found:?}, not {mass}");
    }
}

/// The records by metric, in the order in which they were logged.
fn by_metric(logger: &MetricLogger) -> HashMap<String, Vec<Record>> {
    let mut all = HashMap::<String, Vec<Record>>::new();
    for record in logger.records() {
        all.entry(record.metric.to_string()).or_default().push(record);
    }
    all
}

fn values(records: &[Record]) -> Vec<f64> {
    records.iter().map(|record| record.value).collect()
}

fn every_figure_of_a_call_is_logged<B: Backend>() {
    let sizes = Sizes::new(2, 6, 3, 5, 63, 60);
    for (name, visibility) in visibilities::<B>(sizes, 3) {
        let inputs = inputs::<B>(sizes, 3).with_visibility(visibility).unwrap().with_layer(4);
        let logger = logger(Enabled::All);
        let attention = method::<B>(SAMPLING).with_logger(logger.at(name));
        let output = attention.forward(&inputs, &mut LayerState::new(7), Requested::default()).unwrap();
        let report = AttentionReport::of(&inputs, &output.mask).unwrap();
        let logged = by_metric(&logger);
        let heads = |of: fn(&sparse_attention_hub::attention::HeadReport) -> f64| {
            report.heads.iter().map(of).collect::<Vec<_>>()
        };
        let queries = |of: fn(&QueryReport) -> f64| report.queries.iter().map(of).collect::<Vec<_>>();
        let csr = output.mask.to_csr();
        let weights = host(&output.mask.to_dense());
        let kept = |row: usize| csr.data[csr.ptr[row]..csr.ptr[row + 1]].len() as f64;
        let wanted = [
            (RESEARCH_ATTENTION_DENSITY, vec![csr.data.len() as f64 / weights.len() as f64]),
            (RESEARCH_ATTENTION_OUTPUT_ERROR, vec![report.output_error]),
            (HEAD_DENSITY, heads(|head| head.density.visible)),
            (QUERY_DENSITY, queries(|query| query.density.visible)),
            (HEAD_OUTPUT_ERROR, heads(|head| head.output_error)),
            (QUERY_OUTPUT_ERROR, queries(|query| query.output_error)),
            (HEAD_LOG_SUM_EXP_ERROR, heads(|head| head.log_sum_exp_error)),
            (QUERY_LOG_SUM_EXP_ERROR, queries(|query| query.log_sum_exp_error)),
            (HEAD_MASS_KEPT, heads(|head| head.mass_kept)),
            (QUERY_MASS_KEPT, queries(|query| query.mass_kept)),
        ];
        for (metric, wanted) in wanted {
            let found = values(&logged[metric]);
            let same = found.iter().zip(&wanted).all(|(found, wanted)| close(*found, *wanted, 1e-12));
            assert!(same && found.len() == wanted.len(), "{name}, {metric}: {found:?}, not {wanted:?}");
        }
        for record in logger.records() {
            assert_eq!((record.place.layer, record.place.step), (Some(4), Some(0)));
            assert_eq!(record.location.as_deref(), Some(name));
        }
        for (at, record) in logged[QUERY_KV_BYTES].iter().enumerate() {
            let place = record.place;
            let wanted = (Some(at / 30), Some(at / 5 % 6), Some(at % 5));
            assert_eq!((place.batch, place.head, place.query), wanted, "{name}");
        }
        for (at, record) in logged[HEAD_KV_BYTES].iter().enumerate() {
            let place = record.place;
            assert_eq!((place.batch, place.head, place.query), (Some(at / 6), Some(at % 6), None), "{name}");
        }
        if name == "full" {
            // A key of 60 and a value of 61 numbers of 4 bytes.
            let bytes = (0..60).map(|row| 484.0 * kept(row)).collect::<Vec<_>>();
            assert_eq!(values(&logged[QUERY_KV_BYTES]), bytes);
            assert_eq!(
                values(&logged[HEAD_KV_BYTES]),
                bytes.chunks(5).map(|head| head.iter().sum()).collect::<Vec<f64>>()
            );
            let sampled = weights.chunks(63).map(|row| row.iter().filter(|w| (1e-9..1.0).contains(*w)).count() as f64);
            assert_eq!(values(&logged[QUERY_SAMPLER_BUDGET]), sampled.collect::<Vec<_>>());
        }
        assert!(values(&logged[MILLISECONDS_SELECT])[0] > 0.0 && values(&logged[MILLISECONDS_ATTEND])[0] > 0.0);
        // This sampler reports no error bound.
        assert!(!logged.contains_key(HEAD_BOUND));
    }
}

fn sampled_steps_are_logged_and_others_are_not<B: Backend>() {
    let sizes = Sizes::new(1, 4, 2, 1, 63, 12);
    let inputs = inputs::<B>(sizes, 5);
    let config = MetricLoggerConfig { sampling_factor: 0.5, ..Default::default() };
    let logger = config.init().unwrap();
    let attention = method::<B>(SINK_AND_TOP_K).with_logger(logger.clone());
    let (mut state, mut other) = (LayerState::new(1), LayerState::new(1));
    for _ in 0..5 {
        attention.forward(&inputs, &mut state, Requested::default()).unwrap();
        // Truncation of the keys does not reset the step counter.
        state.truncate(10);
    }
    attention.report(&inputs, &mut other).unwrap();
    let logged = by_metric(&logger);
    let steps = |metric: &str| logged[metric].iter().filter_map(|record| record.place.step).collect::<Vec<_>>();
    assert_eq!(steps(RESEARCH_ATTENTION_DENSITY), [0, 2, 4, 0]);
    assert_eq!(steps(RESEARCH_ATTENTION_OUTPUT_ERROR), [0, 2, 4, 0]);
    assert_eq!(steps(MILLISECONDS_ATTEND), [0, 2, 4]);
    // Logging does not change the output.
    let plain = method::<B>(SINK_AND_TOP_K).forward(&inputs, &mut LayerState::new(1), Requested::default()).unwrap();
    let logging = attention.forward(&inputs, &mut LayerState::new(1), Requested::default()).unwrap();
    assert_eq!(host(&plain.attention.output), host(&logging.attention.output));
}

fn samplers_report_their_bounds<B: Backend>() {
    let fields = r#""target": "denominator", "epsilon": 0.3, "delta": 0.2, "pilot_size": 0.05"#;
    let json = format!(r#"[{{"type": "sink", "sink_size": 1}}, {{"type": "verified_sampling", {fields}}}]"#);
    let sizes = Sizes::new(1, 4, 2, 3, 600, 12);
    let inputs = inputs::<B>(sizes, 6);
    let logger = logger(Enabled::All);
    let attention = method::<B>(&json).with_logger(logger.clone());
    let mut state = LayerState::new(3);
    attention.forward(&inputs, &mut state, Requested::default()).unwrap();
    let report = state.sampling_report().unwrap().clone();
    let logged = by_metric(&logger);
    let rows = |of: fn(&sparse_attention_hub::masker::RowSample) -> f64| report.rows.iter().map(of).collect::<Vec<_>>();
    assert_eq!(values(&logged[QUERY_STANDARD_ERROR]), rows(|row| row.standard_error));
    assert_eq!(values(&logged[QUERY_BOUND]), rows(|row| row.half_width));
    let largest = |rows: &[f64]| rows.iter().copied().fold(0.0, f64::max);
    let of_heads = rows(|row| row.half_width).chunks(3).map(largest).collect::<Vec<_>>();
    assert_eq!(values(&logged[HEAD_BOUND]), of_heads);
    assert!(of_heads.iter().any(|bound| *bound > 0.0));
    // A chain that is a module reports the same. A later method without a sampler leaves no old report.
    let chain: MaskerChain<B> = MaskerChainConfig::from_json(&json).unwrap().init(&inputs.device()).unwrap();
    let mut again = LayerState::new(3);
    chain.mask(&inputs, &mut again).unwrap();
    assert_eq!(again.sampling_report(), Some(&report));
    method::<B>(SINK_AND_TOP_K).mask(&inputs, &mut again).unwrap();
    assert_eq!(again.sampling_report(), None);
}

fn what_is_not_requested_is_not_returned<B: Backend>() {
    let inputs = inputs::<B>(SIZES[2], 8);
    let logger = logger(Enabled::All);
    let attention = method::<B>(SINK_AND_TOP_K).with_logger(logger.clone());
    for requested in [Requested::default(), Requested { statistics: true, weights: true }] {
        let output = attention.forward(&inputs, &mut LayerState::new(1), requested).unwrap().attention;
        assert_eq!((output.statistics.is_some(), output.weights.is_some()), (requested.statistics, requested.weights));
    }
    logger.finish().unwrap();
    let error = attention.forward(&inputs, &mut LayerState::new(1), Requested::default()).unwrap_err().to_string();
    assert!(error.contains("not logged") && error.contains("finished"), "{error}");
}

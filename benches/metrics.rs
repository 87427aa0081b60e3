//! The cost of logging: a decode step without a logger, with a logger that is off, with a logger of every metric that
//! needs no dense reference, and with a logger of all metrics.

mod common;

use common::{inputs, method, step};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use sparse_attention_hub::{
    metrics::{Enabled, MetricLogger, MetricLoggerConfig, built_in},
    prelude::*,
};

const METHOD: &str = r#"[
    {"type": "sink", "sink_size": 128},
    {"type": "local", "window_size": 128},
    {"type": "oracle_top_k", "heavy_size": 0.05}
]"#;

/// A logger whose output is discarded, so that the disk is not measured.
fn logger(metrics: Enabled) -> MetricLogger {
    let config = MetricLoggerConfig { metrics, ..Default::default() };
    config.init_with_writer(std::io::sink()).expect("the metrics are built in, and a sink takes everything")
}

fn metrics(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("metrics");
    group.sample_size(20);
    let known = built_in::METRICS.iter().map(|metric| metric.name.to_string());
    let cheap = known.filter(|name| !built_in::AGAINST_DENSE.contains(&name.as_str())).collect();
    let loggers = [
        ("no logger", None),
        ("off", Some(MetricLogger::off())),
        ("without a dense reference", Some(logger(Enabled::Only(cheap)))),
        ("all", Some(logger(Enabled::All))),
    ];
    for keys in [4_096, 16_384] {
        let inputs = inputs(32, 8, 1, keys);
        for (name, logger) in &loggers {
            let method = match logger {
                Some(logger) => method(METHOD).with_logger(logger.clone()),
                None => method(METHOD),
            };
            let mut state = LayerState::new(1);
            group.bench_function(BenchmarkId::new(*name, keys), |bencher| {
                bencher.iter(|| step(&method, &inputs, &mut state));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, metrics);
criterion_main!(benches);

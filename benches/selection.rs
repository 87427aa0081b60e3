//! Selection by exact scores, without the attention after it. The throughput counts the keys, which every method must
//! read. Dense attention is measured for comparison.

mod common;

use common::{HEAD_DIM, inputs, method};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use sparse_attention_hub::prelude::*;

fn selection(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("selection");
    group.sample_size(10);
    for keys in [4_096, 16_384] {
        let inputs = inputs(32, 8, 1, keys);
        group.throughput(Throughput::Bytes((8 * keys * HEAD_DIM * size_of::<f32>()) as u64));
        group.bench_function(BenchmarkId::new("dense attention", keys), |bencher| {
            bencher.iter(|| dense_attention(&inputs, Requested::default()).output);
        });
        let methods = [
            ("top-k", r#"[{"type": "oracle_top_k", "heavy_size": 0.05}]"#),
            ("top-k, shared", r#"[{"type": "oracle_top_k", "heavy_size": 0.05, "share_group": true}]"#),
            ("top-p", r#"[{"type": "oracle_top_p", "top_p": 0.9}]"#),
            ("threshold", r#"[{"type": "threshold", "threshold": 0.001, "scorer": {"type": "oracle"}}]"#),
            ("priority", r#"[{"type": "priority_sampling", "k": 0.05, "scorer": {"type": "oracle"}}]"#),
        ];
        for (name, json) in methods {
            let (method, mut state) = (method(json), LayerState::new(1));
            group.bench_function(BenchmarkId::new(name, keys), |bencher| {
                bencher.iter(|| method.mask(&inputs, &mut state));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, selection);
criterion_main!(benches);

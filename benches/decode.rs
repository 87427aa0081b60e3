//! A decode step: dense attention and sparse methods with a warm state. The throughput counts the bytes of keys and
//! values that each method must at least read, so that it can be compared with the memory bandwidth.

mod common;

use common::{B, PAIR_BYTES, inputs, method, step};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use sparse_attention_hub::prelude::*;

/// Query heads and key-value heads.
const HEADS: (usize, usize) = (32, 8);

fn decode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode");
    group.sample_size(10);
    let (heads, kv_heads) = HEADS;
    for keys in [4_096, 16_384] {
        let inputs = inputs(heads, kv_heads, 1, keys);
        group.throughput(Throughput::Bytes((kv_heads * keys * PAIR_BYTES) as u64));
        group.bench_function(BenchmarkId::new("dense", keys), |bencher| {
            bencher.iter(|| dense_attention(&inputs, Requested::default()).output);
        });
        let fixed = r#"{"type": "sink", "sink_size": 128}, {"type": "local", "window_size": 128}"#;
        let heavy = |fields: &str| format!(r#"[{fixed}, {{{fields}, "heavy_size": 0.05, "share_group": true}}]"#);
        let methods = [
            ("sink and local", format!("[{fixed}]"), 256),
            ("oracle top-k", heavy(r#""type": "oracle_top_k""#), 256 + keys / 20),
            ("quest", heavy(r#""type": "quest_top_k", "page_size": 16"#), 256 + keys / 20),
        ];
        for (name, json, kept) in methods {
            let (method, mut state) = (method(&json), LayerState::new(1));
            step(&method, &inputs, &mut state);
            group.throughput(Throughput::Bytes((kv_heads * kept * PAIR_BYTES) as u64));
            group.bench_function(BenchmarkId::new(name, keys), |bencher| {
                bencher.iter(|| step(&method, &inputs, &mut state));
            });
        }
        let shape = inputs.mask_shape();
        let pattern = Pattern { sink: 128, window: 128, offset: inputs.offset() };
        let mask = Mask::<B>::pattern(shape, pattern, &inputs.device());
        group.throughput(Throughput::Bytes((kv_heads * 256 * PAIR_BYTES) as u64));
        group.bench_function(BenchmarkId::new("a band given", keys), |bencher| {
            bencher.iter(|| masked_attention(&inputs, &mask, Requested::default()).map(|output| output.output));
        });
    }
    group.finish();
}

criterion_group!(benches, decode);
criterion_main!(benches);

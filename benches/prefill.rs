//! A prefill: dense attention, and a sink with a window. Several lengths show that dense attention grows with the
//! square.

mod common;

use common::{B, inputs};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use sparse_attention_hub::prelude::*;

fn prefill(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("prefill");
    group.sample_size(10);
    for keys in [1_024, 2_048, 4_096] {
        let inputs = inputs(4, 2, keys, keys);
        group.throughput(Throughput::Elements((4 * keys) as u64));
        group.bench_function(BenchmarkId::new("dense", keys), |bencher| {
            bencher.iter(|| dense_attention(&inputs, Requested::default()).output);
        });
        let pattern = Pattern { sink: 64, window: 256, offset: 0 };
        let mask = Mask::<B>::pattern(inputs.mask_shape(), pattern, &inputs.device());
        group.bench_function(BenchmarkId::new("sink 64 and local 256", keys), |bencher| {
            bencher.iter(|| masked_attention(&inputs, &mask, Requested::default()).map(|output| output.output));
        });
    }
    group.finish();
}

criterion_group!(benches, prefill);
criterion_main!(benches);

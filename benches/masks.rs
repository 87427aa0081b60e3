//! Masks. Masks by position cost nothing at any length. Lists of keys cost time for each key that they hold.

mod common;

use common::B;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use sparse_attention_hub::{mask::Csr, prelude::*};

fn patterns(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("masks by position");
    for keys in [4_096, 32_768] {
        let shape = MaskShape::new([1, 32, keys, keys]);
        group.bench_function(BenchmarkId::new("sink, local and causal, merged", keys), |bencher| {
            bencher.iter(|| {
                let device = Default::default();
                let sink = Mask::<B>::pattern(shape, Pattern::sink(128), &device);
                let local = Mask::pattern(shape, Pattern::local(1_024, 0), &device);
                let causal = Mask::pattern(shape, Pattern::causal(0), &device);
                sink.merge(&local).and_then(|mask| mask.merge(&causal))
            });
        });
    }
    group.finish();
}

fn lists(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("masks of lists");
    for keys in [4_096, 32_768] {
        let (shape, kept) = (MaskShape::new([1, 32, 1, keys]), keys / 20);
        let every_twentieth = (0..kept).map(|at| at * 20).collect::<Vec<_>>();
        let csr = Csr {
            indices: every_twentieth.repeat(32),
            ptr: (0..=32).map(|row| row * kept).collect(),
            data: vec![1.0; 32 * kept],
        };
        let mask =
            Mask::<B>::from_csr(shape, &csr, &Default::default()).expect("the indices are keys, each named once");
        group.throughput(Throughput::Elements((32 * kept) as u64));
        group.bench_function(BenchmarkId::new("from CSR", keys), |bencher| {
            bencher.iter(|| Mask::<B>::from_csr(shape, &csr, &Default::default()));
        });
        group.bench_function(BenchmarkId::new("to CSR", keys), |bencher| bencher.iter(|| mask.to_csr()));
        let ends = Pattern { sink: 128, window: 128, offset: keys as isize - 1 };
        let pattern = Mask::<B>::pattern(shape, ends, &Default::default());
        group.bench_function(BenchmarkId::new("merged with a pattern", keys), |bencher| {
            bencher.iter(|| mask.merge(&pattern));
        });
    }
    group.finish();
}

criterion_group!(benches, patterns, lists);
criterion_main!(benches);

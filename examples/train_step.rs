//! Times one training step of an attention layer, forward and backward, with sparse and dense attention: time and
//! memory by length.
//!
//! `cargo run --release --features train --example train_step`

#[path = "common/mod.rs"]
mod common;

use std::{error::Error, process::ExitCode, time::Instant};

use burn::{
    backend::Autodiff,
    optim::GradientsParams,
    tensor::{
        Distribution, Tensor,
        backend::{AutodiffBackend, Backend},
    },
};
use clap::Parser;
use common::{BackendArguments, count, count_or_none, end, fits_in_memory, say};
use sparse_attention_hub::{
    backend::{self, Work},
    nn::{MhaInput, SparseMultiHeadAttention, SparseMultiHeadAttentionConfig},
    prelude::*,
};

/// Counts allocations, for the columns of extra memory.
#[global_allocator]
static ALLOCATOR: peak_alloc::PeakAlloc = peak_alloc::PeakAlloc;

const HEADS: usize = 8;
const HEAD_DIM: usize = 64;
const SINK: usize = 64;
const WINDOW: usize = 256;

/// Times training steps of causal self-attention with a sink and a window, and with dense attention.
#[derive(Debug, Parser)]
#[command(name = "train_step")]
struct Arguments {
    /// Lengths of the sequence
    #[arg(long, value_delimiter = ',', default_values_t = [1024, 2048, 4096, 8192], value_parser = count())]
    tokens: Vec<usize>,
    /// The largest length for dense attention
    #[arg(long, default_value_t = 8192, value_parser = count_or_none())]
    dense: usize,
    /// Steps of each case; the median is reported
    #[arg(long, default_value_t = 5, value_parser = count())]
    steps: usize,
    #[command(flatten)]
    backend: BackendArguments,
}

/// The cost of a step.
struct Cost {
    milliseconds: f64,
    /// The peak memory beyond the memory before the step, which holds weights and input.
    bytes: usize,
}

fn measure<B: AutodiffBackend>(
    layer: &SparseMultiHeadAttention<B>,
    x: &Tensor<B, 3>,
    steps: usize,
) -> Result<Cost, Box<dyn Error>> {
    let (mut times, mut bytes) = (Vec::new(), usize::MAX);
    // One extra step warms the memory.
    for _ in 0..steps + 1 {
        let before = ALLOCATOR.current_usage();
        ALLOCATOR.reset_peak_usage();
        let start = Instant::now();
        let output = layer.try_forward(MhaInput::self_attn(x.clone()).causal())?;
        let loss = output.context.powi_scalar(2).mean();
        let gradients = GradientsParams::from_grads(loss.backward(), layer);
        // Reading the gradient of the first weight, which is computed last, waits until the device has finished.
        let last = gradients.get::<B::InnerBackend, 2>(layer.query.weight.id).map(|gradient| gradient.into_data());
        std::hint::black_box(last);
        times.push(start.elapsed().as_secs_f64() * 1e3);
        bytes = bytes.min(ALLOCATOR.peak_usage().saturating_sub(before));
    }
    times.remove(0);
    times.sort_by(f64::total_cmp);
    Ok(Cost { milliseconds: times[times.len() / 2], bytes })
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    end(arguments.backend.run(Steps { arguments: &arguments }))
}

struct Steps<'a> {
    arguments: &'a Arguments,
}

impl Work for Steps<'_> {
    type Output = Result<(), Box<dyn Error>>;

    fn run<B: Backend>(self, device: B::Device) -> Self::Output {
        say!("{} on {}", B::name(&device), backend::describe::<B>(&device))?;
        run::<Autodiff<B>>(self.arguments, &device)
    }
}

fn run<B: AutodiffBackend>(arguments: &Arguments, device: &B::Device) -> Result<(), Box<dyn Error>> {
    let config = SparseMultiHeadAttentionConfig::new(HEADS * HEAD_DIM, HEADS).with_dropout(0.0);
    let method = format!(r#"[{{"type": "sink", "sink_size": {SINK}}}, {{"type": "local", "window_size": {WINDOW}}}]"#);
    let sparse = config.clone().with_maskers(MaskerChainConfig::from_json(&method)?).try_init::<B>(device)?;
    let dense = config.try_init::<B>(device)?;
    say!("{HEADS} heads of {HEAD_DIM}, sink {SINK}, window {WINDOW}, causal\n")?;
    say!(
        "{:>7} {:>11} {:>11} {:>6} {:>11} {:>11} {:>6}",
        "tokens",
        "sparse ms",
        "dense ms",
        "x",
        "sparse MB",
        "dense MB",
        "x"
    )?;
    for &tokens in &arguments.tokens {
        // Input, output, queries, keys and values, and a gradient for each.
        fits_in_memory("a training step", &[10, tokens, HEADS * HEAD_DIM, size_of::<f32>()])?;
        let x = Tensor::<B, 3>::random([1, tokens, HEADS * HEAD_DIM], Distribution::Normal(0.0, 1.0), device);
        let found = measure(&sparse, &x, arguments.steps)?;
        let beside = (tokens <= arguments.dense).then(|| measure(&dense, &x, arguments.steps)).transpose()?;
        let ratio = |value: fn(&Cost) -> f64| match &beside {
            Some(dense) => format!("{:>11.1} {:>6.3}", value(dense), value(&found) / value(dense)),
            None => format!("{:>11} {:>6}", "-", "-"),
        };
        say!(
            "{tokens:>7} {:>11.1} {} {:>11.1} {}",
            found.milliseconds,
            ratio(|cost| cost.milliseconds),
            found.bytes as f64 / 1e6,
            ratio(|cost| cost.bytes as f64 / 1e6),
        )?;
    }
    Ok(())
}

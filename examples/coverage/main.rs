//! Counts how often samplers keep their (epsilon, delta) bound on recorded heads, in comparison with the rule of the
//! Python project.
//!
//! `cargo run --release --example coverage`

#[path = "../common/mod.rs"]
mod common;
mod original;

use std::{error::Error, process::ExitCode};

use burn::tensor::backend::Backend;
use clap::Parser;
use common::{BackendArguments, count, end, find, say, seed_count};
use indicatif::{ProgressBar, ProgressStyle};
use original::OriginalAdaptiveConfig;
use serde_json::{Value, json};
use sparse_attention_hub::{
    backend::Work,
    eval::{ErrorStudy, Recording},
    prelude::*,
};

/// Runs samplers many times on recorded heads and counts how often they keep their bound.
#[derive(Debug, Parser)]
struct Arguments {
    /// Draws of each sampler
    #[arg(long, default_value_t = 400, value_parser = seed_count())]
    runs: u64,
    /// The number of last queries of each layer
    #[arg(long, default_value_t = 8, value_parser = count())]
    queries: usize,
    /// Relative error that is to be kept
    #[arg(long, default_value_t = 0.1)]
    epsilon: f64,
    /// Probability with which the error may be exceeded
    #[arg(long, default_value_t = 0.1)]
    delta: f64,
    #[command(flatten)]
    backend: BackendArguments,
}

const LAYERS: [usize; 3] = [3, 5, 7];

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    end(arguments.backend.run(Coverage { arguments: &arguments }))
}

struct Coverage<'a> {
    arguments: &'a Arguments,
}

impl Work for Coverage<'_> {
    type Output = Result<(), Box<dyn Error>>;

    fn run<B: Backend>(self, device: B::Device) -> Self::Output {
        coverage::<B>(self.arguments, &device)
    }
}

fn coverage<B: Backend>(arguments: &Arguments, device: &B::Device) -> Result<(), Box<dyn Error>> {
    let mut registry = MaskerRegistry::<B>::new();
    registry.register::<OriginalAdaptiveConfig>("original_adaptive");
    let methods = samplers(arguments)
        .into_iter()
        .map(|(name, sampler)| Ok((name, registry.research_attention(&chain(sampler).to_string(), device)?)))
        .collect::<Result<Vec<_>, Box<dyn Error>>>()?;
    let Arguments { runs, queries, epsilon, delta, .. } = *arguments;
    say!("sink 16 + local 64 + oracle top-k 2.5 % + sampler, {runs} draws of each of the last {queries} queries")?;
    say!("epsilon {epsilon}, delta {delta}: errors above epsilon may come in {:.0} % of the draws\n", 100.0 * delta)?;
    say!("                                          share of draws with an error above epsilon      error")?;
    say!("layer  sampler                   density  denominator (worst row)   output (worst row)   median")?;
    let progress = ProgressBar::new(runs * (methods.len() * LAYERS.len()) as u64);
    progress.set_style(ProgressStyle::with_template("{bar:30} {pos}/{len}  {eta} left")?);
    for layer in LAYERS {
        let inputs = last_queries::<B>(layer, queries, device)?;
        for (name, method) in &methods {
            let study = ErrorStudy::run(&inputs, method, 0..runs, || progress.inc(1))?;
            let exceeded = |errors: &[f64]| {
                errors.iter().filter(|error| error.abs() > epsilon).count() as f64 / errors.len().max(1) as f64
            };
            let denominator = study.rows.iter().map(|row| exceeded(&row.denominator)).collect::<Vec<_>>();
            let output = study.rows.iter().map(|row| exceeded(&row.output)).collect::<Vec<_>>();
            let mut errors = study.rows.iter().flat_map(|row| row.output.iter().copied()).collect::<Vec<_>>();
            errors.sort_by(f64::total_cmp);
            progress.suspend(|| {
                say!(
                    "{layer:>5}  {name:<24} {:>6.1} %   {:>7.1} %  ({:>5.1} %)      {:>7.1} %  ({:>5.1} %)   {:.4}",
                    100.0 * study.density,
                    100.0 * mean(&denominator),
                    100.0 * greatest(&denominator),
                    100.0 * mean(&output),
                    100.0 * greatest(&output),
                    errors[errors.len() / 2],
                )
            })?;
        }
    }
    progress.finish_and_clear();
    Ok(())
}

/// The samplers that are studied, by name.
fn samplers(arguments: &Arguments) -> Vec<(&'static str, Value)> {
    let Arguments { epsilon, delta, .. } = arguments;
    let verified = |target: &str| json!({"type": "verified_sampling", "target": target, "epsilon": epsilon, "delta": delta, "pilot_size": 0.025});
    let adaptive = |name: &str| {
        json!({"type": name, "base_rate_sampling": 0.025, "epsilon": epsilon, "delta": delta,
               "init_offset": 16, "local_offset": 64})
    };
    vec![
        ("original adaptive rule", adaptive("original_adaptive")),
        ("adaptive_sampling", adaptive("adaptive_sampling")),
        ("verified, denominator", verified("denominator")),
        ("verified, numerator", verified("numerator")),
        ("verified, output", verified("output")),
        ("random_sampling 10 %", json!({"type": "random_sampling", "sampling_rate": 0.1})),
        ("priority_sampling 10 %", json!({"type": "priority_sampling", "k": 0.1})),
        ("pps_sampling 10 %", json!({"type": "pps_sampling", "sampling_size": 0.1})),
        ("magic_pig L 30, K 6", json!({"type": "magic_pig", "lsh_l": 30, "lsh_k": 6, "minimum_hits": 2})),
    ]
}

fn chain(sampler: Value) -> Value {
    json!([{"type": "sink", "sink_size": 16}, {"type": "local", "window_size": 64},
           {"type": "oracle_top_k", "heavy_size": 0.025}, sampler])
}

fn last_queries<B: Backend>(
    layer: usize,
    count: usize,
    device: &B::Device,
) -> Result<AttentionInputs<B>, Box<dyn Error>> {
    let path = find(&format!("examples/data/layer{layer}.safetensors"))?;
    let whole = Recording::<B>::open(path, device)?.inputs;
    let queries = whole.mask_shape().queries;
    let last = whole.queries().clone().slice_dim(2, queries.saturating_sub(count)..queries);
    Ok(AttentionInputs::new(last, whole.keys().clone(), whole.values().clone())?
        .causal()?
        .with_scale(whole.scale())?
        .with_layer(layer))
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

fn greatest(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, f64::max)
}

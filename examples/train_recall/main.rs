//! Trains the same small transformer with dense and with sparse attention on a task that only attention solves, and runs
//! each of them under the attention of the others.
//!
//! `cargo run --release --features train,plot --example train_recall`

mod data;
mod first_weights;
mod model;
mod progress;
mod training;

use std::{error::Error, path::PathBuf, process::ExitCode};

use burn::tensor::backend::Backend;
use clap::Parser;
use data::Task;
use sparse_attention_hub::{
    backend::{self, Work},
    masker::MaskerChainConfig,
    plot::{LinePlot, Scale},
};
use training::{Run, Sequences, accuracy, train};

/// Trains a two-layer transformer on associative recall, dense and sparse, with burn's learner.
#[derive(Debug, Parser)]
#[command(name = "train_recall")]
struct Arguments {
    /// Passes over the training data
    #[arg(long, default_value_t = 14)]
    passes: usize,
    /// Number of sequences to train on
    #[arg(long, default_value_t = 2048)]
    sequences: usize,
    /// Seed of the data, of the first weights and of the methods that draw
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Folder for the plots, and for the logs and checkpoints of the learner
    #[arg(long, default_value = "target/train_recall")]
    out: PathBuf,
    /// Keep the models in the folder that are trained to the end; one that was cut short is trained anew
    #[arg(long)]
    resume: bool,
    /// A backend among those compiled in; without it the first of cuda, tch, wgpu, flex, ndarray
    #[arg(long)]
    backend: Option<String>,
    /// A device of the backend, such as cpu, cuda:0 or discrete:0
    #[arg(long)]
    device: Option<String>,
    /// Show burn's dashboard instead of a progress bar
    #[arg(long)]
    dashboard: bool,
}

const TASK: Task = Task { vocabulary: 256, length: 64, pairs: 8 };

/// What attention may be; the sparse ones keep at most 13 of 64 keys.
const METHODS: [(&str, &str); 3] = [
    ("dense", "[]"),
    (
        "top-k",
        r#"[{"type": "sink", "sink_size": 1}, {"type": "local", "window_size": 4},
            {"type": "oracle_top_k", "heavy_size": 8}]"#,
    ),
    (
        "sampling",
        r#"[{"type": "sink", "sink_size": 1}, {"type": "local", "window_size": 4},
            {"type": "oracle_top_k", "heavy_size": 4}, {"type": "random_sampling", "sampling_rate": 0.1}]"#,
    ),
];

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let recall = Recall { arguments: &arguments };
    let done = backend::run_on(arguments.backend.as_deref(), arguments.device.as_deref(), recall);
    match done.map_err(Into::into).flatten() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

struct Recall<'a> {
    arguments: &'a Arguments,
}

impl Work for Recall<'_> {
    type Output = Result<(), Box<dyn Error>>;

    fn run<B: Backend>(self, device: B::Device) -> Self::Output {
        run::<B>(self.arguments, &device)
    }
}

fn run<B: Backend>(arguments: &Arguments, device: &B::Device) -> Result<(), Box<dyn Error>> {
    let described = backend::describe::<B>(device);
    std::fs::create_dir_all(&arguments.out)
        .map_err(|error| format!("cannot write to {}: {error}", arguments.out.display()))?;
    let sequences = Sequences {
        train: TASK.sequences(arguments.sequences, arguments.seed),
        held_out: TASK.sequences(512, !arguments.seed),
    };
    let methods = METHODS
        .iter()
        .map(|(name, method)| Ok((*name, MaskerChainConfig::from_json(method)?)))
        .collect::<Result<Vec<_>, Box<dyn Error>>>()?;
    let Task { vocabulary, length, pairs } = TASK;
    println!(
        "Recall of {pairs} pairs in {length} tokens of {vocabulary}; {} sequences, {} passes, seed {}; {} on {described}\n",
        arguments.sequences,
        arguments.passes,
        arguments.seed,
        B::name(device)
    );
    println!("| trained | loss, first and last pass | accuracy | density | output error | seconds |");
    println!("|---|---|---|---|---|---|");
    let mut runs = Vec::new();
    for (name, method) in &methods {
        let run = train::<B>(arguments, &TASK, &sequences, name, method, device)?;
        let last = |values: &[f64]| values.last().copied().unwrap_or(f64::NAN);
        println!(
            "| {name} | {:.3}, {:.3} | {:.1} % | {:.1} % | {:.3} | {:.0} |",
            run.losses[0],
            last(&run.losses),
            last(&run.accuracies),
            last(&run.densities),
            last(&run.errors),
            run.seconds
        );
        runs.push(run);
    }
    // Other sequences than those looked at during training.
    let test = TASK.sequences(1024, arguments.seed ^ 0x7e57);
    println!(
        "\nAccuracy in percent on 1,024 other sequences, the model of each row under the attention of each column:\n"
    );
    println!("| trained | {} |", methods.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(" | "));
    println!("|---|{}", "---|".repeat(methods.len()));
    for ((name, _), run) in methods.iter().zip(&runs) {
        let row = methods.iter().map(|(_, method)| Ok(format!("{:.1}", accuracy(&run.model, method, &test, device)?)));
        println!("| {name} | {} |", row.collect::<Result<Vec<_>, Box<dyn Error>>>()?.join(" | "));
    }
    let names = methods.iter().map(|(name, _)| *name).collect::<Vec<_>>();
    let loss = arguments.out.join("loss.svg");
    let accuracy = arguments.out.join("accuracy.svg");
    lines("Loss in training", "mean loss of a pass", Scale::Log, &names, &runs, |run| &run.losses).save(&loss)?;
    lines("Accuracy on held-out sequences", "percent", Scale::Linear, &names, &runs, |run| &run.accuracies)
        .save(&accuracy)?;
    println!("\nwrote {} and {}", loss.display(), accuracy.display());
    Ok(())
}

fn lines<B: Backend>(
    title: &str,
    y: &str,
    scale: Scale,
    names: &[&str],
    runs: &[Run<B>],
    of: impl Fn(&Run<B>) -> &[f64],
) -> LinePlot {
    let plot = LinePlot::new(title).x("passes over the training data", Scale::Linear).y(y, scale);
    names.iter().zip(runs).fold(plot, |plot, (name, run)| {
        plot.line(*name, (1..).zip(of(run)).map(|(pass, value)| (f64::from(pass), *value)))
    })
}

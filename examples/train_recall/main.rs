//! Trains the same small transformer with dense and with sparse attention, on a task that needs attention. Then each
//! model is run with the attention of the others.
//!
//! `cargo run --release --features train,plot --example train_recall`

#[path = "../common/mod.rs"]
mod common;
mod data;
mod first_weights;
mod model;
mod progress;
mod training;

use std::{error::Error, path::PathBuf, process::ExitCode};

use burn::tensor::backend::Backend;
use clap::Parser;
use common::{BackendArguments, count, end, say};
use data::Task;
use sparse_attention_hub::{
    backend::{self, Work},
    io::OutputFile,
    method::MaskerChainConfig,
    plot::{LinePlot, Scale},
};
use training::{Run, Sequences, accuracy, train};

/// Trains a two-layer transformer on associative recall, dense and sparse, with burn's learner.
#[derive(Debug, Parser)]
#[command(name = "train_recall")]
struct Arguments {
    /// Passes over the training data
    #[arg(long, default_value_t = 14, value_parser = count())]
    passes: usize,
    /// Number of sequences to train on
    #[arg(long, default_value_t = 2048, value_parser = count())]
    sequences: usize,
    /// Seed of the data, of the initial weights and of the methods that sample
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Folder for the plots, and for the logs and checkpoints of the learner
    #[arg(long, default_value = "target/train_recall")]
    out: PathBuf,
    /// Keep models in the folder whose training is complete; incomplete ones are trained again from the start
    #[arg(long)]
    resume: bool,
    #[command(flatten)]
    backend: BackendArguments,
    /// Show burn's dashboard instead of a progress bar
    #[arg(long)]
    dashboard: bool,
}

const TASK: Task = Task { vocabulary: 256, length: 64, pairs: 8 };

/// The attention methods. The sparse ones keep at most 13 of 64 keys.
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
    end(arguments.backend.run(Recall { arguments: &arguments }))
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
    // Checked before the work, so that an output that cannot be written does not lose an hour of training.
    let [loss, accuracy_over_passes] =
        ["loss.svg", "accuracy.svg"].map(|name| OutputFile::new(arguments.out.join(name)));
    let (loss, accuracy_over_passes) = (loss?, accuracy_over_passes?);
    let sequences = Sequences {
        train: TASK.sequences(arguments.sequences, arguments.seed),
        held_out: TASK.sequences(512, !arguments.seed),
    };
    let methods = METHODS
        .iter()
        .map(|(name, method)| Ok((*name, MaskerChainConfig::from_json(method)?)))
        .collect::<Result<Vec<_>, Box<dyn Error>>>()?;
    let Task { vocabulary, length, pairs } = TASK;
    say!(
        "Recall of {pairs} pairs in {length} tokens of {vocabulary}; {} sequences, {} passes, seed {}; {} on {described}\n",
        arguments.sequences,
        arguments.passes,
        arguments.seed,
        B::name(device)
    )?;
    say!("| trained | loss, first and last pass | accuracy | density | output error | seconds |")?;
    say!("|---|---|---|---|---|---|")?;
    let mut runs = Vec::new();
    for (name, method) in &methods {
        let run = train::<B>(arguments, &TASK, &sequences, name, method, device)?;
        let last = |values: &[f64]| values.last().copied().unwrap_or(f64::NAN);
        say!(
            "| {name} | {:.3}, {:.3} | {:.1} % | {:.1} % | {:.3} | {:.0} |",
            run.losses[0],
            last(&run.losses),
            last(&run.accuracies),
            last(&run.densities),
            last(&run.errors),
            run.seconds
        )?;
        runs.push(run);
    }
    // These sequences are not used during training.
    let test = TASK.sequences(1024, arguments.seed ^ 0x7e57);
    say!(
        "\nAccuracy in percent on 1,024 other sequences, the model of each row under the attention of each column:\n"
    )?;
    say!("| trained | {} |", methods.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(" | "))?;
    say!("|---|{}", "---|".repeat(methods.len()))?;
    for ((name, _), run) in methods.iter().zip(&runs) {
        let row = methods.iter().map(|(_, method)| Ok(format!("{:.1}", accuracy(&run.model, method, &test, device)?)));
        say!("| {name} | {} |", row.collect::<Result<Vec<_>, Box<dyn Error>>>()?.join(" | "))?;
    }
    let names = methods.iter().map(|(name, _)| *name).collect::<Vec<_>>();
    lines("Loss in training", "mean loss of a pass", Scale::Log, &names, &runs, |run| &run.losses).write(&loss)?;
    lines("Accuracy on held-out sequences", "percent", Scale::Linear, &names, &runs, |run| &run.accuracies)
        .write(&accuracy_over_passes)?;
    say!("\nwrote {} and {}", loss.path().display(), accuracy_over_passes.path().display())?;
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

//! A burn transformer is trained dense; then its record is loaded into the same model with a sparse encoder. Printed are
//! the accuracy and the time of both, over the lengths that it was trained on and over twice as long texts.
//!
//! `cargo run --release --features train --example drop_in`

mod data;
mod model;

use std::time::Instant;

use burn::{
    backend::Autodiff,
    module::{AutodiffModule, Module},
    nn::loss::CrossEntropyLossConfig,
    optim::{AdamConfig, GradientsParams, Optimizer},
    record::{FullPrecisionSettings, NamedMpkFileRecorder},
    tensor::{Device, ElementConversion, Int, Tensor, backend::Backend},
};
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use model::{Classifier, DenseClassifier, Encoder, SparseClassifier};
use sparse_attention_hub::{backend::Selected, masker::MaskerChainConfig};

/// Trains a dense text classifier, and runs it sparse.
#[derive(Debug, Parser)]
struct Arguments {
    /// Steps of training.
    #[arg(long, default_value_t = 300)]
    steps: usize,
    /// Texts in a step.
    #[arg(long, default_value_t = 8)]
    batch: usize,
    /// Words in a text, at most 1,024.
    #[arg(long, default_value_t = 512)]
    words: usize,
    /// Texts to judge by.
    #[arg(long, default_value_t = 128)]
    texts: usize,
    /// The largest learning rate.
    #[arg(long, default_value_t = 3e-3)]
    learning_rate: f64,
    /// The seed of the parameters and the texts.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// The methods to drop in.
const METHODS: [(&str, &str); 3] = [
    ("no method", "[]"),
    ("sink 4 + local 32", r#"[{"type": "sink", "sink_size": 4}, {"type": "local", "window_size": 32}]"#),
    (
        "sink 4 + local 16 + top 16",
        r#"[{"type": "sink", "sink_size": 4}, {"type": "local", "window_size": 16},
            {"type": "oracle_top_k", "heavy_size": 16}]"#,
    ),
];

/// Seeds far from those of training.
const HELD_OUT: u64 = 1 << 32;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments = Arguments::parse();
    if !(1..=model::LONGEST).contains(&arguments.words) {
        return Err(format!("--words is {}, but must be in 1..={}", arguments.words, model::LONGEST).into());
    }
    let device = Default::default();
    let dense = train(&arguments, &device).valid();

    let file = std::env::temp_dir().join(format!("drop_in-{}.mpk", std::process::id()));
    let recorder = NamedMpkFileRecorder::<FullPrecisionSettings>::new();
    dense.clone().save_file(&file, &recorder)?;

    println!(
        "What changes in the code: `TransformerEncoder` becomes `SparseTransformerEncoder`, and the causal mask a word."
    );
    println!("\n{:<28}{:>10}{:>12}{:>16}", "", "accuracy", "ms a text", "times as fast");
    let (accuracy, dense_time) = judge(&dense, &arguments, &device);
    print_line("burn, dense", accuracy, dense_time, dense_time);
    for (name, method) in METHODS {
        let sparse = SparseClassifier::<Selected>::new(MaskerChainConfig::from_json(method)?, &device)?;
        let sparse = sparse.load_file(&file, &recorder, &device)?;
        let (accuracy, time) = judge(&sparse, &arguments, &device);
        print_line(name, accuracy, time, dense_time);
    }
    std::fs::remove_file(&file)?;
    Ok(())
}

fn train(arguments: &Arguments, device: &Device<Selected>) -> DenseClassifier<Autodiff<Selected>> {
    Autodiff::<Selected>::seed(device, arguments.seed);
    let mut model = DenseClassifier::<Autodiff<Selected>>::new(device);
    let mut optimizer = AdamConfig::new().init();
    let loss = CrossEntropyLossConfig::new().init(device);
    println!(
        "Training burn's encoder on {} steps of {} texts of {} words.",
        arguments.steps, arguments.batch, arguments.words
    );
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {elapsed} {msg}");
    let progress = ProgressBar::new(arguments.steps as u64).with_style(style.expect("the template is sound"));
    let mut smooth = None;
    for step in 0..arguments.steps {
        let texts = data::texts(arguments.batch, arguments.words, arguments.seed << 16 | step as u64, device);
        let loss = loss.forward(model.forward(texts.words), texts.labels);
        let value = loss.clone().into_scalar().elem::<f64>();
        let average = *smooth.insert(smooth.map_or(value, |old: f64| 0.9 * old + 0.1 * value));
        progress.set_message(format!("loss {average:.3}"));
        progress.inc(1);
        let gradients = GradientsParams::from_grads(loss.backward(), &model);
        // Up over the first twentieth of the steps, then down in a line.
        let done = step as f64 / arguments.steps as f64;
        let rate = arguments.learning_rate * (20.0 * done + 0.01).min(1.0) * (1.0 - done);
        model = optimizer.step(rate, model, gradients);
    }
    progress.finish();
    println!("loss {:.3} at the end", smooth.unwrap_or(f64::NAN));
    model
}

/// Accuracy on texts that training has not seen, and milliseconds a text.
fn judge<E: Encoder<Selected> + Module<Selected>>(
    model: &Classifier<Selected, E>,
    arguments: &Arguments,
    device: &Device<Selected>,
) -> (f64, f64) {
    let (mut right, mut seconds) = (0, 0.0);
    let batches = arguments.texts.div_ceil(arguments.batch);
    for batch in 0..batches as u64 {
        let texts = data::texts::<Selected>(arguments.batch, arguments.words, HELD_OUT + batch, device);
        let start = Instant::now();
        let answers: Tensor<Selected, 1, Int> = model.forward(texts.words).argmax(1).squeeze_dim(1);
        right += answers.equal(texts.labels).int().sum().into_scalar().elem::<i64>();
        seconds += start.elapsed().as_secs_f64();
    }
    let texts = (batches * arguments.batch) as f64;
    (right as f64 / texts, 1000.0 * seconds / texts)
}

fn print_line(name: &str, accuracy: f64, time: f64, dense: f64) {
    println!("{name:<28}{:>8.1} %{time:>12.2}{:>16.1}", 100.0 * accuracy, dense / time);
}

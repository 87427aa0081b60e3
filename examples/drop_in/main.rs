//! Trains a burn transformer with dense attention, first on short texts and then on long ones. Then its record is
//! loaded into the same model with a sparse encoder. The accuracy and the time of both are printed.
//!
//! `cargo run --release --features train --example drop_in`

#[path = "../common/mod.rs"]
mod common;
mod data;
mod model;

use std::{error::Error, io, path::PathBuf, process::ExitCode, time::Instant};

use burn::{
    backend::Autodiff,
    module::{AutodiffModule, Module},
    nn::loss::CrossEntropyLossConfig,
    optim::{AdamConfig, GradientsParams, Optimizer},
    record::{FullPrecisionSettings, NamedMpkFileRecorder},
    tensor::{ElementConversion, Int, Tensor, backend::Backend},
};
use clap::Parser;
use common::{BackendArguments, Usage, count, count_or_none, end, say};
use indicatif::{ProgressBar, ProgressStyle};
use model::{Classifier, DenseClassifier, Encoder, SparseClassifier};
use sparse_attention_hub::{
    backend::{self, Work},
    method::MaskerChainConfig,
};

/// Trains a dense text classifier and runs it with sparse attention.
#[derive(Debug, Parser)]
struct Arguments {
    /// Words in a text, 60 to 1,024.
    #[arg(long, default_value_t = 512, value_parser = count())]
    words: usize,
    /// Texts in a training step and in an evaluation batch.
    #[arg(long, default_value_t = 8, value_parser = count())]
    batch: usize,
    /// Texts of the evaluation.
    #[arg(long, default_value_t = 128, value_parser = count())]
    texts: usize,
    /// The largest number of training steps on short texts; training ends earlier at a low loss.
    #[arg(long, default_value_t = 1500, value_parser = count_or_none())]
    short_steps: usize,
    /// The largest number of training steps on texts of full length.
    #[arg(long, default_value_t = 100, value_parser = count_or_none())]
    long_steps: usize,
    /// The learning rate on short texts; texts of full length use a third of it.
    #[arg(long, default_value_t = 2e-3)]
    learning_rate: f64,
    /// The seed of the parameters and the texts.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    backend: BackendArguments,
}

/// A stage of training on texts of one length.
struct Stage {
    steps: usize,
    batch: usize,
    words: usize,
    learning_rate: f64,
}

/// The number of words of a short text, and the number of texts in a step.
const SHORT: (usize, usize) = (2 * data::SHORTEST, 32);
/// The average loss at which a stage ends.
const UNDERSTOOD: f64 = 0.03;

/// The methods of the sparse encoder.
const METHODS: [(&str, &str); 3] = [
    ("no method", "[]"),
    ("sink 4 + local 32", r#"[{"type": "sink", "sink_size": 4}, {"type": "local", "window_size": 32}]"#),
    (
        "sink 4 + local 16 + top 16",
        r#"[{"type": "sink", "sink_size": 4}, {"type": "local", "window_size": 16},
            {"type": "oracle_top_k", "heavy_size": 16}]"#,
    ),
];

/// The first seed of the evaluation, far from the seeds of training.
const HELD_OUT: u64 = 1 << 32;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    end(arguments.backend.run(DropIn { arguments: &arguments }))
}

struct DropIn<'a> {
    arguments: &'a Arguments,
}

impl Work for DropIn<'_> {
    type Output = Result<(), Box<dyn Error>>;

    fn run<B: Backend>(self, device: B::Device) -> Self::Output {
        run::<B>(self.arguments, &device)
    }
}

fn run<B: Backend>(arguments: &Arguments, device: &B::Device) -> Result<(), Box<dyn Error>> {
    if !(SHORT.0..=model::LONGEST).contains(&arguments.words) {
        let range = format!("{}..={}", SHORT.0, model::LONGEST);
        return Err(Usage(format!("--words is {}, but must be in {range}", arguments.words)).into());
    }
    say!("{} on {}", B::name(device), backend::describe::<B>(device))?;
    let dense = train::<B>(arguments, device)?.valid();

    let record = Record(std::env::temp_dir().join(format!("drop_in-{}.mpk", std::process::id())));
    let file = &record.0;
    let recorder = NamedMpkFileRecorder::<FullPrecisionSettings>::new();
    dense.clone().save_file(file, &recorder)?;

    say!(
        "What changes in the code: `TransformerEncoder` becomes `SparseTransformerEncoder`, and the causal mask a word."
    )?;
    say!("\n{:<28}{:>10}{:>12}{:>16}", "", "accuracy", "ms a text", "times as fast")?;
    let (accuracy, dense_time) = judge(&dense, arguments, device);
    print_line("burn, dense", accuracy, dense_time, dense_time)?;
    for (name, method) in METHODS {
        let sparse = SparseClassifier::<B>::new(MaskerChainConfig::from_json(method)?, device)?;
        let sparse = sparse.load_file(file, &recorder, device)?;
        let (accuracy, time) = judge(&sparse, arguments, device);
        print_line(name, accuracy, time, dense_time)?;
    }
    Ok(())
}

/// The file of a record. It is removed when this value is dropped, also after an error.
struct Record(PathBuf);

impl Drop for Record {
    fn drop(&mut self) {
        // A file that stays in the temporary folder does no harm.
        let _ = std::fs::remove_file(&self.0);
    }
}

fn train<B: Backend>(
    arguments: &Arguments,
    device: &B::Device,
) -> Result<DenseClassifier<Autodiff<B>>, Box<dyn Error>> {
    Autodiff::<B>::seed(device, arguments.seed);
    let mut model = DenseClassifier::<Autodiff<B>>::new(device);
    let mut optimizer = AdamConfig::new().init();
    let loss = CrossEntropyLossConfig::new().init(device);
    let Arguments { words, batch, short_steps, long_steps, learning_rate, .. } = *arguments;
    let short = Stage { steps: short_steps, batch: SHORT.1, words: SHORT.0, learning_rate };
    let long = Stage { steps: long_steps, batch, words, learning_rate: learning_rate / 3.0 };
    for (number, stage) in [short, long].into_iter().enumerate() {
        say!("Training burn's encoder on texts of {} words, {} in a step.", stage.words, stage.batch)?;
        let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {elapsed} {msg}");
        let progress = ProgressBar::new(stage.steps as u64).with_style(style.expect("the template is sound"));
        let mut average = std::f64::consts::LN_2;
        for step in 0..stage.steps {
            let seed = arguments.seed.wrapping_mul(2).wrapping_add(number as u64) << 20 | step as u64;
            let texts = data::texts(stage.batch, stage.words, seed, device);
            let loss = loss.forward(model.forward(texts.words), texts.labels);
            average = 0.95 * average + 0.05 * loss.clone().into_scalar().elem::<f64>();
            progress.set_message(format!("loss {average:.3}"));
            progress.inc(1);
            let gradients = GradientsParams::from_grads(loss.backward(), &model);
            let warm = (step as f64 / 50.0 + 0.02).min(1.0);
            model = optimizer.step(stage.learning_rate * warm, model, gradients);
            if average < UNDERSTOOD {
                break;
            }
        }
        progress.abandon();
        say!("{} steps in {:.0} s, loss {average:.3}", progress.position(), progress.elapsed().as_secs_f64())?;
    }
    Ok(model)
}

/// The accuracy on texts that were not in training, and the milliseconds per text.
fn judge<B: Backend, E: Encoder<B> + Module<B>>(
    model: &Classifier<B, E>,
    arguments: &Arguments,
    device: &B::Device,
) -> (f64, f64) {
    let (mut right, mut seconds) = (0, 0.0);
    let batches = arguments.texts.div_ceil(arguments.batch);
    for batch in 0..batches as u64 {
        let texts = data::texts::<B>(arguments.batch, arguments.words, HELD_OUT + batch, device);
        let start = Instant::now();
        let answers: Tensor<B, 1, Int> = model.forward(texts.words).argmax(1).squeeze_dim(1);
        right += answers.equal(texts.labels).int().sum().into_scalar().elem::<i64>();
        seconds += start.elapsed().as_secs_f64();
    }
    let texts = (batches * arguments.batch) as f64;
    (right as f64 / texts, 1000.0 * seconds / texts)
}

fn print_line(name: &str, accuracy: f64, time: f64, dense: f64) -> io::Result<()> {
    say!("{name:<28}{:>8.1} %{time:>12.2}{:>16.1}", 100.0 * accuracy, dense / time)
}

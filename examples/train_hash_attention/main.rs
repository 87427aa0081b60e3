//! Trains the signatures of HashAttention for two layers of a model, on the model's own attention over a text.
//!
//! `cargo run --release --features hf,train --example train_hash_attention`

mod check;
#[path = "../common/mod.rs"]
mod common;
mod data;

use std::{error::Error, path::PathBuf, process::ExitCode, time::Instant};

use burn::{backend::Autodiff, module::AutodiffModule, tensor::backend::Backend};
use clap::Parser;
use common::{BackendArguments, Usage, count, end, given_or, say};
use data::Layer;
use indicatif::{ProgressBar, ProgressStyle};
use rand::{SeedableRng, seq::SliceRandom};
use rand_xoshiro::Xoshiro256PlusPlus;
use sparse_attention_hub::{
    attention::AttentionError,
    backend::Work,
    eval::TopKRecall,
    io::OutputFile,
    prelude::*,
    scorer::{Activation, Hash, HashConfig, HashWeights, LayerPerceptrons},
    train::HashDistillationConfig,
};

/// Trains HashAttention's signatures on queries and keys of a model, and shows their recall on held-out text.
#[derive(Debug, Parser)]
#[command(name = "train_hash_attention")]
struct Arguments {
    /// Steps of the optimizer for each layer, with 256 queries per step
    #[arg(long, default_value_t = 240, value_parser = count())]
    steps: usize,
    /// Seed of the initial weights and of the order of the steps
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// The file that the weights are written to
    #[arg(long, default_value = "target/hash_attention.safetensors")]
    out: PathBuf,
    /// Start from the weights in this file
    #[arg(long)]
    resume: Option<PathBuf>,
    /// Folder of the model [default: the model of the examples]
    #[arg(long)]
    model: Option<PathBuf>,
    /// Text on which the model is recorded [default: the text of the examples]
    #[arg(long)]
    text: Option<PathBuf>,
    /// Layers, from 0
    #[arg(long, value_delimiter = ',', default_value = "3,5")]
    layers: Vec<usize>,
    /// Number of training pieces of the text, of 2048 tokens each
    #[arg(long, default_value_t = 3, value_parser = count())]
    pieces: usize,
    #[command(flatten)]
    backend: BackendArguments,
}

/// The perceptrons of the paper.
pub fn shape() -> HashConfig {
    HashConfig {
        hat_bits: 32,
        hat_mlp_layers: 3,
        hat_mlp_hidden_size: 128,
        hat_mlp_activation: Activation::Silu,
        hat_weights: None,
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    end(arguments.backend.run(Distil { arguments: &arguments }))
}

struct Distil<'a> {
    arguments: &'a Arguments,
}

impl Work for Distil<'_> {
    type Output = Result<(), Box<dyn Error>>;

    fn run<B: Backend>(self, device: B::Device) -> Self::Output {
        run::<B>(self.arguments, &device)
    }
}

fn run<B: Backend>(arguments: &Arguments, device: &B::Device) -> Result<(), Box<dyn Error>> {
    // Checked before the work, so that a misspelt folder does not lose minutes of training.
    if arguments.out.extension().is_none_or(|extension| extension != "safetensors") {
        return Err(Usage(format!("--out is {}, but must end in .safetensors", arguments.out.display())).into());
    }
    OutputFile::new(&arguments.out)?;
    let model = given_or(&arguments.model, "examples/models/lm14m")?;
    let text = given_or(&arguments.text, "examples/data/validation.txt")?;
    let layers = data::record::<B>(&model, &text, &arguments.layers, arguments.pieces, device)?;
    let saved = initial(arguments, &layers, device)?;
    say!(
        "Signatures of {} bits; recall of the exact top 32 within a sixteenth of the keys, outside of a sink and a \
         window of 128, on held-out text.",
        shape().hat_bits
    )?;
    let mut trained = Vec::new();
    let mut rows = Vec::new();
    for layer in &layers {
        let Some(first) = saved.layer(layer.number) else {
            return Err(format!("the weights to resume from lack layer {}", layer.number).into());
        };
        let start = Instant::now();
        let (weights, losses) = train(arguments, layer, first.clone())?;
        let seconds = start.elapsed().as_secs_f64();
        rows.push(Row {
            layer: layer.number,
            random: recall(layer, &random::<B, B>(layer, arguments.seed))?,
            hyperplanes: recall(layer, &check::hyperplanes(layer, arguments.seed))?,
            before: recall(layer, &first.valid())?,
            after: recall(layer, &weights)?,
            losses,
            seconds,
        });
        trained.push((layer.number, weights));
    }
    let trained = HashWeights::new(trained);
    trained.save(arguments.out.clone())?;
    table(&rows)?;
    say!("\nwrote {}", arguments.out.display())?;
    let random = HashWeights::new(layers.iter().map(|layer| (layer.number, random::<B, B>(layer, arguments.seed))));
    check::report(&arguments.out, random, device)
}

/// The initial weights. They are created on the training backend, because tensors of another backend get no gradients.
fn initial<B: Backend>(
    arguments: &Arguments,
    layers: &[Layer<B>],
    device: &B::Device,
) -> Result<HashWeights<Autodiff<B>>, Box<dyn Error>> {
    match &arguments.resume {
        Some(file) => Ok(HashWeights::from_file(file.clone(), &shape(), device)?),
        None => Ok(HashWeights::new(layers.iter().map(|layer| (layer.number, random(layer, arguments.seed))))),
    }
}

/// Untrained perceptrons.
fn random<B: Backend, R: Backend<Device = B::Device>>(layer: &Layer<B>, seed: u64) -> LayerPerceptrons<R> {
    let queries = layer.held_out.queries();
    let [_, heads, _, head_dim] = queries.dims();
    LayerPerceptrons::random(&shape(), heads, head_dim, seed.wrapping_add(layer.number as u64), &queries.device())
}

/// The perceptrons after some steps, and the mean loss over the first and over the last tenth of the steps.
fn train<B: Backend>(
    arguments: &Arguments,
    layer: &Layer<B>,
    first: LayerPerceptrons<Autodiff<B>>,
) -> Result<(LayerPerceptrons<B>, [f64; 2]), Box<dyn Error>> {
    let config = HashDistillationConfig::new();
    let mut trainer = config.init(first, Activation::Silu)?;
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(arguments.seed);
    let mut chunks = Vec::new();
    let mut losses = Vec::with_capacity(arguments.steps);
    let progress = ProgressBar::new(arguments.steps as u64);
    progress.set_style(ProgressStyle::with_template("layer {prefix} {bar:30} {pos}/{len}  loss {msg}  {eta} left")?);
    progress.set_prefix(layer.number.to_string());
    while losses.len() < arguments.steps {
        let Some((piece, start)) = chunks.pop() else {
            // Each chunk of each piece is used once per pass, in a new order each time.
            for (piece, inputs) in layer.train.iter().enumerate() {
                // Queries with fewer keys than the sink, the window and the target have little to learn from.
                let first = config.sink_size + config.window_size;
                chunks.extend((first..inputs.mask_shape().queries).step_by(config.chunk_size).map(|at| (piece, at)));
            }
            if chunks.is_empty() {
                return Err("the pieces are too short to learn from".into());
            }
            chunks.shuffle(&mut rng);
            continue;
        };
        let inputs: &AttentionInputs<B> = &layer.train[piece];
        let rows = start..(start + config.chunk_size).min(inputs.mask_shape().queries);
        if let Some(loss) = trainer.step(&inputs.narrow_queries(rows)?)? {
            losses.push(loss);
            progress.set_message(format!("{loss:.3}"));
            progress.inc(1);
        }
    }
    progress.finish_and_clear();
    let tenth = losses.len().div_ceil(10).max(1);
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len().max(1) as f64;
    let ends = [mean(&losses[..tenth.min(losses.len())]), mean(&losses[losses.len().saturating_sub(tenth)..])];
    Ok((trainer.valid(), ends))
}

/// The recall on the second half of the held-out piece, where the budget is at least twice the target.
fn recall<B: Backend>(layer: &Layer<B>, perceptrons: &LayerPerceptrons<B>) -> Result<f64, AttentionError> {
    let queries = layer.held_out.mask_shape().queries;
    let hash = Hash::new(HashWeights::new([(layer.number, perceptrons.clone())]), Activation::Silu);
    TopKRecall::default().measure(&hash, &layer.held_out.narrow_queries(queries / 2..queries)?)
}

struct Row {
    layer: usize,
    random: f64,
    hyperplanes: f64,
    before: f64,
    after: f64,
    losses: [f64; 2],
    seconds: f64,
}

fn table(rows: &[Row]) -> std::io::Result<()> {
    say!("\n| layer | random perceptrons | random hyperplanes | start | trained | loss, first to last tenth | s |")?;
    say!("|---|---|---|---|---|---|---|")?;
    for Row { layer, random, hyperplanes, before, after, losses: [first, last], seconds } in rows {
        let recall = format!("{random:.3} | {hyperplanes:.3} | {before:.3} | {after:.3}");
        say!("| {layer} | {recall} | {first:.3} to {last:.3} | {seconds:.0} |")?;
    }
    Ok(())
}

//! Records queries, keys and values of a language model's layers on a text.
//!
//! `cargo run --release --features hf --example record -- --layers 3,5 --out target/recording`

#[path = "common/mod.rs"]
mod common;

use std::{error::Error, path::PathBuf, process::ExitCode};

use burn::tensor::backend::Backend;
use clap::Parser;
use common::{ModelArguments, end, given_or, read, say};
use sparse_attention_hub::{
    adapters::Recorder, backend::Work, method::MaskerChainConfig, models::PREFILL_CHUNK, nn::AttentionMode,
};

/// Records the attention inputs of a language model's layers on a text, with one safetensors file per layer; `compare`
/// reads them.
#[derive(Debug, Parser)]
#[command(name = "record")]
struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    /// The text [default: the text of the examples]
    #[arg(long)]
    text: Option<PathBuf>,
    /// Layers, from 0 [default: all]
    #[arg(long, value_delimiter = ',')]
    layers: Vec<usize>,
    /// The number of tokens that are taken from the text
    #[arg(long, default_value_t = 4096)]
    tokens: usize,
    /// The number of last positions whose queries are recorded
    #[arg(long, default_value_t = 64)]
    queries: usize,
    /// Folder for the files layerNUMBER.safetensors
    #[arg(long)]
    out: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    end(arguments.model.backend.run(Record { arguments: &arguments }))
}

struct Record<'a> {
    arguments: &'a Arguments,
}

impl Work for Record<'_> {
    type Output = Result<(), Box<dyn Error>>;

    fn run<B: Backend>(self, device: B::Device) -> Self::Output {
        record::<B>(self.arguments, &device)
    }
}

fn record<B: Backend>(arguments: &Arguments, device: &B::Device) -> Result<(), Box<dyn Error>> {
    let text = read(&given_or(&arguments.text, "examples/data/validation.txt")?)?;
    let pretrained = arguments.model.load::<B>(&MaskerChainConfig::default(), device)?;
    // Created before the work, so that a folder that cannot be created does not lose the results.
    std::fs::create_dir_all(&arguments.out)
        .map_err(|error| format!("cannot make the folder {}: {error}", arguments.out.display()))?;
    let mut tokens = pretrained.tokenizer.encode(&text, true)?;
    tokens.truncate(arguments.tokens);
    let layers = match &arguments.layers[..] {
        [] => (0..pretrained.model.config().layers()).collect(),
        layers => layers.to_vec(),
    };
    let positions = tokens.len().saturating_sub(arguments.queries)..tokens.len();
    let (mut cache, mut dense) = (pretrained.model.cache(0), AttentionMode::Dense);
    let mut recorder = Recorder::new(&mut dense, layers, positions);
    pretrained.model.prefill(&tokens, &mut cache, PREFILL_CHUNK, &mut recorder)?;
    for recording in recorder.finish()? {
        let path = arguments.out.join(format!("layer{}.safetensors", recording.inputs.layer()));
        let recording = recording.with_dense_output();
        recording.save(&path)?;
        say!(
            "wrote {}: queries {:?}, keys {:?}",
            path.display(),
            recording.inputs.queries().dims(),
            recording.inputs.keys().dims()
        )?;
    }
    Ok(())
}

//! Compares methods with dense attention, on queries, keys and values of a trained model.
//!
//! `cargo run --release --example compare -- configs/vattention.json`

#[path = "../common/mod.rs"]
mod common;
mod log;
mod measure;
mod table;

use std::{error::Error, path::PathBuf, process::ExitCode};

use burn::tensor::backend::Backend;
use clap::{Parser, ValueEnum};
use common::{BackendArguments, end, files, find, given_or};
use indicatif::{ProgressBar, ProgressStyle};
use log::{Outcome, Outputs};
use measure::{Row, measure};
use serde_json::json;
use sparse_attention_hub::{
    backend::{self, Work},
    eval::Recording,
    io::OutputFile,
    prelude::*,
};

/// Compares methods with dense attention on recorded tensors: what they keep, how large their errors are, how long they
/// take.
#[derive(Debug, Parser)]
#[command(name = "compare")]
struct Arguments {
    /// Method files [default: all of configs/]
    methods: Vec<PathBuf>,
    /// Only this layer; may be given more than once
    #[arg(long)]
    layer: Vec<usize>,
    /// Phase of the recorded queries, for methods with different maskers in each phase
    #[arg(long, value_enum, default_value = "decode")]
    phase: PhaseArgument,
    /// Seed of the methods that sample
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Folder of recorded tensors, with one safetensors file per layer
    #[arg(long)]
    data: Option<PathBuf>,
    /// Also write the results to this JSON file
    #[arg(long)]
    json: Option<PathBuf>,
    #[command(flatten)]
    outputs: Outputs,
    #[command(flatten)]
    backend: BackendArguments,
}

/// The phase as an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PhaseArgument {
    /// Chunk of a prompt
    Prefill,
    /// Decode steps, one for each query
    Decode,
}

impl From<PhaseArgument> for Phase {
    fn from(argument: PhaseArgument) -> Self {
        match argument {
            PhaseArgument::Prefill => Self::Prefill,
            PhaseArgument::Decode => Self::Decode,
        }
    }
}

/// A method and the name of its file.
pub struct Method<B: Backend> {
    name: String,
    attention: ResearchAttention<B>,
    /// The same method with a logger.
    logged: ResearchAttention<B>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    end(arguments.backend.run(Compare { arguments: &arguments }))
}

struct Compare<'a> {
    arguments: &'a Arguments,
}

impl Work for Compare<'_> {
    type Output = Result<(), Box<dyn Error>>;

    fn run<B: Backend>(self, device: B::Device) -> Self::Output {
        compare::<B>(self.arguments, &device)
    }
}

fn compare<B: Backend>(arguments: &Arguments, device: &B::Device) -> Result<(), Box<dyn Error>> {
    let described = backend::describe::<B>(device);
    let name = format!("{} on {described}", B::name(device));
    // Checked before the work, so that a misspelt folder does not lose an hour of results.
    let json = arguments.json.clone().map(OutputFile::new).transpose()?;
    log::check(&arguments.outputs)?;
    let mut outcome = Outcome::begin(&arguments.outputs)?;
    let methods = methods::<B>(&arguments.methods, &outcome, device)?;
    let recordings = recordings::<B>(arguments, device)?;
    let has_phases = methods.iter().any(|method| method.attention.has_phases());
    table::heading(&recordings[0].inputs, &name, arguments.seed, has_phases)?;
    let progress = ProgressBar::new((recordings.len() * methods.len()) as u64);
    progress.set_style(ProgressStyle::with_template("{bar:30} {pos}/{len}  {msg}")?);
    let mut rows = Vec::<Row>::new();
    for recording in &recordings {
        for method in &methods {
            progress.set_message(format!("layer {}, {}", recording.inputs.layer(), method.name));
            let (row, report) = measure(method, recording, arguments.seed)?;
            outcome.row(&row)?;
            let mask = || method.attention.mask(&recording.inputs, &mut LayerState::new(arguments.seed));
            outcome.mask(&row, &report, mask)?;
            progress.suspend(|| table::row(&row))?;
            rows.push(row);
            progress.inc(1);
        }
    }
    progress.finish_and_clear();
    if recordings.len() > 1 {
        table::means(&rows)?;
    }
    if let Some(file) = json {
        file.write_json(&json!({"phase": Phase::from(arguments.phase).name(), "rows": rows}))?;
    }
    outcome.finish()
}

fn methods<B: Backend>(
    given: &[PathBuf],
    outcome: &Outcome,
    device: &B::Device,
) -> Result<Vec<Method<B>>, Box<dyn Error>> {
    let files = if given.is_empty() { files(&find("configs")?, "json")? } else { given.to_vec() };
    let registry = MaskerRegistry::new();
    let method = |file: &PathBuf| {
        let attention = || {
            registry.research_attention_from_file(file, device).map_err(|error| format!("{}: {error}", file.display()))
        };
        let name = file.file_stem().unwrap_or(file.as_os_str()).to_string_lossy().into_owned();
        let logged = attention()?.with_logger(outcome.logger(&name));
        Ok(Method { attention: attention()?, logged, name })
    };
    files.iter().map(method).collect()
}

fn recordings<B: Backend>(arguments: &Arguments, device: &B::Device) -> Result<Vec<Recording<B>>, Box<dyn Error>> {
    let folder = given_or(&arguments.data, "examples/data")?;
    let mut recordings = files(&folder, "safetensors")?
        .iter()
        .map(|file| Recording::open(file, device))
        .collect::<Result<Vec<Recording<B>>, _>>()?;
    for recording in &mut recordings {
        recording.inputs = recording.inputs.clone().with_phase(arguments.phase.into());
    }
    recordings.sort_by_key(|recording| recording.inputs.layer());
    let layers = recordings.iter().map(|recording| recording.inputs.layer()).collect::<Vec<_>>();
    if let Some(missing) = arguments.layer.iter().find(|layer| !layers.contains(layer)) {
        return Err(format!("{} has no layer {missing}; it has {layers:?}", folder.display()).into());
    }
    if !arguments.layer.is_empty() {
        recordings.retain(|recording| arguments.layer.contains(&recording.inputs.layer()));
    }
    Ok(recordings)
}

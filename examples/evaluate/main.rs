//! Measures how much quality methods cost a language model: retrieval tasks and perplexity, in comparison with dense
//! attention.
//!
//! `cargo run --release --features hf --example evaluate -- --method configs/quest.json --tasks passkey,perplexity
//! --lengths 1024,2048 --samples 10 --out target/evaluation.jsonl`

mod cases;
#[path = "../common/mod.rs"]
mod common;
mod measure;
mod results;
mod table;

use std::{error::Error, path::PathBuf, process::ExitCode};

use burn::tensor::backend::Backend;
use cases::{Case, cases};
use clap::Parser;
use common::{ModelArguments, end, given_or, read};
use indicatif::{ProgressBar, ProgressStyle};
use measure::Measure;
use results::Results;
use sparse_attention_hub::{backend::Work, io::OutputFile, method::MaskerChainConfig};

/// Measures how much quality methods cost a language model. Finished cases are appended to a file. They are skipped
/// when the command is run again.
#[derive(Debug, Parser)]
#[command(name = "evaluate")]
pub struct Arguments {
    #[command(flatten)]
    pub model: ModelArguments,
    /// Method files; dense attention is always measured too
    #[arg(long = "method", num_args = 1..)]
    methods: Vec<PathBuf>,
    /// Names of tasks (passkey, niah_single_noise, niah_single_text, niah_multikey4, niah_multivalue, niah_multiquery,
    /// variable_tracking, common_words, frequent_words, perplexity), and task files
    #[arg(long, value_delimiter = ',', default_value = "passkey,niah_single_text,niah_multikey4,perplexity")]
    tasks: Vec<String>,
    /// Tokens of a sample
    #[arg(long, value_delimiter = ',', default_value = "1024,2048")]
    lengths: Vec<usize>,
    /// Shares of the context that stand before the needle that is asked for [default: random]
    #[arg(long, value_delimiter = ',')]
    depths: Vec<f64>,
    /// Samples of each task and length, and windows of each perplexity
    #[arg(long, default_value_t = 10)]
    samples: usize,
    /// Seed of the samples and of the methods that sample
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// The text for perplexities and for hiding needles [default: the text of the examples]
    #[arg(long)]
    text: Option<PathBuf>,
    /// Share of a perplexity window that is read with dense attention and not measured
    #[arg(long, default_value_t = 0.5)]
    dense_prefix: f64,
    /// File of results, with one JSON object per line
    #[arg(long, default_value = "target/evaluation.jsonl")]
    out: PathBuf,
    /// Also write the table to this CSV file
    #[arg(long)]
    csv: Option<PathBuf>,
    /// Only a part of the cases, such as 2/8 for the second of eight
    #[arg(long, default_value = "1/1")]
    shard: common::Shard,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    end(arguments.model.backend.run(Evaluate { arguments: &arguments }))
}

struct Evaluate<'a> {
    arguments: &'a Arguments,
}

impl Work for Evaluate<'_> {
    type Output = Result<(), Box<dyn Error>>;

    fn run<B: Backend>(self, device: B::Device) -> Self::Output {
        evaluate::<B>(self.arguments, &device)
    }
}

fn evaluate<B: Backend>(arguments: &Arguments, device: &B::Device) -> Result<(), Box<dyn Error>> {
    let csv = arguments.csv.clone().map(OutputFile::new).transpose()?;
    let text = read(&given_or(&arguments.text, "examples/data/validation.txt")?)?;
    let mut pretrained = arguments.model.load::<B>(&MaskerChainConfig::default(), device)?;
    let all = cases(arguments, &pretrained, &text)?;
    let mut results = Results::open(&arguments.out)?;
    let progress = ProgressBar::new(0);
    progress.set_style(ProgressStyle::with_template("{bar:30} {pos}/{len} {eta}  {msg}")?);
    let mut methods = vec![("dense".to_owned(), MaskerChainConfig::default())];
    for file in &arguments.methods {
        let name = file.file_stem().unwrap_or(file.as_os_str()).to_string_lossy().into_owned();
        methods.push((name, MaskerChainConfig::from_file(file)?));
    }
    let mut number = 0u64;
    for (name, method) in &methods {
        let mut todo = Vec::new();
        for case in &all {
            number += 1;
            if arguments.shard.has(number) && !results.has(name, case, arguments.seed) {
                todo.push(case);
            }
        }
        progress.inc_length(todo.len() as u64);
        if todo.is_empty() {
            continue;
        }
        pretrained.model.set_method(method).map_err(|error| format!("{name}: {error}"))?;
        for case in todo {
            progress.set_message(format!("{name}, {}", case.id()));
            let result = Measure { pretrained: &pretrained, name, seed: arguments.seed }.case(case)?;
            results.add(result)?;
            progress.inc(1);
        }
    }
    progress.finish_and_clear();
    table::print(&results, &all.iter().map(Case::column).collect::<Vec<_>>(), csv)
}

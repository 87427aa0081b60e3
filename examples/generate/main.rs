//! Continues a text with a language model whose layers use a sparse method.
//!
//! `cargo run --release --features hf --example generate -- --method configs/oracle_top_k.json --mode sparse-question`

#[path = "../common/mod.rs"]
mod common;
mod report;

use std::{
    error::Error,
    io::{BufRead, Write},
    path::PathBuf,
    process::ExitCode,
};

use burn::tensor::backend::Backend;
use clap::{Parser, ValueEnum};
use common::{ModelArguments, end, given_or, read, say};
use report::Run;
use sparse_attention_hub::{
    backend::Work,
    eval::{
        AttentionMeter,
        tasks::{SampleMaker, Task},
    },
    method::MaskerChainConfig,
    models::{GenerationConfig, LanguageModelCache, PREFILL_CHUNK, Pretrained, SamplingConfig},
    nn::{AttentionHook, AttentionMode},
};

/// Counts allocations, to report the peak.
#[global_allocator]
static ALLOCATOR: peak_alloc::PeakAlloc = peak_alloc::PeakAlloc;

/// Continues a text with a language model and a sparse method, and prints the time and memory that it took.
#[derive(Debug, Parser)]
#[command(name = "generate")]
struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    /// Method file [default: configs/oracle_top_k.json]
    #[arg(long)]
    method: Option<PathBuf>,
    /// The text to continue [default: a text with a hidden number, and a question about it]
    #[arg(long, conflicts_with = "prompt_file")]
    prompt: Option<String>,
    /// File of the text to continue
    #[arg(long)]
    prompt_file: Option<PathBuf>,
    /// A question that is appended to the text
    #[arg(long)]
    question: Option<String>,
    /// Read questions about the text from standard input; its cache is kept
    #[arg(long)]
    interactive: bool,
    /// The largest number of new tokens [default: that of the model's generation configuration]
    #[arg(long)]
    max_new_tokens: Option<usize>,
    /// Which tokens attend through the method
    #[arg(long, value_enum, default_value = "sparse-question")]
    mode: Mode,
    /// A stop string, which ends the answer; may be given more than once
    #[arg(long)]
    stop: Vec<String>,
    /// Sample tokens at this temperature instead of taking the most likely
    #[arg(long)]
    temperature: Option<f64>,
    /// Sample only from this number of the most likely tokens
    #[arg(long, requires = "temperature")]
    top_k: Option<usize>,
    /// Sample only from the most likely tokens that together have this probability
    #[arg(long, requires = "temperature")]
    top_p: Option<f64>,
    /// Seed of the sampling
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// The tokens that attend through the method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// None; attention is dense
    Dense,
    /// All tokens
    Sparse,
    /// The question and the new tokens; the text before uses dense attention
    SparseQuestion,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    end(arguments.model.backend.run(Generate { arguments: &arguments }))
}

struct Generate<'a> {
    arguments: &'a Arguments,
}

impl Work for Generate<'_> {
    type Output = Result<(), Box<dyn Error>>;

    fn run<B: Backend>(self, device: B::Device) -> Self::Output {
        generate::<B>(self.arguments, &device)
    }
}

fn generate<B: Backend>(arguments: &Arguments, device: &B::Device) -> Result<(), Box<dyn Error>> {
    let file = given_or(&arguments.method, "configs/oracle_top_k.json")?;
    let method = MaskerChainConfig::from_file(&file)?;
    let start = std::time::Instant::now();
    let pretrained = arguments.model.load::<B>(&method, device)?;
    let loaded = start.elapsed();
    let config = config(arguments, &pretrained.generation)?;
    let (text, question) = texts(arguments, &pretrained)?;
    let context = pretrained.tokenizer.encode(&text, true)?;
    let mut cache = pretrained.model.cache(arguments.seed);
    let mut run = Run::new(B::name(device), file, loaded);
    let mut session = Session { pretrained: &pretrained, cache: &mut cache, config: &config, mode: arguments.mode };
    if arguments.interactive {
        session.read(&context, &mut run)?;
        return session.interact(context.len(), &mut run);
    }
    let question = match question {
        Some(question) => {
            session.read(&context, &mut run)?;
            pretrained.tokenizer.encode(&question, false)?
        }
        None => context,
    };
    session.answer(&question, &mut run)?;
    say!("")?;
    Ok(run.print(ALLOCATOR.peak_usage_as_mb())?)
}

/// The generation configuration.
fn config(arguments: &Arguments, of_model: &GenerationConfig) -> Result<GenerationConfig, Box<dyn Error>> {
    let sampling = arguments.temperature.map(|temperature| {
        let mut sampling = SamplingConfig::default();
        sampling.temperature = temperature;
        sampling.top_k = arguments.top_k;
        sampling.top_p = arguments.top_p.unwrap_or(1.0);
        sampling
    });
    let config = of_model.clone().with_seed(arguments.seed).with_stop(arguments.stop.clone());
    let config = config.with_max_new_tokens(arguments.max_new_tokens.unwrap_or(of_model.max_new_tokens));
    Ok(if sampling.is_some() { config.with_sampling(sampling)? } else { config })
}

/// The text, and the question about it.
fn texts<B: Backend>(
    arguments: &Arguments,
    pretrained: &Pretrained<B>,
) -> Result<(String, Option<String>), Box<dyn Error>> {
    let text = match (&arguments.prompt, &arguments.prompt_file) {
        (Some(prompt), _) => prompt.clone(),
        (None, Some(file)) => read(file)?,
        (None, None) => {
            let tokenizer = &pretrained.tokenizer;
            let maker = SampleMaker { tokenizer, text: "", length: 2048, depth: Some(0.5), seed: arguments.seed };
            let sample = maker.sample(Task::Passkey, 0)?;
            say!("(a number hidden in the middle of 2,048 tokens: {})\n", sample.answers.join(" "))?;
            let question = arguments.question.clone().unwrap_or(sample.question);
            return Ok((sample.context, Some(question)));
        }
    };
    Ok((text, arguments.question.clone()))
}

/// A text in the cache, which questions are asked about.
struct Session<'a, B: Backend> {
    pretrained: &'a Pretrained<B>,
    cache: &'a mut LanguageModelCache<B>,
    config: &'a GenerationConfig,
    mode: Mode,
}

impl<B: Backend> Session<'_, B> {
    /// Prefills the text.
    fn read(&mut self, text: &[u32], run: &mut Run) -> Result<(), Box<dyn Error>> {
        let mut mode = if self.mode == Mode::Sparse { AttentionMode::Sparse } else { AttentionMode::Dense };
        let start = std::time::Instant::now();
        let hidden = self.pretrained.model.prefill(text, self.cache, PREFILL_CHUNK, &mut mode)?;
        // Waits until the device has finished.
        hidden.into_data();
        run.read(text.len(), start.elapsed());
        Ok(())
    }

    /// Answers a question, and prints the text while it is generated.
    fn answer(&mut self, question: &[u32], run: &mut Run) -> Result<(), Box<dyn Error>> {
        let (mut dense, mut sparse) = (AttentionMode::Dense, AttentionMode::Sparse);
        let (mut also_dense, mut meter) = (AttentionMode::Dense, AttentionMeter::every(METERED));
        let is_question = !self.cache.is_empty();
        let hooks: [&mut dyn AttentionHook<B>; 2] = match self.mode {
            Mode::Dense => [&mut dense, &mut also_dense],
            Mode::SparseQuestion if !is_question => [&mut dense, &mut meter],
            Mode::Sparse | Mode::SparseQuestion => [&mut sparse, &mut meter],
        };
        let written = self.pretrained.write(question, self.cache, self.config, hooks, &mut |text| {
            // After a closed pipe, the program ends at the next print, when the answer is complete.
            let _ = write!(std::io::stdout(), "{text}").and_then(|()| std::io::stdout().flush());
        })?;
        run.answered(question.len(), &written.generated, &meter);
        Ok(())
    }

    /// Reads and answers questions until the input ends.
    fn interact(&mut self, context: usize, run: &mut Run) -> Result<(), Box<dyn Error>> {
        let mut lines = std::io::stdin().lock().lines();
        loop {
            write!(std::io::stdout(), "? ")?;
            std::io::stdout().flush()?;
            let Some(line) = lines.next().transpose()?.filter(|line| !line.is_empty()) else { break };
            self.cache.truncate(context)?;
            self.cache.forget_states();
            let question = self.pretrained.tokenizer.encode(&format!("\n{line}"), false)?;
            // A question that is too long does not discard the text.
            if let Err(error) = self.answer(&question, run) {
                say!("{error}")?;
            }
            say!("")?;
        }
        Ok(run.print(ALLOCATOR.peak_usage_as_mb())?)
    }
}

/// Kept keys are counted once in this number of steps, because counting takes as long as a step.
const METERED: usize = 8;

//! Searches for the method that works best on recordings of a model.
//!
//! `cargo run --release --example tune -- --density 0.1 --trials 200 --out method.json`

#[path = "common/mod.rs"]
mod common;

use std::{
    error::Error,
    path::{Path, PathBuf},
    process::ExitCode,
};

use burn::tensor::backend::Backend;
use clap::{Args, Parser};
use common::{end, given_or, say};
use indicatif::{ProgressBar, ProgressStyle};
use sparse_attention_hub::{
    backend::{self, Work},
    eval::Recording,
    io::OutputFile,
    prelude::*,
    tune::{Journal, MethodSpace, Objective, Outcome, Recordings, Search, Shard, Trial},
};

/// Searches for the method that works best on recordings of a model, and decides on recordings that were held out.
#[derive(Debug, Parser)]
#[command(name = "tune")]
struct Arguments {
    /// The search space, a JSON file of a method with ranges [default: a sink, a window, and one of most published
    /// methods]
    #[arg(long)]
    space: Option<PathBuf>,
    #[command(flatten)]
    goal: Goal,
    /// The number of methods to try
    #[arg(long, default_value_t = 100)]
    trials: u64,
    /// One in this number of trials survives a round; 1 means a single round
    #[arg(long, default_value_t = 3)]
    eta: usize,
    /// Seed of the search, and of the methods that sample
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Folder of recordings to search on, with one safetensors file per layer [default: those of the repository]
    #[arg(long)]
    data: Option<PathBuf>,
    /// Folder of held-out recordings [default: every second recording of --data, which is then not searched on]
    #[arg(long)]
    held_out: Option<PathBuf>,
    /// The trials as JSON lines; a search continues where its journal ends
    #[arg(long, default_value = "tune.jsonl")]
    journal: PathBuf,
    /// Run only the trials of one of several machines, such as 1/4; each machine writes its own journal
    #[arg(long, value_name = "I/N", default_value = "1/1")]
    shard: common::Shard,
    /// Journals of other shards, which are included in the decision
    #[arg(long, value_name = "FILE")]
    with: Vec<PathBuf>,
    /// The method file to write
    #[arg(long, default_value = "method.json")]
    out: PathBuf,
    /// Draw the error over the density of all trials to this file, .svg or .png; needs the feature `plot`
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// One of the compiled-in backends [default: the first of cuda, tch, wgpu, flex, ndarray]
    #[arg(long)]
    backend: Option<String>,
    /// A device of the backend, such as cpu, cuda:0 or discrete:0
    #[arg(long)]
    device: Option<String>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Goal {
    /// Find the smallest error with at most this density
    #[arg(long)]
    density: Option<f64>,
    /// Find the smallest density with at most this error
    #[arg(long)]
    error: Option<f64>,
    /// Find the shortest time with at most this error
    #[arg(long)]
    fast_at_error: Option<f64>,
}

impl Goal {
    fn objective(&self) -> Objective {
        match (self.density, self.error, self.fast_at_error) {
            (Some(limit), ..) => Objective::ErrorAtDensity(limit),
            (_, Some(limit), _) => Objective::DensityAtError(limit),
            // One of the three limits is required.
            (_, _, limit) => Objective::MillisecondsAtError(limit.unwrap_or(f64::NAN)),
        }
    }
}

fn main() -> ExitCode {
    end(run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    if arguments.plot.is_some() && !cfg!(feature = "plot") {
        return Err("`--plot` needs the feature `plot`: cargo run --features plot ...".into());
    }
    backend::run_on(arguments.backend.as_deref(), arguments.device.as_deref(), Tune { arguments })?
}

struct Tune<'a> {
    arguments: &'a Arguments,
}

impl Work for Tune<'_> {
    type Output = Result<(), Box<dyn Error>>;

    fn run<B: Backend>(self, device: B::Device) -> Self::Output {
        tune::<B>(self.arguments, &device)
    }
}

/// The number of best methods that are tried on the held-out recordings.
const FINALISTS: usize = 10;

fn tune<B: Backend>(arguments: &Arguments, device: &B::Device) -> Result<(), Box<dyn Error>> {
    let (space, folder) = match &arguments.space {
        Some(path) => (MethodSpace::from_file(path)?, path.parent().unwrap_or(Path::new("")).to_owned()),
        None => (MethodSpace::published(), PathBuf::new()),
    };
    let search = Search::new(space, arguments.goal.objective(), arguments.seed, arguments.trials)?;
    let search = search
        .with_eta(arguments.eta)?
        .with_shard(Shard { index: arguments.shard.part - 1, count: arguments.shard.of })?;
    // Checked before the work, so that a misspelt folder does not lose the results.
    let out = OutputFile::new(arguments.out.clone())?;
    let (searched, held_out) = recordings::<B>(arguments, device)?;
    let mut journal = Journal::open(&arguments.journal, &search)?;
    let registry = MaskerRegistry::new();
    let progress = ProgressBar::new_spinner();
    progress.set_style(ProgressStyle::with_template("{spinner} {pos} trials in {elapsed}, {msg}")?);
    let note = |trial: &Trial| {
        progress.set_message(format!("on {} of {} recordings", trial.recordings, searched.len()));
        progress.inc(1);
    };
    let try_on = |method: &_, on| searched.outcome(&registry, method, &folder, on);
    search.run(&mut journal, searched.len(), try_on, note)?;
    progress.finish_and_clear();
    for other in &arguments.with {
        journal.take_over(other, &search)?;
    }
    let finalists = search.best(&journal, searched.len(), FINALISTS)?;
    say!("{:>7} {:>10} {:>10} {:>8}   {:>10} {:>10} {:>8}", "", "searched", "", "", "held out", "", "")?;
    say!(
        "{:>7} {:>10} {:>10} {:>8}   {:>10} {:>10} {:>8}",
        "trial",
        "error",
        "density",
        "ms",
        "error",
        "density",
        "ms"
    )?;
    let mut decided = Vec::new();
    for trial in finalists {
        let found = held_out.outcome(&registry, &trial.method, &folder, held_out.len())?;
        let figures =
            |of: Outcome| format!("{:>10.5} {:>8.2} % {:>8.1}", of.error, 100.0 * of.density, of.milliseconds);
        say!("{:>7} {}   {}", trial.trial, trial.outcome.map(figures).unwrap_or_default(), figures(found))?;
        decided.push((trial, found));
    }
    decided.sort_by(|(_, a), (_, b)| search.objective.compare(a, b));
    let Some((best, found)) = decided.first() else { return Err("no trial can be used".into()) };
    if !search.objective.holds(found) {
        say!("\nno method keeps to the limit on the recordings that were held out; this one comes nearest")?;
    }
    out.write_json(&best.method)?;
    say!("\nthe best on what was held out: trial {}, in {}", best.trial, arguments.out.display())?;
    draw(arguments, &journal, &decided, searched.len())
}

fn recordings<B: Backend>(
    arguments: &Arguments,
    device: &B::Device,
) -> Result<(Recordings<B>, Recordings<B>), Box<dyn Error>> {
    let folder = given_or(&arguments.data, "examples/data")?;
    let first = open::<B>(&folder, device)?;
    let (searched, held_out) = match &arguments.held_out {
        Some(other) => (first, open::<B>(other, device)?),
        None if first.len() < 2 => {
            let folder = folder.display();
            return Err(format!("{folder} has one recording; one must be held out: name others by --held-out").into());
        }
        None => {
            let (searched, held_out): (Vec<_>, Vec<_>) = first.into_iter().enumerate().partition(|(at, _)| at % 2 == 0);
            let inputs =
                |numbered: Vec<(usize, AttentionInputs<B>)>| numbered.into_iter().map(|(_, inputs)| inputs).collect();
            (inputs(searched), inputs(held_out))
        }
    };
    let layers = |inputs: &[AttentionInputs<B>]| inputs.iter().map(|inputs| inputs.layer()).collect::<Vec<_>>();
    say!("searched on the layers {:?}, held out {:?}\n", layers(&searched), layers(&held_out))?;
    Ok((Recordings::new(searched, arguments.seed)?, Recordings::new(held_out, arguments.seed)?))
}

fn open<B: Backend>(folder: &Path, device: &B::Device) -> Result<Vec<AttentionInputs<B>>, Box<dyn Error>> {
    let listing =
        std::fs::read_dir(folder).map_err(|error| format!("cannot open the folder {}: {error}", folder.display()))?;
    let mut files = listing.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>, std::io::Error>>()?;
    files.retain(|file| file.extension().is_some_and(|found| found == "safetensors"));
    files.sort();
    if files.is_empty() {
        return Err(format!("the folder {} has no .safetensors file", folder.display()).into());
    }
    files.iter().map(|file| Ok(Recording::open(file, device)?.inputs)).collect()
}

#[cfg(feature = "plot")]
fn draw(
    arguments: &Arguments,
    journal: &Journal,
    decided: &[(&Trial, Outcome)],
    recordings: usize,
) -> Result<(), Box<dyn Error>> {
    use sparse_attention_hub::{
        plot::{LinePlot, Measured, Scale},
        tune::pareto_front,
    };
    let Some(path) = &arguments.plot else { return Ok(()) };
    let tried = journal.trials().filter(|trial| trial.recordings == recordings).filter_map(|trial| trial.outcome);
    let tried = tried.filter(|outcome| outcome.error > 0.0 && outcome.density > 0.0).collect::<Vec<_>>();
    let point = |outcome: &Outcome| (outcome.density, outcome.error);
    let plot = LinePlot::new("Error over density of the methods that were tried")
        .x("density over visible keys", Scale::Log)
        .y("relative error of the output", Scale::Log)
        .points_with_ranges("tried on all recordings of the search", tried.iter().map(point).map(Measured::from))
        .line("better than all others in one of the two", pareto_front(&tried).into_iter().map(|at| point(&tried[at])));
    let held_out = decided.iter().map(|(_, outcome)| outcome).filter(|outcome| outcome.error > 0.0);
    let held_out = held_out.map(point).map(Measured::from).collect::<Vec<_>>();
    let plot =
        if held_out.is_empty() { plot } else { plot.points_with_ranges("the best, on what was held out", held_out) };
    Ok(plot.save(path)?)
}

#[cfg(not(feature = "plot"))]
fn draw(_: &Arguments, _: &Journal, _: &[(&Trial, Outcome)], _: usize) -> Result<(), Box<dyn Error>> {
    Ok(())
}

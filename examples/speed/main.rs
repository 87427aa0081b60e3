//! How fast the methods are beside dense attention and beside what memory allows.
//!
//! `cargo run --release --features ndarray --example speed -- --json speed.json`, and as a picture
//! `cargo run --release --features plot --example speed -- --line --plot speed.svg`

mod bandwidth;
mod cases;
mod measure;
#[cfg(feature = "plot")]
mod picture;
mod table;

use std::{error::Error, path::PathBuf, process::ExitCode};

use burn::tensor::backend::Backend;
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use bandwidth::Probe;
use cases::Case;
use measure::{Row, measure};

/// Counts what is allocated, for the column of extra memory.
#[global_allocator]
static ALLOCATOR: peak_alloc::PeakAlloc = peak_alloc::PeakAlloc;

/// Times decode steps and prefills: whole steps, selection included, on warm memory.
#[derive(Debug, Parser)]
#[command(name = "speed")]
struct Arguments {
    /// Also write the rows to this JSON file
    #[arg(long)]
    json: Option<PathBuf>,
    /// Only cases with at most so many keys
    #[arg(long)]
    keys: Option<usize>,
    /// Only methods with this in their name
    #[arg(long)]
    method: Option<String>,
    /// Only backends with this in their name
    #[arg(long)]
    backend: Option<String>,
    /// Steps of each decode case, of which the median counts
    #[arg(long, default_value_t = 21)]
    steps: usize,
    /// A line of cases from 4,096 to 131,072 keys instead of the table
    #[arg(long)]
    line: bool,
    /// Draw the milliseconds over the keys into this SVG file; for `--line`
    #[cfg(feature = "plot")]
    #[arg(long, requires = "line")]
    plot: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

#[allow(unused_variables)] // Without a CPU backend there is nothing to time.
fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    if !cfg!(any(feature = "flex", feature = "ndarray")) {
        return Err("nothing to time: build with the feature `flex` or `ndarray`".into());
    }
    let cases = if arguments.line { cases::line() } else { cases::table() };
    let matches = |case: &Case| {
        arguments.keys.is_none_or(|most| case.keys <= most)
            && arguments.method.as_ref().is_none_or(|part| case.method.name().contains(part))
    };
    let cases = cases.into_iter().filter(matches).collect::<Vec<_>>();
    // Created before the work, so that an hour of it is not lost to a misspelt folder.
    let json =
        arguments.json.as_ref().map(|path| std::fs::File::create(path).map_err(|e| format!("{}: {e}", path.display())));
    let json = json.transpose()?;
    let probe = Probe::new();
    println!("{} threads\n", rayon::current_num_threads());
    table::heading();
    #[allow(unused_mut)] // Without a CPU backend it stays empty.
    let mut rows = Vec::<Row>::new();
    #[cfg(feature = "flex")]
    rows.extend(backend::<burn_flex::Flex>("flex", arguments, &cases, &probe)?);
    #[cfg(feature = "ndarray")]
    rows.extend(backend::<burn_ndarray::NdArray>("ndarray", arguments, &cases, &probe)?);
    #[cfg(feature = "plot")]
    if let Some(path) = &arguments.plot {
        picture::draw(&rows, path)?;
    }
    if let Some(file) = json {
        serde_json::to_writer_pretty(file, &json!({"rows": rows}))?;
    }
    Ok(())
}

#[allow(dead_code)] // Without a CPU backend there is nothing to run it on.
fn backend<B: Backend>(
    name: &'static str,
    arguments: &Arguments,
    cases: &[Case],
    probe: &Probe,
) -> Result<Vec<Row>, Box<dyn Error>> {
    if arguments.backend.as_ref().is_some_and(|part| !name.contains(part)) {
        return Ok(Vec::new());
    }
    let progress = ProgressBar::new(cases.len() as u64);
    progress.set_style(ProgressStyle::with_template("{bar:30} {pos}/{len}  {msg}")?);
    let mut rows = Vec::new();
    for case in cases {
        progress.set_message(format!("{name}, {} keys, {}", case.keys, case.method.name()));
        let row = measure::<B>(name, case, arguments.steps, probe)?;
        progress.suspend(|| table::row(&row));
        rows.push(row);
        progress.inc(1);
    }
    progress.finish_and_clear();
    Ok(rows)
}

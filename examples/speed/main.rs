//! Measures the speed of methods, in comparison with dense attention and with the memory bandwidth.
//!
//! `cargo run --release --features ndarray --example speed -- --json speed.json`, and as a picture
//! `cargo run --release --features plot --example speed -- --line --plot speed.svg`

mod bandwidth;
mod cases;
#[path = "../common/mod.rs"]
mod common;
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
use common::{Usage, count, end, say};
use measure::{Row, measure};
use sparse_attention_hub::io::OutputFile;

/// Counts allocations, for the column of extra memory.
#[global_allocator]
static ALLOCATOR: peak_alloc::PeakAlloc = peak_alloc::PeakAlloc;

/// Times decode steps and prefills: whole steps, including the selection, with a warm state.
#[derive(Debug, Parser)]
#[command(name = "speed")]
struct Arguments {
    /// Also write the rows to this JSON file
    #[arg(long)]
    json: Option<PathBuf>,
    /// Only cases with at most this number of keys
    #[arg(long)]
    keys: Option<usize>,
    /// Only methods whose name contains this text
    #[arg(long)]
    method: Option<String>,
    /// Only backends whose name contains this text
    #[arg(long)]
    backend: Option<String>,
    /// Steps of each decode case; the median is reported
    #[arg(long, default_value_t = 21, value_parser = count())]
    steps: usize,
    /// The same step at 4,096 to 131,072 keys, instead of the table
    #[arg(long)]
    line: bool,
    /// Draw the milliseconds over the number of keys to this SVG file; needs `--line`
    #[cfg(feature = "plot")]
    #[arg(long, requires = "line")]
    plot: Option<PathBuf>,
}

fn main() -> ExitCode {
    end(run(&Arguments::parse()))
}

/// The backends that can be timed.
const BACKENDS: &[&str] = &[
    #[cfg(feature = "flex")]
    "flex",
    #[cfg(feature = "ndarray")]
    "ndarray",
];

#[allow(unused_variables)] // Without a CPU backend there is nothing to time.
fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    if !cfg!(any(feature = "flex", feature = "ndarray")) {
        return Err("nothing to time: build with the feature `flex` or `ndarray`".into());
    }
    let cases = if arguments.line { cases::line() } else { cases::table() };
    let cases = cases::named(cases, arguments.keys, arguments.method.as_deref()).map_err(Usage)?;
    if let Some(part) = &arguments.backend
        && !BACKENDS.iter().any(|name| name.contains(part.as_str()))
    {
        let known = BACKENDS.join(", ");
        return Err(Usage(format!("there is no backend with `{part}` in its name; there are {known}")).into());
    }
    // Checked before the work, so that a misspelt folder does not lose an hour of results.
    let json = arguments.json.clone().map(OutputFile::new).transpose()?;
    #[cfg(feature = "plot")]
    let plot = arguments.plot.clone().map(OutputFile::new).transpose()?;
    let probe = Probe::new();
    say!("{} threads\n", rayon::current_num_threads())?;
    table::heading()?;
    #[allow(unused_mut)] // Without a CPU backend it stays empty.
    let mut rows = Vec::<Row>::new();
    #[cfg(feature = "flex")]
    rows.extend(backend::<burn_flex::Flex>("flex", arguments, &cases, &probe)?);
    #[cfg(feature = "ndarray")]
    rows.extend(backend::<burn_ndarray::NdArray>("ndarray", arguments, &cases, &probe)?);
    #[cfg(feature = "plot")]
    if let Some(file) = plot {
        picture::draw(&rows, &file)?;
    }
    if let Some(file) = json {
        file.write_json(&json!({"rows": rows}))?;
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
        progress.suspend(|| table::row(&row))?;
        rows.push(row);
        progress.inc(1);
    }
    progress.finish_and_clear();
    Ok(rows)
}

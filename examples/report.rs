//! Makes a report of a log of metrics: one HTML file with tables and plots.
//!
//! `cargo run --release --features plot --example report -- run.jsonl --out report.html`

#[path = "common/mod.rs"]
mod common;

use std::{error::Error, path::PathBuf, process::ExitCode};

use clap::Parser;
use common::{end, say};
use sparse_attention_hub::{
    metrics::{MetricLog, MetricReader},
    plot::{PlotError, PlotGenerator, Theme},
    report::Report,
};

/// Makes one self-contained HTML file of a log of metrics: a summary, a table of all heads, and every plot with its
/// numbers.
#[derive(Debug, Parser)]
#[command(name = "report")]
struct Arguments {
    /// Logs as JSON lines, as a metric logger writes them; several logs are shown side by side
    #[arg(required = true)]
    logs: Vec<PathBuf>,
    /// The HTML file to write
    #[arg(long, default_value = "report.html")]
    out: PathBuf,
    /// The title of the report [default: the path of the log]
    #[arg(long)]
    title: Option<String>,
    /// Also write every plot into this folder as SVG
    #[arg(long)]
    plot: Option<PathBuf>,
}

fn main() -> ExitCode {
    end(run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let log = log(&arguments.logs)?;
    let report = Report::new(log.clone())?;
    let report = match &arguments.title {
        Some(title) => report.titled(title),
        None => report,
    };
    report.save(&arguments.out)?;
    say!("{}", arguments.out.display())?;
    if let Some(folder) = &arguments.plot {
        let plots = PlotGenerator::new(log)?.save_all(folder, Theme::Light)?;
        for plot in &plots {
            say!("{}", plot.display())?;
        }
    }
    Ok(())
}

/// Reads one log, or several logs side by side, each named by its file.
fn log(paths: &[PathBuf]) -> Result<MetricLog, PlotError> {
    let read = |path: &PathBuf| MetricReader::open(path)?.read_all()?.not_empty();
    if let [path] = paths {
        return Ok(read(path)?);
    }
    let name = |path: &PathBuf| path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    let runs = paths.iter().map(|path| Ok((name(path), read(path)?))).collect::<Result<Vec<_>, PlotError>>()?;
    Ok(MetricLog::side_by_side(runs)?)
}

//! Runs the generators of `fuzz/` for any length of time:
//! `cargo run --release --example fuzz -- --kind attention --count 100000 --seed 1`.
//!
//! The cases run in separate processes, so that a case that ends its process or never ends is reported like any other
//! fault. To repeat a case, use `--first N --count 1` with the same kind and seed. Some cases have sizes that no memory
//! can hold. A limit, such as `ulimit -v 8000000`, turns such a case into a fault before the machine runs out of
//! memory.

#[path = "../../fuzz/generators/mod.rs"]
mod generators;
mod report;
mod runner;
mod worker;

use std::{fs, path::PathBuf, process::ExitCode};

use clap::{Parser, builder::PossibleValuesParser};

use generators::{Kind, caught};

/// Fuzzes the library with inputs made from a seed.
#[derive(Debug, Clone, Parser)]
struct Arguments {
    /// What to fuzz [default: everything].
    #[arg(long, value_parser = PossibleValuesParser::new(Kind::ALL.map(Kind::name)))]
    kind: Option<String>,
    /// The number of cases of each kind.
    #[arg(long, default_value_t = 10_000)]
    count: u64,
    /// The seed of the cases.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The number of the first case.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// The number of processes [default: one for each processor].
    #[arg(long)]
    jobs: Option<u64>,
    /// The number of seconds after which a case that has not ended is a fault.
    #[arg(long, default_value_t = 60)]
    patience: u64,
    /// Runs one input, from the corpus or from a failed fuzz target, instead of cases.
    #[arg(long, requires = "kind")]
    input: Option<PathBuf>,
    /// Runs every `step`-th case and reports to the parent process.
    #[arg(long, hide = true)]
    step: Option<u64>,
}

impl Arguments {
    fn kinds(&self) -> Vec<Kind> {
        let wanted = |kind: &Kind| self.kind.as_ref().is_none_or(|name| name == kind.name());
        Kind::ALL.into_iter().filter(wanted).collect()
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(step) = arguments.step {
        return worker::run(&arguments, step);
    }
    if let Some(path) = &arguments.input {
        return run_input(&arguments, path);
    }
    let mut found = false;
    for kind in arguments.kinds() {
        match runner::run(&arguments, kind) {
            Ok(report) => {
                report.print(kind, arguments.seed);
                found |= !report.is_empty();
            }
            Err(error) => {
                eprintln!("cannot run the cases: {error}");
                return ExitCode::FAILURE;
            }
        }
    }
    if found { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn run_input(arguments: &Arguments, path: &PathBuf) -> ExitCode {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) => {
            eprintln!("cannot read {}: {error}", path.display());
            return ExitCode::FAILURE;
        }
    };
    let name = path.file_name().and_then(|name| name.to_str());
    let checked = arguments.kinds().into_iter().try_for_each(|kind| caught(|| kind.check_input(&bytes, name)));
    match checked {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            println!("{fault}");
            ExitCode::FAILURE
        }
    }
}

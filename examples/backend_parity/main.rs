//! Runs the same methods on several backends: whether they work, how exact they are, and how long a decode step takes.
//!
//! `cargo run --release --features ndarray --example backend_parity`

#[path = "../common/mod.rs"]
mod common;
mod measure;
mod problem;
mod reference;
mod table;

use std::{
    collections::BTreeMap,
    error::Error,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    process::ExitCode,
};

use burn::tensor::{DType, backend::Backend};
use clap::Parser;
use common::{count, count_or_none, end, files, find, say};
use measure::{OF_BURN, Row, dense, method, of_burn};
use problem::Problem;
use sparse_attention_hub::{
    backend::{self, COMPILED, Work},
    io::OutputFile,
    mask::Csr,
};

/// Runs the methods of configs/ with the same configuration, seed and tensors on each backend, and prints the error of
/// each against attention computed in f64.
#[derive(Debug, Parser)]
#[command(name = "backend_parity")]
struct Arguments {
    /// Method files [default: all of configs/]
    methods: Vec<PathBuf>,
    /// A backend, or one of its devices as in tch@cuda:0; may be given more than once [default: all that are compiled
    /// in]
    #[arg(long)]
    backend: Vec<String>,
    /// The recorded layer
    #[arg(long, default_value_t = 3)]
    layer: usize,
    /// Seed of the methods that sample
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// The type of queries, keys and values: f32, f16 or bf16
    #[arg(long, default_value = "f32", value_parser = precision)]
    precision: DType,
    /// Keys of the timed decode step; 0 skips the timing
    #[arg(long, default_value_t = 16384, value_parser = count_or_none())]
    keys: usize,
    /// Sequences of the timed decode step
    #[arg(long, default_value_t = 1, value_parser = count())]
    batch: usize,
    /// Timed steps; the median is reported
    #[arg(long, default_value_t = 15, value_parser = count())]
    steps: usize,
    /// Also write the rows to this JSON file
    #[arg(long)]
    json: Option<PathBuf>,
}

fn precision(name: &str) -> Result<DType, String> {
    match name {
        "f32" => Ok(DType::F32),
        "f16" => Ok(DType::F16),
        "bf16" => Ok(DType::BF16),
        _ => Err("must be f32, f16 or bf16".into()),
    }
}

fn main() -> ExitCode {
    end(run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    // Checked before the work, so that a misspelt folder does not lose an hour of results.
    let json = arguments.json.clone().map(OutputFile::new).transpose()?;
    let given = arguments.methods.clone();
    let methods = if given.is_empty() { files(&find("configs")?, "json")? } else { given };
    let mut backends = arguments.backend.clone();
    if backends.is_empty() {
        // The host runs first. The other backends are compared with the keys that it keeps.
        backends = COMPILED.iter().rev().map(|&name| name.to_owned()).collect();
    }
    let mut study = Study { arguments, methods, kept: BTreeMap::new(), rows: Vec::new() };
    for name in &backends {
        let (backend, device) = match name.split_once('@') {
            Some((backend, device)) => (backend, Some(device)),
            None => (name.as_str(), None),
        };
        // A missing device is reported by a panic.
        match catch_unwind(AssertUnwindSafe(|| backend::run_on(Some(backend), device, &mut study))) {
            Ok(done) => done??,
            Err(_) if arguments.backend.is_empty() => table::absent(name)?,
            Err(_) => return Err(format!("{name}: there is no such device").into()),
        }
    }
    if let Some(file) = json {
        file.write_json(&serde_json::json!({"rows": study.rows}))?;
    }
    match study.rows.iter().find(|row| row.failure.is_some()) {
        Some(row) => Err(format!("{} does not work on {}", row.method, row.backend).into()),
        None => Ok(()),
    }
}

/// The work for each backend, and the results so far.
struct Study<'a> {
    arguments: &'a Arguments,
    methods: Vec<PathBuf>,
    /// The keys that each method kept on the first backend.
    kept: BTreeMap<String, Csr>,
    rows: Vec<Row>,
}

impl Work for &mut Study<'_> {
    type Output = Result<(), Box<dyn Error>>;

    fn run<B: Backend>(self, device: B::Device) -> Self::Output {
        let arguments = self.arguments;
        let described = backend::describe::<B>(&device);
        let backend = B::name(&device);
        if !B::supports_dtype(&device, arguments.precision) {
            table::unsupported(&backend, arguments.precision)?;
            return Ok(());
        }
        let problem = Problem::<B>::open(arguments, &device)?;
        table::heading(&backend, &described, &problem, self.arguments)?;
        let mut add = |row: Row| -> std::io::Result<()> {
            table::row(&row)?;
            self.rows.push(row);
            Ok(())
        };
        add(dense(&backend, &problem, arguments))?;
        match catch_unwind(AssertUnwindSafe(|| of_burn(&backend, &problem, arguments))) {
            Ok(Ok(row)) => add(row)?,
            // This row is only for comparison, so a failure is printed and not counted.
            _ => say!("{OF_BURN:<22} does not run here")?,
        }
        for file in &self.methods {
            let name = file.file_stem().unwrap_or(file.as_os_str()).to_string_lossy().into_owned();
            let kept = self.kept.get(&name);
            let run = catch_unwind(AssertUnwindSafe(|| method(&backend, &name, file, &problem, arguments, kept)));
            match run {
                Ok(Ok((row, csr))) => {
                    self.kept.entry(name).or_insert(csr);
                    add(row)?;
                }
                Ok(Err(error)) => add(Row::failed(&backend, &name, error.to_string()))?,
                Err(_) => add(Row::failed(&backend, &name, "panics".into()))?,
            }
        }
        say!("")?;
        Ok(())
    }
}

use std::io;

use burn::tensor::{DType, backend::Backend};
use sparse_attention_hub::prelude::*;

use crate::{Arguments, common::say, measure::Row, problem::Problem};

/// Prints a description of the rows, and the names of the columns.
pub fn heading<B: Backend>(backend: &str, device: &str, problem: &Problem<B>, arguments: &Arguments) -> io::Result<()> {
    let MaskShape { heads, queries, keys, .. } = problem.recorded.mask_shape();
    let precision = format!("{:?}", arguments.precision).to_lowercase();
    say!("{backend} on {device}")?;
    say!(
        "{queries} queries over {keys} keys, {heads} heads on {} key-value heads, {precision}, seed {}",
        problem.recorded.kv_heads(),
        arguments.seed
    )?;
    if problem.step.is_some() {
        let Arguments { batch, keys, steps, .. } = arguments;
        say!("a decode step of {batch} sequence(s) of {keys} keys: the median of {steps}")?;
    }
    say!("\n{:<22} {:>5} {:>10} {:>12} {:>9}  on the host", "method", "works", "error", "rows differ", "step ms")
}

pub fn row(row: &Row) -> io::Result<()> {
    if let Some(failure) = &row.failure {
        return say!("{:<22} {:>5}  {failure}", row.method, "no");
    }
    let step = row.milliseconds.map_or("-".to_owned(), |step| format!("{step:.2}"));
    say!(
        "{:<22} {:>5} {:>10.1e} {:>10.1} % {step:>9}  {}",
        row.method,
        "yes",
        row.error,
        100.0 * row.rows_that_differ,
        row.on_host
    )
}

pub fn unsupported(backend: &str, precision: DType) -> io::Result<()> {
    say!("{backend} does not compute in {precision:?}\n")
}

pub fn absent(backend: &str) -> io::Result<()> {
    say!("{backend} has no device here\n")
}

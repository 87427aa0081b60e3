//! A table with a row for each method and a column for each task and length.

use std::{error::Error, fmt::Write};

use sparse_attention_hub::io::OutputFile;

use super::{
    common::say,
    results::{Outcome, Results},
};

/// The result of a method for a task and length.
struct Cell {
    count: usize,
    mean: f64,
    /// The 95 % Wilson interval of a score.
    interval: Option<(f64, f64)>,
    density: f64,
    read: f64,
}

impl Cell {
    fn of(results: &Results, method: &str, (task, length): &(String, usize)) -> Option<Self> {
        let is_here = |found: &&Outcome| found.method == method && found.task == *task && found.length == *length;
        let found = results.all.iter().filter(is_here).collect::<Vec<_>>();
        let count = found.len();
        let mean = |part: fn(&Outcome) -> f64| found.iter().map(|found| part(found)).sum::<f64>() / count as f64;
        (count > 0).then(|| Self {
            count,
            mean: mean(|found| found.value),
            interval: (task != "perplexity").then(|| wilson(mean(|found| found.value), count)),
            density: mean(|found| found.density),
            read: mean(|found| found.read),
        })
    }
}

/// The 95 % Wilson interval of a share.
fn wilson(share: f64, count: usize) -> (f64, f64) {
    let (n, z) = (count as f64, 1.96);
    let middle = share + z * z / (2.0 * n);
    let spread = z * (share * (1.0 - share) / n + z * z / (4.0 * n * n)).sqrt();
    let by = 1.0 + z * z / n;
    (((middle - spread) / by).max(0.0), ((middle + spread) / by).min(1.0))
}

/// Prints the table, and also writes it as CSV if `csv` is given.
///
/// # Errors
/// If the pipe is closed, or the file cannot be written.
pub fn print(results: &Results, columns: &[(String, usize)], csv: Option<OutputFile>) -> Result<(), Box<dyn Error>> {
    let mut methods = Vec::<&str>::new();
    for outcome in &results.all {
        if !methods.contains(&outcome.method.as_str()) {
            methods.push(&outcome.method);
        }
    }
    let mut text = "method,task,length,samples,value,low,high,density,read\n".to_owned();
    say!("| method | task | tokens | samples | value | 95 % | density | K/V read |")?;
    say!("|---|---|---|---|---|---|---|---|")?;
    let mut columns = columns.to_vec();
    columns.sort();
    columns.dedup();
    for method in methods {
        for column in &columns {
            let Some(cell) = Cell::of(results, method, column) else { continue };
            let (task, length) = column;
            let Cell { count, mean, interval, density, read } = cell;
            let range = interval.map_or(String::new(), |(low, high)| format!("{low:.3} to {high:.3}"));
            say!("| {method} | {task} | {length} | {count} | {mean:.3} | {range} | {density:.3} | {read:.3} |")?;
            let (low, high) = interval.map_or((mean, mean), |interval| interval);
            writeln!(text, "{method},{task},{length},{count},{mean},{low},{high},{density},{read}")?;
        }
    }
    match csv {
        Some(csv) => Ok(csv.write(text.as_bytes())?),
        None => Ok(()),
    }
}

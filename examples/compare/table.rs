use std::io;

use burn::tensor::backend::Backend;
use sparse_attention_hub::prelude::*;

use crate::{common::say, measure::Row};

/// Prints a description of the rows, and the names of the columns. The description names the phase if a method has
/// phases.
pub fn heading<B: Backend>(inputs: &AttentionInputs<B>, backend: &str, seed: u64, has_phases: bool) -> io::Result<()> {
    let MaskShape { heads, queries, keys, .. } = inputs.mask_shape();
    let head_dim = inputs.queries().dims()[3];
    let phase = if has_phases { format!(", phase {}", inputs.phase()) } else { String::new() };
    say!(
        "{queries} queries over {keys} keys, {heads} heads on {} key-value heads, head_dim {head_dim}; {backend}, seed {seed}{phase}\n",
        inputs.kv_heads(),
    )?;
    say!(
        "{:<26} {:>5} {:>8} {:>13} {:>12} {:>10} {:>8} {:>9}",
        "method",
        "layer",
        "density",
        "error median",
        "error worst",
        "mass kept",
        "ms",
        "dense ms"
    )
}

pub fn row(row: &Row) -> io::Result<()> {
    line(row, &row.layer.to_string())
}

/// Prints the means over the layers for each method, in the order of the methods.
pub fn means(rows: &[Row]) -> io::Result<()> {
    say!("")?;
    let mut names = Vec::<&str>::new();
    for row in rows {
        if !names.contains(&row.method.as_str()) {
            names.push(&row.method);
        }
    }
    for name in names {
        let of_method = rows.iter().filter(|row| row.method == name).collect::<Vec<_>>();
        let mean =
            |figure: fn(&Row) -> f64| of_method.iter().map(|row| figure(row)).sum::<f64>() / of_method.len() as f64;
        let mean = Row {
            method: name.to_owned(),
            layer: 0,
            density: mean(|row| row.density),
            output_error_median: mean(|row| row.output_error_median),
            output_error_worst: mean(|row| row.output_error_worst),
            mass_kept: mean(|row| row.mass_kept),
            milliseconds: mean(|row| row.milliseconds),
            dense_milliseconds: mean(|row| row.dense_milliseconds),
        };
        line(&mean, "mean")?;
    }
    Ok(())
}

fn line(row: &Row, layer: &str) -> io::Result<()> {
    say!(
        "{:<26} {layer:>5} {:>6.1} % {:>13.4} {:>12.4} {:>8.1} % {:>8.1} {:>9.1}",
        row.method,
        100.0 * row.density,
        row.output_error_median,
        row.output_error_worst,
        100.0 * row.mass_kept,
        row.milliseconds,
        row.dense_milliseconds,
    )
}

use std::io;

use crate::{common::say, measure::Row};

pub fn heading() -> io::Result<()> {
    say!(
        "{:<8} {:>7} {:>7} {:>6}  {:<34} {:>8} {:>9} {:>9} {:>8} {:>6} {:>9} {:>8} {:>9}",
        "backend",
        "keys",
        "queries",
        "heads",
        "method",
        "density",
        "ms",
        "dense ms",
        "x dense",
        "GB/s",
        "floor ms",
        "x floor",
        "extra MB"
    )
}

pub fn row(row: &Row) -> io::Result<()> {
    let optional =
        |value: Option<f64>, digits: usize| value.map_or("-".to_owned(), |value| format!("{value:.digits$}"));
    say!(
        "{:<8} {:>7} {:>7} {:>6}  {:<34} {:>6.1} % {:>9.3} {:>9} {:>8} {:>6.1} {:>9.3} {:>8.2} {:>9.2}",
        row.backend,
        row.keys,
        row.queries,
        format!("{}/{}", row.heads, row.kv_heads),
        row.method,
        100.0 * row.density,
        row.milliseconds,
        optional(row.dense_milliseconds, 3),
        optional(row.ratio_to_dense, 3),
        row.bytes_per_second / 1e9,
        row.floor_milliseconds,
        row.ratio_to_floor,
        row.extra_bytes as f64 / 1e6,
    )
}

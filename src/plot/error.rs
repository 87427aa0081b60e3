use std::path::PathBuf;

use thiserror::Error;

use crate::{FileError, metrics::MetricError};

/// Why a plot could not be made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PlotError {
    /// There is nothing to draw.
    #[error("the plot \"{title}\" has no line")]
    NoSeries {
        /// The title of the plot.
        title: String,
    },
    /// A line without points.
    #[error("the line \"{series}\" of the plot \"{title}\" has no points")]
    EmptySeries {
        /// The title of the plot.
        title: String,
        /// The name of the line.
        series: String,
    },
    /// A point that has no place on the axes.
    #[error(
        "the line \"{series}\" has the point ({x}, {y}), but both must be finite, and above 0 on a logarithmic axis"
    )]
    Point {
        /// The name of the line.
        series: String,
        /// The point's x.
        x: f64,
        /// The point's y.
        y: f64,
    },
    /// A range that does not hold its point, or has no place on the axis.
    #[error(
        "the line \"{series}\" has the range {low} to {high} about {y}, but must have it around that, finite, and above 0 \
         on a logarithmic axis"
    )]
    Range {
        /// The name of the line.
        series: String,
        /// The point's y.
        y: f64,
        /// The lower end.
        low: f64,
        /// The upper end.
        high: f64,
    },
    /// A heat map has not as many values as places.
    #[error("the heat map \"{title}\" has {values} values, but must have {rows} x {columns}")]
    Values {
        /// The title of the map.
        title: String,
        /// Its rows.
        rows: usize,
        /// Its columns.
        columns: usize,
        /// How many values there are.
        values: usize,
    },
    /// The shades of a heat map have no range.
    #[error(
        "the shades of the heat map \"{title}\" run from {low} to {high}, but must run upwards between finite numbers"
    )]
    Shades {
        /// The title of the map.
        title: String,
        /// The lower end.
        low: f64,
        /// The upper end.
        high: f64,
    },
    /// A head that is not there.
    #[error("the heat map \"{title}\" is of sequence {batch} and head {head}, but there are {batches} and {heads}")]
    Head {
        /// The title of the map.
        title: String,
        /// The sequence.
        batch: usize,
        /// The head.
        head: usize,
        /// How many sequences there are.
        batches: usize,
        /// How many heads there are.
        heads: usize,
    },
    /// There are no records of what is to be plotted.
    #[error("{origin} has no record of `{metric}` {wanted}; it has {found}")]
    NoRecords {
        /// Where the records come from.
        origin: String,
        /// The metric.
        metric: String,
        /// What else the records must have.
        wanted: &'static str,
        /// The metrics of which there are records.
        found: String,
    },
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] MetricError),
    /// The file's name does not say in which format.
    #[error("the plot {} must end in `.svg` or `.png`", path.display())]
    Format {
        /// The file.
        path: PathBuf,
    },
    /// The drawing failed.
    #[error("the plot \"{title}\" cannot be drawn: {reason}")]
    Draw {
        /// The title of the plot.
        title: String,
        /// What went wrong.
        reason: String,
    },
    /// The file cannot be written.
    #[error(transparent)]
    File(#[from] FileError),
}

use std::path::PathBuf;

use thiserror::Error;

use crate::{io::FileError, metrics::MetricError};

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
    /// A line has no points.
    #[error("the line \"{series}\" of the plot \"{title}\" has no points")]
    EmptySeries {
        /// The title of the plot.
        title: String,
        /// The name of the line.
        series: String,
    },
    /// A point cannot be placed on the axes.
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
    /// A range does not contain its point, or cannot be placed on the axis.
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
    /// The number of values of a heat map is not rows times columns.
    #[error("the heat map \"{title}\" has {values} values, but must have {rows} x {columns}")]
    Values {
        /// The title of the map.
        title: String,
        /// The number of rows.
        rows: usize,
        /// The number of columns.
        columns: usize,
        /// The number of values.
        values: usize,
    },
    /// The range of the shades of a heat map is empty or not finite.
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
    /// The heat map is of a sequence or a head that does not exist.
    #[error("the heat map \"{title}\" is of sequence {batch} and head {head}, but there are {batches} and {heads}")]
    Head {
        /// The title of the map.
        title: String,
        /// The sequence.
        batch: usize,
        /// The head.
        head: usize,
        /// The number of sequences.
        batches: usize,
        /// The number of heads.
        heads: usize,
    },
    /// The log has no records of the metric that is to be plotted.
    #[error("{origin} has no record of `{metric}` {wanted}; it has {found}")]
    NoRecords {
        /// Where the records come from.
        origin: String,
        /// The metric.
        metric: String,
        /// The other fields that the records must have.
        wanted: &'static str,
        /// The metrics that have records.
        found: String,
    },
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] MetricError),
    /// The name of the file has no known format.
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

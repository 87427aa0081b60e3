use thiserror::Error;

use crate::FileError;

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

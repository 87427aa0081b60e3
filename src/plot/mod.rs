//! Plots as SVG files.

mod error;
mod line_plot;

pub use error::PlotError;
pub use line_plot::{LinePlot, Scale};

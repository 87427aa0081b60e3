//! Plots of attention and its metrics, from data or from a [log](crate::metrics), as SVG and PNG.
//!
//! A [LinePlot] or a [HeatMap] makes a [Figure], which is saved as SVG or PNG in light or dark colours. [PlotGenerator]
//! makes all plots of a log.

mod error;
mod figure;
mod frame;
mod generator;
mod heat_map;
mod line_plot;
mod summary;
mod text;
mod theme;
mod ticks;

pub use error::PlotError;
pub use figure::Figure;
pub use generator::{Granularity, Plot, PlotContent, PlotGenerator};
pub use heat_map::HeatMap;
pub use line_plot::{LinePlot, Measured};
pub use summary::{HeadMean, Summary};
pub use theme::Theme;
pub use ticks::Scale;

/// Quotes a text as a field of comma-separated values, if it needs quotes.
fn quoted(text: &str) -> String {
    match text.contains(['"', ',', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    }
}

//! Reports: a log of metrics as one self-contained HTML file.

mod page;
mod tables;

use std::path::Path;

use crate::{
    io::OutputFile,
    metrics::{MetricLog, MetricReader},
    plot::{HeatMap, PlotError, PlotGenerator},
};

/// A report of a [log](crate::metrics): a summary, a table of the heads, and every [plot](PlotGenerator::all). The
/// table can be sorted and begins with the worst heads. The numbers of each plot can be downloaded.
///
/// The page needs no server, no other files and no network. It follows the light or dark colours of the browser.
///
/// # Example
/// ```
/// use sparse_attention_hub::{
///     metrics::{MetricLog, MetricLoggerConfig, MetricRegistry, Place, built_in::HEAD_OUTPUT_ERROR},
///     report::Report,
/// };
///
/// let logger = MetricLoggerConfig::default().init()?;
/// logger.at("a method").log(HEAD_OUTPUT_ERROR, 0.03, Place::of_layer(0, 0).with_head(0, 5))?;
/// let log = MetricLog::in_memory(MetricRegistry::new().metrics().to_vec(), logger.records());
/// let html = Report::new(log)?.titled("A run").to_html()?;
/// assert!(html.starts_with("<!DOCTYPE html>") && html.contains("a method"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    title: String,
    generator: PlotGenerator,
    masks: Vec<HeatMap>,
}

impl Report {
    /// Creates a report of a log.
    ///
    /// # Errors
    /// If the log has no records.
    pub fn new(log: MetricLog) -> Result<Self, PlotError> {
        let title = format!("Attention metrics of {}", log.origin());
        Ok(Self { title, generator: PlotGenerator::new(log)?, masks: Vec::new() })
    }

    /// Reads a log from a file and creates a report of it.
    ///
    /// # Errors
    /// If the file cannot be read, or has no records.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, PlotError> {
        Self::new(MetricReader::open(path)?.read_all()?)
    }

    /// Sets the title. Default: a title that names the origin of the log.
    pub fn titled(self, title: impl Into<String>) -> Self {
        Self { title: title.into(), ..self }
    }

    /// Adds the mask of a head, such as [HeatMap::of_mask] makes, because a log contains no masks. Masks are shown in
    /// the order in which they are added, so add the mask of the worst head first.
    pub fn with_mask(mut self, mask: HeatMap) -> Self {
        self.masks.push(mask);
        self
    }

    /// The report as an HTML page.
    ///
    /// # Errors
    /// If a plot cannot be drawn.
    pub fn to_html(&self) -> Result<String, PlotError> {
        page::page(&self.title, &self.generator, &self.masks)
    }

    /// Writes the page to a file, whole or not at all.
    ///
    /// # Errors
    /// If a plot cannot be drawn, or the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), PlotError> {
        let file = OutputFile::new(path.as_ref())?;
        Ok(file.write(self.to_html()?.as_bytes())?)
    }
}

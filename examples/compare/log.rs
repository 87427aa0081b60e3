//! The outputs `--log`, `--plot` and `--report`.

use std::{
    error::Error,
    path::{Path, PathBuf},
};

use burn::tensor::backend::Backend;
use clap::Args;
use sparse_attention_hub::{
    attention::AttentionError,
    metrics::{Enabled, Metric, MetricKind, MetricLogger, MetricLoggerConfig, MetricRegistry, Place, built_in},
    prelude::*,
};

use crate::measure::Row;

/// The median time of a whole call. It is measured apart from the call that logs.
const MILLISECONDS: &str = "milliseconds";
/// The same for dense attention.
const DENSE_MILLISECONDS: &str = "dense_milliseconds";

#[derive(Debug, Args)]
pub struct Outputs {
    /// Log the metrics of each head to this file, as JSON lines; it must not exist yet
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Also log the metrics of each query
    #[arg(long, requires = "log")]
    log_queries: bool,
    /// Write plots of the metrics into this folder; needs the feature `plot`
    #[arg(long, value_name = "DIR")]
    plot: Option<PathBuf>,
    /// Write one HTML file with tables and plots; needs the feature `plot`
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

/// The outputs that are written at the end, and the data collected for them.
pub struct Outcome<'a> {
    #[cfg_attr(not(feature = "plot"), expect(dead_code, reason = "only plots and reports are written at the end"))]
    outputs: &'a Outputs,
    logger: MetricLogger,
    #[cfg(feature = "plot")]
    masks: Vec<(f64, sparse_attention_hub::plot::HeatMap)>,
}

impl<'a> Outcome<'a> {
    /// Opens the log. If there are no outputs, nothing is logged.
    pub fn begin(outputs: &'a Outputs) -> Result<Self, Box<dyn Error>> {
        let drawn = outputs.plot.is_some() || outputs.report.is_some();
        if drawn && !cfg!(feature = "plot") {
            return Err("`--plot` and `--report` need the feature `plot`: cargo run --features plot ...".into());
        }
        let logger = match (&outputs.log, drawn) {
            (None, false) => MetricLogger::off(),
            (log_path, _) => MetricLoggerConfig {
                registry: registry()?,
                metrics: Enabled::Only(enabled(outputs.log_queries)),
                log_path: log_path.clone(),
                ..Default::default()
            }
            .init()?,
        };
        Ok(Self {
            outputs,
            logger,
            #[cfg(feature = "plot")]
            masks: Vec::new(),
        })
    }

    /// The logger of a method.
    pub fn logger(&self, method: &str) -> MetricLogger {
        self.logger.at(method)
    }

    /// Logs the times of a row.
    pub fn row(&self, row: &Row) -> Result<(), Box<dyn Error>> {
        let (logger, place) = (self.logger(&row.method), Place::of_layer(row.layer, 0));
        logger.log(MILLISECONDS, row.milliseconds, place)?;
        Ok(logger.log(DENSE_MILLISECONDS, row.dense_milliseconds, place)?)
    }

    /// Collects the mask of the worst head of a layer for the report, if there is one.
    #[cfg(feature = "plot")]
    pub fn mask<B: Backend>(
        &mut self,
        row: &Row,
        report: &AttentionReport,
        mask: impl FnOnce() -> Result<Mask<B>, AttentionError>,
    ) -> Result<(), Box<dyn Error>> {
        /// The largest number of masks in a report.
        const SHOWN: usize = 6;
        let worst = report.heads.iter().max_by(|a, b| a.output_error.total_cmp(&b.output_error));
        let (Some(worst), true) = (worst, self.outputs.report.is_some()) else { return Ok(()) };
        let (batch, head, error) = (worst.batch, worst.head, worst.output_error);
        let title = format!("Layer {}, head {head} of {}: error {error:.3}", row.layer, row.method);
        self.masks.push((error, sparse_attention_hub::plot::HeatMap::of_mask(title, &mask()?, batch, head)?));
        self.masks.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        self.masks.truncate(SHOWN);
        Ok(())
    }

    /// Without plots there is no report.
    #[cfg(not(feature = "plot"))]
    pub fn mask<B: Backend>(
        &mut self,
        _: &Row,
        _: &AttentionReport,
        _: impl FnOnce() -> Result<Mask<B>, AttentionError>,
    ) -> Result<(), Box<dyn Error>> {
        Ok(())
    }

    /// Ends the log and writes the other outputs.
    pub fn finish(self) -> Result<(), Box<dyn Error>> {
        self.logger.finish()?;
        self.draw()
    }

    #[cfg(feature = "plot")]
    fn draw(self) -> Result<(), Box<dyn Error>> {
        use sparse_attention_hub::{
            metrics::{MetricLog, MetricReader},
            plot::{PlotGenerator, Theme},
            report::Report,
        };
        let Outputs { log, plot, report, .. } = self.outputs;
        if plot.is_none() && report.is_none() {
            return Ok(());
        }
        let log = match log {
            Some(path) => MetricReader::open(path)?.read_all()?,
            None => MetricLog::in_memory(registry()?.metrics().to_vec(), self.logger.records()),
        };
        if let Some(folder) = plot {
            PlotGenerator::new(log.clone())?.save_all(folder, Theme::Light)?;
        }
        if let Some(path) = report {
            let report = Report::new(log)?.titled("Sparse attention methods, compared with dense attention");
            self.masks.into_iter().fold(report, |report, (_, mask)| report.with_mask(mask)).save(path)?;
        }
        Ok(())
    }

    #[cfg(not(feature = "plot"))]
    fn draw(self) -> Result<(), Box<dyn Error>> {
        Ok(())
    }
}

/// Checks before the work that the folders of the outputs exist.
pub fn check(outputs: &Outputs) -> Result<(), Box<dyn Error>> {
    let folder = outputs.report.as_deref().and_then(Path::parent).filter(|folder| !folder.as_os_str().is_empty());
    match folder {
        Some(folder) if !folder.is_dir() => Err(format!("there is no folder {}", folder.display()).into()),
        _ => Ok(()),
    }
}

fn registry() -> Result<MetricRegistry, Box<dyn Error>> {
    let mut registry = MetricRegistry::new();
    let about = "Median of the times of a whole call.";
    registry.register(Metric::new(MILLISECONDS, MetricKind::Real, "ms", about))?;
    let about = "Median of the times of a call of dense attention.";
    registry.register(Metric::new(DENSE_MILLISECONDS, MetricKind::Real, "ms", about))?;
    Ok(registry)
}

fn enabled(queries: bool) -> Vec<String> {
    // The stage times of the single first call say little. The medians of several calls replace them.
    let stages = [built_in::MILLISECONDS_SELECT, built_in::MILLISECONDS_ATTEND];
    let names = built_in::METRICS.iter().map(|metric| metric.name.to_string());
    let names = names.filter(|name| !stages.contains(&name.as_str()) && (queries || !name.starts_with("query_")));
    names.chain([MILLISECONDS, DENSE_MILLISECONDS].map(str::to_owned)).collect()
}

use std::{
    fs::OpenOptions,
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use super::{
    MetricError, MetricLogger, MetricRegistry,
    line::{Header, json},
    memory::Memory,
    output::Output,
    reader::{self, End},
    shared::{Destination, Shared},
};

/// Which of the registered metrics are logged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Enabled {
    /// All registered metrics.
    #[default]
    All,
    /// The metrics with these names.
    Only(Vec<String>),
}

impl Enabled {
    /// Logs the metrics with these names.
    pub fn only<N: Into<String>>(names: impl IntoIterator<Item = N>) -> Self {
        Self::Only(names.into_iter().map(Into::into).collect())
    }
}

/// Configuration of [MetricLogger].
#[derive(Debug, Clone, PartialEq)]
pub struct MetricLoggerConfig {
    /// The registered metrics. Default: the [built-in](super::built_in) ones.
    pub registry: MetricRegistry,
    /// The metrics that are logged. Default: all registered metrics.
    pub metrics: Enabled,
    /// The file to write to, as JSON lines. Without it, records stay in [memory](MetricLogger::records).
    pub log_path: Option<PathBuf>,
    /// Whether to continue an existing log. If false, a file that has content is an error. Default: false.
    pub append: bool,
    /// The number of waiting records at which they are written to the file, at least 1. Default: 1,024.
    pub flush_every: usize,
    /// The time after which waiting records are written to the file. It is checked at each call that logs. Default: 5
    /// seconds.
    pub flush_interval: Duration,
    /// The largest number of records in memory, at least 1. With a file, these are the records that wait while the file
    /// cannot be written; further records are refused with an error. Without a file, the newest records are kept.
    /// Default: 1,048,576.
    pub max_records: usize,
    /// The share of the steps that is logged, in (0, 1]. 0.1 logs the steps 0, 10, 20 and so on, the same in every run.
    /// Records without a step are always logged. Default: 1.
    pub sampling_factor: f64,
}

impl Default for MetricLoggerConfig {
    fn default() -> Self {
        Self {
            registry: MetricRegistry::new(),
            metrics: Enabled::All,
            log_path: None,
            append: false,
            flush_every: 1024,
            flush_interval: Duration::from_secs(5),
            max_records: 1 << 20,
            sampling_factor: 1.0,
        }
    }
}

impl MetricLoggerConfig {
    /// Logs all metrics to a file.
    pub fn to_file(path: impl Into<PathBuf>) -> Self {
        Self { log_path: Some(path.into()), ..Self::default() }
    }

    /// Creates the logger.
    ///
    /// # Errors
    /// If a value is out of its range, a metric is not registered, or the file already has content or cannot be
    /// written.
    pub fn init(self) -> Result<MetricLogger, MetricError> {
        self.validate()?;
        let destination = match &self.log_path {
            Some(path) => Destination::Output(self.open(path)?),
            None => Destination::Memory(Memory::new(self.max_records)),
        };
        Ok(self.with_destination(destination))
    }

    /// Creates a logger over a writer other than a file, such as a compressor or a socket.
    ///
    /// # Errors
    /// If a value is out of its range, `log_path` is also set, a metric is not registered, or the writer fails.
    pub fn init_with_writer(self, writer: impl Write + Send + 'static) -> Result<MetricLogger, MetricError> {
        self.validate()?;
        if let Some(path) = &self.log_path {
            let value = path.display().to_string();
            return Err(MetricError::Config { field: "log_path", value, allowed: "none if a writer is given" });
        }
        let mut output = Output::other(Box::new(writer));
        self.begin(&mut output)?;
        Ok(self.with_destination(Destination::Output(output)))
    }

    fn validate(&self) -> Result<(), MetricError> {
        let at_least_one = |field, value: usize| match value {
            0 => Err(MetricError::Config { field, value: value.to_string(), allowed: "at least 1" }),
            _ => Ok(()),
        };
        at_least_one("flush_every", self.flush_every)?;
        at_least_one("max_records", self.max_records)?;
        if !(self.sampling_factor > 0.0 && self.sampling_factor <= 1.0) {
            let value = self.sampling_factor.to_string();
            return Err(MetricError::Config { field: "sampling_factor", value, allowed: "in (0, 1]" });
        }
        match &self.metrics {
            Enabled::All => Ok(()),
            Enabled::Only(names) => {
                let unknown = names.iter().find(|name| self.registry.place(name).is_none());
                unknown.map_or(Ok(()), |name| Err(self.registry.unknown(name)))
            }
        }
    }

    fn open(&self, path: &Path) -> Result<Output, MetricError> {
        let failed = |source| MetricError::Open { path: path.to_owned(), source };
        let file = OpenOptions::new().append(true).create(true).open(path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        let mut output = Output::file(file, path);
        match (length, self.append) {
            (0, _) => self.begin(&mut output)?,
            (_, false) => return Err(MetricError::Exists { path: path.to_owned() }),
            (_, true) => {
                if reader::can_continue(path, &self.registry)? == End::CutOff {
                    // Ends the line that was cut off, so that the next record begins a new line.
                    output.push(b"\n", 0);
                }
            }
        }
        Ok(output)
    }

    /// Writes the header. This finds out at once whether the output can be written.
    fn begin(&self, output: &mut Output) -> Result<(), MetricError> {
        let mut header = json(&Header::of(self.registry.metrics()));
        header.push(b'\n');
        output.push(&header, 0);
        output.flush().map_err(|source| MetricError::Write {
            to: output.name().to_owned(),
            kept: 0,
            refused: 0,
            source,
        })
    }

    fn with_destination(self, destination: Destination) -> MetricLogger {
        let enabled = |name: &str| match &self.metrics {
            Enabled::All => true,
            Enabled::Only(names) => names.iter().any(|only| only == name),
        };
        let metrics = self.registry.metrics().iter();
        let metrics =
            metrics.map(|metric| (Arc::from(metric.name.as_ref()), enabled(&metric.name))).collect::<Vec<_>>();
        MetricLogger::of(Shared::new(self, metrics, destination))
    }
}

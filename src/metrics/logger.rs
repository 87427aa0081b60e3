use std::sync::Arc;

use super::{MetricError, Place, Record, memory::Memory, shared::Shared};

/// Logs metrics. It logs nothing if it is [off](Self::off).
///
/// A logger is a handle: clones write to the same place, from any thread. When the last clone is dropped, the waiting
/// records are written. Dropping cannot return an error, so call [finish](Self::finish) before. Each record is also a
/// [tracing](https://docs.rs/tracing) event with the target `sparse_attention_hub::metrics` and the level `TRACE`.
///
/// Should be created with [MetricLoggerConfig](super::MetricLoggerConfig).
///
/// # Example
/// ```
/// use sparse_attention_hub::metrics::{Enabled, MetricLoggerConfig, Place, built_in};
///
/// let logger = MetricLoggerConfig { metrics: Enabled::only([built_in::HEAD_DENSITY]), ..Default::default() }.init()?;
/// let place = Place::of_layer(0, 0);
/// logger.at("a method").log(built_in::HEAD_DENSITY, 0.12, place.with_head(0, 3))?;
/// logger.log(built_in::MILLISECONDS_ATTEND, 1.5, place)?; // Not enabled.
/// assert_eq!(logger.records().len(), 1);
/// # Ok::<(), sparse_attention_hub::metrics::MetricError>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct MetricLogger {
    shared: Option<Arc<Shared>>,
    location: Option<Arc<str>>,
}

impl MetricLogger {
    /// A logger that logs nothing and costs nothing.
    pub fn off() -> Self {
        Self::default()
    }

    pub(super) fn of(shared: Shared) -> Self {
        Self { shared: Some(Arc::new(shared)), location: None }
    }

    /// Whether anything is logged.
    pub fn is_on(&self) -> bool {
        self.shared.is_some()
    }

    /// A handle to the same logger, whose records carry a location: what they come from.
    pub fn at(&self, location: impl AsRef<str>) -> Self {
        Self { shared: self.shared.clone(), location: Some(Arc::from(location.as_ref())) }
    }

    /// Whether a metric is logged in a step. A caller can skip the computation of values that are not logged.
    pub fn takes(&self, metric: &str, step: u64) -> bool {
        self.shared.as_deref().is_some_and(|shared| shared.samples(Some(step)) && shared.enabled(metric))
    }

    /// Logs a value.
    ///
    /// # Errors
    /// If the metric is not registered, the value is not of its kind, the logger is finished, or the file cannot be
    /// written. In the last case the record is kept and written later, unless the error says that it was refused.
    pub fn log(&self, metric: &str, value: f64, place: Place) -> Result<(), MetricError> {
        match &self.shared {
            Some(_) => self.log_many(metric, [(place, value)]),
            None => Ok(()),
        }
    }

    /// Logs many values of a metric with one timestamp.
    ///
    /// # Errors
    /// As [log](Self::log). The values before the one that fails are logged.
    pub fn log_many(&self, metric: &str, values: impl IntoIterator<Item = (Place, f64)>) -> Result<(), MetricError> {
        match &self.shared {
            Some(shared) => shared.log(metric, values, self.location.as_ref()),
            None => Ok(()),
        }
    }

    /// The records in memory of a logger without a file, the oldest first. Only the newest
    /// [max_records](super::MetricLoggerConfig::max_records) are kept.
    pub fn records(&self) -> Vec<Record> {
        self.shared.as_deref().and_then(|shared| shared.memory(Memory::records)).unwrap_or_default()
    }

    /// The number of records that a logger without a file dropped to make room for newer ones.
    pub fn left_out(&self) -> u64 {
        self.shared.as_deref().and_then(|shared| shared.memory(Memory::left_out)).unwrap_or(0)
    }

    /// Writes the waiting records.
    ///
    /// # Errors
    /// If they cannot be written. They continue to wait.
    pub fn flush(&self) -> Result<(), MetricError> {
        match &self.shared {
            Some(shared) => shared.flush(),
            None => Ok(()),
        }
    }

    /// Writes the waiting records and ends the log. When this returns, all records are on the disk, and every handle
    /// refuses further records. A second call does nothing.
    ///
    /// # Errors
    /// If the records cannot be written. The log is then not ended, and this can be called again.
    pub fn finish(&self) -> Result<(), MetricError> {
        match &self.shared {
            Some(shared) => shared.finish(),
            None => Ok(()),
        }
    }
}

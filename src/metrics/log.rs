use std::{collections::HashMap, path::PathBuf, sync::Arc};

use super::{Metric, MetricError, MetricRegistry, Record};

/// A whole log.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricLog {
    /// The file that the log was read from, if any.
    pub path: Option<PathBuf>,
    /// The metrics that the header names.
    pub metrics: Vec<Metric>,
    /// The records in the order of the file.
    pub records: Vec<Record>,
    /// The numbers of the lines that are cut off, counted from 1.
    pub cut_off: Vec<usize>,
}

impl MetricLog {
    /// A log of records that are not from a file, such as those of a [logger](super::MetricLogger::records) in memory.
    pub fn in_memory(metrics: Vec<Metric>, records: Vec<Record>) -> Self {
        Self { path: None, metrics, records, cut_off: Vec::new() }
    }

    /// Where the records come from, in words.
    pub fn origin(&self) -> String {
        self.path.as_ref().map_or("the log in memory".to_owned(), |path| path.display().to_string())
    }

    /// Checks that the log has records.
    ///
    /// # Errors
    /// If there are no records, as after a run that logged nothing.
    pub fn not_empty(self) -> Result<Self, MetricError> {
        match self.records.is_empty() {
            true => Err(MetricError::NoRecords { origin: self.origin() }),
            false => Ok(self),
        }
    }

    /// Joins the records of several runs into one log, so that they can be shown side by side. The location of each
    /// record becomes the name of its run.
    ///
    /// # Errors
    /// If two logs have different metrics under one name.
    pub fn side_by_side(runs: impl IntoIterator<Item = (String, Self)>) -> Result<Self, MetricError> {
        let mut registry = MetricRegistry::of([]);
        let mut all = Self::in_memory(Vec::new(), Vec::new());
        for (run, log) in runs {
            log.metrics.into_iter().try_for_each(|metric| registry.register(metric))?;
            let mut locations = HashMap::<Option<Arc<str>>, Arc<str>>::new();
            for mut record in log.records {
                let of_run = locations.entry(record.location).or_insert_with_key(|location| match location {
                    Some(location) => format!("{run}: {location}").into(),
                    None => run.as_str().into(),
                });
                record.location = Some(of_run.clone());
                all.records.push(record);
            }
        }
        Ok(Self { metrics: registry.metrics().to_vec(), ..all })
    }
}

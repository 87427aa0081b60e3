use std::{io, path::PathBuf};

use thiserror::Error;

/// Why something cannot be logged, or a log cannot be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MetricError {
    /// A field of the configuration has a value that is not allowed.
    #[error("`{field}` is {value}, but must be {allowed}")]
    Config {
        /// The field.
        field: &'static str,
        /// Its value.
        value: String,
        /// What is allowed.
        allowed: &'static str,
    },
    /// A metric that is not registered.
    #[error("there is no metric `{name}`; known are {known}")]
    Unknown {
        /// The name.
        name: String,
        /// The names that are registered.
        known: String,
    },
    /// A metric is registered again with a different definition.
    #[error("the metric `{name}` is registered already, with another kind, unit or description")]
    Registered {
        /// The name.
        name: String,
    },
    /// A value does not fit the kind of its metric.
    #[error("the metric `{metric}` has the value {value}, but must be {allowed}")]
    Value {
        /// The metric.
        metric: String,
        /// The value.
        value: f64,
        /// What is allowed.
        allowed: &'static str,
    },
    /// A file that is to be created already has content.
    #[error("{} holds something already; name another file, or append to it", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be opened, read or created.
    #[error("cannot open {}: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Records cannot be written.
    #[error("cannot write to {to}: {source}; {kept} records wait in memory, {refused} are not logged")]
    Write {
        /// Where to.
        to: String,
        /// The number of records that were taken. They are written as soon as the output works again.
        kept: usize,
        /// The number of records that were refused because the memory is full.
        refused: usize,
        /// Why.
        source: io::Error,
    },
    /// A record is logged after the logger is finished.
    #[error("the metric logger is finished and takes no more records")]
    Finished,
    /// A file is not a log of metrics, or a log of another version.
    #[error("line {line} of {}: `{field}` is {found}, but must be {expected}", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// The field.
        field: &'static str,
        /// The value that was found.
        found: String,
        /// The value that is expected.
        expected: String,
    },
    /// A line that cannot be read.
    #[error("line {line} of {}, field `{field}`: {reason}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// The field; `.` for the whole line.
        field: String,
        /// What is wrong.
        reason: String,
    },
    /// A log without records.
    #[error("{origin} has no records: the run logged nothing")]
    NoRecords {
        /// Where the log comes from.
        origin: String,
    },
}

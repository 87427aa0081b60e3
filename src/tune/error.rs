use std::{io, path::PathBuf};

use thiserror::Error;

use crate::{config::ConfigError, problem::AttentionError};

/// Why a search cannot continue.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TuneError {
    /// A value of the search or of its space is not allowed.
    #[error("`{field}` is {value}, but must be {allowed}")]
    Value {
        /// The field, or its path in a space.
        field: String,
        /// The value.
        value: String,
        /// What is allowed.
        allowed: &'static str,
    },
    /// A masker has no search space.
    #[error("there is no search space for the masker `{name}`; there are some for {known}")]
    NoSpace {
        /// The name of the masker.
        name: String,
        /// The names of the maskers that have one.
        known: String,
    },
    /// A file cannot be read or written.
    #[error("cannot open {}: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A trial cannot be written to the journal.
    #[error("cannot write to {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is not a journal, or it is the journal of another search.
    #[error("line {line} of {}: `{field}` is {found}, but must be {expected}", path.display())]
    Journal {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// The field.
        field: String,
        /// The value that was found.
        found: String,
        /// The value that is expected.
        expected: String,
    },
    /// The text of a space is not JSON.
    #[error("{origin} is not a search space: {reason}")]
    NotASpace {
        /// Where the text comes from.
        origin: String,
        /// What is wrong.
        reason: String,
    },
    /// No trial succeeded.
    #[error("none of the {trials} trials can be used; the last failed: {reason}")]
    NoneWorks {
        /// The number of trials.
        trials: usize,
        /// Why the last one failed.
        reason: String,
    },
    /// A method cannot be built.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A method cannot work with a recording.
    #[error(transparent)]
    Attention(#[from] AttentionError),
}

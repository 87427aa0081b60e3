use std::{io, path::PathBuf};

use thiserror::Error;

use crate::{attention::AttentionError, masker::ConfigError};

/// Why a search cannot go on.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TuneError {
    /// A value of the search or its space makes no sense.
    #[error("`{field}` is {value}, but must be {allowed}")]
    Value {
        /// The field; in a space, its path.
        field: String,
        /// The value.
        value: String,
        /// What is allowed.
        allowed: &'static str,
    },
    /// There is no space for a masker.
    #[error("there is no search space for the masker `{name}`; there are some for {known}")]
    NoSpace {
        /// The name of the masker.
        name: String,
        /// The names for which there are spaces.
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
    /// A trial cannot be written.
    #[error("cannot write to {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A journal is not one, or of another search.
    #[error("line {line} of {}: `{field}` is {found}, but must be {expected}", path.display())]
    Journal {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// The field.
        field: String,
        /// What it is.
        found: String,
        /// What it must be.
        expected: String,
    },
    /// The text of a space is no JSON.
    #[error("{origin} is not a search space: {reason}")]
    NotASpace {
        /// Where the text comes from.
        origin: String,
        /// What is wrong.
        reason: String,
    },
    /// No trial went well.
    #[error("none of the {trials} trials can be used; the last failed: {reason}")]
    NoneWorks {
        /// How many there were.
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

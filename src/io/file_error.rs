use std::path::PathBuf;

use thiserror::Error;

/// Why a file cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FileError {
    /// The file cannot be read.
    #[error("cannot open {}: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file cannot be written. An earlier file at the path is unchanged.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The path does not name a file.
    #[error("{} is {found}, but must be a file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
        /// What the path names.
        found: &'static str,
    },
    /// The file is not in its format.
    #[error("{} is not {format}: {reason}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// The format.
        format: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The file lacks something.
    #[error("{} has no `{missing}`; it has {found}", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// What is missing.
        missing: String,
        /// What the file has instead.
        found: String,
    },
    /// Something in the file has a shape that does not fit.
    #[error("`{name}` in {} has the shape {found:?}, but must be {expected}", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// What has the shape.
        name: String,
        /// Its shape.
        found: Vec<usize>,
        /// What it must be.
        expected: String,
    },
}

/// The error for a path that does not name a file.
pub(super) fn not_a_file(path: PathBuf, metadata: &std::fs::Metadata) -> FileError {
    let found = if metadata.is_dir() { "a folder" } else { "a device, a pipe or a socket" };
    FileError::NotAFile { path, found }
}

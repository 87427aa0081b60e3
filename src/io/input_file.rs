use std::path::{Path, PathBuf};

use super::{FileError, file_error::not_a_file};

/// The bytes of a file. Devices and pipes are refused: they may never end.
pub(crate) fn read_file(path: &Path) -> Result<Vec<u8>, FileError> {
    let cannot_open = |source| FileError::Open { path: PathBuf::from(path), source };
    let metadata = std::fs::metadata(path).map_err(cannot_open)?;
    match metadata.is_file() {
        true => std::fs::read(path).map_err(cannot_open),
        false => Err(not_a_file(path.to_owned(), &metadata)),
    }
}

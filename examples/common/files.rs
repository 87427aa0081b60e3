use std::{
    error::Error,
    path::{Path, PathBuf},
};

/// A file or folder beside where the command is run, or else where the crate lies.
pub fn find(name: &str) -> PathBuf {
    let here = PathBuf::from(name);
    if here.exists() { here } else { Path::new(env!("CARGO_MANIFEST_DIR")).join(name) }
}

/// The files of a folder with an extension, sorted by name.
pub fn files(folder: &Path, extension: &str) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let listing =
        std::fs::read_dir(folder).map_err(|error| format!("cannot open the folder {}: {error}", folder.display()))?;
    let mut files = listing.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>, std::io::Error>>()?;
    files.retain(|file| file.extension().is_some_and(|found| found == extension));
    files.sort();
    match files.is_empty() {
        true => Err(format!("the folder {} has no .{extension} file", folder.display()).into()),
        false => Ok(files),
    }
}

/// An error where a product of lengths, in bytes, is more than memory can hold. So much is asked for and given back,
/// since a program that lacks memory later is ended.
pub fn fits_in_memory(what: &str, lengths: &[usize]) -> Result<(), Box<dyn Error>> {
    let bytes = lengths.iter().try_fold(1usize, |bytes, &length| bytes.checked_mul(length));
    match bytes {
        Some(bytes) if Vec::<u8>::new().try_reserve_exact(bytes).is_ok() => Ok(()),
        Some(bytes) => Err(format!("{what} would take {:.1} GB, which memory cannot hold", bytes as f64 / 1e9).into()),
        None => Err(format!("{what} would take more bytes than can be counted").into()),
    }
}

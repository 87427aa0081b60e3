use std::{
    error::Error,
    path::{Path, PathBuf},
};

/// Finds a file or folder of the repository, in the current folder or in the folder of the crate.
pub fn find(name: &str) -> Result<PathBuf, Box<dyn Error>> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let found = [PathBuf::from(name), repository.join(name)].into_iter().find(|path| path.exists());
    found.ok_or_else(|| {
        let repository = repository.display();
        format!(
            "{name} is neither in the current folder nor in {repository}: the package on crates.io leaves large files \
             out, so run the example in a clone of the repository, or name a file of your own (--help lists how)"
        )
        .into()
    })
}

/// The given path, or else the path in the [repository](find).
pub fn given_or(given: &Option<PathBuf>, name: &str) -> Result<PathBuf, Box<dyn Error>> {
    given.clone().map_or_else(|| find(name), Ok)
}

/// The files of a folder with this extension, sorted by name.
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

/// Returns an error if a product of lengths, in bytes, does not fit in memory. It reserves the memory and releases it
/// again, because the system kills a program that runs out of memory later.
pub fn fits_in_memory(what: &str, lengths: &[usize]) -> Result<(), Box<dyn Error>> {
    let bytes = lengths.iter().try_fold(1usize, |bytes, &length| bytes.checked_mul(length));
    match bytes {
        Some(bytes) if Vec::<u8>::new().try_reserve_exact(bytes).is_ok() => Ok(()),
        Some(bytes) => Err(format!("{what} would take {:.1} GB, which memory cannot hold", bytes as f64 / 1e9).into()),
        None => Err(format!("{what} would take more bytes than can be counted").into()),
    }
}

use std::{
    fs::File,
    io::{self, Write},
    path::Path,
};

/// Writes a file that is whole or not there: it lies under another name beside it until it is written.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(format!(".{}.partial", std::process::id()));
    let partial = path.with_file_name(name);
    let written = File::create(&partial)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::rename(&partial, path));
    if written.is_err() {
        // What is reported is why it could not be written; there may be nothing to remove.
        let _ = std::fs::remove_file(&partial);
    }
    written
}

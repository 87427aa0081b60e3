use std::{
    fmt,
    fs::File,
    io::{self, Write},
    path::Path,
};

/// Whole lines on their way to a file or another writer.
///
/// What could not be written stays, from the very byte at which the writer stopped: a line is neither torn nor written
/// twice, however often the writer fails in between.
pub(super) struct Output {
    writer: Writer,
    name: String,
    bytes: Vec<u8>,
    records: usize,
}

enum Writer {
    File(File),
    Other(Box<dyn Write + Send>),
}

impl Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::File(file) => file.write(bytes),
            Self::Other(writer) => writer.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::File(file) => file.flush(),
            Self::Other(writer) => writer.flush(),
        }
    }

    /// Until it is on the disk, where there is one.
    fn sync(&mut self) -> io::Result<()> {
        match self {
            Self::File(file) if file.metadata()?.is_file() => file.sync_all(),
            _ => self.flush(),
        }
    }
}

impl Output {
    pub fn file(file: File, path: &Path) -> Self {
        Self { writer: Writer::File(file), name: path.display().to_string(), bytes: Vec::new(), records: 0 }
    }

    pub fn other(writer: Box<dyn Write + Send>) -> Self {
        Self { writer: Writer::Other(writer), name: "the writer".to_owned(), bytes: Vec::new(), records: 0 }
    }

    /// Where the lines go, in words.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Records that are not written yet.
    pub fn waiting(&self) -> usize {
        self.records
    }

    /// Takes whole lines, of which some are records.
    pub fn push(&mut self, lines: &[u8], records: usize) {
        self.bytes.extend_from_slice(lines);
        self.records += records;
    }

    /// Writes what waits.
    pub fn flush(&mut self) -> io::Result<()> {
        let mut written = 0;
        let result = loop {
            if written == self.bytes.len() {
                break self.writer.flush();
            }
            match self.writer.write(&self.bytes[written..]) {
                Ok(0) => break Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
        };
        self.bytes.drain(..written);
        // A header may wait as well: then it is the first of the lines, and no record.
        let lines = self.bytes.iter().filter(|byte| **byte == b'\n').count();
        self.records = self.records.min(lines);
        result
    }

    /// Writes what waits, and sees to it that it is on the disk.
    pub fn sync(&mut self) -> io::Result<()> {
        self.flush()?;
        self.writer.sync()
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output").field("name", &self.name).field("waiting", &self.records).finish()
    }
}

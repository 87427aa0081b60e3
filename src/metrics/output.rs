use std::{
    fmt,
    fs::File,
    io::{self, Write},
    path::Path,
};

/// Whole lines that wait to be written to a file or another writer.
///
/// Bytes that could not be written are kept, from the first byte that the writer did not take. A line is therefore
/// neither torn nor written twice, even if the writer fails several times.
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

    /// Waits until the data is on the disk, if the writer has one.
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

    /// The name of the output, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The number of records that are not written yet.
    pub fn waiting(&self) -> usize {
        self.records
    }

    /// Takes whole lines. `records` is the number of records among them.
    pub fn push(&mut self, lines: &[u8], records: usize) {
        self.bytes.extend_from_slice(lines);
        self.records += records;
    }

    /// Writes the waiting lines.
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
        // A header may wait too. It is the first of the lines and does not count as a record.
        let lines = self.bytes.iter().filter(|byte| **byte == b'\n').count();
        self.records = self.records.min(lines);
        result
    }

    /// Writes the waiting lines and waits until they are on the disk.
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

use std::{
    collections::HashMap,
    fs::File,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::Value;

use super::{
    Metric, MetricError, MetricLog, MetricRegistry, Record,
    line::{FORMAT, Header, Line, VERSION},
};

/// Reads the records of a log one by one.
///
/// Lines that are cut off, for example by a full disk or a killed process, are skipped. Their numbers are
/// [listed](Self::cut_off).
///
/// # Example
/// ```
/// use sparse_attention_hub::metrics::{MetricLoggerConfig, MetricReader, Place, built_in};
///
/// # let folder = std::env::temp_dir().join(format!("metrics-{}", std::process::id()));
/// # std::fs::create_dir_all(&folder)?;
/// let path = folder.join("run.jsonl");
/// # let _ = std::fs::remove_file(&path);
/// let logger = MetricLoggerConfig::to_file(&path).init()?;
/// logger.log(built_in::HEAD_DENSITY, 0.12, Place::of_layer(0, 0).with_head(0, 3))?;
/// logger.finish()?;
/// let log = MetricReader::open(&path)?.read_all()?;
/// assert_eq!(log.records[0].value, 0.12);
/// # std::fs::remove_dir_all(&folder)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct MetricReader {
    path: PathBuf,
    lines: BufReader<File>,
    line: usize,
    registry: MetricRegistry,
    texts: HashMap<String, Arc<str>>,
    cut_off: Vec<usize>,
}

/// How a log ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Whole,
    CutOff,
}

impl MetricReader {
    /// Opens a log and reads its header.
    ///
    /// # Errors
    /// If the file cannot be read, or its first line is not the header of a log of this version.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, MetricError> {
        let path = path.as_ref().to_owned();
        let file = File::open(&path).map_err(|source| MetricError::Open { path: path.clone(), source })?;
        let mut reader = Self {
            path,
            lines: BufReader::new(file),
            line: 0,
            registry: MetricRegistry::of([]),
            texts: HashMap::new(),
            cut_off: Vec::new(),
        };
        reader.registry = MetricRegistry::of(reader.header()?);
        Ok(reader)
    }

    /// The metrics that the header names.
    pub fn metrics(&self) -> &[Metric] {
        self.registry.metrics()
    }

    /// The numbers of the lines read so far that are cut off, counted from 1.
    pub fn cut_off(&self) -> &[usize] {
        &self.cut_off
    }

    /// All records.
    ///
    /// # Errors
    /// If the file cannot be read, or a complete line is not a record of a metric in the header.
    pub fn read_all(mut self) -> Result<MetricLog, MetricError> {
        let records = self.by_ref().collect::<Result<_, _>>()?;
        let metrics = self.registry.metrics().to_vec();
        Ok(MetricLog { path: Some(self.path), metrics, records, cut_off: self.cut_off })
    }

    fn header(&mut self) -> Result<Vec<Metric>, MetricError> {
        let Some(text) = self.next_line()? else {
            return Err(self.not_a_log("format", "missing, since the file is empty".to_owned()));
        };
        // The version is checked first, because it determines the other fields of the header.
        let value = serde_json::from_slice::<Value>(&text);
        let value = value.map_err(|_| self.not_a_log("format", "missing, since the line is no JSON".to_owned()))?;
        match value.get("format") {
            Some(Value::String(format)) if format == FORMAT => {}
            found => return Err(self.not_a_log("format", described(found))),
        }
        match value.get("version").map(Value::as_u64) {
            Some(Some(VERSION)) => {}
            _ => {
                let found = described(value.get("version"));
                let (path, expected) = (self.path.clone(), VERSION.to_string());
                return Err(MetricError::Header { path, line: self.line, field: "version", found, expected });
            }
        }
        let header = serde_path_to_error::deserialize::<_, Header>(value);
        Ok(header.map_err(|error| self.fault(error.path().to_string(), error.into_inner()))?.metrics.into_owned())
    }

    fn not_a_log(&self, field: &'static str, found: String) -> MetricError {
        let expected = format!("`{FORMAT}`, as in every log of a MetricLogger");
        MetricError::Header { path: self.path.clone(), line: self.line.max(1), field, found, expected }
    }

    fn fault(&self, field: String, reason: impl ToString) -> MetricError {
        MetricError::Line { path: self.path.clone(), line: self.line, field, reason: reason.to_string() }
    }

    /// The next line without its end.
    fn next_line(&mut self) -> Result<Option<Vec<u8>>, MetricError> {
        let mut text = Vec::new();
        let read = self.lines.read_until(b'\n', &mut text);
        let read = read.map_err(|source| MetricError::Open { path: self.path.clone(), source })?;
        if read == 0 {
            return Ok(None);
        }
        self.line += 1;
        if text.last() == Some(&b'\n') {
            text.pop();
        }
        Ok(Some(text))
    }

    fn next_record(&mut self) -> Result<Option<Record>, MetricError> {
        while let Some(text) = self.next_line()? {
            match serde_json::from_slice::<Line>(&text) {
                Ok(line) => return self.record(line).map(Some),
                Err(error) if error.is_eof() => self.cut_off.push(self.line),
                Err(_) => return Err(self.explain(&text)),
            }
        }
        Ok(None)
    }

    fn record(&mut self, line: Line) -> Result<Record, MetricError> {
        let Some(metric) = self.registry.get(&line.metric) else {
            return Err(self.fault("metric".to_owned(), self.registry.unknown(&line.metric)));
        };
        metric.check(line.value).map_err(|error| self.fault("value".to_owned(), error))?;
        let texts = &mut self.texts;
        let record = line.record(|text| match texts.get(text) {
            Some(known) => known.clone(),
            None => texts.entry(text.to_owned()).or_insert_with(|| text.into()).clone(),
        });
        record.map_err(|reason| self.fault("timestamp".to_owned(), reason))
    }

    /// Finds the field of a line that is wrong, and what is wrong with it.
    fn explain(&self, text: &[u8]) -> MetricError {
        let mut json = serde_json::Deserializer::from_slice(text);
        match serde_path_to_error::deserialize::<_, Line>(&mut json) {
            Err(error) => self.fault(error.path().to_string(), error.into_inner()),
            // The record itself is right, so the fault is in the text after it.
            Ok(_) => self.fault(".".to_owned(), "more follows the record"),
        }
    }
}

impl Iterator for MetricReader {
    type Item = Result<Record, MetricError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_record().transpose()
    }
}

fn described(value: Option<&Value>) -> String {
    value.map_or("missing".to_owned(), |value| format!("`{value}`"))
}

/// Checks that a log can be continued with these metrics, and returns how it ends.
pub(super) fn can_continue(path: &Path, registry: &MetricRegistry) -> Result<End, MetricError> {
    let mut reader = MetricReader::open(path)?;
    let known = reader.metrics().to_vec();
    if let Some(missing) = registry.metrics().iter().find(|metric| !known.contains(metric)) {
        let (found, expected) = ("without it".to_owned(), format!("a list with `{}`", missing.name));
        return Err(MetricError::Header { path: path.to_owned(), line: 1, field: "metrics", found, expected });
    }
    let mut end = End::Whole;
    let mut last = Vec::new();
    loop {
        last.clear();
        let read = reader.lines.read_until(b'\n', &mut last);
        match read.map_err(|source| MetricError::Open { path: path.to_owned(), source })? {
            0 => return Ok(end),
            _ if last.last() == Some(&b'\n') => end = End::Whole,
            _ => end = End::CutOff,
        }
    }
}

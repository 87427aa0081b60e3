use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{MethodSpace, Objective, Outcome, Search, TuneError};

const FORMAT: &str = "sparse-attention-hub search";
const VERSION: u64 = 1;

/// One trial of a method.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trial {
    /// The number of the trial. The seed and this number determine the method.
    pub trial: u64,
    /// The number of recordings on which the method was tried.
    pub recordings: usize,
    /// The method, in the form of a method file.
    pub method: Value,
    /// The outcome. `None` if the trial failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// The reason of a failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

/// The identity of a search. Only trials of the same search can be compared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    format: String,
    version: u64,
    seed: u64,
    objective: Objective,
    space: MethodSpace,
}

impl Header {
    fn of(search: &Search) -> Self {
        let Search { space, objective, seed, .. } = search;
        Self { format: FORMAT.to_owned(), version: VERSION, seed: *seed, objective: *objective, space: space.clone() }
    }
}

/// The trials of a search as JSON lines: a header, then one [Trial] per line. A search continues where its journal
/// ends. If the last line is cut off, that trial is repeated.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    trials: BTreeMap<(u64, usize), Trial>,
}

impl Journal {
    /// Opens the journal of a search, or creates it.
    ///
    /// # Errors
    /// If the file cannot be read or written, or belongs to another search or version.
    pub fn open(path: impl AsRef<Path>, search: &Search) -> Result<Self, TuneError> {
        let path = path.as_ref().to_owned();
        let header = Header::of(search);
        let opened = OpenOptions::new().append(true).create(true).open(&path);
        let file = opened.map_err(|source| TuneError::Open { path: path.clone(), source })?;
        let (trials, whole) = read(&path, &header)?;
        let mut journal = Self { path, file, trials };
        match whole {
            None => journal.write(&header)?,
            Some(true) => {}
            // Ends the line that was cut off, so that the next trial begins a new line.
            Some(false) => journal.append(b"\n")?,
        }
        Ok(journal)
    }

    /// The trials, ordered by their number and by the number of recordings.
    pub fn trials(&self) -> impl Iterator<Item = &Trial> {
        self.trials.values()
    }

    /// Reads the trials of another journal of the same search, such as the journal of another shard, without writing
    /// them.
    ///
    /// # Errors
    /// If the file cannot be read, or belongs to another search or version.
    pub fn take_over(&mut self, path: impl AsRef<Path>, search: &Search) -> Result<(), TuneError> {
        self.trials.extend(read(path.as_ref(), &Header::of(search))?.0);
        Ok(())
    }

    pub(super) fn trial(&self, number: u64, recordings: usize) -> Option<&Trial> {
        self.trials.get(&(number, recordings))
    }

    /// Writes a trial.
    pub(super) fn record(&mut self, trial: Trial) -> Result<(), TuneError> {
        self.write(&trial)?;
        self.trials.insert((trial.trial, trial.recordings), trial);
        Ok(())
    }

    fn write(&mut self, line: &impl Serialize) -> Result<(), TuneError> {
        let bytes = serde_json::to_vec(line).map_err(std::io::Error::from);
        let mut bytes = bytes.map_err(|source| TuneError::Write { path: self.path.clone(), source })?;
        bytes.push(b'\n');
        self.append(&bytes)
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), TuneError> {
        self.file.write_all(bytes).map_err(|source| TuneError::Write { path: self.path.clone(), source })
    }
}

type Trials = BTreeMap<(u64, usize), Trial>;

/// The trials of a file, and whether its last line is complete. The latter is `None` if the file is empty.
fn read(path: &Path, wanted: &Header) -> Result<(Trials, Option<bool>), TuneError> {
    let failed = |source| TuneError::Open { path: path.to_owned(), source };
    let mut lines = BufReader::new(File::open(path).map_err(failed)?);
    let (mut trials, mut whole) = (Trials::new(), None);
    for number in 1.. {
        let mut line = Vec::new();
        if lines.read_until(b'\n', &mut line).map_err(failed)? == 0 {
            break;
        }
        // Without the line break, the parser reports a line that was cut off inside a string as an early end.
        whole = Some(line.pop_if(|byte| *byte == b'\n').is_some());
        let wrong = |field: String, found: String, expected: String| TuneError::Journal {
            path: path.to_owned(),
            line: number,
            field,
            found,
            expected,
        };
        if number == 1 {
            check(&line, wanted).map_err(|[field, found, expected]| wrong(field, found, expected))?;
            continue;
        }
        let mut json = serde_json::Deserializer::from_slice(&line);
        match serde_path_to_error::deserialize::<_, Trial>(&mut json) {
            Ok(trial) => _ = trials.insert((trial.trial, trial.recordings), trial),
            Err(error) if error.inner().is_eof() => {}
            Err(error) => {
                let (field, found) = (error.path().to_string(), error.into_inner().to_string());
                return Err(wrong(field, found, "as a search writes it".to_owned()));
            }
        }
    }
    Ok((trials, whole))
}

/// Checks that the first line is the header of this search. Otherwise returns the field, its value, and the expected
/// value.
fn check(line: &[u8], wanted: &Header) -> Result<(), [String; 3]> {
    let fault = |field: &str, found: &Value, expected: &Value| {
        Err([field.to_owned(), format!("`{found}`"), format!("`{expected}`, as in the search that goes on with it")])
    };
    let Ok(found) = serde_json::from_slice::<Value>(line) else {
        return fault("format", &Value::Null, &FORMAT.into());
    };
    // A header only holds values that JSON can represent.
    let wanted = serde_json::to_value(wanted).unwrap_or_default();
    for field in ["format", "version", "seed", "objective", "space"] {
        if found[field] != wanted[field] {
            return fault(field, &found[field], &wanted[field]);
        }
    }
    Ok(())
}

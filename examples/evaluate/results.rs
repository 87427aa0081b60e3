//! A file of results, with one JSON object per line.

use std::{
    collections::HashSet,
    error::Error,
    fs::{File, OpenOptions},
    io::Write,
    path::Path,
};

use serde::{Deserialize, Serialize};

use super::cases::Case;

/// The result of a case.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Outcome {
    pub method: String,
    pub id: String,
    pub task: String,
    pub length: usize,
    pub seed: u64,
    /// A score in [0, 1], or a perplexity.
    pub value: f64,
    pub density: f64,
    /// The share of the keys and values that are read.
    pub read: f64,
    pub answer: String,
    pub seconds: f64,
}

/// The results so far, and the file that new results are appended to.
pub struct Results {
    file: File,
    pub all: Vec<Outcome>,
    known: HashSet<(String, String, u64)>,
}

impl Results {
    /// Reads a file if it exists. An incomplete last line is removed.
    pub fn open(path: &Path) -> Result<Self, Box<dyn Error>> {
        let named = |error: std::io::Error| format!("cannot open {}: {error}", path.display());
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).map_err(named)?;
        }
        let file = OpenOptions::new().append(true).create(true).open(path).map_err(named)?;
        let text = std::fs::read_to_string(path).map_err(named)?;
        let whole = text.rfind('\n').map_or(0, |last| last + 1);
        if whole < text.len() {
            file.set_len(whole as u64).map_err(named)?;
        }
        let mut results = Self { file, all: Vec::new(), known: HashSet::new() };
        for (number, line) in text[..whole].lines().enumerate() {
            let outcome = serde_json::from_str(line)
                .map_err(|error| format!("line {} of {} is no result: {error}", number + 1, path.display()))?;
            results.remember(outcome);
        }
        Ok(results)
    }

    /// Whether a case has been measured.
    pub fn has(&self, method: &str, case: &Case, seed: u64) -> bool {
        self.known.contains(&(method.to_owned(), case.id(), seed))
    }

    /// Appends a result in a single write.
    pub fn add(&mut self, outcome: Outcome) -> Result<(), Box<dyn Error>> {
        self.file.write_all(format!("{}\n", serde_json::to_string(&outcome)?).as_bytes())?;
        self.remember(outcome);
        Ok(())
    }

    fn remember(&mut self, outcome: Outcome) {
        self.known.insert((outcome.method.clone(), outcome.id.clone(), outcome.seed));
        self.all.push(outcome);
    }
}

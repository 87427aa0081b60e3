//! The outcomes of the cases.

use std::{collections::BTreeMap, fmt::Write};

use super::{
    fixtures::is_type,
    vectors::{Check, Entry, Result},
};
use crate::{DIFFERENCES, UNNAMED};

/// The names of quirks.
pub type Quirks = Vec<&'static str>;

/// The outcome of a case.
#[derive(Debug)]
pub enum Outcome {
    /// The result is as expected.
    Passed,
    /// The result is not as expected but as documented, because of some quirks.
    Differs {
        /// The quirks that explain the difference.
        quirks: Quirks,
        /// The message of the failed comparison.
        found: String,
    },
    /// The library does not cover the case yet.
    NotCovered,
    /// The outcomes of the rows of a table.
    Rows(Rows),
}

/// The outcomes of the rows of a table.
#[derive(Debug, Default)]
pub struct Rows {
    pub passed: usize,
    pub differing: BTreeMap<&'static str, usize>,
    pub not_covered: usize,
}

impl Rows {
    /// Counts a row that differs because of a quirk.
    pub fn differs(&mut self, quirk: &'static str) {
        *self.differing.entry(quirk).or_default() += 1;
    }

    fn differ(&self) -> usize {
        self.differing.values().sum()
    }
}

/// Stands in place of a quirk: the result is as expected in every pair whose choice does not depend on rounded operands
/// of products.
pub const ROUNDED: &str = "rounded";

/// A case passes if the result is as expected, or if it differs only by [ROUNDED] choices. Otherwise `instead` must
/// hold and return the quirks.
pub fn judge(as_expected: Check, instead: impl FnOnce() -> Result<Quirks>) -> Result<Outcome> {
    let Err(found) = as_expected else { return Ok(Outcome::Passed) };
    match instead() {
        Ok(quirks) if quirks.is_empty() => Err(found),
        Ok(quirks) if quirks == [ROUNDED] => Ok(Outcome::Passed),
        Ok(quirks) => Ok(Outcome::Differs { quirks, found: found.to_string() }),
        Err(error) => Err(format!("{found}; and not as documented either: {error}").into()),
    }
}

/// The quirks of a case that are listed as differences for its kind. The case names them, or [UNNAMED] lists them for
/// one of its maskers.
pub fn listed(entry: &Entry) -> Quirks {
    let maskers = entry.maskers().unwrap_or_default();
    let unnamed = UNNAMED.iter().filter(|(masker, _)| maskers.iter().any(|config| is_type(config, masker)));
    let unnamed = unnamed.flat_map(|(_, quirks)| *quirks).collect::<Vec<_>>();
    let named = |quirk: &str| entry.quirks.iter().any(|name| name == quirk) || unnamed.contains(&&quirk);
    let listed = DIFFERENCES.iter().filter(|difference| difference.kinds.contains(&entry.kind.as_str()));
    listed.map(|difference| difference.quirk).filter(|quirk| named(quirk)).collect()
}

#[derive(Debug, Default)]
struct Kind {
    passed: usize,
    differing: usize,
    not_covered: usize,
    rows: Option<Rows>,
}

/// The outcomes of all cases.
#[derive(Debug, Default)]
pub struct Report {
    /// In the order of the manifest.
    kinds: Vec<(String, Kind)>,
    /// The numbers of cases and of table rows, by quirk.
    quirks: BTreeMap<&'static str, (usize, usize)>,
    failures: Vec<String>,
}

impl Report {
    /// Counts a case.
    pub fn add(&mut self, entry: &Entry, outcome: Result<Outcome>) {
        match outcome.and_then(|outcome| permitted(entry, outcome)) {
            Ok(outcome) => self.count(entry, outcome),
            Err(error) => {
                self.kind(entry);
                self.failures.push(format!("{} ({}): {error}", entry.name, entry.kind));
            }
        }
    }

    fn kind(&mut self, entry: &Entry) -> &mut Kind {
        let at = match self.kinds.iter().position(|(name, _)| *name == entry.kind) {
            Some(at) => at,
            None => {
                self.kinds.push((entry.kind.clone(), Kind::default()));
                self.kinds.len() - 1
            }
        };
        &mut self.kinds[at].1
    }

    fn count(&mut self, entry: &Entry, outcome: Outcome) {
        let kind = self.kind(entry);
        match outcome {
            Outcome::Passed => kind.passed += 1,
            Outcome::NotCovered => kind.not_covered += 1,
            Outcome::Differs { quirks, .. } => {
                kind.differing += 1;
                for quirk in quirks {
                    self.quirks.entry(quirk).or_default().0 += 1;
                }
            }
            Outcome::Rows(rows) => {
                match (rows.passed, rows.differ(), rows.not_covered) {
                    (0, 0, 1..) => kind.not_covered += 1,
                    (_, 0, _) => kind.passed += 1,
                    _ => kind.differing += 1,
                }
                let sum = kind.rows.get_or_insert_default();
                sum.passed += rows.passed;
                sum.not_covered += rows.not_covered;
                for (&quirk, &count) in &rows.differing {
                    *sum.differing.entry(quirk).or_default() += count;
                }
                for (quirk, count) in rows.differing {
                    let (cases, rows) = self.quirks.entry(quirk).or_default();
                    *cases += 1;
                    *rows += count;
                }
            }
        }
    }

    /// The number of cases that are as expected.
    pub fn passed(&self) -> usize {
        self.kinds.iter().map(|(_, kind)| kind.passed).sum()
    }

    /// The cases that are neither as expected nor as documented.
    pub fn failures(&self) -> &[String] {
        &self.failures
    }

    /// The failures, one per line.
    pub fn failures_text(&self) -> String {
        format!("{} failures\n  {}", self.failures.len(), self.failures.join("\n  "))
    }

    /// The table of kinds, and the differences below it.
    pub fn table(&self, backend: &str) -> String {
        let mut text = format!("\nConformance on {backend}\n\n");
        let line = |text: &mut String, name: &str, passed: &str, differing: &str, not_covered: &str| {
            writeln!(text, "{name:<32} | {passed:>8} | {differing:>20} | {not_covered:>15}").expect("a text grows");
        };
        line(&mut text, "kind", "passed", "differing on purpose", "not covered yet");
        text.push_str(&format!("{:-<33}|{:-<10}|{:-<22}|{:-<16}\n", "", "", "", ""));
        let mut sum = Kind::default();
        for (name, kind) in &self.kinds {
            let numbers = [kind.passed, kind.differing, kind.not_covered].map(|count| count.to_string());
            line(&mut text, name, &numbers[0], &numbers[1], &numbers[2]);
            if let Some(rows) = &kind.rows {
                let numbers = [rows.passed, rows.differ(), rows.not_covered].map(|count| format!("({count})"));
                line(&mut text, "  (rows of it)", &numbers[0], &numbers[1], &numbers[2]);
            }
            sum.passed += kind.passed;
            sum.differing += kind.differing;
            sum.not_covered += kind.not_covered;
        }
        let numbers = [sum.passed, sum.differing, sum.not_covered].map(|count| count.to_string());
        line(&mut text, "all", &numbers[0], &numbers[1], &numbers[2]);
        text.push_str("\nDiffering on purpose (a case can differ in several ways)\n");
        for (quirk, (cases, rows)) in &self.quirks {
            let rows = if *rows > 0 { format!(" ({rows} rows)") } else { String::new() };
            let reasons = DIFFERENCES.iter().filter(|difference| difference.quirk == *quirk);
            let reasons = reasons.map(|difference| difference.reason).collect::<Vec<_>>().join("; ");
            let count = format!("{cases}{rows}");
            writeln!(text, "{quirk} {count:>12}  {reasons}").expect("a text grows");
        }
        text
    }
}

/// Refuses a difference that the case does not name or that is not listed.
fn permitted(entry: &Entry, outcome: Outcome) -> Result<Outcome> {
    let (quirks, found) = match &outcome {
        Outcome::Passed | Outcome::NotCovered => return Ok(outcome),
        Outcome::Differs { quirks, found } => (quirks.clone(), found.clone()),
        Outcome::Rows(rows) => (rows.differing.keys().copied().collect(), format!("{:?}", rows.differing)),
    };
    let listed = listed(entry);
    match quirks.iter().find(|quirk| !listed.contains(quirk)) {
        None => Ok(outcome),
        Some(quirk) => Err(format!(
            "differs because of {quirk}, which the case or DIFFERENCES (for its kind) does not name: {found}"
        )
        .into()),
    }
}

//! The faults that were found, by property.

use std::collections::BTreeMap;

use super::generators::Kind;

/// Faults by property. For each property, the one with the shortest description is kept.
#[derive(Debug, Default)]
pub struct Report {
    faults: BTreeMap<String, Fault>,
}

#[derive(Debug)]
struct Fault {
    count: u64,
    case: u64,
    found: String,
}

impl Report {
    /// Adds a fault. Panics at different places count as different properties.
    pub fn add(&mut self, property: &str, case: u64, found: &str) {
        let place = found.split(": ").next().filter(|_| property == "no panic").unwrap_or_default();
        let fault = self.faults.entry(format!("{property} {place}").trim_end().to_owned());
        let fault = fault.or_insert_with(|| Fault { count: 0, case, found: found.to_owned() });
        fault.count += 1;
        // The shortest description is the easiest to read.
        if found.len() < fault.found.len() {
            (fault.case, fault.found) = (case, found.to_owned());
        }
    }

    /// The number of faults.
    pub fn count(&self) -> u64 {
        self.faults.values().map(|fault| fault.count).sum()
    }

    /// Whether there are no faults.
    pub fn is_empty(&self) -> bool {
        self.faults.is_empty()
    }

    /// Prints one fault of each property, with the command that repeats it.
    pub fn print(&self, kind: Kind, seed: u64) {
        println!("{}: {} faults of {} properties", kind.name(), self.count(), self.faults.len());
        for (property, Fault { count, case, found }) in &self.faults {
            println!("\n{property}: {count} times");
            println!("    --kind {} --seed {seed} --first {case} --count 1", kind.name());
            println!("    {found}");
        }
    }
}

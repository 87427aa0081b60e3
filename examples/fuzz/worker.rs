//! The process that runs cases.

use std::io::{self, Write};

use super::{Arguments, generators::caught};

/// Runs cases, and says which on the standard output: `case N` before it, and a line `property`, tab, `what was found`
/// after one that failed.
pub fn run(arguments: &Arguments, step: u64) {
    let arguments = arguments.clone();
    // With the stack of any thread, which is smaller than that of the first one.
    let worker = std::thread::spawn(move || {
        let Some(kind) = arguments.kinds().first().copied() else { return Ok(()) };
        let mut output = io::stdout().lock();
        for case in (arguments.first..arguments.first.saturating_add(arguments.count)).step_by(step as usize) {
            writeln!(output, "case {case}")?;
            output.flush()?;
            if let Err(fault) = caught(|| kind.check(arguments.seed, case)) {
                let found = fault.found.replace(['\n', '\t'], " ");
                writeln!(output, "{}\t{}", fault.property, found.chars().take(2_000).collect::<String>())?;
            }
        }
        output.flush()
    });
    // Nobody listens any more: there is nothing left to do.
    let _ended: Option<io::Result<()>> = worker.join().ok();
}

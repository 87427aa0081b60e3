//! The process that runs cases.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use super::{Arguments, generators::caught};

/// How a process ends that had a panic: what the panic left behind, as a lock that nobody can take any more, would fail
/// the cases that follow.
pub const AFTER_A_PANIC: u8 = 3;

/// Runs cases, and says which on the standard output: `case N` before it, and a line `property`, tab, `what was found`
/// after one that failed.
pub fn run(arguments: &Arguments, step: u64) -> ExitCode {
    let arguments = arguments.clone();
    // With the stack of any thread, which is smaller than that of the first one.
    let worker = std::thread::spawn(move || {
        let Some(kind) = arguments.kinds().first().copied() else { return Ok(0) };
        let mut output = io::stdout().lock();
        for case in (arguments.first..arguments.first.saturating_add(arguments.count)).step_by(step as usize) {
            writeln!(output, "case {case}")?;
            output.flush()?;
            if let Err(fault) = caught(|| kind.check(arguments.seed, case)) {
                let found = fault.found.replace(['\n', '\t'], " ");
                writeln!(output, "{}\t{}", fault.property, found.chars().take(2_000).collect::<String>())?;
                if fault.is_panic() {
                    return output.flush().map(|()| AFTER_A_PANIC);
                }
            }
        }
        output.flush().map(|()| 0)
    });
    // Where nobody listens any more there is nothing left to do.
    worker.join().map_or(ExitCode::FAILURE, |ended: io::Result<u8>| ended.map_or(ExitCode::SUCCESS, ExitCode::from))
}

//! The worker process, which runs cases.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use super::{Arguments, generators::caught};

/// The exit status after a panic. The process ends, because the state after a panic, such as a poisoned lock, would
/// make later cases fail.
pub const AFTER_A_PANIC: u8 = 3;

/// Runs cases and reports them on the standard output. The line `case N` comes before each case. A failed case is
/// followed by a line with the property, a tab, and what was found.
pub fn run(arguments: &Arguments, step: u64) -> ExitCode {
    let arguments = arguments.clone();
    // Runs on a spawned thread, whose stack is smaller than that of the main thread.
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
    // An error of the output means that the parent is gone, so nothing is left to do.
    worker.join().map_or(ExitCode::FAILURE, |ended: io::Result<u8>| ended.map_or(ExitCode::SUCCESS, ExitCode::from))
}

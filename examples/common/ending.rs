use std::{
    error::Error,
    fmt,
    io::{self, Write},
    process::ExitCode,
};

/// Arguments that are not valid. The program ends with status 2, as for arguments that cannot be parsed.
#[derive(Debug)]
pub struct Usage(pub String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Usage {}

/// The exit status after a closed pipe: 128 plus the number of the signal, as in a shell.
const CLOSED_PIPE: u8 = 128 + 13;

/// Ends the program. A closed pipe ends it without a message. Any other error is printed.
pub fn end(done: Result<(), Box<dyn Error>>) -> ExitCode {
    let Err(error) = done else { return ExitCode::SUCCESS };
    let closed = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
    if error.downcast_ref().is_some_and(closed) {
        return ExitCode::from(CLOSED_PIPE);
    }
    // If standard error cannot be written, nothing is left to report to.
    let _ = writeln!(io::stderr(), "error: {error}");
    if error.is::<Usage>() { ExitCode::from(2) } else { ExitCode::FAILURE }
}

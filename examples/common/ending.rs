use std::{
    error::Error,
    fmt,
    io::{self, Write},
    process::ExitCode,
};

/// Arguments that make no sense: the program ends with status 2, as for those that cannot be parsed.
#[derive(Debug)]
pub struct Usage(pub String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Usage {}

/// The status of a program that a closed pipe ends, 128 and the number of the signal, as a shell has it.
const CLOSED_PIPE: u8 = 128 + 13;

/// How a program ends: quietly where nobody reads its table any more, and else with the error, if there is one.
pub fn end(done: Result<(), Box<dyn Error>>) -> ExitCode {
    let Err(error) = done else { return ExitCode::SUCCESS };
    let closed = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
    if error.downcast_ref().is_some_and(closed) {
        return ExitCode::from(CLOSED_PIPE);
    }
    // There is nowhere else to say that this cannot be written.
    let _ = writeln!(io::stderr(), "error: {error}");
    if error.is::<Usage>() { ExitCode::from(2) } else { ExitCode::FAILURE }
}

//! What goes to the terminal, or to whatever stands in its place.
//!
//! Colours only reach a terminal that wants them: anstream takes them out of what goes to a file
//! or a pipe, and where `NO_COLOR` or `TERM=dumb` say so. A reader who has gone (`| head`) is no
//! error: the run has done its work all the same. A full device is one.

use crate::failure::Failure;
use std::io::{ErrorKind, Write as _};

/// Prints to standard output.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = anstream::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::new(format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Prints a line to standard error.
pub fn say(line: &str) {
    let _ = writeln!(anstream::stderr().lock(), "{line}");
}

/// Prints why the run failed.
pub fn complain(failure: &Failure) {
    say(&format!("lockword: {failure}"));
}

/// How many columns a line has.
pub fn width() -> usize {
    terminal_size::terminal_size_of(std::io::stdout())
        .map_or(WIDTH, |(width, _)| usize::from(width.0))
}

/// Columns where there is no terminal.
const WIDTH: usize = 120;

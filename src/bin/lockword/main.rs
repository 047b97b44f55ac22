//! The program `lockword`: measures locks under contention.
//!
//! [`args`] is the command line, [`mod@bench`] what measures and shows reports, [`output`] what
//! prints.

mod args;
mod bench;
mod output;

use args::{Cli, Command};
use output::printable;
use std::fmt;
use std::process::ExitCode;

fn main() -> ExitCode {
    match run() {
        Ok(outcome) => outcome.into(),
        Err(error) => {
            output::print_error(&format!("lockword: {error}"));
            ExitCode::from(EXIT_FAILED)
        }
    }
}

fn run() -> Result<ExitOutcome, CliError> {
    let Some(cli) = Cli::read()? else { return Ok(ExitOutcome::Done) };
    match cli.command {
        Command::Bench(args) => bench::bench(&args),
        Command::Compare(args) => bench::compare(&args),
        Command::Show(args) => bench::show(&args),
    }
}

/// How a run without a [`CliError`] ended. It determines the exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitOutcome {
    /// Successfully: exit status 0.
    Done,
    /// A lock has become slower than in the baseline: exit status 1.
    Regressed,
    /// Ctrl-C ended it early: exit status [`EXIT_INTERRUPTED`].
    Interrupted,
}

impl From<ExitOutcome> for ExitCode {
    fn from(outcome: ExitOutcome) -> ExitCode {
        ExitCode::from(match outcome {
            ExitOutcome::Done => 0,
            ExitOutcome::Regressed => 1,
            ExitOutcome::Interrupted => EXIT_INTERRUPTED,
        })
    }
}

/// The exit status after Ctrl-C, by the convention of shells: 128 plus the number of SIGINT.
pub const EXIT_INTERRUPTED: u8 = 130;

/// The exit status after a [`CliError`].
pub const EXIT_FAILED: u8 = 2;

/// Why the run failed, as one line for the user.
#[derive(Debug, PartialEq, Eq)]
pub struct CliError(String);

impl CliError {
    /// An error with this text. Line breaks become spaces, and other control characters are
    /// replaced (see [`printable`]).
    pub fn new(line: impl AsRef<str>) -> Self {
        let words = line.as_ref().lines().map(str::trim).filter(|line| !line.is_empty());
        CliError(printable(&words.collect::<Vec<_>>().join(" ")))
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

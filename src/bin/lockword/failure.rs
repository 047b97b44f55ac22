//! How a run ends: [`Outcome`], or a [`Failure`] told in one line.

use crate::units::printable;
use std::fmt;
use std::process::ExitCode;

/// The run did what it was asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing to complain about.
    Done,
    /// A lock has become slower than the baseline says.
    Regressed,
    /// Ctrl-C ended it early.
    Interrupted,
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> ExitCode {
        ExitCode::from(match outcome {
            Outcome::Done => 0,
            Outcome::Regressed => 1,
            Outcome::Interrupted => INTERRUPTED,
        })
    }
}

/// The exit status after Ctrl-C, as shells count: 128 and the number of SIGINT.
pub const INTERRUPTED: u8 = 130;

/// The exit status after a [`Failure`].
pub const FAILED: u8 = 2;

/// Why the run did not do what it was asked to: one line for the user.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure(String);

impl Failure {
    /// A failure with this line. Line breaks in it become spaces, and other control characters
    /// are replaced.
    pub fn new(line: impl AsRef<str>) -> Self {
        let words = line.as_ref().lines().map(str::trim).filter(|line| !line.is_empty());
        Failure(printable(&words.collect::<Vec<_>>().join(" ")))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

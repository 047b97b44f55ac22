//! The program `lockword`: runs commands under a lock, shows and breaks locks, and measures locks
//! under contention.
//!
//! [`args`] and [`lock_args`] are the command line, [`mod@exit`] has every exit status, [`output`]
//! prints. [`mod@run`] runs a command under a lock, [`admin`] has what operators use, [`gate`] is
//! fencing for shells, [`mod@seal_key`] makes keys, [`help`] makes completions and the man page, and [`mod@bench`] measures.

mod admin;
mod args;
mod audit;
mod bench;
mod engine;
mod exit;
mod gate;
mod help;
mod lock_args;
mod output;
mod run;
mod seal_key;
#[cfg(unix)]
mod ties;

use args::{Cli, Command};
use output::printable;
use std::fmt;
use std::process::ExitCode;

fn main() -> ExitCode {
    // Not for users. It comes before each command, so it does without the parsing of arguments.
    #[cfg(unix)]
    if run::guardian::is_asked_for() {
        return run::guardian::main();
    }
    match start() {
        Ok(outcome) => outcome.into(),
        Err(error) => {
            if !error.is_quiet {
                output::print_error(&format!("lockword: {error}"));
            }
            ExitCode::from(error.code)
        }
    }
}

fn start() -> Result<ExitOutcome, CliError> {
    let Some(cli) = Cli::read()? else { return Ok(ExitOutcome::Done) };
    match cli.command {
        Command::Run(args) => run::run(&args),
        Command::Status(args) => admin::status(&args),
        Command::List(args) => admin::list(&args),
        Command::Watch(args) => admin::watch(&args),
        Command::Top(args) => admin::top(&args),
        Command::Break(args) => admin::break_lock(&args),
        Command::Sweep(args) => admin::sweep(&args),
        Command::Grants(args) => admin::grants(&args),
        Command::Gate(args) => gate::gate(&args),
        Command::Audit(args) => audit::audit(&args),
        Command::SealKey(args) => seal_key::seal_key(&args),
        Command::Completions(args) => help::completions(&args),
        Command::Man(args) => help::man(&args),
        Command::Bench(args) => bench::bench(&args).map_err(CliError::of_bench),
        Command::Compare(args) => bench::compare(&args).map_err(CliError::of_bench),
        Command::Show(args) => bench::show(&args).map_err(CliError::of_bench),
    }
}

/// How a run without a [`CliError`] ended. It determines the exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitOutcome {
    /// Successfully: exit status 0.
    Done,
    /// A lock has become slower than in the baseline: exit status 1.
    Regressed,
    /// Ctrl-C ended it early: exit status [`exit::INTERRUPTED`].
    Interrupted,
    /// With the exit status of a command, or with another of [`exit`].
    With(u8),
}

impl From<ExitOutcome> for ExitCode {
    fn from(outcome: ExitOutcome) -> ExitCode {
        ExitCode::from(match outcome {
            ExitOutcome::Done => 0,
            ExitOutcome::Regressed => 1,
            ExitOutcome::Interrupted => exit::INTERRUPTED,
            ExitOutcome::With(code) => code,
        })
    }
}

/// Why the run failed, as one line for the user, and with which exit status.
#[derive(Debug, PartialEq, Eq)]
pub struct CliError {
    line: String,
    code: u8,
    /// The line is not printed.
    is_quiet: bool,
}

impl CliError {
    /// An error of `bench` and its kin with this text. Line breaks become spaces, and other control
    /// characters are replaced (see [`printable`]).
    pub fn new(line: impl AsRef<str>) -> Self {
        Self::with(exit::BENCH_FAILED, line)
    }

    /// The same with this exit status.
    pub fn with(code: u8, line: impl AsRef<str>) -> Self {
        let words = line.as_ref().lines().map(str::trim).filter(|line| !line.is_empty());
        let line = printable(&words.collect::<Vec<_>>().join(" "));
        CliError { line, code, is_quiet: false }
    }

    /// The same error with the one exit status that `bench` and its kin have for failures.
    fn of_bench(self) -> Self {
        CliError { code: exit::BENCH_FAILED, ..self }
    }

    /// The same error, which is not printed if `quiet` is set.
    pub fn quiet_if(mut self, quiet: bool) -> Self {
        self.is_quiet |= quiet;
        self
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line)
    }
}

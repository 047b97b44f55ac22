//! `lockword run`: runs a command while holding a lock.
//!
//! The story, in order:
//!
//! 1. **Acquire** ([`mod@acquire`]). A signal before the command runs ends the wait, and leaves the queue.
//!    With `--at-most-once-per` the record of the last start is looked at before the wait, and again and
//!    written under the lock ([`PeriodicJob`](lockword::cluster::periodic::PeriodicJob)).
//! 2. **Guard.** A second process, the [`guardian`], is started. It gets the deadline of the lock, and the
//!    process group of the command from the child that is about to become the command.
//! 3. **Run and watch** ([`mod@supervise`]). The command has a process group of its own, and the
//!    [`terminal`]. `run` passes [`signals`] on, stops when the command is stopped, tells the guardian each
//!    new deadline, and ends the command when the lock is lost: SIGTERM when `--grace` is left, SIGKILL at
//!    the deadline.
//! 4. **Release** when the command has ended. The exit status is the command's, unless the lock was lost
//!    before that, or `run` has ended the command lest it be lost, or the release finds another holder: then
//!    it is [`exit::LOST`](crate::exit::LOST).

#[cfg(unix)]
mod acquire;
#[cfg(unix)]
pub mod clock;
#[cfg(unix)]
pub mod guardian;
#[cfg(unix)]
mod signals;
#[cfg(unix)]
mod steps;
#[cfg(unix)]
mod supervise;
#[cfg(unix)]
mod terminal;

#[cfg(unix)]
pub use steps::run;

/// On this system there is neither a process group nor a signal to end a command by.
#[cfg(not(unix))]
pub fn run(_: &crate::lock_args::RunArgs) -> Result<crate::ExitOutcome, crate::CliError> {
    let why =
        "`lockword run` needs a Unix system, which can end a command and all that it has started";
    Err(crate::CliError::with(crate::exit::USAGE, why))
}

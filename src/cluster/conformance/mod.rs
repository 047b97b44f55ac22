//! Checks a transport, of your own too, against the [laws](super::transport).
//!
//! ```
//! use lockword::cluster::{Memory, conformance};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
//! let engine = Memory::new();
//! let report = conformance::run(move || std::future::ready(engine.clone())).await;
//! println!("{}", report.unwrap());
//! # });
//! ```
//!
//! [`run`] makes clients of the engine, has them do what the laws speak of, at the same time and with
//! futures dropped in between, and checks what they were told. It uses fresh keys that begin with
//! `lockword-conformance/`, so that it can run on an engine that is in use; it leaves their registers
//! behind.
//!
//! Not everything can be brought about through the three operations of a transport: for a deleted
//! register, a clock that steps back and an answer that is lost the caller's help is needed:
//! [`Suite::deleting`], [`Suite::stepping_back`], [`Suite::indeterminate_hook`]. What was not checked is in
//! the [`Report`].
//!
//! A suite shows that a law is broken, never that it is kept: it sees only what happened. What it says
//! is broken is broken: the checks of [`History`] admit every order that real time admits, errors
//! included.
//!
//! [`History`] and [`Recorded`] can be used alone: under a test of one's own.

// Which law the answers of one key break.
mod check;
// One client.
mod client;
// Law 2, with help.
mod deletion;
// Law 3, with help.
mod indeterminate;
// Law 6.
mod drops;
// What was asked and answered.
mod history;
// The laws, a violation, the report.
mod law;
// Whether some order explains the answers.
mod linearizable;
// Laws 1, 2 and 4 under contention.
mod race;
// Records what goes through a transport.
mod recorded;
// Laws 1, 2 and 4 step by step.
mod script;
// The shortest history.
mod shrink;
// What is run.
mod suite;
// Law 5.
mod watches;

pub use history::{Begun, Call, History, Operation, Response, Trace};
pub use law::{Law, NotChecked, Report, Violation};
pub use recorded::Recorded;
pub use suite::Suite;

use super::Transport;

/// Checks the engine whose clients `make` makes, a new one at each call, against the laws, as far as
/// that can be done without help ([`Report::not_checked`] tells the rest): see the
/// [module's documentation](self). [`Suite`] does more.
///
/// Needs a tokio runtime with its timers enabled. It takes about a second on an engine that answers
/// within a tenth of a millisecond.
///
/// # Errors
///
/// The first violation.
pub async fn run<F, Fut, T>(make: F) -> Result<Report, Violation>
where
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = T> + Send + 'static,
    T: Transport,
{
    Suite::new(make).run().await
}

//! A test suite for transports, of your own too: does an engine keep the
//! [laws](super::transport#the-laws)?
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
//! [`run`] makes several clients of the engine, has them do what the laws are about, concurrently and
//! with futures dropped at any moment, and checks their responses. An engine that declares
//! [`Wakeups::Poll`](super::Wakeups::Poll) is tested without watches.
//!
//! The suite uses fresh keys that begin with `lockword-conformance/`, so that it can run on an engine
//! that is in use. It leaves the registers of these keys behind.
//!
//! The three operations of a transport cannot delete a register, step a clock back or lose a response.
//! For the checks that need these, the caller gives a hook: [`Suite::delete_hook`],
//! [`Suite::clock_hook`], [`Suite::indeterminate_hook`]. The [`SuiteReport`] says what was not
//! checked, and why.
//!
//! The suite can show that a law is broken, not that it is kept: it covers only the runs that it made.
//! What it reports as broken is broken. The checks of a [`History`] admit every order of operations that
//! real time admits, errors included.
//!
//! [`History`] can be used alone, too, with a [`Recorder`] in a test of your own.
//!
//! # A hook that loses responses
//!
//! Law 3 is about a write whose response is lost. A hook for it needs a fault between the client and
//! the engine. The simplest one is a TCP proxy that each client connects through:
//!
//! 1. Start a listener on `127.0.0.1:0` for each client. For each connection that it accepts, connect
//!    to the engine and copy bytes in both directions.
//! 2. Give the proxy a switch with three positions: off; *lose the response*: pass on what the client
//!    sends, and close both connections at the first byte that the engine sends; *lose the request*:
//!    close both connections at the first byte that the client sends. It falls back to off when it has
//!    closed a connection.
//! 3. The hook sets the switch of the client that it is given to either of the two, at random, and
//!    returns. The suite then makes the write, through that client.
//!
//! The client must return [`TransportError::Indeterminate`](super::TransportError::Indeterminate) for
//! both: it cannot tell them apart. What the hook most often finds is a client library that sends the
//! request again on a new connection. The second request ends with a mismatch, although the first one was
//! applied.
//!
//! An engine inside the process has no connection to cut. There the hook uses a fault layer,
//! [`Faulty`](super::layers::Faulty), which loses the request or the response of the next write, or
//! applies that write late:
//!
//! ```
//! use lockword::cluster::Memory;
//! use lockword::cluster::conformance::{Law, Suite};
//! use lockword::cluster::layers::{Faulty, Plan};
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
//! # .block_on(async {
//! let engine = Memory::new();
//! let plan = Plan { timeout: Duration::from_millis(50), ..Plan::default() };
//! let make = move || std::future::ready(Faulty::new(engine.clone(), plan.clone(), 1));
//! let hook = |client: Arc<Faulty<Memory>>, _key| {
//!     match fastrand::u8(..3) {
//!         0 => client.faults().lose_next_request(),
//!         1 => client.faults().lose_next_response(),
//!         _ => client.faults().delay_next_write(),
//!     }
//!     std::future::ready(())
//! };
//! let report = Suite::new(make).rounds(4).indeterminate_hook(hook).run().await.unwrap();
//! assert!(report.checked.contains(&Law::Indeterminate));
//! # });
//! ```

mod checker;
mod checks;
mod history;
mod suite;

pub use history::{History, Invocation, KeyHistory, Operation, OperationId, Recorder, Response};
pub use suite::{Law, NotChecked, Suite, SuiteReport, Violation, run};

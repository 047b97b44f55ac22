//! One lock, shared by many nodes.
//!
//! A node is one member of the cluster: a [`Node`], usually one for each process. Threads and tasks
//! of many nodes share a lock by its name, a [`Key`]. The state of the lock is one small versioned
//! value, the *register* of the key, in an engine that the nodes share. Any engine with a
//! compare-and-swap will do. If it can notify, waiting nodes sleep; if not, they poll. A node uses it
//! by the three operations of a [`Transport`]. [`connect`] makes one from an address; [`Memory`] is the
//! in-memory engine, for the nodes of one process: for tests and first steps.
//!
//! ```rust
//! use lockword::cluster::{Memory, Node};
//! use std::time::Duration;
//!
//! # async fn write_to_storage(_: lockword::cluster::FencingToken) {}
//! # async fn work() {}
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let node = Node::builder(Memory::new()).lease(Duration::from_secs(10)).build()?;
//! let lock = node.lock("jobs/nightly")?;
//!
//! let guard = lock.acquire().await?;
//! write_to_storage(guard.token()).await;
//! tokio::select! {
//!     _ = work() => {}
//!     _ = guard.lost() => { /* stop at once */ }
//! }
//! guard.release().await?; // An error if the lock was lost before.
//! # Ok(())
//! # }
//! ```
//!
//! Plain threads use [`Node::blocking`], and need no runtime. Tasks and threads wait in the same
//! queue.
//!
//! # How it works
//!
//! The lock is acquired like a [`Mutex`](crate::Mutex), at a distance: by one compare-and-swap if it
//! is free and the node knows its version, else by two. If it is not free, the node adds itself to
//! the queue, which is a part of the register, subscribes to changes of the register, and sleeps.
//!
//! One term is needed to read the diagram: the *heartbeat* is a number in the register that changes with every
//! write of the holder, and whenever the holder changes.
//!
//! Each arrow is one compare-and-swap, and `v1` to `v6` are the versions of the register. An arrow
//! `--->` is a write that succeeds, and `--x` one that fails because it expects an older version.
//!
//! ```text
//!  node A                          register                     node B
//!    |                                |                            |
//!    | A holds ---------------------> v1                           |
//!    |                                v1 x--------------- B holds  |  mismatch: B gets v1
//!    |                                v2 <------ A holds, B waits  |  B subscribes, and sleeps
//!    | A holds (renewal) -----------x v2                           |  mismatch: A gets v2
//!    | A holds (renewal) -----------> v3                           |  the heartbeat moves
//!    |   works                        |                            |
//!    | B holds (handoff) -----------> v4                           |  the engine wakes B: token of v4
//!    |                                |                    B dies  x
//!    | B holds, A waits ------------> v5
//!    |   the heartbeat does not move  |
//!    |   for B's handoff lease        |
//!    | A holds ---------------------> v6                              token of v6, which is larger
//! ```
//!
//! - **Direct handoff.** The write that releases the lock names the first node in the queue as the holder, with
//!   that node's [handoff lease](NodeBuilder::handoff_lease), a quarter of its lease by default. The node holds the lock as
//!   soon as it hears of that: one write and one notice lie between a release and the next grant, and a read where the
//!   engine's notices are [hints](transport#answers-and-hints). It renews after a third of that time, and has
//!   its whole lease from then on. Until then an engine that does not respond for half of the handoff lease
//!   may cost it the lock, so choose one that is more than twice as long as the pauses that you expect. A node that has not had an answer
//!   of the engine for half of the handoff lease writes once more before it holds the lock; so do all nodes on
//!   platforms whose clock may stand still during a suspend. Why that is safe: the deadline of the node that was handed the lock counts from the sending of its latest request whose
//!   answer showed another holder. The handoff was written later, and those who observe the holder count from
//!   when they see it.
//! - **Fairness.** Nodes get the lock in the order in which they joined the queue, except past a
//!   node that is dead. A turn of a node that waits takes two writes, whatever the number of nodes: join and
//!   release; and a third one if it lasts for longer than a third of the handoff lease.
//!   A join that collides with another write is repeated. If nobody waits, an acquisition takes two requests in all, one
//!   to get the lock and one to release it. It takes three if another node had the lock last, or if
//!   the node kept no [`DistributedLock`] of the key, which is what remembers the version. To join
//!   the queue a node needs a moment in which the register does not change for a round trip. Where
//!   nodes hold the lock for less than that and want it again at once, one of them has it several
//!   times in a row before the next one gets in.
//! - **Local first.** Threads and tasks of one node queue in the process. While others of the same
//!   node wait, the lock is handed to them without a message. Once another node waits, that ends at
//!   bounds that the [`NodeBuilder`] sets.
//! - **Dead holders.** A holder is taken for dead when its heartbeat has not changed for the length
//!   of its lease, plus an allowance for the errors of clocks. Waiting nodes measure that on their own
//!   clocks. No decision of a node depends on a wall clock. A node
//!   remembers what it saw for two leases, unless it has looked at 10,000 other keys since. So
//!   repeated attempts find a dead holder; a program that tries once and ends uses
//!   [`try_acquire_or_outlast`](DistributedLock::try_acquire_or_outlast).
//! - **Hung callers.** A future that is not polled keeps no lock from others: what it was granted is
//!   passed on. Code that hangs with a guard does, unless its lock was made by
//!   [`hold_at_most`](DistributedLock::hold_at_most).
//! - **Dead waiters.** If the lock is handed to a node that is dead, the next node in the queue takes it after
//!   the dead one's [handoff lease](NodeBuilder::handoff_lease). Each dead node behind that one costs a
//!   [claim window](NodeBuilder::claim_window), and after four such nodes in a row the rest of them cost only a
//!   window for twice as many.
//! - **Overload.** A node limits its requests in flight, and finds the limit as TCP does: it grows while responses
//!   come within a quarter of the [request timeout](NodeBuilder::request_timeout), is halved by one that comes later or
//!   fails for now, and is 16 at least. Keys that may not send are queued. First come releases and renewals of
//!   leases of which half is over, then the requests of keys in whose queue the node is next or was woken, then, within a
//!   quarter of the limit, all others. At `w` writes a second and a lease of `l` a node alone gets about `w * l / 2` locks (2,500 at
//!   500 and 10 s) and keeps them while the engine stays as fast. An acquisition that was queued
//!   for the [unavailable timeout](NodeBuilder::unavailable_timeout) fails with [`LockError::Transport`], whose text
//!   begins with "overload": use fewer locks at a time, longer leases or a faster engine. Several nodes get about equal
//!   shares of an engine, whatever each of them holds. So plan for half of that number, in all nodes together.
//! - **Where it runs.** The background tasks of nodes, and the connections of the engines of this crate,
//!   are on one thread of the process, so a caller that blocks its own thread between calls does not delay
//!   renewals. (An [`Observer`] or a [`Transport`] that blocks does.) If the background task
//!   sleeps, the thread of a caller runs its next step, which saves two changes of threads. While a
//!   debugger or the scheduler stops the caller within such a step, the node renews nothing; nor does any
//!   node of the process if the caller has locked a mutex for which the thread of the nodes waits.
//!   [`NodeBuilder::runtime`] puts a node elsewhere, and [`connect_on`] its connections: on the runtime of
//!   the callers a request costs no change of threads, which is a seventh to a third of its time with a
//!   server nearby.
//! - **Writes of unknown outcome.** A write without a response may have been applied or not. The
//!   node does not guess: it writes again until the version has changed, and then undoes what is
//!   not wanted any more.
//!
//! For more locks than one engine serves, [`layers::Sharded`] spreads the keys over several. With the
//! feature `sealed`, `layers::Sealed` keeps names and values from whoever runs the engine.
//!
//! ## The end of the process
//!
//! At the end of a program, call `release().await` for each guard, or [`Node::shutdown`]: only they tell whether the
//! lock was held until then. A guard or a node that was dropped before is released too, on a Unix and if the node is on
//! the thread of the process: its end (`exit`, or the return of `main`) waits for the engine, for a quarter of a
//! second at most. A guard that still exists when the process ends (or the runtime that was given by
//! [`NodeBuilder::runtime`]) is released by nobody, and other nodes wait for the end of its lease; so they do for a
//! process that is killed (the default action of SIGTERM and SIGINT, too), aborts or calls `_exit`. A caller that still waits
//! leaves its place in the queue behind, which costs the others its [handoff lease](NodeBuilder::handoff_lease). Connections that
//! live on a runtime of yours ([`connect_on`]), and a [`Transport`] of yours that needs one, are gone when that runtime
//! is: then nothing is written, and the quarter of a second passes in vain. `exit` must not be called in a handler of
//! a signal.
//!
//! # What is guaranteed
//!
//! The guarantees hold while the engine keeps its [laws](transport), clocks are as good as is assumed
//! [below](self#clocks), no node is [copied](self#copies-of-a-node), and no operator breaks a lock:
//!
//! - **Exclusion.** At any moment, at most one guard of a key is
//!   [valid](DistributedGuard::is_valid), in all nodes, threads and tasks. A guard goes by its own
//!   deadline and the clock of its node. It needs no network to know that it has lost the lock.
//! - **Tokens.** [Fencing tokens](FencingToken) strictly increase in the order of grants, for as
//!   long as the versions of the key increase in the engine.
//! - **Progress.** If every holder releases, dies or reaches its limit, and the register is at times
//!   unchanged for a round trip, each caller of [`acquire`](DistributedLock::acquire) gets the lock or an
//!   error. A holder that renews for ever keeps it for ever.
//! - **Cancellation.** Any future or guard may be dropped at any moment. That leaves neither a held
//!   lock nor a place in the queue, as soon as the engine can be reached, while the node and its
//!   runtime exist.
//!
//! ## Clocks
//!
//! A holder stops a part `a_h` of its lease early, and an observer waits for a part `a_o` longer. If
//! the rates of their clocks are wrong by up to `r_h` and `r_o`, exclusion needs
//! `(1 - a_h) / (1 - r_h) <= (1 + a_o) / (1 + r_o)`: the holder's clock may be slow, the observer's
//! fast. Each node allows for the error of its own clock (`a = r`). Then the left side is at most 1 and
//! the right side at least 1, and the two nodes may run on different platforms:
//!
//! | platform | clock | assumed error of the rate, and allowance | plus, for the reading |
//! |---|---|---|---|
//! | Linux, Android | `CLOCK_MONOTONIC_RAW` and the time of suspend | 1 % of the lease | 2 ms |
//! | others | that of [`std::time::Instant`] | 10 % of the lease | |
//!
//! On Linux time synchronization does not change the rate: chrony slews the other clocks by up to
//! 8.3 % by default, and adjtimex(2) permits 10 %. The 2 ms are for the reading of the clock: the time
//! of suspend is taken anew only when it has grown by a millisecond. On other platforms the clock may
//! be slewed by up to 10 %, and stands still during a suspend (on some).
//!
//! ## Copies of a node
//!
//! Two processes can have the state of one node: when a snapshot of a machine is resumed twice, or after a
//! bare `fork` system call that runs no handlers of `pthread_atfork`. (Any other `fork` is noticed, and
//! makes no copy: what the child has is [closed at once](self#what-is-not-guaranteed).) Both hold what the
//! node held, with equal tokens, until their next renewal, which is after a third of the lease at the
//! latest. One at most outlives it: the other finds a heartbeat in the register that it did not write, and
//! loses the lock ([`LossReason::Copied`]). A copy that does not renew, since it has no thread for that
//! after a bare `fork`, loses the lock at its deadline. No copy can be told from the other before that, by
//! anybody. From then on they are two nodes with one [number](Node::id).
//!
//! When one of two copies that hold the lock releases it, a third node may hold it too, with a larger token,
//! until the other copy sees the loss.
//!
//! Copies of a node that waits for the lock have one place in the queue. If the lock is handed to them, both hold
//! it until the first of them has renewed, which is within a third of a handoff lease; the rest is as above. If
//! one has written before the other one sees the handoff, they exclude each other, as two nodes do. A copy
//! that is made while the write that takes the lock is under way counts as one of a node that holds the lock.
//!
//! What copies draw at random differs, since each claim and each heartbeat comes from the kernel when it is
//! needed, mixed with the time. The kernel reseeds its random numbers when the hypervisor reports a copied
//! machine (vmgenid). Where it does not, the time that is mixed in makes the numbers differ.
//!
//! # What is not guaranteed
//!
//! **A lease alone gives no mutual exclusion.** A program checks that its guard is valid, and then
//! writes to the storage. Between the two its thread may be paused for longer than the lease, and
//! another node may get the lock. No lock service can prevent that. Only the storage can: it
//! remembers the largest token that it has seen, and refuses smaller ones. The module [`fence`] has
//! the few lines of code for that, and an example of such a failure.
//!
//! - [`Node::break_lock`] takes a lock from a holder that may be alive. Until the holder sees the
//!   loss, two nodes hold the lock.
//! - The time for which a machine is suspended is counted only on Linux, and a virtual machine that
//!   is paused counts no time at all. After such a pause a guard stays valid until its deadline by
//!   its own clock, although other nodes have waited longer; and a node that was handed the lock before the
//!   pause may begin to hold it after that, unless it writes first
//!   ([`hold_at_once`](NodeBuilder::hold_at_once)). The token protects the storage here too.
//! - An engine that can lose acknowledged writes says so in its [`Capabilities`]. After such a loss
//!   two nodes can hold the lock, and tokens can repeat. So it is with any engine that is restored from
//!   a backup; a node that has seen a later state
//!   [notices that](transport#an-engine-that-goes-back).
//! - A lock is not reentrant. A task that acquires a lock which it holds waits for itself. Use
//!   [`acquire_timeout`](DistributedLock::acquire_timeout) where that may happen.
//! - The queue orders nodes, and a node as a whole has one place in it. Within a node the order is about
//!   that of the calls: see [`DistributedLock`].
//! - After a `fork`, the child has no part in the nodes of its parent. Its copies of their guards are
//!   lost from the start, and every call ends at once with [`LockError::Closed`], or with
//!   [`LossReason::Closed`] and an empty report. The parent goes on as if nothing had happened. Nodes,
//!   guards and the engines' transports may be dropped in the child, where that does nothing; a runtime of
//!   the parent must not be. The child can connect and build a [`Node`] of its own. A child that is made
//!   by the bare system call, without the handlers of `pthread_atfork`, is not noticed.
//!
//! # Examples
//!
//! Ten workers on three nodes count to a hundred with a variable that only the lock protects:
//!
//! ```rust
//! use lockword::cluster::{Memory, Node};
//! use std::sync::Arc;
//! use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let engine = Memory::new();
//! let nodes = (0..3)
//!     .map(|_| Node::builder(engine.clone()).build())
//!     .collect::<Result<Vec<_>, _>>()?;
//! let count = Arc::new(AtomicU64::new(0));
//! let mut workers = Vec::new();
//! for worker in 0..10 {
//!     let (lock, count) = (nodes[worker % 3].lock("counter")?, count.clone());
//!     workers.push(tokio::spawn(async move {
//!         for _ in 0..10 {
//!             let guard = lock.acquire().await.expect("memory does not fail");
//!             let seen = count.load(Relaxed);
//!             tokio::task::yield_now().await; // Without the lock, others would write here.
//!             count.store(seen + 1, Relaxed);
//!             guard.release().await.expect("it was held");
//!         }
//!     }));
//! }
//! for worker in workers {
//!     worker.await?;
//! }
//! assert_eq!(count.load(Relaxed), 100);
//! # Ok(())
//! # }
//! ```
//!
//! To elect a leader that the others find, use [`election`]. For a job that runs at most once in a period, although every
//! node starts it, use [`periodic`].
//!
//! A job that is repeated until it has succeeded, and whose effects count once. The lock alone cannot do that, since
//! a node that starts late finds it free. The storage has to record what is done, and check the
//! token:
//!
//! ```rust
//! use lockword::cluster::fence::{Gate, Stale};
//! use lockword::cluster::{FencingToken, Key, Memory, Node};
//! use std::sync::Mutex;
//!
//! /// The storage: it records which days are done, and refuses late writers.
//! struct Ledger { key: Key, gate: Gate, done: Mutex<Vec<String>> }
//!
//! impl Ledger {
//!     /// A read with the token: from here on, no earlier holder can write.
//!     fn is_done(&self, day: &str, token: FencingToken) -> Result<bool, Stale> {
//!         let done = self.done.lock().unwrap();
//!         self.gate.pass(&self.key, token)?;
//!         Ok(done.iter().any(|done| done == day))
//!     }
//!     fn mark(&self, day: &str, token: FencingToken) -> Result<(), Stale> {
//!         let mut done = self.done.lock().unwrap();
//!         self.gate.pass(&self.key, token)?;
//!         done.push(day.to_owned());
//!         Ok(())
//!     }
//! }
//!
//! type AnyError = Box<dyn std::error::Error>;
//!
//! async fn nightly(node: &Node, ledger: &Ledger, day: &str) -> Result<bool, AnyError> {
//!     let guard = node.lock(&ledger.key)?.acquire().await?;
//!     let runs = !ledger.is_done(day, guard.token())?;
//!     if runs {
//!         // The job itself. If this node is paused here for longer than the lease, another node
//!         // runs the job a second time; only what is written with the token counts once.
//!         ledger.mark(day, guard.token())?;
//!     }
//!     guard.release().await?;
//!     Ok(runs)
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let engine = Memory::new();
//! let key = Key::new("jobs/nightly")?;
//! let ledger = Ledger { key, gate: Gate::new(), done: Mutex::default() };
//! let (a, b) = (Node::builder(engine.clone()).build()?, Node::builder(engine).build()?);
//! assert!(nightly(&a, &ledger, "2026-11-25").await?);
//! assert!(!nightly(&b, &ledger, "2026-11-25").await?);
//! # Ok(())
//! # }
//! ```
//!
//! # Operation
//!
//! - [`Node::inspect`] shows who holds a key and who waits for it, without taking part, and
//!   [`Node::list`] which keys there are. [`Node::observe`] follows a key, and a holder can
//!   [publish](DistributedGuard::publish) a text for those who do.
//! - [`Node::break_lock`] takes a lock from its holder, on the explicit demand of an operator.
//! - An [`Observer`] is called for each grant, renewal, loss and request.
//! - With the feature `metrics`, the crate `metrics` gets counters, gauges and histograms of the same events: a table is
//!   in the module `metrics`, and an example with an endpoint for Prometheus in `tests/examples/prometheus.rs`.
//! - With the feature `tracing`, the crate `tracing` gets a span `acquire` for each wait and a span `hold` for each guard,
//!   with what happened in them as events. The target is `lockword`; times are in microseconds (`waited_us`, `held_us`,
//!   `took_us`, `left_us`) and tokens are numbers. `tests/examples/opentelemetry.rs` exports them.
//! - With the feature `audit`, an observer writes who had which lock and who broke it, line by line in a chain of hashes:
//!   see the module `audit`.
//! - [`Node::health`] says whether the engine responds, the watches are in force and the background task is in time.
//! - The register is JSON, so the engine's own tools show it.

#[cfg(fuzzing)]
#[doc(hidden)]
pub mod __fuzz;
mod admin;
mod background;
pub mod blocking;
mod builder;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod election;
pub mod engines;
mod error;
#[cfg(unix)]
mod exit;
pub mod fence;
mod guard;
mod health;
mod key;
mod label;
pub mod layers;
mod local;
mod lock;
mod node;
mod observe;
mod observer;
pub mod periodic;
mod process;
mod protocol;
#[cfg(test)]
mod sim;
mod text;
pub mod transport;

pub use admin::{ForcedRelease, KeyState, LastBreak, LockStatus, QueuedNode};
pub use async_trait::async_trait;
pub use builder::NodeBuilder;
#[cfg(unix)]
pub use engines::Dir;
pub use engines::{ConnectError, Memory, connect, connect_on};
pub use error::{ConfigError, LockContext, LockError, PublishError, ReleaseError};
pub use fence::FencingToken;
pub use guard::{AcquiredVia, DistributedGuard, LossReason};
pub use health::Health;
pub use key::{Key, KeyError};
pub use label::Label;
pub use lock::DistributedLock;
pub use node::{Node, Shutdown};
pub use observe::KeyStates;
#[cfg(feature = "audit")]
pub use observer::audit;
#[cfg(feature = "metrics")]
pub use observer::metrics;
pub use observer::{Hold, Observer, ReleaseOutcome, RemoteOperation};
pub use protocol::Unreadable;
pub use transport::{
    Capabilities, Cause, Consistency, Exchange, NodeId, Notices, Transport, TransportError,
    Version, Versioned, Wake, Wakeups, Watch, Write,
};

//! A mutex whose whole state is one byte, and the same lock shared by many nodes.
//!
//! The byte is the lock word L(t): 0 while the lock is free, 1 while it is held. It is acquired by one
//! compare-and-swap and released by one plain store. Whether anyone waits is not in the lock. It is in
//! a static table that all locks share, so a `Mutex<()>` takes 1 byte, a `Mutex<u32>` takes 8, `new` is
//! `const`, and nothing is allocated per lock. A waiter that was passed over is handed the lock.
//!
//! ```
//! use lockword::Mutex;
//!
//! static COUNTER: Mutex<u64> = Mutex::new(0);
//!
//! std::thread::scope(|s| {
//!     for _ in 0..10 {
//!         s.spawn(|| (0..1000).for_each(|_| *COUNTER.lock() += 1));
//!     }
//! });
//! assert_eq!(*COUNTER.lock(), 10_000);
//! ```
//!
//! # What is here
//!
//! - **At the root**: [`Mutex`], [`ReentrantMutex`], their guards (mapped ones too) and [`Condvar`],
//!   without poisoning; and [`SendMutex`], whose guards may move to another thread. They are made with
//!   the crate [`lock_api`] (0.5), which is re-exported.
//! - [`RawLock`] and [`RawSendLock`]: the lock without data, for generic code over `lock_api`'s
//!   `RawMutex`, `RawMutexFair` and `RawMutexTimed`.
//! - [`sync`]: a drop-in replacement for [`std::sync`], with std's methods, std's poisoning and std's
//!   error types. [`migration`] tells how to come from std and from `parking_lot`, and when not to.
//! - `contention` (feature `contention`): measures locks, yours too, under a load of your own.
//! - `cluster` (feature `cluster`): a lock shared by processes and machines under a name, over any
//!   engine that has a compare-and-swap, with leases and fencing tokens.
//! - `lockword` (feature `cli`): a program that measures locks.
//!
//! # Guarantees
//!
//! These hold for the locks in the process. The page of `cluster` has its own.
//!
//! - **Mutual exclusion.** At most one thread holds a lock at a time. What a holder did happens before
//!   what the next holder does, however that one got the lock.
//! - **Destruction after unlock.** A thread that holds the lock may free its memory as soon as it has
//!   released it, if no other thread uses the lock by then. The unlock of an earlier holder that is
//!   still running does not touch the memory.
//! - **Bounded waiting.** Waiters are woken in the order in which they parked. A waiter that an unlock
//!   has woken can be passed over for the time of one wake-up: until it runs, plus 15 to 60 us of
//!   spinning. Then it is a *starving waiter*. Parked starving waiters are handed the lock in the order
//!   of their first wait. At least one of them is handed the lock every 500 us, or every one or two
//!   critical sections if that is longer, and at most one every 150 us. So the longest wait grows with
//!   the number of waiters ahead, not with the eagerness of other threads. An awake waiter that will
//!   try the lock after the next unlock is the *designated waker*; while there is one, unlocks wake
//!   nobody. Where two contended locks share a bucket of the table, they share its designated waker and
//!   its memory of starving waiters: handoffs may be more frequent, and a turn can take longer. A timed
//!   wait that gives up loses its place.
//! - **Fair unlock on request.** When `MutexGuard::unlock_fair` returns, a waiter holds the lock, if
//!   one was parked.
//! - **Condvar.** There are no spurious wake-ups: `wait` returns only after a notification meant for
//!   that thread. `notify_one` wakes the thread that has waited longest.
//! - **Timeouts.** A timeout of zero and a deadline in the past mean one try; `Duration::MAX` means no
//!   timeout.
//! - **Panics and leaks.** A panic under the lock unlocks it and leaves the data as it is; only
//!   [`sync`] poisons. A forgotten guard leaves the lock held for ever; to move or drop that lock is
//!   sound.
//! - **Threads.** A guard is not `Send`, as those of std and `parking_lot` are not, and cannot be held
//!   across an `.await` of a task that must be `Send`. The guard of a [`SendMutex`] is `Send` if its
//!   data is; it may be dropped in any thread.
//!
//! Not guaranteed:
//!
//! - **A bound in real time, or against the scheduler.** If the scheduler does not run the holder or
//!   the designated waker, the others wait or are passed over. One unlock in 64, chosen at random,
//!   checks for such a waiter, and the second check may be the one that acts: that is about 128
//!   critical sections, or 0.1 s with sections of 1 ms. There is no priority inheritance.
//! - **The order of the queue where the kernel refuses the barrier** (see Platforms). Parked threads
//!   lose their place whenever they wake to try the lock.
//! - **The order of arrival.** Threads that spin are not in the queue. They may overtake parked ones,
//!   for at most about 500 us before one of the queue is let in.
//!
//! # Limits
//!
//! - A lock of this crate must not be used inside a global allocator, since parking may allocate, nor
//!   in a signal handler. Both limits come from `parking_lot_core`.
//! - Two copies of the crate in one process, or a lock shared across a `cdylib` boundary, have two
//!   tables and do not find each other's waiters, and number threads each for itself. They must not
//!   share a lock: wake-ups would be lost, and a `ReentrantMutex` could take one thread for another.
//! - The locks are not for memory that processes share.
//! - A thread that sleeps for long on one lock makes unlocks of all locks in the same bucket (1 in 256
//!   of the others) take the slow path.
//! - `notify_all` wakes all waiters at once; it does not move them to the queue of the mutex.
//! - Rust's memory model has no asymmetric fence. That the barrier suffices is a fact about compiler,
//!   kernel and processor (`src/barrier.rs` has the argument, and a litmus test checks it on the
//!   hardware). `--cfg lockword_symmetric` uses ordinary fences instead.
//!
//! **Fork.** A handler runs in the child (`pthread_atfork`, registered before the first park, or by
//! [`init`]) and forgets the waiters, which do not exist there. A lock that was free, or held by the
//! forking thread, works in the child; one that another thread held stays held for ever. Threads of the
//! child park in a small parking lot of the crate's own, since `parking_lot_core`'s was copied with the
//! dead threads in it. `vfork`, `_Fork` and a raw `clone` run no handler, nor does a `fork` that began
//! before the handler was registered. A child of a process in which no thread has ever parked for a
//! lock or Condvar of this crate, and which has not called [`init`], parks in `parking_lot_core`'s
//! table as it finds it: if other users of that table (`parking_lot`, for one) may have threads parked
//! at the fork, call [`init`] before.
//!
//! # Platforms
//!
//! An unlock has to notice a thread that is about to park. So that this costs an unlock no fence, the
//! parking thread makes the kernel run a memory barrier on all threads of the process.
//!
//! | platform | barrier | what is checked |
//! |---|---|---|
//! | Linux on x86-64 | `membarrier` (private expedited; Linux 4.14) | all tests run (glibc); musl is type-checked |
//! | the same, where the kernel or a seccomp filter refuses it | fences from then on; parked threads wake at least every 4 ms and try the lock | a test with a filter runs |
//! | Linux on AArch64 and x86; Android | `membarrier` | AArch64 Linux and i686 are type-checked, Android is not |
//! | Windows on x86-64, x86 and AArch64 | `FlushProcessWriteBuffers` | x86-64 is type-checked |
//! | macOS, FreeBSD, WebAssembly, all others | fences on both sides | AArch64 macOS, x86-64 FreeBSD and `wasm32-unknown-unknown` are type-checked |
//! | any, with `--cfg lockword_symmetric` | fences on both sides | all tests but the assembly test run on x86-64 Linux |
//!
//! With fences each unlock costs one fence more. Without 64-bit atomics there is no designated waker:
//! unlocks wake more threads than needed, and a woken waiter is not handed the lock while it is awake.
//! On `wasm32-unknown-unknown` without threads, a `lock` that would have to wait panics.
//!
//! The first thread that parks registers the process with the kernel, which can take some milliseconds
//! in a process that has threads already. [`init`] does this in advance; calling it is optional.
//!
//! In a full CI run Windows and WebAssembly are type-checked always, the other targets in turn: two of
//! them in each run.
//!
//! `cluster` runs where tokio does (all of these but `wasm32-unknown-unknown`), and is tested on x86-64
//! Linux. On Linux its clock includes time in suspend. Elsewhere it does not, and only the fencing
//! token helps after a suspension.
//!
//! The crate needs the standard library and Rust 1.95 or later.
//!
//! # Features
//!
//! All are off by default. The default build needs no C compiler.
//!
//! | feature | adds |
//! |---|---|
//! | `arc_lock` | guards that own an `Arc` of their lock |
//! | `serde` | `Serialize` and `Deserialize` for the mutexes, `sync::Mutex` too |
//! | `contention` | the module `contention` |
//! | `peers` | `contention::peers`, the locks of other crates to compare with; the benches need it |
//! | `cluster` | the module `cluster` with its in-memory engine; brings tokio |
//! | `etcd`, `postgres`, `redis` | engines for `cluster`; the build needs a C compiler (for `ring`), that of `etcd` also `protoc` |
//! | `conformance` | `cluster::conformance`, the suite that checks an engine |
//! | `tracing` | spans and events of `cluster`, for the crate `tracing` |
//! | `cli` | the program `lockword` |
//! | `engine_peers` | another crate's lock on Redis, for the bench `engines` to compare with; adds nothing to the API |

#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(docsrs, doc(auto_cfg(hide(lockword_loom))))]

#[cfg(not(lockword_loom))]
#[doc = include_str!("migration.md")]
pub mod migration {}

mod barrier;
#[cfg(all(feature = "cluster", not(lockword_loom)))]
pub mod cluster;
#[cfg(doctest)]
mod compile_fail;
mod condvar;
#[cfg(all(feature = "contention", not(lockword_loom)))]
pub mod contention;
mod duty;
mod fork;
mod lobby;
#[cfg(not(lockword_loom))]
mod mutex;
mod park;
mod primitive;
mod queue;
mod raw;
mod spin;
mod stamp;
#[cfg(not(lockword_loom))]
pub mod sync;
mod word;

/// The examples of the README. One of them is about the cluster.
#[cfg(all(doctest, feature = "cluster"))]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;

#[cfg(all(test, not(lockword_loom)))]
mod litmus;
#[cfg(all(test, lockword_loom))]
mod models;

#[cfg(not(lockword_loom))]
pub use condvar::*;
#[cfg(not(lockword_loom))]
pub use mutex::*;
pub use raw::RawLock;

/// The crate that the guards come from: its traits are for code that is generic over locks.
#[cfg(not(lockword_loom))]
#[doc(no_inline)]
pub use lock_api;

/// Gets ready for the first contended lock: registers the process with the kernel for the
/// barrier of the slow path, and the handlers for `fork`.
///
/// Calling it is optional. Without it, the first thread that ever parks registers, which can take
/// some milliseconds in a process that has threads already. If such a delay matters, call it early
/// in `main`, before threads are started. It cannot fail: where the kernel refuses, locks work by
/// other means (see the platform table in the [crate documentation](crate)). A second call changes nothing.
///
/// Call it also before a `fork`, if other users of `parking_lot_core` (`parking_lot`, for one) may
/// have threads parked then: a child whose parent never registered parks in their table, in which
/// those threads remain.
#[cfg(not(lockword_loom))]
pub fn init() {
    fork::watch();
    lobby::prepare();
}

/// The state of the bucket of an address, for tests and benches. Not part of the API.
#[cfg(not(lockword_loom))]
#[doc(hidden)]
pub use lobby::{BucketState as __BucketState, state as __bucket};

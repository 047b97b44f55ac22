//! A mutex whose whole state is one byte, also one that many nodes share, and a reader-writer lock.
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
//! - [`RwLock`], whose readers run no locked instruction where it is read often and written seldom; [`SendRwLock`], whose guards
//!   may move to another thread; [`RecursiveRwLock`], and the trait [`ReadRecursive`], for threads that read while
//!   they read. The page of [`RwLock`] tells when a `Mutex` is the better choice.
//! - [`FairMutex`], whose every unlock hands over.
//! - [`RawLock`], [`RawSendLock`], [`RawFairLock`], [`RawRwLock`] and its relatives: the locks without data, for
//!   generic code over `lock_api`'s `RawMutex`, `RawRwLock` and their kin.
//! - [`sync`]: a drop-in replacement for [`std::sync`], with std's methods, std's poisoning and std's
//!   error types. [`migration`] tells how to come from std and from `parking_lot`, and when not to.
//! - `debug` (feature `deadlock_detection`): finds deadlocks, and orders of locks that can become one.
//! - `contention` (feature `contention`): measures locks, yours too, under a load of your own.
//! - `profile` (feature `profile`): where the threads of your program wait for its locks, for how long, and behind whom.
//! - `cluster` (feature `cluster`): a lock shared by processes and machines under a name, over any
//!   engine that has a compare-and-swap, with leases and fencing tokens.
//! - `lockword` (feature `cli`): a program that runs commands under a lock, shows who holds it, and measures locks.
//!
//! # Guarantees
//!
//! These hold for the locks in the process. The page of `cluster` has its own.
//!
//! - **Mutual exclusion.** At most one thread holds a lock at a time; of a [`RwLock`], one writer or any number of
//!   readers, of which one may be upgradable. What a holder did happens before what the next holder does, however
//!   that one got the lock. (Readers at the same time see what the writers before them did.)
//! - **Destruction after unlock.** A thread that holds the lock may free its memory as soon as it has
//!   released it, if no other thread uses the lock by then. The unlock of an earlier holder that is
//!   still running does not touch the memory.
//! - **Bounded waiting.** The waiters of a lock form a queue, and a waiter keeps its place until it has the
//!   lock or gives up. A running thread may take the lock before the first waiter does. An unlock wakes the
//!   first waiter if it sleeps, unless the lock has a *designated waker*: an awake thread that will try the
//!   lock after this unlock. A waiter that was woken, found the lock held and sleeps again is *starving*. From
//!   500 us after it became the first, the next unlock that checks the time hands the lock to it. Each
//!   unlock checks if there is no designated waker; one in 64, at random, checks if there is one. While the
//!   woken waiter is the designated waker, the first unlock after the wake-up hands the lock to it if that
//!   unlock comes more than 40 us later. So the longest wait grows with the number of waiters ahead, not with
//!   the number of running threads. Two contended locks in one bucket of the table of waiters share the designated waker.
//! - **Readers and writers.** The writer that is next lets no new reader in while it waits for those inside: so readers
//!   do not starve writers. Readers that have waited for 500 us, and were woken in vain once, are let in by the
//!   next unlock of a writer, all of them: so writers do not starve readers. A reader waits for about one writer's
//!   section after that, and a writer for one batch of readers and the writers ahead of it. `downgrade` and
//!   `upgrade` let no other writer in between.
//! - **Fair unlock on request.** When `MutexGuard::unlock_fair` returns, the first waiter of the queue
//!   holds the lock, if there was one, awake or asleep. A thread that is still on its way to its first sleep
//!   may not count.
//! - **Condvar.** There are no spurious wake-ups: `wait` returns only after a notification meant for
//!   that thread. `notify_one` wakes the thread that has waited longest, and a waiter whose time is up at
//!   that moment either was notified or is not counted. A waiter spins for at most 20 us before it sleeps,
//!   if at most one other waits before it, and not where that has been in vain. Where the mutex is held, a
//!   notified waiter that sleeps is moved to the queue of the mutex instead of being woken, if that has had
//!   waiters lately.
//! - **Timeouts.** A timeout of zero and a deadline in the past mean one try; `Duration::MAX` means no
//!   timeout.
//! - **Panics and leaks.** A panic under the lock unlocks it and leaves the data as it is; only
//!   [`sync`] poisons. A forgotten guard leaves the lock held for ever; to move or drop that lock is
//!   sound.
//! - **Threads.** A guard is not `Send`, as those of std and `parking_lot` are not, and cannot be held
//!   across an `.await` of a task that must be `Send`. The guard of a [`SendMutex`] is `Send` if its
//!   data is, and those of a [`SendRwLock`] if the data is `Send` and `Sync`; they may be dropped in any thread,
//!   also after the thread that made them has ended.
//!
//! Not guaranteed:
//!
//! - **A bound in real time, or against the scheduler.** If the scheduler does not run the holder or
//!   the designated waker, the others wait. There is no priority inheritance, neither for a lock nor for
//!   the locks of the waiter table's buckets, which are held for some dozens of instructions.
//! - **The order of arrival.** Threads that spin are not in the queue. They may overtake parked ones,
//!   until an unlock hands the lock over (see *Bounded waiting*).
//!
//! # Limits
//!
//! - A thread that calls [`RwLock`]'s `read` while it holds a guard for reading blocks for ever if a writer waits in
//!   between. `read_recursive` does not wait for one that waits.
//! - A lock must not be used in a signal handler: it may have interrupted the thread that holds the lock of
//!   the bucket.
//! - On Linux, Android and Windows a lock, a wait and a notification allocate nothing, so that they may be
//!   used inside a global allocator. (Where the function that runs at the load of the program was dropped by
//!   a linker, the first wait registers handlers for `fork`, which may allocate in the C library: [`init`]
//!   does it before; and the first read or contended write of a [`RwLock`] in a thread has the C library register a
//!   destructor, which may allocate too, and so may call the lock again.) Elsewhere threads sleep in a table of std mutexes; where those allocate, each slot does once.
//! - A seccomp filter must allow `futex` (to sleep and to wake), and `clock_gettime` where it is a system
//!   call. Others may be refused with an error. A filter that kills instead of refusing must also allow
//!   `membarrier`, and `getpid` if the program forks. Where `membarrier` is refused after a [`RwLock`] was read without
//!   counting (see its page), its next writer calls `sched_getaffinity` and `sched_setaffinity`, which may be refused too, and
//!   sleeps for 10 ms. If the program installs the filter itself, it may call
//!   [`init_with_fences`] before, instead of allowing `membarrier`. An inherited filter must allow it, since
//!   the crate calls it when the program is loaded.
//! - Two copies of the crate in one process, or a lock shared across a `cdylib` boundary, have two
//!   tables and do not find each other's waiters, and number threads each for itself. They must not
//!   share a lock: wake-ups would be lost, and a `ReentrantMutex` could take one thread for another.
//! - The locks are not for memory that processes share.
//! - A thread that sleeps for long on one lock makes unlocks of all locks in the same bucket (1 in 256
//!   of the others) take the slow path.
//! - Rust's memory model has no asymmetric fence. That the barrier suffices is a fact about compiler,
//!   kernel and processor (`src/raw/barrier.rs` has the argument, and a litmus test checks it on the
//!   hardware). `--cfg lockword_symmetric` uses ordinary fences instead.
//!
//! **Fork.** A handler runs in the child (`pthread_atfork`, registered at the load of the program, before
//! the first wait, or by [`init`]) and forgets the waiters, which do not exist there. A lock that was free,
//! or held by the forking thread, works in the child (not if a thread that has no slots, see [`RwLock`], was about
//! to write); one that another thread held, or read, stays so for ever.
//! `vfork`, `_Fork` and a raw `clone` run no handler, nor does a `fork` that began before the handler was
//! registered.
//!
//! # Platforms
//!
//! An unlock has to notice a thread that is about to park. So that this costs an unlock no fence, the
//! parking thread makes the kernel run a memory barrier on all threads of the process.
//!
//! | platform | barrier | what is checked |
//! |---|---|---|
//! | Linux on x86-64 | `membarrier` (private expedited; Linux 4.14) | all tests run (glibc); musl is type-checked |
//! | the same, where the kernel or a seccomp filter refuses it | fences from then on; for 10 ms parked threads wake once and try the lock, since the store of an unlock may be late (it is assumed to be visible by then) | a test with a filter runs |
//! | Linux on AArch64 and x86; Android | `membarrier` | AArch64 Linux (under qemu) and i686 run the tests of behaviour, stress and destruction; Android is not checked |
//! | Windows on x86-64, x86 and AArch64 | `FlushProcessWriteBuffers` | x86-64 is type-checked |
//! | macOS, FreeBSD, WebAssembly, Linux on other processors, all others | fences on both sides | armv5te Linux (no 64-bit atomics), AArch64 macOS, x86-64 FreeBSD and `wasm32-unknown-unknown` are type-checked |
//! | any, with `--cfg lockword_symmetric` | fences on both sides | all tests but the assembly test run on x86-64 Linux |
//!
//! With fences each unlock costs one fence more, and all readers of a [`RwLock`] are counted in its word.
//! [`init_with_fences`] chooses them at run time. On
//! `wasm32-unknown-unknown` there is no clock: no unlock hands the lock over because of a long wait, timed methods panic as `Instant::now` does,
//! and without threads a lock that would have to wait panics, as std's does. With threads, the main thread
//! of a browser must not wait at all.
//!
//! The kernel registers a process for the barrier at once while it has one thread, and takes 10 to 20 ms
//! later. So this is done when the program is loaded (`.init_array`), or when the library is that contains
//! the crate, whose load takes that long then.
//!
//! In a full CI run Windows, armv5te and WebAssembly (with or without atomics) are type-checked always; one
//! of FreeBSD, musl and macOS in turn.
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
//! | `serde` | `Serialize` and `Deserialize` for the mutexes and the reader-writer locks, those of [`sync`] too |
//! | `deadlock_detection` | the module `debug`: deadlocks, and lock-order inversions that can become one. Locks are three words larger with it, and take 40 ns instead of 6.5 |
//! | `contention` | the module `contention` |
//! | `profile` | the module `profile`: where threads wait, for how long, behind whom. Each lock is two words larger, and takes 2 to 4 ns more |
//! | `peers` | `contention::peers`, the locks of other crates to compare with; the benches need it |
//! | `cluster` | the module `cluster` with its in-memory engine, and the one in a directory; brings tokio |
//! | `etcd`, `postgres`, `redis` | engines for `cluster`; the build needs a C compiler (for `ring`) |
//! | `conformance` | `cluster::conformance`, the suite that checks an engine |
//! | `audit` | an audit trail of `cluster` |
//! | `metrics` | counters, gauges and histograms of `cluster`, for the crate `metrics` |
//! | `sealed` | `cluster::layers::Sealed`: values and names of locks that the engine's operator cannot read |
//! | `tracing` | spans and events of `cluster`, for the crate `tracing` |
//! | `cli` | the program `lockword` |
//! | `engine_peers` | another crate's lock on Redis, for the bench `engines` to compare with; adds nothing to the API |

#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(docsrs, doc(auto_cfg(hide(lockword_loom))))]

#[cfg(not(lockword_loom))]
#[doc = include_str!("migration.md")]
pub mod migration {}

#[cfg(all(feature = "cluster", not(lockword_loom)))]
pub mod cluster;
#[cfg(doctest)]
mod compile_fail;
#[cfg(not(lockword_loom))]
mod condvar;
#[cfg(all(feature = "contention", not(lockword_loom)))]
pub mod contention;
#[cfg(all(feature = "deadlock_detection", not(lockword_loom)))]
pub mod debug;
#[cfg(not(lockword_loom))]
mod fair_mutex;
#[cfg(not(lockword_loom))]
mod mutex;
mod primitive;
#[cfg(all(feature = "profile", not(lockword_loom)))]
pub mod profile;
mod raw;
#[cfg(not(lockword_loom))]
mod rwlock;
#[cfg(not(lockword_loom))]
pub mod sync;
mod traced;
mod word;

/// The examples of the README. One of them is about the cluster.
#[cfg(all(doctest, feature = "cluster"))]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;

#[cfg(not(lockword_loom))]
pub use condvar::*;
#[cfg(not(lockword_loom))]
pub use fair_mutex::*;
#[cfg(not(lockword_loom))]
pub use mutex::*;
pub use raw::mutex::RawLock;
#[cfg(not(lockword_loom))]
pub use rwlock::*;

/// The crate that the guards come from: its traits are for code that is generic over locks.
#[cfg(not(lockword_loom))]
#[doc(no_inline)]
pub use lock_api;

/// Gets ready for the first contended lock: registers the process with the kernel for the barrier of the
/// slow path, and the handlers for `fork`.
///
/// There is seldom a need for it. On Linux, Android, FreeBSD and NetBSD the same is done when the program, or the library that this
/// crate is in, is loaded. Call it early in `main`, before threads are started, where a linker may have
/// dropped that: otherwise the first thread that waits registers, which takes 10 to 20 ms in a process that
/// has threads. It cannot fail: where the kernel refuses, locks work by other means (see the platform
/// table in the [crate documentation](crate)). A second call changes nothing.
#[cfg(not(lockword_loom))]
pub fn init() {
    raw::init();
}

/// As [`init`], for programs that do not want the process-wide barrier: from now on every unlock pays for
/// a fence of its own (about 6 ns), and no `membarrier` is called. There is no way back.
///
/// Threads of real-time programs may prefer it, since a barrier interrupts the other processors for a
/// moment. `--cfg lockword_symmetric` does the same when the crate is built.
#[cfg(not(lockword_loom))]
pub fn init_with_fences() {
    raw::init_with_fences();
}

/// The state of the bucket of an address, for tests and benches. Not part of the API.
#[cfg(not(lockword_loom))]
#[doc(hidden)]
pub use raw::{BucketState as __BucketState, bucket_state as __bucket};

//! A load generator for locks: throughput, waits, fairness and CPU time under a load that you
//! describe (feature `contention`).
//!
//! A [`Load`] describes how many threads want which locks, how often, and what they do while they
//! hold a lock and between two acquisitions. A [`Comparison`] measures several locks under several
//! loads, in turns, and returns a [`ComparisonReport`]. A lock takes part through a [`LockKind`]:
//! [`LockApi`] is that of every lock that implements lock_api's `RawMutex`, [`LockApiRwLock`] of every
//! `RawRwLock`, and [`LockApiCondvar`] of a mutex with a Condvar; [`Std`], [`Lockword`], [`LockwordFair`], [`StdCompat`],
//! [`StdRwLock`], [`LockwordRwLock`], [`StdCompatRwLock`] and [`LockwordCondvar`] are ready to use, and the module `peers`
//! (feature `peers`) has those of other crates. Under a load with [`Load::read`] some acquisitions only read; a mutex,
//! which can be compared too, locks for them. The program's command `lockword bench` is built on this module.
//!
//! A *slice* is a short run of one lock under one load; a *round* is a slice of each lock; a *hog* is a thread that does
//! nothing but hold the lock ([`Load::hog`]). In a *closed loop* a thread acquires again as soon as it has done its work;
//! in an *open loop* acquisitions arrive on a schedule ([`Arrivals`]). A *pass* is what a slice records: how often
//! the lock is acquired, or the waits as well.
//!
//! # Your own lock
//!
//! A spin lock against std's mutex, 4 threads, 100 ns inside and 400 ns outside:
//!
//! ```
//! use lockword::contention::{Comparison, Load, LockApi, Std, Work, statistics};
//! # use lockword::lock_api::{GuardSend, RawMutex};
//! # use std::sync::atomic::{AtomicBool, Ordering};
//! # struct SpinLock(AtomicBool);
//! # // SAFETY: the flag is true from a successful `swap` to the `store` of the same holder.
//! # unsafe impl RawMutex for SpinLock {
//! #     const INIT: Self = SpinLock(AtomicBool::new(false));
//! #     type Guard = GuardSend;
//! #     fn lock(&self) -> GuardSend {
//! #         loop {
//! #             match self.try_lock() {
//! #                 Some(guard) => return guard,
//! #                 None => std::thread::yield_now(),
//! #             }
//! #         }
//! #     }
//! #     fn try_lock(&self) -> Option<GuardSend> {
//! #         (!self.0.swap(true, Ordering::Acquire)).then(GuardSend::new)
//! #     }
//! #     unsafe fn unlock(&self, _: GuardSend) {
//! #         self.0.store(false, Ordering::Release);
//! #     }
//! #     fn is_locked(&self) -> bool {
//! #         self.0.load(Ordering::Relaxed)
//! #     }
//! # }
//!
//! let load = Load::new(4).inside(Work::nanos(100)).outside(Work::nanos(400));
//! let report = Comparison::new()
//!     .lock::<LockApi<SpinLock>>("mine") // `SpinLock` implements `lock_api::RawMutex`
//!     .lock::<Std>("std")
//!     .load(load.slice_ms(10))
//!     .rounds(6)
//!     .run_quietly()?;
//! for lock in &report.cells[0].locks {
//!     let speeds: Vec<f64> = lock.samples.iter().map(|sample| sample.per_second()).collect();
//!     println!("{}: {:.0} a second", lock.lock, statistics::median(&speeds).mid);
//! }
//! # assert!(report.cells[0].locks.iter().all(|lock| lock.samples.len() == 6));
//! # Ok::<(), lockword::contention::ComparisonError>(())
//! ```
//!
//! A lock of any other interface implements [`MeasuredMutex`], without `unsafe`. With
//! [`read`](MeasuredMutex::read) it is a reader-writer lock:
//!
//! ```
//! use lockword::contention::{Comparison, Load, LockKind, LockwordRwLock, MeasuredMutex};
//! use std::sync::{RwLock, RwLockWriteGuard};
//!
//! struct MyRwLock<T>(RwLock<T>);
//!
//! impl<T: Send + Sync> MeasuredMutex<T> for MyRwLock<T> {
//!     type Guard<'a> = RwLockWriteGuard<'a, T> where T: 'a;
//!     fn new(value: T) -> Self { MyRwLock(RwLock::new(value)) }
//!     fn lock(&self) -> Self::Guard<'_> { self.0.write().unwrap() }
//!     fn read<R>(&self, section: impl FnOnce(&T) -> R) -> R { section(&self.0.read().unwrap()) }
//! }
//!
//! struct Mine;
//! impl LockKind for Mine {
//!     type Mutex<T: Send + Sync> = MyRwLock<T>;
//! }
//!
//! let load = Load::new(2).read(99.0).slice_ms(5);
//! let locks = Comparison::new().lock::<Mine>("mine").lock::<LockwordRwLock>("lockword_rw");
//! let report = locks.load(load).rounds(2).run_quietly()?;
//! # assert_eq!(report.cells[0].locks[0].samples.len(), 2);
//! # Ok::<(), lockword::contention::ComparisonError>(())
//! ```
//!
//! With a Condvar it takes part in queues ([`Load::queue`]):
//!
//! ```
//! use lockword::contention::{Comparison, CondvarKind, GuardOf, Load, LockKind};
//! use std::sync::{Condvar, Mutex};
//!
//! struct Mine;
//! impl LockKind for Mine {
//!     type Mutex<T: Send + Sync> = Mutex<T>;
//! }
//! impl CondvarKind for Mine {
//!     type Condvar = Condvar;
//!     fn wait<'a, T: Send + Sync + 'static>(
//!         condvar: &Condvar,
//!         guard: GuardOf<'a, Self, T>,
//!     ) -> GuardOf<'a, Self, T> {
//!         condvar.wait(guard).unwrap()
//!     }
//!     fn notify_one(condvar: &Condvar) { condvar.notify_one() }
//!     fn notify_all(condvar: &Condvar) { condvar.notify_all() }
//! }
//!
//! let load = Load::new(2).queue(16).slice_ms(5);
//! let report = Comparison::new().lock_with_condvar::<Mine>("mine").load(load).run_quietly()?;
//! # assert!(report.cells[0].locks[0].samples.iter().all(|sample| sample.acquisitions.len() == 1));
//! # Ok::<(), lockword::contention::ComparisonError>(())
//! ```
//!
//! A lock for tasks takes part under [`Load::tasks`] (feature `peers`):
//!
//! ```
//! # #[cfg(feature = "peers")] {
//! use lockword::contention::{AsyncLockKind, Comparison, Load, MeasuredAsyncMutex, Std};
//!
//! struct MyMutex<T>(async_lock::Mutex<T>);
//!
//! impl<T: Send> MeasuredAsyncMutex<T> for MyMutex<T> {
//!     fn new(value: T) -> Self { MyMutex(async_lock::Mutex::new(value)) }
//!     async fn lock<R: Send>(&self, section: impl FnOnce(&mut T) -> R + Send) -> R {
//!         section(&mut *self.0.lock().await)
//!     }
//! }
//!
//! struct Mine;
//! impl AsyncLockKind for Mine {
//!     type Mutex<T: Send + Sync> = MyMutex<T>;
//! }
//!
//! let load = Load::new(2).tasks(8).slice_ms(5);
//! let locks = Comparison::new().async_lock::<Mine>("mine").lock::<Std>("std");
//! let report = locks.load(load).run_quietly().unwrap();
//! # assert_eq!(report.cells[0].locks[0].samples[0].acquisitions.len(), 8);
//! # }
//! ```
//!
//! # The report as JSON
//!
//! `serde_json::to_string(&report)` gives the format that `lockword bench --json` writes.
//! `lockword show FILE` prints its table, whatever the locks are called, and makes a page of it;
//! `lockword compare` compares two. [`ComparisonReport`] and the types in it are the format: the docs
//! of a field tell its unit. Times are in nanoseconds and names of times end in
//! `_ns` (`started` is in seconds since 1970; the figures of [`Waits`] and [`WaitPercentiles`] are
//! nanoseconds, but for `count`). Rates are per second. What the system does not provide is `null`; a
//! setting of a load that is not used is left out or `null`.
//!
//! | field | what it is |
//! |---|---|
//! | `format` | the version, [`FORMAT`]: the program refuses any other |
//! | `lockword`, `started`, `command`, `machine` | what measured, when, by which command line, and where |
//! | `rounds`, `cut_short`, `warnings` | how many rounds were requested, whether there are fewer, what may have distorted them |
//! | `cells[]` | a load each: `name`, `load`, `offered` (arrivals a second, in an open loop), `maximum` (of which they are a share: whose, and its slices `before` and `after` the rounds) and `locks` |
//! | `cells[].load` | a [`Load`]. Work is `{"nanos": 100}`, `{"units": 10}` or `{"clock": 1000}` (ns); `arrivals` is `"closed"`, `{"open": {"per_second": 1000.0}}` or `{"of_maximum": {"percent": 80.0, "lock": "std"}}` |
//! | `cells[].locks[]` | a lock each: its name `lock`, `samples`, `waits` and `round_waits` |
//! | `samples[i]` | round `i`: `elapsed_ns`, `acquisitions` (one figure a thread; in a queue, the items that each consumer took; with tasks, one a task), `hog_acquisitions`, `cpu_ns` and `conditions` |
//! | `waits`, `round_waits[i]` | of all rounds together, with points of the distribution (`curve`); and of round `i` |
//!
//! # How it measures
//!
//! - The locks take turns within each round, so that a disturbance of the machine affects all of
//!   them alike. Compare two locks round by round ([`statistics::paired_ratio`]).
//! - Work is arithmetic, counted in units whose duration was measured beforehand ([`Work`]): the
//!   loop reads no clock. Reading a clock takes longer than a short critical section, so waits are
//!   timed in a pass of its own ([`Comparison::waits`]).
//! - In a closed loop a thread makes no further request while it waits. So a lock that stalls gets
//!   fewer requests meanwhile, and the stall appears as a single long wait per thread ("coordinated
//!   omission", Gil Tene). In an open loop ([`Arrivals::Open`]) each request that was due meanwhile
//!   has its own long wait.
//! - Read the throughput together with the fairness ([`Sample::fairness_factor`]) and the longest
//!   wait: a lock that lets one thread run alone has the throughput of an uncontended lock.
//! - An acquisition counts if its critical section ended before the slice did; in an open loop, before
//!   [`Load::extra_ms`] more.
//! - Each slice notes its [`Conditions`]: the unit of work right before it, how long its threads
//!   were without a processor, and how many others wanted one. A slice with a [`Conditions::disturbance`] is measured and reported
//!   like any other; leave it out where a wrong conclusion costs more than a missing one, and see
//!   [`Comparison::until_undisturbed`].
//!
//! # What is checked
//!
//! Each slice verifies mutual exclusion as far as a run can show it: the counters under the locks
//! must add up to the threads' own counts, so a lost increment is an error. In the warm-up of a
//! comparison and in the pass that times waits, each thread also writes its own mark under the lock
//! at the start of its critical section and reads it at the end, so a second thread inside is
//! noticed even if no increment is lost; a reader looks whether the mark changes meanwhile. The pass that counts acquisitions writes no marks, because
//! they would be part of the measurement.

mod arrivals;
mod comparison;
mod conditions;
mod load;
mod lock_kind;
mod queue;
mod report;
mod slice;
pub mod statistics;
pub mod system;
#[cfg(feature = "peers")]
mod tasks;
mod topology;
mod work;
mod worker;

pub use comparison::{Comparison, ComparisonError, Progress, rotation};
pub use conditions::{Conditions, Disturbance};
pub use load::{Arrivals, Batch, Load, LoadError, Skew};
#[cfg(feature = "peers")]
pub use lock_kind::peers;
pub use lock_kind::{
    CondvarKind, GuardOf, LockApi, LockApiCondvar, LockApiRwLock, LockKind, Lockword,
    LockwordCondvar, LockwordFair, LockwordRwLock, MeasuredMutex, Std, StdCompat, StdCompatRwLock,
    StdRwLock,
};
pub use report::{
    CellReport, ComparisonReport, FORMAT, LockReport, MaximumReport, Sample, WaitPercentiles, Waits,
};
pub use slice::SliceError;
pub use statistics::WaitHistogram;
pub use system::MachineInfo;
#[cfg(feature = "peers")]
pub use tasks::{AsyncLockKind, Blocking, BlockingMutex, MeasuredAsyncMutex};
pub use topology::{Cache, Topology};
pub use work::{Work, unit_ns, work};

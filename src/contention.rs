//! Measures locks under a load of your own: throughput, waits, fairness, CPU time (feature
//! `contention`).
//!
//! A [`Load`] says how many threads want which locks, how often, and what they do inside and
//! outside. A [`Comparison`] puts some locks under some loads in turns, and returns a [`Report`].
//! A lock takes part through a [`Family`]: [`LockApi`] makes one of every lock that implements
//! lock_api's `RawMutex`; [`Std`] and [`Lockword`] are there already, and [`peers`] has more. The
//! command `lockword bench` is made of this.
//!
//! # Your own lock
//!
//! A spin lock against std's mutex, 4 threads, 100 ns inside and 400 ns outside:
//!
//! ```
//! use lockword::contention::{Comparison, Load, LockApi, Std, Work, stats};
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
//!     println!("{}: {:.0} a second", lock.lock, stats::median(&speeds).mid);
//! }
//! # assert!(report.cells[0].locks.iter().all(|lock| lock.samples.len() == 6));
//! # Ok::<(), lockword::contention::ComparisonError>(())
//! ```
//!
//! # How it measures
//!
//! - Locks take turns within each round, so that what disturbs the machine for a while disturbs
//!   all of them. Compare two locks round by round ([`stats::paired_ratio`]).
//! - Work is arithmetic, counted in units that were timed beforehand ([`Work`]): no clock is read
//!   in the loop. How long acquisitions wait is measured in a pass of its own
//!   ([`Comparison::waits`]), since to read a clock takes longer than a short section.
//! - In a closed loop a lock that stalls is asked less often meanwhile, which hides the stall
//!   ("coordinated omission", Gil Tene). An open loop ([`Arrivals::Open`]) does not.
//! - Read the throughput beside the fairness ([`Sample::dice_factor`]) and the longest wait: a lock
//!   that lets one thread run alone has the throughput of no contention at all.
//! - An acquisition counts if its section ended before the slice did.
//! - Mutual exclusion is checked, as far as a run can show it. In every slice the counts under the
//!   locks must add up to those of the threads: a lost increment is noticed. In a comparison's
//!   warm-up and in the pass that times waits, each thread also leaves a mark under the lock at the
//!   start of its section and looks for it at the end: another thread that came in meanwhile is
//!   noticed. The pass that counts acquisitions leaves no marks, as it would measure them.

// Whether something else used the machine meanwhile.
mod disturbance;
// What can go wrong.
mod error;
// How many threads want which locks, how often, for how long.
mod load;
// The interface over mutexes.
mod lock;
// Reads what there is to know about the machine.
mod machine;
// In which order locks take their turns.
mod order;
// What was measured, as data.
mod report;
// One slice, from the start of its threads to their end.
mod slice;
// How long acquisitions waited.
mod waits;
// Work that takes a known time.
mod work;

// What the loop of a thread is made of: which lock is next, and when, and what to do there.
mod choice;
mod pace;
mod section;
mod worker;

// Some locks under some loads, in turns.
mod comparison;
// Other crates' locks.
#[cfg(feature = "peers")]
pub mod peers;
pub mod stats;
pub mod system;

pub use comparison::{Comparison, Progress};
pub use error::{ComparisonError, LoadError, SliceError};
pub use load::{Arrivals, Burst, Load, Skew};
pub use lock::{Family, Lock, LockApi, Lockword, Std, Twin};
pub use order::rotation;
pub use report::{CellReport, FORMAT, LockReport, Machine, Report, Sample, Waits};
pub use waits::WaitHistogram;
pub use work::{Work, unit_ns, work};

//! Where the threads of this program wait for its locks, for how long, and behind whom (feature `profile`).
//!
//! [`start`] has the locks of this crate (those of [`sync`](crate::sync) too) count each acquisition at the place in the source
//! that acquires; [`report`] shows what they have counted, and [`stop`] ends it.
//!
//! ```
//! use lockword::{Mutex, profile};
//! # use std::thread;
//!
//! static QUEUE: Mutex<Vec<u32>> = Mutex::new(Vec::new());
//!
//! profile::start();
//! thread::scope(|scope| {
//!     for _ in 0..4 {
//!         scope.spawn(|| (0..10_000).for_each(|it| QUEUE.lock().push(it)));
//!     }
//! });
//! profile::stop();
//!
//! let report = profile::report();
//! println!("{report}"); // A table. `report.html()` is a page for a browser.
//! for place in &report.places {
//!     println!("{} {}: {} ns behind others", place.place, place.kind, place.waits.total_ns);
//! }
//! # assert!(report.places.iter().any(|place| place.acquisitions > 10_000));
//! ```
//!
//! # What is counted
//!
//! For each place (`file:line:column`) and [`Kind`]:
//!
//! - **Acquisitions.** The contended ones, for which the lock was not free at once, are all counted. Of the others one in
//!   [`SAMPLING_INTERVAL`] is, drawn at random, and the number is scaled: if there were `n` of them, the standard error is
//!   about the root of 61 `n` (8 % of 10,000, 1 % of 600,000). So a place without waits that seldom acquires may be missing.
//! - **Waits**, all of them, from the failed try to the acquisition or the timeout: how many, all together, the longest, and the
//!   median and the 99th percentile, these two to a thirtieth. The time for which a thread spins is part of its wait. A wait
//!   that has begun before [`start`] or ends after [`stop`] is not counted. A writer also waits where no reader is left, but
//!   readers have come in lately: it has to look at the slots of all of them first, which takes microseconds.
//! - **Behind whom**: the place where the thread that held the lock when the wait began had acquired it. The whole wait counts
//!   there, also if others held the lock before it ended: a long wait may be due to them. A holder that has only just got the lock, or was handed it and has not run yet,
//!   is not known. Each place tells 32 others apart.
//!
//!   Readers have one place together, where the last one known has come in; it may have left, while another one keeps the
//!   writer out. (A thread overwrites the place of another reader at most once in 50 us, since readers at two places would
//!   slow each other down otherwise.) They are marked ([`BehindReport::readers`]), and hide nobody: beside an upgradable reader it is the place of
//!   that one which counts. Readers that have come in before [`start`] are not known; if nobody has held the lock alone since,
//!   it may be the writer before them that is shown. Nor are those known for whom an upgrade waits.
//! - **Holds**, in the sample: how long the lock was held. If a thread reads a lock twice at once, the first time is not timed,
//!   and the second up to the first end.
//!
//! A wait for a [`Condvar`](crate::Condvar) is no wait for a lock; what follows the notification is: an acquisition of the
//! mutex, and a wait for it if it is not free. A `try_lock` in vain counts nothing, nor does one with a timeout of zero or a
//! deadline in the past. An upgrade is an acquisition of its own; a downgrade is none, and ends the hold.
//!
//! # Reports
//!
//! All times are in nanoseconds. A [`Report`] is text (a table, by `Display`), data (serde), JSON ([`Report::json`]), folded
//! stacks for flame graphs ([`Report::folded`], in microseconds), and a page ([`Report::html`]).
//!
//! In a service call [`start`] in `main`, or by a request of an operator, and [`report`] at any time, which does not end the
//! run. There is no difference of two reports: [`start`] again, which begins from 0. Measure a release build.
//!
//! ```sh
//! # After std::fs::write("waits.folded", report.folded()); cargo install inferno
//! inferno-flamegraph --countname us waits.folded > waits.svg
//! ```
//!
//! The graph shows waiting time, not processor time. Each stack has two frames: below, the place that held the lock; above,
//! the place that waited. There are no callers.
//!
//! # What it costs
//!
//! Nanoseconds for an acquisition that does not wait and its release, together; the medians of five runs in turns on an AMD
//! EPYC VM with two cores (`cargo run --release --example profile_cost`, with and without `--features profile`):
//!
//! | | without the feature | not started | running | stopped |
//! |---|---|---|---|---|
//! | `Mutex` | 2.2 | 4.1 | 5.6 | 4.1 |
//! | `sync::Mutex` | 2.2 | 4.7 | 6.1 | 4.8 |
//! | `RwLock`, `write` | 2.2 | 4.7 | 5.3 | 4.4 |
//! | `RwLock`, `read` | 1.7 | 3.9 | 5.8 | 3.9 |
//! | the same, beside a reader at another place | 1.6 | 4.1 | 6.1 | 4.1 |
//!
//! A contended acquisition costs 64 ns more (on an Intel Xeon), which the new holder spends, so inside its critical section. Each lock is two words larger, and more by its
//! alignment. The first [`start`] reserves 21 MB, of which each place takes three pages (12 KB) when it first counts.
//!
//! Nothing is allocated where a lock is acquired, so that an allocator may use a lock. A thread that ends leaves its counts. A
//! child of `fork` begins with an empty profile, and with one that runs if its parent's did; with 1,000 places in the table
//! this takes the child 1 to 2 ms.
//!
//! # What is not in it
//!
//! - Callers: a place is the line that acquires, without a backtrace. `lock_api` passes it on for mutexes and reader-writer
//!   locks. It does not for a [`ReentrantMutex`](crate::ReentrantMutex), all of which are one place in `lock_api`
//!   ([`Kind::ReentrantMutex`]); nor for a [`Condvar`](crate::Condvar), whose acquisition counts where the mutex was locked before
//!   the wait. That of [`sync`](crate::sync) counts where `wait` was called. What `unlocked` and `unlocked_fair` of a guard
//!   acquire again is at a line of `lock_api` too.
//! - Which lock of several that are acquired at one place it was.
//! - Places beyond the 2,048 that the table has room for: [`Report::dropped`] says how much they would have counted. (A place
//!   in generic code may need room several times. The report shows it once.)
//! - Holds whose guard was dropped by another thread, or never. (A thread times at most its eight latest holds at once. While it
//!   times one, and for ever after one that it has not ended itself or that [`stop`] has cut off, until it acquires that lock
//!   again, each acquisition of the thread takes about 3 ns more.)
//! - Locks of other crates, and those of `cluster`.

#[cfg(not(target_has_atomic = "64"))]
compile_error!("the feature `profile` needs atomics of 64 bits, which this target does not have");

mod histogram;
mod page;
pub(crate) mod record;
mod report;
mod table;
mod text;

pub use record::SAMPLING_INTERVAL;
pub use report::{BehindReport, Dropped, FORMAT, Kind, Place, PlaceReport, Report, Times};

use crate::primitive::{AtomicU64, Ordering, now_ns};
use crate::raw::fork;
use std::time::SystemTime;

/// When the run began: seconds since 1970.
static STARTED: AtomicU64 = AtomicU64::new(0);
/// When the run began.
static BEGAN_NS: AtomicU64 = AtomicU64::new(0);
/// When the run ended; 0: it has not.
static ENDED_NS: AtomicU64 = AtomicU64::new(0);

/// Begins a run, with all counters at 0. If there is one, it ends, and what it has counted is gone.
///
/// The first call allocates the table, 21 MB of zeros, which stays allocated. The system provides those pages of it that are
/// used. Without memory for it the process aborts, as for any allocation. It must not be called by an allocator.
///
/// # Panics
///
/// On `wasm32-unknown-unknown`, which has no clock.
pub fn start() {
    // A child begins with an empty profile, also where nobody watches when the program is loaded.
    fork::watch();
    record::end();
    table::allocate();
    begin();
}

/// Ends the run, after which locks count nothing. What it has counted stays for [`report`], up to the next [`start`]. Without a
/// run it does nothing.
pub fn stop() {
    if record::end() {
        ENDED_NS.store(now_ns(), Ordering::Relaxed);
    }
}

/// What the run has counted so far, or the last one if it has ended. The run goes on.
///
/// What threads count meanwhile may be in it or not, and a single acquisition in part.
#[must_use]
pub fn report() -> Report {
    let is_running = record::is_running();
    let end = if is_running { now_ns() } else { ENDED_NS.load(Ordering::Relaxed) };
    Report {
        format: FORMAT,
        lockword: env!("CARGO_PKG_VERSION").to_owned(),
        started: STARTED.load(Ordering::Relaxed),
        elapsed_ns: end.saturating_sub(BEGAN_NS.load(Ordering::Relaxed)),
        is_running,
        sampling_interval: SAMPLING_INTERVAL,
        places: report::places(),
        dropped: report::dropped(),
    }
}

/// Counts from 0, from now on.
fn begin() {
    table::reset();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    STARTED.store(now.as_secs(), Ordering::Relaxed);
    BEGAN_NS.store(now_ns(), Ordering::Relaxed);
    ENDED_NS.store(0, Ordering::Relaxed);
    record::begin();
}

/// In a forked child, of the parent's run: a run of its own begins, if there was one.
#[cfg_attr(not(unix), allow(dead_code, reason = "there is no fork"))]
pub(crate) fn forget() {
    if record::end() {
        begin();
    } else {
        table::reset();
        for time in [&STARTED, &BEGAN_NS, &ENDED_NS] {
            time.store(0, Ordering::Relaxed);
        }
    }
}

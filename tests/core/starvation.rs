//! Bounded waiting: a thread that releases a lock and takes it again at once cannot keep the others
//! out.
//!
//! The tests count how often a waiter is passed over. They do not measure time, which depends on
//! what else the machine does. The control, which runs in turns with lockword, is
//! `parking_lot::FairMutex`, whose every unlock is a handoff.
#![cfg(not(lockword_loom))]

use lock_api::RawMutex;
use lockword::{Mutex, MutexGuard, RawLock};
use parking_lot::RawFairMutex;
use std::fmt::{self, Debug, Formatter};
use std::hint::spin_loop;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex as StdMutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// Turns of each lock, an odd number, and how long one lasts.
const SLICES: usize = 5;
const SLICE: Duration = Duration::from_millis(200);

/// The tests of this file run one at a time, since each needs all processors.
static ALONE: StdMutex<()> = StdMutex::new(());

/// Threads that each hold one lock for their time and take it again at once.
struct Load {
    holds: Vec<Duration>,
    /// Only the first is a hog: its sections are counted, and not its own waits.
    one_hog: bool,
}

/// What a slice saw: for each thread that may be passed over, for each time it had the lock, how
/// many sections of others came between its call and its own section.
struct Slice(Vec<Vec<u64>>);

impl Slice {
    /// How often a waiter is passed over, as a section sees it: the mean over all sections that
    /// somebody had to wait for, of all the sections that this one waited for.
    ///
    /// So a thread that hardly ever gets the lock weighs as much as what it waits for, not as
    /// little as its few acquisitions; and what a thread misses between its call and the queue,
    /// when it loses its processor there, weighs little.
    fn passed_over(&self) -> f64 {
        let (mut sum, mut squares) = (0.0, 0.0);
        for &passed in self.0.iter().flatten() {
            sum += passed as f64;
            squares += (passed * passed) as f64;
        }
        squares / f64::max(sum, 1.0)
    }
}

/// All slices of one lock.
#[derive(Default)]
struct Series(Vec<Slice>);

impl Series {
    /// How often a waiter was passed over in each slice, in ascending order.
    fn passed_over(&self) -> Vec<f64> {
        let mut all: Vec<f64> = self.0.iter().map(Slice::passed_over).collect();
        all.sort_by(f64::total_cmp);
        all
    }

    /// How often each thread had the lock.
    fn acquisitions(&self) -> Vec<usize> {
        let of = |thread: usize| self.0.iter().map(|slice| slice.0[thread].len()).sum();
        (0..self.0[0].0.len()).map(of).collect()
    }
}

impl Debug for Series {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (passed, had) = (self.passed_over(), self.acquisitions());
        write!(f, "passed over {passed:.1?} times in a slice; had it {had:?} times in all")
    }
}

fn hold(time: Duration) {
    let start = Instant::now();
    while start.elapsed() < time {
        spin_loop();
    }
}

impl Load {
    fn run<R: RawMutex + Sync>(&self) -> Slice {
        let lock = lock_api::Mutex::<R, ()>::new(());
        let sections = AtomicU64::new(0);
        let stop = AtomicBool::new(false);
        let thread = |(number, &time): (usize, &Duration)| {
            let counts = u64::from(number == 0 || !self.one_hog);
            let mut passed = vec![];
            while !stop.load(Ordering::Relaxed) {
                let before = sections.load(Ordering::Relaxed);
                let guard = lock.lock();
                passed.push(sections.fetch_add(counts, Ordering::Relaxed) - before);
                hold(time);
                drop(guard);
            }
            passed
        };
        thread::scope(|scope| {
            let thread = &thread;
            let start = |job| scope.spawn(move || thread(job));
            let threads: Vec<_> = self.holds.iter().enumerate().map(start).collect();
            // The length of the measurement, not a way to order anything.
            thread::sleep(SLICE);
            stop.store(true, Ordering::Relaxed);
            let passed = threads.into_iter().map(|thread| thread.join().unwrap());
            Slice(passed.skip(usize::from(self.one_hog)).collect())
        })
    }

    /// lockword and the control in turns, and then what is asked of lockword: in the middle one
    /// of its slices a waiter is passed over no more than three times as often as where the
    /// control was disturbed least, and one time more for each thread; and its unluckiest thread
    /// had the lock an eighth as often as the control's.
    fn judge(&self) {
        let _alone = ALONE.lock();
        let (mut lockword, mut fair) = (Series::default(), Series::default());
        for _ in 0..SLICES {
            lockword.0.push(self.run::<RawLock>());
            fair.0.push(self.run::<RawFairMutex>());
        }
        let both = format!("lockword: {lockword:?}\nFairMutex: {fair:?}");
        let bound = 3.0 * fair.passed_over()[0] + self.holds.len() as f64;
        let passed = lockword.passed_over()[SLICES / 2];
        assert!(passed <= bound, "passed over {passed:.1} times, bound {bound:.1}\n{both}");
        let unluckiest = |series: &Series| series.acquisitions().into_iter().min();
        let (ours, theirs) = (unluckiest(&lockword).unwrap(), unluckiest(&fair).unwrap());
        assert!(ours * 8 >= theirs, "the unluckiest thread had it {ours} times\n{both}");
    }
}

/// The waiters have hardly anything to do, the hog has its millisecond. It passed over them 2 to
/// 5 times, where `std::sync::Mutex` let it do so up to 136 times.
#[test]
fn a_hog_does_not_starve_waiters() {
    let mut holds = vec![Duration::from_micros(20); 4];
    holds[0] = Duration::from_millis(1);
    Load { holds, one_hog: true }.judge();
}

/// On two processors, idle or not, 10 to 14 of the 8 threads' sections lay between a thread's own
/// (FairMutex: 6 to 10); without the handoff to starving waiters 83 to 103, with
/// `std::sync::Mutex` 117 to 540.
#[test]
fn eight_hogs_share_the_lock() {
    Load { holds: vec![Duration::from_micros(200); 8], one_hog: false }.judge();
}

/// `unlock_fair` always hands the lock to a thread that waits: the thread that releases it cannot
/// take it again before the other has had it.
#[cfg(target_os = "linux")]
#[test]
fn a_fair_unlock_is_a_handoff() {
    let _alone = ALONE.lock();
    for _ in 0..100 {
        let lock = Mutex::new(());
        thread::scope(|scope| {
            let (go, release) = mpsc::channel::<()>();
            let guard = lock.lock();
            let lock = &lock;
            let waiter = support::asleep::spawn_parked(scope, move || {
                let guard = lock.lock();
                release.recv().expect("the other thread lets go");
                drop(guard);
            });
            MutexGuard::unlock_fair(guard);
            assert!(lock.try_lock().is_none(), "the fair unlock handed the lock to nobody");
            assert!(lock.is_locked());
            go.send(()).expect("the waiter lives");
            waiter.join().unwrap();
            assert!(lock.try_lock().is_some());
        });
    }
}

#[cfg(target_os = "linux")]
#[path = "../support"]
mod support {
    pub mod asleep;
}

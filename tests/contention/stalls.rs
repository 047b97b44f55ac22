//! A lock with one long stall: a closed loop hides the stall, an open loop shows it.

use lockword::contention::{Arrivals, Load, LockKind, MeasuredMutex, Work};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

/// The length of the stall. The slice is only a little longer.
const STALL: Duration = Duration::from_millis(400);
const SLICE_MS: u64 = 500;
const LONG_NS: u64 = 50_000_000;

/// A mutex whose tenth acquisition takes [`STALL`].
struct Stalling<T>(Mutex<T>, Mutex<u32>);

impl<T: Send> MeasuredMutex<T> for Stalling<T> {
    type Guard<'a>
        = std::sync::MutexGuard<'a, T>
    where
        T: 'a;

    fn new(value: T) -> Self {
        Stalling(Mutex::new(value), Mutex::new(0))
    }

    fn lock(&self) -> Self::Guard<'_> {
        let guard = self.0.lock().expect("no panic");
        let mut count = self.1.lock().expect("no panic");
        *count += 1;
        if *count == 10 {
            thread::sleep(STALL);
        }
        drop(count);
        guard
    }
}

struct StallingKind;

impl LockKind for StallingKind {
    type Mutex<T: Send + Sync> = Stalling<T>;
}

fn load() -> Load {
    Load::new(1).inside(Work::NONE).outside(Work::NONE).slice_ms(SLICE_MS)
}

#[test]
fn a_closed_loop_hides_a_stall() {
    let (_, waits) = load().timed::<StallingKind>().expect("it runs");
    assert!(u128::from(waits.max_ns()) >= STALL.as_nanos(), "it is one long wait");
    // In half a second, one thread can wait for 50 ms at most ten times.
    assert!(waits.quantile_ns(0.5) < LONG_NS, "among many short ones");
}

#[test]
fn an_open_loop_shows_a_stall() {
    let arrivals = Arrivals::Open { per_second: 1_000.0 };
    let (_, waits) = load().arrivals(arrivals).timed::<StallingKind>().expect("it runs");
    // Of the 500 acquisitions that are due, 350 wait for 50 ms and longer during the stall.
    assert!(u128::from(waits.max_ns()) >= STALL.as_nanos());
    assert!(waits.quantile_ns(0.6) >= LONG_NS, "{:?}", waits.summary());
}

#[test]
fn unserved_arrivals_of_an_open_loop_are_recorded() {
    // Each section takes a hundred times as long as the rate allows, so nearly all arrivals are
    // still unserved at the end.
    let arrivals = Arrivals::Open { per_second: 10_000.0 };
    let load = load().slice_ms(200).inside(Work::clock(10_000_000)).arrivals(arrivals);
    let (sample, waits) = load.timed::<lockword::contention::Std>().expect("it runs");
    assert!(sample.total() <= 30 && waits.count() >= 200, "{sample:?}, {}", waits.count());
}

#[test]
fn an_open_loop_keeps_its_rate() {
    let rate = 2_000.0;
    let load = load().arrivals(Arrivals::Open { per_second: rate });
    for threads in [1, 3] {
        let load = Load { threads, ..load.clone() };
        let sample = load.throughput::<lockword::contention::Std>().expect("it runs");
        let due = rate * sample.elapsed_ns / 1e9;
        let served = sample.total() as f64;
        assert!(served <= due + threads as f64 + 1.0, "{served} of {due}");
        // Late arrivals are served back to back. Only those that are due at the very end may be
        // missing, or those of a thread that the system started late.
        assert!(served >= 0.5 * due, "{served} of {due}");
    }
}

/// When the locks of [`AwayKind`] are away, in milliseconds after their creation: until a moment after
/// the end of the slice.
const AWAY: (u64, u64) = (20, 205);
const AWAY_SLICE_MS: u64 = 200;

/// A mutex that cannot be acquired at the end of the slice, such as if the system ran no thread.
struct Away<T>(Mutex<T>, Instant);

impl<T: Send> MeasuredMutex<T> for Away<T> {
    type Guard<'a>
        = std::sync::MutexGuard<'a, T>
    where
        T: 'a;

    fn new(value: T) -> Self {
        Away(Mutex::new(value), Instant::now())
    }

    fn lock(&self) -> Self::Guard<'_> {
        let since = self.1.elapsed();
        if since > Duration::from_millis(AWAY.0) {
            thread::sleep(Duration::from_millis(AWAY.1).saturating_sub(since));
        }
        self.0.lock().expect("no panic")
    }
}

struct AwayKind;

impl LockKind for AwayKind {
    type Mutex<T: Send + Sync> = Away<T>;
}

#[test]
fn what_arrives_before_the_end_of_a_slice_is_served_after_it() {
    let rate = 2_000.0;
    let arrivals = Arrivals::Open { per_second: rate };
    let load = load().slice_ms(AWAY_SLICE_MS).arrivals(arrivals);
    let (sample, waits) = load.timed::<AwayKind>().expect("it runs");
    let due = rate * AWAY_SLICE_MS as f64 / 1e3;
    assert_eq!((sample.total() as f64, waits.count() as f64), (due, due), "{sample:?}");
    // A stall that the end of the slice hides is no loss of rate: a tenth would be left of it.
    assert!(sample.per_second() > 0.6 * rate, "{sample:?}");
    // Nor does more of it come than was due.
    assert!(sample.per_second() <= rate * 1.001, "{sample:?}");
}

//! A lock with one long stall: a closed loop hides the stall, an open loop shows it.

use lockword::contention::{Arrivals, Load, LockKind, MeasuredMutex, Work};
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

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

//! A thread pool with a heap of jobs under a `Mutex`. Workers sleep on a `Condvar` until there is a
//! job, or until the first one is due.

mod harness;

use harness::{Cell, work};
use scheduled_thread_pool::ScheduledThreadPool;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// Rounds of 64 jobs, an operation each; `delay` tells after how long a job is due, by its number.
/// The next round begins when all of them are done.
fn rounds(operations: u64, delay: impl Fn(u64) -> Duration) {
    const JOBS: u64 = 64;
    let pool = ScheduledThreadPool::builder().num_threads(4).build();
    let main = thread::current();
    for _ in 0..operations / JOBS {
        let left = Arc::new(AtomicU64::new(JOBS));
        for number in 0..JOBS {
            let (left, main) = (Arc::clone(&left), main.clone());
            let job = move || {
                work(500);
                // ORDERING: Release, with the Acquire below: the jobs are done when it is 0.
                if left.fetch_sub(1, Ordering::Release) == 1 {
                    main.unpark();
                }
            };
            pool.execute_after(delay(number), job);
        }
        while left.load(Ordering::Acquire) != 0 {
            thread::park();
        }
    }
}

fn main() {
    harness::main(&[
        Cell { name: "execute", batch: 64_000, run: |n| rounds(n, |_| Duration::ZERO) },
        Cell {
            name: "timers",
            batch: 12_800,
            run: |n| rounds(n, |number| Duration::from_micros(number * 2)),
        },
    ]);
}

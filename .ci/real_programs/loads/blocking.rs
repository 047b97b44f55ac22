//! The thread pool of async-std and smol for blocking calls: a queue of jobs under a `Mutex`, and a
//! `Condvar` on which workers wait for half a second, then end.

mod harness;

use blocking::unblock;
use futures_lite::future::block_on;
use harness::{Cell, threads, work};

/// Threads have something computed in the pool, and wait for it: an operation each.
fn calls(count: u64, operations: u64) {
    threads(count, operations, |_, share| {
        for _ in 0..share {
            block_on(unblock(|| work(500)));
        }
    });
}

/// A thread starts sixteen calls at a time, and waits for all.
fn bursts(operations: u64) {
    const CALLS: u64 = 16;
    for _ in 0..operations / CALLS {
        let calls: Vec<_> = (0..CALLS).map(|_| unblock(|| work(500))).collect();
        calls.into_iter().for_each(block_on);
    }
}

fn main() {
    harness::main(&[
        Cell { name: "calls-1", batch: 5_000, run: |n| calls(1, n) },
        Cell { name: "calls-4", batch: 10_000, run: |n| calls(4, n) },
        Cell { name: "bursts", batch: 16_000, run: bursts },
    ]);
}

//! The thread pool of rayon: idle workers sleep on a `Condvar` each, and a thread from outside the
//! pool waits for its result with a `Mutex` and a `Condvar`.

mod harness;

use harness::{Cell, threads, work};
use rayon_core::{ThreadPool, ThreadPoolBuilder, join};

fn pool() -> ThreadPool {
    ThreadPoolBuilder::new().num_threads(4).build().unwrap()
}

/// Four threads have something computed in the pool, and wait for it: an operation each.
fn install(operations: u64) {
    let pool = pool();
    threads(4, operations, |_, share| {
        for _ in 0..share {
            pool.install(|| work(500));
            work(500);
        }
    });
}

/// A binary tree with that many leaves of some work.
fn tree(leaves: u64) {
    if leaves <= 1 {
        return work(500);
    }
    join(|| tree(leaves / 2), || tree(leaves - leaves / 2));
}

/// Trees, one after the other; the workers have nothing to do in between. An operation is a leaf.
fn trees(operations: u64) {
    const LEAVES: u64 = 64;
    let pool = pool();
    for _ in 0..operations / LEAVES {
        pool.install(|| tree(LEAVES));
        work(5_000);
    }
}

fn main() {
    harness::main(&[
        Cell { name: "install", batch: 10_000, run: install },
        Cell { name: "trees", batch: 64_000, run: trees },
    ]);
}

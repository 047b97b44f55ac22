//! A thread pool whose workers wait for a channel's next job under one `Mutex`; `join` waits on a
//! `Condvar`.

mod harness;

use harness::{Cell, work};
use threadpool::ThreadPool;

/// Rounds of that many jobs, an operation each. The next round begins when all of them are done.
fn rounds(operations: u64, jobs: u64) {
    let pool = ThreadPool::new(4);
    for _ in 0..operations / jobs {
        for _ in 0..jobs {
            pool.execute(|| work(500));
        }
        pool.join();
    }
}

fn main() {
    harness::main(&[
        Cell { name: "execute-64", batch: 32_000, run: |n| rounds(n, 64) },
        Cell { name: "execute-4", batch: 10_000, run: |n| rounds(n, 4) },
    ]);
}

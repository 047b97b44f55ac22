//! The cache quick_cache: each shard is a `RwLock` around a map. A hit reads, and a new entry writes.

mod harness;

use harness::{Cell, threads, work};
use quick_cache::sync::Cache;
use std::hint::black_box;
use std::sync::LazyLock;

/// The entries that are looked up, which all fit.
const ENTRIES: u64 = 1_000;

/// It lives as long as the program, as caches do.
static CACHE: LazyLock<Cache<u64, u64>> = LazyLock::new(|| {
    let cache = Cache::new(2 * ENTRIES as usize);
    (0..ENTRIES).for_each(|key| cache.insert(key, key));
    cache
});

/// Threads look entries up, and replace one in `every` times: an operation each.
fn look_up(count: u64, every: u64, operations: u64) {
    let cache = &*CACHE;
    threads(count, operations, |number, share| {
        let mut key = number;
        for round in 1..=share {
            key = (key * 5 + 3) % ENTRIES;
            if every != 0 && round % every == 0 {
                cache.insert(key, round);
            } else {
                black_box(cache.get(&key));
            }
            work(20);
        }
    });
}

fn main() {
    harness::main(&[
        Cell { name: "2-hits", batch: 1_000_000, run: |n| look_up(2, 0, n) },
        Cell { name: "8-hits", batch: 1_000_000, run: |n| look_up(8, 0, n) },
        Cell { name: "4-one-in-1000", batch: 1_000_000, run: |n| look_up(4, 1_000, n) },
        Cell { name: "4-one-in-100", batch: 1_000_000, run: |n| look_up(4, 100, n) },
        Cell { name: "4-one-in-10", batch: 1_000_000, run: |n| look_up(4, 10, n) },
    ]);
}

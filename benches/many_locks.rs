//! One thread, many locks: how long an uncontended lock + unlock takes when the next lock is a
//! random one of 1, 64, 4096 or a million.
//!
//! ```text
//! cargo bench --features peers --bench many_locks          # all four sizes, under a minute
//! cargo bench --features peers --bench many_locks -- 4096  # one of them
//! ```
//!
//! Every lock protects a `u64` that is incremented under it, so that a lock and its data take 16
//! bytes with each of the locks that take part, and none has an advantage by its size. The index
//! comes from a xorshift generator, whose cost (about a nanosecond) is included in every figure.
//!
//! The slices are taken round-robin over the locks; the table and the criterion report both
//! show these samples (see `support/report.rs` for how).

mod support;

use std::hint::black_box;
use std::time::{Duration, Instant};

use lockword::contention::{LockKind, MachineInfo, MeasuredMutex};
use support::contenders::{self, Cell, PARKING_LOT, STD, Workload};
use support::options::BenchOptions;
use support::{report, table};

/// Rounds in full mode.
const ROUNDS: usize = 40;

/// Random access to a vector of locks.
struct ManyLocks {
    locks: usize,
    slice: Duration,
}

impl Workload for ManyLocks {
    /// Nanoseconds per lock + unlock.
    type Sample = f64;

    fn name(&self) -> String {
        self.locks.to_string()
    }

    fn run<K: LockKind>(&self) -> f64 {
        let locks: Vec<K::Mutex<u64>> = (0..self.locks).map(|_| K::Mutex::new(0)).collect();
        let mut state = 0x9E37_79B9_7F4A_7C15;
        // Warms up caches and branch predictors.
        pass::<K>(&locks, &mut state, 10_000);
        let (mut count, start) = (0, Instant::now());
        loop {
            const PASS: u32 = 20_000;
            pass::<K>(&locks, &mut state, PASS);
            count += PASS;
            let elapsed = start.elapsed();
            if elapsed >= self.slice {
                return elapsed.as_secs_f64() * 1e9 / f64::from(count);
            }
        }
    }
}

/// Locks and unlocks `count` random locks. The number of locks is a power of two.
#[inline(never)]
fn pass<K: LockKind>(locks: &[K::Mutex<u64>], state: &mut u64, count: u32) {
    let locks = black_box(locks);
    let mask = locks.len() - 1;
    let mut x = *state;
    for _ in 0..count {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        *locks[(x >> 32) as usize & mask].lock() += 1;
    }
    *state = x;
}

fn main() {
    let options = BenchOptions::read("many_locks");
    let slice = options.slice(Duration::from_millis(25));
    let cells: Vec<ManyLocks> =
        [1, 64, 4096, 1 << 20].into_iter().map(|locks| ManyLocks { locks, slice }).collect();
    let cells = options.select_cells(cells, Workload::name);
    let contenders = options.select_contenders(contenders::mutexes::<ManyLocks>());
    let measured = contenders::interleave(&options, cells, &contenders, options.rounds(ROUNDS));

    report::publish_times(&options, &measured, Workload::name);
    if !options.list {
        print(&options, &measured);
    }
}

fn print(options: &BenchOptions, measured: &[Cell<ManyLocks, f64>]) {
    println!("\nRandom access to N locks by one thread, ns per lock + unlock");
    println!("{}; {} rounds\n", MachineInfo::read(), options.rounds(ROUNDS));
    report::print_times("locks", measured, Workload::name);

    println!("Targets (how many times faster than the peer):");
    for cell in measured {
        let need = if cell.load.locks <= 4096 { 1.4 } else { 1.0 };
        for peer in [STD, PARKING_LOT] {
            let lead = report::lead_over(cell, peer).map(|lead| lead.mid);
            let target = format!("{} locks: over {peer}, at least {need}", cell.load.locks);
            table::verdict(options.quick, &target, lead, |v| v >= need);
        }
    }
}

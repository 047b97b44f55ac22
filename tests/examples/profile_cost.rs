//! What the feature `profile` costs an acquisition that does not wait, in nanoseconds.
//!
//! ```sh
//! cargo run --release --example profile_cost                    # without the feature
//! cargo run --release --example profile_cost --features profile # with it: not started, running, stopped
//! ```
//!
//! Each figure is the median of some loops, with the least and the most of them; an acquisition and its release together.

use lockword::{Mutex, RwLock, sync};
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

const LOOPS: usize = 15;
const ROUNDS: u32 = 2_000_000;

fn measure(state: &str, name: &str, mut section: impl FnMut()) {
    let mut times: Vec<f64> = (0..LOOPS)
        .map(|_| {
            let begin = Instant::now();
            (0..ROUNDS).for_each(|_| section());
            begin.elapsed().as_secs_f64() * 1e9 / f64::from(ROUNDS)
        })
        .collect();
    times.sort_by(f64::total_cmp);
    let [least, mid, most] = [0, LOOPS / 2, LOOPS - 1].map(|at| times[at]);
    println!("{state:12} {name:14} {mid:6.2} ns  [{least:.2}, {most:.2}]");
}

fn measure_all(state: &str) {
    let (mutex, std_like, rwlock) = (Mutex::new(0), sync::Mutex::new(0), RwLock::new(0));
    measure(state, "Mutex", || *black_box(&mutex).lock() += 1);
    measure(state, "sync::Mutex", || *black_box(&std_like).lock().unwrap() += 1);
    measure(state, "RwLock, write", || *black_box(&rwlock).write() += 1);
    measure(state, "RwLock, read", || {
        black_box(*black_box(&rwlock).read());
    });
    let ends = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !ends.load(Ordering::Relaxed) {
                black_box(*black_box(&rwlock).read());
            }
        });
        measure(state, "2 readers", || {
            black_box(*black_box(&rwlock).read());
        });
        ends.store(true, Ordering::Relaxed);
    });
}

fn main() {
    if !cfg!(feature = "profile") {
        return measure_all("no feature");
    }
    #[cfg(feature = "profile")]
    {
        measure_all("not started");
        lockword::profile::start();
        measure_all("running");
        lockword::profile::stop();
        measure_all("stopped");
    }
}

//! A contention profile of a program with three hot places.
//!
//! ```sh
//! cargo run --release --features profile --example profile              # the table
//! cargo run --release --features profile --example profile -- page.html # a page for a browser
//! ```
//!
//! The program also counts by itself what it does, to compare with.

use lockword::{Mutex, RwLock, profile};
use std::thread;
use std::time::{Duration, Instant};

/// What the program has counted of one place.
#[derive(Clone, Debug, Default)]
pub struct Counted {
    /// What is locked there.
    pub name: &'static str,
    /// The line of this file.
    pub line: u32,
    /// How often.
    pub acquisitions: u64,
    /// How often it was locked when it was to be acquired.
    pub contended: u64,
    /// The time from before each acquisition to after it.
    pub waited: Duration,
    /// How long the lock was held, each time.
    pub holds: Vec<Duration>,
}

impl Counted {
    fn of(name: &'static str, line: u32) -> Counted {
        Counted { name, line, ..Counted::default() }
    }

    fn section<G>(&mut self, is_locked: bool, acquire: impl FnOnce() -> G, holds: Duration) {
        let begin = Instant::now();
        let guard = acquire();
        let acquired = Instant::now();
        if !holds.is_zero() {
            // As for a disk.
            thread::sleep(holds);
        }
        drop(guard);
        self.acquisitions += 1;
        self.contended += u64::from(is_locked);
        self.waited += acquired - begin;
        self.holds.push(acquired.elapsed());
    }

    fn add(&mut self, other: Counted) {
        self.acquisitions += other.acquisitions;
        self.contended += other.contended;
        self.waited += other.waited;
        self.holds.extend(other.holds);
    }
}

/// Answers requests. For each it needs the lock that `acquire` acquires for so many microseconds, and one of its own fifty
/// times.
fn serve<G>(
    mut hot: Counted,
    holds_us: u64,
    requests: u32,
    is_locked: impl Fn() -> bool,
    acquire: impl Fn() -> G,
) -> [Counted; 2] {
    let own = Mutex::new(());
    let mut calm = Counted::of("own", line!() + 4);
    for _ in 0..requests {
        hot.section(is_locked(), &acquire, Duration::from_micros(holds_us));
        for _ in 0..50 {
            calm.section(false, || own.lock(), Duration::ZERO);
        }
        // The next request is on its way.
        thread::sleep(Duration::from_micros(200));
    }
    [hot, calm]
}

/// Runs the program under the profile, with so many threads at each of three locks. Returns what it has counted by itself;
/// [`profile::report`] has the profile of it.
pub fn run(threads: u32, requests: u32) -> Vec<Counted> {
    let (cache, journal, config) = (Mutex::new(()), Mutex::new(()), RwLock::new(()));
    let of_cache = || {
        let (line, lock) = (line!(), || cache.lock());
        serve(Counted::of("cache", line), 600, requests, || cache.is_locked(), lock)
    };
    let of_journal = || {
        let (line, lock) = (line!(), || journal.lock());
        serve(Counted::of("journal", line), 250, requests, || journal.is_locked(), lock)
    };
    let of_config = || {
        let (line, lock) = (line!(), || config.write());
        serve(Counted::of("config", line), 50, requests, || config.is_locked(), lock)
    };
    let mut counted: Vec<Counted> = vec![];
    profile::start();
    thread::scope(|scope| {
        let places: [&(dyn Fn() -> [Counted; 2] + Sync); 3] = [&of_cache, &of_journal, &of_config];
        let all = (0..threads).flat_map(|_| places).map(|place| scope.spawn(place));
        for thread in all.collect::<Vec<_>>() {
            for more in thread.join().expect("it does not panic") {
                match counted.iter_mut().find(|known| known.line == more.line) {
                    Some(known) => known.add(more),
                    None => counted.push(more),
                }
            }
        }
    });
    profile::stop();
    counted
}

#[allow(dead_code, reason = "the test calls `run`")]
fn main() -> std::io::Result<()> {
    let counted = run(4, 1_000);
    let report = profile::report();
    println!("{report}");
    for Counted { name, line, acquisitions, contended, waited, .. } in counted {
        println!(
            "{name}, line {line}: {acquisitions} acquisitions, {contended} when it was locked, which took {waited:.1?}"
        );
    }
    match std::env::args().nth(1) {
        Some(path) => std::fs::write(path, report.html()),
        None => Ok(()),
    }
}

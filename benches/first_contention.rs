//! The first contention of a process: how long it lasts, and what it leaves behind.
//!
//! ```text
//! cargo bench --features peers --bench first_contention            # both cells, some seconds
//! cargo bench --features peers --bench first_contention -- pinned  # one of them
//! ```
//!
//! Each sample comes from a new process, a copy of the bench, in which no lock has been contended
//! before. It has four threads: the main thread and another sleep, one holds the lock for two
//! milliseconds, and one comes when these begin. The figure is that thread's wait, in nanoseconds;
//! two milliseconds of it are the section.
//!
//! - `unpinned`: the thread that comes may run on any processor
//! - `pinned`: it is bound to one processor. A lock that asks in that thread how many processors
//!   there are may believe for good that spinning is useless
//!
//! After that each process runs a fixed contended load: four threads, each of which locks and
//! unlocks a number of times. They are bound to the processors in turn, since otherwise it is the
//! scheduler that decides how often they meet. The second table has the voluntary context switches
//! of that load. They should be the same in both cells.
//!
//! The processes are taken round-robin over the locks, one in each round; the first table and the
//! criterion report both show these samples (see `support/report.rs` for how).

mod support;

use std::hint::black_box;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lockword::contention::{LockKind, MachineInfo, MeasuredMutex, statistics, system, work};
use support::contenders::{self, Cell, Contender, LOCKWORD, STD, Workload};
use support::options::BenchOptions;
use support::report;
use support::table::{self, TextTable};

/// The processes of each lock in each cell, in full mode.
const ROUNDS: usize = 15;

/// How long the lock is held.
const SECTION: Duration = Duration::from_millis(2);

/// The threads of the contended load.
const THREADS: usize = 4;

/// How often each of them locks.
const ACQUISITIONS: u32 = 200_000;

/// Units of work inside and outside the lock.
const WORK: u32 = 100;

/// Tells a copy of the bench what to measure: the name of a cell, a space, and that of a lock.
const CHILD: &str = "LOCKWORD_BENCH_FIRST_CONTENTION";

/// The first contention of a process.
#[derive(Clone, Copy)]
struct FirstContention {
    /// Whether the thread that waits is bound to one processor.
    pinned: bool,
}

/// What a process reports.
#[derive(Clone, Copy)]
struct Report {
    /// How long the thread waited.
    wait_ns: f64,
    /// Voluntary context switches under the contended load; NaN where the system does not count
    /// them.
    switches: f64,
}

impl Workload for FirstContention {
    type Sample = Report;

    fn name(&self) -> String {
        if self.pinned { "pinned" } else { "unpinned" }.to_owned()
    }

    /// In a new process only.
    fn run<K: LockKind>(&self) -> Report {
        Report { wait_ns: self.wait_ns::<K>(), switches: switches::<K>() }
    }
}

impl FirstContention {
    /// How long a thread waits for a section of two milliseconds.
    fn wait_ns<K: LockKind>(&self) -> f64 {
        let lock = K::Mutex::<u64>::new(0);
        let (held, comes) = (AtomicBool::new(false), AtomicBool::new(false));
        let (over, sleeps) = std::sync::mpsc::channel::<()>();
        let cpus = system::processors();
        let (lock, held, comes) = (&lock, &held, &comes);
        thread::scope(|scope| {
            // The fourth thread.
            scope.spawn(move || sleeps.recv());
            scope.spawn(move || {
                let mut guard = lock.lock();
                held.store(true, Ordering::Release);
                // The section begins when the other thread runs and is about to lock.
                while !comes.load(Ordering::Acquire) {
                    thread::yield_now();
                }
                let start = Instant::now();
                while start.elapsed() < SECTION {
                    *guard = work(*guard, WORK);
                }
            });
            let waiter = scope.spawn(move || {
                if let (true, Some(last)) = (self.pinned, cpus.last()) {
                    system::pin(&[*last]);
                }
                while !held.load(Ordering::Acquire) {
                    thread::yield_now();
                }
                let start = Instant::now();
                comes.store(true, Ordering::Release);
                *lock.lock() += 1;
                start.elapsed()
            });
            let wait = waiter.join().unwrap();
            drop(over);
            wait.as_secs_f64() * 1e9
        })
    }
}

/// The voluntary context switches of a contended load.
fn switches<K: LockKind>() -> f64 {
    let lock = K::Mutex::<u64>::new(0);
    let cpus = system::processors();
    let before = voluntary_switches();
    let load = |number: usize| {
        if !cpus.is_empty() {
            system::pin(&[cpus[number % cpus.len()]]);
        }
        let mut outside = 0;
        for _ in 0..ACQUISITIONS {
            let mut guard = lock.lock();
            *guard = work(*guard, WORK);
            drop(guard);
            outside = black_box(work(outside, WORK));
        }
    };
    let load = &load;
    thread::scope(|scope| {
        for number in 0..THREADS {
            scope.spawn(move || load(number));
        }
    });
    voluntary_switches() - before
}

/// The voluntary context switches of all threads of the process, also of those that have ended.
#[cfg(unix)]
fn voluntary_switches() -> f64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the pointer is valid for writes of a `rusage` during the call.
    let result = unsafe { libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) };
    // SAFETY: it was initialised to zeros, which are a valid `rusage`, and perhaps written since.
    let usage = unsafe { usage.assume_init() };
    if result == 0 { usage.ru_nvcsw as f64 } else { f64::NAN }
}

/// The system does not count them.
#[cfg(not(unix))]
fn voluntary_switches() -> f64 {
    f64::NAN
}

/// Measures in a new process.
fn in_new_process(lock: &Contender<FirstContention, Report>, load: &FirstContention) -> Report {
    let program = std::env::current_exe().expect("the path of this bench");
    let output = Command::new(program)
        .env(CHILD, format!("{} {}", load.name(), lock.name))
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .expect("a copy of this bench");
    assert!(output.status.success(), "a copy of this bench failed: {}", output.status);
    let text = String::from_utf8(output.stdout).expect("two numbers");
    let mut numbers = text.split_whitespace().map(|word| word.parse().expect("a number"));
    let mut next = || numbers.next().expect("two numbers");
    Report { wait_ns: next(), switches: next() }
}

fn main() {
    let cells = vec![FirstContention { pinned: false }, FirstContention { pinned: true }];
    let contenders = contenders::common_mutexes::<FirstContention>();
    if let Ok(task) = std::env::var(CHILD) {
        let (cell, lock) = task.split_once(' ').expect("a cell and a lock");
        let cell = cells.iter().find(|known| known.name() == cell).expect("the name of a cell");
        let lock = contenders.iter().find(|known| known.name == lock).expect("the name of a lock");
        let Report { wait_ns, switches } = lock.measure(cell);
        println!("{wait_ns} {switches}");
        return;
    }

    let options = BenchOptions::read("first_contention");
    let cells = options.select_cells(cells, Workload::name);
    let contenders = options.select_contenders(contenders);
    let rounds = options.rounds(ROUNDS);
    let measured = contenders::interleave_by(&options, cells, &contenders, rounds, in_new_process);

    let waits: Vec<_> = measured.iter().map(|cell| cell.figures(|report| report.wait_ns)).collect();
    let switches: Vec<_> =
        measured.iter().map(|cell| cell.figures(|report| report.switches)).collect();
    report::publish_times(&options, &waits, Workload::name);
    if !options.list {
        print(&options, &waits, &switches);
    }
}

fn print(
    options: &BenchOptions,
    waits: &[Cell<FirstContention, f64>],
    switches: &[Cell<FirstContention, f64>],
) {
    println!("\nThe first contention of a process: the wait for a section of 2 ms, ns");
    let (rounds, beside) = (options.rounds(ROUNDS), options.surroundings());
    println!("{}; {rounds} processes{beside}\n", MachineInfo::read());
    report::print_times("thread that waits", waits, Workload::name);

    println!("Voluntary context switches of a contended load after that:\n");
    let mut table = TextTable::new(2, &["thread that waited", "lock", "median", "95 % CI"]);
    for cell in switches {
        for series in &cell.series {
            let median = statistics::median(&series.samples);
            let (mid, interval) = (table::figure(median.mid), table::interval(&median));
            table.row(vec![cell.load.name(), series.lock.to_owned(), mid, interval]);
        }
        table.gap();
    }
    table.print();

    println!("Targets:");
    let of = |cells: &[Cell<FirstContention, f64>], pinned, lock: &str| {
        let cell = cells.iter().find(|cell| cell.load.pinned == pinned)?;
        Some(statistics::median(&cell.of(lock)?.samples))
    };
    let wait = of(waits, false, LOCKWORD).map(|wait| wait.mid / 1e6);
    table::verdict(options.quick, "unpinned: median wait in ms, <= 3", wait, |v| v <= 3.0);
    for lock in [LOCKWORD, STD] {
        let (pinned, unpinned) = (of(switches, true, lock), of(switches, false, lock));
        let ratio = pinned.zip(unpinned).map(|(pinned, unpinned)| pinned.low / unpinned.high);
        let target = format!("{lock}: switches pinned over unpinned, CIs' nearest ends, <= 1");
        table::verdict(options.quick, &target, ratio, |v| v <= 1.0);
    }
}

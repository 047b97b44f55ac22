//! Thousands of threads wait for one lock: how long an unlock takes.
//!
//! ```text
//! cargo bench --features peers --bench many_waiters          # all eight cells, about five minutes
//! cargo bench --features peers --bench many_waiters -- 3000- # those with that in their name
//! ```
//!
//! - `10`, `100`, `1000`, `3000`: so many threads wait for one lock, and one thread works for about
//!   twenty microseconds inside it, releases it, and locks it again at once. A waiter whose turn comes
//!   releases the lock, pauses for a while, and waits again
//! - `3000+10-same-bucket`: the same, and ten threads sleep on a second lock, which lockword keeps
//!   in the same bucket of its table
//! - `10+3000-same-bucket`: ten threads wait for the measured lock, and 3,000 sleep on the second
//! - `3000+4000-locks`: 3,000 threads wait for the measured lock, and 4,000 threads sleep on 4,000
//!   other locks
//! - `3000-timed`: 3,000 threads wait until a point in time, the same for all. What counts is the
//!   time from one millisecond before that point until the last waiter has left. std's mutex has no
//!   such wait
//!
//! The figure is the mean of all unlocks of the one thread in wall-clock time: only the unlock is
//! between the two readings of the clock. It contains the times in which a thread that the unlock
//! has woken ran in the place of this one. *CPU ns*, by the thread's own clock, does not. What the
//! readings themselves cost is printed. A slice begins when all threads wait. The threads are not
//! pinned; their stacks have 64 KB.
//!
//! The slices are taken round-robin over the locks; the table and the criterion report both show
//! these samples (see `support/report.rs` for how).

mod support;

use std::any::TypeId;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, Scope};
use std::time::{Duration, Instant};

use lockword::contention::{
    LockKind, Lockword, MachineInfo, MeasuredMutex, statistics, system, work,
};
use support::contenders::{self, Cell, LOCKWORD, TimedKind, TimedWorkload, Workload};
use support::options::BenchOptions;
use support::stopwatch::TimeSample;
use support::{report, table};

/// Rounds in full mode.
const ROUNDS: usize = 10;

/// A slice in full mode.
const SLICE: Duration = Duration::from_millis(1_000);

/// The stack of a waiting thread.
const STACK: usize = 64 << 10;

/// Units of work inside the lock.
const INSIDE: u32 = 20_000;

/// How long a waiter pauses when its turn has come.
const PAUSE: Duration = Duration::from_millis(100);

/// The number of locks to choose from: some for every bucket of lockword's table.
const CANDIDATES: usize = 20_000;

/// The waiters of a cell.
#[derive(Clone, Copy, PartialEq)]
struct Crowd {
    /// They wait for the measured lock.
    waiters: usize,
    /// They sleep on a second lock in the same bucket.
    same_bucket: usize,
    /// They sleep on a lock of their own each.
    elsewhere: usize,
    slice: Duration,
}

/// Waiters that leave together when their time has come.
#[derive(Clone, Copy, PartialEq)]
struct TimedCrowd {
    waiters: usize,
}

/// The unlocks of a thread.
#[derive(Default)]
struct Unlocks {
    count: u64,
    wall: Duration,
    cpu: Duration,
}

impl Unlocks {
    /// Unlocks and adds the time that it takes.
    #[inline]
    fn add<G>(&mut self, guard: G) {
        // Where the system does not report it, the difference is zero.
        let cpu = || system::thread_cpu_time().unwrap_or_default();
        let (cpu_start, start) = (cpu(), Instant::now());
        drop(guard);
        self.wall += start.elapsed();
        self.cpu += cpu() - cpu_start;
        self.count += 1;
    }

    /// The mean.
    fn mean(&self) -> TimeSample {
        let ns = |time: Duration| time.as_secs_f64() * 1e9 / self.count as f64;
        let cpu_ns = if self.cpu.is_zero() { f64::NAN } else { ns(self.cpu) };
        TimeSample { ns: ns(self.wall), cpu_ns }
    }
}

/// What the threads of a slice tell each other.
#[derive(Default)]
struct Signals {
    /// How many threads are about to lock for the first time.
    arrived: AtomicUsize,
    over: AtomicBool,
}

impl Signals {
    fn arrive(&self) {
        self.arrived.fetch_add(1, Ordering::Relaxed);
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Returns when `threads` threads wait, of which `in_bucket` wait in the bucket of `lock`, which
    /// the caller holds; or at `latest`.
    fn until_all_wait<K: LockKind>(
        &self,
        threads: usize,
        lock: &K::Mutex<u64>,
        in_bucket: usize,
        latest: Option<Instant>,
    ) {
        let is_late = || latest.is_some_and(|latest| Instant::now() >= latest);
        let all_wait = || {
            self.arrived.load(Ordering::Relaxed) >= threads
                && (!is_lockword::<K>()
                    || lockword::__bucket(address::<K>(lock)).waiters as usize >= in_bucket)
        };
        while !all_wait() && !is_late() {
            thread::sleep(Duration::from_millis(1));
        }
        // Where nobody counts them, the last ones get to sleep meanwhile.
        thread::sleep(Duration::from_millis(10));
    }
}

/// Starts a thread with a small stack.
///
/// # Panics
///
/// If the system does not allow for so many threads.
fn spawn<'scope>(scope: &'scope Scope<'scope, '_>, run: impl FnOnce() + Send + 'scope) {
    let builder = thread::Builder::new().stack_size(STACK);
    builder.spawn_scoped(scope, run).expect("the system allows for some thousands of threads");
}

fn is_lockword<K: LockKind>() -> bool {
    TypeId::of::<K>() == TypeId::of::<Lockword>()
}

fn address<K: LockKind>(lock: &K::Mutex<u64>) -> usize {
    std::ptr::from_ref(lock).addr()
}

/// A lock in the bucket of the first one, some distance away from it.
fn neighbour<K: LockKind>(locks: &[K::Mutex<u64>]) -> &K::Mutex<u64> {
    let bucket = |lock| lockword::__bucket(address::<K>(lock)).index;
    let wanted = bucket(&locks[0]);
    let mut far = locks[64..].iter();
    let found =
        if is_lockword::<K>() { far.find(|lock| bucket(lock) == wanted) } else { far.next() };
    found.expect("a candidate for every bucket")
}

impl Workload for Crowd {
    /// The mean of an unlock.
    type Sample = TimeSample;

    fn name(&self) -> String {
        let Crowd { waiters, same_bucket, elsewhere, .. } = self;
        match (same_bucket, elsewhere) {
            (0, 0) => waiters.to_string(),
            (0, _) => format!("{waiters}+{elsewhere}-locks"),
            _ => format!("{waiters}+{same_bucket}-same-bucket"),
        }
    }

    fn run<K: LockKind>(&self) -> TimeSample {
        let locks: Vec<K::Mutex<u64>> = (0..CANDIDATES).map(|_| K::Mutex::new(0)).collect();
        let (measured, second) = (&locks[0], neighbour::<K>(&locks));
        // Some distance away from the measured lock, too.
        let others: Vec<_> =
            locks[64..].iter().filter(|lock| !std::ptr::eq(*lock, second)).collect();
        let others = &others[..self.elsewhere];
        let signals = &Signals::default();
        let wait = move || {
            signals.arrive();
            loop {
                drop(measured.lock());
                if signals.is_over() {
                    return;
                }
                thread::sleep(PAUSE);
            }
        };
        let sleep_on = move |lock: &K::Mutex<u64>| {
            signals.arrive();
            *lock.lock() += 1;
        };
        thread::scope(|scope| {
            let mut guard = measured.lock();
            let second_held = second.lock();
            let others_held: Vec<_> = others.iter().map(|lock| lock.lock()).collect();
            // In turn, so that the waiters of both locks are mixed if they are in one list.
            for number in 0..self.waiters.max(self.same_bucket) {
                if number < self.waiters {
                    spawn(scope, wait);
                }
                if number < self.same_bucket {
                    spawn(scope, move || sleep_on(second));
                }
            }
            for &lock in others {
                spawn(scope, move || sleep_on(lock));
            }
            let in_bucket = self.waiters + self.same_bucket;
            signals.until_all_wait::<K>(in_bucket + self.elsewhere, measured, in_bucket, None);
            let (mut unlocks, start) = (Unlocks::default(), Instant::now());
            loop {
                *guard = work(*guard, INSIDE);
                unlocks.add(guard);
                if start.elapsed() >= self.slice {
                    break;
                }
                guard = measured.lock();
            }
            signals.over.store(true, Ordering::Relaxed);
            drop((second_held, others_held));
            unlocks.mean()
        })
    }
}

impl TimedWorkload for TimedCrowd {
    /// The mean of an unlock.
    type Sample = TimeSample;

    fn name(&self) -> String {
        format!("{}-timed", self.waiters)
    }

    fn run<K: TimedKind>(&self) -> TimeSample {
        let lock = &K::Mutex::<u64>::new(0);
        let signals = &Signals::default();
        let left = &AtomicUsize::new(0);
        // Enough time for all threads to start and to get to sleep.
        let budget = Duration::from_millis(100) + Duration::from_micros(100) * self.waiters as u32;
        let deadline = Instant::now() + budget;
        let counts_from = deadline - Duration::from_millis(1);
        let wait = move || {
            signals.arrive();
            // A lock that is free is acquired after the deadline, too.
            while K::lock_until(lock, deadline).map(drop).is_some() && Instant::now() < deadline {
                thread::sleep(PAUSE.min(deadline.saturating_duration_since(Instant::now())));
            }
            left.fetch_add(1, Ordering::Relaxed);
        };
        thread::scope(|scope| {
            let mut guard = lock.lock();
            for _ in 0..self.waiters {
                spawn(scope, wait);
            }
            signals.until_all_wait::<K>(self.waiters, lock, self.waiters, Some(counts_from));
            let mut unlocks = Unlocks::default();
            loop {
                *guard = work(*guard, INSIDE);
                if Instant::now() >= counts_from {
                    unlocks.add(guard);
                } else {
                    drop(guard);
                }
                if left.load(Ordering::Relaxed) == self.waiters {
                    return unlocks.mean();
                }
                guard = lock.lock();
            }
        })
    }
}

/// The least of some means: what an unlock that does nothing takes, which is the cost of the clocks.
fn nothing() -> TimeSample {
    let of_many = |_| {
        let mut unlocks = Unlocks::default();
        (0..1_000).for_each(|_| unlocks.add(()));
        unlocks.mean()
    };
    let samples: Vec<TimeSample> = (0..20).map(of_many).collect();
    let least = |figure: fn(&TimeSample) -> f64| {
        statistics::least(samples.iter().map(figure)).expect("samples")
    };
    TimeSample { ns: least(|sample| sample.ns), cpu_ns: least(|sample| sample.cpu_ns) }
}

fn main() {
    let options = BenchOptions::read("many_waiters");
    let slice = options.slice(SLICE);
    let crowd = |waiters, same_bucket, elsewhere| Crowd { waiters, same_bucket, elsewhere, slice };
    let cells = vec![
        crowd(10, 0, 0),
        crowd(100, 0, 0),
        crowd(1_000, 0, 0),
        crowd(3_000, 0, 0),
        crowd(3_000, 10, 0),
        crowd(10, 3_000, 0),
        crowd(3_000, 0, 4_000),
    ];
    let timed = vec![TimedCrowd { waiters: 3_000 }];
    let cells = options.select_cells(cells, Workload::name);
    let mut timed = options.select_cells(timed, TimedWorkload::name);
    if cells.iter().any(|cell| options.asks_for(&cell.name())) {
        // `3000` is a cell, and a part of the name of this one.
        timed.clear();
    }

    let rounds = options.rounds(ROUNDS);
    let mut measured = Vec::new();
    if !cells.is_empty() {
        let locks = options.select_contenders(contenders::common_mutexes::<Crowd>());
        for cell in contenders::interleave(&options, cells, &locks, rounds) {
            measured.push(Cell { load: cell.load.name(), series: cell.series });
        }
    }
    if !timed.is_empty() {
        let mut locks = contenders::timed_mutexes::<TimedCrowd>();
        locks.retain(|lock| options.wants(lock.name));
        for cell in contenders::interleave(&options, timed, &locks, rounds) {
            measured.push(Cell { load: cell.load.name(), series: cell.series });
        }
    }

    let wall: Vec<_> = measured.iter().map(|cell| cell.figures(|sample| sample.ns)).collect();
    let cpu: Vec<_> = measured.iter().map(|cell| cell.figures(|sample| sample.cpu_ns)).collect();
    report::publish_times(&options, &wall, String::clone);
    if !options.list {
        print(&options, &wall, &cpu);
    }
}

fn print(options: &BenchOptions, measured: &[Cell<String, f64>], cpu: &[Cell<String, f64>]) {
    println!("\nThreads that wait for one lock, mean ns per unlock");
    let (rounds, beside) = (options.rounds(ROUNDS), options.surroundings());
    println!("{}; {rounds} rounds{beside};", MachineInfo::read());
    let TimeSample { ns, cpu_ns } = nothing();
    println!("the clocks make {ns:.0} ns of a time, and {cpu_ns:.0} ns of a CPU time\n");
    report::print_times_and_cpu("waiters", measured, cpu, String::clone);

    println!("Targets (lockword, at most 3,000 ns or three times its unlock with 10 waiters):");
    let samples = |name: &str| {
        let cell = measured.iter().find(|cell| cell.load == name)?;
        Some(&cell.of(LOCKWORD)?.samples)
    };
    let ten = samples("10").map(|few| statistics::median(few).mid);
    for cell in measured.iter().filter(|cell| cell.load != "10") {
        let mean = samples(&cell.load).map(|samples| statistics::median(samples).mid);
        let limit = ten.map_or(3_000.0, |ten| f64::max(3.0 * ten, 3_000.0));
        table::verdict(options.quick, &format!("{}: ns", cell.load), mean, |v| v <= limit);
    }
}

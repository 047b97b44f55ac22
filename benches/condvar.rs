//! Condition variables: how long a handshake between threads takes, and how much CPU time.
//!
//! ```text
//! cargo bench --features peers --bench condvar               # all ten cells, about two minutes
//! cargo bench --features peers --bench condvar -- ping-pong  # one of them
//! LOCKWORD_BENCH_BESIDE=2 cargo bench --features peers --bench condvar  # beside busy processes
//! ```
//!
//! - `ping-pong`: two threads take turns, each waking the other; time of a turn
//! - `notify-all-4`, `notify-all-16`, `notify-all-64`: one thread wakes so many at once and waits
//!   until each of them has acquired the lock; time of a round
//! - `queue-1x1`, `queue-4x4`: producers and consumers with a bounded queue of 16 places and a
//!   condition variable for either end; time of an item. `queue-1x8/64`, `queue-16x16/4`,
//!   `queue-2x2/1`: the same with 64 places, four, and one
//! - `slow-signal`: one thread sleeps for two milliseconds, notifies a waiting one, and sleeps
//!   again. Only the CPU time of a round counts: it shows what a long wait costs
//!
//! lockword, std, parking_lot and usync take part: spin has no condition variable. A slice lasts
//! for a fixed time, which begins when all threads have started, and what they do in that time is
//! counted. Threads are not pinned, so a slice is fast or slow by where the scheduler puts them,
//! which is what makes the intervals wide; that is the same for every lock. The slices are taken
//! round-robin over the locks; the table and the criterion report both show these samples (see
//! `support/report.rs` for how).
//!
//! *CPU ns* is the CPU time of all threads of the process for a turn, round or item: also of those
//! that spin while another makes progress. The busy processes of `LOCKWORD_BENCH_BESIDE` are not
//! included.

mod support;

use std::collections::VecDeque;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use lockword::contention::{MachineInfo, MeasuredMutex, statistics};
use support::contenders::{self, Cell, CondvarWorkload, LOCKWORD, STD};
use support::contenders::{CondvarKind, Guard};
use support::options::BenchOptions;
use support::stopwatch::{Stopwatch, TimeSample};
use support::{report, table};

/// Rounds in full mode.
const ROUNDS: usize = 30;

/// A slice in full mode.
const SLICE: Duration = Duration::from_millis(50);

/// A slice of `slow-signal` in full mode.
const SLOW_SLICE: Duration = Duration::from_millis(100);

/// The time between two notifications of `slow-signal`.
const BETWEEN_SIGNALS: Duration = Duration::from_millis(2);

/// The places of the bounded queue of a cell whose name has no number of places.
const PLACES: usize = 16;

#[derive(Clone, Copy, PartialEq)]
enum Pattern {
    PingPong,
    NotifyAll { waiters: usize },
    Queue { producers: usize, consumers: usize, places: usize },
    SlowSignal,
}

/// A pattern, and how long it is repeated in a slice.
#[derive(Clone, Copy)]
struct Handshake {
    pattern: Pattern,
    slice: Duration,
}

impl CondvarWorkload for Handshake {
    /// The time of a turn, round or item.
    type Sample = TimeSample;

    fn name(&self) -> String {
        match self.pattern {
            Pattern::PingPong => "ping-pong".to_owned(),
            Pattern::NotifyAll { waiters } => format!("notify-all-{waiters}"),
            Pattern::Queue { producers, consumers, places: PLACES } => {
                format!("queue-{producers}x{consumers}")
            }
            Pattern::Queue { producers, consumers, places } => {
                format!("queue-{producers}x{consumers}/{places}")
            }
            Pattern::SlowSignal => "slow-signal".to_owned(),
        }
    }

    fn run<K: CondvarKind>(&self) -> TimeSample {
        match self.pattern {
            Pattern::PingPong => ping_pong::<K>(self.slice),
            Pattern::NotifyAll { waiters } => notify_all::<K>(waiters, self.slice),
            Pattern::Queue { producers, consumers, places } => {
                queue::<K>(producers, consumers, places, self.slice)
            }
            Pattern::SlowSignal => slow_signal::<K>(self.slice),
        }
    }
}

/// The start of a slice: when all threads have started, the clocks are read, and the threads go.
struct Start {
    ready: Barrier,
    go: Barrier,
}

impl Start {
    /// For so many threads and the one that reads the clocks.
    fn new(threads: usize) -> Self {
        Start { ready: Barrier::new(threads + 1), go: Barrier::new(threads + 1) }
    }

    /// In a thread of the slice: waits for the start.
    fn wait(&self) {
        self.ready.wait();
        self.go.wait();
    }

    /// Waits for the threads, reads the clocks, and lets the threads go.
    fn go(&self) -> Stopwatch {
        self.ready.wait();
        let stopwatch = Stopwatch::start();
        self.go.wait();
        stopwatch
    }
}

/// Waits until the data satisfies a condition.
fn wait_until<'a, K: CondvarKind, T: Send + Sync>(
    condvar: &K::Condvar,
    mut guard: Guard<'a, K, T>,
    condition: impl Fn(&T) -> bool,
) -> Guard<'a, K, T> {
    while !condition(&guard) {
        guard = K::wait::<T>(condvar, guard);
    }
    guard
}

/// The state of `ping_pong`.
struct Turns {
    /// The number of the turn.
    now: u64,
    over: bool,
}

/// Two threads take turns. Returns the time of a turn.
fn ping_pong<K: CondvarKind>(slice: Duration) -> TimeSample {
    let turns = K::Mutex::<Turns>::new(Turns { now: 0, over: false });
    let (even, odd) = (K::Condvar::default(), K::Condvar::default());
    let start = Start::new(2);
    // The thread whose turns have this parity sleeps on `own` and wakes the other.
    let player = |parity: u64, own: &K::Condvar, other: &K::Condvar| {
        start.wait();
        loop {
            let mut turn =
                wait_until::<K, Turns>(own, turns.lock(), |t| t.now % 2 == parity || t.over);
            if turn.over {
                return;
            }
            turn.now += 1;
            drop(turn);
            K::notify_one(other);
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| player(0, &even, &odd));
        scope.spawn(|| player(1, &odd, &even));
        let stopwatch = start.go();
        thread::sleep(slice);
        let mut turn = turns.lock();
        let sample = stopwatch.per(turn.now);
        turn.over = true;
        drop(turn);
        K::notify_all(&even);
        K::notify_all(&odd);
        sample
    })
}

/// The state of `notify_all`.
struct Broadcast {
    round: u64,
    through: usize,
    over: bool,
}

/// One thread starts rounds and waits for all waiters in each. Returns the time of a round.
fn notify_all<K: CondvarKind>(waiters: usize, slice: Duration) -> TimeSample {
    let state = K::Mutex::<Broadcast>::new(Broadcast { round: 0, through: 0, over: false });
    let (begun, done) = (K::Condvar::default(), K::Condvar::default());
    let start = Start::new(waiters);
    let waiter = || {
        start.wait();
        for round in 1.. {
            let mut now = wait_until::<K, _>(&begun, state.lock(), |s| s.round == round || s.over);
            if now.over {
                return;
            }
            now.through += 1;
            if now.through == waiters {
                drop(now);
                K::notify_one(&done);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..waiters {
            scope.spawn(waiter);
        }
        let stopwatch = start.go();
        let mut rounds = 0;
        while stopwatch.elapsed() < slice {
            rounds += 1;
            let mut now = state.lock();
            now.round = rounds;
            now.through = 0;
            drop(now);
            K::notify_all(&begun);
            drop(wait_until::<K, _>(&done, state.lock(), |s| s.through == waiters));
        }
        let sample = stopwatch.per(rounds);
        state.lock().over = true;
        K::notify_all(&begun);
        sample
    })
}

/// The state of `queue`.
struct Bounded {
    items: VecDeque<u64>,
    /// Whether no item will come.
    closed: bool,
}

/// The producers put items into a bounded queue, the consumers take them out. Returns the time of
/// an item.
fn queue<K: CondvarKind>(
    producers: usize,
    consumers: usize,
    places: usize,
    slice: Duration,
) -> TimeSample {
    let items = VecDeque::with_capacity(places);
    let queue = K::Mutex::<Bounded>::new(Bounded { items, closed: false });
    let (not_empty, not_full) = (K::Condvar::default(), K::Condvar::default());
    let start = Start::new(producers + consumers);
    let over = AtomicBool::new(false);
    let produce = || {
        start.wait();
        let mut count = 0;
        while !over.load(Ordering::Relaxed) {
            let mut queue = wait_until::<K, _>(&not_full, queue.lock(), |q| q.items.len() < places);
            queue.items.push_back(count);
            drop(queue);
            K::notify_one(&not_empty);
            count += 1;
        }
        count
    };
    let consume = || {
        start.wait();
        loop {
            let mut queue =
                wait_until::<K, _>(&not_empty, queue.lock(), |q| !q.items.is_empty() || q.closed);
            if queue.items.pop_front().is_none() {
                return;
            }
            drop(queue);
            K::notify_one(&not_full);
        }
    };
    thread::scope(|scope| {
        let producers: Vec<_> = (0..producers).map(|_| scope.spawn(produce)).collect();
        for _ in 0..consumers {
            scope.spawn(consume);
        }
        let stopwatch = start.go();
        thread::sleep(slice);
        over.store(true, Ordering::Relaxed);
        // The consumers take items until all producers have ended.
        let count = producers.into_iter().map(|producer| producer.join().unwrap()).sum();
        let sample = stopwatch.per(count);
        queue.lock().closed = true;
        K::notify_all(&not_empty);
        sample
    })
}

/// One thread notifies another every few milliseconds. Returns the time of a round.
fn slow_signal<K: CondvarKind>(slice: Duration) -> TimeSample {
    let state = K::Mutex::<Turns>::new(Turns { now: 0, over: false });
    let signal = K::Condvar::default();
    let start = Start::new(1);
    let waiter = || {
        start.wait();
        for round in 1.. {
            let turn = wait_until::<K, Turns>(&signal, state.lock(), |t| t.now >= round || t.over);
            if turn.over {
                return;
            }
        }
    };
    thread::scope(|scope| {
        scope.spawn(waiter);
        let stopwatch = start.go();
        let mut rounds = 0;
        while stopwatch.elapsed() < slice {
            thread::sleep(BETWEEN_SIGNALS);
            rounds += 1;
            state.lock().now = rounds;
            K::notify_one(&signal);
        }
        // The waiter has time for the last round, too.
        thread::sleep(BETWEEN_SIGNALS);
        let sample = stopwatch.per(rounds);
        state.lock().over = true;
        K::notify_one(&signal);
        sample
    })
}

fn main() {
    let options = BenchOptions::read("condvar");
    let slow = Handshake { pattern: Pattern::SlowSignal, slice: options.slice(SLOW_SLICE) };
    let slice = options.slice(SLICE);
    let cell = |pattern| Handshake { pattern, slice };
    let queue =
        |producers, consumers, places| cell(Pattern::Queue { producers, consumers, places });
    let cells = vec![
        cell(Pattern::PingPong),
        cell(Pattern::NotifyAll { waiters: 4 }),
        cell(Pattern::NotifyAll { waiters: 16 }),
        cell(Pattern::NotifyAll { waiters: 64 }),
        queue(1, 1, PLACES),
        queue(4, 4, PLACES),
        queue(1, 8, 64),
        queue(16, 16, 4),
        queue(2, 2, 1),
        slow,
    ];
    let cells = options.select_cells(cells, CondvarWorkload::name);
    let contenders = options.select_contenders(contenders::condvars::<Handshake>());
    let measured = contenders::interleave(&options, cells, &contenders, options.rounds(ROUNDS));

    let cpu: Vec<_> = measured.iter().map(|cell| cell.figures(|sample| sample.cpu_ns)).collect();
    let wall: Vec<_> = measured.iter().map(|cell| cell.figures(|sample| sample.ns)).collect();
    report::publish_times(&options, &wall, CondvarWorkload::name);
    if !options.list {
        println!("\nCondition variables, ns per turn, round or item");
        let (rounds, beside) = (options.rounds(ROUNDS), options.surroundings());
        println!("{}; {rounds} rounds{beside}\n", MachineInfo::read());
        report::print_times_and_cpu("pattern", &wall, &cpu, CondvarWorkload::name);
        targets(&options, &wall, &cpu);
    }
}

fn targets(options: &BenchOptions, wall: &[Cell<Handshake, f64>], cpu: &[Cell<Handshake, f64>]) {
    let judge = |target: &str, value: Option<f64>, met: &dyn Fn(f64) -> bool| {
        table::verdict(options.quick, target, value, met);
    };
    let is_slow = |cell: &&Cell<Handshake, f64>| cell.load.pattern == Pattern::SlowSignal;
    // The time of a round of `slow-signal` is the time between two signals, with every lock.
    let fast = || wall.iter().filter(|cell| !is_slow(cell));

    println!("Targets:");
    let leads: Vec<_> =
        fast().filter_map(|cell| Some((cell.load.name(), report::lead_over(cell, STD)?))).collect();
    let mean = statistics::geometric_mean(leads.iter().map(|(_, lead)| lead.mid));
    let against_best = fast().filter_map(|cell| {
        let peer = report::best_parking_peer(cell)?;
        Some(report::lead_over(cell, peer.lock)?.mid)
    });
    let best = statistics::geometric_mean(against_best);
    let worst = leads.iter().min_by(|a, b| a.1.high.total_cmp(&b.1.high));
    let name = worst.map_or("no cell", |(name, _)| name);
    let worst = worst.map(|(_, lead)| lead.high);
    let relative = |cell: &Cell<Handshake, f64>| {
        let ratio = report::relative_to(cell, LOCKWORD, STD)?;
        ratio.mid.is_finite().then_some(ratio)
    };
    let busy =
        cpu.iter().filter(|cell| !is_slow(cell)).filter_map(|cell| Some(relative(cell)?.mid));
    let busy = statistics::geometric_mean(busy);
    let idle = cpu.iter().find(is_slow).and_then(relative).map(|ratio| ratio.low);

    if options.beside == 0 {
        judge("speed over std's, geometric mean, >= 2.0", mean, &|v| v >= 2.0);
        judge("speed over the best parking peer's, geometric mean, >= 1.1", best, &|v| v >= 1.1);
        let target = format!("least speed over std's ({name}), CI's upper end, >= 1.0");
        judge(&target, worst, &|v| v >= 1.0);
        judge("CPU time relative to std's, geometric mean, <= 1.2", busy, &|v| v <= 1.2);
        let target = "slow-signal: CPU time relative to std's, CI's lower end, <= 1.0";
        judge(target, idle, &|v| v <= 1.0);
    } else {
        let target = format!("least speed over std's ({name}), CI's upper end, >= 0.75");
        judge(&target, worst, &|v| v >= 0.75);
        let print = |what: &str, mean: Option<f64>| {
            let mean = mean.map_or_else(|| "not measured".to_owned(), table::figure);
            println!("  {what}, geometric mean: {mean}");
        };
        print("speed over std's", mean);
        print("speed over the best parking peer's", best);
        print("CPU time relative to std's", busy);
    }
}

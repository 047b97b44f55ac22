//! Condition variables: how long a handshake between threads takes.
//!
//! ```text
//! cargo bench --features peers --bench condvar               # all five cells, under a minute
//! cargo bench --features peers --bench condvar -- ping-pong  # one of them
//! ```
//!
//! - `ping-pong`: two threads take turns, each waking the other; time of a turn
//! - `notify-all-4`, `notify-all-16`: one thread wakes 4 or 16 at once and waits until each of them
//!   has acquired the lock; time of a round
//! - `queue-1x1`, `queue-4x4`: producers and consumers with a bounded queue of 16 items and a
//!   condition variable for either end; time of an item
//!
//! lockword, std, parking_lot and usync take part: spin has no condition variable. Threads are
//! not pinned, so a slice is fast or slow by where the scheduler puts them, which is what makes
//! the intervals wide; the start of the threads counts too, a small part of `notify-all` and
//! `queue`. Both are the same for every lock. The slices are taken round-robin over the locks;
//! the table and the criterion report both show these samples (see `support/report.rs` for how).

mod support;

use std::collections::VecDeque;
use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use lockword::contention::{MachineInfo, MeasuredMutex};
use support::contenders::{self, Cell, CondvarWorkload};
use support::contenders::{CondvarKind, Guard};
use support::options::BenchOptions;
use support::report;

/// Rounds in full mode.
const ROUNDS: usize = 30;

/// The capacity of the bounded queue.
const CAPACITY: usize = 16;

#[derive(Clone, Copy)]
enum Pattern {
    PingPong,
    NotifyAll { waiters: usize },
    Queue { producers: usize, consumers: usize },
}

/// A pattern, and how often it is repeated in a slice.
struct Handshake {
    pattern: Pattern,
    repeats: usize,
}

impl CondvarWorkload for Handshake {
    /// Nanoseconds per turn, round or item.
    type Sample = f64;

    fn name(&self) -> String {
        match self.pattern {
            Pattern::PingPong => "ping-pong".to_owned(),
            Pattern::NotifyAll { waiters } => format!("notify-all-{waiters}"),
            Pattern::Queue { producers, consumers } => format!("queue-{producers}x{consumers}"),
        }
    }

    fn run<K: CondvarKind>(&self) -> f64 {
        let seconds = match self.pattern {
            Pattern::PingPong => ping_pong::<K>(self.repeats),
            Pattern::NotifyAll { waiters } => notify_all::<K>(waiters, self.repeats),
            Pattern::Queue { producers, consumers } => {
                queue::<K>(producers, consumers, self.repeats)
            }
        };
        seconds * 1e9 / self.repeats as f64
    }
}

/// Waits until the data satisfies a condition.
fn wait_until<'a, K: CondvarKind, T: Send>(
    condvar: &K::Condvar,
    mut guard: Guard<'a, K, T>,
    condition: impl Fn(&T) -> bool,
) -> Guard<'a, K, T> {
    while !condition(&guard) {
        guard = K::wait::<T>(condvar, guard);
    }
    guard
}

/// Two threads take `turns` turns in all. Returns the seconds that they take.
fn ping_pong<K: CondvarKind>(turns: usize) -> f64 {
    let turn = K::Mutex::<usize>::new(0);
    let (even, odd) = (K::Condvar::default(), K::Condvar::default());
    let start = Barrier::new(2);
    // The thread whose turns have this parity sleeps on `own` and wakes the other.
    let player = |parity: usize, own: &K::Condvar, other: &K::Condvar| {
        start.wait();
        let started = Instant::now();
        for number in (parity..turns).step_by(2) {
            let mut now = wait_until::<K, usize>(own, turn.lock(), |now| *now == number);
            *now += 1;
            drop(now);
            K::notify_one(other);
        }
        started.elapsed().as_secs_f64()
    };
    thread::scope(|scope| {
        let first = scope.spawn(|| player(0, &even, &odd));
        let second = player(1, &odd, &even);
        first.join().unwrap().max(second)
    })
}

/// The state of `notify_all`.
struct Broadcast {
    round: usize,
    through: usize,
}

/// One thread starts `rounds` rounds and waits for all waiters in each. Returns the seconds that
/// they take.
fn notify_all<K: CondvarKind>(waiters: usize, rounds: usize) -> f64 {
    let state = K::Mutex::<Broadcast>::new(Broadcast { round: 0, through: 0 });
    let (begun, done) = (K::Condvar::default(), K::Condvar::default());
    let started = Instant::now();
    thread::scope(|scope| {
        for _ in 0..waiters {
            scope.spawn(|| {
                for round in 1..=rounds {
                    let mut now = wait_until::<K, _>(&begun, state.lock(), |s| s.round == round);
                    now.through += 1;
                    if now.through == waiters {
                        drop(now);
                        K::notify_one(&done);
                    }
                }
            });
        }
        for round in 1..=rounds {
            let mut now = state.lock();
            now.round = round;
            now.through = 0;
            drop(now);
            K::notify_all(&begun);
            drop(wait_until::<K, _>(&done, state.lock(), |s| s.through == waiters));
        }
    });
    started.elapsed().as_secs_f64()
}

/// The producers put `items` into a bounded queue, the consumers take them out. Returns the seconds
/// that this takes.
fn queue<K: CondvarKind>(producers: usize, consumers: usize, items: usize) -> f64 {
    let buffer = K::Mutex::<VecDeque<usize>>::new(VecDeque::with_capacity(CAPACITY));
    let (not_empty, not_full) = (K::Condvar::default(), K::Condvar::default());
    let start = Barrier::new(producers + consumers);
    let share = |number: usize, of: usize| items / of + usize::from(number < items % of);
    let started = Instant::now();
    thread::scope(|scope| {
        let (buffer, not_empty, not_full, start) = (&buffer, &not_empty, &not_full, &start);
        for number in 0..producers {
            scope.spawn(move || {
                start.wait();
                for item in 0..share(number, producers) {
                    let mut queue =
                        wait_until::<K, _>(not_full, buffer.lock(), |q| q.len() < CAPACITY);
                    queue.push_back(item);
                    drop(queue);
                    K::notify_one(not_empty);
                }
            });
        }
        for number in 0..consumers {
            scope.spawn(move || {
                start.wait();
                for _ in 0..share(number, consumers) {
                    let mut queue = wait_until::<K, _>(not_empty, buffer.lock(), |q| !q.is_empty());
                    queue.pop_front();
                    drop(queue);
                    K::notify_one(not_full);
                }
            });
        }
    });
    started.elapsed().as_secs_f64()
}

fn main() {
    let options = BenchOptions::read("condvar");
    let cell = |pattern, repeats| {
        let repeats = if options.quick { repeats / 20 } else { repeats };
        Handshake { pattern, repeats }
    };
    let cells = vec![
        cell(Pattern::PingPong, 8_000),
        cell(Pattern::NotifyAll { waiters: 4 }, 1_000),
        cell(Pattern::NotifyAll { waiters: 16 }, 500),
        cell(Pattern::Queue { producers: 1, consumers: 1 }, 30_000),
        cell(Pattern::Queue { producers: 4, consumers: 4 }, 40_000),
    ];
    let cells = options.select_cells(cells, CondvarWorkload::name);
    let contenders = options.select_contenders(contenders::condvars::<Handshake>());
    let measured: Vec<Cell<Handshake, f64>> =
        contenders::interleave(&options, cells, &contenders, options.rounds(ROUNDS));

    report::publish_times(&options, &measured, CondvarWorkload::name);
    if !options.list {
        println!("\nCondition variables, ns per turn, round or item");
        println!("{}; {} rounds\n", MachineInfo::read(), options.rounds(ROUNDS));
        report::print_times("pattern", &measured, CondvarWorkload::name);
    }
}

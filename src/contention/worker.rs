//! What one thread does in a slice: the loop that is measured.
//!
//! The loop is generic over everything that a load can ask for, so that each load gets a loop with
//! nothing else in it. With one lock, a closed loop and no clock it is: look at the signal to
//! stop, lock, count, work, unlock, work.

use super::choice::{Choice, First, Shares};
use super::load::{Arrivals, Load};
use super::lock::{Family, Lock};
use super::pace::{Bursts, Closed, Open, Pace};
use super::section::{Long, Section, Short};
use super::system::{pin, thread_cpu_time};
use super::waits::WaitHistogram;
use super::work::Work;
use crate::primitive::AtomicBool;
use crossbeam_utils::CachePadded;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// The data under a lock: one word counts, one is worked on.
#[derive(Default)]
pub(super) struct Shared {
    pub(super) count: u64,
    word: u64,
}

/// What all threads of a slice share; each lock, and the signal, on cache lines of their own.
pub(super) struct Field<F: Family> {
    pub(super) locks: Box<[CachePadded<F::Mutex<Shared>>]>,
    pub(super) stop: CachePadded<AtomicBool>,
    load: Load,
    shares: Shares,
    /// The processors to bind threads to; none if they are not to be bound.
    processors: Vec<usize>,
}

/// What one thread brings home.
pub(super) struct Tally {
    pub(super) started: Instant,
    pub(super) acquisitions: u64,
    pub(super) cpu: Option<Duration>,
    /// Of the pass that times them.
    pub(super) waits: Option<WaitHistogram>,
}

/// Who a thread is.
#[derive(Clone, Copy)]
pub(super) enum Role {
    /// One of the load's threads, by number.
    Worker(usize),
    /// The one that holds the first lock for so long at a time.
    Hog(Work),
}

impl<F: Family> Field<F> {
    pub(super) fn new(load: &Load, processors: Vec<usize>) -> Self {
        Field {
            locks: (0..load.locks)
                .map(|_| CachePadded::new(F::Mutex::new(Shared::default())))
                .collect(),
            stop: CachePadded::new(AtomicBool::new(false)),
            load: load.clone(),
            shares: Shares::new(load.locks, load.skew),
            processors,
        }
    }

    /// Gets ready, waits at the gate, runs the loop until the signal to stop. `gate` says whether
    /// there is anything to do.
    pub(super) fn work(
        &self,
        role: Role,
        timed: bool,
        gate: impl FnOnce() -> bool,
    ) -> Option<Tally> {
        let number = match role {
            Role::Worker(number) => number,
            Role::Hog(_) => self.load.threads,
        };
        if !self.processors.is_empty() {
            pin(&[self.processors[number % self.processors.len()]]);
        }
        match role {
            Role::Worker(_) if timed => self.choose(number, Timed::new(), gate),
            Role::Worker(_) => self.choose(number, Untimed, gate),
            Role::Hog(hold) => {
                let (hold, none) = (Long::from(hold), Long::from(Work::NONE));
                self.run(First, Closed, Untimed, (hold, none), gate)
            }
        }
    }

    fn choose<T: Timer>(
        &self,
        number: usize,
        timer: T,
        gate: impl FnOnce() -> bool,
    ) -> Option<Tally> {
        if self.locks.len() == 1 {
            self.pace(number, First, timer, gate)
        } else {
            self.pace(number, self.shares.table(number), timer, gate)
        }
    }

    fn pace<C: Choice, T: Timer>(
        &self,
        number: usize,
        choice: C,
        timer: T,
        gate: impl FnOnce() -> bool,
    ) -> Option<Tally> {
        match (self.load.arrivals, self.load.burst) {
            (Arrivals::Open { per_second }, _) => {
                let open = Open::new(per_second, number, self.load.threads);
                self.section(choice, open, timer, gate)
            }
            (Arrivals::Closed, Some(burst)) => {
                self.section(choice, Bursts::new(burst), timer, gate)
            }
            (Arrivals::Closed, None) => self.section(choice, Closed, timer, gate),
        }
    }

    fn section<C: Choice, P: Pace, T: Timer>(
        &self,
        choice: C,
        pace: P,
        timer: T,
        gate: impl FnOnce() -> bool,
    ) -> Option<Tally> {
        let Load { inside, outside, .. } = self.load;
        let Some(short) = Short::<true>::new(inside).zip(Short::new(outside)) else {
            let long = (Long::from(inside), Long::from(outside));
            return self.run(choice, pace, timer, long, gate);
        };
        match Short::<false>::new(inside).zip(Short::new(outside)) {
            Some(loose) if inside.is_counted() && outside.is_counted() => {
                self.run(choice, pace, timer, loose, gate)
            }
            _ => self.run(choice, pace, timer, short, gate),
        }
    }

    /// One function, with the loop in it. That the clocks are read and the work is fetched in the
    /// same function is no accident: with a loop alone in a function, the compiler saves registers
    /// around the lock's slow path that it need not save here, which costs a tenth at the most
    /// contended loads.
    #[inline(never)]
    fn run<C: Choice, P: Pace, T: Timer, S: Section>(
        &self,
        choice: C,
        mut pace: P,
        mut timer: T,
        sections: (S, S),
        gate: impl FnOnce() -> bool,
    ) -> Option<Tally> {
        // Nobody knows how long they are.
        let sections = black_box(sections);
        if !gate() {
            return None;
        }
        let started = Instant::now();
        let cpu_before = thread_cpu_time();
        pace.start(started);
        let acquisitions = acquire::<F, C, P, T, S>(self, choice, &mut pace, &mut timer, sections);
        let cpu = thread_cpu_time().zip(cpu_before).map(|(after, before)| after - before);
        let mut waits = timer.waits();
        if let Some(waits) = &mut waits {
            let end = started + Duration::from_millis(self.load.slice_ms);
            pace.note_unserved(end.min(Instant::now()), waits);
        }
        Some(Tally { started, acquisitions, cpu, waits })
    }
}

/// The loop. It sees the signal to stop between two acquisitions.
#[inline(always)]
fn acquire<F: Family, C: Choice, P: Pace, T: Timer, S: Section>(
    field: &Field<F>,
    mut choice: C,
    pace: &mut P,
    timer: &mut T,
    (inside, outside): (S, S),
) -> u64 {
    let (locks, stop) = (&field.locks[..], &*field.stop);
    let mut private = 1;
    let mut acquisitions = 0;
    while pace.next(stop) {
        let lock = &locks[choice.next()];
        let asked = timer.ask(pace);
        let mut shared = lock.lock();
        timer.got(asked);
        shared.count += 1;
        let before = if S::CHAINED { shared.word ^ private } else { shared.word };
        let word = inside.spend(before, stop);
        shared.word = word;
        drop(shared);
        acquisitions += 1;
        let before = if S::CHAINED { private ^ word } else { private };
        private = outside.spend(before, stop);
    }
    black_box(private);
    acquisitions
}

/// Whether waits are timed.
trait Timer {
    type Asked;

    fn ask<P: Pace>(&self, pace: &P) -> Self::Asked;
    fn got(&mut self, asked: Self::Asked);
    fn waits(self) -> Option<WaitHistogram>;
}

/// They are not: nothing is done.
struct Untimed;

/// They are. Each is noted while the lock is held, so that between an unlock and the next attempt
/// nothing stands but the reading of the clock.
struct Timed(WaitHistogram);

impl Timed {
    fn new() -> Timed {
        let mut waits = WaitHistogram::new();
        waits.touch();
        Timed(waits)
    }
}

impl Timer for Untimed {
    type Asked = ();

    #[inline(always)]
    fn ask<P: Pace>(&self, _pace: &P) {}

    #[inline(always)]
    fn got(&mut self, (): ()) {}

    fn waits(self) -> Option<WaitHistogram> {
        None
    }
}

impl Timer for Timed {
    type Asked = Instant;

    #[inline]
    fn ask<P: Pace>(&self, pace: &P) -> Instant {
        pace.due().unwrap_or_else(Instant::now)
    }

    #[inline]
    fn got(&mut self, asked: Instant) {
        self.0.note(asked.elapsed(), 1);
    }

    fn waits(self) -> Option<WaitHistogram> {
        Some(self.0)
    }
}

//! What one thread does in a slice: the loop that is measured.
//!
//! The loop is generic over everything that a load can ask for, so that each load gets a loop with
//! nothing else in it. With one lock, a closed loop and no clock it is: lock, count, work, unlock,
//! look at the signal to stop, work.
//!
//! An acquisition counts if its section ended before the signal to stop. Threads that are in the
//! queue by then get the lock once more each, which is no part of the slice.

use super::choice::{Choice, First, Shares};
use super::load::{Arrivals, Load};
use super::lock::{Family, Lock};
use super::pace::{Bursts, Closed, Open, Pace};
use super::section::{Long, Section, Short};
use super::system::{pin, thread_cpu_time};
use super::waits::WaitHistogram;
use super::work::Work;
use crate::primitive::{AtomicBool, Ordering};
use crossbeam_utils::CachePadded;
use std::hint::black_box;
use std::ops::DerefMut;
use std::time::{Duration, Instant};

/// The data under a lock.
#[derive(Default)]
pub(super) struct Shared {
    /// Counts all acquisitions.
    pub(super) count: u64,
    /// Is worked on.
    word: u64,
    /// The mark of the thread that came in last, in the passes that check ([`Pass`]).
    owner: u64,
}

impl Shared {
    /// On entry: leaves a mark.
    fn enter(&mut self, mark: u64) {
        self.owner = mark;
        // It must be in memory, where another thread would overwrite it.
        black_box(self);
    }

    /// Before the unlock: whether the mark is still there.
    fn is_mine(&mut self, mark: u64) -> bool {
        black_box(&mut *self).owner == mark
    }
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
    /// Acquisitions whose section ended before the signal to stop.
    pub(super) acquisitions: u64,
    /// Acquisitions after that: none or one.
    pub(super) late: u64,
    /// Acquisitions in which another thread came in meanwhile, in the passes that check.
    pub(super) intrusions: u64,
    /// Whether the system refused to bind the thread to its processor.
    pub(super) unpinned: bool,
    pub(super) cpu: Option<Duration>,
    /// Of the pass that times them.
    pub(super) waits: Option<WaitHistogram>,
}

/// What a slice is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pass {
    /// Measures nothing. Each acquisition is checked: its mark must last to its end.
    WarmUp,
    /// Counts acquisitions, with nothing else in the loop.
    Count,
    /// Times waits, and checks as the warm-up does.
    Time,
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

    /// Gets ready, waits at the gate, runs the loop until the signal to stop. `gate` says when the
    /// slice began, or that there is nothing to do.
    pub(super) fn work(
        &self,
        role: Role,
        pass: Pass,
        gate: impl FnOnce() -> Option<Instant>,
    ) -> Option<Tally> {
        let number = match role {
            Role::Worker(number) => number,
            Role::Hog(_) => self.load.threads,
        };
        let unpinned =
            !self.processors.is_empty() && !pin(&[self.processors[number % self.processors.len()]]);
        let tally = match (role, pass) {
            (Role::Worker(_), Pass::Count) => self.choose(number, Bare, gate),
            (Role::Worker(_), _) => {
                self.choose(number, Checked::new(number, pass == Pass::Time), gate)
            }
            (Role::Hog(hold), Pass::Count) => self.hog(hold, Bare, gate),
            (Role::Hog(hold), _) => self.hog(hold, Checked::new(number, false), gate),
        };
        tally.map(|tally| Tally { unpinned, ..tally })
    }

    fn hog<T: Probe>(
        &self,
        hold: Work,
        probe: T,
        gate: impl FnOnce() -> Option<Instant>,
    ) -> Option<Tally> {
        self.run(First, Closed, probe, (Long::from(hold), Long::from(Work::NONE)), gate)
    }

    fn choose<T: Probe>(
        &self,
        number: usize,
        probe: T,
        gate: impl FnOnce() -> Option<Instant>,
    ) -> Option<Tally> {
        if self.locks.len() == 1 {
            self.pace(number, First, probe, gate)
        } else {
            self.pace(number, self.shares.table(number), probe, gate)
        }
    }

    fn pace<C: Choice, T: Probe>(
        &self,
        number: usize,
        choice: C,
        probe: T,
        gate: impl FnOnce() -> Option<Instant>,
    ) -> Option<Tally> {
        match (self.load.arrivals, self.load.burst) {
            (Arrivals::Open { per_second }, _) => {
                let open = Open::new(per_second, number, self.load.threads);
                self.section(choice, open, probe, gate)
            }
            (Arrivals::Closed, Some(burst)) => {
                self.section(choice, Bursts::new(burst), probe, gate)
            }
            (Arrivals::Closed, None) => self.section(choice, Closed, probe, gate),
        }
    }

    fn section<C: Choice, P: Pace, T: Probe>(
        &self,
        choice: C,
        pace: P,
        probe: T,
        gate: impl FnOnce() -> Option<Instant>,
    ) -> Option<Tally> {
        let Load { inside, outside, .. } = self.load;
        let Some(short) = Short::<true>::new(inside).zip(Short::new(outside)) else {
            let long = (Long::from(inside), Long::from(outside));
            return self.run(choice, pace, probe, long, gate);
        };
        match Short::<false>::new(inside).zip(Short::new(outside)) {
            Some(loose) if inside.is_counted() && outside.is_counted() => {
                self.run(choice, pace, probe, loose, gate)
            }
            _ => self.run(choice, pace, probe, short, gate),
        }
    }

    /// One function, with the loop in it. That the clocks are read and the work is fetched in the
    /// same function is no accident: with a loop alone in a function, the compiler saves registers
    /// around the lock's slow path that it need not save here, which costs a tenth at the most
    /// contended loads.
    #[inline(never)]
    fn run<C: Choice, P: Pace, T: Probe, S: Section>(
        &self,
        choice: C,
        mut pace: P,
        mut probe: T,
        sections: (S, S),
        gate: impl FnOnce() -> Option<Instant>,
    ) -> Option<Tally> {
        // Nobody knows how long they are.
        let sections = black_box(sections);
        let started = gate()?;
        let cpu_before = thread_cpu_time();
        pace.start(started);
        let (acquisitions, late) =
            acquire::<F, C, P, T, S>(self, choice, &mut pace, &mut probe, sections);
        let cpu = thread_cpu_time().zip(cpu_before).map(|(after, before)| after - before);
        let (mut waits, intrusions) = probe.finish();
        if let Some(waits) = &mut waits {
            let end = started + Duration::from_millis(self.load.slice_ms);
            pace.note_unserved(end.min(Instant::now()), waits);
        }
        Some(Tally { acquisitions, late, intrusions, unpinned: false, cpu, waits })
    }
}

/// The loop. It sees the signal to stop between a section and the work after it, and counts the
/// section only if there was none; the second figure is that of sections which did not count.
#[inline(always)]
fn acquire<F: Family, C: Choice, P: Pace, T: Probe, S: Section>(
    field: &Field<F>,
    mut choice: C,
    pace: &mut P,
    probe: &mut T,
    (inside, outside): (S, S),
) -> (u64, u64) {
    let (locks, stop) = (&field.locks[..], &*field.stop);
    let mut private = 1;
    let mut acquisitions = 0;
    let mut late = 0;
    while probe.go_on(stop) && pace.next(stop) {
        let lock = &locks[choice.next()];
        let asked = probe.ask(pace);
        let mut shared = lock.lock();
        probe.enter(asked, &mut shared);
        shared.count += 1;
        let before = if S::CHAINED { shared.word ^ private } else { shared.word };
        let word = inside.spend(before, stop);
        shared.word = word;
        probe.leave(&mut shared);
        drop(shared);
        if stop.load(Ordering::Relaxed) {
            late = 1;
            break;
        }
        acquisitions += 1;
        let before = if S::CHAINED { private ^ word } else { private };
        private = outside.spend(before, stop);
    }
    black_box(private);
    (acquisitions, late)
}

/// What else is looked at in an acquisition.
trait Probe {
    type Asked;

    /// Whether to ask for the lock again.
    fn go_on(&self, stop: &AtomicBool) -> bool;
    fn ask<P: Pace>(&self, pace: &P) -> Self::Asked;
    fn enter<G: DerefMut<Target = Shared>>(&mut self, asked: Self::Asked, shared: &mut G);
    fn leave<G: DerefMut<Target = Shared>>(&mut self, shared: &mut G);
    /// The waits, and how often another thread came in.
    fn finish(self) -> (Option<WaitHistogram>, u64);
}

/// Nothing.
struct Bare;

/// Whether the thread is alone inside, and how long it waited, unless nobody wants to know.
///
/// Each wait is noted while the lock is held, so that between an unlock and the next attempt
/// nothing stands but the reading of the clock.
struct Checked {
    mark: u64,
    intrusions: u64,
    waits: Option<WaitHistogram>,
}

impl Checked {
    fn new(number: usize, timed: bool) -> Checked {
        let waits = timed.then(|| {
            let mut waits = WaitHistogram::new();
            waits.touch();
            waits
        });
        Checked { mark: number as u64 + 1, intrusions: 0, waits }
    }
}

impl Probe for Bare {
    type Asked = ();

    #[inline(always)]
    fn go_on(&self, _stop: &AtomicBool) -> bool {
        true
    }

    #[inline(always)]
    fn ask<P: Pace>(&self, _pace: &P) {}

    #[inline(always)]
    fn enter<G: DerefMut<Target = Shared>>(&mut self, (): (), _shared: &mut G) {}

    #[inline(always)]
    fn leave<G: DerefMut<Target = Shared>>(&mut self, _shared: &mut G) {}

    fn finish(self) -> (Option<WaitHistogram>, u64) {
        (None, 0)
    }
}

impl Probe for Checked {
    type Asked = Instant;

    /// Not after the signal to stop: the wait would be noted.
    #[inline]
    fn go_on(&self, stop: &AtomicBool) -> bool {
        !stop.load(Ordering::Relaxed)
    }

    #[inline]
    fn ask<P: Pace>(&self, pace: &P) -> Instant {
        pace.due().unwrap_or_else(Instant::now)
    }

    #[inline]
    fn enter<G: DerefMut<Target = Shared>>(&mut self, asked: Instant, shared: &mut G) {
        if let Some(waits) = &mut self.waits {
            waits.note(asked.elapsed(), 1);
        }
        shared.enter(self.mark);
    }

    #[inline]
    fn leave<G: DerefMut<Target = Shared>>(&mut self, shared: &mut G) {
        self.intrusions += u64::from(!shared.is_mine(self.mark));
    }

    fn finish(self) -> (Option<WaitHistogram>, u64) {
        (self.waits, self.intrusions)
    }
}

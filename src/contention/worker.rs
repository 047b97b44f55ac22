//! What one thread does in a slice: the loop that is measured.
//!
//! The loop is generic over everything that a load can ask for, so that each load gets a loop with
//! nothing else in it. With one lock, a closed loop and no clock it is: lock, count, work, unlock,
//! look at the signal to stop, work.
//!
//! An acquisition counts if its section ended before the signal to stop. Threads that are in the
//! queue by then get the lock once more each, which is no part of the slice.

use super::arrivals::{ArrivalProcess, Batches, ClosedLoop, OpenLoop};
use super::choice::{CumulativeShares, FirstLock, LockChooser};
use super::load::{Arrivals, Load};
use super::lock_kind::{LockKind, MeasuredMutex};
use super::statistics::WaitHistogram;
use super::system::{pin, thread_cpu_time};
use super::work::Work;
use super::work::{LongSection, Section, ShortSection};
use crate::primitive::{AtomicBool, Ordering};
use crossbeam_utils::CachePadded;
use std::hint::black_box;
use std::ops::DerefMut;
use std::time::{Duration, Instant};

/// The data under a lock.
#[derive(Default)]
pub(super) struct GuardedData {
    /// Counts all acquisitions.
    pub(super) count: u64,
    /// Is worked on.
    word: u64,
    /// The mark of the thread that came in last, in the passes that check ([`Pass`]).
    owner: u64,
}

impl GuardedData {
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
pub(super) struct SliceContext<K: LockKind> {
    pub(super) locks: Box<[CachePadded<K::Mutex<GuardedData>>]>,
    pub(super) stop: CachePadded<AtomicBool>,
    load: Load,
    shares: CumulativeShares,
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
pub(super) enum ThreadRole {
    /// One of the load's threads, by number.
    Worker(usize),
    /// The one that holds the first lock for so long at a time.
    Hog(Work),
}

impl<K: LockKind> SliceContext<K> {
    pub(super) fn new(load: &Load, processors: Vec<usize>) -> Self {
        SliceContext {
            locks: (0..load.locks)
                .map(|_| CachePadded::new(K::Mutex::new(GuardedData::default())))
                .collect(),
            stop: CachePadded::new(AtomicBool::new(false)),
            load: load.clone(),
            shares: CumulativeShares::new(load.locks, load.skew),
            processors,
        }
    }

    /// Gets ready, waits at the gate, runs the loop until the signal to stop. `gate` says when the
    /// slice began, or that there is nothing to do.
    pub(super) fn work(
        &self,
        role: ThreadRole,
        pass: Pass,
        gate: impl FnOnce() -> Option<Instant>,
    ) -> Option<Tally> {
        let number = match role {
            ThreadRole::Worker(number) => number,
            ThreadRole::Hog(_) => self.load.threads,
        };
        let unpinned =
            !self.processors.is_empty() && !pin(&[self.processors[number % self.processors.len()]]);
        let tally = match (role, pass) {
            (ThreadRole::Worker(_), Pass::Count) => {
                self.with_chooser(number, NoInstrumentation, gate)
            }
            (ThreadRole::Worker(_), _) => {
                self.with_chooser(number, Checks::new(number, pass == Pass::Time), gate)
            }
            (ThreadRole::Hog(hold), Pass::Count) => self.hog(hold, NoInstrumentation, gate),
            (ThreadRole::Hog(hold), _) => self.hog(hold, Checks::new(number, false), gate),
        };
        tally.map(|tally| Tally { unpinned, ..tally })
    }

    fn hog<T: Instrumentation>(
        &self,
        hold: Work,
        instrumentation: T,
        gate: impl FnOnce() -> Option<Instant>,
    ) -> Option<Tally> {
        self.run(
            FirstLock,
            ClosedLoop,
            instrumentation,
            (LongSection::from(hold), LongSection::from(Work::NONE)),
            gate,
        )
    }

    fn with_chooser<T: Instrumentation>(
        &self,
        number: usize,
        instrumentation: T,
        gate: impl FnOnce() -> Option<Instant>,
    ) -> Option<Tally> {
        if self.locks.len() == 1 {
            self.with_arrivals(number, FirstLock, instrumentation, gate)
        } else {
            self.with_arrivals(number, self.shares.table(number), instrumentation, gate)
        }
    }

    fn with_arrivals<C: LockChooser, T: Instrumentation>(
        &self,
        number: usize,
        chooser: C,
        instrumentation: T,
        gate: impl FnOnce() -> Option<Instant>,
    ) -> Option<Tally> {
        match (self.load.arrivals, self.load.batch) {
            (Arrivals::Open { per_second }, _) => {
                let open = OpenLoop::new(per_second, number, self.load.threads);
                self.with_sections(chooser, open, instrumentation, gate)
            }
            (Arrivals::Closed, Some(batch)) => {
                self.with_sections(chooser, Batches::new(batch), instrumentation, gate)
            }
            (Arrivals::Closed, None) => {
                self.with_sections(chooser, ClosedLoop, instrumentation, gate)
            }
        }
    }

    fn with_sections<C: LockChooser, P: ArrivalProcess, T: Instrumentation>(
        &self,
        chooser: C,
        arrivals: P,
        instrumentation: T,
        gate: impl FnOnce() -> Option<Instant>,
    ) -> Option<Tally> {
        let Load { inside, outside, .. } = self.load;
        let Some(short) = ShortSection::<true>::new(inside).zip(ShortSection::new(outside)) else {
            let long = (LongSection::from(inside), LongSection::from(outside));
            return self.run(chooser, arrivals, instrumentation, long, gate);
        };
        match ShortSection::<false>::new(inside).zip(ShortSection::new(outside)) {
            Some(loose) if inside.is_counted() && outside.is_counted() => {
                self.run(chooser, arrivals, instrumentation, loose, gate)
            }
            _ => self.run(chooser, arrivals, instrumentation, short, gate),
        }
    }

    /// One function, with the loop in it. That the clocks are read and the work is fetched in the
    /// same function is no accident: with a loop alone in a function, the compiler saves registers
    /// around the lock's slow path that it need not save here, which costs a tenth at the most
    /// contended loads.
    #[inline(never)]
    fn run<C: LockChooser, P: ArrivalProcess, T: Instrumentation, S: Section>(
        &self,
        chooser: C,
        mut arrivals: P,
        mut instrumentation: T,
        sections: (S, S),
        gate: impl FnOnce() -> Option<Instant>,
    ) -> Option<Tally> {
        // Nobody knows how long they are.
        let sections = black_box(sections);
        let started = gate()?;
        let cpu_before = thread_cpu_time();
        arrivals.start(started);
        let (acquisitions, late) =
            acquire::<K, C, P, T, S>(self, chooser, &mut arrivals, &mut instrumentation, sections);
        let cpu = thread_cpu_time().zip(cpu_before).map(|(after, before)| after - before);
        let (mut waits, intrusions) = instrumentation.finish();
        if let Some(waits) = &mut waits {
            let end = started + Duration::from_millis(self.load.slice_ms);
            arrivals.note_unserved(end.min(Instant::now()), waits);
        }
        Some(Tally { acquisitions, late, intrusions, unpinned: false, cpu, waits })
    }
}

/// The loop. It sees the signal to stop between a section and the work after it, and counts the
/// section only if there was none; the second figure is that of sections which did not count.
#[inline(always)]
fn acquire<K: LockKind, C: LockChooser, P: ArrivalProcess, T: Instrumentation, S: Section>(
    context: &SliceContext<K>,
    mut chooser: C,
    arrivals: &mut P,
    instrumentation: &mut T,
    (inside, outside): (S, S),
) -> (u64, u64) {
    let (locks, stop) = (&context.locks[..], &*context.stop);
    let mut private = 1;
    let mut acquisitions = 0;
    let mut late = 0;
    while instrumentation.go_on(stop) && arrivals.next(stop) {
        let lock = &locks[chooser.next()];
        let requested = instrumentation.ask(arrivals);
        let mut shared = lock.lock();
        instrumentation.enter(requested, &mut shared);
        shared.count += 1;
        let before = if S::CHAINED { shared.word ^ private } else { shared.word };
        let word = inside.spend(before, stop);
        shared.word = word;
        instrumentation.leave(&mut shared);
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
trait Instrumentation {
    type RequestTime;

    /// Whether to ask for the lock again.
    fn go_on(&self, stop: &AtomicBool) -> bool;
    fn ask<P: ArrivalProcess>(&self, arrivals: &P) -> Self::RequestTime;
    fn enter<G: DerefMut<Target = GuardedData>>(
        &mut self,
        requested: Self::RequestTime,
        shared: &mut G,
    );
    fn leave<G: DerefMut<Target = GuardedData>>(&mut self, shared: &mut G);
    /// The waits, and how often another thread came in.
    fn finish(self) -> (Option<WaitHistogram>, u64);
}

/// Nothing.
struct NoInstrumentation;

/// Whether the thread is alone inside, and how long it waited, unless nobody wants to know.
///
/// Each wait is noted while the lock is held, so that between an unlock and the next attempt
/// nothing stands but the reading of the clock.
struct Checks {
    mark: u64,
    intrusions: u64,
    waits: Option<WaitHistogram>,
}

impl Checks {
    fn new(number: usize, timed: bool) -> Checks {
        let waits = timed.then(|| {
            let mut waits = WaitHistogram::new();
            waits.touch();
            waits
        });
        Checks { mark: number as u64 + 1, intrusions: 0, waits }
    }
}

impl Instrumentation for NoInstrumentation {
    type RequestTime = ();

    #[inline(always)]
    fn go_on(&self, _stop: &AtomicBool) -> bool {
        true
    }

    #[inline(always)]
    fn ask<P: ArrivalProcess>(&self, _pace: &P) {}

    #[inline(always)]
    fn enter<G: DerefMut<Target = GuardedData>>(&mut self, (): (), _shared: &mut G) {}

    #[inline(always)]
    fn leave<G: DerefMut<Target = GuardedData>>(&mut self, _shared: &mut G) {}

    fn finish(self) -> (Option<WaitHistogram>, u64) {
        (None, 0)
    }
}

impl Instrumentation for Checks {
    type RequestTime = Instant;

    /// Not after the signal to stop: the wait would be noted.
    #[inline]
    fn go_on(&self, stop: &AtomicBool) -> bool {
        !stop.load(Ordering::Relaxed)
    }

    #[inline]
    fn ask<P: ArrivalProcess>(&self, arrivals: &P) -> Instant {
        arrivals.due().unwrap_or_else(Instant::now)
    }

    #[inline]
    fn enter<G: DerefMut<Target = GuardedData>>(&mut self, requested: Instant, shared: &mut G) {
        if let Some(waits) = &mut self.waits {
            waits.note(requested.elapsed(), 1);
        }
        shared.enter(self.mark);
    }

    #[inline]
    fn leave<G: DerefMut<Target = GuardedData>>(&mut self, shared: &mut G) {
        self.intrusions += u64::from(!shared.is_mine(self.mark));
    }

    fn finish(self) -> (Option<WaitHistogram>, u64) {
        (self.waits, self.intrusions)
    }
}

//! The loop that one thread executes in a slice, and that is measured.
//!
//! The loop is generic over everything that a load can ask for, so that each kind of load gets a
//! loop without anything else in it. With one lock, a closed loop and no clock it is: lock, count,
//! work, unlock, check the stop flag, work.
//!
//! An acquisition counts if its critical section ended before the stop flag was set. A thread that
//! is queued at that time still gets the lock once, which is not counted as part of the slice.

use super::arrivals::{ArrivalProcess, Batches, ClosedLoop, OpenLoop};
use super::load::{Arrivals, Load};
use super::load::{CumulativeShares, FirstLock, LockChooser, ReadChooser};
use super::lock_kind::{LockKind, MeasuredMutex};
use super::slice::SliceBody;
use super::statistics::WaitHistogram;
use super::system::{RunDelay, pin, thread_cpu_time};
use super::work::{LongSection, Section, ShortSection, Work};
use crate::primitive::{AtomicBool, Ordering};
use crossbeam_utils::CachePadded;
use std::hint::black_box;
use std::ops::DerefMut;
use std::time::{Duration, Instant};

/// The data that a lock protects.
#[derive(Default)]
pub(super) struct GuardedData {
    /// The number of all acquisitions.
    pub(super) count: u64,
    /// The state of the work inside.
    pub(super) word: u64,
    /// The mark of the last thread that entered, in the passes that check it ([`Pass`]).
    owner: u64,
}

impl GuardedData {
    /// At the start of a critical section: writes the thread's mark.
    fn enter(&mut self, mark: u64) {
        self.owner = mark;
        // The mark must be in memory, where another thread would overwrite it.
        black_box(self);
    }

    /// The mark of the last thread that has entered to write.
    fn mark(&self) -> u64 {
        black_box(self).owner
    }

    /// Before the unlock: whether the mark is still the thread's own.
    fn is_mine(&mut self, mark: u64) -> bool {
        black_box(&mut *self).owner == mark
    }
}

/// What all threads of a slice share. Each lock and the stop flag have their own cache lines.
pub(super) struct SliceContext<K: LockKind> {
    locks: Box<[CachePadded<K::Mutex<GuardedData>>]>,
    /// Set at the end of the slice.
    stop: CachePadded<AtomicBool>,
    load: Load,
    shares: CumulativeShares,
    /// The processors to bind threads to; empty if they are not to be bound.
    processors: Vec<usize>,
}

/// The result of one thread.
pub(super) struct Tally {
    /// Acquisitions whose critical section ended before the stop.
    pub(super) acquisitions: u64,
    /// Acquisitions after that: 0 or 1.
    pub(super) late: u64,
    /// Of both, those that only read, which are not counted under the lock.
    pub(super) reads: u64,
    /// Acquisitions during which another thread entered, in the passes that check.
    pub(super) intrusions: u64,
    /// Whether the system refused to bind the thread to its processor.
    pub(super) unpinned: bool,
    /// Whether the acquisitions are part of the sample. They are checked in any case.
    pub(super) is_counted: bool,
    /// The CPU time of the loop, where the system provides it.
    pub(super) cpu: Option<Duration>,
    /// When the loop ended, if it was at its own schedule's end, or at the stop.
    pub(super) ended: Instant,
    /// How long each thread had no processor in the loop, where the system provides it: one figure
    /// for a thread. The first of a runtime's tasks has those of all its threads, the others none.
    pub(super) run_delays: Vec<Option<Duration>>,
    /// The waits, in the pass that times them.
    pub(super) waits: Option<WaitHistogram>,
}

/// What a slice measures and checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pass {
    /// Nothing is measured. In each acquisition the mark of the thread is checked.
    WarmUp,
    /// Acquisitions are counted, with nothing else in the loop.
    Count,
    /// Waits are timed, and marks are checked as in the warm-up.
    Time,
}

/// The role of a thread.
#[derive(Clone, Copy)]
pub(super) enum ThreadRole {
    /// One of the load's threads, by number.
    Worker(usize),
    /// The hog, which holds the first lock with this work inside.
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

    /// Runs the loop of the hog.
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

    /// Selects how locks are chosen, then runs the loop.
    fn with_chooser<T: Instrumentation>(
        &self,
        number: usize,
        instrumentation: T,
        gate: impl FnOnce() -> Option<Instant>,
    ) -> Option<Tally> {
        let table = || self.shares.table(number);
        if let Some(percent) = self.load.read {
            let locks = (self.locks.len() > 1).then(table);
            let chooser = ReadChooser::new(percent, locks, number);
            self.with_arrivals(number, chooser, instrumentation, gate)
        } else if self.locks.len() == 1 {
            self.with_arrivals(number, FirstLock, instrumentation, gate)
        } else {
            self.with_arrivals(number, table(), instrumentation, gate)
        }
    }

    /// Selects the arrival process, then runs the loop.
    fn with_arrivals<C: LockChooser, T: Instrumentation>(
        &self,
        number: usize,
        chooser: C,
        instrumentation: T,
        gate: impl FnOnce() -> Option<Instant>,
    ) -> Option<Tally> {
        match (&self.load.arrivals, self.load.batch) {
            (Arrivals::Open { per_second }, _) => {
                let open = OpenLoop::new(*per_second, number, self.load.threads);
                self.with_sections(chooser, open, instrumentation, gate)
            }
            (_, Some(batch)) => {
                self.with_sections(chooser, Batches::new(batch), instrumentation, gate)
            }
            (_, None) => self.with_sections(chooser, ClosedLoop, instrumentation, gate),
        }
    }

    /// Selects the form of the work, then runs the loop.
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

    /// Runs the loop, and reads the clocks before and after it.
    ///
    /// Both must be in one function: if the loop is alone in a function, the compiler saves
    /// registers around the lock's slow path that it need not save here, which costs a tenth of the
    /// throughput under the most contended loads.
    #[inline(never)]
    fn run<C: LockChooser, P: ArrivalProcess, T: Instrumentation, S: Section>(
        &self,
        chooser: C,
        mut arrivals: P,
        mut instrumentation: T,
        sections: (S, S),
        gate: impl FnOnce() -> Option<Instant>,
    ) -> Option<Tally> {
        // The compiler must not know how long they are.
        let sections = black_box(sections);
        let run_delay = RunDelay::of_this_thread();
        let started = gate()?;
        let run_delay = run_delay.start(started);
        let cpu_before = thread_cpu_time();
        arrivals.start(started, started + Duration::from_millis(self.load.slice_ms));
        let Counts { acquisitions, late, reads } =
            acquire::<K, C, P, T, S>(self, chooser, &mut arrivals, &mut instrumentation, sections);
        let cpu = thread_cpu_time().zip(cpu_before).map(|(after, before)| after - before);
        let run_delays = vec![run_delay.end()];
        let (mut waits, intrusions) = instrumentation.finish();
        let ended = Instant::now();
        if let Some(waits) = &mut waits {
            arrivals.record_unserved(ended, waits);
        }
        Some(Tally {
            acquisitions,
            late,
            reads,
            intrusions,
            unpinned: false,
            is_counted: true,
            cpu,
            run_delays,
            ended,
            waits,
        })
    }
}

impl<K: LockKind> SliceBody for SliceContext<K> {
    fn work(
        &self,
        role: ThreadRole,
        pass: Pass,
        gate: impl FnOnce() -> Option<Instant>,
    ) -> Option<Vec<Tally>> {
        let number = match role {
            ThreadRole::Worker(number) => number,
            ThreadRole::Hog(_) => self.load.threads,
        };
        let unpinned = !pin_thread(&self.processors, number);
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
        tally.map(|tally| vec![Tally { unpinned, ..tally }])
    }

    fn stop(&self) -> &AtomicBool {
        &self.stop
    }

    fn counts(&self) -> Vec<u64> {
        self.locks.iter().map(|lock| lock.lock().count).collect()
    }
}

/// Binds the calling thread to one of these processors, by its number; does nothing if there are none.
/// Returns whether the system did not refuse.
pub(super) fn pin_thread(processors: &[usize], number: usize) -> bool {
    processors.is_empty() || pin(&[processors[number % processors.len()]])
}

/// As in [`Tally`].
struct Counts {
    acquisitions: u64,
    late: u64,
    reads: u64,
}

/// The measured loop. It checks the stop flag between the critical section and the work outside,
/// and counts the section only if the flag was not set.
#[inline(always)]
fn acquire<K: LockKind, C: LockChooser, P: ArrivalProcess, T: Instrumentation, S: Section>(
    context: &SliceContext<K>,
    mut chooser: C,
    arrivals: &mut P,
    instrumentation: &mut T,
    (inside, outside): (S, S),
) -> Counts {
    let (locks, stop) = (&context.locks[..], &*context.stop);
    let mut private = 1;
    let mut acquisitions = 0;
    let mut late = 0;
    let mut reads = 0;
    while instrumentation.go_on(stop) && arrivals.next(stop) {
        let lock = &locks[chooser.next()];
        let only_reads = chooser.reads();
        let requested = instrumentation.request(arrivals);
        let chained = |word| if S::CHAINED { word ^ private } else { word };
        let word = if only_reads {
            reads += 1;
            lock.read(|shared| {
                let mark = instrumentation.enter_to_read(requested, shared);
                let word = inside.spend(chained(shared.word), stop);
                instrumentation.leave_from_reading(mark, shared);
                word
            })
        } else {
            let mut shared = lock.lock();
            instrumentation.enter(requested, &mut shared);
            shared.count += 1;
            let word = inside.spend(chained(shared.word), stop);
            shared.word = word;
            instrumentation.leave(&mut shared);
            word
        };
        if stop.load(Ordering::Relaxed) {
            late = 1;
            break;
        }
        acquisitions += 1;
        let before = if S::CHAINED { private ^ word } else { private };
        private = outside.spend(before, stop);
    }
    black_box(private);
    Counts { acquisitions, late, reads }
}

/// What the loop does in an acquisition beside the work: checks and the timing of waits.
pub(super) trait Instrumentation {
    type RequestTime;

    /// Whether to request the lock again.
    fn go_on(&self, stop: &AtomicBool) -> bool;
    /// Before the lock is requested.
    fn request<P: ArrivalProcess>(&self, arrivals: &P) -> Self::RequestTime;
    /// After the lock was acquired.
    fn enter<G: DerefMut<Target = GuardedData>>(
        &mut self,
        requested: Self::RequestTime,
        shared: &mut G,
    );
    /// Before the lock is released.
    fn leave<G: DerefMut<Target = GuardedData>>(&mut self, shared: &mut G);
    /// After the lock was acquired for reading. Returns what is to be seen at the end.
    fn enter_to_read(&mut self, requested: Self::RequestTime, shared: &GuardedData) -> u64;
    /// Before the reader releases the lock.
    fn leave_from_reading(&mut self, mark: u64, shared: &GuardedData);
    /// The waits, and the number of acquisitions during which another thread entered.
    fn finish(self) -> (Option<WaitHistogram>, u64);
}

/// Nothing, in the pass that counts.
pub(super) struct NoInstrumentation;

/// Checks that no other thread enters, and times waits if requested.
///
/// Each wait is recorded while the lock is held, so that between an unlock and the next request
/// there is only the reading of the clock.
pub(super) struct Checks<W = Option<WaitHistogram>> {
    mark: u64,
    intrusions: u64,
    waits: W,
}

/// Where waits are recorded.
pub(super) trait WaitRecorder {
    /// Records the wait since `requested`, if waits are timed.
    fn record(&mut self, requested: Instant);
    /// The waits, if this alone has them.
    fn finish(self) -> Option<WaitHistogram>;
}

impl WaitRecorder for Option<WaitHistogram> {
    #[inline]
    fn record(&mut self, requested: Instant) {
        if let Some(waits) = self {
            waits.record(requested.elapsed(), 1);
        }
    }

    fn finish(self) -> Option<WaitHistogram> {
        self
    }
}

/// An empty histogram whose memory is in use.
pub(super) fn touched_histogram() -> WaitHistogram {
    let mut waits = WaitHistogram::new();
    waits.touch();
    waits
}

impl Checks {
    pub(super) fn new(number: usize, timed: bool) -> Checks {
        Checks::with(number, timed.then(touched_histogram))
    }
}

impl<W: WaitRecorder> Checks<W> {
    /// Of the thread or task with this number.
    pub(super) fn with(number: usize, waits: W) -> Checks<W> {
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
    fn request<P: ArrivalProcess>(&self, _arrivals: &P) {}

    #[inline(always)]
    fn enter<G: DerefMut<Target = GuardedData>>(&mut self, (): (), _shared: &mut G) {}

    #[inline(always)]
    fn leave<G: DerefMut<Target = GuardedData>>(&mut self, _shared: &mut G) {}

    #[inline(always)]
    fn enter_to_read(&mut self, (): (), _shared: &GuardedData) -> u64 {
        0
    }

    #[inline(always)]
    fn leave_from_reading(&mut self, _mark: u64, _shared: &GuardedData) {}

    fn finish(self) -> (Option<WaitHistogram>, u64) {
        (None, 0)
    }
}

impl<W: WaitRecorder> Instrumentation for Checks<W> {
    type RequestTime = Instant;

    /// False after the stop, because the wait would be recorded.
    #[inline]
    fn go_on(&self, stop: &AtomicBool) -> bool {
        !stop.load(Ordering::Relaxed)
    }

    #[inline]
    fn request<P: ArrivalProcess>(&self, arrivals: &P) -> Instant {
        arrivals.due().unwrap_or_else(Instant::now)
    }

    #[inline]
    fn enter<G: DerefMut<Target = GuardedData>>(&mut self, requested: Instant, shared: &mut G) {
        self.waits.record(requested);
        shared.enter(self.mark);
    }

    #[inline]
    fn leave<G: DerefMut<Target = GuardedData>>(&mut self, shared: &mut G) {
        self.intrusions += u64::from(!shared.is_mine(self.mark));
    }

    #[inline]
    fn enter_to_read(&mut self, requested: Instant, shared: &GuardedData) -> u64 {
        self.waits.record(requested);
        shared.mark()
    }

    #[inline]
    fn leave_from_reading(&mut self, mark: u64, shared: &GuardedData) {
        self.intrusions += u64::from(shared.mark() != mark);
    }

    fn finish(self) -> (Option<WaitHistogram>, u64) {
        (self.waits.finish(), self.intrusions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_notices_a_writer() {
        let mut shared = GuardedData::default();
        shared.enter(7);
        let mut checks = Checks::new(1, false);
        let mark = checks.enter_to_read(Instant::now(), &shared);
        checks.leave_from_reading(mark, &shared);
        assert_eq!(checks.intrusions, 0);
        shared.enter(8);
        checks.leave_from_reading(mark, &shared);
        assert_eq!(checks.intrusions, 1);
    }
}

//! A slice: starts the threads, lets them run, stops them, and checks their results.
//!
//! The lock under test may be incorrect, and must not be able to hang the program. Threads are
//! therefore not scoped, and a thread is only joined after it has reported its result: a thread
//! that never reports is leaked, and the locks with it.

use super::conditions::ConditionsProbe;
use super::load::{Arrivals, Load, LoadError};
use super::lock_kind::{CondvarKind, LockKind};
use super::queue::QueueContext;
use super::report::Sample;
use super::statistics::WaitHistogram;
use super::system::processors;
use super::work::Work;
use super::worker::{Pass, SliceContext, Tally, ThreadRole};
use crate::primitive::{AtomicBool, Ordering};
use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How often the cancellation flag is checked.
const CANCEL_POLL: Duration = Duration::from_millis(25);
/// After the end of the slice: when no thread has reported for this long, the others never will.
pub(super) const STUCK_LIMIT: Duration = Duration::from_secs(if cfg!(test) { 3 } else { 10 });
/// The same limit after a panic, which may leave a lock locked, or a cancellation.
const STUCK_LIMIT_AFTER_FAILURE: Duration = Duration::from_millis(50);

/// The result of a slice.
pub(super) struct Slice {
    pub(super) sample: Sample,
    /// `None` in a pass that does not time waits.
    pub(super) waits: Option<WaitHistogram>,
    /// The number of threads that the system refused to bind to their processors.
    pub(super) unpinned: usize,
    /// All acquisitions of each lock, including the hog's and those after the stop.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "only the tests read the counts of single locks")
    )]
    pub(super) each_lock: Vec<u64>,
}

/// What the threads of a slice do, and what they share.
pub(super) trait SliceBody: Send + Sync + 'static {
    /// Executes a thread: prepares, waits at the gate, and runs the loop until the stop. `gate`
    /// blocks, and returns when the slice began, or `None` if the thread is not to run.
    fn work(
        &self,
        role: ThreadRole,
        pass: Pass,
        gate: impl FnOnce() -> Option<Instant>,
    ) -> Option<Vec<Tally>>;

    /// The flag that ends the slice.
    fn stop(&self) -> &AtomicBool;

    /// Wakes the threads that would not see the flag, after it was set. It uses the lock, so it may
    /// never return.
    fn close(&self) {}

    /// A number that grows while the slice ends, beside the threads that report.
    fn progress(&self) -> usize {
        0
    }

    /// The error if so many threads never report.
    fn stuck(&self, threads: usize) -> SliceError {
        SliceError::Stuck { threads }
    }

    /// Whether to call [`SliceBody::close`].
    fn must_close(&self) -> bool {
        false
    }

    /// The counter under each lock. It uses the locks, so it may never return.
    fn counts(&self) -> Vec<u64>;
}

/// Measures one slice of one lock, under a load without a queue. `None` if it was cancelled.
pub(super) fn measure<K: LockKind>(
    load: &Load,
    pass: Pass,
    cancel: &AtomicBool,
) -> Result<Option<Slice>, SliceError> {
    load.validate()?;
    if load.queue.is_some() {
        return Err(LoadError::NoCondvar.into());
    }
    if load.tasks.is_some() {
        #[cfg(feature = "peers")]
        return super::tasks::measure::<super::tasks::Blocking<K>>(load, pass, cancel);
        #[cfg(not(feature = "peers"))]
        return Err(LoadError::NoRuntime.into());
    }
    run(&Arc::new(SliceContext::<K>::new(load, to_pin(load))), load, load.threads, pass, cancel)
}

/// Measures one slice of a queue, if the load is one, or of the mutex. `None` if it was cancelled.
pub(super) fn measure_queue<K: CondvarKind>(
    load: &Load,
    pass: Pass,
    cancel: &AtomicBool,
) -> Result<Option<Slice>, SliceError> {
    load.validate()?;
    let Some(capacity) = load.queue else { return measure::<K>(load, pass, cancel) };
    let context = QueueContext::<K>::new(load, capacity, to_pin(load));
    run(&Arc::new(context), load, load.threads, pass, cancel)
}

/// The processors to bind threads to.
fn to_pin(load: &Load) -> Vec<usize> {
    if load.pin { processors() } else { vec![] }
}

/// Runs a slice with so many threads.
pub(super) fn run<B: SliceBody>(
    context: &Arc<B>,
    load: &Load,
    workers: usize,
    pass: Pass,
    cancel: &AtomicBool,
) -> Result<Option<Slice>, SliceError> {
    if let Arrivals::OfMaximum { .. } = load.arrivals {
        return Err(LoadError::UnknownMaximum.into());
    }
    let length = Duration::from_millis(load.slice_ms);
    let longest = length + Duration::from_millis(load.extra_ms());
    let probe = ConditionsProbe::before();
    let mut threads = SliceThreads::start(context, load.hog, workers, pass)?;

    // The threads wake up one by one. The first records the time at which it started.
    threads.gate.open(true);
    let mut cancelled = false;
    // In an open loop the threads end by themselves when all that was due is served.
    while !threads.failed() && !cancelled && !threads.all_done() {
        let now = Instant::now();
        // On a busy machine the first thread may start late.
        let end = threads.gate.first_start().unwrap_or(now) + longest;
        let left = end.saturating_duration_since(now);
        if left.is_zero() {
            break;
        }
        threads.receive(left.min(CANCEL_POLL));
        cancelled = cancel.load(Ordering::Relaxed);
    }
    context.stop().store(true, Ordering::Relaxed);
    // Taken after the flag is set: every section that counts has ended by now.
    let stopped = Instant::now();
    if context.must_close() {
        let context = Arc::clone(context);
        // If it panics or never returns, the threads do not report.
        let close = move || drop(catch_unwind(AssertUnwindSafe(|| context.close())));
        spawn("lockword-load-close".to_owned(), close)
            .map_err(|reason| SliceError::Spawn { started: workers, reason })?;
    }

    let mut last_report = stopped;
    let mut progress = 0;
    while threads.missing() > 0 {
        cancelled |= cancel.load(Ordering::Relaxed);
        let limit =
            if cancelled || threads.failed() { STUCK_LIMIT_AFTER_FAILURE } else { STUCK_LIMIT };
        if threads.receive(CANCEL_POLL.min(limit)) || context.progress() > progress {
            progress = context.progress();
            last_report = Instant::now();
        } else if last_report.elapsed() >= limit {
            break;
        }
    }
    let missing = threads.missing();
    if let Some(text) = threads.panic.take() {
        return Err(SliceError::Panicked(text));
    }
    if cancelled {
        return Ok(None);
    }
    if missing > 0 {
        return Err(context.stuck(missing));
    }
    // The slice began when the first thread started, not when this thread opened the gate.
    let started = threads.gate.first_start().unwrap_or(stopped);
    let (tallies, hog) = threads.finish();
    let last = tallies.iter().map(|tally| tally.ended).max().unwrap_or(stopped);
    let end =
        if load.arrivals.is_open() { last.min(stopped).max(started + length) } else { stopped };
    let elapsed = end.saturating_duration_since(started);
    let each_lock = counts(context)?;
    evaluate(tallies, hog, each_lock, (elapsed, probe)).map(Some)
}

/// Checks the threads' results and combines them.
fn evaluate(
    tallies: Vec<Tally>,
    hog: Option<Tally>,
    each_lock: Vec<u64>,
    (elapsed, probe): (Duration, ConditionsProbe),
) -> Result<Slice, SliceError> {
    let in_sample = tallies.iter().filter(|tally| tally.is_counted);
    let acquisitions: Vec<u64> = in_sample.map(|tally| tally.acquisitions).collect();
    let hog_acquisitions = hog.as_ref().map(|tally| tally.acquisitions);
    let all_tallies = || tallies.iter().chain(&hog);
    let counted = each_lock.iter().sum();
    let all = all_tallies().map(|tally| tally.acquisitions + tally.late).sum();
    let written = all_tallies().map(|tally| tally.acquisitions + tally.late - tally.reads).sum();
    if counted != written {
        return Err(SliceError::NoMutualExclusion { counted, acquisitions: written });
    }
    let intrusions = all_tallies().map(|tally| tally.intrusions).sum();
    if intrusions > 0 {
        return Err(SliceError::Intrusion { intrusions, acquisitions: all });
    }
    let unpinned = all_tallies().filter(|tally| tally.unpinned).count();
    let cpu: Option<Duration> = tallies.iter().map(|tally| tally.cpu).sum();
    let run_delays = tallies.iter().flat_map(|tally| tally.run_delays.iter().copied());
    let run_delays: Option<Vec<Duration>> = run_delays.collect();
    let waits = tallies.into_iter().filter_map(|tally| tally.waits).reduce(|mut all, waits| {
        all.add(&waits);
        all
    });
    let sample = Sample {
        elapsed_ns: elapsed.as_nanos() as f64,
        acquisitions,
        hog_acquisitions,
        cpu_ns: cpu.map(|cpu| cpu.as_nanos() as f64),
        conditions: probe.after(&run_delays.unwrap_or_default(), elapsed),
    };
    Ok(Slice { sample, waits, unpinned, each_lock })
}

/// Reads the counter under each lock. It does so on a separate thread, since the last holder may
/// have left a lock locked.
fn counts<B: SliceBody>(context: &Arc<B>) -> Result<Vec<u64>, SliceError> {
    let (sender, receiver) = channel();
    let context = Arc::clone(context);
    let read = move || {
        // The receiver is gone if this took too long.
        let _ = sender.send(catch_unwind(AssertUnwindSafe(|| context.counts())));
    };
    let thread = spawn("lockword-load-count".to_owned(), read)
        .map_err(|reason| SliceError::Spawn { started: 0, reason })?;
    match receiver.recv_timeout(STUCK_LIMIT) {
        Ok(counts) => {
            let _ = thread.join();
            counts.map_err(|payload| SliceError::Panicked(panic_message(&*payload)))
        }
        Err(_) => Err(SliceError::Stuck { threads: 1 }),
    }
}

fn spawn(name: String, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, String> {
    thread::Builder::new().name(name).spawn(run).map_err(|error| error.to_string())
}

/// The threads of a slice.
struct SliceThreads {
    gate: Arc<StartGate>,
    handles: Vec<JoinHandle<()>>,
    reports: Receiver<ThreadReport>,
    /// In the order of the threads: workers, then the hog.
    tallies: Vec<Option<Vec<Tally>>>,
    hog: bool,
    received: usize,
    panic: Option<String>,
}

/// A thread's number, and its result or the message of its panic.
type ThreadReport = (usize, Result<Option<Vec<Tally>>, String>);

impl SliceThreads {
    /// Starts the threads, and returns when all of them wait at the gate.
    fn start<B: SliceBody>(
        context: &Arc<B>,
        hog: Option<Work>,
        workers: usize,
        pass: Pass,
    ) -> Result<SliceThreads, SliceError> {
        let (sender, reports) = channel();
        let hog = hog.map(ThreadRole::Hog);
        let roles: Vec<ThreadRole> = (0..workers).map(ThreadRole::Worker).chain(hog).collect();
        let mut threads = SliceThreads {
            gate: Arc::new(StartGate::default()),
            handles: Vec::with_capacity(roles.len()),
            reports,
            tallies: roles.iter().map(|_| None).collect(),
            hog: hog.is_some(),
            received: 0,
            panic: None,
        };
        for (number, role) in roles.iter().copied().enumerate() {
            let (gate, sender, context) =
                (Arc::clone(&threads.gate), sender.clone(), Arc::clone(context));
            let run = move || run_thread(&*context, (number, role), pass, &gate, &sender);
            match spawn(format!("lockword-load-{number}"), run) {
                Ok(handle) => threads.handles.push(handle),
                Err(reason) => {
                    threads.gate.open(false);
                    let started = threads.handles.len();
                    // They return at once, since the gate was opened without work.
                    threads.handles.into_iter().for_each(|handle| drop(handle.join()));
                    return Err(SliceError::Spawn { started, reason });
                }
            }
        }
        threads.gate.await_arrivals(roles.len());
        Ok(threads)
    }

    /// Waits for a thread's report, and returns whether one came.
    fn receive(&mut self, limit: Duration) -> bool {
        match self.reports.recv_timeout(limit) {
            Ok((number, Ok(tally))) => self.tallies[number] = tally,
            Ok((_, Err(text))) => self.panic = self.panic.take().or(Some(text)),
            Err(RecvTimeoutError::Timeout) => return false,
            // All threads have reported.
            Err(RecvTimeoutError::Disconnected) => {
                thread::sleep(limit);
                return false;
            }
        }
        self.received += 1;
        true
    }

    /// The number of threads that have not reported.
    fn missing(&self) -> usize {
        self.tallies.len() - self.received
    }

    /// Whether all threads but the hog have reported.
    fn all_done(&self) -> bool {
        let workers = self.tallies.len() - usize::from(self.hog);
        self.tallies[..workers].iter().all(Option::is_some)
    }

    /// Whether a thread panicked.
    fn failed(&self) -> bool {
        self.panic.is_some()
    }

    /// After all threads have reported: the results of the workers and of the hog.
    fn finish(mut self) -> (Vec<Tally>, Option<Tally>) {
        // They have reported and are about to end. After this, none runs into the next slice.
        self.handles.into_iter().for_each(|handle| drop(handle.join()));
        let hog = if self.hog { self.tallies.pop().flatten() } else { None };
        let tallies = self.tallies.into_iter().flatten().flatten().collect();
        (tallies, hog.and_then(|mut hog| hog.pop()))
    }
}

/// The main function of a thread.
fn run_thread<B: SliceBody>(
    context: &B,
    (number, role): (usize, ThreadRole),
    pass: Pass,
    gate: &StartGate,
    reports: &Sender<ThreadReport>,
) {
    let run = || context.work(role, pass, || gate.pass());
    let result = catch_unwind(AssertUnwindSafe(run)).map_err(|payload| panic_message(&*payload));
    // The receiver is gone if this took too long.
    let _ = reports.send((number, result));
}

/// The message of a panic.
pub(super) fn panic_message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
    text.unwrap_or("(no text)").to_owned()
}

/// A gate at which the threads wait until all have arrived and it is opened.
#[derive(Default)]
struct StartGate {
    state: Mutex<StartGateState>,
    changed: Condvar,
}

#[derive(Default)]
struct StartGateState {
    arrived: usize,
    /// Whether the gate is open, and if so, whether the threads are to run.
    open: Option<bool>,
    /// When the first thread passed.
    first_start: Option<Instant>,
}

impl StartGate {
    /// Waits until the gate is open. Returns when the first thread passed, the same time for all
    /// threads; `None` if they are not to run.
    fn pass(&self) -> Option<Instant> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.arrived += 1;
        self.changed.notify_all();
        loop {
            if let Some(go) = state.open {
                return go.then(|| *state.first_start.get_or_insert_with(Instant::now));
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until this many threads are at the gate.
    fn await_arrivals(&self, count: usize) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = self.changed.wait_while(state, |state| state.arrived < count);
        drop(waiting.unwrap_or_else(PoisonError::into_inner));
    }

    /// When the first thread passed, if one did.
    fn first_start(&self) -> Option<Instant> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).first_start
    }

    /// Opens the gate; `go` tells the threads whether to run.
    fn open(&self, go: bool) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).open = Some(go);
        self.changed.notify_all();
    }
}

/// Why a slice failed.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum SliceError {
    /// The load is not valid.
    Load(LoadError),
    /// The system refused to start a thread.
    Spawn {
        /// The number of threads that had been started.
        started: usize,
        /// The error of the system.
        reason: String,
    },
    /// The lock under test panicked on a thread, with this message.
    Panicked(String),
    /// After the end of the slice no thread finished for ten seconds.
    Stuck {
        /// The number of threads that had not finished. They and the locks are leaked.
        threads: usize,
    },
    /// After the end of the slice no task finished for ten seconds.
    TasksStuck {
        /// The number of tasks that had not finished. They, their threads and the locks are leaked.
        tasks: usize,
    },
    /// Two threads held a lock at the same time, and an increment under the lock was lost.
    ///
    /// Each slice is checked for it. Two threads at the same time need not lose an increment: see
    /// [`SliceError::Intrusion`].
    NoMutualExclusion {
        /// The sum of the counters under the locks.
        counted: u64,
        /// The sum of the threads' own counts, including those after the end of the slice, without those that
        /// only read.
        acquisitions: u64,
    },
    /// Two threads held a lock at the same time: a thread wrote its mark under the lock at the
    /// start of its critical section, and found another's mark at the end; or a reader found one mark at the start,
    /// and another one at the end.
    ///
    /// The slices that time waits and the warm-up of a [`Comparison`](super::Comparison) are
    /// checked for it; the slices that only count acquisitions are not.
    Intrusion {
        /// The number of acquisitions that found another thread's mark.
        intrusions: u64,
        /// The number of all acquisitions, including those after the end of the slice.
        acquisitions: u64,
    },
}

impl fmt::Display for SliceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SliceError::Load(error) => error.fmt(f),
            SliceError::Spawn { started, reason } => write!(
                f,
                "the system refused a thread after {started} of them ({reason}): \
                 use fewer, or raise its limit"
            ),
            SliceError::Panicked(text) => write!(f, "the lock panicked: {text}"),
            SliceError::Stuck { threads } => write!(
                f,
                "{threads} threads still wait for a lock that no thread uses any more: \
                 the lock has lost a wake-up (a Condvar a notification), or was never released"
            ),
            SliceError::TasksStuck { tasks } => write!(
                f,
                "{tasks} tasks have not finished although nothing holds a lock any more: \
                 the lock has lost a wake-up, or was never released"
            ),
            SliceError::NoMutualExclusion { counted, acquisitions } => write!(
                f,
                "no mutual exclusion: {acquisitions} acquisitions, but only {counted} \
                 were counted under the lock"
            ),
            SliceError::Intrusion { intrusions, acquisitions } => write!(
                f,
                "no mutual exclusion: another thread came in during {intrusions} \
                 of {acquisitions} acquisitions"
            ),
        }
    }
}

impl std::error::Error for SliceError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            SliceError::Load(error) => Some(error),
            _ => None,
        }
    }
}

impl From<LoadError> for SliceError {
    fn from(error: LoadError) -> Self {
        SliceError::Load(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contention::{
        Arrivals, Batch, Lockword, LockwordRwLock, MeasuredMutex, Skew, Std, StdRwLock, Work,
    };
    use std::ops::{Deref, DerefMut};

    fn slice<K: LockKind>(load: &Load, pass: Pass) -> Slice {
        let slice = measure::<K>(load, pass, &AtomicBool::new(false));
        slice.expect("it runs").expect("it is not cancelled")
    }

    fn load(threads: usize) -> Load {
        Load::new(threads).inside(Work::units(10)).outside(Work::units(10)).slice_ms(20)
    }

    /// Each lock's share of all acquisitions, in percent.
    fn shares(load: &Load) -> Vec<f64> {
        let counts = slice::<Lockword>(load, Pass::Count).each_lock;
        let sum: u64 = counts.iter().sum();
        counts.iter().map(|count| 100.0 * *count as f64 / sum as f64).collect()
    }

    #[test]
    fn locks_are_acquired_in_the_proportions_of_the_skew() {
        // Long enough for many passes through the tables of choices.
        let load = load(2).locks(4).slice_ms(100);
        let even = shares(&load);
        assert!(even.iter().all(|share| (20.0..30.0).contains(share)), "{even:?}");
        // 1, 1/4, 1/9, 1/16: 70, 18, 8, 4 of a hundred.
        let skewed = shares(&load.skew(Skew::Zipf(2.0)));
        for (share, expected) in skewed.iter().zip([70.2, 17.6, 7.8, 4.4]) {
            assert!((share - expected).abs() < 3.0, "{skewed:?}");
        }
    }

    #[test]
    fn the_hog_holds_the_first_lock_and_is_counted_apart() {
        // The other thread leaves time for it.
        let load = load(1).outside(Work::clock(1_000_000)).locks(3).slice_ms(200);
        let load = load.hog(Work::clock(1_000_000));
        let slice = slice::<Lockword>(&load, Pass::Count);
        let hog = slice.sample.hog_acquisitions.expect("there is one");
        assert!(hog > 0 && hog as f64 <= slice.sample.elapsed_ns / 1e6, "{hog}");
        assert!(slice.each_lock[0] >= hog);
        let late = slice.each_lock.iter().sum::<u64>() - slice.sample.total() - hog;
        assert!(late <= 2, "{late} after the end");
    }

    #[test]
    fn every_kind_of_loop_counts_the_same_under_the_lock_and_outside() {
        let batch = Batch { acquisitions: 3, pause_ns: 1_000 };
        let open = Arrivals::Open { per_second: 50_000.0 };
        for pass in [Pass::WarmUp, Pass::Count, Pass::Time] {
            for locks in [1, 5] {
                for work in [Work::units(5), Work::nanos(200_000), Work::clock(1_000)] {
                    let closed = load(3).locks(locks).inside(work).slice_ms(5);
                    let (batches, open) =
                        (closed.clone().batch(batch), closed.clone().arrivals(open.clone()));
                    for load in [closed, batches, open] {
                        let slice = slice::<Std>(&load, pass);
                        assert_eq!(slice.sample.acquisitions.len(), 3, "{}", load.name());
                        assert_eq!(slice.each_lock.len(), locks);
                        let entries: u64 = slice.each_lock.iter().sum();
                        let late = entries - slice.sample.total();
                        assert!(late <= 3, "{late} after the end");
                        assert_eq!(slice.waits.is_some(), pass == Pass::Time);
                        let waits = slice.waits.map_or(entries, |waits| waits.count());
                        assert!(waits >= entries, "{waits} waits");
                    }
                }
            }
        }
    }

    fn tally() -> Tally {
        Tally {
            acquisitions: 5,
            late: 1,
            reads: 0,
            intrusions: 0,
            unpinned: false,
            is_counted: true,
            cpu: None,
            ended: Instant::now(),
            run_delays: vec![None],
            waits: None,
        }
    }

    #[test]
    fn a_lost_increment_is_an_error() {
        let now = Duration::from_millis(1);
        let judge = |counted| {
            evaluate(
                vec![tally(), tally()],
                Some(tally()),
                counted,
                (now, ConditionsProbe::before()),
            )
        };
        // All acquisitions are checked; those before the end count.
        let slice = judge(vec![10, 8]).expect("as many under the lock");
        assert_eq!((slice.sample.total(), slice.sample.hog_acquisitions), (10, Some(5)));
        let error = SliceError::NoMutualExclusion { counted: 17, acquisitions: 18 };
        assert_eq!(judge(vec![10, 7]).err(), Some(error));
        // What only reads is not counted under the lock.
        let reader = || Tally { reads: 4, ..tally() };
        let judge = |counted| {
            evaluate(vec![reader(), tally()], None, vec![counted], (now, ConditionsProbe::before()))
        };
        assert_eq!(judge(8).expect("as many under the lock").sample.total(), 10);
        let error = SliceError::NoMutualExclusion { counted: 7, acquisitions: 8 };
        assert_eq!(judge(7).err(), Some(error));
    }

    #[test]
    fn the_run_delays_of_all_threads_but_the_hog_are_judged() {
        let of = |ms: &[u64]| Tally {
            run_delays: ms.iter().map(|ms| Some(Duration::from_millis(*ms))).collect(),
            ..tally()
        };
        let judge = |tallies: Vec<Tally>| {
            let time = (Duration::from_millis(10), ConditionsProbe::before());
            let counted = 6 * (tallies.len() as u64 + 1);
            let slice = evaluate(tallies, Some(of(&[9])), vec![counted], time);
            let conditions = slice.expect("nothing is wrong").sample.conditions;
            (conditions.run_delay, conditions.most_run_delay)
        };
        assert_eq!(judge(vec![of(&[1]), of(&[5])]), (Some(0.3), Some(0.5)));
        // Three tasks on two threads.
        assert_eq!(judge(vec![of(&[1, 5]), of(&[]), of(&[])]), (Some(0.3), Some(0.5)));
        assert_eq!(judge(vec![of(&[1]), tally()]), (None, None), "one is not known");
    }

    #[test]
    fn reads_are_acquisitions_that_are_not_counted_under_the_lock() {
        for pass in [Pass::WarmUp, Pass::Count, Pass::Time] {
            for locks in [1, 5] {
                let load = load(3).locks(locks).slice_ms(10);
                for percent in [0.0, 50.0, 100.0] {
                    let load = load.clone().read(percent);
                    for slice in [
                        slice::<LockwordRwLock>(&load, pass),
                        slice::<StdRwLock>(&load, pass),
                        // A mutex locks to read.
                        slice::<Lockword>(&load, pass),
                    ] {
                        let all = slice.sample.total();
                        let written: u64 = slice.each_lock.iter().sum();
                        let share = 100.0 * (1.0 - written as f64 / all as f64);
                        let few = all < 1_000;
                        assert!(few || (share - percent).abs() < 10.0, "{share} of {percent} %");
                        assert!(percent < 100.0 || written == 0, "{written} of {all}");
                        let waits = slice.waits.map_or(all, |waits| waits.count());
                        assert!(waits >= all, "{waits} waits of {all}");
                    }
                }
            }
        }
        // The hog writes.
        let load = load(1).outside(Work::clock(1_000_000)).slice_ms(100).read(100.0);
        let slice = slice::<LockwordRwLock>(&load.hog(Work::clock(1_000_000)), Pass::Count);
        assert!(slice.each_lock[0] >= slice.sample.hog_acquisitions.expect("there is one"));
    }

    /// A mutex that lets another thread in at each access to the data. No access is torn, so no
    /// increment is lost.
    struct NonExclusiveMutex<T>(Mutex<T>);

    struct NonExclusiveGuard<'a, T>(&'a NonExclusiveMutex<T>, Option<std::sync::MutexGuard<'a, T>>);

    impl<T> Deref for NonExclusiveGuard<'_, T> {
        type Target = T;

        fn deref(&self) -> &T {
            self.1.as_ref().expect("inside")
        }
    }

    impl<T> DerefMut for NonExclusiveGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            self.1 = None;
            thread::sleep(Duration::from_micros(50));
            self.1.insert(self.0.0.lock().expect("no panic"))
        }
    }

    impl<T: Send> MeasuredMutex<T> for NonExclusiveMutex<T> {
        type Guard<'a>
            = NonExclusiveGuard<'a, T>
        where
            T: 'a;

        fn new(value: T) -> Self {
            NonExclusiveMutex(Mutex::new(value))
        }

        fn lock(&self) -> Self::Guard<'_> {
            NonExclusiveGuard(self, Some(self.0.lock().expect("no panic")))
        }
    }

    struct NonExclusive;

    impl LockKind for NonExclusive {
        type Mutex<T: Send + Sync> = NonExclusiveMutex<T>;
    }

    #[test]
    fn a_second_holder_is_an_error_even_if_no_increment_is_lost() {
        let load = load(3).slice_ms(200);
        for pass in [Pass::WarmUp, Pass::Time] {
            match measure::<NonExclusive>(&load, pass, &AtomicBool::new(false)).err() {
                Some(SliceError::Intrusion { intrusions, acquisitions }) => {
                    assert!(0 < intrusions && intrusions <= acquisitions);
                }
                other => panic!("{pass:?}: {other:?}"),
            }
        }
        // The pass that only counts does not check marks.
        let slice = slice::<NonExclusive>(&load, Pass::Count);
        assert!(slice.each_lock[0] > 0);
        // With a single thread there is no second holder.
        let alone = Load { threads: 1, ..load };
        assert!(measure::<NonExclusive>(&alone, Pass::Time, &AtomicBool::new(false)).is_ok());
    }

    #[test]
    fn threads_that_the_system_refuses_to_bind_are_counted() {
        // No machine has this processor.
        let context = SliceContext::<Std>::new(&load(1), vec![1_000_000]);
        context.stop().store(true, Ordering::Relaxed);
        let work = |context: &SliceContext<Std>| {
            let tally = context.work(ThreadRole::Worker(0), Pass::Count, || Some(Instant::now()));
            tally.expect("it ran")[0].unpinned
        };
        assert!(work(&context));
        let context = SliceContext::<Std>::new(&load(1), vec![]);
        context.stop().store(true, Ordering::Relaxed);
        assert!(!work(&context), "no processor was requested");
        let refused = evaluate(
            vec![tally(), Tally { unpinned: true, ..tally() }],
            Some(Tally { unpinned: true, ..tally() }),
            vec![18],
            (Duration::from_millis(1), ConditionsProbe::before()),
        );
        assert_eq!(refused.expect("nothing is wrong").unpinned, 2);
    }

    #[test]
    fn all_threads_get_the_start_time_of_the_first() {
        let gate = StartGate::default();
        gate.open(true);
        let first = gate.pass().expect("there is something to do");
        thread::sleep(Duration::from_millis(1));
        assert_eq!((gate.pass(), gate.first_start()), (Some(first), Some(first)));
        let shut = StartGate::default();
        shut.open(false);
        assert_eq!((shut.pass(), shut.first_start()), (None, None));
    }

    /// A mutex that stays locked when its guard is dropped.
    struct NeverReleasedMutex<T>(Mutex<T>, Mutex<bool>, Condvar);

    impl<T: Send> MeasuredMutex<T> for NeverReleasedMutex<T> {
        type Guard<'a>
            = std::sync::MutexGuard<'a, T>
        where
            T: 'a;

        fn new(value: T) -> Self {
            NeverReleasedMutex(Mutex::new(value), Mutex::new(false), Condvar::new())
        }

        fn lock(&self) -> Self::Guard<'_> {
            let taken = self.1.lock().expect("no panic");
            *self.2.wait_while(taken, |taken| *taken).expect("no panic") = true;
            self.0.lock().expect("no panic")
        }
    }

    struct NeverReleased;

    impl LockKind for NeverReleased {
        type Mutex<T: Send + Sync> = NeverReleasedMutex<T>;
    }

    #[test]
    fn a_lock_that_is_never_released_is_an_error() {
        let error = measure::<NeverReleased>(&load(3), Pass::Count, &AtomicBool::new(false)).err();
        assert_eq!(error, Some(SliceError::Stuck { threads: 3 }));
    }

    #[test]
    fn a_lock_that_is_never_released_does_not_delay_a_cancellation() {
        let cancelled = AtomicBool::new(true);
        let slice = measure::<NeverReleased>(&load(3).slice_ms(3_600_000), Pass::Time, &cancelled);
        assert!(slice.expect("no error").is_none());
    }

    /// A mutex that panics at every acquisition after the first hundred, and stays locked.
    struct PanickingMutex<T>(NeverReleasedMutex<T>, Mutex<u32>);

    struct PanickingGuard<'a, T>(std::sync::MutexGuard<'a, T>, &'a NeverReleasedMutex<T>);

    impl<T> Deref for PanickingGuard<'_, T> {
        type Target = T;

        fn deref(&self) -> &T {
            &self.0
        }
    }

    impl<T> DerefMut for PanickingGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            &mut self.0
        }
    }

    impl<T> Drop for PanickingGuard<'_, T> {
        fn drop(&mut self) {
            *self.1.1.lock().expect("no panic") = false;
            self.1.2.notify_one();
        }
    }

    impl<T: Send> MeasuredMutex<T> for PanickingMutex<T> {
        type Guard<'a>
            = PanickingGuard<'a, T>
        where
            T: 'a;

        fn new(value: T) -> Self {
            PanickingMutex(NeverReleasedMutex::new(value), Mutex::new(0))
        }

        fn lock(&self) -> Self::Guard<'_> {
            let guard = self.0.lock();
            let count = {
                let mut count = self.1.lock().expect("no panic");
                *count += 1;
                *count
            };
            if count > 100 {
                drop(guard);
                panic!("this lock is worn out");
            }
            PanickingGuard(guard, &self.0)
        }
    }

    struct Panicking;

    impl LockKind for Panicking {
        type Mutex<T: Send + Sync> = PanickingMutex<T>;
    }

    #[test]
    fn a_panic_of_the_lock_is_an_error_even_if_other_threads_never_return() {
        let load = load(4).slice_ms(3_600_000);
        let error = measure::<Panicking>(&load, Pass::Count, &AtomicBool::new(false)).err();
        assert_eq!(error, Some(SliceError::Panicked("this lock is worn out".to_owned())));
    }
}

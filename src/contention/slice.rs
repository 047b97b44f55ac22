//! One slice: starts the threads, lets them run, stops them, and checks what they did.
//!
//! The lock under test may be anybody's, so nothing that it does may hang the program. Threads are
//! not scoped, and nobody joins one that has not reported yet: threads that never come back are
//! left behind, with the locks.

use super::error::SliceError;
use super::load::Load;
use super::lock::{Family, Lock};
use super::report::Sample;
use super::system::processors;
use super::waits::WaitHistogram;
use super::worker::{Field, Pass, Role, Tally};
use crate::primitive::{AtomicBool, Ordering};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

#[cfg(test)]
mod tests;

/// How often the cancellation is looked at.
const GLANCE: Duration = Duration::from_millis(25);
/// After the end, when no thread has come back for so long, the others never will.
const STUCK: Duration = Duration::from_secs(if cfg!(test) { 3 } else { 10 });
/// The same after a panic or a cancellation, which may well leave a lock locked.
const STUCK_AFTER_FAILURE: Duration = Duration::from_millis(50);

/// What a slice measured.
pub(super) struct Slice {
    pub(super) sample: Sample,
    /// `None` in a pass that does not time them.
    pub(super) waits: Option<WaitHistogram>,
    /// Threads that the system refused to bind to their processors.
    pub(super) unpinned: usize,
    /// All acquisitions of each lock, the hog's and those after the signal to stop too.
    #[cfg_attr(not(test), expect(dead_code, reason = "only the tests look at single locks"))]
    pub(super) each_lock: Vec<u64>,
}

/// Measures one slice of one lock. `None` if it was cancelled.
pub(super) fn measure<F: Family>(
    load: &Load,
    pass: Pass,
    cancel: &AtomicBool,
) -> Result<Option<Slice>, SliceError> {
    load.validate()?;
    let field = Arc::new(Field::<F>::new(load, if load.pin { processors() } else { vec![] }));
    let mut crew = Crew::start(&field, load, pass)?;

    // The signal to start wakes the threads one by one; the first notes when it started.
    crew.gate.open(true);
    let mut cancelled = false;
    while !crew.failed() && !cancelled {
        let now = Instant::now();
        // On a busy machine the first may start late.
        let end = crew.gate.first_start().unwrap_or(now) + Duration::from_millis(load.slice_ms);
        let left = end.saturating_duration_since(now);
        if left.is_zero() {
            break;
        }
        crew.hear(left.min(GLANCE));
        cancelled = cancel.load(Ordering::Relaxed);
    }
    field.stop.store(true, Ordering::Relaxed);
    // After the signal: what counts has ended by now.
    let stopped = Instant::now();

    let mut heard = stopped;
    while crew.missing() > 0 {
        cancelled |= cancel.load(Ordering::Relaxed);
        let patience = if cancelled || crew.failed() { STUCK_AFTER_FAILURE } else { STUCK };
        if crew.hear(GLANCE.min(patience)) {
            heard = Instant::now();
        } else if heard.elapsed() >= patience {
            break;
        }
    }
    let missing = crew.missing();
    if let Some(text) = crew.panic.take() {
        return Err(SliceError::Panicked(text));
    }
    if cancelled {
        return Ok(None);
    }
    if missing > 0 {
        return Err(SliceError::Stuck { threads: missing });
    }
    // The main thread may come out of the gate late, when the others have long started.
    let started = crew.gate.first_start().unwrap_or(stopped);
    let elapsed = stopped.saturating_duration_since(started);
    let (tallies, hog) = crew.finish();
    let each_lock = counts(&field)?;
    evaluate(tallies, hog, each_lock, elapsed).map(Some)
}

/// Puts the threads' figures together.
fn evaluate(
    tallies: Vec<Tally>,
    hog: Option<Tally>,
    each_lock: Vec<u64>,
    elapsed: Duration,
) -> Result<Slice, SliceError> {
    let acquisitions: Vec<u64> = tallies.iter().map(|tally| tally.acquisitions).collect();
    let hog_acquisitions = hog.as_ref().map(|tally| tally.acquisitions);
    let everybody = || tallies.iter().chain(&hog);
    let counted = each_lock.iter().sum();
    let all = everybody().map(|tally| tally.acquisitions + tally.late).sum();
    if counted != all {
        return Err(SliceError::NoMutualExclusion { counted, acquisitions: all });
    }
    let intrusions = everybody().map(|tally| tally.intrusions).sum();
    if intrusions > 0 {
        return Err(SliceError::Intrusion { intrusions, acquisitions: all });
    }
    let unpinned = everybody().filter(|tally| tally.unpinned).count();
    let cpu: Option<Duration> = tallies.iter().map(|tally| tally.cpu).sum();
    let waits = tallies.into_iter().filter_map(|tally| tally.waits).reduce(|mut all, waits| {
        all.add(&waits);
        all
    });
    let sample = Sample {
        elapsed_ns: elapsed.as_nanos() as f64,
        acquisitions,
        hog_acquisitions,
        cpu_ns: cpu.map(|cpu| cpu.as_nanos() as f64),
    };
    Ok(Slice { sample, waits, unpinned, each_lock })
}

/// What was counted under each lock. On a thread: the last holder may have left it locked.
fn counts<F: Family>(field: &Arc<Field<F>>) -> Result<Vec<u64>, SliceError> {
    let (sender, receiver) = channel();
    let field = Arc::clone(field);
    let read = move || {
        let counts = || field.locks.iter().map(|lock| lock.lock().count).collect();
        // Nobody listens any more if it took too long.
        let _ = sender.send(catch_unwind(AssertUnwindSafe(counts)));
    };
    let thread = spawn("lockword-load-count".to_owned(), read)
        .map_err(|reason| SliceError::Spawn { started: 0, reason })?;
    match receiver.recv_timeout(STUCK) {
        Ok(counts) => {
            let _ = thread.join();
            counts.map_err(|payload| SliceError::Panicked(text(&*payload)))
        }
        Err(_) => Err(SliceError::Stuck { threads: 1 }),
    }
}

fn spawn(name: String, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, String> {
    thread::Builder::new().name(name).spawn(run).map_err(|error| error.to_string())
}

/// The threads of a slice.
struct Crew {
    gate: Arc<Gate>,
    handles: Vec<JoinHandle<()>>,
    reports: Receiver<Report>,
    /// In the order of the threads: workers, then the hog.
    tallies: Vec<Option<Tally>>,
    hog: bool,
    heard: usize,
    panic: Option<String>,
}

/// A thread's number, and what it brings home or what its panic said.
type Report = (usize, Result<Option<Tally>, String>);

impl Crew {
    /// Starts the threads, up to the gate.
    fn start<F: Family>(
        field: &Arc<Field<F>>,
        load: &Load,
        pass: Pass,
    ) -> Result<Crew, SliceError> {
        let (sender, reports) = channel();
        let hog = load.hog.map(Role::Hog);
        let roles: Vec<Role> = (0..load.threads).map(Role::Worker).chain(hog).collect();
        let mut crew = Crew {
            gate: Arc::new(Gate::default()),
            handles: Vec::with_capacity(roles.len()),
            reports,
            tallies: roles.iter().map(|_| None).collect(),
            hog: hog.is_some(),
            heard: 0,
            panic: None,
        };
        for (number, role) in roles.iter().copied().enumerate() {
            let (gate, sender, field) = (Arc::clone(&crew.gate), sender.clone(), Arc::clone(field));
            let run = move || report(&field, (number, role), pass, &gate, &sender);
            match spawn(format!("lockword-load-{number}"), run) {
                Ok(handle) => crew.handles.push(handle),
                Err(reason) => {
                    crew.gate.open(false);
                    let started = crew.handles.len();
                    // They do nothing but leave.
                    crew.handles.into_iter().for_each(|handle| drop(handle.join()));
                    return Err(SliceError::Spawn { started, reason });
                }
            }
        }
        crew.gate.await_arrivals(roles.len());
        Ok(crew)
    }

    /// Waits for a thread's report, and says whether one came.
    fn hear(&mut self, limit: Duration) -> bool {
        match self.reports.recv_timeout(limit) {
            Ok((number, Ok(tally))) => self.tallies[number] = tally,
            Ok((_, Err(text))) => self.panic = self.panic.take().or(Some(text)),
            Err(RecvTimeoutError::Timeout) => return false,
            // All have reported: there is nothing to wait for.
            Err(RecvTimeoutError::Disconnected) => {
                thread::sleep(limit);
                return false;
            }
        }
        self.heard += 1;
        true
    }

    fn missing(&self) -> usize {
        self.tallies.len() - self.heard
    }

    fn failed(&self) -> bool {
        self.panic.is_some()
    }

    /// After all have reported: the workers' tallies and the hog's.
    fn finish(mut self) -> (Vec<Tally>, Option<Tally>) {
        // They have reported, and so are about to end: none lives on in the next slice.
        self.handles.into_iter().for_each(|handle| drop(handle.join()));
        let hog = if self.hog { self.tallies.pop().flatten() } else { None };
        (self.tallies.into_iter().flatten().collect(), hog)
    }
}

/// The whole life of a thread.
fn report<F: Family>(
    field: &Field<F>,
    (number, role): (usize, Role),
    pass: Pass,
    gate: &Gate,
    reports: &Sender<Report>,
) {
    let run = || field.work(role, pass, || gate.pass());
    let result = catch_unwind(AssertUnwindSafe(run)).map_err(|payload| text(&*payload));
    // Nobody listens any more if it took too long.
    let _ = reports.send((number, result));
}

/// What a panic said.
fn text(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
    text.unwrap_or("(no text)").to_owned()
}

/// Threads wait here until all have come, and it is opened.
#[derive(Default)]
struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Default)]
struct GateState {
    arrived: usize,
    /// Whether there is anything to do behind it.
    open: Option<bool>,
    /// When the first went through.
    first_start: Option<Instant>,
}

impl Gate {
    /// Arrives, waits, and says when the first went through; `None` if there is nothing to do.
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

    fn await_arrivals(&self, count: usize) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = self.changed.wait_while(state, |state| state.arrived < count);
        drop(waiting.unwrap_or_else(PoisonError::into_inner));
    }

    fn first_start(&self) -> Option<Instant> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).first_start
    }

    fn open(&self, go: bool) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).open = Some(go);
        self.changed.notify_all();
    }
}

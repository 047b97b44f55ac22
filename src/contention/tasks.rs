//! A slice in tasks: the loop of a load as async code, on a runtime of tokio's with several threads
//! (feature `peers`).
//!
//! A task yields after each acquisition, as one that waits for something else does; otherwise tasks
//! that never wait for the lock, such as with a blocking one, would keep their thread for themselves.

use super::arrivals::ClosedLoop;
use super::load::{ChoiceTable, CumulativeShares, FirstLock, Load, LoadError, LockChooser};
use super::lock_kind::{LockKind, MeasuredMutex};
use super::slice::{Slice, SliceBody, SliceError, panic_message, run};
use super::statistics::WaitHistogram;
use super::system::{RunDelay, RunDelaySince, thread_cpu_time};
use super::work::{LongSection, Section};
use super::worker::{
    Checks, GuardedData, Instrumentation, NoInstrumentation, Pass, Tally, ThreadRole, WaitRecorder,
    touched_histogram,
};
use crate::primitive::{AtomicBool, AtomicUsize, Ordering};
use crossbeam_utils::CachePadded;
use std::cell::RefCell;
use std::hint::black_box;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

/// A mutex for tasks, which protects a `T`. To measure your own, implement it and [`AsyncLockKind`].
pub trait MeasuredAsyncMutex<T>: Send + Sync {
    /// Creates an unlocked lock.
    fn new(value: T) -> Self;

    /// Waits until the lock is acquired, calls `section` with the data, and releases the lock.
    ///
    /// A panic ends the measurement with [`SliceError::Panicked`].
    fn lock<R: Send>(
        &self,
        section: impl FnOnce(&mut T) -> R + Send,
    ) -> impl Future<Output = R> + Send;
}

/// An implementation of a lock for tasks, as a marker type that does not depend on the protected data.
pub trait AsyncLockKind: 'static {
    /// The lock that protects a `T`.
    type Mutex<T: Send + Sync>: MeasuredAsyncMutex<T>;
}

/// The kind of a lock that blocks the thread, used in tasks.
pub struct Blocking<K>(PhantomData<fn() -> K>);

/// A lock of the kind `K`, used in tasks.
pub struct BlockingMutex<K: LockKind, T: Send + Sync>(K::Mutex<T>);

impl<K: LockKind> AsyncLockKind for Blocking<K> {
    type Mutex<T: Send + Sync> = BlockingMutex<K, T>;
}

impl<K: LockKind, T: Send + Sync> MeasuredAsyncMutex<T> for BlockingMutex<K, T> {
    #[inline]
    fn new(value: T) -> Self {
        BlockingMutex(K::Mutex::new(value))
    }

    #[inline]
    async fn lock<R: Send>(&self, section: impl FnOnce(&mut T) -> R + Send) -> R {
        section(&mut self.0.lock())
    }
}

/// The kind of `tokio::sync::Mutex`.
pub struct Tokio;

impl AsyncLockKind for Tokio {
    type Mutex<T: Send + Sync> = tokio::sync::Mutex<T>;
}

impl<T: Send> MeasuredAsyncMutex<T> for tokio::sync::Mutex<T> {
    #[inline]
    fn new(value: T) -> Self {
        tokio::sync::Mutex::new(value)
    }

    #[inline]
    async fn lock<R: Send>(&self, section: impl FnOnce(&mut T) -> R + Send) -> R {
        section(&mut *tokio::sync::Mutex::lock(self).await)
    }
}

/// The kind of `async_lock::Mutex`.
pub struct AsyncLock;

impl AsyncLockKind for AsyncLock {
    type Mutex<T: Send + Sync> = async_lock::Mutex<T>;
}

impl<T: Send> MeasuredAsyncMutex<T> for async_lock::Mutex<T> {
    #[inline]
    fn new(value: T) -> Self {
        async_lock::Mutex::new(value)
    }

    #[inline]
    async fn lock<R: Send>(&self, section: impl FnOnce(&mut T) -> R + Send) -> R {
        section(&mut *async_lock::Mutex::lock(self).await)
    }
}

/// Measures one slice of one lock in tasks. `None` if it was cancelled.
pub(super) fn measure<K: AsyncLockKind>(
    load: &Load,
    pass: Pass,
    cancel: &AtomicBool,
) -> Result<Option<Slice>, SliceError> {
    load.validate()?;
    let Some(tasks) = load.tasks else { return Err(LoadError::OnlyTasks.into()) };
    let runtime = LoadRuntime::start(load.threads, pass == Pass::Time)?;
    let context = TaskContext {
        shared: Arc::new(Shared::<K>::new(load, tasks)),
        runtime: Mutex::new(Some(runtime)),
    };
    // One thread of the slice has the runtime, whose threads run the tasks.
    run(&Arc::new(context), load, 1, pass, cancel)
}

/// What all tasks of a slice share.
struct Shared<K: AsyncLockKind> {
    locks: Box<[CachePadded<K::Mutex<GuardedData>>]>,
    /// When the slice began, for which the tasks wait.
    started: CachePadded<OnceLock<Instant>>,
    stop: CachePadded<AtomicBool>,
    load: Load,
    tasks: usize,
    /// Which locks to take; empty if there is only one. The tasks begin at different places of a table.
    tables: Vec<ChoiceTable>,
    finished: CachePadded<AtomicUsize>,
}

struct TaskContext<K: AsyncLockKind> {
    shared: Arc<Shared<K>>,
    /// Until the slice's thread takes it.
    runtime: Mutex<Option<LoadRuntime>>,
}

/// The most tables of choices: one for each task would take gigabytes.
const MAX_TABLES: usize = 16;

impl<K: AsyncLockKind> Shared<K> {
    fn new(load: &Load, tasks: usize) -> Self {
        let lock = |_| CachePadded::new(K::Mutex::new(GuardedData::default()));
        let shares = CumulativeShares::new(load.locks, load.skew);
        let tables = if load.locks > 1 { tasks.min(MAX_TABLES) } else { 0 };
        Shared {
            locks: (0..load.locks).map(lock).collect(),
            started: CachePadded::new(OnceLock::new()),
            stop: CachePadded::new(AtomicBool::new(false)),
            load: load.clone(),
            tasks,
            tables: (0..tables).map(|number| shares.table(number)).collect(),
            finished: CachePadded::new(AtomicUsize::new(0)),
        }
    }

    /// A task. It sends to `ready`, waits for the start, and counts until the stop.
    async fn task(self: Arc<Self>, number: usize, pass: Pass, ready: Sender<()>) -> Tally {
        // The receiver is gone if the slice is not to run.
        let _ = ready.send(());
        drop(ready);
        let started = loop {
            match self.started.get() {
                Some(started) => break *started,
                None => Yield(false).await,
            }
        };
        ThreadState::start(started);
        let tally = match pass {
            Pass::Count => self.with_chooser(number, NoInstrumentation).await,
            Pass::WarmUp => self.with_chooser(number, Checks::new(number, false)).await,
            Pass::Time => self.with_chooser(number, Checks::with(number, OfThread)).await,
        };
        ThreadState::end();
        self.finished.fetch_add(1, Ordering::Relaxed);
        tally
    }

    /// Selects how locks are chosen, then runs the loop.
    async fn with_chooser<I>(&self, number: usize, instrumentation: I) -> Tally
    where
        I: Instrumentation + Send,
        I::RequestTime: Send,
    {
        if self.tables.is_empty() {
            return self.acquire(FirstLock, instrumentation).await;
        }
        let table = &self.tables[number % self.tables.len()];
        let chooser = table.reader_at(number as f64 / self.tasks as f64);
        self.acquire(chooser, instrumentation).await
    }

    /// The measured loop.
    async fn acquire<C, I>(&self, mut chooser: C, mut instrumentation: I) -> Tally
    where
        C: LockChooser + Send,
        I: Instrumentation + Send,
        I::RequestTime: Send,
    {
        let stop = &*self.stop;
        let inside = LongSection::from(self.load.inside);
        let outside = LongSection::from(self.load.outside);
        let (mut acquisitions, mut late, mut private) = (0, 0, 1);
        while instrumentation.go_on(stop) {
            let lock = &self.locks[chooser.next()];
            let requested = instrumentation.request(&ClosedLoop);
            let checks = &mut instrumentation;
            let section = move |mut shared: &mut GuardedData| {
                checks.enter(requested, &mut shared);
                shared.count += 1;
                let word = inside.spend(shared.word ^ private, stop);
                shared.word = word;
                checks.leave(&mut shared);
                word
            };
            let word = lock.lock(section).await;
            if stop.load(Ordering::Relaxed) {
                late = 1;
                break;
            }
            acquisitions += 1;
            private = outside.spend(private ^ word, stop);
            Yield(false).await;
        }
        black_box(private);
        let (waits, intrusions) = instrumentation.finish();
        Tally {
            acquisitions,
            late,
            reads: 0,
            intrusions,
            unpinned: false,
            is_counted: true,
            // The threads have the times, not the tasks.
            cpu: Some(Duration::ZERO),
            run_delays: vec![],
            ended: Instant::now(),
            waits,
        }
    }
}

/// Lets the other tasks of the thread run once. It does not look for events of the system, as tokio's
/// does, which takes longer than a lock.
struct Yield(bool);

impl Future for Yield {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.0 {
            return Poll::Ready(());
        }
        self.0 = true;
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<K: AsyncLockKind> SliceBody for TaskContext<K> {
    fn work(
        &self,
        role: ThreadRole,
        pass: Pass,
        gate: impl FnOnce() -> Option<Instant>,
    ) -> Option<Vec<Tally>> {
        let ThreadRole::Worker(_) = role else { return None };
        let shared = &self.shared;
        let LoadRuntime { runtime, totals } =
            self.runtime.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        let mut tasks = JoinSet::new();
        let (ready, all_ready) = channel();
        for number in 0..shared.tasks {
            let task = Arc::clone(shared).task(number, pass, ready.clone());
            tasks.spawn_on(task, runtime.handle());
        }
        drop(ready);
        // Until each of them waits for the start.
        all_ready.iter().for_each(drop);
        // Nobody else sets it.
        let _ = shared.started.set(gate()?);
        let mut tallies = vec![];
        while let Some(tally) = runtime.block_on(tasks.join_next()) {
            match tally {
                Ok(tally) => tallies.push(tally),
                Err(error) => {
                    // The other tasks may wait for ever, blocking or not.
                    tasks.detach_all();
                    runtime.shutdown_background();
                    resume_unwind(error.into_panic());
                }
            }
        }
        // Its threads have ended after this.
        drop(runtime);
        let mut totals = totals.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(first) = tallies.first_mut() {
            (first.cpu, first.waits) = (totals.cpu, totals.waits.take());
            first.run_delays = std::mem::take(&mut totals.run_delays);
        }
        Some(tallies)
    }

    fn stop(&self) -> &AtomicBool {
        &self.shared.stop
    }

    fn progress(&self) -> usize {
        self.shared.finished.load(Ordering::Relaxed)
    }

    fn stuck(&self, threads: usize) -> SliceError {
        match self.shared.tasks - self.progress() {
            0 => SliceError::Stuck { threads },
            tasks => SliceError::TasksStuck { tasks },
        }
    }

    fn counts(&self) -> Vec<u64> {
        let runtime = Builder::new_current_thread().build().expect("it takes no resources");
        let count = |lock: &CachePadded<K::Mutex<GuardedData>>| {
            runtime.block_on(lock.lock(|shared| shared.count))
        };
        self.shared.locks.iter().map(count).collect()
    }
}

impl<K: AsyncLockKind> Drop for TaskContext<K> {
    /// A slice that never began may be dropped in a runtime, where the end of another must not be
    /// awaited.
    fn drop(&mut self) {
        let runtime = self.runtime.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(LoadRuntime { runtime, .. }) = runtime {
            runtime.shutdown_background();
        }
    }
}

/// A runtime, and what its threads have measured when it has ended.
struct LoadRuntime {
    runtime: Runtime,
    totals: Arc<Mutex<ThreadTotals>>,
}

/// The figures of the threads of a runtime that have ended.
struct ThreadTotals {
    /// The sum; `None` if the system does not provide it.
    cpu: Option<Duration>,
    /// One for each thread that has run a task.
    run_delays: Vec<Option<Duration>>,
    /// All together.
    waits: Option<WaitHistogram>,
}

/// What a thread of a runtime measures for the tasks that it runs.
#[derive(Default)]
struct ThreadState {
    /// Until the first task of the thread starts.
    run_delay: Option<RunDelay>,
    /// From then on, until a task of the thread ends.
    run_delay_since: Option<RunDelaySince>,
    /// How long the thread had no processor in between; `None` if no task of it has ended.
    run_delayed: Option<Option<Duration>>,
    /// The thread's CPU time at the start of the slice; `None` if it has run no task since.
    cpu_before: Option<Option<Duration>>,
    waits: Option<WaitHistogram>,
}

thread_local! {
    static THREAD: RefCell<ThreadState> = RefCell::default();
}

impl ThreadState {
    /// When a task starts, in a slice that began at `started`: reads the clocks, if no other task of
    /// the thread has.
    fn start(started: Instant) {
        THREAD.with_borrow_mut(|thread| {
            if let Some(run_delay) = thread.run_delay.take() {
                thread.run_delay_since = Some(run_delay.start(started));
                thread.cpu_before = Some(thread_cpu_time());
            }
        });
    }

    /// When a task ends: reads the run delay, if no other task of the thread has. After the slice the
    /// thread competes with the one that collects the results.
    fn end() {
        THREAD.with_borrow_mut(ThreadState::end_run_delay);
    }

    fn end_run_delay(&mut self) {
        if let Some(since) = self.run_delay_since.take() {
            self.run_delayed = Some(since.end());
        }
    }
}

/// Records waits in the histogram of the thread that runs the task.
struct OfThread;

impl WaitRecorder for OfThread {
    #[inline]
    fn record(&mut self, requested: Instant) {
        let wait = requested.elapsed();
        THREAD.with_borrow_mut(|thread| {
            if let Some(waits) = &mut thread.waits {
                waits.record(wait, 1);
            }
        });
    }

    fn finish(self) -> Option<WaitHistogram> {
        None
    }
}

impl LoadRuntime {
    /// Starts a runtime, and returns when its threads are prepared.
    fn start(threads: usize, timed: bool) -> Result<LoadRuntime, SliceError> {
        LoadRuntime::build(Builder::new_multi_thread().worker_threads(threads), threads, timed)
    }

    fn build(
        builder: &mut Builder,
        threads: usize,
        timed: bool,
    ) -> Result<LoadRuntime, SliceError> {
        let totals = ThreadTotals { cpu: Some(Duration::ZERO), run_delays: vec![], waits: None };
        let totals = Arc::new(Mutex::new(totals));
        let (started, starts) = channel();
        let started_threads = Arc::new(AtomicUsize::new(0));
        let (count, sums) = (Arc::clone(&started_threads), Arc::clone(&totals));
        builder
            .thread_name("lockword-load")
            .on_thread_start(move || {
                THREAD.with_borrow_mut(|thread| {
                    thread.run_delay = Some(RunDelay::of_this_thread());
                    thread.waits = timed.then(touched_histogram);
                });
                count.fetch_add(1, Ordering::Relaxed);
                // The receiver is gone if this is not one of the first.
                let _ = started.send(());
            })
            .on_thread_stop(move || {
                let mut thread = THREAD.take();
                // Its tasks may have ended on other threads.
                thread.end_run_delay();
                let mut sums = sums.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(before) = thread.cpu_before {
                    let used = thread_cpu_time().zip(before).map(|(now, before)| now - before);
                    sums.cpu = sums.cpu.zip(used).map(|(all, used)| all + used);
                }
                sums.run_delays.extend(thread.run_delayed);
                if let Some(waits) = thread.waits {
                    match &mut sums.waits {
                        Some(all) => all.add(&waits),
                        none => *none = Some(waits),
                    }
                }
            });
        let refused = |reason: String| SliceError::Spawn {
            started: started_threads.load(Ordering::Relaxed),
            reason,
        };
        // It panics if the system refuses a thread.
        let runtime = catch_unwind(AssertUnwindSafe(|| builder.build()))
            .map_err(|payload| refused(panic_message(&*payload)))?
            .map_err(|error| refused(error.to_string()))?;
        starts.iter().take(threads).for_each(drop);
        Ok(LoadRuntime { runtime, totals })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contention::{Lockword, Work};

    fn load(threads: usize, tasks: usize) -> Load {
        let load = Load::new(threads).inside(Work::units(10)).outside(Work::units(10));
        load.tasks(tasks).slice_ms(50)
    }

    fn measure<K: AsyncLockKind>(load: &Load, pass: Pass) -> Result<Slice, SliceError> {
        let slice = super::measure::<K>(load, pass, &AtomicBool::new(false))?;
        Ok(slice.expect("it is not cancelled"))
    }

    #[test]
    fn every_task_acquires_and_each_acquisition_is_counted_under_the_lock() {
        fn check<K: AsyncLockKind>() {
            for pass in [Pass::WarmUp, Pass::Count, Pass::Time] {
                for locks in [1, 3] {
                    let slice = measure::<K>(&load(2, 8).locks(locks), pass).expect("it runs");
                    let sample = &slice.sample;
                    assert_eq!(sample.acquisitions.len(), 8);
                    assert!(sample.acquisitions.iter().all(|count| *count > 0), "{sample:?}");
                    let late = slice.each_lock.iter().sum::<u64>() - sample.total();
                    assert!(late <= 8, "{late} after the end");
                    assert_eq!(slice.each_lock.len(), locks);
                    assert_eq!(slice.waits.is_some(), pass == Pass::Time);
                    assert_eq!(sample.cpu_ns.is_some_and(|ns| ns > 0.0), cfg!(unix));
                }
            }
        }
        check::<Tokio>();
        check::<AsyncLock>();
        check::<Blocking<Lockword>>();
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_run_delay_is_that_of_the_runtimes_threads() {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let is_known = RunDelay::of_this_thread().start(Instant::now()).end().is_some();
        // At most one of four threads has a processor, and hardly any waits for the lock. An average
        // over the tasks would be below 0.1.
        let load = load(4 * processors, 32 * processors).outside(Work::units(10_000));
        for pass in [Pass::Count, Pass::Time] {
            let slice = measure::<Blocking<Lockword>>(&load, pass).expect("it runs");
            let conditions = slice.sample.conditions;
            assert_eq!(conditions.run_delay.is_some(), is_known);
            assert!(conditions.run_delay.is_none_or(|share| share > 0.3), "{conditions:?}");
            assert!(conditions.most_run_delay >= conditions.run_delay, "{conditions:?}");
        }
    }

    #[test]
    fn a_run_delay_is_from_the_first_start_of_a_task_to_the_first_end() {
        let hour = Duration::from_secs(3600);
        let Some(started) = Instant::now().checked_sub(hour) else { return };
        THREAD.with_borrow_mut(|thread| thread.run_delay = Some(RunDelay::of_this_thread()));
        ThreadState::start(started);
        // The second task of the thread started no hour ago.
        ThreadState::start(Instant::now());
        ThreadState::end();
        ThreadState::end();
        let delayed = THREAD.take().run_delayed.expect("a task has ended");
        // Not known where the system does not provide it.
        assert!(delayed.is_none_or(|delay| delay >= hour && delay < 2 * hour), "{delayed:?}");
    }

    #[test]
    fn many_tasks_take_little_memory_and_are_prepared_before_the_slice() {
        // A table or a histogram for each of them would take minutes.
        let many = load(1, Load::MAX_TASKS).locks(Load::MAX_LOCKS).slice_ms(20);
        let start = Instant::now();
        let slice = measure::<Blocking<Lockword>>(&many, Pass::Time).expect("it runs");
        assert_eq!(slice.sample.acquisitions.len(), Load::MAX_TASKS);
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    }

    /// A lock that is never acquired by the second task, and panics in the third.
    struct Bad<const PANICS: bool>;
    struct BadMutex<const PANICS: bool, T>(Mutex<T>, Mutex<u32>);

    impl<const PANICS: bool, T: Send + Sync> MeasuredAsyncMutex<T> for BadMutex<PANICS, T> {
        fn new(value: T) -> Self {
            BadMutex(Mutex::new(value), Mutex::new(0))
        }

        async fn lock<R: Send>(&self, section: impl FnOnce(&mut T) -> R + Send) -> R {
            let number = {
                let mut count = self.1.lock().expect("no panic");
                *count += 1;
                *count
            };
            if number == 2 {
                std::future::pending::<()>().await;
            }
            assert!(!PANICS || number != 3, "this lock is worn out");
            section(&mut self.0.lock().expect("no panic"))
        }
    }

    impl<const PANICS: bool> AsyncLockKind for Bad<PANICS> {
        type Mutex<T: Send + Sync> = BadMutex<PANICS, T>;
    }

    #[test]
    fn a_thread_that_the_system_refuses_is_not_a_panic_of_the_lock() {
        let mut builder = Builder::new_multi_thread();
        // No system has that much memory.
        builder.worker_threads(1).thread_stack_size(usize::MAX / 4);
        let error = LoadRuntime::build(&mut builder, 1, false).err();
        assert!(matches!(error, Some(SliceError::Spawn { started: 0, .. })), "{error:?}");
    }

    #[test]
    fn a_lost_wake_up_and_a_panic_are_errors() {
        let error = measure::<Bad<false>>(&load(1, 4), Pass::Count).err();
        assert_eq!(error, Some(SliceError::TasksStuck { tasks: 1 }));
        let error = measure::<Bad<true>>(&load(1, 4).slice_ms(3_600_000), Pass::Count).err();
        assert_eq!(error, Some(SliceError::Panicked("this lock is worn out".to_owned())));
    }
}

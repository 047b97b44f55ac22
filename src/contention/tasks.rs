//! A slice in tasks: the loop of a load as async code, on a runtime of tokio's with several threads
//! (feature `peers`).
//!
//! A task yields after each acquisition, as one that waits for something else does; otherwise tasks
//! that never wait for the lock, such as with a blocking one, would keep their thread for themselves.

use super::arrivals::ClosedLoop;
use super::load::{CumulativeShares, FirstLock, Load, LoadError, LockChooser};
use super::lock_kind::{LockKind, MeasuredMutex};
use super::slice::{Slice, SliceBody, SliceError, run};
use super::system::thread_cpu_time;
use super::work::{LongSection, Section};
use super::worker::{
    Checks, GuardedData, Instrumentation, NoInstrumentation, Pass, Tally, ThreadRole,
};
use crate::primitive::{AtomicBool, Ordering};
use crossbeam_utils::CachePadded;
use std::hint::black_box;
use std::marker::PhantomData;
use std::panic::resume_unwind;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
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
    // One thread of the slice starts the runtime, whose threads run the tasks.
    run(&Arc::new(TaskContext(Arc::new(Shared::<K>::new(load, tasks)))), load, 1, pass, cancel)
}

/// What all tasks of a slice share.
struct Shared<K: AsyncLockKind> {
    locks: Box<[CachePadded<K::Mutex<GuardedData>>]>,
    stop: CachePadded<AtomicBool>,
    load: Load,
    tasks: usize,
    shares: CumulativeShares,
}

struct TaskContext<K: AsyncLockKind>(Arc<Shared<K>>);

impl<K: AsyncLockKind> Shared<K> {
    fn new(load: &Load, tasks: usize) -> Self {
        let lock = |_| CachePadded::new(K::Mutex::new(GuardedData::default()));
        Shared {
            locks: (0..load.locks).map(lock).collect(),
            stop: CachePadded::new(AtomicBool::new(false)),
            load: load.clone(),
            tasks,
            shares: CumulativeShares::new(load.locks, load.skew),
        }
    }

    /// A task. It counts until the stop.
    async fn task(self: Arc<Self>, number: usize, pass: Pass) -> Tally {
        let checks = || Checks::new(number, pass == Pass::Time);
        match (self.locks.len(), pass) {
            (1, Pass::Count) => self.acquire(FirstLock, NoInstrumentation).await,
            (1, _) => self.acquire(FirstLock, checks()).await,
            (_, Pass::Count) => self.acquire(self.shares.table(number), NoInstrumentation).await,
            (_, _) => self.acquire(self.shares.table(number), checks()).await,
        }
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
            // The threads have the time, not the tasks.
            cpu: Some(Duration::ZERO),
            run_delay: None,
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
        let shared = &self.0;
        // The CPU time of the runtime's threads; `None` if the system does not provide it.
        let cpu = Arc::new(Mutex::new(Some(Duration::ZERO)));
        let runtime = runtime(shared.load.threads, &cpu);
        let mut tasks = JoinSet::new();
        gate()?;
        for number in 0..shared.tasks {
            tasks.spawn_on(Arc::clone(shared).task(number, pass), runtime.handle());
        }
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
        let cpu = *cpu.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(first) = tallies.first_mut() {
            first.cpu = cpu;
        }
        Some(tallies)
    }

    fn stop(&self) -> &AtomicBool {
        &self.0.stop
    }

    fn counts(&self) -> Vec<u64> {
        let runtime = runtime(1, &Arc::default());
        let count = |lock: &CachePadded<K::Mutex<GuardedData>>| {
            runtime.block_on(lock.lock(|shared| shared.count))
        };
        self.0.locks.iter().map(count).collect()
    }
}

/// A runtime whose threads add their CPU time when they end.
fn runtime(threads: usize, cpu: &Arc<Mutex<Option<Duration>>>) -> Runtime {
    let cpu = Arc::clone(cpu);
    Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name("lockword-load")
        .on_thread_stop(move || {
            let mut all = cpu.lock().unwrap_or_else(PoisonError::into_inner);
            *all = all.zip(thread_cpu_time()).map(|(all, own)| all + own);
        })
        .build()
        .expect("the system provides threads for a runtime")
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
    fn a_lost_wake_up_and_a_panic_are_errors() {
        let error = measure::<Bad<false>>(&load(1, 4), Pass::Count).err();
        assert_eq!(error, Some(SliceError::Stuck { threads: 1 }));
        let error = measure::<Bad<true>>(&load(1, 4).slice_ms(3_600_000), Pass::Count).err();
        assert_eq!(error, Some(SliceError::Panicked("this lock is worn out".to_owned())));
    }
}

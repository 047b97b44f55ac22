//! Wakers that panic. A waker is code of whoever polls a future, and its panic is no matter of others.

use super::*;
use crate::cluster::layers::{Faulty, Plan};
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Wake;

/// Counts its calls, and panics in each.
#[derive(Default)]
struct Panics(AtomicU32);

impl Wake for Panics {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
        // Without the report of the panic hook.
        resume_unwind(Box::new("a waker's bug"));
    }
}

impl Panics {
    fn take(&self) -> u32 {
        self.0.swap(0, Ordering::SeqCst)
    }

    fn poll<F: Future + ?Sized>(self: &Arc<Self>, future: Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(&Waker::from(self.clone())))
    }
}

/// The acquisitions of several callers, whose wakers panic.
struct Callers<'a>(Vec<(Pin<Box<AcquireFuture<'a>>>, Arc<Panics>)>);

impl<'a> Callers<'a> {
    fn begin(lock: &'a DistributedLock, modes: &[WaitMode]) -> Self {
        let begin = |mode: &WaitMode| {
            let mut acquire = Box::pin(lock.handle.acquire(*mode, HoldLimits::default()));
            let panics = Arc::new(Panics::default());
            assert!(panics.poll(acquire.as_mut()).is_pending());
            (acquire, panics)
        };
        Self(modes.iter().map(begin).collect())
    }

    /// Those that were woken since the last call, and only those, are polled. Returns what they got.
    fn poll_woken(&mut self) -> Vec<(usize, Result<DistributedGuard, LockError>)> {
        let mut ready = vec![];
        for (n, (acquire, panics)) in self.0.iter_mut().enumerate() {
            if panics.take() > 0
                && let Poll::Ready(result) = panics.poll(acquire.as_mut())
            {
                ready.push((n, result));
            }
        }
        ready
    }
}

/// The node works as before, and nothing of those who are gone is left.
async fn is_well(node: &Node, lock: &DistributedLock) {
    assert_eq!(node.waiting("k"), 0);
    assert_eq!(lock.handle.local.state().driving, None);
    let guard = tokio::time::timeout(60 * SECOND, lock.acquire()).await.expect("it is stuck");
    guard.unwrap().release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_is_granted_the_lock() {
    let (node, lock) = lock_of(Memory::new());
    let guard = lock.acquire().await.unwrap();
    let mut callers = Callers::begin(&lock, &[WaitMode::Wait; 3]);
    drop(guard);
    for n in 0..3 {
        settle().await;
        let mut got = callers.poll_woken();
        assert_eq!((got.len(), got[0].0), (1, n));
        drop(got.pop().unwrap().1.unwrap());
    }
    drop(callers);
    is_well(&node, &lock).await;
}

/// The caller that makes it give up has joined the queue, and knows that.
#[tokio::test(start_paused = true)]
async fn a_waiter_that_gives_up_for_a_caller_who_begins_to_wait() {
    let (node, lock) = lock_of(Faulty::delayed(Memory::new(), ms(100)));
    let outlasts = Callers::begin(&lock, &[WaitMode::Outlast]);
    let mut acquire = Box::pin(lock.acquire());
    assert!(acquire.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    assert_eq!(outlasts.0[0].1.take(), 1);
    assert_eq!(node.waiting("k"), 1);
    drop(acquire);
    assert_eq!(node.waiting("k"), 0, "it has left its place behind");
    drop(outlasts);
    sleep(SECOND).await;
    is_well(&node, &lock).await;
}

#[tokio::test(start_paused = true)]
async fn waiters_whose_timeouts_pass_at_the_same_time() {
    let (node, lock) = lock_of(Memory::new());
    let guard = lock.acquire().await.unwrap();
    let mut callers = Callers::begin(&lock, &[WaitMode::Within(ms(50)); 3]);
    sleep(ms(60)).await;
    let got = callers.poll_woken();
    assert_eq!(got.len(), 3, "one was not woken");
    assert!(got.iter().all(|(_, result)| matches!(result, Err(LockError::TimedOut { .. }))));
    assert!(guard.is_valid());
    guard.release().await.unwrap();
    drop(callers);
    is_well(&node, &lock).await;
}

#[tokio::test(start_paused = true)]
async fn waiters_of_an_engine_that_fails() {
    let faulty = Faulty::new(Memory::new(), Plan { refuse: 1.0, ..Plan::default() }, 1);
    let faults = faulty.faults();
    let node = builder(faulty).unavailable_timeout(SECOND).build().unwrap();
    let lock = node.lock("k").unwrap();
    let mut callers = Callers::begin(&lock, &[WaitMode::Wait; 3]);
    sleep(5 * SECOND).await;
    let got = callers.poll_woken();
    assert_eq!(got.len(), 3, "one was not woken");
    assert!(got.iter().all(|(_, result)| matches!(result, Err(LockError::Transport { .. }))));
    faults.set(Plan::default());
    drop(callers);
    is_well(&node, &lock).await;
}

#[tokio::test(start_paused = true)]
async fn those_who_wait_for_a_loss() {
    for reason in ["Broken", "HoldLimit"] {
        let (node, mut lock) = lock_of(Memory::new());
        if reason == "HoldLimit" {
            lock = lock.hold_at_most(SECOND);
        }
        let guard = lock.acquire().await.unwrap();
        let wait = || {
            let (mut lost, panics) = (Box::pin(guard.lost()), Arc::new(Panics::default()));
            assert!(panics.poll(lost.as_mut()).is_pending());
            (lost, panics)
        };
        let mut waiting = [wait(), wait(), wait()];
        if reason == "Broken" {
            node.break_lock("k").await.unwrap().unwrap();
        }
        // After the next renewal.
        sleep(5 * SECOND).await;
        for (lost, panics) in &mut waiting {
            assert!(panics.take() > 0, "{reason}: one was not woken");
            let Poll::Ready(why) = panics.poll(lost.as_mut()) else { panic!("{reason}") };
            assert!(format!("{why:?}").starts_with(reason), "{why}");
        }
        drop(waiting);
        drop(guard);
        is_well(&node, &lock).await;
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_release() {
    let (node, lock) = lock_of(Memory::new());
    let guard = lock.acquire().await.unwrap();
    let (mut release, panics) = (Box::pin(guard.release()), Arc::new(Panics::default()));
    assert!(panics.poll(release.as_mut()).is_pending());
    settle().await;
    assert!(panics.take() > 0);
    assert!(matches!(panics.poll(release.as_mut()), Poll::Ready(Ok(()))));
    is_well(&node, &lock).await;
}

/// Waiters, losses, timers, and those who wait for the end itself.
#[tokio::test(start_paused = true)]
async fn those_who_are_there_at_a_shutdown() {
    let (node, lock) = lock_of(Memory::new());
    let guard = lock.acquire().await.unwrap();
    let mut lost = Box::pin(guard.lost());
    let loss_panics = Arc::new(Panics::default());
    assert!(loss_panics.poll(lost.as_mut()).is_pending());
    let modes = [WaitMode::Wait, WaitMode::Within(60 * SECOND), WaitMode::Wait];
    let mut callers = Callers::begin(&lock, &modes);
    let mut ends = [(); 3].map(|()| (Box::pin(node.shutdown()), Arc::new(Panics::default())));
    for (end, panics) in &mut ends {
        assert!(panics.poll(end.as_mut()).is_pending());
    }
    settle().await;
    for (end, panics) in &mut ends {
        assert!(panics.take() > 0, "one was not woken");
        let Poll::Ready(report) = panics.poll(end.as_mut()) else { panic!("no report") };
        assert_eq!(report.released.len(), 1);
    }
    let got = callers.poll_woken();
    assert_eq!(got.len(), 3, "one was not woken");
    assert!(got.iter().all(|(_, result)| matches!(result, Err(LockError::Closed { .. }))));
    assert!(loss_panics.take() > 0);
    assert_eq!(loss_panics.poll(lost.as_mut()), Poll::Ready(LossReason::Closed));
}

/// The runtime ends, and with it the driver, while all of them wait.
#[test]
fn those_who_are_there_when_the_runtime_ends() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let node = Node::builder(Memory::new()).runtime(runtime.handle().clone()).build().unwrap();
    let lock = node.lock("k").unwrap();
    let guard = runtime.block_on(lock.acquire()).unwrap();
    let modes = [WaitMode::Wait, WaitMode::Within(60 * SECOND), WaitMode::Within(60 * SECOND)];
    let mut callers = Callers::begin(&lock, &modes);
    drop(runtime);
    assert_eq!(callers.poll_woken().len(), 3, "one was not woken");
    assert!(!guard.is_valid());
}

/// The step is that of a caller, on its own thread.
#[test]
fn a_waiter_that_a_step_of_another_caller_wakes() {
    let node = Node::builder(Memory::new()).build().unwrap();
    let lock = node.lock("k").unwrap();
    let blocking = node.blocking().lock("k").unwrap();
    for _ in 0..100 {
        let guard = blocking.acquire().unwrap();
        let mut callers = Callers::begin(&lock, &[WaitMode::Wait; 2]);
        guard.release().unwrap();
        let mut granted = 0;
        while granted < 2 {
            granted += callers.poll_woken().into_iter().filter(|(_, got)| got.is_ok()).count();
            std::thread::yield_now();
        }
    }
    assert_eq!(node.waiting("k"), 0);
    assert!(node.blocking().inspect("k").is_ok());
}

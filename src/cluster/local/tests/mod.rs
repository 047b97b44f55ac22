//! Nodes over the in-memory engine on a paused clock, with futures that the test polls by hand.

use crate::Mutex;
use crate::cluster::guard::DistributedGuard;
use crate::cluster::local::{AcquireFuture, HoldLimits, WaitMode};
use crate::cluster::lock::DistributedLock;
use crate::cluster::{
    Hold, Key, LockError, LossReason, Memory, Node, NodeBuilder, Observer, ReleaseOutcome,
    RemoteOperation, Transport, TransportError,
};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

mod barging;
mod hold_limits;
mod kept_places;
mod kept_turns;
mod losses;
mod tries;
mod untaken;
mod wakers;
mod words;

/// With the default lease of 10 s.
const WINDOW: Duration = Duration::from_millis(500);
const SECOND: Duration = Duration::from_secs(1);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn builder(engine: impl Transport) -> NodeBuilder {
    Node::builder(engine).tokio_clock()
}

fn lock_of(engine: impl Transport) -> (Node, DistributedLock) {
    let node = builder(engine).build().unwrap();
    let lock = node.lock("k").unwrap();
    (node, lock)
}

/// A future that is polled by hand only.
struct Kept<'a>(Pin<Box<AcquireFuture<'a>>>);

impl<'a> Kept<'a> {
    /// Polls it once, so that it joins the queue.
    fn new(lock: &'a DistributedLock, mode: WaitMode) -> Self {
        Self::of(lock.handle.acquire(mode, HoldLimits::default()))
    }

    fn of(acquire: AcquireFuture<'a>) -> Self {
        let mut kept = Self(Box::pin(acquire));
        assert!(kept.poll().is_none(), "it does not wait");
        kept
    }

    fn poll(&mut self) -> Option<Result<DistributedGuard, LockError>> {
        match self.0.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => Some(result),
            Poll::Pending => None,
        }
    }

    fn guard(&mut self) -> DistributedGuard {
        self.poll().expect("it has no result").expect("it is granted")
    }
}

/// Waits for the lock in a task. The result has the time for which it waited.
async fn acquire(lock: &DistributedLock) -> (DistributedGuard, Duration) {
    let began = Instant::now();
    let acquire = tokio::time::timeout(120 * SECOND, lock.acquire());
    let guard = acquire.await.expect("it waits for ever").unwrap();
    (guard, began.elapsed())
}

fn spawn(lock: &DistributedLock) -> tokio::task::JoinHandle<(DistributedGuard, Duration)> {
    let lock = lock.clone();
    tokio::spawn(async move { acquire(&lock).await })
}

/// Runs the driver until it sleeps: only then the paused clock moves on.
async fn settle() {
    sleep(ms(1)).await;
}

fn is_about(took: Duration, expected: Duration) -> bool {
    took >= expected && took < expected + ms(20)
}

/// Writes down what happens to guards. At a loss it looks at the guard.
#[derive(Clone, Default)]
struct Notes(Arc<NotesState>);

#[derive(Default)]
struct NotesState {
    notes: Mutex<Vec<String>>,
    guard: Mutex<Option<Arc<DistributedGuard>>>,
    failed: Notify,
}

impl Notes {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.notes.lock())
    }

    fn note(&self, text: String) {
        self.0.notes.lock().push(text);
    }
}

impl Observer for Notes {
    fn lost(&self, _: &Key, why: &LossReason, _: Hold) {
        let guard = self.0.guard.lock().clone();
        if let Some(guard) = guard {
            let lost = std::pin::pin!(guard.lost()).poll(&mut Context::from_waker(Waker::noop()));
            assert_eq!((guard.is_valid(), lost), (false, Poll::Ready(why.clone())));
            self.note("the guard is lost".to_owned());
        }
        let why = format!("{why:?}");
        self.note(format!("lost {}", why.split(' ').next().unwrap_or_default()));
    }

    fn released(&self, _: &Key, outcome: ReleaseOutcome, _: Hold) {
        self.note(format!("released {outcome:?}"));
    }

    fn request_finished(
        &self,
        _: &Key,
        _: RemoteOperation,
        _: Duration,
        error: Option<&TransportError>,
    ) {
        if error.is_some() {
            self.0.failed.notify_one();
        }
    }
}

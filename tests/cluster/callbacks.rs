//! Code that a node calls must not wait for the node. It is told so at once, by a typed error.

use crate::support::{ms, poll_once};
use lockword::cluster::layers::{Intercept, Interceptor};
use lockword::cluster::{
    Exchange, Hold, Key, LockError, LossReason, Memory, Node, NodeId, Observer, ReleaseOutcome,
    RemoteOperation, Shutdown, Transport, TransportError, Version, Versioned, Watch, Write,
    async_trait,
};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Handle};

/// Far longer than anything here takes.
const SOON: Duration = Duration::from_secs(60);

/// The lock is renewed after a third of it.
const LEASE: Duration = Duration::from_secs(6);

/// Uses the node in what the node calls, and notes what it got.
#[derive(Clone, Default)]
struct Caller(Arc<CallerState>);

#[derive(Default)]
struct CallerState {
    node: OnceLock<Node>,
    /// The node calls back in what it is asked.
    is_busy: AtomicBool,
    /// In which calls every blocking call was refused.
    refused: Mutex<BTreeSet<&'static str>>,
    /// In which calls one was not, and what it got.
    other: Mutex<Vec<String>>,
}

impl Caller {
    fn called(&self, what: &'static str) {
        let Some(node) = self.0.node.get() else { return };
        if self.0.is_busy.swap(true, SeqCst) {
            return;
        }
        let node = node.blocking();
        let lock = node.lock("asked").unwrap();
        let results = [
            node.inspect("asked").map(drop),
            node.break_lock("asked").map(drop),
            lock.acquire_timeout(ms(100)).map(drop),
            lock.try_acquire().map(drop),
            lock.try_acquire_or_outlast().map(drop),
            lock.acquire().map(drop),
        ];
        match results.iter().find(|it| !matches!(it, Err(LockError::WouldDeadlock { .. }))) {
            None => drop(self.0.refused.lock().unwrap().insert(what)),
            Some(other) => self.0.other.lock().unwrap().push(format!("{what}: {other:?}")),
        }
        self.0.is_busy.store(false, SeqCst);
    }

    /// Waits until this was called, and until all that it asked was refused.
    async fn is_refused(&self, what: &'static str) {
        let end = Instant::now() + SOON;
        while !self.0.refused.lock().unwrap().contains(what) {
            assert_eq!(*self.0.other.lock().unwrap(), [""; 0]);
            assert!(Instant::now() < end, "it is not called: {what}");
            tokio::time::sleep(ms(1)).await;
        }
    }
}

impl Observer for Caller {
    fn renewed(&self, _: &Key, _: Duration) {
        self.called("renewed");
    }

    fn lost(&self, _: &Key, why: &LossReason, _: Hold) {
        match why {
            LossReason::Broken { .. } => self.called("lost"),
            LossReason::HoldLimit => self.called("limited"),
            _ => {}
        }
    }

    fn released(&self, _: &Key, outcome: ReleaseOutcome, _: Hold) {
        if outcome == ReleaseOutcome::Held {
            self.called("released");
        }
    }

    fn request_finished(
        &self,
        key: &Key,
        operation: RemoteOperation,
        _: Duration,
        _: Option<&TransportError>,
    ) {
        match (key.as_str(), operation) {
            ("inspected", _) => self.called("an inspection has finished"),
            ("broken", RemoteOperation::CompareExchange) => self.called("a break has finished"),
            _ => self.called("a request has finished"),
        }
    }
}

#[async_trait]
impl Interceptor<Memory> for Caller {
    async fn load(&self, inner: &Memory, key: &Key) -> Result<Option<Versioned>, TransportError> {
        if key.as_str() == "inspected" {
            self.called("load");
        }
        inner.load(key).await
    }

    async fn compare_exchange(
        &self,
        inner: &Memory,
        key: &Key,
        expected: Option<Version>,
        new: Write,
    ) -> Result<Exchange, TransportError> {
        self.called("compare_exchange");
        inner.compare_exchange(key, expected, new).await
    }

    async fn watch(&self, inner: &Memory, key: &Key, id: NodeId) -> Result<Watch, TransportError> {
        self.called("watch");
        inner.watch(key, id).await
    }
}

impl Wake for Caller {
    fn wake(self: Arc<Self>) {
        self.called("waker");
    }
}

/// Everything that a node does, on the runtime that it was given or on its own thread.
async fn refused_everywhere(runtime: Option<Handle>) {
    let (engine, caller) = (Memory::new(), Caller::default());
    let transport = Intercept::new(engine.clone(), caller.clone());
    let builder = Node::builder(transport).lease(LEASE).observer(caller.clone());
    let node = match runtime {
        Some(runtime) => builder.runtime(runtime).build().unwrap(),
        None => builder.build().unwrap(),
    };
    caller.0.node.set(node.clone()).unwrap();
    let others = Node::builder(engine.clone()).lease(LEASE).build().unwrap();

    let guard = node.lock("k").unwrap().acquire().await.unwrap();
    caller.is_refused("compare_exchange").await;
    caller.is_refused("a request has finished").await;
    caller.is_refused("renewed").await;
    node.inspect("inspected").await.unwrap();
    caller.is_refused("load").await;
    caller.is_refused("an inspection has finished").await;
    let broken = others.lock("broken").unwrap().acquire().await.unwrap();
    node.break_lock("broken").await.unwrap().unwrap();
    caller.is_refused("a break has finished").await;
    drop(broken);

    // The driver fires the timer of the wait, and with it the waker.
    let held = others.lock("held").unwrap().acquire().await.unwrap();
    let lock = node.lock("held").unwrap();
    let mut waits = Box::pin(lock.acquire_timeout(ms(50)));
    let waker = Waker::from(Arc::new(caller.clone()));
    assert!(waits.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    caller.is_refused("watch").await;
    caller.is_refused("waker").await;
    drop((waits, held));

    let limited = node.lock("limited").unwrap().hold_at_most(ms(20)).acquire().await.unwrap();
    caller.is_refused("limited").await;
    drop(limited);
    others.break_lock("k").await.unwrap().unwrap();
    caller.is_refused("lost").await;
    drop(guard);
    drop(node.lock("released").unwrap().acquire().await.unwrap());
    caller.is_refused("released").await;
    assert_eq!(*caller.0.other.lock().unwrap(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_the_thread_of_nodes() {
    refused_everywhere(None).await;
}

#[test]
fn on_a_runtime_with_one_thread() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(refused_everywhere(Some(runtime.handle().clone())));
    // Also if another thread drives it.
    let (end, ends) = tokio::sync::oneshot::channel::<()>();
    let handle = runtime.handle().clone();
    let thread = thread::spawn(move || drop(runtime.block_on(ends)));
    let here = Builder::new_current_thread().enable_all().build().unwrap();
    here.block_on(refused_everywhere(Some(handle)));
    drop(end);
    thread.join().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_runtime_with_threads() {
    refused_everywhere(Some(Handle::current())).await;
}

/// Asks the node for its end, when the node ends.
struct AsksForEnd {
    node: Node,
    report: mpsc::Sender<Shutdown>,
}

impl Wake for AsksForEnd {
    fn wake(self: Arc<Self>) {
        self.report.send(self.node.blocking().shutdown()).unwrap();
    }
}

/// The driver ends with its runtime, and wakes those who wait. None of them has to wait for what the
/// driver does next.
#[test]
fn at_the_end_of_the_runtime() {
    for threads in [0, 1] {
        let mut builder = match threads {
            0 => Builder::new_current_thread(),
            _ => Builder::new_multi_thread(),
        };
        let runtime = builder.enable_all().build().unwrap();
        // Three request timeouts are far longer than this may take.
        let builder = Node::builder(Memory::new()).lease(5 * SOON).request_timeout(2 * SOON);
        let node = builder.runtime(runtime.handle().clone()).build().unwrap();
        let lock = node.lock("k").unwrap();
        let guard = runtime.block_on(lock.acquire()).unwrap();
        let (report, reports) = mpsc::channel();
        let waker = |node: &Node| {
            Waker::from(Arc::new(AsksForEnd { node: node.clone(), report: report.clone() }))
        };
        let mut timed = Box::pin(lock.acquire_timeout(2 * SOON));
        let mut waits = Box::pin(lock.acquire());
        assert!(timed.as_mut().poll(&mut Context::from_waker(&waker(&node))).is_pending());
        assert!(waits.as_mut().poll(&mut Context::from_waker(&waker(&node))).is_pending());
        thread::spawn(move || drop(runtime));
        for _ in 0..2 {
            reports.recv_timeout(SOON).expect("it waits for itself");
        }
        let is_closed = |polled| matches!(polled, Poll::Ready(Err(LockError::Closed { .. })));
        assert!(is_closed(poll_once(timed.as_mut()).map_ok(drop)));
        assert!(is_closed(poll_once(waits.as_mut()).map_ok(drop)));
        assert!(!guard.is_valid());
    }
}

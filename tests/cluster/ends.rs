//! How a node ends: by shutdown, by drop, by the end of its runtime; and what a transport that
//! panics does to it.

use crate::support::{builder, ms, node, settle};
use lockword::cluster::layers::{Faulty, Intercept, Interceptor, Plan};
use lockword::cluster::{
    Exchange, Key, LockError, LockStatus, LossReason, Memory, Node, NodeId, ReleaseError,
    Transport, TransportError, Version, Versioned, Watch, Write, async_trait,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};

fn is_closed(error: &LockError) -> bool {
    matches!(error, LockError::Closed { .. })
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_releases_what_is_held_and_tells_who_waits() {
    let engine = Memory::new();
    let way = Faulty::delayed(engine.clone(), ms(10));
    let (a, b) = (node(way, "a"), node(engine, "b"));
    let lock = a.lock("k").unwrap();
    let guard = lock.acquire().await.unwrap();
    let other = a.lock("other").unwrap().acquire().await.unwrap();
    let waiting = tokio::spawn({
        let lock = lock.clone();
        async move { lock.acquire().await }
    });
    settle().await;
    let report = a.shutdown().await;
    assert_eq!(report.released.len(), 2, "{report:?}");
    assert_eq!(report.indeterminate, []);
    assert!(is_closed(&waiting.await.unwrap().unwrap_err()));
    assert!(!guard.is_valid());
    assert_eq!(guard.lost().await, LossReason::Closed);
    assert!(matches!(
        guard.release().await.unwrap_err(),
        ReleaseError::Lost { why: LossReason::Closed, .. }
    ));
    drop(other);
    assert!(is_closed(&lock.acquire().await.unwrap_err()));
    assert!(is_closed(&lock.try_acquire().await.unwrap_err()));
    assert!(is_closed(&lock.acquire_timeout(ms(5)).await.unwrap_err()));
    assert!(is_closed(&a.inspect("k").await.unwrap_err()));
    assert!(is_closed(&a.break_lock("k").await.unwrap_err()));
    assert_eq!(a.shutdown().await, report, "told again");
    for key in ["k", "other"] {
        assert_eq!(b.inspect(key).await.unwrap().status, LockStatus::Free, "{key}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_without_an_engine_ends_in_time_and_says_so() {
    let way = Faulty::new(Memory::new(), Plan::default(), 1);
    let faults = way.faults();
    let node = builder(way, "a").request_timeout(ms(500)).build().unwrap();
    let guard = node.lock("k").unwrap().acquire().await.unwrap();
    faults.partition(true);
    let began = tokio::time::Instant::now();
    let report = node.shutdown().await;
    assert!(began.elapsed() <= ms(1_010), "{:?}", began.elapsed());
    assert_eq!(report.indeterminate.iter().map(Key::as_str).collect::<Vec<_>>(), ["k"]);
    assert!(!guard.is_valid());
}

#[tokio::test(start_paused = true)]
async fn the_last_node_dropped_releases_in_the_background() {
    let engine = Memory::new();
    let onlooker = node(engine.clone(), "onlooker");
    let a = node(Faulty::delayed(engine, ms(10)), "a");
    let lock = a.lock("k").unwrap();
    let guard = lock.acquire().await.unwrap();
    let waiting = tokio::spawn({
        let lock = lock.clone();
        async move { lock.acquire().await }
    });
    settle().await;
    let clone = a.clone();
    drop(a);
    assert!(guard.is_valid(), "there is a clone");
    drop(clone);
    assert!(!guard.is_valid());
    assert_eq!(guard.lost().await, LossReason::Closed);
    assert!(is_closed(&waiting.await.unwrap().unwrap_err()));
    tokio::time::sleep(ms(11)).await;
    assert_eq!(onlooker.inspect("k").await.unwrap().status, LockStatus::Free);
    assert!(is_closed(&lock.acquire().await.unwrap_err()));
}

fn runtimes() -> [Runtime; 2] {
    let current = Builder::new_current_thread().enable_all().build().unwrap();
    let multi = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    [current, multi]
}

#[test]
fn a_runtime_that_goes_takes_nobody_with_it() {
    for runtime in runtimes() {
        let engine = Memory::new();
        let node = Node::builder(engine).runtime(runtime.handle().clone()).build().unwrap();
        let lock = node.lock("k").unwrap();
        let blocking = node.blocking().lock("k").unwrap();
        let guard = runtime.block_on(lock.acquire()).unwrap();
        let second = runtime.block_on(node.lock("second").unwrap().acquire()).unwrap();
        let threads: Vec<_> = (0..2)
            .map(|n| {
                let lock = blocking.clone();
                std::thread::spawn(move || match n {
                    0 => lock.acquire().unwrap_err(),
                    _ => lock.acquire_timeout(Duration::from_secs(600)).unwrap_err(),
                })
            })
            .collect();
        while node.waiting("k") < 2 {
            std::thread::yield_now();
        }
        drop(runtime);
        for thread in threads {
            let error = thread.join().unwrap();
            assert!(is_closed(&error), "{error}");
        }
        assert!(!guard.is_valid());
        let outside = Builder::new_current_thread().build().unwrap();
        outside.block_on(async {
            assert_eq!(guard.lost().await, LossReason::Closed);
            let error = guard.release().await.unwrap_err();
            assert!(matches!(error, ReleaseError::Lost { why: LossReason::Closed, .. }));
            assert!(is_closed(&lock.acquire().await.unwrap_err()));
            assert!(is_closed(&node.inspect("k").await.unwrap_err()));
            let report = node.shutdown().await;
            assert_eq!(report.indeterminate.len(), 2, "{report:?}");
        });
        drop(second);
        drop(node);
    }
}

/// A release that is in flight when its runtime goes.
#[test]
fn a_release_that_cannot_be_finished_is_in_doubt() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let way = Faulty::new(Memory::new(), Plan::default(), 1);
    let faults = way.faults();
    let node = Node::builder(way).runtime(runtime.handle().clone()).build().unwrap();
    let guard = runtime.block_on(node.lock("k").unwrap().acquire()).unwrap();
    faults.pause(true);
    let mut release = Box::pin(guard.release());
    assert!(crate::support::poll_once(release.as_mut()).is_pending());
    runtime.block_on(tokio::task::yield_now());
    drop(runtime);
    let outside = Builder::new_current_thread().build().unwrap();
    let error = outside.block_on(release).unwrap_err();
    assert!(matches!(error, ReleaseError::Indeterminate { .. }), "{error}");
    assert!(error.to_string().contains("\"k\" over memory"), "{error}");
}

/// An engine that panics when it is told to.
struct Panics(Arc<AtomicBool>);

impl Panics {
    fn check(&self) {
        assert!(!self.0.load(Ordering::Relaxed), "a bug in the transport");
    }
}

#[async_trait]
impl Interceptor<Memory> for Panics {
    async fn load(&self, inner: &Memory, key: &Key) -> Result<Option<Versioned>, TransportError> {
        self.check();
        inner.load(key).await
    }

    async fn compare_exchange(
        &self,
        inner: &Memory,
        key: &Key,
        expected: Option<Version>,
        new: Write,
    ) -> Result<Exchange, TransportError> {
        self.check();
        inner.compare_exchange(key, expected, new).await
    }

    async fn watch(
        &self,
        inner: &Memory,
        key: &Key,
        node: NodeId,
    ) -> Result<Watch, TransportError> {
        self.check();
        inner.watch(key, node).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_the_transport_is_an_error_of_the_engine() {
    let is_bad = Arc::new(AtomicBool::new(true));
    let node = builder(Intercept::new(Memory::new(), Panics(is_bad.clone())), "a").build().unwrap();
    let lock = node.lock("k").unwrap();
    let error = lock.try_acquire().await.unwrap_err();
    assert!(
        error.to_string().contains("the transport panicked: a bug in the transport"),
        "{error}"
    );
    assert!(matches!(
        node.inspect("k").await.unwrap_err(),
        LockError::Transport { source: TransportError::Unavailable(_), .. }
    ));
    is_bad.store(false, Ordering::Relaxed);
    let guard = lock.acquire().await.unwrap();
    is_bad.store(true, Ordering::Relaxed);
    assert!(matches!(guard.lost().await, LossReason::Expired { last: Some(_) }));
    is_bad.store(false, Ordering::Relaxed);
    assert!(lock.acquire().await.unwrap().is_valid());
}

//! How a node ends: by shutdown, by drop, by the end of its runtime.

use crate::support::{builder, ms, node, poll_once, settle};
use lockword::cluster::layers::{Faulty, Intercept, Interceptor, Plan};
use lockword::cluster::{
    DistributedGuard, Exchange, Key, LockError, LockStatus, LossReason, Memory, Node, ReleaseError,
    Transport, TransportError, Version, Write, async_trait,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};

fn is_closed(error: &LockError) -> bool {
    matches!(error, LockError::Closed { .. })
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_releases_all_locks_and_fails_all_waiters() {
    let engine = Memory::new();
    let faulty = Faulty::delayed(engine.clone(), ms(10));
    let (a, b) = (node(faulty, "a"), node(engine, "b"));
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
    assert_eq!(a.shutdown().await, report, "a second call");
    for key in ["k", "other"] {
        assert_eq!(b.inspect(key).await.unwrap().status, LockStatus::Free, "{key}");
    }
}

/// On a runtime with threads, where the driver runs beside it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_reports_every_key_that_it_has_released() {
    for _ in 0..20 {
        let a = Node::builder(Memory::new()).build().unwrap();
        let mut guards = vec![];
        for i in 0..300 {
            guards.push(a.lock(format!("k{i}")).unwrap().acquire().await.unwrap());
        }
        let report = a.shutdown().await;
        assert_eq!((report.released.len(), report.indeterminate.len()), (300, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_was_shut_down_keeps_no_keys() {
    let a = node(Memory::new(), "a");
    a.shutdown().await;
    for i in 0..100 {
        assert!(a.lock(format!("k{i}")).unwrap().acquire().await.is_err());
    }
    assert_eq!(a.keys(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_without_an_engine_ends_in_time_and_reports_the_keys_as_indeterminate() {
    let faulty = Faulty::new(Memory::new(), Plan::default(), 1);
    let faults = faulty.faults();
    let node = builder(faulty, "a").request_timeout(ms(500)).build().unwrap();
    let guard = node.lock("k").unwrap().acquire().await.unwrap();
    faults.partition(true);
    let began = tokio::time::Instant::now();
    let report = node.shutdown().await;
    assert!(began.elapsed() <= ms(1_010), "{:?}", began.elapsed());
    assert_eq!(report.indeterminate.iter().map(Key::as_str).collect::<Vec<_>>(), ["k"]);
    assert!(!guard.is_valid());
}

#[tokio::test(start_paused = true)]
async fn the_drop_of_the_last_clone_closes_the_node_and_releases_in_the_background() {
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
fn the_end_of_the_runtime_closes_the_node() {
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

/// The request is in flight when the runtime ends.
#[test]
fn a_release_that_its_runtime_does_not_finish_is_indeterminate() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let faulty = Faulty::new(Memory::new(), Plan::default(), 1);
    let faults = faulty.faults();
    let node = Node::builder(faulty).runtime(runtime.handle().clone()).build().unwrap();
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

/// Some of the keys are released, some are lost, and for some there is no response.
#[tokio::test(start_paused = true)]
async fn a_shutdown_reports_every_key_that_was_held_once() {
    const KEYS: usize = 1_000;
    let engine = Memory::new();
    let troubled = Intercept::new(engine.clone(), Troubled::default());
    let trouble = troubled.interceptor().clone();
    let a = builder(troubled, "a").lease(ms(1_000)).request_timeout(ms(500)).build().unwrap();
    let operator = node(engine, "operator");
    let (mut guards, mut kept, mut all) = (vec![], vec![], vec![]);
    for n in 0..KEYS {
        let key = Key::new(&format!("k{n}")).unwrap();
        let lock = a.lock(&key).unwrap();
        if n % 10 == 9 {
            // A grant that nobody has taken.
            let mut acquire = Box::pin(async move { lock.acquire().await });
            assert!(poll_once(acquire.as_mut()).is_pending());
            kept.push(acquire);
        } else {
            guards.push(lock.acquire().await.unwrap());
        }
        all.push(key);
    }
    settle().await;
    // From here on the engine fails for some keys, and others were broken.
    trouble.begin();
    for n in (0..KEYS).filter(|n| n % 7 == 0) {
        operator.break_lock(format!("k{n}")).await.unwrap().unwrap();
    }
    // Both calls begin before the driver runs.
    let again = a.clone();
    let (report, same) = tokio::join!(a.shutdown(), again.shutdown());
    assert_eq!(report, same);
    let mut reported = [&*report.released, &*report.lost, &*report.indeterminate].concat();
    reported.sort();
    all.sort();
    assert_eq!(reported.len(), KEYS);
    assert_eq!(reported, all);
    for list in [&report.released, &report.lost, &report.indeterminate] {
        assert!(list.len() > 50 && list.is_sorted(), "{}", list.len());
    }
    let is_released = |guard: &DistributedGuard| report.released.contains(guard.key());
    assert!(guards.iter().filter(|guard| is_released(guard)).count() > 100);
    drop((guards, kept));
}

/// The lease ends during the shutdown.
#[tokio::test(start_paused = true)]
async fn a_key_that_is_lost_during_the_shutdown_is_reported() {
    let faulty = Faulty::new(Memory::new(), Plan::default(), 1);
    let faults = faulty.faults();
    let node = builder(faulty, "a").lease(ms(1_000)).request_timeout(ms(500)).build().unwrap();
    let mut guards = vec![];
    for n in 0..20 {
        guards.push(node.lock(format!("k{n}")).unwrap().acquire().await.unwrap());
        tokio::time::sleep(ms(10)).await;
    }
    faults.set(Plan { refuse: 1.0, ..Plan::default() });
    tokio::time::sleep(ms(600)).await;
    let shutdown = tokio::spawn({
        let node = node.clone();
        async move { node.shutdown().await }
    });
    tokio::time::sleep(ms(650)).await;
    faults.set(Plan::default());
    let report = shutdown.await.unwrap();
    let all = [report.released, report.lost, report.indeterminate].concat();
    assert_eq!(all.len(), 20, "{all:?}");
}

/// Once it is told to, loses the requests of a third of the keys.
#[derive(Clone, Default)]
struct Troubled(Arc<AtomicBool>);

impl Troubled {
    fn begin(&self) {
        self.0.store(true, Relaxed);
    }
}

#[async_trait]
impl Interceptor<Memory> for Troubled {
    async fn compare_exchange(
        &self,
        inner: &Memory,
        key: &Key,
        expected: Option<Version>,
        new: Write,
    ) -> Result<Exchange, TransportError> {
        let number: usize = key.as_str()[1..].parse().unwrap();
        if self.0.load(Relaxed) && number % 3 == 1 {
            return Err(TransportError::indeterminate("a fault: the response is lost"));
        }
        inner.compare_exchange(key, expected, new).await
    }
}

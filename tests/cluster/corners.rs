//! Corners: grants that are not fetched, tokens that run out, texts, operators, observers.

use crate::support::{builder, ms, node, poll_once, settle};
use lockword::cluster::layers::{Faulty, Plan};
use lockword::cluster::{Key, LockError, Memory, Node};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// A grant that its waiter has not fetched when the lease is lost; then the next is granted.
#[tokio::test(start_paused = true)]
async fn a_grant_that_was_not_fetched_before_the_loss() {
    let engine = Memory::new();
    let a = builder(engine.clone(), "a").lease(ms(1500)).build().unwrap();
    let op = node(engine, "op");
    let lock = a.lock("k").unwrap();
    let mut slow = pin!(lock.acquire());
    assert!(poll_once(slow.as_mut()).is_pending());
    settle().await; // Granted, not fetched.
    assert!(op.break_lock("k").await.unwrap().is_some());
    let second = lock.clone();
    let second = tokio::spawn(async move {
        let guard = second.acquire().await?;
        guard.release().await.unwrap();
        Ok::<_, LockError>(())
    });
    tokio::time::sleep(Duration::from_secs(5)).await;
    let first = tokio::time::timeout(Duration::from_secs(60), slow).await;
    let second = tokio::time::timeout(Duration::from_secs(60), second).await;
    println!("first {first:?}\nsecond {second:?}");
    assert!(first.is_ok(), "the first waits for ever");
    second.unwrap().unwrap().unwrap();
}

/// Release while the tokens are used up.
#[tokio::test(start_paused = true)]
async fn release_when_tokens_are_used_up() {
    let engine = Faulty::delayed(Memory::new(), ms(20));
    let a = builder(engine, "a").build().unwrap();
    let lock = a.lock("k").unwrap();
    let longest = Arc::new(AtomicU64::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let mut all = vec![];
    for _ in 0..64 {
        let (lock, longest, stop) = (lock.clone(), longest.clone(), stop.clone());
        all.push(tokio::spawn(async move {
            while !stop.load(Relaxed) {
                let guard = lock.acquire().await.unwrap();
                tokio::task::yield_now().await;
                let began = tokio::time::Instant::now();
                guard.release().await.unwrap();
                longest.fetch_max(began.elapsed().as_millis() as u64, Relaxed);
            }
        }));
    }
    tokio::time::sleep(Duration::from_millis(1000)).await;
    stop.store(true, Relaxed);
    for task in all {
        task.await.unwrap();
    }
    let longest = longest.load(Relaxed);
    assert!(longest < 100, "a release took {longest} ms");
}

/// Patience counts from a failure of long ago.
#[tokio::test(start_paused = true)]
async fn patience_counts_from_long_ago() {
    let way = Faulty::new(Memory::new(), Plan::default(), 1);
    let faults = way.faults();
    let a = builder(way, "a").lease(ms(1000)).build().unwrap();
    let lock = a.lock("k").unwrap();
    faults.set(Plan { refuse: 1.0, ..Plan::default() });
    assert!(lock.try_acquire().await.is_err());
    faults.set(Plan::default());
    tokio::time::sleep(Duration::from_secs(600)).await;
    // Ten minutes later: one refusal, and all is well a millisecond later.
    faults.set(Plan { refuse: 1.0, ..Plan::default() });
    let mut acquire = pin!(lock.acquire());
    assert!(poll_once(acquire.as_mut()).is_pending());
    settle().await;
    faults.set(Plan::default());
    drop(acquire.await.unwrap());
}

/// A break indeterminate: the text says that it is undone.
#[tokio::test(start_paused = true)]
async fn text_of_a_break_in_doubt() {
    let engine = Memory::new();
    let way = Faulty::new(engine.clone(), Plan::default(), 1);
    let faults = way.faults();
    let (a, op) = (node(engine, "a"), node(way, "op"));
    let _guard = a.lock("k").unwrap().acquire().await.unwrap();
    faults.lose_next_response();
    let error = op.break_lock("k").await.unwrap_err();
    println!("{error}");
    assert!(!error.to_string().contains("is undone"), "{error}");
}

/// A blocking thread of a current-thread runtime.
#[tokio::test]
async fn spawn_blocking_on_a_current_thread_runtime() {
    let a = Node::builder(Memory::new()).build().unwrap();
    let lock = a.blocking().lock("k").unwrap();
    let got = tokio::task::spawn_blocking(move || lock.acquire().map(|g| g.release())).await;
    println!("{got:?}");
    got.unwrap().unwrap().unwrap();
}

/// All that is held is reported.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_reports_all_that_was_released() {
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

/// Keys of a node that was shut down.
#[tokio::test(start_paused = true)]
async fn keys_of_a_node_that_was_shut_down() {
    let a = node(Memory::new(), "a");
    a.shutdown().await;
    for i in 0..100 {
        assert!(a.lock(format!("k{i}")).unwrap().acquire().await.is_err());
    }
    assert_eq!(a.keys(), 0);
}

/// An operator breaks one holder's lock; by then another holds it.
#[tokio::test(start_paused = true)]
async fn break_lock_takes_it_from_another_than_was_seen() {
    let engine = Memory::new();
    // The operator's write takes 50 ms to arrive.
    let far = Faulty::delayed(engine.clone(), ms(100));
    let (a, b, op) = (node(engine.clone(), "a"), node(engine, "b"), node(far, "op"));
    let guard = a.lock("k").unwrap().acquire().await.unwrap();
    let lock = b.lock("k").unwrap();
    let next = tokio::spawn(async move { lock.acquire().await.unwrap() });
    settle().await;
    let broken = tokio::spawn(async move { op.break_lock("k").await });
    tokio::time::sleep(ms(120)).await; // It has looked: a holds.
    guard.release().await.unwrap();
    let next = next.await.unwrap();
    let broken = broken.await.unwrap().unwrap();
    println!("{broken:?}, {next:?}");
    assert!(broken.is_none_or(|broken| broken.label == "a"), "the innocent was broken");
}

/// The lease that others see is not shorter than the one that the holder counts on.
#[tokio::test(start_paused = true)]
async fn the_lease_in_the_register() {
    let a = builder(Memory::new(), "a").lease(Duration::from_micros(100_999)).build().unwrap();
    let _guard = a.lock("k").unwrap().acquire().await.unwrap();
    let state = a.inspect("k").await.unwrap();
    let lockword::cluster::LockStatus::Held { lease, .. } = state.status else { panic!() };
    assert!(lease >= Duration::from_micros(100_999), "{lease:?}");
}

/// A grant that is dropped unfetched: `released` without `acquired`.
#[tokio::test(start_paused = true)]
async fn observer_of_an_unfetched_grant() {
    struct Counts(Arc<[AtomicU64; 2]>);
    impl lockword::cluster::Observer for Counts {
        fn acquired(
            &self,
            _: &Key,
            _: Duration,
            _: lockword::cluster::AcquiredVia,
            _: lockword::cluster::FencingToken,
        ) {
            self.0[0].fetch_add(1, Relaxed);
        }
        fn released(&self, _: &Key, _: lockword::cluster::ReleaseOutcome) {
            self.0[1].fetch_add(1, Relaxed);
        }
    }
    let counts: Arc<[AtomicU64; 2]> = Arc::default();
    let a = builder(Memory::new(), "a").observer(Counts(counts.clone())).build().unwrap();
    let lock = a.lock("k").unwrap();
    let mut acquire = Box::pin(lock.acquire());
    assert!(poll_once(acquire.as_mut()).is_pending());
    settle().await;
    drop(acquire);
    settle().await;
    assert_eq!((counts[0].load(Relaxed), counts[1].load(Relaxed)), (0, 0));
}

/// A leaked guard, and the end of time.
#[tokio::test]
async fn leaked_guard_and_endless_timeout() {
    let engine = Memory::new();
    let a = Node::builder(engine.clone()).lease(ms(1500)).build().unwrap();
    let b = Node::builder(engine).lease(ms(1500)).build().unwrap();
    std::mem::forget(a.lock("k").unwrap().acquire().await.unwrap());
    let lock = b.lock("k").unwrap();
    assert!(lock.acquire_timeout(ms(700)).await.is_err());
    let waits = tokio::spawn(async move { lock.acquire_timeout(Duration::MAX).await.map(drop) });
    tokio::time::sleep(ms(50)).await;
    drop(a);
    tokio::time::timeout(Duration::from_secs(60), waits).await.unwrap().unwrap().unwrap();
}

/// The observer uses the node, as it may.
#[test]
fn observer_that_waits() {
    struct Uses(std::sync::OnceLock<Node>);
    struct Shared(Arc<Uses>);
    impl lockword::cluster::Observer for Shared {
        fn renewed(&self, _: &Key) {
            if let Some(node) = self.0.0.get() {
                let got = node.blocking().lock("other").unwrap().acquire_timeout(ms(100));
                println!("{got:?}");
            }
        }
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(3).enable_all().build().unwrap();
    let uses = Arc::new(Uses(std::sync::OnceLock::new()));
    let lost = runtime.block_on(async {
        let a = Node::builder(Memory::new())
            .lease(ms(300))
            .observer(Shared(uses.clone()))
            .build()
            .unwrap();
        let _ = uses.0.set(a.clone());
        let guard = a.lock("k").unwrap().acquire().await.unwrap();
        let until = Instant::now() + ms(1500);
        while guard.is_valid() && Instant::now() < until {
            tokio::time::sleep(ms(10)).await;
        }
        !guard.is_valid()
    });
    runtime.shutdown_background();
    assert!(!lost, "the driver waits for itself");
}

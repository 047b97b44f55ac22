//! Acquiring a lock: requests, timeouts, refusals, the order of nodes, and keys.

use crate::support::{builder, ms, node, settle};
use lockword::cluster::layers::{Counts, Intercept};
use lockword::cluster::{
    AcquiredVia, DistributedGuard, DistributedLock, FencingToken, Key, LockError, Memory, Node,
    Transport, Wake, Write,
};
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

async fn write_to_storage(token: FencingToken) -> Result<(), Box<dyn Error>> {
    assert!(token.get() > 0);
    Ok(())
}

async fn work() {
    tokio::time::sleep(ms(20)).await;
}

/// On the system's clock and a runtime with threads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_acquires_works_and_releases() -> Result<(), Box<dyn Error>> {
    let node = Node::builder(Memory::new()).lease(Duration::from_secs(10)).build().unwrap();
    let lock = node.lock("jobs/nightly")?;
    let guard = lock.acquire().await?;
    write_to_storage(guard.token()).await?;
    tokio::select! { () = work() => {}, _ = guard.lost() => panic!("lost") }
    guard.release().await?;
    // From plain threads, with no runtime in the caller.
    std::thread::spawn(move || {
        let guard = node.blocking().lock("jobs/nightly")?.acquire()?;
        assert!(guard.is_valid());
        Ok::<_, LockError>(())
    })
    .join()
    .unwrap()?;
    Ok(())
}

#[test]
fn nodes_locks_guards_and_futures_move_between_threads() {
    fn moves<T: Send + Sync + 'static>() {}
    fn moves_value<T: Send>(_: T) {}
    moves::<(Node, DistributedLock, DistributedGuard, LockError)>();
    moves::<(lockword::cluster::blocking::Lock, lockword::cluster::blocking::Guard)>();
    async fn all(lock: DistributedLock) {
        let guard = lock.acquire().await.unwrap();
        guard.lost().await;
        guard.release().await.unwrap();
        drop(lock.acquire_timeout(ms(1)).await);
    }
    let _ = |lock: DistributedLock| moves_value(all(lock));
}

#[tokio::test(start_paused = true)]
async fn an_uncontended_acquire_and_release_take_two_requests() {
    let counts = Counts::default();
    let counting = Intercept::new(Memory::new(), counts.clone());
    let node = node(counting, "one");
    let lock = node.lock("k").unwrap();
    let mut last = None;
    for _ in 0..100 {
        let guard = lock.acquire().await.unwrap();
        assert_eq!(guard.acquired_via(), AcquiredVia::Free);
        assert!(Some(guard.token()) > last, "{guard:?}");
        last = Some(guard.token());
        guard.release().await.unwrap();
        let taken = counts.take();
        assert_eq!((taken.total(), taken.swaps), (2, 2), "{taken:?}");
    }
}

/// The engine is behind an `Arc<dyn Transport>`.
#[tokio::test(start_paused = true)]
async fn a_try_is_refused_with_the_label_of_the_holder() {
    let engine: Arc<dyn Transport> = Arc::new(Memory::new());
    let (a, b) = (node(engine.clone(), "a"), node(engine, "b"));
    let guard = a.lock("k").unwrap().acquire().await.unwrap();
    let busy = b.lock("k").unwrap().try_acquire().await.unwrap_err();
    assert!(matches!(&busy, LockError::Busy { holder: Some(holder), .. } if holder == "a"));
    assert_eq!(
        busy.to_string(),
        "the lock \"k\" over memory is held by \"a\"; try later, or wait by acquire"
    );
    drop(guard);
    settle().await;
    let guard = b.lock("k").unwrap().try_acquire().await.unwrap();
    assert_eq!(guard.key().as_str(), "k");
}

#[tokio::test(start_paused = true)]
async fn a_try_is_refused_within_the_same_node_too() {
    let node = node(Memory::new(), "one");
    let lock = node.lock("k").unwrap();
    let guard = lock.acquire().await.unwrap();
    let error = lock.try_acquire().await.unwrap_err();
    assert!(matches!(error, LockError::Busy { holder: None, .. }), "{error}");
    guard.release().await.unwrap();
    lock.try_acquire().await.unwrap().release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_timeout_ends_the_wait_and_leaves_no_queue_entry() {
    let engine = Memory::new();
    let (a, b) = (node(engine.clone(), "a"), node(engine, "b"));
    let guard = a.lock("k").unwrap().acquire().await.unwrap();
    let lock = b.lock("k").unwrap();
    let began = tokio::time::Instant::now();
    let error = lock.acquire_timeout(ms(250)).await.unwrap_err();
    assert!(matches!(error, LockError::TimedOut { after, .. } if after == ms(250)), "{error}");
    assert_eq!(began.elapsed().as_millis(), 250);
    settle().await;
    assert_eq!(b.inspect("k").await.unwrap().queue, []);
    guard.release().await.unwrap();
    assert_eq!(lock.acquire_timeout(ms(250)).await.unwrap().acquired_via(), AcquiredVia::Free);
}

/// The guard is leaked; its lock is released when its node is dropped.
#[tokio::test]
async fn a_timeout_of_any_length_is_allowed_and_a_leaked_guard_ends_with_its_node() {
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

#[tokio::test(start_paused = true)]
async fn a_waiting_node_is_woken_by_the_release() {
    let engine = Memory::new();
    let (a, b) = (node(engine.clone(), "a"), node(engine, "b"));
    let guard = a.lock("k").unwrap().acquire().await.unwrap();
    let token = guard.token();
    let lock = b.lock("k").unwrap();
    let waiting = tokio::spawn(async move { lock.acquire().await });
    settle().await;
    assert_eq!(a.inspect("k").await.unwrap().queue[0].label, "b");
    let began = tokio::time::Instant::now();
    guard.release().await.unwrap();
    let guard = waiting.await.unwrap().unwrap();
    assert_eq!(guard.acquired_via(), AcquiredVia::Handoff);
    assert!(guard.token() > token);
    assert!(began.elapsed() < ms(10), "it was not woken: {:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn keys_are_checked_and_forgotten_when_unused() {
    let node = node(Memory::new(), "one");
    let error = node.lock("two words").unwrap_err();
    assert!(error.to_string().contains("' ' at byte 3"), "{error}");
    assert!(error.source().is_some());
    for n in 0..1000 {
        let lock = node.lock(format!("k{n}")).unwrap();
        let guard = lock.acquire().await.unwrap();
        drop(lock);
        drop(guard);
    }
    let kept = node.lock(Key::new("kept").unwrap()).unwrap();
    let name = "unused".to_owned();
    drop(node.lock(&name).unwrap());
    settle().await;
    assert_eq!(node.keys(), 1);
    drop(kept);
    settle().await;
    assert_eq!(node.keys(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_foreign_value_is_an_error_and_is_left_alone() {
    let engine = Memory::new();
    let key = Key::new("k").unwrap();
    let foreign = Write { value: b"hello".as_slice().into(), wake: Wake::Nobody, idle: false };
    engine.compare_exchange(&key, None, foreign).await.unwrap();
    let node = builder(engine.clone(), "one").build().unwrap();
    let lock = node.lock(&key).unwrap();
    for error in [lock.acquire().await.unwrap_err(), lock.try_acquire().await.unwrap_err()] {
        assert!(matches!(error, LockError::Unreadable { .. }), "{error}");
        assert!(error.to_string().contains("use another key"), "{error}");
    }
    assert!(matches!(node.inspect(&key).await.unwrap_err(), LockError::Unreadable { .. }));
    assert!(matches!(node.break_lock(&key).await.unwrap_err(), LockError::Unreadable { .. }));
    assert_eq!(&*engine.load(&key).await.unwrap().unwrap().value, b"hello");
}

/// The watch reports the foreign value as a change to load.
#[tokio::test(start_paused = true)]
async fn a_key_is_usable_again_when_a_foreign_value_is_deleted() {
    let engine = Memory::new();
    let (a, b) = (node(engine.clone(), "a"), node(engine.clone(), "b"));
    let lock = a.lock("k").unwrap();
    let key = Key::new("k").unwrap();
    let theirs = b.lock("k").unwrap().acquire().await.unwrap();
    assert!(lock.acquire_timeout(ms(100)).await.is_err()); // From here on it watches.
    drop(theirs);
    settle().await;
    let version = engine.load(&key).await.unwrap().map(|now| now.version);
    let write = Write { value: b"foreign".as_slice().into(), wake: Wake::Everybody, idle: false };
    engine.compare_exchange(&key, version, write).await.unwrap();
    settle().await;
    let error = lock.acquire().await.unwrap_err();
    assert!(matches!(error, LockError::Unreadable { .. }), "{error}");
    assert!(engine.delete(&key));
    settle().await;
    drop(lock.acquire().await.unwrap());
}

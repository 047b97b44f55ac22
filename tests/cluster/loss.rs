//! Locks that are lost, or taken away; looking at a key.

use crate::support::{builder, ms, node, settle};
use lockword::cluster::layers::{Faulty, Plan};
use lockword::cluster::{
    AcquiredVia, LockError, LockStatus, LossReason, Memory, Node, ReleaseError, TransportError,
};
use std::time::Duration;
use tokio::time::Instant;

#[tokio::test(start_paused = true)]
async fn a_lock_is_kept_for_as_long_as_its_node_lives() {
    let engine = Memory::new();
    let a = builder(engine.clone(), "a").lease(ms(300)).build().unwrap();
    let b = builder(engine, "b").lease(ms(300)).build().unwrap();
    let guard = a.lock("k").unwrap().acquire().await.unwrap();
    let theirs = b.lock("k").unwrap();
    let error = theirs.acquire_timeout(Duration::from_secs(60)).await.unwrap_err();
    assert!(matches!(error, LockError::TimedOut { .. }), "{error}");
    assert!(guard.is_valid());
    assert!(guard.remaining() > ms(150) && guard.remaining() <= ms(300), "{guard:?}");
    guard.release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_cut_off_loses_it_before_another_gets_it() {
    let engine = Memory::new();
    let way = Faulty::new(engine.clone(), Plan::default(), 1);
    let faults = way.faults();
    let a = builder(way, "a").lease(ms(1000)).build().unwrap();
    let b = builder(engine, "b").lease(ms(1000)).build().unwrap();
    let guard = a.lock("k").unwrap().acquire().await.unwrap();
    faults.partition(true);
    let theirs = b.lock("k").unwrap();
    let taken = tokio::spawn(async move { (theirs.acquire().await.unwrap(), Instant::now()) });
    let why = guard.lost().await;
    let lost_at = Instant::now();
    assert!(matches!(&why, LossReason::Expired { last: Some(_) }), "{why:?}");
    assert!(!guard.is_valid());
    assert_eq!(guard.remaining(), Duration::ZERO);
    let (taken, taken_at) = taken.await.unwrap();
    assert_eq!(taken.acquired_via(), AcquiredVia::Takeover);
    assert!(taken_at > lost_at, "taken over before it was lost");
    assert!(taken.token() > guard.token());
    let error = guard.release().await.unwrap_err();
    assert!(
        matches!(&error, ReleaseError::Lost { why, .. } if matches!(why, LossReason::Expired { .. }))
    );
    assert!(error.to_string().contains("\"k\" over memory"), "{error}");
    // When the way is open again, the lock can be had again.
    faults.partition(false);
    let lock = a.lock("k").unwrap();
    let again = tokio::spawn(async move { lock.acquire().await });
    settle().await;
    taken.release().await.unwrap();
    assert!(again.await.unwrap().unwrap().is_valid());
}

/// The deadline passes although the node's task does not run: the guard knows by the clock alone.
#[test]
fn a_guard_needs_nobody_to_know_that_its_time_is_over() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let node = Node::builder(Memory::new()).lease(ms(100)).runtime(runtime.handle().clone());
    let node = node.build().unwrap();
    let lock = node.lock("k").unwrap();
    let guard = runtime.block_on(lock.acquire()).unwrap();
    assert!(guard.is_valid());
    // Nobody runs the runtime from here on.
    let began = std::time::Instant::now();
    while guard.is_valid() {
        assert!(began.elapsed() < Duration::from_secs(10));
        std::thread::yield_now();
    }
    assert!(began.elapsed() <= ms(110) || !guard.is_valid());
    // Nor does it come back to life when the task runs again and renews.
    let error = runtime.block_on(guard.release()).unwrap_err();
    assert!(matches!(error, ReleaseError::Lost { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_patient_waiter_is_told_at_last_and_a_hasty_one_at_once() {
    let way = Faulty::new(Memory::new(), Plan::default(), 1);
    way.faults().partition(true);
    let node = builder(way, "a").lease(ms(1000)).unavailable_timeout(ms(5_000)).build().unwrap();
    let lock = node.lock("k").unwrap();
    let began = Instant::now();
    let error = lock.try_acquire().await.unwrap_err();
    assert!(matches!(&error, LockError::Transport { .. }), "{error}");
    assert!(began.elapsed() < ms(500), "{:?}", began.elapsed());
    let began = Instant::now();
    let error = lock.acquire().await.unwrap_err();
    assert!(began.elapsed() >= ms(4_000), "{:?}", began.elapsed());
    assert!(
        matches!(&error, LockError::Transport { source, .. } if source.is_passing()),
        "{error}"
    );
    assert!(
        error.to_string().starts_with("acquiring the lock \"k\" over memory failed"),
        "{error}"
    );
    let error = node.inspect("k").await.unwrap_err();
    let is_down = |error: &LockError| {
        matches!(error, LockError::Transport { source: TransportError::Unavailable(_), .. })
    };
    assert!(is_down(&error), "{error}");
}

#[tokio::test(start_paused = true)]
async fn what_inspection_shows() {
    let engine = Memory::new();
    let (a, b) = (node(engine.clone(), "a"), node(engine.clone(), "b"));
    let onlooker = node(engine, "onlooker");
    // With a lock of the key it remembers what it saw.
    let _remembered = onlooker.lock("k").unwrap();
    let look = async || onlooker.inspect("k").await.unwrap();
    let state = look().await;
    assert_eq!((state.version, state.status), (None, LockStatus::Free));
    let guard = a.lock("k").unwrap().acquire().await.unwrap();
    let theirs = b.lock("k").unwrap();
    let waiting = tokio::spawn(async move { theirs.acquire().await.unwrap() });
    settle().await;
    let first = look().await;
    assert!(matches!(&first.status, LockStatus::Held { label, .. } if label == "a"));
    assert_eq!(first.unchanged_for, Duration::ZERO);
    assert_eq!(first.queue.iter().map(|w| &*w.label).collect::<Vec<_>>(), ["b"]);
    assert_eq!(first.queue[0].node, b.id());
    tokio::time::sleep(ms(2_000)).await;
    let second = look().await;
    assert_eq!(second.unchanged_for, ms(2_000));
    tokio::time::sleep(ms(2_000)).await;
    assert_eq!(look().await.unchanged_for, Duration::ZERO, "a renewal is a sign of life");
    guard.release().await.unwrap();
    drop(waiting.await.unwrap());
    settle().await;
    assert_eq!(look().await.status, LockStatus::Free);
    assert!(look().await.version > first.version);
}

#[tokio::test(start_paused = true)]
async fn a_broken_lock_goes_to_the_next_and_its_holder_learns_of_it() {
    let engine = Memory::new();
    let (a, b) = (node(engine.clone(), "a"), node(engine.clone(), "b"));
    let operator = node(engine, "operator");
    assert_eq!(operator.break_lock("k").await.unwrap(), None);
    let guard = a.lock("k").unwrap().acquire().await.unwrap();
    let theirs = b.lock("k").unwrap();
    let waiting = tokio::spawn(async move { theirs.acquire().await.unwrap() });
    settle().await;
    let broken = operator.break_lock("k").await.unwrap().unwrap();
    assert_eq!((broken.node, &*broken.label), (a.id(), "a"));
    let began = Instant::now();
    let taken = waiting.await.unwrap();
    assert!(began.elapsed() < ms(10), "{:?}", began.elapsed());
    assert!(taken.token() > guard.token());
    assert_eq!(guard.lost().await, LossReason::TakenOver);
    assert!(began.elapsed() < ms(3_500), "by the next renewal: {:?}", began.elapsed());
    let error = guard.release().await.unwrap_err();
    assert!(matches!(error, ReleaseError::Lost { why: LossReason::TakenOver, .. }), "{error}");
    taken.release().await.unwrap();
    assert_eq!(operator.break_lock("k").await.unwrap(), None);
}

/// A lease that is about to end is not handed to the next one of the node.
#[tokio::test(start_paused = true)]
async fn what_is_about_to_end_is_not_handed_over() {
    let way = Faulty::new(Memory::new(), Plan::default(), 1);
    let faults = way.faults();
    let node = builder(way, "a").lease(ms(1_000)).unavailable_timeout(ms(60_000)).build().unwrap();
    let lock = node.lock("k").unwrap();
    let guard = lock.acquire().await.unwrap();
    faults.partition(true);
    let waiting = tokio::spawn(async move { lock.acquire().await.unwrap() });
    tokio::time::sleep(ms(950)).await;
    assert!(guard.is_valid() && !waiting.is_finished());
    drop(guard);
    tokio::time::sleep(ms(500)).await;
    assert!(!waiting.is_finished(), "it was given what is of no use");
    faults.partition(false);
    let next = waiting.await.unwrap();
    assert_ne!(next.acquired_via(), AcquiredVia::LocalHandoff);
    assert!(next.remaining() > ms(900), "{next:?}");
}

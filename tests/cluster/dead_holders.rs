//! Short tries beside a holder, or a next waiter, that is dead.

use crate::support::{builder, ms, node, settle};
use lockword::cluster::layers::{Faulty, Plan};
use lockword::cluster::{AcquiredVia, LockError, LockStatus, Memory, Node};
use std::time::Duration;
use tokio::time::Instant;

const LEASE: Duration = Duration::from_secs(3);
/// The defaults for that lease.
const WINDOW: Duration = Duration::from_millis(150);
const HANDOFF_LEASE: Duration = Duration::from_millis(750);

/// A node that is cut off from the engine for ever, after what `then` does.
async fn dies_after(engine: &Memory, then: impl AsyncFnOnce(&Node)) {
    let faulty = Faulty::new(engine.clone(), Plan::default(), 1);
    let faults = faulty.faults();
    let dead = builder(faulty, "dead").lease(LEASE).build().unwrap();
    then(&dead).await;
    faults.partition(true);
    drop(dead);
}

async fn holds(dead: &Node) {
    std::mem::forget(dead.lock("k").unwrap().acquire().await.unwrap());
}

fn node_of(engine: &Memory, label: &str) -> Node {
    builder(engine.clone(), label).lease(LEASE).build().unwrap()
}

/// Tries from time to time, each time by a new handle. Returns how long it took.
async fn tries(node: &Node, interval: Duration) -> Duration {
    let began = Instant::now();
    loop {
        match node.lock("k").unwrap().try_acquire().await {
            Ok(guard) => {
                guard.release().await.unwrap();
                return began.elapsed();
            }
            Err(LockError::Busy { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        tokio::time::sleep(interval).await;
        assert!(began.elapsed() < ms(60_000), "it never gets the lock");
    }
}

#[tokio::test(start_paused = true)]
async fn repeated_tries_of_one_node_find_a_dead_holder_although_no_handle_is_kept() {
    for interval in [ms(10), ms(1_000), LEASE] {
        let engine = Memory::new();
        dies_after(&engine, holds).await;
        let node = node_of(&engine, "cron");
        let took = tries(&node, interval).await;
        assert!(took >= LEASE && took < LEASE * 3 / 2 + 2 * interval, "{took:?} at {interval:?}");
        settle().await;
        assert_eq!(node.keys(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn repeated_tries_never_take_the_lock_from_a_holder_that_lives() {
    let engine = Memory::new();
    let (holder, node) = (node_of(&engine, "holder"), node_of(&engine, "cron"));
    let guard = holder.lock("k").unwrap().acquire().await.unwrap();
    for n in 0..100 {
        let lock = node.lock("k").unwrap();
        assert!(matches!(lock.try_acquire().await, Err(LockError::Busy { .. })), "{n}");
        drop(lock);
        tokio::time::sleep(ms(370)).await;
    }
    guard.release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn inspections_and_tries_remember_for_each_other() {
    let engine = Memory::new();
    dies_after(&engine, holds).await;
    let node = node_of(&engine, "cron");
    assert!(node.lock("k").unwrap().try_acquire().await.is_err());
    tokio::time::sleep(ms(2_000)).await;
    let state = node.inspect("k").await.unwrap();
    assert!(matches!(state.status, LockStatus::Held { .. }));
    assert_eq!(state.unchanged_for, ms(2_000));
    tokio::time::sleep(ms(1_500)).await;
    let guard = node.lock("k").unwrap().try_acquire().await.unwrap();
    assert_eq!(guard.acquired_via(), AcquiredVia::Takeover);
}

#[tokio::test(start_paused = true)]
async fn a_new_node_outlasts_a_dead_holder() {
    let engine = Memory::new();
    dies_after(&engine, holds).await;
    let began = Instant::now();
    let guard = node_of(&engine, "cron").lock("k").unwrap().try_acquire_or_outlast().await.unwrap();
    let took = began.elapsed();
    assert_eq!(guard.acquired_via(), AcquiredVia::Takeover);
    assert!(took >= LEASE && took < LEASE * 3 / 2, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn who_outlasts_is_refused_when_the_holder_gives_a_sign_of_life() {
    let engine = Memory::new();
    let (holder, new) = (node_of(&engine, "holder"), node_of(&engine, "cron"));
    let guard = holder.lock("k").unwrap().acquire().await.unwrap();
    for wait in [ms(0), ms(100), ms(900)] {
        tokio::time::sleep(wait).await;
        let began = Instant::now();
        let error = new.lock("k").unwrap().try_acquire_or_outlast().await.unwrap_err();
        let took = began.elapsed();
        assert!(
            matches!(&error, LockError::Busy { holder: Some(holder), .. } if holder == "holder"),
            "{error}"
        );
        assert!(took < LEASE / 2, "{took:?}");
    }
    assert!(guard.is_valid());
    // It did not join the queue.
    assert_eq!(new.inspect("k").await.unwrap().queue, []);
    guard.release().await.unwrap();
    // A free lock is acquired at once.
    let began = Instant::now();
    let guard = new.lock("k").unwrap().try_acquire_or_outlast().await.unwrap();
    assert!(guard.is_valid() && began.elapsed() < ms(10));
}

#[tokio::test(start_paused = true)]
async fn who_outlasts_is_refused_when_the_lock_goes_to_another_node() {
    let engine = Memory::new();
    let (holder, next) = (node_of(&engine, "holder"), node_of(&engine, "next"));
    let guard = holder.lock("k").unwrap().acquire().await.unwrap();
    let waits = next.lock("k").unwrap();
    let waits = tokio::spawn(async move { waits.acquire().await.unwrap() });
    settle().await;
    let cron = node_of(&engine, "cron");
    let lock = cron.lock("k").unwrap();
    let outlasts = tokio::spawn(async move { lock.try_acquire_or_outlast().await });
    settle().await;
    guard.release().await.unwrap();
    let next = waits.await.unwrap();
    assert!(matches!(outlasts.await.unwrap(), Err(LockError::Busy { .. })));
    assert!(next.is_valid());
}

#[tokio::test(start_paused = true)]
async fn who_outlasts_makes_way_for_a_task_of_the_same_node_that_waits() {
    let engine = Memory::new();
    dies_after(&engine, holds).await;
    let node = node_of(&engine, "cron");
    let lock = node.lock("k").unwrap();
    let outlasts = tokio::spawn({
        let lock = lock.clone();
        async move { lock.try_acquire_or_outlast().await }
    });
    settle().await;
    let waits = tokio::spawn({
        let lock = lock.clone();
        async move { lock.acquire().await }
    });
    settle().await;
    assert!(matches!(outlasts.await.unwrap(), Err(LockError::Busy { .. })));
    // What the one has seen counts for the other.
    let began = Instant::now();
    let guard = waits.await.unwrap().unwrap();
    assert!(guard.is_valid());
    assert!(began.elapsed() < LEASE + WINDOW, "{:?}", began.elapsed());
    assert!(matches!(lock.try_acquire_or_outlast().await, Err(LockError::Busy { .. })));
}

/// The engine fails for a moment, which does not end the call.
#[tokio::test(start_paused = true)]
async fn who_outlasts_gets_over_a_short_failure_of_the_engine() {
    let engine = Memory::new();
    dies_after(&engine, holds).await;
    let faulty = Faulty::new(engine, Plan::default(), 2);
    let faults = faulty.faults();
    let node = builder(faulty, "cron").lease(LEASE).build().unwrap();
    let lock = node.lock("k").unwrap();
    let outlasts = tokio::spawn(async move { lock.try_acquire_or_outlast().await });
    tokio::time::sleep(ms(1_000)).await;
    faults.set(Plan { refuse: 1.0, ..Plan::default() });
    tokio::time::sleep(ms(1_000)).await;
    faults.set(Plan::default());
    assert_eq!(outlasts.await.unwrap().unwrap().acquired_via(), AcquiredVia::Takeover);
}

/// The lock is handed to a node that died in the queue.
async fn hand_to_a_dead_node(engine: &Memory) {
    let holder = node_of(engine, "holder");
    let guard = holder.lock("k").unwrap().acquire().await.unwrap();
    dies_after(engine, async |dead| {
        let lock = dead.lock("k").unwrap();
        let waits = tokio::spawn(async move { lock.acquire().await.map(drop) });
        settle().await;
        drop(waits);
    })
    .await;
    settle().await;
    guard.release().await.unwrap();
    settle().await;
    let status = holder.inspect("k").await.unwrap().status;
    assert!(
        matches!(status, LockStatus::Held { is_handed: true, lease: HANDOFF_LEASE, .. }),
        "{status:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_dead_node_that_was_handed_the_lock_keeps_it_for_its_handoff_lease() {
    let engine = Memory::new();
    hand_to_a_dead_node(&engine).await;
    let began = Instant::now();
    let node = node_of(&engine, "cron");
    let guard = node.lock("k").unwrap().try_acquire_or_outlast().await.unwrap();
    assert!(began.elapsed() >= HANDOFF_LEASE, "{:?}", began.elapsed());
    assert!(began.elapsed() < HANDOFF_LEASE + WINDOW, "{:?}", began.elapsed());
    assert_eq!(guard.acquired_via(), AcquiredVia::Takeover);
    guard.release().await.unwrap();
    let engine = Memory::new();
    hand_to_a_dead_node(&engine).await;
    let took = tries(&node_of(&engine, "cron"), ms(100)).await;
    assert!(took >= HANDOFF_LEASE && took < HANDOFF_LEASE + WINDOW, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_was_handed_to_a_dead_node_is_broken_on_demand() {
    let engine = Memory::new();
    hand_to_a_dead_node(&engine).await;
    let operator = node(engine.clone(), "operator");
    let broken = operator.break_lock("k").await.unwrap().unwrap();
    assert_eq!((&*broken.label, broken.was_handed), ("dead", true));
    assert_eq!(operator.inspect("k").await.unwrap().status, LockStatus::Free);
    assert_eq!(operator.break_lock("k").await.unwrap(), None);
    drop(operator.lock("k").unwrap().try_acquire().await.unwrap());
    // The next node in the queue gets it at once.
    settle().await;
    hand_to_a_dead_node(&engine).await;
    let next = node_of(&engine, "next");
    let lock = next.lock("k").unwrap();
    let waits = tokio::spawn(async move { lock.acquire().await.unwrap() });
    settle().await;
    let began = Instant::now();
    assert!(operator.break_lock("k").await.unwrap().unwrap().was_handed);
    assert!(waits.await.unwrap().is_valid());
    assert!(began.elapsed() < ms(10), "{:?}", began.elapsed());
}

/// The node that was handed the lock confirms between the load and the write of the break.
#[tokio::test(start_paused = true)]
async fn a_node_that_confirms_meanwhile_is_not_broken() {
    let engine = Memory::new();
    // Requests, responses and notices of both take 50 ms.
    let slow = Faulty::delayed(engine.clone(), ms(100));
    let far = Faulty::delayed(engine.clone(), ms(100));
    let next = builder(slow, "next").hold_at_once(false).build().unwrap();
    let (a, op) = (node(engine.clone(), "a"), node(far, "op"));
    let guard = a.lock("k").unwrap().acquire().await.unwrap();
    let lock = next.lock("k").unwrap();
    let next = tokio::spawn(async move { lock.acquire().await.unwrap() });
    // So that no look of the next node is under way.
    tokio::time::sleep(ms(500)).await;
    guard.release().await.unwrap();
    // The load of the break finds the handoff after 50 ms; the notice is at the next node after 50 ms,
    // and its confirmation in the engine after 100 ms, before the write of the break.
    let broken = op.break_lock("k").await.unwrap();
    let guard = next.await.unwrap();
    assert_eq!(broken, None);
    settle().await;
    assert!(guard.is_valid());
    guard.release().await.unwrap();
}

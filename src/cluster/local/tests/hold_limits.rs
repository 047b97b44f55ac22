//! Limits of holding.

use super::*;
use crate::cluster::layers::{Counts, Intercept};
use crate::cluster::{AcquiredVia, ReleaseError};

fn limited(lock: &DistributedLock, limit: Duration) -> DistributedLock {
    lock.clone().hold_at_most(limit)
}

#[tokio::test(start_paused = true)]
async fn a_guard_ends_at_its_limit_and_the_lock_goes_to_the_next_at_once() {
    for is_local in [true, false] {
        let engine = Memory::new();
        let notes = Notes::default();
        let node = builder(engine.clone()).observer(notes.clone()).build().unwrap();
        let lock = node.lock("k").unwrap();
        let (_b, theirs) = lock_of(engine);
        let guard = limited(&lock, 25 * SECOND).acquire().await.unwrap();
        let next = spawn(if is_local { &lock } else { &theirs });
        sleep(24 * SECOND).await;
        assert!(guard.is_valid() && guard.remaining() <= SECOND, "{guard:?}");
        let lost = guard.lost().await;
        assert_eq!((lost, guard.is_valid()), (LossReason::HoldLimit, false));
        let (next, took) = next.await.unwrap();
        assert!(is_about(took, 25 * SECOND), "{took:?}");
        assert!(next.is_valid() && next.token() > guard.token());
        assert_eq!(notes.take(), ["lost HoldLimit"]);
        // The reason stays, whatever becomes of the lease.
        sleep(30 * SECOND).await;
        assert_eq!(guard.lost().await, LossReason::HoldLimit);
        assert!(next.is_valid());
        let error = guard.release().await.unwrap_err();
        let why = LossReason::HoldLimit;
        assert!(matches!(&error, ReleaseError::Lost { why: it, .. } if *it == why), "{error}");
        assert_eq!(notes.take(), ["released Lost"]);
        assert!(next.is_valid(), "it was released by another's guard");
        next.release().await.unwrap();
        let told: &[&str] = if is_local { &["released Held"] } else { &[] };
        assert_eq!(notes.take(), told, "the late guard was taken for the last one");
    }
}

#[tokio::test(start_paused = true)]
async fn each_user_of_a_lease_has_its_own_limit() {
    let (_node, lock) = lock_of(Memory::new());
    let first = limited(&lock, SECOND).acquire().await.unwrap();
    let second = limited(&lock, 3 * SECOND);
    let second = tokio::spawn(async move { second.acquire().await.unwrap() });
    let third = spawn(&lock);
    sleep(ms(600)).await;
    first.release().await.unwrap();
    let second = second.await.unwrap();
    let began = Instant::now();
    sleep(ms(2_900)).await;
    assert!(second.is_valid(), "it has the limit of the first");
    let (third, _) = third.await.unwrap();
    assert!(is_about(began.elapsed(), 3 * SECOND), "{:?}", began.elapsed());
    assert!(!second.is_valid());
    sleep(60 * SECOND).await;
    assert!(third.is_valid(), "it has a limit");
    third.release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_release_before_the_limit_succeeds_and_one_after_it_does_not() {
    let (node, lock) = lock_of(Memory::new());
    let bounded = limited(&lock, SECOND);
    let guard = bounded.acquire().await.unwrap();
    sleep(ms(990)).await;
    guard.release().await.unwrap();
    // The driver does not run between the end of the limit and the release.
    let guard = limited(&lock, Duration::ZERO).acquire().await.unwrap();
    assert!(!guard.is_valid());
    let error = guard.release().await.unwrap_err();
    assert!(matches!(&error, ReleaseError::Lost { why: LossReason::HoldLimit, .. }), "{error}");
    // A limit that is longer than what else ends the guard is not the reason.
    let guard = limited(&lock, 60 * SECOND).acquire().await.unwrap();
    node.break_lock("k").await.unwrap().unwrap();
    assert!(matches!(guard.lost().await, LossReason::Broken { .. }));
    sleep(90 * SECOND).await;
    assert!(matches!(guard.lost().await, LossReason::Broken { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_lease_without_renewal_ends_after_one_lease() {
    let engine = Memory::new();
    let counts = Counts::default();
    let counted = Intercept::new(engine.clone(), counts.clone());
    let (_a, lock) = lock_of(counted);
    let (_b, theirs) = lock_of(engine);
    let once = lock.clone().without_renewal();
    let guard = once.acquire().await.unwrap();
    assert!(guard.remaining() > ms(9_800));
    sleep(ms(9_000)).await;
    assert!(guard.is_valid());
    assert_eq!(counts.take().compare_exchanges, 1, "it was renewed");
    let next = spawn(&theirs);
    assert_eq!(guard.lost().await, LossReason::HoldLimit);
    assert!(!guard.is_valid());
    next.await.unwrap().0.release().await.unwrap();
    drop(guard);
    // A user that does renew takes the lease over, and renews it.
    let guard = once.acquire().await.unwrap();
    let next = spawn(&lock);
    sleep(ms(5_000)).await;
    guard.release().await.unwrap();
    let (next, _) = next.await.unwrap();
    sleep(60 * SECOND).await;
    assert!(next.is_valid());
    // One that does not gets a lease of its own.
    let waits = tokio::spawn(async move { once.acquire().await.unwrap() });
    sleep(ms(5_000)).await;
    next.release().await.unwrap();
    let guard = waits.await.unwrap();
    assert!(guard.remaining() > ms(9_800), "{guard:?}");
    assert_eq!(guard.lost().await, LossReason::HoldLimit);
}

/// The lease of a node that is handed the lock is short at first.
#[tokio::test(start_paused = true)]
async fn who_is_handed_the_lock_and_wants_no_renewal_has_a_whole_lease() {
    let engine = Memory::new();
    let (_a, lock) = lock_of(engine.clone());
    let (_b, theirs) = lock_of(engine);
    for renews in [true, false] {
        let guard = lock.acquire().await.unwrap();
        let waiting = if renews { theirs.clone() } else { theirs.clone().without_renewal() };
        let waits = tokio::spawn(async move { waiting.acquire().await.unwrap() });
        settle().await;
        guard.release().await.unwrap();
        let next = waits.await.unwrap();
        assert_eq!(next.acquired_via(), AcquiredVia::Handoff);
        let is_whole = next.remaining() > ms(9_800);
        assert_eq!(is_whole, !renews, "{next:?}");
        next.release().await.unwrap();
    }
}

/// Whoever finds first that the guard is over: its user, or the driver by an event that came before the
/// timer.
#[tokio::test(start_paused = true)]
async fn the_observer_is_told_of_a_limit_before_the_user() {
    for (without_renewal, is_user) in [(false, false), (false, true), (true, false), (true, true)] {
        let notes = Notes::default();
        let node = builder(Memory::new()).observer(notes.clone()).build().unwrap();
        let lock = node.lock("k").unwrap();
        let bounded =
            if without_renewal { lock.clone().without_renewal() } else { limited(&lock, SECOND) };
        let guard = bounded.acquire().await.unwrap();
        settle().await;
        // The clock moves on, and no task runs.
        tokio::time::advance(guard.remaining()).await;
        if !is_user {
            let local = node.shared().find(lock.key()).unwrap();
            local.lost(node.shared(), &LossReason::Expired { last: None });
        }
        let lost = std::pin::pin!(guard.lost()).poll(&mut Context::from_waker(Waker::noop()));
        assert_eq!(lost, Poll::Ready(LossReason::HoldLimit));
        assert_eq!(notes.take(), ["lost HoldLimit"]);
        settle().await;
        assert_eq!(guard.lost().await, LossReason::HoldLimit);
        drop(guard);
        assert_eq!(notes.take(), ["released Lost"]);
    }
}

#[tokio::test(start_paused = true)]
async fn who_follows_one_without_renewal_learns_why_the_lease_ended() {
    let notes = Notes::default();
    let node = builder(Memory::new()).observer(notes.clone()).build().unwrap();
    let lock = node.lock("k").unwrap();
    let once = lock.clone().without_renewal().acquire().await.unwrap();
    let mut next = Kept::new(&lock, WaitMode::Wait);
    settle().await;
    drop(once);
    let next = next.guard();
    // No task runs until the lease is over: the driver has not heard of the new user.
    tokio::time::advance(next.remaining()).await;
    settle().await;
    let lost = next.lost().await;
    assert!(matches!(&lost, LossReason::Expired { last: Some(_) }), "{lost:?}");
    assert_eq!(notes.take(), ["released HandedOff", "lost Expired"]);
}

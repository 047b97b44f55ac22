//! Locks that are lost, and engines that cannot be reached.

use crate::support::{builder, ms, node, poll_once, settle};
use lockword::cluster::layers::{Faulty, Plan};
use lockword::cluster::{
    AcquiredVia, LockError, LossReason, Memory, Node, ReleaseError, TransportError,
};
use std::pin::pin;
use std::time::Duration;
use tokio::time::Instant;

#[tokio::test(start_paused = true)]
async fn a_lock_is_kept_by_renewals() {
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
async fn a_node_that_is_cut_off_loses_its_lock_before_another_node_gets_it() {
    let engine = Memory::new();
    let faulty = Faulty::new(engine.clone(), Plan::default(), 1);
    let faults = faulty.faults();
    let a = builder(faulty, "a").lease(ms(1000)).build().unwrap();
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
    // When the engine is reachable again, the node can get the lock again.
    faults.partition(false);
    let lock = a.lock("k").unwrap();
    let again = tokio::spawn(async move { lock.acquire().await });
    settle().await;
    taken.release().await.unwrap();
    assert!(again.await.unwrap().unwrap().is_valid());
}

/// The deadline passes while no thread runs the driver of the node.
#[test]
fn a_guard_ends_by_the_clock_alone() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let node = Node::builder(Memory::new()).lease(ms(100)).runtime(runtime.handle().clone());
    let node = node.build().unwrap();
    let lock = node.lock("k").unwrap();
    let asked = std::time::Instant::now();
    let guard = runtime.block_on(lock.acquire()).unwrap();
    let acquired = std::time::Instant::now();
    // No thread runs the runtime from here on.
    let mut valid = acquired;
    loop {
        // Before the check, so that a pause of this thread does not count.
        let now = std::time::Instant::now();
        if !guard.is_valid() {
            break;
        }
        valid = now;
        assert!(acquired.elapsed() < Duration::from_secs(10));
        std::thread::yield_now();
    }
    // The lease counts from a moment between the two. A part of it is for the error of clocks: 1 % and
    // 2 ms, or 10 % where the clock may be slewed.
    let least = if cfg!(any(target_os = "linux", target_os = "android")) { ms(96) } else { ms(89) };
    assert!(asked.elapsed() >= least, "it ended {:?} after the call", asked.elapsed());
    assert!(valid - acquired < ms(100), "it was valid {:?} after the grant", valid - acquired);
    // It stays lost when the driver runs again and renews.
    let error = runtime.block_on(guard.release()).unwrap_err();
    assert!(matches!(error, ReleaseError::Lost { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_waiter_whose_untaken_grant_is_lost_still_gets_the_lock() {
    let engine = Memory::new();
    let a = builder(engine.clone(), "a").lease(ms(1500)).build().unwrap();
    let op = node(engine, "op");
    let lock = a.lock("k").unwrap();
    let mut slow = pin!(lock.acquire());
    assert!(poll_once(slow.as_mut()).is_pending());
    settle().await; // It is granted, and the waiter does not poll.
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
    assert!(first.is_ok(), "the first waits for ever");
    second.unwrap().unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_about_to_end_is_not_handed_off() {
    let faulty = Faulty::new(Memory::new(), Plan::default(), 1);
    let faults = faulty.faults();
    let node =
        builder(faulty, "a").lease(ms(1_000)).unavailable_timeout(ms(60_000)).build().unwrap();
    let lock = node.lock("k").unwrap();
    let guard = lock.acquire().await.unwrap();
    faults.partition(true);
    let waiting = tokio::spawn(async move { lock.acquire().await.unwrap() });
    tokio::time::sleep(ms(950)).await;
    assert!(guard.is_valid() && !waiting.is_finished());
    drop(guard);
    tokio::time::sleep(ms(500)).await;
    assert!(!waiting.is_finished(), "it got a lease that is about to end");
    faults.partition(false);
    let next = waiting.await.unwrap();
    assert_ne!(next.acquired_via(), AcquiredVia::LocalHandoff);
    assert!(next.remaining() > ms(900), "{next:?}");
}

#[tokio::test(start_paused = true)]
async fn a_try_fails_at_the_first_error_and_a_wait_after_the_unavailable_timeout() {
    let faulty = Faulty::new(Memory::new(), Plan::default(), 1);
    faulty.faults().partition(true);
    let node = builder(faulty, "a").lease(ms(1000)).unavailable_timeout(ms(5_000)).build().unwrap();
    let lock = node.lock("k").unwrap();
    let began = Instant::now();
    let error = lock.try_acquire().await.unwrap_err();
    assert!(matches!(&error, LockError::Transport { .. }), "{error}");
    assert!(began.elapsed() < ms(500), "{:?}", began.elapsed());
    let began = Instant::now();
    let error = lock.acquire().await.unwrap_err();
    assert!(began.elapsed() >= ms(4_000), "{:?}", began.elapsed());
    assert!(
        matches!(&error, LockError::Transport { source, .. } if source.is_transient()),
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

/// A failure of ten minutes ago does not count.
#[tokio::test(start_paused = true)]
async fn the_unavailable_timeout_counts_from_the_present_failure() {
    let faulty = Faulty::new(Memory::new(), Plan::default(), 1);
    let faults = faulty.faults();
    let a = builder(faulty, "a").lease(ms(1000)).build().unwrap();
    let lock = a.lock("k").unwrap();
    faults.set(Plan { refuse: 1.0, ..Plan::default() });
    assert!(lock.try_acquire().await.is_err());
    faults.set(Plan::default());
    tokio::time::sleep(Duration::from_secs(600)).await;
    // Ten minutes later the engine fails for a millisecond.
    faults.set(Plan { refuse: 1.0, ..Plan::default() });
    let mut acquire = pin!(lock.acquire());
    assert!(poll_once(acquire.as_mut()).is_pending());
    settle().await;
    faults.set(Plan::default());
    drop(acquire.await.unwrap());
}

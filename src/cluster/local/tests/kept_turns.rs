//! Nodes that keep their turn for their own next acquisition.

use super::*;
use crate::cluster::transport::Version;

const TURN: Duration = Duration::from_millis(20);

/// A node that keeps its turn.
fn keeper(engine: &Memory) -> (Node, DistributedLock) {
    let node = builder(engine.clone()).keep_turn(TURN).build().unwrap();
    let lock = node.lock("k").unwrap();
    (node, lock)
}

async fn version(engine: &Memory) -> Option<Version> {
    engine.load(&Key::new("k").unwrap()).await.unwrap().map(|seen| seen.version)
}

#[tokio::test(start_paused = true)]
async fn the_next_acquisition_of_the_node_needs_no_request() {
    let engine = Memory::new();
    let (_node, lock) = keeper(&engine);
    let first = lock.acquire().await.unwrap();
    let mut token = first.token();
    let before = version(&engine).await;
    first.release().await.unwrap();
    for tries in [false, true, false] {
        let again = if tries { lock.try_acquire().await } else { lock.acquire().await };
        let again = again.unwrap();
        assert!(again.token() > token && again.is_valid());
        token = again.token();
        again.release().await.unwrap();
    }
    settle().await;
    assert_eq!(version(&engine).await, before);
    // The background task releases it.
    sleep(TURN + ms(1)).await;
    assert_ne!(version(&engine).await, before);
    let (_other, theirs) = lock_of(engine.clone());
    assert!(theirs.try_acquire().await.unwrap().token() > token);
}

#[tokio::test(start_paused = true)]
async fn another_node_gets_the_lock_when_the_turn_is_over_whether_it_is_used_or_not() {
    for loops in [false, true] {
        let engine = Memory::new();
        let (_node, lock) = keeper(&engine);
        let (_other, theirs) = lock_of(engine.clone());
        let began = Instant::now();
        lock.acquire().await.unwrap().release().await.unwrap();
        let waits = spawn(&theirs);
        settle().await;
        while loops && !waits.is_finished() {
            let guard = lock.acquire().await.unwrap();
            sleep(ms(1)).await;
            guard.release().await.unwrap();
            assert!(began.elapsed() < 2 * TURN, "it never ends");
        }
        let (guard, _) = waits.await.unwrap();
        assert!(began.elapsed() >= TURN, "{:?}", began.elapsed());
        assert!(began.elapsed() <= TURN + ms(2), "{:?}", began.elapsed());
        drop(guard);
    }
}

#[tokio::test(start_paused = true)]
async fn local_waiters_come_in_their_order_and_what_nobody_waits_for_is_kept() {
    let engine = Memory::new();
    let (_node, lock) = keeper(&engine);
    let user = lock.acquire().await.unwrap();
    let before = version(&engine).await;
    let mut first = Kept::new(&lock, WaitMode::Wait);
    let mut second = Kept::new(&lock, WaitMode::Wait);
    drop(user);
    assert!(second.poll().is_none());
    drop(first.guard());
    drop(second.guard());
    settle().await;
    drop(lock.acquire().await.unwrap());
    assert_eq!(version(&engine).await, before);
}

/// A lease of its own is a new one.
#[tokio::test(start_paused = true)]
async fn who_wants_a_lease_of_its_own_has_the_kept_one_released() {
    let engine = Memory::new();
    let (_node, lock) = keeper(&engine);
    let first = lock.acquire().await.unwrap();
    let (token, began) = (first.token(), Instant::now());
    first.release().await.unwrap();
    let own = lock.clone().without_renewal().acquire().await.unwrap();
    assert!(began.elapsed() < TURN, "{:?}", began.elapsed());
    assert!(own.token() > token);
    assert!(own.remaining() > ms(9_000), "{:?}", own.remaining());
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_closed_releases_what_it_keeps() {
    let engine = Memory::new();
    let (node, lock) = keeper(&engine);
    lock.acquire().await.unwrap().release().await.unwrap();
    let began = Instant::now();
    let report = node.shutdown().await;
    assert!(began.elapsed() < TURN, "{:?}", began.elapsed());
    assert!(report.lost.is_empty() && report.indeterminate.is_empty(), "{report:?}");
    let (_other, theirs) = lock_of(engine.clone());
    drop(theirs.try_acquire().await.unwrap());
}

/// What becomes of a lease that is kept is told to nobody: there is no guard.
#[tokio::test(start_paused = true)]
async fn the_observer_is_told_of_guards_only() {
    struct Releases(Arc<Mutex<Vec<ReleaseOutcome>>>);
    impl Observer for Releases {
        fn released(&self, _: &Key, outcome: ReleaseOutcome) {
            self.0.lock().push(outcome);
        }
        fn lost(&self, _: &Key, why: &LossReason) {
            panic!("{why}");
        }
    }
    let engine = Memory::new();
    let told = Arc::new(Mutex::new(vec![]));
    let node = builder(engine.clone()).keep_turn(TURN).observer(Releases(told.clone()));
    let node = node.build().unwrap();
    let lock = node.lock("k").unwrap();
    for _ in 0..2 {
        lock.acquire().await.unwrap().release().await.unwrap();
    }
    sleep(2 * TURN).await;
    assert_eq!(*told.lock(), [ReleaseOutcome::HandedOff; 2]);
    // A lock that is broken while it is kept.
    lock.acquire().await.unwrap().release().await.unwrap();
    let (other, _theirs) = lock_of(engine.clone());
    assert!(other.break_lock("k").await.unwrap().is_some());
    sleep(2 * TURN).await;
    assert_eq!(*told.lock(), [ReleaseOutcome::HandedOff; 3]);
    assert!(lock.acquire().await.unwrap().is_valid());
}

/// While the node renews: the count of local handoffs and their window bound it, too.
#[tokio::test(start_paused = true)]
async fn so_many_acquisitions_are_kept_while_another_node_waits() {
    let engine = Memory::new();
    let node = builder(engine.clone()).keep_turn(SECOND).local_handoffs(3).build().unwrap();
    let lock = node.lock("k").unwrap();
    let (_other, theirs) = lock_of(engine.clone());
    let guard = lock.acquire().await.unwrap();
    let waits = spawn(&theirs);
    settle().await;
    guard.release().await.unwrap();
    let mut turns = 1;
    while !waits.is_finished() {
        drop(lock.acquire().await.unwrap());
        turns += 1;
        settle().await;
        assert!(turns < 10, "it never ends");
    }
    drop(waits.await.unwrap());
}

//! Nodes that keep their turn for their own next acquisition.

use super::*;
use crate::cluster::AcquiredVia;
use crate::cluster::layers::Faulty;
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
    let before = version(&engine).await;
    let own = lock.clone().without_renewal().acquire().await.unwrap();
    assert_ne!(version(&engine).await, before);
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
        fn released(&self, _: &Key, outcome: ReleaseOutcome, _: Hold) {
            self.0.lock().push(outcome);
        }
        fn lost(&self, _: &Key, why: &LossReason, _: Hold) {
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

/// Whether it takes the lock again meanwhile or not.
#[tokio::test(start_paused = true)]
async fn the_window_for_local_handoffs_bounds_a_turn_that_another_node_waits_for() {
    for (loops, joins_late) in [(false, false), (true, false), (false, true)] {
        let engine = Memory::new();
        let window = ms(30);
        let node = builder(engine.clone()).keep_turn(SECOND).local_handoff_window(window);
        let node = node.build().unwrap();
        let lock = node.lock("k").unwrap();
        let (_other, theirs) = lock_of(engine.clone());
        let began = Instant::now();
        let guard = lock.acquire().await.unwrap();
        let early = (!joins_late).then(|| spawn(&theirs));
        settle().await;
        guard.release().await.unwrap();
        let waits = early.unwrap_or_else(|| spawn(&theirs));
        settle().await;
        let looping = loops.then(|| {
            let lock = lock.clone();
            tokio::spawn(async move {
                loop {
                    drop(lock.acquire().await.unwrap());
                    sleep(ms(1)).await;
                }
            })
        });
        drop(waits.await.unwrap());
        assert!(began.elapsed() <= window + ms(5), "{loops}, {joins_late}: {:?}", began.elapsed());
        looping.inspect(tokio::task::JoinHandle::abort);
    }
}

#[tokio::test(start_paused = true)]
async fn a_use_that_has_reached_its_limit_is_followed_by_others_at_once() {
    let engine = Memory::new();
    let node = builder(engine.clone()).keep_turn(SECOND).build().unwrap();
    let lock = node.lock("k").unwrap().hold_at_most(TURN);
    let (_other, theirs) = lock_of(engine.clone());
    let began = Instant::now();
    let hangs = lock.acquire().await.unwrap();
    drop(spawn(&theirs).await.unwrap());
    assert!(began.elapsed() <= TURN + ms(5), "{:?}", began.elapsed());
    assert!(!hangs.is_valid());
}

#[tokio::test(start_paused = true)]
async fn what_no_guard_has_used_is_not_kept() {
    let engine = Memory::new();
    let node = builder(engine.clone()).keep_turn(SECOND).build().unwrap();
    let lock = node.lock("k").unwrap();
    let waits = Kept::new(&lock, WaitMode::Wait);
    settle().await;
    drop(waits);
    let (_other, theirs) = lock_of(engine.clone());
    let began = Instant::now();
    drop(spawn(&theirs).await.unwrap());
    assert!(began.elapsed() < ms(5), "{:?}", began.elapsed());
}

/// Its lease would end while it is kept.
#[tokio::test(start_paused = true)]
async fn a_lease_that_is_not_renewed_is_not_kept() {
    let engine = Memory::new();
    let (_node, lock) = keeper(&engine);
    drop(lock.clone().without_renewal().acquire().await.unwrap());
    let (_other, theirs) = lock_of(engine.clone());
    let began = Instant::now();
    drop(spawn(&theirs).await.unwrap());
    assert!(began.elapsed() < ms(5), "{:?}", began.elapsed());
}

/// It lost its grant, since it did not poll. Nobody else is in the queue when it comes back.
#[tokio::test(start_paused = true)]
async fn an_absent_waiter_that_comes_back_gets_what_is_kept() {
    let engine = Memory::new();
    let node = builder(engine.clone()).keep_turn(5 * SECOND).build().unwrap();
    let lock = node.lock("k").unwrap();
    let user = lock.acquire().await.unwrap();
    let mut absent = Kept::new(&lock, WaitMode::Wait);
    let second = spawn(&lock);
    settle().await;
    drop(user);
    drop(second.await.unwrap());
    let before = version(&engine).await;
    assert!(absent.guard().is_valid());
    assert_eq!(version(&engine).await, before);
}

/// A node that is out of tokens gets more by a renewal, and keeps its turn meanwhile.
#[tokio::test(start_paused = true)]
async fn tokens_that_are_used_up_end_no_turn() {
    let engine = Memory::new();
    let slow = Faulty::delayed(engine.clone(), ms(5));
    let node = builder(slow).keep_turn(SECOND).build().unwrap();
    let lock = node.lock("k").unwrap();
    let mut last = lock.acquire().await.unwrap().token();
    for _ in 0..5_000 {
        let guard = lock.acquire().await.unwrap();
        assert_eq!(guard.acquired_via(), AcquiredVia::LocalHandoff);
        assert!(guard.token() > last);
        last = guard.token();
    }
}

/// While the node renews: the count of local handoffs and their window bound it, too.
#[tokio::test(start_paused = true)]
async fn so_many_acquisitions_are_kept_while_another_node_waits() {
    let engine = Memory::new();
    let node = builder(engine.clone()).keep_turn(SECOND).local_handoffs(3).build().unwrap();
    let lock = node.lock("k").unwrap();
    let (_other, theirs) = lock_of(engine.clone());
    let began = Instant::now();
    let guard = lock.acquire().await.unwrap();
    let waits = spawn(&theirs);
    settle().await;
    guard.release().await.unwrap();
    let mut turns = 1;
    loop {
        settle().await;
        let Ok(again) = lock.try_acquire().await else { break };
        drop(again);
        turns += 1;
        assert!(turns < 10, "it never ends");
    }
    drop(waits.await.unwrap());
    assert!(began.elapsed() < ms(50), "{:?}", began.elapsed());
}

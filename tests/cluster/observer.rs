//! What an observer is called for, and that it can do no harm.

use crate::support::{builder, ms, poll_once, settle};
use lockword::cluster::layers::Faulty;
use lockword::cluster::{
    AcquiredVia, DistributedLock, FencingToken, ForcedRelease, Hold, Key, LockError, LossReason,
    Memory, Node, Observer, ReleaseOutcome, RemoteOperation, TransportError,
};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};
use tokio::runtime::Builder;

/// Writes down each call.
#[derive(Clone, Default)]
struct Notes(Arc<Mutex<Vec<String>>>);

impl Notes {
    fn note(&self, text: String) {
        self.0.lock().unwrap().push(text);
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

impl Observer for Notes {
    fn acquire_started(&self, key: &Key) {
        self.note(format!("{key} started"));
    }

    fn acquired(&self, _: &Key, waited: Duration, via: AcquiredVia, _: FencingToken) {
        self.note(format!("acquired {} ms {via:?}", waited.as_millis()));
    }

    fn acquire_failed(&self, _: &Key, waited: Duration, error: &LockError) {
        let kind = if matches!(error, LockError::TimedOut { .. }) { "timeout" } else { "other" };
        self.note(format!("failed {} ms {kind}", waited.as_millis()));
    }

    fn acquire_cancelled(&self, _: &Key, waited: Duration) {
        self.note(format!("cancelled {} ms", waited.as_millis()));
    }

    fn renewed(&self, _: &Key, left: Duration) {
        self.note(format!("renewed {} ms", left.as_millis()));
    }

    fn broke(&self, _: &Key, _: &ForcedRelease, reason: &str) {
        self.note(format!("broke {reason:?}"));
    }

    fn lost(&self, _: &Key, why: &LossReason, _: Hold) {
        self.note(format!("lost {why:?}"));
    }

    fn released(&self, _: &Key, outcome: ReleaseOutcome, _: Hold) {
        self.note(format!("released {outcome:?}"));
    }

    fn request_finished(
        &self,
        _: &Key,
        operation: RemoteOperation,
        took: Duration,
        error: Option<&TransportError>,
    ) {
        self.note(format!("{operation:?} {} ms {}", took.as_millis(), error.is_none()));
    }
}

#[tokio::test(start_paused = true)]
async fn an_observer_is_called_for_every_event_in_order() {
    let notes = Notes::default();
    let faulty = Faulty::delayed(Memory::new(), ms(4));
    let node = builder(faulty, "one").observer(notes.clone()).build().unwrap();
    let lock = node.lock("k").unwrap();
    let guard = lock.acquire().await.unwrap();
    assert_eq!(notes.take(), ["k started", "CompareExchange 4 ms true", "acquired 4 ms Free"]);
    assert!(lock.acquire_timeout(ms(5)).await.is_err());
    assert_eq!(notes.take(), ["k started", "failed 5 ms timeout"]);
    let (second, ()) = tokio::join!(lock.acquire(), async move { drop(guard) });
    let noted = notes.take();
    assert_eq!(noted, ["k started", "released HandedOff", "acquired 0 ms LocalHandoff"]);
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(notes.take(), ["CompareExchange 4 ms true", "renewed 6561 ms"]);
    second.unwrap().release().await.unwrap();
    assert_eq!(notes.take(), ["CompareExchange 4 ms true", "released Held"]);
    let guard = lock.acquire().await.unwrap();
    notes.take();
    node.break_lock("k").await.unwrap().unwrap();
    guard.lost().await;
    let notes = notes.take();
    assert!(notes.contains(&"broke \"\"".to_owned()), "{notes:?}");
    assert!(notes.contains(&r#"lost Broken { by: "one", reason: "" }"#.to_owned()), "{notes:?}");
}

/// Holds are told with their token and their length, up to the moment at which the guard was given back; and a loss
/// that only the release shows is told before that.
#[tokio::test(start_paused = true)]
async fn every_guard_ends_with_its_token_and_the_time_for_which_it_was_held() {
    #[derive(Clone, Default)]
    struct Holds(Arc<Mutex<Vec<(String, Hold)>>>);
    impl Observer for Holds {
        fn lost(&self, _: &Key, why: &LossReason, hold: Hold) {
            self.0.lock().unwrap().push((format!("lost {why}"), hold));
        }

        fn released(&self, _: &Key, outcome: ReleaseOutcome, hold: Hold) {
            self.0.lock().unwrap().push((format!("{outcome:?}"), hold));
        }
    }
    let (holds, engine) = (Holds::default(), Memory::new());
    let faulty = Faulty::delayed(engine.clone(), ms(100));
    let node = builder(faulty, "one").observer(holds.clone()).build().unwrap();
    let operator = builder(engine, "operator").build().unwrap();
    let lock = node.lock("k").unwrap();
    let take = || std::mem::take(&mut *holds.0.lock().unwrap());
    let told = |what: &'static str, token: FencingToken, ms: u128| {
        move |(text, hold): &(String, Hold)| {
            assert_eq!((&**text, hold.token, hold.held_for.as_millis()), (what, token, ms));
        }
    };
    // The second user of one lease has a hold of its own.
    let first = lock.acquire().await.unwrap();
    let (second, ()) = tokio::join!(lock.acquire(), async {
        tokio::time::sleep(ms(30)).await;
        let token = first.token();
        drop(first);
        let ends = take();
        assert_eq!(ends.len(), 1);
        told("HandedOff", token, 30)(&ends[0]);
    });
    let second = second.unwrap();
    tokio::time::sleep(ms(20)).await;
    let token = second.token();
    // The response takes 100 ms, and does not count.
    second.release().await.unwrap();
    let ends = take();
    assert_eq!(ends.len(), 1);
    told("Held", token, 20)(&ends[0]);
    // One that was handed off to a waiter that gives up, or whose node is closed, has ended once.
    for closes in [false, true] {
        let guard = lock.acquire().await.unwrap();
        let token = guard.token();
        let mut waits = Box::pin(lock.acquire());
        assert!(poll_once(waits.as_mut()).is_pending());
        drop(guard);
        if closes {
            let other = builder(Memory::new(), "other").observer(holds.clone()).build().unwrap();
            let lock = other.lock("k").unwrap();
            let guard = lock.acquire().await.unwrap();
            let mut waits = Box::pin(lock.acquire());
            assert!(poll_once(waits.as_mut()).is_pending());
            let ends = take();
            told("HandedOff", token, 0)(&ends[0]);
            let token = guard.token();
            drop(guard);
            other.shutdown().await;
            let ends = take();
            assert_eq!(ends.len(), 1, "{ends:?}");
            told("HandedOff", token, 0)(&ends[0]);
        }
        drop(waits);
        tokio::time::sleep(ms(500)).await;
        if !closes {
            let ends = take();
            assert_eq!(ends.len(), 1, "{ends:?}");
            told("HandedOff", token, 0)(&ends[0]);
        }
    }
    assert!(take().is_empty());
    // One whose limit has passed, and that is given back while the next one uses the lease.
    let limited = lock.clone().hold_at_most(ms(100));
    let (late, next) = tokio::join!(limited.acquire(), async {
        tokio::task::yield_now().await;
        lock.acquire().await
    });
    let (late, next) = (late.unwrap(), next.unwrap());
    let (token, of_next) = (late.token(), next.token());
    tokio::time::sleep(ms(50)).await;
    drop(late);
    tokio::time::sleep(ms(500)).await;
    next.release().await.unwrap();
    let ends = take();
    assert_eq!(ends.len(), 3, "{ends:?}");
    told("lost the time for which it was to be held at most is over", token, 100)(&ends[0]);
    assert_eq!((&*ends[1].0, ends[1].1.token), ("Lost", token));
    told("Held", of_next, 550)(&ends[2]);
    let guard = lock.acquire().await.unwrap();
    let token = guard.token();
    operator.break_lock_of("k", node.id(), "why not").await.unwrap().unwrap();
    tokio::time::sleep(ms(10)).await;
    assert!(guard.release().await.is_err());
    let ends = take();
    assert_eq!(ends.len(), 2, "{ends:?}");
    told("lost operator broke it: why not", token, 10)(&ends[0]);
    told("Lost", token, 10)(&ends[1]);
}

/// So a gauge of those that wait comes back to zero.
#[tokio::test(start_paused = true)]
async fn an_acquisition_that_is_dropped_is_cancelled_once_and_only_if_it_has_begun() {
    let notes = Notes::default();
    let node = builder(Memory::new(), "a").observer(notes.clone()).build().unwrap();
    let lock = node.lock("k").unwrap();
    drop(lock.acquire());
    assert_eq!(notes.take(), [""; 0]);
    let guard = lock.acquire().await.unwrap();
    notes.take();
    let mut acquire = Box::pin(lock.acquire());
    assert!(poll_once(acquire.as_mut()).is_pending());
    tokio::time::sleep(ms(7)).await;
    drop(acquire);
    assert_eq!(notes.take(), ["k started", "cancelled 7 ms"]);
    drop(guard);
}

#[tokio::test(start_paused = true)]
async fn a_grant_that_is_never_taken_is_neither_acquired_nor_released() {
    let notes = Notes::default();
    let node = builder(Memory::new(), "a").observer(notes.clone()).build().unwrap();
    let lock = node.lock("k").unwrap();
    let mut acquire = Box::pin(lock.acquire());
    assert!(poll_once(acquire.as_mut()).is_pending());
    settle().await;
    drop(acquire);
    settle().await;
    let notes = notes.take();
    assert!(notes.iter().any(|note| note.starts_with("CompareExchange")), "{notes:?}");
    let is_of_a_guard =
        |note: &&String| note.starts_with("acquired") || note.starts_with("released");
    assert_eq!(notes.iter().find(is_of_a_guard), None);
}

/// Uses the lock and panics, in each call.
struct Misbehaving(Arc<OnceLock<DistributedLock>>);

impl Misbehaving {
    fn behave(&self) {
        if let Some(lock) = self.0.get() {
            let mut again = Box::pin(lock.acquire_timeout(ms(1)));
            drop(poll_once(again.as_mut()));
        }
        std::panic::resume_unwind(Box::new("an observer's bug"));
    }
}

impl Observer for Misbehaving {
    fn acquired(&self, _: &Key, _: Duration, _: AcquiredVia, _: FencingToken) {
        self.behave();
    }
    fn released(&self, _: &Key, _: ReleaseOutcome, _: Hold) {
        self.behave();
    }
    fn request_finished(
        &self,
        _: &Key,
        _: RemoteOperation,
        _: Duration,
        _: Option<&TransportError>,
    ) {
        self.behave();
    }
}

#[tokio::test(start_paused = true)]
async fn an_observer_may_panic_and_use_the_lock() {
    let slot = Arc::new(OnceLock::new());
    let node = builder(Memory::new(), "one").observer(Misbehaving(slot.clone())).build().unwrap();
    let lock = node.lock("k").unwrap();
    slot.set(node.lock("k").unwrap()).unwrap();
    for _ in 0..20 {
        let guard = lock.acquire().await.unwrap();
        let next = lock.acquire();
        let (next, ()) = tokio::join!(next, async move { drop(guard) });
        next.unwrap().release().await.unwrap();
        settle().await;
    }
}

/// A blocking call from the driver is refused, so that leases are renewed.
#[test]
fn an_observer_that_waits_for_a_lock_does_not_stop_the_driver() {
    #[derive(Clone, Default)]
    struct Waits {
        node: Arc<OnceLock<Node>>,
        refused: Arc<AtomicU64>,
    }
    impl Observer for Waits {
        fn renewed(&self, _: &Key, _: Duration) {
            if let Some(node) = self.node.get() {
                let result = node.blocking().lock("other").unwrap().acquire_timeout(ms(100));
                if matches!(result, Err(LockError::WouldDeadlock { .. })) {
                    self.refused.fetch_add(1, Relaxed);
                }
            }
        }
    }
    let runtime = Builder::new_multi_thread().worker_threads(3).enable_all().build().unwrap();
    let observer = Waits::default();
    let is_held = runtime.block_on(async {
        let builder = Node::builder(Memory::new()).lease(ms(300)).observer(observer.clone());
        let node = builder.build().unwrap();
        let guard = node.lock("k").unwrap().acquire().await.unwrap();
        observer.node.set(node).unwrap();
        let until = Instant::now() + ms(1500);
        while guard.is_valid() && Instant::now() < until {
            tokio::time::sleep(ms(10)).await;
        }
        guard.is_valid()
    });
    runtime.shutdown_background();
    assert!(is_held, "the driver waits for itself");
    assert!(observer.refused.load(Relaxed) > 0);
}

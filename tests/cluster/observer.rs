//! What an observer is called for, and that it can do no harm.

use crate::support::{builder, ms, poll_once, settle};
use lockword::cluster::layers::Faulty;
use lockword::cluster::{
    AcquiredVia, DistributedLock, FencingToken, Key, LockError, LossReason, Memory, Node, Observer,
    ReleaseOutcome, RemoteOperation, TransportError,
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

    fn renewed(&self, _: &Key) {
        self.note("renewed".to_owned());
    }

    fn lost(&self, _: &Key, why: &LossReason) {
        self.note(format!("lost {why:?}"));
    }

    fn released(&self, _: &Key, outcome: ReleaseOutcome) {
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
    assert_eq!(notes.take(), ["CompareExchange 4 ms true", "renewed"]);
    second.unwrap().release().await.unwrap();
    assert_eq!(notes.take(), ["CompareExchange 4 ms true", "released Held"]);
    let guard = lock.acquire().await.unwrap();
    notes.take();
    node.break_lock("k").await.unwrap().unwrap();
    guard.lost().await;
    assert!(notes.take().contains(&"lost TakenOver".to_owned()));
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
    fn released(&self, _: &Key, _: ReleaseOutcome) {
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
        fn renewed(&self, _: &Key) {
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

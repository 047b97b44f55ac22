//! What an observer is told, and that it can do no harm.

use crate::support::{builder, ms, settle};
use lockword::cluster::layers::Faulty;
use lockword::cluster::{
    AcquiredVia, DistributedLock, FencingToken, Key, LockError, LossReason, Memory, Observer,
    ReleaseOutcome, RemoteOperation, TransportError,
};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

/// Writes down what it is told.
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

    fn acquired(&self, _: &Key, waited: Duration, way: AcquiredVia, _: FencingToken) {
        self.note(format!("acquired {} ms {way:?}", waited.as_millis()));
    }

    fn acquire_failed(&self, _: &Key, waited: Duration, error: &LockError) {
        let kind = if matches!(error, LockError::TimedOut { .. }) { "late" } else { "other" };
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
async fn everything_is_told_in_order() {
    let notes = Notes::default();
    let way = Faulty::delayed(Memory::new(), ms(4));
    let node = builder(way, "one").observer(notes.clone()).build().unwrap();
    let lock = node.lock("k").unwrap();
    let guard = lock.acquire().await.unwrap();
    assert_eq!(notes.take(), ["k started", "CompareExchange 4 ms true", "acquired 4 ms Free"]);
    assert!(lock.acquire_timeout(ms(5)).await.is_err());
    assert_eq!(notes.take(), ["k started", "failed 5 ms late"]);
    let (second, ()) = tokio::join!(lock.acquire(), async move { drop(guard) });
    let told = notes.take();
    assert_eq!(told, ["k started", "released HandedOff", "acquired 0 ms LocalHandoff"]);
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

/// Panics at every call, and uses the lock that it is told of.
struct Bad(Arc<OnceLock<DistributedLock>>);

impl Bad {
    fn behave(&self) {
        if let Some(lock) = self.0.get() {
            let mut again = Box::pin(lock.acquire_timeout(ms(1)));
            drop(crate::support::poll_once(again.as_mut()));
        }
        std::panic::resume_unwind(Box::new("an observer's bug"));
    }
}

impl Observer for Bad {
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
    let node = builder(Memory::new(), "one").observer(Bad(slot.clone())).build().unwrap();
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

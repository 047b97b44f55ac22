//! An engine that shows an older state than before.

use crate::support::{builder, ms, node};
use lockword::cluster::layers::{Intercept, Interceptor};
use lockword::cluster::{
    Capabilities, Consistency, Key, LockError, LossReason, Memory, Node, Observer, Transport,
    Version, Versioned, async_trait,
};
use std::sync::{Arc, Mutex};

/// Records what it is told of the engine.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<[Version; 2]>>>);

impl Observer for Told {
    fn engine_went_back(&self, _: &Key, shown: Version, newest: Version) {
        self.0.lock().unwrap().push([shown, newest]);
    }
}

/// The same engine, which declares that it may lose writes.
struct Lossy;

#[async_trait]
impl Interceptor<Memory> for Lossy {
    fn capabilities(&self, inner: &Memory) -> Capabilities {
        let mut capabilities = inner.capabilities();
        capabilities.consistency = Consistency::Lossy;
        capabilities
    }
}

fn observed(engine: impl Transport) -> (Node, Told) {
    let told = Told::default();
    (builder(engine, "a").lease(ms(1_500)).observer(told.clone()).build().unwrap(), told)
}

async fn state(engine: &Memory) -> Versioned {
    engine.load(&Key::new("k").unwrap()).await.unwrap().expect("there is a register")
}

#[tokio::test(start_paused = true)]
async fn a_held_lock_is_lost_with_the_reason_and_then_refused_until_the_versions_exceed_all_seen() {
    let engine = Memory::new();
    let key = Key::new("k").unwrap();
    let (a, told) = observed(engine.clone());
    let lock = a.lock("k").unwrap();
    lock.acquire().await.unwrap().release().await.unwrap();
    let backup = state(&engine).await;
    let guard = lock.acquire().await.unwrap();
    let newest = state(&engine).await.version;
    engine.restore(&key, backup.clone());
    let why = guard.lost().await;
    assert_eq!(why, LossReason::EngineWentBack);
    assert!(!guard.is_valid());
    let shown = backup.version;
    assert_eq!(*told.0.lock().unwrap(), [[shown, newest]]);
    for _ in 0..2 {
        for error in [lock.acquire().await.unwrap_err(), lock.try_acquire().await.unwrap_err()] {
            let LockError::EngineWentBack { shown: now, newest: seen, .. } = &error else {
                panic!("{error:?}")
            };
            assert_eq!((*now, *seen), (shown, newest));
            let text = error.to_string();
            assert!(text.contains(&shown.to_string()) && text.contains("raise"), "{text}");
        }
    }
    assert_eq!(state(&engine).await, backup, "nothing is written");
    assert_eq!(told.0.lock().unwrap().len(), 1, "it is told once");
    // An operator sees to it that the versions are above the old ones: here by another node.
    let other = node(engine.clone(), "b");
    other.lock("k").unwrap().acquire().await.unwrap().release().await.unwrap();
    let again = lock.acquire().await.unwrap();
    assert!(again.token() > guard.token());
    again.release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn over_an_engine_that_declares_it_the_next_write_goes_on() {
    let engine = Memory::new();
    let key = Key::new("k").unwrap();
    let (a, told) = observed(Intercept::new(engine.clone(), Lossy));
    let lock = a.lock("k").unwrap();
    lock.acquire().await.unwrap().release().await.unwrap();
    let backup = state(&engine).await;
    let guard = lock.acquire().await.unwrap();
    engine.restore(&key, backup);
    assert_eq!(guard.lost().await, LossReason::EngineWentBack);
    let again = lock.acquire().await.unwrap();
    assert!(again.token() > guard.token());
    assert_eq!(told.0.lock().unwrap().len(), 1);
    again.release().await.unwrap();
}

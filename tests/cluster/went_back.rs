//! An engine that shows an older state than before.

use crate::support::{builder, ms, node, settle};
use lockword::cluster::layers::{Intercept, Interceptor};
use lockword::cluster::{
    Capabilities, Consistency, FencingToken, Key, LockError, LossReason, Memory, Node, Observer,
    Transport, Version, Versioned, async_trait,
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

/// Acquires and releases the lock `turns` times, each time by a new handle, and returns the last token.
/// The node then has nothing of the key but what it remembers.
async fn take_turns(node: &Node, turns: u32) -> FencingToken {
    let mut token = None;
    for _ in 0..turns {
        let guard = node.lock("k").unwrap().acquire().await.unwrap();
        assert!(token < Some(guard.token()));
        token = Some(guard.token());
        guard.release().await.unwrap();
        settle().await;
        assert_eq!(node.keys(), 0);
    }
    token.unwrap()
}

/// The versions in this error, which names an engine that went back.
fn went_back(error: &LockError) -> [Version; 2] {
    let LockError::EngineWentBack { shown, newest, .. } = error else { panic!("{error:?}") };
    [*shown, *newest]
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_goes_back_is_refused_by_a_node_that_has_kept_no_handle() {
    let engine = Memory::new();
    let key = Key::new("k").unwrap();
    let (a, told) = observed(engine.clone());
    let mut newest_token = take_turns(&a, 1).await;
    let backup = state(&engine).await;
    let mut expected = vec![];
    for _ in 0..2 {
        newest_token = newest_token.max(take_turns(&a, 3).await);
        let versions = [backup.version, state(&engine).await.version];
        expected.push(versions);
        engine.restore(&key, backup.clone());
        for _ in 0..3 {
            let error = a.lock("k").unwrap().acquire().await.unwrap_err();
            assert_eq!(went_back(&error), versions);
            let error = a.lock("k").unwrap().try_acquire().await.unwrap_err();
            assert_eq!(went_back(&error), versions);
            settle().await;
            assert_eq!(a.keys(), 0);
        }
        assert_eq!(state(&engine).await, backup, "nothing is written");
        assert_eq!(*told.0.lock().unwrap(), expected, "it is told once each time");
        // An operator resets it: here another node writes a version above the old ones.
        take_turns(&node(engine.clone(), "b"), 1).await;
        assert!(take_turns(&a, 1).await > newest_token);
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_has_kept_no_handle_goes_on_over_an_engine_that_declares_it() {
    let engine = Memory::new();
    let key = Key::new("k").unwrap();
    let (a, told) = observed(Intercept::new(engine.clone(), Lossy));
    take_turns(&a, 1).await;
    let backup = state(&engine).await;
    let newest_token = take_turns(&a, 3).await;
    let newest = state(&engine).await.version;
    engine.restore(&key, backup.clone());
    assert!(take_turns(&a, 3).await > newest_token);
    assert_eq!(*told.0.lock().unwrap(), [[backup.version, newest]], "it is told once");
}

/// What an operator's node has seen by looking at the key, or has written itself.
#[tokio::test(start_paused = true)]
async fn inspections_and_breaks_notice_an_engine_that_goes_back() {
    for breaks in [false, true] {
        let engine = Memory::new();
        let key = Key::new("k").unwrap();
        let (operator, told) = observed(engine.clone());
        let other = node(engine.clone(), "other");
        take_turns(&other, 1).await;
        let mut backup = state(&engine).await;
        let guard = other.lock("k").unwrap().acquire().await.unwrap();
        if breaks {
            backup = state(&engine).await;
            assert!(operator.break_lock("k").await.unwrap().is_some());
        } else {
            operator.inspect("k").await.unwrap();
        }
        let versions = [backup.version, state(&engine).await.version];
        drop(guard);
        settle().await;
        drop(other);
        settle().await;
        engine.restore(&key, backup.clone());
        for _ in 0..2 {
            assert_eq!(operator.inspect("k").await.unwrap().version, Some(backup.version));
        }
        assert_eq!(*told.0.lock().unwrap(), [versions], "breaks: {breaks}");
        let error = operator.lock("k").unwrap().try_acquire().await.unwrap_err();
        assert_eq!(went_back(&error), versions);
        assert_eq!(told.0.lock().unwrap().len(), 1);
    }
}

//! The least that the layer has to do, over the engine in memory. tests/conformance/sealed.rs has the rest.

use super::{SealError, SealKeys, Sealed, is_sealed};
use crate::Mutex;
use crate::cluster::layers::{Intercept, Interceptor};
use crate::cluster::{
    Capabilities, Consistency, Exchange, Key, Memory, NodeId, Transport, TransportError, Version,
    Versioned, Wake, Write, async_trait,
};
use futures_util::StreamExt;
use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

fn key(name: &str) -> Key {
    Key::new(name).unwrap()
}

fn keys(seal: u8) -> SealKeys {
    SealKeys::new(&[1; 32], &[seal; 32]).unwrap()
}

fn stored(name: &str) -> Key {
    keys(2).stored_name(&key(name))
}

fn sealed(engine: &Memory) -> Sealed<Memory> {
    Sealed::new(engine.clone(), keys(2))
}

fn write(value: &[u8]) -> Write {
    Write { value: value.into(), wake: Wake::Everybody, idle: false }
}

/// Writes, whatever the register holds.
async fn put(engine: &impl Transport, key: &Key, value: &[u8]) -> Version {
    let found = engine.load(key).await.unwrap().map(|found| found.version);
    match engine.compare_exchange(key, found, write(value)).await.unwrap() {
        Exchange::Swapped(version) => version,
        Exchange::Mismatch(found) => panic!("nobody else writes: {found:?}"),
    }
}

async fn raw(engine: &Memory, name: &str) -> Versioned {
    engine.load(&stored(name)).await.unwrap().expect("there is a register")
}

fn why(error: &TransportError) -> SealError {
    error.source().unwrap().downcast_ref::<SealError>().expect("it is of the layer").clone()
}

#[tokio::test]
async fn what_cannot_be_opened_is_an_error_in_each_operation_that_shows_it() {
    let engine = Memory::new();
    put(&engine, &stored("k"), b"{}").await;
    let client = sealed(&engine);
    let refused = SealError::NotSealed { stored: stored("k") };
    assert_eq!(why(&client.load(&key("k")).await.unwrap_err()), refused);
    let written = client.compare_exchange(&key("k"), None, write(b"mine")).await;
    assert_eq!(why(&written.unwrap_err()), refused);
    assert_eq!(&*raw(&engine, "k").await.value, b"{}");
}

#[tokio::test]
async fn another_name_key_is_refused_and_the_mark_shows_that_the_engine_is_in_use() {
    let engine = Memory::new();
    assert!(!is_sealed(&engine).await.unwrap());
    put(&sealed(&engine), &key("k"), b"1").await;
    assert!(is_sealed(&engine).await.unwrap());
    let other = Sealed::new(engine.clone(), SealKeys::new(&[9; 32], &[2; 32]).unwrap());
    let refused = why(&other.load(&key("k")).await.unwrap_err());
    assert!(matches!(refused, SealError::NameKey { .. }), "{refused:?}");
    assert_eq!(refused.stored(), None);
}

#[tokio::test]
async fn an_old_value_is_shown_by_no_answer_and_no_watch() {
    let engine = Memory::new();
    let client = sealed(&engine);
    put(&client, &key("k"), b"1").await;
    let old = raw(&engine, "k").await.value;
    put(&client, &key("k"), b"2").await;
    let mut watch = client.watch(&key("k"), NodeId::new(1)).await.unwrap();
    put(&engine, &stored("k"), &old).await;
    assert_eq!(watch.next().await.unwrap().unwrap(), None, "a look says why");
    for _ in 0..3 {
        let refused = why(&client.load(&key("k")).await.unwrap_err());
        assert!(matches!(refused, SealError::Replayed { .. }), "{refused:?}");
    }
}

/// What is as in memory, but may lose writes.
struct Lossy;

#[async_trait]
impl<T: Transport> Interceptor<T> for Lossy {
    fn capabilities(&self, inner: &T) -> Capabilities {
        Capabilities { consistency: Consistency::Lossy, ..inner.capabilities() }
    }
}

#[tokio::test]
async fn only_an_engine_that_can_lose_writes_is_believed() {
    let engine = Memory::new();
    let never = sealed(&engine).refuse_replays_for(Duration::ZERO);
    let lossy = || Sealed::new(Intercept::new(engine.clone(), Lossy), keys(2));
    let (soon, late) = (lossy().refuse_replays_for(Duration::ZERO), lossy());
    put(&never, &key("k"), b"0").await;
    put(&never, &key("k"), b"1").await;
    let old = raw(&engine, "k").await.value;
    put(&never, &key("k"), b"2").await;
    assert!(soon.load(&key("k")).await.is_ok() && late.load(&key("k")).await.is_ok());
    put(&engine, &stored("k"), &old).await;
    assert!(never.load(&key("k")).await.is_err());
    assert_eq!(&*soon.load(&key("k")).await.unwrap().unwrap().value, b"1");
    assert!(late.load(&key("k")).await.is_err() && late.load(&key("k")).await.is_err());
}

#[tokio::test]
async fn a_list_has_the_names_with_the_prefix_and_the_stored_ones_of_what_it_cannot_open() {
    let engine = Memory::new();
    let client = sealed(&engine);
    for name in ["jobs/a", "jobs/b", "x"] {
        put(&client, &key(name), b"v").await;
    }
    let foreign = Sealed::new(engine.clone(), keys(3));
    put(&foreign, &key("jobs/foreign"), b"v").await;
    assert_eq!(
        client.list("jobs/").await.unwrap(),
        [stored("jobs/foreign"), key("jobs/a"), key("jobs/b"),]
    );
    assert_eq!(client.list("jobs/a").await.unwrap(), [stored("jobs/foreign"), key("jobs/a")]);
    // The stored name shows why, and what is stored there to those who have the key.
    let refused = why(&client.load(&stored("jobs/foreign")).await.unwrap_err());
    assert_eq!(refused.stored(), Some(&stored("jobs/foreign")));
    assert_eq!(&*foreign.load(&stored("jobs/foreign")).await.unwrap().unwrap().value, b"v");
    // Nothing is written under it: the name under the seal would be lost.
    let found = raw(&engine, "x").await;
    let written = client.compare_exchange(&stored("x"), Some(found.version), write(b"w")).await;
    assert_eq!(why(&written.unwrap_err()), SealError::StoredName { stored: stored("x") });
    assert_eq!(raw(&engine, "x").await, found);
}

/// Loads and writes that fail, each time the next one of these.
#[derive(Default)]
struct Failing {
    loads: Mutex<Vec<(Key, TransportError)>>,
    writes: Mutex<Vec<TransportError>>,
}

#[async_trait]
impl<T: Transport> Interceptor<T> for Failing {
    async fn load(&self, inner: &T, key: &Key) -> Result<Option<Versioned>, TransportError> {
        let fails = self.loads.lock().pop_if(|(of, _)| of == key);
        fails.map_or(Ok(()), |(_, error)| Err(error))?;
        inner.load(key).await
    }

    async fn compare_exchange(
        &self,
        inner: &T,
        key: &Key,
        expected: Option<Version>,
        new: Write,
    ) -> Result<Exchange, TransportError> {
        let written = inner.compare_exchange(key, expected, new).await;
        let fails = self.writes.lock().pop();
        fails.map_or(written, Err)
    }
}

/// An engine's register that is none, under the name that a sealed one would have.
#[tokio::test]
async fn a_list_has_the_stored_name_of_what_is_no_register() {
    let (engine, failing) = (Memory::new(), Arc::new(Failing::default()));
    let client = Sealed::new(Intercept::new(engine, failing.clone()), keys(2));
    put(&client, &key("jobs/a"), b"v").await;
    put(&client, &key("jobs/b"), b"v").await;
    failing.loads.lock().push((stored("jobs/a"), TransportError::corrupt("a list of texts")));
    assert_eq!(client.list("jobs/").await.unwrap(), [stored("jobs/a"), key("jobs/b")]);
    // Another error says nothing about the name.
    failing.loads.lock().push((stored("jobs/a"), TransportError::unsupported("no")));
    assert!(client.list("jobs/").await.is_err());
}

/// As long as it is not known with which name key the engine is in use, nothing is read or written there.
#[tokio::test]
async fn a_failing_look_at_the_mark_fails_the_call_and_the_next_one_looks_again() {
    let (engine, failing) = (Memory::new(), Arc::new(Failing::default()));
    let client = Sealed::new(Intercept::new(engine.clone(), failing.clone()), keys(2));
    let mark = key(super::mark::NAME);
    failing.loads.lock().push((mark.clone(), TransportError::unavailable("no answer")));
    let written = client.compare_exchange(&key("k"), None, write(b"v")).await.unwrap_err();
    assert!(matches!(written, TransportError::Unavailable(_)), "{written:?}");
    assert!(engine.list("").await.unwrap().is_empty());
    // The caller's own write is not in doubt, if that of the mark is.
    failing.writes.lock().push(TransportError::indeterminate("no answer"));
    let written = client.compare_exchange(&key("k"), None, write(b"v")).await.unwrap_err();
    assert!(matches!(written, TransportError::Unavailable(_)), "{written:?}");
    assert_eq!(engine.list("").await.unwrap(), [mark]);
    put(&client, &key("k"), b"v").await;
    assert_eq!(engine.list("").await.unwrap().len(), 2);
}

/// A list of many registers would take the memory from those that the node uses.
#[tokio::test]
async fn a_list_is_not_remembered() {
    let engine = Memory::new();
    put(&sealed(&engine), &key("k"), b"v").await;
    let client = sealed(&engine);
    client.list("").await.unwrap();
    assert_eq!(client.shared.newest(&stored("k")), None);
    client.load(&key("k")).await.unwrap();
    assert!(client.shared.newest(&stored("k")).is_some());
}

#[tokio::test]
async fn the_seal_is_no_part_of_the_largest_value() {
    let client = sealed(&Memory::new());
    let largest = client.capabilities().largest_value;
    let longest = key(&"k".repeat(Key::MAX_LEN));
    let too_long = client.compare_exchange(&longest, None, write(&vec![b'x'; largest + 1])).await;
    assert!(matches!(too_long, Err(TransportError::Unsupported(_))), "{too_long:?}");
    put(&client, &longest, &vec![b'x'; largest]).await;
    let stored = client.inner().load(&keys(2).stored_name(&longest)).await.unwrap().unwrap();
    assert_eq!(stored.value.len(), client.inner().capabilities().largest_value);
}

use super::{Memory, RETENTION};
use crate::cluster::{
    Exchange, Key, NodeId, Transport, TransportError, Version, Versioned, Wake, Watch, Write,
};
use futures_util::{FutureExt, StreamExt};
use std::time::Duration;
use tokio::time::advance;

fn key(name: &str) -> Key {
    Key::new(name).unwrap()
}

fn write(value: &str, idle: bool) -> Write {
    Write { value: value.as_bytes().into(), wake: Wake::Everybody, idle }
}

async fn swap(engine: &Memory, name: &str, expected: Option<Version>, new: Write) -> Version {
    match engine.compare_exchange(&key(name), expected, new).await.unwrap() {
        Exchange::Swapped(version) => version,
        Exchange::Mismatch(found) => panic!("{name}: expected {expected:?}, found {found:?}"),
    }
}

async fn watch(engine: &Memory, name: &str) -> Watch {
    engine.watch(&key(name), NodeId::new(1)).await.unwrap()
}

fn item(watch: &mut Watch) -> Option<Option<Versioned>> {
    watch.next().now_or_never().map(|item| item.expect("the engine is there").unwrap())
}

#[tokio::test]
async fn versions_start_at_the_wall_clock_and_outlive_deletion() {
    let engine = Memory::new();
    let first = swap(&engine, "a", None, write("1", false)).await;
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_micros();
    let off = now.abs_diff(u128::from(first.get()));
    assert!(off < 600_000_000, "{first} is not within ten minutes of {now}");
    assert!(engine.delete(&key("a")));
    assert!(!engine.delete(&key("a")));
    assert_eq!(engine.load(&key("a")).await.unwrap(), None);
    let second = swap(&engine, "a", None, write("2", false)).await;
    assert!(second > first);
    // One counter for the process: engines do not repeat each other's versions.
    assert!(swap(&Memory::new(), "a", None, write("1", false)).await > second);
}

#[tokio::test]
async fn a_large_value_is_refused() {
    let engine = Memory::new();
    let largest = engine.capabilities().largest_value;
    swap(&engine, "a", None, write(&"x".repeat(largest), false)).await;
    let larger = write(&"x".repeat(largest + 1), false);
    let answer = engine.compare_exchange(&key("b"), None, larger).await;
    assert!(matches!(answer, Err(TransportError::Unsupported(_))));
}

#[tokio::test]
async fn a_watch_wakes_once_for_many_changes_and_delivers_the_latest() {
    let engine = Memory::new();
    let mut watch = watch(&engine, "a").await;
    assert_eq!(item(&mut watch), None);
    let first = swap(&engine, "a", None, write("1", false)).await;
    let second = swap(&engine, "a", Some(first), write("2", false)).await;
    let shown = item(&mut watch).unwrap().unwrap();
    assert_eq!((shown.version, &*shown.value), (second, b"2".as_slice()));
    assert_eq!(item(&mut watch), None);
    swap(&engine, "b", None, write("1", false)).await;
    assert_eq!(item(&mut watch), None, "the change of another key");
    engine.delete(&key("a"));
    assert_eq!(item(&mut watch), Some(None));
    drop(engine);
    assert!(watch.next().await.is_none(), "nothing will change any more");
}

#[tokio::test]
async fn dropped_watches_leave_nothing_behind() {
    let engine = Memory::new();
    let (a, b) = (watch(&engine, "a").await, watch(&engine, "a").await);
    assert_eq!(engine.engine.lock().slots.len(), 1);
    drop(a);
    swap(&engine, "a", None, write("1", false)).await;
    drop(b);
    assert!(engine.engine.lock().slots[&key("a")].bell.is_none());
    engine.delete(&key("a"));
    assert!(engine.engine.lock().slots.is_empty());
    drop(watch(&engine, "a").await);
    assert!(engine.engine.lock().slots.is_empty());
}

#[tokio::test(start_paused = true)]
async fn idle_registers_are_dropped_after_the_retention_and_not_before() {
    let engine = Memory::new();
    for name in 0..100 {
        swap(&engine, &format!("idle/{name}"), None, write("", true)).await;
    }
    let used = swap(&engine, "used", None, write("", true)).await;
    swap(&engine, "used", Some(used), write("", false)).await;
    let again = swap(&engine, "again", None, write("", true)).await;
    let watched = watch(&engine, "idle/0").await;

    advance(RETENTION - Duration::from_secs(1)).await;
    swap(&engine, "again", Some(again), write("", true)).await;
    assert_eq!(engine.engine.lock().slots.len(), 102);

    advance(Duration::from_secs(2)).await;
    let mut last = None;
    for _ in 0..60 {
        last = Some(swap(&engine, "last", last, write("", true)).await);
    }
    assert_eq!(engine.load(&key("idle/0")).await.unwrap(), None);
    drop(watched);
    let mut kept: Vec<_> = engine.engine.lock().slots.keys().map(Key::to_string).collect();
    kept.sort();
    assert_eq!(kept, ["again", "last", "used"]);
    assert_eq!(engine.engine.lock().idle.len(), 2, "a key is queued at most once");
}

//! The laws of a transport, what this one adds to them, and locks over it.

use super::{exists, files, key, open, place, put, write};
use crate::suite::fixture::soon;
use futures_util::{FutureExt, StreamExt};
use lockword::cluster::conformance::Suite;
use lockword::cluster::layers::{Faulty, Intercept, Interceptor, Plan};
use lockword::cluster::{Dir, Exchange, Key, Memory, NodeId, Transport, TransportError, Write};
use std::fs::{self, File, FileTimes};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_suite_passes_with_deletions_and_lost_requests_and_responses() {
    let (_folder, path) = place();
    let engine = Arc::new(open(&path).await);
    let plan = Plan { timeout: Duration::from_millis(5), ..Plan::default() };
    let make = move || {
        let (path, plan) = (path.clone(), plan.clone());
        async move { Faulty::new(open(&path).await, plan, 1) }
    };
    let lose = |client: Arc<Faulty<Dir>>, _| {
        match fastrand::u8(..3) {
            0 => client.faults().lose_next_request(),
            1 => client.faults().lose_next_response(),
            _ => client.faults().delay_next_write(),
        }
        std::future::ready(())
    };
    let delete = move |key| {
        let engine = engine.clone();
        async move {
            engine.delete(&key).await.expect("nothing is in the way");
        }
    };
    let suite = Suite::new(make).delete_hook(delete).indeterminate_hook(lose);
    let report = suite.run().await.unwrap_or_else(|broken| panic!("{broken}"));
    println!("{report}");
    assert!(report.not_checked.iter().all(|one| one.why.contains("clock_hook")), "{report}");
    assert!(report.indeterminate > 0, "{report}");
}

fn idle(value: &str) -> Write {
    Write { idle: true, ..write(value) }
}

/// Lets the file look as if it had been written that long ago.
fn age(path: &str, name: &str, age: Duration) {
    let file = File::options().write(true).open(format!("{path}/{name}")).expect("it is there");
    let times = FileTimes::new().set_modified(SystemTime::now() - age);
    file.set_times(times).expect("it is ours");
}

#[tokio::test]
async fn versions_grow_when_a_register_is_removed_or_lost_and_nothing_is_left_of_it() {
    let (_folder, path) = place();
    let dir = open(&path).await;
    let key = key("jobs/nightly");
    let first = put(&dir, &key, None, write("held")).await;
    let register = format!("{path}/jobs%2fnightly.register");
    let text = fs::read_to_string(&register).unwrap();
    assert!(text.starts_with(&format!("lockword/dir 1 {first} used 4 ")), "{text}");
    assert!(text.ends_with(" jobs/nightly\nheld"), "{text}");
    assert_eq!(files(&path), ["jobs%2fnightly.lock", "jobs%2fnightly.register"]);
    assert!(dir.delete(&key).await.unwrap());
    assert!(!dir.delete(&key).await.unwrap());
    assert_eq!(files(&path), [".floor.lock", ".floor.register"]);
    assert_eq!(dir.load(&key).await.unwrap(), None);
    let second = put(&dir, &key, None, write("held")).await;
    assert!(second > first, "{second} after {first}");
    // By hand: the time is left.
    fs::remove_file(&register).unwrap();
    let third = put(&dir, &key, None, write("held")).await;
    assert!(third > second, "{third} after {second}");
    // Lost with the power.
    let part = fs::read(&register).unwrap()[..40].to_vec();
    for lost in [&b""[..], &[0; 100], &part] {
        let before = dir.load(&key).await.unwrap().unwrap().version;
        fs::write(&register, lost).unwrap();
        assert_eq!(dir.load(&key).await.unwrap(), None);
        let next = put(&dir, &key, None, write("held")).await;
        assert!(next > before, "{next} after {before}");
    }
}

#[tokio::test]
async fn what_lockword_did_not_write_is_refused_and_left_alone() {
    let (_folder, path) = place();
    let dir = open(&path).await;
    put(&dir, &key("ours"), None, write("ours")).await;
    let ours = fs::read(format!("{path}/ours.register")).unwrap();
    let huge = vec![b'x'; 10_000_000];
    for (name, text, why) in [
        ("text", &b"mine"[..], "did not write it"),
        ("later", b"lockword/dir 2 and more", "another version of lockword"),
        ("huge", &huge, "larger than any"),
        // Two keys whose names have the same hash would look like this.
        ("other", &ours, "another key"),
    ] {
        let file = format!("{path}/{name}.register");
        fs::write(&file, text).unwrap();
        let loaded = dir.load(&key(name)).await.expect_err(name);
        let written = dir.compare_exchange(&key(name), None, write("x")).await.expect_err(name);
        for error in [loaded, written, dir.delete(&key(name)).await.expect_err(name)] {
            assert!(matches!(error, TransportError::Corrupt(_)), "{name}: {error}");
            let said = error.to_string();
            assert!(said.contains(why) && said.contains(&file), "{name}: {said}");
        }
        assert!(fs::read(&file).unwrap() == text, "{name}");
    }
    let listed = dir.list("").await.unwrap();
    assert_eq!(listed, [key("ours")], "they are no registers");
    let large = dir.compare_exchange(&key("large"), None, write(&"x".repeat(65_537))).await;
    assert!(matches!(large, Err(TransportError::Unsupported(_))), "{large:?}");
}

/// By any engine that can.
async fn lists<T: Transport>(engine: &T) {
    let long = |end: char| format!("a/{}{end}", "B".repeat(Key::MAX_LEN - 3));
    let names = ["a", "a.b", "a/b", "a/c", "A", "b", ".hidden", &long('x'), &long('y')];
    for name in names {
        let written = engine.compare_exchange(&key(name), None, write("x")).await;
        assert!(matches!(written, Ok(Exchange::Swapped(_))), "{name}: {written:?}");
    }
    let mut watch = None;
    if engine.capabilities().name == "memory" {
        // A watch alone is no register.
        watch = Some(engine.watch(&key("watched"), NodeId::new(1)).await.unwrap());
    }
    for prefix in ["", "a", "a/", "A", ".", "a/b", "c", "not a key", "%", &long('x')] {
        let mut expected: Vec<_> =
            names.iter().filter(|name| name.starts_with(prefix)).map(|name| key(name)).collect();
        expected.sort();
        assert_eq!(engine.list(prefix).await.unwrap(), expected, "{prefix:?}");
    }
    drop(watch);
}

struct PassOn;

impl<T: Transport> Interceptor<T> for PassOn {}

#[tokio::test]
async fn keys_are_listed_by_prefix_also_through_layers() {
    let (folder, path) = place();
    lists(&Memory::new()).await;
    let dir = Arc::new(open(&path).await);
    lists(&dir).await;
    // A key that is deleted, and a file that is none of a key.
    assert!(dir.delete(&key("a/b")).await.unwrap());
    fs::write(format!("{path}/README"), "mine").unwrap();
    assert_eq!(dir.list("a/b").await.unwrap(), []);
    let other = open(&folder.file("layers")).await;
    lists(&Intercept::new(Faulty::new(other, Plan::default(), 1), PassOn)).await;
}

#[tokio::test]
async fn only_registers_that_are_idle_for_an_hour_are_swept() {
    let (_folder, path) = place();
    let dir = open(&path).await;
    let hour = Duration::from_secs(3600);
    let long = "L".repeat(Key::MAX_LEN);
    let mut newest = None;
    for name in ["old", "young", "held", "locked", &*long] {
        let new = if name == "held" { write("x") } else { idle("x") };
        newest = Some(put(&dir, &key(name), None, new).await);
    }
    let register_of_long = files(&path).into_iter().find(|name| name.starts_with("%4c"));
    let register_of_long = register_of_long.unwrap().replace(".lock", ".register");
    for name in ["old.register", "held.register", "locked.register", &*register_of_long] {
        age(&path, name, hour);
    }
    age(&path, "young.register", hour - Duration::from_secs(60));
    // What is left of deletions: a lock alone.
    fs::write(format!("{path}/gone.lock"), "").unwrap();
    age(&path, "gone.lock", hour);
    fs::write(format!("{path}/fresh.lock"), "").unwrap();
    let locked = File::open(format!("{path}/locked.lock")).unwrap();
    locked.lock().unwrap();
    assert_eq!(dir.sweep().await.unwrap(), 2);
    let left = [
        "fresh.lock",
        "held.lock",
        "held.register",
        "locked.lock",
        "locked.register",
        "young.lock",
        "young.register",
    ];
    let of_keys: Vec<_> = files(&path).into_iter().filter(|name| !name.starts_with('.')).collect();
    assert_eq!(of_keys, left);
    // A child that another test has just forked may have it open: closing it would not unlock it.
    let _in_a_child = locked.try_clone().unwrap();
    locked.unlock().unwrap();
    assert_eq!(dir.sweep().await.unwrap(), 1);
    assert_eq!(dir.sweep().await.unwrap(), 0);
    let again = put(&dir, &key("old"), None, write("x")).await;
    assert!(Some(again) > newest, "{again} after {newest:?}");
}

/// A request that waits for another process blocks no thread of the runtime, names that process, and is
/// never made when its caller has gone.
#[tokio::test(flavor = "current_thread")]
async fn a_request_that_waits_blocks_nobody_and_can_be_dropped() {
    let (_folder, path) = place();
    let dir = Dir::builder(&path).timeout(Duration::from_millis(300)).connect().await.unwrap();
    let key = key("k");
    let first = put(&dir, &key, None, write("first")).await;
    let lock = File::open(format!("{path}/k.lock")).unwrap();
    lock.lock().unwrap();
    let mut ticks = 0;
    let began = Instant::now();
    let mut waiting = std::pin::pin!(dir.compare_exchange(&key, Some(first), write("late")));
    let refused = loop {
        tokio::select! {
            refused = &mut waiting => break refused,
            () = tokio::time::sleep(Duration::from_millis(1)) => ticks += 1,
        }
    };
    assert!(began.elapsed() >= Duration::from_millis(300), "{:?}", began.elapsed());
    let Err(TransportError::Unavailable(why)) = refused else { panic!("{refused:?}") };
    let (why, pid) = (why.to_string(), std::process::id());
    assert!(why.contains(&format!("process {pid} (")) && why.contains("running"), "{why}");
    assert!(ticks > 10, "the runtime stood still: {ticks}");
    // The other keys, and reading, go on.
    put(&dir, &super::key("other"), None, write("x")).await;
    assert_eq!(dir.load(&key).await.unwrap().unwrap().version, first);
    // Dropped while it waits, it is never made: not even when it could be.
    let dropped = dir.compare_exchange(&key, Some(first), write("dropped"));
    assert!(tokio::time::timeout(Duration::from_millis(20), dropped).await.is_err());
    lock.unlock().unwrap();
    let end = Instant::now() + Duration::from_millis(300);
    while Instant::now() < end {
        assert_eq!(dir.load(&key).await.unwrap().unwrap().version, first);
    }
    put(&dir, &key, Some(first), write("second")).await;
}

#[tokio::test]
async fn a_watch_shows_what_another_process_has_written_and_what_was_removed() {
    let (_folder, path) = place();
    let (dir, other) = (open(&path).await, open(&path).await);
    let key = key("k");
    let first = put(&other, &key, None, write("first")).await;
    let mut watch = dir.watch(&key, NodeId::new(1)).await.unwrap();
    put(&other, &super::key("other"), None, write("x")).await;
    assert!(watch.next().now_or_never().is_none(), "nothing has changed");
    let second = put(&other, &key, Some(first), write("second")).await;
    let seen = soon("the second", watch.next()).await.unwrap().unwrap().expect("it is there");
    assert_eq!((seen.version, &*seen.value), (second, b"second".as_slice()));
    fs::remove_file(format!("{path}/k.register")).unwrap();
    assert_eq!(soon("the removal", watch.next()).await.unwrap().unwrap(), None);
    // A register that makes no sense ends it.
    fs::write(format!("{path}/mine"), "mine").unwrap();
    fs::rename(format!("{path}/mine"), format!("{path}/k.register")).unwrap();
    let error = soon("the error", watch.next()).await.unwrap().expect_err("it makes no sense");
    assert!(matches!(error, TransportError::Corrupt(_)), "{error}");
    assert!(watch.next().await.is_none(), "an error is the last item");
    assert!(exists(&format!("{path}/k.register")));
}

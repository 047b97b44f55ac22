//! The layer that seals: it keeps the laws, nodes work over it, and what it refuses is never overwritten.

use futures_util::StreamExt;
use lockword::cluster::conformance::{History, Law, Suite};
use lockword::cluster::layers::{
    Counts, Faults, Faulty, Intercept, Interceptor, Plan, SealError, SealKeys, Sealed,
};
use lockword::cluster::{
    Capabilities, Consistency, Exchange, Key, LockError, LockStatus, LossReason, Memory, Node,
    NodeId, Notices, Transport, TransportError, Unreadable, Version, Versioned, Wake, Watch, Write,
    async_trait, connect,
};
use std::error::Error as _;
use std::future::ready;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn key(name: &str) -> Key {
    Key::new(name).unwrap()
}

/// With this sealing key.
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
async fn put<T: Transport>(engine: &T, key: &Key, value: &[u8]) -> Version {
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

/// Why the register is refused, in every operation that shows it.
async fn refusal(client: &impl Transport, name: &str) -> SealError {
    let loaded = client.load(&key(name)).await.unwrap_err();
    let write = client.compare_exchange(&key(name), None, write(b"mine")).await.unwrap_err();
    assert_eq!(why(&loaded), why(&write));
    assert_eq!(why(&loaded).stored(), Some(&stored(name)));
    let listed = client.list("").await.unwrap();
    assert!(listed.contains(&stored(name)) && !listed.contains(&key(name)), "{listed:?}");
    why(&loaded)
}

/// Over the engine, nobody gets the lock, and the register stays as it is.
async fn is_left_alone(engine: &Memory, client: Sealed<Memory>, name: &str) -> LockError {
    let before = raw(engine, name).await;
    let node = Node::builder(client).build().unwrap();
    let lock = node.lock(name).unwrap();
    let error = lock.acquire().await.unwrap_err();
    assert!(lock.try_acquire().await.is_err());
    assert!(node.inspect(name).await.is_err());
    assert!(node.break_lock(name).await.is_err());
    node.shutdown().await;
    assert_eq!(raw(engine, name).await, before);
    error
}

/// What is as in memory, but declared otherwise.
#[derive(Clone)]
struct Declared(Consistency, Notices);

#[async_trait]
impl<T: Transport> Interceptor<T> for Declared {
    fn capabilities(&self, inner: &T) -> Capabilities {
        let mut capabilities = inner.capabilities();
        (capabilities.consistency, capabilities.notices) = (self.0, self.1);
        capabilities
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_laws_are_kept() {
    for declared in [
        Declared(Consistency::Linearizable, Notices::Answers),
        Declared(Consistency::Linearizable, Notices::Hints),
        Declared(Consistency::Lossy, Notices::Answers),
    ] {
        let engine = Memory::new();
        let deleted = engine.clone();
        let make = move || {
            let engine = Intercept::new(engine.clone(), declared.clone());
            ready(Sealed::new(engine, keys(2)))
        };
        let suite = Suite::new(make).delete_hook(move |key| {
            deleted.delete(&keys(2).stored_name(&key));
            ready(())
        });
        let report = suite.run().await.unwrap();
        let missing: Vec<_> = report.not_checked.iter().map(|missing| missing.law).collect();
        assert_eq!(missing, [Law::Indeterminate, Law::Versions], "{report}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_laws_are_kept_with_faults_below_and_above() {
    let plan = || Plan {
        delay: ms(0)..=ms(20),
        // A list is many loads, each of which must succeed.
        refuse: 0.01,
        lose_request: 0.01,
        lose_response: 0.02,
        late: 0.1,
        lateness: ms(0)..=ms(300),
        timeout: ms(50),
        repeat: 0.2,
        reorder: 0.2,
        end: 0.2,
        ..Plan::default()
    };
    for seed in 0..10 {
        let (engine, seeds) = (Memory::new(), Mutex::new(fastrand::Rng::with_seed(seed)));
        let below = move || {
            let seed = seeds.lock().unwrap().u64(..);
            let faulty = Faulty::new(engine.clone(), plan(), seed);
            ready(Sealed::new(faulty, keys(2)))
        };
        let shared = Sealed::new(Memory::new(), keys(2));
        let above = move || ready(Faulty::new(shared.clone(), plan(), fastrand::u64(..)));
        let lost = |faults: Faults| {
            if fastrand::bool() {
                faults.lose_next_response()
            } else {
                faults.delay_next_write()
            }
            ready(())
        };
        let below =
            Suite::new(below).indeterminate_hook(move |client: Arc<Sealed<Faulty<Memory>>>, _| {
                lost(client.inner().faults())
            });
        kept(seed, below).await;
        let above =
            Suite::new(above).indeterminate_hook(move |client: Arc<Faulty<Sealed<Memory>>>, _| {
                lost(client.faults())
            });
        kept(seed, above).await;
    }
}

async fn kept<T: Transport>(seed: u64, suite: Suite<T>) {
    let suite = suite.seed(seed).settling(ms(340)).call_timeout(Duration::from_secs(100));
    let report = suite.rounds(3).run().await;
    let report = report.unwrap_or_else(|broken| panic!("seed {seed}: {broken}"));
    assert!(report.indeterminate > 100, "{report}");
}

/// The same over files, with their notices, in real time.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_laws_are_kept_over_a_directory_with_faults() {
    let folder = std::env::temp_dir().join(format!("lockword-sealed-laws-{}", std::process::id()));
    let address = format!("dir:{}", folder.display());
    let plan = Plan {
        delay: ms(0)..=ms(2),
        lose_request: 0.01,
        lose_response: 0.02,
        late: 0.1,
        lateness: ms(0)..=ms(30),
        timeout: ms(20),
        repeat: 0.2,
        end: 0.1,
        ..Plan::default()
    };
    let make = move || {
        let (address, plan) = (address.clone(), plan.clone());
        async move {
            let faulty = Faulty::new(connect(&address).await.unwrap(), plan, fastrand::u64(..));
            Sealed::new(faulty, keys(2))
        }
    };
    type Client = Sealed<Faulty<Arc<dyn Transport>>>;
    let suite = Suite::new(make).indeterminate_hook(|client: Arc<Client>, _| {
        client.inner().faults().lose_next_response();
        ready(())
    });
    let report = suite.settling(ms(60)).rounds(1).run().await;
    println!("{}", report.unwrap_or_else(|broken| panic!("{broken}")));
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn nodes_work_as_without_it_and_the_engine_sees_no_word_of_it() {
    let (engine, history) = (Memory::new(), History::new());
    let over = |number: usize, name: &str| {
        let recorded = Intercept::new(engine.clone(), history.recorder(number));
        let client = Sealed::new(recorded, keys(2));
        Node::builder(client).label(format!("secret-label-{name}")).build().unwrap()
    };
    let (a, b) = (over(0, "a"), over(1, "b"));
    let name = "secret-team/secret-job";
    let first = a.lock(name).unwrap().acquire().await.unwrap();
    let lock = b.lock(name).unwrap();
    let waiting = tokio::spawn(async move { lock.acquire().await });
    while a.inspect(name).await.unwrap().queue.is_empty() {
        tokio::task::yield_now().await;
    }
    // While there is a holder and a queue.
    let found = raw(&engine, name).await;
    let text = String::from_utf8_lossy(&found.value).into_owned();
    assert!(text.starts_with("lw-seal"));
    let listed = engine.list("").await.unwrap();
    let names: Vec<_> = listed.iter().map(Key::as_str).collect();
    let mark = engine.load(&key("@lockword-sealed")).await.unwrap().unwrap();
    let seen = format!("{text} {names:?} {}", String::from_utf8_lossy(&mark.value));
    for secret in ["secret", "label", "team", "job", "lease", "heartbeat"] {
        assert!(!seen.contains(secret), "{secret}: {seen}");
    }
    assert_eq!(names.len(), 2, "{names:?}");

    let token = first.token();
    first.release().await.unwrap();
    let second = waiting.await.unwrap().unwrap();
    assert!(second.token() > token);
    let broken = a.break_lock_of(name, b.id(), "it hangs").await;
    assert!(broken.unwrap().is_some());
    assert_eq!(a.inspect(name).await.unwrap().status, LockStatus::Free);
    assert_eq!(a.inspect(name).await.unwrap().last_break.unwrap().reason, "it hangs");
    second.lost().await;
    history.check().unwrap();
}

#[tokio::test]
async fn names_are_listed_by_any_prefix() {
    let engine = Memory::new();
    let client = sealed(&engine);
    let deep = "jobs/a/b/c/d/e/f/g/h/i/j";
    let names = ["jobs", "jobs/", "jobs/a", "jobs/a/1", "jobs/ab", "jobs2/a", "x", deep];
    for name in names {
        put(&client, &key(name), b"v").await;
    }
    for n in 0..40 {
        put(&client, &key(&format!("many/{n}")), b"v").await;
    }
    put(&engine, &key("jobs/plain"), b"v").await;
    let counts = Counts::default();
    let client = Sealed::new(Intercept::new(engine.clone(), counts.clone()), keys(2));
    for prefix in
        ["", "j", "jobs", "jobs/", "jobs/a", "jobs/a/", "x", "x/", "many/", "many/3", deep, "z"]
    {
        let mut expected: Vec<_> = names.into_iter().map(str::to_owned).collect();
        expected.extend((0..40).map(|n| format!("many/{n}")));
        expected.retain(|name| name.starts_with(prefix));
        expected.sort();
        let listed = client.list(prefix).await.unwrap();
        assert!(listed.iter().map(Key::as_str).eq(&expected), "{prefix}: {listed:?}");
    }
    counts.take();
    client.list("jobs/a/").await.unwrap();
    assert_eq!(counts.now().loads, 2, "those below the whole segments, and no other");
}

#[tokio::test]
async fn each_byte_is_under_the_seal() {
    let engine = Memory::new();
    let client = sealed(&engine);
    put(&client, &key("a/b"), b"the value").await;
    let good = raw(&engine, "a/b").await;
    for place in 0..good.value.len() {
        for bit in [0, 7] {
            let mut changed = good.value.to_vec();
            changed[place] ^= 1 << bit;
            // At the same version, and under a new one.
            engine.restore(&stored("a/b"), Versioned { value: changed.clone().into(), ..good });
            let bad = refusal(&client, "a/b").await;
            let fits = match place {
                0..7 => matches!(bad, SealError::NotSealed { .. }),
                7 => matches!(bad, SealError::Format { .. }),
                8..16 => matches!(bad, SealError::UnknownKey { .. }),
                _ => matches!(bad, SealError::Forged { .. }),
            };
            assert!(fits, "{place}: {bad:?}");
            assert_eq!(*raw(&engine, "a/b").await.value, changed, "{place}");
            // Also by one that remembers nothing.
            assert_eq!(refusal(&sealed(&engine), "a/b").await, bad, "{place}");
        }
    }
    for length in 0..good.value.len() {
        let value = good.value[..length].into();
        engine.restore(&stored("a/b"), Versioned { value, ..good });
        refusal(&client, "a/b").await;
    }
    let longer = [&*good.value, b"x"].concat();
    engine.restore(&stored("a/b"), Versioned { value: longer.into(), ..good });
    assert!(matches!(refusal(&client, "a/b").await, SealError::Forged { .. }));
    let error = is_left_alone(&engine, sealed(&engine), "a/b").await;
    let LockError::Transport { source: TransportError::Corrupt(_), .. } = &error else {
        panic!("{error:?}")
    };
    let said = error.to_string();
    assert!(said.contains("does not fit its seal") && said.contains("who else writes"), "{said}");
    engine.restore(&stored("a/b"), good);
    assert_eq!(&*client.load(&key("a/b")).await.unwrap().unwrap().value, b"the value");
}

#[tokio::test]
async fn a_value_of_another_register_is_refused() {
    let engine = Memory::new();
    let client = sealed(&engine);
    put(&client, &key("jobs/a"), b"a").await;
    put(&client, &key("jobs/b"), b"b").await;
    let other = raw(&engine, "jobs/a").await;
    put(&engine, &stored("jobs/b"), &other.value).await;
    for client in [client, sealed(&engine)] {
        assert!(matches!(refusal(&client, "jobs/b").await, SealError::Forged { .. }));
    }
    is_left_alone(&engine, sealed(&engine), "jobs/b").await;
}

#[tokio::test]
async fn an_old_value_is_refused_by_who_has_seen_a_newer_one() {
    let engine = Memory::new();
    let client = sealed(&engine);
    let k = key("k");
    let mut old = vec![];
    for value in [b"1", b"2", b"3"] {
        put(&client, &k, value).await;
        old.push(raw(&engine, "k").await.value);
    }
    let newest = raw(&engine, "k").await;
    for value in &old {
        // As a write after the newest.
        let version = put(&engine, &stored("k"), value).await;
        let bad = refusal(&client, "k").await;
        let SealError::Replayed { version: at, newest: Some(seen), .. } = bad else {
            panic!("{bad:?}")
        };
        assert_eq!((at, seen), (version, newest.version));
        is_left_alone(&engine, client.clone(), "k").await;
        // At the version of the newest.
        if *value != newest.value {
            engine.restore(&stored("k"), Versioned { value: value.clone(), ..newest });
            assert!(matches!(refusal(&client, "k").await, SealError::Replayed { .. }));
        }
    }
    // One that has seen only the first knows as little as the engine.
    let late = sealed(&engine);
    put(&engine, &stored("k"), &old[1]).await;
    assert!(late.load(&k).await.is_ok());
    // A new register is made again by who knows nothing: it may be, but not twice by the same write.
    engine.delete(&stored("k"));
    assert!(client.load(&k).await.unwrap().is_none());
    put(&sealed(&engine), &k, b"4").await;
    let first = raw(&engine, "k").await;
    assert_eq!(&*client.load(&k).await.unwrap().unwrap().value, b"4");
    put(&client, &k, b"5").await;
    put(&engine, &stored("k"), &first.value).await;
    assert!(matches!(refusal(&client, "k").await, SealError::Replayed { .. }));
    // Who writes without having seen the newer one puts it right.
    put(&sealed(&engine), &k, b"6").await;
    assert_eq!(&*client.load(&k).await.unwrap().unwrap().value, b"6");
}

#[tokio::test]
async fn a_value_from_the_future_is_refused_by_everybody() {
    let engine = Memory::new();
    put(&sealed(&engine), &key("k"), b"1").await;
    let first = raw(&engine, "k").await.version;
    put(&sealed(&engine), &key("k"), b"2").await;
    let second = raw(&engine, "k").await;
    engine.restore(&stored("k"), Versioned { version: first, ..second });
    let bad = refusal(&sealed(&engine), "k").await;
    assert!(matches!(bad, SealError::Replayed { newest: None, .. }), "{bad:?}");
}

#[tokio::test(start_paused = true)]
async fn a_lossy_engine_is_believed_after_some_time() {
    let engine = Memory::new();
    let lossy = Declared(Consistency::Lossy, Notices::Answers);
    let client = Sealed::new(Intercept::new(engine.clone(), lossy), keys(2));
    let client = client.refuse_replays_for(ms(150));
    put(&client, &key("k"), b"1").await;
    let old = raw(&engine, "k").await;
    put(&client, &key("k"), b"2").await;
    let mut watch = client.watch(&key("k"), NodeId::new(1)).await.unwrap();
    put(&engine, &stored("k"), &old.value).await;
    // The item says nothing, so that a node looks.
    assert_eq!(watch.next().await.unwrap().unwrap(), None);
    let began = std::time::Instant::now();
    let value = loop {
        match client.load(&key("k")).await {
            Ok(found) => break found.expect("it is there").value,
            Err(error) => assert!(matches!(why(&error), SealError::Replayed { .. }), "{error}"),
        }
    };
    assert!(began.elapsed() >= ms(150), "{:?}", began.elapsed());
    assert_eq!(&*value, b"1");

    // One that goes back visibly is for the node to notice, which goes on.
    let node = Node::builder(client).build().unwrap();
    let lock = node.lock("went-back").unwrap();
    lock.acquire().await.unwrap().release().await.unwrap();
    let backup = raw(&engine, "went-back").await;
    let guard = lock.acquire().await.unwrap();
    engine.restore(&stored("went-back"), backup);
    assert_eq!(guard.lost().await, LossReason::EngineWentBack);
    lock.acquire().await.unwrap().release().await.unwrap();
}

/// Holders renew and operators look: each of them gets the error, and none of them uses it up.
#[tokio::test(start_paused = true)]
async fn a_replay_on_a_lossy_engine_is_refused_whoever_gets_the_error() {
    let engine = Memory::new();
    let lossy = Declared(Consistency::Lossy, Notices::Answers);
    let client = Sealed::new(Intercept::new(engine.clone(), lossy), keys(2));
    let client = client.refuse_replays_for(Duration::from_secs(3600));
    let node = Node::builder(client.clone()).lease(ms(900)).build().unwrap();
    let other = Node::builder(client).build().unwrap();
    let lock = node.lock("k").unwrap();
    lock.acquire().await.unwrap().release().await.unwrap();
    let free = raw(&engine, "k").await;
    let guard = lock.acquire().await.unwrap();
    put(&engine, &stored("k"), &free.value).await;
    let replayed = raw(&engine, "k").await;
    for _ in 0..3 {
        assert!(other.inspect("k").await.is_err());
        assert!(other.lock("k").unwrap().try_acquire().await.is_err());
    }
    // Its renewals are refused, too, until its lease ends.
    let reason = guard.lost().await;
    let LossReason::Expired { last: Some(last) } = &reason else { panic!("{reason:?}") };
    assert!(last.contains("an old value has come again"), "{last}");
    assert!(lock.acquire().await.is_err() && other.inspect("k").await.is_err());
    node.shutdown().await;
    other.shutdown().await;
    assert_eq!(raw(&engine, "k").await, replayed);
}

#[tokio::test]
async fn a_lock_is_taken_when_its_replay_was_refused_for_long_enough() {
    let engine = Memory::new();
    let lossy = Declared(Consistency::Lossy, Notices::Answers);
    let client = Sealed::new(Intercept::new(engine.clone(), lossy), keys(2));
    let node = Node::builder(client.refuse_replays_for(ms(100))).build().unwrap();
    let lock = node.lock("k").unwrap();
    lock.acquire().await.unwrap().release().await.unwrap();
    let free = raw(&engine, "k").await;
    lock.acquire().await.unwrap().release().await.unwrap();
    put(&engine, &stored("k"), &free.value).await;
    let began = std::time::Instant::now();
    assert!(node.inspect("k").await.is_err());
    let guard = loop {
        match lock.acquire().await {
            Ok(guard) => break guard,
            Err(LockError::Transport { source, .. }) => {
                assert!(matches!(why(&source), SealError::Replayed { .. }), "{source}");
            }
            Err(error) => panic!("{error}"),
        }
        tokio::task::yield_now().await;
    };
    assert!(began.elapsed() >= ms(100), "{:?}", began.elapsed());
    guard.release().await.unwrap();
}

/// The new primary lacks the last writes, and others have written there before this node looks.
#[tokio::test]
async fn a_failover_that_lost_writes_is_refused_for_a_time() {
    let engine = Memory::new();
    let lossy = Declared(Consistency::Lossy, Notices::Answers);
    let over = |time| {
        let client = Sealed::new(Intercept::new(engine.clone(), lossy.clone()), keys(2));
        client.refuse_replays_for(time)
    };
    let hour = Duration::from_secs(3600);
    let [late, soon, witness] = [over(hour), over(Duration::ZERO), over(hour)];
    put(&late, &key("k"), b"1").await;
    let replicated = raw(&engine, "k").await;
    put(&late, &key("k"), b"lost").await;
    for client in [&soon, &witness] {
        assert_eq!(&*client.load(&key("k")).await.unwrap().unwrap().value, b"lost");
    }
    engine.restore(&stored("k"), replicated);
    // One that looks meanwhile sees that the engine went back, and has nothing to refuse.
    assert_eq!(&*witness.load(&key("k")).await.unwrap().unwrap().value, b"1");
    put(&over(hour), &key("k"), b"2").await;
    for _ in 0..3 {
        let refused = why(&late.load(&key("k")).await.unwrap_err());
        assert!(matches!(refused, SealError::Replayed { .. }), "{refused:?}");
    }
    for client in [soon, witness] {
        assert_eq!(&*client.load(&key("k")).await.unwrap().unwrap().value, b"2");
    }
}

/// An operator breaks a lock after a restore, by a node that has seen newer values.
#[tokio::test]
async fn who_writes_after_a_restore_believes_what_it_has_written() {
    let engine = Memory::new();
    let client = sealed(&engine);
    put(&client, &key("k"), b"0").await;
    put(&client, &key("k"), b"1").await;
    let backup = raw(&engine, "k").await;
    put(&client, &key("k"), b"2").await;
    engine.restore(&stored("k"), backup);
    let version = put(&client, &key("k"), b"3").await;
    let found = client.load(&key("k")).await.unwrap().unwrap();
    assert_eq!((found.version, &*found.value), (version, &b"3"[..]));
    assert_eq!(client.list("").await.unwrap(), [key("k")]);
}

/// What the page advises where nobody holds the lock.
#[tokio::test]
async fn a_new_node_that_takes_the_lock_ends_a_replay_and_one_that_breaks_it_does_not() {
    let engine = Memory::new();
    let node = Node::builder(sealed(&engine)).build().unwrap();
    let lock = node.lock("k").unwrap();
    lock.acquire().await.unwrap().release().await.unwrap();
    let free = raw(&engine, "k").await;
    lock.acquire().await.unwrap().release().await.unwrap();
    put(&engine, &stored("k"), &free.value).await;
    let replayed = raw(&engine, "k").await;
    let said = lock.acquire().await.unwrap_err().to_string();
    assert!(said.contains("lockword run --no-wait KEY -- true"), "{said}");

    let operator = Node::builder(sealed(&engine)).build().unwrap();
    assert_eq!(operator.break_lock("k").await.unwrap(), None);
    assert_eq!(raw(&engine, "k").await, replayed);
    assert!(lock.acquire().await.is_err());

    let started_now = Node::builder(sealed(&engine)).build().unwrap();
    started_now.lock("k").unwrap().try_acquire().await.unwrap().release().await.unwrap();
    lock.acquire().await.unwrap().release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_goes_back_is_noticed_by_the_node() {
    let engine = Memory::new();
    let node = Node::builder(sealed(&engine)).build().unwrap();
    let lock = node.lock("k").unwrap();
    lock.acquire().await.unwrap().release().await.unwrap();
    let backup = raw(&engine, "k").await;
    let guard = lock.acquire().await.unwrap();
    engine.restore(&stored("k"), backup);
    assert_eq!(guard.lost().await, LossReason::EngineWentBack);
    let error = lock.acquire().await.unwrap_err();
    assert!(matches!(error, LockError::EngineWentBack { .. }), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_holder_whose_register_is_forged_loses_the_lock_and_overwrites_nothing() {
    let engine = Memory::new();
    let node = Node::builder(sealed(&engine)).lease(ms(900)).build().unwrap();
    let guard = node.lock("k").unwrap().acquire().await.unwrap();
    put(&engine, &stored("k"), b"forged").await;
    let forged = raw(&engine, "k").await;
    let reason = guard.lost().await;
    let LossReason::Expired { last: Some(last) } = &reason else { panic!("{reason:?}") };
    assert!(last.contains("is not sealed"), "{last}");
    node.shutdown().await;
    assert_eq!(raw(&engine, "k").await, forged);
}

#[tokio::test]
async fn a_wrong_key_is_an_error_and_overwrites_nothing() {
    let engine = Memory::new();
    let node = Node::builder(sealed(&engine)).build().unwrap();
    let guard = node.lock("k").unwrap().acquire().await.unwrap();
    let wrong = Sealed::new(engine.clone(), keys(3));
    let bad = refusal(&wrong, "k").await;
    assert!(matches!(bad, SealError::UnknownKey { .. }), "{bad:?}");
    let said = is_left_alone(&engine, wrong, "k").await.to_string();
    assert!(said.contains("which this node does not have"), "{said}");
    assert!(said.contains("the same file of keys"), "{said}");

    // With another name key it would find the lock free.
    let other = Sealed::new(engine.clone(), SealKeys::new(&[9; 32], &[2; 32]).unwrap());
    let before = engine.list("").await.unwrap();
    let bad = why(&other.load(&key("k")).await.unwrap_err());
    assert!(matches!(bad, SealError::NameKey { .. }), "{bad:?}");
    let other = Node::builder(other).build().unwrap();
    let error = other.lock("k").unwrap().acquire().await.unwrap_err();
    assert!(error.to_string().contains("hash names with the key"), "{error}");
    assert_eq!(engine.list("").await.unwrap(), before);

    // Without a key.
    let plain = Node::builder(engine.clone()).build().unwrap();
    let error = plain.lock(stored("k")).unwrap().acquire().await.unwrap_err();
    let LockError::Unreadable { source: Unreadable::Sealed, .. } = &error else {
        panic!("{error:?}")
    };
    assert!(error.to_string().contains("the value is sealed"), "{error}");
    assert!(guard.is_valid());
    guard.release().await.unwrap();

    // And a register that is not sealed, under a sealed name.
    engine.delete(&stored("k"));
    let guard = plain.lock(stored("k")).unwrap().acquire().await.unwrap();
    assert!(matches!(refusal(&sealed(&engine), "k").await, SealError::NotSealed { .. }));
    is_left_alone(&engine, sealed(&engine), "k").await;
    guard.release().await.unwrap();
}

#[tokio::test]
async fn the_mark_of_something_else_is_an_error() {
    let engine = Memory::new();
    put(&engine, &key("@lockword-sealed"), b"{}").await;
    let client = sealed(&engine);
    for _ in 0..2 {
        assert_eq!(why(&client.load(&key("k")).await.unwrap_err()), SealError::Mark);
    }
    // It is looked at until it is good, and then no more.
    engine.delete(&key("@lockword-sealed"));
    let counts = Counts::default();
    let client = Sealed::new(Intercept::new(engine.clone(), counts.clone()), keys(2));
    assert!(client.load(&key("k")).await.is_ok());
    let now = counts.take();
    assert_eq!((now.loads, now.compare_exchanges), (2, 1));
    client.load(&key("k")).await.unwrap();
    assert_eq!(counts.now().loads, 1);
}

#[tokio::test]
async fn the_sealing_key_is_changed_in_three_steps() {
    let engine = Memory::new();
    let (old, new) = (keys(2), keys(3));
    let step_one = old.also_opening(&[3; 32]).unwrap();
    let step_two = new.also_opening(&[2; 32]).unwrap();
    let (a, b) = (key("a"), key("b"));
    let over = |keys: &SealKeys| Sealed::new(engine.clone(), keys.clone());
    put(&over(&old), &a, b"1").await;
    put(&over(&old), &b, b"1").await;
    // While some nodes have taken a step and others have not, all of them read all.
    for [one, other] in [[&old, &step_one], [&step_one, &step_two], [&step_two, &new]] {
        put(&over(one), &a, b"by one").await;
        assert_eq!(&*over(other).load(&a).await.unwrap().unwrap().value, b"by one");
        put(&over(other), &a, b"by the other").await;
        assert_eq!(&*over(one).load(&a).await.unwrap().unwrap().value, b"by the other");
    }
    // What nobody has written since is refused when the old key is gone.
    assert!(over(&step_two).load(&b).await.is_ok());
    let before = raw(&engine, "b").await;
    let refused = why(&over(&new).load(&b).await.unwrap_err());
    assert!(matches!(refused, SealError::UnknownKey { .. }), "{refused:?}");
    is_left_alone(&engine, over(&new), "b").await;
    assert_eq!(raw(&engine, "b").await, before);
    put(&over(&step_two), &b, b"2").await;
    assert!(over(&new).load(&b).await.is_ok());
}

#[tokio::test]
async fn what_a_watch_shows_is_opened_if_it_is_an_answer() {
    let engine = Memory::new();
    let client = sealed(&engine);
    let mut watch: Watch = client.watch(&key("k"), NodeId::new(1)).await.unwrap();
    let version = put(&client, &key("k"), b"1").await;
    let shown = watch.next().await.unwrap().unwrap().unwrap();
    assert_eq!((shown.version, &*shown.value), (version, &b"1"[..]));
    put(&engine, &stored("k"), b"forged").await;
    assert_eq!(watch.next().await.unwrap().unwrap(), None, "a look says why");

    let hints = Declared(Consistency::Linearizable, Notices::Hints);
    let client = Sealed::new(Intercept::new(engine.clone(), hints), keys(2));
    let mut watch = client.watch(&key("h"), NodeId::new(1)).await.unwrap();
    put(&client, &key("h"), b"1").await;
    assert_eq!(watch.next().await.unwrap().unwrap(), None);
}

#[tokio::test]
async fn the_largest_value_with_the_longest_name_fits_into_the_engine() {
    struct Small;
    #[async_trait]
    impl<T: Transport> Interceptor<T> for Small {
        async fn compare_exchange(
            &self,
            inner: &T,
            key: &Key,
            expected: Option<Version>,
            new: Write,
        ) -> Result<Exchange, TransportError> {
            assert!(new.value.len() <= 2_000, "{}", new.value.len());
            inner.compare_exchange(key, expected, new).await
        }
        fn capabilities(&self, inner: &T) -> Capabilities {
            let mut capabilities = inner.capabilities();
            capabilities.largest_value = 2_000;
            capabilities
        }
    }
    let client = Sealed::new(Intercept::new(Memory::new(), Small), keys(2));
    let largest = client.capabilities().largest_value;
    assert_eq!(largest, 2_000 - 265);
    let longest = key(&"k".repeat(Key::MAX_LEN));
    put(&client, &longest, &vec![b'x'; largest]).await;
    assert_eq!(client.load(&longest).await.unwrap().unwrap().value.len(), largest);
    let refused = client.compare_exchange(&longest, None, write(&vec![b'x'; largest + 1])).await;
    assert!(matches!(refused, Err(TransportError::Unsupported(_))), "{refused:?}");
}

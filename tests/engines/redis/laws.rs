//! The laws of a transport, what this one adds to them, and locks over it.

use super::{
    NodeId, RedisServer, RedisSetup, TransportError, Write, client, idle, key, put, until, write,
};
use crate::support::relay::{Loss, Relay};
use futures_util::{FutureExt, StreamExt};
use lockword::cluster::conformance::{Suite, run};
use lockword::cluster::{Exchange, Key, Node, Transport, Wake};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_suite_passes() {
    let Some(server) = RedisServer::start() else { return };
    let address = server.address();
    let report = run(move || {
        let address = address.clone();
        async move { client(&address).await }
    });
    println!("{}", report.await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_suite_passes_with_deletions_lost_answers_and_a_clock_that_steps_back() {
    let setup = RedisSetup { clock: true, ..RedisSetup::default() };
    let Some(server) = RedisServer::start_with(setup).map(Arc::new) else { return };
    let relay = Arc::new(Relay::new(server.port));
    let address = server.address_at(relay.port());
    let suite = Suite::new(move || {
        let address = address.clone();
        async move { client(&address).await }
    });
    let indeterminate_hook = relay.clone();
    let (deleting, stepping, wrong_by) = (server.clone(), server.clone(), AtomicI64::new(0));
    let report = suite
        .delete_hook(move |key| {
            let _: () = deleting.say(&["DEL", &format!("{{lockword}}:{key}")]);
            std::future::ready(())
        })
        .clock_hook(move || {
            stepping.set_clock(wrong_by.fetch_sub(60, SeqCst) - 60);
            std::future::ready(())
        })
        .indeterminate_hook(move |_, _| {
            indeterminate_hook.lose_with(Loss::Response, "EVAL");
            std::future::ready(())
        })
        .run()
        .await
        .unwrap();
    println!("{report}");
    assert!(report.not_checked.is_empty(), "{report}");
    assert!(report.indeterminate > 0, "{report}");
}

#[tokio::test]
async fn an_idle_register_expires_and_its_versions_are_not_reused() {
    let Some(server) = RedisServer::start_with(RedisSetup { clock: true, ..RedisSetup::default() })
    else {
        return;
    };
    let redis = client(&server.address()).await;
    let (key, name) = (key("jobs"), "{lockword}:jobs");
    let held = put(&redis, &key, None, write("held")).await;
    assert_eq!(server.say::<i64>(&["TTL", name]), -1);
    let free = put(&redis, &key, Some(held), idle("free")).await;
    let ttl: i64 = server.say(&["TTL", name]);
    assert!((3590..=3600).contains(&ttl), "{ttl}");
    // Held again, it must not go.
    let held = put(&redis, &key, Some(free), write("held")).await;
    assert_eq!(server.say::<i64>(&["TTL", name]), -1);
    let free = put(&redis, &key, Some(held), idle("free")).await;

    let _: () = server.say(&["PEXPIRE", name, "1"]);
    until("it has expired", || server.say::<i64>(&["EXISTS", name]) == 0).await;
    server.set_clock(-7200);
    let seconds: (i64, i64) = server.say(&["TIME"]);
    assert!(free.get() > u64::try_from(seconds.0).unwrap() * 1_000_000, "the clock is back");
    assert_eq!(redis.load(&key).await.unwrap(), None);
    let again = put(&redis, &key, None, write("held")).await;
    assert!(again > free, "{again} after {free}");
    // Deleted by hand while it is held.
    assert!(redis.delete(&key).await.unwrap());
    assert!(!redis.delete(&key).await.unwrap());
    let anew = put(&redis, &key, None, write("held")).await;
    assert!(anew > again, "{anew} after {again}");
    // Somebody took the floor away: what is there is enough for itself.
    let _: () = server.say(&["DEL", "{lockword}floor"]);
    let then = put(&redis, &key, Some(anew), write("held")).await;
    assert!(then > anew, "{then} after {anew}");
    // Taken away again: a deletion brings it back.
    let _: () = server.say(&["DEL", "{lockword}floor"]);
    assert!(redis.delete(&key).await.unwrap());
    let last = put(&redis, &key, None, write("held")).await;
    assert!(last > then, "{last} after {then}");
}

#[tokio::test]
async fn a_version_is_the_time_in_microseconds_to_the_last_digit() {
    let Some(server) = RedisServer::start() else { return };
    let redis = client(&server.address()).await;
    let micros = || {
        let (seconds, rest): (u64, u64) = server.say(&["TIME"]);
        seconds * 1_000_000 + rest
    };
    let mut before = micros();
    let mut last = None;
    for turn in 0..20 {
        let version = put(&redis, &key("exact"), last, write(&turn.to_string())).await;
        let after = micros();
        assert!((before..=after).contains(&version.get()), "{version}: {before} to {after}");
        (last, before) = (Some(version), after);
    }
}

#[tokio::test]
async fn a_server_that_lost_the_script_gets_it_again() {
    let Some(server) = RedisServer::start() else { return };
    let redis = client(&server.address()).await;
    let mut last = None;
    for turn in 0..3 {
        let _: () = server.say(&["SCRIPT", "FLUSH"]);
        last = Some(put(&redis, &key("forgotten"), last, write(&turn.to_string())).await);
    }
    // And only then: by its digest otherwise.
    let before = (server.calls("eval"), server.calls("evalsha"));
    for _ in 0..10 {
        last = Some(put(&redis, &key("forgotten"), last, write("x")).await);
    }
    assert_eq!((server.calls("eval"), server.calls("evalsha")), (before.0, before.1 + 10));
}

/// What a stranger has put at the name of a register, or of the floor. `NAME` is that name.
const FOREIGN: [&[&str]; 12] = [
    &["SET", "NAME", "mine"],
    &["RPUSH", "NAME", "mine"],
    &["HSET", "NAME", "field", "mine"],
    &["HSET", "NAME", "value", "mine"],
    &["HSET", "NAME", "version", "7"],
    &["HSET", "NAME", "version", "many", "value", "mine"],
    &["HSET", "NAME", "version", "", "value", "mine"],
    &["HSET", "NAME", "version", "07", "value", "mine"],
    &["HSET", "NAME", "version", "0x7", "value", "mine"],
    &["HSET", "NAME", "version", "nan", "value", "mine"],
    &["HSET", "NAME", "version", "7.5", "value", "mine"],
    &["HSET", "NAME", "version", "4503599627370496", "value", "mine"],
];

#[tokio::test]
async fn foreign_values_are_corrupt_at_once_and_left_alone() {
    let Some(server) = RedisServer::start() else { return };
    let redis = client(&server.address()).await;
    let node = Node::builder(client(&server.address()).await).build().unwrap();
    let is_corrupt = |error: &TransportError| matches!(error, TransportError::Corrupt(_));
    for (number, words) in FOREIGN.iter().enumerate() {
        let key = key(&number.to_string());
        let name = format!("{{lockword}}:{key}");
        let words: Vec<_> =
            words.iter().map(|word| if *word == "NAME" { &*name } else { *word }).collect();
        let _: ::redis::Value = server.say(&words);
        let before: Vec<u8> = server.say(&["DUMP", &name]);
        let error = redis.load(&key).await.unwrap_err();
        assert!(is_corrupt(&error) && error.to_string().contains(&name), "{words:?}: {error}");
        let seven = lockword::cluster::Version::new(7).unwrap();
        for expected in [None, Some(seven)] {
            let error = redis.compare_exchange(&key, expected, write("x")).await.unwrap_err();
            assert!(is_corrupt(&error) && error.to_string().contains(&name), "{words:?}: {error}");
        }
        let error = redis.delete(&key).await.unwrap_err();
        assert!(is_corrupt(&error) && error.to_string().contains(&name), "{words:?}: {error}");
        let lock = node.lock(key.as_str()).unwrap();
        let began = Instant::now();
        let error = lock.acquire().await.unwrap_err();
        assert!(error.to_string().contains(&name), "{words:?}: {error}");
        assert!(began.elapsed() < Duration::from_secs(1), "{words:?}: {:?}", began.elapsed());
        assert_eq!(server.say::<Vec<u8>>(&["DUMP", &name]), before, "{words:?}");
    }
    // What is there costs no other key its lock.
    node.lock("other").unwrap().acquire().await.unwrap().release().await.unwrap();
}

#[tokio::test]
async fn a_foreign_floor_is_corrupt_at_once_and_left_alone() {
    let Some(server) = RedisServer::start() else { return };
    let redis = client(&server.address()).await;
    let node = Node::builder(client(&server.address()).await).build().unwrap();
    let floor = "{lockword}floor";
    let held = put(&redis, &key("held"), None, write("mine")).await;
    let mut foreign: Vec<Vec<&str>> =
        vec![vec!["RPUSH", floor, "mine"], vec!["HSET", floor, "a", "b"]];
    for text in ["mine", "", "07", "0x7", "nan", "-inf", "7.5", " 7", "-7", "4503599627370496"] {
        foreign.push(vec!["SET", floor, text]);
    }
    for words in foreign {
        let _: i64 = server.say(&["DEL", floor]);
        let _: ::redis::Value = server.say(&words);
        let before: Vec<u8> = server.say(&["DUMP", floor]);
        for (name, expected) in [("new", None), ("held", Some(held))] {
            let error = redis.compare_exchange(&key(name), expected, write("x")).await.unwrap_err();
            assert!(matches!(error, TransportError::Corrupt(_)), "{words:?}: {error}");
            assert!(error.to_string().contains(floor), "{words:?}: {error}");
        }
        let error = redis.delete(&key("held")).await.unwrap_err();
        assert!(matches!(error, TransportError::Corrupt(_)), "{words:?}: {error}");
        let began = Instant::now();
        let error = node.lock("new").unwrap().acquire().await.unwrap_err();
        assert!(error.to_string().contains(floor), "{words:?}: {error}");
        assert!(began.elapsed() < Duration::from_secs(1), "{words:?}: {:?}", began.elapsed());
        assert_eq!(server.say::<Vec<u8>>(&["DUMP", floor]), before, "{words:?}");
        assert_eq!(redis.load(&key("held")).await.unwrap().unwrap().version, held);
        assert_eq!(redis.load(&key("new")).await.unwrap(), None);
    }
    let _: i64 = server.say(&["DEL", floor]);
    put(&redis, &key("held"), Some(held), write("again")).await;
}

/// Of what no node would read, the server returns no more than shows that.
#[tokio::test]
async fn of_what_is_too_large_the_server_sends_the_beginning() {
    let Some(server) = RedisServer::start() else { return };
    let redis = client(&server.address()).await;
    let long = "7".repeat(3_000_000);
    let _: () = server.say(&["HSET", "{lockword}:huge", "version", "7", "value", &long]);
    let refused = redis.compare_exchange(&key("huge"), None, write("x")).await.unwrap();
    let Exchange::Mismatch(Some(seen)) = refused else { panic!("{refused:?}") };
    let loaded = redis.load(&key("huge")).await.unwrap().unwrap();
    assert_eq!((seen.value.len(), loaded.value.len()), ((1 << 20) + 1, (1 << 20) + 1));
    let _: () = server.say(&["HSET", "{lockword}:huge", "version", &long, "value", "x"]);
    // So it is with the largest version, when a client connects.
    let _: () = server.say(&["SET", "{lockword}floor", &long]);
    let sent = || {
        let info: String = server.say(&["INFO", "stats"]);
        let line = info.lines().find_map(|line| line.strip_prefix("total_net_output_bytes:"));
        line.unwrap().parse::<usize>().unwrap()
    };
    let before = sent();
    let again = client(&server.address()).await;
    let error = again.load(&key("huge")).await.unwrap_err();
    assert!(matches!(error, TransportError::Corrupt(_)), "{error}");
    for name in ["huge", "new"] {
        let error = again.compare_exchange(&key(name), None, write("x")).await.unwrap_err();
        assert!(matches!(error, TransportError::Corrupt(_)), "{error}");
    }
    let sent = sent() - before;
    assert!(sent < 100_000, "{sent} bytes were sent");
    let _: () = server.say(&["DEL", "{lockword}floor"]);
    let large = redis.compare_exchange(&key("large"), None, write(&"x".repeat(65_537))).await;
    assert!(matches!(large, Err(TransportError::Unsupported(_))), "{large:?}");
}

#[tokio::test]
async fn only_the_named_node_is_woken_and_an_unneeded_message_is_not_sent() {
    let Some(server) = RedisServer::start() else { return };
    let redis = client(&server.address()).await;
    let key = key("named");
    let mut one = redis.watch(&key, NodeId::new(1)).await.unwrap();
    let mut two = redis.watch(&key, NodeId::new(2)).await.unwrap();
    let first = put(&redis, &key, None, Write { wake: Wake::Node(NodeId::new(1)), ..write("a") });
    let first = first.await;
    assert_eq!(one.next().await.unwrap().unwrap(), None, "it carries no register");
    let messages = server.calls("publish");
    let second = Write { wake: Wake::Nobody, ..write("b") };
    let second = put(&redis, &key, Some(first), second).await;
    assert_eq!(server.calls("publish"), messages);
    assert!(two.next().now_or_never().is_none(), "the messages of one connection come in order");
    put(&redis, &key, Some(second), write("c")).await;
    for watch in [&mut one, &mut two] {
        assert_eq!(watch.next().await.unwrap().unwrap(), None);
        assert!(watch.next().now_or_never().is_none());
    }
    drop((one, two));
    let channels = || server.say::<Vec<String>>(&["PUBSUB", "CHANNELS"]).len();
    until("nothing is subscribed", || channels() == 0).await;
    // The end of a subscription and the next one of the same channel do not get in each other's way.
    for turn in 0..100 {
        let mut watch = redis.watch(&key, NodeId::new(1)).await.unwrap();
        let last = redis.load(&key).await.unwrap().unwrap().version;
        put(&redis, &key, Some(last), write(&turn.to_string())).await;
        assert_eq!(watch.next().await.unwrap().unwrap(), None);
    }
}

/// The subscribers of a channel.
fn subscribers(server: &RedisServer, channel: &str) -> i64 {
    server.say::<(String, i64)>(&["PUBSUB", "NUMSUB", channel]).1
}

#[tokio::test]
async fn a_node_is_woken_over_a_channel_of_its_own_and_for_its_key_only() {
    let Some(server) = RedisServer::start() else { return };
    let (redis, other) = (client(&server.address()).await, client(&server.address()).await);
    let (one, two) = (NodeId::new(1), NodeId::new(2));
    let keys: Vec<Key> = (0..100).map(|number| key(&format!("k/{number}"))).collect();
    let mut watches = vec![];
    for key in &keys {
        watches.push(redis.watch(key, one).await.unwrap());
    }
    let mut of_other = other.watch(&keys[7], two).await.unwrap();
    let mut channels: Vec<String> = server.say(&["PUBSUB", "CHANNELS"]);
    channels.sort();
    let its = ["{lockword}:#0000000000000001", "{lockword}:#0000000000000002", "{lockword}:#all"];
    assert_eq!(channels, its, "however many keys there are");
    assert_eq!(its.map(|channel| subscribers(&server, channel)), [1, 1, 2]);

    let to_one = Write { wake: Wake::Node(one), ..write("a") };
    let version = put(&redis, &keys[7], None, to_one).await;
    assert_eq!(watches[7].next().await.unwrap().unwrap(), None);
    // The messages of one connection come in order: this is behind what would wake the others.
    let version = put(&redis, &keys[7], Some(version), write("to all")).await;
    for watch in [&mut watches[7], &mut of_other] {
        assert_eq!(watch.next().await.unwrap().unwrap(), None);
        assert!(watch.next().now_or_never().is_none());
    }
    for (number, watch) in watches.iter_mut().enumerate() {
        assert!(watch.next().now_or_never().is_none(), "woken for another key: {number}");
    }
    // The last watch of a key but not of its node: the node goes on hearing of the others.
    drop(watches.remove(7));
    put(&redis, &keys[7], Some(version), write("b")).await;
    put(&redis, &keys[8], None, write("c")).await;
    assert_eq!(watches[7].next().await.unwrap().unwrap(), None, "of key 8");
    assert_eq!(subscribers(&server, its[0]), 1);
    drop(watches);
    until("it is not subscribed", || subscribers(&server, its[0]) == 0).await;
    assert_eq!(its.map(|channel| subscribers(&server, channel)), [0, 1, 1]);
}

#[tokio::test]
async fn a_flood_of_messages_about_other_keys_wakes_nobody() {
    let Some(server) = RedisServer::start() else { return };
    let redis = client(&server.address()).await;
    let mut watch = redis.watch(&key("k"), NodeId::new(1)).await.unwrap();
    for channel in ["{lockword}:#0000000000000001", "{lockword}:#all"] {
        for message in ["", "*", "0000000000000001", "k", "00000000000000000"] {
            assert_eq!(server.say::<i64>(&["PUBLISH", channel, message]), 1);
        }
    }
    // Behind all of them.
    put(&redis, &key("k"), None, write("x")).await;
    assert_eq!(watch.next().await.unwrap().unwrap(), None);
    assert!(watch.next().now_or_never().is_none());
}

#[tokio::test]
async fn a_database_and_a_prefix_separate_registers() {
    let Some(server) = RedisServer::start() else { return };
    let one = client(&server.address()).await;
    let two = client(&(server.address() + "/3?prefix=a/b")).await;
    put(&one, &key("jobs"), None, write("one")).await;
    put(&two, &key("jobs"), None, write("two")).await;
    let keys = |db: &str| {
        let info: String = server.say(&["INFO", "keyspace"]);
        info.lines().any(|line| line.starts_with(&format!("{db}:keys=2,")))
    };
    assert!(keys("db0") && keys("db3"));
    let value: String = server.say(&["HGET", "{lockword}:jobs", "value"]);
    assert_eq!(value, "one");
    assert_eq!(&*two.load(&key("jobs")).await.unwrap().unwrap().value, b"two");
}

#[tokio::test]
async fn a_change_in_one_database_wakes_no_watch_of_another() {
    let Some(server) = RedisServer::start() else { return };
    let (zero, three) = (client(&server.address()).await, client(&(server.address() + "/3")).await);
    let mine = Node::builder(client(&server.address()).await).build().unwrap();
    let held = mine.lock("jobs").unwrap().acquire().await.unwrap();
    // It watches, and so do they.
    let mut watch = zero.watch(&key("jobs"), NodeId::new(1)).await.unwrap();
    let mut other = three.watch(&key("jobs"), NodeId::new(1)).await.unwrap();
    put(&three, &key("jobs"), None, write("of theirs")).await;
    assert!(other.next().await.unwrap().is_ok(), "it is notified there");
    // A notification would have arrived before the answer.
    let found = zero.load(&key("jobs")).await.unwrap().unwrap();
    assert!(watch.next().now_or_never().is_none(), "notified of another database's register");
    let new = Write { value: found.value, ..write("") };
    put(&zero, &key("jobs"), Some(found.version), new).await;
    assert!(watch.next().await.unwrap().is_ok());
    assert!(held.is_valid());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_tasks_on_three_nodes_exclude_each_other() {
    const TURNS: u64 = 20;
    let Some(server) = RedisServer::start() else { return };
    let mut nodes = vec![];
    for number in 0..3 {
        let redis = client(&server.address()).await;
        nodes.push(Node::builder(redis).label(format!("node {number}")).build().unwrap());
    }
    // The sum, read and written in two steps; and the last token.
    let counter = Arc::new((AtomicU64::new(0), AtomicU64::new(0)));
    let mut tasks = JoinSet::new();
    for task in 0..10 {
        let (lock, counter) = (nodes[task % 3].lock("counter").unwrap(), counter.clone());
        tasks.spawn(async move {
            for _ in 0..TURNS {
                let guard = lock.acquire().await.unwrap();
                let before = counter.0.load(Relaxed);
                tokio::task::yield_now().await;
                let token = guard.token().get();
                assert!(counter.1.swap(token, Relaxed) < token);
                counter.0.store(before + 1, Relaxed);
                guard.release().await.unwrap();
            }
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.unwrap();
    }
    assert_eq!(counter.0.load(Relaxed), 10 * TURNS);
}

#[tokio::test]
async fn a_unix_socket_is_as_good_as_a_port() {
    let setup = RedisSetup { password: true, ..RedisSetup::default() };
    let Some(server) = RedisServer::start_with(setup) else { return };
    let socket = server.file("admin");
    let redis = client(&format!("redis+unix://{socket}?user=lock&pass=open%25sesame")).await;
    let first = put(&redis, &key("k"), None, write("x")).await;
    let mut watch = redis.watch(&key("k"), NodeId::new(1)).await.unwrap();
    put(&redis, &key("k"), Some(first), write("y")).await;
    assert_eq!(watch.next().await.unwrap().unwrap(), None);
    assert_eq!(server.connections(), 0);
    // By a builder; and a socket that is not there.
    let builder = lockword::cluster::engines::redis::Redis::builder(&*socket);
    builder.user("lock").password(crate::support::redis::PASSWORD).connect().await.unwrap();
    let url = format!("redis+unix://{socket}.gone");
    let error = lockword::cluster::connect(&url).await.err().unwrap().to_string();
    assert!(error.contains(&format!("unix:{socket}.gone cannot be reached")), "{error}");
}

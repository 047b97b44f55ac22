//! Floors of prefixes, and users that have rights on one prefix only.

use super::*;
use crate::support::redis_cluster::RedisCluster;
use lockword::cluster::{LockError, Node};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use tokio::task::JoinSet;

const LARGEST: u64 = (1 << 52) - 1;
/// Above the clock.
const HIGH: u64 = 1 << 51;

/// Makes the user `jobs`, with the rights on `jobs/` that are printed, and those to delete and to list; no floor.
fn make_user(server: &RedisServer) {
    let rights = grants::rights("jobs", "jobs/");
    let words = grants::acl(&rights);
    let words: Vec<&str> =
        words.iter().map(String::as_str).chain([">x", "+del", "+scan"]).collect();
    let _: () = server.say(&words);
}

fn address_of(server: &RedisServer) -> String {
    format!("redis://jobs:x@127.0.0.1:{}", server.port)
}

/// What the server answers to the user `jobs`.
fn say_as_jobs(server: &RedisServer, words: &[&str]) -> ::redis::RedisResult<::redis::Value> {
    let client = ::redis::Client::open(address_of(server)).unwrap();
    let mut client = client.get_connection().unwrap();
    ::redis::cmd(words[0]).arg(&words[1..]).query(&mut client)
}

fn number(server: &RedisServer, name: &str) -> Option<u64> {
    server.say(&["GET", name])
}

/// A server with the user `jobs` and the floor of `jobs/`; and the client of somebody who may do all.
async fn with_user() -> Option<(RedisServer, Redis)> {
    let setup = RedisSetup { password: true, ..RedisSetup::default() };
    let server = RedisServer::start_with(setup)?;
    make_user(&server);
    let all = client(&server.address()).await;
    all.create_floor("jobs/").await.unwrap();
    Some((server, all))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_with_rights_on_a_prefix_has_locks_there_and_nowhere_else() {
    let Some((server, all)) = with_user().await else { return };
    put(&all, &key("other/k"), None, write("v")).await;
    let shared = number(&server, "{lockword}floor");
    let lease = Duration::from_millis(1200);
    let node = async || Node::builder(client(&address_of(&server)).await).lease(lease).build();
    let (a, b) = (node().await.unwrap(), node().await.unwrap());
    let held = a.lock("jobs/nightly").unwrap().acquire().await.unwrap();
    let waiting = b.lock("jobs/nightly").unwrap();
    let waiting = tokio::spawn(async move { waiting.acquire().await.unwrap() });
    sleep(lease * 2).await;
    assert!(held.is_valid(), "it is renewed");
    let token = held.token();
    held.release().await.unwrap();
    let next = waiting.await.unwrap();
    assert!(next.token() > token);
    next.release().await.unwrap();

    // Expired, deleted by a client and by hand, and created again: above what was there, although the clock is
    // behind.
    let redis = client(&address_of(&server)).await;
    let _: () = server.say(&["SET", "{lockword}floor:jobs/", &HIGH.to_string()]);
    let mut last = Version::new(HIGH).unwrap();
    for name in ["jobs/k", "jobs/deep/er/k"] {
        for round in 0..3 {
            let new = put(&redis, &key(name), None, idle("v")).await;
            assert!(new > last, "{name}: {new} after {last}");
            last = new;
            let register = format!("{{lockword}}:{name}");
            match round {
                0 => {
                    assert!(server.say::<i64>(&["TTL", &register]) > 0, "{name}");
                    let _: i64 = server.say(&["PEXPIRE", &register, "1"]);
                    until("it expires", || server.say::<i64>(&["EXISTS", &register]) == 0).await;
                }
                1 => assert!(redis.delete(&key(name)).await.unwrap()),
                _ => assert!(all.delete(&key(name)).await.unwrap(), "also by another user"),
            }
        }
    }
    assert_eq!(number(&server, "{lockword}floor"), shared, "the shared floor is not used");
    assert_eq!(redis.list("jobs/").await.unwrap(), [key("jobs/nightly")], "and no floor");

    // Elsewhere.
    for name in ["other/new", "jobs", "jobsx", "other/k"] {
        let name = key(name);
        let results = [
            redis.load(&name).await.map(drop),
            redis.compare_exchange(&name, None, write("v")).await.map(drop),
            redis.delete(&name).await.map(drop),
        ];
        for result in results {
            assert!(matches!(result, Err(TransportError::Denied(_))), "{name}: {result:?}");
        }
    }
    let error = a.lock("other/new").unwrap().acquire().await.unwrap_err();
    assert!(matches!(error, LockError::Transport { .. }), "{error:?}");
    let error = redis.create_floor("jobs/deep/").await.unwrap_err();
    assert!(matches!(error, TransportError::Denied(_)), "{error}");
}

/// Without a floor of its own it would need the one of all; and without a look at the floors it would use another
/// one than the others.
#[tokio::test]
async fn a_user_who_may_not_use_the_floor_is_told_what_is_missing() {
    let setup = RedisSetup { password: true, ..RedisSetup::default() };
    let Some(server) = RedisServer::start_with(setup) else { return };
    make_user(&server);
    let redis = client(&address_of(&server)).await;
    let denied = async |floor: &str| {
        for call in [
            redis.compare_exchange(&key("jobs/new"), None, write("v")).await.map(drop),
            redis.delete(&key("jobs/k")).await.map(drop),
        ] {
            let error = call.unwrap_err();
            assert!(matches!(error, TransportError::Denied(_)), "{error}");
            let said = error.to_string();
            assert!(said.contains(floor) && said.contains("create_floor()"), "{said}");
        }
    };
    denied("{lockword}floor,").await;
    let all = client(&server.address()).await;
    all.create_floor("jobs/").await.unwrap();
    put(&redis, &key("jobs/k"), None, write("v")).await;
    let _: () = server.say(&["ACL", "SETUSER", "jobs", "resetkeys", "~{lockword}:*"]);
    denied("{lockword}floors,").await;
    let _: () = server.say(&["ACL", "SETUSER", "jobs", "%R~{lockword}floor*"]);
    let error = redis.compare_exchange(&key("jobs/new"), None, write("v")).await.unwrap_err();
    assert!(matches!(error, TransportError::Denied(_)), "it may only read it: {error}");
    let _: () = server.say(&[
        "ACL",
        "SETUSER",
        "jobs",
        "resetkeys",
        "~{lockword}:*",
        "%R~{lockword}floors",
    ]);
    denied("{lockword}floor:jobs/,").await;
}

/// The worst that a user can do harms its own prefix only.
#[tokio::test]
async fn a_user_can_end_its_own_versions_only() {
    let Some((server, all)) = with_user().await else { return };
    put(&all, &key("other/k"), None, write("v")).await;
    let largest = LARGEST.to_string();
    for words in [
        &["SET", "{lockword}floor", &largest][..],
        &["SET", "{lockword}floor:other/", &largest],
        &["DEL", "{lockword}floor"],
        &["DEL", "{lockword}floors"],
        &["HSET", "{lockword}floors", "jobs/deep/", "1"],
        &["HSET", "{lockword}:other/k", "version", &largest],
        &["EVAL", "return redis.call('SET', '{lockword}floor', ARGV[1])", "0", &largest],
        &["EVAL", "return redis.call('DEL', '{lockword}floors')", "0"],
    ] {
        let error = say_as_jobs(&server, words).unwrap_err();
        let said = error.to_string();
        assert!(
            said.contains("no permissions") || said.contains("can't access"),
            "{words:?}: {said}"
        );
    }
    // What it has a right to: it ends its own versions, and deletes its floor, so that another one might be used.
    for floor in [
        &["SET", "{lockword}floor:jobs/", &largest][..],
        &["DEL", "{lockword}floor:jobs/"],
        &["SET", "{lockword}floor:jobs/", &largest, "PX", "1"],
        &["SET", "{lockword}:", "of no register"],
    ] {
        say_as_jobs(&server, floor).unwrap();
        let nearly = (LARGEST - 1).to_string();
        let bad = ["HSET", "{lockword}:jobs/bad", "version", &nearly, "value", "v"];
        say_as_jobs(&server, &bad).unwrap();
        // Somebody who has all rights touches what it has written.
        let nearly = Version::new(LARGEST - 1).unwrap();
        let _ = all.compare_exchange(&key("jobs/bad"), Some(nearly), write("v")).await;
        let _ = all.compare_exchange(&key("jobs/new"), None, write("v")).await;
        assert!(all.delete(&key("jobs/bad")).await.unwrap(), "{floor:?}");
        let shared = number(&server, "{lockword}floor").unwrap();
        assert!(shared < HIGH, "{floor:?}: {shared}");
        // Also one that begins now.
        let late = client(&server.address()).await;
        for name in ["other/new", "new"] {
            let new = put(&late, &key(name), None, write("v")).await;
            assert!(new.get() < HIGH, "{floor:?}: {new}");
            assert!(late.delete(&key(name)).await.unwrap());
        }
        assert!(late.list("other/").await.unwrap().contains(&key("other/k")));
    }
    let _: () = server.say(&["SET", "{lockword}floor:jobs/", &largest]);
    let error = all.compare_exchange(&key("jobs/k"), None, write("v")).await.unwrap_err();
    assert!(error.to_string().contains("no version is left"), "the control: {error}");
    // A floor that is made later: below it, and elsewhere.
    for (prefix, expected) in [("jobs/deep/", Some(LARGEST)), ("other/", None)] {
        all.create_floor(prefix).await.unwrap();
        let floor = number(&server, &format!("{{lockword}}floor:{prefix}")).unwrap();
        assert_eq!(floor, expected.unwrap_or(number(&server, "{lockword}floor").unwrap()));
    }
    put(&all, &key("other/new"), None, write("v")).await;
}

/// Registers are created and deleted while floors are made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_floor_that_is_made_later_lets_no_version_repeat() {
    let Some(server) = RedisServer::start() else { return };
    // The clock is of no help: all versions are above it.
    let _: () = server.say(&["SET", "{lockword}floor", &HIGH.to_string()]);
    let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let last: Arc<[AtomicU64; 3]> = Arc::default();
    let names = ["a/b/x", "a/y", "z"];
    let mut tasks = JoinSet::new();
    for _ in 0..4 {
        let redis = client(&server.address()).await;
        let (stop, rounds, last) = (stop.clone(), rounds.clone(), last.clone());
        tasks.spawn(async move {
            for at in (0..names.len()).cycle() {
                if stop.load(Relaxed) {
                    break;
                }
                // Whoever has created it is the only one to write or delete it.
                let created = redis.compare_exchange(&key(names[at]), None, write("v")).await;
                let Exchange::Swapped(version) = created.unwrap() else { continue };
                let before = last[at].swap(version.get(), Relaxed);
                assert!(before < version.get(), "{}: {version} after {before}", names[at]);
                assert!(redis.delete(&key(names[at])).await.unwrap(), "{}", names[at]);
                rounds.fetch_add(1, Relaxed);
            }
        });
    }
    let more = || {
        let (before, rounds) = (rounds.load(Relaxed), rounds.clone());
        async move { until("they go on", || rounds.load(Relaxed) > before + 200).await }
    };
    for prefix in ["a/", "a/b/", "z/", "a/"] {
        more().await;
        client(&server.address()).await.create_floor(prefix).await.unwrap();
    }
    more().await;
    stop.store(true, Relaxed);
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    for (last, floor) in last.iter().zip(["floor:a/b/", "floor:a/", "floor"]) {
        let floor = number(&server, &format!("{{lockword}}{floor}")).unwrap();
        assert_eq!(last.load(Relaxed), floor, "each has its own");
    }
}

/// The list of the floors and the floor move one after the other, and registers are created by a user of the
/// prefix.
#[tokio::test]
async fn the_floor_of_a_prefix_is_found_while_the_slot_moves() {
    let (floors, floor) = ("{lockword}floors", "{lockword}floor:jobs/");
    for order in [[floors, floor], [floor, floors]] {
        let Some(cluster) = RedisCluster::start_with(true) else { return };
        for server in [&cluster.source, &cluster.target] {
            make_user(server);
        }
        let all = client(&cluster.source.address()).await;
        all.create_floor("jobs/").await.unwrap();
        let redis = client(&address_of(&cluster.target)).await;
        put(&all, &key("other"), None, write("v")).await;
        let mut here = put(&redis, &key("jobs/here"), None, write("v")).await;
        put(&redis, &key("jobs/there"), None, write("v")).await;
        let _: () = cluster.source.say(&["SET", floor, &HIGH.to_string()]);
        cluster.begin();
        cluster.move_names(&["{lockword}:jobs/there"]);
        for (number, name) in ["{lockword}:jobs/there", order[0], order[1]].into_iter().enumerate()
        {
            cluster.move_names(&[name]);
            let new = key(&format!("jobs/new{number}"));
            let version = put(&redis, &new, None, write("v")).await;
            assert!(version.get() > HIGH, "{name} has moved: {version}");
            here = put(&redis, &key("jobs/here"), Some(here), write("v")).await;
            let there = redis.load(&key("jobs/there")).await.unwrap().unwrap().version;
            let there = put(&redis, &key("jobs/there"), Some(there), write("v")).await;
            assert!(here < there || number < 2, "{name} has moved: the floor is used again");
            let error = all.create_floor("jobs/deep/").await.unwrap_err();
            assert!(matches!(error, TransportError::Unavailable(_)), "{error}");
            let deleted = redis.delete(&new).await;
            match order[..number].contains(&floor) {
                true => assert!(deleted.unwrap(), "it is where its floor is"),
                _ => assert!(matches!(deleted, Err(TransportError::Unavailable(_))), "{deleted:?}"),
            }
        }
        cluster.finish();
        let new = put(&redis, &key("jobs/last"), None, write("v")).await;
        assert!(redis.delete(&key("jobs/last")).await.unwrap());
        assert!(put(&redis, &key("jobs/last"), None, write("v")).await > new);
        all.create_floor("jobs/deep/").await.unwrap();
        assert!(put(&redis, &key("jobs/deep/k"), None, write("v")).await > new);
        let shared: u64 = cluster.target.say(&["GET", "{lockword}floor"]);
        assert!(shared < HIGH, "{shared}");
    }
}

#[tokio::test]
async fn what_is_no_prefix_has_no_floor() {
    let Some(server) = RedisServer::start() else { return };
    let redis = client(&server.address()).await;
    for bad in ["", "jobs", "jobs/*", "a b/"] {
        let error = redis.create_floor(bad).await.unwrap_err();
        assert!(matches!(error, TransportError::Unsupported(_)), "{bad}: {error}");
        assert!(error.to_string().contains("is no prefix"), "{bad}: {error}");
    }
    // On a server without a register, and twice; no lower than the one above it.
    let _: () = server.say(&["SET", "{lockword}floor", "77"]);
    for prefix in ["jobs/", "jobs/deep/er/"] {
        redis.create_floor(prefix).await.unwrap();
        let floor = format!("{{lockword}}floor:{prefix}");
        assert_eq!(number(&server, &floor), Some(77), "{prefix}");
        let _: () = server.say(&["SET", &floor, "78"]);
        redis.create_floor(prefix).await.unwrap();
        assert_eq!(number(&server, &floor), Some(78), "{prefix}");
        let _: () = server.say(&["SET", &floor, "77"]);
    }
    // What lockword has not written.
    let _: () = server.say(&["SET", "{lockword}floor:jobs/", "many"]);
    for error in [
        redis.compare_exchange(&key("jobs/k"), None, write("v")).await.map(drop),
        redis.delete(&key("jobs/k")).await.map(drop),
        redis.create_floor("jobs/x/").await,
    ] {
        let error = error.unwrap_err();
        assert!(matches!(error, TransportError::Corrupt(_)), "{error}");
        assert!(error.to_string().contains("{lockword}floor:jobs/"), "{error}");
    }
    let _: () = server.say(&["DEL", "{lockword}floors"]);
    let _: () = server.say(&["SET", "{lockword}floors", "many"]);
    let error = redis.compare_exchange(&key("jobs/k"), None, write("v")).await.unwrap_err();
    assert!(matches!(error, TransportError::Corrupt(_)), "{error}");
    put(&redis, &key("k"), None, write("v")).await;
}

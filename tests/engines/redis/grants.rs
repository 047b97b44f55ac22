//! The commands of `grants`, as `redis-cli` runs them.

use super::*;
use crate::support::process::find;
use futures_util::StreamExt;
use lockword::cluster::Node;
use lockword::cluster::engines::{Grants, grants};
use std::io::Write as _;
use std::process::{Command, Stdio};

/// Above the clock.
const HIGH: u64 = 1 << 51;

/// Whether `sh` succeeds with these commands, with `redis-cli` as a user with all rights, and what it prints. `None`: that
/// is not installed.
fn sh(server: &RedisServer, commands: &str) -> Option<(bool, String)> {
    let (cli, socket) = (find("redis-cli", &[])?, server.file("admin"));
    let cli = format!("{} -s {socket} --no-auth-warning --user admin --pass x", cli.display());
    let mut command = Command::new("sh");
    let command = command
        .env("REDIS_CLI", cli)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut process = command.spawn().expect("it starts");
    process.stdin.take().expect("a pipe").write_all(commands.as_bytes()).expect("it reads");
    let done = process.wait_with_output().expect("it ends");
    let said = String::from_utf8([done.stdout, done.stderr].concat()).expect("text");
    Some((done.status.success(), said))
}

/// The rights on `prefix`, and no password.
pub(super) fn rights(role: &str, prefix: &str) -> Grants {
    grants("redis://127.0.0.1", prefix, role).expect("good names")
}

/// The words of the command that gives the rights.
pub(super) fn acl(rights: &Grants) -> Vec<String> {
    let line = rights.commands().lines().find(|line| line.contains("ACL SETUSER"));
    let line = line.and_then(|line| line.split_once("$cli ")).expect("the rights").1;
    let line = line.split_once(" </dev/null").expect("its end").0;
    line.split(' ').map(|word| word.trim_matches('\'').to_owned()).collect()
}

/// A server whose users have passwords, and a client with all rights. `None`: skip the test.
async fn server() -> Option<(RedisServer, Redis)> {
    let setup = RedisSetup { password: true, ..RedisSetup::default() };
    let server = RedisServer::start_with(setup)?;
    let all = client(&server.address()).await;
    Some((server, all))
}

/// Runs the commands, and gives the user the password `x`. `None`: skip the test.
fn apply(server: &RedisServer, role: &str, prefix: &str) -> Option<()> {
    let said = sh(server, rights(role, prefix).commands())?;
    assert_eq!(said, (true, "OK\n".to_owned()));
    server.say::<()>(&["ACL", "SETUSER", role, ">x"]);
    Some(())
}

fn address_of(server: &RedisServer, role: &str) -> String {
    let name: String = role.bytes().map(|byte| format!("%{byte:02X}")).collect();
    format!("redis://{name}:x@127.0.0.1:{}", server.port)
}

fn is_denied<T>(result: &Result<T, TransportError>) -> bool {
    matches!(result, Err(TransportError::Denied(_)))
}

/// All that a lock does, once. What is refused, if anything is.
async fn exercise(server: &RedisServer, role: &str, name: &str) -> Result<(), String> {
    let url = url::Url::parse(&address_of(server, role)).expect("an address");
    let redis = Redis::connect(&url).await.map_err(|error| error.to_string())?;
    let said = |error: TransportError| error.to_string();
    let (key, id) = (key(name), NodeId::new(7));
    let mut watch = redis.watch(&key, id).await.map_err(said)?;
    let mut expected = redis.load(&key).await.map_err(said)?.map(|found| found.version);
    let told = Write { wake: Wake::Node(id), ..write("c") };
    for (new, ttl) in [(write("a"), -1..0), (idle("b"), 1..3601), (told, -1..0)] {
        match redis.compare_exchange(&key, expected, new).await.map_err(said)? {
            Exchange::Swapped(version) => expected = Some(version),
            Exchange::Mismatch(_) => return Err("it has changed".into()),
        }
        let found: i64 = server.say(&["TTL", &format!("{{lockword}}:{name}")]);
        if !ttl.contains(&found) {
            return Err(format!("it expires in {found}"));
        }
    }
    let next = tokio::time::timeout(Duration::from_secs(10), watch.next()).await;
    if !matches!(next, Ok(Some(Ok(_)))) {
        return Err(format!("it was not woken: {next:?}"));
    }
    // It is pinged meanwhile. Three writes may be several items.
    let end = async { while let Some(Ok(_)) = watch.next().await {} };
    if tokio::time::timeout(Duration::from_millis(700), end).await.is_ok() {
        return Err("the watch has ended".into());
    }
    drop(watch);
    let channels = || server.say::<Vec<String>>(&["PUBSUB", "CHANNELS", "{lockword}:#0*"]);
    for _ in 0..600 {
        if channels().is_empty() {
            return Ok(());
        }
        sleep(Duration::from_millis(5)).await;
    }
    Err("it is still subscribed".into())
}

/// Each word of the printed line is needed: without it something that a lock does is refused.
#[tokio::test]
async fn nothing_is_granted_that_a_lock_does_not_need() {
    let Some((server, _all)) = server().await else { return };
    let Some(()) = apply(&server, "jobs", "jobs/") else { return };
    exercise(&server, "jobs", "jobs/k").await.unwrap();
    let rights = rights("jobs", "jobs/");
    let words = acl(&rights);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let needed = words.iter().filter(|word| word.starts_with(['+', '~', '%', '&']));
    let mut not_needed = vec![];
    for without in needed {
        let less: Vec<&str> = words.iter().filter(|word| *word != without).copied().collect();
        server.say::<()>(&less);
        // With a register of its own, so that nothing is left of the one before.
        let refused = exercise(&server, "jobs", &format!("jobs/{}", not_needed.len())).await;
        println!("without {without}: {refused:?}");
        if refused.is_ok() {
            not_needed.push(*without);
        }
    }
    // What is not seen here: a refused ping is a sign of life, and a line in the server's ACL LOG; HELLO is for
    // clients before they log in; ASKING is for a cluster whose slot moves, which has tests of its own.
    assert_eq!(not_needed, ["+ping", "+hello", "+asking"]);
    server.say::<()>(&words);
    exercise(&server, "jobs", "jobs/k").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_user_has_locks_below_the_prefix_and_nowhere_else() {
    let Some((server, all)) = server().await else { return };
    // A name that has to be quoted, and rights of before, which it loses.
    let role = "$(o;b)\u{e4}";
    server.say::<()>(&["ACL", "SETUSER", role, "allkeys", "allchannels", "+@all", "(~* +@all)"]);
    // Twice: it does no harm.
    for _ in 0..2 {
        let Some(()) = apply(&server, role, "a_b/") else { return };
    }
    put(&all, &key("other/k"), None, write("v")).await;
    let lease = Duration::from_millis(1200);
    let node =
        async || Node::builder(client(&address_of(&server, role)).await).lease(lease).build();
    let (a, b) = (node().await.unwrap(), node().await.unwrap());
    let held = a.lock("a_b/deep/k").unwrap().acquire().await.unwrap();
    let waiting = b.lock("a_b/deep/k").unwrap();
    let waiting = tokio::spawn(async move { waiting.acquire().await.unwrap() });
    sleep(lease * 2).await;
    assert!(held.is_valid(), "it is renewed");
    let seen = b.inspect("a_b/deep/k").await.unwrap();
    assert_eq!(seen.queue.len(), 1, "{seen:?}");
    let token = held.token();
    held.release().await.unwrap();
    let next = waiting.await.unwrap();
    assert!(next.token() > token);
    next.release().await.unwrap();

    let redis = client(&address_of(&server, role)).await;
    for name in ["other/k", "a_b", "a_bc/k", "axb/k", "a", "A_b/k"] {
        let name = key(name);
        assert!(is_denied(&redis.load(&name).await), "{name}");
        assert!(is_denied(&redis.compare_exchange(&name, None, write("v")).await), "{name}");
        assert!(is_denied(&redis.delete(&name).await), "{name}");
    }
    // As the page has it: nothing is listed or deleted, and no other floor is made.
    assert!(is_denied(&redis.list("a_b/").await));
    assert!(is_denied(&redis.delete(&key("a_b/deep/k")).await));
    assert!(is_denied(&redis.create_floor("a_b/deep/").await));
}

/// A register goes, by whoever removes it, and is created again by whichever client.
#[tokio::test]
async fn versions_grow_whoever_removes_and_creates_a_register() {
    let Some((server, all)) = server().await else { return };
    let Some(()) = apply(&server, "jobs", "jobs/") else { return };
    let limited = client(&address_of(&server, "jobs")).await;
    // Only the floor knows: the clock is behind.
    server.say::<()>(&["SET", "{lockword}floor:jobs/", &HIGH.to_string()]);
    let (name, register) = (key("jobs/k"), "{lockword}:jobs/k");
    let mut last = Version::new(HIGH).unwrap();
    for creator in [&limited, &all] {
        for writer in [&limited, &all] {
            for removal in 0..3 {
                let first = put(creator, &name, None, write("v")).await;
                let second = put(writer, &name, Some(first), idle("v")).await;
                assert!(last < first && first < second, "{last} {first} {second}");
                last = second;
                match removal {
                    0 => assert!(all.delete(&name).await.unwrap()),
                    // Its time is over; and by hand.
                    1 => drop(server.say::<i64>(&["PEXPIRE", register, "0"])),
                    _ => drop(say_as(&server, &["EXPIRE", register, "-1"]).unwrap()),
                }
                assert_eq!(server.say::<i64>(&["EXISTS", register]), 0);
            }
        }
    }
}

/// What the server answers to the user `jobs`.
fn say_as(server: &RedisServer, words: &[&str]) -> ::redis::RedisResult<::redis::Value> {
    let client = ::redis::Client::open(address_of(server, "jobs")).unwrap();
    let mut client = client.get_connection().unwrap();
    ::redis::cmd(words[0]).arg(&words[1..]).query(&mut client)
}

/// What it can do by hand elsewhere: make nodes look.
#[tokio::test]
async fn a_forged_notice_costs_others_a_look_and_the_rest_is_refused() {
    let Some((server, all)) = server().await else { return };
    let Some(()) = apply(&server, "jobs", "jobs/") else { return };
    let before = put(&all, &key("other/k"), None, write("v")).await;
    let (id, largest) = (NodeId::new(9), ((1_u64 << 52) - 1).to_string());
    let mut watch = all.watch(&key("other/k"), id).await.unwrap();
    // The hash of other/k: see tests/engines/suite/forged_notices.rs.
    let hash = "other/k".bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    for channel in ["{lockword}:#all".to_owned(), format!("{{lockword}}:#{id}")] {
        let heard = say_as(&server, &["PUBLISH", &channel, &format!("{hash:016x}")]).unwrap();
        assert_eq!(heard, ::redis::Value::Int(1), "{channel}");
        let item = tokio::time::timeout(Duration::from_secs(10), watch.next()).await;
        assert!(matches!(item, Ok(Some(Ok(None)))), "it looks, and is told nothing: {item:?}");
    }
    for words in [
        &["PUBLISH", "{other}:#all", ""][..],
        &["SET", "{lockword}floor", &largest],
        &["SET", "{lockword}floor", "1"],
        &["SET", "{lockword}floor:other/", "1"],
        &["SET", "{lockword}floor:other/", &largest],
        &["EXPIRE", "{lockword}floor:other/", "-1"],
        &["HSET", "{lockword}floors", "jobs/deep/", "1"],
        &["HSET", "{lockword}:other/k", "version", &largest],
        &["EVAL", "return redis.call('SET', '{lockword}floor', ARGV[1])", "0", &largest],
        &["EVAL", "return redis.call('EXPIRE', '{lockword}:other/k', '-1')", "0"],
        &["EVAL", "return redis.call('HGET', '{lockword}:other/k', 'value')", "0"],
        &["RENAME", "{lockword}:jobs/k", "{lockword}:other/k"],
        &["COPY", "{lockword}:jobs/k", "{lockword}:other/k"],
        &["DEL", "{lockword}:jobs/k"],
        &["SCAN", "0"],
        // In other databases the same rights would hold, and there is no floor of the prefix.
        &["SELECT", "3"],
        &[
            "EVAL",
            "redis.call('SELECT', 3) return redis.call('SET', '{lockword}floor:jobs/', ARGV[1])",
            "0",
            &largest,
        ],
        &["MOVE", "{lockword}:jobs/k", "3"],
        &["COPY", "{lockword}:jobs/k", "{lockword}:jobs/k", "DB", "3"],
        &["SWAPDB", "0", "3"],
        &["ACL", "SETUSER", "jobs", "allkeys"],
        &["CONFIG", "GET", "*"],
        &["FLUSHALL"],
    ] {
        let said = say_as(&server, words).unwrap_err().to_string();
        let is_refused = said.contains("no permissions")
            || said.contains("can't access")
            || said.contains("can't run this command");
        assert!(is_refused, "{words:?}: {said}");
    }
    let now = all.load(&key("other/k")).await.unwrap().unwrap();
    assert_eq!((now.version, &*now.value), (before, &b"v"[..]));
    let elsewhere = "redis.call('SELECT', 3) return redis.call('DBSIZE')";
    assert_eq!(server.say::<i64>(&["EVAL", elsewhere, "0"]), 0);
    let third = url::Url::parse(&format!("{}/3", address_of(&server, "jobs"))).unwrap();
    let refused = Redis::connect(&third).await.map(drop).unwrap_err();
    assert!(refused.to_string().contains("no permissions"), "{refused}");
}

/// A user that has the rights without the floor could end the versions of others.
#[tokio::test]
async fn without_a_floor_there_is_no_user() {
    let Some((server, _all)) = server().await else { return };
    let users = |server: &RedisServer| {
        let users = server.say::<Vec<String>>(&["ACL", "USERS"]);
        users.iter().filter(|user| *user == "jobs").count()
    };
    let commands = rights("jobs", "jobs/").commands().to_owned();
    let refused = |server: &RedisServer, why: &str| {
        let (ended_well, said) = sh(server, &commands)?;
        assert!(!ended_well && said.contains(why) && !said.contains("OK"), "{why}: {said}");
        assert!(said.contains("nothing was granted"), "{why}: {said}");
        assert_eq!(users(server), 0, "{why}");
        Some(())
    };
    // A replica, a server without memory, and a register that is no floor.
    server.say::<()>(&["REPLICAOF", "127.0.0.1", "1"]);
    let Some(()) = refused(&server, "READONLY") else { return };
    server.say::<()>(&["REPLICAOF", "NO", "ONE"]);
    server.say::<()>(&["CONFIG", "SET", "maxmemory", "1"]);
    refused(&server, "OOM").unwrap();
    server.say::<()>(&["CONFIG", "SET", "maxmemory", "0"]);
    server.say::<()>(&["SET", "{lockword}floor", "many"]);
    refused(&server, "LOCKWORD").unwrap();
    server.say::<()>(&["DEL", "{lockword}floor"]);
    assert!(sh(&server, &commands).unwrap().0, "the control");
    assert_eq!(users(&server), 1);
    // Of a cluster, the server that has not the slot.
    let Some(cluster) = crate::support::redis_cluster::RedisCluster::start_with(true) else {
        return;
    };
    refused(&cluster.target, "MOVED").unwrap();
    assert!(sh(&cluster.source, &commands).unwrap().0, "the control");
}

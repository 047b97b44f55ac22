//! The same over engines with a server, which the tests start: exit statuses, a holder that is killed, a
//! server that ends. What is not installed is skipped.

use crate::locks::{Locks, children, end_of, is_alive, is_guardian, kill, until};
use crate::servers::process::ServerProcess;
use crate::servers::relay::Relay;
#[cfg(feature = "redis")]
use crate::support::lockword;
use crate::support::{run, status, stderr, stdout};
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Every exit status of `run` over this engine, and what operators see.
fn transcript(locks: &Locks) {
    let say = |arguments: &[&str], code: i32| {
        let output = run(locks.lockword(arguments));
        assert_eq!(status(&output), code, "{arguments:?}: {}", stderr(&output));
        stdout(&output)
    };
    assert_eq!(say(&["run", "k", "--", "sh", "-c", "echo $LOCKWORD_KEY; exit 3"], 3), "k\n");
    let mut holder = locks.hold(&["--lease", "5s"]);
    say(&["run", "k", "--no-wait", "--", "true"], 75);
    say(&["run", "k", "--wait", "50ms", "--", "true"], 75);
    say(&["run", "k", "--skip-if-alive", "--", "true"], 75);
    let text = say(&["status", "k", "--exit-code"], 1);
    assert!(text.contains("state     held") && text.contains(": alive"), "{text}");
    assert!(say(&["list"], 0).contains("held"));
    // It is killed, and the next one gets the lock when the lease is over.
    holder.process.kill().unwrap();
    holder.process.wait().unwrap();
    until("the guardian ends the command", || !is_alive(holder.command));
    assert_eq!(say(&["run", "k", "--skip-if-alive", "--", "echo", "next"], 0), "next\n");

    let broken = locks.script(&["--lease", "5s"], "while :; do sleep 0.01; done");
    let broken = { broken }.stderr(Stdio::piped()).spawn().unwrap();
    let held =
        || status(&run(locks.lockword(&["status", "k", "--exit-code", "--watch-for", "0"]))) == 1;
    until("it holds the lock", held);
    assert!(say(&["break", "k", "--yes", "--reason", "why not"], 0).contains("taken"));
    let output = broken.wait_with_output().unwrap();
    assert_eq!(status(&output), 76);
    assert!(stderr(&output).contains("why not"), "{}", stderr(&output));

    say(&["run", "once", "--at-most-once-per", "1h", "--", "false"], 1);
    say(&["run", "once", "--at-most-once-per", "1h", "--", "true"], 75);
    say(&["run", "k", "--", "true"], 0);

    // All keys, in order, also of names with characters that a pattern of the engine may have.
    for key in ["once-more", "o-_.:/@x", "O"] {
        say(&["run", key, "--", "true"], 0);
    }
    let listed = |prefix: &str| {
        let text = say(&["list", prefix, "--json"], 0);
        let lines =
            text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        lines.map(|line| line["key"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(listed(""), ["O", "k", "o-_.:/@x", "once", "once-more", "once@last-run"]);
    assert_eq!(listed("once"), ["once", "once-more", "once@last-run"]);
    assert!(listed("*").is_empty() && listed("[o]").is_empty() && listed("o_").is_empty());
}

/// The other commands.
fn operators(locks: &Locks) {
    let json = |arguments: &[&str], code: i32| {
        let output = run(locks.lockword(arguments));
        assert_eq!(status(&output), code, "{arguments:?}: {}", stderr(&output));
        serde_json::from_str::<serde_json::Value>(&stdout(&output)).expect("JSON")
    };
    let holder = locks.hold(&["--lease", "3s", "--label", "a label"]);
    let mut command = locks.lockword(&["watch", "k", "--json", "--every", "100ms"]);
    let mut watch = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut next = || {
        let line = lines.next().expect("it goes on").unwrap();
        serde_json::from_str::<serde_json::Value>(&line).expect("JSON")["state"].clone()
    };
    assert_eq!(next(), "held");
    // It renews its lease, and then its token is known.
    let shown = json(&["status", "k", "--json", "--exit-code", "--watch-for", "10s"], 1);
    assert_eq!((&shown["renewed"], &shown["holder"]["label"]), (&true.into(), &"a label".into()));
    assert_eq!(
        shown["holder"]["token"].as_str().expect("a string"),
        locks.folder.read("token").trim()
    );
    let top = json(&["top", "k", "--times", "1", "--json"], 0);
    assert_eq!(
        (&top["locks"][0]["key"], &top["locks"][0]["holder"]["label"]),
        (&"k".into(), &"a label".into())
    );
    assert_eq!(json(&["break", "k", "--yes", "--json"], 0)["broken"], "a label");
    assert_eq!(next(), "free");
    watch.kill().unwrap();
    watch.wait().unwrap();
    until("the command is ended", || !is_alive(holder.command));
    assert_eq!(json(&["break", "k", "--yes", "--json"], 0)["broken"], serde_json::Value::Null);
    assert_eq!(json(&["status", "k", "--json", "--exit-code"], 0)["state"], "free");

    assert_eq!(
        status(&run(locks.lockword(&["run", "old", "--at-most-once-per", "1ms", "--", "true"]))),
        0
    );
    assert_eq!(json(&["sweep", "--json"], 0)["records"], 1);
    assert_eq!(json(&["sweep", "--json"], 0)["records"], 0);

    let gate = locks.folder.path("gate");
    let script = format!("{} gate --file {gate} -- echo in", env!("CARGO_BIN_EXE_lockword"));
    let output = run(locks.script(&[], &script));
    assert_eq!((status(&output), stdout(&output).as_str()), (0, "in\n"), "{}", stderr(&output));
    let output = run(locks.script(&[], &format!("LOCKWORD_TOKEN=1 {script}")));
    assert_eq!((status(&output), stdout(&output).as_str()), (76, ""), "{}", stderr(&output));
}

/// `run` and its command are killed: who waits gets the lock within the lease and a second, and not before
/// the most of the lease is over, since nobody but the lease says that the holder is dead.
fn takeover(locks: &Locks) {
    let begun = locks.folder.path("next");
    let mut took = vec![];
    for _ in 0..3 {
        let _ = std::fs::remove_file(&begun);
        let mut holder = locks.hold(&["--lease", "2s"]);
        let mut waiter = locks.script(&["--lease", "2s"], &format!(": > {begun}")).spawn().unwrap();
        until("it waits", || locks.is_waited_for());
        let killed = Instant::now();
        for child in children(holder.process.id()) {
            if !is_guardian(child) {
                kill(child, libc::SIGKILL);
            }
        }
        holder.process.kill().unwrap();
        until("the next one starts", || std::fs::exists(&begun).unwrap());
        took.push(killed.elapsed());
        assert!(end_of(&mut waiter) == Some(0));
    }
    took.sort();
    println!(
        "after the death of a holder with a lease of 2 s the next one started within {took:?}"
    );
    assert!(took[took.len() / 2] <= Duration::from_secs(3), "{took:?}");
}

/// A network that takes longer than the wait: that says nothing about the engine, and the wait is over.
fn slow(locks: &Locks, relay: &Relay) {
    relay.delay(Duration::from_millis(150));
    let output = run(locks.lockword(&["run", "k", "--wait", "100ms", "--", "true"]));
    assert_eq!(status(&output), 75, "{}", stderr(&output));
    relay.delay(Duration::ZERO);
}

/// The server ends while a command runs: it gets SIGTERM in time, and the status is 76. Afterwards nothing
/// can be reached: 69.
fn outage(locks: &Locks, server: &ServerProcess) {
    let options = ["--lease", "3s", "--grace", "1s"];
    let script = "trap 'echo told; exit 0' TERM; echo up; while :; do sleep 0.01; done";
    let mut command = locks.script(&options, script);
    let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 3];
    std::io::Read::read_exact(process.stdout.as_mut().unwrap(), &mut first).unwrap();
    let mut top = locks.lockword(&["top", "--every", "50ms", "--json"]);
    let mut top = top.stdout(Stdio::piped()).spawn().unwrap();
    let looks = BufReader::new(top.stdout.take().unwrap()).lines();
    let mut looks =
        looks.map(|look| serde_json::from_str::<serde_json::Value>(&look.unwrap()).unwrap());
    let seen = looks.next().unwrap();
    assert!(seen["error"].is_null(), "{seen}");
    server.kill9();
    // It says so, and shows what it has seen.
    let last = looks.find(|look| look["error"].is_string()).unwrap();
    assert_eq!((&last["keys"], &last["locks"][0]["key"]), (&seen["keys"], &"k".into()), "{last}");
    top.kill().unwrap();
    top.wait().unwrap();
    let output = process.wait_with_output().unwrap();
    assert_eq!((status(&output), stdout(&output).as_str()), (76, "told\n"), "{}", stderr(&output));
    let output = run(locks.lockword(&["run", "k", "--lease", "1s", "--", "true"]));
    assert_eq!(status(&output), 69, "{}", stderr(&output));
    let output = run(locks.lockword(&["status", "k"]));
    assert_eq!(status(&output), 69, "{}", stderr(&output));
}

#[cfg(feature = "redis")]
#[test]
fn redis() {
    use crate::servers::redis::{PASSWORD, RedisServer, RedisSetup};
    let setup = RedisSetup { password: true, ..RedisSetup::default() };
    let Some(server) = RedisServer::start_with(setup) else { return };
    let locks = Locks::over("redis", &server.address());
    transcript(&locks);
    operators(&locks);
    takeover(&locks);
    let relay = Relay::new(server.port);
    slow(&Locks::over("slow_redis", &server.address_at(relay.port())), &relay);
    // Credentials that the server refuses: 77, and no word of them.
    let wrong = format!("redis://lock:wrong-{}@127.0.0.1:{}", &PASSWORD[..4], server.port);
    let output = run(lockword(&["run", "k", "--on", &wrong, "--", "true"]));
    assert_eq!(status(&output), 77, "{}", stderr(&output));
    assert!(!stderr(&output).contains("wrong-"), "{}", stderr(&output));
    // A password in a file; one that is not there; and one that another machine would get in clear text.
    let file = server.file("secret");
    std::fs::write(&file, format!("{PASSWORD}\n")).unwrap();
    let by_file = |host: &str, file: &str| {
        let on = format!("redis://lock@{host}:{}?password_file={file}", server.port);
        let output = run(lockword(&["run", "k", "--on", &on, "--", "true"]));
        (status(&output), stderr(&output))
    };
    assert_eq!(by_file("127.0.0.1", &file), (0, String::new()));
    let (code, said) = by_file("127.0.0.1", "/no/such/file");
    assert!(code == 69 && said.contains("password_file=/no/such/file"), "{code} {said}");
    let (code, said) = by_file("198.51.100.1", &file);
    assert!(code == 64 && said.contains("plaintext=allow"), "{code} {said}");
    outage(&locks, &server.process);
}

#[cfg(feature = "etcd")]
#[test]
fn etcd() {
    use crate::servers::etcd::EtcdServer;
    let Some(server) = EtcdServer::start() else { return };
    let locks = Locks::over("etcd", &server.address());
    transcript(&locks);
    operators(&locks);
    takeover(&locks);
    let relay = Relay::new(server.port);
    slow(&Locks::over("slow_etcd", &format!("etcd://{}", relay.server())), &relay);
    outage(&locks, &server.process);
}

#[cfg(feature = "postgres")]
#[test]
fn postgres() {
    use crate::servers::postgres::{PostgresServer, PostgresSetup};
    let Some(server) = PostgresServer::start(PostgresSetup::default()) else { return };
    let locks = Locks::over("postgres", &server.address("create_schema=true"));
    transcript(&locks);
    operators(&locks);
    takeover(&locks);
    let relay = Relay::new(server.port);
    slow(&Locks::over("slow_postgres", &server.address_at(relay.port(), "")), &relay);
    outage(&locks, &server.process);
}

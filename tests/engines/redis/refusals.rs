//! Servers and requests that are refused: with a typed error, without a write, without the password.

use super::{RedisServer, RedisSetup, TransportError, client, key, put, until, write};
use crate::support::process::free_port;
use crate::support::redis::PASSWORD;
use crate::support::relay::Relay;
use lockword::cluster::engines::redis::Redis;
use lockword::cluster::{ConnectError, Transport, connect};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// The error of connecting to this address, and its text.
async fn refused(address: &str) -> (ConnectError, String) {
    let error = connect(address).await.err().unwrap_or_else(|| panic!("{address} was let in"));
    let text = format!("{error} {error:?}");
    for secret in ["wrong-one", PASSWORD, "open%25sesame"] {
        assert!(!text.contains(secret), "{text}");
    }
    (error, text)
}

#[tokio::test]
async fn wrong_credentials_and_missing_grants_are_denied() {
    let Some(server) =
        RedisServer::start_with(RedisSetup { password: true, ..RedisSetup::default() })
    else {
        return;
    };
    let port = server.port;
    for user in ["", "lock:wrong-one@", "nobody:wrong-one@"] {
        let (error, text) = refused(&format!("redis://{user}127.0.0.1:{port}")).await;
        assert!(matches!(error, ConnectError::Denied { .. }), "{text}");
        assert!(text.contains(&format!("127.0.0.1:{port}")), "{text}");
    }
    let (error, text) = refused(&format!("redis://dumb:open%25sesame@127.0.0.1:{port}")).await;
    assert!(matches!(error, ConnectError::Denied { .. }) && text.contains("publish"), "{text}");
    let (error, text) = refused(&(server.address() + "?prefix=other")).await;
    assert!(matches!(error, ConnectError::Denied { .. }), "{text}");

    // Those in the docs are enough for everything.
    let redis = client(&server.address()).await;
    let debug = format!("{redis:?}");
    assert!(!debug.contains(PASSWORD) && !debug.contains("open%25"), "{debug}");
    let version = put(&redis, &key("granted"), None, super::idle("x")).await;
    let _watch = redis.watch(&key("granted"), super::NodeId::new(1)).await.unwrap();
    redis.load(&key("granted")).await.unwrap();
    assert!(redis.delete(&key("granted")).await.unwrap());

    // Taken away while connected, also of what only the script uses.
    for (grants, back) in [("-hset", "+hset"), ("-evalsha", "+evalsha"), ("~{x}", "~{lockword}*")] {
        let _: () = match grants {
            "~{x}" => server.say(&["ACL", "SETUSER", "lock", "resetkeys", grants]),
            _ => server.say(&["ACL", "SETUSER", "lock", grants]),
        };
        let error = redis.compare_exchange(&key("taken"), None, write("x")).await.unwrap_err();
        assert!(matches!(error, TransportError::Denied(_)), "{grants}: {error}");
        assert_eq!(server.say::<i64>(&["EXISTS", "{lockword}:taken"]), 0, "{grants}");
        let _: () = server.say(&["ACL", "SETUSER", "lock", back]);
    }
    let after = put(&redis, &key("granted"), None, write("x")).await;
    assert!(after > version);
}

#[tokio::test]
async fn untrusted_certificates_are_refused() {
    let Some(server) = RedisServer::start_with(RedisSetup { tls: true, ..RedisSetup::default() })
    else {
        return;
    };
    let good = client(&server.address()).await;
    put(&good, &key("encrypted"), None, write("x")).await;
    let port = server.port;
    let (ca, other) = (server.file("ca.pem"), server.file("other.pem"));
    let files = |name: &str| {
        let (cert, key) =
            (server.file(&format!("{name}.pem")), server.file(&format!("{name}.key")));
        format!("cert={cert}&key={key}")
    };
    let (own, foreign) = (files("client"), files("foreign"));
    for (case, address) in [
        ("another authority", format!("rediss://localhost:{port}?ca={other}&{own}")),
        ("the system's authorities", format!("rediss://localhost:{port}?{own}")),
        ("another name", format!("rediss://127.0.0.1:{port}?ca={ca}&{own}")),
        ("no certificate of ours", format!("rediss://localhost:{port}?ca={ca}")),
        ("a foreign certificate", format!("rediss://localhost:{port}?ca={ca}&{foreign}")),
    ] {
        let (error, text) = refused(&address).await;
        assert!(matches!(error, ConnectError::Untrusted { .. }), "{case}: {text}");
    }
    // By the name in the certificate, at an address that is not in it; and by a builder, from memory.
    let elsewhere = format!("rediss://127.0.0.1:{port}?ca={ca}&{own}&server_name=localhost");
    client(&elsewhere).await;
    let pem = |name: &str| std::fs::read(server.file(name)).unwrap();
    let builder = Redis::builder(format!("localhost:{port}"))
        .ca_pem(pem("ca.pem"))
        .client_certificate_pem(pem("client.pem"), pem("client.key"));
    let redis = builder.connect().await.unwrap();
    assert!(redis.load(&key("encrypted")).await.unwrap().is_some());
    let (error, text) = refused(&format!("redis://localhost:{port}")).await;
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{text}");

    let Some(server) =
        RedisServer::start_with(RedisSetup { tls: true, expired: true, ..RedisSetup::default() })
    else {
        return;
    };
    let (error, text) = refused(&server.address()).await;
    assert!(matches!(error, ConnectError::Untrusted { .. }), "{text}");
    assert!(text.to_lowercase().contains("expired"), "{text}");
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_unreachable() {
    let port = free_port();
    let (error, text) = refused(&format!("redis://lock:wrong-one@127.0.0.1:{port}")).await;
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{text}");
    let (error, text) = refused("redis://lock:wrong-one@no-such-host.invalid").await;
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{text}");
    // A server that accepts the connection and does not answer.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (error, text) = refused(&format!("redis://lock:wrong-one@127.0.0.1:{port}")).await;
    assert!(matches!(error, ConnectError::Unreachable { .. }) && text.contains("3s"), "{text}");
}

#[tokio::test]
async fn invalid_addresses_are_refused() {
    let (error, text) = refused("nats://lock:wrong-one@h").await;
    assert!(matches!(error, ConnectError::UnknownScheme { .. }) && text.contains("nats"), "{text}");
    let (error, text) = refused("redis://lock:wrong-one@h?perfix=x").await;
    assert!(matches!(error, ConnectError::Address { .. }) && text.contains("perfix"), "{text}");
    #[cfg(not(feature = "etcd"))]
    {
        let (error, text) = refused("etcd://lock:wrong-one@h").await;
        assert!(matches!(error, ConnectError::MissingFeature { .. }), "{text}");
        assert!(text.contains("\"etcd\""), "{text}");
    }
}

#[tokio::test]
async fn a_missing_database_and_a_busy_server_are_refused() {
    let Some(server) = RedisServer::start() else { return };
    let (error, text) = refused(&(server.address() + "/99")).await;
    assert!(
        matches!(error, ConnectError::Unsuitable { .. }) && text.contains("DB index"),
        "{text}"
    );
    let _: () = server.say(&["CONFIG", "SET", "maxclients", "1"]);
    let held = loop {
        // The connection that set the limit may not be closed yet.
        let mut held = TcpStream::connect(("127.0.0.1", server.port)).await.unwrap();
        let mut response = [0; 5];
        let asked = held.write_all(b"PING\r\n").await.is_ok();
        if asked && held.read_exact(&mut response).await.is_ok() && response == *b"+PONG" {
            break held;
        }
    };
    let (error, text) = refused(&server.address()).await;
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{text}");
    assert!(text.contains("max number of clients"), "{text}");
    drop(held);
}

#[tokio::test]
async fn a_server_that_may_evict_a_held_lock_is_refused() {
    let setup = RedisSetup {
        extra: vec!["--maxmemory-policy".into(), "allkeys-lru".into()],
        ..RedisSetup::default()
    };
    let Some(server) = RedisServer::start_with(setup) else { return };
    let (error, text) = refused(&server.address()).await;
    assert!(matches!(error, ConnectError::Unsuitable { .. }), "{text}");
    assert!(text.contains("allkeys-lru") && text.contains("noeviction"), "{text}");
}

#[tokio::test]
async fn a_full_server_refuses_writes_and_loses_nothing() {
    let Some(server) = RedisServer::start() else { return };
    let redis = client(&server.address()).await;
    let held = put(&redis, &key("held"), None, write("held")).await;
    let _: () = server.say(&["CONFIG", "SET", "maxmemory", "1"]);
    for expected in [None, Some(held)] {
        let key = key(if expected.is_some() { "held" } else { "new" });
        let error = redis.compare_exchange(&key, expected, write("x")).await.unwrap_err();
        assert!(matches!(error, TransportError::Unavailable(_)), "{error}");
        assert!(error.to_string().contains("OOM"), "{error}");
    }
    // It still tells what it has.
    assert_eq!(redis.load(&key("held")).await.unwrap().unwrap().version, held);
    assert_eq!(redis.load(&key("new")).await.unwrap(), None);
    let mismatch = redis.compare_exchange(&key("held"), None, write("x")).await;
    assert!(matches!(mismatch, Ok(super::Exchange::Mismatch(Some(_)))), "{mismatch:?}");
    let _: () = server.say(&["CONFIG", "SET", "maxmemory", "0"]);
    put(&redis, &key("held"), Some(held), write("again")).await;
}

#[tokio::test]
async fn a_replica_is_refused_also_if_it_was_the_primary() {
    let Some(primary) = RedisServer::start() else { return };
    let port = primary.port.to_string();
    let setup = RedisSetup {
        extra: vec!["--replicaof".into(), format!("127.0.0.1 {port}")],
        ..RedisSetup::default()
    };
    let Some(replica) = RedisServer::start_with(setup).map(Arc::new) else { return };
    let (error, text) = refused(&replica.address()).await;
    assert!(matches!(error, ConnectError::Unsuitable { .. }) && text.contains("replica"), "{text}");

    let relay = Relay::new(primary.port);
    let redis = client(&primary.address_at(relay.port())).await;
    let version = put(&redis, &key("kept"), None, write("kept")).await;
    let arrived = || replica.say::<i64>(&["EXISTS", "{lockword}:kept"]) == 1;
    until("the replica has it", arrived).await;
    let _: () = primary.say(&["REPLICAOF", "127.0.0.1", &replica.port.to_string()]);
    let end = tokio::time::Instant::now() + Duration::from_secs(5);
    for expected in [Some(version), Some(version)] {
        let error = redis.compare_exchange(&key("kept"), expected, write("x")).await.unwrap_err();
        assert!(matches!(error, TransportError::Unavailable(_)), "{error}");
    }
    // The other is the primary now, and the address leads there: nothing else has to be done.
    let _: () = replica.say(&["REPLICAOF", "NO", "ONE"]);
    relay.lead_to(replica.port);
    while redis.compare_exchange(&key("back"), None, write("x")).await.is_err() {
        assert!(tokio::time::Instant::now() < end, "not back");
    }
    assert_eq!(replica.say::<i64>(&["EXISTS", "{lockword}:back"]), 1);
}

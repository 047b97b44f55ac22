//! Several servers, names with several addresses, and sockets that are files.

use super::*;
use crate::support::namespace::{Isolated, Namespace};
use crate::support::process::Folder;
use crate::support::relay::Relay;
use std::net::TcpListener;

/// An address that takes connections and says nothing.
fn silent(address: &str) -> TcpListener {
    TcpListener::bind(address).expect("a free port")
}

fn port(of: &TcpListener) -> u16 {
    of.local_addr().expect("it is bound").port()
}

async fn works(address: &str) {
    let began = Instant::now();
    let engine = client(address).await;
    put(&engine, "k", "v").await;
    println!("{address}: in {:?}", began.elapsed());
}

/// The one that is of no use is tried first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_server_is_tried_while_time_is_left() {
    let Some(server) = server().await else { return };
    let replica = server.replica();
    let silent = silent("127.0.0.1:0");
    let (silent, closed) = (port(&silent), crate::support::process::free_port());
    for first in [silent, closed, replica.port] {
        let servers = format!("127.0.0.1:{first},127.0.0.1:{}", server.port);
        let address =
            format!("postgres://postgres@{servers}/postgres?connect_timeout=2&timeout_ms=2000");
        let engine = lockword::cluster::connect(&address).await.expect("the second one is good");
        let made = engine.compare_exchange(&key("first"), None, value("v")).await;
        assert!(matches!(made, Ok(Exchange::Swapped(_) | Exchange::Mismatch(Some(_)))), "{made:?}");
        let by_builder = Postgres::builder(format!("127.0.0.1:{first}"))
            .server(format!("127.0.0.1:{}", server.port))
            .user("postgres")
            .database("postgres")
            .connect_timeout(ms(2000));
        assert!(by_builder.connect().await.is_ok(), "{first}");
        // The servers change their roles, or go: each new connection looks for the primary.
        if first == replica.port {
            replica.client().await.batch_execute("SELECT pg_promote()").await.unwrap();
            server.process.kill9();
            until("it follows", async || engine.load(&key("first")).await.is_ok()).await;
        }
    }
    // All are tried, and each is named.
    let servers = format!("127.0.0.1:{silent},127.0.0.1:{closed}");
    let address = format!("postgres://postgres@{servers}/postgres?connect_timeout=1");
    let began = Instant::now();
    let error = lockword::cluster::connect(&address).await.map(drop).unwrap_err();
    assert!(began.elapsed() < ms(2000), "{:?}", began.elapsed());
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error}");
    for port in [silent, closed] {
        assert!(error.to_string().contains(&format!("127.0.0.1:{port}: ")), "{error}");
    }
}

#[test]
fn all_addresses_of_a_name_are_tried_while_time_is_left() {
    let Some(server) = PostgresServer::start(PostgresSetup::default()) else { return };
    let namespace = match Namespace::isolated(Isolated::Mounts) {
        Ok(namespace) => namespace,
        Err(why) => return eprintln!("skipped: no mounts of its own: {why}"),
    };
    // One of the two is silent. The resolver may have an order of its own.
    let folder = Folder::new("hosts");
    let hosts = "127.0.0.1 localhost\n127.0.0.2 one\n127.0.0.1 one\n127.0.0.1 two\n127.0.0.2 two\n";
    std::fs::write(folder.file("hosts"), hosts).unwrap();
    for line in [
        "mount --make-rprivate /".to_owned(),
        format!("mount --bind {} /etc/hosts", folder.file("hosts")),
    ] {
        if let Err(why) = namespace.run_command(&line) {
            return eprintln!("skipped: it cannot be mounted: {why}");
        }
    }
    for (bad, good) in [("127.0.0.1", "127.0.0.2"), ("127.0.0.2", "127.0.0.1")] {
        let silent = silent(&format!("{bad}:0"));
        let port = port(&silent);
        let good = TcpListener::bind((good, port)).expect("a free port");
        let _relay = Relay::from(good, server.port);
        namespace.run(move || connect_by_names(port));
    }
}

fn connect_by_names(port: u16) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        for name in ["one", "two"] {
            let engine = Postgres::builder(format!("{name}:{port}"))
                .user("postgres")
                .database("postgres")
                .create_schema(true)
                .connect_timeout(ms(2000))
                .runtime(tokio::runtime::Handle::current());
            let engine = engine.connect().await.unwrap_or_else(|why| panic!("{name}: {why}"));
            put(&engine, "k", "v").await;
        }
    });
}

/// As libpq has it: the folder in the query.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_that_is_a_file_is_named_as_for_libpq() {
    let Some(server) = server().await else { return };
    let by_hand = server.client().await;
    let folder = server.file("").trim_end_matches('/').to_owned();
    let me = std::process::Command::new("id").arg("-un").output().unwrap();
    let me = String::from_utf8(me.stdout).unwrap();
    if me.trim() != "postgres" {
        by_hand.batch_execute(&format!("CREATE USER \"{}\" SUPERUSER", me.trim())).await.unwrap();
    }
    for address in [
        format!("postgres:///postgres?host={folder}&port={}", server.port),
        format!("postgresql:///postgres?port={}&host={}", server.port, folder.replace('/', "%2F")),
        format!("postgres:///postgres?host={folder}&port={}&user=postgres", server.port),
    ] {
        works(&address).await;
    }
}

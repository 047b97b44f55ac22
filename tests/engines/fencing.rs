//! The recipes of `lockword::cluster::fence`, against the resources that they are for. What runs here is
//! the text that the docs show: one file is included by both.

use lockword::cluster::{FencingToken, Key};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use tokio::runtime::Runtime;

#[cfg(feature = "etcd")]
mod etcd_recipe {
    use super::etcd_stand_in as etcd_client;
    include!("../../src/cluster/fence_recipes/etcd.rs");
}
/// What the recipe names of the crate `etcd-client`, which takes `protoc` to be built.
#[cfg(feature = "etcd")]
#[path = "etcd_stand_in.rs"]
mod etcd_stand_in;
#[path = "../../src/cluster/fence_recipes/object_store.rs"]
mod object_store_recipe;

/// One client of the resource: it writes a number with a token. Returns whether that was accepted.
type Writer<'a> = &'a (dyn Fn(FencingToken, i64) -> bool + Sync);

/// How often two writers race.
const RACES: u64 = 20;
/// How often the newer one of them writes.
const WRITES: i64 = 5;
/// How often the older one of them writes at most.
const ATTEMPTS: u32 = 100_000;

/// A token above 2^53. The next one has no other float.
fn token(number: u64) -> FencingToken {
    FencingToken::from_u64((1 << 60) + number)
}

/// Checks that the two clients of one resource are refused when they are late, and only then.
fn refuses_late_writers([one, two]: [Writer<'_>; 2], read: &dyn Fn() -> i64) {
    // Of fewer digits, and larger as text.
    assert!(one(FencingToken::from_u64(9), 0), "it is the first one");
    assert!(one(token(5), 1), "it is newer");
    assert!(!two(FencingToken::from_u64(9), 2), "it is late");
    assert!(one(token(5), 2), "the same holder may write again");
    assert!(two(token(6), 3), "it is newer");
    assert!(!one(token(5), 4), "it is late");
    assert_eq!(read(), 3);
    assert!(two(token(6), 5), "a refused token changes nothing");
    assert!(two(FencingToken::from_u64(1 << 61), 6), "it is newer");
    assert!(!one(token(7), 7), "it is late");
    assert_eq!(read(), 6);
    for race in 0..RACES {
        let old = FencingToken::from_u64((1 << 61) + 2 * race + 1);
        let new = FencingToken::from_u64(old.get() + 1);
        let is_in = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                let was_refused = (0..ATTEMPTS).any(|_| {
                    let is_late = is_in.load(Ordering::SeqCst);
                    let accepted = one(old, -1);
                    assert!(!(is_late && accepted), "{old} was accepted after {new}");
                    is_late
                });
                assert!(was_refused, "it was never late");
            });
            scope.spawn(|| {
                for number in 0..WRITES {
                    let accepted = two(new, number);
                    is_in.store(true, Ordering::SeqCst);
                    assert!(accepted, "{new} was refused");
                }
            });
        });
        assert_eq!(read(), WRITES - 1, "the newer one writes last");
    }
}

fn runtime() -> Runtime {
    Runtime::new().expect("threads can be started")
}

#[cfg(feature = "postgres")]
const SQL: &str = include_str!("../../src/cluster/fence_recipes/postgres.sql");

/// A server with a table of accounts, and two clients.
#[cfg(feature = "postgres")]
fn accounts(
    runtime: &Runtime,
) -> Option<(crate::support::postgres::PostgresServer, [tokio_postgres::Client; 2])> {
    use crate::support::postgres::{PostgresServer, PostgresSetup};
    let server = PostgresServer::start(PostgresSetup::default())?;
    let clients = [(), ()].map(|()| runtime.block_on(server.client()));
    let table = "CREATE TABLE accounts (id bigint PRIMARY KEY, balance bigint NOT NULL, \
        fence bigint NOT NULL DEFAULT 0); INSERT INTO accounts (id, balance) VALUES (7, 0)";
    runtime.block_on(clients[0].batch_execute(table)).expect("it runs");
    Some((server, clients))
}

#[cfg(feature = "postgres")]
#[test]
fn one_sql_statement_refuses_a_late_writer() {
    let runtime = runtime();
    let Some((_server, clients)) = accounts(&runtime) else { return };
    let write = |client: usize, token: FencingToken, balance: i64| {
        let token = token.get_i64();
        let changed = async { clients[client].execute(SQL, &[&token, &balance, &7_i64]).await };
        runtime.block_on(changed).expect("it runs") == 1
    };
    let read = || {
        let row = clients[0].query_one("SELECT balance FROM accounts WHERE id = 7", &[]);
        runtime.block_on(row).expect("it runs").get(0)
    };
    refuses_late_writers([&|token, n| write(0, token, n), &|token, n| write(1, token, n)], &read);
}

/// The statement goes first in a transaction: the next holder's waits for the end of all of it.
#[cfg(feature = "postgres")]
#[test]
fn a_transaction_of_a_late_writer_is_refused_as_a_whole() {
    let runtime = runtime();
    let Some((server, mut clients)) = accounts(&runtime) else { return };
    runtime.block_on(async {
        let looker = server.client().await;
        let [one, two] = &mut clients;
        let (old, new) = (token(1).get_i64(), token(2).get_i64());
        let first = one.transaction().await.expect("it runs");
        assert_eq!(first.execute(SQL, &[&old, &1_i64, &7_i64]).await.expect("it runs"), 1);
        let rest = "INSERT INTO accounts (id, balance) VALUES (8, 1)";
        let next = async {
            let next = two.transaction().await.expect("it runs");
            assert_eq!(next.execute(SQL, &[&new, &2_i64, &7_i64]).await.expect("it runs"), 1);
            let count = "SELECT count(*) FROM accounts";
            let count: i64 = next.query_one(count, &[]).await.expect("it runs").get(0);
            assert_eq!(count, 2, "the first transaction has ended before");
            next.commit().await.expect("it runs");
        };
        let commit = async {
            let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
            while looker.query_one(waits, &[]).await.expect("it runs").get::<_, i64>(0) == 0 {
                tokio::task::yield_now().await;
            }
            first.batch_execute(rest).await.expect("it runs");
            first.commit().await.expect("it runs");
        };
        tokio::join!(next, commit);
        let late = one.transaction().await.expect("it runs");
        assert_eq!(late.execute(SQL, &[&old, &3_i64, &7_i64]).await.expect("it runs"), 0);
        late.rollback().await.expect("it runs");
    });
}

#[cfg(feature = "redis")]
#[test]
fn a_script_of_redis_refuses_a_late_writer() {
    use crate::support::redis::RedisServer;
    let recipe = include_str!("../../src/cluster/fence_recipes/redis.lua");
    let Some(server) = RedisServer::start() else { return };
    let write = |token: FencingToken, balance: i64| {
        let (token, balance) = (token.to_string(), balance.to_string());
        server.say::<i64>(&["EVAL", recipe, "1", "accounts/7", &token, &balance]) == 1
    };
    let read = || server.say(&["HGET", "accounts/7", "value"]);
    refuses_late_writers([&write, &write], &read);
}

#[cfg(feature = "etcd")]
#[test]
fn a_transaction_of_etcd_refuses_a_late_writer() {
    use crate::support::etcd::EtcdServer;
    let Some(server) = EtcdServer::start() else { return };
    let runtime = runtime();
    let connect = || runtime.block_on(crate::support::etcd_client::connect(&server.url()));
    let clients = [connect(), connect()];
    let write = |client: usize, token: FencingToken, balance: i64| {
        let mut client = etcd_stand_in::Client(clients[client].clone());
        let balance = balance.to_string();
        let written = etcd_recipe::put(&mut client, "accounts/7", token, &balance);
        runtime.block_on(written).expect("it runs")
    };
    let read = || {
        let found = runtime.block_on(clients[0].get("accounts/7")).expect("it runs");
        found.expect("it is there").parse().expect("a number")
    };
    refuses_late_writers([&|token, n| write(0, token, n), &|token, n| write(1, token, n)], &read);
}

#[test]
fn a_conditional_put_refuses_a_late_writer() {
    use lockword::cluster::fence::CheckError;
    use object_store::{ObjectStoreExt, memory::InMemory, path::Path};
    let (store, path) = (InMemory::new(), Path::from("accounts/7"));
    let (runtime, key) = (runtime(), Key::new("accounts/7").expect("a name"));
    let write = |token: FencingToken, balance: i64| {
        let balance = balance.to_string();
        let put = object_store_recipe::put(&store, &path, &key, token, &balance);
        match runtime.block_on(put) {
            Ok(()) => true,
            Err(CheckError::Stale(stale)) => {
                assert!(stale.newest > token, "{stale}");
                false
            }
            Err(error) => panic!("{error}"),
        }
    };
    let read = || {
        let bytes = runtime.block_on(async { store.get(&path).await?.bytes().await });
        let bytes = bytes.expect("it is there");
        str::from_utf8(&bytes).expect("text").parse().expect("a number")
    };
    refuses_late_writers([&write, &write], &read);
}

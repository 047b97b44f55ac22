//! `layers::Sharded` over real engines: where the keys are, that waiters are woken over each shard, that a server that
//! is down takes only its own keys along, and how the list of shards changes.

use crate::suite::fixture::{LIMIT, LONG, client, soon, until};
use crate::support::engine::{Engine, Server};
use lockword::cluster::fence::Gate;
use lockword::cluster::layers::{ShardError, Sharded};
use lockword::cluster::{
    Key, LockError, LockStatus, Memory, Node, Transport, TransportError, connect,
};
use std::collections::BTreeSet;
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::sleep;

const LEASE: Duration = Duration::from_secs(3);

/// The register that says which list is in force.
const MARK: &str = "@lockword-shards";

/// For how long a node goes on with a list after it has seen the mark: as documented.
const RECHECK: Duration = Duration::from_secs(10);

/// Two engines under the names `a` and `b`.
struct Pair<A, B> {
    a: A,
    b: B,
}

impl<A: Engine, B: Engine> Pair<A, B> {
    /// `None`: skip the test.
    async fn start() -> Option<Self> {
        Some(Self { a: A::start().await?, b: B::start().await? })
    }

    /// With connections of its own.
    async fn list(&self) -> Sharded {
        list(&[("a", &self.a.address()), ("b", &self.b.address())]).await
    }
}

async fn list(shards: &[(&str, &str)]) -> Sharded {
    let mut engines = vec![];
    for (name, address) in shards {
        engines.push((*name, client(address).await));
    }
    Sharded::new(engines).unwrap()
}

fn node(list: &Sharded, lease: Duration) -> Node {
    let builder = Node::builder(list.clone()).lease(lease).unavailable_timeout(LIMIT * 2);
    // The first in the queue looks by itself after a third of this time.
    builder.handoff_lease(lease).build().unwrap()
}

fn key(name: &str) -> Key {
    Key::new(name).unwrap()
}

fn keys(count: usize) -> Vec<Key> {
    (0..count).map(|n| key(&format!("jobs/{n}"))).collect()
}

/// The first key of this shard that `is_fit`.
fn key_of(list: &Sharded, shard: &str, is_fit: impl Fn(&Key) -> bool) -> Key {
    let mut keys = (0..).map(|n| key(&format!("k{n}")));
    keys.find(|key| list.shard_of(key) == shard && is_fit(key)).unwrap()
}

/// The weight of a shard for a key, by the documented hash.
fn weight(shard: &str, key: &str) -> u64 {
    let fnv1a = |text: &str| {
        let step = |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        text.bytes().fold(0xcbf2_9ce4_8422_2325, step)
    };
    let mix = |z: u64| {
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    mix(fnv1a(key) ^ mix(fnv1a(shard)))
}

/// The keys of the registers at the engine of this address, without those of the list of shards.
async fn found_at(address: &str) -> BTreeSet<Key> {
    let listed = client(address).await.list("").await.unwrap();
    listed.into_iter().filter(|key| !key.as_str().starts_with(MARK)).collect()
}

/// Why a list was refused.
fn why(error: &LockError) -> &ShardError {
    let LockError::Transport { source, .. } = error else { panic!("{error}") };
    assert!(matches!(source, TransportError::Unsupported(_)), "{source}");
    let cause = source.source().and_then(|cause| cause.downcast_ref());
    cause.unwrap_or_else(|| panic!("{source}"))
}

async fn try_acquire(node: &Node, key: &Key) -> LockError {
    let tried = soon("an error", node.lock(key).unwrap().try_acquire()).await;
    tried.err().unwrap_or_else(|| panic!("{key} was granted"))
}

/// Each register is at the server that the hash names, and at no other one.
async fn keys_are_where_the_hash_says<A: Engine, B: Engine>() {
    let Some(pair) = Pair::<A, B>::start().await else { return };
    let list = pair.list().await;
    let member = node(&list, LONG);
    let mut guards = vec![];
    for key in keys(40) {
        guards.push(soon("the lock", member.lock(&key).unwrap().acquire()).await.unwrap());
    }
    let is_at_a = |key: &Key| weight("a", key.as_str()) > weight("b", key.as_str());
    let (a, b): (BTreeSet<_>, BTreeSet<_>) = keys(40).into_iter().partition(is_at_a);
    assert!(a.len() > 10 && b.len() > 10, "{} and {}", a.len(), b.len());
    assert_eq!(found_at(&pair.a.address()).await, a);
    assert_eq!(found_at(&pair.b.address()).await, b);
    for address in [pair.a.address(), pair.b.address()] {
        let mark = client(&address).await.load(&key(MARK)).await.unwrap().expect("a mark");
        let mark = String::from_utf8(mark.value.to_vec()).unwrap();
        assert!(mark.contains(r#""shards":{"a":0,"b":0}"#), "{mark}");
    }
    let mut all = keys(40);
    all.sort();
    assert_eq!(list.list("").await.unwrap(), all);
    for guard in guards {
        soon("the release", guard.release()).await.unwrap();
    }
}

/// Tasks of one node wait for a key of each shard, and hear of the release long before they would look by themselves.
async fn waiters_of_each_shard_are_woken<A: Engine, B: Engine>() {
    let Some(pair) = Pair::<A, B>::start().await else { return };
    let (first, second) = (pair.list().await, pair.list().await);
    let (one, two) = (node(&first, LONG), node(&second, LONG));
    for _ in 0..3 {
        let (mut held, mut waiting) = (vec![], vec![]);
        for shard in ["a", "b"] {
            let key = key_of(&first, shard, |_| true);
            held.push(soon("the lock", one.lock(&key).unwrap().acquire()).await.unwrap());
            let lock = two.lock(&key).unwrap();
            waiting.push(tokio::spawn(async move { lock.acquire().await }));
            until("it waits", async || {
                let queue = one.inspect(&key).await.unwrap().queue;
                queue.iter().any(|queued| queued.node == two.id())
            })
            .await;
        }
        for (held, waiting) in held.into_iter().zip(waiting) {
            let (token, began) = (held.token(), Instant::now());
            soon("the release", held.release()).await.unwrap();
            let next = soon("the lock", waiting).await.unwrap().unwrap();
            // Without a notice it looks three times in a lease.
            assert!(began.elapsed() < LONG / 6, "{:?}", began.elapsed());
            assert!(next.token() > token, "{} after {token}", next.token());
            soon("the release", next.release()).await.unwrap();
        }
    }
}

/// Its keys are lost and refused, with its name. Those of the other one are kept, and locked.
async fn a_dead_server_takes_only_its_own_keys_along<A: Engine, B: Server>() {
    let Some(pair) = Pair::<A, B>::start().await else { return };
    let list = pair.list().await;
    let (member, other) = (node(&list, LEASE), node(&pair.list().await, LEASE));
    let (good, bad) = (key_of(&list, "a", |_| true), key_of(&list, "b", |_| true));
    let kept = soon("the lock", member.lock(&good).unwrap().acquire()).await.unwrap();
    let lost = soon("the lock", member.lock(&bad).unwrap().acquire()).await.unwrap();
    pair.b.process().kill9();
    let reason = soon("the loss", lost.lost()).await.to_string();
    let named = |text: &str| assert!(text.contains("the shard \"b\": "), "{text}");
    named(&reason);
    let end = Instant::now() + LEASE * 2;
    while Instant::now() < end {
        assert!(kept.is_valid(), "it is renewed");
        named(&try_acquire(&member, &bad).await.to_string());
        named(&try_acquire(&other, &bad).await.to_string());
        assert!(matches!(try_acquire(&other, &good).await, LockError::Busy { .. }));
        let free = key_of(&list, "a", |key| *key != good);
        let guard = soon("the lock", other.lock(&free).unwrap().acquire()).await.unwrap();
        soon("the release", guard.release()).await.unwrap();
        sleep(Duration::from_millis(100)).await;
    }
    soon("the release", kept.release()).await.unwrap();
    // A program that starts now cannot even connect to it.
    assert!(connect(&pair.b.address()).await.is_err(), "it is down");
    pair.b.process().restart();
    for key in [&good, &bad] {
        let guard = soon("the lock", other.lock(key).unwrap().acquire()).await.unwrap();
        soon("the release", guard.release()).await.unwrap();
    }
}

/// Before it asks for a lock, and also if all of its servers are those of the list in force.
async fn a_node_with_another_list_is_refused<A: Engine, B: Engine>() {
    let Some(pair) = Pair::<A, B>::start().await else { return };
    let [a, b] = [pair.a.address(), pair.b.address()];
    pair.list().await.check().await.unwrap();
    list(&[("b", &b), ("a", &a)]).await.check().await.expect("the order does not matter");
    let more: [(&str, Arc<dyn Transport>); 3] =
        [("a", client(&a).await), ("b", client(&b).await), ("c", Arc::new(Memory::new()))];
    // Two addresses were exchanged: each shard would have the keys of the other one.
    let exchanged = list(&[("a", &b), ("b", &a)]).await;
    for (other, is_exchanged) in [
        (list(&[("a", &a)]).await, false),
        (list(&[("b", &b)]).await, false),
        (Sharded::new(more).unwrap(), false),
        (exchanged, true),
    ] {
        let is_refused = |error: &ShardError| match error {
            ShardError::Differs { .. } => !is_exchanged,
            ShardError::Misnamed { .. } => is_exchanged,
            _ => false,
        };
        let error = other.check().await.unwrap_err();
        assert!(is_refused(&error), "{other:?}: {error}");
        let member = node(&other, LEASE);
        for shard in other.names() {
            let error = try_acquire(&member, &key_of(&other, shard, |_| true)).await;
            assert!(is_refused(why(&error)), "{other:?}: {error}");
        }
    }
    assert!(found_at(&a).await.is_empty() && found_at(&b).await.is_empty(), "nothing was locked");
}

macro_rules! tests {
    ($($test:ident)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $test() {
            super::$test::<A, B>().await;
        }
    )*};
}

/// Each test with each pair of engines.
macro_rules! pairs {
    ($(#[$when:meta] $name:ident: $a:ty, $b:ty;)*) => {$(
        #[$when]
        mod $name {
            type A = $a;
            type B = $b;

            tests! {
                keys_are_where_the_hash_says
                waiters_of_each_shard_are_woken
                a_dead_server_takes_only_its_own_keys_along
                a_node_with_another_list_is_refused
            }
        }
    )*};
}

pairs! {
    #[cfg(feature = "redis")]
    two_of_redis: crate::support::redis::DurableRedis, crate::support::redis::DurableRedis;
    #[cfg(all(feature = "postgres", target_os = "linux"))]
    a_directory_and_postgres:
        crate::support::dir::DirFolder, crate::support::postgres::PostgresServer;
    #[cfg(all(feature = "etcd", feature = "redis"))]
    etcd_and_redis: crate::support::etcd::EtcdServer, crate::support::redis::DurableRedis;
}

#[cfg(all(feature = "etcd", feature = "postgres", feature = "redis"))]
mod changes {
    use super::*;
    use crate::support::etcd::EtcdServer;
    use crate::support::postgres::PostgresServer;
    use crate::support::redis::DurableRedis;
    use lockword::cluster::DistributedGuard;

    /// The longest that a node with an old list can go on.
    fn outlasts(lease: Duration) -> Duration {
        (RECHECK + lease) * 5 / 4
    }

    async fn acquire(node: &Node, key: &Key, gate: &Gate) -> DistributedGuard {
        let guard = soon("the lock", node.lock(key).unwrap().acquire()).await.unwrap();
        gate.pass(key, guard.token()).unwrap_or_else(|stale| panic!("{key}: {stale}"));
        guard
    }

    /// A node that was not stopped is out before the change ends; the keys that have moved are at the new server, whose
    /// own versions are smaller, and their tokens go on growing.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_shard_is_added_while_a_node_goes_on() {
        let Some(pair) = Pair::<DurableRedis, PostgresServer>::start().await else { return };
        let Some(added) = <EtcdServer as Engine>::start().await else { return };
        let [a, b, c] = [pair.a.address(), Engine::address(&pair.b), Engine::address(&added)];
        let (old, gate) = (pair.list().await, Gate::new());
        let new = list(&[("a", &a), ("b", &b), ("c", &c)]).await;
        let member = node(&old, LEASE);
        let (moved, stays): (Vec<_>, Vec<_>) =
            keys(40).into_iter().partition(|key| new.shard_of(key) == "c");
        assert!(!moved.is_empty() && stays.iter().all(|k| new.shard_of(k) == old.shard_of(k)));
        for key in keys(40) {
            acquire(&member, &key, &gate).await.release().await.unwrap();
        }
        let held = [&moved[0], &stays[0]];
        let [goes, is_kept] =
            [acquire(&member, held[0], &gate).await, acquire(&member, held[1], &gate).await];
        let newcomer = node(&new, LEASE);
        for key in held {
            let error = try_acquire(&newcomer, key).await;
            let in_force = matches!(why(&error), ShardError::Differs { .. });
            assert!(in_force, "{error}");
        }
        // Not even the new server has a lock yet: its mark is written by the change.
        assert!(found_at(&c).await.is_empty());
        let began = Instant::now();
        old.change_to(&new, LEASE).await.unwrap();
        assert!(began.elapsed() >= outlasts(LEASE), "{:?}", began.elapsed());
        assert!(!goes.is_valid() && !is_kept.is_valid(), "no lease outlasts the change");
        for key in held {
            let error = try_acquire(&member, key).await;
            assert!(matches!(why(&error), ShardError::Differs { .. }), "{error}");
        }
        for key in keys(40) {
            acquire(&newcomer, &key, &gate).await.release().await.unwrap();
        }
        assert_eq!(found_at(&c).await, moved.iter().cloned().collect());
        // The old registers stay where they were, and are not listed.
        assert_eq!(new.list("").await.unwrap().len(), 40);
        let status = newcomer.inspect(held[0]).await.unwrap().status;
        assert_eq!(status, LockStatus::Free);
    }

    /// While the change is not done, no list is in force; a server that is down is named; the next call goes on.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_change_that_was_cut_off_locks_nothing_until_it_is_done() {
        let Some(pair) = Pair::<EtcdServer, DurableRedis>::start().await else { return };
        let (from, gate) = (pair.list().await, Gate::new());
        let to = list(&[("b", &pair.b.address())]).await;
        let (old, new) = (node(&from, LEASE), node(&to, LEASE));
        for key in keys(20) {
            acquire(&old, &key, &gate).await.release().await.unwrap();
        }
        // It ends in the middle, when both marks are closed.
        let started = tokio::time::timeout(outlasts(LEASE) / 4, from.change_to(&to, LEASE)).await;
        assert!(started.is_err(), "it is to wait for the leases: {started:?}");
        for list in [&pair.list().await, &to] {
            for shard in list.names() {
                let error = try_acquire(&node(list, LEASE), &key_of(list, shard, |_| true)).await;
                assert!(matches!(why(&error), ShardError::Changing { .. }), "{error}");
            }
        }
        pair.b.process().kill9();
        let error = from.change_to(&to, LEASE).await.unwrap_err();
        let named = matches!(&error, ShardError::Engine { shard, .. } if shard == "b");
        assert!(named, "{error}");
        pair.b.process().restart();
        from.change_to(&to, LEASE).await.unwrap();
        from.change_to(&to, LEASE).await.expect("it is done");
        for key in keys(20) {
            acquire(&new, &key, &gate).await.release().await.unwrap();
        }
        assert_eq!(found_at(&pair.b.address()).await, keys(20).into_iter().collect());
        let error = try_acquire(&old, &keys(1)[0]).await;
        assert!(matches!(why(&error), ShardError::Differs { .. }), "{error}");
    }
}

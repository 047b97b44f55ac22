//! Fork: the child leaves the connection to its parent. See `tests/cluster/fork.rs`.

use super::{RedisServer, client, key};
use crate::child::alone;
use crate::forked::Forked;
use futures_util::FutureExt;
use lockword::cluster::engines::redis::Redis;
use lockword::cluster::{Key, LockError, Node, Observer, Transport, TransportError, blocking};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};

const LIMIT: Duration = Duration::from_secs(30);
const LEASE: Duration = Duration::from_millis(600);

#[derive(Clone, Default)]
struct Renewals(Arc<AtomicU32>);

impl Observer for Renewals {
    fn renewed(&self, _: &Key) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

struct Inherited {
    redis: Arc<Redis>,
    node: blocking::Node,
    dropped: blocking::Guard,
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn child(had: Inherited, address: &str, step: &AtomicU32) -> Result<(), &'static str> {
    let check = |is_so: bool, what| if is_so { Ok(()) } else { Err(what) };
    let Inherited { redis, node, dropped } = had;
    step.store(1, Ordering::SeqCst);
    check(!dropped.is_valid(), "a guard is valid")?;
    let load = redis.load(&key("kept")).now_or_never();
    check(matches!(load, Some(Err(TransportError::Unavailable(_)))), "a request is sent")?;
    let error = node.lock("kept").map_err(|_| "a key")?.acquire_timeout(LIMIT);
    check(matches!(error, Err(LockError::Closed { .. })), "acquire")?;
    drop((dropped, node, redis));
    step.store(2, Ordering::SeqCst);
    let own = runtime().block_on(client(address));
    let own = Node::builder(own).lease(LEASE).build().map_err(|_| "no node")?.blocking();
    let guard = own.lock("own").map_err(|_| "a key")?.acquire().map_err(|_| "its own lock")?;
    // The parent holds it, and is asked by the connection of the child.
    let error = own.lock("kept").map_err(|_| "a key")?.try_acquire();
    check(matches!(error, Err(LockError::Busy { .. })), "the parent's lock is free")?;
    guard.release().map_err(|_| "its own lock was lost")
}

#[test]
fn a_child_leaves_the_connection_to_its_parent() {
    alone("redis::fork::a_child_leaves_the_connection_to_its_parent", 3 * LIMIT, || {
        let Some(server) = RedisServer::start() else { return };
        let connections = || {
            let list: String = server.say(&["CLIENT", "LIST"]);
            let own = list.lines().filter(|line| line.contains("resp=3"));
            own.filter_map(|line| line.split(' ').next().map(str::to_owned)).collect::<Vec<_>>()
        };
        let renewals = Renewals::default();
        let redis = Arc::new(runtime().block_on(client(&server.address())));
        let builder = Node::builder(redis.clone()).lease(LEASE).observer(renewals.clone());
        let node = builder.build().unwrap().blocking();
        let kept = node.lock("kept").unwrap().acquire().unwrap();
        let dropped = node.lock("dropped").unwrap().acquire().unwrap();
        let before = connections();
        assert_eq!(before.len(), 1, "{before:?}");

        let mut had = Some(Inherited { redis, node, dropped });
        let forked =
            Forked::start(|step| child(had.take().ok_or("once")?, &server.address(), step));
        forked.expect_success(LIMIT);

        let (first, began) = (renewals.0.load(Ordering::SeqCst), Instant::now());
        while renewals.0.load(Ordering::SeqCst) < first + 4 {
            assert!(began.elapsed() < LIMIT, "no renewals");
            thread::yield_now();
        }
        let Inherited { dropped, .. } = &had.expect("the child alone has taken it");
        assert!(kept.is_valid() && dropped.is_valid());
        kept.release().unwrap();
        assert_eq!(connections(), before, "the connection was replaced");
    });
}

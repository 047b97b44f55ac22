//! Fork: the child leaves the connections to its parent. See `tests/cluster/fork.rs`.

use super::fixture::KEY;
use crate::child::alone;
use crate::forked::Forked;
use crate::support::engine::Server;
use futures_util::FutureExt;
use lockword::cluster::{Key, LockError, Node, Observer, Transport, TransportError, blocking};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use tokio::runtime::Builder;

const LIMIT: Duration = Duration::from_secs(30);
/// Long enough for a disk that is busy with the other tests.
const LEASE: Duration = Duration::from_secs(6);

#[derive(Clone, Default)]
struct Renewals(Arc<AtomicU32>);

impl Observer for Renewals {
    fn renewed(&self, _: &Key, _: Duration) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// The sockets of this process that are connected to a server: their inodes.
fn connections_to(port: u16) -> BTreeSet<String> {
    let own = std::fs::read_dir("/proc/self/fd").expect("procfs");
    let own = own.filter_map(|fd| fd.ok()?.path().read_link().ok());
    let own: Vec<_> = own.map(|to| to.to_string_lossy().into_owned()).collect();
    let table = std::fs::read_to_string("/proc/self/net/tcp").expect("procfs");
    let sockets = table.lines().filter_map(|line| {
        // Number, local and remote address, state, five more, inode.
        let fields: Vec<_> = line.split_whitespace().collect();
        let is_meant = fields.get(2)?.ends_with(&format!(":{port:04X}")) && fields[3] == "01";
        is_meant.then(|| fields[9].to_owned())
    });
    sockets.filter(|inode| own.contains(&format!("socket:[{inode}]"))).collect()
}

struct Inherited {
    engine: Arc<dyn Transport>,
    node: blocking::Node,
    dropped: blocking::Guard,
}

fn connect(address: &str) -> Result<Arc<dyn Transport>, &'static str> {
    blocking::connect(address).map_err(|_| "it does not connect")
}

fn child(had: Inherited, address: &str, step: &AtomicU32) -> Result<(), &'static str> {
    let check = |is_so: bool, what| if is_so { Ok(()) } else { Err(what) };
    let Inherited { engine, node, dropped } = had;
    step.store(1, Ordering::SeqCst);
    check(!dropped.is_valid(), "a guard is valid")?;
    let key = Key::new(KEY).map_err(|_| "a key")?;
    let load = engine.load(&key).now_or_never();
    check(matches!(load, Some(Err(TransportError::Unavailable(_)))), "a request is sent")?;
    let error = node.lock(KEY).map_err(|_| "a key")?.acquire_timeout(LIMIT);
    check(matches!(error, Err(LockError::Closed { .. })), "acquire")?;
    drop((dropped, node, engine));
    step.store(2, Ordering::SeqCst);
    let own = Node::builder(connect(address)?).lease(LEASE).build();
    let own = own.map_err(|_| "no node")?.blocking();
    let guard = own.lock("own").map_err(|_| "a key")?.acquire().map_err(|_| "its own lock")?;
    // The parent holds it, and is asked by the connection of the child.
    let error = own.lock(KEY).map_err(|_| "a key")?.try_acquire();
    if !matches!(error, Err(LockError::Busy { .. })) {
        eprintln!("{error:?}");
        return Err("the parent's lock is free");
    }
    guard.release().map_err(|_| "its own lock was lost")
}

/// `name` is that of the test.
fn a_child_leaves_the_connections_to_its_parent<E: Server>(name: &str) {
    alone(name, 3 * LIMIT, || {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let Some(server) = runtime.block_on(E::start()) else { return };
        let renewals = Renewals::default();
        let engine = connect(&server.address()).unwrap();
        let builder = Node::builder(engine.clone()).lease(LEASE).observer(renewals.clone());
        let node = builder.build().unwrap().blocking();
        let kept = node.lock(KEY).unwrap().acquire().unwrap();
        let dropped = node.lock("dropped").unwrap().acquire().unwrap();

        let before = connections_to(server.port());
        assert!(!before.is_empty());

        let mut had = Some(Inherited { engine, node, dropped });
        let forked =
            Forked::start(|step| child(had.take().ok_or("once")?, &server.address(), step));
        forked.expect_success(LIMIT);

        let (first, began) = (renewals.0.load(Ordering::SeqCst), Instant::now());
        // Both locks, and what was on its way.
        while renewals.0.load(Ordering::SeqCst) < first + 4 {
            assert!(began.elapsed() < LIMIT, "no renewals");
            thread::yield_now();
        }
        let Inherited { dropped, .. } = &had.expect("the child alone has taken it");
        assert!(kept.is_valid() && dropped.is_valid());
        kept.release().unwrap();
        assert_eq!(connections_to(server.port()), before, "a connection was replaced");
    });
}

macro_rules! engines {
    ($($feature:literal $engine:ident: $server:ty;)*) => {$(
        #[cfg(feature = $feature)]
        #[test]
        fn $engine() {
            a_child_leaves_the_connections_to_its_parent::<$server>(
                concat!("suite::fork::", stringify!($engine)),
            );
        }
    )*};
}

engines! {
    "etcd" etcd: crate::support::etcd::EtcdServer;
    "postgres" postgres: crate::support::postgres::PostgresServer;
    "redis" redis: crate::support::redis::DurableRedis;
}

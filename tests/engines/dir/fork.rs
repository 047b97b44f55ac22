//! Fork: the child leaves the transport to its parent. See `tests/cluster/fork.rs`.

use super::{key, open, place};
use crate::child::alone;
use crate::forked::Forked;
use futures_util::FutureExt;
use lockword::cluster::{Dir, LockError, Node, NodeId, Transport, TransportError, Watch, blocking};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};

const LIMIT: Duration = Duration::from_secs(30);

struct Inherited {
    dir: Arc<Dir>,
    node: blocking::Node,
    watch: Watch,
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn child(had: Inherited, path: &str, step: &AtomicU32) -> Result<(), &'static str> {
    let check = |is_so: bool, what| if is_so { Ok(()) } else { Err(what) };
    let Inherited { dir, node, mut watch } = had;
    step.store(1, Ordering::SeqCst);
    let load = dir.load(&key("kept")).now_or_never();
    check(matches!(load, Some(Err(TransportError::Unavailable(_)))), "a request is made")?;
    check(matches!(dir.tied(&key("kept")).now_or_never(), Some(Err(_))), "a tie is looked at")?;
    let item = futures_util::StreamExt::next(&mut watch).now_or_never();
    check(matches!(item, Some(None)), "the watch goes on")?;
    drop((watch, node, dir));
    step.store(2, Ordering::SeqCst);
    let own = runtime().block_on(open(path));
    let own = Node::builder(own).build().map_err(|_| "no node")?.blocking();
    let guard = own.lock("own").map_err(|_| "a key")?.acquire().map_err(|_| "its own lock")?;
    // The parent holds it.
    let error = own.lock("kept").map_err(|_| "a key")?.try_acquire();
    check(matches!(error, Err(LockError::Busy { .. })), "the parent's lock is free")?;
    guard.release().map_err(|_| "its own lock was lost")
}

#[test]
fn a_child_leaves_the_transport_to_its_parent() {
    alone("dir::fork::a_child_leaves_the_transport_to_its_parent", 3 * LIMIT, || {
        let (_folder, path) = place();
        let dir = Arc::new(runtime().block_on(open(&path)));
        let watch = runtime().block_on(dir.watch(&key("kept"), NodeId::new(1))).unwrap();
        let node = Node::builder(dir.clone()).build().unwrap().blocking();
        let kept = node.lock("kept").unwrap().acquire().unwrap();
        let mut had = Some(Inherited { dir, node, watch });
        let forked = Forked::start(|step| child(had.take().ok_or("once")?, &path, step));
        forked.expect_success(LIMIT);
        assert!(kept.is_valid());
        kept.release().unwrap();
        // The parent's watch goes on.
        let Inherited { mut watch, .. } = had.expect("the child alone has taken it");
        let seen = runtime().block_on(futures_util::StreamExt::next(&mut watch));
        assert!(seen.expect("an item").is_ok());
    });
}

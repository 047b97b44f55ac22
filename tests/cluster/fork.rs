//! Fork: the child has copies of its parent's nodes and guards, and no part in them.
//!
//! Each test runs in a process of its own. The threads of the parent neither start nor end at the fork:
//! see `support/gate.rs`.

use crate::child::alone;
use crate::forked::Forked;
use crate::support::ms;
use futures_util::FutureExt;
use lockword::cluster::{
    DistributedGuard, KeyStates, LockError, LossReason, Memory, Node, NodeBuilder, Observer,
    PublishError, ReleaseError, Transport, TransportError,
};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tokio::runtime::Builder;

/// How long a child may take, on a busy machine too.
const LIMIT: Duration = Duration::from_secs(30);

const LEASE: Duration = Duration::from_millis(500);

/// What the parent had at the fork.
struct Inherited {
    engine: Memory,
    node: Node,
    dropped: DistributedGuard,
    released: DistributedGuard,
    followed: KeyStates,
}

/// `Some(Ok)`: a future that was ready at once.
fn is_closed<T>(result: Option<Result<T, LockError>>) -> bool {
    matches!(result, Some(Err(LockError::Closed { .. })))
}

/// The child has begun what is its own.
static HAS_OWN: AtomicBool = AtomicBool::new(false);

/// What the child does. It returns errors and does not panic, since it is a fork of a test harness.
fn child(had: Inherited, step: &AtomicU32) -> Result<(), &'static str> {
    let begin = |number| step.store(number, Ordering::SeqCst);
    let check = |is_so: bool, what| if is_so { Ok(()) } else { Err(what) };
    let Inherited { engine, node, dropped, released, mut followed } = had;

    begin(1);
    check(!dropped.is_valid() && dropped.remaining().is_zero(), "a guard is valid")?;
    check(dropped.lost().now_or_never() == Some(LossReason::Closed), "a guard is not lost")?;

    begin(2);
    for key in ["dropped", "new"] {
        let lock = node.lock(key).map_err(|_| "a key")?;
        check(is_closed(lock.acquire().now_or_never()), "acquire")?;
        check(is_closed(lock.try_acquire().now_or_never()), "try_acquire")?;
        check(is_closed(lock.acquire_timeout(LIMIT).now_or_never()), "acquire_timeout")?;
        check(is_closed(node.inspect(key).now_or_never()), "inspect")?;
        check(is_closed(node.break_lock(key).now_or_never()), "break_lock")?;
    }

    begin(3);
    let blocking = node.blocking();
    let lock = blocking.lock("dropped").map_err(|_| "a key")?;
    check(is_closed(Some(lock.acquire())), "blocking acquire")?;
    check(is_closed(Some(lock.try_acquire())), "blocking try_acquire")?;
    check(is_closed(Some(lock.acquire_timeout(LIMIT))), "blocking acquire_timeout")?;
    check(is_closed(Some(blocking.inspect("dropped"))), "blocking inspect")?;
    check(is_closed(Some(blocking.break_lock("dropped"))), "blocking break_lock")?;
    let mut states = blocking.observe("dropped").map_err(|_| "a key")?;
    check(is_closed(states.next()) && states.next().is_none(), "blocking observe")?;
    check(blocking.shutdown() == Default::default(), "blocking shutdown")?;
    let is_closed_stream = |states: &mut KeyStates| {
        is_closed(states.next().now_or_never().flatten())
            && matches!(states.next().now_or_never(), Some(None))
    };
    check(is_closed_stream(&mut followed), "a stream of the parent")?;
    check(is_closed_stream(&mut node.observe("k").map_err(|_| "a key")?), "observe")?;
    let published = dropped.publish("x").now_or_never();
    let is_lost = matches!(published, Some(Err(PublishError::Lost { .. })));
    check(is_lost, "publish")?;
    let job = node.periodic_job("dropped", LIMIT).map_err(|_| "a key")?;
    check(job.start().now_or_never().is_some_and(|started| started.is_err()), "a job")?;
    drop((states, followed, job));

    begin(4);
    let release = released.release().now_or_never();
    let is_lost = matches!(release, Some(Err(ReleaseError::Lost { why: LossReason::Closed, .. })));
    check(is_lost, "release")?;
    drop(dropped);
    check(node.shutdown().now_or_never() == Some(Default::default()), "shutdown")?;
    let key = "dropped".try_into().map_err(|_| "a key")?;
    let load = engine.load(&key).now_or_never();
    check(matches!(load, Some(Err(TransportError::Unavailable(_)))), "the engine answers")?;
    drop((lock, blocking, node, engine));

    begin(5);
    // A node of its own, on a thread of its own.
    HAS_OWN.store(true, Ordering::SeqCst);
    let own = Node::builder(Memory::new()).lease(LEASE).build().map_err(|_| "no node")?.blocking();
    let lock = own.lock("own").map_err(|_| "a key")?;
    let first = lock.acquire().map_err(|_| "the child's own lock is not granted")?;
    let deadline = Instant::now() + 2 * LEASE;
    while Instant::now() < deadline {
        std::thread::yield_now();
    }
    check(first.is_valid(), "the child's own lock is not renewed")?;
    first.release().map_err(|_| "the child's own lock was lost")?;
    check(own.shutdown().indeterminate.is_empty(), "the child's own shutdown")
}

/// Counts the renewals of one key.
#[derive(Clone, Default)]
struct Renewals(Arc<AtomicU32>);

impl Observer for Renewals {
    fn renewed(&self, key: &lockword::cluster::Key, _: Duration) {
        self.0.fetch_add(u32::from(key.as_str() == "kept"), Ordering::SeqCst);
    }
}

/// Forks in a task, while guards are held.
async fn parent(build: impl FnOnce(NodeBuilder) -> NodeBuilder) {
    let (engine, renewals) = (Memory::new(), Renewals::default());
    let builder = Node::builder(engine.clone()).lease(LEASE).observer(renewals.clone());
    let node = build(builder).build().unwrap();
    let acquire = async |key| node.lock(key).unwrap().acquire().await.unwrap();
    let kept = acquire("kept").await;
    let (dropped, released) = (acquire("dropped").await, acquire("released").await);
    // A call that is in progress at the fork, and polled in both.
    let lock = node.lock("kept").unwrap();
    let mut waits = pin!(lock.acquire());
    assert!(waits.as_mut().now_or_never().is_none());

    let mut followed = node.observe("kept").unwrap();
    followed.next().await.unwrap().unwrap();
    let mut had = Some(Inherited { engine, node: node.clone(), dropped, released, followed });
    let forked = Forked::start(|step| {
        let closed = waits.as_mut().now_or_never();
        if !is_closed(closed) {
            return Err("a call that was in progress");
        }
        child(had.take().ok_or("once")?, step)
    });
    forked.expect_success(LIMIT);

    // The parent goes on: its locks are renewed, and are valid and its own.
    let (before, began) = (renewals.0.load(Ordering::SeqCst), Instant::now());
    while renewals.0.load(Ordering::SeqCst) < before + 4 {
        assert!(began.elapsed() < LIMIT, "no renewals");
        tokio::time::sleep(ms(1)).await;
    }
    let Inherited { dropped, released, mut followed, .. } =
        had.expect("the child alone has taken it");
    kept.publish("x").await.unwrap();
    followed.next().await.unwrap().unwrap();
    assert!(kept.is_valid() && dropped.is_valid() && released.is_valid());
    released.release().await.unwrap();
    drop(dropped);
    kept.release().await.unwrap();
    assert!(waits.await.unwrap().is_valid());
    assert_eq!(node.shutdown().await.indeterminate, []);
}

fn in_a_task(test: &str, given: bool) {
    alone(test, 3 * LIMIT, || {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let handle = runtime.handle().clone();
        let build = move |builder: NodeBuilder| match given {
            true => builder.runtime(handle),
            false => builder,
        };
        runtime.block_on(async {
            // Both workers are there before.
            tokio::join!(tokio::task::yield_now(), tokio::time::sleep(ms(1)));
            parent(build).await;
        });
    });
}

#[test]
fn a_child_is_out_at_once_and_its_parent_goes_on() {
    in_a_task("fork::a_child_is_out_at_once_and_its_parent_goes_on", false);
}

#[test]
fn so_it_is_on_a_runtime_that_was_given() {
    in_a_task("fork::so_it_is_on_a_runtime_that_was_given", true);
}

/// A subscriber may hold a mutex at the fork. The child does not call it for what its parent has begun.
#[cfg(feature = "tracing")]
#[test]
fn a_subscriber_is_not_called_in_a_child() {
    let body = || {
        let subscriber = subscriber::OfParent::default();
        ::tracing::subscriber::set_global_default(subscriber).unwrap();
        subscriber::in_runtime(parent(|builder| builder));
    };
    alone("fork::a_subscriber_is_not_called_in_a_child", 3 * LIMIT, body);
}

#[cfg(feature = "tracing")]
mod subscriber {
    //! One that ends a child which calls it for what is its parent's.

    use super::HAS_OWN;
    use ::tracing::span::{Attributes, Id, Record};
    use ::tracing::{Event, Metadata, Subscriber};
    use std::sync::atomic::{AtomicU64, Ordering};

    pub struct OfParent {
        parent: u32,
        spans: AtomicU64,
    }

    impl Default for OfParent {
        fn default() -> Self {
            Self { parent: std::process::id(), spans: AtomicU64::new(0) }
        }
    }

    impl OfParent {
        fn called(&self) {
            if std::process::id() != self.parent && !HAS_OWN.load(Ordering::SeqCst) {
                std::process::abort();
            }
        }
    }

    impl Subscriber for OfParent {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }

        fn new_span(&self, _: &Attributes<'_>) -> Id {
            self.called();
            Id::from_u64(self.spans.fetch_add(1, Ordering::SeqCst) + 1)
        }

        fn record(&self, _: &Id, _: &Record<'_>) {
            self.called();
        }

        fn record_follows_from(&self, _: &Id, _: &Id) {
            self.called();
        }

        fn event(&self, _: &Event<'_>) {
            self.called();
        }

        fn enter(&self, _: &Id) {
            self.called();
        }

        fn exit(&self, _: &Id) {
            self.called();
        }

        fn try_close(&self, _: Id) -> bool {
            self.called();
            true
        }
    }

    /// On two workers that are there before the fork.
    pub fn in_runtime(future: impl Future<Output = ()>) {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            tokio::join!(tokio::task::yield_now(), tokio::time::sleep(super::ms(1)));
            future.await;
        });
    }
}

/// Other threads use the node at the fork, and hold its mutexes now and then.
#[test]
fn a_mutex_that_was_held_at_the_fork_holds_nobody_up() {
    const ROUNDS: u32 = 200;
    alone("fork::a_mutex_that_was_held_at_the_fork_holds_nobody_up", 3 * LIMIT, || {
        let node = Node::builder(Memory::new()).build().unwrap();
        let lock = node.blocking().lock("k").unwrap();
        let kept = node.blocking().lock("kept").unwrap().acquire().unwrap();
        let ends = AtomicBool::new(false);
        let started = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    started.fetch_add(1, Ordering::SeqCst);
                    while !ends.load(Ordering::SeqCst) {
                        let clone = lock.clone();
                        let _other = node.lock("other").unwrap();
                        let _valid = kept.is_valid();
                        drop(clone.acquire().unwrap());
                    }
                });
            }
            while started.load(Ordering::SeqCst) < 2 {
                std::thread::yield_now();
            }
            // Also if a round fails.
            let _end = SetOnDrop(&ends);
            for _ in 0..ROUNDS {
                let forked = Forked::start(|step| {
                    step.store(1, Ordering::SeqCst);
                    let is_out = !kept.is_valid()
                        && is_closed(Some(lock.acquire()))
                        && is_closed(Some(lock.acquire_timeout(LIMIT)))
                        && is_closed(node.lock("other").unwrap().acquire().now_or_never())
                        && is_closed(Some(node.blocking().inspect("k")));
                    if !is_out {
                        return Err("a call works");
                    }
                    step.store(2, Ordering::SeqCst);
                    let own = Node::builder(Memory::new()).build().map_err(|_| "no node")?;
                    drop(own.lock("own").unwrap());
                    Ok(())
                });
                forked.expect_success(LIMIT);
            }
        });
        assert!(kept.is_valid());
    });
}

struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

//! More requests than the engine can respond to. The locks that are held are kept, as far as there is room for
//! their renewals; acquisitions above that fail with an error that says so.

use crate::support::{builder, ms};
use futures_util::future::join_all;
use lockword::cluster::layers::{Intercept, Interceptor};
use lockword::cluster::{
    DistributedGuard, Exchange, Key, LockError, LossReason, Memory, Node, Transport,
    TransportError, Version, Versioned, Write, async_trait,
};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};

const LEASE: Duration = Duration::from_secs(4);
/// Four hundred requests a second: in half of a lease the engine can renew at most 800 locks.
const TAKES: Duration = Duration::from_micros(2500);
const ROOM: usize = 800;
/// Half of what there is for each of four nodes: renewals come in bursts.
const SHARE: usize = ROOM / 4 / 2;

/// An engine that answers one request after the other, in the order in which they come, those too that
/// nobody waits for any more.
#[derive(Clone)]
struct OneAfterTheOther {
    free_at: Arc<Mutex<Instant>>,
    /// How many times as fast as it is by default.
    speed: Arc<AtomicU32>,
}

impl OneAfterTheOther {
    async fn turn(&self) {
        let at = {
            let mut free_at = self.free_at.lock().unwrap();
            *free_at = (*free_at).max(Instant::now()) + TAKES / self.speed.load(Relaxed);
            *free_at
        };
        sleep_until(at).await;
    }

    fn set_speed(&self, speed: u32) {
        self.speed.store(speed, Relaxed);
    }

    /// Answers nothing for so long.
    fn stall(&self, time: Duration) {
        let mut free_at = self.free_at.lock().unwrap();
        *free_at = (*free_at).max(Instant::now()) + time;
    }
}

#[async_trait]
impl Interceptor<Memory> for OneAfterTheOther {
    async fn load(&self, inner: &Memory, key: &Key) -> Result<Option<Versioned>, TransportError> {
        self.turn().await;
        inner.load(key).await
    }

    async fn compare_exchange(
        &self,
        inner: &Memory,
        key: &Key,
        expected: Option<Version>,
        new: Write,
    ) -> Result<Exchange, TransportError> {
        self.turn().await;
        inner.compare_exchange(key, expected, new).await
    }
}

fn slow() -> (OneAfterTheOther, Intercept<Memory, OneAfterTheOther>) {
    let (free_at, speed) = (Mutex::new(Instant::now()), AtomicU32::new(1));
    let server = OneAfterTheOther { free_at: Arc::new(free_at), speed: Arc::new(speed) };
    (server.clone(), Intercept::new(Memory::new(), server))
}

/// All at once: a guard or an error for each.
async fn acquire_all(node: &Node, names: &[String]) -> Vec<Result<DistributedGuard, LockError>> {
    let acquire = |name: &String| {
        let lock = node.lock(name.clone()).unwrap();
        async move { lock.acquire().await }
    };
    join_all(names.iter().map(acquire)).await
}

fn names(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{prefix}{n}")).collect()
}

fn lost(guards: &[DistributedGuard]) -> usize {
    guards.iter().filter(|guard| !guard.is_valid()).count()
}

#[tokio::test(start_paused = true)]
async fn as_many_locks_as_there_is_room_for_are_acquired_at_once_and_kept() {
    let (_, engine) = slow();
    let node = builder(engine, "a").lease(LEASE).build().unwrap();
    let names = names("k", ROOM * 9 / 10);
    let guards: Result<Vec<_>, _> = acquire_all(&node, &names).await.into_iter().collect();
    let guards = guards.unwrap();
    assert_eq!(lost(&guards), 0, "while the others were acquired");
    sleep(LEASE * 4).await;
    assert_eq!(lost(&guards), 0, "of {}", guards.len());
}

/// No request is lost at the engine, and none of those that hold a lock loses it for those that want one.
#[tokio::test(start_paused = true)]
async fn the_surplus_alone_is_refused_and_is_told_why() {
    let (_, engine) = slow();
    let node = builder(engine, "a").lease(LEASE).build().unwrap();
    let names = names("k", ROOM * 5);
    let began = Instant::now();
    let all = acquire_all(&node, &names).await;
    assert!(began.elapsed() < LEASE * 4, "{:?}", began.elapsed());
    let (got, refused): (Vec<_>, Vec<_>) = all.into_iter().partition(Result::is_ok);
    let guards: Vec<_> = got.into_iter().map(Result::unwrap).collect();
    // Each held lock is renewed once in half of a lease: at least so many fit.
    assert!(guards.len() >= ROOM, "{} of {}", guards.len(), names.len());
    assert_eq!(lost(&guards), 0, "of {}", guards.len());
    for error in refused.into_iter().filter_map(Result::err) {
        let LockError::Transport { source, .. } = &error else { panic!("{error}") };
        assert!(source.to_string().contains("queued in the node"), "{error}");
    }
    sleep(LEASE * 4).await;
    assert_eq!(lost(&guards), 0, "of {}", guards.len());
}

#[tokio::test(start_paused = true)]
async fn all_locks_survive_a_pause_of_the_engine() {
    let (server, engine) = slow();
    let node = builder(engine, "a").lease(LEASE).build().unwrap();
    let names = names("k", ROOM / 2);
    let guards: Result<Vec<_>, _> = acquire_all(&node, &names).await.into_iter().collect();
    let guards = guards.unwrap();
    sleep(LEASE * 2).await;
    server.stall(LEASE / 4);
    sleep(LEASE * 2).await;
    assert_eq!(lost(&guards), 0, "of {}", guards.len());
}

/// A release makes room, and others wait for it.
#[tokio::test(start_paused = true)]
async fn a_release_goes_before_acquisitions() {
    let (_, engine) = slow();
    let node = builder(engine.clone(), "a").lease(LEASE).build().unwrap();
    let guard = node.lock("held").unwrap().acquire().await.unwrap();
    let wanted = names("k", ROOM * 2);
    let crowd = tokio::spawn({
        let node = node.clone();
        async move { acquire_all(&node, &wanted).await }
    });
    sleep(ms(300)).await;
    let began = Instant::now();
    guard.release().await.unwrap();
    // The requests that were sent before it take a quarter of the request timeout, or twice of that while
    // the limit is too high.
    assert!(began.elapsed() < LEASE / 5, "{:?}", began.elapsed());
    crowd.abort();
}

/// Nodes do not know each other, and come to equal shares of the engine.
#[tokio::test(start_paused = true)]
async fn a_node_keeps_its_share_while_other_nodes_want_more_than_there_is_room_for() {
    let (_, engine) = slow();
    let build = |label| builder(engine.clone(), label).lease(LEASE).build().unwrap();
    let (holder, others) = (build("holder"), [build("b"), build("c"), build("d")]);
    let held = acquire_all(&holder, &names("held", SHARE)).await;
    let held: Vec<_> = held.into_iter().map(Result::unwrap).collect();
    let wanted = ["b", "c", "d"].map(|prefix| names(prefix, ROOM));
    let more = others.iter().zip(&wanted).map(|(node, names)| acquire_all(node, names));
    let more = join_all(more).await;
    let more: Vec<_> = more.into_iter().flatten().filter_map(Result::ok).collect();
    assert_eq!(lost(&held), 0, "of {}", held.len());
    sleep(LEASE * 3).await;
    assert_eq!((lost(&held), lost(&more)), (0, 0), "of {} and {}", held.len(), more.len());
}

/// Many nodes, none of which has a request too many.
#[tokio::test(start_paused = true)]
async fn a_crowd_of_nodes_keeps_its_locks() {
    let (_, engine) = slow();
    let nodes = (0..40).map(|n| builder(engine.clone(), &format!("n{n}")).lease(LEASE));
    let nodes: Vec<_> = nodes.map(|node| node.build().unwrap()).collect();
    let each = names("k", ROOM / 2 / nodes.len());
    let acquire = nodes.iter().enumerate().map(|(n, node)| {
        let names: Vec<_> = each.iter().map(|name| format!("{n}/{name}")).collect();
        async move { acquire_all(node, &names).await }
    });
    let guards: Result<Vec<_>, _> = join_all(acquire).await.into_iter().flatten().collect();
    let guards = guards.unwrap();
    sleep(LEASE * 3).await;
    assert_eq!(lost(&guards), 0, "of {}", guards.len());
}

/// It has become slower for good, and has still room for what is held.
#[tokio::test(start_paused = true)]
async fn all_locks_survive_an_engine_that_becomes_slower() {
    let (server, engine) = slow();
    server.set_speed(8);
    let node = builder(engine, "a").lease(LEASE).build().unwrap();
    let guards = acquire_all(&node, &names("k", ROOM / 2)).await;
    let guards: Vec<_> = guards.into_iter().map(Result::unwrap).collect();
    sleep(LEASE).await;
    server.set_speed(1);
    sleep(LEASE * 3).await;
    assert_eq!(lost(&guards), 0, "of {}", guards.len());
}

/// Nothing is queued that is left to be done.
#[tokio::test(start_paused = true)]
async fn a_shutdown_releases_what_a_busy_node_holds() {
    let (_, engine) = slow();
    let node = builder(engine.clone(), "a").lease(LEASE).build().unwrap();
    let guards = acquire_all(&node, &names("k", ROOM / 2)).await;
    let guards: Vec<_> = guards.into_iter().map(Result::unwrap).collect();
    let report = node.shutdown().await;
    // Two request timeouts.
    assert_eq!(report.released.len(), guards.len(), "{}", report.indeterminate.len());
}

/// A try has a limit of its own.
#[tokio::test(start_paused = true)]
async fn a_try_does_not_wait_for_as_long_as_others() {
    let (_, engine) = slow();
    let node = builder(engine, "a").lease(LEASE).build().unwrap();
    let guards = acquire_all(&node, &names("k", ROOM)).await;
    assert!(guards.iter().all(Result::is_ok));
    let crowd = tokio::spawn({
        let node = node.clone();
        async move { acquire_all(&node, &names("more", ROOM * 3)).await }
    });
    sleep(ms(300)).await;
    let began = Instant::now();
    let error = node.lock("tried").unwrap().try_acquire().await.unwrap_err();
    assert!(error.to_string().contains("queued in the node"), "{error}");
    // A fifth of the lease.
    assert!(began.elapsed() <= LEASE / 5 + ms(10), "{:?}", began.elapsed());
    crowd.abort();
}

/// What nobody wants any more is not asked for.
#[tokio::test(start_paused = true)]
async fn what_is_cancelled_before_its_turn_costs_no_request() {
    let (server, engine) = slow();
    let node = builder(engine, "a").lease(LEASE).build().unwrap();
    let wanted = names("k", ROOM * 2);
    let crowd = tokio::spawn({
        let node = node.clone();
        async move { acquire_all(&node, &wanted).await }
    });
    sleep(ms(100)).await;
    crowd.abort();
    let _ = crowd.await;
    sleep(ms(1)).await;
    let busy_for = server.free_at.lock().unwrap().saturating_duration_since(Instant::now());
    // Those in flight, and the releases of what they acquire.
    assert!(busy_for < ms(500), "{busy_for:?}");
    let began = Instant::now();
    drop(node.lock("next").unwrap().acquire().await.unwrap());
    assert!(began.elapsed() < LEASE / 4, "{:?}", began.elapsed());
}

/// A lease that ends because its renewal had no turn says so.
#[tokio::test(start_paused = true)]
async fn a_loss_for_want_of_a_turn_says_so() {
    let (server, engine) = slow();
    let node = builder(engine, "a").lease(LEASE).build().unwrap();
    let names = names("k", ROOM);
    let guards: Result<Vec<_>, _> = acquire_all(&node, &names).await.into_iter().collect();
    let guards = guards.unwrap();
    server.stall(LEASE * 2);
    let reasons = join_all(guards.iter().map(DistributedGuard::lost)).await;
    let told = reasons.iter().filter(|why| match why {
        LossReason::Expired { last: Some(last) } => last.contains("queued in the node"),
        why => panic!("{why}"),
    });
    assert!(told.count() > names.len() / 2);
}

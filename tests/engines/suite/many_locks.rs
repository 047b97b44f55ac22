//! One node that holds many locks. `LOCKWORD_HELD_LOCKS=20000` has it want so many.

use super::fixture::{LIMIT, client};
use crate::support::engine::Server;
use futures_util::future::join_all;
use lockword::cluster::{
    Hold, Key, LockError, LossReason, Node, Observer, RemoteOperation, TransportError,
};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::time::{sleep, timeout};

const LEASE: Duration = Duration::from_secs(10);

/// What the node reports.
#[derive(Clone, Default)]
struct Reports(Arc<Counts>);

#[derive(Default)]
struct Counts {
    renewals: AtomicUsize,
    requests: AtomicUsize,
    /// What the losses and the failed requests say, and how often.
    said: Mutex<BTreeMap<String, usize>>,
}

impl Reports {
    fn say(&self, what: String) {
        // One text for all keys and times.
        let what = what.chars().map(|c| if c.is_ascii_digit() { '#' } else { c }).collect();
        *self.0.said.lock().unwrap().entry(what).or_default() += 1;
    }
}

impl Observer for Reports {
    fn renewed(&self, _: &Key, _: Duration) {
        self.0.renewals.fetch_add(1, Relaxed);
    }

    fn lost(&self, _: &Key, why: &LossReason, _: Hold) {
        self.say(format!("lost: {why}"));
    }

    fn request_finished(
        &self,
        _: &Key,
        _: RemoteOperation,
        _: Duration,
        error: Option<&TransportError>,
    ) {
        self.0.requests.fetch_add(1, Relaxed);
        if let Some(error) = error {
            self.say(format!("request: {error}"));
        }
    }
}

/// Every lock that it was granted is kept, for two leases and a half; where there is no room for more, the
/// surplus is refused by name.
pub async fn of_one_node_are_kept<E: Server>() {
    let wanted =
        std::env::var("LOCKWORD_HELD_LOCKS").ok().and_then(|text| text.parse().ok()).unwrap_or(500);
    let Some(server) = E::start().await else { return };
    let reports = Reports::default();
    let transport = client(&server.address()).await;
    let name = transport.capabilities().name;
    let node = Node::builder(transport).lease(LEASE).observer(reports.clone()).build().unwrap();
    let before = resident();
    let began = Instant::now();
    let acquire = |n: usize| {
        let lock = node.lock(format!("many/{n}")).unwrap();
        async move { lock.acquire().await }
    };
    let all =
        timeout(LIMIT * 2, join_all((0..wanted).map(acquire))).await.expect("each has an end");
    let took = began.elapsed();
    let bytes = resident().saturating_sub(before) / wanted;
    let (got, refused): (Vec<_>, Vec<_>) = all.into_iter().partition(Result::is_ok);
    let guards: Vec<_> = got.into_iter().map(Result::unwrap).collect();
    let (renewals, requests) =
        (reports.0.renewals.swap(0, Relaxed), reports.0.requests.swap(0, Relaxed));
    println!(
        "{}: {} of {wanted} locks acquired in {took:.1?} ({requests} requests, {renewals} renewals), {bytes} bytes each",
        name,
        guards.len(),
    );
    let held = LEASE * 5 / 2;
    sleep(held).await;
    let renewals = reports.0.renewals.load(Relaxed) as f64 / held.as_secs_f64();
    let lost = guards.iter().filter(|guard| !guard.is_valid()).count();
    let said = reports.0.said.lock().unwrap().clone();
    println!("{}: {renewals:.0} renewals/s, {lost} lost; {said:#?}", name);
    assert_eq!(lost, 0, "of {}", guards.len());
    for error in refused.into_iter().filter_map(Result::err) {
        let LockError::Transport { source, .. } = &error else { panic!("{error}") };
        assert!(source.to_string().contains("queued in the node"), "{error}");
    }
}

/// The resident memory of this process, in bytes.
fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = pages.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0);
    pages * 4096
}

//! Engines without wake-ups ([`Wakeups::Poll`]): the suite checks all laws but those of a watch, and
//! opens none; and nodes over such an engine poll as often as they should.

use crate::broken::drops::{LeaksConnection, MixesResponses};
use crate::broken::writes::{LostUpdate, SentTwice};
use crate::broken::{Broken, Every};
use lockword::cluster::conformance::{Law, NotChecked, Suite};
use lockword::cluster::layers::{Counts, Faulty, Intercept, Interceptor};
use lockword::cluster::{
    Capabilities, Exchange, Key, Memory, Node, NodeId, Transport, TransportError, Version,
    Versioned, Wakeups, Watch, Write, async_trait,
};
use std::collections::HashMap;
use std::future::ready;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What an engine without wake-ups does when a watch is opened all the same.
#[derive(Clone, Copy, Debug)]
enum IfWatched {
    Unsupported,
    NeverYields,
    Panics,
}

/// An engine of its own: a map, and no notification at all.
#[derive(Clone)]
struct Table {
    rows: Arc<Mutex<HashMap<Key, Versioned>>>,
    if_watched: IfWatched,
}

impl Table {
    fn new(if_watched: IfWatched) -> Self {
        Self { rows: Arc::default(), if_watched }
    }
}

#[async_trait]
impl Transport for Table {
    async fn load(&self, key: &Key) -> Result<Option<Versioned>, TransportError> {
        Ok(self.rows.lock().unwrap().get(key).cloned())
    }

    async fn compare_exchange(
        &self,
        key: &Key,
        expected: Option<Version>,
        new: Write,
    ) -> Result<Exchange, TransportError> {
        let mut rows = self.rows.lock().unwrap();
        let found = rows.get(key).cloned();
        if found.as_ref().map(|found| found.version) != expected {
            return Ok(Exchange::Mismatch(found));
        }
        let version = Version::new(expected.map_or(0, Version::get) + 1)?;
        rows.insert(key.clone(), Versioned { version, value: new.value });
        Ok(Exchange::Swapped(version))
    }

    async fn watch(&self, key: &Key, _: NodeId) -> Result<Watch, TransportError> {
        match self.if_watched {
            IfWatched::Unsupported => Err(TransportError::unsupported("no notification")),
            IfWatched::NeverYields => Ok(Box::pin(futures_util::stream::pending())),
            IfWatched::Panics => panic!("a watch of {key} was opened"),
        }
    }

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::new("table");
        capabilities.wakeups = Wakeups::Poll;
        capabilities
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_engine_without_wake_ups_keeps_the_laws() {
    for if_watched in [IfWatched::Unsupported, IfWatched::NeverYields, IfWatched::Panics] {
        let engine = Table::new(if_watched);
        let suite = Suite::new(move || ready(engine.clone())).rounds(4);
        let report = suite.run().await.unwrap_or_else(|broken| panic!("{if_watched:?}: {broken}"));
        let checked =
            [Law::Responses, Law::Linearizable, Law::Versions, Law::Mismatch, Law::Dropping];
        assert_eq!(report.checked, checked, "{report}");
        // The report says which part of which law needs a watch.
        for law in [Law::Watch, Law::Dropping] {
            let missing = |missing: &&_| missing_watch(missing) == Some(law);
            assert_eq!(report.not_checked.iter().filter(missing).count(), 1, "{law}: {report}");
        }
    }
}

/// The law of which something is not checked because there is no watch.
fn missing_watch(missing: &NotChecked) -> Option<Law> {
    missing.why.contains("Wakeups::Poll").then_some(missing.law)
}

/// Takes its wake-ups from a client.
struct NoWakeups;

#[async_trait]
impl<T: Transport> Interceptor<T> for NoWakeups {
    async fn watch(&self, _: &T, _: &Key, _: NodeId) -> Result<Watch, TransportError> {
        Err(TransportError::unsupported("no notification"))
    }

    fn capabilities(&self, inner: &T) -> Capabilities {
        let mut capabilities = inner.capabilities();
        capabilities.wakeups = Wakeups::Poll;
        capabilities
    }
}

async fn law_broken_by<B: Interceptor<Memory>>(bug: impl Fn() -> B + Send + Sync + 'static) -> Law {
    let engine = Memory::new();
    let make = move || {
        let broken = Broken::new(engine.clone(), Arc::new(bug()));
        ready(Intercept::new(broken, NoWakeups))
    };
    Suite::new(make).seed(1).run().await.expect_err("it is broken").law
}

#[tokio::test(start_paused = true)]
async fn a_broken_engine_without_wake_ups_is_caught() {
    assert_eq!(law_broken_by(|| LostUpdate).await, Law::Linearizable);
    assert_eq!(law_broken_by(|| SentTwice(Every::new(20))).await, Law::Indeterminate);
    assert_eq!(law_broken_by(|| LeaksConnection::new(1)).await, Law::Dropping);
    assert_eq!(law_broken_by(MixesResponses::default).await, Law::Dropping);
}

/// Nodes over one engine without wake-ups, a round trip of 2 ms away, and the counts of their requests.
fn nodes(count: usize) -> (Vec<Node>, Counts) {
    let (engine, counts) = (Memory::new(), Counts::default());
    let node = |_| {
        let client = Faulty::delayed(engine.clone(), Duration::from_millis(2));
        let client = Intercept::new(Intercept::new(client, NoWakeups), counts.clone());
        Node::builder(client).tokio_clock().build().unwrap()
    };
    ((0..count).map(node).collect(), counts)
}

#[tokio::test(start_paused = true)]
async fn nodes_that_poll_pass_a_contended_lock_on_over_50_times_a_second() {
    let (nodes, _) = nodes(4);
    let grants = Arc::new(AtomicU64::new(0));
    for node in &nodes {
        let (lock, grants) = (node.lock("k").unwrap(), grants.clone());
        tokio::spawn(async move {
            loop {
                lock.acquire().await.unwrap().release().await.unwrap();
                grants.fetch_add(1, Relaxed);
            }
        });
    }
    tokio::time::sleep(Duration::from_secs(10)).await;
    let grants = grants.load(Relaxed);
    assert!(grants > 500, "{grants} grants in 10 s");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_waits_for_long_polls_twenty_times_a_second() {
    let (nodes, counts) = nodes(2);
    let _held = nodes[0].lock("k").unwrap().acquire().await.unwrap();
    let waits = nodes[1].lock("k").unwrap();
    let waits = tokio::spawn(async move { waits.acquire().await.map(drop) });
    tokio::time::sleep(Duration::from_secs(1)).await;
    counts.take();
    tokio::time::sleep(Duration::from_secs(60)).await;
    waits.abort();
    let loads = counts.now().loads;
    // A renewal every 3.3 s is a change, after which it polls more often for a while.
    assert!((60 * 18..60 * 26).contains(&loads), "{loads} loads in 60 s");
}

//! Metrics of the cluster's locks, for the crate [`metrics`](https://docs.rs/metrics) (feature `metrics`).
//!
//! Every node reports them. Install the recorder of your choice before you build the first node: a node asks for
//! its instruments when it is built (those of a [group][group] when it meets the first key of
//! that).
//!
//! | Name | Kind, unit | Labels | What |
//! |---|---|---|---|
//! | `lockword_wait_seconds` | histogram, s | `via` | how long an acquisition took that has got the lock |
//! | `lockword_hold_seconds` | histogram, s | | for how long a guard was held: from its grant until it was given back or found to be lost |
//! | `lockword_waiting` | gauge | | callers that wait at this node |
//! | `lockword_held` | gauge | | guards of this node that hold their lock |
//! | `lockword_not_acquired_total` | counter | `why` | acquisitions that have failed or were cancelled |
//! | `lockword_lost_total` | counter | `why` | guards that were lost |
//! | `lockword_released_total` | counter | `outcome` | guards that were given back |
//! | `lockword_broken_total` | counter | | locks that this node has taken away from another by force |
//! | `lockword_lease_left_seconds` | histogram, s | | how much of its lease was left when a renewal succeeded; near 0 means that locks are about to be lost |
//! | `lockword_request_seconds` | histogram, s | `operation` | how long a request to the engine took, also one that failed |
//! | `lockword_request_errors_total` | counter | `operation`, `kind` | requests that have failed |
//! | `lockword_went_back_total` | counter | | keys for which the engine has shown an older version than before |
//! | `lockword_engine_reachable` | gauge, 0 or 1 | | [`Health::is_reachable`] |
//! | `lockword_watches`, `lockword_watches_wanted` | gauge | | keys whose changes the engine reports, and for which the node wants that |
//! | `lockword_queued_nodes` | gauge | | the longest queue of nodes, of the keys with which the node deals, as last seen |
//! | `lockword_least_lease_left_seconds` | gauge, s | | the least that is left of a lease that the node holds; `+Inf` if it holds none |
//! | `lockword_driver_late_seconds` | gauge, s | | by how much the background task is late |
//!
//! All have the label `engine` (`etcd`, `redis`, ...), and all but the last six `group`, if the node has
//! [groups of keys][group]. `via` is `free`, `handoff`, `local_handoff` or `takeover`. `why` of an
//! acquisition is `cancelled`, `busy`, `timeout`, `closed`, `engine`, or `other`; that of a loss is `expired`,
//! `taken_over`, `broken`, `hold_limit`, `copied`, `went_back`, `unreadable`, or `closed`. `outcome` is
//! `held` (it is released, and was held until then), `handed_off` (the lease stays at this node, for another task), `lost`,
//! or `indeterminate` ([`ReleaseOutcome`], [`LossReason`] and [`AcquiredVia`] say more). `operation` is `load`, `compare_exchange` or `watch`, and `kind`
//! is the name of the [`TransportError`](crate::cluster::TransportError): `indeterminate`, `unavailable`, `denied`, `unsupported`, or `corrupt`.
//!
//! The rows from `lockword_engine_reachable` on are the state of the node and not events. [`Node::health`] reports them,
//! so call that from time to time, for example before each scrape; see `tests/examples/prometheus.rs`. They have the
//! label `engine` only, which is the kind of the engine: if a process has several nodes over engines of one kind, each
//! call replaces the values of the others.
//!
//! Keys are in no label, since a program may have any number of them. To tell locks apart, give the node a function
//! that names a group for a key; after 1,000 groups the others are counted in the group `other`.
//!
//! [`Health::is_reachable`]: crate::cluster::Health::is_reachable
//! [`Node::health`]: crate::cluster::Node::health
//! [group]: crate::cluster::NodeBuilder::metrics_group

use super::{Hold, Observer, ReleaseOutcome, RemoteOperation};
use crate::Mutex;
use crate::cluster::admin::ForcedRelease;
use crate::cluster::error::LockError;
use crate::cluster::fence::FencingToken;
use crate::cluster::guard::{AcquiredVia, LossReason};
use crate::cluster::health::Health;
use crate::cluster::key::Key;
use crate::cluster::transport::{TransportError, Version};
use ::metrics::{Counter, Gauge, Histogram, Label, Unit, counter, gauge, histogram};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// How many groups a node reports. Keys of further ones are in the group `other`.
const MAX_GROUPS: usize = 1_000;

const OTHER: &str = "other";

/// Names the group of a key.
pub(crate) type GroupOf = Box<dyn Fn(&Key) -> String + Send + Sync>;

/// The observer that every node has, besides that of the user.
pub(crate) struct MetricsObserver {
    engine: &'static str,
    /// The instruments of all keys, if there are no groups.
    all: Arc<Instruments>,
    groups: Option<Groups>,
}

/// The groups of keys that were met.
struct Groups {
    group_of: GroupOf,
    known: Mutex<HashMap<String, Arc<Instruments>>>,
}

/// The instruments of one group, or of all keys.
struct Instruments {
    wait: [Histogram; 4],
    hold: Histogram,
    waiting: Gauge,
    held: Gauge,
    not_acquired: [Counter; 6],
    lost: [Counter; 8],
    released: [Counter; 4],
    broken: Counter,
    lease_left: Histogram,
    requests: [Histogram; 3],
    errors: [[Counter; 5]; 3],
    went_back: Counter,
}

const VIAS: [&str; 4] = ["free", "handoff", "local_handoff", "takeover"];
const FAILURES: [&str; 6] = ["cancelled", "busy", "timeout", "closed", "engine", "other"];
const LOSSES: [&str; 8] = [
    "expired",
    "taken_over",
    "broken",
    "hold_limit",
    "copied",
    "went_back",
    "unreadable",
    "closed",
];
const OUTCOMES: [&str; 4] = ["handed_off", "held", "lost", "indeterminate"];
const OPERATIONS: [RemoteOperation; 3] =
    [RemoteOperation::Load, RemoteOperation::CompareExchange, RemoteOperation::Watch];
const ERRORS: [&str; 5] = ["indeterminate", "unavailable", "denied", "unsupported", "corrupt"];

impl Instruments {
    fn new(engine: &'static str, group: Option<&str>) -> Self {
        let mut common = vec![Label::new("engine", engine)];
        common.extend(group.map(|group| Label::new("group", group.to_owned())));
        let with = |labels: &[(&'static str, &'static str)]| {
            let own = labels.iter().map(|(name, value)| Label::from_static_parts(name, value));
            common.iter().cloned().chain(own).collect::<Vec<_>>()
        };
        Self {
            wait: VIAS.map(|via| histogram!("lockword_wait_seconds", with(&[("via", via)]))),
            hold: histogram!("lockword_hold_seconds", with(&[])),
            waiting: gauge!("lockword_waiting", with(&[])),
            held: gauge!("lockword_held", with(&[])),
            not_acquired: FAILURES
                .map(|why| counter!("lockword_not_acquired_total", with(&[("why", why)]))),
            lost: LOSSES.map(|why| counter!("lockword_lost_total", with(&[("why", why)]))),
            released: OUTCOMES
                .map(|how| counter!("lockword_released_total", with(&[("outcome", how)]))),
            broken: counter!("lockword_broken_total", with(&[])),
            lease_left: histogram!("lockword_lease_left_seconds", with(&[])),
            requests: OPERATIONS.map(|operation| {
                histogram!("lockword_request_seconds", with(&[("operation", operation.name())]))
            }),
            errors: OPERATIONS.map(|operation| {
                ERRORS.map(|kind| {
                    let labels = with(&[("operation", operation.name()), ("kind", kind)]);
                    counter!("lockword_request_errors_total", labels)
                })
            }),
            went_back: counter!("lockword_went_back_total", with(&[])),
        }
    }
}

impl MetricsObserver {
    pub(crate) fn new(engine: &'static str, group_of: Option<GroupOf>) -> Self {
        describe();
        let groups = group_of.map(|group_of| Groups { group_of, known: Mutex::default() });
        Self { engine, all: Arc::new(Instruments::new(engine, None)), groups }
    }

    fn of(&self, key: &Key) -> Arc<Instruments> {
        let Some(Groups { group_of, known }) = &self.groups else { return self.all.clone() };
        let mut group = group_of(key);
        loop {
            let full = {
                let known = known.lock();
                if let Some(instruments) = known.get(&group) {
                    return instruments.clone();
                }
                known.len() >= MAX_GROUPS
            };
            if full {
                OTHER.clone_into(&mut group);
            }
            // The recorder is not called under the mutex, not even by a drop.
            let new = Arc::new(Instruments::new(self.engine, Some(&group)));
            let mut known = known.lock();
            let has_room = known.len() < MAX_GROUPS || group == OTHER;
            if has_room && !known.contains_key(&group) {
                known.insert(group.clone(), new);
            }
        }
    }

    /// Reports the state of the node.
    pub(crate) fn health(&self, health: &Health) {
        let set = |name: &'static str, value: f64| gauge!(name, "engine" => self.engine).set(value);
        set("lockword_engine_reachable", f64::from(u8::from(health.is_reachable())));
        set("lockword_watches", health.watches as f64);
        set("lockword_watches_wanted", health.watches_wanted as f64);
        set("lockword_queued_nodes", health.longest_queue as f64);
        set("lockword_driver_late_seconds", health.driver_late.as_secs_f64());
        // Without a lease there is none that could end.
        let left = health.least_lease_left.map_or(f64::INFINITY, |left| left.as_secs_f64());
        set("lockword_least_lease_left_seconds", left);
    }
}

fn describe() {
    use ::metrics::{describe_counter, describe_gauge, describe_histogram};
    let s = Unit::Seconds;
    describe_histogram!("lockword_wait_seconds", s, "Time until a lock was acquired.");
    describe_histogram!("lockword_hold_seconds", s, "Time for which a lock was held.");
    describe_gauge!("lockword_waiting", "Callers that wait for a lock at this node.");
    describe_gauge!("lockword_held", "Guards that hold their lock at this node.");
    describe_counter!("lockword_not_acquired_total", "Acquisitions that failed or were cancelled.");
    describe_counter!("lockword_lost_total", "Guards that were lost.");
    describe_counter!("lockword_released_total", "Guards that were given back.");
    describe_counter!("lockword_broken_total", "Locks that were taken away by force.");
    describe_histogram!(
        "lockword_lease_left_seconds",
        s,
        "What was left of a lease at its renewal."
    );
    describe_histogram!("lockword_request_seconds", s, "Time of a request to the engine.");
    describe_counter!("lockword_request_errors_total", "Requests to the engine that failed.");
    describe_counter!("lockword_went_back_total", "Keys that the engine showed in an older state.");
    describe_gauge!("lockword_engine_reachable", "Whether the engine has responded.");
    describe_gauge!("lockword_watches", "Keys whose changes the engine reports.");
    describe_gauge!("lockword_watches_wanted", "Keys whose changes the node wants to be told.");
    describe_gauge!("lockword_queued_nodes", "The longest queue of nodes for one key.");
    describe_gauge!("lockword_least_lease_left_seconds", s, "The least that is left of a lease.");
    describe_gauge!("lockword_driver_late_seconds", s, "By how much the background task is late.");
}

impl Observer for MetricsObserver {
    fn acquire_started(&self, key: &Key) {
        self.of(key).waiting.increment(1.0);
    }

    fn acquired(&self, key: &Key, waited: Duration, via: AcquiredVia, _: FencingToken) {
        let of = self.of(key);
        of.waiting.decrement(1.0);
        of.held.increment(1.0);
        let via = match via {
            AcquiredVia::Free => 0,
            AcquiredVia::Handoff => 1,
            AcquiredVia::LocalHandoff => 2,
            AcquiredVia::Takeover => 3,
        };
        of.wait[via].record(waited);
    }

    fn acquire_failed(&self, key: &Key, _: Duration, error: &LockError) {
        let of = self.of(key);
        of.waiting.decrement(1.0);
        let why = match error {
            LockError::Busy { .. } => 1,
            LockError::TimedOut { .. } => 2,
            LockError::Closed { .. } => 3,
            LockError::Transport { .. }
            | LockError::Unreadable { .. }
            | LockError::EngineWentBack { .. } => 4,
            _ => 5,
        };
        of.not_acquired[why].increment(1);
    }

    fn acquire_cancelled(&self, key: &Key, _: Duration) {
        let of = self.of(key);
        of.waiting.decrement(1.0);
        of.not_acquired[0].increment(1);
    }

    fn renewed(&self, key: &Key, left: Duration) {
        self.of(key).lease_left.record(left);
    }

    fn lost(&self, key: &Key, why: &LossReason, hold: Hold) {
        let of = self.of(key);
        of.held.decrement(1.0);
        of.hold.record(hold.held_for);
        let why = match why {
            LossReason::Expired { .. } => 0,
            LossReason::TakenOver => 1,
            LossReason::Broken { .. } => 2,
            LossReason::HoldLimit => 3,
            LossReason::Copied => 4,
            LossReason::EngineWentBack => 5,
            LossReason::Unreadable(_) => 6,
            LossReason::Closed => 7,
        };
        of.lost[why].increment(1);
    }

    fn released(&self, key: &Key, outcome: ReleaseOutcome, hold: Hold) {
        let of = self.of(key);
        let outcome = match outcome {
            ReleaseOutcome::HandedOff => 0,
            ReleaseOutcome::Held => 1,
            ReleaseOutcome::Lost => 2,
            ReleaseOutcome::Indeterminate => 3,
        };
        of.released[outcome].increment(1);
        if outcome != 2 {
            // The end of a guard that was lost was told before.
            of.held.decrement(1.0);
            of.hold.record(hold.held_for);
        }
    }

    fn broke(&self, key: &Key, _: &ForcedRelease, _: &str) {
        self.of(key).broken.increment(1);
    }

    fn engine_went_back(&self, key: &Key, _: Version, _: Version) {
        self.of(key).went_back.increment(1);
    }

    fn request_finished(
        &self,
        key: &Key,
        operation: RemoteOperation,
        took: Duration,
        error: Option<&TransportError>,
    ) {
        let of = self.of(key);
        let operation = OPERATIONS.iter().position(|known| *known == operation).unwrap_or(0);
        of.requests[operation].record(took);
        if let Some(error) = error {
            let kind = match error {
                TransportError::Indeterminate(_) => 0,
                TransportError::Unavailable(_) => 1,
                TransportError::Denied(_) => 2,
                TransportError::Unsupported(_) => 3,
                TransportError::Corrupt(_) => 4,
            };
            of.errors[operation][kind].increment(1);
        }
    }
}

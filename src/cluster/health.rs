//! Whether a node works: its engine, its watches, and its background task.

use super::node::{Node, NodeShared};
use super::transport::TransportError;
use std::time::{Duration, Instant};

/// How a node is, as it knows at a moment: see [`Node::health`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Health {
    /// The time since the engine last responded as it should. `None`: it never did, or was never asked.
    pub last_response: Option<Duration>,
    /// How long that request took.
    pub round_trip: Option<Duration>,
    /// How the last request failed, if it did. (A write that met another version has not failed.)
    pub error: Option<TransportError>,
    /// For how many keys the node wants to be told of changes, and for how many of them the engine has a watch in
    /// force. Without one a node that waits has to ask.
    pub watches_wanted: usize,
    /// See [`watches_wanted`](Self::watches_wanted).
    pub watches: usize,
    /// Tasks and threads of this node that wait.
    pub waiting: usize,
    /// Keys whose lock this node has.
    pub held: usize,
    /// The longest queue of nodes, of the keys with which this node deals, as last seen.
    pub longest_queue: usize,
    /// The least that is left of the leases that this node has. `None`: it has none.
    pub least_lease_left: Option<Duration>,
    /// For how long the background task has had something to do and has not done it: the runtime is busy, or an
    /// observer or a transport blocks. Renewals are late by as much.
    pub driver_late: Duration,
    /// The node was closed.
    pub is_closed: bool,
    /// Of the node.
    lease: Duration,
}

impl Health {
    /// Whether the last request to the engine has succeeded.
    #[must_use]
    pub fn is_reachable(&self) -> bool {
        self.last_response.is_some() && self.error.is_none()
    }

    /// What is wrong, a sentence for each. Empty: nothing that the node knows.
    ///
    /// That is: the node is closed; the last request failed; a watch is not in force; the background task is late by
    /// an eighth of the lease or more; or less than a fifth of a lease is left, where a renewal is due at two
    /// thirds. (The short lease of a lock that was just handed over may be that low for a moment.)
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = vec![];
        if self.is_closed {
            problems.push("the node is closed".to_owned());
        }
        if let Some(error) = &self.error {
            let ago = self.last_response.map_or_else(
                || "it has not responded so far".to_owned(),
                |ago| format!("it responded last {ago:.1?} ago"),
            );
            problems.push(format!("the engine: {error}; {ago}"));
        }
        let missing = self.watches_wanted.saturating_sub(self.watches);
        if missing > 0 {
            let of = self.watches_wanted;
            problems
                .push(format!("{missing} of {of} watches are not in force: waiters have to ask"));
        }
        if self.driver_late >= self.lease / 8 {
            let late = self.driver_late;
            problems.push(format!(
                "the background task is late by {late:.1?}: its runtime is busy, or an observer or a transport blocks"
            ));
        }
        if let Some(left) = self.least_lease_left.filter(|left| *left < self.lease / 5) {
            problems.push(format!("a lock is lost in {left:.1?} unless its lease is renewed"));
        }
        problems
    }
}

impl Node {
    /// How the node is. This asks the engine nothing and does not block, so it may be called from a health check of
    /// any kind, also while the background task hangs. To learn whether the engine responds now,
    /// [inspect](Self::inspect) a key first. With the feature `metrics` the state is reported there too.
    ///
    /// It looks at each key that the node knows: some tenths of a microsecond each.
    ///
    /// In a forked child of the process that built the node, the node is closed.
    pub fn health(&self) -> Health {
        let shared = self.shared();
        let health = shared.health();
        #[cfg(feature = "metrics")]
        shared.call(|| shared.metrics.health(&health));
        health
    }
}

impl NodeShared {
    fn health(&self) -> Health {
        let mut health = Health {
            last_response: None,
            round_trip: None,
            error: None,
            watches_wanted: 0,
            watches: 0,
            waiting: 0,
            held: 0,
            longest_queue: 0,
            least_lease_left: None,
            driver_late: Duration::ZERO,
            is_closed: self.is_gone(),
            lease: self.config.lease,
        };
        if self.is_foreign() {
            return health;
        }
        health.is_closed |= self.is_closed();
        let responses = self.responses.lock().clone();
        if let Some((at, took)) = responses.last {
            (health.last_response, health.round_trip) = (Some(at.elapsed()), Some(took));
        }
        health.error = responses.error;
        health.driver_late = self.run_queue.late_by(self.clock.now());
        for local in self.known() {
            local.state().add_to(&mut health, self);
        }
        health
    }

    /// A request to the engine has ended.
    pub(crate) fn note_response(&self, took: Duration, error: Option<&TransportError>) {
        if self.is_foreign() {
            return;
        }
        let now = Instant::now();
        // The drop of an error may run code of the transport, so it has to come after the mutex.
        let mut _old = None;
        let mut responses = self.responses.lock();
        _old = std::mem::replace(&mut responses.error, error.cloned());
        if error.is_none() {
            responses.last = Some((now, took));
        }
    }
}

/// How the requests to the engine have ended.
#[derive(Clone, Debug, Default)]
pub(crate) struct Responses {
    /// When the last one succeeded, and how long it took.
    last: Option<(Instant, Duration)>,
    /// Of the last one.
    error: Option<TransportError>,
}

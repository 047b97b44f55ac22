//! What the machine knows of the register, and since when it has known it.

use super::{CLOCK_RATE_ERROR, Machine};
use crate::cluster::protocol::Time;
use crate::cluster::protocol::register::{Liveness, Register, Unreadable};
use crate::cluster::transport::{Version, Versioned};
use std::time::Duration;

/// The register as last seen. Before the first response the register is assumed to be missing. If it
/// is not, the first write fails and shows it.
#[derive(Debug)]
pub(super) struct View {
    /// `None`: there is no register.
    pub(super) version: Option<Version>,
    pub(super) register: Result<Register, Unreadable>,
    /// Since when the present [`Liveness`] is known: the time, on this node's clock, at which the
    /// first response or notice that showed it was received, and never an earlier one.
    pub(super) unchanged_since: Time,
    /// When the present version was first seen.
    pub(super) version_since: Time,
    /// Whether a response or a notice was ever received.
    pub(super) is_known: bool,
    /// When the last response was received, or the last notice that showed a newer version.
    pub(super) heard_at: Time,
    /// Whether the view was confirmed or changed since the present intent began.
    pub(super) is_fresh: bool,
}

impl View {
    pub(super) fn unknown() -> Self {
        let origin = Time::new(Duration::ZERO);
        Self {
            version: None,
            register: Ok(Register::empty()),
            unchanged_since: origin,
            version_since: origin,
            is_known: false,
            heard_at: origin,
            is_fresh: false,
        }
    }

    /// Takes in what a response showed. `basis` is the version that was known when the request was
    /// sent. If a newer version was noticed since, the response may be older than the view, so only
    /// a larger version is taken. Otherwise the response is the truth, even if an engine that has
    /// lost writes shows a smaller version.
    pub(super) fn responded(&mut self, seen: Option<Versioned>, basis: Option<Version>, now: Time) {
        self.heard_at = now;
        self.is_fresh = true;
        if self.version == basis || seen.as_ref().map(|seen| seen.version) > self.version {
            self.replace(seen, now);
        }
    }

    /// Takes in what the watch yielded. It may be late or a repetition.
    pub(super) fn noticed(&mut self, seen: Versioned, now: Time) {
        if Some(seen.version) > self.version {
            self.heard_at = now;
            self.is_fresh = true;
            self.replace(Some(seen), now);
        }
    }

    /// Takes in that this node's own write got this version.
    pub(super) fn wrote(&mut self, version: Version, written: Register, now: Time) {
        self.heard_at = now;
        self.is_fresh = true;
        if Some(version) > self.version {
            self.set(Some(version), Ok(written), now);
        }
    }

    pub(super) fn heartbeat(&self) -> u64 {
        self.register.as_ref().map_or(0, |register| register.heartbeat)
    }

    fn replace(&mut self, seen: Option<Versioned>, now: Time) {
        match seen {
            Some(Versioned { version, .. }) if self.version == Some(version) => {}
            Some(Versioned { version, value }) => {
                self.set(Some(version), Register::decode(&value), now);
            }
            None => self.set(None, Ok(Register::empty()), now),
        }
    }

    fn set(&mut self, version: Option<Version>, new: Result<Register, Unreadable>, now: Time) {
        if liveness(&self.register) != liveness(&new) || !self.is_known {
            self.unchanged_since = now;
            self.is_known = true;
        }
        (self.version, self.register, self.version_since) = (version, new, now);
    }
}

fn liveness(register: &Result<Register, Unreadable>) -> Option<Liveness> {
    register.as_ref().ok().map(Register::liveness)
}

impl Machine {
    /// When this node may take a lock that another node holds or that is reserved for another, if
    /// `rank` nodes are before it in the queue: after the lease, the allowance for the clocks, and
    /// one claim window for each of those nodes.
    pub(super) fn due(&self, register: &Register, rank: usize) -> Time {
        let lease = match &register.holder {
            Some(holder) => holder.lease.saturating_add(allowance(holder.lease)),
            None => Duration::ZERO,
        };
        let before = u32::try_from(rank).unwrap_or(u32::MAX);
        self.view.unchanged_since + lease + self.settings.claim_window.saturating_mul(before)
    }

    /// Whether other nodes wait for the lock, as last seen.
    pub(crate) fn others_wait(&self) -> bool {
        let others = |register: &Register| {
            register.queue.iter().any(|waiter| waiter.claim.node != self.settings.node)
        };
        self.view.register.as_ref().is_ok_and(others)
    }
}

/// The allowance for the error of one clock over a lease; at least one nanosecond.
pub(super) fn allowance(lease: Duration) -> Duration {
    lease / CLOCK_RATE_ERROR + Duration::from_nanos(1)
}

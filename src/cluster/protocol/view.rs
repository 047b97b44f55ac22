//! What the machine knows of the register, and since when.

use super::{CLOCK_RATE_ERROR, Machine};
use crate::cluster::protocol::register::{ClaimId, Register, Unreadable};
use crate::cluster::time::Time;
use crate::cluster::transport::{Version, Versioned};
use std::time::Duration;

/// The register as last seen. Before anything was seen it is taken for missing, which the first
/// write finds out.
#[derive(Debug)]
pub(super) struct View {
    /// `None`: there is no register.
    pub(super) version: Option<Version>,
    pub(super) register: Result<Register, Unreadable>,
    /// Since when, on this node's clock, the present mark is known: the receipt of what first showed
    /// it, never an earlier moment.
    pub(super) since: Time,
    /// When the present version was first seen.
    pub(super) seen: Time,
    /// Whether anything was ever seen.
    pub(super) is_known: bool,
    /// When anything was last heard of the register, be it news or not.
    pub(super) heard: Time,
    /// Whether it was heard of since the present intent came up.
    pub(super) is_fresh: bool,
}

/// What stands still if the holder (or the next waiter) is dead, whoever else writes.
type Mark = (Option<ClaimId>, u64);

fn mark(register: &Result<Register, Unreadable>) -> Option<Mark> {
    let register = register.as_ref().ok()?;
    Some((register.holder.as_ref().map(|holder| holder.claim), register.heartbeat))
}

impl View {
    pub(super) fn blank() -> Self {
        let origin = Time::new(Duration::ZERO);
        let register = Ok(Register::empty());
        let (is_known, is_fresh) = (false, false);
        Self {
            version: None,
            register,
            since: origin,
            seen: origin,
            is_known,
            heard: origin,
            is_fresh,
        }
    }

    /// What an answer showed. `basis` is the version that was known when the request was sent: if
    /// something newer was noticed meanwhile, the answer may be the older one. If nothing was, it is
    /// the truth, even where an engine that lost writes shows a smaller version.
    pub(super) fn responded(&mut self, seen: Option<Versioned>, basis: Option<Version>, now: Time) {
        self.heard = now;
        self.is_fresh = true;
        if self.version == basis || seen.as_ref().map(|seen| seen.version) > self.version {
            self.take(seen, now);
        }
    }

    /// What the watch yielded: it may be late, or a repetition.
    pub(super) fn noticed(&mut self, seen: Versioned, now: Time) {
        if Some(seen.version) > self.version {
            self.heard = now;
            self.is_fresh = true;
            self.take(Some(seen), now);
        }
    }

    /// The own write got this version.
    pub(super) fn wrote(&mut self, version: Version, written: Register, now: Time) {
        self.heard = now;
        self.is_fresh = true;
        if Some(version) > self.version {
            self.put(Some(version), Ok(written), now);
        }
    }

    pub(super) fn heartbeat(&self) -> u64 {
        self.register.as_ref().map_or(0, |register| register.heartbeat)
    }

    fn take(&mut self, seen: Option<Versioned>, now: Time) {
        match seen {
            Some(Versioned { version, .. }) if self.version == Some(version) => {}
            Some(Versioned { version, value }) => {
                self.put(Some(version), Register::decode(&value), now);
            }
            None => self.put(None, Ok(Register::empty()), now),
        }
    }

    fn put(&mut self, version: Option<Version>, new: Result<Register, Unreadable>, now: Time) {
        if mark(&self.register) != mark(&new) || !self.is_known {
            self.since = now;
            self.is_known = true;
        }
        (self.version, self.register, self.seen) = (version, new, now);
    }
}

impl Machine {
    /// From when on this node may take a lock that another holds, or is reserved for another, if
    /// `rank` nodes stand before it: after the lease and what the clocks may err, and a claim
    /// window for each.
    pub(super) fn due(&self, register: &Register, rank: usize) -> Time {
        let lease = match &register.holder {
            Some(holder) => holder.lease.saturating_add(allowance(holder.lease)),
            None => Duration::ZERO,
        };
        let before = u32::try_from(rank).unwrap_or(u32::MAX);
        self.view.since + lease + self.settings.claim_window.saturating_mul(before)
    }

    /// Whether other nodes wait for the lock, as of what was last seen.
    pub(crate) fn others_wait(&self) -> bool {
        let others = |register: &Register| {
            register.queue.iter().any(|waiter| waiter.claim.node != self.settings.node)
        };
        self.view.register.as_ref().is_ok_and(others)
    }
}

/// What two clocks may err over a lease, each on its side; not less than a nanosecond.
pub(super) fn allowance(lease: Duration) -> Duration {
    lease / CLOCK_RATE_ERROR + Duration::from_nanos(1)
}

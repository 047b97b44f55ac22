//! What the machine knows of the register, and since when it has known it.

use super::Machine;
use crate::cluster::protocol::register::{Liveness, Register, Unreadable};
use crate::cluster::protocol::{Observation, Time, WentBack};
use crate::cluster::transport::{Version, Versioned};
use std::time::Duration;

/// The register as last seen. Before the first response the register is assumed to be missing. If it
/// is not, the first write fails and shows it.
#[derive(Clone, Debug)]
pub(super) struct View {
    /// `None`: there is no register.
    pub(super) version: Option<Version>,
    /// The largest version that an answer has shown, or that a write of this node has got; also to an
    /// earlier machine of this node.
    pub(super) newest: Option<Version>,
    pub(super) register: Result<Register, Unreadable>,
    /// Since when the present [`Liveness`] is known: the time, on this node's clock, at which the
    /// first answer that showed it was received, and never an earlier one.
    pub(super) unchanged_since: Time,
    /// When the present version was first seen.
    pub(super) version_since: Time,
    /// Whether an answer was ever received.
    pub(super) is_known: bool,
    /// When the last response was received, or the last answer of the watch that showed a newer
    /// version.
    pub(super) heard_at: Time,
    /// Whether the view was confirmed or changed since the present intent began.
    pub(super) is_fresh: bool,
    /// What an earlier machine of this node has seen, until the first response or notice.
    pub(super) earlier: Option<Observation>,
}

impl View {
    pub(super) fn unknown() -> Self {
        let origin = Time::new(Duration::ZERO);
        Self {
            version: None,
            newest: None,
            register: Ok(Register::empty()),
            unchanged_since: origin,
            version_since: origin,
            is_known: false,
            heard_at: origin,
            is_fresh: false,
            earlier: None,
        }
    }

    /// Takes in what a response showed. `basis` is the version that was known when the request was
    /// sent, and `newest` the largest one that had been seen by then. If a newer version was noticed
    /// since, the response may be older than the view, so only a larger version is taken. Otherwise
    /// the response is the truth, even if the engine went back: if it shows a version below `newest`.
    pub(super) fn responded(
        &mut self,
        seen: Option<Versioned>,
        basis: Option<Version>,
        newest: Option<Version>,
        now: Time,
    ) {
        let version = seen.as_ref().map(|seen| seen.version);
        let went_back = version.is_some() && version < newest;
        self.heard_at = now;
        self.is_fresh = true;
        if self.version == basis || version > self.version || went_back {
            self.replace(seen, now);
        }
    }

    /// Takes in an answer that the watch yielded. It may be late or a repetition. Returns whether it
    /// is news.
    pub(super) fn noticed(&mut self, seen: Versioned, now: Time) -> bool {
        let is_news = Some(seen.version) > self.newest;
        if is_news {
            self.heard_at = now;
            self.is_fresh = true;
            self.replace(Some(seen), now);
        }
        is_news
    }

    /// Takes in that this node's own write got this version.
    pub(super) fn wrote(&mut self, version: Version, written: Register, now: Time) {
        self.heard_at = now;
        self.is_fresh = true;
        if Some(version) > self.version {
            self.set(Some(version), Ok(written), now);
        }
    }

    /// Whether the engine went back: there is a register, and its version is smaller than one that was
    /// seen before. It ends with a larger version than all of those.
    pub(super) fn went_back(&self) -> Option<WentBack> {
        let (shown, newest) = self.version.zip(self.newest)?;
        (shown < newest).then_some(WentBack { shown, newest })
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
            let earlier = self.earlier.take().filter(|it| Some(it.liveness) == liveness(&new));
            self.unchanged_since = earlier.map_or(now, |earlier| earlier.since);
            self.is_known = true;
        }
        (self.version, self.register, self.version_since) = (version, new, now);
        self.newest = self.newest.max(version);
    }
}

fn liveness(register: &Result<Register, Unreadable>) -> Option<Liveness> {
    register.as_ref().ok().map(Register::liveness)
}

/// How many nodes in a row have a whole claim window each.
const WHOLE_WINDOWS: u32 = 4;

/// How long the first `rank` nodes of the queue have, all together, to take a lock that has come to them: a
/// claim window each for the first [`WHOLE_WINDOWS`]. If all of those let it pass, the queue is likely to be
/// full of the dead: the following window is for as many nodes again, and each one after it for twice as many
/// as the one before. The nodes of one window come one after the other, at equal distances.
///
/// So a node behind `n` dead ones waits for `4 + log2(n / 4)` windows instead of `n`. A live one may be passed
/// over then by one behind it, and joins the queue again; but none that is among the first four.
fn time_for(rank: usize, claim_window: Duration) -> Duration {
    let rank = u32::try_from(rank).unwrap_or(u32::MAX);
    if rank <= WHOLE_WINDOWS {
        return claim_window.saturating_mul(rank);
    }
    let doublings = (rank / WHOLE_WINDOWS).ilog2();
    let first = WHOLE_WINDOWS << doublings;
    let part = f64::from(rank - first) / f64::from(first);
    claim_window.saturating_mul(WHOLE_WINDOWS + doublings) + claim_window.mul_f64(part)
}

impl Machine {
    /// When this node may take a lock that another node holds, if `rank` nodes are before it in the queue:
    /// after the lease, the allowance for the clocks, and the [time for those nodes](time_for).
    pub(super) fn due(&self, register: &Register, rank: usize) -> Time {
        let lease = match &register.holder {
            Some(holder) => {
                holder.lease.saturating_add(self.settings.clock_error.allowance(holder.lease))
            }
            None => Duration::ZERO,
        };
        self.view.unchanged_since + lease + time_for(rank, self.settings.claim_window)
    }

    /// What was seen of the holder. `None` if there is none, as far as this node knows, or if it is this
    /// node.
    pub(crate) fn observation(&self) -> Option<Observation> {
        let register = self.view.register.as_ref().ok().filter(|_| self.view.is_known)?;
        if register.is_idle() || self.is_in_register() {
            return None;
        }
        let lease = register.holder.as_ref().map_or(Duration::ZERO, |holder| holder.lease);
        let (liveness, since) = (register.liveness(), self.view.unchanged_since);
        Some(Observation { liveness, since, lease })
    }

    /// The largest version that was seen.
    pub(crate) fn newest(&self) -> Option<Version> {
        self.view.newest
    }

    /// For a new machine: what earlier ones, or inspections, have seen of the key.
    pub(crate) fn remember(&mut self, newest: Option<Version>, holder: Option<Observation>) {
        (self.view.newest, self.view.earlier) = (newest, holder);
    }

    /// Whether other nodes wait for the lock, as last seen.
    pub(crate) fn others_wait(&self) -> bool {
        let others =
            |register: &Register| register.queue.iter().any(|waiter| !self.is_own(waiter.claim));
        self.view.register.as_ref().is_ok_and(others)
    }
}

#[cfg(test)]
mod tests {
    use super::time_for;
    use std::time::Duration;

    #[test]
    fn the_time_for_those_before_grows_with_each_of_them_and_by_a_window_for_twice_as_many() {
        let window = Duration::from_secs(1);
        let times: Vec<_> = (0..10_001).map(|rank| time_for(rank, window)).collect();
        assert!(times.windows(2).all(|pair| pair[0] < pair[1]));
        let whole = [0, 1, 2, 3, 4, 8, 16, 32, 64, 128].map(|rank| times[rank].as_secs_f64());
        assert_eq!(whole, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]);
        assert_eq!(times[6], window * 9 / 2);
        assert!(time_for(usize::MAX, window) < window * 35);
    }
}

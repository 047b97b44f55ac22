//! Leaving room for others who want to get in.
//!
//! Who wants to join the queue has to write while the register stands still, from what it saw to
//! the arrival of its write: for a round trip. Nodes that take the lock and give it back over and
//! over write more often than that, and would keep everyone else out, by doing nothing but what is
//! allowed; and they cannot see it, since a write that fails leaves no trace.
//!
//! So a node that has not seen the register stand still for some time waits before it gives the lock
//! back, until it has: for a few of its own round trips at first, and each time twice as long, since
//! the engine may be farther away for others, up to an eighth of the claim window; then it begins
//! anew. Together those who
//! share the lock give one part in [`SHARE`] of their time to that; nothing if the register stands
//! still by itself, since the lock is held, or left alone, for so long anyway.
//!
//! That it stood still is proved by a write: it expected a version that was known for so long.

use super::Machine;
use crate::cluster::time::Time;
use std::time::Duration;

/// One part in so many of the time is given to waiting.
const SHARE: u32 = 64;

/// The shortest time that a request is taken to need.
pub(super) const SHORTEST: Duration = Duration::from_micros(10);

/// When there was room for others.
#[derive(Debug, Default)]
pub(super) struct Room {
    /// When the register had stood still for long enough, the last time.
    since: Option<Time>,
    /// How long is enough; nothing: a few round trips.
    enough: Option<Duration>,
    /// This node is waiting for it.
    waits: bool,
}

impl Machine {
    fn enough(&self) -> Duration {
        self.room.enough.unwrap_or(4 * self.round_trip).min(self.most())
    }

    fn most(&self) -> Duration {
        self.settings.claim_window / 8
    }

    /// A write has succeeded before which the register stood still for so long.
    pub(super) fn stood_still(&mut self, long: Duration, now: Time) {
        if long >= self.enough() {
            self.room.since = Some(now);
        }
        if long >= self.most() {
            self.room.enough = None;
        }
    }

    /// The lock is to be given back: until when to leave the register as it is before, if at all.
    /// So many others wait.
    pub(super) fn leave_room(&mut self, others: usize, now: Time) -> Option<Time> {
        let enough = self.enough();
        let sharers = u32::try_from(others).unwrap_or(u32::MAX).saturating_add(1);
        let since = *self.room.since.get_or_insert(now);
        if now.since(since) < enough.saturating_mul(SHARE).saturating_mul(sharers) {
            return None;
        }
        let until = self.view.seen + enough;
        if now < until {
            self.room.waits = true;
            return Some(until);
        }
        if std::mem::take(&mut self.room.waits) {
            self.room.enough = Some(2 * enough);
        }
        self.room.since = Some(now);
        None
    }

    /// Somebody else wrote first: joins again a little later, at random, so that many who join do not
    /// get into each other's way, and the holder's writes find room. Not much later than it must be:
    /// the room that busy nodes leave is not large.
    pub(super) fn put_off_joining(&mut self, now: Time) {
        self.collisions = (self.collisions + 1).min(32);
        let longest = self.round_trip.saturating_mul(1 << (self.collisions / 4));
        let longest = longest.min(self.round_trip / 4 + Duration::from_millis(2));
        let share = if self.collisions < 3 { 0.0 } else { self.random.f64() };
        self.join_at = now + longest.mul_f64(share);
    }
}

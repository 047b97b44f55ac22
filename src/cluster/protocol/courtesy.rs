//! Leaving room for others who want to get in.
//!
//! Who wants to join the queue has to write while the register stands still, from what it saw to
//! the arrival of its write: for a round trip. A node that takes and frees the lock over and over
//! writes more often than that, and would keep everyone out, by doing nothing but what is allowed;
//! and it cannot see them, since a write that fails leaves no trace.
//!
//! So a node that has had the lock for itself for some time pauses before it takes it again: for a
//! few of its own round trips at first, and each time twice as long, since the engine may be farther
//! away for others, up to an eighth of the claim window. It gives no more than one part in
//! [`SHARE`] of its time to that, and nothing if it leaves the lock alone for so long anyway. Once
//! somebody is in the queue, the lock goes from one to the next.

use super::Machine;
use crate::cluster::time::Time;
use crate::cluster::transport::Version;
use std::time::Duration;

/// One part in so many of the time is given to pauses.
const SHARE: u32 = 64;

/// The shortest time that a request is taken to need.
pub(super) const SHORTEST: Duration = Duration::from_micros(10);

/// How long this node has had the lock for itself.
#[derive(Debug, Default)]
pub(super) struct Alone {
    /// The version and the time of its last release.
    left: Option<(Version, Time)>,
    /// Since when nobody else has written, or since its last pause.
    since: Option<Time>,
    /// How long the next pause is; nothing: a few round trips.
    pause: Option<Duration>,
}

impl Machine {
    /// The lock was given back.
    pub(super) fn left(&mut self, version: Version, now: Time) {
        self.alone.left = Some((version, now));
    }

    /// The lock is free, and wanted again: until when to leave it to others, if at all.
    pub(super) fn pause(&mut self, now: Time) -> Option<Time> {
        let Some((_, left)) = self.alone.left.filter(|(left, _)| Some(*left) == self.view.version)
        else {
            // Somebody else has written: there was room.
            self.alone = Alone::default();
            return None;
        };
        let longest = self.settings.claim_window / 8;
        let pause = self.alone.pause.unwrap_or(4 * self.round_trip).min(longest);
        let since = *self.alone.since.get_or_insert(left);
        if now.since(since) < pause * SHARE {
            return None;
        }
        let until = left + pause;
        if now < until {
            return Some(until);
        }
        (self.alone.since, self.alone.pause) = (Some(now), Some(2 * pause));
        None
    }

    /// Somebody else wrote first: joins again a little later, at random, so that many who join do not
    /// get into each other's way, and the holder's writes find room. Not much later than a round
    /// trip: the room that a busy node leaves is not large.
    pub(super) fn put_off_joining(&mut self, now: Time) {
        self.collisions = (self.collisions + 1).min(32);
        let longest = self.round_trip.saturating_mul(1 << (self.collisions / 4));
        let longest = longest.min(self.round_trip + Duration::from_millis(2));
        let share = if self.collisions < 3 { 0.0 } else { self.random.f64() };
        self.join_at = now + longest.mul_f64(share);
    }
}

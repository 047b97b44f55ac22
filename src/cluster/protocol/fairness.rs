//! Leaving room for others who want to get in.
//!
//! Who wants to join the queue has to write while the register stands still, from what it saw to
//! the arrival of its write: for a round trip. Nodes that take the lock and give it back over and
//! over write more often than that, and would keep everyone else out, by doing nothing but what is
//! allowed. A write that fails leaves no trace, so they do not see whom they keep out. They know
//! only what they have met themselves: others in the queue when they gave the lock back, or a
//! holder when they wanted it.
//!
//! # The holder
//!
//! **It has met others.** After a few turns in a row ([`TURNS`]) in which nobody waited, it does not
//! give the lock back before somebody has joined, or the register has stood still for some round
//! trips ([`A_WHILE`]; half a claim window at most). If nobody has come it has twice as many turns before the next time, up to
//! [`ALONE`]: from there on it is taken to be alone, until it meets somebody.
//!
//! **It has met nobody.** It cannot know that nobody is there, so a node that has not seen the
//! register stand still for some time waits before it gives the lock back, until it has: for a few of
//! its own round trips at first, and each time twice as long, since the engine may be farther away for
//! others, up to an eighth of the claim window; then it begins anew. Together those who share the lock
//! give one part in [`SHARE`] of their time to that; nothing if the register stands still by itself,
//! since the lock is held, or left alone, for so long anyway.
//!
//! That it stood still is proved by a write: it expected a version that was known for so long.
//!
//! # Who wants to join
//!
//! The best moment is the beginning of a turn: the next waiter has just confirmed, and the next write of its
//! is its release. Before that, the two would get into each other's way. So who joins while the lock is
//! reserved waits for the confirmation, where the watch shows it; where it does not, who has just given
//! the lock back after a turn that was no shorter leaves the next waiter a round trip before it even looks.
//!
//! It tries again at once, a few times. Where others write all the time that does not help, and costs
//! them requests; so it waits a while, at random, and then tries twice: the first attempt goes by what
//! is old, and shows what is new; the second succeeds if the holder leaves room.
//!
//! Who has had a short turn, and gives the lock to somebody, waits for such a while too, if it had to
//! wait to join before. So the lock does not wander at each turn, at the price of a handoff (a notice,
//! a process that wakes up, a write that finds another), but stays with each of them for some turns.
//! Where the watch shows everything, attempts fail rarely, and it does wander: that was both faster
//! and more even (etcd, eight processes in tight loops: 2.8 instead of 3.3 ms, 0.89 instead of 0.76).
//!
//! # The price
//!
//! Eight processes in tight loops over a Redis nearby, two processors: without all this the unluckiest
//! got 0.02 to 0.04 of the luckiest's turns, and somebody waited for 0.2 to 0.4 s; now it is about 0.5,
//! and less than 0.1 s. The price is between a tenth and two fifths of the turns: a turn that goes to
//! another process takes longer than one that stays. Who takes a fair lock wants to get it in time
//! rather than to see one process get it often. To hand it off at every turn would be fairer still
//! (0.6), and cost two thirds of the turns.

use super::Machine;
use crate::cluster::protocol::register::Register;
use crate::cluster::time::Time;
use std::time::Duration;

/// One part in so many of the time is given to waiting.
const SHARE: u32 = 64;

/// So many turns in a row, without others, before a node that has met others leaves room for them.
const TURNS: u32 = 4;

/// So many turns without others show that there are none.
const ALONE: u32 = 1024;

/// So many round trips it leaves room for them. A turn that lasts half of that has room enough.
const A_WHILE: u32 = 8;

/// So often in a row others may write first before a node waits with its next attempt to join; and
/// where it sees all that they write. (32 nodes that hold the lock for a millisecond, over etcd: 3.9
/// requests for a grant with 3, 3.2 with 8 and with no limit; 32 that all come at a time: 15.6 instead
/// of 14.7 with 3, in the simulator.)
const COLLISION_LIMIT: u32 = 3;
const COLLISION_LIMIT_OF_WATCHERS: u32 = 8;

/// It waits for so many round trips at most, and no longer than so long and a part of its round trip.
/// All wait equally long, on the average: who waited less whenever it has joined would join ever more.
const ROUND_TRIPS: u32 = 64;
const LONGEST: Duration = Duration::from_millis(8);

/// So often it has to join before it tries at once again, if all writes before met others.
const MEMORY: u32 = 8;

/// The shortest time that a request is taken to need.
pub(super) const SHORTEST: Duration = Duration::from_micros(10);

/// When there was room for others.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    /// When the register had stood still for long enough, the last time.
    since: Option<Time>,
    /// How long is enough; nothing: a few round trips.
    enough: Option<Duration>,
    /// This node is waiting for it.
    waits: bool,
    /// The last grant.
    granted: Option<Time>,
    /// The round trip, if the last turn took that long.
    used: Option<Duration>,
    /// Until then the lock is left to the one it was given to: it has not confirmed yet.
    left_until: Option<Time>,
    /// How many turns in a row there were without others; and after how many it leaves room for them.
    /// None: it has met nobody.
    turns: u32,
    after: Option<u32>,
    /// This node is waiting for somebody to join.
    yields: bool,
}

impl Machine {
    fn enough(&self) -> Duration {
        self.backoff.enough.unwrap_or(4 * self.round_trip).min(self.most())
    }

    fn most(&self) -> Duration {
        self.settings.claim_window / 8
    }

    /// A write has succeeded before which the register stood still for so long.
    pub(super) fn stood_still(&mut self, long: Duration, now: Time) {
        if long >= self.enough() {
            self.backoff.since = Some(now);
        }
        if long >= self.most() {
            self.backoff.enough = None;
        }
    }

    /// Others hold the lock, or wait for it.
    pub(super) fn met_others(&mut self) {
        self.backoff.turns = 0;
        self.backoff.yields = false;
        self.backoff.after = Some(TURNS);
    }

    pub(super) fn begin_turn(&mut self, now: Time) {
        self.backoff.granted = Some(now);
        self.backoff.turns = self.backoff.turns.saturating_add(1);
    }

    /// Its user gives the lock back.
    pub(super) fn end_turn(&mut self, now: Time) {
        let Some(granted) = self.backoff.granted.take() else { return };
        let turn = now.since(granted);
        self.backoff.used = (turn >= self.round_trip).then_some(self.round_trip);
        self.backoff.left_until = None;
        if turn >= self.round_trip.saturating_mul(A_WHILE) / 2 {
            // Others could join meanwhile, and so can this node while they hold it.
            self.collisions = 0;
        }
    }

    /// The lock is to be given back: until when to leave the register as it is before, if at all.
    /// So many others wait.
    pub(super) fn back_off(&mut self, others: usize, now: Time) -> Option<Time> {
        if others > 0 {
            self.met_others();
        }
        self.yield_to_joiners(now).or_else(|| self.stand_still(others, now))
    }

    /// For those who want it too, if they are near.
    fn yield_to_joiners(&mut self, now: Time) -> Option<Time> {
        let after = self.backoff.after.filter(|after| self.backoff.turns >= *after)?;
        // An answer that was late once must not make this one's release late, too.
        let a_while = self.round_trip.saturating_mul(A_WHILE).min(self.settings.claim_window / 2);
        let until = self.view.seen + a_while;
        if now < until {
            self.backoff.yields = true;
            return Some(until);
        }
        self.backoff.turns = 0;
        if std::mem::take(&mut self.backoff.yields) {
            self.backoff.after = (after < ALONE).then_some(2 * after);
        }
        None
    }

    /// For those of whom nothing is known.
    fn stand_still(&mut self, others: usize, now: Time) -> Option<Time> {
        let enough = self.enough();
        let sharers = u32::try_from(others).unwrap_or(u32::MAX).saturating_add(1);
        let since = *self.backoff.since.get_or_insert(now);
        if now.since(since) < enough.saturating_mul(SHARE).saturating_mul(sharers) {
            return None;
        }
        let until = self.view.seen + enough;
        if now < until {
            self.backoff.waits = true;
            return Some(until);
        }
        if std::mem::take(&mut self.backoff.waits) {
            self.backoff.enough = Some(2 * enough);
        }
        self.backoff.since = Some(now);
        None
    }

    /// The lock was given back, and others wait: leaves it to them for a while if all have short turns,
    /// or until the next one can have confirmed.
    pub(super) fn gave_way(&mut self, now: Time) {
        if self.collisions >= self.collision_limit() {
            self.join_at = now + self.a_while();
            self.has_looked = false;
        } else if let Some(trip) = self.backoff.used.filter(|_| !self.sees_all()) {
            self.backoff.left_until = Some(now + trip.min(self.most()));
        }
    }

    /// Until when not even to look, if the lock was given to somebody a moment ago.
    pub(super) fn leaves_alone(&self, now: Time) -> Option<Time> {
        self.backoff.left_until.filter(|until| now < *until && !self.must_look)
    }

    /// When to join this register at the earliest: not before the one for whom the lock is reserved
    /// has confirmed, if that will be seen, or should have been for long.
    pub(super) fn join_from(&self, register: &Register) -> Time {
        let is_reserved = register.holder.is_none() && !register.queue.is_empty();
        let confirmed_by =
            if is_reserved && self.sees_all() { self.most() } else { Duration::ZERO };
        self.join_at.max(self.view.since + confirmed_by)
    }

    pub(super) fn joined(&mut self) {
        self.collisions = if self.sees_all() { 0 } else { self.collisions.saturating_sub(1) };
        self.has_looked = false;
    }

    fn collision_limit(&self) -> u32 {
        if self.sees_all() { COLLISION_LIMIT_OF_WATCHERS } else { COLLISION_LIMIT }
    }

    /// Somebody else wrote first: joins again a little later, at random, so that many who join do not
    /// get into each other's way, and the holder's writes find room.
    pub(super) fn put_off_joining(&mut self, now: Time) {
        self.collisions = (self.collisions + 1).min(self.collision_limit() + MEMORY);
        // What an attempt after a while has shown is new, and worth another one at once.
        self.has_looked = !self.has_looked;
        let is_at_once = self.collisions < self.collision_limit() || self.has_looked;
        self.join_at = if is_at_once { now } else { now + self.a_while() };
    }

    /// At random, so that many do not come at a time.
    fn a_while(&mut self) -> Duration {
        let longest = self.round_trip.saturating_mul(ROUND_TRIPS);
        let far = (self.round_trip / 4).min(self.settings.claim_window / 2);
        longest.min(far + LONGEST).mul_f64(self.random.f64())
    }
}

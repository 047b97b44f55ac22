//! Fairness among nodes that contend for one key: when a holder defers its release, and when a node
//! that waits tries to join the queue.
//!
//! A node joins the queue by a write, and the write succeeds only if the register does not change
//! from the read before it to the arrival of the write, which is one round trip. Nodes that take and
//! release the lock in a tight loop change the register more often than that, so they could keep
//! every other node out for ever without breaking a rule. A failed write leaves no trace in the
//! register, so the holders do not see the nodes that fail. A node knows only of the contention that
//! it has met itself: entries in the queue when it released the lock, or a holder when it wanted the
//! lock. So two rules bound how long a holder can keep the register busy.
//!
//! A *turn* is the time from a grant to the release. A *quiet period* is a time in which the
//! register does not change.
//!
//! # The holder
//!
//! **Yield to joiners**: for a node that has met contention. After [`YIELD_AFTER`] turns in a row in
//! which nobody waited, it defers the release until another node has joined, or the register has
//! been unchanged for [`YIELD_ROUND_TRIPS`] round trips, and at most half a claim window. If no node
//! has joined by then, the number of turns before the next deferral doubles, up to
//! [`YIELD_AFTER_LIMIT`]. After that many turns the node takes itself to be alone, until it meets
//! contention again.
//!
//! **Leave a quiet period**: for a node that has met no contention, which cannot know that no other
//! node is there. If it has not seen a quiet period for some time, it defers the release until there
//! has been one. The first has a length of four of its own round trips. Each deferral doubles the
//! length, since the engine may be farther away from other nodes, until it reaches an eighth of the
//! claim window; then it begins anew. The nodes that share the lock spend one part in
//! [`QUIET_SHARE`] of their time on that altogether. They spend nothing if the register is quiet for
//! long enough anyway, because the lock is held or unused for that long.
//!
//! A quiet period is proved by a successful write: it expected a version that was known for that
//! long.
//!
//! # The node that joins
//!
//! After a collision the node tries again at once, a few times. If the other nodes write all the
//! time, that does not help and costs requests. So from a certain number of collisions on the node
//! waits for a random delay and then makes two attempts: the first uses the version known before the
//! delay, fails, and shows the current version; the second succeeds if the holder yields.
//!
//! A node that releases the lock to others after that many collisions also waits for a random delay
//! before it joins again. So the lock stays with each node for some turns, where a handoff at each
//! turn would cost a notice, a wake-up and a write that collides. If the watch shows every change,
//! collisions are rare and the lock does change its node at each turn. That was both faster and
//! fairer (etcd, eight processes in tight loops: 2.8 instead of 3.3 ms a turn, and the unluckiest
//! process got 0.89 instead of 0.76 of the luckiest's turns).
//!
//! # A kept place
//!
//! If the settings say so (`MachineSettings::keep_place`), a node that was wanted again within that time after a
//! release, [`RETURNS`] times in a row, is expected to be again: the write that hands the lock on puts the
//! node at the end of the queue. That is one write for a turn instead of two, and it collides with no write that joins.
//! If nobody wants the lock in time, or if it comes first, the node leaves the queue, and what it has counted
//! is forgotten. So it does where no watch would tell it of its turn. It was measured with the same eight processes (`processes-8` in benches/README.md).
//!
//! # The price
//!
//! Measured with eight processes in tight loops over a Redis nearby, on two processors: without these
//! rules the unluckiest process got 0.02 to 0.04 of the luckiest's turns, and the longest wait was
//! 0.2 to 0.4 s. With them it is about 0.5, and less than 0.1 s. They cost between a tenth and two
//! fifths of the turns, since a turn that goes to another process takes longer than one that stays. A
//! fair lock is chosen for a bounded wait and not for the throughput of one process. A handoff at
//! every turn would be fairer still (0.6), and would cost two thirds of the turns.

use super::Machine;
use crate::cluster::protocol::{Intent, Time};
use std::time::Duration;

/// A node spends at most one part in this many of its time on quiet periods.
const QUIET_SHARE: u32 = 64;

/// A node that has met contention yields after this many turns in a row without other nodes.
const YIELD_AFTER: u32 = 4;

/// After this many turns in a row without other nodes, a node takes itself to be alone.
const YIELD_AFTER_LIMIT: u32 = 1024;

/// A node yields for this many round trips. A turn of half that length lets other nodes join anyway.
const YIELD_ROUND_TRIPS: u32 = 8;

/// A node delays its attempts to join after this many collisions. (32 nodes that hold the lock for a
/// millisecond, over etcd: 3.9 requests for a grant with 3, and 3.2 with 8 and without a limit. 32
/// nodes that arrive at the same time, in the simulator: 15.6 requests with 8, and 14.7 with 3.)
const COLLISION_LIMIT: u32 = 3;
/// [`COLLISION_LIMIT`] for a node whose watch shows every change.
const COLLISION_LIMIT_OF_WATCHERS: u32 = 8;

/// The random delay before an attempt to join is at most this many round trips, and at most a quarter
/// of a round trip more than [`MAX_DELAY`]. All nodes draw from the same range: if a node that has
/// joined drew shorter delays from then on, it would join ever more often.
const DELAY_ROUND_TRIPS: u32 = 64;
const MAX_DELAY: Duration = Duration::from_millis(8);

/// After many collisions a node has to join this often before its attempts follow each other at once
/// again.
const COLLISION_MEMORY: u32 = 8;

/// A node is expected back after this many returns in a row.
pub(super) const RETURNS: u32 = 2;

/// The shortest round trip that is assumed.
pub(super) const MIN_ROUND_TRIP: Duration = Duration::from_micros(10);

/// When the holder deferred its release, and when it has to do so again.
#[derive(Clone, Debug, Default)]
pub(super) struct Backoff {
    /// When the last quiet period of the required length ended.
    last_quiet: Option<Time>,
    /// The required length of a quiet period. `None`: four round trips.
    required_quiet: Option<Duration>,
    /// The release is being deferred until the quiet period is over.
    awaits_quiet: bool,
    /// When the current turn began.
    turn_began: Option<Time>,
    /// The number of turns in a row without other nodes.
    turns_alone: u32,
    /// After how many such turns the node yields. `None`: it does not yield.
    yield_after: Option<u32>,
    /// The release is being deferred so that other nodes can join.
    is_yielding: bool,
}

/// How soon users come back after a release.
#[derive(Clone, Debug, Default)]
pub(super) struct Returns {
    /// When the last release was over. `None` before it is, and when its return was counted.
    released_at: Option<Time>,
    /// The number of returns in a row that came in time.
    pub(super) in_a_row: u32,
    /// Nobody wants the lock, and the node stays in the queue until this moment.
    expected_until: Option<Time>,
}

impl Machine {
    // ---- The holder ----

    /// Records that other nodes hold the lock or wait for it.
    pub(super) fn note_contention(&mut self) {
        self.backoff.turns_alone = 0;
        self.backoff.is_yielding = false;
        self.backoff.yield_after = Some(YIELD_AFTER);
    }

    /// Records that a write has succeeded before which the register was unchanged for this long.
    pub(super) fn record_quiet_period(&mut self, length: Duration, now: Time) {
        if length >= self.required_quiet() {
            self.backoff.last_quiet = Some(now);
        }
        if length >= self.longest_quiet() {
            self.backoff.required_quiet = None;
        }
    }

    /// Records the beginning of a turn.
    pub(super) fn begin_turn(&mut self, now: Time) {
        self.backoff.turn_began = Some(now);
        self.backoff.turns_alone = self.backoff.turns_alone.saturating_add(1);
    }

    /// Records the end of a turn: the lock is to be released.
    pub(super) fn end_turn(&mut self, now: Time) {
        let Some(began) = self.backoff.turn_began.take() else { return };
        let turn = now.since(began);
        if turn >= self.round_trip.saturating_mul(YIELD_ROUND_TRIPS) / 2 {
            // Other nodes could join during this turn, and this node can during theirs.
            self.collisions = 0;
        }
    }

    /// Until when to defer the write that releases the lock. `None`: it may be sent now. `others` is
    /// the number of other nodes in the queue.
    pub(super) fn back_off(&mut self, others: usize, now: Time) -> Option<Time> {
        if others > 0 {
            self.note_contention();
        }
        self.yield_to_joiners(now).or_else(|| self.leave_quiet_period(others, now))
    }

    /// Until when to yield to nodes that are known to contend.
    fn yield_to_joiners(&mut self, now: Time) -> Option<Time> {
        let after = self.backoff.yield_after.filter(|after| self.backoff.turns_alone >= *after)?;
        // The claim window bounds the deferral, in case the last response was late by chance.
        let length = self.round_trip.saturating_mul(YIELD_ROUND_TRIPS);
        let until = self.view.version_since + length.min(self.settings.claim_window / 2);
        if now < until {
            self.backoff.is_yielding = true;
            return Some(until);
        }
        self.backoff.turns_alone = 0;
        if std::mem::take(&mut self.backoff.is_yielding) {
            self.backoff.yield_after = (after < YIELD_AFTER_LIMIT).then_some(2 * after);
        }
        None
    }

    /// Until when to leave a quiet period for nodes that are not known.
    fn leave_quiet_period(&mut self, others: usize, now: Time) -> Option<Time> {
        let required = self.required_quiet();
        let sharers = u32::try_from(others).unwrap_or(u32::MAX).saturating_add(1);
        let last_quiet = *self.backoff.last_quiet.get_or_insert(now);
        if now.since(last_quiet) < required.saturating_mul(QUIET_SHARE).saturating_mul(sharers) {
            return None;
        }
        let until = self.view.version_since + required;
        if now < until {
            self.backoff.awaits_quiet = true;
            return Some(until);
        }
        if std::mem::take(&mut self.backoff.awaits_quiet) {
            self.backoff.required_quiet = Some(2 * required);
        }
        self.backoff.last_quiet = Some(now);
        None
    }

    fn required_quiet(&self) -> Duration {
        self.backoff.required_quiet.unwrap_or(4 * self.round_trip).min(self.longest_quiet())
    }

    fn longest_quiet(&self) -> Duration {
        self.settings.claim_window / 8
    }

    /// Records that the lock was handed to another node. If turns are short, this node then waits for a
    /// random delay before it joins again.
    pub(super) fn released_to_others(&mut self, now: Time) {
        if self.collisions >= self.collision_limit() {
            self.join_at = now + self.random_delay();
            self.rejoins_at_once = false;
        }
    }

    // ---- A kept place ----

    /// Records that the lock is wanted, for the first time since its release. Returns whether the node has kept its
    /// place in the queue, and would have heard of its turn.
    pub(super) fn returned(&mut self, now: Time) -> bool {
        let is_soon = match self.returns.released_at.take() {
            Some(at) => now.since(at) <= self.absence(),
            // Before the release was over.
            None => self.held.is_some() || self.releasing.is_some(),
        };
        self.returns.in_a_row = if is_soon { self.returns.in_a_row.saturating_add(1) } else { 0 };
        let was_expected = self.returns.expected_until.take().is_some();
        was_expected && self.hears_of_turn() && self.is_in_register()
    }

    /// Whether the release of the lock, which nobody wants, is to keep a place in the queue for its next user.
    pub(super) fn expects_return(&self) -> bool {
        let is_usual = self.returns.in_a_row >= RETURNS && !self.absence().is_zero();
        is_usual
            && self.intent == Intent::Nothing
            && self.releasing.is_some()
            && self.hears_of_turn()
    }

    /// Records that a release is over. `has_place`: its write has put the node at the end of the queue.
    pub(super) fn begin_absence(&mut self, has_place: bool, now: Time) {
        if self.intent != Intent::Nothing {
            return;
        }
        self.returns.released_at = Some(now);
        if has_place && self.expects_return() {
            let until = now + self.absence();
            self.returns.expected_until = Some(until);
            self.keep_watch(until);
        }
    }

    /// The node is closed, or the process ends: it puts off no release, and gives up a place that it keeps. Returns
    /// whether it has something to do for that.
    pub(crate) fn hurry(&mut self) -> bool {
        self.is_hurried = true;
        let has_place = std::mem::take(&mut self.returns).expected_until.is_some();
        has_place || self.releasing.is_some()
    }

    /// Until when this node stays in the queue although nobody wants the lock. `None`: it does not.
    pub(super) fn expected_until(&mut self, now: Time) -> Option<Time> {
        let until = self.returns.expected_until?;
        let has_it = || self.view.register.as_ref().is_ok_and(|register| self.holds(register));
        if self.releasing.is_none() && now < until && self.hears_of_turn() && !has_it() {
            return Some(until);
        }
        self.returns = Returns::default();
        None
    }

    /// Whether nobody wants the lock, and the node is in the queue all the same.
    pub(super) fn is_expected(&self) -> bool {
        self.returns.expected_until.is_some()
    }

    /// For how long the node keeps its place. If a notice of its turn is lost, that costs the others no more.
    fn absence(&self) -> Duration {
        self.settings.keep_place.min(self.settings.handoff_lease / 3)
    }

    /// Whether the node is told of its turn although it does not ask.
    fn hears_of_turn(&self) -> bool {
        self.is_watching() && self.view.went_back().is_none()
    }

    // ---- The node that joins ----

    /// Records a successful attempt to join.
    pub(super) fn joined(&mut self) {
        self.collisions = if self.sees_all() { 0 } else { self.collisions.saturating_sub(1) };
        self.rejoins_at_once = false;
    }

    /// Records that another node's write came first. From the limit on, attempts are delayed at
    /// random, so that joining nodes do not collide with each other or with the holder's writes.
    pub(super) fn join_collided(&mut self, now: Time) {
        self.collisions = (self.collisions + 1).min(self.collision_limit() + COLLISION_MEMORY);
        // A delayed attempt has shown the current version, so one more follows at once.
        self.rejoins_at_once = !self.rejoins_at_once;
        let is_at_once = self.collisions < self.collision_limit() || self.rejoins_at_once;
        self.join_at = if is_at_once { now } else { now + self.random_delay() };
    }

    fn collision_limit(&self) -> u32 {
        if self.sees_all() { COLLISION_LIMIT_OF_WATCHERS } else { COLLISION_LIMIT }
    }

    /// A random delay before an attempt to join.
    fn random_delay(&mut self) -> Duration {
        let longest = self.round_trip.saturating_mul(DELAY_ROUND_TRIPS);
        let part = (self.round_trip / 4).min(self.settings.claim_window / 2);
        longest.min(part + MAX_DELAY).mul_f64(self.random.f64())
    }
}

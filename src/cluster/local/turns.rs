//! Whose turn it is to send a request: the bound on the requests of a node in flight, and the order of the
//! keys that wait.
//!
//! An engine that is asked for more than it can do answers everything later, until no answer comes within the
//! request timeout: then it works for nobody, and all leases end. So a node keeps no more requests in flight
//! than the engine answers in a quarter of the request timeout. What this is, the answers tell: each that comes in
//! time allows one more, and one that comes later, or an error, halves the number, once for all that were
//! in flight then. (Such a *congestion window* is what TCP has: V. Jacobson, "Congestion Avoidance and Control", 1988.)
//! Several nodes share an engine in this way without knowing each other.
//!
//! A key that finds no room waits for its turn, and its request is made when that comes: of the register and
//! the time as they are then, and not at all if nobody wants it any more. First come those that are *urgent*,
//! in the order of the times since when they are; then the others, in the order in which they came. A renewal is urgent from the
//! middle of the lease on. So a node acquires no more locks than it can renew twice in a lease: the surplus waits, and
//! no lock that is held is lost for one that is not.

use crate::cluster::key::Key;
use crate::cluster::protocol::{AwaitedTurn, Time};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The requests in flight, and the keys that wait for a turn to send one.
#[derive(Debug)]
pub(super) struct Turns {
    window: Window,
    in_flight: usize,
    waiting: BTreeMap<Key, AwaitedTurn>,
    by_arrival: BTreeSet<(Time, Key)>,
    by_urgency: BTreeSet<(Time, Key)>,
}

impl Turns {
    /// `least`: so many requests may always be in flight, however slow the engine is.
    pub(super) fn new(request_timeout: Duration, least: usize) -> Self {
        Self {
            window: Window::new(request_timeout / 4, least),
            in_flight: 0,
            waiting: BTreeMap::new(),
            by_arrival: BTreeSet::new(),
            by_urgency: BTreeSet::new(),
        }
    }

    /// Whether a key may send a request without waiting: there is room, and nobody waits.
    pub(super) fn is_open(&self) -> bool {
        self.has_room() && self.waiting.is_empty()
    }

    /// Whether somebody waits and there is room.
    pub(super) fn is_due(&self) -> bool {
        self.has_room() && !self.waiting.is_empty()
    }

    fn has_room(&self) -> bool {
        self.in_flight < self.window.size
    }

    /// Notes whether this key waits for a turn.
    pub(super) fn set(&mut self, key: &Key, awaited: Option<AwaitedTurn>) {
        if self.waiting.is_empty() && awaited.is_none() {
            return;
        }
        if self.waiting.get(key) == awaited.as_ref() {
            return;
        }
        self.remove(key);
        let Some(turn) = awaited else { return };
        self.waiting.insert(key.clone(), turn);
        self.by_arrival.insert((turn.since, key.clone()));
        self.by_urgency.extend(turn.urgent_at.map(|at| (at, key.clone())));
    }

    fn remove(&mut self, key: &Key) {
        let Some(turn) = self.waiting.remove(key) else { return };
        self.by_arrival.remove(&(turn.since, key.clone()));
        if let Some(at) = turn.urgent_at {
            self.by_urgency.remove(&(at, key.clone()));
        }
    }

    /// The key whose turn it is, if there is room for a request.
    pub(super) fn next(&mut self, now: Time) -> Option<Key> {
        if !self.has_room() {
            return None;
        }
        let urgent = self.by_urgency.first().filter(|(at, _)| *at <= now);
        let (_, key) = urgent.or_else(|| self.by_arrival.first())?;
        let key = key.clone();
        self.remove(&key);
        Some(key)
    }

    /// A request was sent.
    pub(super) fn sent(&mut self) {
        self.in_flight += 1;
    }

    /// A request that was sent at `sent` has ended. `failed`: there was no answer, or the engine was not able
    /// to do it.
    pub(super) fn ended(&mut self, sent: Time, now: Time, failed: bool) {
        let was_full = !self.is_open();
        self.in_flight -= 1;
        self.window.ended(sent, now, failed, was_full);
    }
}

/// How many requests may be in flight.
#[derive(Debug)]
struct Window {
    size: usize,
    least: usize,
    /// An answer that takes longer than this is late.
    late: Duration,
    /// When it was last halved.
    halved_at: Option<Time>,
}

impl Window {
    fn new(late: Duration, least: usize) -> Self {
        Self { size: least, least, late, halved_at: None }
    }

    fn ended(&mut self, sent: Time, now: Time, failed: bool, was_full: bool) {
        if failed || now.since(sent) > self.late {
            // What was sent before it was halved says nothing about what it is now.
            if self.halved_at.is_none_or(|at| sent >= at) {
                self.size = (self.size / 2).max(self.least);
                self.halved_at = Some(now);
            }
        } else if was_full {
            self.size += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Turns, Window};
    use crate::cluster::key::Key;
    use crate::cluster::protocol::{AwaitedTurn, Time};
    use std::time::Duration;

    const LEAST: usize = 8;

    fn at(ms: u64) -> Time {
        Time::new(Duration::from_millis(ms))
    }

    fn key(name: &str) -> Key {
        Key::new(name).unwrap()
    }

    fn turn(since: u64, urgent_at: Option<u64>) -> Option<AwaitedTurn> {
        Some(AwaitedTurn { since: at(since), urgent_at: urgent_at.map(at) })
    }

    #[test]
    fn urgent_keys_come_first_and_the_others_in_the_order_of_their_arrival() {
        let mut turns = Turns::new(Duration::from_secs(1), LEAST);
        turns.set(&key("second"), turn(2, None));
        turns.set(&key("first"), turn(1, Some(30)));
        turns.set(&key("third"), turn(3, Some(20)));
        turns.set(&key("gone"), turn(0, Some(0)));
        turns.set(&key("gone"), None);
        turns.set(&key("fourth"), turn(4, Some(50)));
        assert_eq!(turns.next(at(10)), Some(key("first")), "none is urgent");
        turns.set(&key("first"), turn(1, Some(30)));
        let order: Vec<_> = std::iter::from_fn(|| turns.next(at(40))).collect();
        assert_eq!(order, ["third", "first", "second", "fourth"].map(key));
        assert!(turns.is_open() && !turns.is_due());
    }

    #[test]
    fn nobody_passes_those_who_wait() {
        let mut turns = Turns::new(Duration::from_secs(1), LEAST);
        (0..LEAST).for_each(|_| turns.sent());
        assert!(!turns.is_open());
        turns.set(&key("a"), turn(0, None));
        assert_eq!(turns.next(at(0)), None);
        turns.ended(at(0), at(1), true);
        assert!(!turns.is_open() && turns.is_due());
        assert_eq!(turns.next(at(1)), Some(key("a")));
        assert!(turns.is_open());
    }

    #[test]
    fn the_window_grows_where_it_is_used_and_is_halved_once_for_all_that_were_in_flight() {
        let mut window = Window::new(Duration::from_millis(100), LEAST);
        window.ended(at(0), at(100), false, false);
        assert_eq!(window.size, LEAST, "it was not full");
        (0..3 * LEAST).for_each(|_| window.ended(at(0), at(100), false, true));
        assert_eq!(window.size, 4 * LEAST);
        (0..10).for_each(|n| window.ended(at(n), at(n + 101), false, true));
        assert_eq!(window.size, 2 * LEAST);
        window.ended(at(101), at(102), true, true);
        window.ended(at(102), at(300), true, true);
        assert_eq!(window.size, LEAST, "it never falls below");
    }
}

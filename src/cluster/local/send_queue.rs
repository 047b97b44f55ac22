//! Which key of a node may send a request: the limit on the requests in flight, and the order of the keys that
//! are queued.
//!
//! An engine that is asked for more than it can do responds to everything later, until no response comes within the
//! request timeout. Then it works for nobody, and all leases end (*congestion collapse*). So a node limits the requests that
//! it has in flight, and finds the limit as TCP finds its *congestion window* (V. Jacobson, "Congestion Avoidance and
//! Control", 1988). While the limit is reached, each response in time raises it by one, so it doubles in a round
//! trip (*slow start*), until a response is late, which halves it. From then on it grows by some requests in a round
//! trip. A request that has no response takes it back to its least, and slow start to half of what it was. Nodes that
//! share an engine come to equal shares in this way, without knowing each other.
//!
//! A key that may not send is *queued*. Its request is made when it may: of the register and the time as they are then,
//! and not at all if nobody wants it any more. There are three classes, and each waits for the ones before it:
//!
//! 1. Releases, and renewals of leases of which half is over: in the order of the moments from which they count
//!    as such.
//! 2. Requests of nodes that are next: they were handed the lock, or a notice has woken them in the queue.
//! 3. All others, in the order of their arrival, and within a quarter of the limit. So where several nodes want more
//!    than the engine can do, those that keep what they hold come before those that want more.

use crate::cluster::key::Key;
use crate::cluster::protocol::{QueuedSend, Time};
use crate::cluster::transport::TransportError;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// The part of the limit that requests of the third class may use.
const PART_OF_OTHERS: usize = 4;

/// The requests in flight, and the keys that are queued to send one.
#[derive(Debug)]
pub(super) struct SendQueue {
    limit: InFlightLimit,
    /// The node is closed: all that is left to do is sent at once.
    is_unlimited: bool,
    in_flight: usize,
    subscribing: Arc<AtomicUsize>,
    queued: BTreeMap<Key, QueuedSend>,
    by_arrival: BTreeSet<(Time, Key)>,
    by_urgency: BTreeSet<(Time, Key)>,
    next: BTreeSet<(Time, Key)>,
    last_error: Option<TransportError>,
}

impl SendQueue {
    /// `least`: the least limit, in requests.
    pub(super) fn new(request_timeout: Duration, least: usize) -> Self {
        Self {
            limit: InFlightLimit::new(request_timeout, least),
            is_unlimited: false,
            in_flight: 0,
            subscribing: Arc::default(),
            queued: BTreeMap::new(),
            by_arrival: BTreeSet::new(),
            by_urgency: BTreeSet::new(),
            next: BTreeSet::new(),
            last_error: None,
        }
    }

    /// Whether a key may send without being queued.
    pub(super) fn is_open(&self) -> bool {
        self.has_room_for_others() && self.queued.is_empty()
    }

    /// Whether a key that is queued may send.
    pub(super) fn is_due(&self, now: Time) -> bool {
        self.first(now).is_some()
    }

    fn has_room(&self) -> bool {
        self.is_unlimited || self.in_flight() < self.limit.size
    }

    fn has_room_for_others(&self) -> bool {
        self.is_unlimited || self.in_flight() < (self.limit.size / PART_OF_OTHERS).max(1)
    }

    fn in_flight(&self) -> usize {
        // ORDERING: Relaxed. A count: what it is of has its own synchronization.
        self.in_flight + self.subscribing.load(Ordering::Relaxed)
    }

    /// Notes whether this key is queued.
    pub(super) fn set(&mut self, key: &Key, queued: Option<QueuedSend>) {
        if self.queued.get(key) == queued.as_ref() {
            return;
        }
        self.remove(key);
        let Some(send) = queued else { return };
        self.queued.insert(key.clone(), send);
        self.by_arrival.insert((send.since, key.clone()));
        self.by_urgency.extend(send.urgent_at.map(|at| (at, key.clone())));
        self.next.extend(send.is_next.then(|| (send.since, key.clone())));
    }

    fn remove(&mut self, key: &Key) {
        let Some(send) = self.queued.remove(key) else { return };
        self.by_arrival.remove(&(send.since, key.clone()));
        self.next.remove(&(send.since, key.clone()));
        if let Some(at) = send.urgent_at {
            self.by_urgency.remove(&(at, key.clone()));
        }
    }

    /// Takes out the key that may send now. If it sends, [`sent`](Self::sent) is called.
    pub(super) fn take(&mut self, now: Time) -> Option<Key> {
        let key = self.first(now)?.clone();
        self.remove(&key);
        Some(key)
    }

    fn first(&self, now: Time) -> Option<&Key> {
        if !self.has_room() {
            return None;
        }
        let urgent = self.by_urgency.first().filter(|(at, _)| *at <= now);
        let high = urgent.or_else(|| self.next.first());
        let other = || self.by_arrival.first().filter(|_| self.has_room_for_others());
        high.or_else(other).map(|(_, key)| key)
    }

    /// A request was sent.
    pub(super) fn sent(&mut self) {
        self.in_flight += 1;
    }

    /// A request that was sent at `sent` has ended. It is called once for each [`sent`](Self::sent).
    pub(super) fn ended(&mut self, sent: Time, now: Time, error: Option<TransportError>) {
        let is_reached = !self.is_open();
        self.in_flight -= 1;
        let failed = error.as_ref().is_some_and(TransportError::is_transient);
        self.limit.ended(sent, now, failed, is_reached);
        self.last_error = error;
    }

    /// The node subscribes to a key until this is dropped. That counts as a request in flight.
    pub(super) fn subscribing(&self) -> Subscribing {
        self.subscribing.fetch_add(1, Ordering::Relaxed);
        Subscribing(self.subscribing.clone())
    }

    /// The error of the request that has ended last, if it failed.
    pub(super) fn last_error(&self) -> Option<&TransportError> {
        self.last_error.as_ref()
    }

    /// From now on everything may be sent.
    pub(super) fn remove_limit(&mut self) {
        self.is_unlimited = true;
    }
}

/// A subscription that has no response yet.
pub(super) struct Subscribing(Arc<AtomicUsize>);

impl Drop for Subscribing {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How many requests may be in flight, as the responses tell.
#[derive(Debug)]
struct InFlightLimit {
    size: usize,
    least: usize,
    /// Below this it grows by one for each response, and from this on by [`STEP`] in a round trip.
    threshold: usize,
    /// Responses in time since it has grown last.
    responses: usize,
    request_timeout: Duration,
    /// The shortest time of a response, which grows with each cut: the way to the engine may have become longer.
    shortest: Duration,
    /// When the limit was cut last.
    cut_at: Option<Time>,
}

/// How much the limit grows in a round trip where the engine is known to be near its own.
const STEP: usize = 4;

impl InFlightLimit {
    fn new(request_timeout: Duration, least: usize) -> Self {
        let (size, shortest) = (16 * least, request_timeout);
        let (threshold, responses) = (usize::MAX, 0);
        Self { size, least, threshold, responses, request_timeout, shortest, cut_at: None }
    }

    /// After this time a response is late. An engine that is far away takes its time without any load.
    fn late(&self) -> Duration {
        let [quarter, half] = [4, 2].map(|part| self.request_timeout / part);
        quarter.max(self.shortest * 2).min(half)
    }

    fn ended(&mut self, sent: Time, now: Time, failed: bool, is_reached: bool) {
        let took = now.since(sent);
        let is_late = took > self.late();
        if !failed {
            self.shortest = self.shortest.min(took);
        }
        if failed || is_late {
            // What was sent before the last cut says nothing about what the limit is now.
            if self.cut_at.is_none_or(|at| sent >= at) {
                self.threshold = (self.size / 2).max(self.least);
                self.size = if failed && is_late { self.least } else { self.threshold };
                self.responses = 0;
                self.shortest = (self.shortest * 5 / 4).min(self.request_timeout);
                self.cut_at = Some(now);
            }
        } else if is_reached && self.size < self.threshold {
            self.size += 1;
        } else if is_reached {
            self.responses += STEP;
            self.size += self.responses / self.size;
            self.responses %= self.size;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{InFlightLimit, STEP, SendQueue};
    use crate::cluster::key::Key;
    use crate::cluster::protocol::{QueuedSend, Time};
    use crate::cluster::transport::TransportError;
    use std::time::Duration;

    const LEAST: usize = 4;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn at(at: u64) -> Time {
        Time::new(ms(at))
    }

    fn key(name: &str) -> Key {
        Key::new(name).unwrap()
    }

    fn queue() -> SendQueue {
        SendQueue::new(ms(1000), LEAST)
    }

    fn queued(since: u64, urgent_at: Option<u64>, is_next: bool) -> Option<QueuedSend> {
        Some(QueuedSend { since: at(since), urgent_at: urgent_at.map(at), is_next })
    }

    #[test]
    fn urgent_keys_come_first_then_those_that_are_next_and_the_others_as_they_came() {
        let mut queue = queue();
        queue.set(&key("second"), queued(2, None, false));
        queue.set(&key("first"), queued(1, Some(30), false));
        queue.set(&key("third"), queued(3, Some(20), false));
        queue.set(&key("woken"), queued(4, None, true));
        queue.set(&key("gone"), queued(0, Some(0), true));
        queue.set(&key("gone"), None);
        queue.set(&key("last"), queued(5, Some(50), false));
        let order: Vec<_> = std::iter::from_fn(|| queue.take(at(40))).collect();
        assert_eq!(order, ["third", "first", "woken", "second", "last"].map(key));
        assert!(queue.is_open() && !queue.is_due(at(99)));
        queue.set(&key("first"), queued(1, Some(30), false));
        queue.set(&key("before"), queued(0, None, false));
        assert_eq!(queue.take(at(10)), Some(key("before")), "none is urgent");
    }

    #[test]
    fn nobody_passes_those_who_are_queued() {
        let mut queue = queue();
        (0..16 * LEAST).for_each(|_| queue.sent());
        assert!(!queue.is_open());
        queue.set(&key("a"), queued(0, Some(0), false));
        assert_eq!(queue.take(at(0)), None);
        queue.ended(at(0), at(1), None);
        assert!(!queue.is_open() && queue.is_due(at(9)));
        assert_eq!(queue.take(at(1)), Some(key("a")));
        assert_eq!(queue.take(at(1)), None);
    }

    #[test]
    fn a_part_of_the_limit_is_for_those_who_are_urgent_or_next() {
        let mut queue = queue();
        (0..4 * LEAST - 1).for_each(|_| queue.sent());
        assert!(queue.is_open());
        queue.sent();
        assert!(!queue.is_open());
        queue.set(&key("other"), queued(0, Some(9), false));
        assert!(!queue.is_due(at(8)) && queue.is_due(at(9)));
        queue.set(&key("next"), queued(1, None, true));
        assert_eq!(queue.take(at(8)), Some(key("next")));
    }

    /// A subscription counts until it is dropped, and what is left of a closed node is sent in any case.
    #[test]
    fn subscriptions_count_and_a_closed_node_has_no_limit() {
        let mut queue = queue();
        let subscribing: Vec<_> = (0..16 * LEAST).map(|_| queue.subscribing()).collect();
        queue.set(&key("a"), queued(0, Some(0), false));
        assert!(!queue.is_due(at(9)));
        drop(subscribing);
        assert!(queue.is_due(at(9)));
        (0..16 * LEAST).for_each(|_| queue.sent());
        assert!(!queue.is_due(at(9)));
        queue.remove_limit();
        assert!(queue.is_due(at(9)));
    }

    #[test]
    fn the_limit_grows_where_it_is_reached_and_is_cut_once_for_all_that_were_in_flight() {
        let mut limit = InFlightLimit { size: LEAST, ..InFlightLimit::new(ms(400), LEAST) };
        let response = |limit: &mut InFlightLimit, sent: u64, took: u64, failed, is_reached| {
            limit.ended(at(sent), at(sent + took), failed, is_reached);
            limit.size
        };
        assert_eq!(response(&mut limit, 0, 10, false, false), LEAST, "it is not reached");
        for n in 1..=3 * LEAST {
            assert_eq!(response(&mut limit, 0, 100, false, true), LEAST + n);
        }
        assert_eq!(response(&mut limit, 0, 101, false, true), 2 * LEAST);
        assert_eq!(response(&mut limit, 50, 300, true, true), 2 * LEAST, "it was sent before");
        assert_eq!(response(&mut limit, 200, 1, true, true), LEAST, "refused at once");
        let round_trip = |limit: &mut InFlightLimit| {
            (0..limit.size).for_each(|_| _ = response(limit, 300, 10, false, true));
            limit.size
        };
        assert_eq!(round_trip(&mut limit), LEAST + STEP);
        let size = [0; 5].map(|_| round_trip(&mut limit))[4];
        assert!(size.abs_diff(LEAST + 6 * STEP) <= STEP, "{size}");
        assert_eq!(response(&mut limit, 400, 400, true, true), LEAST, "no response at all");
        assert_eq!(round_trip(&mut limit), 2 * LEAST, "slow start");
    }

    /// The round trip alone takes longer than a quarter of the request timeout.
    #[test]
    fn an_engine_that_is_far_away_is_not_slow() {
        let mut limit = InFlightLimit::new(ms(200), LEAST);
        let first = limit.size;
        (0..100).for_each(|n| limit.ended(at(100 * n), at(100 * n + 60), false, true));
        assert_eq!(limit.size, first + 100);
        limit.ended(at(20_000), at(20_120), false, true);
        assert!(limit.size < first + 100, "but twice as far is");
    }

    #[test]
    fn the_last_error_is_kept_until_a_request_succeeds() {
        let mut queue = queue();
        (0..2).for_each(|_| queue.sent());
        queue.ended(at(0), at(1), Some(TransportError::denied("no")));
        assert!(queue.last_error().is_some());
        queue.ended(at(0), at(1), None);
        assert!(queue.last_error().is_none());
    }
}

//! One run: true time, the events to come, chance, and the log.
//!
//! Everything is under mutexes only because a transport, a clock and a waker have to be `Send` and
//! `Sync`. One thread runs all of it. A mutex is held for some lines and never while code of a node is
//! called; those of the engine, the checks and the nodes are taken before that of the workers, and
//! that of the [`WorldState`] last.

use super::checks::Checks;
use super::engine::Engine;
use super::nodes::SimNode;
use super::profile::Profile;
use super::workers::Workers;
use crate::Mutex;
use crate::cluster::key::Key;
use crate::cluster::sim::checks::EventLog;
use crate::cluster::sim::profile::PerMille;
use crate::cluster::sim::world::Moment;
use crate::cluster::transport::Wakeups;
use std::collections::BTreeMap;
use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

/// A microsecond of true time.
pub(super) const US: Moment = 1_000;

/// A run that has more events than this does not end.
const MAX_EVENTS: u64 = 400_000;

/// What happens at a moment.
type Action = Box<dyn FnOnce(&Arc<World>) + Send>;

/// One run.
pub(super) struct World {
    pub(super) profile: Profile,
    pub(super) wakeups: Wakeups,
    pub(super) keys: Vec<Key>,
    pub(super) workers: Mutex<Workers>,
    pub(super) engine: Mutex<Engine>,
    pub(super) nodes: Mutex<Vec<SimNode>>,
    pub(super) checks: Mutex<Checks>,
    state: Mutex<WorldState>,
}

struct WorldState {
    now: Moment,
    random: fastrand::Rng,
    /// By their moment, then in the order in which they were added.
    events: BTreeMap<(Moment, u64), Action>,
    last_event: u64,
    event_log: EventLog,
    violation: Option<String>,
}

impl World {
    pub(super) fn new(profile: Profile, seed: u64, keeps_lines: bool) -> Arc<Self> {
        let mut random = fastrand::Rng::with_seed(seed);
        let any = [Wakeups::PushToOne, Wakeups::PushToAll, Wakeups::Poll][random.usize(..3)];
        let key = |number| Key::new(&format!("key/{number}")).expect("a valid key");
        let keep_turn = if seed / 200 % 4 == 1 { profile.keep_turn } else { 0 };
        let handoff_lease = match (profile.handoff_lease, seed / 1000 % 2) {
            (0, 0) => profile.claim_window,
            (0, _) => profile.lease / 4,
            (given, _) => given,
        };
        let keep_place = if seed / 100 % 8 == 7 { profile.keep_place } else { 0 };
        let profile = Profile { keep_turn, keep_place, handoff_lease, ..profile };
        Arc::new(Self {
            wakeups: profile.wakeups.unwrap_or(any),
            keys: (0..profile.keys).map(key).collect(),
            workers: Mutex::default(),
            engine: Mutex::new(Engine::new(profile.keys)),
            nodes: Mutex::default(),
            checks: Mutex::new(Checks::new(profile.keys)),
            state: Mutex::new(WorldState {
                now: 0,
                random,
                events: BTreeMap::new(),
                last_event: 0,
                event_log: EventLog::new(keeps_lines),
                violation: None,
            }),
            profile,
        })
    }

    // ---- Time ----

    pub(super) fn now(&self) -> Moment {
        self.state.lock().now
    }

    /// Lets time pass within an event.
    pub(super) fn pass(&self, time: Moment) {
        self.state.lock().now += time;
    }

    /// Whether the faults have ended.
    pub(super) fn is_calm(&self) -> bool {
        self.now() >= self.profile.calm_at
    }

    /// Has `action` happen after this time.
    pub(super) fn after(&self, time: Moment, action: impl FnOnce(&Arc<World>) + Send + 'static) {
        let mut state = self.state.lock();
        state.last_event += 1;
        let at = (state.now.saturating_add(time), state.last_event);
        state.events.insert(at, Box::new(action));
    }

    /// Waits for this long. The task may be woken before, for other reasons.
    pub(super) async fn sleep(self: &Arc<Self>, time: Moment) {
        let until = self.now() + time;
        let mut is_set = false;
        poll_fn(|cx| {
            if self.now() >= until {
                return Poll::Ready(());
            }
            if !std::mem::replace(&mut is_set, true) {
                let waker = cx.waker().clone();
                self.after(until - self.now(), move |_| waker.wake());
            }
            Poll::Pending
        })
        .await;
    }

    /// Lets events happen until `until`, until `is_done`, or until none is left. Returns the result of
    /// `is_done`.
    pub(super) fn run(self: &Arc<Self>, until: Moment, is_done: impl Fn(&Self) -> bool) -> bool {
        loop {
            if is_done(self) {
                return true;
            }
            let mut state = self.state.lock();
            if state.violation.is_some() {
                return false;
            }
            if state.event_log.events > MAX_EVENTS {
                drop(state);
                self.violate("the run does not end: something spins".to_owned());
                return false;
            }
            match state.events.first_entry() {
                Some(first) if first.key().0 <= until => {
                    let ((at, _), action) = first.remove_entry();
                    state.now = state.now.max(at);
                    drop(state);
                    action(self);
                }
                None if until == Moment::MAX => return is_done(self),
                _ => {
                    state.now = state.now.max(until);
                    drop(state);
                    return is_done(self);
                }
            }
        }
    }

    /// Whether nothing is left to happen.
    pub(super) fn is_over(&self) -> bool {
        self.state.lock().events.is_empty()
    }

    /// Drops all that refers to this.
    pub(super) fn end(&self) {
        self.drop_leaked();
        let nodes = self.nodes.lock().len();
        (0..nodes).for_each(|node| self.kill(node));
        let events = std::mem::take(&mut self.state.lock().events);
        drop(events);
    }

    // ---- Chance ----

    pub(super) fn chance(&self, of: PerMille) -> bool {
        of > 0 && self.below(1000) < u64::from(of)
    }

    /// The same for a fault: never once the faults have ended.
    pub(super) fn fault(&self, of: PerMille) -> bool {
        of > 0 && !self.is_calm() && self.chance(of)
    }

    pub(super) fn between(&self, [least, most]: [Moment; 2]) -> Moment {
        self.state.lock().random.u64(least..=most)
    }

    /// A number below `limit`; zero if that is zero.
    pub(super) fn below(&self, limit: u64) -> u64 {
        self.state.lock().random.u64(..limit.max(1))
    }

    pub(super) fn index(&self, limit: usize) -> usize {
        self.state.lock().random.usize(..limit)
    }

    pub(super) fn random(&self) -> u64 {
        self.state.lock().random.u64(..)
    }

    // ---- The log ----

    pub(super) fn record(&self, what: fmt::Arguments<'_>) {
        let mut state = self.state.lock();
        let now = state.now;
        state.event_log.record(now, what);
    }

    /// Reports that a rule is broken. The first report of a run is kept.
    pub(super) fn violate(&self, what: String) {
        self.record(format_args!("VIOLATION: {what}"));
        self.state.lock().violation.get_or_insert(what);
    }

    pub(super) fn violation(&self) -> Option<String> {
        self.state.lock().violation.clone()
    }

    /// The hash of the log, and its lines.
    pub(super) fn log(&self) -> (u64, Vec<String>) {
        let state = self.state.lock();
        (state.event_log.hash(), state.event_log.lines().to_vec())
    }
}

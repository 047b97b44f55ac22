//! What one node does about one key: a state machine without a clock, a socket or a runtime.
//!
//! The driver tells it what happens ([`Machine::handle`]), with the time on the node's clock, takes
//! out what is to be done ([`Machine::next_action`]), and comes back at the latest at
//! [`Machine::wake_at`]. Everything that a network can do to it is an event, so a simulator can do
//! it too.
//!
//! # How it decides
//!
//! It keeps no long list of states. It keeps what is *wanted* here ([`Wish`]), what the register held
//! when last seen ([`View`]), whether the lock is *held* ([`Held`]) or being *left* ([`Leaving`]), and
//! at most one request under way. Whenever there is none it compares what is wanted with what it
//! sees, and takes the next step. Whatever goes wrong changes what it sees, not where it is.
//!
//! | wanted | the register holds | step |
//! |---|---|---|
//! | the lock | nobody | write: I hold it |
//! | | reserved, I am the first in the queue | write: I hold it (the heir confirms) |
//! | | reserved or held, my time to pass over has come | write: I hold it, those before me are out |
//! | | held by my own attempt, in doubt until now | write: I hold it (confirmed) |
//! | | anything else, I am not in the queue | write: I join the queue |
//! | | anything else, I am in the queue | wait |
//! | to hold on | me, a third of the lease is over | write: the beat moves |
//! | | somebody else | the lock is lost |
//! | to leave | me | write: reserved for the first in the queue, or free |
//! | | a trace of me, or a write of mine may yet arrive | write: without me |
//! | nothing | nothing of me | rest |
//!
//! # Time
//!
//! The holder's deadline is counted from *before* its last successful write was sent; an observer's
//! patience from the *receipt* of what first showed the present beat. The write lies between the
//! two, in true time. Each side gives up [`CLOCK_RATE_ERROR`] of the lease, so the deadline passes
//! before the patience does, as long as each clock runs true to within that rate.
//!
//! # Doubt
//!
//! A write of unknown outcome ([`Indeterminate`](crate::cluster::TransportError::Indeterminate)) may
//! still arrive, for as long as the register has the version that it expects. So the machine does not
//! rest before the version has moved: the next write that it wants expects the same version, and
//! either of the two gets it. When there is nothing left that it wants, it writes the register as it
//! is. What a mismatch shows is searched for its own attempt, since the write may have been its own.
//!
//! The one exception is a write that expects *no* register: it could find none again, after the
//! register was dropped. An engine keeps idle registers for longer than any request is under way
//! ([`Write::idle`](crate::cluster::Write::idle)).

use super::register::Attempt;
use super::time::Time;
use super::transport::Version;
use std::collections::VecDeque;
use std::time::Duration;

// Getting the lock: free, in the queue, passing over.
mod acquire;
// Leaving room for others who want to get in.
mod courtesy;
// What the machine is told, and what it asks for.
mod event;
// Keeping it: renewal, loss.
mod hold;
// Giving it back, and undoing what was given up.
mod leave;
// The one request under way.
mod request;
// What the machine knows of the register, and since when.
mod view;
// When to subscribe, when to look.
mod watching;

use courtesy::Room;
pub(crate) use event::{Action, Event, Failure, Grant, Loss, Outcome, Settings, Way, Wish};
use hold::Held;
use leave::Leaving;
pub(crate) use request::broken;
use request::{Kind, Trouble, UnderWay};
use view::{View, allowance};

/// By how much a clock's rate may be wrong, as a part of 1: one hundredth. Crystals err by a ten
/// thousandth, and NTP slews by no more than five ten thousandths (ntpd(8)).
///
/// A holder stops so much before its lease ends, and an observer waits so much longer.
pub(crate) const CLOCK_RATE_ERROR: u32 = 100;

/// One node's part in one key.
#[derive(Debug)]
pub(crate) struct Machine {
    settings: Settings,
    random: fastrand::Rng,
    wish: Wish,
    /// The attempt that is made, or will be made next. It gets the lock once at most.
    attempt: Attempt,
    view: View,
    held: Option<Held>,
    leaving: Option<Leaving>,
    /// A write of ours of unknown outcome expects this version, and the register may still have it.
    doubt: Option<Option<Version>>,
    under_way: Option<UnderWay>,
    last_request: u64,
    /// How the last write that takes the lock meant to take it.
    way_tried: Way,
    /// How often somebody else wrote before this node could join, less how often it has joined since;
    /// whether what it saw then is new; and when it tries next.
    collisions: u32,
    has_looked: bool,
    join_at: Time,
    /// How long the last request took.
    round_trip: Duration,
    room: Room,
    watch: watching::State,
    failed_watches: u32,
    /// Something may have changed unseen.
    must_look: bool,
    trouble: Trouble,
    wake_at: Option<Time>,
    actions: VecDeque<Action>,
}

impl Machine {
    pub(crate) fn new(settings: Settings) -> Self {
        let mut random = fastrand::Rng::with_seed(settings.seed);
        let attempt = Attempt { node: settings.node, nonce: random.u64(..) };
        Self {
            settings,
            random,
            wish: Wish::Nothing,
            attempt,
            view: View::blank(),
            held: None,
            leaving: None,
            doubt: None,
            under_way: None,
            last_request: 0,
            way_tried: Way::Free,
            collisions: 0,
            has_looked: false,
            join_at: Time::new(Duration::ZERO),
            round_trip: courtesy::SHORTEST,
            room: Room::default(),
            watch: watching::State::Off,
            failed_watches: 0,
            must_look: false,
            trouble: Trouble::default(),
            wake_at: None,
            actions: VecDeque::new(),
        }
    }

    /// Something has happened; it is `now` on the node's clock. Take out all actions afterwards.
    ///
    /// For the answer to a request, and for a notice, `now` must have been read after it was received.
    /// Requests that come out of this call must be sent after `now`.
    pub(crate) fn handle(&mut self, event: Event, now: Time) {
        self.check_deadline(now);
        match event {
            Event::Wish(wish) => {
                if self.wish == Wish::Nothing {
                    // Who begins to wait has patience of its own.
                    self.trouble.since = None;
                    // Who only tries wants to know how it is now.
                    self.view.is_fresh &= wish == Wish::Wait && self.sees_all();
                }
                self.wish = wish;
            }
            Event::Refresh => {
                if let Some(held) = &mut self.held {
                    held.renew_at = held.renew_at.min(now);
                }
            }
            Event::Release => {
                self.end_turn(now);
                self.begin_release();
            }
            Event::Loaded { request, result } => {
                if let Some(sent) = self.answer_to(request) {
                    self.loaded(sent, result, now);
                }
            }
            Event::Exchanged { request, result } => {
                if let Some(sent) = self.answer_to(request) {
                    self.exchanged(sent, result, now);
                }
            }
            Event::Watching(result) => self.watching(result, now),
            Event::Noticed(Some(seen)) => self.view.noticed(seen, now),
            Event::Noticed(None) => self.must_look = true,
            Event::WatchEnded => self.watch_ended(now),
            Event::Timer => {}
        }
        self.step(now);
    }

    /// What is to be done next, if there is anything.
    pub(crate) fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to come back with [`Event::Timer`], if nothing happens before.
    pub(crate) fn wake_at(&self) -> Option<Time> {
        self.wake_at
    }

    /// Whether nothing is wanted, held, under way, in doubt, or left behind in the register. A watch
    /// may still be in force: whoever drops the machine ends it.
    pub(crate) fn is_idle(&self) -> bool {
        self.wish == Wish::Nothing
            && self.held.is_none()
            && self.leaving.is_none()
            && self.under_way.is_none()
            && self.doubt.is_none()
            && self.actions.is_empty()
            && !self.has_traces()
    }

    /// Compares what is wanted with what is seen, and takes the next step.
    fn step(&mut self, now: Time) {
        if self.doubt.is_some_and(|expected| expected != self.view.version) {
            // The version has moved: the write has arrived, or never will.
            self.doubt = None;
        }
        self.wake_at = None;
        self.tend_watch(now);
        self.check_register();
        self.check_leaving(now);
        if let Some(held) = self.held {
            self.wake_by(held.deadline);
        }
        if self.under_way.is_some() {
            return;
        }
        // Who only tries asks once, and at once.
        let tries = self.held.is_none() && self.leaving.is_none() && self.wish == Wish::Try;
        match self.trouble.retry_at {
            Some(at) if now < at && !tries => return self.wake_by(at),
            _ => {}
        }
        if self.held.is_some() {
            self.hold(now);
        } else if self.leaving.is_some() || self.wish == Wish::Nothing {
            self.leave(now);
        } else {
            self.acquire(now);
            if self.wish == Wish::Nothing && self.under_way.is_none() {
                // It has failed: what was begun is undone.
                self.leave(now);
            }
        }
    }

    fn fail(&mut self, why: Failure) {
        self.wish = Wish::Nothing;
        self.actions.push_back(Action::Failed(why));
    }

    /// A new attempt: the present one has had the lock.
    fn begin_attempt(&mut self) {
        self.attempt.nonce = self.random.u64(..);
    }

    fn wake_by(&mut self, at: Time) {
        self.wake_at = Some(self.wake_at.map_or(at, |before| before.min(at)));
    }
}

#[cfg(test)]
mod tests;

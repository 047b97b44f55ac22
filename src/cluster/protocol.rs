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
//! A write whose outcome is [`Indeterminate`](TransportError::Indeterminate) may still arrive, for
//! as long as the register has the version that it expects. So the machine does not rest before the
//! version has moved: the next write that it wants expects the same version, and either of the two
//! gets it. When there is nothing left that it wants, it writes the register as it is. What a
//! mismatch shows is searched for its own attempt, since the write may have been its own.
//!
//! The one exception is a write that expects *no* register: it could find none again, after the
//! register was dropped. An engine keeps idle registers for longer than any request is under way
//! ([`Write::idle`]).

use super::register::{Attempt, Register};
use super::time::Time;
use super::transport::{Exchange, TransportError, Version, Versioned, Wake, Write};
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
// What the machine knows of the register, and since when.
mod view;
// When to subscribe, when to look.
mod watching;

use courtesy::Room;
pub(crate) use event::{Action, Event, Failure, Grant, Loss, Outcome, Settings, Way, Wish};
use hold::Held;
use leave::Leaving;
use view::{View, allowance};

/// By how much a clock's rate may be wrong, as a part of 1: one hundredth. Crystals err by a ten
/// thousandth, and NTP slews by no more than five ten thousandths (ntpd(8)).
///
/// A holder stops so much before its lease ends, and an observer waits so much longer.
pub(crate) const CLOCK_RATE_ERROR: u32 = 100;

/// What a request under way is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Load,
    Take,
    Join,
    Renew,
    Leave,
}

/// The one request under way.
#[derive(Debug)]
struct UnderWay {
    request: u64,
    kind: Kind,
    /// A moment before it was sent.
    sent: Time,
    /// The version that was known then, which a write expects.
    basis: Option<Version>,
    /// For how long the register was known to have that version.
    stood_still: Duration,
    /// What is written; for a load, nothing.
    written: Option<Register>,
}

/// How the transport fails, if it does.
#[derive(Debug, Default)]
struct Trouble {
    /// Since when, and how often in a row.
    since: Option<Time>,
    failures: u32,
    last: Option<TransportError>,
    /// No request before that.
    retry_at: Option<Time>,
}

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
    /// How often in a row somebody else wrote before this node could join, and when it tries next.
    collisions: u32,
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
            Event::Release => self.begin_release(),
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

    fn answer_to(&mut self, request: u64) -> Option<UnderWay> {
        self.under_way.take_if(|under_way| under_way.request == request)
    }

    fn loaded(
        &mut self,
        sent: UnderWay,
        result: Result<Option<Versioned>, TransportError>,
        now: Time,
    ) {
        match result {
            Ok(seen) => {
                self.went_well(&sent, now);
                self.view.answered(seen, sent.basis, now);
            }
            Err(error) => self.went_wrong(error, now),
        }
    }

    fn exchanged(&mut self, sent: UnderWay, result: Result<Exchange, TransportError>, now: Time) {
        let UnderWay { kind, basis, .. } = sent;
        let result = match result {
            // It was written, but no token may be made of that version.
            Ok(Exchange::Swapped(version)) if Some(version) <= basis => {
                let what = format!("version {version} does not follow that before it");
                Err(TransportError::indeterminate(what))
            }
            Ok(Exchange::Mismatch(seen)) if seen.as_ref().map(|seen| seen.version) == basis => {
                Err(TransportError::corrupt("a mismatch that shows the expected version"))
            }
            result => result,
        };
        match result {
            Ok(Exchange::Swapped(version)) => {
                self.went_well(&sent, now);
                self.stood_still(sent.stood_still, now);
                let written = sent.written.unwrap_or_else(Register::empty);
                self.view.wrote(version, written, now);
                self.doubt = None;
                match kind {
                    Kind::Take => self.taken(version, sent.sent, now),
                    Kind::Renew => self.renewed(version, sent.sent),
                    Kind::Leave => self.released(Outcome::Held),
                    Kind::Join => self.collisions = 0,
                    Kind::Load => {}
                }
            }
            Ok(Exchange::Mismatch(seen)) => {
                self.went_well(&sent, now);
                self.view.answered(seen, basis, now);
                if kind == Kind::Join {
                    self.put_off_joining(now);
                }
            }
            Err(error) => {
                if matches!(error, TransportError::Indeterminate(_)) {
                    self.doubt = Some(basis);
                    if let Some(leaving) = &mut self.leaving {
                        leaving.is_in_doubt |= kind == Kind::Leave;
                    }
                }
                self.went_wrong(error, now);
            }
        }
    }

    fn went_well(&mut self, sent: &UnderWay, now: Time) {
        self.trouble = Trouble::default();
        self.round_trip = now.since(sent.sent).max(courtesy::SHORTEST);
    }

    /// Waits before the next request, and tells those who wait here if it does not pass.
    fn went_wrong(&mut self, error: TransportError, now: Time) {
        let since = *self.trouble.since.get_or_insert(now);
        self.trouble.failures = (self.trouble.failures + 1).min(16);
        let longest = self.settings.lease / if self.held.is_some() { 20 } else { 4 };
        let wait = Duration::from_millis(5).saturating_mul(1 << self.trouble.failures).min(longest);
        self.trouble.retry_at = Some(now + wait.mul_f64(0.5 + self.random.f64() / 2.0));
        self.trouble.last = Some(error.clone());
        let gives_up = match self.wish {
            Wish::Nothing => false,
            Wish::Try => true,
            Wish::Wait => !error.is_passing() || now.since(since) >= self.settings.patience,
        };
        if gives_up {
            self.fail(Failure::Transport(error));
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

    fn load(&mut self, now: Time) {
        let request = self.send(Kind::Load, None, now);
        self.actions.push_back(Action::Load { request });
    }

    fn write(&mut self, kind: Kind, register: Register, now: Time) {
        let (expected, mut write) = (self.view.version, write(&register));
        if kind == Kind::Join
            && let Some(holder) = &register.holder
        {
            // The holder, if it listens: what it writes next will expect the right version, and it
            // knows that its tasks and threads are not alone any more.
            let is_first = register.queue.len() == 1;
            let holder = Wake::Node(holder.attempt.node);
            write.wake = if is_first { holder } else { Wake::Nobody };
        }
        let request = self.send(kind, Some(register), now);
        self.actions.push_back(Action::CompareExchange { request, expected, write });
    }

    fn send(&mut self, kind: Kind, written: Option<Register>, sent: Time) -> u64 {
        self.last_request += 1;
        self.must_look = false;
        let (request, basis) = (self.last_request, self.view.version);
        let stood_still = sent.since(self.view.seen);
        self.under_way = Some(UnderWay { request, kind, sent, basis, stood_still, written });
        request
    }
}

/// The write of this register. It wakes the first in the queue: the lock is reserved for it, or it
/// has a new beat to watch.
fn write(register: &Register) -> Write {
    let wake = register.queue.first().map_or(Wake::Nobody, |first| Wake::Node(first.attempt.node));
    Write { value: register.encode().into(), wake, idle: register.is_idle() }
}

/// The write by which an operator breaks the lock, and the register that it breaks: whoever holds
/// it is out, and it is reserved for the first in the queue. `None` if nobody holds it.
pub(crate) fn broken(register: &Register) -> Option<Write> {
    register.holder.as_ref()?;
    let mut register = register.clone();
    register.holder = None;
    register.advance();
    Some(Write { wake: Wake::Everybody, ..write(&register) })
}

#[cfg(test)]
mod tests;

//! What one node does about one key: a state machine without a clock, a socket or a runtime.
//!
//! The driver tells it what happens ([`Machine::handle`]), with the time on the node's clock, takes
//! out what is to be done ([`Machine::next_action`]), and comes back at the latest at
//! [`Machine::wake_at`]. Everything that a network can do to it is an event, so a simulator can do
//! it too.
//!
//! # How it decides
//!
//! It keeps no long list of states. It keeps what is *wanted* here ([`Intent`]), what the register held
//! when last seen ([`View`]), whether the lock is *held* ([`Held`]) or being *left* ([`Leaving`]), and
//! at most one request in flight. Whenever there is none it compares what is wanted with what it
//! sees, and takes the next step. Whatever goes wrong changes what it sees, not where it is.
//!
//! | wanted | the register holds | step |
//! |---|---|---|
//! | the lock | nobody | write: I hold it |
//! | | reserved, I am the first in the queue | write: I hold it (the next waiter confirms) |
//! | | reserved or held, my time to pass over has come | write: I hold it, those before me are out |
//! | | held by my own attempt, indeterminate until now | write: I hold it (confirmed) |
//! | | anything else, I am not in the queue | write: I join the queue |
//! | | anything else, I am in the queue | wait |
//! | to hold on | me, a third of the lease is over | write: the heartbeat moves |
//! | | somebody else | the lock is lost |
//! | to leave | me | write: reserved for the first in the queue, or free |
//! | | a trace of me, or a write of mine may yet arrive | write: without me |
//! | nothing | nothing of me | rest |
//!
//! # Time
//!
//! The holder's deadline is counted from *before* its last successful write was sent; an observer's
//! patience from the *receipt* of what first showed the present heartbeat. The write lies between the
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
//! register was dropped. An engine keeps idle registers for longer than any request is in flight
//! ([`Write::idle`](crate::cluster::Write::idle)).

use crate::cluster::time::Time;
use crate::cluster::transport::{Exchange, TransportError, Version, Versioned, Wake, Write};
use fairness::Backoff;
use register::ClaimId;
use register::{Holder, Register, Waiter};
use std::collections::VecDeque;
use std::time::Duration;
use view::{View, allowance};

// Leaving room for others who want to get in.
mod fairness;
// What the machine is told, and what it asks for.
mod event;
pub(crate) mod register;
// What the machine knows of the register, and since when.
mod view;
// When to subscribe, when to look.
mod watch;

pub(crate) use event::{
    Action, Event, Failure, Grant, GrantedVia, Intent, Loss, MachineSettings, Outcome,
};
pub use register::Unreadable;

/// By how much a clock's rate may be wrong, as a part of 1: one hundredth. Crystals err by a ten
/// thousandth, and NTP slews by no more than five ten thousandths (ntpd(8)).
///
/// A holder stops so much before its lease ends, and an observer waits so much longer.
pub(crate) const CLOCK_RATE_ERROR: u32 = 100;

/// One node's part in one key.
#[derive(Debug)]
pub(crate) struct Machine {
    settings: MachineSettings,
    random: fastrand::Rng,
    intent: Intent,
    /// The attempt that is made, or will be made next. It gets the lock once at most.
    claim: ClaimId,
    view: View,
    held: Option<Held>,
    leaving: Option<Leaving>,
    /// A write of ours of unknown outcome expects this version, and the register may still have it.
    indeterminate: Option<Option<Version>>,
    in_flight: Option<InFlight>,
    last_request: u64,
    /// How the last write that takes the lock meant to take it.
    via_tried: GrantedVia,
    /// How often somebody else wrote before this node could join, less how often it has joined since;
    /// whether what it saw then is new; and when it tries next.
    collisions: u32,
    has_looked: bool,
    join_at: Time,
    /// How long the last request took.
    round_trip: Duration,
    backoff: Backoff,
    watch: watch::WatchState,
    failed_watches: u32,
    /// Something may have changed unseen.
    must_look: bool,
    trouble: Trouble,
    wake_at: Option<Time>,
    actions: VecDeque<Action>,
}

impl Machine {
    pub(crate) fn new(settings: MachineSettings) -> Self {
        let mut random = fastrand::Rng::with_seed(settings.seed);
        let claim = ClaimId { node: settings.node, nonce: random.u64(..) };
        Self {
            settings,
            random,
            intent: Intent::Nothing,
            claim,
            view: View::blank(),
            held: None,
            leaving: None,
            indeterminate: None,
            in_flight: None,
            last_request: 0,
            via_tried: GrantedVia::Free,
            collisions: 0,
            has_looked: false,
            join_at: Time::new(Duration::ZERO),
            round_trip: fairness::SHORTEST,
            backoff: Backoff::default(),
            watch: watch::WatchState::Off,
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
            Event::Intent(intent) => {
                if self.intent == Intent::Nothing {
                    // Who begins to wait has patience of its own.
                    self.trouble.since = None;
                    // Who only tries wants to know how it is now.
                    self.view.is_fresh &= intent == Intent::Wait && self.sees_all();
                }
                self.intent = intent;
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
                if let Some(sent) = self.take_in_flight(request) {
                    self.loaded(sent, result, now);
                }
            }
            Event::Exchanged { request, result } => {
                if let Some(sent) = self.take_in_flight(request) {
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

    /// Whether nothing is wanted, held, in flight, indeterminate, or left behind in the register. A watch
    /// may still be in force: whoever drops the machine ends it.
    pub(crate) fn is_idle(&self) -> bool {
        self.intent == Intent::Nothing
            && self.held.is_none()
            && self.leaving.is_none()
            && self.in_flight.is_none()
            && self.indeterminate.is_none()
            && self.actions.is_empty()
            && !self.has_traces()
    }

    /// Compares what is wanted with what is seen, and takes the next step.
    fn step(&mut self, now: Time) {
        if self.indeterminate.is_some_and(|expected| expected != self.view.version) {
            // The version has moved: the write has arrived, or never will.
            self.indeterminate = None;
        }
        self.wake_at = None;
        self.tend_watch(now);
        self.check_register();
        self.check_leaving(now);
        if let Some(held) = self.held {
            self.wake_by(held.deadline);
        }
        if self.in_flight.is_some() {
            return;
        }
        // Who only tries asks once, and at once.
        let tries = self.held.is_none() && self.leaving.is_none() && self.intent == Intent::Try;
        match self.trouble.retry_at {
            Some(at) if now < at && !tries => return self.wake_by(at),
            _ => {}
        }
        if self.held.is_some() {
            self.hold(now);
        } else if self.leaving.is_some() || self.intent == Intent::Nothing {
            self.leave(now);
        } else {
            self.acquire(now);
            if self.intent == Intent::Nothing && self.in_flight.is_none() {
                // It has failed: what was begun is undone.
                self.leave(now);
            }
        }
    }

    fn fail(&mut self, why: Failure) {
        self.intent = Intent::Nothing;
        self.actions.push_back(Action::Failed(why));
    }

    /// A new attempt: the present one has had the lock.
    fn begin_claim(&mut self) {
        self.claim.nonce = self.random.u64(..);
    }

    fn wake_by(&mut self, at: Time) {
        self.wake_at = Some(self.wake_at.map_or(at, |before| before.min(at)));
    }
}

// Getting the lock: at once, by the queue, or past those who do not answer.
impl Machine {
    /// The next step towards the lock. There is no request in flight.
    fn acquire(&mut self, now: Time) {
        let register = match &self.view.register {
            Ok(register) => self.without_traces(register),
            Err(_) if !self.view.is_fresh || self.must_look => return self.load(now),
            Err(why) => return self.fail(Failure::Unreadable(why.clone())),
        };
        let position = register.position(self.claim);
        let rank = position.unwrap_or(register.queue.len());
        if rank > 0 && register.heartbeat != self.view.heartbeat() {
            // The holder is an attempt of this node that nobody stands for any more: those who wait
            // need not wait for its lease.
            return self.join(register, now);
        }
        if let Some(via) = self.claim_via(&register, rank, now) {
            return self.take(register, rank, via, now);
        }
        if !self.view.is_fresh {
            if self.intent == Intent::Wait
                && rank > 0
                && let Some(until) = self.leaves_alone(now)
            {
                return self.wake_by(until.min(self.due(&register, rank)));
            }
            // What was seen long ago may have changed.
            return self.load(now);
        }
        if self.intent == Intent::Try {
            let holder = register.holder.map(|holder| holder.label);
            return self.fail(Failure::Busy { holder });
        }
        self.wake_by(self.due(&register, rank));
        if self.await_watch(now) {
            return;
        }
        if position.is_none() && register.queue.len() < self.settings.queue_limit {
            let at = self.join_from(&register);
            if now >= at {
                return self.join(register, now);
            }
            self.wake_by(at);
        }
        self.look_from_time_to_time(rank, now);
    }

    /// The register without what earlier attempts of this node left in it, which nobody stands for
    /// any more.
    fn without_traces(&self, register: &Register) -> Register {
        let mut register = register.clone();
        let stale = |claim| self.is_own(claim) && claim != self.claim;
        register.queue.retain(|waiter| !stale(waiter.claim));
        if register.holder.as_ref().is_some_and(|holder| stale(holder.claim)) {
            register.holder = None;
            register.advance();
        }
        register
    }

    /// How the lock could be had by a write now.
    fn claim_via(&self, register: &Register, rank: usize, now: Time) -> Option<GrantedVia> {
        let due = now >= self.due(register, rank);
        match &register.holder {
            // A write that was indeterminate has arrived. Only one of known outcome tells the version
            // and the deadline.
            Some(holder) if holder.claim == self.claim => Some(self.via_tried),
            Some(_) => due.then_some(GrantedVia::Takeover),
            None if register.queue.is_empty() => Some(GrantedVia::Free),
            None => (rank == 0 || due).then_some(GrantedVia::Handoff),
        }
    }

    /// Writes itself in as the holder; the first `passed_over` of the queue are out.
    fn take(&mut self, mut register: Register, passed_over: usize, via: GrantedVia, now: Time) {
        let is_held = register.is_held_by(self.claim);
        if !is_held {
            register.queue.drain(..passed_over);
        }
        register.queue.retain(|waiter| waiter.claim != self.claim);
        register.holder = Some(Holder::new(self.claim, &self.settings.label, self.settings.lease));
        register.advance();
        self.via_tried = via;
        // The next in the queue watches the new holder's heartbeat from now on.
        self.write(RequestKind::Take, register, now);
    }

    /// Writes itself to the end of the queue. The heartbeat is not the joiner's to move.
    fn join(&mut self, mut register: Register, now: Time) {
        self.met_others();
        let has_space = register.queue.len() < self.settings.queue_limit;
        if register.position(self.claim).is_none() && has_space {
            register.queue.push(Waiter::new(self.claim, &self.settings.label));
        }
        self.write(RequestKind::Join, register, now);
    }

    /// The write that takes the lock got this version. It was sent not before `sent`.
    fn taken(&mut self, version: Version, sent: Time, now: Time) {
        let deadline = self.deadline(sent);
        if self.intent == Intent::Nothing || now >= deadline {
            // Not wanted any more: it is undone. Or too late to be of use: it is confirmed anew.
            return;
        }
        self.intent = Intent::Nothing;
        self.begin_turn(now);
        let renew_at = sent + self.settings.lease / 3;
        self.held = Some(Held { claim: self.claim, deadline, renew_at });
        let via = self.via_tried;
        self.actions.push_back(Action::Granted(Grant { version, deadline, via }));
    }

    /// Until when a write that was sent not before `sent` lets this node hold.
    fn deadline(&self, sent: Time) -> Time {
        sent + (self.settings.lease - allowance(self.settings.lease))
    }
}

// Keeping the lock: renewal, and how it can be lost.
/// The lock is held.
#[derive(Clone, Copy, Debug)]
struct Held {
    claim: ClaimId,
    /// From this moment on it is lost. Counted from before the last successful write was sent.
    deadline: Time,
    /// When the next renewal is sent.
    renew_at: Time,
}

impl Machine {
    /// Whatever else happens: at the deadline the lock is lost. This comes before an answer is looked
    /// at, so that a late one revives nothing.
    fn check_deadline(&mut self, now: Time) {
        if self.held.is_some_and(|held| now >= held.deadline) {
            let last = self.trouble.last.as_ref().map(ToString::to_string);
            self.lose(Loss::Expired { last });
        }
    }

    /// Checks that the register still names this node; whether it is time to renew.
    fn check_register(&mut self) {
        let Some(held) = self.held else { return };
        match &self.view.register {
            Ok(register) if register.is_held_by(held.claim) => {}
            Ok(_) => self.lose(Loss::TakenOver),
            Err(why) => {
                let why = why.clone();
                self.lose(Loss::Unreadable(why));
            }
        }
    }

    /// Renews when it is time. There is no request in flight.
    fn hold(&mut self, now: Time) {
        let Some(held) = self.held else { return };
        if now < held.renew_at {
            return self.wake_by(held.renew_at);
        }
        let Ok(register) = &self.view.register else { return };
        let mut register = register.clone();
        register.advance();
        self.write(RequestKind::Renew, register, now);
    }

    /// The write that renews got this version. It was sent not before `sent`.
    fn renewed(&mut self, version: Version, sent: Time) {
        let deadline = self.deadline(sent);
        let renew_at = sent + self.settings.lease / 3;
        let Some(held) = &mut self.held else { return };
        (held.deadline, held.renew_at) = (deadline, renew_at);
        self.actions.push_back(Action::Renewed { version, deadline });
    }

    fn lose(&mut self, why: Loss) {
        self.held = None;
        self.begin_claim();
        self.actions.push_back(Action::Lost(why));
    }
}

// Giving the lock back, and undoing what was given up.
/// The lock is being given back, and somebody wants to know how that went.
#[derive(Clone, Copy, Debug)]
struct Leaving {
    claim: ClaimId,
    /// A release of unknown outcome was sent.
    is_indeterminate: bool,
    /// The deadline of what was held: after it nobody waits for the answer any more.
    until: Time,
}

impl Machine {
    /// The lock is not held here from this moment on, whatever becomes of the write.
    fn begin_release(&mut self) {
        match self.held.take() {
            Some(held) => {
                let (claim, until) = (held.claim, held.deadline);
                self.leaving = Some(Leaving { claim, is_indeterminate: false, until });
                self.begin_claim();
            }
            // It was lost a moment ago.
            None if self.leaving.is_none() => {
                self.actions.push_back(Action::Released(Outcome::Lost));
            }
            None => {}
        }
    }

    /// What is known of the release, once the register does not name this node's holder any more.
    fn check_leaving(&mut self, now: Time) {
        let Some(leaving) = self.leaving else { return };
        let names_us = |register: &Register| register.is_held_by(leaving.claim);
        let is_there = self.view.register.as_ref().is_ok_and(names_us);
        // The watch may show the release before its answer comes.
        let is_asked =
            self.in_flight.as_ref().is_some_and(|request| request.kind == RequestKind::Leave);
        if (is_there || is_asked) && now < leaving.until {
            self.wake_by(leaving.until);
        } else if is_there || is_asked || leaving.is_indeterminate {
            self.released(Outcome::Indeterminate);
        } else {
            self.released(Outcome::Lost);
        }
    }

    fn released(&mut self, outcome: Outcome) {
        if self.leaving.take().is_some() {
            self.actions.push_back(Action::Released(outcome));
        }
    }

    /// Writes the register without this node: the lock is reserved for the first in the queue, or
    /// free. If this node wants it again and others wait, it goes to the end of the queue in the same
    /// write. There is no request in flight.
    fn leave(&mut self, now: Time) {
        // What is not understood is not written over.
        let Ok(seen) = &self.view.register else { return self.indeterminate = None };
        let mut register = seen.clone();
        // Others may hold or wait under this node's number, but never with its nonce.
        register.queue.retain(|waiter| !self.is_own(waiter.claim));
        if register.holder.as_ref().is_some_and(|holder| self.is_own(holder.claim)) {
            register.holder = None;
            register.advance();
        }
        if register == *seen && self.indeterminate.is_none() {
            return;
        }
        if let Some(leaving) = self.leaving
            && let Some(until) = self.back_off(register.queue.len(), now)
            && until < leaving.until
        {
            return self.wake_by(until);
        }
        let has_space = register.queue.len() < self.settings.queue_limit;
        if self.intent == Intent::Wait && !register.queue.is_empty() && has_space {
            register.queue.push(Waiter::new(self.claim, &self.settings.label));
        }
        self.write(RequestKind::Leave, register, now);
    }

    /// Whether the register shows anything of this node.
    fn has_traces(&self) -> bool {
        let has = |register: &Register| {
            register.holder.as_ref().is_some_and(|holder| self.is_own(holder.claim))
                || register.queue.iter().any(|waiter| self.is_own(waiter.claim))
        };
        self.view.register.as_ref().is_ok_and(has)
    }

    fn is_own(&self, claim: ClaimId) -> bool {
        claim.node == self.settings.node
    }
}

// The one request in flight: how it is sent, what its answer says, and what follows if there is none.
/// What a request in flight is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RequestKind {
    Load,
    Take,
    Join,
    Renew,
    Leave,
}

/// The one request in flight.
#[derive(Debug)]
struct InFlight {
    request: u64,
    kind: RequestKind,
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

impl Machine {
    fn take_in_flight(&mut self, request: u64) -> Option<InFlight> {
        self.in_flight.take_if(|in_flight| in_flight.request == request)
    }

    fn loaded(
        &mut self,
        sent: InFlight,
        result: Result<Option<Versioned>, TransportError>,
        now: Time,
    ) {
        match result {
            Ok(seen) => {
                self.went_well(&sent, now);
                self.view.responded(seen, sent.basis, now);
            }
            Err(error) => self.went_wrong(error, now),
        }
    }

    fn exchanged(&mut self, sent: InFlight, result: Result<Exchange, TransportError>, now: Time) {
        let InFlight { kind, basis, .. } = sent;
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
                self.indeterminate = None;
                match kind {
                    RequestKind::Take => self.taken(version, sent.sent, now),
                    RequestKind::Renew => self.renewed(version, sent.sent),
                    RequestKind::Leave => {
                        if self.others_wait() {
                            self.gave_way(now);
                        }
                        self.released(Outcome::Held);
                    }
                    RequestKind::Join => self.joined(),
                    RequestKind::Load => {}
                }
            }
            Ok(Exchange::Mismatch(seen)) => {
                self.went_well(&sent, now);
                self.view.responded(seen, basis, now);
                if kind == RequestKind::Join {
                    self.put_off_joining(now);
                }
            }
            Err(error) => {
                if matches!(error, TransportError::Indeterminate(_)) {
                    self.indeterminate = Some(basis);
                    if let Some(leaving) = &mut self.leaving {
                        leaving.is_indeterminate |= kind == RequestKind::Leave;
                    }
                }
                self.went_wrong(error, now);
            }
        }
    }

    fn went_well(&mut self, sent: &InFlight, now: Time) {
        self.trouble = Trouble::default();
        self.round_trip = now.since(sent.sent).max(fairness::SHORTEST);
    }

    /// Waits before the next request, and tells those who wait here if it does not pass.
    fn went_wrong(&mut self, error: TransportError, now: Time) {
        let since = *self.trouble.since.get_or_insert(now);
        self.trouble.failures = (self.trouble.failures + 1).min(16);
        let longest = self.settings.lease / if self.held.is_some() { 20 } else { 4 };
        let wait = Duration::from_millis(5).saturating_mul(1 << self.trouble.failures).min(longest);
        self.trouble.retry_at = Some(now + wait.mul_f64(0.5 + self.random.f64() / 2.0));
        self.trouble.last = Some(error.clone());
        // What was to be looked at still is.
        self.must_look = true;
        let gives_up = match self.intent {
            Intent::Nothing => false,
            Intent::Try => true,
            Intent::Wait => {
                !error.is_passing() || now.since(since) >= self.settings.unavailable_timeout
            }
        };
        if gives_up {
            self.fail(Failure::Transport(error));
        }
    }

    fn load(&mut self, now: Time) {
        let request = self.send(RequestKind::Load, None, now);
        self.actions.push_back(Action::Load { request });
    }

    fn write(&mut self, kind: RequestKind, register: Register, now: Time) {
        let (expected, mut write) = (self.view.version, write(&register));
        if kind == RequestKind::Join
            && let Some(holder) = &register.holder
        {
            // The holder, if it listens: what it writes next will expect the right version, and it
            // knows that its tasks and threads are not alone any more.
            let is_first = register.queue.len() == 1;
            let holder = Wake::Node(holder.claim.node);
            write.wake = if is_first { holder } else { Wake::Nobody };
        }
        let request = self.send(kind, Some(register), now);
        self.actions.push_back(Action::CompareExchange { request, expected, write });
    }

    fn send(&mut self, kind: RequestKind, written: Option<Register>, sent: Time) -> u64 {
        self.last_request += 1;
        self.must_look = false;
        let (request, basis) = (self.last_request, self.view.version);
        let stood_still = sent.since(self.view.seen);
        self.in_flight = Some(InFlight { request, kind, sent, basis, stood_still, written });
        request
    }
}

/// The write of this register. It wakes the first in the queue: the lock is reserved for it, or it
/// has a new heartbeat to watch.
fn write(register: &Register) -> Write {
    let wake = register.queue.first().map_or(Wake::Nobody, |first| Wake::Node(first.claim.node));
    Write { value: register.encode().into(), wake, idle: register.is_idle() }
}

/// The write by which an operator breaks the lock, and the register that it breaks: whoever holds
/// it is out, and it is reserved for the first in the queue. `None` if nobody holds it.
pub(crate) fn force_release(register: &Register) -> Option<Write> {
    register.holder.as_ref()?;
    let mut register = register.clone();
    register.holder = None;
    register.advance();
    Some(Write { wake: Wake::Everybody, ..write(&register) })
}

#[cfg(test)]
mod tests;

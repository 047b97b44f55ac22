//! The protocol of one node for one key: a state machine without a clock, a socket or a runtime.
//!
//! The driver passes each event to [`Machine::handle`], with the time on the node's clock, performs
//! the actions that [`Machine::next_action`] returns, and passes [`Event::Timer`] no later than at
//! [`Machine::wake_at`]. Everything that a network can do to the machine is an event, so the
//! simulator (`cluster::sim`) runs this very code.
//!
//! # How it decides
//!
//! Before each event the driver says by [`Machine::set_may_send`] whether the machine may send a request. If it
//! may not and has one to send, [`Machine::queued`] is `Some`. The driver then passes [`Event::Timer`] when it
//! may, which [`Machine::wake_at`] does not cover.
//!
//! The machine has no list of states. It keeps what is *wanted* at this node ([`Intent`]), what the
//! register contained when it was last seen ([`View`]), whether the lock is *held* ([`Held`]) or is
//! being *released* ([`Releasing`]), and at most one request in flight. When no request is in
//! flight, it compares what is wanted with what it sees and takes the next step. A fault changes
//! what the machine sees, and no fault needs a state of its own.
//!
//! | wanted | the register shows | step |
//! |---|---|---|
//! | the lock ([`Wait`](Intent::Wait)) | no holder | write this node as the holder |
//! | | handed to this node, and enough of the time is left | hold the lock |
//! | | handed to this node otherwise | write this node as the holder (confirm) |
//! | | held, and this node may take it and pass over those before it | write this node as the holder, without them |
//! | | held by this claim, whose write had an unknown outcome | write this node as the holder (confirm) |
//! | | anything else, this node is not in the queue | write this node to the end of the queue; if that is full, look again later ([`crowd`]) |
//! | | anything else, this node is in the queue | wait |
//! | the lock ([`Try`](Intent::Try)) | one of the first five cases | the same as there |
//! | | anything else | report that it is busy |
//! | the lock ([`Outlast`](Intent::Outlast)) | one of the first five cases | the same as there |
//! | | anything else, the holder and the heartbeat are those of the first look | look again later |
//! | | anything else | report that it is busy |
//! | to keep the lock | this node is the holder, a third of the lease is over | write the next heartbeat, and this node's own lease |
//! | | another holder or none, or a heartbeat that this node did not write | report the loss |
//! | to publish a text with it | this node is the holder | the same at once, with the text |
//! | to release the lock | this node is the holder | write the first in the queue as the holder, or that the lock is free |
//! | | an entry of this node, or its write may yet arrive | write the register without this node |
//! | nothing | an entry of this node, or its write may yet arrive | write the register without this node |
//! | | neither | rest |
//!
//! A write of this node may yet arrive if its outcome is unknown: then the machine does not rest, although
//! the register shows no entry of this node ([below](self#writes-of-unknown-outcome)).
//!
//! If nothing has shown the register since the acquisition began, the machine loads it before it reports
//! that it is busy, or joins the queue. That it is busy is reported only if a request shows it that was sent
//! since: what an earlier one shows may have been over before the caller asked. Which entries are this
//! node's, and not those of a copy of its process, is in [`claims`].
//!
//! # Answers and hints
//!
//! What the register contains is known from *answers* only: from the responses to requests, and from
//! the items of a watch if the engine declares that they are its own ordered record. Everything else
//! is a *hint*, which anybody may have sent. A hint has one effect: the machine looks, by a load or by
//! the write that is due. It carries no register, so nothing is lost, granted or failed because of it,
//! and no write is built on it: a forger who knows the present version could show a free lock with it,
//! and the write would take the lock from a live holder.
//!
//! A hint that arrives while a request is in flight causes one more look after it, since that request
//! may have been answered before the change. As there is one request in flight at a time, any number
//! of hints cost one look for each round trip at most, and no step of the machine waits for more than
//! one of them.
//!
//! # Time
//!
//! The holder counts its deadline from *before* its last successful write was sent. An observer
//! counts the lease from the *receipt* of the answer that first showed the current heartbeat. In true
//! time the write lies between the two. Each side allows for the errors of its own clock
//! ([`ClockError::allowance`]), so the holder's deadline passes before the observer takes over, as
//! long as the rate of each clock is right to within its assumed error. Both count with the lease in the
//! register.
//!
//! # The direct handoff
//!
//! A release writes the first in the queue as the holder, with the lease that this one has asked for in the
//! queue: its handoff lease, which is short. The write is of another node, so the new holder does not know when it was sent. But
//! the write was not yet there when the engine answered an earlier request of the new holder: by a register in
//! which it is not the holder. So it counts its deadline from before *that* request was sent
//! ([`Machine::not_holder_at`]). In true time that lies before the write, and what an observer counts from
//! after it: the proof is the one above.
//!
//! The new holder holds the lock at once if at least half of the handoff lease is left, and at least
//! [`LEAST_ROUND_TRIPS`] round trips, which are enough for a renewal. Otherwise it confirms first, by a write of its own. It
//! renews when a third of the short lease is over, which makes it a whole one; so a turn shorter than that takes
//! two writes, the one that joins the queue and the release. The version that shows the grant makes its token: it
//! is larger than each version of the holder before, whose last write is the grant, or one before it. A grant moves the
//! heartbeat, since otherwise observers would count from before it.
//!
//! The first in the queue looks whenever a third of its handoff lease has passed since it last asked, so that it
//! can hold the lock at once when its turn comes, and does not lose its turn with a lost notice. A node with a
//! write of unknown outcome confirms first, since that write may hand the lock on.
//!
//! # An engine that goes back
//!
//! Versions only grow. So a response with a smaller version than one that was seen before the request
//! was sent tells that the engine went back: it was restored from a backup, or it has lost writes.
//! What it shows from then on does not say who holds the lock. A lease is lost ([`Loss::WentBack`]).
//! If the engine declares that it can lose writes, the machine goes on, and is granted the lock by the
//! first write whose version exceeds all that it has seen. If the engine does not, acquisitions fail
//! ([`Failure::WentBack`]) until it shows such a version. No token is ever made of a smaller one. What
//! earlier machines of the node have seen counts, as far as the node remembers it
//! ([`Machine::remember`]).
//!
//! # Writes of unknown outcome
//!
//! A write of unknown outcome ([`Indeterminate`](crate::cluster::TransportError::Indeterminate)) can
//! still take effect for as long as the register has the version that the write expects. So the
//! machine does not rest before the version has changed: its next write expects the same version,
//! and one of the two succeeds. If it wants nothing else, it writes the register unchanged. After a
//! mismatch it searches the register for its own claim, since the write may have been its own.
//!
//! There is one exception: a write that expects *no* register could find none again, after the
//! register was dropped. An engine therefore keeps an idle register for longer than any request can
//! be in flight, counted from the write that left it idle ([`Write::idle`](crate::cluster::Write::idle)).
//! That may have been long before, so only a later write of the same node ends the uncertainty about one
//! that expected no register: whoever leaves the register idle after that begins the time anew.

use crate::cluster::transport::{Exchange, TransportError, Version, Versioned, Wake, Write};
use break_note::BreakNote;
use claims::OwnClaim;
use crowd::Step;
use fairness::{Backoff, Returns};
use register::{ClaimId, Holder, Liveness, QueueEntry, Register};
use std::collections::VecDeque;
use std::time::Duration;
use view::View;
use watch::WatchState;

pub(crate) mod break_note;
mod claims;
mod crowd;
mod event;
mod fairness;
pub(crate) mod register;
mod sending;
#[cfg(test)]
mod tests;
mod view;
mod watch;

pub(crate) use event::{
    Action, ClockError, EngineStatus, Event, Failure, Grant, GrantedVia, IdSource, Intent, Loss,
    MachineSettings, Observation, Outcome, Publication, QueuedSend, Time, WentBack,
};
pub use register::Unreadable;

/// One node's state machine for one key.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    settings: MachineSettings,
    random: fastrand::Rng,
    intent: Intent,
    /// The claim of the present acquisition, drawn when that begins. A claim gets the lock at most
    /// once.
    claim: Option<OwnClaim>,
    /// The claims before it that the register may still name.
    traces: Vec<OwnClaim>,
    view: View,
    held: Option<Held>,
    /// What the holder publishes, and whether that is to be written yet.
    publication: Publication,
    publication_is_due: bool,
    releasing: Option<Releasing>,
    /// The version that a write of unknown outcome expects, while the register may still have it, or have
    /// none again.
    indeterminate: Option<Option<Version>>,
    in_flight: Option<InFlight>,
    last_request: u64,
    /// A request that was sent since the present intent began has succeeded.
    has_looked: bool,
    /// What [`Intent::Outlast`] has to outlast, from its first look on.
    outlasts: Option<Liveness>,
    /// The case in which the last write of kind [`RequestKind::Take`] was sent.
    via_tried: GrantedVia,
    /// How often another node's write came before this node's attempt to join the queue, less the
    /// number of successful attempts since.
    collisions: u32,
    /// The last attempt to join was a delayed one and showed the current version, so the next one
    /// follows at once.
    rejoins_at_once: bool,
    /// No attempt to join is made before this time.
    join_at: Time,
    /// When this node looks for a place in the queue, if it has found none.
    look_at: Option<Time>,
    /// The pace with which it has found none then, either.
    refused_at: Option<Duration>,
    /// A time before the sending of the latest request whose answer has shown that the present claim is not
    /// the holder. The claim becomes the holder later than that.
    not_holder_at: Option<Time>,
    /// How long the last successful request took.
    round_trip: Duration,
    backoff: Backoff,
    returns: Returns,
    watch: WatchState,
    failed_watches: u32,
    /// The register may have changed without a notice, so it must be loaded.
    must_load: bool,
    retry: RetryState,
    /// Requests may be sent. Otherwise the driver has to queue the key.
    may_send: bool,
    /// A request would have been sent, and may not be: since this moment, or since one before it if only
    /// requests were between the two.
    queued_since: Option<Time>,
    /// That moment, also while such a request is in flight.
    first_queued: Option<Time>,
    /// The last error of the node, if a request may not be sent.
    node_error: Option<TransportError>,
    /// A hint has come since the last request.
    was_woken: bool,
    /// The node is closed, or the process ends: releases are not put off.
    is_hurried: bool,
    wake_at: Option<Time>,
    actions: VecDeque<Action>,
}

/// The lock is held, by the machine's present claim.
#[derive(Clone, Copy, Debug)]
struct Held {
    /// The version that the grant got.
    granted: Version,
    /// The lock is lost from this time on. It is counted from before the last successful write was
    /// sent.
    deadline: Time,
    /// When the next renewal is sent.
    renew_at: Time,
    /// Whether renewals are wanted.
    renews: bool,
    /// The lease in the register.
    lease: Duration,
}

/// For how many round trips a lease that this node was handed must last, for it to hold the lock at once, and when
/// it begins to renew. A renewal may collide with the nodes that join.
const LEAST_ROUND_TRIPS: u32 = 8;

/// The lock is being released, and [`Action::Released`] is due.
#[derive(Clone, Copy, Debug)]
struct Releasing {
    claim: ClaimId,
    /// A write that releases the lock had an unknown outcome.
    is_indeterminate: bool,
    /// The deadline of the lease. After it the machine reports the outcome without a response.
    deadline: Time,
}

/// The purpose of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RequestKind {
    Load,
    /// Makes this node the holder.
    Take,
    /// Puts this node at the end of the queue.
    Join,
    /// Moves the heartbeat.
    Renew,
    /// Removes this node as the holder and from the queue.
    Leave,
}

/// The one request in flight.
#[derive(Clone, Debug)]
struct InFlight {
    request: u64,
    kind: RequestKind,
    /// A time before the request was sent.
    sent: Time,
    /// The version that was known at that time. A write expects it.
    basis: Option<Version>,
    /// The largest version that was seen by that time.
    newest: Option<Version>,
    /// For how long the register was known to have that version.
    unchanged_for: Duration,
    /// It was sent before the present intent began.
    is_earlier: bool,
    /// The register that is written. `None` for a load.
    written: Option<Register>,
}

/// Consecutive failures of requests, and the delay after them.
#[derive(Clone, Debug, Default)]
struct RetryState {
    /// When the first of the failures occurred.
    failing_since: Option<Time>,
    /// The number of failures, at most 16.
    failures: u32,
    last_error: Option<TransportError>,
    /// No request is sent before this time.
    retry_at: Option<Time>,
}

impl Machine {
    pub(crate) fn new(settings: MachineSettings) -> Self {
        let random = fastrand::Rng::with_seed(settings.seed);
        Self {
            settings,
            random,
            intent: Intent::Nothing,
            claim: None,
            traces: vec![],
            view: View::unknown(),
            held: None,
            publication: Publication::default(),
            publication_is_due: false,
            releasing: None,
            indeterminate: None,
            in_flight: None,
            last_request: 0,
            has_looked: false,
            outlasts: None,
            via_tried: GrantedVia::Free,
            collisions: 0,
            rejoins_at_once: false,
            join_at: Time::new(Duration::ZERO),
            look_at: None,
            refused_at: None,
            not_holder_at: None,
            round_trip: fairness::MIN_ROUND_TRIP,
            backoff: Backoff::default(),
            returns: Returns::default(),
            watch: WatchState::Off,
            failed_watches: 0,
            must_load: false,
            retry: RetryState::default(),
            may_send: true,
            queued_since: None,
            first_queued: None,
            node_error: None,
            was_woken: false,
            is_hurried: false,
            wake_at: None,
            actions: VecDeque::new(),
        }
    }

    // ---- Input and output ----

    /// Processes an event at the time `now` on the node's clock. The caller takes all actions out
    /// afterwards.
    ///
    /// For a response or an item of the watch, `now` must have been read after the receipt. Requests
    /// that result from this call must be sent after `now`.
    pub(crate) fn handle(&mut self, event: Event, now: Time) {
        self.check_deadline(now);
        match event {
            Event::Intent(intent) => {
                if self.intent == Intent::Nothing {
                    // The unavailable timeout counts anew for a new acquisition.
                    self.retry.failing_since = None;
                    self.first_queued = None;
                    let has_place = self.returned(now);
                    // `Try` reports the present state of the register.
                    self.view.is_fresh &=
                        intent == Intent::Wait && (self.sees_all() || has_place) && !self.must_load;
                    self.has_looked = false;
                    self.has_place();
                    self.in_flight.iter_mut().for_each(|request| request.is_earlier = true);
                }
                if self.intent != intent {
                    self.outlasts = None;
                }
                self.intent = intent;
            }
            Event::Renewing(renews) => {
                if let Some(held) = &mut self.held {
                    held.renews = renews;
                }
            }
            Event::Refresh => {
                if let Some(held) = &mut self.held {
                    held.renew_at = held.renew_at.min(now);
                }
            }
            Event::Publish(publication) => {
                if self.held.is_some() {
                    (self.publication, self.publication_is_due) = (publication, true);
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
            Event::Noticed(Some(seen)) => {
                // After the engine went back, what it writes is not news by its version.
                if !self.view.noticed(seen, now) && self.view.went_back().is_some() {
                    self.must_load = true;
                }
            }
            Event::Noticed(None) => {
                self.must_load = true;
                self.was_woken = true;
            }
            Event::WatchEnded => self.watch_ended(now),
            Event::Timer => {}
        }
        self.step(now);
        self.claim_is_known();
    }

    /// The next action for the driver, if there is one.
    pub(crate) fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Event::Timer`] is due, if no other event occurs before.
    pub(crate) fn wake_at(&self) -> Option<Time> {
        self.wake_at
    }

    /// What the engine has last said.
    pub(crate) fn engine(&self) -> EngineStatus {
        EngineStatus {
            last_error: self.retry.last_error.clone(),
            asked_at: self.in_flight.as_ref().map(|request| request.sent),
            queued_since: self.queued_since,
            node_error: self.node_error.clone(),
            is_watching: self.wants_watch().then(|| self.is_watching()),
            queued_nodes: self.view.register.as_ref().map_or(0, |register| register.queue.len()),
        }
    }

    /// How long a response to the write that was just requested is worth waiting for, if that is less than for
    /// others: a short lease leaves time for a second attempt only if the first is given up in time.
    pub(crate) fn response_limit(&self) -> Option<Duration> {
        let short = self.held.filter(|held| held.lease < self.settings.lease)?;
        // Longer after each failure, for an engine that has become slow.
        Some((short.lease / 5).max(self.round_trip * 2) * (1 + self.retry.failures))
    }

    /// Whether nothing is wanted or held, no request is in flight or of unknown outcome, and the
    /// register has no entry of this node. A watch may still be in force: a driver that drops the
    /// machine ends it.
    pub(crate) fn is_idle(&self) -> bool {
        self.intent == Intent::Nothing
            && self.held.is_none()
            && self.releasing.is_none()
            && self.in_flight.is_none()
            && self.indeterminate.is_none()
            && self.actions.is_empty()
            && !self.is_in_register()
    }

    /// Whether the register still has, or may get, an entry of this node that nobody wants.
    pub(crate) fn owes(&self) -> bool {
        let is_unwanted = self.held.is_none() && self.intent == Intent::Nothing;
        self.releasing.is_some() || is_unwanted && !self.is_idle()
    }

    /// Whether the lock is held, nothing else is wanted, and no request is in flight.
    #[cfg(test)]
    pub(crate) fn is_only_holding(&self) -> bool {
        self.held.is_some() && self.intent == Intent::Nothing && self.in_flight.is_none()
    }

    /// The claim by which this node waits in the queue, if no request is in flight or of unknown outcome.
    #[cfg(test)]
    pub(crate) fn claim_in_queue(&self) -> Option<ClaimId> {
        let claim = self.claim.as_ref().filter(|_| self.intent == Intent::Wait)?.id;
        let register = self.view.register.as_ref().ok()?;
        let is_at_rest = self.in_flight.is_none() && self.indeterminate.is_none();
        (is_at_rest && register.position(claim).is_some()).then_some(claim)
    }

    /// Compares what is wanted with what is seen, and takes the next step.
    fn take_step(&mut self, now: Time) {
        if self.indeterminate.flatten().is_some_and(|expected| Some(expected) != self.view.version)
        {
            // The version has changed: the write has taken effect, or never will.
            self.indeterminate = None;
        }
        self.forget_heartbeats();
        self.forget_traces();
        self.wake_at = None;
        self.expire_watch(now);
        self.check_register();
        self.check_release(now);
        if let Some(held) = self.held {
            self.wake_by(held.deadline);
        }
        if self.in_flight.is_some() {
            return;
        }
        self.leave_claim_to_copy();
        // `Try` sends its request at once, even shortly after a failure.
        let tries = self.held.is_none() && self.releasing.is_none() && self.intent == Intent::Try;
        match self.retry.retry_at {
            Some(at) if now < at && !tries => return self.wake_by(at),
            _ => {}
        }
        if self.held.is_some() {
            self.renew_when_due(now);
        } else if self.releasing.is_some() || self.intent == Intent::Nothing {
            match self.expected_until(now) {
                // Whether it was handed the lock meanwhile.
                Some(_) if self.must_load => self.load(now),
                Some(until) => self.wake_by(until),
                None => self.leave(now),
            }
        } else {
            self.acquire(now);
            if let Some(held) = self.held {
                // It was handed the lock. Whether the user wants renewals is known after this step.
                self.wake_by(held.deadline.min(held.renew_at).max(now));
            } else if self.intent == Intent::Nothing && self.in_flight.is_none() {
                // The acquisition has failed: its entry in the register is removed.
                self.leave(now);
            }
        }
    }

    fn fail(&mut self, why: Failure) {
        self.intent = Intent::Nothing;
        self.actions.push_back(Action::Failed(why));
    }

    fn wake_by(&mut self, at: Time) {
        self.wake_at = Some(self.wake_at.map_or(at, |before| before.min(at)));
    }

    // ---- Acquiring ----

    /// The next step towards the lock. No request is in flight.
    fn acquire(&mut self, now: Time) {
        let claim = self.claim_id();
        // What was true before a caller tries must not refuse it. Hints that came since do not matter: a
        // flood of them must not keep the acquisition from its end.
        let is_fresh = self.view.is_fresh && (self.has_looked || self.intent == Intent::Wait);
        let register = match &self.view.register {
            Ok(register) => self.without_stale_claims(register),
            Err(_) if !is_fresh => return self.load(now),
            Err(why) => return self.fail(Failure::Unreadable(why.clone())),
        };
        if let Some(why) = self.view.went_back() {
            // If the claim is the holder, its own write got a version that is too small for a token.
            let is_written_here = register.is_held_by(claim) && !register.is_handed_to(claim);
            let goes_on = self.settings.is_lossy && !is_written_here;
            if !goes_on && !is_fresh {
                return self.load(now);
            } else if !goes_on {
                return self.fail(Failure::WentBack(why));
            }
        }
        let position = register.position(claim);
        let rank = position.unwrap_or(register.queue.len());
        let is_for_other = register.holder.as_ref().is_some_and(|holder| holder.claim != claim);
        if is_for_other && register.heartbeat != self.view.heartbeat() {
            // The holder is a stale claim of this node. Handing the lock on now spares the waiters its
            // lease.
            return self.join(register, now);
        }
        if self.hold_at_once(claim, now) {
            return;
        }
        if let Some(via) = self.claim_via(&register, rank, now) {
            return self.take(register, rank, via, now);
        }
        if !is_fresh {
            // The view dates from before this acquisition and may be out of date.
            return self.load(now);
        }
        let seen = register.liveness();
        let is_refused = match self.intent {
            Intent::Try => true,
            // Whether the holder has given a sign of life since the first look.
            Intent::Outlast => *self.outlasts.get_or_insert(seen) != seen,
            Intent::Nothing | Intent::Wait => false,
        };
        if is_refused {
            let holder = register.holder.map(|holder| holder.label);
            return self.fail(Failure::Busy { holder });
        }
        self.wake_by(self.due(&register, rank));
        if self.intent == Intent::Outlast {
            return self.look_for_life(&register, now);
        }
        if self.await_watch(now) {
            return;
        }
        if position.is_some() {
            if rank == 0 {
                self.look_as_next(now);
            }
            return self.poll_register(rank, now);
        }
        match self.step_outside(&register, now) {
            Step::Join => self.join(register, now),
            Step::Load => self.load(now),
            Step::WaitUntil(_) if self.must_load => self.load(now),
            Step::WaitUntil(at) => {
                self.wake_by(at);
                // Where the watch does not show everything, the look is a load.
                if self.look_at.is_none() || self.sees_all() {
                    self.poll_register(rank, now);
                }
            }
        }
    }

    /// In which case a write can take the lock now. `None` if this node has to wait.
    fn claim_via(&self, register: &Register, rank: usize, now: Time) -> Option<GrantedVia> {
        match &register.holder {
            Some(holder) if self.is_present(holder.claim) => {
                // If it was not handed the lock, a write of unknown outcome has taken effect. Its version and
                // its deadline are not known, so a second write confirms it.
                Some(if holder.is_handed { GrantedVia::Handoff } else { self.via_tried })
            }
            Some(_) => (now >= self.due(register, rank)).then_some(GrantedVia::Takeover),
            // Without a holder nobody is in the queue, unless another program has written that.
            None => Some(GrantedVia::Free),
        }
    }

    /// The present claim was handed the lock: holds it without a write, if enough is left of the lease.
    /// Returns whether it does.
    fn hold_at_once(&mut self, claim: ClaimId, now: Time) -> bool {
        let seen = self.view.register.as_ref().ok().filter(|seen| seen.is_handed_to(claim));
        let Some(holder) = seen.and_then(|seen| seen.holder.as_ref()) else { return false };
        let Some((since, version)) = self.not_holder_at.zip(self.view.version) else {
            return false;
        };
        // It has asked for no longer one.
        let lease = holder.lease.min(self.settings.lease);
        let heartbeat = self.view.heartbeat();
        let deadline = self.deadline(since, lease);
        let for_renewals = self.round_trip * LEAST_ROUND_TRIPS;
        // A write of its own that is on its way may hand the lock on.
        let is_certain = self.settings.holds_at_once
            && self.indeterminate.is_none()
            && self.view.went_back().is_none();
        if !is_certain || deadline.since(now) < for_renewals.max(lease / 2) {
            return false;
        }
        self.note_accepted_heartbeat(heartbeat);
        let renew_at = (since + lease / 3).min(deadline - for_renewals);
        self.hold(Held { granted: version, deadline, renew_at, renews: true, lease }, now);
        let via = GrantedVia::Handoff;
        self.actions.push_back(Action::Granted(Grant { version, deadline, is_short: true, via }));
        true
    }

    /// This node is the first in the queue: it looks from time to time, so that enough is left of the lease that
    /// it is handed for it to hold the lock at once, and so that a lost notice does not cost it its turn.
    fn look_as_next(&mut self, now: Time) {
        let interval = (self.settings.handoff_lease / 3).max(self.round_trip);
        match self.not_holder_at.map(|at| at + interval) {
            Some(look_at) if now < look_at => self.wake_by(look_at),
            _ => self.must_load = true,
        }
    }

    /// This node has the lock from now on, by its present claim.
    fn hold(&mut self, held: Held, now: Time) {
        self.intent = Intent::Nothing;
        self.begin_turn(now);
        (self.publication, self.publication_is_due) = (Publication::default(), false);
        self.held = Some(held);
    }

    /// Writes this node as the holder, and removes the first `passed_over` entries of the queue.
    fn take(&mut self, mut register: Register, passed_over: usize, via: GrantedVia, now: Time) {
        if !self.can_send(now) {
            return;
        }
        let claim = self.claim_id();
        if !register.is_held_by(claim) {
            register.queue.drain(..passed_over);
        }
        register.queue.retain(|waiter| waiter.claim != claim);
        let mut holder = Holder::new(claim, &self.settings.label, self.settings.lease);
        holder.since_ms = self.settings.wall_clock.map(|now| now());
        register.holder = Some(holder);
        register.heartbeat = self.draw_heartbeat();
        self.via_tried = via;
        // The next waiter is woken, since it has a new heartbeat to observe.
        self.write(RequestKind::Take, register, now);
    }

    /// Writes this node to the end of the queue. A joining node does not move the heartbeat.
    fn join(&mut self, mut register: Register, now: Time) {
        if !self.can_send(now) {
            return;
        }
        self.note_contention();
        let has_space = register.queue.len() < self.settings.queue_limit;
        let claim = self.claim_id();
        if register.position(claim).is_none() && has_space {
            self.adapt_pace(&mut register);
            register.queue.push(self.queue_entry(claim));
        }
        self.write(RequestKind::Join, register, now);
    }

    fn queue_entry(&self, claim: ClaimId) -> QueueEntry {
        QueueEntry::new(claim, &self.settings.label, self.settings.handoff_lease)
    }

    /// The write that takes the lock got this version. It was sent no earlier than `sent`.
    fn taken(&mut self, version: Version, sent: Time, now: Time) {
        let lease = self.settings.lease;
        let deadline = self.deadline(sent, lease);
        if self.intent == Intent::Nothing || now >= deadline {
            // If the lock is not wanted any more, the next step releases it. If the response came
            // too late, the next step confirms the lock by another write.
            return;
        }
        let renew_at = sent + lease / 3;
        self.hold(Held { granted: version, deadline, renew_at, renews: true, lease }, now);
        let via = self.via_tried;
        self.actions.push_back(Action::Granted(Grant { version, deadline, is_short: false, via }));
    }

    /// The deadline that a write of this lease grants which was sent no earlier than `sent`.
    fn deadline(&self, sent: Time, lease: Duration) -> Time {
        sent + lease.saturating_sub(self.settings.clock_error.allowance(lease))
    }

    // ---- Holding ----

    /// Reports the loss of the lock once the deadline has passed. This comes before the event itself
    /// is processed, so that a late response does not revive the lease.
    fn check_deadline(&mut self, now: Time) {
        if self.held.is_some_and(|held| now >= held.deadline) {
            let last = self.engine().cause_of_expiry(now);
            self.lose(Loss::Expired { last });
        }
    }

    /// Reports the loss of the lock if the register does not name this claim as the holder any more,
    /// or does so by a write of a copy of this node, or if the engine went back.
    fn check_register(&mut self) {
        let Some(claim) = self.claim.as_ref().filter(|_| self.held.is_some()) else { return };
        if let Some(why) = self.loss_of(claim.id) {
            self.lose(why);
        }
    }

    /// Why the lock that was had by this claim is lost, if it is by what the register shows.
    fn loss_of(&self, claim: ClaimId) -> Option<Loss> {
        if self.view.went_back().is_some() {
            return Some(Loss::WentBack);
        }
        match &self.view.register {
            Ok(register) if !register.is_held_by(claim) => {
                let note = BreakNote::of(register).filter(|note| note.is_of(claim));
                Some(note.map_or(Loss::TakenOver, |BreakNote { by, reason, .. }| Loss::Broken {
                    by,
                    reason,
                }))
            }
            Ok(register) => (!self.holds(register)).then_some(Loss::Copied),
            Err(why) => Some(Loss::Unreadable(why.clone())),
        }
    }

    /// Renews the lease if it is time to. No request is in flight.
    fn renew_when_due(&mut self, now: Time) {
        let Some(held) = self.held.filter(|held| held.renews) else { return };
        if now < held.renew_at && !self.publication_is_due {
            if self.must_load {
                return self.load(now);
            }
            return self.wake_by(held.renew_at);
        }
        if self.actions.iter().any(|action| matches!(action, Action::Granted(_))) {
            // The response came late. Whether the user wants renewals is known after this step.
            return self.wake_by(now);
        }
        if !self.can_send(now) {
            return;
        }
        let Ok(register) = &self.view.register else { return };
        let mut register = register.clone();
        if let Some(holder) = &mut register.holder {
            holder.granted = Some(held.granted.get());
            holder.since_ms = holder.since_ms.or_else(|| self.settings.wall_clock.map(|now| now()));
            (holder.lease, holder.is_handed) = (self.settings.lease, false);
            holder.value.clone_from(&self.publication.value);
        }
        register.heartbeat = self.draw_heartbeat();
        self.write(RequestKind::Renew, register, now);
    }

    /// The write that renews the lease got this version. It was sent no earlier than `sent`. `is_published`: it has what
    /// the holder publishes now.
    fn renewed(&mut self, version: Version, sent: Time, is_published: bool) {
        let lease = self.settings.lease;
        let deadline = self.deadline(sent, lease);
        let Some(held) = &mut self.held else { return };
        (held.deadline, held.renew_at, held.lease) = (deadline, sent + lease / 3, lease);
        let was_due = self.publication_is_due;
        self.publication_is_due &= !is_published;
        let published = (was_due && is_published).then_some(self.publication.number);
        self.actions.push_back(Action::Renewed { version, deadline, published });
    }

    fn lose(&mut self, why: Loss) {
        self.held = None;
        self.end_claim();
        self.actions.push_back(Action::Lost(why));
    }

    // ---- Releasing ----

    /// The lock is not held at this node from now on, whatever the outcome of the write.
    fn begin_release(&mut self) {
        match self.held.take() {
            Some(Held { deadline, lease, .. }) => {
                let claim = self.claim_id();
                // As late as that of a whole lease: the response tells whether the lock was held until the end.
                let deadline = deadline + self.settings.lease.saturating_sub(lease);
                self.releasing = Some(Releasing { claim, is_indeterminate: false, deadline });
                self.end_claim();
            }
            // The loss was reported a moment ago.
            None if self.releasing.is_none() => {
                self.actions.push_back(Action::Released(Outcome::Lost(None)));
            }
            None => {}
        }
    }

    /// Reports the outcome of the release once it is known, or at the deadline.
    fn check_release(&mut self, now: Time) {
        let Some(releasing) = self.releasing else { return };
        let loss = self.loss_of(releasing.claim);
        // A notice may show the release before the response arrives.
        let is_in_flight =
            self.in_flight.as_ref().is_some_and(|request| request.kind == RequestKind::Leave);
        let is_open = loss.is_none() || is_in_flight;
        if is_open && now < releasing.deadline {
            self.wake_by(releasing.deadline);
        } else if is_open || releasing.is_indeterminate {
            self.released(Outcome::Indeterminate);
        } else {
            self.released(Outcome::Lost(loss));
        }
    }

    fn released(&mut self, outcome: Outcome) {
        if self.releasing.take().is_some() {
            self.actions.push_back(Action::Released(outcome));
        }
    }

    /// Writes the register without this node: the first in the queue has the lock, or it is free. If this
    /// node wants the lock again and others have it or wait, the same write puts it at the end of the queue.
    /// No request is in flight.
    fn leave(&mut self, now: Time) {
        // A value that is not understood is never overwritten.
        let Ok(seen) = &self.view.register else { return self.indeterminate = None };
        let mut register = seen.clone();
        register.queue.retain(|waiter| !self.is_own(waiter.claim));
        let others = register.queue.len();
        if self.holds(&register) {
            register.hand_over();
        }
        if register == *seen && self.indeterminate.is_none() {
            self.claim = None;
            return;
        }
        if let Some(releasing) = self.releasing.filter(|_| !self.is_hurried)
            && let Some(until) = self.back_off(others, now)
            && until < releasing.deadline
        {
            // A hint may say that the node has joined to which this one yields.
            return if self.must_load { self.load(now) } else { self.wake_by(until) };
        }
        if !self.can_send(now) {
            return;
        }
        if register.is_idle() {
            register.pace = Duration::ZERO;
        }
        let wants_place = self.intent == Intent::Wait || self.expects_return();
        if wants_place && !register.is_idle() {
            if others >= self.settings.queue_limit {
                self.raise_pace(&mut register, Duration::ZERO);
            } else if register.pace.is_zero() {
                let claim = self.claim_id();
                register.queue.push(self.queue_entry(claim));
            }
        }
        self.write(RequestKind::Leave, register, now);
    }

    // ---- Requests ----

    fn load(&mut self, now: Time) {
        if !self.can_send(now) {
            return;
        }
        let request = self.send(RequestKind::Load, None, now);
        self.actions.push_back(Action::Load { request });
    }

    fn write(&mut self, kind: RequestKind, register: Register, now: Time) {
        let (expected, mut write) = (self.view.version, write(&register));
        self.note_sent_heartbeat(&register);
        let holder = register.holder.as_ref().map(|holder| Wake::Node(holder.claim.node));
        match kind {
            // The first joiner wakes the holder, if it has a watch: its next write then expects the
            // current version, and it learns that another node waits.
            RequestKind::Join if register.heartbeat == self.view.heartbeat() => {
                let is_first = register.queue.len() == 1;
                write.wake = holder.filter(|_| is_first).unwrap_or(Wake::Nobody);
            }
            // Those who observe the holder are told of what it publishes.
            RequestKind::Renew if self.publication_is_due => write.wake = Wake::Everybody,
            // The first in the queue has seen the grant, or sees this when it looks.
            RequestKind::Take if self.via_tried == GrantedVia::Handoff => write.wake = Wake::Nobody,
            _ => {}
        }
        let request = self.send(kind, Some(register), now);
        self.actions.push_back(Action::CompareExchange { request, expected, write });
    }

    fn send(&mut self, kind: RequestKind, written: Option<Register>, sent: Time) -> u64 {
        self.last_request += 1;
        self.must_load = false;
        self.was_woken = false;
        let (request, basis) = (self.last_request, self.view.version);
        let newest = self.view.newest;
        let unchanged_for = sent.since(self.view.version_since);
        let is_earlier = false;
        self.in_flight = Some(InFlight {
            request,
            kind,
            sent,
            basis,
            newest,
            unchanged_for,
            is_earlier,
            written,
        });
        request
    }

    fn take_in_flight(&mut self, request: u64) -> Option<InFlight> {
        self.in_flight.take_if(|in_flight| in_flight.request == request)
    }

    /// Processes the response to a load.
    fn loaded(
        &mut self,
        sent: InFlight,
        result: Result<Option<Versioned>, TransportError>,
        now: Time,
    ) {
        match result {
            Ok(seen) => {
                self.request_succeeded(&sent, now);
                self.answered(seen, &sent, now);
            }
            Err(error) => self.request_failed(error, now),
        }
    }

    /// Takes in the register that a response shows, and reports it if the engine went back.
    fn answered(&mut self, seen: Option<Versioned>, sent: &InFlight, now: Time) {
        let was_back = self.view.went_back();
        self.view.responded(seen, sent.basis, sent.newest, now);
        // If the view is newer than the response, and shows no grant, neither did the response.
        if self.view.register.as_ref().is_ok_and(|seen| !self.is_holder(seen)) {
            self.not_holder_at = Some(sent.sent);
        }
        if let Some(why) = self.view.went_back() {
            // It may show again what it has shown before.
            self.not_holder_at = None;
            if was_back.is_none() {
                self.actions.push_back(Action::WentBack(why));
            }
        }
    }

    /// Processes the response to a write.
    fn exchanged(&mut self, sent: InFlight, result: Result<Exchange, TransportError>, now: Time) {
        let InFlight { kind, basis, newest, .. } = sent;
        let result = match result {
            // The write took effect, but no token may be made of a version that does not grow. The
            // next request shows what the register is now.
            Ok(Exchange::Swapped(version)) if Some(version) <= newest => {
                let what = format!("version {version} does not follow those before it");
                Err(TransportError::indeterminate(what))
            }
            Ok(Exchange::Mismatch(seen)) if seen.as_ref().map(|seen| seen.version) == basis => {
                Err(TransportError::corrupt("a mismatch that shows the expected version"))
            }
            result => result,
        };
        match result {
            Ok(Exchange::Swapped(version)) => {
                self.request_succeeded(&sent, now);
                self.record_quiet_period(sent.unchanged_for, now);
                let written = sent.written.unwrap_or_else(Register::empty);
                if !self.is_holder(&written) {
                    self.not_holder_at = Some(sent.sent);
                }
                self.note_written_heartbeat(&written);
                let hands_over = written.holder.as_ref().is_some_and(|holder| holder.is_handed);
                let value = written.holder.as_ref().and_then(|holder| holder.value.as_ref());
                let is_published = value == self.publication.value.as_ref();
                self.view.wrote(version, written, now);
                self.indeterminate = None;
                match kind {
                    RequestKind::Take => self.taken(version, sent.sent, now),
                    RequestKind::Renew => self.renewed(version, sent.sent, is_published),
                    RequestKind::Leave => {
                        if hands_over {
                            self.released_to_others(now);
                        }
                        if self.releasing.is_some() {
                            self.begin_absence(self.is_in_register(), now);
                        }
                        self.released(Outcome::Held);
                    }
                    RequestKind::Join => {
                        self.has_place();
                        self.joined();
                    }
                    RequestKind::Load => {}
                }
            }
            Ok(Exchange::Mismatch(seen)) => {
                self.request_succeeded(&sent, now);
                self.answered(seen, &sent, now);
                if kind == RequestKind::Join {
                    self.join_collided(now);
                }
            }
            Err(error) => {
                if matches!(error, TransportError::Indeterminate(_)) {
                    // One that expects no register stays, until a write succeeds.
                    self.indeterminate = self.indeterminate.filter(Option::is_none).or(Some(basis));
                    if let Some(releasing) = &mut self.releasing {
                        releasing.is_indeterminate |= kind == RequestKind::Leave;
                    }
                }
                self.request_failed(error, now);
            }
        }
    }

    fn request_succeeded(&mut self, sent: &InFlight, now: Time) {
        self.retry = RetryState::default();
        self.has_looked |= !sent.is_earlier;
        self.round_trip = now.since(sent.sent).max(fairness::MIN_ROUND_TRIP);
    }

    /// Delays the next request. If the error is permanent or has lasted too long, the intent fails.
    fn request_failed(&mut self, error: TransportError, now: Time) {
        let since = *self.retry.failing_since.get_or_insert(now);
        self.retry.failures = (self.retry.failures + 1).min(16);
        let longest = self.held.map_or(self.settings.lease / 4, |held| held.lease / 20);
        let wait = Duration::from_millis(5).saturating_mul(1 << self.retry.failures).min(longest);
        self.retry.retry_at = Some(now + wait.mul_f64(0.5 + self.random.f64() / 2.0));
        self.retry.last_error = Some(error.clone());
        // If this was a load, it is still needed.
        self.must_load = true;
        let gives_up = match self.intent {
            Intent::Nothing => false,
            Intent::Try => true,
            Intent::Outlast | Intent::Wait => {
                !error.is_transient() || now.since(since) >= self.settings.unavailable_timeout
            }
        };
        if gives_up {
            self.fail(Failure::Transport(error));
        }
    }
}

/// The write of this register. It wakes the node that is handed the lock, or else the first in the queue, which
/// has a new heartbeat to observe.
fn write(register: &Register) -> Write {
    let handed = register.holder.as_ref().filter(|holder| holder.is_handed);
    let first = || register.queue.first().map(|first| first.claim);
    let wake = handed.map(|holder| holder.claim).or_else(first);
    let wake = wake.map_or(Wake::Nobody, |claim| Wake::Node(claim.node));
    Write { value: register.encode().into(), wake, idle: register.is_idle() }
}

/// The write by which an operator takes the lock from the holder of this register: the first in the queue has
/// it then, or it is free. `None` if there is no holder.
pub(crate) fn force_release(register: &Register) -> Option<Write> {
    let mut register = register.clone();
    register.holder.as_ref()?;
    register.hand_over();
    Some(Write { wake: Wake::Everybody, ..write(&register) })
}

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

use super::register::{Attempt, Register, Unreadable};
use super::time::Time;
use super::transport::{
    Exchange, NodeId, TransportError, Version, Versioned, Wake, Wakeups, Write,
};
use std::collections::VecDeque;
use std::time::Duration;

// Getting the lock: free, in the queue, passing over.
mod acquire;
// Keeping it: renewal, loss.
mod hold;
// Giving it back, and undoing what was given up.
mod leave;
// What the machine knows of the register, and since when.
mod view;
// When to subscribe, when to look.
mod watching;

use view::View;

/// By how much a clock's rate may be wrong, as a part of 1: one hundredth. Crystals err by a ten
/// thousandth, and NTP slews by no more than five ten thousandths (ntpd(8)).
///
/// A holder stops so much before its lease ends, and an observer waits so much longer.
pub(crate) const CLOCK_RATE_ERROR: u32 = 100;

/// What the machine is told once.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) node: NodeId,
    /// For people who look at the register.
    pub(crate) label: String,
    /// How long the lock stays with a holder that is not heard of.
    pub(crate) lease: Duration,
    /// How long the heir of a reserved lock has to confirm before the next in line may take it.
    pub(crate) claim_window: Duration,
    /// How often to look where nothing wakes the one who is the first in line.
    pub(crate) poll: Duration,
    /// How many nodes wait in the register; others wait to join.
    pub(crate) queue_limit: usize,
    /// How long the transport may fail before those who wait here are told.
    pub(crate) patience: Duration,
    /// What the transport does to wake a waiter.
    pub(crate) wakeups: Wakeups,
    /// For nonces and jitter. No two machines may have the same.
    pub(crate) seed: u64,
}

/// What is wanted here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// Not the lock. A request for it that is under way is undone.
    Nothing,
    /// The lock if it can be had at once; otherwise [`Action::Failed`] with [`Failure::Busy`], and
    /// the wish is over.
    Try,
    /// The lock, however long it takes.
    Wait,
}

/// What happens to the machine.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// What is wanted here from now on. While the lock is held or being left, it is what is wanted
    /// after that. A wish stays until the lock is granted (then it is `Nothing` again) or the wish
    /// fails.
    Wish(Wish),
    /// Renew as soon as can be: the local tokens run short, or it is to be known whether others wait.
    Refresh,
    /// Give the lock back. Nothing if it is not held.
    ///
    /// If the wish is [`Wish::Wait`] and others wait, the same write puts this node at the end of the
    /// queue.
    Release,
    /// The answer to [`Action::Load`].
    Loaded { request: u64, result: Result<Option<Versioned>, TransportError> },
    /// The answer to [`Action::CompareExchange`].
    Exchanged { request: u64, result: Result<Exchange, TransportError> },
    /// The answer to [`Action::Watch`].
    Watching(Result<(), TransportError>),
    /// The watch yielded.
    Noticed(Option<Versioned>),
    /// The watch has ended.
    WatchEnded,
    /// Time has passed: [`Machine::wake_at`] has come.
    Timer,
}

/// What the driver is to do.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    /// Load the register; answer by [`Event::Loaded`].
    Load { request: u64 },
    /// Answer by [`Event::Exchanged`]. If no answer comes in time, the driver drops the request and
    /// answers [`TransportError::Indeterminate`].
    CompareExchange { request: u64, expected: Option<Version>, write: Write },
    /// Subscribe; answer by [`Event::Watching`], then [`Event::Noticed`] and [`Event::WatchEnded`].
    Watch,
    /// End the watch, or the attempt to subscribe. No more events of it.
    Unwatch,
    /// The lock is held here.
    Granted(Grant),
    /// The lease goes on: until when, and the version that a new token may be made of.
    Renewed { version: Version, deadline: Time },
    /// It is held no more, and nobody gave it back.
    Lost(Loss),
    /// It was given back, by [`Event::Release`].
    Released(Outcome),
    /// The wish is over: not granted, and why.
    Failed(Failure),
}

/// A grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    /// The version of the write that granted it.
    pub(crate) version: Version,
    /// Until when it is held without a renewal.
    pub(crate) deadline: Time,
    pub(crate) way: Way,
}

/// How the lock came to this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Nobody had it and nobody waited.
    Free,
    /// It was reserved for this node, or for one before it that did not confirm.
    HandOff,
    /// It was taken from a holder that was not heard of for a lease.
    Takeover,
}

/// Why the lock is held no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// No renewal got through in time. What hindered the last one, if anything did.
    Expired { last: Option<String> },
    /// The register shows another holder, or none: it was taken over, or broken by an operator.
    TakenOver,
    /// The register is no longer understood.
    Unreadable(Unreadable),
}

/// What is known of a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It was still held, and is free or handed on.
    Held,
    /// It had been lost before.
    Lost,
    /// It is not held any more, but whether it was until the release is not known: the release's
    /// outcome was in doubt, or the engine did not answer before the lease was over.
    InDoubt,
}

/// Why a wish was not granted.
#[derive(Clone, Debug)]
pub(crate) enum Failure {
    /// Only for [`Wish::Try`]: somebody has it, or waits for it. The holder's label, if there is one.
    Busy { holder: Option<String> },
    /// The engine's error: one that does not pass by itself, or that has not passed in
    /// [`Settings::patience`].
    Transport(TransportError),
    /// The register is not understood.
    Unreadable(Unreadable),
}

/// One node's part in one key.
#[derive(Debug)]
pub(crate) struct Machine {
    settings: Settings,
    random: fastrand::Rng,
    wish: Wish,
    /// The attempt that is made, or was made last.
    attempt: Attempt,
    view: View,
    held: Option<Held>,
    leaving: Option<Leaving>,
    /// The version that an indeterminate write of ours expects, while the register may have it.
    doubt: Option<Option<Version>>,
    under_way: Option<UnderWay>,
    last_request: u64,
    watch: watching::State,
    trouble: Trouble,
    actions: VecDeque<Action>,
}

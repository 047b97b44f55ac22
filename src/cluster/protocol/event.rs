//! What the machine is told, and what it asks for.

use crate::cluster::protocol::register::Unreadable;
use crate::cluster::time::Time;
use crate::cluster::transport::{
    Exchange, NodeId, TransportError, Version, Versioned, Wakeups, Write,
};
use std::time::Duration;

/// What the machine is told once.
#[derive(Clone, Debug)]
pub(crate) struct MachineSettings {
    pub(crate) node: NodeId,
    /// For people who look at the register.
    pub(crate) label: String,
    /// How long the lock stays with a holder that is not heard of.
    pub(crate) lease: Duration,
    /// How long the next waiter of a reserved lock has to confirm before the next in the queue may take it.
    pub(crate) claim_window: Duration,
    /// How often to look where nothing wakes the one who is the first in the queue.
    pub(crate) poll: Duration,
    /// How many nodes wait in the register; others wait to join.
    pub(crate) queue_limit: usize,
    /// How long the transport may fail before those who wait here are told.
    pub(crate) unavailable_timeout: Duration,
    /// What the transport does to wake a waiter.
    pub(crate) wakeups: Wakeups,
    /// For nonces and jitter. No two machines may have the same.
    pub(crate) seed: u64,
}

/// What is wanted here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Intent {
    /// Not the lock. A request for it that is in flight is undone.
    Nothing,
    /// The lock if it can be had at once; otherwise [`Action::Failed`] with [`Failure::Busy`], and
    /// the intent is over.
    Try,
    /// The lock, however long it takes.
    Wait,
}

/// What happens to the machine.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// What is wanted here from now on. While the lock is held or being left, it is what is wanted
    /// after that. A intent stays until the lock is granted (then it is `Nothing` again) or the intent
    /// fails.
    Intent(Intent),
    /// Renew as soon as can be: the local tokens run short, or it is to be known whether others wait.
    Refresh,
    /// Give the lock back. Nothing if it is not held.
    ///
    /// If the intent is [`Intent::Wait`] and others wait, the same write puts this node at the end of the
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
    /// The intent is over: not granted, and why.
    Failed(Failure),
}

/// A grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    /// The version of the write that granted it.
    pub(crate) version: Version,
    /// Until when it is held without a renewal.
    pub(crate) deadline: Time,
    pub(crate) via: GrantedVia,
}

/// How the lock came to this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GrantedVia {
    /// Nobody had it and nobody waited.
    Free,
    /// It was reserved for this node, or for one before it that did not confirm.
    Handoff,
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
    /// outcome was indeterminate, or the engine did not answer before the lease was over.
    Indeterminate,
}

/// Why a intent was not granted.
#[derive(Clone, Debug)]
pub(crate) enum Failure {
    /// Only for [`Intent::Try`]: somebody has it, or waits for it. The holder's label, if there is one.
    Busy { holder: Option<String> },
    /// The engine's error: one that does not pass by itself, or that has not passed in
    /// [`MachineSettings::unavailable_timeout`].
    Transport(TransportError),
    /// The register is not understood.
    Unreadable(Unreadable),
}

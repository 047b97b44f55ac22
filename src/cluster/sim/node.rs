//! A node: its clock, its machines, and what its threads do with the lock.

use super::clock::{Clock, Moment};
use crate::cluster::protocol::register::ClaimId;
use crate::cluster::protocol::{Event, Grant, Intent, Machine};
use crate::cluster::time::Time;
use crate::cluster::token::FencingToken;
use crate::cluster::transport::{NodeId, TransportError, Version, Versioned, Write};

/// What becomes of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    Runs,
    /// It handles nothing. With its virtual machine, its clock stands still too.
    Sleeps,
    /// It was killed. Whoever comes after it is another node.
    Dead,
}

/// A process.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) clock: Clock,
    pub(super) life: Life,
    /// How far away the engine is, one way, if not as far as for all.
    pub(super) latency: Option<Moment>,
    /// Cut off from the engine.
    pub(super) is_parted: bool,
    /// What came while it slept.
    pub(super) inbox: Vec<Input>,
    /// One for each key.
    pub(super) seats: Vec<Seat>,
}

/// What a node has to do with one key.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) machine: Machine,
    /// What the machine was told so far, counted.
    pub(super) handled: u64,
    /// Requests whose answer the driver still waits for.
    pub(super) awaited: Vec<u64>,
    /// When the last one was decided on, in true time.
    pub(super) asked_at: Moment,
    /// When the last request failed, if it did, in true time.
    pub(super) failed_at: Option<Moment>,
    /// The watch that was asked for last, and whether that was answered.
    pub(super) watch: Option<(u64, bool)>,
    /// Until when the timer sleeps, on the node's clock, and the number of that sleep.
    pub(super) timer: Option<(Time, u64)>,
    /// The time of the last timer, and how often it came at that time.
    pub(super) spins: (Time, u32),
    pub(super) local: Local,
}

/// What the node's threads want of one key and do with it, and what they were told.
#[derive(Debug, Default)]
pub(super) struct Local {
    /// The intent that the machine was told last, while it is not granted, failed or cancelled.
    pub(super) intent: Option<(Intent, Moment)>,
    /// Counts wishes and held leases, so that a late step meets the one that it was meant for.
    pub(super) serial: u64,
    pub(super) held_lease: Option<HeldLease>,
    /// What was released, until that is answered: and whether the answer may be anything.
    pub(super) releasing: Option<HeldLease>,
    pub(super) grants: u64,
}

/// The lock is held here, as far as the node knows.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeldLease {
    pub(super) serial: u64,
    pub(super) claim: ClaimId,
    pub(super) granted: Version,
    pub(super) deadline: Time,
    /// What the next token is made of.
    pub(super) base: Version,
    pub(super) next: u32,
    /// The token of the one who holds the lock on this node now.
    pub(super) token: FencingToken,
    /// The clock stood still, or an operator broke the lock: no exclusion was promised.
    pub(super) is_excused: bool,
}

impl HeldLease {
    pub(super) fn new(serial: u64, claim: ClaimId, grant: &Grant) -> Self {
        Self {
            serial,
            claim,
            granted: grant.version,
            deadline: grant.deadline,
            base: grant.version,
            next: 1,
            token: FencingToken::of(grant.version, 0).expect("the first token of a version"),
            is_excused: false,
        }
    }
}

/// A request on its way.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) node: usize,
    pub(super) key: usize,
    /// The number that the machine gave it, and one that no other request has.
    pub(super) request: u64,
    pub(super) number: u64,
    pub(super) what: What,
}

#[derive(Clone, Debug)]
pub(super) enum What {
    Load,
    Exchange(Option<Version>, Write),
}

/// What a thread does.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    Want,
    Cancel(u64),
    Use(u64),
    HandOver(u64),
    Refresh(u64),
    Finish(u64),
}

/// What comes to a node.
#[derive(Clone, Debug)]
pub(super) enum Input {
    Timer {
        key: usize,
        number: u64,
    },
    /// A request that is decided on leaves.
    Send(Request),
    Response {
        key: usize,
        number: u64,
        event: Event,
    },
    /// No answer came in time.
    TimedOut {
        key: usize,
        number: u64,
        request: u64,
        is_load: bool,
    },
    Watching {
        key: usize,
        watch: u64,
        result: Result<(), TransportError>,
    },
    Noticed {
        key: usize,
        watch: u64,
        seen: Option<Versioned>,
    },
    WatchEnded {
        key: usize,
        watch: u64,
    },
    Local {
        key: usize,
        step: Step,
    },
}

impl Input {
    /// Timers may be looked at before or after everything else.
    pub(super) fn is_timer(&self) -> bool {
        matches!(self, Self::Timer { .. } | Self::TimedOut { .. } | Self::Local { .. })
    }
}

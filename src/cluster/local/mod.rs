//! Where the tasks and threads of one node meet that want the same key.
//!
//! They stand in one [`WaitQueue`], the first come first. One lease at a time is at this node
//! ([`Lease::Here`]), and one of them at most uses it. Whoever gives it back hands it to the next in
//! line with no message to anybody, or leaves it for a moment to whoever comes first ([`barging`]), as
//! long as the bounds allow ([`LocalState::settle`]); otherwise the driver gives it back to the engine.
//!
//! All of that is under one mutex, which is held for some tens of instructions and never while
//! anything is called that is not ours. The driver is told nothing but that it should come by: what
//! it is to do it reads from the state ([`LocalState::next_event`]).

use crate::cluster::error::LockError;
use crate::cluster::guard::{AcquiredVia, LossReason};
use crate::cluster::key::Key;
use crate::cluster::node::NodeShared;
use crate::cluster::protocol::register::ClaimId;
use crate::cluster::protocol::{Grant, Intent, Outcome};
use crate::cluster::time::Time;
use crate::cluster::token::FencingToken;
use crate::cluster::transport::Version;
use crate::{Mutex, MutexGuard};
use std::sync::Arc;
use std::task::Waker;

mod barging;
pub(crate) mod clock;
pub(crate) mod driver;
mod handle;
mod held_lease;
pub(crate) mod parker;
pub(crate) mod requests;
pub(crate) mod run_queue;
mod state;
mod wait_queue;

use barging::Turn;
pub(crate) use handle::{Acquire, Handle, WaitMode};
pub(crate) use held_lease::HeldLease;
use wait_queue::WaitQueue;
pub(crate) use wait_queue::WaiterId;

/// One key at this node.
#[derive(Debug)]
pub(crate) struct Local {
    pub(crate) key: Key,
    state: Mutex<LocalState>,
}

/// What is under the mutex.
#[derive(Debug)]
pub(crate) struct LocalState {
    wait_queue: WaitQueue<LocalGrant, LockError>,
    /// The waiter that does not want to wait; it is alone in the queue, or the first.
    trying: Option<WaiterId>,
    lease: Lease,
    /// How many handles and guards there are.
    handles: usize,
    /// The driver has been told to come by, and has not come yet.
    is_called: bool,
    /// The driver has something of it, or will have.
    is_known: bool,
    is_closed: bool,
    /// What was seen of the register when somebody last asked, and since when that is so.
    sighted: Option<(Mark, Time)>,
}

/// What stands still if the holder is dead: who it is, and its heartbeat.
type Mark = (Option<ClaimId>, u64);

/// Where the lease is.
#[derive(Debug)]
enum Lease {
    /// Not here, as far as is known.
    Away,
    Here(Here),
    /// It is being given back; `told`: the state machine knows.
    Leaving {
        held_lease: Arc<HeldLease>,
        told: bool,
    },
}

/// The lease is here.
#[derive(Debug)]
struct Here {
    held_lease: Arc<HeldLease>,
    /// Who uses it: whoever was granted it, even before it has looked.
    user: Option<WaiterId>,
    /// Nobody has used it yet.
    is_new: bool,
    via: AcquiredVia,
    since: Time,
    /// Since when it is with its present user.
    used: Time,
    /// Who may have it next.
    turn: Turn,
    /// The next one to join warns the first in the queue: see [`LocalState::prewake`].
    prewake: bool,
    /// The last write of the lease: its version, how many tokens were made of it, and when.
    version: Version,
    tokens: u32,
    written: Time,
    refresh: Refresh,
    /// How often it was passed on.
    local_handoffs: u32,
    /// Whether other nodes wait, as of the last write.
    others_wait: bool,
}

/// A renewal before its time, to get new tokens and to learn whether others wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refresh {
    Not,
    Asked,
    /// The state machine knows.
    Told,
}

/// What a waiter gets.
#[derive(Debug)]
pub(crate) struct LocalGrant {
    pub(crate) held_lease: Arc<HeldLease>,
    pub(crate) waiter_id: WaiterId,
    pub(crate) token: FencingToken,
    pub(crate) via: AcquiredVia,
}

/// What a change asks of whoever made it, once the mutex is let go.
#[derive(Debug, Default)]
#[must_use]
pub(crate) struct After {
    /// Wake the one that was granted.
    waker: Option<Waker>,
    /// Wake the next one, which is granted nothing yet.
    prewoken: Option<Waker>,
    /// Tell the driver to come by.
    call: bool,
    /// It was handed off to another local one.
    pub(crate) handed_off: bool,
}

impl Local {
    pub(crate) fn new(key: Key, is_closed: bool) -> Self {
        let state = LocalState {
            wait_queue: WaitQueue::new(),
            trying: None,
            lease: Lease::Away,
            handles: 0,
            is_called: false,
            is_known: false,
            is_closed,
            sighted: None,
        };
        Self { key, state: Mutex::new(state) }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, LocalState> {
        self.state.lock()
    }

    /// Changes the state, then does what the change asks for.
    pub(crate) fn change(
        self: &Arc<Self>,
        core: &NodeShared,
        change: impl FnOnce(&mut LocalState) -> After,
    ) -> bool {
        let After { waker, prewoken, call, handed_off } = {
            let mut state = self.state.lock();
            let mut after = change(&mut state);
            after.call = after.call && !std::mem::replace(&mut state.is_called, true);
            state.is_known |= after.call;
            after
        };
        // Before the waker, which is not ours, and may panic.
        if call {
            core.run_queue.call(self.clone());
        }
        waker.into_iter().chain(prewoken).for_each(Waker::wake);
        handed_off
    }

    /// Nothing is granted any more. Whether the driver has to come by.
    pub(crate) fn close(&self, error: &LockError) -> bool {
        let mut state = self.state.lock();
        state.is_closed = true;
        let mut wakers = state.wait_queue.fail_all(error);
        match std::mem::replace(&mut state.lease, Lease::Away) {
            Lease::Here(here) => {
                // Under the mutex: the driver may give it back as soon as that is let go.
                wakers.extend(here.held_lease.mark_lost(NodeShared::CLOSED));
                state.lease = Lease::Leaving { held_lease: here.held_lease, told: false };
            }
            other => state.lease = other,
        }
        let call = !std::mem::replace(&mut state.is_called, true);
        state.is_known = true;
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        call
    }

    /// There is no driver any more: who waits for a release will not hear more.
    pub(crate) fn abandon(&self) {
        let lease = std::mem::replace(&mut self.state.lock().lease, Lease::Away);
        match lease {
            Lease::Away => {}
            Lease::Here(Here { held_lease, .. }) => held_lease.lose(NodeShared::CLOSED),
            Lease::Leaving { held_lease, .. } => held_lease.conclude(Outcome::Indeterminate),
        }
    }

    /// The register granted the lease to this node.
    pub(crate) fn granted(self: &Arc<Self>, core: &NodeShared, grant: Grant, now: Time) {
        self.change(core, |state| {
            state.lease = Lease::Here(Here {
                held_lease: Arc::new(HeldLease::new(grant.deadline)),
                user: None,
                is_new: true,
                via: grant.via.into(),
                since: now,
                used: now,
                turn: Turn::new(now),
                prewake: false,
                version: grant.version,
                tokens: 0,
                written: now,
                refresh: Refresh::Not,
                local_handoffs: 0,
                others_wait: false,
            });
            if state.is_closed { state.begin_release() } else { state.settle(core) }
        });
    }

    /// The lease was renewed. False if it was seen to be over, and has to be given back.
    pub(crate) fn renewed(
        self: &Arc<Self>,
        core: &NodeShared,
        version: Version,
        deadline: Time,
    ) -> bool {
        let mut goes_on = true;
        self.change(core, |state| {
            let Lease::Here(here) = &mut state.lease else { return After::default() };
            if !here.held_lease.extend(deadline, &core.clock) {
                goes_on = false;
                return After::default();
            }
            (here.version, here.tokens, here.refresh) = (version, 0, Refresh::Not);
            here.written = core.clock.now();
            if here.user.is_none() { state.settle(core) } else { After::default() }
        });
        goes_on
    }

    /// The lease is not here any more, and nobody gave it back. Whether it was held up to then, if
    /// anybody ever had it.
    pub(crate) fn lost(self: &Arc<Self>, core: &NodeShared, why: LossReason) -> Option<bool> {
        let mut gone = None;
        self.change(core, |state| {
            gone = match std::mem::replace(&mut state.lease, Lease::Away) {
                Lease::Here(here) => Some((here.held_lease, true)),
                Lease::Leaving { held_lease, .. } => Some((held_lease, false)),
                Lease::Away => None,
            };
            After { call: true, ..After::default() }
        });
        let (held_lease, was_held) = gone?;
        held_lease.lose(why);
        if !was_held {
            held_lease.conclude(Outcome::Lost);
        }
        held_lease.is_used().then_some(was_held)
    }

    /// It was given back.
    ///
    /// Whether anybody had it.
    pub(crate) fn released(self: &Arc<Self>, core: &NodeShared, outcome: Outcome) -> bool {
        let mut gone = None;
        self.change(core, |state| {
            if let Lease::Leaving { told: true, .. } = state.lease
                && let Lease::Leaving { held_lease, .. } =
                    std::mem::replace(&mut state.lease, Lease::Away)
            {
                gone = Some(held_lease);
            }
            After { call: !state.wait_queue.is_empty(), ..After::default() }
        });
        let Some(held_lease) = gone else { return false };
        held_lease.conclude(outcome);
        held_lease.is_used()
    }

    /// The intent is over: tells those who wait, or the one that only tries.
    pub(crate) fn failed(&self, error: &LockError, intent: Intent) {
        let mut state = self.state.lock();
        let wakers = if intent == Intent::Try {
            let is_trying = state.trying.is_some() && state.wait_queue.first() == state.trying;
            if is_trying {
                state.wait_queue.fail_first(error.clone()).into_iter().collect()
            } else {
                vec![]
            }
        } else {
            state.wait_queue.fail_all(error)
        };
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }
}

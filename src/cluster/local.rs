//! Where the tasks and threads of one node meet that want the same key.
//!
//! They stand in one [`Line`], the first come first. One lease at a time is at this node
//! ([`Lease::Here`]), and one of them at most uses it. Whoever gives it back hands it to the next in
//! line with no message to anybody, or leaves it for a moment to whoever comes first ([`barging`]), as
//! long as the bounds allow ([`State::settle`]); otherwise the driver gives it back to the engine.
//!
//! All of that is under one mutex, which is held for some tens of instructions and never while
//! anything is called that is not ours. The driver is told nothing but that it should come by: what
//! it is to do it reads from the state ([`State::next_event`]).

use super::core::Core;
use super::error::LockError;
use super::guard::{LossReason, Way};
use super::key::Key;
use super::protocol::{Grant, Outcome, Wish};
use super::register::Attempt;
use super::time::Time;
use super::token::FencingToken;
use super::transport::Version;
use crate::{Mutex, MutexGuard};
use std::sync::Arc;
use std::task::Waker;

// A handle of a key, and waiting at it.
mod handle;
// Overtaking those who wait.
mod barging;
// Who waits.
mod line;
// Who gets the lease next.
mod state;
// One stay of a lease at this node.
mod tenure;

use barging::Turn;
pub(crate) use handle::{Acquire, Handle, Kind};
use line::Line;
pub(crate) use line::Ticket;
pub(crate) use tenure::Tenure;

/// One key at this node.
#[derive(Debug)]
pub(crate) struct Local {
    pub(crate) key: Key,
    state: Mutex<State>,
}

/// What is under the mutex.
#[derive(Debug)]
pub(crate) struct State {
    line: Line<LocalGrant, LockError>,
    /// The waiter that does not want to wait; it is alone in the line, or the first.
    trying: Option<Ticket>,
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

/// What stands still if the holder is dead: who it is, and its beat.
type Mark = (Option<Attempt>, u64);

/// Where the lease is.
#[derive(Debug)]
enum Lease {
    /// Not here, as far as is known.
    Away,
    Here(Here),
    /// It is being given back; `told`: the state machine knows.
    Leaving {
        tenure: Arc<Tenure>,
        told: bool,
    },
}

/// The lease is here.
#[derive(Debug)]
struct Here {
    tenure: Arc<Tenure>,
    /// Who uses it: whoever was granted it, even before it has looked.
    user: Option<Ticket>,
    /// Nobody has used it yet.
    is_new: bool,
    way: Way,
    since: Time,
    /// Since when it is with its present user.
    used: Time,
    /// Who may have it next.
    turn: Turn,
    /// The next one to join warns the first in line: see [`State::forewarn`].
    forewarn: bool,
    /// The last write of the lease: its version, how many tokens were made of it, and when.
    version: Version,
    tokens: u32,
    written: Time,
    refresh: Refresh,
    /// How often it was passed on.
    handovers: u32,
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
    pub(crate) tenure: Arc<Tenure>,
    pub(crate) ticket: Ticket,
    pub(crate) token: FencingToken,
    pub(crate) way: Way,
}

/// What a change asks of whoever made it, once the mutex is let go.
#[derive(Debug, Default)]
#[must_use]
pub(crate) struct After {
    /// Wake the one that was granted.
    waker: Option<Waker>,
    /// Wake the next one, which is granted nothing yet.
    forewarned: Option<Waker>,
    /// Tell the driver to come by.
    call: bool,
    /// It was handed over to another local one.
    pub(crate) handed_over: bool,
}

impl Local {
    pub(crate) fn new(key: Key, is_closed: bool) -> Self {
        let state = State {
            line: Line::new(),
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

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Changes the state, then does what the change asks for.
    pub(crate) fn change(
        self: &Arc<Self>,
        core: &Core,
        change: impl FnOnce(&mut State) -> After,
    ) -> bool {
        let After { waker, forewarned, call, handed_over } = {
            let mut state = self.state.lock();
            let mut after = change(&mut state);
            after.call = after.call && !std::mem::replace(&mut state.is_called, true);
            state.is_known |= after.call;
            after
        };
        // Before the waker, which is not ours, and may panic.
        if call {
            core.mailbox.call(self.clone());
        }
        waker.into_iter().chain(forewarned).for_each(Waker::wake);
        handed_over
    }

    /// Nothing is granted any more. Whether the driver has to come by.
    pub(crate) fn close(&self, error: &LockError) -> bool {
        let mut state = self.state.lock();
        state.is_closed = true;
        let mut wakers = state.line.fail_all(error);
        match std::mem::replace(&mut state.lease, Lease::Away) {
            Lease::Here(here) => {
                // Under the mutex: the driver may give it back as soon as that is let go.
                wakers.extend(here.tenure.mark_lost(Core::CLOSED));
                state.lease = Lease::Leaving { tenure: here.tenure, told: false };
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
            Lease::Here(Here { tenure, .. }) => tenure.lose(Core::CLOSED),
            Lease::Leaving { tenure, .. } => tenure.conclude(Outcome::InDoubt),
        }
    }

    /// The register granted the lease to this node.
    pub(crate) fn granted(self: &Arc<Self>, core: &Core, grant: Grant, now: Time) {
        self.change(core, |state| {
            state.lease = Lease::Here(Here {
                tenure: Arc::new(Tenure::new(grant.deadline)),
                user: None,
                is_new: true,
                way: grant.way.into(),
                since: now,
                used: now,
                turn: Turn::new(now),
                forewarn: false,
                version: grant.version,
                tokens: 0,
                written: now,
                refresh: Refresh::Not,
                handovers: 0,
                others_wait: false,
            });
            if state.is_closed { state.begin_release() } else { state.settle(core) }
        });
    }

    /// The lease was renewed. False if it was seen to be over, and has to be given back.
    pub(crate) fn renewed(self: &Arc<Self>, core: &Core, version: Version, deadline: Time) -> bool {
        let mut goes_on = true;
        self.change(core, |state| {
            let Lease::Here(here) = &mut state.lease else { return After::default() };
            if !here.tenure.extend(deadline, &core.clock) {
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
    pub(crate) fn lost(self: &Arc<Self>, core: &Core, why: LossReason) -> Option<bool> {
        let mut gone = None;
        self.change(core, |state| {
            gone = match std::mem::replace(&mut state.lease, Lease::Away) {
                Lease::Here(here) => Some((here.tenure, true)),
                Lease::Leaving { tenure, .. } => Some((tenure, false)),
                Lease::Away => None,
            };
            After { call: true, ..After::default() }
        });
        let (tenure, was_held) = gone?;
        tenure.lose(why);
        if !was_held {
            tenure.conclude(Outcome::Lost);
        }
        tenure.is_used().then_some(was_held)
    }

    /// It was given back.
    ///
    /// Whether anybody had it.
    pub(crate) fn released(self: &Arc<Self>, core: &Core, outcome: Outcome) -> bool {
        let mut gone = None;
        self.change(core, |state| {
            if let Lease::Leaving { told: true, .. } = state.lease
                && let Lease::Leaving { tenure, .. } =
                    std::mem::replace(&mut state.lease, Lease::Away)
            {
                gone = Some(tenure);
            }
            After { call: !state.line.is_empty(), ..After::default() }
        });
        let Some(tenure) = gone else { return false };
        tenure.conclude(outcome);
        tenure.is_used()
    }

    /// The wish is over: tells those who wait, or the one that only tries.
    pub(crate) fn failed(&self, error: &LockError, wish: Wish) {
        let mut state = self.state.lock();
        let wakers = if wish == Wish::Try {
            let is_trying = state.trying.is_some() && state.line.first() == state.trying;
            if is_trying {
                state.line.fail_first(error.clone()).into_iter().collect()
            } else {
                vec![]
            }
        } else {
            state.line.fail_all(error)
        };
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }
}

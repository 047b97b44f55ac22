//! Overtaking those who wait, for a moment.
//!
//! To hand the lease to a thread costs a wake-up, some microseconds; to take it once more costs some
//! tenths of one. So where a thread is the first in the queue, whoever comes while the lease is here and
//! nobody uses it may have it at once ([`LocalState::barge`]), until the *turn* is over: [`barging_window`]
//! after the lease was last given to the first in the queue. From then on the next release hands it to the
//! first in the queue, and that one's turn begins. Who waits is served in the order of coming, after a turn
//! and a use for each before it and for the one that has it. Uses that take longer than the barging
//! time are handed off in that order each time; and so are those before a task, which a busy runtime
//! wakes in half a microsecond.
//!
//! # No wake-up is lost
//!
//! Who releases need not come back. So it alerts the first in the queue, which takes the lease if that is
//! still open when it looks. What holds whenever the mutex is let go: while the lease is open, the
//! first in the queue is a thread that was woken and has yet to look. If it leaves, the one after it is
//! woken, or, if that is a task, granted the lease.
//!
//! A thread that is awake when it is woken looks at once, and would often be there before the one
//! that has just released. So it leaves the lease to others until that was open for [`GRACE`].
//!
//! *Barging* bounded by *eventual fairness* is what the in-process lock does too (`src/word.rs`), after
//! WebKit's `WTF::Lock` (<https://webkit.org/blog/6161/locking-in-webkit/>) and `parking_lot`. Eight
//! threads that do nothing under the lock, on two processors: 0.6 us for each acquisition, and a wait
//! of 0.3 ms in one of a hundred; in the strict order 6.5 us, and 0.1 ms.
//!
//! [`barging_window`]: crate::cluster::NodeBuilder::barging_time

use super::{After, Here, Lease, LocalGrant, LocalState, WaiterId};
use crate::cluster::builder::Config;
use crate::cluster::error::LockError;
use crate::cluster::node::NodeShared;
use crate::cluster::time::Time;
use crate::cluster::token::FencingToken;
use std::task::{Poll, Waker};
use std::time::Duration;

/// So long a thread that is awake lets others come first: a few times what it takes to come back (0.2
/// us). And so often it looks meanwhile: a clock may stand still.
const GRACE: Duration = Duration::from_micros(1);
const LOOKS: u32 = 100;

/// A turn: what comes after a grant to the first in the queue.
#[derive(Debug)]
pub(super) struct Turn {
    began: Time,
    /// Since when nobody uses the lease, and who comes may have it.
    open: Option<Time>,
    /// How often the first in the queue has looked since then, and left it to others.
    looks: u32,
}

impl Turn {
    pub(super) fn new(now: Time) -> Self {
        Self { began: now, open: None, looks: 0 }
    }

    fn is_over(&self, config: &Config, now: Time) -> bool {
        now.since(self.began) >= config.barging_window
    }
}

impl Here {
    /// It is given back: leaves it to whoever comes first, if the turn is not over.
    pub(super) fn open(&mut self, config: &Config, now: Time) -> bool {
        let has_token = FencingToken::of(self.version, self.tokens).is_some();
        let is_open = !self.is_new && has_token && !self.turn.is_over(config, now);
        (self.turn.open, self.turn.looks) = (is_open.then_some(now), 0);
        is_open
    }
}

impl LocalState {
    /// Who has just come and waits for nobody takes the lease, if it is open.
    pub(super) fn barge(&mut self, core: &NodeShared) -> (Option<LocalGrant>, After) {
        let Lease::Here(here) = &mut self.lease else { return (None, After::default()) };
        if here.turn.open.is_none() {
            return (None, After::default());
        }
        let now = core.clock.now();
        if here.turn.is_over(&core.config, now) || !here.may_pass_on(&core.config, now) {
            return (None, self.settle(core));
        }
        here.turn.open = None;
        let call = here.ask_refresh(&core.config, now);
        let waiter_id = self.wait_queue.waiter_id();
        let grant = here.grant(waiter_id, now);
        (grant, After { call, ..After::default() })
    }

    /// This waiter looks whether it was granted or refused; if the lease is open, and it is the first
    /// in line, it takes it. Its waker, or the one before, is put into `old`.
    pub(super) fn look(
        &mut self,
        core: &NodeShared,
        waiter_id: WaiterId,
        waker: &Waker,
        old: &mut Option<Waker>,
    ) -> (Poll<Result<LocalGrant, LockError>>, After) {
        let mut after = After::default();
        if let Lease::Here(Here { turn, .. }) = &mut self.lease
            && let Some(since) = turn.open
            && self.wait_queue.first() == Some(waiter_id)
        {
            let now = core.clock.now();
            turn.looks += 1;
            let is_early = now.since(since) < GRACE && turn.looks < LOOKS;
            if is_early && !turn.is_over(&core.config, now) {
                // It is woken still, and looks again. The waker is a thread's, and so our own.
                waker.wake_by_ref();
                return (Poll::Pending, after);
            }
            after = self.pass_on(core, now);
            // Its own.
            *old = after.waker.take();
        }
        (self.wait_queue.poll(waiter_id, waker, old), after)
    }
}

#[cfg(test)]
mod tests;

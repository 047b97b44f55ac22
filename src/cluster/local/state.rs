//! Who gets the lease next, and what is wanted of the engine: the rules of a key at this node.

use super::barging::Turn;
use super::{After, HeldLease, Here, Lease, LocalGrant, LocalState, Refresh, WaiterId};
use crate::cluster::builder::Config;
use crate::cluster::guard::AcquiredVia;
use crate::cluster::node::NodeShared;
use crate::cluster::protocol::register::Register;
use crate::cluster::protocol::{Event, Intent};
use crate::cluster::time::Time;
use crate::cluster::token::FencingToken;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

/// A use that is as short as this is over before a thread that waits for its end has stopped to spin.
const SHORT: Duration = Duration::from_micros(30);

impl Here {
    /// Whether the next in the queue may have it, with no message to anybody.
    pub(super) fn may_pass_on(&self, config: &Config, now: Time) -> bool {
        let is_over = self.local_handoffs >= config.local_handoffs
            || now.since(self.since) >= config.local_handoff_window;
        let is_ending = self.held_lease.deadline().since(now) < config.lease / 8;
        config.local_handoffs > 0 && !is_ending && !(self.others_wait && is_over)
    }

    /// Whether it is time to renew it, for new tokens, or to learn whether others wait.
    pub(super) fn wants_refresh(&self, config: &Config, now: Time) -> bool {
        let is_old = now.since(self.written) >= config.local_handoff_window / 2;
        let is_short =
            self.tokens >= (config.local_handoffs / 2).clamp(1, FencingToken::PER_VERSION / 2);
        self.refresh == Refresh::Not && (is_old || is_short)
    }

    /// Asks for a renewal if it is time. Whether the driver has to come by.
    pub(super) fn ask_refresh(&mut self, config: &Config, now: Time) -> bool {
        let asks = !self.is_new && self.wants_refresh(config, now);
        if asks {
            self.refresh = Refresh::Asked;
        }
        asks
    }

    /// Grants it. `None` if there are no tokens left.
    pub(super) fn grant(&mut self, waiter_id: WaiterId, now: Time) -> Option<LocalGrant> {
        let token = FencingToken::of(self.version, self.tokens)?;
        let is_new = std::mem::replace(&mut self.is_new, false);
        let via = if is_new { self.via } else { AcquiredVia::LocalHandoff };
        self.user = Some(waiter_id);
        self.tokens += 1;
        self.prewake = now.since(std::mem::replace(&mut self.used, now)) < SHORT;
        self.local_handoffs = self.local_handoffs.saturating_add(u32::from(!is_new));
        Some(LocalGrant { held_lease: self.held_lease.clone(), waiter_id, token, via })
    }
}

impl LocalState {
    /// The lease is here and nobody uses it: leaves it to whoever comes, or passes it on, or begins to
    /// give it back, or waits for tokens.
    pub(super) fn settle(&mut self, core: &NodeShared) -> After {
        let Lease::Here(here) = &mut self.lease else { return After::default() };
        let now = core.clock.now();
        let may_open = self.wait_queue.is_led_by_thread() && here.may_pass_on(&core.config, now);
        if may_open && here.open(&core.config, now) {
            let waker = self.wait_queue.wake_next();
            return After { waker, handed_off: true, ..After::default() };
        }
        self.pass_on(core, now)
    }

    /// The same, but for whoever comes: the first in the queue is to have it.
    pub(super) fn pass_on(&mut self, core: &NodeShared, now: Time) -> After {
        let Lease::Here(here) = &mut self.lease else { return After::default() };
        let may_stay = here.is_new || here.may_pass_on(&core.config, now);
        let Some(first) = self.wait_queue.first().filter(|_| may_stay) else {
            return self.begin_release();
        };
        let call = here.ask_refresh(&core.config, now);
        // Without tokens it goes to the next in the queue as soon as there are new ones.
        let waker = here.grant(first, now).and_then(|grant| {
            here.turn = Turn::new(now);
            self.wait_queue.grant(|_| grant)
        });
        After { waker, call, handed_off: true, ..After::default() }
    }

    /// Who has just joined as `waiter_id` is about to sleep, and leaves a processor to the next in the queue:
    /// that one is to be woken now, to be awake when its turn comes. Once for each use, and only if
    /// the one before was short.
    pub(super) fn prewake(&mut self, waiter_id: WaiterId) -> Option<Waker> {
        let Lease::Here(here) = &mut self.lease else { return None };
        let is_due = here.prewake && self.wait_queue.first() != Some(waiter_id);
        here.prewake &= !is_due;
        if is_due { self.wait_queue.wake_next() } else { None }
    }

    pub(super) fn begin_release(&mut self) -> After {
        if let Lease::Here(here) = &self.lease {
            self.lease = Lease::Leaving { held_lease: here.held_lease.clone(), told: false };
        }
        After { call: true, ..After::default() }
    }

    /// Whoever was granted `held_lease` by this waiter id does not use it any more.
    pub(super) fn give_back(
        &mut self,
        core: &NodeShared,
        held_lease: &Arc<HeldLease>,
        waiter_id: WaiterId,
    ) -> After {
        match &mut self.lease {
            Lease::Here(here)
                if here.user == Some(waiter_id) && Arc::ptr_eq(&here.held_lease, held_lease) =>
            {
                here.user = None;
                self.settle(core)
            }
            // It was lost, or the node was closed.
            _ => After::default(),
        }
    }

    /// A guard ends: as [`LocalState::give_back`].
    pub(crate) fn end_use(
        &mut self,
        core: &NodeShared,
        held_lease: &Arc<HeldLease>,
        waiter_id: WaiterId,
    ) -> After {
        self.handles -= 1;
        let mut after = self.give_back(core, held_lease, waiter_id);
        after.call |= self.handles == 0;
        after
    }

    /// A waiter, or one that did not have to wait, has fetched what it was granted.
    pub(super) fn fetched(&mut self, grant: &LocalGrant) {
        self.handles += 1;
        grant.held_lease.mark_used();
    }

    /// This waiter does not wait any more: passes on what it was granted, if anything was.
    pub(super) fn leave(
        &mut self,
        core: &NodeShared,
        waiter_id: WaiterId,
        old: &mut Option<Waker>,
    ) -> After {
        self.trying.take_if(|trying| *trying == waiter_id);
        match self.wait_queue.leave(waiter_id, old) {
            Some(grant) => self.give_back(core, &grant.held_lease, waiter_id),
            None => match &self.lease {
                // It waited for tokens, or was to look whether the lease is open.
                Lease::Here(here) if here.user.is_none() => self.settle(core),
                Lease::Here(_) => After::default(),
                _ => After { call: self.wait_queue.is_empty(), ..After::default() },
            },
        }
    }

    /// What is wanted of the engine.
    pub(super) fn intent(&self) -> Intent {
        match self.wait_queue.first() {
            None => Intent::Nothing,
            first if first == self.trying => Intent::Try,
            Some(_) => Intent::Wait,
        }
    }

    /// What the state machine is to be told next, which was last told `told`.
    pub(crate) fn next_event(&mut self, told: Intent) -> Option<Event> {
        self.is_called = false;
        let intent = match self.intent() {
            // Who tries is not to be refused by what was seen for somebody before.
            Intent::Try if told == Intent::Wait => Intent::Nothing,
            intent => intent,
        };
        match &mut self.lease {
            Lease::Here(here) => (here.refresh == Refresh::Asked).then(|| {
                here.refresh = Refresh::Told;
                Event::Refresh
            }),
            Lease::Leaving { told: is_told @ false, .. } if told == intent => {
                *is_told = true;
                Some(Event::Release)
            }
            _ => (told != intent).then_some(Event::Intent(intent)),
        }
    }

    /// The driver has come by, and knows nothing of the key: whether that can stay so.
    pub(crate) fn is_at_rest(&mut self) -> bool {
        let is_at_rest = self.wait_queue.is_empty() && matches!(self.lease, Lease::Away);
        self.is_called &= !is_at_rest;
        is_at_rest
    }

    /// Whether other nodes wait, as of what was last seen of the register.
    pub(crate) fn set_others_wait(&mut self, yes: bool) {
        if let Lease::Here(here) = &mut self.lease {
            here.others_wait = yes;
        }
    }

    /// Somebody has looked at the register. Since when it has been so.
    pub(crate) fn sighted(&mut self, register: &Register, now: Time) -> Time {
        let mark = (register.holder.as_ref().map(|holder| holder.claim), register.heartbeat);
        let since = match self.sighted {
            Some((before, since)) if before == mark => since,
            _ => now,
        };
        self.sighted = Some((mark, since));
        since
    }

    /// Whether the node was closed.
    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Whether it is unused, and the driver was never called for it.
    pub(crate) fn is_unknown(&self) -> bool {
        self.is_unused() && !self.is_known
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> usize {
        self.wait_queue.len()
    }

    /// Whether the key can be forgotten.
    pub(crate) fn is_unused(&self) -> bool {
        self.handles == 0 && matches!(self.lease, Lease::Away) && self.wait_queue.is_deserted()
    }
}

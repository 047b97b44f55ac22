//! The rules of one key at one node: which waiter gets the lease next, and what the driver asks of the
//! engine.
//!
//! All of this is pure but for a reading of the clock now and then: nothing waits, and nothing is called
//! that is not in this module. What has to happen outside of the mutex is returned as [`Effects`]. The
//! time `now` was read before the mutex was locked, which is often contended.
//!
//! # Barging
//!
//! To grant the lease to a waiting thread costs a wake-up of several microseconds. A thread that is
//! awake takes an available lease in some tenths of a microsecond. So while a thread is first in the
//! queue, a caller that arrives when nobody uses the lease may take it at once, before the waiters
//! ([`LocalKeyState::barge`]). That is allowed for the time of [`barging_window`], counted from the last
//! grant to the first waiter ([`BargingPeriod`]). The first release after that time grants the lease to
//! the first waiter, and a new period begins. So a waiter waits at most for one period and one use for
//! each waiter before it, and for the present use. Uses that are longer than the window are granted in
//! the order of the queue each time. So are all uses while a task is first in the queue, since a busy
//! runtime wakes a task in half a microsecond.
//!
//! A thread that spins polls at once when it is woken, and would often come before the thread that
//! has just released the lease. So it leaves the lease to others until that has been available for
//! [`GRACE`].
//!
//! Bounded *barging* with *eventual fairness* is what the in-process lock does too (`src/raw/mod.rs`), after
//! WebKit's `WTF::Lock` (<https://webkit.org/blog/6161/locking-in-webkit/>) and `parking_lot`. With
//! eight threads that do nothing under the lock, on two processors, an acquisition takes 0.6 us, and one
//! wait in a hundred is longer than 0.3 ms. In strict order it takes 6.5 us, and the wait is 0.1 ms.
//!
//! # Kept turns
//!
//! If the settings say so ([`keep_turn`]), a lease without a user and without a waiter stays at the node for the
//! next caller until a moment that counts from when the node got it ([`LocalKeyState::keep`]). At that moment,
//! or at the first release after it, the lease goes to the engine. A caller that it does not suit has it
//! released, and waits. While the lease is kept, nobody is in the queue: an absent waiter that comes back gets
//! the lease at once.
//!
//! # No wake-up is lost
//!
//! The thread that releases the lease need not come back, so a lease that is left available needs a
//! waiter that will look at it. The invariant, whenever the mutex is released, is this: *while the lease
//! is available (which a kept one is not), the first waiter is a thread that was woken and has not polled since.* It is kept by
//! each change that could break it:
//!
//! - The lease becomes available only in [`LocalKeyState::reassign_lease`], and only if a thread is
//!   first in the queue. The same call wakes that thread, unless it was woken before and has not
//!   polled since.
//! - The first waiter polls ([`LocalKeyState::poll_waiter`]): it takes the lease, or leaves it to
//!   others for a moment and wakes itself.
//! - The first waiter leaves ([`LocalKeyState::leave`]): the lease is reassigned. That wakes the next
//!   waiter, or grants to it if it is a task, or releases the lease if there is none.
//! - A caller barges: the lease is not available any more.
//!
//! Waiters join at the end of the queue, so a waiter that joins does not become the first one while
//! another waits; and it barges, if the lease is available, instead of joining an empty queue. An absent
//! waiter that comes back may become the first one: if the lease is available, it gets it at once.
//!
//! # Users that do nothing
//!
//! A waiter that was granted the lease may never poll: its future is kept by code that polls no more, or
//! its thread is stopped. It must not keep the lock from others. So the driver looks at the user at a
//! moment that is part of the state ([`LocalLease::check_at`], [`LocalKeyState::check_user`]). A grant
//! that was not taken for a claim window is taken back if others wait, at this node or at another one; at
//! the timeout of its waiter it is taken back in any case. While none is known to wait, the check renews
//! the lease ahead of time, which shows whether another node waits. The waiter keeps its place: see
//! [`WaitQueue`]. The same check ends a use whose limit has passed ([`HoldLimits`]).
//!
//! The moment is set once for each claim window and not for each grant, so that a busy key costs the
//! driver two polls in a claim window.
//!
//! [`barging_window`]: crate::cluster::NodeBuilder::barging_window
//! [`keep_turn`]: crate::cluster::NodeBuilder::keep_turn

use super::{GuardLimit, HeldLease, HoldLimits, Use, WaitQueue, WaiterId, WaiterTerms};
use crate::cluster::builder::Config;
use crate::cluster::error::LockError;
use crate::cluster::fence::FencingToken;
use crate::cluster::guard::AcquiredVia;
use crate::cluster::health::Health;
use crate::cluster::node::NodeShared;
use crate::cluster::protocol::{EngineStatus, Event, Grant, Intent, Publication, Time};
use crate::cluster::transport::Version;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

/// A use that is shorter than this ends before a thread that waits for its end has stopped spinning.
const SHORT_USE: Duration = Duration::from_micros(30);

/// For this long after a release, a waiting thread that is awake leaves the lease to others. It is a
/// few times what the releasing thread takes to come back (0.2 us).
const GRACE: Duration = Duration::from_micros(1);

/// A waiting thread leaves the lease to others this often at most: the clock may stand still.
const MAX_DEFERRALS: u32 = 100;

/// The state of one key at one node: what the mutex of [`LocalKey`](super::LocalKey) protects.
#[derive(Debug)]
pub(crate) struct LocalKeyState {
    pub(super) wait_queue: WaitQueue<LocalGrant, LockError>,
    /// The waiter that only tries, and its intent. If it has no result yet, it is the first in the
    /// queue.
    pub(super) trying: Option<(WaiterId, Intent)>,
    /// The waiter for which the state machine was told to try.
    tries_as_told: Option<WaiterId>,
    /// The waiter that drives the key at this moment, and looks for its grant right after that: that
    /// grant is not left untaken.
    pub(super) driving: Option<WaiterId>,
    pub(super) lease: LeaseState,
    /// The number of handles and guards.
    pub(super) handles: usize,
    /// The key is in the run queue.
    is_scheduled: bool,
    /// The key has been in the run queue.
    was_scheduled: bool,
    pub(super) is_closed: bool,
    /// The lease was present when the node was closed, and what became of it is not reported yet.
    was_held_at_close: bool,
    /// What the engine has last said of this key.
    engine: EngineStatus,
}

/// Whether this node has the lease of the key.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a key has one, and it stays where it is")]
pub(super) enum LeaseState {
    /// No, as far as the node knows.
    Absent,
    Present(LocalLease),
    /// It is being released.
    Releasing {
        held_lease: Arc<HeldLease>,
        /// The state machine was told.
        is_requested: bool,
    },
}

/// A lease that this node has, and its present user.
#[derive(Debug)]
pub(super) struct LocalLease {
    pub(super) held_lease: Arc<HeldLease>,
    /// The waiter that was granted the lease, even if it has not taken the grant yet.
    pub(super) user: Option<WaiterId>,
    /// The limit of the user's guard, if it has one.
    pub(super) limit: Option<Arc<GuardLimit>>,
    /// When the driver looks at the user, if it does: see [`LocalKeyState::check_user`].
    check_at: Option<Time>,
    /// Whether the user wants the lease to be renewed, and what the state machine was told.
    renews: bool,
    renews_as_told: bool,
    /// It has had no user yet.
    is_new: bool,
    /// It is the short lease of a node that was handed the lock, until its first renewal.
    is_short: bool,
    /// How the node got it.
    via: AcquiredVia,
    /// When the node got it.
    acquired_at: Time,
    /// When the present user got it.
    granted_at: Time,
    barging: BargingPeriod,
    /// It has no user and no waiter, and stays for the next caller until this moment.
    kept_until: Option<Time>,
    /// The next waiter that joins wakes the first one: see [`LocalKeyState::prewake`].
    may_prewake: bool,
    /// The version of the last write of the lease, the number of tokens made of it, and the moment
    /// at which the node learnt of it.
    version: Version,
    tokens: u32,
    written_at: Time,
    refresh: RefreshState,
    /// What its user publishes, the number of that which the state machine was told, and of that which is written.
    publication: Publication,
    publication_as_told: u64,
    publication_written: u64,
    /// The register may have a value.
    may_show_value: bool,
    /// How often it was handed off at this node.
    local_handoffs: u32,
    /// Whether other nodes wait, as of the last write.
    others_wait: bool,
}

/// A renewal ahead of time, to get new tokens and to learn whether other nodes wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RefreshState {
    NotNeeded,
    Wanted,
    /// The state machine was told.
    Requested,
}

/// The time after a grant to the first waiter, in which others may take the lease before the next
/// waiter.
#[derive(Debug)]
struct BargingPeriod {
    began: Time,
    /// Since when the lease is available to callers that arrive; `None` if it is not.
    available_since: Option<Time>,
    /// How often the first waiter has polled since then, and has left the lease to others.
    deferrals: u32,
}

/// What a waiter gets.
#[derive(Debug)]
pub(crate) struct LocalGrant {
    pub(crate) held_lease: Arc<HeldLease>,
    pub(crate) waiter_id: WaiterId,
    pub(crate) own_use: Use,
    pub(crate) via: AcquiredVia,
    /// It is set when the grant becomes a guard.
    pub(crate) limit: Option<Arc<GuardLimit>>,
}

/// A lease and the limit of its guard, which has passed.
pub(super) type OverLimit = (Arc<HeldLease>, Arc<GuardLimit>);

/// What has to be done after a change of the state, once the mutex is released.
#[derive(Debug, Default)]
#[must_use]
pub(crate) struct Effects {
    /// Wake the waiter that got a grant, or that is to look at an available lease.
    pub(super) waker: Option<Waker>,
    /// Wake the first waiter, which has got nothing yet.
    pub(super) prewaker: Option<Waker>,
    /// Put the key into the run queue.
    pub(super) schedule: bool,
    /// The lease stays at this node, for one of its waiters.
    pub(super) handed_off: bool,
}

impl BargingPeriod {
    fn new(now: Time) -> Self {
        Self { began: now, available_since: None, deferrals: 0 }
    }

    fn is_over(&self, config: &Config, now: Time) -> bool {
        now.since(self.began) >= config.barging_window
    }
}

impl LocalLease {
    fn new(grant: &Grant, now: Time) -> Self {
        Self {
            held_lease: Arc::new(HeldLease::new(grant.deadline)),
            user: None,
            limit: None,
            check_at: None,
            renews: true,
            renews_as_told: true,
            is_new: true,
            is_short: grant.is_short,
            via: grant.via.into(),
            acquired_at: now,
            granted_at: now,
            barging: BargingPeriod::new(now),
            kept_until: None,
            may_prewake: false,
            version: grant.version,
            tokens: 0,
            written_at: now,
            refresh: RefreshState::NotNeeded,
            publication: Publication::default(),
            publication_as_told: 0,
            publication_written: 0,
            may_show_value: false,
            local_handoffs: 0,
            others_wait: false,
        }
    }

    /// Has the user's value written in place of the one before. Returns its number.
    fn publish(&mut self, value: Option<Arc<str>>) -> u64 {
        self.may_show_value |= value.is_some();
        self.publication = Publication { number: self.publication.number + 1, value };
        self.publication.number
    }

    /// It has no user any more. What that has published is removed.
    fn end_user(&mut self) {
        (self.user, self.limit) = (None, None);
        if self.publication.value.is_some() {
            self.publish(None);
        }
    }

    /// Whether the state machine does not know all that its user wants.
    fn must_tell(&self) -> bool {
        self.renews != self.renews_as_told || self.publication.number != self.publication_as_told
    }

    /// Whether the settings allow that a waiter of this node gets the lease without a message.
    fn may_hand_off(&self, config: &Config, now: Time) -> bool {
        let is_over = self.local_handoffs >= config.local_handoffs
            || now.since(self.acquired_at) >= config.local_handoff_window;
        let deadline = self.held_lease.deadline();
        let whole = deadline.since(self.written_at);
        let is_ending = deadline.since(now) < whole.min(config.lease) / 8;
        config.local_handoffs > 0 && !is_ending && !(self.others_wait && is_over)
    }

    /// Whether it is time for a renewal, to get new tokens or to learn whether other nodes wait.
    fn needs_refresh(&self, config: &Config, now: Time) -> bool {
        let is_old = now.since(self.written_at) >= config.local_handoff_window / 2;
        let is_short =
            self.tokens >= (config.local_handoffs / 2).clamp(1, FencingToken::PER_VERSION / 2);
        self.refresh == RefreshState::NotNeeded && self.renews && (is_old || is_short)
    }

    /// Marks a renewal as wanted if it is time for one. Returns whether it did: then the key has to
    /// be scheduled.
    fn want_refresh(&mut self, config: &Config, now: Time) -> bool {
        let is_wanted = !self.is_new && self.needs_refresh(config, now);
        if is_wanted {
            self.refresh = RefreshState::Wanted;
        }
        is_wanted
    }

    /// Has the driver look at the user at `at`, if it does not look before. Returns whether the driver
    /// has to be told.
    fn check_by(&mut self, at: Time) -> bool {
        let is_earlier = self.check_at.is_none_or(|before| at < before);
        if is_earlier {
            self.check_at = Some(at);
        }
        is_earlier
    }

    /// Makes this waiter the user. `None` if no token is left.
    fn grant(&mut self, waiter_id: WaiterId, now: Time) -> Option<LocalGrant> {
        let token = FencingToken::of(self.version, self.tokens)?;
        let is_new = std::mem::replace(&mut self.is_new, false);
        let via = if is_new { self.via } else { AcquiredVia::LocalHandoff };
        (self.user, self.limit, self.renews) = (Some(waiter_id), None, true);
        self.tokens += 1;
        self.may_prewake = now.since(std::mem::replace(&mut self.granted_at, now)) < SHORT_USE;
        self.local_handoffs = self.local_handoffs.saturating_add(u32::from(!is_new));
        let held_lease = self.held_lease.clone();
        let own_use = Use::new(token, now);
        Some(LocalGrant { held_lease, waiter_id, own_use, via, limit: None })
    }

    /// Makes the lease available to callers that arrive, if the barging period is not over. Returns
    /// whether it did.
    fn make_available(&mut self, config: &Config, now: Time) -> bool {
        let has_token = FencingToken::of(self.version, self.tokens).is_some();
        let is_available = !self.is_new && has_token && !self.barging.is_over(config, now);
        self.barging.available_since = is_available.then_some(now);
        self.barging.deferrals = 0;
        if is_available {
            self.kept_until = None;
        }
        is_available
    }

    /// Until when it may stay without a user. `None` if it may not.
    fn may_be_kept(&self, config: &Config, now: Time) -> Option<Time> {
        let until = self.acquired_at + config.keep_turn;
        let has_token = FencingToken::of(self.version, self.tokens).is_some();
        // Without a token the renewal that is under way grants to the next caller.
        let has_token = has_token || self.refresh != RefreshState::NotNeeded;
        // Nobody shall be taken for a leader who is none any more.
        let may_stay = has_token && self.renews && !self.may_show_value;
        let may_stay = may_stay && self.may_hand_off(config, now);
        (may_stay && now < until).then_some(until)
    }

    /// The lease was renewed by the write of this version.
    pub(super) fn renewed(&mut self, version: Version, published: Option<u64>, now: Time) {
        if let Some(published) = published {
            self.publication_written = published;
            self.may_show_value = self.publication.value.is_some();
        }
        (self.version, self.tokens, self.refresh) = (version, 0, RefreshState::NotNeeded);
        (self.written_at, self.is_short) = (now, false);
    }
}

impl Effects {
    /// Whether the lease stays at this node.
    pub(crate) fn is_handed_off(&self) -> bool {
        self.handed_off
    }

    /// The driver has to poll the key.
    pub(crate) fn schedule() -> Self {
        Self { schedule: true, ..Self::default() }
    }
}

impl LocalKeyState {
    pub(super) fn new(is_closed: bool) -> Self {
        Self {
            wait_queue: WaitQueue::new(),
            trying: None,
            tries_as_told: None,
            driving: None,
            lease: LeaseState::Absent,
            handles: 0,
            is_scheduled: false,
            was_scheduled: false,
            is_closed,
            was_held_at_close: false,
            engine: EngineStatus::default(),
        }
    }

    /// For the simulator: gives `copy` the lease that this one has, with its deadline, in use by the guard
    /// that has this token.
    #[cfg(test)]
    pub(super) fn copy_lease(
        &self,
        copy: &mut LocalKeyState,
        token: FencingToken,
    ) -> Option<LocalGrant> {
        let LeaseState::Present(lease) = &self.lease else { return None };
        let held_lease = Arc::new(HeldLease::new(lease.held_lease.deadline()));
        let (via, waiter_id) = (lease.via, copy.wait_queue.waiter_id());
        let own_use = Use::new(token, lease.granted_at);
        copy.lease = LeaseState::Present(LocalLease {
            held_lease: held_lease.clone(),
            user: Some(waiter_id),
            limit: lease
                .limit
                .as_ref()
                .map(|limit| Arc::new(GuardLimit::new(limit.at, own_use.clone()))),
            is_new: false,
            barging: BargingPeriod::new(lease.granted_at),
            refresh: RefreshState::NotNeeded,
            publication: lease.publication.clone(),
            ..*lease
        });
        copy.handles += 1;
        held_lease.mark_used(own_use.clone());
        Some(LocalGrant { held_lease, waiter_id, own_use, via, limit: None })
    }

    /// The register granted the lease to this node.
    pub(super) fn granted(&mut self, shared: &NodeShared, grant: &Grant, now: Time) -> Effects {
        self.lease = LeaseState::Present(LocalLease::new(grant, now));
        if self.is_closed { self.begin_release() } else { self.reassign_lease(shared, now) }
    }

    /// Decides what becomes of a lease that is here and has no user. It is left available to callers
    /// that arrive, or granted to the first waiter, or released. Without a token it waits for a
    /// renewal.
    pub(super) fn reassign_lease(&mut self, shared: &NodeShared, now: Time) -> Effects {
        let LeaseState::Present(lease) = &mut self.lease else { return Effects::default() };
        self.wait_queue.pass_over_late(now);
        let may_barge =
            self.wait_queue.is_led_by_thread() && lease.may_hand_off(&shared.config, now);
        if may_barge && lease.make_available(&shared.config, now) {
            let waker = self.wait_queue.wake_next();
            let schedule = lease.check_by(now + shared.config.claim_window) || lease.must_tell();
            return Effects { waker, schedule, handed_off: true, ..Effects::default() };
        }
        self.grant_first(shared, now)
    }

    /// As [`LocalKeyState::reassign_lease`], but the lease is not left available.
    fn grant_first(&mut self, shared: &NodeShared, now: Time) -> Effects {
        let LeaseState::Present(lease) = &mut self.lease else { return Effects::default() };
        self.wait_queue.pass_over_late(now);
        let terms = self.wait_queue.first_terms().unwrap_or_default();
        // Who wants a lease of its own does not take over one that is in use.
        let may_stay =
            lease.is_new || !terms.without_renewal && lease.may_hand_off(&shared.config, now);
        let was_kept = lease.kept_until.take().is_some();
        let Some(first) = self.wait_queue.first().filter(|_| may_stay) else {
            return self.keep(shared, was_kept, now).unwrap_or_else(|| self.begin_release());
        };
        if terms.without_renewal && lease.is_short {
            // The first renewal makes it a whole lease, and grants it.
            lease.refresh = RefreshState::Wanted;
            return Effects::schedule();
        }
        let mut schedule = lease.want_refresh(&shared.config, now);
        // Without a token, the renewal grants the lease.
        let waker = lease.grant(first, now).and_then(|grant| {
            lease.barging = BargingPeriod::new(now);
            lease.renews = !terms.without_renewal;
            if self.driving != Some(first) {
                let check_at = now + shared.config.claim_window;
                let check_at = terms.gives_up_at.map_or(check_at, |at| at.min(check_at));
                schedule |= lease.check_by(check_at);
            }
            schedule |= lease.must_tell();
            self.wait_queue.grant(|_| grant)
        });
        Effects { waker, schedule, handed_off: true, ..Effects::default() }
    }

    /// The lease has no user. If nobody waits for it, it stays for the next caller, if the settings allow that.
    /// It is kept after a guard only, and not after one whose limit has passed: others get it at once then.
    fn keep(&mut self, shared: &NodeShared, was_kept: bool, now: Time) -> Option<Effects> {
        let LeaseState::Present(lease) = &mut self.lease else { return None };
        let may_be = self.wait_queue.is_empty() && (was_kept || lease.held_lease.is_used());
        let until = lease.may_be_kept(&shared.config, now).filter(|_| may_be)?;
        (lease.kept_until, lease.barging.available_since) = (Some(until), None);
        // What becomes of it now is no guard's release.
        lease.held_lease.mark_unused();
        // A renewal shows whether another node waits.
        let mut schedule = lease.want_refresh(&shared.config, now);
        let look_at = match lease.refresh {
            RefreshState::NotNeeded => lease.written_at + shared.config.local_handoff_window / 2,
            _ => until,
        };
        schedule |= lease.check_by(until.min(look_at));
        Some(Effects { schedule, handed_off: true, ..Effects::default() })
    }

    /// Whether the lease was given back, or something else has happened, of which the driver does not know yet.
    pub(super) fn owes(&self) -> bool {
        self.is_scheduled || matches!(self.lease, LeaseState::Releasing { .. })
    }

    /// Whether the lease is kept for the next caller, and nobody waits.
    pub(super) fn is_kept(&self) -> bool {
        matches!(&self.lease, LeaseState::Present(lease) if lease.kept_until.is_some())
    }

    /// A caller that has not joined the queue takes the lease, if it is available. It is not available
    /// to one that wants a lease of its own.
    pub(super) fn barge(
        &mut self,
        shared: &NodeShared,
        terms: WaiterTerms,
        now: Time,
    ) -> (Option<LocalGrant>, Effects) {
        let LeaseState::Present(lease) = &mut self.lease else {
            return (None, Effects::default());
        };
        let config = &shared.config;
        if lease.kept_until.is_some() {
            if terms.without_renewal || lease.may_be_kept(config, now).is_none() {
                return (None, self.begin_release());
            }
        } else if lease.barging.available_since.is_none() || terms.without_renewal {
            return (None, Effects::default());
        } else if lease.barging.is_over(config, now) || !lease.may_hand_off(config, now) {
            return (None, self.reassign_lease(shared, now));
        }
        (lease.barging.available_since, lease.kept_until) = (None, None);
        let mut schedule = lease.want_refresh(config, now);
        let waiter_id = self.wait_queue.waiter_id();
        let grant = lease.grant(waiter_id, now);
        schedule |= lease.must_tell();
        (grant, Effects { schedule, ..Effects::default() })
    }

    /// Polls a waiter: takes its result, if there is one. If the waiter is the first and the lease is
    /// available, it gets the lease. A waker of its own that is not needed any more is put into `old`.
    pub(super) fn poll_waiter(
        &mut self,
        shared: &NodeShared,
        waiter_id: WaiterId,
        waker: &Waker,
        old: &mut Option<Waker>,
    ) -> (Poll<Result<LocalGrant, LockError>>, Effects) {
        let mut effects = Effects::default();
        let was_absent = self.wait_queue.rejoin(waiter_id, || shared.clock.now());
        if was_absent && self.is_kept() {
            effects = self.grant_first(shared, shared.clock.now());
        } else if let LeaseState::Present(LocalLease { barging, .. }) = &mut self.lease {
            if let Some(since) = barging.available_since
                && self.wait_queue.first() == Some(waiter_id)
            {
                let now = shared.clock.now();
                barging.deferrals += 1;
                let is_early = now.since(since) < GRACE && barging.deferrals < MAX_DEFERRALS;
                if is_early && !barging.is_over(&shared.config, now) && !was_absent {
                    // It polls again. Only threads come here, so the waker is ours and may be called
                    // under the mutex.
                    waker.wake_by_ref();
                    return (Poll::Pending, effects);
                }
                effects = self.grant_first(shared, now);
            }
        } else {
            effects.schedule |= was_absent;
        }
        let polled = self.wait_queue.poll(waiter_id, waker, old);
        if polled.is_ready() {
            // The waker of this very waiter, if there is one.
            *old = effects.waker.take();
        }
        (polled, effects)
    }

    /// What the driver does at the moment of [`LocalKeyState::check_at`]: it takes back a grant that
    /// was not taken, and ends a use whose limit has passed. In the latter case it returns what was
    /// limited. `busy` makes the error of a waiter that only tries.
    pub(super) fn check_user(
        &mut self,
        shared: &NodeShared,
        now: Time,
        busy: impl FnOnce() -> LockError,
    ) -> (Effects, Option<OverLimit>) {
        let window = shared.config.claim_window;
        let LeaseState::Present(lease) = &mut self.lease else {
            return (Effects::default(), None);
        };
        if lease.check_at.take_if(|at| now >= *at).is_none() {
            return (Effects::default(), None);
        }
        // A lease that has ended before the limit is lost for that reason, by the state machine.
        let deadline = lease.held_lease.deadline();
        if let Some(limit) = lease.limit.take_if(|limit| now >= limit.at && limit.at <= deadline) {
            lease.end_user();
            // The guard is there, but not as a user of the lease.
            lease.held_lease.mark_unused();
            let held_lease = lease.held_lease.clone();
            return (self.reassign_lease(shared, now), Some((held_lease, limit)));
        }
        if lease.kept_until.is_some() {
            return (self.grant_first(shared, now), None);
        }
        let mut check_at = lease.limit.as_ref().map(|limit| limit.at).filter(|at| now < *at);
        let mut schedule = false;
        if let Some(terms) = lease.user.and_then(|user| self.wait_queue.untaken(user)) {
            let is_late = terms.gives_up_at.is_some_and(|at| now >= at);
            let is_old = now.since(lease.granted_at) >= window;
            let others_wait = lease.others_wait || !self.wait_queue.is_empty();
            if is_late || is_old && others_wait {
                self.take_back(busy);
                return (self.reassign_lease(shared, now), None);
            }
            if is_old && lease.refresh == RefreshState::NotNeeded && lease.renews {
                lease.refresh = RefreshState::Wanted;
                schedule = true;
            }
            let again = if is_old { now } else { lease.granted_at } + window;
            check_at = [check_at, terms.gives_up_at, Some(again)].into_iter().flatten().min();
        } else if let Some(since) = lease.barging.available_since {
            if now.since(since) >= window {
                // The thread that was woken does not run.
                self.wait_queue.pass_over_first();
                return (self.reassign_lease(shared, now), None);
            }
            check_at = Some(since + window);
        }
        lease.check_at = check_at;
        (Effects { schedule, ..Effects::default() }, None)
    }

    /// Takes the grant back that the user of the lease has not taken yet, if that is so. The lease then
    /// has no user. `busy` makes the error of a waiter that only tries.
    pub(super) fn take_back(&mut self, busy: impl FnOnce() -> LockError) {
        let LeaseState::Present(lease) = &mut self.lease else { return };
        let Some(user) = lease.user else { return };
        if self.wait_queue.untaken(user).is_none() {
            return;
        }
        let tried = self.trying.take_if(|(trying, _)| *trying == user);
        self.wait_queue.take_back(user, tried.map(|_| busy()));
        lease.user = None;
    }

    /// When the driver has to call [`LocalKeyState::check_user`].
    pub(super) fn check_at(&self) -> Option<Time> {
        match &self.lease {
            LeaseState::Present(lease) => lease.check_at,
            _ => None,
        }
    }

    /// The waiter `joined` is about to sleep and leaves its processor to others: the first waiter is
    /// woken now, so that it is awake when its turn comes. This is done once for each use, and only
    /// if the use before was short.
    pub(super) fn prewake(&mut self, joined: WaiterId) -> Option<Waker> {
        let LeaseState::Present(lease) = &mut self.lease else { return None };
        let is_due = lease.may_prewake && self.wait_queue.first() != Some(joined);
        lease.may_prewake &= !is_due;
        if is_due { self.wait_queue.wake_next() } else { None }
    }

    pub(super) fn begin_release(&mut self) -> Effects {
        if let LeaseState::Present(lease) = &self.lease {
            let held_lease = lease.held_lease.clone();
            self.lease = LeaseState::Releasing { held_lease, is_requested: false };
        }
        Effects::schedule()
    }

    /// The waiter that was granted `held_lease` does not use it any more.
    fn end_use(
        &mut self,
        shared: &NodeShared,
        held_lease: &Arc<HeldLease>,
        waiter_id: WaiterId,
        now: Time,
    ) -> Effects {
        match &mut self.lease {
            LeaseState::Present(lease)
                if lease.user == Some(waiter_id) && Arc::ptr_eq(&lease.held_lease, held_lease) =>
            {
                lease.end_user();
                self.reassign_lease(shared, now)
            }
            // It was lost, or the node was closed, or the limit of the use has passed.
            _ => Effects::default(),
        }
    }

    /// A grant becomes a guard, within these limits. Returns whether the driver has to poll the key.
    pub(super) fn begin_guard(
        &mut self,
        shared: &NodeShared,
        grant: &mut LocalGrant,
        limits: HoldLimits,
    ) -> bool {
        self.handles += 1;
        grant.held_lease.mark_used(grant.own_use.clone());
        if limits == HoldLimits::default() {
            return false;
        }
        let at_most = limits.at_most.map(|at_most| shared.clock.now() + at_most);
        let lease_end = limits.without_renewal.then(|| grant.held_lease.deadline());
        let limit = [at_most, lease_end].into_iter().flatten().min();
        grant.limit = limit.map(|at| Arc::new(GuardLimit::new(at, grant.own_use.clone())));
        match (&mut self.lease, &grant.limit) {
            (LeaseState::Present(lease), Some(limit)) if lease.user == Some(grant.waiter_id) => {
                lease.limit = Some(limit.clone());
                lease.check_by(limit.at)
            }
            _ => false,
        }
    }

    /// Whether the user of the lease has a guard of it.
    pub(super) fn has_guard(&self) -> bool {
        match &self.lease {
            LeaseState::Present(LocalLease { user: Some(user), .. }) => {
                self.wait_queue.untaken(*user).is_none()
            }
            _ => false,
        }
    }

    /// The use of the lease by a guard.
    pub(super) fn user(&self) -> Option<Use> {
        match &self.lease {
            LeaseState::Present(lease) if self.has_guard() => lease.held_lease.present_use(),
            _ => None,
        }
    }

    /// Whether this guard is the user of the lease.
    pub(crate) fn is_used_by(&self, held_lease: &Arc<HeldLease>, waiter_id: WaiterId) -> bool {
        match &self.lease {
            LeaseState::Present(lease) => {
                lease.user == Some(waiter_id) && Arc::ptr_eq(&lease.held_lease, held_lease)
            }
            _ => false,
        }
    }

    /// The guard that uses the lease publishes a value. Returns the number of that, for
    /// [`is_published`](Self::is_published). `None` if it does not use the lease any more.
    pub(crate) fn publish(
        &mut self,
        held_lease: &Arc<HeldLease>,
        waiter_id: WaiterId,
        value: Option<Arc<str>>,
    ) -> Option<u64> {
        if !self.is_used_by(held_lease, waiter_id) {
            return None;
        }
        let LeaseState::Present(lease) = &mut self.lease else { return None };
        Some(lease.publish(value))
    }

    /// Whether the lease is renewed. `None` if it is another one by now.
    pub(crate) fn is_renewed(&self, held_lease: &Arc<HeldLease>) -> Option<bool> {
        match &self.lease {
            LeaseState::Present(lease) if Arc::ptr_eq(&lease.held_lease, held_lease) => {
                Some(lease.renews)
            }
            _ => None,
        }
    }

    /// Whether what this guard has published by this number, or something later, is written.
    pub(crate) fn is_published(&self, held_lease: &Arc<HeldLease>, number: u64) -> bool {
        match &self.lease {
            LeaseState::Present(lease) => {
                lease.publication_written >= number && Arc::ptr_eq(&lease.held_lease, held_lease)
            }
            _ => false,
        }
    }

    /// A guard ends, and with it the use of the lease.
    pub(crate) fn end_guard(
        &mut self,
        shared: &NodeShared,
        held_lease: &Arc<HeldLease>,
        waiter_id: WaiterId,
        now: Time,
    ) -> Effects {
        self.handles -= 1;
        let mut effects = self.end_use(shared, held_lease, waiter_id, now);
        effects.schedule |= self.handles == 0;
        effects
    }

    /// Removes a waiter, and passes on the grant that it has not taken. Its waker is put into `old`.
    pub(super) fn leave(
        &mut self,
        shared: &NodeShared,
        waiter_id: WaiterId,
        now: Time,
        old: &mut Option<Waker>,
    ) -> Effects {
        self.trying.take_if(|(trying, _)| *trying == waiter_id);
        match self.wait_queue.leave(waiter_id, old) {
            Some(grant) => self.end_use(shared, &grant.held_lease, waiter_id, now),
            None => match &self.lease {
                // It waited for a token, or was to look at the available lease.
                LeaseState::Present(lease) if lease.user.is_none() => {
                    self.reassign_lease(shared, now)
                }
                LeaseState::Present(_) => Effects::default(),
                _ => Effects { schedule: self.wait_queue.is_empty(), ..Effects::default() },
            },
        }
    }

    /// What the waiters want of the engine.
    pub(super) fn intent(&self) -> Intent {
        match (self.wait_queue.first(), self.trying) {
            (None, _) => Intent::Nothing,
            (Some(first), Some((trying, intent))) if first == trying => intent,
            (Some(_), _) => Intent::Wait,
        }
    }

    /// Whether the first waiter only tries.
    pub(super) fn is_led_by_try(&self) -> bool {
        self.trying.is_some_and(|(trying, _)| self.wait_queue.first() == Some(trying))
    }

    /// The next event for the state machine, which was last told `intent`. `None` if it knows all.
    pub(super) fn next_event(&mut self, intent: Intent) -> Option<Event> {
        self.is_scheduled = false;
        let tries = self.trying.map(|(waiter_id, _)| waiter_id);
        let wanted = match self.intent() {
            // What was seen for an earlier waiter must not refuse the one that tries.
            Intent::Try | Intent::Outlast
                if intent != Intent::Nothing && tries != self.tries_as_told =>
            {
                Intent::Nothing
            }
            wanted => wanted,
        };
        match &mut self.lease {
            LeaseState::Present(lease) if lease.renews != lease.renews_as_told => {
                lease.renews_as_told = lease.renews;
                Some(Event::Renewing(lease.renews))
            }
            LeaseState::Present(lease) if lease.must_tell() => {
                lease.publication_as_told = lease.publication.number;
                Some(Event::Publish(lease.publication.clone()))
            }
            LeaseState::Present(lease) => (lease.refresh == RefreshState::Wanted).then(|| {
                lease.refresh = RefreshState::Requested;
                Event::Refresh
            }),
            LeaseState::Releasing { is_requested: is_requested @ false, .. }
                if intent == wanted =>
            {
                *is_requested = true;
                Some(Event::Release)
            }
            _ => (intent != wanted).then(|| {
                let is_try = matches!(wanted, Intent::Try | Intent::Outlast);
                self.tries_as_told = tries.filter(|_| is_try);
                Event::Intent(wanted)
            }),
        }
    }

    /// Marks the key as scheduled. Returns whether it was not: then it has to be put into the run
    /// queue.
    pub(super) fn set_scheduled(&mut self) -> bool {
        self.was_scheduled = true;
        !std::mem::replace(&mut self.is_scheduled, true)
    }

    /// The driver polls the key and has no state machine for it. Returns whether it needs none.
    pub(super) fn is_at_rest(&mut self) -> bool {
        let is_at_rest = self.wait_queue.is_empty() && matches!(self.lease, LeaseState::Absent);
        self.is_scheduled &= !is_at_rest;
        is_at_rest
    }

    /// What the state machine knows after an event: whether other nodes wait, as of what was last seen of
    /// the register, and what the engine has last said.
    pub(super) fn observed(&mut self, config: &Config, others_wait: bool, engine: EngineStatus) {
        self.engine = engine;
        if let LeaseState::Present(lease) = &mut self.lease {
            let before = std::mem::replace(&mut lease.others_wait, others_wait);
            if others_wait && lease.kept_until.is_some() {
                lease.check_by(lease.acquired_at + config.local_handoff_window);
            } else if others_wait && !before && lease.check_at.is_some() {
                // The next check of an untaken grant may be later than its claim window.
                lease.check_by(lease.granted_at + config.claim_window);
            }
        }
    }

    /// The state machine is gone: no watch is wanted, and the queue is not known any more.
    pub(super) fn forget_engine(&mut self) {
        (self.engine.is_watching, self.engine.queued_nodes) = (None, 0);
    }

    /// What the engine has last said of this key.
    pub(crate) fn engine(&self) -> &EngineStatus {
        &self.engine
    }

    /// Adds this key to what is reported of the node.
    pub(crate) fn add_to(&self, health: &mut Health, shared: &NodeShared) {
        health.watches_wanted += usize::from(self.engine.is_watching.is_some());
        health.watches += usize::from(self.engine.is_watching == Some(true));
        health.longest_queue = health.longest_queue.max(self.engine.queued_nodes);
        health.waiting += self.wait_queue.len();
        if let LeaseState::Present(lease) = &self.lease {
            health.held += 1;
            // A user that wants no renewal has none to wait for.
            let left = lease.renews.then(|| lease.held_lease.remaining(None, &shared.clock));
            health.least_lease_left = [health.least_lease_left, left].into_iter().flatten().min();
        }
    }

    /// Closes the key: nothing is granted from now on.
    pub(super) fn set_closed(&mut self) {
        self.is_closed = true;
        // A second call finds it being released.
        self.was_held_at_close |= matches!(self.lease, LeaseState::Present(_));
    }

    /// Whether the lease was present when the node was closed. This is true at the first call only, so
    /// that what became of it is reported once.
    pub(super) fn take_held_at_close(&mut self) -> bool {
        std::mem::take(&mut self.was_held_at_close)
    }

    /// Whether the key is in the run queue: the driver has to poll it, and has not done so yet.
    pub(super) fn is_scheduled(&self) -> bool {
        self.is_scheduled
    }

    /// Whether the node was closed.
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Whether the key can be forgotten and the driver never knew of it.
    pub(crate) fn is_unused_and_never_scheduled(&self) -> bool {
        self.is_unused() && !self.was_scheduled
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> usize {
        self.wait_queue.len()
    }

    /// Whether the key can be forgotten.
    pub(crate) fn is_unused(&self) -> bool {
        self.handles == 0
            && matches!(self.lease, LeaseState::Absent)
            && self.wait_queue.is_deserted()
    }
}

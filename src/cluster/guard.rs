//! The guard of a lock that is held.

use super::error::{LockContext, PublishError, ReleaseError};
use super::fence::FencingToken;
use super::key::Key;
use super::local::{Effects, GuardLimit, HeldLease, LocalGrant, LocalKey, Use, WaiterId};
use super::node::{NodeShared, SleepUntil};
use super::observer::ReleaseOutcome;
use super::observer::tracing::HoldSpan;
use super::process::leak;
use super::protocol::register::Unreadable;
use super::protocol::{self, Outcome, Time};
use super::text::shown_within;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

/// The longest value that a holder publishes, in bytes, as JSON has it.
pub(crate) const MAX_PUBLISHED: usize = 256;

/// A lock that is held for as long as [`is_valid`](Self::is_valid) returns true.
///
/// A lease ends. If this process is stopped, or cut off from the engine, for longer than its lease,
/// another node gets the lock while this guard still exists. So:
///
/// - Send the [`token`](Self::token) with each request to the resource, and let the resource refuse
///   smaller ones. Only that excludes a late holder for certain.
/// - Stop when [`lost`](Self::lost) is ready.
/// - If you know an upper bound of the time for which it is needed, set it: a lock is renewed for as long
///   as its process lives, also if the code that holds it hangs. See
///   [`hold_at_most`](super::DistributedLock::hold_at_most).
/// - Do not rely on a check of `is_valid` for longer than the moment of the check.
///
/// The guard gives access to nothing: what it protects is elsewhere. Dropping it releases the lock in
/// the background (a node that [keeps its turn](super::NodeBuilder::keep_turn) does so when that is over) and
/// never blocks; [`release`](Self::release) waits for the result. A guard may be
/// moved to other tasks and threads, and dropped anywhere.
///
/// After a `fork` the guard stays valid in the parent. Its copy in the child is lost from the start
/// ([`LossReason::Closed`]), and dropping that does nothing.
#[must_use = "the lock is released when the guard is dropped"]
pub struct DistributedGuard {
    shared: Arc<NodeShared>,
    local: Arc<LocalKey>,
    held_lease: Arc<HeldLease>,
    waiter_id: WaiterId,
    own_use: Use,
    via: AcquiredVia,
    limit: Option<Arc<GuardLimit>>,
    is_given_back: bool,
    /// Why it was lost before it was given back.
    lost: Option<LossReason>,
}

/// How a lock was acquired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AcquiredVia {
    /// No node held the lock, and none waited.
    Free,
    /// This node waited in the queue of the key, and another node handed the lock to it.
    Handoff,
    /// This node held the lease already: the lock comes from the last user at this node, without a
    /// message.
    LocalHandoff,
    /// The holder did not renew its lease in time, or a node that was handed the lock was dead, and this node
    /// took the lock.
    Takeover,
}

impl AcquiredVia {
    /// The name, for logs and metrics: `free`, `handoff`, `local_handoff` or `takeover`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Handoff => "handoff",
            Self::LocalHandoff => "local_handoff",
            Self::Takeover => "takeover",
        }
    }
}

impl From<protocol::GrantedVia> for AcquiredVia {
    fn from(via: protocol::GrantedVia) -> Self {
        match via {
            protocol::GrantedVia::Free => Self::Free,
            protocol::GrantedVia::Handoff => Self::Handoff,
            protocol::GrantedVia::Takeover => Self::Takeover,
        }
    }
}

/// Why a lock was lost.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LossReason {
    /// No renewal succeeded before the end of the lease.
    Expired {
        /// What the engine has last said, or what else kept the renewals from it. `None` if it is not
        /// known. (The planned end of a lease without renewal is [`HoldLimit`](LossReason::HoldLimit).)
        last: Option<String>,
    },
    /// Another node took the lock. (Or an operator broke it, and the note of that is gone from the engine.)
    TakenOver,
    /// An operator broke it: see [`Node::break_lock_of`](super::Node::break_lock_of).
    Broken {
        /// The label of the node that broke it. It comes from the engine, where others may have written it. Control
        /// characters are left out.
        by: String,
        /// The reason that was given. It may be empty.
        reason: String,
    },
    /// The guard's own limit has passed: the time of
    /// [`hold_at_most`](super::DistributedLock::hold_at_most), or the one lease of
    /// [`without_renewal`](super::DistributedLock::without_renewal). The node has given the lock back.
    HoldLimit,
    /// A copy of this node has renewed the lease: another process has the state of this one, since a
    /// snapshot of its machine was resumed twice, or it was forked without the handlers of
    /// `pthread_atfork`. See [copies of a node](crate::cluster#copies-of-a-node).
    Copied,
    /// The engine shows an older state than before: it was restored from a backup, or has lost writes.
    /// See [an engine that goes back](super::transport#an-engine-that-goes-back).
    EngineWentBack,
    /// The value of the key was replaced by one that is not a lock of this crate.
    Unreadable(Unreadable),
    /// The node was shut down or dropped, its runtime is gone, or this is a forked child.
    Closed,
}

impl fmt::Display for LossReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expired { last: Some(last) } => {
                write!(f, "the lease ended, since no renewal got through ({last})")
            }
            Self::Expired { last: None } => {
                write!(f, "the lease ended, since no renewal got through in time")
            }
            Self::TakenOver => write!(f, "another node took it, or an operator broke it"),
            Self::Broken { by, reason } if reason.is_empty() => {
                write!(f, "{by} broke it, and gave no reason")
            }
            Self::Broken { by, reason } => write!(f, "{by} broke it: {reason}"),
            Self::HoldLimit => write!(f, "the time for which it was to be held at most is over"),
            Self::Copied => write!(
                f,
                "a copy of this node has renewed it: its machine was resumed twice, or it was forked \
                 without `pthread_atfork` handlers"
            ),
            Self::EngineWentBack => write!(
                f,
                "the engine shows an older state than before: it was restored, or has lost writes"
            ),
            Self::Unreadable(why) => write!(f, "the value of the key is not understood: {why}"),
            Self::Closed => write!(
                f,
                "the node was shut down or dropped, its runtime is gone, or this is a forked child"
            ),
        }
    }
}

impl From<protocol::Loss> for LossReason {
    fn from(loss: protocol::Loss) -> Self {
        match loss {
            protocol::Loss::Expired { last } => Self::Expired { last: Some(last) },
            protocol::Loss::TakenOver => Self::TakenOver,
            protocol::Loss::Broken { by, reason } => Self::Broken { by, reason },
            protocol::Loss::Copied => Self::Copied,
            protocol::Loss::WentBack => Self::EngineWentBack,
            protocol::Loss::Unreadable(why) => Self::Unreadable(why),
        }
    }
}

impl DistributedGuard {
    pub(crate) fn new(shared: Arc<NodeShared>, local: Arc<LocalKey>, grant: LocalGrant) -> Self {
        let LocalGrant { held_lease, waiter_id, own_use, via, limit } = grant;
        let (is_given_back, lost) = (false, None);
        Self { shared, local, held_lease, waiter_id, own_use, via, limit, is_given_back, lost }
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.local.key
    }

    /// The number to send with each request to the resource. It is larger than that of every earlier
    /// guard of this key at any node, with the exceptions of
    /// [what is guaranteed](crate::cluster#what-is-guaranteed): an engine that lost writes or was restored,
    /// and copies of a node.
    #[must_use]
    pub fn token(&self) -> FencingToken {
        self.own_use.token
    }

    /// How the lock was acquired.
    #[must_use]
    pub fn acquired_via(&self) -> AcquiredVia {
        self.via
    }

    /// Whether the lock is held at this moment: it was not lost, and its lease is not over on the
    /// clock of this node. This needs neither the engine nor the node's background task, and does not
    /// block. Once it has returned false for a guard, it does so for ever.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        !self.remaining().is_zero()
    }

    /// The same for the simulator, which may look while the code of the guard's node is in the middle of a
    /// step. `None` if that has the guard's state at this moment.
    #[cfg(test)]
    pub(crate) fn remaining_now(&self) -> Option<Duration> {
        self.held_lease.try_remaining(self.limit_at(), &self.shared.clock)
    }

    /// For the simulator: what the guard shares with others.
    #[cfg(test)]
    pub(crate) fn shared_parts(&self) -> (&Arc<NodeShared>, &Arc<LocalKey>, &Arc<HeldLease>) {
        (&self.shared, &self.local, &self.held_lease)
    }

    /// The time until the deadline of the lease, or until the guard's own limit, if that is sooner; zero
    /// if the lock is lost. A renewal moves the deadline, but not the limit. (At first it is short if another
    /// node has [handed](super#how-it-works) the lock to this one.)
    #[must_use]
    pub fn remaining(&self) -> Duration {
        if self.shared.is_foreign() {
            return Duration::ZERO;
        }
        self.held_lease.remaining(self.limit_at(), &self.shared.clock)
    }

    /// It is valid until then, unless it is renewed.
    pub(crate) fn ends_at(&self) -> Time {
        let deadline = self.held_lease.deadline();
        self.limit_at().map_or(deadline, |limit| limit.min(deadline))
    }

    /// It is valid until this moment at the latest.
    fn limit_at(&self) -> Option<Time> {
        self.limit.as_ref().map(|limit| limit.at)
    }

    /// Waits until the lock is lost, and returns the [reason](LossReason). It is never ready while
    /// [`is_valid`](Self::is_valid) returns true.
    ///
    /// The task that awaits it needs no runtime. The node's background task wakes it, after it has told
    /// the [`Observer`](super::Observer); if that task gets no processor, `is_valid` shows the loss
    /// earlier.
    ///
    /// # Cancel safety
    ///
    /// The future may be dropped at any moment, and made again.
    pub async fn lost(&self) -> LossReason {
        LostFuture { guard: self, subscriber: None, deadline: None }.await
    }

    /// Publishes a text with the lock, in place of the one before: an address at which this holder is found, say. Others
    /// see it by [`Node::inspect`](super::Node::inspect) and [`Node::observe`](super::Node::observe). The empty text
    /// removes it.
    ///
    /// It is written by a renewal, which is sent at once, and this call waits until the engine has confirmed it, or a later
    /// text of another call. The text is removed when this guard ends. If the lock passes to another task or thread of this
    /// node then, it stays visible until a renewal, which is sent at once, removes it. It is not secret: whoever can read the engine can read it (see
    /// `layers::Sealed`).
    ///
    /// Those who observe the key are told of it at once by each engine that has notices
    /// ([`Wakeups`](super::Wakeups) other than `Poll`). Redis and PostgreSQL tell all nodes that have a watch then,
    /// whatever its key: publish what changes seldom, in minutes and not in milliseconds.
    ///
    /// # Errors
    ///
    /// - [`PublishError::InvalidValue`] if it takes more than 256 bytes in JSON, without the quotes, or has control
    ///   characters or bidirectional ones (such as U+202E).
    /// - [`PublishError::NotRenewed`] if the lock was acquired
    ///   [without renewal](super::DistributedLock::without_renewal).
    /// - [`PublishError::Lost`] if the lock is lost before the value is confirmed: at the end of the lease at the latest,
    ///   if the engine does not respond.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped after its first poll, the value is published in the background.
    pub async fn publish(&self, value: &str) -> Result<(), PublishError> {
        let at = || self.shared.context(&self.local.key);
        Self::check_value(value, at)?;
        if self.is_renewed() == Some(false) {
            return Err(PublishError::NotRenewed { at: at() });
        }
        let value = (!value.is_empty()).then(|| Arc::from(value));
        PublishFuture { guard: self, value, number: None, subscriber: None }.await
    }

    /// Whether [`publish`](Self::publish) takes this text.
    #[must_use]
    pub fn can_publish(value: &str) -> bool {
        let len = serde_json::to_string(value).map_or(usize::MAX, |json| json.len() - 2);
        len <= MAX_PUBLISHED && shown_within(value, MAX_PUBLISHED) == value
    }

    pub(crate) fn check_value(
        value: &str,
        at: impl FnOnce() -> LockContext,
    ) -> Result<(), PublishError> {
        match Self::can_publish(value) {
            true => Ok(()),
            false => Err(PublishError::InvalidValue { at: at(), len: value.len() }),
        }
    }

    /// Whether its lease is renewed. `None` if it is not known any more.
    fn is_renewed(&self) -> Option<bool> {
        if self.shared.is_foreign() {
            return None;
        }
        self.local.state().is_renewed(&self.held_lease)
    }

    /// Releases the lock, and waits until the engine has confirmed that, at most until the end of a whole
    /// [lease](super::NodeBuilder::lease). If another task or thread of this node waits, the lock is handed to it,
    /// and there is nothing to wait for; nor is there if the node
    /// [keeps its turn](super::NodeBuilder::keep_turn). A node that others compete with may put off the write by which it
    /// releases the lock, for up to half a claim window, so that they can join the queue.
    ///
    /// # Errors
    ///
    /// - [`ReleaseError::Lost`] if the lock was lost before it was released.
    /// - [`ReleaseError::Indeterminate`] if the engine did not confirm the release in that time. The
    ///   lock may have been lost before it was released, or not.
    ///
    /// After either error, as after `Ok`, this guard does not hold the lock any more.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, polled or not, the lock is released in the background.
    pub async fn release(mut self) -> Result<(), ReleaseError> {
        if self.give_back(true) {
            return Ok(());
        }
        ReleaseFuture { guard: &self, subscriber: None }.await
    }

    pub(crate) fn shared(&self) -> &Arc<NodeShared> {
        &self.shared
    }

    pub(crate) fn span(&self) -> &HoldSpan {
        &self.own_use.span
    }

    /// Ends the use of the lock; does nothing the second time. Returns whether the lock was handed off
    /// at this node. `is_awaited`: the caller waits for the release.
    fn give_back(&mut self, is_awaited: bool) -> bool {
        if std::mem::replace(&mut self.is_given_back, true) || self.shared.is_foreign() {
            return false;
        }
        // Nobody looks at the guard from here on, so it was valid until now if it still is.
        let now = self.shared.clock.now();
        let lost = self.notice_loss(now);
        let Self { shared, local, held_lease, waiter_id, .. } = &*self;
        if shared.is_foreign() {
            return false;
        }
        let mut is_user = false;
        let handed_off = local.change_awaited(shared, is_awaited, |state| {
            is_user = state.is_used_by(held_lease, *waiter_id);
            if is_user && lost.is_some() {
                held_lease.mark_unused();
            }
            let effects = state.end_guard(shared, held_lease, *waiter_id, now);
            if shared.is_observed() {
                // Nobody else tells of a guard that was handed off.
                held_lease.end_use(self.own_use.token, now, effects.is_handed_off());
            }
            effects
        });
        if shared.is_foreign() {
            return false;
        }
        // If it was not the user, it was lost meanwhile.
        let lost = match lost {
            None if !is_user => self.notice_loss(shared.clock.now()),
            lost => lost,
        };
        let handed_off = handed_off && lost.is_none();
        let how = match &lost {
            Some(_) => Some(ReleaseOutcome::Lost),
            None => handed_off.then_some(ReleaseOutcome::HandedOff),
        };
        // The driver tells the observer of any other outcome, when it is known.
        if let Some(how) = how {
            let hold = self.own_use.until(now);
            let key = &self.local.key;
            let tell = || self.shared.observe(|observer| observer.released(key, how, hold));
            self.span().run(&self.shared, tell);
            self.span().end(&self.shared);
        }
        self.lost = lost;
        handed_off
    }

    /// Why the lock is lost, if it is. The observer is told, and the reason stays.
    fn notice_loss(&self, now: Time) -> Option<LossReason> {
        let Self { shared, local, held_lease, .. } = self;
        let mut why = held_lease.lost(self.limit_at(), now)?;
        if why == (LossReason::Expired { last: None }) {
            // The driver has not noticed it yet.
            let last = local.state().engine().cause_of_expiry(shared.clock.now());
            held_lease.mark_lost(LossReason::Expired { last: Some(last) }, &shared.clock);
            why = held_lease.recorded_loss()?;
        }
        held_lease.tell_loss(self.limit.as_deref(), &self.own_use, shared, &local.key, &why);
        Some(why)
    }

    fn unsubscribe(&self, subscriber: Option<u64>) {
        if !self.shared.is_foreign() {
            self.held_lease.unsubscribe(subscriber);
        }
    }

    /// The result of the release, if it is known.
    fn outcome(&self) -> Option<Result<(), ReleaseError>> {
        let at = || self.shared.context(&self.local.key);
        if self.shared.is_foreign() {
            return Some(Err(ReleaseError::Lost { at: at(), why: LossReason::Closed }));
        }
        if let Some(why) = self.lost.clone() {
            return Some(Err(ReleaseError::Lost { at: at(), why }));
        }
        match (self.held_lease.outcome(), self.held_lease.recorded_loss()) {
            (Some(Outcome::Lost(_)), _) | (_, Some(_)) => {
                let why = self.held_lease.loss_at_release();
                Some(Err(ReleaseError::Lost { at: at(), why }))
            }
            (Some(Outcome::Held), None) => Some(Ok(())),
            (Some(Outcome::Indeterminate), None) => {
                Some(Err(ReleaseError::Indeterminate { at: at() }))
            }
            (None, None) => None,
        }
    }
}

impl Drop for DistributedGuard {
    fn drop(&mut self) {
        self.give_back(false);
        // Or what that has called has forked, and this is the child.
        if self.shared.is_foreign() {
            leak(&self.held_lease);
            self.span().leak();
            self.limit.iter().for_each(leak);
            leak(&self.local);
            leak(&self.shared);
        }
    }
}

impl fmt::Debug for DistributedGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DistributedGuard")
            .field("key", &self.local.key)
            .field("token", &self.token())
            .field("remaining", &self.remaining())
            .finish_non_exhaustive()
    }
}

/// Waits for the loss of a lock.
struct LostFuture<'a> {
    guard: &'a DistributedGuard,
    subscriber: Option<u64>,
    deadline: Option<SleepUntil>,
}

impl Future for LostFuture<'_> {
    type Output = LossReason;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<LossReason> {
        let Self { guard, subscriber, deadline } = &mut *self;
        let DistributedGuard { shared, held_lease, .. } = guard;
        if shared.is_foreign() {
            return Poll::Ready(LossReason::Closed);
        }
        // Subscribe first, so that no loss is missed in between.
        *subscriber = Some(held_lease.subscribe(*subscriber, cx.waker()));
        loop {
            if let Some(why) = guard.notice_loss(shared.clock.now()) {
                // The subscribers are woken when another thread has told the observer.
                let is_told =
                    shared.is_foreign() || held_lease.report(guard.limit.as_deref()).is_told();
                return if is_told { Poll::Ready(why) } else { Poll::Pending };
            }
            let end = held_lease.deadline();
            let end = guard.limit_at().map_or(end, |limit| limit.min(end));
            let until = deadline.get_or_insert_with(|| shared.sleep_until(end));
            if Pin::new(until).poll(cx).is_pending() {
                return Poll::Pending;
            }
            // The lease was renewed meanwhile, or the driver is gone, which has closed the key before.
            *deadline = None;
        }
    }
}

impl Drop for LostFuture<'_> {
    fn drop(&mut self) {
        self.guard.unsubscribe(self.subscriber);
    }
}

/// Waits until a value is written.
struct PublishFuture<'a> {
    guard: &'a DistributedGuard,
    value: Option<Arc<str>>,
    /// From the first poll on.
    number: Option<u64>,
    subscriber: Option<u64>,
}

impl Future for PublishFuture<'_> {
    type Output = Result<(), PublishError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { guard, value, number, subscriber } = &mut *self;
        let DistributedGuard { shared, local, held_lease, waiter_id, .. } = guard;
        let lost = |why| PublishError::Lost { at: shared.context(&local.key), why };
        if shared.is_foreign() {
            return Poll::Ready(Err(lost(LossReason::Closed)));
        }
        *subscriber = Some(held_lease.subscribe(*subscriber, cx.waker()));
        if let Some(why) = guard.notice_loss(shared.clock.now()) {
            return Poll::Ready(Err(lost(why)));
        }
        if number.is_none() {
            local.change_awaited(shared, true, |state| {
                *number = state.publish(held_lease, *waiter_id, value.clone());
                Effects::schedule()
            });
        }
        if shared.is_foreign() {
            return Poll::Ready(Err(lost(LossReason::Closed)));
        }
        // Without a number it is lost, and woken when the observers are told.
        match number.is_some_and(|number| local.state().is_published(held_lease, number)) {
            true => Poll::Ready(Ok(())),
            false => Poll::Pending,
        }
    }
}

impl Drop for PublishFuture<'_> {
    fn drop(&mut self) {
        self.guard.unsubscribe(self.subscriber);
    }
}

/// Waits for the result of a release.
struct ReleaseFuture<'a> {
    guard: &'a DistributedGuard,
    subscriber: Option<u64>,
}

impl Future for ReleaseFuture<'_> {
    type Output = Result<(), ReleaseError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let DistributedGuard { shared, held_lease, .. } = self.guard;
        if !shared.is_foreign() {
            self.subscriber = Some(held_lease.subscribe(self.subscriber, cx.waker()));
        }
        match self.guard.outcome() {
            Some(outcome) => Poll::Ready(outcome),
            None => Poll::Pending,
        }
    }
}

impl Drop for ReleaseFuture<'_> {
    fn drop(&mut self) {
        self.guard.unsubscribe(self.subscriber);
    }
}

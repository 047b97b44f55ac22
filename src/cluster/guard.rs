//! The lock is held.

use super::error::ReleaseError;
use super::key::Key;
use super::local::{HeldLease, Local, LocalGrant, WaiterId};
use super::node::{NodeShared, Sleep};
use super::observer::Released;
use super::protocol::register::Unreadable;
use super::protocol::{self, Outcome};
use super::token::FencingToken;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

/// The lock is held, as long as [`is_valid`](Self::is_valid) says so.
///
/// A lease ends. If this process is stopped, or cut off from the engine, for longer than that,
/// another node gets the lock while this guard still exists. So:
///
/// - give the resource the [`token`](Self::token), and let it refuse smaller ones: only that is
///   exact;
/// - stop when [`lost`](Self::lost) is ready;
/// - keep in mind that a check of `is_valid` says nothing of the moment after it.
///
/// It derefs to nothing: what it protects is elsewhere. Dropping it releases the lock in the
/// background and never blocks; [`release`](Self::release) tells how that went. It may be moved to
/// other tasks and threads, and dropped anywhere.
#[must_use = "the lock is released when the guard is dropped"]
pub struct DistributedGuard {
    core: Arc<NodeShared>,
    local: Arc<Local>,
    held_lease: Arc<HeldLease>,
    waiter_id: WaiterId,
    token: FencingToken,
    via: AcquiredVia,
    is_given_back: bool,
}

/// How a lock was acquired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AcquiredVia {
    /// Nobody had it and nobody waited.
    Free,
    /// From another node, in its turn.
    Handoff,
    /// From another task or thread of this node, or from this one, which was the last to have it; with
    /// no message.
    LocalHandoff,
    /// From a node that was not heard of for its lease.
    Takeover,
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
    /// No renewal got through before the lease was over.
    Expired {
        /// What hindered the last one, if that is known.
        last: Option<String>,
    },
    /// Another node took it, or an operator broke it.
    TakenOver,
    /// The value of the key is not understood any more.
    Unreadable(Unreadable),
    /// The node was shut down or dropped, or its runtime is gone.
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
            Self::Unreadable(why) => write!(f, "the value of the key is not understood: {why}"),
            Self::Closed => write!(f, "the node was shut down or dropped, or its runtime is gone"),
        }
    }
}

impl From<protocol::Loss> for LossReason {
    fn from(loss: protocol::Loss) -> Self {
        match loss {
            protocol::Loss::Expired { last } => Self::Expired { last },
            protocol::Loss::TakenOver => Self::TakenOver,
            protocol::Loss::Unreadable(why) => Self::Unreadable(why),
        }
    }
}

impl DistributedGuard {
    pub(crate) fn new(core: Arc<NodeShared>, local: Arc<Local>, grant: LocalGrant) -> Self {
        let LocalGrant { held_lease, waiter_id, token, via } = grant;
        Self { core, local, held_lease, waiter_id, token, via, is_given_back: false }
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.local.key
    }

    /// The number to give to the resource: larger than that of every guard of this key before,
    /// on whatever node (as long as the engine is not one that loses writes, and has:
    /// [`Consistency::Lossy`](super::Consistency::Lossy)).
    #[must_use]
    pub fn token(&self) -> FencingToken {
        self.token
    }

    /// How the lock was acquired.
    #[must_use]
    pub fn acquired_via(&self) -> AcquiredVia {
        self.via
    }

    /// Whether the lock is held at this moment: it was not lost, and the lease is not over on the
    /// node's clock. Needs neither the engine nor the node's background task. Once false, it is
    /// false for ever.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        !self.remaining().is_zero()
    }

    /// How long the lease lasts if it is not renewed; zero if the lock is lost.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.held_lease.remaining(&self.core.clock)
    }

    /// Waits until the lock is lost: the lease is over, or the lock was taken, or the node closed.
    /// Tells why. Never ready while [`is_valid`](Self::is_valid).
    ///
    /// Needs no runtime where it is awaited. The lease's end is told by the node's background task;
    /// in a program that gives that no processor, `is_valid` is earlier.
    pub async fn lost(&self) -> LossReason {
        Lost { guard: self, listener: None, sleep: None }.await
    }

    /// Releases the lock, and waits until the engine knows it; or only hands it to another one of this
    /// node that waits, without waiting for that one.
    ///
    /// Dropped before it is ready, it releases in the background.
    ///
    /// # Errors
    ///
    /// [`ReleaseError`] if the lock was lost before, or if that is not known. It is not held any
    /// more in either case.
    pub async fn release(mut self) -> Result<(), ReleaseError> {
        if self.give_back() {
            return Ok(());
        }
        Release { guard: &self, listener: None }.await
    }

    pub(crate) fn core(&self) -> &Arc<NodeShared> {
        &self.core
    }

    /// Gives it back, once. Whether another one of this node has it now.
    fn give_back(&mut self) -> bool {
        if std::mem::replace(&mut self.is_given_back, true) {
            return false;
        }
        let Self { core, local, held_lease, waiter_id, .. } = self;
        let handed_off = local.change(core, |state| state.end_use(core, held_lease, *waiter_id));
        let how = if handed_off { Some(Released::HandedOff) } else { None };
        let how = how.or_else(|| held_lease.known_loss().map(|_| Released::Lost));
        // Everything else the driver will know.
        if let Some(how) = how {
            core.observe(|observer| observer.released(&local.key, how));
        }
        handed_off
    }

    /// What came of the release, if it is known.
    fn outcome(&self) -> Option<Result<(), ReleaseError>> {
        let at = || self.core.context(&self.local.key);
        match (self.held_lease.outcome(), self.held_lease.known_loss()) {
            (_, Some(why)) => Some(Err(ReleaseError::Lost { at: at(), why })),
            (Some(Outcome::Held), None) => Some(Ok(())),
            (Some(Outcome::Lost), None) => {
                Some(Err(ReleaseError::Lost { at: at(), why: LossReason::TakenOver }))
            }
            (Some(Outcome::Indeterminate), None) => {
                Some(Err(ReleaseError::Indeterminate { at: at() }))
            }
            (None, None) => None,
        }
    }
}

impl Drop for DistributedGuard {
    fn drop(&mut self) {
        self.give_back();
    }
}

impl fmt::Debug for DistributedGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DistributedGuard")
            .field("key", &self.local.key)
            .field("token", &self.token)
            .field("remaining", &self.remaining())
            .finish_non_exhaustive()
    }
}

/// Waits for the loss.
struct Lost<'a> {
    guard: &'a DistributedGuard,
    listener: Option<u64>,
    sleep: Option<Sleep>,
}

impl Future for Lost<'_> {
    type Output = LossReason;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<LossReason> {
        let Self { guard, listener, sleep } = &mut *self;
        let DistributedGuard { core, held_lease, .. } = guard;
        // First listen, then look.
        *listener = Some(held_lease.listen(*listener, cx.waker()));
        loop {
            if let Some(why) = held_lease.lost(&core.clock) {
                return Poll::Ready(why);
            }
            let until = sleep.get_or_insert_with(|| core.sleep_until(held_lease.deadline()));
            if Pin::new(until).poll(cx).is_pending() {
                return Poll::Pending;
            }
            // The deadline has moved on meanwhile, or there is no driver any more.
            *sleep = None;
            if core.run_queue.is_dead() {
                return Poll::Ready(NodeShared::CLOSED);
            }
        }
    }
}

impl Drop for Lost<'_> {
    fn drop(&mut self) {
        self.guard.held_lease.forget(self.listener);
    }
}

/// Waits for the end of a release.
struct Release<'a> {
    guard: &'a DistributedGuard,
    listener: Option<u64>,
}

impl Future for Release<'_> {
    type Output = Result<(), ReleaseError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let held_lease = &self.guard.held_lease;
        self.listener = Some(held_lease.listen(self.listener, cx.waker()));
        match self.guard.outcome() {
            Some(outcome) => Poll::Ready(outcome),
            None => Poll::Pending,
        }
    }
}

impl Drop for Release<'_> {
    fn drop(&mut self) {
        self.guard.held_lease.forget(self.listener);
    }
}

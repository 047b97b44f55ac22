//! A handle of a key, and waiting at it.

use super::{After, Lease, Local, LocalGrant, WaiterId};
use crate::cluster::error::LockError;
use crate::cluster::guard::DistributedGuard;
use crate::cluster::node::{NodeShared, Sleep};
use crate::cluster::time::Time;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

/// A key, for as long as somebody may want it.
#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) core: Arc<NodeShared>,
    pub(crate) local: Arc<Local>,
}

impl Handle {
    pub(crate) fn new(core: Arc<NodeShared>, local: Arc<Local>) -> Self {
        local.state().handles += 1;
        Self { core, local }
    }

    pub(crate) fn acquire(&self, mode: WaitMode) -> Acquire<'_> {
        Acquire { handle: self, mode, spins: false, began: None, waiter_id: None, sleep: None }
    }
}

impl Clone for Handle {
    fn clone(&self) -> Self {
        Self::new(self.core.clone(), self.local.clone())
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut is_unknown = false;
        self.local.change(&self.core, |state| {
            state.handles -= 1;
            is_unknown = state.is_unknown();
            After { call: state.handles == 0 && !is_unknown, ..After::default() }
        });
        if is_unknown {
            self.core.forget_unknown(&self.local);
        }
    }
}

/// How to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaitMode {
    Wait,
    /// Not at all: the lock at once, or [`LockError::Busy`].
    Try,
    /// So long at most, then [`LockError::TimedOut`].
    Within(Duration),
}

/// Waiting for the lock. Dropped at any moment, it leaves nothing behind.
#[derive(Debug)]
#[must_use]
pub(crate) struct Acquire<'a> {
    handle: &'a Handle,
    mode: WaitMode,
    spins: bool,
    began: Option<Time>,
    /// While it waits.
    waiter_id: Option<WaiterId>,
    sleep: Option<Sleep>,
}

impl Future for Acquire<'_> {
    type Output = Result<DistributedGuard, LockError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = match self.waiter_id {
            None => self.begin(cx),
            Some(waiter_id) => self.look(waiter_id, cx),
        };
        let result = match result {
            Poll::Pending => self.check_time(cx),
            ready => ready,
        };
        if let Poll::Ready(result) = &result {
            self.waiter_id = None;
            self.sleep = None;
            self.tell(result);
        }
        result
    }
}

impl Acquire<'_> {
    /// For a thread, which spins for a moment when it is the next in the queue.
    pub(crate) fn spinning(mut self) -> Self {
        self.spins = true;
        self
    }

    /// Whether it is the next in the queue, and nobody but the present user stands before it.
    pub(crate) fn is_next(&self) -> bool {
        self.waiter_id.is_some() && self.handle.local.state().wait_queue.first() == self.waiter_id
    }

    fn begin(&mut self, cx: &Context<'_>) -> Poll<Result<DistributedGuard, LockError>> {
        let Handle { core, local } = self.handle;
        self.began = Some(core.clock.now());
        core.observe(|observer| observer.acquire_started(&local.key));
        let mut result = Poll::Pending;
        let mut waiter_id = None;
        local.change(core, |state| {
            if state.is_closed {
                result = Poll::Ready(Err(core.closed(&local.key)));
                return After::default();
            }
            let is_free = !matches!(state.lease, Lease::Here(_)) && state.wait_queue.is_empty();
            if self.mode == WaitMode::Try && !is_free {
                let busy = LockError::Busy { at: core.context(&local.key), holder: None };
                result = Poll::Ready(Err(busy));
                return After::default();
            }
            let (grant, mut after) = state.barge(core);
            if let Some(grant) = grant {
                state.fetched(&grant);
                result = Poll::Ready(Ok(grant));
                return after;
            }
            let joined = state.wait_queue.join(cx.waker(), self.spins);
            waiter_id = Some(joined);
            if self.mode == WaitMode::Try {
                state.trying = waiter_id;
            }
            after.prewoken = state.prewake(joined);
            after.call |= !matches!(state.lease, Lease::Here(_));
            after
        });
        self.waiter_id = waiter_id;
        self.guarded(result)
    }

    fn look(
        &mut self,
        waiter_id: WaiterId,
        cx: &Context<'_>,
    ) -> Poll<Result<DistributedGuard, LockError>> {
        let Handle { core, local } = self.handle;
        let mut old = None;
        let mut result = Poll::Pending;
        local.change(core, |state| {
            let after;
            (result, after) = state.look(core, waiter_id, cx.waker(), &mut old);
            if let Poll::Ready(result) = &result {
                state.trying.take_if(|trying| *trying == waiter_id);
                result.iter().for_each(|grant| state.fetched(grant));
            }
            after
        });
        self.guarded(result)
    }

    fn guarded(
        &self,
        result: Poll<Result<LocalGrant, LockError>>,
    ) -> Poll<Result<DistributedGuard, LockError>> {
        let Handle { core, local } = self.handle;
        result.map_ok(|grant| DistributedGuard::new(core.clone(), local.clone(), grant))
    }

    fn check_time(&mut self, cx: &mut Context<'_>) -> Poll<Result<DistributedGuard, LockError>> {
        let (WaitMode::Within(after), Some(began)) = (self.mode, self.began) else {
            return Poll::Pending;
        };
        let core = &self.handle.core;
        let sleep = self.sleep.get_or_insert_with(|| core.sleep_until(began + after));
        if Pin::new(sleep).poll(cx).is_pending() {
            return Poll::Pending;
        }
        // What was granted this very moment is passed on.
        self.leave();
        let core = &self.handle.core;
        if core.clock.now() < began + after {
            // It woke up because there is no driver any more.
            return Poll::Ready(Err(core.closed(&self.handle.local.key)));
        }
        let at = core.context(&self.handle.local.key);
        Poll::Ready(Err(LockError::TimedOut { at, after }))
    }

    fn leave(&mut self) {
        if let Some(waiter_id) = self.waiter_id.take() {
            let Handle { core, local } = self.handle;
            let mut old = None;
            local.change(core, |state| state.leave(core, waiter_id, &mut old));
        }
    }

    fn tell(&self, result: &Result<DistributedGuard, LockError>) {
        let Handle { core, local } = self.handle;
        let waited = self.began.map_or(Duration::ZERO, |began| core.clock.now().since(began));
        core.observe(|observer| match result {
            Ok(guard) => observer.acquired(&local.key, waited, guard.acquired_via(), guard.token()),
            Err(error) => observer.acquire_failed(&local.key, waited, error),
        });
    }
}

impl Drop for Acquire<'_> {
    fn drop(&mut self) {
        self.leave();
    }
}

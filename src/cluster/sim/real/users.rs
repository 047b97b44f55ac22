//! The users: tasks and threads of a node that acquire a lock again and again, and what people do with
//! futures and guards.

use super::nodes::{NodeState, SimNode};
use super::profile::Profile;
use super::world::World;
use crate::cluster::error::{LockError, ReleaseError};
use crate::cluster::guard::DistributedGuard;
use crate::cluster::local::{HoldLimits, WaitMode};
use crate::cluster::lock::DistributedLock;
use crate::cluster::protocol::Time;
use crate::cluster::sim::world::{MS, Moment};
use futures_util::future::{BoxFuture, Either, poll_fn, select};
use std::future::pending;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::sync::oneshot;

/// A task or a thread that uses one lock.
pub(super) struct User {
    world: Arc<World>,
    node: usize,
    key: usize,
    lock: DistributedLock,
    /// It waits as the blocking interface does: it spins when its turn is near.
    pub(super) is_thread: bool,
}

/// A future of an acquisition, as the public interface returns it.
pub(super) type Acquire = BoxFuture<'static, Result<DistributedGuard, LockError>>;

/// An acquisition that has begun.
struct Asked {
    mode: WaitMode,
    /// When it began, on the node's clock, and in true time.
    began: Time,
    at: Moment,
}

/// Polls a future once.
async fn poll_once(acquire: &mut Acquire) -> Option<Result<DistributedGuard, LockError>> {
    poll_fn(|cx| match acquire.as_mut().poll(cx) {
        Poll::Ready(result) => Poll::Ready(Some(result)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

impl User {
    pub(super) fn new(
        world: Arc<World>,
        node: usize,
        key: usize,
        lock: DistributedLock,
        is_thread: bool,
    ) -> Self {
        Self { world, node, key, lock, is_thread }
    }

    /// Uses the lock until the faults end.
    pub(super) async fn run(self) {
        loop {
            self.world.sleep(self.world.between(self.world.profile.idle_time)).await;
            if self.world.is_calm() || !self.take_turn().await {
                break;
            }
        }
        self.world.nodes.lock()[self.node].users -= 1;
    }

    /// The same of the copy of a process, which has a guard already.
    pub(super) async fn run_with(self, guard: DistributedGuard) {
        self.hold(guard).await;
        self.run().await;
    }

    /// Waits for the lock, without a limit, and gives it back: the faults have ended.
    pub(super) async fn run_once(self) {
        match self.acquire(WaitMode::Wait).await {
            Ok(guard) => self.hold(guard).await,
            Err(error) => self.world.violate(format!("a new node does not get a lock: {error}")),
        }
        self.world.nodes.lock()[self.node].users -= 1;
    }

    fn acquire(&self, mode: WaitMode) -> Acquire {
        let (lock, is_thread) = (self.lock.clone(), self.is_thread);
        let (world, node) = (self.world.clone(), self.node);
        Box::pin(async move {
            match mode {
                _ if is_thread => {
                    let mut acquire = lock.handle.acquire(mode, HoldLimits::default()).spinning();
                    let mut is_set = false;
                    poll_fn(|cx| {
                        let result = Pin::new(&mut acquire).poll(cx);
                        // As the blocking interface, it wakes up by itself at its deadline.
                        if result.is_pending()
                            && let Some(until) = acquire.deadline()
                            && !std::mem::replace(&mut is_set, true)
                        {
                            world.wake_at(node, until, cx.waker().clone());
                        }
                        result
                    })
                    .await
                }
                WaitMode::Wait => lock.acquire().await,
                WaitMode::Try => lock.try_acquire().await,
                WaitMode::Outlast => lock.try_acquire_or_outlast().await,
                WaitMode::Within(time) => lock.acquire_timeout(time).await,
            }
        })
    }

    /// One acquisition and what follows. Returns whether there may be another one.
    async fn take_turn(&self) -> bool {
        let (world, profile) = (&self.world, &self.world.profile);
        let mode = if world.chance(profile.tries) {
            WaitMode::Try
        } else if world.chance(profile.timeouts) {
            WaitMode::Within(Duration::from_nanos(1 + world.below(profile.lease)))
        } else {
            WaitMode::Wait
        };
        let asked = Asked { mode, began: world.clock(self.node), at: world.now() };
        world.record(format_args!("{}: {} asks for {}: {mode:?}", self.node, self, self.key));
        let mut acquire = self.acquire(mode);
        let mut is_polled = true;
        let result = if world.chance(profile.cancels) {
            let patience = self.patience();
            match select(acquire, pin!(world.sleep(patience))).await {
                Either::Left((result, _)) => result,
                // The future is dropped.
                Either::Right(_) => return true,
            }
        } else if world.chance(profile.moves) {
            match poll_once(&mut acquire).await {
                Some(result) => result,
                None => {
                    // A task of the pool may be late where a thread may not.
                    is_polled = !self.is_thread;
                    self.move_to_task(acquire).await
                }
            }
        } else if world.fault(profile.neglects) || world.fault(profile.leaks) {
            is_polled = false;
            match poll_once(&mut acquire).await {
                Some(result) => result,
                None if world.fault(profile.leaks) => {
                    world.record(format_args!("{}: {self} leaks the future", self.node));
                    world.checks.lock().leaked.push(acquire);
                    return true;
                }
                None => {
                    world.sleep(world.below(2 * profile.lease)).await;
                    if world.chance(500) {
                        return true;
                    }
                    acquire.await
                }
            }
        } else {
            acquire.await
        };
        if is_polled {
            self.check_time(&asked, result.as_ref().err());
        }
        match result {
            Ok(guard) => self.hold(guard).await,
            Err(error) => return self.check_error(&asked, &error),
        }
        true
    }

    /// For how long a user waits before it changes its mind: until something is likely to go on at that
    /// very moment, or for any time.
    fn patience(&self) -> Moment {
        let Profile { hold_time, lease, .. } = self.world.profile;
        self.world.below(if self.world.chance(500) { 2 * hold_time } else { lease })
    }

    /// Another task awaits the future, so that a waker of this one does not help any more.
    async fn move_to_task(&self, acquire: Acquire) -> Result<DistributedGuard, LockError> {
        let (sender, receiver) = oneshot::channel();
        self.world.spawn(self.node, "a moved future", async move {
            // It fails only if the process is killed.
            let _ = sender.send(acquire.await);
        });
        match receiver.await {
            Ok(result) => result,
            Err(_) => pending().await,
        }
    }

    /// Has the lock for a while, or until it is lost, and gives it back in one way or another.
    async fn hold(&self, guard: DistributedGuard) {
        let (world, profile) = (&self.world, &self.world.profile);
        let id = world.random();
        let guard = world.begin_guard(self.node, self.key, id, guard);
        let longest =
            if world.chance(profile.long_holds) { 2 * profile.lease } else { profile.hold_time };
        let is_lost = {
            let lost = pin!(guard.lost());
            let done = pin!(world.sleep(world.below(longest)));
            match select(lost, done).await {
                Either::Left((why, _)) => Some(why),
                Either::Right(_) => None,
            }
        };
        if let Some(why) = &is_lost {
            world.check_loss(id, &guard, why);
        }
        world.end_guard(id);
        let guard = Arc::into_inner(guard).expect("nobody else has the guard");
        match world.below(4) {
            0 => {
                let began = world.clock(self.node);
                let result = guard.release().await;
                self.check_release(&result, Some(began));
            }
            1 => {
                let patience = world.below(20 * MS);
                let release = Box::pin(guard.release());
                if let Either::Left((result, _)) =
                    select(release, pin!(world.sleep(patience))).await
                {
                    self.check_release(&result, None);
                }
            }
            _ => drop(guard),
        }
        if world.fault(profile.blocks) {
            let time = world.fault_length();
            world.record(format_args!("{}: {self} blocks for {} us", self.node, time / 1000));
            let until = world.now() + time;
            let before = world.nodes.lock()[self.node].blocked_until.max(until);
            world.nodes.lock()[self.node].blocked_until = before;
            world.block(time).await;
        }
    }

    // ---- Rules ----

    /// The result has come in time.
    fn check_time(&self, asked: &Asked, error: Option<&LockError>) {
        let WaitMode::Within(limit) = asked.mode else { return };
        let world = &self.world;
        let took = world.clock(self.node).since(asked.began);
        if matches!(error, Some(LockError::TimedOut { .. })) && took < limit {
            world.violate(format!("{}: {self} timed out after {took:?} of {limit:?}", self.node));
        }
        let late = Duration::from_nanos(world.profile.max_timer_delay + 5 * MS);
        if took > limit + late && !self.was_held_up(asked) {
            world.violate(format!("{}: {self} waited for {took:?}, not {limit:?}", self.node));
        }
    }

    /// Whether this user could not run, or the driver could not.
    fn was_held_up(&self, asked: &Asked) -> bool {
        let nodes = self.world.nodes.lock();
        let SimNode { frozen_until, blocked_until, .. } = nodes[self.node];
        let needs_workers = !self.is_thread;
        frozen_until >= asked.at || (needs_workers && blocked_until >= asked.at)
    }

    /// The error is one that there may be. Returns whether the node is still open.
    fn check_error(&self, asked: &Asked, error: &LockError) -> bool {
        let (world, node) = (&self.world, self.node);
        world.record(format_args!("{node}: {self} gets {error}"));
        let is_closed = world.nodes.lock()[node].state != NodeState::Open;
        let is_right = match error {
            LockError::Busy { .. } => asked.mode == WaitMode::Try,
            LockError::TimedOut { .. } => matches!(asked.mode, WaitMode::Within(_)),
            LockError::Closed { .. } => is_closed,
            LockError::Transport { .. } => !world.profile.is_faultless(),
            _ => false,
        };
        if !is_right {
            world.violate(format!("{node}: {self} got {error}, with {:?}", asked.mode));
        }
        !is_closed
    }

    /// Where nothing goes wrong, a release succeeds, and is not left until the next renewal. `began` is
    /// when it was asked for.
    fn check_release(&self, result: &Result<(), ReleaseError>, began: Option<Time>) {
        let (world, node) = (&self.world, self.node);
        world.record(format_args!("{node}: {self} has released: {result:?}"));
        let took = began.map(|began| world.clock(node).since(began));
        let is_late = took > Some(Duration::from_nanos(world.profile.claim_window));
        if world.profile.is_faultless() && (result.is_err() || is_late) {
            world.violate(format!("{node}: {self} has released after {took:?}: {result:?}"));
        }
    }
}

impl std::fmt::Display for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.is_thread { "a thread" } else { "a task" })
    }
}

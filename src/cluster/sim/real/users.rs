//! The users: tasks and threads of a node that acquire a lock again and again, and what people do with
//! futures and guards.

use super::checks::{KeyOfNode, OwnLimit};
use super::nodes::{NodeState, SimNode};
use super::profile::Profile;
use super::world::World;
use crate::cluster::error::{LockError, PublishError, ReleaseError};
use crate::cluster::guard::{AcquiredVia, DistributedGuard, LossReason};
use crate::cluster::local::{HoldLimits, WaitMode};
use crate::cluster::lock::DistributedLock;
use crate::cluster::node::Node;
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
    pub(super) world: Arc<World>,
    pub(super) node: usize,
    pub(super) key: usize,
    /// `None` between its turns, if it makes a new one for each.
    lock: Option<DistributedLock>,
    /// It waits as the blocking interface does: it spins when its turn is near.
    pub(super) is_thread: bool,
}

/// A future of an acquisition, as the public interface returns it.
pub(super) type Acquire = BoxFuture<'static, Result<DistributedGuard, LockError>>;

/// An acquisition that has begun.
pub(super) struct Asked {
    pub(super) mode: WaitMode,
    pub(super) limits: HoldLimits,
    /// When it began, on the node's clock, and in true time.
    pub(super) began: Time,
    at: Moment,
    /// How many acquisitions of the key had begun at this node, if all of them had ended.
    alone_after: Option<u64>,
    /// What the observer had been told when the guard was made, if that was not here.
    pub(super) losses_told: Option<usize>,
}

/// An acquisition, and then the guard that it got, until this is dropped.
pub(super) struct KeyUse {
    world: Arc<World>,
    of: KeyOfNode,
}

/// Polls a future once.
pub(super) async fn poll_once<T>(
    future: &mut Pin<Box<impl Future<Output = T> + ?Sized>>,
) -> Option<T> {
    poll_fn(|cx| match future.as_mut().poll(cx) {
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
        handle: &Node,
        is_thread: bool,
    ) -> Self {
        let mut user = Self { world, node, key, lock: None, is_thread };
        user.make_lock(handle);
        user
    }

    fn make_lock(&mut self, handle: &Node) {
        let key = self.world.keys[self.key].clone();
        self.lock = Some(handle.lock(key).expect("the key is valid"));
    }

    fn drop_lock(&mut self) {
        self.lock = None;
    }

    pub(super) fn lock(&self) -> &DistributedLock {
        self.lock.as_ref().expect("it has a lock during a turn")
    }

    /// Uses the lock until the faults end.
    pub(super) async fn run(mut self) {
        loop {
            if self.world.chance(self.world.profile.forgets) {
                self.drop_lock();
            }
            self.world.sleep(self.world.between(self.world.profile.idle_time)).await;
            if self.world.is_calm() {
                break;
            }
            if self.lock.is_none() {
                let Some(handle) = self.world.handle(self.node) else { break };
                self.make_lock(&handle);
            }
            if !self.take_turn().await {
                break;
            }
        }
        self.end();
    }

    fn end(self) {
        self.world.nodes.lock()[self.node].users -= 1;
    }

    /// The same of the copy of a process, which has a guard already.
    pub(super) async fn run_with(self, guard: DistributedGuard) {
        let asked = self.ask(WaitMode::Wait, HoldLimits::default());
        let key_use = self.begin_use();
        self.hold(guard, &asked, key_use).await;
        self.run().await;
    }

    /// The same of the copy of a process that waits, and gives up or not.
    pub(super) async fn run_waiting(self, acquire: Acquire) {
        let asked = self.ask(WaitMode::Wait, HoldLimits::default());
        let key_use = self.begin_use();
        let result = if self.world.chance(500) {
            acquire.await.map(Some)
        } else {
            match select(acquire, pin!(self.world.sleep(self.patience()))).await {
                Either::Left((result, _)) => result.map(Some),
                Either::Right(_) => Ok(None),
            }
        };
        match result {
            Ok(Some(guard)) => self.hold(guard, &asked, key_use).await,
            Ok(None) => drop(key_use),
            Err(error) => {
                self.check_error(&asked, &error);
            }
        }
        self.run().await;
    }

    /// Waits for the lock, without a limit, and gives it back: the faults have ended.
    pub(super) async fn run_once(self) {
        let asked = self.ask(WaitMode::Wait, HoldLimits::default());
        let key_use = self.begin_use();
        match self.acquire(asked.mode, asked.limits).await {
            Ok(guard) => self.hold(guard, &asked, key_use).await,
            Err(error) => self.world.violate(format!("a new node does not get a lock: {error}")),
        }
        self.end();
    }

    pub(super) fn acquire(&self, mode: WaitMode, limits: HoldLimits) -> Acquire {
        let (mut lock, is_thread) = (self.lock().clone(), self.is_thread);
        if let Some(at_most) = limits.at_most {
            lock = lock.hold_at_most(at_most);
        }
        if limits.without_renewal {
            lock = lock.without_renewal();
        }
        let (world, node) = (self.world.clone(), self.node);
        Box::pin(async move {
            match mode {
                _ if is_thread => {
                    let mut acquire = lock.handle.acquire(mode, lock.limits).spinning();
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

    /// How the next guard is limited.
    fn some_limits(&self) -> HoldLimits {
        let (world, profile) = (&self.world, &self.world.profile);
        let most = if world.chance(500) { profile.hold_time } else { 2 * profile.lease };
        let limit = || Duration::from_nanos(world.below(most));
        let at_most = world.chance(profile.limits).then(limit);
        HoldLimits { at_most, without_renewal: world.chance(profile.unrenewed) }
    }

    /// An acquisition begins now.
    fn ask(&self, mode: WaitMode, limits: HoldLimits) -> Asked {
        let world = &self.world;
        let uses = world.checks.lock().uses.get(&(self.node, self.key)).copied();
        let [active, begun] = uses.unwrap_or_default();
        Asked {
            mode,
            limits,
            began: world.clock(self.node),
            at: world.now(),
            alone_after: (active == 0).then_some(begun),
            losses_told: None,
        }
    }

    fn begin_use(&self) -> KeyUse {
        let of = (self.node, self.key);
        for count in self.world.checks.lock().uses.entry(of).or_default() {
            *count += 1;
        }
        KeyUse { world: self.world.clone(), of }
    }

    /// One acquisition and what follows. Returns whether there may be another one.
    async fn take_turn(&self) -> bool {
        let (world, profile) = (&self.world, &self.world.profile);
        if world.chance(profile.inspects) {
            self.inspect().await;
        }
        if world.fault(profile.breaks) {
            self.break_lock().await;
        }
        let mode = if world.chance(profile.tries) {
            WaitMode::Try
        } else if world.chance(profile.timeouts) {
            WaitMode::Within(Duration::from_nanos(1 + world.below(profile.lease)))
        } else if world.chance(profile.outlasts) {
            WaitMode::Outlast
        } else {
            WaitMode::Wait
        };
        let limits = self.some_limits();
        let mut asked = self.ask(mode, limits);
        let key_use = self.begin_use();
        world.record(format_args!("{}: {self} asks for {}: {mode:?}", self.node, self.key));
        let mut acquire = self.acquire(mode, limits);
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
                    let (result, losses_told) = self.move_to_task(acquire).await;
                    asked.losses_told = Some(losses_told);
                    result
                }
            }
        } else if world.fault(profile.neglects) || world.fault(profile.leaks) {
            is_polled = false;
            match poll_once(&mut acquire).await {
                Some(result) => result,
                None if world.fault(profile.leaks) => {
                    world.record(format_args!("{}: {self} leaks the future", self.node));
                    world.checks.lock().leaked.push((acquire, key_use));
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
        } else if world.fault(profile.forks) && !self.is_thread {
            drop(acquire);
            self.acquire_and_fork(mode, limits).await
        } else {
            acquire.await
        };
        if is_polled {
            self.check_time(&asked, result.as_ref().err());
        }
        match result {
            Ok(guard) => self.hold(guard, &asked, key_use).await,
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

    /// Another task awaits the future, so that a waker of this one does not help any more. Returns also
    /// what the observer had been told by then.
    async fn move_to_task(&self, acquire: Acquire) -> (Result<DistributedGuard, LockError>, usize) {
        let (sender, receiver) = oneshot::channel();
        let (world, node, key) = (self.world.clone(), self.node, self.key);
        self.world.spawn(self.node, "a moved future", async move {
            let result = acquire.await;
            let losses_told = world.checks.lock().losses_told(node, key).len();
            // It fails only if the process is killed.
            let _ = sender.send((result, losses_told));
        });
        match receiver.await {
            Ok(result) => result,
            Err(_) => pending().await,
        }
    }

    /// Has the lock for a while, or until it is lost, and gives it back in one way or another.
    async fn hold(&self, guard: DistributedGuard, asked: &Asked, key_use: KeyUse) {
        let (world, profile) = (&self.world, &self.world.profile);
        let id = world.random();
        let guard = world.begin_guard(self.node, self.key, id, guard, asked);
        if asked.limits != HoldLimits::default() && world.fault(profile.hangs) {
            world.record(format_args!("{}: {self} hangs with the guard", self.node));
            world.checks.lock().hung.push((id, key_use));
            return;
        }
        let longest =
            if world.chance(profile.long_holds) { 2 * profile.lease } else { profile.hold_time };
        let publishes = world.fault(profile.publishes) && !asked.limits.without_renewal;
        let is_lost = {
            let lost = pin!(guard.lost());
            let done = pin!(world.sleep(world.below(longest)));
            // The user gives the guard back whether it is published or not.
            let published = pin!(async {
                if publishes {
                    self.publish(&guard).await;
                }
                pending::<()>().await;
            });
            match select(select(lost, done), published).await {
                Either::Left((Either::Left((why, _)), _)) => Some(why),
                _ => None,
            }
        };
        if let Some(why) = &is_lost {
            world.check_loss(id, &guard, why);
        }
        self.check_published(&guard);
        let limit = world.end_guard(id);
        let guard = Arc::into_inner(guard).expect("nobody else has the guard");
        let began = world.clock(self.node);
        match world.below(4) {
            0 => {
                let result = guard.release().await;
                self.check_release(&result, limit, began, true);
            }
            1 => {
                let patience = world.below(20 * MS);
                let release = Box::pin(guard.release());
                if let Either::Left((result, _)) =
                    select(release, pin!(world.sleep(patience))).await
                {
                    self.check_release(&result, limit, began, false);
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

    /// Publishes a value. If that succeeds and the guard is valid, the register has it.
    async fn publish(&self, guard: &DistributedGuard) {
        let world = &self.world;
        let value = if world.chance(200) { String::new() } else { guard.token().to_string() };
        match guard.publish(&value).await {
            Ok(()) => {
                world.record(format_args!("{}: {self} has published {value:?}", self.node));
                let register = world.engine.lock().stores[self.key].register();
                let found = register.holder.and_then(|holder| holder.value);
                if guard.is_valid() && found.as_deref().unwrap_or_default() != value {
                    let what = format!("{found:?} is published, not {value:?}");
                    world.violate(format!("{}: {self}: {what}", self.node));
                }
            }
            Err(PublishError::Lost { .. }) if !guard.is_valid() => {}
            Err(why) => world.violate(format!("{}: {self} cannot publish: {why}", self.node)),
        }
    }

    // ---- Rules ----

    /// Nothing is published but what this guard has, or one before it at the same node.
    fn check_published(&self, guard: &DistributedGuard) {
        let register = self.world.engine.lock().stores[self.key].register();
        let is_own = guard.acquired_via() != AcquiredVia::LocalHandoff && guard.is_valid();
        let value = register.holder.and_then(|holder| holder.value);
        if let Some(value) = value.filter(|value| is_own && **value != guard.token().to_string()) {
            let what = format!("the holder of {} publishes {value:?}", guard.token());
            self.world.violate(format!("{}: {self}: {what}", self.node));
        }
    }

    /// The result has come in time.
    fn check_time(&self, asked: &Asked, error: Option<&LockError>) {
        let (world, profile) = (&self.world, &self.world.profile);
        let limit = match asked.mode {
            WaitMode::Within(limit) => limit,
            // A dead holder is outlasted, and one after the other of those that it is handed to.
            WaitMode::Outlast if profile.is_faultless() => {
                let windows = profile.handoff_lease * world.nodes.lock().len() as u64;
                let allowance = 2 * profile.lease * profile.clock_error.unsigned_abs() / 1_000_000;
                let looks = profile.request_timeout;
                Duration::from_nanos(profile.lease + allowance + windows + looks)
            }
            _ => return,
        };
        let took = world.clock(self.node).since(asked.began);
        if matches!(error, Some(LockError::TimedOut { .. })) && took < limit {
            world.violate(format!("{}: {self} timed out after {took:?} of {limit:?}", self.node));
        }
        let late = Duration::from_nanos(profile.max_timer_delay + 5 * MS);
        if took > limit + late && !self.was_held_up(asked) {
            world.violate(format!("{}: {self} waited for {took:?}, not {limit:?}", self.node));
        }
    }

    /// Whether this user could not run, or the driver could not.
    pub(super) fn was_held_up(&self, asked: &Asked) -> bool {
        let nodes = self.world.nodes.lock();
        let SimNode { frozen_until, blocked_until, .. } = nodes[self.node];
        let needs_workers = !self.is_thread;
        frozen_until >= asked.at || (needs_workers && blocked_until >= asked.at)
    }

    /// Whether nobody else of the node has used the key since it was asked for.
    fn was_alone(&self, asked: &Asked) -> bool {
        let uses = self.world.checks.lock().uses.get(&(self.node, self.key)).copied();
        let [active, begun] = uses.unwrap_or_default();
        active == 1 && asked.alone_after.is_some_and(|before| begun == before + 1)
    }

    /// The error is one that there may be. Returns whether the node is still open.
    fn check_error(&self, asked: &Asked, error: &LockError) -> bool {
        let (world, node) = (&self.world, self.node);
        world.record(format_args!("{node}: {self} gets {error}"));
        let is_closed = world.nodes.lock()[node].state != NodeState::Open;
        let is_right = match error {
            LockError::Busy { .. } => match asked.mode {
                // Somebody else had the lock, and for an attempt that outlasts there was a sign of life.
                _ if !self.was_alone(asked) => {
                    matches!(asked.mode, WaitMode::Try | WaitMode::Outlast)
                }
                WaitMode::Try => world.was_taken(self.key, asked.at),
                WaitMode::Outlast => world.has_moved(self.key, asked.at),
                _ => false,
            },
            LockError::TimedOut { last, after, .. } => {
                let is_silent = world.is_silent(node, self.key, asked.at, *after);
                let is_silent = is_silent && self.was_alone(asked) && !self.was_held_up(asked);
                matches!(asked.mode, WaitMode::Within(_)) && !(is_silent && last.is_none())
            }
            LockError::Closed { .. } => is_closed,
            LockError::Transport { .. } => !world.profile.is_faultless(),
            LockError::EngineWentBack { .. } => world.was_back(asked.at),
            _ => false,
        };
        if !is_right {
            world.violate(format!("{node}: {self} got {error}, with {:?}", asked.mode));
        }
        !is_closed
    }

    /// Where nothing goes wrong, a release succeeds, and is not left until the next renewal. `began` is
    /// when it was asked for, `limit` the guard's own. `is_polled`: the future was not kept waiting.
    fn check_release(
        &self,
        result: &Result<(), ReleaseError>,
        limit: Option<OwnLimit>,
        began: Time,
        is_polled: bool,
    ) {
        let (world, node) = (&self.world, self.node);
        world.record(format_args!("{node}: {self} has released: {result:?}"));
        let now = world.clock(node);
        let took = now.since(began);
        let is_late = is_polled && took > Duration::from_nanos(world.profile.claim_window);
        let is_limit = matches!(result, Err(ReleaseError::Lost { why: LossReason::HoldLimit, .. }));
        // The node decides between the two moments.
        let may_be_over = limit.is_some_and(|limit| now >= limit.earliest);
        let is_over = limit.is_some_and(|limit| began >= limit.latest);
        let is_wrong = (is_limit && !may_be_over) || (is_over && result.is_ok());
        // The lease has ended before the response came.
        let is_open = may_be_over && matches!(result, Err(ReleaseError::Indeterminate { .. }));
        let is_bad = (result.is_err() && !is_limit && !is_open) || is_late;
        if is_wrong || (world.profile.is_faultless() && is_bad) {
            world.violate(format!("{node}: {self} has released after {took:?}: {result:?}"));
        }
    }
}

impl Drop for User {
    fn drop(&mut self) {
        self.drop_lock();
    }
}

impl Drop for KeyUse {
    fn drop(&mut self) {
        if let Some([active, _]) = self.world.checks.lock().uses.get_mut(&self.of) {
            *active -= 1;
        }
    }
}

impl std::fmt::Display for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.is_thread { "a thread" } else { "a task" })
    }
}

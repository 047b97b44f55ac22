//! The locks of a node for plain threads, which need no runtime.
//!
//! [`Node`], [`Lock`] and [`Guard`] are the blocking forms of [`Node`](super::Node),
//! [`DistributedLock`] and [`DistributedGuard`]. The names repeat those of the async interface on
//! purpose, as in other crates with a module `blocking`.
//!
//! # Waiting
//!
//! Threads and tasks of one node stand in one queue. A thread that waits sleeps. A thread that is first
//! in the queue spins for some tens of microseconds before it sleeps, and yields its processor between
//! the checks. While uses of the lock are shorter than that, a thread that joins the queue and is about
//! to sleep wakes the first one, so that it is awake when its turn comes. Other threads and tasks may
//! take the lock before the first thread for a short time, since a wake-up takes longer than a short use
//! of the lock: see [`barging_window`](super::NodeBuilder::barging_window).
//!
//! # Threads of a runtime
//!
//! The calling thread may belong to a tokio runtime:
//!
//! - A worker of a multi-thread runtime tells the runtime that it blocks
//!   (`tokio::task::block_in_place`). Inside a `LocalSet` that is not possible, and tokio panics.
//! - A thread of `spawn_blocking` may wait.
//! - The thread of the current-thread runtime that runs the node would wait for itself. It gets
//!   [`LockError::WouldDeadlock`]. So does an [`Observer`](super::Observer) that is called by the node's
//!   background task.
//! - On a thread of the node's current-thread runtime, a call blocks for up to 1 s if the node's
//!   background task has never run, since it is not known yet which thread runs it. After that the
//!   call ends as if it were this thread. This includes `try_acquire` and `release`.
//! - If nothing drives the node's current-thread runtime, a waiting thread waits until something does.

use super::admin::{ForcedRelease, KeyState};
use super::error::{LockError, ReleaseError};
use super::fence::FencingToken;
use super::guard::{AcquiredVia, DistributedGuard, LossReason};
use super::key::{Key, KeyError};
use super::local::parker::Parker;
use super::local::{AcquireFuture, WaitMode};
use super::lock::DistributedLock;
use super::node::{self, NodeShared, Shutdown};
use crate::primitive::spin_loop;
use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;
use tokio::runtime::{Handle, RuntimeFlavor};

/// The blocking form of [`Node`](super::Node): from [`Node::blocking`](super::Node::blocking). It is a
/// clone of the node, and keeps it alive.
#[derive(Clone, Debug)]
pub struct Node {
    node: node::Node,
}

impl Node {
    pub(crate) fn new(node: node::Node) -> Self {
        Self { node }
    }

    /// The lock of this key: see [`Node::lock`](super::Node::lock). Does not block.
    ///
    /// # Errors
    ///
    /// [`LockError::Key`] if the name is not a valid [`Key`].
    pub fn lock<K>(&self, key: K) -> Result<Lock, LockError>
    where
        K: TryInto<Key, Error: Into<KeyError>>,
    {
        Ok(Lock { lock: self.node.lock(key)? })
    }

    /// Reads the state of a key from the engine: see [`Node::inspect`](super::Node::inspect).
    ///
    /// # Errors
    ///
    /// Those of [`Node::inspect`](super::Node::inspect), and [`LockError::WouldDeadlock`].
    ///
    /// # Panics
    ///
    /// Tokio panics inside a `LocalSet` of a multi-thread runtime.
    pub fn inspect<K>(&self, key: K) -> Result<KeyState, LockError>
    where
        K: TryInto<Key, Error: Into<KeyError>>,
    {
        let (shared, key) = (self.node.shared(), node::to_key(key)?);
        wait(shared, self.node.inspect(&key), || false)
            .unwrap_or_else(|| would_deadlock(shared, &key))
    }

    /// **Takes the lock away from its present holder**: see
    /// [`Node::break_lock`](super::Node::break_lock).
    ///
    /// # Errors
    ///
    /// Those of [`Node::break_lock`](super::Node::break_lock), and [`LockError::WouldDeadlock`].
    ///
    /// # Panics
    ///
    /// Tokio panics inside a `LocalSet` of a multi-thread runtime.
    pub fn break_lock<K>(&self, key: K) -> Result<Option<ForcedRelease>, LockError>
    where
        K: TryInto<Key, Error: Into<KeyError>>,
    {
        let (shared, key) = (self.node.shared(), node::to_key(key)?);
        wait(shared, self.node.break_lock(&key), || false)
            .unwrap_or_else(|| would_deadlock(shared, &key))
    }

    /// Closes the node, and waits for the release of its locks: see
    /// [`Node::shutdown`](super::Node::shutdown).
    ///
    /// On a thread that would wait for itself it closes the node, does not wait, and returns an empty
    /// report.
    ///
    /// # Panics
    ///
    /// Tokio panics inside a `LocalSet` of a multi-thread runtime.
    pub fn shutdown(&self) -> Shutdown {
        let shared = self.node.shared();
        let mut shutdown = Box::pin(self.node.shutdown());
        if would_wait_for_itself(shared) {
            // The first poll closes the node.
            drop(poll_once(shutdown.as_mut()));
            return Shutdown::default();
        }
        wait(shared, shutdown, || false).unwrap_or_default()
    }
}

/// The blocking form of [`DistributedLock`]. It does not keep the node alive.
#[derive(Clone, Debug)]
pub struct Lock {
    lock: DistributedLock,
}

impl Lock {
    /// The key.
    #[must_use]
    pub fn key(&self) -> &Key {
        self.lock.key()
    }

    /// The same lock, whose guards are valid for at most `limit`: see
    /// [`DistributedLock::hold_at_most`].
    #[must_use]
    pub fn hold_at_most(self, limit: Duration) -> Self {
        Self { lock: self.lock.hold_at_most(limit) }
    }

    /// The same lock, whose guards are valid for one lease: see [`DistributedLock::without_renewal`].
    #[must_use]
    pub fn without_renewal(self) -> Self {
        Self { lock: self.lock.without_renewal() }
    }

    /// Waits for the lock, without a limit of time: see [`DistributedLock::acquire`].
    ///
    /// # Errors
    ///
    /// Those of [`DistributedLock::acquire`], and [`LockError::WouldDeadlock`].
    ///
    /// # Panics
    ///
    /// Tokio panics inside a `LocalSet` of a multi-thread runtime.
    pub fn acquire(&self) -> Result<Guard, LockError> {
        self.acquire_by(WaitMode::Wait)
    }

    /// Acquires the lock if it is free: see [`DistributedLock::try_acquire`]. It blocks for the
    /// response of the engine, but not for the lock.
    ///
    /// # Errors
    ///
    /// Those of [`DistributedLock::try_acquire`], and [`LockError::WouldDeadlock`].
    ///
    /// # Panics
    ///
    /// Tokio panics inside a `LocalSet` of a multi-thread runtime.
    pub fn try_acquire(&self) -> Result<Guard, LockError> {
        self.acquire_by(WaitMode::Try)
    }

    /// Acquires the lock if it is free or its holder is dead: see
    /// [`DistributedLock::try_acquire_or_outlast`]. It blocks until that is known.
    ///
    /// # Errors
    ///
    /// Those of [`DistributedLock::try_acquire_or_outlast`], and [`LockError::WouldDeadlock`].
    ///
    /// # Panics
    ///
    /// Tokio panics inside a `LocalSet` of a multi-thread runtime.
    pub fn try_acquire_or_outlast(&self) -> Result<Guard, LockError> {
        self.acquire_by(WaitMode::Outlast)
    }

    /// Waits for the lock, for at most `timeout`: see [`DistributedLock::acquire_timeout`].
    ///
    /// # Errors
    ///
    /// Those of [`DistributedLock::acquire_timeout`], and [`LockError::WouldDeadlock`].
    ///
    /// # Panics
    ///
    /// Tokio panics inside a `LocalSet` of a multi-thread runtime.
    pub fn acquire_timeout(&self, timeout: Duration) -> Result<Guard, LockError> {
        self.acquire_by(WaitMode::Within(timeout))
    }

    fn acquire_by(&self, mode: WaitMode) -> Result<Guard, LockError> {
        let handle = &self.lock.handle;
        let shared = &handle.shared;
        if would_wait_for_itself(shared) {
            return would_deadlock(shared, self.key());
        }
        let acquire = handle.acquire(mode, self.lock.limits).spinning();
        let guard = in_place(|| park_until(acquire, AcquireFuture::is_next))?;
        Ok(Guard { guard })
    }
}

/// The blocking form of [`DistributedGuard`]. Dropping it releases the lock in the background, and does
/// not block.
#[derive(Debug)]
#[must_use = "the lock is released when the guard is dropped"]
pub struct Guard {
    guard: DistributedGuard,
}

impl Guard {
    /// The key.
    #[must_use]
    pub fn key(&self) -> &Key {
        self.guard.key()
    }

    /// The fencing token: see [`DistributedGuard::token`].
    #[must_use]
    pub fn token(&self) -> FencingToken {
        self.guard.token()
    }

    /// How the lock was acquired: see [`DistributedGuard::acquired_via`].
    #[must_use]
    pub fn acquired_via(&self) -> AcquiredVia {
        self.guard.acquired_via()
    }

    /// Whether the lock is held at this moment: see [`DistributedGuard::is_valid`]. Does not block.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.guard.is_valid()
    }

    /// How long the lease lasts without a renewal: see [`DistributedGuard::remaining`]. Does not block.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.guard.remaining()
    }

    /// Waits until the lock is lost: see [`DistributedGuard::lost`]. This is a future, for a thread that
    /// has an executor of any kind.
    ///
    /// # Cancel safety
    ///
    /// The future may be dropped at any moment, and made again.
    pub async fn lost(&self) -> LossReason {
        self.guard.lost().await
    }

    /// Releases the lock, and waits until the engine has confirmed that: see
    /// [`DistributedGuard::release`].
    ///
    /// On a thread that would wait for itself it does not wait. The lock is released in the background,
    /// and the result is [`ReleaseError::Indeterminate`] if it is not known at once.
    ///
    /// # Errors
    ///
    /// Those of [`DistributedGuard::release`].
    ///
    /// # Panics
    ///
    /// Tokio panics inside a `LocalSet` of a multi-thread runtime.
    pub fn release(self) -> Result<(), ReleaseError> {
        let shared = self.guard.shared().clone();
        let indeterminate = ReleaseError::Indeterminate { at: shared.context(self.guard.key()) };
        let mut release = Box::pin(self.guard.release());
        if would_wait_for_itself(&shared) {
            return poll_once(release.as_mut()).unwrap_or(Err(indeterminate));
        }
        wait(&shared, release, || true).unwrap_or(Err(indeterminate))
    }
}

/// Blocks until the future is ready. `None` if this thread would wait for itself.
fn wait<F: Future>(shared: &NodeShared, future: F, spins: impl Fn() -> bool) -> Option<F::Output> {
    if would_wait_for_itself(shared) {
        return None;
    }
    let future = Box::pin(future);
    Some(in_place(|| park_until(future, |_| spins())))
}

/// Whether the node's driver needs this thread: it is running on this thread at this moment and has
/// called back, or this is the thread of the current-thread runtime that runs it. (A thread of
/// `spawn_blocking` belongs to that runtime too, but does not run it.)
fn would_wait_for_itself(shared: &NodeShared) -> bool {
    let is_nodes_runtime = |here: Handle| {
        here.runtime_flavor() == RuntimeFlavor::CurrentThread && here.id() == shared.runtime.id()
    };
    shared.driver_thread.is_running_here()
        || Handle::try_current().is_ok_and(is_nodes_runtime)
            && shared.driver_thread.is_this_thread()
}

fn would_deadlock<T>(shared: &NodeShared, key: &Key) -> Result<T, LockError> {
    Err(LockError::WouldDeadlock { at: shared.context(key) })
}

/// Runs `wait`. A worker of a multi-thread runtime tells the runtime first that it blocks.
fn in_place<T>(wait: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|here| here.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(wait),
        _ => wait(),
    }
}

/// How often a thread checks for a wake-up before it sleeps, if a wake-up is likely to be near. The
/// checks take some tens of microseconds in all. After each the thread yields its processor, since the
/// thread that it waits for may need it.
const SPIN_CHECKS: u32 = 64;

/// The number of pauses before each check. A check has to come soon after a grant, but a check that
/// finds nothing takes cache lines from the thread that uses the lock.
const PAUSES_PER_CHECK: u32 = 16;

/// Wakes one thread.
struct ThreadWaker {
    parker: Parker,
    thread: Thread,
}

impl Wake for ThreadWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.parker.notify() {
            self.thread.unpark();
        }
    }
}

impl ThreadWaker {
    /// Waits for a wake-up since the last call. Spins for `checks` checks before it sleeps.
    fn sleep(&self, checks: u32) {
        for _ in 0..checks {
            (0..PAUSES_PER_CHECK).for_each(|_| spin_loop());
            if self.parker.take() {
                return;
            }
            thread::yield_now();
        }
        self.parker.park(thread::park);
    }
}

thread_local! {
    /// The waker of this thread, while it is not in use.
    static CACHED_WAKER: Cell<Option<Arc<ThreadWaker>>> = const { Cell::new(None) };
}

/// Blocks until the future is ready. While `is_near` holds, the thread spins before it sleeps.
fn park_until<F: Future + Unpin>(mut future: F, is_near: impl Fn(&F) -> bool) -> F::Output {
    // A poll may call code that waits in turn (an observer, say), which then needs a second waker.
    let cached = CACHED_WAKER.try_with(Cell::take).ok().flatten();
    let thread_waker = cached.unwrap_or_else(|| {
        Arc::new(ThreadWaker { parker: Parker::new(), thread: thread::current() })
    });
    let waker = Waker::from(thread_waker.clone());
    let mut cx = Context::from_waker(&waker);
    let output = loop {
        if let Poll::Ready(output) = Pin::new(&mut future).poll(&mut cx) {
            break output;
        }
        thread_waker.sleep(if is_near(&future) { SPIN_CHECKS } else { 0 });
    };
    // This fails if the thread is ending, which needs no waker any more.
    let _ = CACHED_WAKER.try_with(|cached| cached.set(Some(thread_waker)));
    output
}

/// Polls the future once, without a waker.
fn poll_once<F: Future>(future: Pin<&mut F>) -> Option<F::Output> {
    match future.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

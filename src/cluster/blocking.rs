//! The same for plain threads, which need no runtime.
//!
//! Threads and tasks of one node stand in one line. A thread that waits sleeps; one that is the next
//! in line spins for some tens of microseconds before that, and lets others run meanwhile. While nobody
//! holds the lock for longer than that, a thread that joins the line and is about to sleep wakes the one
//! that is next, which is awake then when its turn comes. A thread that is next may be overtaken for a
//! moment, since to wake it takes longer than to use the lock once more:
//! [`barging_time`](super::NodeBuilder::barging_time).
//!
//! The thread may belong to a runtime. On a worker of a multi-thread runtime the others are told
//! (`tokio::task::block_in_place`; inside a `LocalSet` that is not possible, and tokio panics). On
//! the thread of the very current-thread runtime that runs the node, and in an observer that the
//! node's background task calls, waiting would be for ever: [`LockError::WouldDeadlock`].
//! (`spawn_blocking` is fine.) A thread that waits while nobody runs that runtime waits until somebody
//! does.

use super::core::Core;
use super::error::{LockError, ReleaseError};
use super::guard::{DistributedGuard, LossReason, Way};
use super::key::{Key, KeyError};
use super::local::Kind;
use super::lock::DistributedLock;
use super::node::{self, Broken, KeyState, Shutdown};
use super::token::FencingToken;
use std::future::Future;
use std::time::Duration;
use tokio::runtime::{Handle, RuntimeFlavor};

// What wakes a thread.
mod bell;
// A thread that waits for a future.
mod parker;

/// [`Node`](super::Node) for plain threads: from [`Node::blocking`](super::Node::blocking). It keeps
/// the node alive.
#[derive(Clone, Debug)]
pub struct Node {
    node: node::Node,
}

impl Node {
    pub(crate) fn new(node: node::Node) -> Self {
        Self { node }
    }

    /// As [`Node::lock`](super::Node::lock).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn lock<K>(&self, key: K) -> Result<Lock, LockError>
    where
        K: TryInto<Key, Error: Into<KeyError>>,
    {
        Ok(Lock { lock: self.node.lock(key)? })
    }

    /// As [`Node::inspect`](super::Node::inspect).
    ///
    /// # Errors
    ///
    /// As there, and [`LockError::WouldDeadlock`].
    pub fn inspect<K>(&self, key: K) -> Result<KeyState, LockError>
    where
        K: TryInto<Key, Error: Into<KeyError>>,
    {
        let (core, key) = (self.node.core()?, node::to_key(key)?);
        wait(core, self.node.inspect(&key), || false).unwrap_or_else(|| would_deadlock(core, &key))
    }

    /// As [`Node::break_lock`](super::Node::break_lock).
    ///
    /// # Errors
    ///
    /// As there, and [`LockError::WouldDeadlock`].
    pub fn break_lock<K>(&self, key: K) -> Result<Option<Broken>, LockError>
    where
        K: TryInto<Key, Error: Into<KeyError>>,
    {
        let (core, key) = (self.node.core()?, node::to_key(key)?);
        wait(core, self.node.break_lock(&key), || false)
            .unwrap_or_else(|| would_deadlock(core, &key))
    }

    /// As [`Node::shutdown`](super::Node::shutdown). On the thread of the runtime that runs the node
    /// it does not wait, and returns an empty report.
    pub fn shutdown(&self) -> Shutdown {
        let Ok(core) = self.node.core() else { return Shutdown::default() };
        let mut shutdown = Box::pin(self.node.shutdown());
        if is_own_runtime(core) {
            // The first poll closes the node.
            drop(parker::poll_once(shutdown.as_mut()));
            return Shutdown::default();
        }
        wait(core, shutdown, || false).unwrap_or_default()
    }
}

/// [`DistributedLock`] for plain threads.
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

    /// As [`DistributedLock::acquire`].
    ///
    /// # Errors
    ///
    /// As there, and [`LockError::WouldDeadlock`].
    pub fn acquire(&self) -> Result<Guard, LockError> {
        self.get(Kind::Wait)
    }

    /// As [`DistributedLock::try_acquire`].
    ///
    /// # Errors
    ///
    /// As there, and [`LockError::WouldDeadlock`].
    pub fn try_acquire(&self) -> Result<Guard, LockError> {
        self.get(Kind::Try)
    }

    /// As [`DistributedLock::acquire_timeout`].
    ///
    /// # Errors
    ///
    /// As there, and [`LockError::WouldDeadlock`].
    pub fn acquire_timeout(&self, timeout: Duration) -> Result<Guard, LockError> {
        self.get(Kind::Within(timeout))
    }

    fn get(&self, kind: Kind) -> Result<Guard, LockError> {
        let handle = &self.lock.handle;
        let core = &handle.core;
        if is_own_runtime(core) {
            return would_deadlock(core, self.key());
        }
        let acquire = handle.acquire(kind).spinning();
        let guard = in_place(|| parker::wait(acquire, super::local::Acquire::is_next))?;
        Ok(Guard { guard })
    }
}

/// [`DistributedGuard`] for plain threads.
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

    /// As [`DistributedGuard::token`].
    #[must_use]
    pub fn token(&self) -> FencingToken {
        self.guard.token()
    }

    /// As [`DistributedGuard::way`].
    #[must_use]
    pub fn way(&self) -> Way {
        self.guard.way()
    }

    /// As [`DistributedGuard::is_valid`].
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.guard.is_valid()
    }

    /// As [`DistributedGuard::remaining`].
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.guard.remaining()
    }

    /// As [`DistributedGuard::lost`]: a future, for a thread that has an executor of some kind.
    pub async fn lost(&self) -> LossReason {
        self.guard.lost().await
    }

    /// As [`DistributedGuard::release`]. On the thread of the runtime that runs the node it does not
    /// wait: what is not known at once is [`ReleaseError::InDoubt`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn release(self) -> Result<(), ReleaseError> {
        let core = self.guard.core().clone();
        let in_doubt = ReleaseError::InDoubt { at: core.place(self.guard.key()) };
        let mut release = Box::pin(self.guard.release());
        if is_own_runtime(&core) {
            return parker::poll_once(release.as_mut()).unwrap_or(Err(in_doubt));
        }
        wait(&core, release, || true).unwrap_or(Err(in_doubt))
    }
}

/// Waits for the future. `None` if that would be for ever.
fn wait<F: Future>(core: &Core, future: F, spin: impl Fn() -> bool) -> Option<F::Output> {
    if is_own_runtime(core) {
        return None;
    }
    let future = Box::pin(future);
    Some(in_place(|| parker::wait(future, |_| spin())))
}

/// Whether this thread runs the current-thread runtime that the node needs, or is called by the
/// node's driver itself. A thread of `spawn_blocking` belongs to the runtime, and does not run it.
fn is_own_runtime(core: &Core) -> bool {
    let is_own = |here: Handle| {
        here.runtime_flavor() == RuntimeFlavor::CurrentThread && here.id() == core.runtime.id()
    };
    core.driving.is_here()
        || Handle::try_current().is_ok_and(is_own) && core.driving.is_by_this_thread()
}

/// Tells a multi-thread runtime, if this is a thread of one, that this thread waits.
fn in_place<T>(wait: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|here| here.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(wait),
        _ => wait(),
    }
}

fn would_deadlock<T>(core: &Core, key: &Key) -> Result<T, LockError> {
    Err(LockError::WouldDeadlock { at: core.place(key) })
}

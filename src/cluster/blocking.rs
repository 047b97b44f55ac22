//! The same for plain threads, which need no runtime.
//!
//! Threads and tasks of one node stand in one queue. A thread that waits sleeps; one that is the next
//! in line spins for some tens of microseconds before that, and lets others run meanwhile. While nobody
//! holds the lock for longer than that, a thread that joins the queue and is about to sleep wakes the one
//! that is next, which is awake then when its turn comes. A thread that is next may be overtaken for a
//! moment, since to wake it takes longer than to use the lock once more:
//! [`barging_window`](super::NodeBuilder::barging_window).
//!
//! The thread may belong to a runtime. On a worker of a multi-thread runtime the others are told
//! (`tokio::task::block_in_place`; inside a `LocalSet` that is not possible, and tokio panics). On
//! the thread of the very current-thread runtime that runs the node, and in an observer that the
//! node's background task calls, waiting would be for ever: [`LockError::WouldDeadlock`].
//! (`spawn_blocking` is fine.) A thread that waits while nobody runs that runtime waits until somebody
//! does.

use super::admin::{ForcedRelease, KeyState};
use super::error::{LockError, ReleaseError};
use super::guard::{AcquiredVia, DistributedGuard, LossReason};
use super::key::{Key, KeyError};
use super::local::WaitMode;
use super::local::parker::Parker;
use super::lock::DistributedLock;
use super::node::Shutdown;
use super::node::{self, NodeShared};
use super::token::FencingToken;
use crate::primitive::spin_loop;
use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::thread::Thread;
use std::time::Duration;
use tokio::runtime::{Handle, RuntimeFlavor};

// What wakes a thread.

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
        let (core, key) = (self.node.core(), node::to_key(key)?);
        wait(core, self.node.inspect(&key), || false).unwrap_or_else(|| would_deadlock(core, &key))
    }

    /// As [`Node::break_lock`](super::Node::break_lock).
    ///
    /// # Errors
    ///
    /// As there, and [`LockError::WouldDeadlock`].
    pub fn break_lock<K>(&self, key: K) -> Result<Option<ForcedRelease>, LockError>
    where
        K: TryInto<Key, Error: Into<KeyError>>,
    {
        let (core, key) = (self.node.core(), node::to_key(key)?);
        wait(core, self.node.break_lock(&key), || false)
            .unwrap_or_else(|| would_deadlock(core, &key))
    }

    /// As [`Node::shutdown`](super::Node::shutdown). On the thread of the runtime that runs the node
    /// it does not wait, and returns an empty report.
    pub fn shutdown(&self) -> Shutdown {
        let core = self.node.core();
        let mut shutdown = Box::pin(self.node.shutdown());
        if is_own_runtime(core) {
            // The first poll closes the node.
            drop(poll_once(shutdown.as_mut()));
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
        self.get(WaitMode::Wait)
    }

    /// As [`DistributedLock::try_acquire`].
    ///
    /// # Errors
    ///
    /// As there, and [`LockError::WouldDeadlock`].
    pub fn try_acquire(&self) -> Result<Guard, LockError> {
        self.get(WaitMode::Try)
    }

    /// As [`DistributedLock::acquire_timeout`].
    ///
    /// # Errors
    ///
    /// As there, and [`LockError::WouldDeadlock`].
    pub fn acquire_timeout(&self, timeout: Duration) -> Result<Guard, LockError> {
        self.get(WaitMode::Within(timeout))
    }

    fn get(&self, mode: WaitMode) -> Result<Guard, LockError> {
        let handle = &self.lock.handle;
        let core = &handle.core;
        if is_own_runtime(core) {
            return would_deadlock(core, self.key());
        }
        let acquire = handle.acquire(mode).spinning();
        let guard = in_place(|| park_until(acquire, super::local::Acquire::is_next))?;
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

    /// As [`DistributedGuard::acquired_via`].
    #[must_use]
    pub fn acquired_via(&self) -> AcquiredVia {
        self.guard.acquired_via()
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
    /// wait: what is not known at once is [`ReleaseError::Indeterminate`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn release(self) -> Result<(), ReleaseError> {
        let core = self.guard.core().clone();
        let indeterminate = ReleaseError::Indeterminate { at: core.context(self.guard.key()) };
        let mut release = Box::pin(self.guard.release());
        if is_own_runtime(&core) {
            return poll_once(release.as_mut()).unwrap_or(Err(indeterminate));
        }
        wait(&core, release, || true).unwrap_or(Err(indeterminate))
    }
}

/// Waits for the future. `None` if that would be for ever.
fn wait<F: Future>(core: &NodeShared, future: F, spin: impl Fn() -> bool) -> Option<F::Output> {
    if is_own_runtime(core) {
        return None;
    }
    let future = Box::pin(future);
    Some(in_place(|| park_until(future, |_| spin())))
}

/// Whether this thread runs the current-thread runtime that the node needs, or is called by the
/// node's driver itself. A thread of `spawn_blocking` belongs to the runtime, and does not run it.
fn is_own_runtime(core: &NodeShared) -> bool {
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

fn would_deadlock<T>(core: &NodeShared, key: &Key) -> Result<T, LockError> {
    Err(LockError::WouldDeadlock { at: core.context(key) })
}

// A thread that waits for a future: it spins for a moment, then sleeps.
/// How often to look before sleeping, when the wake-up is likely to be near: some tens of microseconds.
/// After each the thread lets others run that want to: the one that it waits for may be among them.
const LOOKS: u32 = 64;

/// How many pauses between two looks. Who is granted the lock is to know at once; but a look that finds
/// nothing takes the lock's cache lines from those who use it.
const PAUSES: u32 = 16;

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
    /// Returns when woken, since the last return.
    fn sleep(&self, looks: u32) {
        for _ in 0..looks {
            (0..PAUSES).for_each(|_| spin_loop());
            if self.parker.take() {
                return;
            }
            thread::yield_now();
        }
        self.parker.park(thread::park);
    }
}

thread_local! {
    /// This thread's, unless it is in use.
    static OWN: Cell<Option<Arc<ThreadWaker>>> = const { Cell::new(None) };
}

/// Waits for the future. Where `is_near` says so, the thread spins before it sleeps.
fn park_until<F: Future + Unpin>(mut future: F, is_near: impl Fn(&F) -> bool) -> F::Output {
    // A thread that waits while it waits (in an observer, say) needs a second one.
    let own = OWN.try_with(Cell::take).ok().flatten();
    let thread_waker = own.unwrap_or_else(|| {
        Arc::new(ThreadWaker { parker: Parker::new(), thread: thread::current() })
    });
    let waker = Waker::from(thread_waker.clone());
    let mut cx = Context::from_waker(&waker);
    let output = loop {
        if let Poll::Ready(output) = Pin::new(&mut future).poll(&mut cx) {
            break output;
        }
        thread_waker.sleep(if is_near(&future) { LOOKS } else { 0 });
    };
    // A thread that is about to end has no use for it.
    let _ = OWN.try_with(|own| own.set(Some(thread_waker)));
    output
}

/// One look at the future; nobody is woken when it goes on.
fn poll_once<F: Future>(future: Pin<&mut F>) -> Option<F::Output> {
    match future.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

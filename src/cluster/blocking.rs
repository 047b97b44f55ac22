//! The locks of a node for plain threads, which need no runtime.
//!
//! [`Node`], [`Lock`] and [`Guard`] are the blocking forms of [`Node`](super::Node),
//! [`DistributedLock`] and [`DistributedGuard`]. The names repeat those of the async interface on
//! purpose, as in other crates with a module `blocking`. So does [`connect`].
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use lockword::cluster::{Node, blocking};
//!
//! let node = Node::builder(blocking::connect("memory:")?).build()?.blocking();
//! let guard = node.lock("jobs/nightly")?.acquire()?;
//! guard.release()?;
//! # Ok(())
//! # }
//! ```
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
//! - The thread of a current-thread runtime that was given to the node, and runs it, would wait for itself.
//!   It gets [`LockError::WouldDeadlock`].
//! - The thread of a current-thread runtime that was given to the *connections* alone
//!   ([`connect_on`](super::connect_on)) is not noticed: a call there gets no answer, and ends by its
//!   timeouts. Give the node the same runtime.
//! - On a thread of such a runtime, a call blocks for up to 1 s, and not longer than its timeout, if the
//!   node's background task has never run, since it is not known yet which thread runs it. After that the
//!   call ends as on the thread that runs the node. This includes `try_acquire` and `release`. A call without
//!   a timeout also does so if that task has run last on another thread, from which the runtime may have
//!   moved here.
//!
//! # In code that a node calls
//!
//! What a node's background task calls would wait for that task: an [`Observer`](super::Observer), a
//! [`Transport`], a waker. A blocking call of any node gets
//! [`LockError::WouldDeadlock`] there, at once. It is the same in what [`Node::inspect`] and
//! [`Node::break_lock`] call. (A future that the code itself polls to its end is not noticed, and waits for
//! ever.)
//!
//! # If nothing runs the node
//!
//! The runtime that was given to a node may be one that nobody drives, or whose threads are blocked. A
//! thread that waits measures its own time then, and wakes by itself:
//!
//! - `acquire_timeout` ends at its timeout;
//! - `release` ends a request timeout after the lease, and is [`ReleaseError::Indeterminate`];
//! - `inspect` ends after two request timeouts, `shutdown` after three, and `break_lock` after as many as
//!   its requests may take;
//! - `acquire`, `try_acquire` and `try_acquire_or_outlast` have no limit of time, and wait until something
//!   runs the node.
//!
//! If the runtime has ended, each call returns [`LockError::Closed`] at once.
//!
//! A waiting thread sleeps on a word of this crate's own. The tokens of its [`std::thread::park`] stay the
//! caller's: none is used up, and none wakes it.

use super::admin::{ForcedRelease, KeyState, MAX_BREAKS};
use super::background::{self, Background};
use super::engines::ConnectError;
use super::error::{BREAKING, INSPECTING, LockError, PublishError, ReleaseError};
use super::fence::FencingToken;
use super::guard::{AcquiredVia, DistributedGuard, LossReason};
use super::key::{Key, KeyError};
use super::local::driver_task::is_running_here;
use super::local::parker::Parker;
use super::local::{AcquireFuture, WaitMode};
use super::lock::DistributedLock;
use super::node::{self, NodeShared, Shutdown};
use super::observe;
use super::protocol::Time;
use super::transport::Transport;
use crate::primitive::spin_loop;
use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};
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
        wait_within(shared, &key, INSPECTING, 2, self.node.inspect(&key))
    }

    /// Follows a key: see [`Node::observe`](super::Node::observe). Does not block.
    ///
    /// # Errors
    ///
    /// [`LockError::Key`] if the name is not a valid [`Key`].
    pub fn observe<K>(&self, key: K) -> Result<KeyStates, LockError>
    where
        K: TryInto<Key, Error: Into<KeyError>>,
    {
        Ok(KeyStates { states: self.node.observe(key)?, is_over: false })
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
        wait_within(shared, &key, BREAKING, MAX_BREAKS + 2, self.node.break_lock(&key))
    }

    /// Closes the node, and waits for the release of its locks: see
    /// [`Node::shutdown`](super::Node::shutdown).
    ///
    /// On a thread that would wait for itself it closes the node, does not wait, and returns an empty
    /// report. If nothing runs the node, the report names all keys that the node knows as indeterminate,
    /// after three [request timeouts](super::NodeBuilder::request_timeout).
    ///
    /// # Panics
    ///
    /// Tokio panics inside a `LocalSet` of a multi-thread runtime.
    pub fn shutdown(&self) -> Shutdown {
        let shared = self.node.shared();
        if shared.is_foreign() {
            return Shutdown::default();
        }
        let mut shutdown = Box::pin(self.node.shutdown());
        if would_wait_for_itself(shared, None) {
            // The first poll closes the node.
            drop(poll_once(shutdown.as_mut()));
            return Shutdown::default();
        }
        let until = shared.clock.now() + shared.config.request_timeout * 3;
        let report = in_place(|| park_until(shared, shutdown, |_| Some(until), |_| false));
        report.unwrap_or_else(|| Shutdown {
            indeterminate: shared.known_keys(),
            ..Shutdown::default()
        })
    }
}

/// The blocking form of [`DistributedLock`]. It does not keep the node alive.
#[derive(Clone, Debug)]
pub struct Lock {
    pub(super) lock: DistributedLock,
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
        if shared.is_foreign() {
            return Err(shared.closed(self.key()));
        }
        let limit = if let WaitMode::Within(limit) = mode { Some(limit) } else { None };
        if would_wait_for_itself(shared, limit) {
            return would_deadlock(shared, self.key());
        }
        let acquire = handle.acquire(mode, self.lock.limits).spinning();
        let until = AcquireFuture::deadline;
        let guard = in_place(|| park_until(shared, acquire, until, AcquireFuture::is_next));
        // The future itself ends at its deadline, so there always is a result.
        let guard = guard.unwrap_or_else(|| Err(shared.closed(self.key())))?;
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

    /// Publishes a text with the lock, and waits until the engine has confirmed it: see
    /// [`DistributedGuard::publish`].
    ///
    /// # Errors
    ///
    /// Those of [`DistributedGuard::publish`], and [`PublishError::WouldDeadlock`].
    ///
    /// # Panics
    ///
    /// Tokio panics inside a `LocalSet` of a multi-thread runtime.
    pub fn publish(&self, value: &str) -> Result<(), PublishError> {
        let (shared, at) = (self.guard.shared(), || self.guard.shared().context(self.key()));
        if !shared.is_foreign() && would_wait_for_itself(shared, None) {
            return Err(PublishError::WouldDeadlock { at: at() });
        }
        if shared.is_foreign() {
            return Err(PublishError::Lost { at: at(), why: LossReason::Closed });
        }
        // The lease may be renewed meanwhile.
        let until = |_: &_| Some(self.guard.ends_at() + shared.config.request_timeout);
        let publish = Box::pin(self.guard.publish(value));
        let published = in_place(|| park_until(shared, publish, until, |_| false));
        published.unwrap_or_else(|| {
            let last = Some(shared.not_run().to_string());
            Err(PublishError::Lost { at: at(), why: LossReason::Expired { last } })
        })
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
        let until = shared.clock.now() + self.guard.remaining() + shared.config.request_timeout;
        let mut release = Box::pin(self.guard.release());
        if shared.is_foreign() || would_wait_for_itself(&shared, None) {
            return poll_once(release.as_mut()).unwrap_or(Err(indeterminate));
        }
        let released = in_place(|| park_until(&shared, release, |_| Some(until), |_| true));
        released.unwrap_or(Err(indeterminate))
    }
}

/// The blocking form of [`KeyStates`](super::KeyStates). As an iterator it blocks for the next state, without a limit
/// of time, and ends after [`LockError::Closed`] or [`LockError::WouldDeadlock`].
#[derive(Debug)]
pub struct KeyStates {
    states: observe::KeyStates,
    /// This thread must not wait.
    is_over: bool,
}

impl KeyStates {
    /// The key.
    #[must_use]
    pub fn key(&self) -> &Key {
        self.states.key()
    }

    /// Waits for the next state: see [`KeyStates::next`](super::KeyStates::next). `Ok(None)` if there is none within
    /// `timeout`.
    ///
    /// # Errors
    ///
    /// Those of the states, and [`LockError::WouldDeadlock`]. [`LockError::Closed`] again and again once the node is
    /// closed.
    ///
    /// # Panics
    ///
    /// Tokio panics inside a `LocalSet` of a multi-thread runtime.
    pub fn next_within(&mut self, timeout: Duration) -> Result<Option<KeyState>, LockError> {
        match self.wait(Some(timeout)) {
            None => Ok(None),
            Some(Some(state)) => state.map(Some),
            Some(None) => Err(self.states.shared().closed(self.key())),
        }
    }

    /// `None` after the timeout; `Some(None)` after the end.
    fn wait(&mut self, timeout: Option<Duration>) -> Option<Option<Result<KeyState, LockError>>> {
        let shared = self.states.shared().clone();
        if !shared.is_foreign() && would_wait_for_itself(&shared, timeout) {
            return Some(Some(would_deadlock(&shared, self.states.key())));
        }
        let until = timeout.map(|timeout| shared.clock.now() + timeout);
        let next = Box::pin(self.states.next());
        in_place(|| park_until(&shared, next, |_| until, |_| false))
    }
}

impl Iterator for KeyStates {
    type Item = Result<KeyState, LockError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        let next = self.wait(None).flatten();
        self.is_over = matches!(next, Some(Err(LockError::WouldDeadlock { .. })));
        next
    }
}

/// Connects to the engine at this address, and blocks until that has succeeded or failed: see
/// [`cluster::connect`](super::connect()). The connections live on the thread of the process.
///
/// # Errors
///
/// Those of [`cluster::connect`](super::connect()). [`ConnectError::Runtime`] also if the thread of the process
/// calls this, in an [`Observer`](super::Observer) for instance: it would wait for itself.
///
/// # Panics
///
/// Tokio panics inside a `LocalSet` of a multi-thread runtime.
pub fn connect(address: &str) -> Result<Arc<dyn Transport>, ConnectError> {
    let failed = |why: &str| ConnectError::Runtime { cause: why.into() };
    if is_running_here() || background::is_this_thread() {
        return Err(failed("its thread calls this, and would wait for itself"));
    }
    let thread = Background::get().map_err(|why| failed(&why.to_string()))?;
    let (sender, receiver) = mpsc::channel();
    let address = address.to_owned();
    drop(thread.runtime().spawn(async move { sender.send(super::connect(&address).await) }));
    in_place(|| receiver.recv()).unwrap_or_else(|_| Err(failed("it has ended")))
}

/// Blocks until this request for a key is ready, for at most as many request timeouts. `tried` is what the
/// error says if it is not.
fn wait_within<T>(
    shared: &NodeShared,
    key: &Key,
    tried: &'static str,
    request_timeouts: u32,
    request: impl Future<Output = Result<T, LockError>>,
) -> Result<T, LockError> {
    if shared.is_gone() {
        return Err(shared.closed(key));
    }
    let limit = shared.config.request_timeout * request_timeouts;
    if would_wait_for_itself(shared, Some(limit)) {
        return would_deadlock(shared, key);
    }
    let until = shared.clock.now() + limit;
    let result = in_place(|| park_until(shared, Box::pin(request), |_| Some(until), |_| false));
    result.unwrap_or_else(|| {
        Err(LockError::Transport { at: shared.context(key), tried, source: shared.not_run() })
    })
}

/// Whether the node's driver needs this thread: code that a node has called is running on it at this
/// moment, or it is the background thread, on which the connections of engines are too, or this is the
/// thread of the current-thread runtime that runs the driver. (A thread of `spawn_blocking` belongs to
/// that runtime too, but does not run it.) It takes no longer than `limit` to find out.
fn would_wait_for_itself(shared: &NodeShared, limit: Option<Duration>) -> bool {
    let is_nodes_runtime = |here: Handle| {
        here.runtime_flavor() == RuntimeFlavor::CurrentThread && here.id() == shared.runtime.id()
    };
    is_running_here()
        || background::is_this_thread()
        || Handle::try_current().is_ok_and(is_nodes_runtime)
            && shared.driver_thread.is_this_thread(limit, || shared.run_queue.wake())
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
struct ThreadWaker(Parker);

impl Wake for ThreadWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.notify();
    }
}

impl ThreadWaker {
    /// Waits for a wake-up since the last call, or until the deadline. Spins for `checks` checks before it
    /// sleeps.
    fn sleep(&self, checks: u32, deadline: Option<Instant>) {
        for _ in 0..checks {
            (0..PAUSES_PER_CHECK).for_each(|_| spin_loop());
            if self.0.take() {
                return;
            }
            thread::yield_now();
        }
        self.0.park(deadline);
    }
}

thread_local! {
    /// The waker of this thread, while it is not in use.
    static CACHED_WAKER: Cell<Option<Arc<ThreadWaker>>> = const { Cell::new(None) };
}

/// Blocks until the future is ready, or until `until`, if there is such a moment. `None`: it was polled
/// after that moment, and is not ready. The thread needs nobody to wake it at that moment. While `is_near`
/// holds, it spins before it sleeps.
fn park_until<F: Future + Unpin>(
    shared: &NodeShared,
    mut future: F,
    until: impl Fn(&F) -> Option<Time>,
    is_near: impl Fn(&F) -> bool,
) -> Option<F::Output> {
    // A poll may call code that waits in turn (an observer, say), which then needs a second waker.
    let cached = CACHED_WAKER.try_with(Cell::take).ok().flatten();
    let thread_waker = cached.unwrap_or_else(|| Arc::new(ThreadWaker(Parker::new())));
    let waker = Waker::from(thread_waker.clone());
    let mut cx = Context::from_waker(&waker);
    // Before the poll, which comes after the moment then.
    let is_over = |future: &F| until(future).is_some_and(|until| shared.clock.now() >= until);
    let output = loop {
        let is_last = is_over(&future);
        if let Poll::Ready(output) = Pin::new(&mut future).poll(&mut cx) {
            break Some(output);
        }
        if is_last {
            break None;
        }
        // A moment that is too far away to be represented never comes.
        let left = until(&future).map(|until| until.since(shared.clock.now()));
        let deadline = left.and_then(|left| Instant::now().checked_add(left));
        thread_waker.sleep(if is_near(&future) { SPIN_CHECKS } else { 0 }, deadline);
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

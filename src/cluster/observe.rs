//! Who follows a key: a stream of its states.

use super::admin::{KeyState, LockStatus, inspect};
use super::background::AbortOnDrop;
use super::error::LockError;
use super::key::{Key, KeyError};
use super::local::driver::events_of;
use super::local::driver_task::as_driver;
use super::node::{Node, NodeShared, to_key};
use super::process::{OfProcess, leak};
use super::protocol::{Event, Time};
use super::transport::{NodeId, Wakeups};
use crate::Mutex;
use futures_util::future::{Either, FutureExt, pending, select};
use futures_util::stream::{BoxStream, Stream, StreamExt};
use std::fmt;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

impl Node {
    /// Follows a key: the stream yields its state at first, and again when that has changed. Nothing is changed in the
    /// engine, and nobody is kept from the lock.
    ///
    /// What counts as a change: who holds the lock, by which grant, and what it
    /// [publishes](super::DistributedGuard::publish); who waits; a [break](KeyState::last_break); whether the holder
    /// is [overdue](KeyState::is_overdue); and an error after a state, or a state after an error. A renewal does not
    /// count. Only the latest state is kept: if the state changes again before it was taken, the older one is dropped.
    ///
    /// (An [`Observer`](super::Observer) is another thing: it is told what this node itself does.)
    ///
    /// How soon it is told depends on the engine ([`Capabilities::wakeups`](super::Capabilities::wakeups)):
    ///
    /// | engine | a value is published, or the lock is broken | other changes |
    /// |---|---|---|
    /// | memory, `dir:`, etcd: each write wakes all | at once | at once |
    /// | Redis, PostgreSQL: a write wakes the node that is next | at once | within a third of the lease |
    /// | one without notices | within a third of the lease | the same |
    ///
    /// The lease is this node's or the holder's, whichever is shorter. "At once" is within some milliseconds: the stream
    /// makes one request for the notices that have come, one at a time, and one in 10 ms at most. While a watch of the
    /// engine is not in force, all is seen within a third of the lease. Each stream has a watch and requests of its own:
    /// share one among the tasks that follow the same key.
    ///
    /// # Errors
    ///
    /// [`LockError::Key`] if the name is not a valid key. The items of the stream are the results of
    /// [`Node::inspect`]; after [`LockError::Closed`] it ends.
    ///
    /// # Cancel safety
    ///
    /// The stream may be dropped at any moment. It does not keep the node alive.
    pub fn observe<K>(&self, key: K) -> Result<KeyStates, LockError>
    where
        K: TryInto<Key, Error: Into<KeyError>>,
    {
        Ok(observe(self.shared(), to_key(key)?))
    }
}

pub(crate) fn observe(shared: &Arc<NodeShared>, key: Key) -> KeyStates {
    let slot = Arc::new(Slot::default());
    let task = (!shared.is_gone()).then(|| {
        let (end, key) = (End { shared: shared.clone(), slot: slot.clone() }, key.clone());
        // A task that is never polled is dropped with all that it has, too.
        let task = async move {
            let End { shared, slot } = &end;
            as_driver(shared, follow(shared, &key, slot)).await;
        };
        AbortOnDrop::new(shared.runtime.spawn(task))
    });
    let (shared, slot) = (shared.clone(), OfProcess::new(slot));
    KeyStates { shared, key, slot, task, is_over: false }
}

/// The states of a key, from [`Node::observe`].
pub struct KeyStates {
    shared: Arc<NodeShared>,
    key: Key,
    slot: OfProcess<Arc<Slot>>,
    /// It ends with the stream.
    task: Option<AbortOnDrop<()>>,
    is_over: bool,
}

impl KeyStates {
    /// The key.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// The next state; see [`Node::observe`]. `None` if the node is closed, after an error that says so.
    ///
    /// # Errors
    ///
    /// Those of [`Node::inspect`]. The stream goes on.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost if the future is dropped.
    pub async fn next(&mut self) -> Option<Result<KeyState, LockError>> {
        StreamExt::next(self).await
    }

    pub(crate) fn shared(&self) -> &Arc<NodeShared> {
        &self.shared
    }
}

impl Stream for KeyStates {
    type Item = Result<KeyState, LockError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let polled = match self.slot.here() {
            Ok(slot) if self.task.is_some() => slot.poll(cx),
            // A forked child, or a node that was closed before.
            _ => Poll::Ready(None),
        };
        match polled {
            Poll::Ready(None) => {
                self.is_over = true;
                Poll::Ready(Some(Err(self.shared.closed(&self.key))))
            }
            polled => polled,
        }
    }
}

impl Drop for KeyStates {
    fn drop(&mut self) {
        if self.shared.is_foreign() {
            leak(&self.shared);
        }
    }
}

impl fmt::Debug for KeyStates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyStates").field("key", &self.key).finish_non_exhaustive()
    }
}

impl KeyState {
    /// Whether the holder has given no sign of life for longer than its lease: it is dead, or cut off from the engine,
    /// and another node takes the lock when one wants it. As with [`unchanged_for`](Self::unchanged_for), this node
    /// must have looked before.
    #[must_use]
    pub fn is_overdue(&self) -> bool {
        match &self.status {
            LockStatus::Held { lease, .. } => self.unchanged_for > *lease,
            LockStatus::Free => false,
        }
    }

    /// Whether there is nothing new for who follows the key.
    fn is_as(&self, before: &Self) -> bool {
        (&self.status, &self.queue, &self.last_break, self.is_overdue())
            == (&before.status, &before.queue, &before.last_break, before.is_overdue())
    }
}

/// The latest state that was not taken yet.
#[derive(Default)]
struct Slot(Mutex<SlotState>);

#[derive(Default)]
struct SlotState {
    item: Option<Result<KeyState, LockError>>,
    waker: Option<Waker>,
    is_over: bool,
}

impl Slot {
    fn offer(&self, shared: &NodeShared, item: Result<KeyState, LockError>) {
        let mut state = self.0.lock();
        let old = state.item.replace(item);
        let waker = state.waker.take();
        drop(state);
        drop(old);
        shared.wake(waker);
    }

    /// `None` if nothing comes any more.
    fn poll(&self, cx: &mut Context<'_>) -> Poll<Option<Result<KeyState, LockError>>> {
        // The drop of a waker may run code of the user, so it has to come after the mutex.
        let mut _old = None;
        let mut state = self.0.lock();
        if let Some(item) = state.item.take() {
            return Poll::Ready(Some(item));
        }
        if state.is_over {
            return Poll::Ready(None);
        }
        _old = state.waker.replace(cx.waker().clone());
        Poll::Pending
    }
}

/// However the task ends (its runtime may shut down), the reader is told.
struct End {
    shared: Arc<NodeShared>,
    slot: Arc<Slot>,
}

impl Drop for End {
    fn drop(&mut self) {
        if self.shared.is_foreign() {
            leak(&self.slot);
            return leak(&self.shared);
        }
        let mut state = self.slot.0.lock();
        state.is_over = true;
        let waker = state.waker.take();
        drop(state);
        self.shared.wake(waker);
    }
}

/// It looks no more often, however many notices come: each look is a request.
const LEAST_PAUSE: Duration = Duration::from_millis(10);

/// So many notices at a time need one look. Those after them wait for the next one: others run on this thread too.
const NOTICES: usize = 32;

/// Looks at the key after each notice, and at intervals, until the node is closed.
async fn follow(shared: &Arc<NodeShared>, key: &Key, slot: &Slot) {
    // The watch is not that of this node: what wakes the one must not be missed by the other.
    let as_node = NodeId::new(shared.ids.draw());
    let mut watch =
        Subscription { events: None, since: None, failures: 0, retry_at: shared.clock.now() };
    let mut before: Option<Result<KeyState, ()>> = None;
    while !shared.is_gone() {
        let began = shared.clock.now();
        watch.begin(shared, key, as_node, began);
        let seen = inspect(shared.clone(), key.clone()).await;
        if shared.is_gone() {
            return;
        }
        let pause = pause(shared, &seen);
        let is_news = match (&seen, &before) {
            (Ok(seen), Some(Ok(before))) => !seen.is_as(before),
            (Err(_), Some(Err(()))) => false,
            _ => true,
        };
        if is_news {
            before = Some(seen.as_ref().map_err(|_| ()).cloned());
            slot.offer(shared, seen);
        }
        // What was called may have forked, and this is the child.
        if shared.is_gone() {
            return;
        }
        let until = shared.clock.now() + pause;
        let is_told = {
            let notice = pin!(watch.next(shared));
            matches!(select(notice, shared.sleep_until(until)).await, Either::Left(_))
        };
        if is_told {
            watch.drain(shared);
            shared.sleep_until(began + LEAST_PAUSE).await;
        }
    }
}

/// The notices of the key.
struct Subscription {
    events: Option<BoxStream<'static, Event>>,
    /// Since when it is in force.
    since: Option<Time>,
    /// How many in a row have ended soon.
    failures: u32,
    /// No other subscription begins before.
    retry_at: Time,
}

impl Subscription {
    /// Subscribes, unless that is done, or of no use with this engine.
    fn begin(&mut self, shared: &Arc<NodeShared>, key: &Key, as_node: NodeId, now: Time) {
        let is_due = self.events.is_none() && now >= self.retry_at;
        if is_due && shared.capabilities.wakeups != Wakeups::Poll {
            self.events = Some(events_of(shared, key, as_node, ()));
        }
    }

    /// Waits for an event after which a look is due: the watch is in force, has a notice, has ended, or may be begun
    /// again.
    async fn next(&mut self, shared: &Arc<NodeShared>) {
        match &mut self.events {
            Some(events) => {
                let event = events.next().await;
                self.handle(shared, event);
            }
            None if shared.capabilities.wakeups == Wakeups::Poll => pending().await,
            None => shared.sleep_until(self.retry_at).await,
        }
    }

    /// Takes out what is there.
    fn drain(&mut self, shared: &NodeShared) {
        for _ in 0..NOTICES {
            let next = self.events.as_mut().and_then(|events| events.next().now_or_never());
            let Some(event) = next else { return };
            self.handle(shared, event);
        }
    }

    fn handle(&mut self, shared: &NodeShared, event: Option<Event>) {
        let now = shared.clock.now();
        match event {
            Some(Event::Noticed(_)) => {}
            Some(Event::Watching(Ok(()))) => self.since = Some(now),
            _ => {
                self.events = None;
                let lasted = self.since.take().map_or(Duration::ZERO, |since| now.since(since));
                if lasted >= shared.config.claim_window {
                    self.failures = 0;
                }
                self.failures = (self.failures + 1).min(8);
                let wait = Duration::from_millis(5).saturating_mul(1 << self.failures);
                self.retry_at = now + wait.min(shared.config.lease / 3);
            }
        }
    }
}

/// After how long it looks without a notice.
fn pause(shared: &NodeShared, seen: &Result<KeyState, LockError>) -> Duration {
    let own = shared.config.lease;
    let (lease, until_overdue) = match seen {
        Ok(KeyState { status: LockStatus::Held { lease, .. }, unchanged_for, .. }) => {
            let left = lease.saturating_sub(*unchanged_for) + Duration::from_millis(1);
            (own.min(*lease), if unchanged_for > lease { own } else { left })
        }
        _ => (own, own),
    };
    // The lease in the register may be anything.
    (lease / 3).min(until_overdue).max(LEAST_PAUSE)
}

//! What wakes the driver: keys that are to be polled, timers, and the close of the node.

use crate::Mutex;
use crate::cluster::local::LocalKey;
use crate::cluster::protocol::Time;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

/// The run queue of a node's driver, first in first out. Any thread may put into it; only the driver takes
/// out.
#[derive(Debug, Default)]
pub(crate) struct RunQueue {
    state: Mutex<RunQueueState>,
}

#[derive(Debug, Default)]
struct RunQueueState {
    /// The keys that the driver has to poll.
    scheduled: Vec<Arc<LocalKey>>,
    /// The node is closed, and the driver ends at this moment at the latest.
    closing: Option<Time>,
    /// The driver is gone.
    is_shut_down: bool,
    /// The waker of the driver's task, while the task sleeps.
    waker: Option<Waker>,
    /// While the task sleeps: it is polled at this moment at the latest, whatever happens.
    polled_at: Option<Time>,
    timers: BTreeMap<TimerId, Waker>,
    last_timer: u64,
}

/// Identifies a timer of a run queue: the moment at which it fires, and a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TimerId(Time, u64);

impl RunQueue {
    /// Has the driver poll this key.
    pub(crate) fn schedule(&self, key: Arc<LocalKey>) {
        let mut state = self.state.lock();
        if !state.is_shut_down {
            state.scheduled.push(key);
        }
        wake_driver(state);
    }

    /// Has the driver release all keys, and end at this moment at the latest.
    pub(crate) fn close(&self, by: Time) {
        let mut state = self.state.lock();
        state.closing = Some(state.closing.map_or(by, |before| before.max(by)));
        wake_driver(state);
    }

    /// The driver is gone: drops what is scheduled, and returns the wakers of all timers, to be woken.
    #[must_use]
    pub(crate) fn shut_down(&self) -> Vec<Waker> {
        let mut state = self.state.lock();
        state.is_shut_down = true;
        let scheduled = std::mem::take(&mut state.scheduled);
        let timers = std::mem::take(&mut state.timers);
        drop(state);
        drop(scheduled);
        timers.into_values().collect()
    }

    pub(crate) fn is_shut_down(&self) -> bool {
        self.state.lock().is_shut_down
    }

    /// The waker of the driver's task, if the task sleeps and was told nothing since.
    pub(crate) fn waker_if_idle(&self) -> Option<Waker> {
        let state = self.state.lock();
        let is_idle = state.scheduled.is_empty() && state.closing.is_none();
        state.waker.clone().filter(|_| is_idle)
    }

    /// Registers the waker of the driver's task, which cannot lock the driver now.
    pub(crate) fn register(&self, cx: &Context<'_>) {
        let mut state = self.state.lock();
        (state.waker, state.polled_at) = (Some(cx.waker().clone()), None);
    }

    /// Wakes the driver's task if it sleeps.
    pub(crate) fn wake(&self) {
        wake_driver(self.state.lock());
    }

    /// For the driver: moves the scheduled keys into `scheduled`, and returns the moment by which
    /// it has to end. The driver counts as awake until it calls [`RunQueue::sleep`].
    pub(crate) fn drain(&self, scheduled: &mut VecDeque<Arc<LocalKey>>) -> Option<Time> {
        let mut state = self.state.lock();
        (state.waker, state.polled_at) = (None, None);
        scheduled.extend(state.scheduled.drain(..));
        state.closing
    }

    /// For the driver's task, before it sleeps: registers its waker, and returns until when it may sleep:
    /// until the first timer, `due` or `closing`. Pending if there is something new, so that it has to
    /// call [`RunQueue::drain`] first. `closing` is what that returned last.
    pub(crate) fn sleep(
        &self,
        due: Option<Time>,
        closing: Option<Time>,
        cx: &Context<'_>,
    ) -> Poll<Option<Time>> {
        let mut state = self.state.lock();
        if !state.scheduled.is_empty() || state.closing != closing {
            return Poll::Pending;
        }
        state.waker = Some(cx.waker().clone());
        let timer = state.timers.first_key_value().map(|(TimerId(at, _), _)| *at);
        state.polled_at = [timer, due, closing].into_iter().flatten().min();
        Poll::Ready(state.polled_at)
    }

    /// For the driver's task, which is about to sleep: it is polled at this moment already.
    pub(crate) fn set_polled_at(&self, at: Option<Time>) {
        let mut state = self.state.lock();
        if state.waker.is_some() {
            state.polled_at = at.or(state.polled_at);
        }
    }

    /// Whether the driver's task may still sleep at this moment, if nothing wakes it.
    pub(crate) fn may_sleep_past(&self, at: Time) -> bool {
        self.state.lock().may_sleep_past(at)
    }

    /// For the driver: takes out the timers that are due. Returns their wakers, to be woken.
    #[must_use]
    pub(crate) fn take_due(&self, now: Time) -> Vec<Waker> {
        let mut state = self.state.lock();
        let mut due = vec![];
        while let Some(first) = state.timers.first_entry().filter(|first| first.key().0 <= now) {
            due.push(first.remove());
        }
        due
    }

    /// Wakes `waker` at that moment. `timer` identifies the timer between calls; `None` makes one.
    /// Returns false if the driver is gone, so that nothing will be woken.
    pub(crate) fn set_timer(&self, at: Time, timer: &mut Option<TimerId>, waker: &Waker) -> bool {
        // The drop of a waker may run code of the user, so it has to come after the mutex.
        let mut _old = None;
        let mut state = self.state.lock();
        if state.is_shut_down {
            return false;
        }
        if let Some(known) = timer.and_then(|timer| state.timers.get_mut(&timer)) {
            if !known.will_wake(waker) {
                _old = Some(std::mem::replace(known, waker.clone()));
            }
            return true;
        }
        state.last_timer += 1;
        let new = TimerId(at, state.last_timer);
        state.timers.insert(new, waker.clone());
        *timer = Some(new);
        if state.may_sleep_past(at) {
            wake_driver(state);
        }
        true
    }

    pub(crate) fn cancel_timer(&self, timer: Option<TimerId>) {
        if let Some(timer) = timer {
            let waker = self.state.lock().timers.remove(&timer);
            drop(waker);
        }
    }
}

impl RunQueueState {
    fn may_sleep_past(&self, at: Time) -> bool {
        self.polled_at.is_none_or(|polled_at| at < polled_at)
    }
}

/// Wakes the driver if it sleeps, after the mutex is released.
fn wake_driver(mut state: crate::MutexGuard<'_, RunQueueState>) {
    let waker = state.waker.take();
    drop(state);
    // It is the waker of a task of the runtime, and not of the user.
    waker.into_iter().for_each(Waker::wake);
}

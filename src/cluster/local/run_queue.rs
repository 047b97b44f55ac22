//! What wakes the driver: keys that are to be polled, timers, and the close of the node.

use crate::cluster::local::LocalKey;
use crate::cluster::protocol::Time;
use crate::{Condvar, Mutex};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// The run queue of a node's driver, first in first out. Any thread may put into it; only the driver takes
/// out.
#[derive(Debug, Default)]
pub(crate) struct RunQueue {
    state: Mutex<RunQueueState>,
    /// Something that the end of the process waits for has happened.
    flushed: Condvar,
}

#[derive(Debug, Default)]
struct RunQueueState {
    /// The keys that the driver has to poll.
    scheduled: Vec<Arc<LocalKey>>,
    told: Told,
    /// The driver is gone.
    is_shut_down: bool,
    /// The waker of the driver's task, while the task sleeps.
    waker: Option<Waker>,
    /// While the task sleeps: it is polled at this moment at the latest, whatever happens.
    polled_at: Option<Time>,
    /// Since when the driver is awake, or was woken, and has not looked here.
    awake_since: Option<Instant>,
    timers: BTreeMap<TimerId, Waker>,
    last_timer: u64,
}

/// What the driver was told, besides the keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    /// The node is closed, and the driver ends at this moment at the latest.
    pub(crate) closing: Option<Time>,
    /// The process ends, and waits until the driver owes the engine nothing.
    pub(crate) is_flushing: bool,
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
        let closing = &mut state.told.closing;
        *closing = Some(closing.map_or(by, |before| before.max(by)));
        wake_driver(state);
    }

    /// The process ends: has the driver say when it owes the engine nothing. It waits for no mutex for longer than
    /// until `end`.
    #[cfg(unix)]
    pub(crate) fn begin_flush(&self, end: Instant) {
        if let Some(mut state) = self.state.try_lock_until(end) {
            state.told.is_flushing = !state.is_shut_down;
            wake_driver(state);
        }
    }

    /// The driver owes the engine nothing, unless something is scheduled.
    pub(crate) fn end_flush(&self) {
        let mut state = self.state.lock();
        if state.scheduled.is_empty() {
            state.told.is_flushing = false;
            drop(state);
            self.flushed.notify_all();
        }
    }

    /// Waits until the driver owes the engine nothing, or is gone, or until this moment.
    #[cfg(unix)]
    pub(crate) fn await_flush(&self, end: Instant) {
        let Some(mut state) = self.state.try_lock_until(end) else { return };
        while state.told.is_flushing && Instant::now() < end {
            self.flushed.wait_until(&mut state, end);
        }
    }

    /// The driver is gone: drops what is scheduled, and returns the wakers of all timers, to be woken.
    #[must_use]
    pub(crate) fn shut_down(&self) -> Vec<Waker> {
        let mut state = self.state.lock();
        (state.is_shut_down, state.told.is_flushing) = (true, false);
        let scheduled = std::mem::take(&mut state.scheduled);
        let timers = std::mem::take(&mut state.timers);
        drop(state);
        self.flushed.notify_all();
        drop(scheduled);
        timers.into_values().collect()
    }

    pub(crate) fn is_shut_down(&self) -> bool {
        self.state.lock().is_shut_down
    }

    /// The waker of the driver's task, if the task sleeps and was told nothing since.
    pub(crate) fn waker_if_idle(&self) -> Option<Waker> {
        let state = self.state.lock();
        let is_idle = state.scheduled.is_empty() && state.told == Told::default();
        state.waker.clone().filter(|_| is_idle)
    }

    /// For how long the driver has had something to do, and has not looked here.
    pub(crate) fn late_by(&self, now: Time) -> Duration {
        let state = self.state.lock();
        if state.is_shut_down {
            return Duration::ZERO;
        }
        let since_due = state.polled_at.map_or(Duration::ZERO, |at| now.since(at));
        state.awake_since.map_or(since_due, |since| since.elapsed().max(since_due))
    }

    /// Registers the waker of the driver's task, which cannot lock the driver now.
    pub(crate) fn register(&self, cx: &Context<'_>) {
        let mut state = self.state.lock();
        (state.waker, state.polled_at) = (Some(cx.waker().clone()), None);
        state.awake_since.get_or_insert_with(Instant::now);
    }

    /// Wakes the driver's task if it sleeps.
    pub(crate) fn wake(&self) {
        wake_driver(self.state.lock());
    }

    /// For the driver: moves the scheduled keys into `scheduled`, and returns the moment by which
    /// it has to end, among others. The driver counts as awake until it calls [`RunQueue::sleep`].
    pub(crate) fn drain(&self, scheduled: &mut VecDeque<Arc<LocalKey>>) -> Told {
        let mut state = self.state.lock();
        (state.waker, state.polled_at) = (None, None);
        state.awake_since = Some(Instant::now());
        scheduled.extend(state.scheduled.drain(..));
        state.told
    }

    /// For the driver's task, before it sleeps: registers its waker, and returns until when it may sleep:
    /// until the first timer, `due` or `closing`. Pending if there is something new, so that it has to
    /// call [`RunQueue::drain`] first. `told` is what that returned last.
    pub(crate) fn sleep(
        &self,
        due: Option<Time>,
        told: Told,
        cx: &Context<'_>,
    ) -> Poll<Option<Time>> {
        let mut state = self.state.lock();
        if !state.scheduled.is_empty() || state.told != told {
            return Poll::Pending;
        }
        state.waker = Some(cx.waker().clone());
        state.awake_since = None;
        let timer = state.timers.first_key_value().map(|(TimerId(at, _), _)| *at);
        state.polled_at = [timer, due, told.closing].into_iter().flatten().min();
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
    // Also if it was told before, and has not looked since.
    state.awake_since.get_or_insert_with(Instant::now);
    drop(state);
    // It is the waker of a task of the runtime, and not of the user.
    waker.into_iter().for_each(Waker::wake);
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::time::Duration;

    fn queue() -> (RunQueue, Context<'static>) {
        (RunQueue::default(), Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_driver_that_is_awake_hears_of_the_end_of_the_process() {
        let (queue, cx) = queue();
        let told = queue.drain(&mut VecDeque::new());
        queue.begin_flush(Instant::now());
        assert!(queue.sleep(None, told, &cx).is_pending());
        let told = queue.drain(&mut VecDeque::new());
        assert!(told.is_flushing && queue.sleep(None, told, &cx).is_ready());
    }

    #[test]
    fn what_is_scheduled_is_owed_and_a_driver_that_is_gone_owes_nothing() {
        let (queue, _) = queue();
        queue.begin_flush(Instant::now());
        queue.schedule(Arc::new(LocalKey::new("k".try_into().expect("a key"), false)));
        queue.end_flush();
        assert!(queue.drain(&mut VecDeque::new()).is_flushing);
        drop(queue.shut_down());
        queue.await_flush(Instant::now() + Duration::from_secs(60));
        queue.begin_flush(Instant::now());
        assert!(!queue.drain(&mut VecDeque::new()).is_flushing);
    }
}

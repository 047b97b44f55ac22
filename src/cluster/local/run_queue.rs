//! How the driver is called: by keys that want it to come by, by timers, and by the end.

use crate::Mutex;
use crate::cluster::local::Local;
use crate::cluster::time::Time;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

/// What the driver finds when it wakes up.
#[derive(Debug, Default)]
pub(crate) struct RunQueue {
    state: Mutex<RunQueueState>,
}

#[derive(Debug, Default)]
struct RunQueueState {
    called: Vec<Arc<Local>>,
    closing: Option<Time>,
    /// There is no driver any more.
    is_dead: bool,
    /// The driver's, while it sleeps.
    waker: Option<Waker>,
    /// Who wants to be woken, and when.
    alarms: BTreeMap<Alarm, Waker>,
    last_alarm: u64,
}

/// One that is to be woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Alarm(Time, u64);

impl RunQueue {
    /// The driver is to poll this key.
    pub(crate) fn call(&self, local: Arc<Local>) {
        let mut state = self.state.lock();
        if !state.is_dead {
            state.called.push(local);
        }
        wake(state);
    }

    /// The driver is to release all, and to end by then at the latest.
    pub(crate) fn close(&self, by: Time) {
        let mut state = self.state.lock();
        state.closing = Some(state.closing.map_or(by, |before| before.max(by)));
        wake(state);
    }

    /// The end of the driver: nobody is called any more, and all alarms go off.
    pub(crate) fn shut_down(&self) {
        let mut state = self.state.lock();
        state.is_dead = true;
        let called = std::mem::take(&mut state.called);
        let alarms = std::mem::take(&mut state.alarms);
        drop(state);
        drop(called);
        alarms.into_values().for_each(Waker::wake);
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.state.lock().is_dead
    }

    /// For the driver: what has come, into `called`. It is awake from here until [`RunQueue::sleep`].
    pub(crate) fn open(&self, called: &mut Vec<Arc<Local>>) -> Option<Time> {
        let mut state = self.state.lock();
        state.waker = None;
        called.append(&mut state.called);
        state.closing
    }

    /// For the driver: it sleeps, until the run queue wakes it. Returns when the first alarm goes off.
    /// Pending: it has to look again before it sleeps.
    pub(crate) fn sleep(&self, known: Option<Time>, cx: &Context<'_>) -> Poll<Option<Time>> {
        let mut state = self.state.lock();
        if !state.called.is_empty() || state.closing != known {
            return Poll::Pending;
        }
        state.waker = Some(cx.waker().clone());
        Poll::Ready(state.alarms.first_key_value().map(|(Alarm(at, _), _)| *at))
    }

    /// For the driver: lets go off what is due.
    pub(crate) fn fire_timers(&self, now: Time) {
        loop {
            let mut state = self.state.lock();
            let Some(first) = state.alarms.first_entry() else { return };
            if first.key().0 > now {
                return;
            }
            let waker = first.remove();
            drop(state);
            waker.wake();
        }
    }

    /// Wakes `waker` at that time. False if nobody will.
    pub(crate) fn set_alarm(&self, at: Time, alarm: &mut Option<Alarm>, waker: &Waker) -> bool {
        // A waker may run code that is not ours when it is dropped: not under the mutex.
        let mut _old = None;
        let mut state = self.state.lock();
        if state.is_dead {
            return false;
        }
        if let Some(known) = alarm.and_then(|alarm| state.alarms.get_mut(&alarm)) {
            if !known.will_wake(waker) {
                _old = Some(std::mem::replace(known, waker.clone()));
            }
            return true;
        }
        state.last_alarm += 1;
        let new = Alarm(at, state.last_alarm);
        state.alarms.insert(new, waker.clone());
        *alarm = Some(new);
        if state.alarms.first_key_value().is_some_and(|(first, _)| *first == new) {
            wake(state);
        }
        true
    }

    pub(crate) fn stop_alarm(&self, alarm: Option<Alarm>) {
        if let Some(alarm) = alarm {
            let waker = self.state.lock().alarms.remove(&alarm);
            drop(waker);
        }
    }
}

/// Wakes the driver, if it sleeps, after the mutex is let go.
fn wake(mut state: crate::MutexGuard<'_, RunQueueState>) {
    let waker = state.waker.take();
    drop(state);
    waker.into_iter().for_each(Waker::wake);
}

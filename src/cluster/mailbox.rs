//! How the driver is called: by keys that want it to come by, by timers, and by the end.

use super::local::Local;
use super::time::Time;
use crate::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

/// What the driver finds when it wakes up.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    mail: Mutex<Mail>,
}

#[derive(Debug, Default)]
struct Mail {
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

impl Mailbox {
    /// The driver is to come by this key.
    pub(crate) fn call(&self, local: Arc<Local>) {
        let mut mail = self.mail.lock();
        if !mail.is_dead {
            mail.called.push(local);
        }
        wake(mail);
    }

    /// The driver is to release all, and to end by then at the latest.
    pub(crate) fn close(&self, by: Time) {
        let mut mail = self.mail.lock();
        mail.closing = Some(mail.closing.map_or(by, |before| before.max(by)));
        wake(mail);
    }

    /// The end of the driver: nobody is called any more, and all alarms go off.
    pub(crate) fn bury(&self) {
        let mut mail = self.mail.lock();
        mail.is_dead = true;
        let called = std::mem::take(&mut mail.called);
        let alarms = std::mem::take(&mut mail.alarms);
        drop(mail);
        drop(called);
        alarms.into_values().for_each(Waker::wake);
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.mail.lock().is_dead
    }

    /// For the driver: what has come, into `called`. It is awake from here until [`Mailbox::sleep`].
    pub(crate) fn open(&self, called: &mut Vec<Arc<Local>>) -> Option<Time> {
        let mut mail = self.mail.lock();
        mail.waker = None;
        called.append(&mut mail.called);
        mail.closing
    }

    /// For the driver: it sleeps, until the mailbox wakes it. Returns when the first alarm goes off.
    /// Pending: it has to look again before it sleeps.
    pub(crate) fn sleep(&self, known: Option<Time>, cx: &Context<'_>) -> Poll<Option<Time>> {
        let mut mail = self.mail.lock();
        if !mail.called.is_empty() || mail.closing != known {
            return Poll::Pending;
        }
        mail.waker = Some(cx.waker().clone());
        Poll::Ready(mail.alarms.first_key_value().map(|(Alarm(at, _), _)| *at))
    }

    /// For the driver: lets go off what is due.
    pub(crate) fn ring(&self, now: Time) {
        loop {
            let mut mail = self.mail.lock();
            let Some(first) = mail.alarms.first_entry() else { return };
            if first.key().0 > now {
                return;
            }
            let waker = first.remove();
            drop(mail);
            waker.wake();
        }
    }

    /// Wakes `waker` at that time. False if nobody will.
    pub(crate) fn set_alarm(&self, at: Time, alarm: &mut Option<Alarm>, waker: &Waker) -> bool {
        // A waker may run code that is not ours when it is dropped: not under the mutex.
        let mut _old = None;
        let mut mail = self.mail.lock();
        if mail.is_dead {
            return false;
        }
        if let Some(known) = alarm.and_then(|alarm| mail.alarms.get_mut(&alarm)) {
            if !known.will_wake(waker) {
                _old = Some(std::mem::replace(known, waker.clone()));
            }
            return true;
        }
        mail.last_alarm += 1;
        let new = Alarm(at, mail.last_alarm);
        mail.alarms.insert(new, waker.clone());
        *alarm = Some(new);
        if mail.alarms.first_key_value().is_some_and(|(first, _)| *first == new) {
            wake(mail);
        }
        true
    }

    pub(crate) fn stop_alarm(&self, alarm: Option<Alarm>) {
        if let Some(alarm) = alarm {
            let waker = self.mail.lock().alarms.remove(&alarm);
            drop(waker);
        }
    }
}

/// Wakes the driver, if it sleeps, after the mutex is let go.
fn wake(mut mail: crate::MutexGuard<'_, Mail>) {
    let waker = mail.waker.take();
    drop(mail);
    waker.into_iter().for_each(Waker::wake);
}

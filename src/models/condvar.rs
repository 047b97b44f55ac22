//! Notifications.

use super::{Guarded, Model};
use crate::condvar::RawCondvar;
use crate::park;
use crate::primitive::model_sync::Arc;
use crate::primitive::model_thread as thread;
use std::time::Instant;

struct Shared {
    guarded: Arc<Guarded>,
    changed: RawCondvar,
}

impl Shared {
    fn new() -> Arc<Self> {
        Arc::new(Shared { guarded: Guarded::new(), changed: RawCondvar::new() })
    }

    fn number(&self) -> u32 {
        // SAFETY: the callers hold the lock; loom checks it.
        self.guarded.number.with(|n| unsafe { *n })
    }

    /// Waits until the number is not 0. Returns whether the time was up first.
    fn wait(&self, deadline: Option<Instant>) -> bool {
        let mut notified = true;
        self.guarded.lock.lock();
        while self.number() == 0 && notified {
            // SAFETY: the lock is held.
            notified = unsafe { self.changed.wait_deadline(&self.guarded.lock, deadline) };
        }
        let timed_out = self.number() == 0;
        // SAFETY: the lock is held.
        unsafe { self.guarded.lock.unlock() };
        timed_out
    }
}

#[test]
fn notify_races_wait() {
    Model::exhaustive().check(|| {
        let shared = Shared::new();
        let waiter = shared.clone();
        let waiter = thread::spawn(move || waiter.wait(None));
        shared.guarded.lock_and_add();
        shared.changed.notify(1);
        assert!(!waiter.join().unwrap());
        assert!(shared.changed.is_alone(), "a waiter was left counted");
    });
}

#[test]
fn notify_under_the_lock_races_two_waits() {
    Model::bounded(2).check(|| {
        let shared = Shared::new();
        let waiters = [(); 2].map(|()| {
            let waiter = shared.clone();
            thread::spawn(move || waiter.wait(None))
        });
        shared.guarded.lock.lock();
        shared.guarded.add();
        shared.changed.notify(usize::MAX);
        // SAFETY: locked above.
        unsafe { shared.guarded.lock.unlock() };
        for waiter in waiters {
            assert!(!waiter.join().unwrap());
        }
    });
}

/// Two notifications for two waiters: neither goes to a thread that has timed out.
#[test]
fn notify_races_timeout() {
    Model::bounded(2).check(|| {
        let shared = Shared::new();
        let patient = shared.clone();
        let patient = thread::spawn(move || patient.wait(None));
        let timed = shared.clone();
        let timed = thread::spawn(move || timed.wait(Some(Instant::now())));
        park::expire();
        shared.guarded.lock_and_add();
        shared.changed.notify(1);
        shared.changed.notify(1);
        assert!(!patient.join().unwrap());
        timed.join().unwrap();
        assert_eq!(shared.guarded.total(), 1);
    });
}

/// In the models all Condvars share a queue: a notification must not go to another one's waiter.
#[test]
fn two_condvars_in_one_queue() {
    Model::bounded(2).check(|| {
        let both = [Shared::new(), Shared::new()];
        let waiters = both.clone().map(|shared| thread::spawn(move || shared.wait(None)));
        for shared in &both {
            shared.guarded.lock_and_add();
            shared.changed.notify(1);
        }
        for waiter in waiters {
            assert!(!waiter.join().unwrap());
        }
        for shared in &both {
            assert!(shared.changed.is_alone(), "a waiter was left counted");
        }
    });
}

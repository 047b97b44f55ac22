//! Notifications.

use super::futex::expire;
use super::harness::set_apart;
use super::{Guarded, Model};
use crate::primitive::Probe;
use crate::primitive::model_sync::Arc;
use crate::primitive::model_thread as thread;
use crate::raw::condvar::RawCondvar;
use crate::raw::flags;
use crate::traced::Place;
use std::time::Instant;

struct Shared {
    guarded: Arc<Guarded>,
    changed: RawCondvar,
}

impl Shared {
    fn new() -> Arc<Self> {
        Arc::new(Shared { guarded: Guarded::new(), changed: RawCondvar::new() })
    }

    /// With the Condvar in another bucket than the mutex.
    fn apart() -> Arc<Self> {
        let shared = Shared::new();
        set_apart(core::ptr::from_ref(&shared.changed).addr());
        shared
    }

    /// Arms the flag of the mutex: only then are waiters moved to it.
    fn arm(&self) {
        let _ = flags::flag(flags::index(self.guarded.addr())).arm();
    }

    /// Waits until the number is not 0. Returns whether the time was up first.
    fn wait(&self, deadline: Option<Instant>) -> bool {
        self.wait_with(&self.guarded, deadline)
    }

    /// The same with another mutex and its number.
    fn wait_with(&self, guarded: &Guarded, deadline: Option<Instant>) -> bool {
        // SAFETY: the lock is held where this is called; loom checks it.
        let number = || guarded.number.with(|n| unsafe { *n });
        let mut notified = true;
        guarded.lock.lock();
        while number() == 0 && notified {
            // SAFETY: the lock is held.
            notified = unsafe { self.changed.wait_until(&guarded.lock, deadline, Place::caller()) };
        }
        let timed_out = number() == 0;
        guarded.unlock();
        timed_out
    }

    /// Adds one, and notifies under the lock.
    fn add_and_notify(&self, most: usize) {
        self.guarded.lock.lock();
        self.guarded.add();
        self.changed.notify(most);
        self.guarded.unlock();
    }

    fn check(&self, total: u32) {
        assert_eq!(self.guarded.total(), total);
        assert!(self.changed.has_no_waiters(), "a waiter was left counted");
    }
}

#[test]
fn notify_races_wait() {
    Model::bounded(5).check(|| {
        let shared = Shared::new();
        let waiter = shared.clone();
        let waiter = thread::spawn(move || waiter.wait(None));
        shared.guarded.lock_and_add();
        shared.changed.notify(1);
        assert!(!waiter.join().unwrap());
        shared.check(1);
    });
}

#[test]
fn notify_under_the_lock_moves_a_waiter() {
    moves_a_waiter(Shared::new, Model::bounded(4));
}

#[test]
fn notify_under_the_lock_moves_a_waiter_to_another_bucket() {
    moves_a_waiter(Shared::apart, Model::bounded(4).in_no_time());
}

fn moves_a_waiter(shared: fn() -> Arc<Shared>, model: Model) {
    model.no_light().must_reach(&[Probe::Moved]).check(move || {
        let shared = shared();
        shared.arm();
        let waiter = shared.clone();
        let waiter = thread::spawn(move || waiter.wait(None));
        shared.add_and_notify(1);
        assert!(!waiter.join().unwrap());
        shared.check(1);
    });
}

/// The same without an armed flag, or with one that is disarmed meanwhile.
#[test]
fn notify_under_the_lock_races_disarming() {
    Model::bounded(1).must_reach(&[Probe::Disarmed]).check(|| {
        let shared = Shared::new();
        shared.arm();
        let waiter = shared.clone();
        let waiter = thread::spawn(move || waiter.wait(None));
        let other = shared.clone();
        let other = thread::spawn(move || other.guarded.lock_and_add());
        shared.add_and_notify(1);
        assert!(!waiter.join().unwrap());
        other.join().unwrap();
        shared.check(2);
    });
}

/// A notifier that does not hold the mutex: the unlock of the holder must find a waiter that is moved, and a
/// waiter must not be moved to a mutex that is free.
#[test]
fn notify_without_the_lock_moves_a_waiter() {
    Model::bounded(2).no_light().must_reach(&[Probe::Moved]).check(|| {
        let shared = Shared::new();
        shared.arm();
        let notifier = shared.clone();
        let notifier = thread::spawn(move || notifier.changed.notify(1));
        let holder = shared.clone();
        let holder = thread::spawn(move || {
            holder.guarded.lock_and_add();
            notifier.join().unwrap();
            // The first notification may have come before the wait, or before the number.
            holder.changed.notify(1);
        });
        assert!(!shared.wait(None));
        holder.join().unwrap();
        shared.check(1);
    });
}

/// Waiters of one Condvar with two mutexes, of which one is free: only who waits with the other is moved.
#[test]
fn waiters_of_two_mutexes() {
    Model::bounded(1).no_light().must_reach(&[Probe::Moved]).check(|| {
        let shared = Shared::new();
        shared.arm();
        let other = Guarded::new();
        let (second, guarded) = (shared.clone(), other.clone());
        let second = thread::spawn(move || second.wait_with(&guarded, None));
        let (notifier, guarded) = (shared.clone(), other.clone());
        let notifier = thread::spawn(move || {
            guarded.lock_and_add();
            notifier.add_and_notify(usize::MAX);
        });
        assert!(!shared.wait(None));
        assert!(!second.join().unwrap());
        notifier.join().unwrap();
        shared.check(1);
        assert_eq!(other.total(), 1);
    });
}

/// A waiter that was moved and woken finds the mutex held by another thread, and goes on as its waiter.
#[test]
fn a_moved_waiter_races_a_barger() {
    Model::bounded(2).in_no_time().no_light().must_reach(&[Probe::Moved]).check(|| {
        let shared = Shared::new();
        shared.arm();
        let other = shared.clone();
        let other = thread::spawn(move || {
            other.add_and_notify(1);
            other.guarded.lock_and_add();
        });
        assert!(!shared.wait(None));
        other.join().unwrap();
        shared.check(2);
    });
}

#[test]
fn notify_all_races_two_waits() {
    let notify_all = |shared: &Shared| {
        shared.guarded.lock_and_add();
        shared.changed.notify(usize::MAX);
    };
    two_waits(Model::bounded(1), notify_all);
}

/// One of the two may be awake while the other is moved.
#[test]
fn notify_all_under_the_lock_races_two_waits() {
    let model = Model::bounded(1).no_light().must_reach(&[Probe::Moved]);
    two_waits(model, |shared| shared.add_and_notify(usize::MAX));
}

fn two_waits(model: Model, notify_all: impl Fn(&Shared) + Copy + Send + Sync + 'static) {
    model.check(move || {
        let shared = Shared::apart();
        shared.arm();
        let [second, notifier] = [shared.clone(), shared.clone()];
        let second = thread::spawn(move || second.wait(None));
        let notifier = thread::spawn(move || notify_all(&notifier));
        assert!(!shared.wait(None));
        assert!(!second.join().unwrap());
        notifier.join().unwrap();
        shared.check(1);
    });
}

/// A waiter whose deadline passes while it is moved was notified: its notification is not lost, and it
/// waits for the mutex without a deadline.
#[test]
fn timeout_races_a_move() {
    Model::bounded(3).must_reach(&[Probe::Moved, Probe::TimedOut]).check(|| {
        let shared = Shared::apart();
        shared.arm();
        let timed = shared.clone();
        let timed = thread::spawn(move || {
            timed.guarded.lock.lock();
            let (changed, deadline) = (&timed.changed, Some(Instant::now()));
            // SAFETY: the lock is held.
            let notified =
                unsafe { changed.wait_until(&timed.guarded.lock, deadline, Place::caller()) };
            timed.guarded.unlock();
            notified
        });
        let clock = thread::spawn(expire);
        shared.guarded.lock.lock();
        let notified = shared.changed.notify(1);
        shared.guarded.unlock();
        clock.join().unwrap();
        assert_eq!(timed.join().unwrap(), notified == 1, "the count is not exact");
        shared.check(0);
    });
}

/// Two notifications for two waiters: neither goes to a thread that has timed out.
#[test]
fn notify_races_timeout() {
    Model::bounded(2).must_reach(&[Probe::TimedOut]).check(|| {
        let shared = Shared::new();
        let patient = shared.clone();
        let patient = thread::spawn(move || patient.wait(None));
        let timed = shared.clone();
        let timed = thread::spawn(move || timed.wait(Some(Instant::now())));
        expire();
        shared.guarded.lock_and_add();
        shared.changed.notify(1);
        shared.changed.notify(1);
        assert!(!patient.join().unwrap());
        timed.join().unwrap();
        shared.check(1);
    });
}

/// A notification must not go to a waiter of another Condvar in the same bucket.
#[test]
fn two_condvars_in_one_bucket() {
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
        both.iter().for_each(|shared| shared.check(1));
    });
}

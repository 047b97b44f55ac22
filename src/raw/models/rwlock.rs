//! The reader-writer lock: exclusion, and no lost wake-up, with counted readers.

use super::Model;
use super::futex::expire;
use crate::primitive::Probe;
use crate::primitive::model_cell::UnsafeCell;
use crate::primitive::model_sync::Arc;
use crate::primitive::model_thread::{self as thread, JoinHandle};
use crate::raw::rwlock::{After, RawRwLock, ReadToken};
use crate::raw::waiters;
use std::time::Instant;

/// A lock and a number that it guards.
pub(super) struct Shared {
    pub(super) lock: RawRwLock,
    number: UnsafeCell<u32>,
}

impl Shared {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Shared {
            lock: RawRwLock::of(crate::traced::LockType::RwLock),
            number: UnsafeCell::new(0),
        })
    }

    /// Adds one, in two accesses. The caller holds the lock.
    pub(super) fn add(&self) {
        // SAFETY: the lock is held; loom checks that it excludes others.
        self.number.with_mut(|n| unsafe { *n += 1 });
    }

    /// The number. The caller reads, or holds the lock.
    pub(super) fn look(&self) -> u32 {
        // SAFETY: loom checks that nobody writes meanwhile.
        self.number.with(|n| unsafe { *n })
    }

    pub(super) fn end_read(&self, token: ReadToken) {
        // SAFETY: the callers pass the token of their acquisition.
        unsafe { self.lock.end_read(token) };
    }

    pub(super) fn end_write(&self, after: After) {
        // SAFETY: the callers hold the lock; two holders would show as concurrent access.
        unsafe { self.lock.end_write(after) };
    }

    pub(super) fn read(&self) -> u32 {
        let token = self.lock.read(false);
        let number = self.look();
        self.end_read(token);
        number
    }

    pub(super) fn write(&self) {
        assert!(self.lock.write_until(None));
        self.add();
        self.end_write(After::Free);
    }

    /// Writes if that is possible at once, or until the deadlines pass. Returns what it has added.
    pub(super) fn write_if(&self, lock: impl Fn(&RawRwLock) -> bool) -> u32 {
        let locked = lock(&self.lock);
        if locked {
            self.add();
            self.end_write(After::Free);
        }
        u32::from(locked)
    }

    /// The number, at the end: also checks that nothing was left behind.
    pub(super) fn total(&self) -> u32 {
        assert!(self.lock.try_write(), "the lock was left held");
        let bucket = waiters::bucket_of(core::ptr::from_ref(&self.lock).addr());
        assert!(bucket.is_idle(), "a waiter was left behind");
        self.look()
    }
}

pub(super) fn spawn<T: 'static>(
    shared: &Arc<Shared>,
    body: impl FnOnce(&Shared) -> T + 'static,
) -> JoinHandle<T> {
    let shared = shared.clone();
    thread::spawn(move || {
        let result = body(&shared);
        crate::raw::readers::end();
        result
    })
}

#[test]
fn reader_races_writer() {
    Model::bounded(4).must_reach(&[Probe::Drained]).check(|| {
        let shared = Shared::new();
        let writer = spawn(&shared, Shared::write);
        assert!(shared.read() <= 1);
        writer.join().unwrap();
        assert_eq!(shared.total(), 1);
    });
}

#[test]
fn two_writers_and_a_reader() {
    Model::bounded(2)
        .must_reach(&[Probe::Drained, Probe::HandedOff])
        .check(two_writers_and_a_reader_body);
}

#[test]
fn two_writers_and_a_reader_in_no_time() {
    Model::bounded(2)
        .in_no_time()
        .must_reach(&[Probe::Parked])
        .check(two_writers_and_a_reader_body);
}

fn two_writers_and_a_reader_body() {
    let shared = Shared::new();
    let writer = spawn(&shared, Shared::write);
    let reader = spawn(&shared, |shared| {
        shared.read();
    });
    shared.write();
    writer.join().unwrap();
    reader.join().unwrap();
    assert_eq!(shared.total(), 2);
}

/// Both readers must be let in, and neither leave unseen by the writer.
#[test]
fn two_readers_and_a_writer() {
    Model::bounded(2).must_reach(&[Probe::Drained]).check(|| {
        let shared = Shared::new();
        let readers = [(); 2].map(|()| {
            spawn(&shared, |shared| {
                shared.read();
            })
        });
        shared.write();
        for reader in readers {
            reader.join().unwrap();
        }
        assert_eq!(shared.total(), 1);
    });
}

/// The last reader unlocks while the writer is on its way to sleep.
#[test]
fn last_reader_races_a_writer_that_goes_to_sleep() {
    Model::exhaustive().must_reach(&[Probe::Drained]).check(|| {
        let shared = Shared::new();
        let token = shared.lock.read(false);
        let writer = spawn(&shared, Shared::write);
        assert_eq!(shared.look(), 0);
        shared.end_read(token);
        writer.join().unwrap();
        assert_eq!(shared.total(), 1);
    });
}

/// A writer that gives up wakes the readers that it kept out, and the next writer.
#[test]
fn a_writer_gives_up() {
    Model::bounded(2).must_reach(&[Probe::GaveUp, Probe::Drained]).check(|| {
        let shared = Shared::new();
        let token = shared.lock.read(false);
        let timed =
            spawn(&shared, |shared| shared.write_if(|lock| lock.write_until(Some(Instant::now()))));
        // Kept out while the timed writer waits, until it gives up: `token` is given back afterwards.
        let reader = spawn(&shared, |shared| {
            shared.read();
        });
        expire();
        reader.join().unwrap();
        shared.end_read(token);
        let added = timed.join().unwrap();
        assert_eq!(shared.total(), added);
    });
}

#[test]
fn a_writer_gives_up_before_another() {
    Model::bounded(2).must_reach(&[Probe::GaveUp]).check(|| {
        let shared = Shared::new();
        let token = shared.lock.read(false);
        let timed =
            spawn(&shared, |shared| shared.write_if(|lock| lock.write_until(Some(Instant::now()))));
        let writer = spawn(&shared, Shared::write);
        expire();
        let added = timed.join().unwrap();
        shared.end_read(token);
        writer.join().unwrap();
        assert_eq!(shared.total(), 1 + added);
    });
}

#[test]
fn try_write_fails_or_excludes() {
    Model::bounded(3).check(|| {
        let shared = Shared::new();
        let other = spawn(&shared, |shared| shared.write_if(RawRwLock::try_write));
        shared.read();
        let added = other.join().unwrap();
        shared.write();
        assert_eq!(shared.total(), 1 + added);
    });
}

/// The upgradable reader waits for two readers, and a writer waits for the role.
#[test]
fn upgrade_against_two_readers() {
    Model::bounded(2).must_reach(&[Probe::Drained]).check(|| {
        let shared = Shared::new();
        let readers = [(); 2].map(|()| {
            spawn(&shared, |shared| {
                shared.read();
            })
        });
        assert!(shared.lock.upgradable_until(None));
        let before = shared.look();
        // SAFETY: this thread is the upgradable reader.
        assert!(unsafe { shared.lock.upgrade_until(None) });
        assert_eq!(shared.look(), before);
        shared.add();
        shared.end_write(After::Free);
        for reader in readers {
            reader.join().unwrap();
        }
        assert_eq!(shared.total(), 1);
    });
}

#[test]
fn upgradable_readers_and_a_writer() {
    Model::bounded(2).must_reach(&[Probe::Parked]).check(|| {
        let shared = Shared::new();
        let upgradable = |shared: &Shared| {
            assert!(shared.lock.upgradable_until(None));
            shared.look();
            // SAFETY: this thread is the upgradable reader.
            unsafe { shared.lock.end_upgradable(false) };
        };
        let other = spawn(&shared, upgradable);
        let writer = spawn(&shared, Shared::write);
        assert!(shared.lock.upgradable_until(None));
        // SAFETY: this thread is the upgradable reader.
        let token = unsafe { shared.lock.downgrade_upgradable() };
        shared.look();
        shared.end_read(token);
        other.join().unwrap();
        writer.join().unwrap();
        assert_eq!(shared.total(), 1);
    });
}

/// A recursive reader comes in beside a writer that drains, or waits for it to write.
#[test]
fn read_recursive_races_draining() {
    Model::bounded(3).must_reach(&[Probe::Drained]).check(|| {
        let shared = Shared::new();
        let token = shared.lock.read(false);
        let writer = spawn(&shared, Shared::write);
        let inner = shared.lock.read(true);
        assert_eq!(shared.look(), 0);
        shared.end_read(token);
        assert_eq!(shared.look(), 0);
        shared.end_read(inner);
        writer.join().unwrap();
        assert_eq!(shared.total(), 1);
    });
}

/// A writer that becomes a reader lets in those that wait.
#[test]
fn downgrade_lets_readers_in() {
    Model::bounded(2).check(|| {
        let shared = Shared::new();
        assert!(shared.lock.write_until(None));
        shared.add();
        let reader = spawn(&shared, |shared| assert_eq!(shared.read(), 1));
        // SAFETY: this thread holds the lock.
        let token = unsafe { shared.lock.downgrade() };
        // This thread reads on until the other has read.
        reader.join().unwrap();
        shared.end_read(token);
        assert_eq!(shared.total(), 1);
    });
}

#[test]
fn timed_reader_races_wake_up() {
    Model::bounded(2).must_reach(&[Probe::TimedOut]).check(|| {
        let shared = Shared::new();
        assert!(shared.lock.write_until(None));
        let reader = spawn(&shared, |shared| {
            if let Some(token) = shared.lock.read_until(false, Some(Instant::now())) {
                shared.look();
                shared.end_read(token);
            }
        });
        let clock = spawn(&shared, |_| expire());
        shared.add();
        shared.end_write(After::Free);
        reader.join().unwrap();
        clock.join().unwrap();
        assert_eq!(shared.total(), 1);
    });
}

/// The writer is handed the lock, awake or asleep.
#[test]
fn fair_unlock_races_a_writer() {
    Model::bounded(3).must_reach(&[Probe::HandedOff]).check(|| {
        let shared = Shared::new();
        assert!(shared.lock.write_until(None));
        let writer = spawn(&shared, Shared::write);
        shared.add();
        let_others_run();
        // SAFETY: this thread holds the lock.
        unsafe { shared.lock.end_write_fair() };
        writer.join().unwrap();
        assert_eq!(shared.total(), 2);
    });
}

/// The readers are let in, and the writer drains them.
#[test]
fn fair_unlock_races_a_writer_and_a_reader() {
    Model::bounded(2).must_reach(&[Probe::HandedOff, Probe::Drained]).check(|| {
        let shared = Shared::new();
        assert!(shared.lock.write_until(None));
        let writer = spawn(&shared, Shared::write);
        let reader = spawn(&shared, |shared| {
            shared.read();
        });
        shared.add();
        let_others_run();
        // SAFETY: this thread holds the lock.
        unsafe { shared.lock.end_write_fair() };
        writer.join().unwrap();
        reader.join().unwrap();
        assert_eq!(shared.total(), 2);
    });
}

/// A reader whose deadline passes is let in at that moment: then it reads, or the count stays.
#[test]
fn timed_reader_races_a_fair_unlock() {
    Model::bounded(2).must_reach(&[Probe::HandedOff, Probe::TimedOut]).check(|| {
        let shared = Shared::new();
        assert!(shared.lock.write_until(None));
        let reader = spawn(&shared, |shared| {
            if let Some(token) = shared.lock.read_until(false, Some(Instant::now())) {
                shared.look();
                shared.end_read(token);
            }
        });
        shared.add();
        let_others_run();
        expire();
        // SAFETY: this thread holds the lock.
        unsafe { shared.lock.end_write_fair() };
        reader.join().unwrap();
        assert_eq!(shared.total(), 1);
    });
}

/// The waiter's turn has come, but another thread takes the role before the waker does so for the waiter.
#[test]
fn a_wake_up_races_another_upgradable_reader() {
    Model::bounded(2).must_reach(&[Probe::HandedOff]).check(|| {
        let shared = Shared::new();
        assert!(shared.lock.try_upgradable());
        let writer = spawn(&shared, Shared::write);
        let_others_run();
        // SAFETY: this thread is the upgradable reader.
        unsafe { shared.lock.end_upgradable(false) };
        let is_upgradable = shared.lock.try_upgradable();
        let other = spawn(&shared, |shared| {
            if shared.lock.try_upgradable() {
                shared.look();
                // SAFETY: this thread is the upgradable reader.
                unsafe { shared.lock.end_upgradable(false) };
            }
        });
        if is_upgradable {
            let_others_run();
            // SAFETY: this thread is the upgradable reader.
            unsafe { shared.lock.end_upgradable(false) };
        }
        writer.join().unwrap();
        other.join().unwrap();
        assert_eq!(shared.total(), 1);
    });
}

/// loom finds that a thread may be stopped before an access by a later access of another thread to the same
/// object, but looks back no further than one of that thread's own. So it does not see by itself that a waiter may
/// have gone to sleep before the first look at a flag.
fn let_others_run() {
    thread::yield_now();
}

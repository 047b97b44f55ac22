//! The reader-writer lock with readers in slots.

use super::Model;
use super::futex::expire;
use super::rwlock::{Shared, spawn};
use crate::primitive::model_settings::take_reached;
use crate::primitive::model_sync::Arc;
use crate::primitive::model_thread as thread;
use crate::primitive::{AtomicU32, Ordering, Probe, fence};
use crate::raw::readers;
use crate::raw::rwlock::{After, RawRwLock};
use std::time::Instant;

/// A lock that is biased, and that this thread has a line for.
fn biased() -> Arc<Shared> {
    let shared = Shared::new();
    // A counted reader sets the bias, and the next one adopts a line.
    shared.read();
    shared.read();
    shared
}

#[test]
fn reader_races_revocation() {
    let reached = &[Probe::ReadInSlot, Probe::BackedOut, Probe::Drained];
    Model::bounded(2).biases().must_reach(reached).check(|| {
        let shared = biased();
        let writer = spawn(&shared, Shared::write);
        assert!(shared.read() <= 1);
        writer.join().unwrap();
        assert_eq!(shared.total(), 1);
    });
}

#[test]
fn last_reader_races_a_writer_that_goes_to_sleep() {
    Model::bounded(2).biases().must_reach(&[Probe::Drained]).check(|| {
        let shared = biased();
        let token = shared.lock.read(false);
        let writer = spawn(&shared, Shared::write);
        assert_eq!(shared.look(), 0);
        shared.end_read(token);
        writer.join().unwrap();
        assert_eq!(shared.total(), 1);
    });
}

#[test]
fn two_readers_race_revocation() {
    Model::bounded(1).biases().must_reach(&[Probe::BackedOut, Probe::Drained]).check(|| {
        let shared = biased();
        let reader = spawn(&shared, |shared| {
            shared.read();
        });
        let writer = spawn(&shared, Shared::write);
        shared.read();
        reader.join().unwrap();
        writer.join().unwrap();
        assert_eq!(shared.total(), 1);
    });
}

/// A `try_write` that gives up leaves a reader that the next writer must see.
#[test]
fn try_write_gives_up_before_a_writer() {
    Model::bounded(2).biases().must_reach(&[Probe::GaveUp, Probe::ReadInSlot]).check(|| {
        let shared = biased();
        let other = spawn(&shared, |shared| {
            let added = shared.write_if(RawRwLock::try_write);
            shared.write();
            added
        });
        shared.read();
        let added = other.join().unwrap();
        assert_eq!(shared.total(), 1 + added);
    });
}

/// A writer that gives up by its deadline, beside a reader that stays.
#[test]
fn a_timed_writer_gives_up_before_another() {
    Model::bounded(1).biases().must_reach(&[Probe::GaveUp]).check(|| {
        let shared = biased();
        let token = shared.lock.read(false);
        let timed =
            spawn(&shared, |shared| shared.write_if(|lock| lock.write_until(Some(Instant::now()))));
        expire();
        assert_eq!(timed.join().unwrap(), 0);
        let other = spawn(&shared, |shared| shared.write_if(RawRwLock::try_write));
        assert_eq!(shared.look(), 0);
        shared.end_read(token);
        let added = other.join().unwrap();
        assert_eq!(shared.total(), added);
    });
}

/// One reader is in the only slot of its thread, and so the other is counted.
#[test]
fn upgrade_against_two_readers() {
    Model::bounded(2).biases().must_reach(&[Probe::ReadInSlot, Probe::Drained]).check(|| {
        let shared = biased();
        let tokens = [shared.lock.read(false), shared.lock.read(false)];
        let upgrading = spawn(&shared, |shared| {
            assert!(shared.lock.upgradable_until(None));
            assert_eq!(shared.look(), 0);
            // SAFETY: this thread is the upgradable reader.
            assert!(unsafe { shared.lock.upgrade_until(None) });
            shared.add();
            shared.end_write(After::Free);
        });
        for token in tokens {
            assert_eq!(shared.look(), 0);
            shared.end_read(token);
        }
        upgrading.join().unwrap();
        assert_eq!(shared.total(), 1);
    });
}

/// An upgrade that gives up leaves the upgradable reader, and the reader in its slot to be seen by the next writer.
#[test]
fn an_upgrade_gives_up() {
    Model::bounded(2).biases().must_reach(&[Probe::GaveUp]).check(|| {
        let shared = biased();
        let token = shared.lock.read(false);
        let upgrading = spawn(&shared, |shared| {
            assert!(shared.lock.upgradable_until(None));
            // SAFETY: this thread is the upgradable reader.
            let upgraded = unsafe { shared.lock.upgrade_until(Some(Instant::now())) };
            if upgraded {
                shared.add();
                shared.end_write(After::Upgradable);
            }
            shared.look();
            // SAFETY: as above.
            unsafe { shared.lock.end_upgradable(false) };
            u32::from(upgraded) + shared.write_if(RawRwLock::try_write)
        });
        expire();
        assert_eq!(shared.look(), 0);
        shared.end_read(token);
        let added = upgrading.join().unwrap();
        shared.write();
        assert_eq!(shared.total(), 1 + added);
    });
}

#[test]
fn try_upgrade_beside_a_reader() {
    Model::bounded(1).biases().must_reach(&[Probe::ReadInSlot]).check(|| {
        let shared = biased();
        let reader = spawn(&shared, |shared| {
            shared.read();
        });
        assert!(shared.lock.upgradable_until(None));
        // SAFETY: this thread is the upgradable reader.
        let upgraded = unsafe { shared.lock.try_upgrade() };
        if upgraded {
            shared.add();
            shared.end_write(After::Upgradable);
        }
        // SAFETY: as above.
        unsafe { shared.lock.end_upgradable(false) };
        reader.join().unwrap();
        shared.write();
        assert_eq!(shared.total(), 1 + u32::from(upgraded));
    });
}

/// A reader that has published itself comes to the look at the bias when that has gone, and has come again.
#[test]
fn bias_set_again_against_a_late_reader() {
    Model::bounded(2).biases().must_reach(&[Probe::ReadInSlot, Probe::BackedOut]).check(|| {
        let shared = biased();
        let late = spawn(&shared, |shared| shared.read());
        shared.write();
        assert_eq!(shared.read(), 1);
        shared.write();
        assert!(late.join().unwrap() <= 2);
        assert_eq!(shared.total(), 2);
    });
}

#[test]
fn read_recursive_races_draining() {
    Model::bounded(2).biases().must_reach(&[Probe::Drained]).check(|| {
        let shared = biased();
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

/// A thread ends while its guard lives on in another one, and its line is adopted.
#[test]
fn a_guard_outlives_its_thread() {
    Model::bounded(1).biases().check(|| {
        let shared = biased();
        let token = spawn(&shared, |shared| {
            shared.read();
            Sent(shared.lock.read(false))
        });
        let token = token.join().unwrap();
        let writer = spawn(&shared, Shared::write);
        let reader = spawn(&shared, |shared| {
            shared.read();
        });
        assert_eq!(shared.look(), 0);
        shared.end_read(token.0);
        writer.join().unwrap();
        reader.join().unwrap();
        assert_eq!(shared.total(), 1);
    });
}

/// A guard that is dropped in another thread frees a slot that its owner fills for another lock. A writer that
/// sees that the slot names the other lock comes after the first reader.
#[test]
fn a_slot_is_filled_again_for_another_lock() {
    Model::bounded(2).biases().must_reach(&[Probe::ReadInSlot]).check(|| {
        let (shared, other) = (biased(), biased());
        let token = Sent(shared.lock.read(false));
        let writer = spawn(&shared, Shared::write);
        let reader = spawn(&shared, move |shared| {
            let token = token;
            assert_eq!(shared.look(), 0);
            shared.end_read(token.0);
        });
        other.read();
        writer.join().unwrap();
        reader.join().unwrap();
        assert_eq!(shared.total(), 1);
    });
}

/// A thread that has a line reads a lock that becomes biased for the first time meanwhile.
#[test]
fn first_bias_races_a_reader_with_a_line() {
    Model::bounded(3).biases().must_reach(&[Probe::ReadInSlot, Probe::Drained]).check(|| {
        let shared = Shared::new();
        let reader = spawn(&shared, |shared| {
            assert!(readers::adopt());
            shared.read();
        });
        shared.read();
        shared.write();
        reader.join().unwrap();
        assert_eq!(shared.total(), 1);
    });
}

/// A counted reader sets the first bias while a writer takes the role.
#[test]
fn first_bias_races_a_writer() {
    Model::bounded(3).biases().must_reach(&[Probe::ReadInSlot, Probe::Drained]).check(|| {
        let shared = Shared::new();
        let reader = spawn(&shared, |shared| {
            shared.read();
            shared.read();
        });
        shared.write();
        reader.join().unwrap();
        assert_eq!(shared.total(), 1);
    });
}

/// The last line is not scanned any more when its thread has ended. What that thread read comes before.
#[test]
fn a_line_is_retired_beside_a_writer() {
    Model::bounded(3).biases().must_reach(&[Probe::ReadInSlot, Probe::Lowered]).check(|| {
        let shared = biased();
        let reader = spawn(&shared, |shared| {
            shared.read();
        });
        shared.write();
        reader.join().unwrap();
        assert_eq!(shared.total(), 1);
    });
}

/// One thread ends while another one gets a line, and fills a slot. Either that one sees the change, as a reader
/// that the bias has gone, or the scan sees the slot.
#[test]
fn a_line_is_retired_and_adopted() {
    Model::bounded(3).must_reach(&[Probe::Lowered]).check(|| {
        assert!(readers::adopt());
        let changed = Arc::new(AtomicU32::new(0));
        let other = thread::spawn(|| {
            readers::adopt();
            readers::end();
        });
        let theirs = changed.clone();
        let reader = thread::spawn(move || {
            let fills = readers::adopt();
            if fills {
                readers::publish(7).unwrap();
            }
            fence(Ordering::SeqCst);
            fills && theirs.load(Ordering::Relaxed) == 0
        });
        changed.store(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let is_named = readers::names(7);
        let missed = reader.join().unwrap();
        assert!(is_named || !missed);
        other.join().unwrap();
    });
}

/// A thread has ended with a guard. Nobody fills the slot again.
#[test]
fn a_slot_in_use_is_not_filled() {
    Model::exhaustive().check(|| {
        assert!(readers::adopt());
        let first = thread::spawn(|| {
            let fills = readers::adopt();
            if fills {
                readers::publish(7).unwrap();
            }
            readers::end();
            fills
        });
        let second = thread::spawn(|| {
            if readers::adopt() {
                let _ = readers::publish(8);
            }
        });
        let filled = first.join().unwrap();
        second.join().unwrap();
        assert_eq!(readers::names(7), filled);
    });
}

/// Writers that give up beside a reader that stays run the barrier once. A writer after them sees the reader.
#[test]
fn writers_that_give_up_share_a_barrier() {
    Model::bounded(2).biases().must_reach(&[Probe::GaveUp, Probe::Drained]).check(|| {
        let shared = biased();
        take_reached(Probe::Revoked);
        let token = shared.lock.read(false);
        expire();
        for _ in 0..3 {
            assert_eq!(shared.write_if(|lock| lock.write_until(Some(Instant::now()))), 0);
            assert_eq!(shared.write_if(RawRwLock::try_write), 0);
        }
        assert_eq!(take_reached(Probe::Revoked), 1);
        let writer = spawn(&shared, Shared::write);
        assert_eq!(shared.look(), 0);
        shared.end_read(token);
        writer.join().unwrap();
        assert_eq!(shared.total(), 1);
    });
}

/// The kernel refuses the barrier when locks are biased already.
#[test]
fn the_barrier_is_refused_after_a_bias() {
    Model::bounded(2).biases().refuses().must_reach(&[Probe::BackedOut, Probe::Drained]).check(
        || {
            let shared = biased();
            let writer = spawn(&shared, Shared::write);
            assert!(shared.read() <= 1);
            writer.join().unwrap();
            // Nothing is biased any more, in this thread at the latest.
            take_reached(Probe::ReadInSlot);
            shared.read();
            shared.read();
            assert_eq!(take_reached(Probe::ReadInSlot), 0);
            assert_eq!(shared.total(), 1);
        },
    );
}

struct Sent(crate::raw::rwlock::ReadToken);

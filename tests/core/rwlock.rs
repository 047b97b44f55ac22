//! `RwLock`, its guards and its relatives.

use crate::within::within_limit;
use lockword::{
    ReadRecursive, RecursiveRwLock, RwLock, RwLockReadGuard, RwLockUpgradableReadGuard,
    RwLockWriteGuard, SendRwLock,
};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

const SHORT: Duration = Duration::from_millis(5);

/// Whether another thread may read, and whether it may write.
fn lets_in<T: Send + Sync>(lock: &RwLock<T>) -> (bool, bool) {
    thread::scope(|s| {
        let look = || {
            let reads = lock.try_read().is_some();
            (reads, lock.try_write().is_some())
        };
        s.spawn(look).join().unwrap()
    })
}

// With it the instruments take room.
#[cfg(not(feature = "trace"))]
#[test]
fn size() {
    assert_eq!(size_of::<RwLock<()>>(), 8);
    assert_eq!(size_of::<lockword::RawRwLock>(), 8);
}

#[test]
fn who_excludes_whom() {
    let lock = RwLock::new(1);
    assert_eq!(lets_in(&lock), (true, true));
    let (one, two) = (lock.read(), lock.read());
    assert_eq!((*one, *two), (1, 1));
    assert_eq!(lets_in(&lock), (true, false));
    assert!(lock.is_locked() && !lock.is_locked_exclusive());
    drop(one);
    assert_eq!(lets_in(&lock), (true, false));
    drop(two);
    let mut guard = lock.write();
    *guard += 1;
    assert_eq!(lets_in(&lock), (false, false));
    assert!(lock.is_locked_exclusive());
    drop(guard);
    assert_eq!(lets_in(&lock), (true, true));
    let upgradable = lock.upgradable_read();
    assert_eq!(lets_in(&lock), (true, false));
    assert!(lock.try_upgradable_read().is_none());
    drop(upgradable);
    assert!(!lock.is_locked());
    assert_eq!(lock.into_inner(), 2);
}

#[test]
fn upgrades_and_downgrades() {
    let lock = RwLock::new(0);
    let upgradable = lock.upgradable_read();
    let reader = lock.read();
    let Err(upgradable) = RwLockUpgradableReadGuard::try_upgrade(upgradable) else {
        panic!("upgraded beside a reader")
    };
    let Err(upgradable) = RwLockUpgradableReadGuard::try_upgrade_for(upgradable, SHORT) else {
        panic!("upgraded beside a reader")
    };
    assert_eq!(lets_in(&lock), (true, false), "who gives up keeps no reader out");
    drop(reader);
    let mut writer = RwLockUpgradableReadGuard::try_upgrade(upgradable).expect("alone");
    *writer += 1;
    assert_eq!(lets_in(&lock), (false, false));
    let upgradable = RwLockWriteGuard::downgrade_to_upgradable(writer);
    assert_eq!(lets_in(&lock), (true, false));
    assert!(lock.try_upgradable_read().is_none());
    let writer = RwLockUpgradableReadGuard::upgrade(upgradable);
    let reader = RwLockWriteGuard::downgrade(writer);
    assert_eq!(lets_in(&lock), (true, false));
    drop(lock.try_upgradable_read().expect("beside a reader"));
    drop(reader);
    let reader = RwLockUpgradableReadGuard::downgrade(lock.upgradable_read());
    drop(lock.try_upgradable_read().expect("beside a reader"));
    drop(reader);
    assert!(!lock.is_locked());
}

#[test]
fn timeouts() {
    let lock = RwLock::new(());
    let reader = lock.read();
    let start = Instant::now();
    assert!(lock.try_write_for(SHORT).is_none());
    assert!(start.elapsed() >= SHORT);
    assert!(lock.try_write_for(Duration::ZERO).is_none());
    assert!(lock.try_read_for(Duration::MAX).is_some(), "a writer that gave up is in nobody's way");
    drop(reader);
    let writer = lock.write();
    assert!(lock.try_read_for(SHORT).is_none());
    assert!(lock.try_upgradable_read_for(SHORT).is_none());
    assert!(lock.try_write_until(Instant::now()).is_none());
    assert!(lock.try_read_recursive_for(SHORT).is_none());
    drop(writer);
    assert!(!lock.is_locked());
}

#[test]
fn parts_of_the_data() {
    let lock = RwLock::new((1, 2));
    *RwLockWriteGuard::map(lock.write(), |pair| &mut pair.0) += 2;
    assert_eq!(*RwLockReadGuard::map(lock.read(), |pair| &pair.0), 3);
    assert!(!lock.is_locked());
}

#[test]
fn a_reader_nests_beside_a_waiting_writer() {
    within_limit(|| {
        let lock = Arc::new(RwLock::new(0));
        let outer = lock.read();
        let writer = {
            let lock = lock.clone();
            thread::spawn(move || *lock.write() += 1)
        };
        // The writer keeps new readers out from some moment on.
        while lock.try_read().is_some() {
            thread::yield_now();
        }
        let inner = lock.read_recursive();
        assert_eq!((*outer, *inner), (0, 0));
        drop(lock.try_read_recursive().expect("the writer still waits"));
        drop((outer, inner));
        writer.join().unwrap();
        assert_eq!(*lock.read(), 1);
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_recursive_lock_lets_readers_in_beside_a_waiting_writer() {
    within_limit(|| {
        let lock = RecursiveRwLock::new(0);
        thread::scope(|s| {
            let outer = lock.read();
            let writer = crate::asleep::spawn_parked(s, || *lock.write() += 1);
            for _ in 0..1000 {
                assert_eq!(*lock.read(), 0);
            }
            drop(outer);
            writer.join().unwrap();
        });
    });
}

#[test]
fn a_guard_ends_in_another_thread() {
    let lock = Arc::new(SendRwLock::new(0));
    thread::scope(|s| {
        let (reader, theirs) = (lock.read(), lock.read());
        s.spawn(move || drop(theirs)).join().unwrap();
        assert!(lock.try_write().is_none());
        drop(reader);
        let writer = lock.write();
        s.spawn(move || drop(writer)).join().unwrap();
    });
    assert!(lock.try_write().is_some());
}

/// Readers see no half of a write, writers do not lose one, and all of them are served.
#[test]
fn readers_and_writers_mix() {
    const THREADS: u32 = 4;
    const ROUNDS: u32 = 20_000;
    within_limit(|| {
        let lock = RwLock::new((0_u32, 0_u32));
        let (start, written) = (Barrier::new(THREADS as usize), AtomicU32::new(0));
        thread::scope(|s| {
            for thread in 0..THREADS {
                let (lock, start, written) = (&lock, &start, &written);
                s.spawn(move || {
                    start.wait();
                    for round in 0..ROUNDS {
                        let write = |pair: &mut (u32, u32)| {
                            pair.0 += 1;
                            written.fetch_add(1, Ordering::Relaxed);
                            pair.1 += 1;
                        };
                        let look = |pair: &(u32, u32)| assert_eq!(pair.0, pair.1);
                        match (round * 7 + thread * 3) % 23 {
                            0 => write(&mut lock.write()),
                            1 => lock.try_write().iter_mut().for_each(|guard| write(guard)),
                            2 => {
                                let guard = lock.upgradable_read();
                                look(&guard);
                                write(&mut RwLockUpgradableReadGuard::upgrade(guard));
                            }
                            3 => {
                                let timeout = Duration::from_micros(u64::from(round % 50));
                                let mut guard = lock.try_write_for(timeout);
                                guard.iter_mut().for_each(|guard| write(guard));
                            }
                            4 => {
                                let mut guard = lock.write();
                                write(&mut guard);
                                let guard = RwLockWriteGuard::downgrade(guard);
                                look(&guard);
                                RwLockReadGuard::unlock_fair(guard);
                            }
                            5 => {
                                let outer = lock.read();
                                let inner = lock.read_recursive();
                                look(&outer);
                                look(&inner);
                            }
                            6 => {
                                let deadline = Duration::from_micros(u64::from(round % 50));
                                let guard = lock.try_upgradable_read_for(deadline);
                                if let Some(guard) = guard
                                    && let Ok(mut guard) =
                                        RwLockUpgradableReadGuard::try_upgrade_for(guard, deadline)
                                {
                                    write(&mut guard);
                                    RwLockWriteGuard::unlock_fair(guard);
                                }
                            }
                            7 => {
                                let guard = lock.try_read_for(Duration::from_micros(1));
                                guard.iter().for_each(|guard| look(guard));
                            }
                            _ => look(&lock.read()),
                        }
                    }
                });
            }
        });
        assert_eq!(lock.into_inner(), (written.load(Ordering::Relaxed), written.into_inner()));
    });
}

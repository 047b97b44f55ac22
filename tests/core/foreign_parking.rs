//! Memory that was a lock becomes another object that parks threads on its address, while the unlock
//! of the former lock may still be on its slow path.
//!
//! No thread may be woken by another object's notification, and no wake-up may be lost.
#![cfg(not(lockword_loom))]

use lockword::Mutex;
use parking_lot_core::{
    DEFAULT_PARK_TOKEN, DEFAULT_UNPARK_TOKEN, FilterOp, ParkResult, RequeueOp, UnparkToken,
};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use support::lives::{OPS, ReusedMemory};
use support::random::Rng;
use support::setting::env_number;
use support::watchdog::Progress;

#[path = "../support"]
mod support {
    pub mod lives;
    pub mod random;
    pub mod setting;
    pub mod watchdog;
}

const LIMIT: Duration = Duration::from_secs(10);

/// One address is a lock, a condvar of parking_lot, a lock, an RwLock of parking_lot, a lock, our
/// own condvar, and so on; the last user of each life begins the next.
#[test]
fn one_address_lives_many_lives() {
    const USERS: usize = 4;
    let lives = env_number("LOCKWORD_STRANGER_LIVES", 60_000) as usize;
    let memory = ReusedMemory::new(USERS, lives);
    let progress = Progress::new(USERS + 1, OPS);
    thread::scope(|scope| {
        let (memory, progress) = (&memory, &progress);
        for i in 0..USERS {
            scope.spawn(move || {
                memory.use_lives(progress.slot(i), &mut Rng::new(lives as u64, i));
            });
        }
        scope.spawn(|| {
            let mut rng = Rng::new(lives as u64, USERS);
            memory.notify_waiters(progress.slot(USERS), &mut rng);
        });
        scope.spawn(|| progress.watch(LIMIT, || memory.state()));
    });
}

/// Keeps the lock long enough for the others to park, most of the time.
fn hold(rng: &mut Rng) {
    let (start, time) = (Instant::now(), Duration::from_micros(rng.below(100) as u64));
    while start.elapsed() < time {
        std::hint::spin_loop();
    }
}

/// Threads that park on one lock, while `foreigner` runs until they are done.
fn contend(rounds: usize, lock: &Mutex<u64>, foreigner: impl Fn(&AtomicBool) + Sync) {
    const THREADS: usize = 4;
    let progress = Progress::new(THREADS, &["lock", "timed lock"]);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let (progress, done, foreigner) = (&progress, &done, &foreigner);
        let threads: Vec<_> = (0..THREADS)
            .map(|i| {
                scope.spawn(move || {
                    let (slot, mut rng) = (progress.slot(i), Rng::new(1, i));
                    for round in 0..rounds {
                        slot.begin(round % 2, 0);
                        let mut guard = match round % 2 {
                            0 => lock.lock(),
                            _ => lock.try_lock_for(LIMIT).expect("ten seconds are enough"),
                        };
                        *guard += 1;
                        hold(&mut rng);
                    }
                    slot.finish();
                })
            })
            .collect();
        scope.spawn(move || foreigner(done));
        let bucket = || lockword::__bucket((&raw const *lock).addr());
        let state = move || format!("held: {}; {:?}", lock.is_locked(), bucket());
        scope.spawn(move || progress.watch(LIMIT, state));
        let failed = threads.into_iter().filter_map(|thread| thread.join().err()).count();
        done.store(true, Ordering::Release);
        assert_eq!(failed, 0, "a thread failed");
    });
    assert_eq!(*lock.lock(), (THREADS * rounds) as u64);
}

/// All addresses that could be the lock's key in the parking lot: those of its bytes.
fn keys<T>(lock: &Mutex<T>) -> std::ops::Range<usize> {
    let start = (&raw const *lock).addr();
    start..start + size_of::<Mutex<T>>()
}

/// Another user of the parking lot unparks all threads that wait on the lock's own address. That is
/// legal, since that user may have owned the address a moment ago.
#[test]
fn a_foreigner_unparks_by_the_address_of_a_lock() {
    let lock = Mutex::new(0);
    let elsewhere = 0_usize;
    contend(5_000, &lock, |done| {
        let mut taken = 0;
        while !done.load(Ordering::Acquire) {
            for key in keys(&lock) {
                // SAFETY: the keys are addresses of memory that this test owns. The callbacks
                // neither panic nor call the parking lot.
                unsafe {
                    taken += parking_lot_core::unpark_all(key, DEFAULT_UNPARK_TOKEN);
                    let one = |_| DEFAULT_UNPARK_TOKEN;
                    taken += parking_lot_core::unpark_one(key, one).unparked_threads;
                    let all = |_| FilterOp::Unpark;
                    taken += parking_lot_core::unpark_filter(key, all, one).unparked_threads;
                    let other = (&raw const elsewhere).addr();
                    let moved = parking_lot_core::unpark_requeue(
                        key,
                        other,
                        || RequeueOp::RequeueAll,
                        |_, _| DEFAULT_UNPARK_TOKEN,
                    );
                    taken += moved.requeued_threads;
                    // Whoever was moved away must not sleep for ever.
                    parking_lot_core::unpark_all(other, DEFAULT_UNPARK_TOKEN);
                }
            }
            thread::yield_now();
        }
        // Where addresses leave room for it, our keys are no addresses at all.
        if cfg!(target_pointer_width = "64") {
            assert_eq!(taken, 0, "a foreigner reached threads that wait for a lock");
        }
    });
}

/// A thread that another user of the parking lot parks on the address of a lock is not woken by that
/// lock.
#[test]
fn a_foreigner_parks_on_the_address_of_a_lock() {
    const MINE: UnparkToken = UnparkToken(0x5712);
    let lock = Mutex::new(0);
    contend(2_500, &lock, |done| {
        thread::scope(|scope| {
            for key in keys(&lock) {
                scope.spawn(move || {
                    // SAFETY: as above.
                    let result = unsafe {
                        parking_lot_core::park(
                            key,
                            || !done.load(Ordering::Acquire),
                            || {},
                            |_, _| {},
                            DEFAULT_PARK_TOKEN,
                            None,
                        )
                    };
                    let meant = match result {
                        ParkResult::Unparked(token) => token == MINE,
                        ParkResult::Invalid => true,
                        ParkResult::TimedOut => false,
                    };
                    assert!(meant, "a foreigner was woken by {result:?}");
                });
            }
            while !done.load(Ordering::Acquire) {
                thread::yield_now();
            }
            for key in keys(&lock) {
                // SAFETY: as above.
                unsafe { parking_lot_core::unpark_all(key, MINE) };
            }
        });
    });
}

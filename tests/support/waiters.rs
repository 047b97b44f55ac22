//! The waiters of a lock, as the waiter table counts them.

use lockword::{Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// The state of the lock's bucket.
pub fn state(lock: &Mutex<u32>) -> lockword::__BucketState {
    // SAFETY: only its address is used.
    lockword::__bucket(std::ptr::from_ref(unsafe { lock.raw() }).addr())
}

/// How many threads wait in the lock's bucket, and how many of them are starving.
pub fn counts(lock: &Mutex<u32>) -> (u32, u32) {
    let state = state(lock);
    (state.waiters, state.starving)
}

/// Whether `number` threads wait in the lock's bucket before `limit` has passed.
#[allow(dead_code, reason = "not every test binary asks")]
pub fn waiters_within(lock: &Mutex<u32>, number: usize, limit: Duration) -> bool {
    let end = Instant::now() + limit;
    while state(lock).waiters != number as u32 {
        if Instant::now() >= end {
            return false;
        }
        thread::yield_now();
    }
    true
}

/// Takes the lock while a starving waiter sleeps on it: a thread that was woken and found the lock
/// taken again. Returns the guard and the threads that were started, of which some may have had the
/// lock.
///
/// `start` starts a thread that locks once and adds one. Nobody else may use the lock.
pub fn with_starving_waiter(
    lock: &'static Mutex<u32>,
    mut start: impl FnMut() -> JoinHandle<()>,
) -> (MutexGuard<'static, u32>, Vec<JoinHandle<()>>) {
    let end = Instant::now() + Duration::from_secs(20);
    let mut threads = Vec::new();
    let mut guard = lock.lock();
    let before = *guard as usize;
    loop {
        if *guard as usize == before + threads.len() {
            threads.push(start());
            assert!(waiters_within(lock, 1, Duration::from_secs(10)), "the thread does not wait");
        }
        // Wakes the thread, and takes the lock before the thread does.
        drop(guard);
        guard = lock.lock();
        let soon = Instant::now() + Duration::from_millis(10);
        while Instant::now() < soon {
            if state(lock).starving != 0 {
                return (guard, threads);
            }
            thread::yield_now();
        }
        assert!(Instant::now() < end, "no starving waiter after {} threads", threads.len());
    }
}

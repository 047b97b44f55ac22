//! Waiters of a lock, as the lobby counts them.

use lockword::{Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How many wait near the lock, and how many of them are heirs.
pub fn counts(lock: &Mutex<u32>) -> (u32, u32) {
    // SAFETY: only its address is used.
    let text = lockword::__describe(std::ptr::from_ref(unsafe { lock.raw() }).addr());
    let count = |name| {
        let number = text.split(", ").find_map(|part| part.strip_suffix(name));
        number.and_then(|number| number.parse().ok())
    };
    let counts = Option::zip(count(" waiters"), count(" heirs"));
    counts.unwrap_or_else(|| panic!("no count of waiters and heirs in: {text}"))
}

/// Whether this many threads wait near the lock, soon.
#[allow(dead_code, reason = "not every test binary asks")]
pub fn waiters_within(lock: &Mutex<u32>, number: usize, limit: Duration) -> bool {
    let end = Instant::now() + limit;
    while counts(lock).0 != number as u32 {
        if Instant::now() >= end {
            return false;
        }
        thread::yield_now();
    }
    true
}

/// Takes the lock and makes an heir: a thread that was woken, found the lock taken again, and
/// sleeps. Returns the guard and the threads that were needed, of which some may have had the lock.
///
/// `start` starts a thread that locks once, and adds one then. Nobody else uses the lock.
pub fn with_heir(
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
        // Wakes it, and is quicker.
        drop(guard);
        guard = lock.lock();
        let soon = Instant::now() + Duration::from_millis(10);
        while Instant::now() < soon {
            if counts(lock).1 != 0 {
                return (guard, threads);
            }
            thread::yield_now();
        }
        assert!(Instant::now() < end, "no heir after {} threads", threads.len());
    }
}

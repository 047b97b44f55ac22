//! Bounded waiting: a thread that releases a lock only to take it again at once cannot keep the
//! others out.
#![cfg(not(lockword_loom))]

use lockword::{Mutex, MutexGuard};
use std::hint::spin_loop;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex as StdMutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

const LENGTH: Duration = Duration::from_secs(2);

/// Nobody waits longer. On a machine with two processors the longest wait was 5 to 16 ms, that
/// for `std::sync::Mutex` 300 to 1,950 ms, and without the hand-over 700 ms.
const BOUND: Duration = Duration::from_millis(150);

/// The tests of this file measure time: one at a time.
static ALONE: StdMutex<()> = StdMutex::new(());

fn hold(time: Duration) {
    let start = Instant::now();
    while start.elapsed() < time {
        spin_loop();
    }
}

/// Threads that each hold one lock for their time and take it again at once. Returns how often
/// each had it, and how long each waited at most.
fn compete(holds: &[Duration]) -> Vec<(u32, Duration)> {
    let lock = Mutex::new(());
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let compete = |&time: &Duration| {
            let (lock, stop) = (&lock, &stop);
            scope.spawn(move || {
                let (mut count, mut longest) = (0, Duration::ZERO);
                while !stop.load(Ordering::Relaxed) {
                    let start = Instant::now();
                    let guard = lock.lock();
                    longest = longest.max(start.elapsed());
                    hold(time);
                    drop(guard);
                    count += 1;
                }
                (count, longest)
            })
        };
        let threads: Vec<_> = holds.iter().map(compete).collect();
        // The length of the measurement, not a way to order anything.
        thread::sleep(LENGTH);
        stop.store(true, Ordering::Relaxed);
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn a_hog_does_not_starve_waiters() {
    let _alone = ALONE.lock();
    let mut holds = [Duration::from_micros(20); 4];
    holds[0] = Duration::from_millis(1);
    let had = compete(&holds);
    eprintln!("hog, then waiters: {had:?}");
    for (waiter, (count, longest)) in had.iter().enumerate().skip(1) {
        assert!(*count >= 20, "waiter {waiter} had the lock {count} times in {LENGTH:?}: {had:?}");
        assert!(*longest < BOUND, "waiter {waiter} waited for {longest:?}: {had:?}");
    }
}

#[test]
fn eight_hogs_share_the_lock() {
    let _alone = ALONE.lock();
    let had = compete(&[Duration::from_micros(200); 8]);
    eprintln!("eight hogs: {had:?}");
    let counts = had.iter().map(|(count, _)| *count);
    let (least, most) = (counts.clone().min().unwrap(), counts.max().unwrap());
    assert!(least >= 20, "one had the lock {least} times in {LENGTH:?}: {had:?}");
    let longest = had.iter().map(|(_, longest)| *longest).max().unwrap();
    assert!(longest < BOUND, "one waited for {longest:?}: {had:?}");
    assert!(least * 10 >= most, "one had the lock {least} times, another {most} times: {had:?}");
}

/// `unlock_fair` hands the lock over to a thread that waits, always: the one who releases cannot
/// have it back before that thread has had it.
#[cfg(target_os = "linux")]
#[test]
fn a_fair_unlock_hands_over() {
    let _alone = ALONE.lock();
    for _ in 0..100 {
        let lock = Mutex::new(());
        let tid = support::asleep::Tid::default();
        thread::scope(|scope| {
            let (go, release) = mpsc::channel::<()>();
            let guard = lock.lock();
            let (lock, tid) = (&lock, &tid);
            let waiter = scope.spawn(move || {
                tid.set();
                let guard = lock.lock();
                release.recv().expect("the other thread lets go");
                drop(guard);
            });
            tid.wait_until_asleep();
            MutexGuard::unlock_fair(guard);
            assert!(lock.try_lock().is_none(), "the fair unlock did not hand over");
            assert!(lock.is_locked());
            go.send(()).expect("the waiter lives");
            waiter.join().unwrap();
            assert!(lock.try_lock().is_some());
        });
    }
}

#[cfg(target_os = "linux")]
mod support {
    pub mod asleep;
}

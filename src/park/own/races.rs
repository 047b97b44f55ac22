//! Threads that park in the lot of our own while others wake them.

use super::tests::{Queue, neighbours, wake_first, within_limit};
use super::*;
use core::cell::UnsafeCell;
use core::mem::{replace, take};
use std::sync::mpsc::channel;
use std::time::Duration;

/// So many rounds, or what a busy machine does of them in some seconds.
fn rounds(most: usize) -> impl Iterator<Item = usize> {
    let end = Instant::now() + Duration::from_secs(4);
    (0..most).take_while(move |_| !is_past(end))
}

/// A timeout races a wake-up: exactly one of them happens, and both sides agree on which.
#[test]
fn a_timeout_races_a_wake_up() {
    within_limit(|| {
        let (key, other) = neighbours(6);
        // Another thread is parked behind them all the while, and must not be lost.
        let bystander = Queue::new().park(other, 1);
        let (entered, has_entered) = channel();
        let (result, results) = channel();
        let (next, deadlines) = channel();
        thread::spawn(move || {
            for (round, deadline) in deadlines.into_iter().enumerate() {
                let times_up = Cell::new(0);
                let enter = || entered.send(()).expect("the test waits");
                let count = || times_up.set(times_up.get() + 1);
                // SAFETY: none of the closures panics or parks.
                let parked = unsafe { park(key, round, || true, enter, count, Some(deadline)) };
                result.send((parked, times_up.get())).expect("the test waits");
            }
        });
        // The timeout that makes both as likely.
        let (mut timeout, mut counts) = (Duration::from_micros(20), [0; 2]);
        for round in rounds(5_000) {
            let deadline = Instant::now() + timeout;
            next.send(deadline).expect("the thread lives");
            has_entered.recv().expect("the thread parks");
            // In some rounds the time is up while the waker is at it.
            let end = deadline + Duration::from_micros(round as u64 % 512);
            let (mut first, mut message) = (true, round);
            let pick = |_| if take(&mut first) { Pick::Unpark } else { Pick::Stop };
            let tell = |taken| {
                while taken != 0 && round % 8 == 0 && !is_past(end) {
                    spin_loop();
                }
                take(&mut message)
            };
            // SAFETY: neither closure panics or parks.
            let woken = unsafe { unpark(key, pick, tell) };
            let ended = results.recv().expect("the thread returns");
            if woken == 1 {
                assert_eq!(ended, (Parked::Woken(round), 0), "round {round}");
                timeout = timeout.mul_f32(0.95).max(Duration::from_micros(1));
            } else {
                assert_eq!(ended, (Parked::TimedOut, 1), "round {round}");
                timeout = timeout.mul_f32(1.05);
            }
            counts[woken] += 1;
        }
        assert!(!counts.contains(&0), "no race: {counts:?}");
        assert_eq!(wake_first(other, 2), Some(1));
        assert_eq!(bystander.join().unwrap(), Parked::Woken(2));
    });
}

/// A lock made of nothing but a word and the lot.
struct Lock {
    held: AtomicU32,
    key: Key,
    data: UnsafeCell<usize>,
}

// SAFETY: `data` is used by whoever holds the lock.
unsafe impl Sync for Lock {}

const TRY: usize = 1;
const HANDED: usize = 2;

impl Lock {
    fn try_lock(&self) -> bool {
        // ORDERING: Acquire pairs with the Release in `unlock`.
        self.held.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Returns whether it was acquired before the deadline.
    fn lock(&self, deadline: Option<Instant>) -> bool {
        while !self.try_lock() {
            let validate = || {
                linger();
                !self.try_lock()
            };
            // SAFETY: none of the closures panics or parks.
            match unsafe { park(self.key, 0, validate, || (), || (), deadline) } {
                Parked::Woken(TRY) => {}
                // Who is handed the lock sees what the last holder did by the lot's doing alone.
                Parked::Woken(_) | Parked::Invalid => return true,
                Parked::TimedOut => return false,
            }
        }
        true
    }

    /// Hands the lock over, or frees it and wakes the first.
    fn unlock(&self, hand: bool) {
        let mut taken = false;
        let first = |_| {
            linger();
            if replace(&mut taken, true) { Pick::Stop } else { Pick::Unpark }
        };
        // ORDERING: Release pairs with the Acquire in `try_lock`.
        let free = || self.held.store(0, Ordering::Release);
        if !hand {
            free();
        }
        let message = |count| {
            if hand && count == 0 {
                free();
            }
            if hand { HANDED } else { TRY }
        };
        // SAFETY: neither closure panics or parks.
        unsafe { unpark(self.key, first, message) };
    }
}

/// Stays in the list for so long that another thread would come by, if it were let in.
fn linger() {
    (0..50).for_each(|_| spin_loop());
}

/// Two locks whose waiters share a list.
fn two_locks(number: usize) -> Arc<[Lock; 2]> {
    let (one, two) = neighbours(number);
    let lock = |key| Lock { held: AtomicU32::new(0), key, data: UnsafeCell::new(0) };
    Arc::new([one, two].map(lock))
}

/// Threads lock two locks, with and without a deadline. A message that goes astray lets two
/// threads in, or none.
#[test]
fn messages_reach_their_threads() {
    const THREADS: usize = 4;
    within_limit(|| {
        let locks = two_locks(7);
        let body = |locks: &[Lock; 2], thread: usize| {
            let mut entered = [0; 2];
            for round in rounds(20_000) {
                let which = (round / 64 + thread) % 2;
                // Every fourth time with a deadline that often passes.
                let timed = (round + thread).is_multiple_of(4);
                let deadline = timed.then(|| Instant::now() + Duration::from_micros(5));
                if locks[which].lock(deadline) {
                    // SAFETY: this thread holds the lock.
                    unsafe { *locks[which].data.get() += 1 };
                    entered[which] += 1;
                    if round % 8 == 0 {
                        thread::yield_now();
                    }
                    locks[which].unlock(round % 3 == 0);
                }
            }
            entered
        };
        let start = |i| {
            let locks = Arc::clone(&locks);
            thread::spawn(move || body(&locks, i))
        };
        let threads: Vec<_> = (0..THREADS).map(start).collect();
        let mut sum = [0; 2];
        for thread in threads {
            let entered = thread.join().unwrap();
            sum = [sum[0] + entered[0], sum[1] + entered[1]];
        }
        assert_eq!([0, 1].map(|i| if locks[i].lock(None) { sum[i] } else { 0 }), sum);
        // SAFETY: this thread holds both locks.
        assert_eq!([0, 1].map(|i| unsafe { *locks[i].data.get() }), sum);
    });
}

/// One thread parks while another unlocks, once: nobody comes later who could make up for a
/// wake-up that is lost.
#[test]
fn no_wake_up_is_lost() {
    /// Odd when it is the parker's turn; 0 when all is over.
    static TURN: AtomicU32 = AtomicU32::new(2);
    // ORDERING: SeqCst throughout: it is the lot that is tested.
    let wait_for_change = |from| {
        while TURN.load(Ordering::SeqCst) == from {
            spin_loop();
            thread::yield_now();
        }
        TURN.load(Ordering::SeqCst)
    };
    within_limit(move || {
        let locks = two_locks(8);
        let theirs = Arc::clone(&locks);
        let parker = thread::spawn(move || {
            let mut turn = 2;
            loop {
                turn = wait_for_change(turn);
                if turn == 0 {
                    break;
                }
                assert!(theirs[0].lock(None));
                theirs[0].unlock(turn % 4 == 1);
                turn += 1;
                TURN.store(turn, Ordering::SeqCst);
            }
        });
        let mut turn = 2;
        for round in rounds(10_000) {
            assert!(locks[0].lock(None));
            let end = Instant::now() + Duration::from_micros(round as u64 % 16);
            TURN.store(turn + 1, Ordering::SeqCst);
            while !is_past(end) {
                spin_loop();
            }
            locks[0].unlock(round % 3 == 0);
            turn = wait_for_change(turn + 1);
        }
        TURN.store(0, Ordering::SeqCst);
        parker.join().unwrap();
    });
}

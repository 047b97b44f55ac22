//! The lot of our own without a fork: threads park and wake each other.

use super::*;
use core::cell::UnsafeCell;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{JoinHandle, Scope, ScopedJoinHandle};
use std::time::Duration;

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(30);

/// A key that no other test uses. The lot does not care what it stands for.
fn key(number: usize) -> Key {
    Key(number)
}

/// Two keys of one list.
fn neighbours(number: usize) -> (Key, Key) {
    let first = key(number);
    let mut others = (number + 1_000..).map(key);
    let found = others.find(|&key| key != first && ptr::eq(list_of(key), list_of(first)));
    (first, found.expect("there are more keys than lists"))
}

/// Runs `body` in a thread of its own, and fails if it does not end.
fn within_limit(body: impl FnOnce() + Send + 'static) {
    let (sender, ended) = channel::<()>();
    let thread: JoinHandle<()> = thread::spawn(move || {
        let _ends_with_the_body = sender;
        body();
    });
    let hangs = ended.recv_timeout(LONG) == Err(std::sync::mpsc::RecvTimeoutError::Timeout);
    assert!(!hangs, "a thread waits for ever");
    thread.join().expect("the test's thread succeeds");
}

/// Threads that are parked one after the other.
struct Queue<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    entered: (Sender<()>, Receiver<()>),
}

impl<'scope, 'env> Queue<'scope, 'env> {
    fn new(scope: &'scope Scope<'scope, 'env>) -> Self {
        Queue { scope, entered: channel() }
    }

    /// Parks one more thread. It is in the queue when this returns.
    fn park(&self, key: Key, token: usize) -> ScopedJoinHandle<'scope, Parked> {
        let sender = self.entered.0.clone();
        let thread = self.scope.spawn(move || {
            let entered = || sender.send(()).expect("the test waits");
            // SAFETY: none of the closures panics or parks; tokens are numbers here.
            unsafe { park(key, token, || true, entered, || (), None) }
        });
        self.entered.1.recv().expect("the thread parks");
        thread
    }
}

/// Wakes whom `pick` says, with `message`. Returns the tokens that were shown and how many left.
fn wake(key: Key, message: usize, mut pick: impl FnMut(usize) -> Pick) -> (Vec<usize>, usize) {
    let mut shown = Vec::new();
    let mut told = None;
    // SAFETY: neither closure panics or parks.
    let count = unsafe {
        unpark(
            key,
            |token| {
                shown.push(token);
                pick(token)
            },
            |count| {
                told = Some(count);
                message
            },
        )
    };
    assert_eq!(told, Some(count), "the callback is told the number");
    (shown, count)
}

/// Wakes the first in the queue; returns its token.
fn wake_first(key: Key, message: usize) -> Option<usize> {
    let mut first = None;
    let (shown, count) = wake(key, message, |token| {
        if first.is_some() {
            return Pick::Stop;
        }
        first = Some(token);
        Pick::Unpark
    });
    assert_eq!(count, usize::from(first.is_some()));
    assert!(shown.len() <= 2, "the walk goes on after it was stopped: {shown:?}");
    first
}

#[test]
fn the_longest_parked_is_woken_first() {
    within_limit(|| {
        thread::scope(|scope| {
            let queue = Queue::new(scope);
            let threads: Vec<_> = (0..6).map(|token| queue.park(key(1), token)).collect();
            for (token, thread) in threads.into_iter().enumerate() {
                assert_eq!(wake_first(key(1), 100 + token), Some(token));
                assert_eq!(thread.join().unwrap(), Parked::Woken(100 + token));
            }
            assert_eq!(wake_first(key(1), 0), None);
        });
    });
}

#[test]
fn the_filter_skips_and_stops() {
    within_limit(|| {
        thread::scope(|scope| {
            let queue = Queue::new(scope);
            let threads: Vec<_> = (0..6).map(|token| queue.park(key(2), token)).collect();
            // The odd ones before the 4th.
            let odd = |token| match token {
                4.. => Pick::Stop,
                1 | 3 => Pick::Unpark,
                _ => Pick::Skip,
            };
            assert_eq!(wake(key(2), 7, odd), (vec![0, 1, 2, 3, 4], 2));
            assert_eq!(wake(key(2), 0, |_| Pick::Stop), (vec![0], 0));
            assert_eq!(wake(key(2), 0, |_| Pick::Skip), (vec![0, 2, 4, 5], 0));
            // The last one, then whoever is left.
            let last = |token| if token == 5 { Pick::Unpark } else { Pick::Skip };
            assert_eq!(wake(key(2), 8, last), (vec![0, 2, 4, 5], 1));
            let late = queue.park(key(2), 6);
            assert_eq!(wake(key(2), 9, |_| Pick::Unpark), (vec![0, 2, 4, 6], 4));
            let woken: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
            assert_eq!(woken, [9, 7, 9, 7, 9, 8].map(Parked::Woken));
            assert_eq!(late.join().unwrap(), Parked::Woken(9));
        });
    });
}

#[test]
fn keys_that_share_a_list_do_not_meet() {
    within_limit(|| {
        let (one, two) = neighbours(3);
        thread::scope(|scope| {
            let queue = Queue::new(scope);
            let threads = [(one, 10), (two, 20), (one, 11), (two, 21)]
                .map(|(key, token)| queue.park(key, token));
            assert_eq!(wake(two, 0, |_| Pick::Skip), (vec![20, 21], 0));
            assert_eq!(wake(one, 1, |_| Pick::Unpark), (vec![10, 11], 2));
            assert_eq!(wake(one, 0, |_| Pick::Unpark), (vec![], 0));
            assert_eq!(wake_first(two, 2), Some(20));
            assert_eq!(wake_first(two, 3), Some(21));
            assert_eq!(
                threads.map(|thread| thread.join().unwrap()),
                [1, 2, 1, 3].map(Parked::Woken)
            );
        });
    });
}

#[test]
fn whoever_is_refused_is_not_in_the_queue() {
    let never = || panic!("it does not sleep");
    // SAFETY: the closure that panics is not called; the others do not.
    let parked = unsafe { park(key(4), 1, || false, never, never, None) };
    assert_eq!(parked, Parked::Invalid);
    assert_eq!(wake(key(4), 0, |_| Pick::Unpark), (vec![], 0));
}

/// A thread whose time is up leaves the queue from wherever it is.
#[test]
fn whose_time_is_up_leaves_the_queue() {
    within_limit(|| {
        for place in 0..3 {
            thread::scope(|scope| {
                let queue = Queue::new(scope);
                let mut threads: Vec<_> =
                    (0..place).map(|token| queue.park(key(5), token)).collect();
                let times_up = Cell::new(0);
                // While it is in the queue, the rest come after it.
                let rest = || threads.extend((place..2).map(|token| queue.park(key(5), token)));
                let timeout = || times_up.set(times_up.get() + 1);
                let now = Some(Instant::now());
                // SAFETY: no closure panics. `rest` parks threads, but not this one.
                let parked = unsafe { park(key(5), 9, || true, rest, timeout, now) };
                assert_eq!((parked, times_up.get()), (Parked::TimedOut, 1));
                assert_eq!(wake(key(5), 6, |_| Pick::Unpark), (vec![0, 1], 2), "place {place}");
                for thread in threads {
                    assert_eq!(thread.join().unwrap(), Parked::Woken(6));
                }
            });
        }
    });
}

/// A timeout races a wake-up: exactly one of them happens, and both sides agree on which.
#[test]
fn a_timeout_races_a_wake_up() {
    const ROUNDS: usize = 5_000;
    let lists = neighbours(6);
    within_limit(move || {
        let (entered, has_entered) = channel();
        let (result, results) = channel();
        // Another thread is parked behind them all the while, and must not be lost.
        thread::scope(|scope| {
            let queue = Queue::new(scope);
            let bystander = queue.park(lists.1, 1);
            let (next, next_timeout) = channel();
            scope.spawn(move || {
                for (round, timeout) in next_timeout.into_iter().enumerate() {
                    let times_up = Cell::new(0);
                    let deadline = Some(Instant::now() + timeout);
                    let enter = || entered.send(()).expect("the test waits");
                    let count = || times_up.set(times_up.get() + 1);
                    // SAFETY: none of the closures panics or parks.
                    let parked = unsafe { park(lists.0, round, || true, enter, count, deadline) };
                    result.send((parked, times_up.get())).expect("the test waits");
                }
            });
            // The timeout that makes both as likely.
            let (mut timeout, mut counts) = (Duration::from_micros(20), [0; 2]);
            for round in 0..ROUNDS {
                next.send(timeout).expect("the thread lives");
                has_entered.recv().expect("the thread parks");
                let woken = wake_first(lists.0, round);
                let (parked, times_up) = results.recv().expect("the thread returns");
                match woken {
                    Some(token) => {
                        assert_eq!((token, parked, times_up), (round, Parked::Woken(round), 0));
                        timeout = timeout.saturating_sub(Duration::from_nanos(500));
                    }
                    None => {
                        assert_eq!((parked, times_up), (Parked::TimedOut, 1));
                        timeout += Duration::from_nanos(500);
                    }
                }
                counts[usize::from(woken.is_some())] += 1;
            }
            drop(next);
            assert!(counts.iter().all(|&count| count > ROUNDS / 100), "no race: {counts:?}");
            assert_eq!(wake_first(lists.1, 2), Some(1));
            assert_eq!(bystander.join().unwrap(), Parked::Woken(2));
        });
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
            let validate = || !self.try_lock();
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
            if core::mem::replace(&mut taken, true) { Pick::Stop } else { Pick::Unpark }
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

/// Threads lock two locks whose waiters share a list. A lost wake-up hangs; a message that goes
/// astray lets two threads in, or none.
#[test]
fn no_wake_up_is_lost() {
    const THREADS: usize = 4;
    const ROUNDS: usize = 5_000;
    within_limit(|| {
        let (one, two) = neighbours(7);
        let locks =
            [one, two].map(|key| Lock { held: AtomicU32::new(0), key, data: UnsafeCell::new(0) });
        let body = |thread: usize| {
            let mut entered = [0; 2];
            for round in 0..ROUNDS {
                let which = (round / 64) % 2;
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
        let entered = thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS).map(|i| scope.spawn(move || body(i))).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .fold([0; 2], |sum, more| [sum[0] + more[0], sum[1] + more[1]])
        });
        assert_eq!(locks.map(|lock| lock.data.into_inner()), entered);
    });
}

/// The thread's own `park` belongs to its user.
#[test]
fn the_token_of_the_thread_is_left_alone() {
    thread::current().unpark();
    // SAFETY: none of the closures panics or parks.
    let parked = unsafe { park(key(8), 1, || true, || (), || (), Some(Instant::now())) };
    assert_eq!(parked, Parked::TimedOut);
    let now = Instant::now();
    thread::park_timeout(LONG);
    assert!(now.elapsed() < LONG, "the token is gone");
}

/// A thread parks when its local data are gone, `thread::current()` among them.
#[test]
#[cfg(unix)]
fn a_thread_parks_at_its_end() {
    extern "C" fn at_end(sender: *mut libc::c_void) {
        // SAFETY: boxed below, for this one call.
        let sender = unsafe { Box::from_raw(sender.cast::<Sender<Parked>>()) };
        // SAFETY: none of the closures panics or parks.
        let parked = unsafe { park(key(9), 1, || true, || (), || (), Some(Instant::now())) };
        let _ = sender.send(parked);
    }
    let mut slot = 0;
    // SAFETY: the slot is ours to write; the handler takes what is set below.
    assert_eq!(unsafe { libc::pthread_key_create(&mut slot, Some(at_end)) }, 0);
    let (sender, parked) = channel();
    let boxed = Box::into_raw(Box::new(sender)).expose_provenance();
    let thread = thread::spawn(move || {
        let _ = thread::current();
        let value = ptr::with_exposed_provenance(boxed);
        // SAFETY: the slot exists, and this is its only value.
        unsafe { libc::pthread_setspecific(slot, value) }
    });
    assert_eq!(thread.join().unwrap(), 0);
    assert_eq!(parked.recv_timeout(LONG), Ok(Parked::TimedOut));
}

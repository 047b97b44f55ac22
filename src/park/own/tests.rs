//! The lot of our own without a fork: threads park and wake each other.

use super::*;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(30);

/// A key that no other test uses. The lot does not care what it stands for.
fn key(number: usize) -> Key {
    Key(number)
}

/// Two keys of one list.
pub(super) fn neighbours(number: usize) -> (Key, Key) {
    let first = key(number);
    let mut others = (number + 1_000..).map(key);
    let found = others.find(|&key| key != first && ptr::eq(list_of(key), list_of(first)));
    (first, found.expect("there are more keys than lists"))
}

/// Runs `body` in a thread of its own, and fails if it does not end.
pub(super) fn within_limit(body: impl FnOnce() + Send + 'static) {
    let (sender, ended) = channel::<()>();
    let thread: JoinHandle<()> = thread::spawn(move || {
        let _ends_with_the_body = sender;
        body();
    });
    let hangs = ended.recv_timeout(LONG) == Err(std::sync::mpsc::RecvTimeoutError::Timeout);
    assert!(!hangs, "a thread waits for ever");
    thread.join().expect("the test's thread succeeds");
}

/// Parks threads one after the other.
pub(super) struct Queue {
    entered: (Sender<()>, Receiver<()>),
}

impl Queue {
    pub(super) fn new() -> Self {
        Queue { entered: channel() }
    }

    /// Parks one more thread. It is in the queue when this returns.
    pub(super) fn park(&self, key: Key, token: usize) -> JoinHandle<Parked> {
        let sender = self.entered.0.clone();
        let thread = thread::spawn(move || {
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
pub(super) fn wake_first(key: Key, message: usize) -> Option<usize> {
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
        let queue = Queue::new();
        let threads: Vec<_> = (0..6).map(|token| queue.park(key(1), token)).collect();
        for (token, thread) in threads.into_iter().enumerate() {
            assert_eq!(wake_first(key(1), 100 + token), Some(token));
            assert_eq!(thread.join().unwrap(), Parked::Woken(100 + token));
        }
        assert_eq!(wake_first(key(1), 0), None);
    });
}

#[test]
fn the_filter_skips_and_stops() {
    within_limit(|| {
        let queue = Queue::new();
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
}

#[test]
fn keys_that_share_a_list_do_not_meet() {
    within_limit(|| {
        let (one, two) = neighbours(3);
        let queue = Queue::new();
        let threads =
            [(one, 10), (two, 20), (one, 11), (two, 21)].map(|(key, token)| queue.park(key, token));
        assert_eq!(wake(two, 0, |_| Pick::Skip), (vec![20, 21], 0));
        assert_eq!(wake(one, 1, |_| Pick::Unpark), (vec![10, 11], 2));
        assert_eq!(wake(one, 0, |_| Pick::Unpark), (vec![], 0));
        assert_eq!(wake_first(two, 2), Some(20));
        assert_eq!(wake_first(two, 3), Some(21));
        assert_eq!(threads.map(|thread| thread.join().unwrap()), [1, 2, 1, 3].map(Parked::Woken));
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
            let queue = Queue::new();
            let mut threads: Vec<_> = (0..place).map(|token| queue.park(key(5), token)).collect();
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
        }
    });
}

/// The thread's own `park` belongs to its user.
#[test]
fn the_token_of_the_thread_is_left_alone() {
    thread::current().unpark();
    // SAFETY: none of the closures panics or parks.
    let parked = unsafe { park(key(9), 1, || true, || (), || (), Some(Instant::now())) };
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
        let parked = unsafe { park(key(10), 1, || true, || (), || (), Some(Instant::now())) };
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

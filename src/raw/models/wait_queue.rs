//! The wait queue of a cluster key: grants race waiters that leave, no wake-up is lost, and the order
//! is kept.
//!
//! The queue is the real one (`cluster/local/wait_queue.rs`). Around it the model repeats in short what
//! `cluster/local/state.rs` does with it: everything happens under one mutex, and a waker is called
//! after the mutex is released.

// The models compile without the cluster wing, but with this file of it.
#[path = "../../cluster/local/wait_queue.rs"]
#[allow(dead_code, reason = "the models use a part of it")]
mod real;

use super::Model;
use crate::primitive::model_sync::{Arc, Condvar, Mutex};
use crate::primitive::model_thread as thread;
use real::{WaitQueue, WaiterId, WaiterTerms};
use std::task::{Poll, Wake, Waker};
use std::time::Duration;

/// Stands for the moments of the cluster: here, nobody has a timeout.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
struct Time(Duration);

impl Time {
    #[allow(dead_code, reason = "only the queue's own tests have moments")]
    const fn new(since_origin: Duration) -> Self {
        Self(since_origin)
    }
}

/// A key: whether its lock is held, and its waiters.
struct Key {
    state: Mutex<LocalState>,
}

struct LocalState {
    wait_queue: WaitQueue<u32, &'static str>,
    is_held: bool,
    /// The barging window is open: a newcomer may take the lock before the waiters.
    is_turn: bool,
    /// The lock is free, and a newcomer may take it.
    is_open: bool,
    grants: u32,
}

impl LocalState {
    /// If the lock is free, grants it to the next waiter or wakes that waiter to check for itself.
    fn settle(&mut self) -> Option<Waker> {
        if self.is_held || self.wait_queue.is_empty() {
            return None;
        }
        self.is_open = self.is_turn && self.wait_queue.is_led_by_thread();
        if self.is_open { self.wait_queue.wake_next() } else { self.grant() }
    }

    /// Grants the lock to the next waiter. The grant is the number of grants before it.
    fn grant(&mut self) -> Option<Waker> {
        self.is_open = false;
        let before = self.grants;
        let waker = self.wait_queue.grant(|_| before);
        (self.is_held, self.grants) = (true, before + 1);
        waker
    }
}

impl Key {
    fn new(is_held: bool) -> Arc<Self> {
        Self::with_turn(is_held, false)
    }

    fn with_turn(is_held: bool, is_turn: bool) -> Arc<Self> {
        let state = LocalState {
            wait_queue: WaitQueue::new(),
            is_held,
            is_turn,
            is_open: false,
            grants: 0,
        };
        Arc::new(Self { state: Mutex::new(state) })
    }

    fn change(&self, change: impl FnOnce(&mut LocalState)) {
        let mut state = self.state.lock().unwrap();
        change(&mut state);
        let waker = state.settle();
        drop(state);
        waker.into_iter().for_each(Waker::wake);
    }

    fn join(&self, parker: &std::sync::Arc<Parker>) -> WaiterId {
        let (mut waiter_id, mut prewoken) = (None, None);
        let terms = WaiterTerms { spins: true, ..WaiterTerms::default() };
        self.change(|state| {
            waiter_id = Some(state.wait_queue.join(&parker.clone().into(), terms));
            prewoken = state.wait_queue.wake_next();
        });
        // This wakes the next waiter without a grant.
        prewoken.into_iter().for_each(Waker::wake);
        waiter_id.unwrap()
    }

    fn poll(
        &self,
        waiter_id: WaiterId,
        parker: &std::sync::Arc<Parker>,
    ) -> Poll<Result<u32, &'static str>> {
        let waker = parker.clone().into();
        let mut state = self.state.lock().unwrap();
        if state.is_open && state.wait_queue.first() == Some(waiter_id) {
            // The returned waker is this waiter's own.
            drop(state.grant());
        }
        state.wait_queue.poll(waiter_id, &waker, &mut None)
    }

    /// Takes the lock before the waiters, if it is open to newcomers. Returns whether it did.
    fn barge(&self) -> bool {
        let mut state = self.state.lock().unwrap();
        let takes = std::mem::take(&mut state.is_open);
        state.is_held |= takes;
        takes
    }

    /// Waits until the lock is granted or refused.
    fn wait(
        &self,
        waiter_id: WaiterId,
        parker: &std::sync::Arc<Parker>,
    ) -> Result<u32, &'static str> {
        loop {
            if let Poll::Ready(result) = self.poll(waiter_id, parker) {
                return result;
            }
            parker.sleep();
        }
    }

    fn leave(&self, waiter_id: WaiterId) {
        self.change(|state| {
            if state.wait_queue.leave(waiter_id, &mut None).is_some() {
                state.is_held = false;
            }
        });
    }

    /// Polls once and leaves, as a future does that is polled for another reason and then dropped.
    fn poll_and_leave(&self, waiter_id: WaiterId, parker: &std::sync::Arc<Parker>) {
        match self.poll(waiter_id, parker) {
            Poll::Ready(result) => {
                result.unwrap();
                self.release();
            }
            Poll::Pending => self.leave(waiter_id),
        }
    }

    fn release(&self) {
        self.change(|state| {
            assert!(state.is_held, "the lock is granted once at a time");
            state.is_held = false;
        });
    }

    /// In the end the lock is free, no waiter is left, and every grant was fetched.
    fn check(&self) {
        let state = self.state.lock().unwrap();
        assert!(!state.is_held && state.wait_queue.is_empty() && state.wait_queue.is_deserted());
    }
}

/// What a waiting thread sleeps on.
struct Parker {
    is_woken: Mutex<bool>,
    woken: Condvar,
}

impl Parker {
    fn new() -> std::sync::Arc<Self> {
        std::sync::Arc::new(Parker { is_woken: Mutex::new(false), woken: Condvar::new() })
    }

    fn sleep(&self) {
        let mut is_woken = self.is_woken.lock().unwrap();
        while !*is_woken {
            is_woken = self.woken.wait(is_woken).unwrap();
        }
        *is_woken = false;
    }
}

impl Wake for Parker {
    fn wake(self: std::sync::Arc<Self>) {
        *self.is_woken.lock().unwrap() = true;
        self.woken.notify_one();
    }
}

/// Two threads wait for the lock, and neither sleeps for ever.
#[test]
fn no_wake_up_is_lost() {
    Model::bounded(3).check(|| {
        let key = Key::new(false);
        let others = [(); 2].map(|()| {
            let key = key.clone();
            thread::spawn(move || {
                let parker = Parker::new();
                let waiter_id = key.join(&parker);
                key.wait(waiter_id, &parker).unwrap();
                key.release();
            })
        });
        for other in others {
            other.join().unwrap();
        }
        key.check();
    });
}

/// The holder releases the lock while the first waiter leaves: the second waiter gets the lock.
#[test]
fn grant_races_leaving() {
    Model::bounded(4).check(|| {
        let key = Key::new(true);
        let (first, second) = (Parker::new(), Parker::new());
        let leaver = key.join(&first);
        let stayer = key.join(&second);
        let holder = key.clone();
        let holder = thread::spawn(move || holder.release());
        let other = key.clone();
        let other = thread::spawn(move || other.poll_and_leave(leaver, &first));
        key.wait(stayer, &second).unwrap();
        key.release();
        holder.join().unwrap();
        other.join().unwrap();
        key.check();
    });
}

/// A holder takes the lock again at once, twice at most, before a waiter that was woken: the waiter is
/// woken again and gets the lock in the end.
#[test]
fn an_overtaken_waiter_is_woken_again() {
    Model::bounded(3).check(|| {
        let key = Key::with_turn(true, true);
        let other = key.clone();
        let parker = Parker::new();
        let waiter_id = key.join(&parker);
        let other = thread::spawn(move || {
            other.wait(waiter_id, &parker).unwrap();
            other.release();
        });
        key.release();
        for _ in 0..2 {
            if key.barge() {
                key.release();
            }
        }
        other.join().unwrap();
        key.check();
    });
}

/// The waiter that was woken to check leaves: the waiter after it is woken.
#[test]
fn leaving_races_a_wake_up() {
    Model::bounded(3).check(|| {
        let key = Key::with_turn(true, true);
        let (first, second) = (Parker::new(), Parker::new());
        let leaver = key.join(&first);
        let stayer = key.join(&second);
        let holder = key.clone();
        let holder = thread::spawn(move || {
            holder.release();
            if holder.barge() {
                holder.release();
            }
        });
        let other = key.clone();
        let other = thread::spawn(move || other.poll_and_leave(leaver, &first));
        key.wait(stayer, &second).unwrap();
        key.release();
        holder.join().unwrap();
        other.join().unwrap();
        key.check();
    });
}

/// The waiter that joined first gets the first grant.
#[test]
fn grants_are_in_order_of_joining() {
    Model::bounded(3).check(|| {
        let key = Key::new(true);
        let others: [_; 2] = std::array::from_fn(|rank| {
            let (key, parker) = (key.clone(), Parker::new());
            let waiter_id = key.join(&parker);
            thread::spawn(move || {
                assert_eq!(key.wait(waiter_id, &parker), Ok(rank as u32));
                key.release();
            })
        });
        key.release();
        for other in others {
            other.join().unwrap();
        }
        key.check();
    });
}

/// All waiters are refused while one is granted the lock: each gets one of the two results.
#[test]
fn refusal_races_a_grant() {
    Model::bounded(4).check(|| {
        let key = Key::new(true);
        let others = [(); 2].map(|()| {
            let (key, parker) = (key.clone(), Parker::new());
            let waiter_id = key.join(&parker);
            thread::spawn(move || {
                if key.wait(waiter_id, &parker).is_ok() {
                    key.release();
                }
            })
        });
        let holder = key.clone();
        let holder = thread::spawn(move || holder.release());
        let wakers = key.state.lock().unwrap().wait_queue.fail_all(&"closed");
        wakers.into_iter().for_each(Waker::wake);
        holder.join().unwrap();
        for other in others {
            other.join().unwrap();
        }
        key.check();
    });
}

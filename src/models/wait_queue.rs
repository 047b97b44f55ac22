//! Who waits for a key of the cluster: grants racing waiters that leave, wake-ups, the order.
//!
//! The line itself is the real one; around it stands what `cluster/local.rs` does with it, in a few
//! lines: everything under one mutex, and the waker called after that is let go.

// The cluster wing is no part of the models, but this file is.
#[path = "../cluster/local/wait_queue.rs"]
#[allow(dead_code, reason = "the models use a part of it")]
mod real;

use super::Model;
use crate::primitive::model_sync::{Arc, Condvar, Mutex};
use crate::primitive::model_thread as thread;
use real::{WaitQueue, WaiterId};
use std::task::{Poll, Wake, Waker};

/// A key: whether somebody has the lock, and who waits.
struct Key {
    state: Mutex<LocalState>,
}

struct LocalState {
    wait_queue: WaitQueue<u32, &'static str>,
    is_held: bool,
    /// The turn is not over: whoever comes may overtake.
    is_turn: bool,
    /// Nobody has it, and whoever comes may.
    is_open: bool,
    grants: u32,
}

impl LocalState {
    /// Grants to the next one, if nobody has it; or tells that one to look.
    fn settle(&mut self) -> Option<Waker> {
        if self.is_held || self.wait_queue.is_empty() {
            return None;
        }
        self.is_open = self.is_turn && self.wait_queue.is_led_by_thread();
        if self.is_open { self.wait_queue.wake_next() } else { self.grant() }
    }

    /// Grants to the next one. What is granted is how many were granted before.
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
        self.change(|state| {
            waiter_id = Some(state.wait_queue.join(&parker.clone().into(), true));
            prewoken = state.wait_queue.wake_next();
        });
        // Whoever that is, it was granted nothing by that.
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
            // Its own.
            drop(state.grant());
        }
        state.wait_queue.poll(waiter_id, &waker, &mut None)
    }

    /// Takes it before those who wait, if nobody has it. Whether it did.
    fn barge(&self) -> bool {
        let mut state = self.state.lock().unwrap();
        let takes = std::mem::take(&mut state.is_open);
        state.is_held |= takes;
        takes
    }

    /// Waits until it is granted or refused.
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

    /// Looks once, as a future does that was woken for something else, and is dropped.
    fn look_and_leave(&self, waiter_id: WaiterId, parker: &std::sync::Arc<Parker>) {
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
            assert!(state.is_held, "it was granted to two");
            state.is_held = false;
        });
    }

    /// At the end nobody has it, nobody waits, and nothing lies about.
    fn check(&self) {
        let state = self.state.lock().unwrap();
        assert!(!state.is_held && state.wait_queue.is_empty() && state.wait_queue.is_deserted());
    }
}

/// What a waiting thread sleeps on.
struct Parker {
    is_woken: Mutex<bool>,
    alarm: Condvar,
}

impl Parker {
    fn new() -> std::sync::Arc<Self> {
        std::sync::Arc::new(Parker { is_woken: Mutex::new(false), alarm: Condvar::new() })
    }

    fn sleep(&self) {
        let mut is_woken = self.is_woken.lock().unwrap();
        while !*is_woken {
            is_woken = self.alarm.wait(is_woken).unwrap();
        }
        *is_woken = false;
    }
}

impl Wake for Parker {
    fn wake(self: std::sync::Arc<Self>) {
        *self.is_woken.lock().unwrap() = true;
        self.alarm.notify_one();
    }
}

/// Two threads that want it, none of which sleeps for ever.
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

/// The holder gives back while the first in the queue leaves: the second gets it, sooner or later.
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
        let other = thread::spawn(move || other.look_and_leave(leaver, &first));
        key.wait(stayer, &second).unwrap();
        key.release();
        holder.join().unwrap();
        other.join().unwrap();
        key.check();
    });
}

/// A holder that comes back at once, and one that waits and is told to look: it gets it in the end,
/// though the holder does not come back for ever.
#[test]
fn who_is_overtaken_is_told_again() {
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

/// The one that is told to look leaves: the next one is told.
#[test]
fn leaving_races_a_look() {
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
        let other = thread::spawn(move || other.look_and_leave(leaver, &first));
        key.wait(stayer, &second).unwrap();
        key.release();
        holder.join().unwrap();
        other.join().unwrap();
        key.check();
    });
}

/// Who joined first is granted first.
#[test]
fn the_first_come_is_the_first_served() {
    Model::bounded(3).check(|| {
        let key = Key::new(true);
        let others: [_; 2] = std::array::from_fn(|context| {
            let (key, parker) = (key.clone(), Parker::new());
            let waiter_id = key.join(&parker);
            thread::spawn(move || {
                assert_eq!(key.wait(waiter_id, &parker), Ok(context as u32));
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

/// All are refused while one is being granted it: each hears one or the other.
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

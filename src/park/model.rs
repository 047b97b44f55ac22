//! The same interface, made of loom types, for the models.
//!
//! One mutex guards all queues, as one guards the queues that share a bucket of
//! `parking_lot_core`; each parked thread has a Condvar of its own. A deadline passes when the
//! model says so, see [`crate::primitive::model_time`].

use super::{Key, Parked, Pick};
use crate::primitive::{
    is_past, lazy_static,
    model_sync::{Condvar, Mutex},
};
use std::sync::Arc;
use std::time::Instant;

struct Entry {
    key: Key,
    token: usize,
    timed: bool,
    bed: Arc<Bed>,
}

/// What a parked thread sleeps on.
struct Bed {
    alarm: Condvar,
    /// Read and written under the mutex of the queues; loom need not see it.
    message: std::sync::Mutex<Option<usize>>,
}

lazy_static! {
    static ref QUEUES: Mutex<Vec<Entry>> = Mutex::new(Vec::new());
}

/// As [`lot::park`](super::lot::park).
///
/// # Safety
/// As there; nothing here relies on it.
pub(crate) unsafe fn park(
    key: Key,
    token: usize,
    validate: impl FnOnce() -> bool,
    before_sleep: impl FnOnce(),
    on_timeout: impl FnOnce(),
    deadline: Option<Instant>,
) -> Parked {
    let bed = Arc::new(Bed { alarm: Condvar::new(), message: std::sync::Mutex::new(None) });
    let mut queues = QUEUES.lock().unwrap();
    if !validate() {
        return Parked::Invalid;
    }
    queues.push(Entry { key, token, timed: deadline.is_some(), bed: bed.clone() });
    drop(queues);
    before_sleep();
    let mut queues = QUEUES.lock().unwrap();
    loop {
        if let Some(message) = bed.message.lock().unwrap().take() {
            return Parked::Woken(message);
        }
        if deadline.is_some_and(is_past) {
            let at = queues.iter().position(|entry| Arc::ptr_eq(&entry.bed, &bed)).unwrap();
            queues.remove(at);
            on_timeout();
            return Parked::TimedOut;
        }
        queues = bed.alarm.wait(queues).unwrap();
    }
}

/// As [`lot::unpark`](super::lot::unpark).
///
/// # Safety
/// As there; nothing here relies on it.
pub(crate) unsafe fn unpark(
    key: Key,
    mut pick: impl FnMut(usize) -> Pick,
    message: impl FnOnce(usize) -> usize,
) -> usize {
    let mut queues = QUEUES.lock().unwrap();
    let mut taken = Vec::new();
    let mut at = 0;
    while at < queues.len() {
        if queues[at].key != key {
            at += 1;
            continue;
        }
        match pick(queues[at].token) {
            Pick::Unpark => taken.push(queues.remove(at)),
            Pick::Skip => at += 1,
            Pick::Stop => break,
        }
    }
    let message = message(taken.len());
    for entry in &taken {
        *entry.bed.message.lock().unwrap() = Some(message);
        entry.bed.alarm.notify_one();
    }
    taken.len()
}

/// The model's time is up: all deadlines have passed, and whoever sleeps until one wakes.
pub(crate) fn expire() {
    let queues = QUEUES.lock().unwrap();
    crate::primitive::model_time::pass();
    for entry in queues.iter().filter(|entry| entry.timed) {
        entry.bed.alarm.notify_one();
    }
}

/// Makes the queues of this execution.
pub(crate) fn begin() {
    drop(QUEUES.lock().unwrap());
}

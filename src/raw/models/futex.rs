//! `park::{wait, wake}` of the models: threads sleep by the address of a word.
//!
//! The look at the word and the entry into the list of sleepers are one step, as in the kernel. Whoever
//! finds another value returns without any synchronisation, so that callers must bring their own.
//! [`expire`] lets all deadlines pass; [`disturb`] wakes all sleepers for no reason.

use crate::primitive::{AtomicU32, Ordering, model_thread as thread, model_time};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

struct Sleeper {
    address: usize,
    timed: bool,
    thread: thread::Thread,
}

/// A mutex of std, which loom does not see: the list is the kernel's.
static SLEEPERS: Mutex<Vec<Sleeper>> = Mutex::new(Vec::new());

fn sleepers() -> MutexGuard<'static, Vec<Sleeper>> {
    SLEEPERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// As the one of the platform.
pub(crate) fn wait(word: &AtomicU32, expected: u32, deadline: Option<Instant>) {
    let address = core::ptr::from_ref(word).addr();
    // A read-modify-write sees the latest value, as the kernel does, which locks its list before. loom
    // changes threads before an atomic operation, so not between this look and the entry.
    if word.fetch_add(0, Ordering::Relaxed) != expected {
        return;
    }
    let (thread, timed) = (thread::current(), deadline.is_some());
    let id = thread.id();
    sleepers().push(Sleeper { address, timed, thread });
    if timed && model_time::is_up() {
        // Lets others run: a nap that ends at once must not go on for ever.
        thread::yield_now();
    } else {
        thread::park();
    }
    // It may have been woken by an earlier `unpark`, and must not be taken for one that sleeps.
    sleepers().retain(|sleeper| sleeper.thread.id() != id);
}

/// As the one of the platform.
pub(crate) fn wake(word: *const AtomicU32) {
    let found = {
        let mut sleepers = sleepers();
        let found = sleepers.iter().position(|sleeper| sleeper.address == word.addr());
        found.map(|at| sleepers.remove(at))
    };
    if let Some(sleeper) = found {
        sleeper.thread.unpark();
    }
}

/// As the one of the platform.
pub(crate) fn wake_all(words: impl Iterator<Item = *const AtomicU32>) {
    words.for_each(wake);
}

/// All deadlines have passed, and whoever sleeps until one wakes.
pub(crate) fn expire() {
    model_time::pass();
    wake_if(|sleeper| sleeper.timed);
}

/// Wakes all that sleep.
pub(crate) fn disturb() {
    wake_if(|_| true);
}

fn wake_if(which: impl Fn(&Sleeper) -> bool) {
    let woken: Vec<_> = sleepers().extract_if(.., |sleeper| which(sleeper)).collect();
    for sleeper in woken {
        sleeper.thread.unpark();
    }
}

/// Begins an execution. (One that has failed leaves sleepers.)
pub(crate) fn begin() {
    sleepers().clear();
}

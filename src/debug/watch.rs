//! The background watcher.

use super::check_deadlock;
use super::report::Deadlock;
use crate::raw::fork;
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// A thread that looks for deadlocks, until this is dropped. Made by [`watch`].
#[derive(Debug)]
#[must_use = "the watcher ends when it is dropped"]
pub struct Watcher {
    ends: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
    /// So many forks there were when it was made.
    forks: usize,
}

/// Looks for deadlocks every `interval`, in a thread of its own, and passes each new one to `tell`, once.
///
/// A panic of `tell` is caught, after the panic hook has printed it; the watcher goes on. `tell` must not wait for a
/// lock that may be in the deadlock. A child of a `fork` has no watcher.
///
/// # Panics
/// If the thread cannot be started.
pub fn watch(interval: Duration, mut tell: impl FnMut(&Deadlock) + Send + 'static) -> Watcher {
    let (ends, ended) = channel();
    let look = move || {
        let mut told = HashSet::new();
        while ended.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
            let found = check_deadlock();
            let keys: Vec<_> = found.iter().map(key).collect();
            told.retain(|known| keys.contains(known));
            for (deadlock, key) in found.iter().zip(keys) {
                if told.insert(key) {
                    let _ = catch_unwind(AssertUnwindSafe(|| tell(deadlock)));
                }
            }
        }
    };
    let thread = thread::Builder::new().name("lockword-watch".to_owned()).spawn(look);
    let thread = Some(thread.expect("a thread can be started"));
    Watcher { ends: Some(ends), thread, forks: fork::forks() }
}

/// What is the same for one deadlock each time, in whatever order its threads are.
fn key(deadlock: &Deadlock) -> Vec<(String, i64, usize)> {
    let of = |blocked: &super::BlockedThread| {
        (blocked.thread.name.clone(), blocked.thread.id, blocked.waits_for.number)
    };
    let mut key: Vec<_> = deadlock.threads.iter().map(of).collect();
    key.sort_unstable();
    key
}

impl Drop for Watcher {
    /// Waits for the thread, and so for a call of `tell` that lasts.
    fn drop(&mut self) {
        let is_ours = self.forks == fork::forks();
        let (ends, thread) = (self.ends.take(), self.thread.take());
        if !is_ours {
            // The thread is not in this process, and POSIX does not say what a join does then.
            return std::mem::forget((ends, thread));
        }
        drop(ends);
        // By `tell` itself, which owns it, it is not waited for.
        if let Some(thread) = thread
            && thread.thread().id() != thread::current().id()
        {
            let _ = thread.join();
        }
    }
}

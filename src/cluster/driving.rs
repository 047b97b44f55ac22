//! Which thread runs the driver: it must not wait for what only the driver can do.

use crate::{Condvar, Mutex};
use std::thread::{self, ThreadId};
use std::time::Duration;

/// How long to wait for the driver to be run for the first time, to know where.
const FIRST: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Driving {
    threads: Mutex<Threads>,
    known: Condvar,
}

#[derive(Debug, Default)]
struct Threads {
    /// Runs it at this moment.
    now: Option<ThreadId>,
    /// Has run it last.
    last: Option<ThreadId>,
}

/// The driver runs on this thread until this is dropped.
pub(crate) struct Driven<'a>(&'a Driving);

impl Driving {
    pub(crate) fn begin(&self) -> Driven<'_> {
        let here = Some(thread::current().id());
        let mut threads = self.threads.lock();
        threads.now = here;
        if threads.last.is_none() {
            self.known.notify_all();
        }
        threads.last = here;
        drop(threads);
        Driven(self)
    }

    /// Whether the driver is running on this thread at this moment: it has called something that
    /// calls back.
    pub(crate) fn is_here(&self) -> bool {
        self.threads.lock().now == Some(thread::current().id())
    }

    /// Whether this thread is the one that runs the driver, where only one ever does. If nobody has
    /// run it for a second, it is taken for this one that should.
    pub(crate) fn is_by_this_thread(&self) -> bool {
        let mut threads = self.threads.lock();
        if threads.last.is_none() {
            self.known.wait_while_for(&mut threads, |threads| threads.last.is_none(), FIRST);
        }
        threads.last.is_none_or(|last| last == thread::current().id())
    }
}

impl Drop for Driven<'_> {
    fn drop(&mut self) {
        self.0.threads.lock().now = None;
    }
}

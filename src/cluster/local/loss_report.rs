//! Who tells the observer that a guard is lost, and when others may learn of it.

use crate::Mutex;
use std::thread::{self, ThreadId};

/// Whether the observer knows of the loss of a guard.
///
/// Several threads may notice a loss at the same time: the driver, a task that polls
/// [`lost`](crate::cluster::DistributedGuard::lost), and who gives the guard back. One of them tells the
/// observer. The others say nothing of the loss until that call has returned; only within the call, on
/// its thread, it is no news.
#[derive(Debug, Default)]
pub(crate) struct LossReport {
    told: Mutex<Told>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Told {
    #[default]
    No,
    /// This thread is about to call the observer, or is in the call.
    By(ThreadId),
    Yes,
}

impl LossReport {
    /// Returns whether the caller has to tell the observer, and to call [`LossReport::end`] then.
    #[must_use]
    pub(super) fn begin(&self) -> bool {
        let mut told = self.told.lock();
        let is_first = *told == Told::No;
        if is_first {
            *told = Told::By(thread::current().id());
        }
        is_first
    }

    pub(super) fn end(&self) {
        *self.told.lock() = Told::Yes;
    }

    /// Whether this thread may say that the guard is lost.
    pub(crate) fn is_told(&self) -> bool {
        match *self.told.lock() {
            Told::No => false,
            Told::By(thread) => thread == thread::current().id(),
            Told::Yes => true,
        }
    }
}

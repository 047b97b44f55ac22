//! A gate that keeps threads alive until the test opens it.

use std::sync::{Condvar, Mutex};

/// Threads of a parent that have done their part wait here until the child of a fork has ended.
///
/// A thread that starts or ends holds a lock of std for a moment (the one around its table of stack
/// guards). In a child of a fork at that moment it is held for ever, and no new thread of the child
/// gets to its first line. So a test that forks must have no such thread.
#[derive(Default)]
pub struct Gate {
    open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    /// Waits until the gate is open.
    pub fn pass(&self) {
        let open = self.open.lock().unwrap();
        drop(self.opened.wait_while(open, |open| !*open).unwrap());
    }

    /// Lets all threads pass, from now on.
    pub fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.opened.notify_all();
    }
}

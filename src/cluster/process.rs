//! Which process this is. A forked child has copies of its parent's objects, and leaves them alone.
//!
//! The child has the sockets of the parent but none of its threads. A mutex that another thread held at the
//! fork stays held for ever in the child. So each object that may end up in a child remembers the
//! [`Process`] that made it. In another process it takes no mutex, does nothing, and is leaked: a destructor
//! would write into the sockets of the parent, deregister them from its `epoll`, or join a thread that does
//! not exist.
//!
//! A process is identified by a generation, which a handler of `pthread_atfork` increments in each child
//! (`src/raw/fork.rs`). It does not notice a child that is made by the bare system call.

use crate::cluster::transport::{TransportError, Watch};
use crate::raw::fork;
use futures_util::stream::{Stream, StreamExt};
use std::mem::{self, ManuallyDrop};
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// A process, as opposed to those that it has forked and to those that it was forked from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process(usize);

impl Process {
    /// The process that calls.
    pub(crate) fn current() -> Self {
        fork::watch();
        Self(forks())
    }

    /// Whether it is the process that calls.
    #[inline]
    pub(crate) fn is_current(self) -> bool {
        self.0 == forks()
    }
}

/// How many forks the process that calls has behind it.
#[inline]
fn forks() -> usize {
    let forks = fork::forks();
    #[cfg(test)]
    let forks = forks + usize::from(virtual_child::is_running());
    forks
}

/// For the simulator, which has one process: code that runs as if in a child which was forked just before.
///
/// A child has its own copy of all memory, this one has not. But a child leaves what its parent made alone.
/// So if the code is right, nobody notices that there is only one copy; and if it is not, the simulator
/// finds that the parent's has changed.
#[cfg(test)]
pub(crate) mod virtual_child {
    use std::cell::Cell;

    thread_local! {
        static IS_RUNNING: Cell<bool> = const { Cell::new(false) };
    }

    /// Whether the calling thread is that of a virtual child.
    pub(crate) fn is_running() -> bool {
        IS_RUNNING.get()
    }

    /// Runs this as the code of a child.
    pub(crate) fn run<T>(code: impl FnOnce() -> T) -> T {
        struct BackInParent;
        impl Drop for BackInParent {
            fn drop(&mut self) {
                IS_RUNNING.set(false);
            }
        }
        let _back = BackInParent;
        IS_RUNNING.set(true);
        code()
    }

    /// The child's copy of a value, which the child can use up and drop.
    ///
    /// # Safety
    ///
    /// What the value owns must be shared (an `Arc`), and its destructor must leak that in a child. Or the
    /// caller makes up for what the destructor did to it.
    pub(crate) unsafe fn copy_of<T>(value: &T) -> T {
        assert!(is_running());
        // SAFETY: it is a valid value, of which the caller sees to the rest.
        unsafe { std::ptr::read(value) }
    }
}

/// Keeps what is shared from ever being dropped.
pub(crate) fn leak<T: ?Sized>(shared: &Arc<T>) {
    mem::forget(Arc::clone(shared));
}

/// A value that only the process which made it uses and drops.
pub(crate) struct OfProcess<T> {
    process: Process,
    value: ManuallyDrop<T>,
}

impl<T> OfProcess<T> {
    pub(crate) fn new(value: T) -> Self {
        Self { process: Process::current(), value: ManuallyDrop::new(value) }
    }

    /// The value, unless this is a forked child.
    ///
    /// # Errors
    ///
    /// [`TransportError::Unavailable`] in a forked child.
    pub(crate) fn here(&self) -> Result<&T, TransportError> {
        if self.is_here() { Ok(&self.value) } else { Err(forked()) }
    }

    /// Whether this is the process that made the value.
    pub(crate) fn is_here(&self) -> bool {
        self.process.is_current()
    }
}

/// The error of a transport in a forked child.
fn forked() -> TransportError {
    TransportError::unavailable(
        "this process was forked, and the transport is the parent's: connect again here",
    )
}

/// For what is only read. In a forked child the value is a copy, whose mutexes may be held for ever.
impl<T> Deref for OfProcess<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> OfProcess<T> {
    /// Changes the value. The same holds as for [`Deref`].
    pub(crate) fn get_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

impl<T> Drop for OfProcess<T> {
    fn drop(&mut self) {
        if self.is_here() {
            // SAFETY: this is the only call, and the value is not used after it.
            unsafe { ManuallyDrop::drop(&mut self.value) };
        }
    }
}

/// A watch that ends in a forked child.
pub(crate) fn watch_of_process(watch: Watch) -> Watch {
    Box::pin(ProcessWatch(OfProcess::new(watch)))
}

struct ProcessWatch(OfProcess<Watch>);

impl Stream for ProcessWatch {
    type Item = <Watch as Stream>::Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.0.is_here() { self.0.get_mut().poll_next_unpin(cx) } else { Poll::Ready(None) }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    //! Children that only look, and end: other tests run beside these.

    use super::OfProcess;
    use crate::cluster::{Memory, Node};
    use std::cell::Cell;

    /// What the child finds. It must not allocate, nor take a mutex.
    fn in_child(looks: impl FnOnce() -> bool) -> bool {
        // SAFETY: the child calls `looks`, which does not allocate, and ends without any clean-up.
        let child = unsafe { libc::fork() };
        assert!(child >= 0, "fork: {}", std::io::Error::last_os_error());
        if child == 0 {
            let found = looks();
            // SAFETY: ends this process at once.
            unsafe { libc::_exit(i32::from(found)) }
        }
        let mut status = 0;
        // SAFETY: our own child, not yet waited for; the status is ours to write.
        let ended = unsafe { libc::waitpid(child, &mut status, 0) };
        assert!(ended == child && libc::WIFEXITED(status), "{status:#x}");
        libc::WEXITSTATUS(status) != 0
    }

    #[test]
    fn a_guard_is_valid_in_the_process_that_acquired_it() {
        let node = Node::builder(Memory::new()).build().unwrap().blocking();
        let guard = node.lock("k").unwrap().acquire().unwrap();
        assert!(!in_child(|| guard.is_valid()));
        assert!(guard.is_valid());
    }

    struct NoteDrop<'a>(&'a Cell<bool>);

    impl Drop for NoteDrop<'_> {
        fn drop(&mut self) {
            self.0.set(true);
        }
    }

    #[test]
    fn a_value_is_used_and_dropped_in_the_process_that_made_it() {
        let is_dropped = Cell::new(false);
        let value = OfProcess::new(NoteDrop(&is_dropped));
        assert!(value.here().is_ok());
        let mut value = Some(value);
        let mut drops = || {
            drop(value.take());
            is_dropped.get()
        };
        assert!(!in_child(&mut drops));
        assert!(drops());
    }
}

//! The end of the process, before which what was given back is written.
//!
//! A guard that is dropped, and a node that is dropped, are released by the thread of the process after the call has
//! returned; so are a kept turn and a kept place. If `main` returns right after that, the thread is gone before it
//! has written anything, and the other nodes wait for a lease. So a handler that the end of the process runs
//! (atexit(3)) waits until the nodes on that thread owe their engines nothing, for at most [`LONGEST`].
//!
//! A lock that is still held then stays held until its lease is over: other threads of the process may be in the
//! middle of a critical section. A process that is killed, aborts, or calls `_exit` runs no handler.

use super::background::{self, Background};
use super::node::NodeShared;
use std::panic::catch_unwind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// How long the end of the process may wait.
const LONGEST: Duration = Duration::from_millis(250);

/// The end of the process waits for what this node owes.
pub(crate) fn wait_for(node: &Arc<NodeShared>) {
    static IS_REGISTERED: AtomicBool = AtomicBool::new(false);
    Background::add_node(Arc::downgrade(node));
    if !IS_REGISTERED.load(Ordering::Relaxed) {
        // SAFETY: `flush` may be called at any time, and twice. Systems that unload libraries run the handlers of one
        // before, or never unload one whose thread has thread-local variables.
        // If there is no room for one more handler, the process ends as before.
        let _ = unsafe { libc::atexit(flush) };
        IS_REGISTERED.store(true, Ordering::Relaxed);
    }
}

/// Has all nodes of this process write what they owe, and waits for it. In a forked child there are none of the
/// parent's.
extern "C" fn flush() {
    // A panic must not leave a function that C has called. There is none to report: the process ends.
    let _ = catch_unwind(|| {
        // The thread that would write does not wait for itself.
        if !background::is_this_thread() {
            flush_until(Instant::now() + LONGEST);
        }
    });
}

fn flush_until(end: Instant) {
    let nodes: Vec<_> = Background::nodes(end).unwrap_or_default();
    let nodes: Vec<_> = nodes.iter().filter_map(Weak::upgrade).collect();
    for node in &nodes {
        node.run_queue.begin_flush(end);
    }
    for node in &nodes {
        node.run_queue.await_flush(end);
    }
    // A node whose driver has ended meanwhile would drop the transport and the observer here: code of the user, after
    // the thread-local variables of this thread.
    std::mem::forget(nodes);
}

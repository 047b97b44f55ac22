//! A small parking lot of our own, for children of `fork`.
//!
//! `parking_lot_core`'s table goes into the child with the dead threads still linked in it, and
//! their memory is given to the child's new threads, whose entries then overwrite the links. So
//! a child that has forgotten its parent's waiters ([`fork`](crate::fork)) leaves that table
//! alone for ever and parks here, in lists that it has emptied itself.
//!
//! A list is guarded by a spin lock that is held for a short walk. A parked thread's [`Node`] is
//! on its stack, and stays there until the thread has its message or has unlinked the node. The
//! [`Signal`] on which it sleeps is on the heap, since its waker is still at it when the thread
//! has the message and goes. Nothing here needs the thread's local data, which may be gone when
//! it parks at the end of its life.

use super::{Key, Parked, Pick};
use crate::primitive::{AtomicU32, Ordering, is_past, spin_loop};
use core::cell::Cell;
use core::ptr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

#[cfg(test)]
mod races;
#[cfg(test)]
mod tests;

/// A parked thread.
struct Node {
    key: Key,
    token: usize,
    signal: Arc<Signal>,
    /// The next one in the list, under the list's lock; then the next that the same waker took.
    next: Cell<*const Node>,
}

/// What a parked thread sleeps on.
#[derive(Default)]
struct Signal {
    /// What the thread was woken with.
    message: Mutex<Option<usize>>,
    changed: Condvar,
}

/// A list of parked threads, in the order of parking.
struct List {
    locked: AtomicU32,
    head: Cell<*const Node>,
}

// SAFETY: `head`, and the cells of the nodes behind it, are used by whoever has the list's lock;
// those of a node that has been taken out, by its waker.
unsafe impl Sync for List {}

const LISTS: usize = 64;

static TABLE: [List; LISTS] =
    [const { List { locked: AtomicU32::new(0), head: Cell::new(ptr::null()) } }; LISTS];

fn list_of(key: Key) -> &'static List {
    // The topmost bits of the product are the best mixed (see `lobby::index`).
    let mixed = (key.0 as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    &TABLE[(mixed >> 58) as usize]
}

impl Signal {
    fn message(&self) -> MutexGuard<'_, Option<usize>> {
        // Nobody panics while holding it.
        self.message.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, message: usize) {
        *self.message() = Some(message);
        self.changed.notify_one();
    }

    /// Sleeps until there is a message, or until `deadline`.
    fn receive(&self, deadline: Option<Instant>) -> Option<usize> {
        let mut message = self.message();
        while message.is_none() {
            message = match deadline {
                None => self.changed.wait(message).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) if is_past(deadline) => break,
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    let woken = self.changed.wait_timeout(message, left);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        *message
    }
}

impl List {
    /// Runs `f` with the list's lock. If `f` panicked, the list would stay locked: nothing that
    /// is called with it here does, nor do the callbacks, by contract.
    fn with<T>(&self, f: impl FnOnce() -> T) -> T {
        // ORDERING: Acquire pairs with the Release below.
        while self.locked.swap(1, Ordering::Acquire) != 0 {
            spin_loop();
            thread::yield_now();
        }
        let result = f();
        self.locked.store(0, Ordering::Release);
        result
    }

    /// The cell that points to `node`, or the last one, which is null. Under the list's lock.
    fn link_to(&self, node: *const Node) -> &Cell<*const Node> {
        let mut link = &self.head;
        while !ptr::eq(link.get(), node) && !link.get().is_null() {
            // SAFETY: nodes in the list are alive: their threads leave only after they have been
            // taken out, which takes the lock.
            link = unsafe { &(*link.get()).next };
        }
        link
    }

    /// Takes `node` out, if it is in the list. Returns whether it was. Under the list's lock.
    fn unlink(&self, node: &Node) -> bool {
        let link = self.link_to(node);
        let found = !link.get().is_null();
        if found {
            link.set(node.next.get());
        }
        found
    }
}

/// As [`lot::park`](super::lot::park).
///
/// # Safety
/// As there.
pub(super) unsafe fn park(
    key: Key,
    token: usize,
    validate: impl FnOnce() -> bool,
    before_sleep: impl FnOnce(),
    on_timeout: impl FnOnce(),
    deadline: Option<Instant>,
) -> Parked {
    let list = list_of(key);
    let signal = Arc::default();
    let node = Node { key, token, signal, next: Cell::new(ptr::null()) };
    let entered = list.with(|| {
        let valid = validate();
        if valid {
            list.link_to(ptr::null()).set(&raw const node);
        }
        valid
    });
    if !entered {
        return Parked::Invalid;
    }
    before_sleep();
    if let Some(message) = node.signal.receive(deadline) {
        return Parked::Woken(message);
    }
    let left = list.with(|| {
        let found = list.unlink(&node);
        if found {
            on_timeout();
        }
        found
    });
    if left {
        return Parked::TimedOut;
    }
    // A waker has taken it out: the message is on its way.
    loop {
        if let Some(message) = node.signal.receive(None) {
            return Parked::Woken(message);
        }
    }
}

/// As [`lot::unpark`](super::lot::unpark).
///
/// # Safety
/// As there.
pub(super) unsafe fn unpark(
    key: Key,
    mut pick: impl FnMut(usize) -> Pick,
    message: impl FnOnce(usize) -> usize,
) -> usize {
    let list = list_of(key);
    let taken = Cell::new(ptr::null());
    let (message, count) = list.with(|| {
        let mut count = 0;
        let mut last_taken = &taken;
        let mut link = &list.head;
        // SAFETY: nodes in the list are alive, see `link_to`.
        while let Some(node) = unsafe { link.get().as_ref() } {
            let choice = if node.key == key { pick(node.token) } else { Pick::Skip };
            match choice {
                Pick::Skip => link = &node.next,
                Pick::Stop => break,
                Pick::Unpark => {
                    link.set(node.next.replace(ptr::null()));
                    last_taken.set(ptr::from_ref(node));
                    last_taken = &node.next;
                    count += 1;
                }
            }
        }
        (message(count), count)
    });
    let mut next: *const Node = taken.get();
    // SAFETY: a taken node's thread leaves once it has the message, and not before; what is
    // needed of the node is read first.
    while let Some(node) = unsafe { next.as_ref() } {
        next = node.next.get();
        let signal = Arc::clone(&node.signal);
        signal.send(message);
    }
    count
}

/// In the child of a `fork`, before any of its threads run: nobody is parked here.
pub(crate) fn forget() {
    for list in &TABLE {
        list.head.set(ptr::null());
        list.locked.store(0, Ordering::Relaxed);
    }
}

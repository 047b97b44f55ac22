//! A small parking lot of our own, for children of `fork`.
//!
//! `parking_lot_core`'s table goes into the child with the dead threads still linked in it, and
//! their memory is given to the child's new threads, whose entries then overwrite the links. So
//! a child that has forgotten its parent's waiters ([`fork`](crate::fork)) leaves that table
//! alone for ever and parks here, in lists that it has emptied itself.
//!
//! A list is guarded by a spin lock that is held for a short walk. A parked thread's [`Node`] is
//! on its stack, and stays there until the thread finds it woken or has unlinked it. Threads
//! sleep by [`std::thread::park`]; a token that is left over from a race costs the thread's own
//! next `park` one spurious return, which its contract allows.

use super::{Key, Parked, Pick};
use crate::primitive::{AtomicU32, Ordering, is_past, spin_loop};
use core::cell::Cell;
use core::ptr;
use std::thread::{self, Thread};
use std::time::Instant;

/// A parked thread.
struct Node {
    key: Key,
    token: usize,
    thread: Thread,
    /// The next one in the list. Under the list's lock.
    next: Cell<*const Node>,
    /// What the thread was woken with; written before `woken`.
    message: Cell<usize>,
    /// 1 when the thread has been taken out of the list. Set under the list's lock.
    woken: AtomicU32,
}

/// A list of parked threads, in the order of parking.
struct List {
    locked: AtomicU32,
    head: Cell<*const Node>,
}

// SAFETY: `head`, and the cells of the nodes behind it, are used by whoever has the list's lock.
unsafe impl Sync for List {}

const LISTS: usize = 64;

static TABLE: [List; LISTS] =
    [const { List { locked: AtomicU32::new(0), head: Cell::new(ptr::null()) } }; LISTS];

fn list_of(key: Key) -> &'static List {
    // The topmost bits of the product are the best mixed (see `lobby::index`).
    let mixed = (key.0 as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    &TABLE[(mixed >> 58) as usize]
}

impl List {
    /// Runs `f` with the list's lock.
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
    let node = Node {
        key,
        token,
        thread: thread::current(),
        next: Cell::new(ptr::null()),
        message: Cell::new(0),
        woken: AtomicU32::new(0),
    };
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
    // ORDERING: Acquire pairs with the Release in `unpark`: the message, and what the waker did.
    while node.woken.load(Ordering::Acquire) == 0 {
        match deadline {
            None => thread::park(),
            Some(deadline) if !is_past(deadline) => {
                thread::park_timeout(deadline.saturating_duration_since(Instant::now()));
            }
            Some(_) => {
                let left = list.with(|| {
                    let queued = node.woken.load(Ordering::Relaxed) == 0;
                    if queued {
                        list.link_to(&raw const node).set(node.next.get());
                        on_timeout();
                    }
                    queued
                });
                return if left { Parked::TimedOut } else { Parked::Woken(node.message.get()) };
            }
        }
    }
    Parked::Woken(node.message.get())
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
    list.with(|| {
        let (taken, mut count) = (Cell::new(ptr::null()), 0);
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
        let message = message(count);
        let mut next = taken.get();
        // SAFETY: a taken node's thread leaves once `woken` is set, and not before; what is
        // needed of it is read first.
        while let Some(node) = unsafe { next.as_ref() } {
            next = node.next.get();
            let thread = node.thread.clone();
            node.message.set(message);
            // ORDERING: Release pairs with the Acquire in `park`.
            node.woken.store(1, Ordering::Release);
            thread.unpark();
        }
        count
    })
}

/// In the child of a `fork`, before any of its threads run: nobody is parked here.
pub(crate) fn forget() {
    for list in &TABLE {
        list.head.set(ptr::null());
        list.locked.store(0, Ordering::Relaxed);
    }
}

//! What the instruments keep, and how they exclude each other.
//!
//! They run inside the locks, of which one may be in the global allocator of the program. So what they do for each
//! acquisition allocates nothing there: memory comes from the system's allocator, and under their own locks nothing
//! else is called. Those locks are no locks of this crate, and a child of a `fork` takes over one that a thread of its
//! parent held.

use crate::primitive::{AtomicPtr, AtomicUsize, Ordering, spin_loop};
use crate::raw::fork;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::ptr;
use std::time::Duration;

/// Puts `value` where it stays. `None`: there is no memory.
pub(super) fn leak<T>(value: T) -> Option<&'static T> {
    const { assert!(size_of::<T>() != 0) };
    // SAFETY: the size is not 0.
    let memory = unsafe { System.alloc(Layout::new::<T>()) }.cast::<T>();
    if memory.is_null() {
        return None;
    }
    // SAFETY: it was just allocated for a `T`, and is never freed.
    unsafe {
        memory.write(value);
        Some(&*memory)
    }
}

/// A value that one thread at a time changes, for some instructions.
#[derive(Debug)]
pub(super) struct Guarded<T> {
    /// 0, or one more than the number of forks before the process whose thread is at it.
    owner: AtomicUsize,
    value: UnsafeCell<T>,
}

// SAFETY: `with` gives the value to one thread at a time.
unsafe impl<T: Send> Sync for Guarded<T> {}

impl<T> Guarded<T> {
    pub(super) const fn new(value: T) -> Self {
        Self { owner: AtomicUsize::new(0), value: UnsafeCell::new(value) }
    }

    /// Has the value for as long as `code` runs, which neither allocates nor calls code of the program, nor `with` of
    /// the same value.
    #[inline]
    pub(super) fn with<R>(&self, code: impl FnOnce(&mut T) -> R) -> R {
        let own = fork::forks() + 1;
        // ORDERING: Acquire pairs with the Release below.
        let (acquire, relaxed) = (Ordering::Acquire, Ordering::Relaxed);
        if self.owner.compare_exchange(0, own, acquire, relaxed).is_err() {
            self.wait(own);
        }
        // SAFETY: this thread alone has set `owner`. One that the fork has left behind does not exist.
        let result = code(unsafe { &mut *self.value.get() });
        self.owner.store(0, Ordering::Release);
        result
    }

    #[cold]
    fn wait(&self, own: usize) {
        for round in 0_u32.. {
            let (acquire, relaxed) = (Ordering::Acquire, Ordering::Relaxed);
            let seen = self.owner.load(relaxed);
            // Held by a thread that is not in this process: what it did is taken as it is.
            if seen != own && self.owner.compare_exchange(seen, own, acquire, relaxed).is_ok() {
                return;
            }
            match round {
                0..64 => spin_loop(),
                64..128 => std::thread::yield_now(),
                _ => std::thread::sleep(Duration::from_micros(50)),
            }
        }
    }

    /// The value as it is, where the caller is known to be alone with it.
    pub(super) fn as_ptr(&self) -> *const T {
        self.value.get()
    }
}

/// A list that only grows.
#[derive(Debug)]
pub(super) struct List<T: 'static>(AtomicPtr<T>);

/// The link of a list in its elements.
pub(super) trait Linked: Sized + 'static {
    fn link(&self) -> &AtomicPtr<Self>;
}

impl<T> List<T> {
    pub(super) const fn new() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }

    /// The first element, where no other thread adds one.
    pub(super) fn first(&self) -> *mut T {
        self.0.load(Ordering::Relaxed)
    }

    /// Makes an element the first, where no other thread adds one.
    pub(super) fn set_first(&self, new: *const T) {
        self.0.store(new.cast_mut(), Ordering::Relaxed);
    }
}

impl<T: Linked> List<T> {
    /// Adds an element, which is in no list by this link.
    pub(super) fn push(&self, new: &'static T) {
        let mut first = self.0.load(Ordering::Relaxed);
        loop {
            new.link().store(first, Ordering::Relaxed);
            let new = ptr::from_ref(new).cast_mut();
            // ORDERING: Release pairs with the Acquire in `iter`.
            match self.0.compare_exchange(first, new, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => first = now,
            }
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &'static T> + use<T> {
        // ORDERING: Acquire, here for the first element, whose link was written before.
        // SAFETY: null, or an element, which is never freed.
        let mut next = unsafe { self.0.load(Ordering::Acquire).as_ref() };
        std::iter::from_fn(move || {
            let this = next?;
            // SAFETY: as above.
            next = unsafe { this.link().load(Ordering::Acquire).as_ref() };
            Some(this)
        })
    }
}

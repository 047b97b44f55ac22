//! An allocator that counts the bytes in use, once it is told to.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicIsize, Ordering::Relaxed};

struct Counting;

static COUNTS: AtomicBool = AtomicBool::new(false);
static IN_USE: AtomicIsize = AtomicIsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Counts from now on. Until then an allocation costs one load more.
pub fn count() {
    COUNTS.store(true, Relaxed);
}

/// The bytes that were allocated and not freed since it counts.
pub fn in_use() -> f64 {
    IN_USE.load(Relaxed) as f64
}

fn add(bytes: isize) {
    if COUNTS.load(Relaxed) {
        IN_USE.fetch_add(bytes, Relaxed);
    }
}

// SAFETY: all is the system's allocator's work. (The size of a layout is at most `isize::MAX`.)
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size() as isize);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        add(-(layout.size() as isize));
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        add(size as isize - layout.size() as isize);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(at, layout, size) }
    }
}

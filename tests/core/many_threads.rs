//! Many threads, one after the other, each of which waits for a lock: nothing is kept of a thread that
//! has ended, and its slots are another one's. And more readers at a time than there are slots.
//!
//! `LOCKWORD_THREADS` sets their number: 5,000 if it is not set, 200,000 by hand.
#![cfg(all(not(lockword_loom), target_os = "linux"))]

use lockword::{Condvar, Mutex, ReentrantMutex, RwLock};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicIsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;
use support::child::alone;
use support::setting::env_number;
use support::slots::{counted, has_slots, read_in_slot};

#[path = "../support"]
mod support {
    pub mod child;
    pub mod setting;
    pub mod slots;
}

/// Counts the bytes that are allocated.
struct Counting;

static LIVE: AtomicIsize = AtomicIsize::new(0);

// SAFETY: all is left to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size() as isize, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size() as isize, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How many threads the process has had before the first measurement.
const WARM_UP: u64 = 1_000;

/// Longer than a thread spins.
const PARKED: Duration = Duration::from_micros(100);

/// What the threads share.
#[derive(Default)]
struct Shared {
    lock: Mutex<u64>,
    reentrant: ReentrantMutex<Cell<u64>>,
    condvar: Condvar,
    waits: AtomicBool,
}

/// Runs one thread, which parks for a lock in vain, then waits for it, and uses the rest.
fn one_thread(shared: &Arc<Shared>) {
    let guard = shared.lock.lock();
    let (theirs, starter) = (Arc::clone(shared), thread::current());
    let thread = thread::spawn(move || {
        assert!(theirs.lock.try_lock_for(PARKED).is_none(), "two holders");
        theirs.waits.store(true, Ordering::Release);
        starter.unpark();
        let mut count = theirs.lock.lock();
        *count += 1;
        theirs.condvar.wait_for(&mut count, Duration::ZERO);
        drop(count);
        let guard = theirs.reentrant.lock();
        guard.set(guard.get() + 1);
    });
    while !shared.waits.load(Ordering::Acquire) {
        thread::park();
    }
    shared.waits.store(false, Ordering::Relaxed);
    drop(guard);
    thread.join().expect("no panic");
}

/// The bytes of this process that are in memory.
fn resident() -> isize {
    let status = std::fs::read_to_string("/proc/self/status").expect("there is a /proc");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a VmRSS");
    let kib: isize = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kib * 1024
}

#[test]
fn threads_in_sequence_leave_nothing() {
    let number = env_number("LOCKWORD_THREADS", 5_000);
    let deadline = Duration::from_secs(60) + Duration::from_millis(10) * number as u32;
    alone("threads_in_sequence_leave_nothing", deadline, || {
        let shared = Arc::new(Shared::default());
        (0..WARM_UP).for_each(|_| one_thread(&shared));
        let before = (LIVE.load(Ordering::Relaxed), resident());
        (0..number).for_each(|_| one_thread(&shared));
        let grown = (LIVE.load(Ordering::Relaxed) - before.0, resident() - before.1);
        println!("{number} threads: {} bytes allocated, {} resident", grown.0, grown.1);
        assert_eq!(*shared.lock.lock(), WARM_UP + number);
        assert_eq!(shared.reentrant.lock().get(), WARM_UP + number);
        // Less than a byte a thread, even of the fewest.
        assert!(grown.0 < 4096, "{} bytes more are allocated", grown.0);
        // What the C library and the kernel keep does not grow with the threads either. 20,000 leaks
        // of 64 bytes are 1.2 MiB.
        assert!(grown.1 < 1 << 20, "{} bytes more are resident", grown.1);
    });
}

/// The readers of a lock that nobody writes, and which is biased if locks are.
static READ: RwLock<()> = RwLock::new(());

/// More than there are lines of slots.
const READERS: usize = 2_100;

/// How many readers are counted while a new thread reads.
fn counted_in_a_new_thread() -> u32 {
    let reader = thread::spawn(|| {
        let _guard = READ.read();
        counted(&READ)
    });
    reader.join().expect("no panic")
}

#[test]
fn threads_in_sequence_read_in_slots() {
    let number = env_number("LOCKWORD_THREADS", 5_000);
    let deadline = Duration::from_secs(60) + Duration::from_millis(10) * number as u32;
    alone("threads_in_sequence_read_in_slots", deadline, || {
        drop(read_in_slot(&READ));
        for thread in 0..number {
            let counted = counted_in_a_new_thread();
            assert_eq!(counted == 0, has_slots(), "thread {thread} has no slot");
        }
        assert!(READ.try_write().is_some(), "all have left");
    });
}

#[test]
fn more_readers_at_a_time_than_slots() {
    alone("more_readers_at_a_time_than_slots", Duration::from_secs(120), || {
        drop(read_in_slot(&READ));
        for _ in 0..2 {
            let (all_read, leave) = (Barrier::new(READERS + 1), Barrier::new(READERS + 1));
            thread::scope(|s| {
                let readers = [(); READERS].map(|()| {
                    let reader = || {
                        let guard = READ.read();
                        all_read.wait();
                        leave.wait();
                        drop(guard);
                    };
                    let thread = thread::Builder::new().stack_size(1 << 16);
                    thread.spawn_scoped(s, reader).expect("a thread starts")
                });
                all_read.wait();
                let counted = counted(&READ) as usize;
                assert!(counted >= READERS - 2048, "{counted} are counted");
                assert_eq!(counted < READERS, has_slots(), "{counted} are counted");
                assert!(READ.try_write().is_none(), "a reader was not seen");
                leave.wait();
                // The end of a scope comes before the last destructors of its threads.
                readers.into_iter().for_each(|reader| reader.join().expect("no panic"));
            });
            assert_eq!(counted_in_a_new_thread() == 0, has_slots(), "no slots after a full table");
        }
        assert!(READ.try_write().is_some(), "all have left");
    });
}

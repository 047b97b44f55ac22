//! Whether a reader of a reader-writer lock is in a slot of its thread, or counted in the word of the lock.
//!
//! No method tells. The word does, which is the first half of the lock. (The instruments come after the second.)

use lock_api::{RawRwLock, RwLock, RwLockReadGuard};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A bias comes with one counted read in 64, when the budget of the process allows it.
const LIMIT: Duration = Duration::from_secs(60);

fn word<R: RawRwLock, T: ?Sized>(lock: &RwLock<R, T>) -> u32 {
    let is_ours = size_of::<R>() == 8 || cfg!(feature = "trace");
    assert!(is_ours, "not a lock of this crate");
    // SAFETY: nothing is done to the lock but to read its first half, which is atomic.
    unsafe { (*std::ptr::from_ref(lock.raw()).cast::<AtomicU32>()).load(Ordering::Relaxed) }
}

/// What one counted reader adds to a word. What is below that are the role, in two bits, and the bias.
fn one_reader() -> u32 {
    let lock = lockword::RwLock::new(());
    let _reader = lockword::RwLockWriteGuard::downgrade(lock.write());
    word(&lock)
}

/// How many readers are counted in the lock's word.
pub fn counted<R: RawRwLock, T: ?Sized>(lock: &RwLock<R, T>) -> u32 {
    word(lock) / one_reader()
}

/// Whether readers may be in by their slots.
#[allow(dead_code, reason = "not every test binary asks")]
pub fn is_biased<R: RawRwLock, T: ?Sized>(lock: &RwLock<R, T>) -> bool {
    word(lock) % one_reader() / 4 != 0
}

/// Whether there are slots: not where `light()` is a fence, nor where the kernel has no barrier.
pub fn has_slots() -> bool {
    #[cfg(target_os = "linux")]
    // SAFETY: membarrier changes no memory of the caller.
    let barrier = unsafe {
        libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0) == 0
    };
    #[cfg(not(target_os = "linux"))]
    let barrier = cfg!(windows);
    barrier && !cfg!(lockword_symmetric)
}

/// Reads in a slot, if there are slots. No other reader may be counted.
pub fn read_in_slot<R: RawRwLock, T: ?Sized>(lock: &RwLock<R, T>) -> RwLockReadGuard<'_, R, T> {
    let (has_slots, end) = (has_slots(), Instant::now() + LIMIT);
    loop {
        let guard = lock.read();
        if !has_slots || counted(lock) == 0 {
            return guard;
        }
        assert!(Instant::now() < end, "no reader comes into a slot; the word is {}", word(lock));
    }
}

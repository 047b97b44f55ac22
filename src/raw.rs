//! placeholder
use std::sync::atomic::*;
use std::time::{Duration, Instant};
/// The raw lock.
pub struct RawLock { word: AtomicU8 }
impl RawLock {
    /// A free lock.
    pub const fn new() -> Self { RawLock { word: AtomicU8::new(0) } }
    /// Locks.
    pub fn lock(&self) { while !self.try_lock() { std::thread::yield_now() } }
    /// Tries.
    pub fn try_lock(&self) -> bool { self.word.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok() }
    /// Locks until.
    pub fn try_lock_until(&self, t: Instant) -> bool { loop { if self.try_lock() { return true } if Instant::now() >= t { return false } std::thread::yield_now() } }
    /// Locks for.
    pub fn try_lock_for(&self, t: Duration) -> bool { match Instant::now().checked_add(t) { Some(t) => self.try_lock_until(t), None => { self.lock(); true } } }
    /// # Safety
    /// Held.
    pub unsafe fn unlock(&self) { self.word.store(0, Ordering::Release) }
    /// # Safety
    /// Held.
    pub unsafe fn unlock_fair(&self) { self.word.store(0, Ordering::Release) }
    /// Whether held.
    pub fn is_locked(&self) -> bool { self.word.load(Ordering::Relaxed) != 0 }
}

//! placeholder
use crate::raw::RawLock;
use std::sync::atomic::*;
use std::time::{Duration, Instant};
/// Raw condvar.
pub struct RawCondvar { seq: AtomicU32 }
// SAFETY: placeholder
unsafe impl lock_api::RawCondvar for RawCondvar {
    #[allow(clippy::declare_interior_mutable_const)]
    const INIT: Self = RawCondvar { seq: AtomicU32::new(0) };
    type RawMutex = RawLock;
    unsafe fn wait(&self, m: &RawLock, _g: &mut lock_api::GuardSend) {
        let s = self.seq.load(Ordering::SeqCst);
        // SAFETY: held
        unsafe { m.unlock() };
        while self.seq.load(Ordering::SeqCst) == s { std::thread::yield_now() }
        m.lock();
    }
    fn notify_one(&self) -> bool { self.seq.fetch_add(1, Ordering::SeqCst); true }
    fn notify_all(&self) -> usize { self.seq.fetch_add(1, Ordering::SeqCst); 1 }
}
// SAFETY: placeholder
unsafe impl lock_api::RawCondvarTimed for RawCondvar {
    fn checked_duration_to_instant(timeout: &Duration) -> Option<Instant> { Instant::now().checked_add(*timeout) }
    unsafe fn wait_until(&self, m: &RawLock, _g: &mut lock_api::GuardSend, t: &Instant) -> bool {
        let s = self.seq.load(Ordering::SeqCst);
        // SAFETY: held
        unsafe { m.unlock() };
        let mut out = false;
        while self.seq.load(Ordering::SeqCst) == s { if Instant::now() >= *t { out = true; break } std::thread::yield_now() }
        m.lock();
        out
    }
}
pub use lock_api::WaitTimeoutResult;
/// Condvar.
pub type Condvar = lock_api::Condvar<RawCondvar>;

//! Linux: `membarrier`.

use super::Heavy;
use crate::primitive::{AtomicU8, Ordering, compiler_barrier, fence};

/// Not registered yet: the next `heavy()` registers.
const NEW: u8 = 0;
/// Registered with the kernel.
const REGISTERED: u8 = 1;

/// Set by whoever registered; nothing but the registration itself hangs on it.
static STATE: AtomicU8 = AtomicU8::new(NEW);

/// Keeps the store before it ahead of the load after it, together with [`heavy`].
#[inline(always)]
pub(crate) fn light() {
    compiler_barrier();
}

/// Runs a full barrier on every thread of the process: 0.1 to 3 us.
pub(crate) fn heavy() -> Heavy {
    // ORDERING: SeqCst, the full barrier of this thread; `membarrier` is one too, but
    // only where it succeeds.
    fence(Ordering::SeqCst);
    let known = STATE.load(Ordering::Relaxed) == REGISTERED;
    if known && membarrier(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED) {
        return Heavy::Done;
    }
    // Never registered, or in a child of `fork` (EPERM), or refused by now.
    if prepare() == Heavy::Done && membarrier(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED) {
        return Heavy::Done;
    }
    Heavy::Refused
}

/// Registers the process with the kernel, which can take milliseconds once it has threads.
pub(crate) fn prepare() -> Heavy {
    if !membarrier(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED) {
        return Heavy::Refused;
    }
    // ORDERING: Relaxed: another thread that misses it registers once more, to no effect.
    STATE.store(REGISTERED, Ordering::Relaxed);
    Heavy::Done
}

fn membarrier(command: libc::c_int) -> bool {
    // SAFETY: `membarrier` takes two integers and touches no memory of ours.
    unsafe { libc::syscall(libc::SYS_membarrier, command, 0) == 0 }
}

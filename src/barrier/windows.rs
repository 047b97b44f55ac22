//! Windows: `FlushProcessWriteBuffers`, which cannot fail.

use super::Heavy;
use crate::primitive::{Ordering, compiler_barrier, fence};

/// Keeps the store before it ahead of the load after it, together with [`heavy`].
#[inline(always)]
pub(crate) fn light() {
    compiler_barrier();
}

/// Runs a full barrier on every thread of the process.
pub(crate) fn heavy() -> Heavy {
    // ORDERING: SeqCst, the full barrier of this thread.
    fence(Ordering::SeqCst);
    // SAFETY: takes nothing, returns nothing, touches no memory of ours.
    unsafe { windows_sys::Win32::System::Threading::FlushProcessWriteBuffers() };
    Heavy::Done
}

/// Nothing to prepare.
pub(crate) fn prepare() -> Heavy {
    Heavy::Done
}

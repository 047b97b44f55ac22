//! The asymmetric fence: [`light`] on the path that must cost nothing, [`heavy`] on the one
//! that may.
//!
//! # What it is for
//!
//! The lobby's protocol is Dekker's: the unlocker stores the word and then loads the hint, the
//! parker stores the hint and then loads the word, and at least one of them must see the
//! other's store. Each needs a StoreLoad barrier between its two steps. Unlocks are far more
//! frequent than parks, so the parker pays for both: `heavy()` makes *every* thread of the
//! process run a full barrier, at whatever point of its program it happens to be, and
//! `light()` only keeps the compiler from swapping the unlocker's two steps.
//!
//! # Why that suffices
//!
//! Take one `light()` of thread U, between its store S and its load L, and one `heavy()` of
//! thread P. The barrier that `heavy()` runs on U's processor falls somewhere in U's program
//! order. If it falls before L, then L sees all that P stored before `heavy()`. If it falls
//! after L, it falls after S too, and P sees S after `heavy()`. This is the guarantee of
//! `asymmetric_thread_fence_light`/`_heavy` in [P1202]; Linux gives it by
//! `membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED)` ([membarrier(2)], "the calling thread is
//! guaranteed that all its running siblings have passed through a state where all memory
//! accesses match program order"; one that is not running passed through such a state when it
//! was switched out), Windows by [`FlushProcessWriteBuffers`].
//!
//! # What Rust does not promise
//!
//! Rust's memory model knows no asymmetric fence. To it the pair is a fence on one side only;
//! that the other side's empty `asm!` block and the kernel's barrier make a StoreLoad barrier
//! is a fact about the compiler (it may not move a memory access across an `asm!` block that
//! may read and write memory) and the processor, not about the abstract machine. loom
//! therefore proves the algorithm with a full fence in both places, and the litmus test
//! (`litmus.rs`) shows on the hardware that this pair is as good.
//!
//! # Where it is not to be had
//!
//! - On other targets, and under `--cfg lockword_symmetric`, both are `fence(SeqCst)`.
//! - Where the kernel refuses it at run time, `heavy()` says [`Refused`](Heavy::Refused) and
//!   the lobby goes over to fences for good.
//!
//! [P1202]: https://www.open-std.org/jtc1/sc22/wg21/docs/papers/2023/p1202r5.pdf
//! [membarrier(2)]: https://man7.org/linux/man-pages/man2/membarrier.2.html
//! [`FlushProcessWriteBuffers`]: https://learn.microsoft.com/windows/win32/api/processthreadsapi/nf-processthreadsapi-flushprocesswritebuffers

#[cfg(not(lockword_loom))]
pub(crate) use imp::prepare;
pub(crate) use imp::{heavy, light};

/// What became of a [`heavy`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub(crate) enum Heavy {
    /// Every thread of the process has run a full barrier during the call.
    Done,
    /// The kernel runs no such barrier; only the calling thread has passed a fence.
    #[allow(dead_code, reason = "only membarrier can be refused")]
    Refused,
}

#[cfg(all(
    not(any(lockword_loom, lockword_symmetric)),
    any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64"),
    any(target_os = "linux", target_os = "android"),
))]
#[path = "barrier/membarrier.rs"]
mod imp;

#[cfg(all(
    not(any(lockword_loom, lockword_symmetric)),
    any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64"),
    windows,
))]
#[path = "barrier/windows.rs"]
mod imp;

#[cfg(any(
    lockword_loom,
    lockword_symmetric,
    not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")),
    not(any(target_os = "linux", target_os = "android", windows)),
))]
#[path = "barrier/symmetric.rs"]
mod imp;

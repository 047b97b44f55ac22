//! The asymmetric fence: [`light`] on the path that must cost nothing, [`heavy`] on the one
//! that may.
//!
//! # What it is for
//!
//! The protocol of [`flags`](super::flags) is Dekker's: the unlocker stores the word and then loads the flag,
//! the parker stores the flag and then loads the word, and at least one of them must see the
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
//! (`models/litmus.rs`) shows on the hardware that this pair is as good.
//!
//! # Where it is not to be had
//!
//! - On other targets, under Miri, and under `--cfg lockword_symmetric`, both are `fence(SeqCst)`.
//! - Where the kernel refuses it at run time, `heavy()` says [`Refused`](Heavy::Refused) and
//!   the flags go over to fences for good.
//!
//! [P1202]: https://www.open-std.org/jtc1/sc22/wg21/docs/papers/2023/p1202r5.pdf
//! [membarrier(2)]: https://man7.org/linux/man-pages/man2/membarrier.2.html
//! [`FlushProcessWriteBuffers`]: https://learn.microsoft.com/windows/win32/api/processthreadsapi/nf-processthreadsapi-flushprocesswritebuffers

#[cfg(not(lockword_loom))]
pub(super) use imp::{IS_SYMMETRIC, is_registered, prepare};
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

/// Linux: `membarrier`.
#[cfg(all(
    not(any(lockword_loom, lockword_symmetric, miri)),
    any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64"),
    any(target_os = "linux", target_os = "android"),
))]
mod imp {
    use super::Heavy;
    use crate::primitive::{AtomicBool, Ordering, compiler_barrier, fence};

    /// Whether both sides run a fence.
    pub(crate) const IS_SYMMETRIC: bool = false;
    /// Whether the process is registered; nothing but the registration itself hangs on it.
    static REGISTERED: AtomicBool = AtomicBool::new(false);

    /// Keeps the store before it ahead of the load after it, together with [`heavy`].
    #[inline(always)]
    pub(crate) fn light() {
        compiler_barrier();
    }

    /// Runs a full barrier on every thread of the process: 0.1 to 10 us.
    pub(crate) fn heavy() -> Heavy {
        // ORDERING: SeqCst, the full barrier of this thread; `membarrier` is one too, but only
        // where it succeeds.
        fence(Ordering::SeqCst);
        // A registration that was lost on the way (EPERM) is made again.
        let registered = REGISTERED.load(Ordering::Relaxed);
        if registered && membarrier(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED)
            || prepare() == Heavy::Done && membarrier(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED)
        {
            return Heavy::Done;
        }
        Heavy::Refused
    }

    /// Registers the process with the kernel: at once in a process of one thread, else after a
    /// grace period of the kernel, which takes 10 to 20 ms.
    pub(crate) fn prepare() -> Heavy {
        if !membarrier(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED) {
            return Heavy::Refused;
        }
        // ORDERING: Relaxed: another thread that misses it registers once more, to no effect.
        REGISTERED.store(true, Ordering::Relaxed);
        Heavy::Done
    }

    /// Whether the process was registered.
    pub(crate) fn is_registered() -> bool {
        REGISTERED.load(Ordering::Relaxed)
    }

    /// Lets this thread run once on each processor that it may use: whoever ran there was switched out, which is
    /// a full barrier.
    pub(crate) fn visit_processors() {
        // SAFETY: a set of bits, for which all zeros are a value; the calls read and write these sets only.
        unsafe {
            let size = size_of::<libc::cpu_set_t>();
            let mut before = core::mem::zeroed::<libc::cpu_set_t>();
            if libc::sched_getaffinity(0, size, &raw mut before) != 0 {
                return;
            }
            for processor in 0..libc::CPU_SETSIZE as usize {
                let mut one = core::mem::zeroed::<libc::cpu_set_t>();
                libc::CPU_SET(processor, &mut one);
                // Refused for those that there are not.
                libc::sched_setaffinity(0, size, &raw const one);
            }
            libc::sched_setaffinity(0, size, &raw const before);
        }
    }

    fn membarrier(command: libc::c_int) -> bool {
        // SAFETY: `membarrier` takes two integers and touches no memory of ours.
        unsafe { libc::syscall(libc::SYS_membarrier, command, 0) == 0 }
    }
}

/// Windows: `FlushProcessWriteBuffers`, which cannot fail.
#[cfg(all(
    not(any(lockword_loom, lockword_symmetric, miri)),
    any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64"),
    windows,
))]
mod imp {
    use super::Heavy;
    use crate::primitive::{Ordering, compiler_barrier, fence};

    /// Whether both sides run a fence.
    pub(crate) const IS_SYMMETRIC: bool = false;

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

    /// Nothing to register.
    pub(crate) fn is_registered() -> bool {
        true
    }

    /// `heavy()` cannot be refused, so that there is no need.
    pub(crate) fn visit_processors() {}
}

/// Everywhere else, and in the models: a fence on both sides.
#[cfg(any(
    lockword_loom,
    lockword_symmetric,
    miri,
    not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")),
    not(any(target_os = "linux", target_os = "android", windows)),
))]
mod imp {
    use super::Heavy;
    use crate::primitive::{Ordering, fence};

    /// Whether both sides run a fence.
    #[cfg(not(lockword_loom))]
    pub(crate) const IS_SYMMETRIC: bool = true;

    /// A full fence: the unlocker's half of Dekker's protocol.
    #[inline(always)]
    pub(crate) fn light() {
        #[cfg(lockword_loom)]
        if crate::primitive::model_settings::no_light() {
            return;
        }
        // ORDERING: SeqCst, the partner of the fence in `heavy` (StoreLoad on both sides).
        fence(Ordering::SeqCst);
    }

    /// A full fence: the parker's half of Dekker's protocol.
    pub(crate) fn heavy() -> Heavy {
        #[cfg(lockword_loom)]
        if crate::primitive::model_settings::refuses() {
            return Heavy::Refused;
        }
        // ORDERING: SeqCst, the partner of the fence in `light`.
        fence(Ordering::SeqCst);
        Heavy::Done
    }

    /// Nothing to prepare.
    #[cfg(not(lockword_loom))]
    pub(crate) fn prepare() -> Heavy {
        Heavy::Done
    }

    /// There is no bias where each reader would pay for two fences.
    #[cfg(not(lockword_loom))]
    pub(crate) fn is_registered() -> bool {
        false
    }

    /// There is nothing to wait for where `light()` is a fence.
    pub(crate) fn visit_processors() {}
}

/// In place of a [`heavy`] that is refused, or not to be used any more, once for each lock that was biased by then:
/// returns when the stores that other threads had made when it was called are visible to this thread, though they
/// passed no fence.
///
/// This thread runs on each processor in turn. A thread that ran there is switched out, and so passes a full
/// barrier, and one that runs elsewhere has been, or will be met there. Where that is refused too, and
/// where a thread may use processors that this one may not, there is the time: a store buffer drains by itself
/// in far less than [`SETTLE_US`](super::flags::SETTLE_US), an assumption that the
/// [flags](super::flags) make too. (A filter that kills for `sched_setaffinity` kills here.)
pub(super) fn wait_for_stores() {
    imp::visit_processors();
    #[cfg(not(lockword_loom))]
    std::thread::sleep(std::time::Duration::from_micros(u64::from(super::flags::SETTLE_US)));
    // ORDERING: SeqCst: what was visible is seen.
    crate::primitive::fence(crate::primitive::Ordering::SeqCst);
}

//! Where a thread sleeps: [`wait`] on an atomic word, [`wake`] by its address.
//!
//! This is the interface of the Linux futex. A return from [`wait`] proves nothing: a wake-up may
//! be meant for an earlier owner of the address, so callers look at the word in a loop. [`wake`] takes a
//! plain address and never reads it, since the woken thread may have freed it.
//!
//! | platform | by | allocates |
//! |---|---|---|
//! | Linux, Android, but for riscv32 and x32 | `futex(2)` | never |
//! | Windows 8 and later | [`WaitOnAddress`] | never |
//! | others, and under Miri | a table of std mutexes and condition variables | once for each slot of the table, where std's do |
//!
//! [`WaitOnAddress`]: https://learn.microsoft.com/windows/win32/api/synchapi/nf-synchapi-waitonaddress

#[cfg(lockword_loom)]
pub(crate) use super::models::futex::{wait, wake, wake_all};
#[cfg(not(lockword_loom))]
pub(crate) use imp::{wait, wake, wake_all};

#[cfg(all(
    not(lockword_loom),
    not(miri),
    any(target_os = "linux", target_os = "android"),
    // These have no futex with times of two `long`s.
    not(any(target_arch = "riscv32", all(target_arch = "x86_64", target_pointer_width = "32"))),
))]
mod imp {
    use crate::primitive::AtomicU32;
    use core::ptr;
    use std::time::Instant;

    /// What `SYS_futex` takes: two words of the machine, on 32-bit targets too.
    #[repr(C)]
    struct Timespec {
        seconds: libc::c_long,
        nanoseconds: libc::c_long,
    }

    /// Sleeps while `word` is `expected`, until woken or until `deadline`; or returns for no reason.
    pub(crate) fn wait(word: &AtomicU32, expected: u32, deadline: Option<Instant>) {
        let timeout = deadline.map(|deadline| {
            let left = deadline.saturating_duration_since(Instant::now());
            // Callers wait in a loop, so that a longer time is several sleeps.
            let seconds = left.as_secs().min(i32::MAX as u64) as libc::c_long;
            Timespec { seconds, nanoseconds: left.subsec_nanos() as libc::c_long }
        });
        let timeout = timeout.as_ref().map_or(ptr::null(), ptr::from_ref);
        let operation = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
        // SAFETY: the word and the timeout outlive the call; the kernel only reads them.
        unsafe {
            libc::syscall(libc::SYS_futex, ptr::from_ref(word), operation, expected, timeout)
        };
    }

    /// Wakes one thread that sleeps on the word at `word`, which may not exist any more.
    pub(crate) fn wake(word: *const AtomicU32) {
        let operation = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
        // SAFETY: the kernel takes the address for a name.
        unsafe { libc::syscall(libc::SYS_futex, word, operation, 1) };
    }

    /// Wakes threads one of which sleeps on each of these words, which may not exist any more.
    ///
    /// Each goes over to sleep on one word, which costs less than half of a wake-up, and then all are
    /// woken at once, so that an idle processor is interrupted once.
    pub(crate) fn wake_all(mut words: impl Iterator<Item = *const AtomicU32>) {
        static GATE: AtomicU32 = AtomicU32::new(0);
        let Some(first) = words.next() else { return };
        let requeue = libc::FUTEX_REQUEUE | libc::FUTEX_PRIVATE_FLAG;
        let mut count: libc::c_long = 0;
        for word in words {
            // SAFETY: as in `wake`.
            let moved = unsafe {
                libc::syscall(libc::SYS_futex, word, requeue, 0, 1_usize, &raw const GATE)
            };
            match moved {
                // Refused, by a filter.
                -1 => wake(word),
                moved => count += moved,
            }
        }
        wake(first);
        if count != 0 {
            let operation = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
            // SAFETY: as in `wake`. Each notifier wakes as many as it has sent there. (A sleeper of
            // somebody else whose word is at a reused address is woken with them.)
            unsafe { libc::syscall(libc::SYS_futex, &raw const GATE, operation, count as i32) };
        }
    }
}

#[cfg(all(not(lockword_loom), not(miri), windows))]
mod imp {
    use crate::primitive::AtomicU32;
    use core::ptr;
    use std::time::Instant;
    use windows_sys::Win32::System::Threading::{INFINITE, WaitOnAddress, WakeByAddressSingle};

    /// Sleeps while `word` is `expected`, until woken or until `deadline`; or returns for no reason.
    pub(crate) fn wait(word: &AtomicU32, expected: u32, deadline: Option<Instant>) {
        let milliseconds = deadline.map_or(INFINITE, |deadline| {
            let left = deadline.saturating_duration_since(Instant::now());
            // Rounded up, and callers wait in a loop, so that a longer time is several sleeps.
            left.as_nanos().div_ceil(1_000_000).min(u128::from(INFINITE - 1)) as u32
        });
        // SAFETY: both words outlive the call, which only reads them.
        unsafe {
            WaitOnAddress(ptr::from_ref(word).cast(), (&raw const expected).cast(), 4, milliseconds)
        };
    }

    /// Wakes one thread that sleeps on the word at `word`, which may not exist any more.
    pub(crate) fn wake(word: *const AtomicU32) {
        // SAFETY: the system takes the address for a name.
        unsafe { WakeByAddressSingle(word.cast()) };
    }

    /// Wakes threads one of which sleeps on each of these words, which may not exist any more.
    pub(crate) fn wake_all(words: impl Iterator<Item = *const AtomicU32>) {
        words.for_each(wake);
    }
}

#[cfg(all(
    not(lockword_loom),
    any(
        miri,
        not(any(target_os = "linux", target_os = "android", windows)),
        target_arch = "riscv32",
        all(target_arch = "x86_64", target_pointer_width = "32"),
    ),
))]
mod imp {
    use crate::primitive::{AtomicU32, Ordering};
    use core::ptr;
    use std::sync::{Condvar, Mutex, PoisonError};
    use std::time::Instant;

    /// A slot for the words whose addresses have one remainder.
    struct Slot {
        changing: Mutex<()>,
        changed: Condvar,
    }

    /// A fork in the middle of a sleep or of a wake-up leaves a mutex held in the child for ever. So
    /// each generation of processes has slots of its own, up to the eighth.
    static SLOTS: [[Slot; 64]; 8] =
        [const { [const { Slot { changing: Mutex::new(()), changed: Condvar::new() } }; 64] }; 8];

    fn slot(word: *const AtomicU32) -> &'static Slot {
        &SLOTS[super::super::fork::generation() as usize % 8][word.addr() / 64 % 64]
    }

    /// Sleeps while `word` is `expected`, until woken or until `deadline`; or returns for no reason.
    pub(crate) fn wait(word: &AtomicU32, expected: u32, deadline: Option<Instant>) {
        let slot = slot(ptr::from_ref(word));
        let guard = slot.changing.lock().unwrap_or_else(PoisonError::into_inner);
        // ORDERING: Relaxed: the mutex orders it after a change that `wake` follows.
        if word.load(Ordering::Relaxed) == expected {
            match deadline {
                None => drop(slot.changed.wait(guard)),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    drop(slot.changed.wait_timeout(guard, left));
                }
            }
        }
    }

    /// Wakes the threads that sleep on the word at `word`, which may not exist any more, and others
    /// that share its slot.
    pub(crate) fn wake(word: *const AtomicU32) {
        let slot = slot(word);
        drop(slot.changing.lock());
        slot.changed.notify_all();
    }

    /// Wakes threads one of which sleeps on each of these words, which may not exist any more.
    pub(crate) fn wake_all(words: impl Iterator<Item = *const AtomicU32>) {
        words.for_each(wake);
    }
}

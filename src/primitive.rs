//! The only file that names atomics, fences and hints.
//!
//! Everything else takes them from here, so that one `cfg` puts the whole core on [loom]'s
//! model of them. What the model weakens, or cannot have:
//!
//! - the clock: [`now_us`] stands still, and a model says how long has passed whenever
//!   [`has_passed`] is asked (`Model::clock` in `models.rs`);
//! - there is no spin hint: a model that spins would have to be cut short;
//! - statics are made by `loom::lazy_static`, and start afresh in every execution.
//!
//! [loom]: https://docs.rs/loom

/// Poison and the load generator are no part of any model.
#[cfg(not(lockword_loom))]
pub(crate) use core::sync::atomic::AtomicBool;
#[cfg(all(not(lockword_loom), target_has_atomic = "64"))]
pub(crate) use core::sync::atomic::AtomicU64 as WideCell;
#[cfg(not(lockword_loom))]
pub(crate) use core::{
    hint::spin_loop,
    sync::atomic::{AtomicU8, AtomicU32, Ordering, fence},
};

#[cfg(lockword_loom)]
pub(crate) use loom::sync::atomic::{AtomicU8, AtomicU32, AtomicU64 as WideCell, Ordering, fence};
#[cfg(all(test, lockword_loom))]
pub(crate) use loom::{cell as model_cell, model as model_run, thread as model_thread};
#[cfg(lockword_loom)]
pub(crate) use loom::{lazy_static, sync as model_sync};

/// What stands in for a 64-bit atomic where there is none: it keeps nothing, reads 0, and no
/// compare-exchange succeeds.
#[cfg(all(not(lockword_loom), not(target_has_atomic = "64")))]
pub(crate) struct WideCell;

#[cfg(all(not(lockword_loom), not(target_has_atomic = "64")))]
impl WideCell {
    pub(crate) const fn new(_: u64) -> Self {
        WideCell
    }
    pub(crate) fn load(&self, _: Ordering) -> u64 {
        0
    }
    pub(crate) fn store(&self, _: u64, _: Ordering) {}
    pub(crate) fn compare_exchange(
        &self,
        _: u64,
        _: u64,
        _: Ordering,
        _: Ordering,
    ) -> Result<u64, u64> {
        Err(0)
    }
}

/// Time since some moment in the past.
///
/// [`std::time::Instant`] reads the same clock on Linux, but shows no number of it; and to
/// remember a first reading takes a `OnceLock`, for which a child would wait for ever if it was
/// forked while another thread was at it.
#[cfg(all(unix, not(lockword_loom)))]
fn since_start() -> std::time::Duration {
    let mut now = core::mem::MaybeUninit::<libc::timespec>::zeroed();
    // SAFETY: the clock's number is a known one, and the memory is ours to write.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, now.as_mut_ptr()) };
    // SAFETY: all zeros are a time, too.
    let now = unsafe { now.assume_init() };
    // Neither is negative, and there are less than 10^9 nanoseconds.
    std::time::Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// Time since some moment of this process.
#[cfg(not(any(unix, lockword_loom)))]
fn since_start() -> std::time::Duration {
    use std::sync::OnceLock;
    use std::time::Instant;
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}

/// Microseconds since some moment in the past, modulo 2^32 (71 minutes): compare two of them by
/// `wrapping_sub`.
///
/// Monotonic; about 25 ns. Only slow paths read it.
#[cfg(not(lockword_loom))]
pub(crate) fn now_us() -> u32 {
    // The truncation is the modulo that the documentation promises.
    since_start().as_micros() as u32
}

/// A clock for short times, in ticks of no stated length (a processor's cycle, roughly); 10 to
/// 25 ns. It may jump when the thread moves to another processor.
#[cfg(all(not(lockword_loom), target_arch = "x86_64", not(target_env = "sgx")))]
pub(crate) fn ticks() -> u64 {
    // SAFETY: every x86-64 processor has a time-stamp counter, and user code may read it.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// A clock for short times, in nanoseconds.
#[cfg(all(not(lockword_loom), not(all(target_arch = "x86_64", not(target_env = "sgx")))))]
pub(crate) fn ticks() -> u64 {
    // 2^64 ns are 584 years.
    since_start().as_nanos() as u64
}

/// As [`now_us`], but never goes round: 2^64 us are 584,000 years.
#[cfg(not(lockword_loom))]
pub(crate) fn now_wide_us() -> u64 {
    since_start().as_micros() as u64
}

/// The model has no clock, but who asks later gets more.
#[cfg(lockword_loom)]
pub(crate) fn now_wide_us() -> u64 {
    model_settings::count_up()
}

/// Whether it is at least `limit_us` since `since_us` ([`now_us`]).
///
/// `since_us` is read before the clock is: so what another thread stores meanwhile does not lie in
/// the future, which is far in the past here.
#[cfg(not(lockword_loom))]
pub(crate) fn has_passed(since_us: u32, limit_us: u32) -> bool {
    now_us().wrapping_sub(since_us) >= limit_us
}

/// Whether a deadline has passed.
#[cfg(not(lockword_loom))]
pub(crate) fn is_past(deadline: std::time::Instant) -> bool {
    std::time::Instant::now() >= deadline
}

/// The model has no clock.
#[cfg(lockword_loom)]
pub(crate) fn now_us() -> u32 {
    0
}

/// As much has passed as the model says.
#[cfg(lockword_loom)]
pub(crate) fn has_passed(_: u32, limit_us: u32) -> bool {
    model_settings::passed_us() >= limit_us
}

/// In the model all deadlines pass at one moment, which the model chooses.
#[cfg(lockword_loom)]
pub(crate) fn is_past(_: std::time::Instant) -> bool {
    model_time::is_up()
}

/// The one moment at which the deadlines of a model pass.
#[cfg(lockword_loom)]
pub(crate) mod model_time {
    use super::{AtomicU32, Ordering, lazy_static};

    lazy_static! {
        static ref IS_UP: AtomicU32 = AtomicU32::new(0);
    }

    pub(crate) fn pass() {
        IS_UP.store(1, Ordering::Relaxed);
    }

    pub(crate) fn is_up() -> bool {
        IS_UP.load(Ordering::Relaxed) != 0
    }
}

/// What the models set for all of their executions, and what they count over them. These are
/// real atomics: loom does not see them.
#[cfg(lockword_loom)]
pub(crate) mod model_settings {
    use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::Relaxed};

    static PASSED_US: AtomicU32 = AtomicU32::new(0);
    static NO_LIGHT: AtomicBool = AtomicBool::new(false);
    static REACHED: [AtomicUsize; 16] = [const { AtomicUsize::new(0) }; 16];

    /// One more than the last time.
    pub(crate) fn count_up() -> u64 {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        COUNT.fetch_add(1, Relaxed) as u64
    }

    /// How long has passed whenever that is asked, in microseconds.
    pub(crate) fn set_passed_us(us: u32) {
        PASSED_US.store(us, Relaxed);
    }

    pub(crate) fn passed_us() -> u32 {
        PASSED_US.load(Relaxed)
    }

    /// `light()` is empty, and no bucket is ever disarmed: the unlocker's slow path must do
    /// with its own fence.
    pub(crate) fn set_no_light(yes: bool) {
        NO_LIGHT.store(yes, Relaxed);
    }

    pub(crate) fn no_light() -> bool {
        NO_LIGHT.load(Relaxed)
    }

    /// Counts that an execution has come by a place.
    pub(crate) fn reach(place: super::Place) {
        REACHED[place as usize].fetch_add(1, Relaxed);
    }

    /// How many executions have come by a place, since the last call.
    pub(crate) fn take_reached(place: super::Place) -> usize {
        REACHED[place as usize].swap(0, Relaxed)
    }
}

/// Places that a model has to reach to be worth anything.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(lockword_loom), allow(dead_code, reason = "only models count"))]
pub(crate) enum Place {
    Parked,
    Overdue,
    HeirWoken,
    Disarmed,
    Rearmed,
    Duty,
    Granted,
    ResignedGranted,
    PassedOn,
    HandedToHeir,
    HeirLeft,
    HandedFairly,
    TimedOut,
}

/// Counts that a model has come by a place; nothing outside the models.
#[inline(always)]
pub(crate) fn reach(_place: Place) {
    #[cfg(lockword_loom)]
    model_settings::reach(_place);
}

/// How many processors this process may use; at least 1. Read once.
#[cfg(not(lockword_loom))]
pub(crate) fn processors() -> u32 {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    match COUNT.load(Ordering::Relaxed) {
        0 => {
            let n = std::thread::available_parallelism().map_or(1, |n| n.get());
            let n = u32::try_from(n).unwrap_or(u32::MAX);
            COUNT.store(n, Ordering::Relaxed);
            n
        }
        n => n,
    }
}

/// A barrier for the compiler alone: no memory access moves across it, and no instruction is
/// emitted.
///
/// An empty `asm!` block without `nomem` is one by [specification]: the compiler must assume
/// that it reads and writes any memory. `core::sync::atomic::compiler_fence` would emit the
/// same, but is specified only for signal handlers on the same thread.
///
/// [specification]: https://doc.rust-lang.org/reference/inline-assembly.html
#[cfg(not(any(lockword_loom, lockword_symmetric)))]
#[cfg(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64"))]
#[allow(dead_code, reason = "unused where no process-wide barrier exists")]
#[inline(always)]
pub(crate) fn compiler_barrier() {
    // SAFETY: no instruction, no operand, no effect; the stack and the flags are left alone.
    unsafe { core::arch::asm!("", options(nostack, preserves_flags)) }
}

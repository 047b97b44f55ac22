//! The only file that names atomics, fences and hints.
//!
//! Everything else takes them from here, so that one `cfg` puts the whole core on [loom]'s
//! model of them. What the model weakens, or cannot have:
//!
//! - the clock: [`now_us`] stands still, and a model says how long has passed whenever
//!   [`has_come`] is asked (`Model` in `raw/models/mod.rs`);
//! - there is no spin hint: a model that spins would have to be cut short;
//! - statics are made by `loom::lazy_static`, and start afresh in every execution.
//!
//! [loom]: https://docs.rs/loom

/// Poison and the load generator are no part of any model.
#[cfg(not(lockword_loom))]
pub(crate) use core::sync::atomic::AtomicBool;
/// Nor are the instruments.
#[cfg(all(feature = "trace", not(lockword_loom)))]
pub(crate) use core::sync::atomic::AtomicPtr;
#[cfg(all(feature = "profile", not(lockword_loom)))]
pub(crate) use core::sync::atomic::AtomicU64;
#[cfg(not(lockword_loom))]
pub(crate) use core::{
    cell::Cell as NodeCell,
    hint::spin_loop,
    sync::atomic::{AtomicU8, AtomicU32, AtomicUsize, Ordering, fence},
};

#[cfg(lockword_loom)]
pub(crate) use loom::hint::spin_loop;
#[cfg(lockword_loom)]
pub(crate) use loom::sync::atomic::{AtomicU8, AtomicU32, AtomicUsize, Ordering, fence};
#[cfg(all(test, lockword_loom))]
pub(crate) use loom::{cell as model_cell, model as model_run, thread as model_thread};
#[cfg(lockword_loom)]
pub(crate) use loom::{lazy_static, sync as model_sync, thread_local as model_thread_local};

/// A field that the threads which hold one lock share. In the models each access is checked for races.
#[cfg(lockword_loom)]
pub(crate) struct NodeCell<T>(loom::cell::UnsafeCell<T>);

#[cfg(lockword_loom)]
impl<T: Copy> NodeCell<T> {
    pub(crate) fn new(value: T) -> Self {
        NodeCell(loom::cell::UnsafeCell::new(value))
    }
    pub(crate) fn get(&self) -> T {
        // SAFETY: loom checks that nobody writes meanwhile.
        self.0.with(|value| unsafe { *value })
    }
    pub(crate) fn set(&self, new: T) {
        // SAFETY: loom checks that nobody else has access meanwhile.
        self.0.with_mut(|value| unsafe { *value = new });
    }
}

/// A function that is `const`, but for the models, whose atomics are made at run time.
macro_rules! const_fn {
    ($(#[$doc:meta])* $visibility:vis fn $name:ident($($argument:ident: $type:ty)?) -> $result:ty $body:block) => {
        $(#[$doc])*
        #[cfg(not(lockword_loom))]
        #[inline]
        $visibility const fn $name($($argument: $type)?) -> $result $body
        $(#[$doc])*
        #[cfg(lockword_loom)]
        $visibility fn $name($($argument: $type)?) -> $result $body
    };
}
pub(crate) use const_fn;

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

/// There is no clock: time stands still. (`Instant::now` panics there.)
#[cfg(all(target_family = "wasm", target_os = "unknown", not(lockword_loom)))]
fn since_start() -> std::time::Duration {
    std::time::Duration::ZERO
}

/// Time since some moment of this process.
#[cfg(not(any(unix, lockword_loom, all(target_family = "wasm", target_os = "unknown"))))]
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

/// Nanoseconds since some moment in the past. Monotonic; about 25 ns.
#[cfg(all(feature = "profile", not(lockword_loom)))]
pub(crate) fn now_ns() -> u64 {
    // 2^64 ns are 584 years.
    since_start().as_nanos() as u64
}

/// A clock for short times, in ticks of no stated length (a processor's cycle, roughly); 10 to
/// 25 ns. It may jump when the thread moves to another processor.
#[cfg(all(not(lockword_loom), target_arch = "x86_64", not(target_env = "sgx"), not(miri)))]
pub(crate) fn ticks() -> u64 {
    // SAFETY: every x86-64 processor has a time-stamp counter, and user code may read it.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// A clock for short times, in nanoseconds.
#[cfg(all(
    not(lockword_loom),
    not(all(target_arch = "x86_64", not(target_env = "sgx"), not(miri)))
))]
pub(crate) fn ticks() -> u64 {
    // 2^64 ns are 584 years.
    since_start().as_nanos() as u64
}

/// The model has no clock.
#[cfg(lockword_loom)]
pub(crate) fn ticks() -> u64 {
    0
}

/// Whether this call is one of 64, at random: for what must not read the clock each time, which takes
/// longer than a short section.
#[cfg(not(lockword_loom))]
pub(crate) fn is_one_in_64() -> bool {
    use core::cell::Cell;
    std::thread_local!(static RANDOM: Cell<u32> = const { Cell::new(0) });
    // One access: the address of a thread-local is asked for by a call.
    RANDOM.with(|random| {
        // Threads that live for a few calls only must not all do the same.
        let last = if random.get() == 0 { ticks() as u32 } else { random.get() };
        // At random, so that locks that take turns all have theirs: Knuth, volume 2, section 3.2.1, and
        // there table 1, line 16.
        random.set(last.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
        random.get() >> 26 == 0
    })
}

/// In the model what must not be done too often is done whenever it can be.
#[cfg(lockword_loom)]
pub(crate) fn is_one_in_64() -> bool {
    !model_settings::no_light()
}

/// Whether it is at least `limit_us` since `since_us` ([`now_us`]).
///
/// `since_us` is read before the clock is: so what another thread stores meanwhile does not lie in
/// the future, which is far in the past here.
#[cfg(not(lockword_loom))]
pub(crate) fn has_passed(since_us: u32, limit_us: u32) -> bool {
    now_us().wrapping_sub(since_us) >= limit_us
}

/// Whether the time `at_us` ([`now_us`]) has come. It was never more than `most_us` ahead: what seems so was
/// up to 71 minutes ago, since the clock goes round.
#[cfg(not(lockword_loom))]
pub(crate) fn has_come(at_us: u32, most_us: u32) -> bool {
    !(1..=most_us).contains(&at_us.wrapping_sub(now_us()))
}

/// The model says whether times come.
#[cfg(lockword_loom)]
pub(crate) fn has_come(_: u32, _: u32) -> bool {
    model_settings::time_passes()
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

/// In the model what must not be done too often is done whenever it can be.
#[cfg(lockword_loom)]
pub(crate) fn has_passed(_: u32, _: u32) -> bool {
    true
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

    // Read-modify-writes only, which see the latest value: a clock is not late.
    lazy_static! {
        static ref IS_UP: AtomicU32 = AtomicU32::new(0);
        static ref SETTLED: AtomicU32 = AtomicU32::new(0);
    }

    /// Lets all deadlines pass.
    pub(crate) fn pass() {
        // ORDERING: AcqRel: what a store buffer held before this moment is visible after it.
        SETTLED.swap(1, Ordering::AcqRel);
        IS_UP.swap(1, Ordering::Relaxed);
    }

    pub(crate) fn is_up() -> bool {
        IS_UP.fetch_add(0, Ordering::Relaxed) != 0
    }

    /// Whether the time for which parkers nap after a refusal is over.
    pub(crate) fn is_settled() -> bool {
        SETTLED.fetch_add(0, Ordering::AcqRel) != 0
    }
}

/// What the models set for all of their executions, and what they count over them. These are
/// real atomics: loom does not see them.
#[cfg(lockword_loom)]
pub(crate) mod model_settings {
    use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

    /// Whether times come: [`has_come`](super::has_come).
    static TIME_PASSES: AtomicBool = AtomicBool::new(false);
    /// `light()` is empty, and no flag is ever disarmed: the unlocker's slow path must do with its
    /// own fence.
    static NO_LIGHT: AtomicBool = AtomicBool::new(false);
    /// `heavy()` is refused.
    static REFUSES: AtomicBool = AtomicBool::new(false);
    /// Locks become biased.
    static BIASES: AtomicBool = AtomicBool::new(false);
    /// Addresses in bucket 1. All others are in bucket 0.
    static APART: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];
    static REACHED: [AtomicUsize; 16] = [const { AtomicUsize::new(0) }; 16];

    /// The settings of a model.
    #[cfg(test)]
    pub(crate) fn set_up(time_passes: bool, no_light: bool, refuses: bool, biases: bool) {
        BIASES.store(biases, Relaxed);
        TIME_PASSES.store(time_passes, Relaxed);
        NO_LIGHT.store(no_light, Relaxed);
        REFUSES.store(refuses, Relaxed);
    }

    /// All addresses are in bucket 0.
    #[cfg(test)]
    pub(crate) fn put_together() {
        APART.iter().for_each(|apart| apart.store(0, Relaxed));
    }

    /// The address is in bucket 1.
    #[cfg(test)]
    pub(crate) fn put_apart(addr: usize) {
        let free = APART.iter().find(|apart| apart.load(Relaxed) == 0);
        free.expect("there is room").store(addr, Relaxed);
    }

    pub(crate) fn time_passes() -> bool {
        TIME_PASSES.load(Relaxed)
    }

    pub(crate) fn no_light() -> bool {
        NO_LIGHT.load(Relaxed)
    }

    pub(crate) fn refuses() -> bool {
        REFUSES.load(Relaxed)
    }

    pub(crate) fn biases() -> bool {
        BIASES.load(Relaxed)
    }

    pub(crate) fn bucket_of(addr: usize) -> usize {
        usize::from(APART.iter().any(|apart| apart.load(Relaxed) == addr))
    }

    /// Counts that an execution has come by a place.
    pub(crate) fn reach(probe: super::Probe) {
        REACHED[probe as usize].fetch_add(1, Relaxed);
    }

    /// How many executions have come by a place, since the last call.
    pub(crate) fn take_reached(probe: super::Probe) -> usize {
        REACHED[probe as usize].swap(0, Relaxed)
    }
}

/// Places that a model has to reach to be worth anything.
#[cfg(lockword_loom)]
#[derive(Clone, Copy, Debug)]
pub(crate) enum Probe {
    Parked,
    TimedOut,
    Designated,
    StarvingWoken,
    HandedOff,
    Moved,
    Disarmed,
    Rearmed,
    Drained,
    GaveUp,
    ReadInSlot,
    BackedOut,
    Revoked,
    Lowered,
}

/// Counts that a model has come by a place, if the condition holds; nothing outside the models.
macro_rules! probe {
    ($name:ident $(, $condition:expr)?) => {
        #[cfg(lockword_loom)]
        if true $(&& $condition)? {
            $crate::primitive::model_settings::reach($crate::primitive::Probe::$name);
        }
    };
}
pub(crate) use probe;

/// A barrier for the compiler alone: no memory access moves across it, and no instruction is
/// emitted.
///
/// An empty `asm!` block without `nomem` is one by [specification]: the compiler must assume
/// that it reads and writes any memory. `core::sync::atomic::compiler_fence` would emit the
/// same, but is specified only for signal handlers on the same thread.
///
/// [specification]: https://doc.rust-lang.org/reference/inline-assembly.html
#[cfg(not(any(lockword_loom, lockword_symmetric, miri)))]
#[cfg(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64"))]
#[allow(dead_code, reason = "unused where no process-wide barrier exists")]
#[inline(always)]
pub(crate) fn compiler_barrier() {
    // SAFETY: no instruction, no operand, no effect; the stack and the flags are left alone.
    unsafe { core::arch::asm!("", options(nostack, preserves_flags)) }
}

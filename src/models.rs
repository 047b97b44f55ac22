//! loom models of the core: the interleavings and allowed reorderings of small programs.
//!
//! Run by `RUSTFLAGS="--cfg lockword_loom" cargo test --release --lib`. A lost wake-up shows as
//! a deadlock, two holders as concurrent access to a cell. Each model states what it has to
//! come by ([`Place`]); one that never gets there proves nothing and fails.
//!
//! The smallest models are exhaustive; the others bound the preemptions (the number of times a
//! thread that could go on is stopped) to 2 to 5, as loom's authors recommend. None is cut short by
//! a limit of time or permutations.
//!
//! | model | what is in question |
//! |---|---|
//! | [`exclusion`] | mutual exclusion; no lost wake-up, 2 and 3 threads |
//! | [`lobby`] | disarming racing a park; arming by two; two locks in one bucket; the unlocker's own fence |
//! | [`handover`] | heirs, grants and fair unlocks racing a barger |
//! | [`late_steps`](crate::lobby) | steps of the hint's round that come a whole round too late |
//! | [`timeout`] | a timeout racing a wake-up, with and without the duty |
//! | [`condvar`] | a notification racing a wait and a timeout |
//! | [`parker`] | what wakes a plain thread that waits there |
//! | [`wait_queue`] | the waiters of a key of the cluster: grants racing those that leave, order |

mod condvar;
mod exclusion;
mod handover;
mod lobby;
mod parker;
mod timeout;
mod wait_queue;

use crate::primitive::Place;
use crate::primitive::model_cell::UnsafeCell;
use crate::primitive::model_settings::{set_no_light, set_passed_us, take_reached};
use crate::primitive::model_sync::Arc;
use crate::raw::RawLock;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Settings and counters are one for the process: models run one after another.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// How many microseconds have passed, whenever the protocol asks (`primitive::has_passed`).
#[derive(Clone, Copy)]
enum Clock {
    /// None: nobody has overslept, heirs are not handed the lock.
    Still = 0,
    /// More than a wake-up takes: whoever was woken has overslept, heirs are handed the lock.
    Long = 300,
    /// More than anything takes: turns are over, too.
    Over = 1_000_000,
}

/// A model to run.
struct Model {
    preemptions: Option<usize>,
    clock: Clock,
    no_light: bool,
    must_reach: &'static [Place],
}

impl Model {
    /// All interleavings.
    fn exhaustive() -> Self {
        Model { preemptions: None, clock: Clock::Long, no_light: false, must_reach: &[] }
    }

    /// Interleavings with at most `preemptions`.
    fn bounded(preemptions: usize) -> Self {
        Model { preemptions: Some(preemptions), ..Model::exhaustive() }
    }

    fn clock(self, clock: Clock) -> Self {
        Model { clock, ..self }
    }

    /// With an empty `light()` and a bucket that stays armed.
    fn no_light(self) -> Self {
        Model { no_light: true, ..self }
    }

    fn must_reach(self, must_reach: &'static [Place]) -> Self {
        Model { must_reach, ..self }
    }

    fn check(self, body: impl Fn() + Send + Sync + 'static) {
        let _one: MutexGuard<'_, ()> = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        for place in self.must_reach {
            take_reached(*place);
        }
        set_no_light(self.no_light);
        set_passed_us(self.clock as u32);
        let mut builder = crate::primitive::model_run::Builder::new();
        builder.preemption_bound = self.preemptions;
        builder.max_branches = 10_000;
        builder.check(move || {
            // Before any thread is started: loom does not look for races with the first use of
            // a lazy static, and would miss every interleaving in which that use comes later.
            crate::lobby::bucket(0);
            crate::park::begin();
            crate::primitive::model_time::is_up();
            body();
        });
        set_no_light(false);
        for place in self.must_reach {
            assert!(take_reached(*place) > 0, "the model never came by {place:?}");
        }
    }
}

/// A lock and a number that it guards.
struct Guarded {
    lock: RawLock,
    number: UnsafeCell<u32>,
}

impl Guarded {
    fn new() -> Arc<Self> {
        Arc::new(Guarded { lock: RawLock::new(), number: UnsafeCell::new(0) })
    }

    fn addr(&self) -> usize {
        core::ptr::from_ref(&self.lock).addr()
    }

    /// Adds one. The caller holds the lock.
    fn add(&self) {
        // SAFETY: the lock is held; loom checks that it excludes others.
        self.number.with_mut(|n| unsafe { *n += 1 });
    }

    fn lock_and_add(&self) {
        self.lock.lock();
        self.add();
        // SAFETY: locked above.
        unsafe { self.lock.unlock() };
    }

    /// The number, at the end: also checks that nothing was left behind.
    fn total(&self) -> u32 {
        assert!(self.lock.try_lock(), "the lock was left held");
        assert!(crate::lobby::bucket(self.addr()).is_idle(), "a count or the duty was left behind");
        // SAFETY: the lock is held.
        self.number.with(|n| unsafe { *n })
    }
}

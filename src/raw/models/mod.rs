//! loom models of the core: the interleavings and allowed reorderings of small programs.
//!
//! Run by `RUSTFLAGS="--cfg lockword_loom" cargo test --release --lib`. A lost wake-up shows as
//! a deadlock; two holders, and an access to a waiter that has gone, as concurrent access to a cell. Each
//! model states what it has to come by ([`Probe`]); one that never gets there proves nothing and fails.
//!
//! What runs is the real code over loom's atomics, with the real queues. There are two buckets; a model says
//! which objects are in the second one. Threads sleep as in [`futex`]. A spinner looks twice.
//!
//! The smallest models are exhaustive; the others bound the preemptions (the number of times a
//! thread that could go on is stopped) to 1 to 5; loom's authors recommend 2 or 3. None is cut short by
//! a limit of time or permutations.
//!
//! | model | what is in question |
//! |---|---|
//! | [`exclusion`] | mutual exclusion; no lost wake-up, 2 and 3 threads |
//! | [`flags`] | disarming racing a park; arming by two; the unlocker's own fence; a refused barrier |
//! | [`handoff`] | turns, fair unlocks, designated wakers, racing a barger |
//! | [`late_steps`](crate::raw::flags) | steps of the flag's round that come a whole round too late |
//! | [`queues`] | two locks in one bucket; waiters that come and go |
//! | [`timeout`] | a timeout racing a wake-up and a handoff |
//! | [`condvar`] | a notification racing a wait and a timeout; waiters that are moved |
//! | [`rwlock`] | readers and writers: draining, giving up, upgrades, recursive readers |
//! | [`readers`] | readers in slots: revocation, writers that give up, bias set again |
//! | [`parker`] | what wakes a plain thread that waits there |
//! | [`wait_queue`] | the waiters of a key of the cluster: grants racing those that leave, order |

#[cfg(test)]
mod condvar;
#[cfg(test)]
mod exclusion;
#[cfg(test)]
mod flags;
pub(super) mod futex;
#[cfg(test)]
mod handoff;
#[cfg(test)]
mod parker;
#[cfg(test)]
mod queues;
#[cfg(test)]
mod readers;
#[cfg(test)]
mod rwlock;
#[cfg(test)]
mod timeout;
#[cfg(test)]
mod wait_queue;

#[cfg(test)]
use harness::{Guarded, Model};

#[cfg(test)]
mod harness {
    use crate::primitive::Probe;
    use crate::primitive::model_cell::UnsafeCell;
    use crate::primitive::model_settings::{put_apart, put_together, set_up, take_reached};
    use crate::primitive::model_sync::Arc;
    use crate::raw::mutex::RawLock;
    use crate::raw::{flags, waiters};
    use std::sync::{Mutex, MutexGuard, PoisonError};

    /// Settings and counters are one for the process: models run one after another.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

    /// A model to run.
    pub(super) struct Model {
        preemptions: Option<usize>,
        time_passes: bool,
        no_light: bool,
        refuses: bool,
        biases: bool,
        must_reach: &'static [Probe],
    }

    impl Model {
        /// All interleavings. Turns come at once.
        pub(super) fn exhaustive() -> Self {
            Model {
                preemptions: None,
                time_passes: true,
                no_light: false,
                refuses: false,
                biases: false,
                must_reach: &[],
            }
        }

        /// Interleavings with at most `preemptions`.
        pub(super) fn bounded(preemptions: usize) -> Self {
            Model { preemptions: Some(preemptions), ..Model::exhaustive() }
        }

        /// No turn comes: an unlock frees the word and relies on the thread that it has woken.
        pub(super) fn in_no_time(self) -> Self {
            Model { time_passes: false, ..self }
        }

        /// With an empty `light()` and flags that stay armed.
        pub(super) fn no_light(self) -> Self {
            Model { no_light: true, ..self }
        }

        /// Every `heavy()` is refused.
        pub(super) fn refuses(self) -> Self {
            Model { refuses: true, ..self }
        }

        /// Counted readers make locks biased.
        pub(super) fn biases(self) -> Self {
            Model { biases: true, ..self }
        }

        pub(super) fn must_reach(self, must_reach: &'static [Probe]) -> Self {
            Model { must_reach, ..self }
        }

        pub(super) fn check(self, body: impl Fn() + Send + Sync + 'static) {
            let _one: MutexGuard<'_, ()> =
                ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
            for probe in self.must_reach {
                take_reached(*probe);
            }
            set_up(self.time_passes, self.no_light, self.refuses, self.biases);
            let mut builder = crate::primitive::model_run::Builder::new();
            builder.preemption_bound = self.preemptions;
            builder.max_branches = 10_000;
            builder.check(move || {
                put_together();
                // Before any thread is started: loom does not look for races with the first use of
                // a lazy static, and would miss every interleaving in which that use comes later.
                waiters::bucket(0);
                flags::flag(0);
                flags::begin();
                crate::raw::readers::begin();
                super::futex::begin();
                crate::primitive::model_time::is_up();
                crate::primitive::model_time::is_settled();
                body();
                crate::raw::readers::end();
            });
            for probe in self.must_reach {
                assert!(take_reached(*probe) > 0, "the model never came by {probe:?}");
            }
        }
    }

    /// The object at `addr` is in the second bucket.
    pub(super) fn set_apart(addr: usize) {
        put_apart(addr);
    }

    /// A lock and a number that it guards.
    pub(super) struct Guarded {
        pub(super) lock: RawLock,
        pub(super) number: UnsafeCell<u32>,
    }

    impl Guarded {
        pub(super) fn new() -> Arc<Self> {
            Arc::new(Guarded { lock: RawLock::new(), number: UnsafeCell::new(0) })
        }

        pub(super) fn addr(&self) -> usize {
            core::ptr::from_ref(&self.lock).addr()
        }

        /// Adds one. The caller holds the lock.
        pub(super) fn add(&self) {
            // SAFETY: the lock is held; loom checks that it excludes others.
            self.number.with_mut(|n| unsafe { *n += 1 });
        }

        pub(super) fn unlock(&self) {
            // SAFETY: the callers hold the lock; two holders would show as concurrent access.
            unsafe { self.lock.unlock() };
        }

        pub(super) fn unlock_fair(&self) {
            // SAFETY: as above.
            unsafe { self.lock.unlock_fair() };
        }

        pub(super) fn lock_and_add(&self) {
            self.lock.lock();
            self.add();
            self.unlock();
        }

        /// The number, at the end: also checks that nothing was left behind.
        pub(super) fn total(&self) -> u32 {
            assert!(self.lock.try_lock(), "the lock was left held");
            let bucket = waiters::bucket_of(self.addr());
            assert!(bucket.is_idle(), "a waiter or a role was left behind");
            // SAFETY: the lock is held.
            self.number.with(|n| unsafe { *n })
        }
    }
}

//! The public lock types: [`RawLock`] under `lock_api`'s guards.

use crate::primitive::{AtomicUsize, Ordering};
use crate::raw::mutex::RawLock;
use crate::traced::LockType;
use core::cell::Cell;
use core::num::NonZeroUsize;
use lock_api::{GuardNoSend, GuardSend, RawMutex, RawMutexFair, RawMutexTimed};
use std::time::{Duration, Instant};

/// [`RawLock`] for guards that may move to another thread: [`SendMutex`] is made of it.
///
/// It is the same lock of one byte, with the same waiting. Only the state of its guards differs
/// ([`GuardSend`]): `lock_api`'s guards of this lock are `Send` if the data is. Its methods are those of
/// `lock_api`'s traits. [`RawCondvar`](crate::RawCondvar) does not work with it: a `lock_api` condition
/// variable belongs to one type of raw mutex.
///
/// ```
/// let mutex = lockword::lock_api::Mutex::<lockword::RawSendLock, _>::new(1);
/// let guard = mutex.lock();
/// std::thread::scope(|s| {
///     s.spawn(move || drop(guard));
/// });
/// assert!(!mutex.is_locked());
/// ```
#[repr(transparent)]
#[derive(Debug)]
pub struct RawSendLock(RawLock);

impl RawSendLock {
    /// A free lock.
    #[inline]
    #[must_use]
    pub const fn new() -> Self {
        RawSendLock(RawLock::of(LockType::SendMutex))
    }
}

impl Default for RawSendLock {
    fn default() -> Self {
        RawSendLock::new()
    }
}

/// Implements `lock_api`'s traits for [`RawLock`], or for a lock whose field `$raw` is one. `$guard` is
/// the state of the guards.
macro_rules! raw_mutex {
    ($lock:ty, $guard:ident $(, $raw:tt)?) => {
        // SAFETY: a lock method returns success to one caller at a time, and the next success
        // happens after the unlock of the one before: by the compare-exchange of `LockWord`, or by
        // a handoff to exactly one waiter. The word does not record a thread: any thread may
        // unlock, whatever the guard says.
        unsafe impl RawMutex for $lock {
            // A `const` is what `lock_api` asks for: every use of it is a new, free lock.
            #[allow(clippy::declare_interior_mutable_const)]
            const INIT: Self = <$lock>::new();
            type Guard = $guard;

            #[inline]
            #[cfg_attr(feature = "trace", track_caller)]
            fn lock(&self) -> $guard {
                RawLock::lock(&self$(.$raw)?);
                $guard::new()
            }

            #[inline]
            #[cfg_attr(feature = "trace", track_caller)]
            fn try_lock(&self) -> Option<$guard> {
                RawLock::try_lock(&self$(.$raw)?).then($guard::new)
            }

            #[inline]
            unsafe fn unlock(&self, _guard: $guard) {
                // SAFETY: the caller holds the lock, by the contract of this method.
                unsafe { RawLock::unlock(&self$(.$raw)?) }
            }

            #[inline]
            fn is_locked(&self) -> bool {
                RawLock::is_locked(&self$(.$raw)?)
            }
        }

        // SAFETY: a fair unlock releases the lock or passes it to one waiter, never both.
        unsafe impl RawMutexFair for $lock {
            #[inline]
            unsafe fn unlock_fair(&self, _guard: $guard) {
                // SAFETY: the caller holds the lock, by the contract of this method.
                unsafe { RawLock::unlock_fair(&self$(.$raw)?) }
            }

            #[inline]
            #[cfg_attr(feature = "trace", track_caller)]
            unsafe fn bump(&self, _guard: &mut $guard) {
                // SAFETY: as above; the lock is held again afterwards, and `bump` does not unwind.
                unsafe { RawLock::bump(&self$(.$raw)?) }
            }
        }

        // SAFETY: a timed lock that gives up holds nothing and waits for nothing.
        unsafe impl RawMutexTimed for $lock {
            type Duration = Duration;
            type Instant = Instant;

            #[inline]
            #[cfg_attr(feature = "trace", track_caller)]
            fn try_lock_for(&self, timeout: Duration) -> Option<$guard> {
                RawLock::try_lock_for(&self$(.$raw)?, timeout).then($guard::new)
            }

            #[inline]
            #[cfg_attr(feature = "trace", track_caller)]
            fn try_lock_until(&self, deadline: Instant) -> Option<$guard> {
                RawLock::try_lock_until(&self$(.$raw)?, deadline).then($guard::new)
            }
        }
    };
}

raw_mutex!(RawLock, GuardNoSend);
raw_mutex!(RawSendLock, GuardSend, 0);

/// Tells threads apart, for [`ReentrantMutex`], by a number of their own.
///
/// A thread draws its number from a counter of the process when it first asks for it, and keeps it. No
/// two threads of a process ever have the same number, also if one has ended before the other starts.
/// In the child of a `fork`, the thread that forked keeps its number, and so the mutexes that it holds.
///
/// # Panics
/// `nonzero_thread_id` panics when all numbers are drawn: with a `usize` of 32 bits, in the 2^32nd
/// thread that asks for one. It never gives a number twice. With 64 bits this takes centuries.
#[derive(Debug)]
pub struct RawThreadId;

// SAFETY: a number is drawn once (`draw`), and only its thread can read the cell that keeps it.
unsafe impl lock_api::GetThreadId for RawThreadId {
    const INIT: Self = RawThreadId;

    #[inline]
    fn nonzero_thread_id(&self) -> NonZeroUsize {
        // Constant and without a destructor: it is there in the destructors of other thread-locals,
        // and nothing is allocated for it where the target has thread-local variables.
        thread_local!(static ID: Cell<Option<NonZeroUsize>> = const { Cell::new(None) });
        static DRAWN: AtomicUsize = AtomicUsize::new(0);
        ID.with(|id| match id.get() {
            Some(number) => number,
            None => {
                let number = draw(&DRAWN);
                id.set(Some(number));
                number
            }
        })
    }
}

/// A number that `drawn` has not given before. Panics when there is none left.
#[cold]
fn draw(drawn: &AtomicUsize) -> NonZeroUsize {
    // ORDERING: Relaxed: that a number is given once follows from the order of the changes of one
    // variable. Nothing else is told by it.
    let before = drawn.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_add(1));
    let before = before.expect("ReentrantMutex: each thread identity has been used");
    // As wide as a `usize`, and less than its maximum.
    NonZeroUsize::MIN.saturating_add(before)
}

/// A mutual exclusion lock around a `T`. It takes one byte more than the data, and padding.
///
/// The methods are those of [`lock_api::Mutex`]:
///
/// | method | what it does |
/// |---|---|
/// | `const fn new(data)` | returns a free mutex |
/// | `lock()` | blocks until the mutex is free, and returns the guard |
/// | `try_lock()` | returns `None` if the mutex is locked; never blocks |
/// | `try_lock_for(timeout)`, `try_lock_until(deadline)` | block no longer than that; `None` if the time has passed |
/// | `is_locked()` | advice: the answer may be outdated when it is returned |
/// | `get_mut()`, `into_inner()` | reach the data without locking, by ownership |
///
/// The guard unlocks when it is dropped. [`MutexGuard::unlock_fair`] unlocks and passes the lock to a
/// waiter, if there is one; [`MutexGuard::bump`] does so and locks again.
///
/// - **No poisoning**: a panic while the lock is held unlocks it, and the data stays as it is.
/// - Waiting is bounded: see the guarantees in the [crate documentation](crate).
/// - A guard stays in its thread: it is not `Send`, as std's and `parking_lot`'s are not. So a task that
///   must be `Send` cannot hold one across an `.await`. [`SendMutex`] has guards that are `Send`.
/// - A mutex is not `RefUnwindSafe`, as `parking_lot`'s is not: after a caught panic its data may be
///   half-changed. `sync::Mutex` poisons, and is `RefUnwindSafe`.
/// - A guard that is passed to `mem::forget` leaves the mutex locked for ever. The mutex may still
///   be dropped.
/// - Not reentrant: a thread that locks a mutex it holds already blocks for ever. See
///   [`ReentrantMutex`].
/// - No method panics, but for the limits of WebAssembly in the platform table of the crate.
///
/// ```
/// use lockword::Mutex;
/// use std::time::Duration;
///
/// static COUNT: Mutex<u32> = Mutex::new(0);
///
/// *COUNT.lock() += 1;
/// if let Some(mut count) = COUNT.try_lock_for(Duration::from_millis(10)) {
///     *count += 1;
/// }
/// assert_eq!(*COUNT.lock(), 2);
/// ```
pub type Mutex<T> = lock_api::Mutex<RawLock, T>;

/// Access to the data of a [`Mutex`], which is locked for as long as the guard lives. It is what
/// `lock` and its kin return.
pub type MutexGuard<'a, T> = lock_api::MutexGuard<'a, RawLock, T>;

/// A [`MutexGuard`] narrowed to a part of the data by [`MutexGuard::map`].
pub type MappedMutexGuard<'a, T> = lock_api::MappedMutexGuard<'a, RawLock, T>;

/// A guard that owns an `Arc` of its [`Mutex`] instead of borrowing it: `Mutex::lock_arc`.
#[cfg(feature = "arc_lock")]
pub type ArcMutexGuard<T> = lock_api::ArcMutexGuard<RawLock, T>;

/// A [`Mutex`] whose guard may be sent to another thread and dropped there, if `T: Send`.
///
/// Everything else is as for [`Mutex`], its size, waiting and methods included. But [`Condvar`] waits
/// with the guard of a [`Mutex`] only. A guard that is held across an `.await` blocks every other thread
/// that locks, for as long as the task is suspended; if one of them is needed to resume the task, it
/// blocks for ever.
///
/// ```
/// use lockword::{SendMutex, SendMutexGuard};
///
/// static LIST: SendMutex<Vec<u32>> = SendMutex::new(Vec::new());
///
/// let guard: SendMutexGuard<'static, _> = LIST.lock();
/// std::thread::spawn(move || {
///     let mut list = guard;
///     list.push(1);
/// })
/// .join()
/// .unwrap();
/// assert_eq!(*LIST.lock(), [1]);
/// ```
///
/// [`Condvar`]: crate::Condvar
pub type SendMutex<T> = lock_api::Mutex<RawSendLock, T>;

/// Access to the data of a [`SendMutex`]. It is `Send` if the data is.
pub type SendMutexGuard<'a, T> = lock_api::MutexGuard<'a, RawSendLock, T>;

/// A [`SendMutexGuard`] narrowed to a part of the data by [`MutexGuard::map`].
pub type MappedSendMutexGuard<'a, T> = lock_api::MappedMutexGuard<'a, RawSendLock, T>;

/// A [`SendMutexGuard`] that owns an `Arc` of its mutex: `SendMutex::lock_arc`.
#[cfg(feature = "arc_lock")]
pub type ArcSendMutexGuard<T> = lock_api::ArcMutexGuard<RawSendLock, T>;

/// A mutex that a thread may lock again while it holds it. The mutex is free again when the thread
/// has dropped as many guards as it has taken.
///
/// The guards give shared access only: put a `Cell` or a `RefCell` inside to change the data. A lock
/// panics when the number of guards overflows a `usize`.
///
/// The owner is known by a number that no other thread of the process ever has ([`RawThreadId`]). So a
/// guard that is passed to `mem::forget` leaves the mutex locked for all other threads, also after its
/// thread has ended. In the child of a `fork`, the thread that forked still owns what it owned before.
///
/// ```
/// use lockword::ReentrantMutex;
/// use std::cell::Cell;
///
/// static DEPTH: ReentrantMutex<Cell<u32>> = ReentrantMutex::new(Cell::new(0));
///
/// let outer = DEPTH.lock();
/// let inner = DEPTH.lock();
/// inner.set(outer.get() + 2);
/// assert_eq!(outer.get(), 2);
/// ```
pub type ReentrantMutex<T> = lock_api::ReentrantMutex<RawLock, RawThreadId, T>;

/// Shared access to the data of a [`ReentrantMutex`]. It is not `Send`.
pub type ReentrantMutexGuard<'a, T> = lock_api::ReentrantMutexGuard<'a, RawLock, RawThreadId, T>;

/// A [`ReentrantMutexGuard`] narrowed to a part of the data.
pub type MappedReentrantMutexGuard<'a, T> =
    lock_api::MappedReentrantMutexGuard<'a, RawLock, RawThreadId, T>;

/// A [`ReentrantMutexGuard`] that owns an `Arc` of its mutex: `ReentrantMutex::lock_arc`.
#[cfg(feature = "arc_lock")]
pub type ArcReentrantMutexGuard<T> = lock_api::ArcReentrantMutexGuard<RawLock, RawThreadId, T>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_thread_number_is_drawn_twice() {
        let drawn = AtomicUsize::new(0);
        assert_eq!([draw(&drawn).get(), draw(&drawn).get()], [1, 2]);
        let nearly = AtomicUsize::new(0_usize.wrapping_sub(2));
        assert_eq!(draw(&nearly), NonZeroUsize::MAX);
        for _ in 0..2 {
            assert!(std::panic::catch_unwind(|| draw(&nearly)).is_err(), "the last was drawn");
        }
    }
}

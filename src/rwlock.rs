//! The public reader-writer locks: [`RawRwLock`] under `lock_api`'s guards.

use crate::raw::rwlock::After;
pub use crate::raw::rwlock::{RawRwLock, ReadToken};
use crate::traced::LockType;
use lock_api::{GuardNoSend, GuardSend};
use std::time::{Duration, Instant};

/// [`RawRwLock`] for guards that may move to another thread: [`SendRwLock`] is made of it.
///
/// It is the same lock, with the same waiting. Only the state of its guards differs.
#[repr(transparent)]
#[derive(Debug)]
pub struct RawSendRwLock(RawRwLock);

impl Default for RawSendRwLock {
    fn default() -> Self {
        RawSendRwLock::new()
    }
}

impl RawSendRwLock {
    /// A free lock.
    #[inline]
    #[must_use]
    pub const fn new() -> Self {
        RawSendRwLock(RawRwLock::of(LockType::SendRwLock))
    }
}

/// [`RawRwLock`] for threads that read recursively: [`RecursiveRwLock`] is made of it.
///
/// It is the same lock, but for its readers: they do not wait for a writer that waits.
#[repr(transparent)]
#[derive(Debug)]
pub struct RawRecursiveRwLock(pub(crate) RawRwLock);

impl Default for RawRecursiveRwLock {
    fn default() -> Self {
        RawRecursiveRwLock::new()
    }
}

impl RawRecursiveRwLock {
    /// A free lock.
    #[inline]
    #[must_use]
    pub const fn new() -> Self {
        RawRecursiveRwLock(RawRwLock::of(LockType::RecursiveRwLock))
    }
}

/// [`ReadToken`] for a guard that may move to another thread.
#[derive(Debug)]
#[must_use]
pub struct SendReadToken(ReadToken);

// SAFETY: any thread may end a reader's section, whoever began it: it clears the slot that is named in the
// token, or subtracts from the count.
unsafe impl Send for SendReadToken {}

impl From<ReadToken> for SendReadToken {
    #[inline]
    fn from(token: ReadToken) -> Self {
        SendReadToken(token)
    }
}

impl From<SendReadToken> for ReadToken {
    #[inline]
    fn from(token: SendReadToken) -> Self {
        token.0
    }
}

/// The moment after `timeout`; `None` if that is beyond what [`Instant`] can name.
fn after(timeout: Duration) -> Option<Instant> {
    Instant::now().checked_add(timeout)
}

/// Implements `lock_api`'s traits for [`RawRwLock`], or for a lock whose field `$raw` is one. `$guard` is
/// the state of guards for writing, `$token` of those for reading, and
/// `$recursive` says whether readers come in while a writer waits for others to leave.
macro_rules! raw_rwlock {
    ($lock:ty, $guard:ident, $token:ident, $recursive:literal $(, $raw:tt)?) => {
        // SAFETY: the role of the word has one owner at a time, and who writes has it and has seen that there
        // is no reader. What a reader did happens before the next writer's section, by its subtraction, and
        // what a writer did before the next section of any kind, by its Release and their Acquire. A token
        // is owned by one guard. Any thread may unlock, whatever the guard says.
        unsafe impl lock_api::RawRwLock for $lock {
            // A `const` is what `lock_api` asks for: every use of it is a new, free lock.
            #[allow(clippy::declare_interior_mutable_const)]
            const INIT: Self = <$lock>::new();
            type SharedGuard = $token;
            type ExclusiveGuard = $guard;

            #[inline]
            #[cfg_attr(feature = "trace", track_caller)]
            fn lock_shared(&self) -> $token {
                RawRwLock::read(&self$(.$raw)?, $recursive).into()
            }

            #[inline]
            #[cfg_attr(feature = "trace", track_caller)]
            fn try_lock_shared(&self) -> Option<$token> {
                RawRwLock::try_read(&self$(.$raw)?, $recursive).map($token::from)
            }

            #[inline]
            unsafe fn unlock_shared(&self, token: $token) {
                // SAFETY: the token is that of this acquisition, by the contract of this method.
                unsafe { RawRwLock::end_read(&self$(.$raw)?, token.into()) }
            }

            #[inline]
            #[cfg_attr(feature = "trace", track_caller)]
            fn lock_exclusive(&self) -> $guard {
                RawRwLock::write_until(&self$(.$raw)?, None);
                $guard::new()
            }

            #[inline]
            #[cfg_attr(feature = "trace", track_caller)]
            fn try_lock_exclusive(&self) -> Option<$guard> {
                RawRwLock::try_write(&self$(.$raw)?).then($guard::new)
            }

            #[inline]
            unsafe fn unlock_exclusive(&self, _guard: $guard) {
                // SAFETY: the caller holds the lock, by the contract of this method.
                unsafe { RawRwLock::end_write(&self$(.$raw)?, After::Free) }
            }

            #[inline]
            fn is_locked(&self) -> bool {
                RawRwLock::is_locked(&self$(.$raw)?)
            }

            #[inline]
            fn is_locked_exclusive(&self) -> bool {
                RawRwLock::is_held(&self$(.$raw)?)
            }
        }

        // SAFETY: a fair unlock releases the lock, or passes it on: to readers that wait, to one waiter for
        // the role, or to both. A reader's unlock needs no other form, since a writer that waits for readers
        // keeps new ones out.
        unsafe impl lock_api::RawRwLockFair for $lock {
            #[inline]
            unsafe fn unlock_shared_fair(&self, token: $token) {
                // SAFETY: the token is that of this acquisition, by the contract of this method.
                unsafe { RawRwLock::end_read(&self$(.$raw)?, token.into()) }
            }

            #[inline]
            unsafe fn unlock_exclusive_fair(&self, _guard: $guard) {
                // SAFETY: the caller holds the lock, by the contract of this method.
                unsafe { RawRwLock::end_write_fair(&self$(.$raw)?) }
            }
        }

        // SAFETY: the writer's plain store makes it a reader, and nobody was in between.
        unsafe impl lock_api::RawRwLockDowngrade for $lock {
            #[inline]
            unsafe fn downgrade(&self, _guard: $guard) -> $token {
                // SAFETY: the caller holds the lock, by the contract of this method.
                unsafe { RawRwLock::downgrade(&self$(.$raw)?) }.into()
            }
        }

        // SAFETY: who gives up holds nothing, and waits for nothing.
        unsafe impl lock_api::RawRwLockTimed for $lock {
            type Duration = Duration;
            type Instant = Instant;

            #[inline]
            #[cfg_attr(feature = "trace", track_caller)]
            fn try_lock_shared_for(&self, timeout: Duration) -> Option<$token> {
                RawRwLock::read_until(&self$(.$raw)?, $recursive, after(timeout)).map($token::from)
            }

            #[inline]
            #[cfg_attr(feature = "trace", track_caller)]
            fn try_lock_shared_until(&self, deadline: Instant) -> Option<$token> {
                RawRwLock::read_until(&self$(.$raw)?, $recursive, Some(deadline)).map($token::from)
            }

            #[inline]
            #[cfg_attr(feature = "trace", track_caller)]
            fn try_lock_exclusive_for(&self, timeout: Duration) -> Option<$guard> {
                RawRwLock::write_until(&self$(.$raw)?, after(timeout)).then($guard::new)
            }

            #[inline]
            #[cfg_attr(feature = "trace", track_caller)]
            fn try_lock_exclusive_until(&self, deadline: Instant) -> Option<$guard> {
                RawRwLock::write_until(&self$(.$raw)?, Some(deadline)).then($guard::new)
            }
        }

        // SAFETY: the upgradable reader has the role, so that there is one, and no writer. To upgrade is to
        // drain the other readers, whose subtractions it acquires.
        unsafe impl lock_api::RawRwLockUpgrade for $lock {
            type UpgradableGuard = $guard;

            #[inline]
            #[cfg_attr(feature = "trace", track_caller)]
            fn lock_upgradable(&self) -> $guard {
                RawRwLock::upgradable_until(&self$(.$raw)?, None);
                $guard::new()
            }

            #[inline]
            #[cfg_attr(feature = "trace", track_caller)]
            fn try_lock_upgradable(&self) -> Option<$guard> {
                RawRwLock::try_upgradable(&self$(.$raw)?).then($guard::new)
            }

            #[inline]
            unsafe fn unlock_upgradable(&self, _guard: $guard) {
                // SAFETY: the caller is the upgradable reader, by the contract of this method.
                unsafe { RawRwLock::end_upgradable(&self$(.$raw)?, false) }
            }

            #[inline]
            #[cfg_attr(feature = "trace", track_caller)]
            unsafe fn upgrade(&self, guard: $guard) -> $guard {
                // SAFETY: the caller is the upgradable reader, by the contract of this method.
                unsafe { RawRwLock::upgrade_until(&self$(.$raw)?, None) };
                guard
            }

            #[inline]
            #[cfg_attr(feature = "trace", track_caller)]
            unsafe fn try_upgrade(&self, guard: $guard) -> Result<$guard, $guard> {
                // SAFETY: the caller is the upgradable reader, by the contract of this method.
                match unsafe { RawRwLock::try_upgrade(&self$(.$raw)?) } {
                    true => Ok(guard),
                    false => Err(guard),
                }
            }
        }

        // SAFETY: as for the fair unlock of a writer.
        unsafe impl lock_api::RawRwLockUpgradeFair for $lock {
            #[inline]
            unsafe fn unlock_upgradable_fair(&self, _guard: $guard) {
                // SAFETY: the caller is the upgradable reader, by the contract of this method.
                unsafe { RawRwLock::end_upgradable(&self$(.$raw)?, true) }
            }
        }

        // SAFETY: each is one change of the word, with nobody in between.
        unsafe impl lock_api::RawRwLockUpgradeDowngrade for $lock {
            #[inline]
            unsafe fn downgrade_upgradable(&self, _guard: $guard) -> $token {
                // SAFETY: the caller is the upgradable reader, by the contract of this method.
                unsafe { RawRwLock::downgrade_upgradable(&self$(.$raw)?) }.into()
            }

            #[inline]
            unsafe fn downgrade_to_upgradable(&self, guard: $guard) -> $guard {
                // SAFETY: the caller holds the lock, by the contract of this method.
                unsafe { RawRwLock::end_write(&self$(.$raw)?, After::Upgradable) };
                guard
            }
        }

        // SAFETY: who gives up an upgrade is the upgradable reader as before.
        unsafe impl lock_api::RawRwLockUpgradeTimed for $lock {
            #[inline]
            #[cfg_attr(feature = "trace", track_caller)]
            fn try_lock_upgradable_for(&self, timeout: Duration) -> Option<$guard> {
                RawRwLock::upgradable_until(&self$(.$raw)?, after(timeout)).then($guard::new)
            }

            #[inline]
            #[cfg_attr(feature = "trace", track_caller)]
            fn try_lock_upgradable_until(&self, deadline: Instant) -> Option<$guard> {
                RawRwLock::upgradable_until(&self$(.$raw)?, Some(deadline)).then($guard::new)
            }

            #[inline]
            #[cfg_attr(feature = "trace", track_caller)]
            unsafe fn try_upgrade_for(
                &self,
                guard: $guard,
                timeout: Duration,
            ) -> Result<$guard, $guard> {
                // SAFETY: the caller is the upgradable reader, by the contract of this method.
                match unsafe { RawRwLock::upgrade_until(&self$(.$raw)?, after(timeout)) } {
                    true => Ok(guard),
                    false => Err(guard),
                }
            }

            #[inline]
            #[cfg_attr(feature = "trace", track_caller)]
            unsafe fn try_upgrade_until(
                &self,
                guard: $guard,
                deadline: Instant,
            ) -> Result<$guard, $guard> {
                // SAFETY: the caller is the upgradable reader, by the contract of this method.
                match unsafe { RawRwLock::upgrade_until(&self$(.$raw)?, Some(deadline)) } {
                    true => Ok(guard),
                    false => Err(guard),
                }
            }
        }
    };
}

raw_rwlock!(RawRwLock, GuardNoSend, ReadToken, false);
raw_rwlock!(RawSendRwLock, GuardSend, SendReadToken, false, 0);
raw_rwlock!(RawRecursiveRwLock, GuardNoSend, ReadToken, true, 0);

/// Reading by a thread that may hold a guard for reading already: for [`RwLock`], not for [`SendRwLock`].
///
/// `lock_api` 0.5 has no such methods, so that they are those of a trait.
///
/// ```
/// use lockword::{ReadRecursive, RwLock};
/// use std::time::Duration;
///
/// let lock = RwLock::new(1);
/// let outer = lock.read();
/// std::thread::scope(|s| {
///     s.spawn(|| *lock.write() += 1);
///     // Whether the writer waits for `outer` by now, or not.
///     let inner = lock.read_recursive();
///     assert_eq!((*outer, *inner), (1, 1));
///     drop((outer, inner));
/// });
/// ```
pub trait ReadRecursive<T: ?Sized> {
    /// As `read`, but does not wait for a writer that waits for readers to leave. It does wait for one that
    /// writes.
    ///
    /// Threads that read in this way all the time starve writers.
    fn read_recursive(&self) -> RwLockReadGuard<'_, T>;

    /// The same, or `None` if a writer writes.
    fn try_read_recursive(&self) -> Option<RwLockReadGuard<'_, T>>;

    /// The same, or `None` if it could not read within `timeout`.
    fn try_read_recursive_for(&self, timeout: Duration) -> Option<RwLockReadGuard<'_, T>>;

    /// The same, or `None` if it could not read until `deadline`.
    fn try_read_recursive_until(&self, deadline: Instant) -> Option<RwLockReadGuard<'_, T>>;
}

impl<T: ?Sized> ReadRecursive<T> for RwLock<T> {
    #[inline]
    #[cfg_attr(feature = "trace", track_caller)]
    fn read_recursive(&self) -> RwLockReadGuard<'_, T> {
        // SAFETY: nothing is done to the raw lock but to acquire it; the token is that of the guard.
        unsafe { self.make_read_guard_unchecked(self.raw().read(true)) }
    }

    #[inline]
    #[cfg_attr(feature = "trace", track_caller)]
    fn try_read_recursive(&self) -> Option<RwLockReadGuard<'_, T>> {
        // SAFETY: as above.
        unsafe { Some(self.make_read_guard_unchecked(self.raw().try_read(true)?)) }
    }

    #[cfg_attr(feature = "trace", track_caller)]
    fn try_read_recursive_for(&self, timeout: Duration) -> Option<RwLockReadGuard<'_, T>> {
        // SAFETY: as above.
        unsafe {
            Some(self.make_read_guard_unchecked(self.raw().read_until(true, after(timeout))?))
        }
    }

    #[cfg_attr(feature = "trace", track_caller)]
    fn try_read_recursive_until(&self, deadline: Instant) -> Option<RwLockReadGuard<'_, T>> {
        // SAFETY: as above.
        unsafe {
            Some(self.make_read_guard_unchecked(self.raw().read_until(true, Some(deadline))?))
        }
    }
}

/// A reader-writer lock around a `T`: many threads may read at a time, or one may write. It takes eight bytes
/// more than the data, and padding.
///
/// The methods are those of [`lock_api::RwLock`]:
///
/// | method | what it does |
/// |---|---|
/// | `const fn new(data)` | returns a free lock |
/// | `read()`, `write()` | block until the lock lets the thread in, and return the guard |
/// | `try_read()`, `try_write()` | return `None` where they would have to wait |
/// | `try_read_for(timeout)`, `try_write_until(deadline)` and so on | wait no longer than that; `None` if the time has passed |
/// | `read_recursive()` and its kin, of the trait [`ReadRecursive`] | read although a writer waits: for a thread that may hold a guard for reading already |
/// | `upgradable_read()` and its kin | read as the one that may go over to writing: `RwLockUpgradableReadGuard::upgrade` |
/// | `is_locked()`, `is_locked_exclusive()` | advice: the answer may be outdated when it is returned |
/// | `get_mut()`, `into_inner()` | reach the data without locking, by ownership |
///
/// `RwLockWriteGuard::downgrade` goes over to reading with no other writer in between, and
/// `unlock_fair` passes the lock to those who wait.
///
/// - **Writers are not starved by readers**: the one that is next lets no new reader in while it waits for those
///   inside. So a thread that calls
///   `read` while it holds a guard for reading blocks for ever if a writer has come in between: that is what
///   `read_recursive` is for. **Nor are readers starved by writers**: when one has waited for
///   0.5 ms, and was woken in vain, the next unlock lets in all that wait.
/// - **No poisoning**: a panic while the lock is held unlocks it, and the data stays as it is.
/// - A guard stays in its thread: it is not `Send`. [`SendRwLock`] has guards that are `Send`.
/// - A guard that is passed to `mem::forget` leaves the lock held for ever. The lock may still be moved and
///   dropped. Every way to begin reading panics if 2^26 readers are counted, which takes forgotten guards.
/// - A thread that writes while it holds a guard of the same lock blocks for ever.
///
/// # What it costs
///
/// A lock that is read often, and written seldom, becomes *biased*: its readers say in a slot that they read, and
/// write to a cache line of their own thread only. So a read with its unlock is a few plain loads and stores
/// (1.0 ns where std takes 12), and readers on several processors do not disturb each other. A
/// writer takes the bias away: it runs a barrier on all processors (some microseconds) and looks at the slots of every
/// thread that has read in some. Then readers are counted in the lock's word, as in other such locks, until
/// it is biased again. So that barriers take no more than 1 % of a processor's time from each thread, all locks
/// of the process together are biased at most once in 100 × (T + 1) times what a barrier takes, where T threads
/// have slots: once in some milliseconds with two, in some tenths of a second with a hundred.
///
/// A thread has eight slots, and there are slots for 2,048 threads at a time, in a static table of 256 KiB of which
/// only what was used takes memory. A reader that finds no slot is counted. A forgotten guard keeps its slot for ever,
/// and the other slots of its thread once that has ended. After 2^31 locks of the process were biased, no new one is. There are slots where the barrier is
/// the kernel's (see the platforms in the [crate documentation](crate)). Elsewhere all readers are counted.
///
/// # When not to use it
///
/// - **More than some hundred writes a second**, of all locks together. Readers are counted most of the time then,
///   also if there are a thousand of them for each write, and all threads write the lock's word. With one write in three, two threads make 53 M operations a second with a
///   [`Mutex`](crate::Mutex) and 56 with a `RwLock`: there is nothing to gain, and the mutex is simpler.
/// - **Many locks, and few reads of each.** A lock is biased after some dozens of reads at the earliest, and one lock
///   of the process after the other. The readers of thousands of locks are counted most of the time, at
///   15 ns for a read with its unlock (std 12), and a `Mutex` takes 7 ns, and one byte instead of eight.
/// - **Sections that nest.** A thread that reads while it reads blocks for ever if a writer has come in between
///   (see above). If such code cannot be found, take [`RecursiveRwLock`], whose writers may starve.
/// - **One reader at a time.** If readers seldom meet, there is nothing to gain from letting several in.
/// - **A write that must not take long, of a lock that is read all the time.** The first write after reads pays for
///   the barrier, which interrupts the other processors for a moment.
///
/// `lockword bench --read PERCENT` compares the two under a load of your own.
///
/// ```
/// use lockword::{RwLock, RwLockUpgradableReadGuard};
///
/// static NAMES: RwLock<Vec<&str>> = RwLock::new(Vec::new());
///
/// NAMES.write().push("a");
/// let (one, two) = (NAMES.read(), NAMES.read());
/// assert_eq!(*one, *two);
/// drop((one, two));
///
/// let names = NAMES.upgradable_read();
/// if !names.contains(&"b") {
///     RwLockUpgradableReadGuard::upgrade(names).push("b");
/// }
/// assert_eq!(*NAMES.read(), ["a", "b"]);
/// ```
pub type RwLock<T> = lock_api::RwLock<RawRwLock, T>;

/// Shared access to the data of a [`RwLock`], for as long as the guard lives.
pub type RwLockReadGuard<'a, T> = lock_api::RwLockReadGuard<'a, RawRwLock, T>;

/// Exclusive access to the data of a [`RwLock`], for as long as the guard lives.
pub type RwLockWriteGuard<'a, T> = lock_api::RwLockWriteGuard<'a, RawRwLock, T>;

/// Shared access to the data of a [`RwLock`], which one thread at a time may have, and which it may exchange
/// for exclusive access.
pub type RwLockUpgradableReadGuard<'a, T> = lock_api::RwLockUpgradableReadGuard<'a, RawRwLock, T>;

/// A [`RwLockReadGuard`] narrowed to a part of the data by `RwLockReadGuard::map`.
pub type MappedRwLockReadGuard<'a, T> = lock_api::MappedRwLockReadGuard<'a, RawRwLock, T>;

/// A [`RwLockWriteGuard`] narrowed to a part of the data by `RwLockWriteGuard::map`.
pub type MappedRwLockWriteGuard<'a, T> = lock_api::MappedRwLockWriteGuard<'a, RawRwLock, T>;

/// A guard for reading that owns an `Arc` of its [`RwLock`]: `RwLock::read_arc`.
#[cfg(feature = "arc_lock")]
pub type ArcRwLockReadGuard<T> = lock_api::ArcRwLockReadGuard<RawRwLock, T>;

/// A guard for writing that owns an `Arc` of its [`RwLock`]: `RwLock::write_arc`.
#[cfg(feature = "arc_lock")]
pub type ArcRwLockWriteGuard<T> = lock_api::ArcRwLockWriteGuard<RawRwLock, T>;

/// An upgradable guard that owns an `Arc` of its [`RwLock`]: `RwLock::upgradable_read_arc`.
#[cfg(feature = "arc_lock")]
pub type ArcRwLockUpgradableReadGuard<T> = lock_api::ArcRwLockUpgradableReadGuard<RawRwLock, T>;

/// A [`RwLock`] whose guards may be sent to another thread and dropped there, if the data allows it.
///
/// Everything else is as for [`RwLock`], but it has no `read_recursive`.
///
/// ```
/// use lockword::SendRwLock;
///
/// static NUMBER: SendRwLock<u32> = SendRwLock::new(1);
///
/// let guard = NUMBER.read();
/// std::thread::spawn(move || assert_eq!(*guard, 1)).join().unwrap();
/// assert!(NUMBER.try_write().is_some());
/// ```
pub type SendRwLock<T> = lock_api::RwLock<RawSendRwLock, T>;

/// Shared access to the data of a [`SendRwLock`]. It is `Send` if the data is `Send` and `Sync`.
pub type SendRwLockReadGuard<'a, T> = lock_api::RwLockReadGuard<'a, RawSendRwLock, T>;

/// Exclusive access to the data of a [`SendRwLock`]. It is `Send` if the data is `Send` and `Sync`.
pub type SendRwLockWriteGuard<'a, T> = lock_api::RwLockWriteGuard<'a, RawSendRwLock, T>;

/// A [`RwLock`] whose `read` does what [`read_recursive`](ReadRecursive::read_recursive) does: a thread may
/// read while it reads. Readers that never stop starve writers.
pub type RecursiveRwLock<T> = lock_api::RwLock<RawRecursiveRwLock, T>;

/// Shared access to the data of a [`RecursiveRwLock`].
pub type RecursiveRwLockReadGuard<'a, T> = lock_api::RwLockReadGuard<'a, RawRecursiveRwLock, T>;

/// Exclusive access to the data of a [`RecursiveRwLock`].
pub type RecursiveRwLockWriteGuard<'a, T> = lock_api::RwLockWriteGuard<'a, RawRecursiveRwLock, T>;

//! The raw Condvar: a queue in the waiter table, in the order of waiting.
//!
//! A waiter enters the queue while it holds the mutex, unlocks the mutex, spins on its own state for a
//! moment, and sleeps. A notifier takes the first waiters out of the queue, and of each it makes one of
//! two things:
//!
//! - a thread that is NOTIFIED, and locks the mutex as any other does; or
//! - if it sleeps while the mutex is held, and would only find it held: a waiter of the mutex, which
//!   sleeps on until an unlock comes to it.
//!
//! The second is a *park on another's behalf*. It has the proof of the parker in [`flags`], with the
//! waiter's place in the queue of the mutex for p1, a SeqCst fence after it, the look at READY for p2
//! and the look at the word for p3, all under the locks of both buckets. Where READY is not set the waiter
//! is notified instead, since `heavy()` must not be called under a bucket's lock.
//!
//! # What the notifier may touch
//!
//! A waiter that is notified, or handed the mutex, may free the Condvar and the mutex. The notifier
//! touches the Condvar only while a waiter that it has not released yet is in its queue or in its
//! hands, and the mutex only under the lock of the bucket in which a waiter of the mutex is.

use super::flags;
use super::fork;
use super::mutex::{RawLock, go_on_in_queue};
use super::park;
use super::spin::{Budget, spin};
use super::waiters::{self, ASLEEP, AWAKE, HANDOFF, Kind, Locked, NOTIFIED, Waiter};
use crate::primitive::{AtomicU32, Ordering, fence, probe};
use crate::traced::{Mode, Place};
use core::ptr;
use std::time::Instant;

/// How many waiters of a Condvar spin: those with fewer ahead of them. The others would be notified too late,
/// and take the processor from those that were.
const SPINNERS: u32 = 2;

/// The Condvar without `lock_api`'s methods: what [`Condvar`](crate::Condvar) is made of.
#[derive(Debug)]
pub struct RawCondvar {
    /// Threads in the queue. Raised by the waiter, who holds its mutex; both under the bucket's lock.
    ///
    /// In the child of a `fork` those of the parent's threads that waited stay counted, since nothing
    /// knows of all Condvars. They are in no queue, so that a notification finds nobody; it costs a look
    /// each time.
    waiters: AtomicU32,
}

#[cfg(not(lockword_loom))]
impl Default for RawCondvar {
    fn default() -> Self {
        RawCondvar::new()
    }
}

impl RawCondvar {
    /// A Condvar that nobody waits for.
    #[cfg(not(lockword_loom))]
    #[must_use]
    pub const fn new() -> Self {
        RawCondvar { waiters: AtomicU32::new(0) }
    }

    /// A Condvar in the model.
    #[cfg(lockword_loom)]
    pub(crate) fn new() -> Self {
        RawCondvar { waiters: AtomicU32::new(0) }
    }

    fn addr(&self) -> usize {
        ptr::from_ref(self).addr()
    }

    /// Whether a notification has nobody to go to.
    #[inline]
    pub(crate) fn has_no_waiters(&self) -> bool {
        // ORDERING: Relaxed: a waiter whom the notifier must not miss has released a mutex that the
        // notifier has acquired since, and it counted itself in before.
        self.waiters.load(Ordering::Relaxed) == 0
    }

    /// Waits until notified or until `deadline`, for who called at that place. Returns whether it was notified.
    ///
    /// # Safety
    /// The caller holds `mutex`. It holds it again when this returns.
    pub(crate) unsafe fn wait_until(
        &self,
        mutex: &RawLock,
        deadline: Option<Instant>,
        place: Place,
    ) -> bool {
        fork::settle();
        fork::watch();
        let waiter = Waiter::of_condvar(self.addr(), mutex.word());
        waiter.moved.is_of(mutex.traced());
        let bucket = waiters::bucket_of(self.addr());
        let mut locked = bucket.lock();
        // ORDERING: Relaxed: see `has_no_waiters`.
        let ahead = self.waiters.fetch_add(1, Ordering::Relaxed);
        locked.push(&waiter);
        drop(locked);
        // SAFETY: the caller holds the mutex, and this is called once.
        unsafe { mutex.unlock() };
        let wait = mutex.traced().condvar_wait(place);

        let notified = || waiter.message().is_some();
        // ORDERING: Relaxed: if it fails there is a message, which `sleep` reads.
        let fall_asleep =
            || waiter.state.compare_exchange(AWAKE, ASLEEP, Ordering::Relaxed, Ordering::Relaxed);
        if ahead >= SPINNERS
            || !spin(&bucket.spin, self.addr(), Budget::Condvar, deadline, notified)
        {
            let _ = fall_asleep();
        }
        let message = waiter.sleep(deadline).or_else(|| self.leave(&waiter));
        wait.ended();
        match message {
            Some(NOTIFIED) => mutex.lock_at(place),
            None => {
                mutex.lock_at(place);
                return false;
            }
            Some(message) => {
                // Moved to the queue of the mutex.
                let attempt = mutex.traced().attempt_at(Mode::Exclusive, true, place);
                attempt.ongoing().waits_since(&waiter.moved);
                if message != HANDOFF {
                    go_on_in_queue(mutex.word(), &waiter);
                }
                attempt.ended(true);
            }
        }
        true
    }

    /// The deadline of a waiter has passed: it leaves the queue. If it has been notified, it returns the
    /// message instead, which may be long in coming if it waits for the mutex by now.
    fn leave(&self, waiter: &Waiter) -> Option<u32> {
        if let Some(mut locked) = waiter.lock_bucket()
            && waiter.kind.get() == Kind::Condvar
        {
            probe!(TimedOut);
            // ORDERING: Relaxed: see `has_no_waiters`.
            self.waiters.fetch_sub(1, Ordering::Relaxed);
            locked.remove(waiter);
            return None;
        }
        waiter.sleep(None)
    }

    /// Notifies up to `most` waiters, the longest waiting first. Returns how many.
    pub(crate) fn notify(&self, most: usize) -> usize {
        if self.has_no_waiters() {
            return 0;
        }
        fork::settle();
        let addr = self.addr();
        let mut locked = waiters::bucket_of(addr).lock();
        let Some(first) = locked.first(addr, Kind::Condvar) else { return 0 };
        // SAFETY: the waiter is in the queue, so its mutex is alive.
        let held = first.is_asleep() && unsafe { &*first.word }.is_held();
        // The mutex to whose queue sleepers are moved, and its bucket if that is another one.
        let mut mutex = held.then_some(first.word);
        let mut other = None;
        if let Some(word) = mutex
            && flags::index(word.addr()) != flags::index(addr)
        {
            drop(locked);
            (locked, other) = waiters::lock_two(addr, word.addr());
        }
        let mut proven = false;
        let (mut count, mut notified, mut last) = (0, ptr::null::<Waiter>(), None::<&Waiter>);
        while count < most
            && let Some(waiter) = locked.first(addr, Kind::Condvar)
        {
            count += 1;
            // ORDERING: Relaxed: see `has_no_waiters`.
            self.waiters.fetch_sub(1, Ordering::Relaxed);
            locked.remove(waiter);
            if mutex == Some(waiter.word) && waiter.is_asleep() {
                let queue = other.as_mut().unwrap_or(&mut locked);
                if try_move(queue, waiter, &mut proven) {
                    continue;
                }
                mutex = None;
            }
            // Chained in the order of waiting.
            waiter.chain(ptr::null());
            match last.replace(waiter) {
                Some(last) => last.chain(waiter),
                None => notified = waiter,
            }
        }
        drop((locked, other));
        park::wake_all(core::iter::from_fn(|| {
            loop {
                // SAFETY: null, or taken out of the queue above and not notified yet: alive.
                let waiter = unsafe { notified.as_ref() }?;
                // Before the message, after which the waiter may be gone.
                notified = waiter.next();
                // SAFETY: alive until this message.
                if let (_, Some(address)) = unsafe { Waiter::send(waiter, NOTIFIED) } {
                    return Some(address);
                }
            }
        }));
        count
    }
}

/// Makes a sleeping waiter, which is in no queue, a waiter of its mutex, in whose bucket `queue` is. Returns
/// false, and leaves the waiter in no queue, if an unlock of the mutex might miss it. `proven` says that
/// another waiter was moved since this bucket was locked; what held for that one holds for this one.
fn try_move(queue: &mut Locked<'_>, waiter: &Waiter, proven: &mut bool) -> bool {
    // SAFETY: the waiter has not been released, so its mutex is alive.
    let word = unsafe { &*waiter.word };
    waiter.redirect(word.addr(), Kind::Exclusive);
    queue.enqueue(waiter);
    if !*proven {
        // ORDERING: SeqCst, between the place in the queue and the looks at the flag and at the word. The
        // partners are the fences of the unlocker and of `maybe_disarm`.
        fence(Ordering::SeqCst);
        *proven = flags::flag(flags::index(word.addr())).is_ready() && word.is_held();
    }
    if *proven {
        probe!(Moved);
    } else {
        queue.dequeue(waiter);
    }
    *proven
}

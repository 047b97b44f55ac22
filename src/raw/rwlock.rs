//! [`RawRwLock`]: the fast paths inline, and the slow paths of readers and writers.
//!
//! # The role
//!
//! Writers and upgradable readers compete for one *role* ([`RwWord`]), as threads do for a mutex: it is taken
//! by a compare-and-swap where it is free, and its owner alone gives it up. A writer that has taken it while
//! there are readers is DRAINING: no new reader comes in, and it waits for those inside to leave. So readers
//! never starve a writer. Then it holds the lock (HELD).
//!
//! | who | waits while | in the queue of | is woken by |
//! |---|---|---|---|
//! | a writer, an upgradable reader | somebody has the role | the role | whoever gives up the role |
//! | a reader | the role is DRAINING or HELD | the readers | whoever ends DRAINING or HELD |
//! | the writer that is DRAINING | there are readers | the drainer, which is alone there | a reader that leaves |
//!
//! The queues are three of one address in the waiter table, told apart by their
//! [kind](super::waiters::Kind). So nobody walks past waiters that it has no business with.
//!
//! # Who comes next
//!
//! When a writer unlocks, all readers that sleep are taken out of their queue at once, and the first waiter
//! for the role is woken. They, and whoever runs, race for the lock: that is what makes short sections
//! fast. So that nobody is passed over for long, waiters have a *turn*, [`TURN_US`] after they began to wait
//! (readers), or became the first (the others), and once they were woken in vain. Readers whose turn has come
//! are counted in by the unlocker, all of them; a waiter for the role is given the role. If both have
//! their turn, the readers are in and the writer is DRAINING. Thus phases alternate where it matters
//! (Brandenburg and Anderson, *Spin-Based Reader-Writer Synchronization for Multiprocessor Real-Time
//! Systems*, 2010): a reader waits for one writer's section, a writer for one batch of readers and for the
//! waiters ahead of it.
//!
//! # Why no wake-up is lost
//!
//! *For the role, and for readers that are kept out*, the proof is that of [`flags`]: the step u1 is the
//! change of the word, p3 the look at it. Every step that lowers the role (unlock, downgrade, a writer
//! that gives up, an upgradable unlock) goes on with u2 to u6.
//!
//! *For the drainer and a reader in a slot*, too: u1 is the clearing of the slot, p3 the scan. A reader that
//! backs out does the same.
//!
//! *For the drainer and a counted reader*, both act on one word: the reader that subtracts the last count
//! from a DRAINING word sees that a writer waits, and looks into the bucket. If the drainer entered its queue
//! before that, it is found there. If later, the bucket's lock orders the subtraction before its look.
//!
//! # What a child has of a drainer
//!
//! A thread that may become the drainer says so in its line beforehand ([`readers::may_drain`]). In the child of a
//! `fork` it does not exist, and what it has drained would be closed for ever: the role goes back to what it was.
//!
//! # What is touched after the unlock
//!
//! After the store, or the subtraction, that ends a section the lock is only an address, unless a waiter in
//! one of its queues proves that it is alive.

pub use super::readers::ReadToken;
pub(crate) use super::rw_word::After;

use super::barrier;
use super::flags::{self, Sleep};
use super::fork;
use super::handoff::TURN_US;
use super::mutex::disarm;
use super::park;
use super::readers::{self, Slot};
use super::rw_word::{DRAINING, HELD, READER, RwWord, UPGRADABLE};
use super::spin::{Budget, back_off, note, spin};
use super::waiters::{self, ASLEEP, AWAKE, Bucket, HANDOFF, Kind, Locked, NOTIFIED, RETRY, Waiter};
use crate::primitive::{self, AtomicU32, Ordering, fence, has_come, is_one_in_64, now_us, probe};
use crate::traced::{LockType, Mode, Ongoing, Traced};
use core::ptr;
use std::time::Instant;

/// The reader-writer lock without data, of 8 bytes.
///
/// Most programs want [`RwLock`](crate::RwLock), which guards data with it. Its methods are those of
/// `lock_api`'s traits.
#[cfg_attr(all(feature = "trace", not(lockword_loom)), repr(C))]
pub struct RawRwLock {
    word: RwWord,
    /// The number by which readers in slots name the lock; 0 before its first bias.
    id: AtomicU32,
    traced: Traced,
}

impl RawRwLock {
    crate::primitive::const_fn! {
        /// A free lock, of which a lock of this type is made.
        pub(crate) fn of(lock_type: LockType) -> Self {
            RawRwLock { word: RwWord::new(), id: AtomicU32::new(0), traced: Traced::new(lock_type) }
        }
    }

    /// A free lock.
    #[cfg(not(lockword_loom))]
    #[inline]
    #[must_use]
    pub const fn new() -> Self {
        RawRwLock::of(LockType::RwLock)
    }

    /// What the lock tells of itself.
    #[cfg(all(feature = "trace", not(lockword_loom)))]
    #[allow(dead_code, reason = "not every instrument asks")]
    pub(crate) fn traced(&self) -> &Traced {
        &self.traced
    }

    /// Reads. A `recursive` reader does not wait for a writer that waits.
    #[inline]
    #[cfg_attr(feature = "trace", track_caller)]
    pub(crate) fn read(&self, recursive: bool) -> ReadToken {
        let attempt = self.traced.attempt(reading(recursive), true);
        let token = match self.read_in_slot() {
            Some(token) => token,
            None => self.read_counted(recursive, attempt.ongoing()),
        };
        attempt.ended(true);
        token
    }

    /// Reads, unless `deadline` passes first.
    #[cfg_attr(feature = "trace", track_caller)]
    pub(crate) fn read_until(
        &self,
        recursive: bool,
        deadline: Option<Instant>,
    ) -> Option<ReadToken> {
        let attempt = self.traced.attempt(reading(recursive), deadline.is_none());
        let token =
            self.read_in_slot().or_else(|| self.try_read_counted(recursive)).or_else(|| {
                attempt.ongoing().waits_for_readers_too(deadline, self);
                read_slow(&self.word, recursive, deadline).then_some(ReadToken::COUNTED)
            });
        attempt.ended(token.is_some());
        token
    }

    /// Reads, if that is possible at once.
    #[inline]
    #[cfg_attr(feature = "trace", track_caller)]
    #[cfg_attr(lockword_loom, allow(dead_code, reason = "no model tries to read"))]
    pub(crate) fn try_read(&self, recursive: bool) -> Option<ReadToken> {
        let attempt = self.traced.attempt(reading(recursive), false);
        let token = self.read_in_slot().or_else(|| self.try_read_counted(recursive));
        attempt.ended(token.is_some());
        token
    }

    /// Reads, if the lock is biased and the thread has a free slot: r1 to r3 of [`readers`].
    #[inline(always)]
    fn read_in_slot(&self) -> Option<ReadToken> {
        if !self.word.is_biased() {
            return None;
        }
        // ORDERING: Relaxed: the number was there before the bias.
        let id = self.id.load(Ordering::Relaxed);
        let slot = readers::publish(id)?;
        barrier::light();
        if !self.word.is_biased() {
            self.back_out(slot);
            return None;
        }
        slot.confirm(id);
        probe!(ReadInSlot);
        Some(ReadToken::in_slot(slot))
    }

    /// A writer may have seen the slot, and wait for it.
    #[cold]
    #[inline(never)]
    fn back_out(&self, slot: &Slot) {
        probe!(BackedOut);
        slot.clear();
        barrier::light();
        if flags::may_have_waiters(self.word.addr()) {
            after_clear(self.word.addr());
        }
    }

    /// Counts itself in: the lock was not biased, or the thread has no free slot.
    #[inline(never)]
    fn read_counted(&self, recursive: bool, attempt: Ongoing<'_>) -> ReadToken {
        if !self.word.try_read_alone() {
            return self.read_beside_others(recursive, attempt);
        }
        self.maybe_bias();
        ReadToken::COUNTED
    }

    /// The same, where others are near the lock.
    #[inline(never)]
    fn read_beside_others(&self, recursive: bool, attempt: Ongoing<'_>) -> ReadToken {
        if let Some(token) = self.adopt_and_read() {
            return token;
        }
        self.word.check_count();
        // Two readers that retry at once make each other's compare-and-swap fail.
        let looked = back_off(self.word.addr());
        if self.word.try_read(recursive) {
            note(self.word.addr(), looked);
            self.maybe_bias();
        } else {
            attempt.waits_for_readers_too(None, self);
            read_slow(&self.word, recursive, None);
        }
        ReadToken::COUNTED
    }

    /// Counts itself in, if that is possible at once.
    #[inline(never)]
    fn try_read_counted(&self, recursive: bool) -> Option<ReadToken> {
        if !self.word.try_read_alone() {
            if let Some(token) = self.adopt_and_read() {
                return Some(token);
            }
            self.word.check_count();
            if !self.word.try_read(recursive) {
                return None;
            }
        }
        self.maybe_bias();
        Some(ReadToken::COUNTED)
    }

    /// Reads in a slot, if this thread gets its line now.
    #[inline(always)]
    fn adopt_and_read(&self) -> Option<ReadToken> {
        if self.word.is_biased() && readers::adopt() { self.read_in_slot() } else { None }
    }

    /// Now and then asks for the bias. By a counted reader.
    #[inline(always)]
    fn maybe_bias(&self) {
        if is_one_in_64() {
            self.ask_for_bias();
        }
    }

    /// Sets the bias if there is none, and it may be set. By a counted reader.
    #[cold]
    #[inline(never)]
    fn ask_for_bias(&self) {
        let seen = self.word.load();
        if seen.is_biased() || !seen.lets_readers_in() || !readers::try_spend() {
            return;
        }
        if self.id.load(Ordering::Relaxed) == 0 {
            let Some(id) = readers::draw_id() else { return };
            // ORDERING: Relaxed: `set_bias` releases it. If another reader was quicker, it is that one's.
            let relaxed = Ordering::Relaxed;
            let _ = self.id.compare_exchange(0, id, relaxed, relaxed);
        }
        self.word.set_bias();
    }

    /// Whether a slot names this lock.
    fn is_named(&self) -> bool {
        let id = self.id.load(Ordering::Relaxed);
        // Who has the role sees the number, if there was a bias. For others this is advice.
        id != 0 && readers::names(id)
    }

    /// Ends reading.
    ///
    /// # Safety
    /// The token is of this lock, and of an acquisition that lasts.
    #[inline]
    pub(crate) unsafe fn end_read(&self, token: ReadToken) {
        self.traced.releases(Mode::Shared);
        let addr = self.word.addr();
        match token.slot {
            Some(slot) => {
                slot.clear();
                barrier::light();
                if flags::may_have_waiters(addr) {
                    after_clear(addr);
                }
            }
            None => end_read_counted(&self.word),
        }
    }

    /// Writes, unless `deadline` passes first. Returns whether the caller holds the lock.
    #[inline]
    #[cfg_attr(feature = "trace", track_caller)]
    pub(crate) fn write_until(&self, deadline: Option<Instant>) -> bool {
        let attempt = self.traced.attempt(Mode::Exclusive, deadline.is_none());
        let acquired = self.word.try_hold() || {
            attempt.ongoing().waits(deadline);
            self.write_slow(deadline, attempt.ongoing())
        };
        attempt.ended(acquired);
        acquired
    }

    /// Writes, if that is possible at once.
    #[inline]
    #[cfg_attr(feature = "trace", track_caller)]
    pub(crate) fn try_write(&self) -> bool {
        let attempt = self.traced.attempt(Mode::Exclusive, false);
        let acquired = self.word.try_hold() || self.try_write_slow();
        attempt.ended(acquired);
        acquired
    }

    /// The lock is not free, or readers may be in by slots.
    #[cold]
    #[inline(never)]
    fn try_write_slow(&self) -> bool {
        let seen = self.word.load();
        // Without the barrier a slot that is seen is a reader, or one that is about to be.
        if seen.role() != 0 || seen.readers() != 0 || !seen.may_have_slots() || self.is_named() {
            return false;
        }
        let _drains = readers::may_drain(&self.word, 0);
        self.word.try_claim(Kind::Writer) && self.try_finish_claim(0)
    }

    /// As [`finish_claim`](Self::finish_claim), without waiting.
    fn try_finish_claim(&self, before: u32) -> bool {
        let seen = self.word.load();
        if seen.role() == HELD {
            return true;
        }
        if seen.owes_barrier() {
            readers::revoke();
        }
        if !(seen.may_have_slots() && self.is_named()) && self.word.try_finish_draining() {
            return true;
        }
        self.give_up(before);
        false
    }

    /// Ends writing. `after` says whether the caller goes on as a reader, as the upgradable one, or not at all.
    ///
    /// # Safety
    /// The caller holds the lock.
    #[inline]
    pub(crate) unsafe fn end_write(&self, after: After) {
        match after {
            After::Free => self.traced.releases(Mode::Exclusive),
            After::Reader => self.traced.changes(Mode::Exclusive, Mode::Shared),
            After::Upgradable => self.traced.changes(Mode::Exclusive, Mode::Upgradable),
        }
        let addr = self.word.addr();
        if flags::may_have_waiters(addr) {
            return end_write_slow(&raw const self.word, addr, after, Word::Held);
        }
        self.word.end_write(after as u32);
        barrier::light();
        if flags::may_have_waiters(addr) {
            end_write_slow(&raw const self.word, addr, after, Word::Released);
        }
    }

    /// Ends writing, and lets in whoever waits.
    ///
    /// # Safety
    /// The caller holds the lock.
    pub(crate) unsafe fn end_write_fair(&self) {
        let addr = self.word.addr();
        if flags::may_have_waiters(addr) {
            fork::settle();
            let bucket = waiters::bucket_of(addr);
            if bucket.may_have_waiters(addr) {
                self.traced.releases(Mode::Exclusive);
                return open(&self.word, bucket, After::Free, true);
            }
        }
        // SAFETY: the caller's promise.
        unsafe { self.end_write(After::Free) }
    }

    /// Reads, as the one that may go over to writing, unless `deadline` passes first.
    #[cfg_attr(feature = "trace", track_caller)]
    pub(crate) fn upgradable_until(&self, deadline: Option<Instant>) -> bool {
        let attempt = self.traced.attempt(Mode::Upgradable, deadline.is_none());
        let acquired = self.word.try_claim(Kind::Upgradable) || {
            attempt.ongoing().waits_for_readers_too(deadline, self);
            claim_slow(&self.word, Kind::Upgradable, deadline)
        };
        attempt.ended(acquired);
        acquired
    }

    /// The same, if that is possible at once.
    #[cfg_attr(feature = "trace", track_caller)]
    pub(crate) fn try_upgradable(&self) -> bool {
        let attempt = self.traced.attempt(Mode::Upgradable, false);
        let acquired = self.word.try_claim(Kind::Upgradable);
        attempt.ended(acquired);
        acquired
    }

    /// Ends upgradable reading.
    ///
    /// # Safety
    /// The caller is the upgradable reader.
    pub(crate) unsafe fn end_upgradable(&self, fair: bool) {
        self.traced.releases(Mode::Upgradable);
        let addr = self.word.addr();
        if fair && flags::may_have_waiters(addr) && hand_over_role(&self.word) {
            return;
        }
        self.word.end_upgradable();
        after_lowering(addr);
    }

    /// The upgradable reader writes, unless `deadline` passes before the other readers have left: then
    /// it is the upgradable reader as before.
    ///
    /// # Safety
    /// The caller is the upgradable reader.
    #[cfg_attr(feature = "trace", track_caller)]
    pub(crate) unsafe fn upgrade_until(&self, deadline: Option<Instant>) -> bool {
        let attempt = self.traced.attempt(Mode::Upgrade, false);
        let _drains = readers::may_drain(&self.word, UPGRADABLE);
        self.word.upgrade();
        let acquired = self.finish_claim(UPGRADABLE, deadline, attempt.ongoing());
        attempt.ended(acquired);
        acquired
    }

    /// The upgradable reader writes, if there is no other reader.
    ///
    /// # Safety
    /// The caller is the upgradable reader.
    #[cfg_attr(feature = "trace", track_caller)]
    pub(crate) unsafe fn try_upgrade(&self) -> bool {
        let attempt = self.traced.attempt(Mode::Upgrade, false);
        let acquired = self.word.try_upgrade() || self.try_upgrade_slow();
        attempt.ended(acquired);
        acquired
    }

    /// There are readers, or they may be in by slots.
    fn try_upgrade_slow(&self) -> bool {
        let seen = self.word.load();
        if seen.readers() != 0 || !seen.may_have_slots() || self.is_named() {
            return false;
        }
        let _drains = readers::may_drain(&self.word, UPGRADABLE);
        self.word.upgrade();
        self.try_finish_claim(UPGRADABLE)
    }

    /// The upgradable reader becomes an ordinary one.
    ///
    /// # Safety
    /// The caller is the upgradable reader.
    pub(crate) unsafe fn downgrade_upgradable(&self) -> ReadToken {
        self.traced.changes(Mode::Upgradable, Mode::Shared);
        self.word.downgrade_upgradable();
        after_lowering(self.word.addr());
        ReadToken::COUNTED
    }

    /// The writer becomes a reader.
    ///
    /// # Safety
    /// The caller holds the lock.
    #[inline]
    pub(crate) unsafe fn downgrade(&self) -> ReadToken {
        // SAFETY: the caller's promise.
        unsafe { self.end_write(After::Reader) };
        ReadToken::COUNTED
    }

    /// Whether somebody held the lock a moment ago, in any way.
    pub(crate) fn is_locked(&self) -> bool {
        let seen = self.word.load();
        seen.role() != 0 || seen.readers() != 0 || seen.may_have_slots() && self.is_named()
    }

    /// Whether somebody held the lock alone a moment ago.
    pub(crate) fn is_held(&self) -> bool {
        self.word.load().role() == HELD
    }

    #[cold]
    #[inline(never)]
    fn write_slow(&self, deadline: Option<Instant>, attempt: Ongoing<'_>) -> bool {
        let _drains = readers::may_drain(&self.word, 0);
        claim_slow(&self.word, Kind::Writer, deadline) && self.finish_claim(0, deadline, attempt)
    }

    /// The caller has the role as a writer: waits for the readers to leave, unless `deadline` passes first.
    /// Then it has the role that it had `before`. Returns whether it holds the lock.
    fn finish_claim(&self, before: u32, deadline: Option<Instant>, attempt: Ongoing<'_>) -> bool {
        if self.word.load().role() == HELD {
            return true;
        }
        attempt.drains(deadline);
        if self.drain(deadline) {
            return true;
        }
        self.give_up(before);
        false
    }

    /// Goes back from DRAINING to the role that the caller had `before`. It has run the barrier, if it owed it.
    fn give_up(&self, before: u32) {
        probe!(GaveUp);
        // It was in the way of readers, and of waiters for the role.
        self.word.stop_draining(before);
        after_lowering(self.word.addr());
    }

    /// Waits for the readers to leave. Returns whether the caller holds the lock; else it is still DRAINING.
    fn drain(&self, deadline: Option<Instant>) -> bool {
        fork::settle();
        let addr = self.word.addr();
        let bucket = waiters::bucket_of(addr);
        let seen = self.word.load();
        let has_slots = seen.may_have_slots();
        if seen.owes_barrier() {
            readers::revoke();
        }
        // w3 and w4 of `readers`.
        let drained = || {
            !(has_slots && (self.word.load().readers() != 0 || self.is_named()))
                && self.word.try_finish_draining()
        };
        if spin(&bucket.spin, addr, Budget::Woken, deadline, drained) {
            return true;
        }
        if deadline.is_some_and(primitive::is_past) {
            return false;
        }
        fork::watch();
        let waiter = Waiter::of_rwlock(Kind::Drainer, &self.word);
        bucket.lock().push(&waiter);
        let flag = flags::flag(flags::index(addr));
        let mut armed = None;
        let drained = loop {
            {
                let _locked = bucket.lock();
                waiter.state.store(ASLEEP, Ordering::Relaxed);
            }
            // ORDERING: SeqCst, between the place in the queue and the looks at the flag, the slots and the
            // word. The partner is the fence of `after_clear`.
            fence(Ordering::SeqCst);
            let sleep = match armed.take() {
                // A counted reader sees in the word that this thread waits.
                _ if !has_slots || flag.is_ready() => Sleep::Sound,
                Some(sleep) => sleep,
                None => {
                    armed = Some(flag.arm());
                    continue;
                }
            };
            if drained() {
                break true;
            }
            if deadline.is_some_and(primitive::is_past) {
                break false;
            }
            bucket.parked_us.store(now_us(), Ordering::Relaxed);
            probe!(Drained);
            if waiter.sleep(sleep.until(deadline)).is_some()
                && spin(&bucket.spin, addr, Budget::Woken, deadline, drained)
            {
                break true;
            }
        };
        bucket.lock().remove(&waiter);
        drained
    }
}

/// Whether a writer that waits keeps readers out, and how many are in.
#[cfg(all(feature = "trace", not(lockword_loom)))]
impl crate::traced::LookedAt for RawRwLock {
    fn look(&self) -> Option<usize> {
        let seen = self.word.load();
        let id = self.id.load(Ordering::Relaxed);
        let in_slots = if seen.may_have_slots() && id != 0 { readers::count(id) } else { 0 };
        (seen.role() == DRAINING).then_some(seen.readers() as usize + in_slots)
    }
}

/// How a reader wants the lock.
#[inline(always)]
fn reading(recursive: bool) -> Mode {
    if recursive { Mode::Recursive } else { Mode::Shared }
}

#[cfg(not(lockword_loom))]
impl Default for RawRwLock {
    fn default() -> Self {
        RawRwLock::new()
    }
}

impl core::fmt::Debug for RawRwLock {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let mut text = f.debug_struct("RawRwLock");
        text.field("locked", &self.is_locked());
        text.field("locked_exclusive", &self.is_held()).finish()
    }
}

/// Waits for reading.
#[cold]
#[inline(never)]
fn read_slow(word: &RwWord, recursive: bool, deadline: Option<Instant>) -> bool {
    acquire(word, Kind::Reader, deadline, || word.try_read(recursive))
}

/// Waits for the role.
#[cold]
#[inline(never)]
fn claim_slow(word: &RwWord, kind: Kind, deadline: Option<Instant>) -> bool {
    acquire(word, kind, deadline, || word.try_claim(kind))
}

/// How a wait in a queue has ended.
enum Wait {
    /// With what was waited for.
    Acquired,
    /// The deadline has passed.
    GaveUp,
    /// Taken out of the queue, to look at the word.
    Out,
}

/// Spins and waits until `attempt` succeeds, or the caller is given what it waits for; or until `deadline`.
fn acquire(
    word: &RwWord,
    kind: Kind,
    deadline: Option<Instant>,
    attempt: impl Fn() -> bool,
) -> bool {
    fork::settle();
    let bucket = waiters::bucket_of(word.addr());
    if spin(&bucket.spin, word.addr(), Budget::Newcomer, deadline, &attempt) {
        return true;
    }
    if deadline.is_some_and(primitive::is_past) {
        return false;
    }
    fork::watch();
    let waiter = Waiter::of_rwlock(kind, word);
    waiter.turn_us.set(now_us().wrapping_add(TURN_US));
    loop {
        bucket.lock().push(&waiter);
        match wait_in_queue(&waiter, bucket, word, deadline, &attempt) {
            Wait::Acquired => return true,
            Wait::GaveUp => return false,
            Wait::Out => {
                // Out of the queue, and nobody relies on it: it may give up after any look.
                if spin(&bucket.spin, word.addr(), Budget::Woken, deadline, &attempt) {
                    return true;
                }
                if deadline.is_some_and(primitive::is_past) {
                    return false;
                }
                waiter.state.store(AWAKE, Ordering::Relaxed);
                waiter.woken.set(true);
            }
        }
    }
}

/// Waits in the queue in which `waiter` is. It has left the queue when this returns.
fn wait_in_queue(
    waiter: &Waiter,
    bucket: &Bucket,
    word: &RwWord,
    deadline: Option<Instant>,
    attempt: &impl Fn() -> bool,
) -> Wait {
    let flag = flags::flag(flags::index(word.addr()));
    let mut armed = None;
    loop {
        let Some(mut locked) = waiter.lock_bucket() else {
            return match final_message(waiter) {
                HANDOFF => Wait::Acquired,
                _ => Wait::Out,
            };
        };
        // In the queue: RETRY, the only message there may be, is taken.
        waiter.state.store(AWAKE, Ordering::Relaxed);
        // ORDERING: SeqCst, between the place in the queue and the looks at the flag and at the word. The
        // partners are the fences of whoever lowers the role, and of `maybe_disarm`.
        fence(Ordering::SeqCst);
        let sleep = match armed.take() {
            _ if flag.is_ready() => Sleep::Sound,
            Some(sleep) => sleep,
            None => {
                drop(locked);
                armed = Some(flag.arm());
                continue;
            }
        };
        // p3 of the proof in `flags`.
        let acquired = attempt();
        if acquired || deadline.is_some_and(primitive::is_past) {
            probe!(TimedOut, !acquired);
            locked.leave(waiter);
            return if acquired { Wait::Acquired } else { Wait::GaveUp };
        }
        waiter.state.store(ASLEEP, Ordering::Relaxed);
        drop(locked);
        bucket.parked_us.store(now_us(), Ordering::Relaxed);

        match waiter.sleep(sleep.until(deadline)) {
            Some(HANDOFF) => return Wait::Acquired,
            Some(NOTIFIED) => return Wait::Out,
            Some(_) => {
                probe!(Parked);
                let mut handed = false;
                let acquired = spin(&bucket.spin, word.addr(), Budget::Woken, deadline, || {
                    handed = waiter.message() == Some(HANDOFF);
                    handed || attempt()
                });
                if acquired {
                    if !handed {
                        bucket.lock().leave(waiter);
                    }
                    return Wait::Acquired;
                }
            }
            None => {}
        }
    }
}

/// The final message of a waiter that was taken out of its queue. It is there, or on its way.
fn final_message(waiter: &Waiter) -> u32 {
    loop {
        for before in [RETRY, AWAKE] {
            // ORDERING: Relaxed: if both fail the message is there, and `sleep` reads it.
            let (relaxed, state) = (Ordering::Relaxed, &waiter.state);
            let _ = state.compare_exchange(before, ASLEEP, relaxed, relaxed);
        }
        if let Some(message @ (HANDOFF | NOTIFIED)) = waiter.sleep(None) {
            return message;
        }
    }
}

/// What the caller of [`end_write_slow`] has done to the word.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Word {
    /// Nothing: the caller still holds the lock.
    Held,
    /// Changed it: the pointer may dangle.
    Released,
}

/// Ends writing where somebody may wait. `word` may be read only if it is [`Word::Held`].
#[cold]
#[inline(never)]
fn end_write_slow(word: *const RwWord, addr: usize, after: After, state: Word) {
    fork::settle();
    let bucket = waiters::bucket_of(addr);
    if state == Word::Held {
        // SAFETY: the caller holds the lock, so the lock exists.
        let word = unsafe { &*word };
        if bucket.may_have_waiters(addr) {
            return open(word, bucket, after, false);
        }
        word.end_write(after as u32);
    }
    look_for_waiters(addr, bucket);
}

/// The role at `addr` was lowered, by a step that keeps no lock alive: wakes those who wait for that.
fn after_lowering(addr: usize) {
    barrier::light();
    if flags::may_have_waiters(addr) {
        fork::settle();
        look_for_waiters(addr, waiters::bucket_of(addr));
    }
}

/// u4 to u6 of the proof in [`flags`].
fn look_for_waiters(addr: usize, bucket: &Bucket) {
    // ORDERING: SeqCst, u4 of the proof in `flags`: between the change of the word and the look at who waits.
    // The partner is the fence of `wait_in_queue`.
    fence(Ordering::SeqCst);
    if bucket.may_have_waiters(addr) {
        wake(addr, bucket);
    } else if !bucket.has_waiters() && is_one_in_64() {
        disarm(addr, bucket);
    }
}

/// The holder of `word` goes over to `after`, and lets in, or wakes, those who wait.
#[inline(never)]
fn open(word: &RwWord, bucket: &Bucket, after: After, fair: bool) {
    let addr = word.addr();
    let mut locked = bucket.lock();
    let mut to = after as u32;
    let readers = locked.take_readers(addr);
    // A writer that goes over to reading keeps no reader out any more.
    let let_in = fair || after != After::Free || readers.are_due;
    if let_in {
        probe!(HandedOff, readers.count != 0);
        to += READER * readers.count;
    }
    let mut woken = None;
    let first = locked.first(addr, Kind::Writer);
    match first {
        Some(first) if after != After::Upgradable && (fair || is_due(first)) => {
            probe!(HandedOff);
            to |= match (first.kind.get(), to) {
                (Kind::Upgradable, _) => UPGRADABLE,
                (_, 0) => HELD,
                _ => DRAINING,
            };
            locked.leave(first);
            word.end_write(to);
            // SAFETY: the waiter was taken out above, and is alive until this message.
            woken = unsafe { Waiter::send(first, HANDOFF) }.1;
        }
        // Until the lock of the bucket is free, the waiters in it, and in `readers`, prove that the word is
        // alive; without any it is not touched after this.
        first => {
            word.end_write(to);
            if after != After::Upgradable {
                woken = first.and_then(|first| locked.wake_in_queue(first));
            }
        }
    }
    locked.unlock_and_wake(woken);
    readers.send(if let_in { HANDOFF } else { NOTIFIED });
}

/// The role at `addr` was lowered, and the lock may not exist any more: wakes those who wait for that.
#[inline(never)]
fn wake(addr: usize, bucket: &Bucket) {
    let mut locked = bucket.lock();
    let readers = locked.take_readers(addr);
    let mut woken = None;
    if let Some(first) = locked.first(addr, Kind::Writer) {
        // SAFETY: the waiter is in the queue, so its lock is alive.
        let word = unsafe { &*first.rw_word };
        // ORDERING: Acquire inside: others may have had the role since. If it fails, whoever has the role now
        // gives it up after this wake-up, or finds the waiter.
        woken = if is_due(first) && word.try_claim(first.kind.get()) {
            probe!(HandedOff);
            locked.leave(first);
            // SAFETY: the waiter was taken out above, and is alive until this message.
            unsafe { Waiter::send(first, HANDOFF) }.1
        } else {
            locked.wake_in_queue(first)
        };
    }
    locked.unlock_and_wake(woken);
    readers.send(NOTIFIED);
}

/// The upgradable reader gives the role to the first waiter, if there is one.
#[cold]
#[inline(never)]
fn hand_over_role(word: &RwWord) -> bool {
    fork::settle();
    let addr = word.addr();
    let mut locked = waiters::bucket_of(addr).lock();
    let Some(first) = locked.first(addr, Kind::Writer) else { return false };
    probe!(HandedOff);
    locked.leave(first);
    if first.kind.get() == Kind::Writer {
        word.upgrade();
    }
    // SAFETY: the waiter was taken out above, and is alive until this message.
    let (_, woken) = unsafe { Waiter::send(first, HANDOFF) };
    locked.unlock_and_wake(woken);
    true
}

/// Ends reading by the count.
#[inline(never)]
fn end_read_counted(word: &RwWord) {
    let addr = word.addr();
    if word.end_read() {
        wake_drainer(addr);
    }
}

/// A slot that named the lock at `addr` was cleared, and somebody may wait for that. The lock may not exist any
/// more.
#[cold]
#[inline(never)]
fn after_clear(addr: usize) {
    fork::settle();
    let bucket = waiters::bucket_of(addr);
    // ORDERING: SeqCst, u4 of the proof in `flags`, with the clearing for u1. The partner is the fence of
    // `drain`.
    fence(Ordering::SeqCst);
    if bucket.may_have_waiters(addr) {
        wake_drainer(addr);
    } else if !bucket.has_waiters() && is_one_in_64() {
        disarm(addr, bucket);
    }
}

/// A reader has left the lock at `addr`, which may not exist any more: wakes the writer that waits for that.
#[cold]
#[inline(never)]
fn wake_drainer(addr: usize) {
    fork::settle();
    let mut locked = waiters::bucket_of(addr).lock();
    let woken = locked.first(addr, Kind::Drainer).and_then(|drainer| locked.wake_in_queue(drainer));
    locked.unlock_and_wake(woken);
}

/// Whether the first waiter for the role is given it.
fn is_due(first: &Waiter) -> bool {
    first.woken.get() && has_come(first.turn_us.get(), 2 * TURN_US)
}

/// Readers that were taken out of their queue, and have not got their final message.
struct Readers {
    first: *const Waiter,
    count: u32,
    /// Whether one of them has waited for so long that they are let in.
    are_due: bool,
}

impl Readers {
    /// Sends them their final message. Not under the lock of the bucket, since it takes long.
    fn send(self, message: u32) {
        let mut next = self.first;
        if next.is_null() {
            return;
        }
        park::wake_all(core::iter::from_fn(|| {
            loop {
                // SAFETY: null, or taken out and without its final message: alive.
                let waiter = unsafe { next.as_ref() }?;
                // Before the message, after which the waiter may be gone.
                next = waiter.next();
                // SAFETY: alive until this message.
                if let (_, Some(address)) = unsafe { Waiter::send(waiter, message) } {
                    return Some(address);
                }
            }
        }));
    }
}

impl Locked<'_> {
    /// Takes a waiter out of its queue. The next one has become the first.
    fn leave(&mut self, waiter: &Waiter) {
        if let Some(next) = self.remove(waiter)
            && next.kind.get() != Kind::Reader
        {
            next.turn_us.set(now_us().wrapping_add(TURN_US));
        }
    }

    /// Takes all readers of the lock at `addr` out of their queue.
    fn take_readers(&mut self, addr: usize) -> Readers {
        let mut readers = Readers { first: ptr::null(), count: 0, are_due: false };
        let mut last = None::<&Waiter>;
        while let Some(reader) = self.first(addr, Kind::Reader) {
            self.remove(reader);
            readers.count += 1;
            readers.are_due |= is_due(reader);
            reader.chain(ptr::null());
            match last.replace(reader) {
                Some(last) => last.chain(reader),
                None => readers.first = reader,
            }
        }
        readers
    }

    /// Wakes a waiter that stays in its queue, unless it is awake. Returns the address to wake, which is for
    /// after the bucket's lock.
    #[must_use]
    fn wake_in_queue(&mut self, waiter: &Waiter) -> Option<*const AtomicU32> {
        if !waiter.is_asleep() {
            return None;
        }
        waiter.woken.set(true);
        // SAFETY: in the queue, and no final message.
        unsafe { Waiter::send(waiter, RETRY) }.1
    }
}

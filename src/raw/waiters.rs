//! The waiter table: static buckets that hold the queues of waiting threads.
//!
//! A [`Bucket`] belongs to the objects whose addresses have one hash, and lists the *queues* in it: the
//! first waiter of an object heads that object's own doubly linked FIFO and knows its tail. So nobody
//! walks past the sleepers of another lock, and a waiter leaves from any place in a few steps. A
//! [`Waiter`] is a node on the stack of its thread. Nothing here allocates. This file knows where waiters
//! are; [`handoff`](super::handoff) adds to [`Locked`] what decides which waiter is woken or gets the lock.
//!
//! Everything but what is atomic is read and written under the lock of the bucket, a futex mutex of
//! three states (Drepper, *Futexes Are Tricky*, mutex 2). Nothing under it allocates, sleeps, runs
//! `heavy()` or calls code of the user. It is held for some dozens of instructions.
//!
//! # The state of a waiter
//!
//! | state | the thread | set by |
//! |---|---|---|
//! | AWAKE | runs, and looks at the state now and then | itself |
//! | ASLEEP | sleeps on the state, or is about to | itself; for a lock under the bucket's lock, after it saw the word held |
//! | DESIGNATED, RETRY | is woken; is still in the queue, and will look at the word | an unlocker, under the bucket's lock |
//! | HANDOFF | is out of the queue, and holds the lock | the holder, under the bucket's lock |
//! | NOTIFIED | is out of the queue: of the Condvar, or of the readers, who look at the word again | who took it out |
//!
//! HANDOFF and NOTIFIED are final: after the store the waiter may be gone, and the writer calls
//! [`park::wake`] with the plain address at most. A waiter of a lock that is in the queue and not
//! ASLEEP will take the lock of the bucket and look at the word before it sleeps or gives up: who frees
//! the word and then sees such a waiter, under the bucket's lock, need not wake another one.
//!
//! # Why touching a waiter is sound
//!
//! A thread does not leave the stack frame of its node while the node is in a queue, and leaves the
//! queue under the bucket's lock only: by itself, or taken out by another thread, which then owes it
//! a final message. The word of a waiter's lock is alive as long as the waiter is in the queue.

use super::flags::{self, BITS};
use super::handoff::Handoff;
use super::park;
use super::rw_word::RwWord;
use super::spin::SpinStatistics;
#[cfg(not(lockword_loom))]
use crate::primitive::spin_loop;
use crate::primitive::{AtomicU32, AtomicUsize, NodeCell, Ordering};
use crate::traced::Moment;
use crate::word::LockWord;
use core::ptr;
use crossbeam_utils::CachePadded;
use std::time::Instant;

/// What a thread waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// To hold a mutex.
    Exclusive,
    /// To hold a reader-writer lock alone.
    Writer,
    /// To read, and to be the one that may go over to writing.
    Upgradable,
    /// To read.
    Reader,
    /// That the readers leave, as the writer that has the role: at most one for a lock.
    Drainer,
    /// A notification of a Condvar.
    Condvar,
}

impl Kind {
    /// Waiters of one object are in one queue if their kinds are of one class. Those of a mutex and of a
    /// reader-writer lock never are: who has released a lock, and looks for its waiters, may find a new lock
    /// at the address.
    fn class(self) -> u8 {
        match self {
            Kind::Exclusive => 0,
            Kind::Writer | Kind::Upgradable => 1,
            Kind::Reader => 2,
            Kind::Drainer => 3,
            Kind::Condvar => 4,
        }
    }
}

/// The thread runs.
pub(super) const AWAKE: u32 = 0;
/// The thread sleeps.
pub(super) const ASLEEP: u32 = 1;
/// The message: look at the word, and you are the designated waker (see [`handoff`](super::handoff)).
pub(super) const DESIGNATED: u32 = 2;
/// The message: look at the word.
pub(super) const RETRY: u32 = 3;
/// The message: the lock is yours.
pub(super) const HANDOFF: u32 = 4;
/// The message: you are notified.
pub(super) const NOTIFIED: u32 = 5;

/// How often a thread looks at the lock of a bucket before it sleeps.
#[cfg(not(lockword_loom))]
const BUCKET_LOOKS: u32 = 100;

/// Not in a queue.
const NOWHERE: u32 = u32::MAX;

/// A waiting thread: a node on its stack, which stays in place while it is in a queue.
///
/// On a cache line of its own, since the thread looks at the state while it spins.
#[repr(align(64))]
pub(super) struct Waiter {
    pub(super) state: AtomicU32,
    /// The number of the bucket whose queue it is in, or [`NOWHERE`]. Written under that bucket's lock.
    bucket: AtomicU32,
    pub(super) kind: NodeCell<Kind>,
    /// The address of what it waits for: of a word, or of a Condvar.
    addr: NodeCell<usize>,
    /// The mutex that it waits for, or that it locks again after the notification.
    pub(super) word: *const LockWord,
    /// The reader-writer lock that it waits for.
    pub(super) rw_word: *const RwWord,
    /// Whether it has been woken, and is in the queue still.
    pub(super) woken: NodeCell<bool>,
    /// When it may be handed the lock, if it is the first of its queue.
    pub(super) turn_us: NodeCell<u32>,
    next: NodeCell<*const Waiter>,
    previous: NodeCell<*const Waiter>,
    /// In the first waiter of a queue: the last one.
    tail: NodeCell<*const Waiter>,
    /// In the first waiter of a queue: the first ones of the neighbouring queues.
    next_queue: NodeCell<*const Waiter>,
    previous_queue: NodeCell<*const Waiter>,
    /// When it was redirected.
    pub(super) moved: Moment,
}

impl Waiter {
    /// A waiter of a lock.
    pub(super) fn new(word: &LockWord) -> Self {
        Waiter::for_object(Kind::Exclusive, word.addr(), word)
    }

    /// A waiter of the Condvar at `addr`, which unlocks the lock at `word` and will lock it again.
    pub(super) fn of_condvar(addr: usize, word: &LockWord) -> Self {
        Waiter::for_object(Kind::Condvar, addr, word)
    }

    /// A waiter of a reader-writer lock.
    pub(super) fn of_rwlock(kind: Kind, word: &RwWord) -> Self {
        let mut waiter = Waiter::for_object(kind, word.addr(), ptr::null());
        waiter.rw_word = word;
        waiter
    }

    fn for_object(kind: Kind, addr: usize, word: *const LockWord) -> Self {
        Waiter {
            state: AtomicU32::new(AWAKE),
            bucket: AtomicU32::new(NOWHERE),
            kind: NodeCell::new(kind),
            addr: NodeCell::new(addr),
            word,
            rw_word: ptr::null(),
            woken: NodeCell::new(false),
            turn_us: NodeCell::new(0),
            next: NodeCell::new(ptr::null()),
            previous: NodeCell::new(ptr::null()),
            tail: NodeCell::new(ptr::null()),
            next_queue: NodeCell::new(ptr::null()),
            previous_queue: NodeCell::new(ptr::null()),
            moved: Moment::new(),
        }
    }

    /// The message that the thread has, if any: by the thread itself.
    pub(super) fn message(&self) -> Option<u32> {
        // ORDERING: Acquire pairs with the Release of the message: a thread that was handed the lock
        // sees what the holder did, and one that was notified may leave its stack frame.
        let state = self.state.load(Ordering::Acquire);
        (state > ASLEEP).then_some(state)
    }

    /// Sleeps until there is a message, or until `deadline`: `None`. The state is ASLEEP, or a message.
    pub(super) fn sleep(&self, deadline: Option<Instant>) -> Option<u32> {
        loop {
            if let Some(message) = self.message() {
                return Some(message);
            }
            if deadline.is_some_and(crate::primitive::is_past) {
                return None;
            }
            park::wait(&self.state, ASLEEP, deadline);
        }
    }

    /// Sends a message. Returns the state before it, and the address to wake if the thread may sleep.
    /// After HANDOFF and NOTIFIED the waiter may be gone, so that no reference to it may be in use.
    ///
    /// # Safety
    /// The waiter is alive until its final message.
    pub(super) unsafe fn send(
        this: *const Waiter,
        message: u32,
    ) -> (u32, Option<*const AtomicU32>) {
        // SAFETY: the caller's promise.
        let address = unsafe { &raw const (*this).state };
        // ORDERING: Release pairs with the Acquire in `message`.
        // SAFETY: alive up to this access.
        let before = unsafe { (*address).swap(message, Ordering::Release) };
        // If there was a message already, its sender may not have woken the thread yet.
        (before, (before != AWAKE).then_some(address))
    }

    /// Whether the thread of a waiter in a queue sleeps. Under the bucket's lock.
    pub(super) fn is_asleep(&self) -> bool {
        // ORDERING: Relaxed: for a lock it changes under the bucket's lock only, but for a message
        // that the thread takes.
        self.state.load(Ordering::Relaxed) == ASLEEP
    }

    /// The bucket in whose queue the waiter is, locked; `None` if it was taken out.
    pub(super) fn lock_bucket(&self) -> Option<Locked<'static>> {
        loop {
            // ORDERING: Relaxed: looked at again under the lock.
            let index = self.bucket.load(Ordering::Relaxed);
            if index == NOWHERE {
                return None;
            }
            let locked = bucket(index as usize).lock();
            if self.bucket.load(Ordering::Relaxed) == index {
                return Some(locked);
            }
        }
    }

    /// From now on it waits for what is at `addr`. It is in no queue.
    pub(super) fn redirect(&self, addr: usize, kind: Kind) {
        self.addr.set(addr);
        self.kind.set(kind);
        self.moved.set_now();
    }

    /// The next of a chain of waiters that were taken out.
    pub(super) fn next(&self) -> *const Waiter {
        self.next.get()
    }

    /// Chains a waiter that was taken out ahead of `next`.
    pub(super) fn chain(&self, next: *const Waiter) {
        self.next.set(next);
    }
}

/// In the models: whoever touches the node afterwards races with this.
#[cfg(lockword_loom)]
impl Drop for Waiter {
    fn drop(&mut self) {
        assert_eq!(self.bucket.load(Ordering::Relaxed), NOWHERE, "left while in a queue");
        self.state.with_mut(|state| *state = AWAKE);
        self.bucket.with_mut(|bucket| *bucket = NOWHERE);
        self.kind.set(Kind::Exclusive);
        self.addr.set(0);
        self.woken.set(false);
        self.turn_us.set(0);
        for link in [&self.next, &self.previous, &self.tail, &self.next_queue, &self.previous_queue]
        {
            link.set(ptr::null());
        }
    }
}

/// What the waiters near one address have in common.
pub(super) struct Bucket {
    /// 0: free; 1: locked; 2: locked, and somebody may sleep on it.
    lock: AtomicU32,
    /// The first waiter of the first queue.
    queues: NodeCell<*const Waiter>,
    /// Which locks have waiters: a bit for each, by a second hash. Written under the bucket's lock.
    waiting: AtomicUsize,
    /// When somebody last parked here.
    pub(super) parked_us: AtomicU32,
    /// Who comes next.
    pub(super) handoff: Handoff,
    /// What has been learnt of spinning.
    pub(super) spin: SpinStatistics,
}

// SAFETY: the cells and what they point to are read and written under the bucket's lock only.
unsafe impl Sync for Bucket {}
// SAFETY: as above.
#[cfg(lockword_loom)]
unsafe impl Send for Bucket {}

#[cfg(not(lockword_loom))]
static BUCKETS: [CachePadded<Bucket>; 1 << BITS] =
    [const { CachePadded::new(Bucket::new()) }; 1 << BITS];

#[cfg(lockword_loom)]
crate::primitive::lazy_static! {
    static ref BUCKETS: [CachePadded<Bucket>; 1 << BITS] =
        core::array::from_fn(|_| CachePadded::new(Bucket::new()));
}

/// The bucket of number `index`.
pub(super) fn bucket(index: usize) -> &'static Bucket {
    &BUCKETS[index]
}

/// The bucket of what is at `addr`.
pub(super) fn bucket_of(addr: usize) -> &'static Bucket {
    bucket(flags::index(addr))
}

/// Locks the buckets of two addresses, in the order of their numbers.
pub(super) fn lock_two(a: usize, b: usize) -> (Locked<'static>, Option<Locked<'static>>) {
    let (i, j) = (flags::index(a), flags::index(b));
    if i == j {
        return (bucket(i).lock(), None);
    }
    let first = bucket(i.min(j)).lock();
    let second = bucket(i.max(j)).lock();
    if i < j { (first, Some(second)) } else { (second, Some(first)) }
}

/// The bit of the lock at `addr` in [`Bucket::waiting`].
fn bit(addr: usize) -> usize {
    if cfg!(lockword_loom) {
        // Addresses differ from one execution to the next.
        return 1;
    }
    // Below the bits that choose the bucket.
    1 << (flags::hash(addr) >> (usize::BITS - 16) & (usize::BITS as usize - 1))
}

impl Bucket {
    crate::primitive::const_fn! {
        fn new() -> Self {
            Bucket {
                lock: AtomicU32::new(0),
                queues: NodeCell::new(ptr::null()),
                waiting: AtomicUsize::new(0),
                parked_us: AtomicU32::new(0),
                handoff: Handoff::new(),
                spin: SpinStatistics::new(),
            }
        }
    }

    /// Whether anybody may wait for the lock at `addr`: after a SeqCst fence, u5 of the proof in
    /// [`flags`]; else advice.
    #[inline]
    pub(super) fn may_have_waiters(&self, addr: usize) -> bool {
        // ORDERING: Relaxed; the fences order it.
        self.waiting.load(Ordering::Relaxed) & bit(addr) != 0
    }

    /// Whether anybody waits for any lock here: as above, d2 of the proof.
    #[inline]
    pub(super) fn has_waiters(&self) -> bool {
        // ORDERING: Relaxed; the fences order it.
        self.waiting.load(Ordering::Relaxed) != 0
    }

    /// Whether nobody waits here, and nobody has a role.
    #[cfg(all(test, lockword_loom))]
    pub(super) fn is_idle(&self) -> bool {
        let locked = self.lock();
        locked.bucket.queues.get().is_null() && !self.has_waiters() && self.handoff.is_unclaimed()
    }

    /// Locks the bucket.
    pub(super) fn lock(&self) -> Locked<'_> {
        // ORDERING: Acquire pairs with the Release of `drop`.
        if self.lock.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
            self.lock_contended();
        }
        Locked { bucket: self }
    }

    #[cold]
    fn lock_contended(&self) {
        #[cfg(not(lockword_loom))]
        for _ in 0..BUCKET_LOOKS {
            if self.lock.load(Ordering::Relaxed) == 0
                // ORDERING: as in `lock`.
                && self.lock.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok()
            {
                return;
            }
            spin_loop();
        }
        // ORDERING: as in `lock`.
        while self.lock.swap(2, Ordering::Acquire) != 0 {
            park::wait(&self.lock, 2, None);
        }
    }
}

/// A bucket whose lock this thread holds.
pub(super) struct Locked<'a> {
    pub(super) bucket: &'a Bucket,
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        // ORDERING: Release pairs with the Acquire of whoever locks the bucket next.
        if self.bucket.lock.swap(0, Ordering::Release) == 2 {
            park::wake(&raw const self.bucket.lock);
        }
    }
}

impl<'a> Locked<'a> {
    /// Unlocks the bucket, and then wakes the thread that sleeps at `address`, if there is one.
    pub(super) fn unlock_and_wake(self, address: Option<*const AtomicU32>) {
        drop(self);
        if let Some(address) = address {
            park::wake(address);
        }
    }

    /// The first waiter of this class of the lock, or of the Condvar, at `addr`.
    pub(super) fn first(&self, addr: usize, kind: Kind) -> Option<&'a Waiter> {
        let mut head = self.bucket.queues.get();
        loop {
            // SAFETY: null, or in a queue of this bucket, whose lock is held.
            let first = unsafe { head.as_ref() }?;
            if first.addr.get() == addr && first.kind.get().class() == kind.class() {
                return Some(first);
            }
            head = first.next_queue.get();
        }
    }

    /// Whether `waiter` is the first of its queue.
    pub(super) fn is_first(&self, waiter: &Waiter) -> bool {
        waiter.previous.get().is_null()
    }

    /// Puts a waiter at the end of the queue of what it waits for.
    pub(super) fn push(&mut self, waiter: &Waiter) {
        let this = ptr::from_ref(waiter);
        let (addr, kind) = (waiter.addr.get(), waiter.kind.get());
        waiter.bucket.store(flags::index(addr) as u32, Ordering::Relaxed);
        waiter.next.set(ptr::null());
        if let Some(first) = self.first(addr, kind) {
            // SAFETY: in this queue.
            let last = unsafe { &*first.tail.get() };
            last.next.set(this);
            waiter.previous.set(last);
            first.tail.set(this);
        } else {
            waiter.previous.set(ptr::null());
            self.insert_queue(waiter, this);
        }
        if kind != Kind::Condvar {
            // ORDERING: Relaxed: p1 of the proof in `flags`; the caller's fence follows.
            let waiting = self.bucket.waiting.load(Ordering::Relaxed) | bit(addr);
            self.bucket.waiting.store(waiting, Ordering::Relaxed);
        }
    }

    /// Takes a waiter out of its queue. Returns the one that is the first of the queue now, if that is
    /// another one than before.
    pub(super) fn remove(&mut self, waiter: &Waiter) -> Option<&'a Waiter> {
        waiter.bucket.store(NOWHERE, Ordering::Relaxed);
        // SAFETY: null, or in this queue.
        let (previous, next) =
            unsafe { (waiter.previous.get().as_ref(), waiter.next.get().as_ref()) };
        if let Some(next) = next {
            next.previous.set(waiter.previous.get());
        }
        if let Some(previous) = previous {
            previous.next.set(waiter.next.get());
            if next.is_none() {
                let first = self.first(waiter.addr.get(), waiter.kind.get());
                first.expect("a queue has a first waiter").tail.set(previous);
            }
            return None;
        }
        self.remove_queue(waiter);
        match next {
            Some(next) => self.insert_queue(next, waiter.tail.get()),
            None => self.recompute_waiting(),
        }
        next
    }

    /// Lists a queue, by its first waiter and its last.
    fn insert_queue(&mut self, first: &Waiter, last: *const Waiter) {
        first.tail.set(last);
        let neighbour = self.bucket.queues.get();
        first.previous_queue.set(ptr::null());
        first.next_queue.set(neighbour);
        // SAFETY: null, or in a queue of this bucket.
        if let Some(neighbour) = unsafe { neighbour.as_ref() } {
            neighbour.previous_queue.set(first);
        }
        self.bucket.queues.set(first);
    }

    /// Takes the queue off the list whose first waiter this is.
    fn remove_queue(&mut self, first: &Waiter) {
        let (previous, next) = (first.previous_queue.get(), first.next_queue.get());
        // SAFETY: both null, or first in a queue of this bucket.
        unsafe {
            match previous.as_ref() {
                Some(previous) => previous.next_queue.set(next),
                None => self.bucket.queues.set(next),
            }
            if let Some(next) = next.as_ref() {
                next.previous_queue.set(previous);
            }
        }
    }

    /// A queue has gone: says anew which locks have waiters.
    fn recompute_waiting(&mut self) {
        let mut waiting = 0;
        self.for_each_queue(|first| {
            if first.kind.get() != Kind::Condvar {
                waiting |= bit(first.addr.get());
            }
        });
        // ORDERING: Relaxed: one that is read too late costs a look into the bucket.
        self.bucket.waiting.store(waiting, Ordering::Relaxed);
    }

    fn for_each_queue(&self, mut visit: impl FnMut(&Waiter)) {
        let mut head = self.bucket.queues.get();
        // SAFETY: null, or in a queue of this bucket.
        while let Some(first) = unsafe { head.as_ref() } {
            visit(first);
            head = first.next_queue.get();
        }
    }
}

/// In the child of a `fork`, before any other thread runs: nobody waits, and no bucket is locked.
#[cfg(not(lockword_loom))]
#[allow(dead_code, reason = "there is no fork on some platforms")]
pub(super) fn reset() {
    for bucket in &BUCKETS {
        // ORDERING: Relaxed: there is one thread.
        bucket.lock.store(0, Ordering::Relaxed);
        bucket.queues.set(ptr::null());
        bucket.waiting.store(0, Ordering::Relaxed);
        bucket.handoff.reset();
    }
}

/// The state of a bucket at one moment, for tests.
#[cfg(not(lockword_loom))]
#[derive(Clone, Debug)]
pub struct BucketState {
    /// The number of the bucket.
    pub index: usize,
    /// How many threads wait for locks.
    pub waiters: u32,
    /// How many of them were woken, found the lock taken, and sleep again.
    pub starving: u32,
    /// The flag, as a text for a message.
    pub flag: String,
    /// Who comes next, as a text for a message.
    pub handoff: String,
}

/// The state of the bucket of `addr`.
#[cfg(not(lockword_loom))]
pub fn state(addr: usize) -> BucketState {
    super::fork::settle();
    let index = flags::index(addr);
    let bucket = bucket(index);
    let locked = bucket.lock();
    let (mut waiters, mut starving) = (0, 0);
    locked.for_each_queue(|first| {
        let mut next = ptr::from_ref(first);
        // SAFETY: null, or in a queue of this bucket, whose lock is held.
        while let Some(waiter) = unsafe { next.as_ref() } {
            if waiter.kind.get() != Kind::Condvar {
                waiters += 1;
                starving += u32::from(waiter.woken.get() && waiter.is_asleep());
            }
            next = waiter.next.get();
        }
    });
    let (flag, handoff) = (flags::flag(index).describe(), bucket.handoff.describe());
    BucketState { index, waiters, starving, flag, handoff }
}

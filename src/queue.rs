//! The waiters of a lock: which one is woken, and which one is handed the lock.
//!
//! # Which waiter comes next
//!
//! The queue is in the order of parking. An unlock takes the first waiter out and wakes it, and
//! the word is free in the meantime: a thread that runs may take it ("barging"), which is what
//! makes short sections fast. A woken waiter that finds the lock taken again spins a little,
//! then parks once more, as an **heir** (a starving waiter): the next unlock that would wake
//! somebody hands the lock off to the heir that has waited longest (or, if a running thread is
//! quicker, that one's unlock does). Nobody can use the lock until the heir has woken, so this is
//! done at most once in a while for each lock (`HAND_US` in `duty.rs`). Between two handoffs others
//! are woken, and heirs only if there is nobody else, the oldest last.
//!
//! So a waiter is passed over for the time of one wake-up, and from then on younger heirs are
//! handed the lock before it only while it is awake for a moment itself. The longest wait goes by
//! the number of waiters that have waited for longer, times one turn of the spinners (`TURN_US`)
//! or a section or two, whichever is longer.
//!
//! # Why touching a waiter is sound
//!
//! A waiter's park token is the address of its [`Waiter`], on its stack. The tokens in a queue
//! of our keys are ours (see [`Key`]), and a thread in the queue does not leave its stack frame
//! before somebody has taken it out, under the queue's lock, which [`park::unpark`] holds while
//! it shows us the token. The word, too, is alive for as long as somebody waits for it; that is
//! why a waker takes it from the waiter, and not from what it remembers of the lock itself.

use crate::lobby::{self, Bucket};
use crate::park::{self, Domain, Key, Pick};
use crate::primitive::{Place, now_wide_us, reach};
use crate::word::LockWord;
use core::cell::Cell;

/// The message to a woken thread: try, and you have the duty (see `duty.rs`).
const ON_DUTY: usize = 0x6C77_0001;
/// The message to a woken thread: try.
const TRY: usize = 0x6C77_0002;
/// The message to a woken thread: the lock is yours.
const HANDED: usize = 0x6C77_0003;

/// What a thread was woken for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Call {
    /// The word is free, or was: try, and look after the lock.
    OnDuty,
    /// The word is free, or was: try.
    Try,
    /// The lock is yours.
    Handed,
    /// Somebody else, who does not know this protocol, took the thread out of the queue: it
    /// must count itself out. (Nobody can who keeps to keys of his own; see `park.rs`.)
    Stranger,
}

impl Call {
    /// What `message` means.
    pub(crate) fn new(message: usize) -> Self {
        match message {
            ON_DUTY => Call::OnDuty,
            TRY => Call::Try,
            HANDED => Call::Handed,
            _ => Call::Stranger,
        }
    }
}

/// A thread that waits for a lock, on its own stack. It stays in place while the thread parks.
pub(crate) struct Waiter {
    word: *const LockWord,
    bucket: &'static Bucket,
    /// When it first parked ([`now_wide_us`]); 0 before that. Changed by the thread itself when it
    /// is not in the queue.
    since_us: Cell<u64>,
    /// Changed under the queue's lock, or by the thread itself when it is not in the queue.
    heir: Cell<bool>,
}

impl Waiter {
    /// A waiter for `word`.
    pub(crate) fn new(word: &LockWord, bucket: &'static Bucket) -> Self {
        Waiter { word, bucket, since_us: Cell::new(0), heir: Cell::new(false) }
    }

    /// A waiter that has waited for so long.
    #[cfg(all(test, lockword_loom))]
    pub(crate) fn since(since_us: u64, word: &LockWord, bucket: &'static Bucket) -> Self {
        Waiter { since_us: Cell::new(since_us), ..Waiter::new(word, bucket) }
    }

    /// It is about to park, and not before: a clock read before it spins would cost more than a
    /// short section takes.
    pub(crate) fn begin(&self) {
        if self.since_us.get() == 0 {
            self.since_us.set(now_wide_us());
        }
    }

    /// The park token.
    pub(crate) fn token(&self) -> usize {
        core::ptr::from_ref(self).expose_provenance()
    }

    /// The waiter behind a token.
    ///
    /// # Safety
    /// The token comes from a queue of [`Domain::Lock`], and that queue's lock is held for `'a`.
    unsafe fn from_token<'a>(token: usize) -> &'a Waiter {
        // SAFETY: see the head of this file.
        unsafe { &*core::ptr::with_exposed_provenance(token) }
    }

    /// This waiter has been woken before and found the lock taken. Under the queue's lock.
    pub(crate) fn become_heir(&self) {
        self.heir.set(true);
        self.bucket.add_heir();
    }

    /// Whether this is an heir: the oldest one, if that is known. Under the queue's lock.
    fn is_heir(&self, oldest: Option<u64>) -> bool {
        self.heir.get() && oldest.is_none_or(|since_us| since_us == self.since_us.get())
    }

    /// Counts this waiter out: under the queue's lock, or when it is in no queue.
    pub(crate) fn leave(&self) {
        self.bucket.leave();
        if self.heir.replace(false) {
            self.bucket.remove_heir();
        }
    }
}

/// What a walk through the queue does with a waiter.
enum Take {
    /// Takes it out and wakes it with this message; the walk is over.
    Wake(usize),
    /// Leaves it and goes on.
    Skip,
    /// Leaves it; the walk is over.
    Stop,
}

/// Goes through the waiters of the lock at `addr`, the one that parked first ahead, until one is
/// taken out and woken. `nobody` is called, under the queue's lock, if none was. Returns whether
/// one was.
fn take_first(addr: usize, take: impl Fn(&Waiter) -> Take, nobody: impl FnOnce()) -> bool {
    let message = Cell::new(None);
    let pick = |token| {
        if message.get().is_some() {
            return Pick::Stop;
        }
        // SAFETY: `unpark` shows tokens of this key under the queue's lock.
        let waiter = unsafe { Waiter::from_token(token) };
        if waiter.word.addr() != addr {
            return Pick::Skip;
        }
        match take(waiter) {
            Take::Wake(with) => {
                message.set(Some(with));
                waiter.leave();
                Pick::Unpark
            }
            Take::Skip => Pick::Skip,
            Take::Stop => Pick::Stop,
        }
    };
    let answer = |taken| {
        if taken == 0 {
            nobody();
        }
        message.get().unwrap_or(TRY)
    };
    // SAFETY: neither closure panics or parks: see the callers below.
    unsafe { park::unpark(Key::new(Domain::Lock, addr), pick, answer) != 0 }
}

/// What [`hand_to_heir`] has done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub(crate) enum Heirs {
    /// Nothing: the caller still holds the lock.
    None,
    /// An heir holds the lock.
    Handed,
    /// The heirs were another lock's and nobody waits for this one, which is free now.
    Released,
}

/// The holder of `word` hands the lock over to an heir, if one was left to it.
pub(crate) fn hand_to_left_heir(word: &LockWord, bucket: &Bucket) -> Heirs {
    if bucket.duty.take_left_heir(word.addr()) { hand_to_heir(word, bucket) } else { Heirs::None }
}

/// The holder of `word` hands the lock over to an heir, if there is one.
fn hand_to_heir(word: &LockWord, bucket: &Bucket) -> Heirs {
    if !bucket.has_heirs() {
        return Heirs::None;
    }
    let oldest = oldest_heir(word.addr(), bucket);
    let others = Cell::new(false);
    let released = Cell::new(false);
    let hand = |waiter: &Waiter| {
        if !waiter.is_heir(oldest) {
            others.set(true);
            return Take::Skip;
        }
        bucket.duty.note_hand_over(word.addr());
        Take::Wake(HANDED)
    };
    // Under the queue's lock, as in `hand_or_release`.
    let nobody = || {
        if !others.get() {
            word.release();
            released.set(true);
        }
    };
    if take_first(word.addr(), hand, nobody) {
        reach(Place::HandedToHeir);
        Heirs::Handed
    } else if released.get() {
        Heirs::Released
    } else {
        Heirs::None
    }
}

/// The holder of `word` hands the lock over to a waiter, heirs first, or else frees the word.
///
/// It is freed under the queue's lock. So whoever waits for it is not in the queue and has the
/// look at the word before it ahead of him, or is awake anyway: nobody has to be woken.
pub(crate) fn hand_or_release(word: &LockWord, bucket: &Bucket) {
    if hand_to_heir(word, bucket) != Heirs::None {
        return;
    }
    let hand = |_: &Waiter| {
        bucket.duty.begin_turns(word.addr());
        Take::Wake(HANDED)
    };
    if take_first(word.addr(), hand, || word.release()) {
        reach(Place::HandedFairly);
    }
}

/// The word of the lock at `addr` has been freed, waiters may be parked, and nobody has the
/// duty: hands the lock over to an heir, or wakes one waiter. The lock itself may be gone.
#[inline(never)]
pub(crate) fn wake_one(addr: usize, bucket: &Bucket) {
    let call = || Take::Wake(if bucket.duty.appoint(addr) { ON_DUTY } else { TRY });
    let mut done = false;
    if bucket.has_heirs() {
        let oldest = oldest_heir(addr, bucket);
        if bucket.duty.may_hand(addr) {
            done = hand_free_word(addr, bucket, oldest);
        } else {
            // Others than the heirs first, and the oldest heir last: once awake it could not be
            // handed the lock.
            let unless = |skip| if skip { Take::Skip } else { call() };
            done = take_first(addr, |waiter| unless(waiter.heir.get()), || ())
                || take_first(addr, |waiter| unless(waiter.is_heir(oldest)), || ());
        }
    }
    if !done {
        let wake = |waiter: &Waiter| {
            if waiter.heir.get() {
                reach(Place::HeirWoken);
            }
            call()
        };
        take_first(addr, wake, || ());
    }
}

/// Hands the lock at `addr`, which was freed and may be gone, over to an heir. Returns whether
/// that ends the wake-up: also if there is an heir, but somebody else has the lock by now.
fn hand_free_word(addr: usize, bucket: &Bucket, oldest: Option<u64>) -> bool {
    let left = Cell::new(false);
    let hand = |waiter: &Waiter| {
        if !waiter.is_heir(oldest) {
            return Take::Skip;
        }
        // SAFETY: the waiter is in the queue, so its lock is alive.
        let word = unsafe { &*waiter.word };
        // ORDERING: Acquire inside: others may have held and released since our store. If it
        // fails, whoever holds the lock now will find the heir: told by `leave_heir`, or else at
        // its own wake-up, after the fence.
        if word.try_acquire() {
            bucket.duty.note_hand_over(addr);
            reach(Place::HandedToHeir);
            Take::Wake(HANDED)
        } else {
            reach(Place::HeirLeft);
            bucket.duty.leave_heir(addr);
            left.set(true);
            Take::Stop
        }
    };
    take_first(addr, hand, || ()) || left.get()
}

/// Since when the heir that has waited longest for the lock at `addr` has done so; `None` if it
/// does not matter, because there is only one, or is unknown.
fn oldest_heir(addr: usize, bucket: &Bucket) -> Option<u64> {
    if !bucket.has_heirs_to_compare() {
        return None;
    }
    let oldest = Cell::new(None);
    let compare = |waiter: &Waiter| {
        let older = oldest.get().is_none_or(|oldest| waiter.since_us.get() < oldest);
        if waiter.heir.get() && older {
            oldest.set(Some(waiter.since_us.get()));
        }
        Take::Skip
    };
    take_first(addr, compare, || ());
    oldest.get()
}

/// The bucket of a lock.
pub(crate) fn bucket_of(word: &LockWord) -> &'static Bucket {
    lobby::bucket(word.addr())
}

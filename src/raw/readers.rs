//! The table of readers: lines of slots, in which readers of biased locks say what they read.
//!
//! Each thread owns a [`Line`], and is the only one that fills its slots; whoever has the guard clears
//! the slot, in any thread. So a reader of a biased lock runs no locked instruction and shares no cache line
//! with another reader. A writer scans all lines.
//!
//! ```text
//! R: r1  slot := id | PENDING              W: w1  BIASED -> REVOKING, DRAINING
//!    r2  light()                              w2  heavy(), if REVOKING
//!    r3  BIASED?  slot := id; read            w3  scan: wait while a slot names the lock
//!        else: slot := 0, and look for w      w4  DRAINING, count 0 -> HELD, PLAIN
//! ```
//!
//! r1 to r3 and w1 to w3 are Dekker's protocol: either R sees at r3 that the bias is gone, or W sees the
//! slot. A reader that backs out may be what W saw at w3, so backing out is an unlock: it looks whether W waits.
//!
//! # Why each rule
//!
//! - **The guard knows its slot.** Nothing is searched by an address, so a guard may move to another
//!   thread and outlive the thread that made it. A line whose thread has ended is adopted by another thread when
//!   all its slots are clear.
//! - **Slots hold numbers, not addresses.** A lock draws its number at its first bias. A lock that is made where
//!   another one was forgotten while it was read has another number. Numbers do not go round: a writer
//!   that waited for a reader of another lock of its number would not be woken by it. When all 2^31 are
//!   drawn, no other lock becomes biased.
//! - **Only a scan that found nobody makes PLAIN.** A writer that gives up leaves REVOKED, which obliges
//!   the next one to scan, but not to run the barrier again: who gives up time and again beside a reader
//!   that stays would disturb all processors each time.
//! - **Bias needs the barrier.** A process without it has none. If the kernel refuses it later, the
//!   writer waits until each store is known to be visible by other means
//!   ([`wait_for_stores`](super::barrier::wait_for_stores)), and nothing is biased any more.
//! - **A budget for the process.** A bias leads to a barrier, which interrupts the other processors. So
//!   one is set no more often than leaves 99 % of the time to the program ([`try_spend`]).
//! - **In the child of a `fork`** a slot that was PENDING in another thread names nobody. One without
//!   PENDING is a guard that the program may still have.
//!
//! The table is static, and its untouched part takes no memory. A thread that finds no line, or whose line is
//! full, is counted in the lock.

use super::barrier;
use super::flags;
use super::fork;
use super::rw_word::RwWord;
#[cfg(not(lockword_loom))]
use super::rw_word::UPGRADABLE;
#[cfg(not(lockword_loom))]
use crate::primitive::has_come;
use crate::primitive::{AtomicU32, AtomicUsize, Ordering, now_us, probe};
use core::cell::Cell;
use core::marker::PhantomData;

/// Slots of a line: so many guards of one thread, of any biased locks.
const SLOTS: usize = if cfg!(lockword_loom) { 1 } else { 8 };
/// Lines: so many threads. On WebAssembly, where the table would take memory, no lock is biased.
const LINES: usize = if cfg!(lockword_loom) {
    2
} else if cfg!(target_family = "wasm") {
    1
} else {
    2048
};
/// In a slot: the reader has not seen yet that the lock is biased.
const PENDING: u32 = 1 << 31;

/// Nobody owns the line.
const FREE: u32 = 0;
/// A thread owns the line.
const OWNED: u32 = 1;
/// A thread that is in the middle of a `fork` owns the line.
#[cfg(not(lockword_loom))]
const FORKING: u32 = 2;

/// Of the time of the processors, one part in so many goes into barriers.
const SHARE: u32 = 100;
/// One measurement counts for at most this many times the average,
const MOST_TIMES: u32 = 4;
/// and at most this long, in microseconds.
const LONGEST_US: u32 = 10_000;
/// The longest time without a new bias, in microseconds.
const LONGEST_PAUSE_US: u32 = 10_000_000;

/// The slots of one thread, on cache lines that they share with nothing else.
#[repr(align(128))]
struct Line {
    owner: AtomicU32,
    slots: [Slot; SLOTS],
    /// The address of a word that the owner may be DRAINING, plus the role that it had before; or 0.
    drains: AtomicUsize,
}

/// 0, or the number of a lock that is read, with or without PENDING.
#[repr(transparent)]
#[derive(Debug)]
pub(super) struct Slot(AtomicU32);

#[cfg(not(lockword_loom))]
static TABLE: [Line; LINES] = [const {
    Line {
        owner: AtomicU32::new(FREE),
        slots: [const { Slot(AtomicU32::new(0)) }; SLOTS],
        drains: AtomicUsize::new(0),
    }
}; LINES];
/// Lines from here on have no owner, and all their slots are clear.
#[cfg(not(lockword_loom))]
static USED: AtomicUsize = AtomicUsize::new(0);
/// The number that was drawn last.
#[cfg(not(lockword_loom))]
static DRAWN: AtomicU32 = AtomicU32::new(0);
/// When the next bias may be set.
#[cfg(not(lockword_loom))]
static NEXT_US: AtomicU32 = AtomicU32::new(0);
/// What a barrier takes, in microseconds: a moving average.
#[cfg(not(lockword_loom))]
static COST_US: AtomicU32 = AtomicU32::new(10);
/// Not 0 if the barrier was refused: nothing is biased any more.
#[cfg(not(lockword_loom))]
static REFUSED: AtomicU32 = AtomicU32::new(0);

#[cfg(lockword_loom)]
crate::primitive::lazy_static! {
    static ref TABLE: [Line; LINES] = core::array::from_fn(|_| Line {
        owner: AtomicU32::new(FREE),
        slots: core::array::from_fn(|_| Slot(AtomicU32::new(0))),
        drains: AtomicUsize::new(0),
    });
    static ref USED: AtomicUsize = AtomicUsize::new(0);
    static ref DRAWN: AtomicU32 = AtomicU32::new(0);
    static ref NEXT_US: AtomicU32 = AtomicU32::new(0);
    static ref COST_US: AtomicU32 = AtomicU32::new(10);
    static ref REFUSED: AtomicU32 = AtomicU32::new(0);
}

/// Makes the statics of an execution.
#[cfg(all(test, lockword_loom))]
pub(super) fn begin() {
    let _ = (USED.load(Ordering::Relaxed), DRAWN.load(Ordering::Relaxed), TABLE.len());
    let _ = (NEXT_US.load(Ordering::Relaxed), COST_US.load(Ordering::Relaxed));
    let _ = REFUSED.load(Ordering::Relaxed);
}

/// The last that a thread of a model does.
#[cfg(all(test, lockword_loom))]
pub(super) use mine::end;

/// What a guard for reading remembers of its acquisition.
#[derive(Debug)]
#[must_use]
pub struct ReadToken {
    /// The slot that names the lock; none if the reader is counted.
    pub(super) slot: Option<&'static Slot>,
    /// Not `Send`, as the guard is not.
    stays: PhantomData<*const ()>,
}

impl ReadToken {
    pub(crate) const COUNTED: ReadToken = ReadToken { slot: None, stays: PhantomData };

    #[inline(always)]
    pub(super) fn in_slot(slot: &'static Slot) -> Self {
        ReadToken { slot: Some(slot), stays: PhantomData }
    }

    /// Whether the reader is in a slot.
    #[cfg(all(test, not(lockword_loom)))]
    pub(super) fn is_in_slot(&self) -> bool {
        self.slot.is_some()
    }
}

// SAFETY: a token is a name for one acquisition. Sharing it gives access to nothing.
unsafe impl Sync for ReadToken {}

impl Slot {
    /// Whether it names the lock of number `id`.
    #[inline(always)]
    pub(super) fn names(&self, id: u32) -> bool {
        // ORDERING: Acquire pairs with the Release of `clear`: what the reader did happens before.
        self.0.load(Ordering::Acquire) & !PENDING == id
    }

    /// r3: the lock is biased, and this thread reads.
    #[inline(always)]
    pub(super) fn confirm(&self, id: u32) {
        // ORDERING: Release, as in `publish`.
        self.0.store(id, Ordering::Release);
    }

    /// Ends reading. The lock may not exist any more then.
    #[inline(always)]
    pub(super) fn clear(&self) {
        // ORDERING: Release pairs with the Acquire of a scan, and of the owner's next look.
        self.0.store(0, Ordering::Release);
    }
}

impl Line {
    /// r1: says in a free slot that this thread is about to read. By the owner.
    #[inline(always)]
    fn publish(&'static self, id: u32) -> Option<&'static Slot> {
        // ORDERING: Acquire and Release, here and in `publish_elsewhere`: another thread may have cleared the
        // slot, and a writer that sees what is stored here must see what that thread has read before.
        if self.slots[0].0.load(Ordering::Acquire) == 0 {
            self.slots[0].0.store(id | PENDING, Ordering::Release);
            return Some(&self.slots[0]);
        }
        self.publish_elsewhere(id)
    }

    #[inline(never)]
    fn publish_elsewhere(&'static self, id: u32) -> Option<&'static Slot> {
        let slot = self.slots.iter().find(|slot| slot.0.load(Ordering::Acquire) == 0)?;
        slot.0.store(id | PENDING, Ordering::Release);
        Some(slot)
    }

    /// Makes the caller the owner, if nobody is, and all slots are clear.
    fn try_take(&self) -> bool {
        // ORDERING: Acquire pairs with the Release of the last owner, in `give_back`.
        let take =
            || self.owner.compare_exchange(FREE, OWNED, Ordering::Acquire, Ordering::Relaxed);
        if self.owner.load(Ordering::Relaxed) != FREE || take().is_err() {
            return false;
        }
        // ORDERING: Acquire, as in `publish`.
        let is_clear = self.slots.iter().all(|slot| slot.0.load(Ordering::Acquire) == 0);
        if !is_clear {
            self.give_back();
        }
        is_clear
    }

    /// By the owner.
    fn give_back(&self) {
        // ORDERING: Release: what the owner has done to the slots and to USED comes before what the next one does.
        self.owner.store(FREE, Ordering::Release);
    }

    /// The thread that owns the line ends. The last lines are taken off those that a scan looks at.
    ///
    /// A line of which a slot may be in use is never taken off: who lowers USED from n to n - 1 owns line n - 1
    /// meanwhile, and has seen its slots clear. Whoever becomes its owner later raises USED again, after this.
    fn retire(&self) {
        self.give_back();
        while let Some(last) = USED.load(Ordering::Relaxed).checked_sub(1)
            && TABLE[last].try_take()
        {
            // ORDERING: Release pairs with the Acquire of a scan, which does not see the slots any more: what
            // their readers did happens before. Relaxed if it fails: then another thread is at it.
            let (release, relaxed) = (Ordering::Release, Ordering::Relaxed);
            let is_lowered = USED.compare_exchange(last + 1, last, release, relaxed).is_ok();
            probe!(Lowered, is_lowered);
            TABLE[last].give_back();
            if !is_lowered {
                break;
            }
        }
    }
}

#[cfg(not(lockword_loom))]
mod mine {
    use super::*;

    std::thread_local! {
        // Const and without a destructor: there for as long as the thread lives, where the system has such.
        static LINE: Cell<Option<&'static Line>> = const { Cell::new(None) };
        /// There is no line for this thread.
        static DECLINED: Cell<bool> = const { Cell::new(false) };
        /// So many forks this thread is in the middle of: a handler may fork.
        static FORKS: Cell<u32> = const { Cell::new(0) };
        static RETIRES: Retires = const { Retires(Cell::new(None)) };
        /// The thread makes `RETIRES` known to the system, which may allocate, and so read.
        static ADOPTS: Cell<bool> = const { Cell::new(false) };
    }

    /// Gives the line back when the thread ends. It has the line itself: where thread-locals are emulated, LINE may
    /// be gone by then.
    struct Retires(Cell<Option<&'static Line>>);

    impl Drop for Retires {
        fn drop(&mut self) {
            if let Some(line) = self.0.take() {
                LINE.set(None);
                line.retire();
            }
        }
    }

    #[inline(always)]
    pub(super) fn line() -> Option<&'static Line> {
        LINE.get()
    }

    pub(super) fn may_adopt() -> bool {
        // A line that is adopted in the middle of a fork would not be known as the thread's own in the child. A
        // thread whose line was given back gets no other one.
        if DECLINED.get() || FORKS.get() != 0 || ADOPTS.replace(true) {
            return false;
        }
        let may_adopt = RETIRES.try_with(|retires| retires.0.get().is_none()) == Ok(true);
        ADOPTS.set(false);
        may_adopt
    }

    pub(super) fn set(line: &'static Line) {
        // It is there: `may_adopt` has seen it.
        let _ = RETIRES.try_with(|retires| retires.0.set(Some(line)));
        LINE.set(Some(line));
    }

    pub(super) fn decline() {
        DECLINED.set(true);
    }

    #[allow(dead_code, reason = "there is no fork on some platforms")]
    pub(super) fn begin_fork() {
        FORKS.set(FORKS.get() + 1);
    }

    /// Returns whether the thread is not in the middle of another one.
    #[allow(dead_code, reason = "there is no fork on some platforms")]
    pub(super) fn end_fork() -> bool {
        FORKS.set(FORKS.get().saturating_sub(1));
        // In the child there may be one.
        DECLINED.set(false);
        FORKS.get() == 0
    }
}

#[cfg(lockword_loom)]
mod mine {
    use super::*;

    crate::primitive::model_thread_local! {
        static LINE: Cell<Option<&'static Line>> = Cell::new(None);
    }

    pub(super) fn line() -> Option<&'static Line> {
        LINE.with(Cell::get)
    }

    pub(super) fn may_adopt() -> bool {
        true
    }

    pub(super) fn set(line: &'static Line) {
        LINE.with(|mine| mine.set(Some(line)));
    }

    /// The thread ends. Its locals are dropped later than it is joined, when there may be no statics any more.
    #[cfg(test)]
    pub(in super::super) fn end() {
        if let Some(line) = LINE.with(Cell::take) {
            line.retire();
        }
    }
}

/// r1: says in a free slot of this thread, if there is one, that it is about to read the lock of number `id`.
#[inline(always)]
pub(super) fn publish(id: u32) -> Option<&'static Slot> {
    mine::line()?.publish(id)
}

/// Gets a line for this thread, if it has none and there is one. Returns whether it got one now.
#[cold]
pub(super) fn adopt() -> bool {
    if mine::line().is_some() || !mine::may_adopt() {
        return false;
    }
    // The handlers of a fork must know of it; and one that has yet to run in this child must not take it away.
    fork::watch();
    fork::settle();
    let Some((index, line)) = TABLE.iter().enumerate().find(|(_, line)| line.try_take()) else {
        #[cfg(not(lockword_loom))]
        mine::decline();
        return false;
    };
    // ORDERING: Relaxed: it comes before r1, and a scan loads it after w2. It comes after what `retire` has done
    // while it owned the line.
    USED.fetch_max(index + 1, Ordering::Relaxed);
    mine::set(line);
    true
}

/// While this lives, the child of a `fork` knows that this thread may be the drainer.
#[must_use]
pub(super) struct MayDrain(Option<&'static Line>);

/// This thread goes about to drain `word`, in which it has the role `before`. Until the result is dropped the word
/// stays where it is. (A thread for which there is no line is not known to the child. A model does not fork.)
pub(super) fn may_drain(word: &RwWord, before: u32) -> MayDrain {
    // What the parent's threads were about to drain is forgotten before this thread drains anything.
    fork::settle();
    if cfg!(lockword_loom) || mine::line().is_none() && !adopt() {
        return MayDrain(None);
    }
    let line = mine::line();
    if let Some(line) = line {
        let word = core::ptr::from_ref(word).expose_provenance();
        line.drains.store(word | before as usize, Ordering::Relaxed);
        // A child that finds the word DRAINING finds this, too.
        barrier::light();
    }
    MayDrain(line)
}

impl Drop for MayDrain {
    fn drop(&mut self) {
        if let Some(line) = self.0 {
            // ORDERING: Release: after what the thread has done to the word.
            line.drains.store(0, Ordering::Release);
        }
    }
}

/// w3: whether a slot names the lock of number `id`. After w2 a no is final, as long as it is not biased.
pub(super) fn names(id: u32) -> bool {
    // ORDERING: Acquire pairs with the Release of `retire`: what the reader did happens before.
    let used = USED.load(Ordering::Acquire);
    TABLE[..used].iter().any(|line| line.slots.iter().any(|slot| slot.names(id)))
}

/// How many slots name the lock of number `id`.
#[cfg(all(feature = "trace", not(lockword_loom)))]
pub(super) fn count(id: u32) -> usize {
    // ORDERING: Acquire, as in `names`.
    let lines = &TABLE[..USED.load(Ordering::Acquire)];
    let slots = lines.iter().flat_map(|line| &line.slots);
    slots.filter(|slot| slot.names(id)).count()
}

/// The slot in which this thread says first that it reads, if it has a line.
#[cfg(all(test, not(lockword_loom)))]
pub(super) fn own_slot() -> Option<&'static Slot> {
    mine::line().map(|line| &line.slots[0])
}

/// A number, not 0, that no other lock has or has had; if there is one left.
pub(super) fn draw_id() -> Option<u32> {
    draw_from(&DRAWN)
}

fn draw_from(drawn: &AtomicU32) -> Option<u32> {
    let next = |last: u32| (last < !PENDING).then_some(last + 1);
    // ORDERING: Relaxed: numbers differ by the order of the changes of one variable.
    let drawn = drawn.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    drawn.ok().and_then(next)
}

/// Whether a bias may be set now; then the barrier that it leads to is paid for.
#[cfg(not(lockword_loom))]
pub(super) fn try_spend() -> bool {
    let next_us = NEXT_US.load(Ordering::Relaxed);
    if !has_come(next_us, LONGEST_PAUSE_US)
        || REFUSED.load(Ordering::Relaxed) != 0
        || !barrier::is_registered()
        || flags::is_permanent()
    {
        return false;
    }
    let (relaxed, pause_us) = (Ordering::Relaxed, pause_us(COST_US.load(Ordering::Relaxed)));
    let after_us = now_us().wrapping_add(pause_us);
    NEXT_US.compare_exchange(next_us, after_us, relaxed, relaxed).is_ok()
}

/// Does away with the budget for a moment.
#[cfg(all(test, not(lockword_loom)))]
pub(super) fn bias_now(now_us: u32) {
    NEXT_US.store(now_us, Ordering::Relaxed);
}

/// The model says whether locks become biased.
#[cfg(lockword_loom)]
pub(super) fn try_spend() -> bool {
    crate::primitive::model_settings::biases() && REFUSED.load(Ordering::Relaxed) == 0
}

/// How long a barrier of `cost_us` keeps the next bias off. It disturbs one processor for each reader at
/// most, and that of the writer.
fn pause_us(cost_us: u32) -> u32 {
    let threads = USED.load(Ordering::Relaxed) as u32 + 1;
    (cost_us.clamp(1, LONGEST_US) * SHARE).saturating_mul(threads).min(LONGEST_PAUSE_US)
}

/// w2: after this every reader that saw the bias before w1 is in its slot, for a scan.
pub(super) fn revoke() {
    probe!(Revoked);
    let start_us = now_us();
    if flags::is_permanent() || barrier::heavy() == barrier::Heavy::Refused {
        REFUSED.store(1, Ordering::Relaxed);
        barrier::wait_for_stores();
    }
    let before_us = COST_US.load(Ordering::Relaxed);
    // This thread may have lost its processor meanwhile, one time in a thousand on a busy machine, and for
    // milliseconds. The average follows soon if it is the barrier that takes longer.
    let took_us = now_us().wrapping_sub(start_us).min(MOST_TIMES * before_us).min(LONGEST_US);
    COST_US.store((before_us * 7 + took_us).div_ceil(8), Ordering::Relaxed);
    if took_us > before_us {
        // More than was paid for.
        NEXT_US.store(now_us().wrapping_add(pause_us(took_us)), Ordering::Relaxed);
    }
}

/// This thread is about to fork.
#[cfg(not(lockword_loom))]
#[allow(dead_code, reason = "there is no fork on some platforms")]
pub(super) fn before_fork() {
    mine::begin_fork();
    if let Some(line) = mine::line() {
        line.owner.store(FORKING, Ordering::Relaxed);
    }
}

/// This thread has forked, and is in either process.
#[cfg(not(lockword_loom))]
#[allow(dead_code, reason = "there is no fork on some platforms")]
pub(super) fn after_fork() {
    if mine::end_fork()
        && let Some(line) = mine::line()
    {
        line.owner.store(OWNED, Ordering::Relaxed);
    }
}

/// In the child of a `fork`, before any other thread runs: only the threads that were in the middle of a fork
/// may exist. The lines of all others have no owner, and who was about to read does not read, nor drain.
#[cfg(not(lockword_loom))]
#[allow(dead_code, reason = "there is no fork on some platforms")]
pub(super) fn reset() {
    // An upgradable reader stays what it was, whoever else would have drained its lock.
    const TAG: usize = UPGRADABLE as usize;
    for tag in [TAG, 0] {
        for line in &TABLE[..USED.load(Ordering::Relaxed)] {
            let drains = line.drains.load(Ordering::Relaxed);
            // A thread that forks drains nothing; it may be about to by now.
            let forks = line.owner.load(Ordering::Relaxed) == FORKING;
            if !forks && drains != 0 && drains & TAG == tag {
                line.drains.store(0, Ordering::Relaxed);
                let word = core::ptr::with_exposed_provenance::<RwWord>(drains - tag);
                // SAFETY: the thread was using the lock at the moment of the fork, so that it exists here, too.
                unsafe { &*word }.forget_drainer(tag as u32);
            }
        }
    }
    // ORDERING: Relaxed, here and below: there is one thread.
    let used = USED.load(Ordering::Relaxed);
    for (index, line) in TABLE.iter().enumerate() {
        match line.owner.load(Ordering::Relaxed) {
            FORKING => continue,
            // An owner that has not raised USED yet, or has lowered it already, is in the first line that it
            // found.
            FREE if index >= used => break,
            _ => {}
        }
        for slot in &line.slots {
            if slot.0.load(Ordering::Relaxed) & PENDING != 0 {
                slot.0.store(0, Ordering::Relaxed);
            }
        }
        line.owner.store(FREE, Ordering::Relaxed);
    }
}

#[cfg(all(test, unix, not(any(lockword_loom, miri))))]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use std::thread;

    #[test]
    fn numbers_do_not_go_round() {
        let drawn = AtomicU32::new(!PENDING - 1);
        assert_eq!(draw_from(&drawn), Some(!PENDING));
        assert_eq!((draw_from(&drawn), draw_from(&drawn)), (None, None));
    }

    /// Whether `check` holds in a child, in which there is no thread but this one.
    fn holds_in_a_child(check: impl FnOnce() -> bool) -> bool {
        // SAFETY: the child runs `check`, which touches this table only, and ends without a destructor.
        match unsafe { libc::fork() } {
            0 => {
                let holds = check();
                // SAFETY: ends the process.
                unsafe { libc::_exit(i32::from(!holds)) }
            }
            child => {
                let mut status = 0;
                // SAFETY: the status is ours to write.
                assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
                libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0
            }
        }
    }

    /// Between the look at the bias and the next one there is a reader that does not read in the child. One that
    /// reads does, and its slot is left alone.
    #[test]
    fn a_fork_in_the_middle_of_a_publication() {
        if LINES < 2 {
            return;
        }
        let (published, done) = (Barrier::new(2), Barrier::new(2));
        let [pending, confirmed] = [(); 2].map(|()| draw_id().unwrap());
        thread::scope(|s| {
            s.spawn(|| {
                assert!(adopt());
                let slots = [pending, confirmed].map(|id| publish(id).unwrap());
                slots[1].confirm(confirmed);
                published.wait();
                done.wait();
                slots.iter().for_each(|slot| slot.clear());
            });
            published.wait();
            let holds = holds_in_a_child(|| !names(pending) && names(confirmed));
            let in_parent = names(pending) && names(confirmed);
            done.wait();
            assert!(holds && in_parent);
        });
    }

    /// A handler of a fork may fork. Until the outer one is over, the line is known as that of the thread.
    #[test]
    fn forks_in_a_fork() {
        assert!(holds_in_a_child(|| {
            adopt();
            let mine = mine::line().unwrap();
            let owner = || mine.owner.load(Ordering::Relaxed);
            before_fork();
            before_fork();
            after_fork();
            reset();
            let kept = owner() == FORKING;
            after_fork();
            kept && owner() == OWNED
        }));
    }

    /// Another thread has taken a line, and forks come before it has raised USED.
    #[test]
    fn a_fork_in_the_middle_of_an_adoption() {
        assert!(holds_in_a_child(|| {
            let Some(line) = TABLE.get(USED.load(Ordering::Relaxed)) else { return false };
            line.owner.store(OWNED, Ordering::Relaxed);
            reset();
            line.owner.load(Ordering::Relaxed) == FREE
        }));
    }
}

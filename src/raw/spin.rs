//! How long to stay optimistic, and how eagerly to look.
//!
//! # Spinning
//!
//! A spinner looks at a word (a load; the compare-exchange only when it reads free) and pauses between
//! looks: a few single pauses, since a short section is over by then, then two, four and
//! [`LONGEST_PAUSE`] at a time with a little jitter, so that spinners do not keep in step. It gives up after
//! a *time*, not a count: a PAUSE takes 10 to 140 cycles, depending on the processor. The time is about what
//! parking and waking would cost ([`Budget`]).
//!
//! Whether to spin at all is learnt, for each bucket and each [`Budget`], from what it has led to
//! ([`SpinStatistics`]): a spin that succeeded earns a credit of [`GAIN`], one in vain costs one, and where none
//! is left one wait in sixteen spins, to see. On one processor spinning is in vain, as the holder cannot
//! run meanwhile, and so it is where sections are long; nobody asks the system how many processors there
//! are.
//!
//! A thread that was woken spins for longer, an *extended spin*, where that gets it the next release
//! with no wake-up in between, as it does where sections take up to [`Budget::Extended`]. That costs
//! processor time (a third more than std's where two threads hold a lock for 200 us in turn), and saves
//! the time of a wake-up at each turn. Where sections take longer, it is in vain, and is not done.
//!
//! # Backoff
//!
//! When a lock changes hands, its cache line and that of the data behind it travel to another core,
//! which takes a time T (40 to 200 ns). If a thread comes back to the lock sooner than that, because it
//! does little between two acquisitions, the lock is used best by letting one thread run alone for a
//! while: with h the time inside and o the time outside, a thread alone makes 1/(h+o) acquisitions in a
//! unit of time, and threads that take turns 1/(h+T) at most.
//!
//! So each spinner measures T, from the start of the look that acquires the lock to its end, and the time
//! between two contended acquisitions of its own, which is at least h+o. Where the latter is the smaller
//! (within [`RETURN_EIGHTHS`]), those who find the lock held do not look at it for [`BACKOFF`] times T, which leaves
//! the line where it is. That holds for the locks of a bucket, for [`BACKOFF_US`]; not for threads that were
//! woken, and not for those with a deadline.

#![cfg_attr(lockword_loom, allow(dead_code, reason = "the models spin without time"))]

use crate::primitive::{AtomicU32, Ordering, now_us, spin_loop, ticks};
use std::time::Instant;

/// How long a thread spins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Budget {
    /// It has just come to a lock.
    Newcomer,
    /// It waits for a lock and was woken. It has paid for its wake-up and would pay again.
    Woken,
    /// The same, for longer: see the head of this file.
    Extended,
    /// It waits for a notification.
    Condvar,
}

impl Budget {
    fn micros(self) -> u32 {
        match self {
            Budget::Newcomer => 10,
            Budget::Woken => 15,
            // As long as sections for which a handoff to a sleeping thread costs some percent.
            Budget::Extended => 250,
            // Longer than it takes to wake a thread on an idle processor: two threads of which each waits
            // for the other would never get back to spinning otherwise.
            Budget::Condvar => 20,
        }
    }
}

/// The credit of a spin that succeeded.
const GAIN: u32 = 2;
/// The most credit: so many spins in vain, in a row, end them.
const MOST: u32 = 16;
/// Looks with one pause between them, before the pauses grow.
const EAGER_LOOKS: u32 = 4;
/// The most pauses between two looks, of which up to three are jitter.
const LONGEST_PAUSE: u32 = 8;
/// Looks between two readings of the clock.
const LOOKS_PER_CLOCK: u32 = 4;
/// Looks after which a spin ends even if the clock stands still, as it does where there is none.
const MOST_LOOKS: u32 = 10_000;

/// Eighths of T within which a thread must come back for the lock to be worth a backoff.
const RETURN_EIGHTHS: u64 = 12;
/// The length of a backoff in T.
const BACKOFF: u64 = 20;
/// How long a bucket stays in backoff before it is measured anew, in microseconds.
const BACKOFF_US: u32 = 1_000;
/// The longest T that is believed, in ticks (300 ns to 1 us): a thread may lose its processor while it
/// measures.
const LONGEST_TRANSFER: u64 = 1_000;

/// What has been learnt of spinning in a bucket. Heuristics, which guard nothing: all accesses are Relaxed.
pub(super) struct SpinStatistics {
    /// The credit, in spins, of each [`Budget`].
    credit: [AtomicU32; 4],
    /// When the backoff ends, if there is any; else 0.
    backoff_until_us: AtomicU32,
}

impl SpinStatistics {
    crate::primitive::const_fn! {
        pub(super) fn new() -> Self {
            SpinStatistics {
                // Optimistic at first, but for where a wait is often long.
                credit: [
                    AtomicU32::new(8),
                    AtomicU32::new(8),
                    AtomicU32::new(0),
                    AtomicU32::new(2),
                ],
                backoff_until_us: AtomicU32::new(0),
            }
        }
    }
}

impl SpinStatistics {
    /// Whether a spin of this class is worth it: if there is credit, and else one time in sixteen, to see.
    fn is_worth(&self, budget: Budget) -> bool {
        self.credit[budget as usize].load(Ordering::Relaxed) != 0 || ticks() & 0xF0 == 0
    }

    /// A spin has ended: with success, or in vain.
    fn note(&self, budget: Budget, success: bool) {
        let credit = &self.credit[budget as usize];
        let before = credit.load(Ordering::Relaxed);
        let after = if success { (before + GAIN).min(MOST) } else { before.saturating_sub(1) };
        // The line stays where it is as long as nothing changes.
        if after != before {
            credit.store(after, Ordering::Relaxed);
        }
    }
}

/// Calls `done` until it returns true, or for as long as `budget` and `deadline` allow; at least once.
/// Returns whether it returned true. What is waited for is at `addr`.
#[cfg(not(lockword_loom))]
pub(super) fn spin(
    statistics: &SpinStatistics,
    addr: usize,
    budget: Budget,
    deadline: Option<Instant>,
    mut done: impl FnMut() -> bool,
) -> bool {
    let extended = budget == Budget::Woken && statistics.is_worth(Budget::Extended);
    let spent = if extended { Budget::Extended } else { budget };
    let mut limit_us = if statistics.is_worth(budget) { spent.micros() } else { 0 };
    // One that the deadline cuts short tells nothing.
    let mut tells = limit_us != 0;
    if let Some(deadline) = deadline {
        let left = deadline.saturating_duration_since(Instant::now()).as_micros();
        tells &= left >= u128::from(limit_us);
        limit_us = limit_us.min(u32::try_from(left).unwrap_or(u32::MAX));
    } else if budget == Budget::Newcomer && limit_us != 0 {
        history::back_off(addr, statistics);
    }
    let (mut looks, mut start_us, mut spun_us) = (0_u32, 0, 0);
    let mut looked = ticks();
    loop {
        if done() {
            if limit_us != 0 {
                statistics.note(budget, true);
            }
            if extended && spun_us >= budget.micros() {
                statistics.note(Budget::Extended, true);
            }
            if budget != Budget::Condvar {
                history::note(addr, looked);
            }
            return true;
        }
        looks += 1;
        let mut pauses = 1;
        if let Some(grown) = looks.checked_sub(EAGER_LOOKS) {
            if grown == 0 {
                start_us = now_us();
            } else if grown.is_multiple_of(LOOKS_PER_CLOCK) {
                spun_us = now_us().wrapping_sub(start_us);
            }
            let most = 2u32.saturating_pow(grown + 1).min(LONGEST_PAUSE);
            // The low bits of the cycle counter are as good as random here.
            pauses = most - (looked as u32 & 3).min(most / 2);
        }
        if spun_us >= limit_us || looks == MOST_LOOKS {
            if tells {
                statistics.note(spent, false);
            }
            return false;
        }
        for _ in 0..pauses {
            spin_loop();
        }
        looked = ticks();
    }
}

/// In the model a spinner looks twice: it may become the designated waker and then get the lock.
#[cfg(lockword_loom)]
pub(super) fn spin(
    _: &SpinStatistics,
    _: usize,
    _: Budget,
    _: Option<Instant>,
    mut done: impl FnMut() -> bool,
) -> bool {
    done() || done()
}

/// A thread has found others near the lock at `addr`, which it need not wait for: waits for the length of a backoff,
/// if the lock is best used so. Returns when it is to look, for [`note`].
#[cfg(not(lockword_loom))]
pub(super) fn back_off(addr: usize) -> u64 {
    history::back_off(addr, &super::waiters::bucket_of(addr).spin);
    ticks()
}

#[cfg(lockword_loom)]
pub(super) fn back_off(_: usize) -> u64 {
    0
}

/// Notes an acquisition, by a look that began at `looked`.
#[cfg(not(lockword_loom))]
pub(super) use history::note;

#[cfg(lockword_loom)]
pub(super) fn note(_: usize, _: u64) {}

/// What a thread remembers of its last contended acquisition.
mod history {
    use super::*;
    use core::cell::Cell;

    #[derive(Clone, Copy)]
    struct Last {
        /// Which lock it was.
        addr: usize,
        /// When ([`ticks`]).
        at: u64,
        /// T, a moving average in ticks; 0 before the first measurement.
        transfer: u64,
    }

    thread_local! {
        // Const and without a destructor: there for as long as the thread lives.
        static LAST: Cell<Last> = const { Cell::new(Last { addr: 0, at: 0, transfer: 0 }) };
    }

    /// Notes an acquisition by a look that began at `looked`. The caller holds the lock, so this is
    /// short: only one in eight reads the clock again.
    pub(in super::super) fn note(addr: usize, looked: u64) {
        let mut last = LAST.get();
        if last.transfer == 0 || looked & 0x70 == 0 {
            let transfer = ticks().wrapping_sub(looked).min(LONGEST_TRANSFER);
            last.transfer = match last.transfer {
                0 => transfer.max(1),
                old => (old * 3 + transfer).div_ceil(4),
            };
        }
        let at = looked.wrapping_add(last.transfer);
        LAST.set(Last { addr, at, ..last });
    }

    /// Waits for the length of a backoff, if the lock at `addr` is best used so.
    pub(super) fn back_off(addr: usize, statistics: &SpinStatistics) {
        let last = LAST.get();
        let until_us = statistics.backoff_until_us.load(Ordering::Relaxed);
        let start = ticks();
        if until_us == 0 {
            // `at` is an estimate, and may lie ahead.
            let away = start.wrapping_sub(last.at).cast_signed().max(0).cast_unsigned();
            if last.addr != addr || away.saturating_mul(8) >= RETURN_EIGHTHS * last.transfer {
                return;
            }
            // Odd, since 0 stands for none.
            statistics
                .backoff_until_us
                .store(now_us().wrapping_add(BACKOFF_US) | 1, Ordering::Relaxed);
        } else if until_us.wrapping_sub(now_us()) > BACKOFF_US + 1 {
            statistics.backoff_until_us.store(0, Ordering::Relaxed);
            return;
        }
        // Where there is no clock, not for ever.
        for _ in 0..MOST_LOOKS {
            if ticks().wrapping_sub(start) >= last.transfer * BACKOFF {
                break;
            }
            for _ in 0..4 {
                spin_loop();
            }
        }
    }
}

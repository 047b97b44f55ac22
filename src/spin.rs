//! How long to stay optimistic, and how eagerly to look.
//!
//! # Spinning
//!
//! A spinner looks at the word (a load; the compare-exchange only when it reads free) and
//! pauses between looks: a few single pauses, since a short section is over by then, then two,
//! four and [`LONGEST_PAUSE`] at a time with a little jitter, so that spinners do not keep in
//! step. It gives up after a *time*, not a count: a PAUSE takes 10 to 140 cycles, depending on
//! the processor. The time is about what parking and waking would cost ([`Patience`]). On one
//! processor nobody spins: the holder cannot run meanwhile.
//!
//! A thread that was woken spins for longer where that gets it the next release, with no wake-up in
//! between: a *stretch*. It is tried now and then, and kept up while it succeeds, as it does where
//! sections take tens of microseconds (five threads that hold the lock for 50 us and re-lock at
//! once have 7 percent more throughput by it). Elsewhere it would mostly watch a holder that has
//! lost its processor.
//!
//! There is no `sched_yield` here. It helps where threads outnumber processors and sections are
//! short, which is where bursts help more, and it costs a system call a look where they are not.
//!
//! # Bursts
//!
//! When a lock changes hands, its cache line and that of the data behind it travel to another
//! core, which takes a time T (40 to 200 ns). If a thread comes back to the lock sooner than
//! that, because it does little between two acquisitions, the lock is used best by letting one
//! thread run alone for a while: with h the time inside and o the time outside, a thread alone
//! makes 1/(h+o) acquisitions in a unit of time, and threads that take turns 1/(h+T) at most.
//!
//! So each spinner measures T, from the start of the look that acquires the lock to its end,
//! and the time between two contended acquisitions of its own, which is at least h+o. Where the
//! latter is the smaller (within [`EAGER`]), the bucket goes into bursts for [`BURSTS_US`]: a
//! thread that comes and finds the lock held does not look at it for some [`BURST`] times the T that
//! it has measured, and leaves the line where it is. So bursts go around, and a thread's wait grows
//! by that time at most, some microseconds. (Those that were woken do not wait, nor do those with a
//! deadline.) The locks of a bucket go into bursts together.

use crate::primitive::AtomicU32;
#[cfg(not(lockword_loom))]
use crate::primitive::{Ordering, now_us, processors, spin_loop, ticks};
use std::time::Instant;

/// How long a thread spins before it parks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Patience {
    /// It has just come, and nobody else looks after the lock.
    Newcomer,
    /// It has just come, and another waiter is awake already: two would be in each other's way.
    Crowded,
    /// It has been woken. It has paid for its wake-up and would pay again.
    Woken,
    /// It looks once.
    None,
}

impl Patience {
    #[cfg(not(lockword_loom))]
    fn micros(self) -> u32 {
        match self {
            Patience::Newcomer => 10,
            Patience::Crowded => 3,
            // Or a stretch: see `Pace::woken_us`.
            Patience::Woken => 15,
            Patience::None => 0,
        }
    }
}

/// Looks with one pause between them, before the pauses grow.
#[cfg(not(lockword_loom))]
const EAGER_LOOKS: u32 = 4;
/// The most pauses between two looks, of which up to three are jitter.
#[cfg(not(lockword_loom))]
const LONGEST_PAUSE: u32 = 8;
/// Looks between two readings of the clock.
#[cfg(not(lockword_loom))]
const LOOKS_PER_CLOCK: u32 = 4;

/// Eighths of T within which a thread must come back for the lock to be worth a burst.
#[cfg(not(lockword_loom))]
const EAGER: u64 = 12;
/// The length of a burst in T.
#[cfg(not(lockword_loom))]
const BURST: u64 = 20;
/// How long a thread that was woken spins in a stretch, in microseconds.
#[cfg(not(lockword_loom))]
const STRETCHED_US: u32 = 60;
/// How many more stretches one that ended with the lock is good for; one in vain costs one.
#[cfg(not(lockword_loom))]
const WORTH: u32 = 2;
/// The most stretches in hand: so many in vain, in a row, end them.
#[cfg(not(lockword_loom))]
const MOST_STRETCHES: u32 = 8;

/// How long a bucket stays in bursts before it is measured anew, in microseconds.
#[cfg(not(lockword_loom))]
const BURSTS_US: u32 = 1_000;
/// The longest T that is believed, in ticks (300 ns to 1 us): a thread may lose its processor
/// while it measures.
#[cfg(not(lockword_loom))]
const LONGEST_TRANSFER: u64 = 1_000;

/// What has been learnt of the locks of a bucket: whether bursts suit them, and stretches.
pub(crate) struct Pace {
    /// When the bursts end, if there are any; else 0.
    #[cfg_attr(lockword_loom, allow(dead_code, reason = "the model has no time"))]
    until_us: AtomicU32,
    /// How many stretches are in hand.
    #[cfg_attr(lockword_loom, allow(dead_code, reason = "the model has no time"))]
    stretches: AtomicU32,
}

impl Pace {
    #[cfg(not(lockword_loom))]
    pub(crate) const fn new() -> Self {
        Pace { until_us: AtomicU32::new(0), stretches: AtomicU32::new(0) }
    }

    #[cfg(lockword_loom)]
    pub(crate) fn new() -> Self {
        Pace { until_us: AtomicU32::new(0), stretches: AtomicU32::new(0) }
    }

    /// How long a thread that was woken spins, in microseconds: for a stretch if there is one in
    /// hand, and else one time in sixteen, to see.
    #[cfg(not(lockword_loom))]
    fn woken_us(&self) -> u32 {
        // ORDERING: Relaxed, here and below: a heuristic, which guards nothing.
        let in_hand = self.stretches.load(Ordering::Relaxed) != 0;
        if in_hand || ticks() & 0xF0 == 0 { STRETCHED_US } else { Patience::Woken.micros() }
    }

    /// A stretch has ended: with the lock, or in vain.
    #[cfg(not(lockword_loom))]
    fn end_stretch(&self, with_lock: bool) {
        let stretches = self.stretches.load(Ordering::Relaxed);
        let left = if with_lock {
            (stretches + WORTH).min(MOST_STRETCHES)
        } else {
            stretches.saturating_sub(1)
        };
        self.stretches.store(left, Ordering::Relaxed);
    }
}

/// One thread's spinning, from its first look to its acquiring the lock or giving up.
#[cfg(not(lockword_loom))]
pub(crate) struct Spin<'a> {
    addr: usize,
    pace: &'a Pace,
    /// Whether this is a stretch.
    stretch: bool,
    /// Whether it has gone on for longer than it would have without one.
    stretched: bool,
    /// Looks so far.
    looks: u32,
    /// When it began, once the clock has been read.
    start_us: u32,
    /// How long it may take.
    limit_us: u32,
    /// The time of the last look ([`ticks`]).
    looked: u64,
}

#[cfg(not(lockword_loom))]
impl<'a> Spin<'a> {
    /// Gets ready to spin for the lock at `addr`; lets a burst pass first.
    pub(crate) fn new(
        addr: usize,
        pace: &'a Pace,
        patience: Patience,
        deadline: Option<Instant>,
    ) -> Self {
        let mut limit_us = match patience {
            _ if processors() == 1 => 0,
            Patience::Woken => pace.woken_us(),
            _ => patience.micros(),
        };
        let wanted_us = limit_us;
        if let Some(deadline) = deadline {
            let left = deadline.saturating_duration_since(Instant::now()).as_micros();
            limit_us = limit_us.min(u32::try_from(left).unwrap_or(u32::MAX));
        }
        let newcomer = matches!(patience, Patience::Newcomer | Patience::Crowded);
        if limit_us != 0 && newcomer && deadline.is_none() {
            history::let_burst_pass(addr, pace);
        }
        // One that the deadline cuts short tells nothing.
        let stretch = limit_us == STRETCHED_US && limit_us == wanted_us;
        Spin {
            addr,
            pace,
            stretch,
            stretched: false,
            looks: 0,
            start_us: 0,
            limit_us,
            looked: ticks(),
        }
    }

    /// Pauses after a look that failed. Returns whether another look is worth it.
    pub(crate) fn again(&mut self) -> bool {
        if self.limit_us == 0 {
            return false;
        }
        self.looks += 1;
        let mut pauses = 1;
        if let Some(grown) = self.looks.checked_sub(EAGER_LOOKS) {
            if grown == 0 {
                self.start_us = now_us();
            } else if grown.is_multiple_of(LOOKS_PER_CLOCK) {
                let spun_us = now_us().wrapping_sub(self.start_us);
                if spun_us >= self.limit_us {
                    if self.stretch {
                        self.pace.end_stretch(false);
                    }
                    return false;
                }
                self.stretched = self.stretch && spun_us >= Patience::Woken.micros();
            }
            let most = 2u32.saturating_pow(grown + 1).min(LONGEST_PAUSE);
            // The low bits of the cycle counter are as good as random here.
            pauses = most - (self.looked as u32 & 3).min(most / 2);
        }
        for _ in 0..pauses {
            spin_loop();
        }
        self.looked = ticks();
        true
    }

    /// The last look was the one that acquired the lock.
    pub(crate) fn acquired(&self) {
        self.granted();
        history::note(self.addr, self.looked);
    }

    /// The lock was granted to the spinner.
    pub(crate) fn granted(&self) {
        if self.stretched {
            self.pace.end_stretch(true);
        }
    }
}

/// What a thread remembers of its last contended acquisition.
#[cfg(not(lockword_loom))]
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

    /// Notes an acquisition by a look that began at `looked`. The caller holds the lock, so
    /// this is short: only one in eight reads the clock again.
    pub(super) fn note(addr: usize, looked: u64) {
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

    /// If the lock at `addr` is best run in bursts, waits for the length of one.
    pub(super) fn let_burst_pass(addr: usize, pace: &Pace) {
        let last = LAST.get();
        // ORDERING: Relaxed, here and below: a heuristic, which guards nothing.
        let until_us = pace.until_us.load(Ordering::Relaxed);
        let start = ticks();
        if until_us == 0 {
            // `at` is an estimate, and may lie ahead.
            let away = start.wrapping_sub(last.at).cast_signed().max(0).cast_unsigned();
            if last.addr != addr || away.saturating_mul(8) >= EAGER * last.transfer {
                return;
            }
            // Odd, since 0 stands for none.
            pace.until_us.store(now_us().wrapping_add(BURSTS_US) | 1, Ordering::Relaxed);
        } else if until_us.wrapping_sub(now_us()) > BURSTS_US + 1 {
            pace.until_us.store(0, Ordering::Relaxed);
            return;
        }
        while ticks().wrapping_sub(start) < last.transfer * BURST {
            for _ in 0..4 {
                spin_loop();
            }
        }
    }
}

/// In the model a spinner looks once before it parks; parking looks again.
#[cfg(lockword_loom)]
pub(crate) struct Spin;

#[cfg(lockword_loom)]
impl Spin {
    pub(crate) fn new(_: usize, _: &Pace, _: Patience, _: Option<Instant>) -> Self {
        Spin
    }

    pub(crate) fn again(&mut self) -> bool {
        false
    }

    pub(crate) fn acquired(&self) {}

    pub(crate) fn granted(&self) {}
}

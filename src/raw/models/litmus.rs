//! Store buffering, on the hardware: the one step of the proof that loom cannot check.
//!
//! Two threads store to one variable each and then load the other's. Without barriers both can
//! read the old value: each store still waits in its processor's buffer. With `light()` in one
//! thread and `heavy()` in the other they must not. The control leaves `heavy()` out and has to
//! see it happen, or the test could not fail and would show nothing.

use crate::primitive::{AtomicU32, Ordering, fence, spin_loop};
use crate::raw::barrier::{Heavy, heavy, light};
use crossbeam_utils::CachePadded;
use std::time::{Duration, Instant};

/// How many rounds the barrier has to stand.
const ROUNDS: u32 = 1_000_000;
/// How many will do if they take longer than [`SOON`].
const FEWEST_ROUNDS: u32 = 10_000;
/// How often the control has to fail, or once if that takes longer than [`SOON`].
const VIOLATIONS: u32 = 100;
const SOON: Duration = Duration::from_secs(12);
/// What no machine needs, however busy it is.
const LIMIT: Duration = Duration::from_secs(100);

/// What the two threads share; each variable on a line of its own.
#[derive(Default)]
struct Shared {
    /// The round that the unlocker may begin.
    begun: CachePadded<AtomicU32>,
    /// The round that the unlocker has ended.
    ended: CachePadded<AtomicU32>,
    word: CachePadded<AtomicU32>,
    flag: CachePadded<AtomicU32>,
    /// What the unlocker read of the flag.
    read: CachePadded<AtomicU32>,
}

/// Waits until `round` is reached. Returns which one was.
///
/// On a busy machine the other thread may not be running; it comes back sooner if this one does
/// not use up its time.
fn wait_for(at: &AtomicU32, round: u32) -> u32 {
    for looks in 1u32.. {
        // ORDERING: Acquire pairs with the Release of whoever announces the round.
        let reached = at.load(Ordering::Acquire);
        if reached >= round {
            return reached;
        }
        if looks.is_multiple_of(4_096) {
            std::thread::yield_now();
        }
        spin_loop();
    }
    unreachable!("the other thread has gone")
}

/// Lets some time pass, another in each round, so that the two threads meet at all offsets.
fn stagger(round: u32, most: u32) {
    for _ in 0..round.wrapping_mul(0x9E37_79B9) >> 16 & (most - 1) {
        spin_loop();
    }
}

/// Runs rounds until `enough` says so. Returns how many there were, and in how many both
/// threads read the old value.
fn store_buffering(
    unlocker: impl Fn() + Sync,
    parker: impl Fn(),
    enough: impl Fn(u32, u32, Duration) -> bool,
) -> (u32, u32) {
    let shared = Shared::default();
    let (mut round, mut both) = (0, 0);
    let start = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 1.. {
                if wait_for(&shared.begun, round) == u32::MAX {
                    return;
                }
                stagger(round, 64);
                // ORDERING: Relaxed, as in an unlock: what is between is what is tested.
                shared.word.store(1, Ordering::Relaxed);
                unlocker();
                let read = shared.flag.load(Ordering::Relaxed);
                shared.read.store(read, Ordering::Relaxed);
                shared.ended.store(round, Ordering::Release);
            }
        });
        while !enough(round, both, start.elapsed()) && start.elapsed() < LIMIT {
            round += 1;
            shared.word.store(0, Ordering::Relaxed);
            shared.flag.store(0, Ordering::Relaxed);
            // The next round must not begin with this one's stores on their way.
            fence(Ordering::SeqCst);
            shared.begun.store(round, Ordering::Release);
            stagger(round.rotate_left(7), 64);
            shared.flag.store(1, Ordering::Relaxed);
            parker();
            let read = shared.word.load(Ordering::Relaxed);
            wait_for(&shared.ended, round);
            both += u32::from(read == 0 && shared.read.load(Ordering::Relaxed) == 0);
        }
        shared.begun.store(u32::MAX, Ordering::Release);
    });
    (round, both)
}

/// Nothing that the processor sees.
fn nothing() {
    core::hint::black_box(());
}

/// Both in one test: a `heavy()` anywhere in the process is a barrier for the control, too.
#[test]
fn litmus_store_buffering() {
    if std::thread::available_parallelism().is_ok_and(|number| number.get() < 2) {
        println!("litmus: one processor cannot reorder against itself; nothing to see");
        return;
    }
    let (rounds, both) = store_buffering(nothing, nothing, |_, both, time| {
        both >= VIOLATIONS || (both > 0 && time > SOON)
    });
    println!("litmus: no barrier: {both} violations in {rounds} rounds");
    assert!(both > 0, "the control saw no store buffering: the rest would show nothing");

    let refused = core::cell::Cell::new(false);
    let parker = || refused.set(heavy() == Heavy::Refused || refused.get());
    let (rounds, both) = store_buffering(light, parker, |round, _, time| {
        round == ROUNDS || (round >= FEWEST_ROUNDS && time > SOON)
    });
    if refused.get() {
        println!("litmus: the kernel refuses the barrier; locks use fences here");
        return;
    }
    println!("litmus: light and heavy: {both} violations in {rounds} rounds");
    assert!(rounds >= FEWEST_ROUNDS, "too few rounds to show anything");
    assert_eq!(both, 0, "both threads read the old value, in spite of heavy()");
}

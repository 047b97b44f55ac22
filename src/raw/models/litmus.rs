//! Store buffering, on the hardware: the one step of the proof that loom cannot check.
//!
//! Two threads store to one variable each and then load the other's. Without barriers both can
//! read the old value: each store still waits in its processor's buffer. With `light()` in one
//! thread and `heavy()` in the other they must not. The control leaves `heavy()` out and has to
//! see it happen, or the test could not fail and would show nothing.

use crate::primitive::{AtomicU32, Ordering, fence, now_us, spin_loop};
use crate::raw::barrier::{Heavy, IS_SYMMETRIC, heavy, is_registered, light};
use crate::raw::readers;
use crate::raw::rw_word::RwWord;
use crate::raw::rwlock::{After, RawRwLock};
use crate::raw::waiters::Kind;
use core::cell::{Cell, UnsafeCell};
use crossbeam_utils::CachePadded;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How many rounds the barrier has to stand.
const ROUNDS: u32 = 1_000_000;
/// How many will do if they take longer than [`SOON`].
const FEWEST_ROUNDS: u32 = 10_000;
/// How often the control has to fail, or once if that takes longer than [`SOON`].
const VIOLATIONS: u32 = 100;
/// 32 MB.
const REMOTE_WORDS: u32 = 8 << 20;
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

/// Memory that no cache near the processor holds.
struct Remote(Vec<AtomicU32>, Cell<u32>);

impl Remote {
    fn new() -> Self {
        Self((0..REMOTE_WORDS).map(AtomicU32::new).collect(), Cell::new(0))
    }

    /// Stores to it, so that the next store waits in the buffer for as long as the processor needs for these: even
    /// if the two threads share a cache, as those of one core do. How many stores that takes depends on where the
    /// memory is: two do where it is beyond all caches, and not where the last cache holds all of it. So
    /// it is 2 to 32 of them, another number in each round.
    fn delay_stores(&self, round: u32) {
        for _ in 0..2 << (round % 5) {
            let at = self.1.get().wrapping_mul(0x9E37_79B9).wrapping_add(0x7F4A_7C15);
            self.1.set(at);
            self.0[(at >> 9) as usize % self.0.len()].store(at, Ordering::Relaxed);
        }
    }
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
            let remote = Remote::new();
            for round in 1.. {
                if wait_for(&shared.begun, round) == u32::MAX {
                    return;
                }
                stagger(round, 64);
                remote.delay_stores(round);
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

/// The path of a reader in a slot, against a writer that revokes the bias: r1 to r3 and w1 to w3 of [`readers`], with
/// `barrier` for w2. Returns as [`store_buffering`]: a reader that is in, and that the writer did not see.
///
/// The writer looks at the reader's slot first. A scan may come to it only after other lines, which other threads
/// of the process have: too late for the control, since a store waits in its buffer for less time than that.
fn revocation(barrier: impl Fn(), enough: impl Fn(u32, u32, Duration) -> bool) -> (u32, u32) {
    let (shared, word) = (Shared::default(), CachePadded::new(RwWord::new()));
    let id = readers::draw_id().expect("there are numbers left");
    let (sender, receiver) = std::sync::mpsc::channel();
    let (mut round, mut both) = (0, 0);
    let start = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            assert!(readers::adopt(), "there are lines left");
            let remote = Remote::new();
            sender.send(readers::own_slot().expect("it has a line")).expect("the writer waits");
            for round in 1.. {
                if wait_for(&shared.begun, 2 * round) == u32::MAX {
                    return;
                }
                stagger(round, 64);
                // Into this processor's cache, so that the load below need not wait for it longer than the store.
                core::hint::black_box(word.is_biased());
                remote.delay_stores(round);
                let slot = readers::publish(id).expect("the line is clear");
                light();
                let is_in = word.is_biased();
                shared.read.store(u32::from(is_in), Ordering::Relaxed);
                shared.ended.store(2 * round, Ordering::Release);
                wait_for(&shared.begun, 2 * round + 1);
                slot.clear();
                shared.ended.store(2 * round + 1, Ordering::Release);
            }
        });
        let slot = receiver.recv().expect("the reader has a slot");
        while !enough(round, both, start.elapsed()) && start.elapsed() < LIMIT {
            round += 1;
            assert!(word.try_read_alone());
            word.set_bias();
            assert!(!word.end_read());
            fence(Ordering::SeqCst);
            shared.begun.store(2 * round, Ordering::Release);
            stagger(round.rotate_left(7), 64);
            core::hint::black_box(slot.names(id));
            assert!(word.try_claim(Kind::Writer));
            barrier();
            let is_named = slot.names(id);
            assert!(!is_named || readers::names(id), "the scan sees what the slot says");
            wait_for(&shared.ended, 2 * round);
            both += u32::from(shared.read.load(Ordering::Relaxed) == 1 && !is_named);
            assert!(word.try_finish_draining());
            word.end_write(0);
            shared.begun.store(2 * round + 1, Ordering::Release);
            wait_for(&shared.ended, 2 * round + 1);
        }
        shared.begun.store(u32::MAX, Ordering::Release);
    });
    (round, both)
}

/// A `heavy()` anywhere in the process is a barrier for the controls, too.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the machine can show anything.
fn has_processors() -> bool {
    let several = !std::thread::available_parallelism().is_ok_and(|number| number.get() < 2);
    if !several {
        println!("litmus: one processor cannot reorder against itself; nothing to see");
    }
    several
}

/// Runs a program with its barrier, after a control without it.
fn litmus(
    name: &str,
    control: impl Fn(&dyn Fn(u32, u32, Duration) -> bool) -> (u32, u32),
    program: impl Fn(&dyn Fn(), &dyn Fn(u32, u32, Duration) -> bool) -> (u32, u32),
) {
    let _alone = alone();
    if !has_processors() {
        return;
    }
    let (rounds, both) = control(&|_, both, time| both >= VIOLATIONS || (both > 0 && time > SOON));
    println!("litmus: {name}, no barrier: {both} violations in {rounds} rounds");
    assert!(both > 0, "the control saw no store buffering: the rest would show nothing");

    let refused = core::cell::Cell::new(false);
    let barrier = || refused.set(heavy() == Heavy::Refused || refused.get());
    let (rounds, both) = program(&barrier, &|round, _, time| {
        round == ROUNDS || (round >= FEWEST_ROUNDS && time > SOON)
    });
    if refused.get() {
        println!("litmus: the kernel refuses the barrier; locks use fences here");
        return;
    }
    println!("litmus: {name}, light and heavy: {both} violations in {rounds} rounds");
    assert!(rounds >= FEWEST_ROUNDS, "too few rounds to show anything");
    assert_eq!(both, 0, "neither thread saw the other, in spite of heavy()");
}

#[test]
fn litmus_store_buffering() {
    litmus(
        "unlock and park",
        |enough| store_buffering(nothing, nothing, enough),
        |barrier, enough| store_buffering(light, barrier, enough),
    );
}

#[test]
fn litmus_revocation() {
    if IS_SYMMETRIC {
        println!(
            "litmus: light() is a fence, and no reader is in a slot: the control would see nothing"
        );
        return;
    }
    litmus(
        "read and revoke",
        |enough| revocation(nothing, enough),
        |barrier, enough| revocation(barrier, enough),
    );
}

/// Readers and writers of locks that become biased again at once, as if barriers cost nothing.
#[test]
fn biases_without_a_budget() {
    struct Pair(RawRwLock, UnsafeCell<[u64; 2]>);
    // SAFETY: the numbers are guarded by the lock.
    unsafe impl Sync for Pair {}
    let _alone = alone();
    let pairs = [const { Pair(RawRwLock::new(), UnsafeCell::new([0; 2])) }; 2];
    let slots = AtomicU32::new(0);
    let rounds: u32 = if cfg!(debug_assertions) { 100_000 } else { 400_000 };
    let added: u64 = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4_u32)
            .map(|number| {
                let (pairs, slots) = (&pairs, &slots);
                scope.spawn(move || {
                    let (mut added, mut in_slots) = (0, 0);
                    for round in 0..rounds {
                        let Pair(lock, numbers) = &pairs[(round / 64) as usize % 2];
                        let random = round.wrapping_mul(0x9E37_79B9).rotate_left(7 * number) >> 22;
                        let writes = match random {
                            0 => lock.write_until(None),
                            1 => lock.try_write(),
                            2 => lock.write_until(Some(Instant::now())),
                            3 => {
                                // SAFETY: this thread is the upgradable reader.
                                lock.upgradable_until(None) && unsafe { lock.upgrade_until(None) }
                            }
                            _ => false,
                        };
                        if writes {
                            // SAFETY: this thread holds the lock.
                            unsafe {
                                (*numbers.get())[0] += 1;
                                (*numbers.get())[1] += 1;
                                lock.end_write(After::Free);
                            }
                            added += 1;
                        } else {
                            readers::bias_now(now_us());
                            let token = lock.read(false);
                            in_slots += u32::from(token.is_in_slot());
                            // SAFETY: this thread reads, and ends that once.
                            unsafe {
                                let [one, two] = *numbers.get();
                                assert_eq!(one, two);
                                lock.end_read(token);
                            }
                        }
                    }
                    slots.fetch_add(in_slots, Ordering::Relaxed);
                    added
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    let total: u64 = pairs.into_iter().map(|Pair(_, numbers)| numbers.into_inner()[0]).sum();
    assert_eq!(added, total);
    let slots = slots.into_inner();
    println!("biases: {slots} readers in slots of {}, {added} writers", 4 * rounds);
    assert!(slots > rounds / 10 || !is_registered(), "few were in slots");
}

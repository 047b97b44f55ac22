//! Destroy after unlock: the last holder of a lock frees it at once, while the unlock of the holder
//! before may still be running in another thread.
//!
//! The classic case is an intrusive count guarded by the lock that lies beside it (glibc bug
//! 13690). A late touch of the lock is noticed in three ways: freed nodes keep a pattern in
//! quarantine that is checked later; freed nodes go back to the allocator, where AddressSanitizer
//! sees late reads too; and freed nodes are used again at once, at the same address, where a
//! late store breaks mutual exclusion or leaves a lock held by nobody.
//!
//! `LOCKWORD_DESTROY_ROUNDS` sets the number of nodes.
#![cfg(not(lockword_loom))]

use lockword::{
    Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockUpgradableReadGuard,
    RwLockWriteGuard,
};
use std::alloc::{Layout, alloc, dealloc};
use std::collections::VecDeque;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Mutex as StdMutex, PoisonError};
use std::thread;
use std::time::Duration;
use support::random::Rng;
use support::setting::env_number;
use support::slots::read_in_slot;
use support::watchdog::{LIMIT, Progress, fail};

#[path = "../support"]
mod support {
    pub mod random;
    pub mod setting;
    pub mod slots;
    pub mod watchdog;
}

const OPS: &[&str] = &["meet", "lock", "wait", "notify", "free", "bias", "read", "write"];

/// Something that its last user frees, and how a thread uses it.
trait Node: Sized + Send {
    /// A node that `users` threads will use once each.
    fn new(users: usize) -> Self;

    /// Uses the node; `first` holds for one of the users. Returns whether this use was the last.
    ///
    /// # Safety
    ///
    /// The node is alive, and each of its users calls this once. Once a call has returned, the
    /// node is touched by other users only, or, if it was the last, by nobody else.
    unsafe fn visit(
        node: *mut Self,
        first: bool,
        step: &mut dyn FnMut(usize),
        rng: &mut Rng,
    ) -> bool;
}

/// A count behind the lock that guards it.
struct Counted(Mutex<usize>);

impl Node for Counted {
    fn new(users: usize) -> Self {
        Counted(Mutex::new(users))
    }

    unsafe fn visit(node: *mut Self, _: bool, step: &mut dyn FnMut(usize), rng: &mut Rng) -> bool {
        step(1);
        // SAFETY: the node lives until the last user has unlocked, by the caller's promise.
        let lock = unsafe { &(*node).0 };
        let mut guard = match rng.below(8) {
            0 => loop {
                let timeout = Duration::from_micros(rng.below(60) as u64);
                if let Some(guard) = lock.try_lock_for(timeout) {
                    break guard;
                }
            },
            _ => lock.lock(),
        };
        linger(rng);
        *guard -= 1;
        let last = *guard == 0;
        match rng.below(4) {
            0 => MutexGuard::unlock_fair(guard),
            _ => drop(guard),
        }
        last
    }
}

/// A count, a flag and the condvar on which all but one user wait for the flag.
struct Awaited {
    state: Mutex<(usize, bool)>,
    condvar: Condvar,
}

impl Node for Awaited {
    fn new(users: usize) -> Self {
        Awaited { state: Mutex::new((users, false)), condvar: Condvar::new() }
    }

    unsafe fn visit(
        node: *mut Self,
        first: bool,
        step: &mut dyn FnMut(usize),
        rng: &mut Rng,
    ) -> bool {
        step(1);
        // SAFETY: the node lives until the last user has unlocked, by the caller's promise.
        let Awaited { state, condvar } = unsafe { &*node };
        let mut guard = state.lock();
        if first {
            guard.1 = true;
            linger(rng);
            step(3);
            // Under the lock: afterwards the last waiter may have freed the condvar.
            match rng.below(2) {
                0 => _ = condvar.notify_all(),
                _ => (1..guard.0).for_each(|_| _ = condvar.notify_one()),
            }
        } else {
            step(2);
            condvar.wait_while(&mut guard, |state| !state.1);
        }
        guard.0 -= 1;
        guard.0 == 0
    }
}

/// Who is the last user of a [`Shared`].
#[derive(Clone, Copy)]
enum Last {
    /// Whoever lowers the count to 0. All write.
    Anyone,
    /// The one that writes. The others read.
    Writer,
    /// The one that reads. The others write.
    Reader,
}

/// A count behind a reader-writer lock. If it is `BIASED`, the first user does that, before the others come.
struct Shared<const BIASED: bool> {
    lock: RwLock<AtomicUsize>,
    last: Last,
    is_ready: AtomicBool,
}

impl<const BIASED: bool> Node for Shared<BIASED> {
    fn new(users: usize) -> Self {
        static NODES: AtomicUsize = AtomicUsize::new(0);
        let last = [Last::Anyone, Last::Writer, Last::Reader];
        let last = last[NODES.fetch_add(1, Ordering::Relaxed) % last.len()];
        Shared { lock: RwLock::new(users.into()), last, is_ready: AtomicBool::new(!BIASED) }
    }

    unsafe fn visit(
        node: *mut Self,
        first: bool,
        step: &mut dyn FnMut(usize),
        rng: &mut Rng,
    ) -> bool {
        // SAFETY: the node lives until the last user has unlocked, by the caller's promise.
        let Shared { lock, last, is_ready } = unsafe { &*node };
        step(5);
        if BIASED && first {
            drop(read_in_slot(lock));
            is_ready.store(true, Ordering::Release);
        }
        while !is_ready.load(Ordering::Acquire) {
            thread::yield_now();
        }
        match last {
            Last::Anyone => {
                step(6);
                read(lock, |_| linger(rng));
                step(7);
                write(lock, rng, |left| left - 1) == 0
            }
            Last::Writer if first => {
                step(7);
                // Itself is left.
                while write(lock, rng, |left| left) > 1 {}
                true
            }
            Last::Writer => {
                step(6);
                read(lock, |left| {
                    linger(rng);
                    left.fetch_sub(1, Ordering::Relaxed);
                });
                false
            }
            Last::Reader if first => {
                step(6);
                while read(lock, |left| left.load(Ordering::Relaxed)) > 1 {
                    linger(rng);
                }
                true
            }
            Last::Reader => {
                step(7);
                lower(lock, rng);
                false
            }
        }
    }
}

/// Reads, in any way that there is for a reader.
fn read<R>(lock: &RwLock<AtomicUsize>, section: impl FnOnce(&AtomicUsize) -> R) -> R {
    let guard = lock.read();
    if guard.load(Ordering::Relaxed) == 0 {
        fail("a node that was given up was read");
    }
    section(&guard)
}

/// Writes, in any way that there is for a writer. Returns the new count.
fn write(lock: &RwLock<AtomicUsize>, rng: &mut Rng, new: impl FnOnce(usize) -> usize) -> usize {
    let (guard, left) = begin_to_write(lock, rng, new);
    match rng.below(8) {
        0 => RwLockWriteGuard::unlock_fair(guard),
        1 => drop(RwLockWriteGuard::downgrade(guard)),
        2 => RwLockReadGuard::unlock_fair(RwLockWriteGuard::downgrade(guard)),
        3 => drop(RwLockWriteGuard::downgrade_to_upgradable(guard)),
        4 => {
            let guard = RwLockWriteGuard::downgrade_to_upgradable(guard);
            RwLockUpgradableReadGuard::unlock_fair(guard);
        }
        5 => {
            let guard = RwLockWriteGuard::downgrade_to_upgradable(guard);
            drop(RwLockUpgradableReadGuard::downgrade(guard));
        }
        _ => drop(guard),
    }
    left
}

/// Lowers the count in a section that ends at once: for a reader that relies on it.
fn lower(lock: &RwLock<AtomicUsize>, rng: &mut Rng) {
    let (guard, _) = begin_to_write(lock, rng, |left| left - 1);
    match rng.below(2) {
        0 => RwLockWriteGuard::unlock_fair(guard),
        _ => drop(guard),
    }
}

/// Gets the lock, and sets a new count.
fn begin_to_write<'a>(
    lock: &'a RwLock<AtomicUsize>,
    rng: &mut Rng,
    new: impl FnOnce(usize) -> usize,
) -> (RwLockWriteGuard<'a, AtomicUsize>, usize) {
    let mut guard = match rng.below(8) {
        0 => loop {
            let timeout = Duration::from_micros(rng.below(60) as u64);
            if let Some(guard) = lock.try_write_for(timeout) {
                break guard;
            }
        },
        1 => loop {
            match lock.try_write() {
                Some(guard) => break guard,
                None => thread::yield_now(),
            }
        },
        2 => RwLockUpgradableReadGuard::upgrade(lock.upgradable_read()),
        _ => lock.write(),
    };
    let left = new(*guard.get_mut());
    linger(rng);
    *guard.get_mut() = left;
    (guard, left)
}

/// Holds the lock for a random time, now and then for so long that others park.
fn linger(rng: &mut Rng) {
    match rng.below(64) {
        0 => (0..4000).for_each(|_| std::hint::spin_loop()),
        1..8 => thread::yield_now(),
        8..32 => (0..rng.below(100)).for_each(|_| std::hint::spin_loop()),
        _ => {}
    }
}

/// What becomes of a node that its last user gave up.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Fate {
    Quarantine,
    Dealloc,
    ReuseAtOnce,
}

/// A late store of "free", a late compare-exchange of "free" to "held", and any late store.
const POISON: [u8; 3] = [1, 0, 0x55];
/// How many freed nodes keep their pattern before it is checked and they are used again.
const QUARANTINED: usize = 256;

/// Where nodes come from and go to. The addresses are stored as numbers, to be `Send`.
struct Heap<N> {
    quarantine: StdMutex<VecDeque<(usize, u8)>>,
    freed: AtomicUsize,
    fate: Fate,
    node: std::marker::PhantomData<fn() -> N>,
}

impl<N: Node> Heap<N> {
    fn new(fate: Fate) -> Self {
        let quarantine = StdMutex::default();
        Heap { quarantine, freed: AtomicUsize::new(0), fate, node: std::marker::PhantomData }
    }

    fn allocate(users: usize) -> *mut N {
        // SAFETY: the layout is not empty; a null pointer is refused before it is used.
        let node = unsafe { alloc(Layout::new::<N>()) }.cast::<N>();
        assert!(!node.is_null());
        // SAFETY: fresh memory of this layout.
        unsafe { node.write(N::new(users)) };
        node
    }

    /// Gives up `node` and returns the next one.
    ///
    /// # Safety
    ///
    /// The caller owns the node.
    unsafe fn replace(&self, node: *mut N, users: usize) -> *mut N {
        let round = self.freed.fetch_add(1, Ordering::Relaxed);
        match self.fate {
            Fate::ReuseAtOnce => {
                // SAFETY: owned, and a `Node` needs no drop.
                unsafe { node.write(N::new(users)) };
                return node;
            }
            // SAFETY: owned, and made by `allocate`.
            Fate::Dealloc => unsafe { dealloc(node.cast(), Layout::new::<N>()) },
            Fate::Quarantine => {
                let poison = POISON[round % POISON.len()];
                // SAFETY: owned, of this size.
                unsafe { ptr::write_bytes(node.cast::<u8>(), poison, size_of::<N>()) };
                let mut queue = self.quarantine.lock().unwrap_or_else(PoisonError::into_inner);
                queue.push_back((node.expose_provenance(), poison));
                if queue.len() > QUARANTINED {
                    let (oldest, poison) = queue.pop_front().unwrap();
                    drop(queue);
                    Self::check(oldest, poison);
                }
            }
        }
        Self::allocate(users)
    }

    /// Checks that nobody has written to a freed node, and gives its memory back.
    fn check(node: usize, poison: u8) {
        let node = ptr::with_exposed_provenance_mut::<u8>(node);
        // SAFETY: memory made by `allocate`, initialised by `write_bytes`, owned since then.
        let bytes = unsafe { std::slice::from_raw_parts(node, size_of::<N>()) }.to_vec();
        if bytes.iter().any(|&byte| byte != poison) {
            fail(&format!("a freed node was written to: {bytes:x?}, all bytes were {poison:#x}"));
        }
        // SAFETY: as above, and dropped from the quarantine.
        unsafe { dealloc(node, Layout::new::<N>()) };
    }
}

/// `users` threads use one node after the other; the last user of each frees it and puts up the
/// next.
fn run<N: Node>(users: usize, rounds: u64, fate: Fate) {
    let heap = Heap::<N>::new(fate);
    let current = AtomicPtr::new(Heap::<N>::allocate(users));
    let round = AtomicUsize::new(0);
    let progress = Progress::new(users, OPS);
    thread::scope(|scope| {
        for i in 0..users {
            let (heap, current, round, progress) = (&heap, &current, &round, &progress);
            scope.spawn(move || {
                let (slot, mut rng) = (progress.slot(i), Rng::new(rounds, i));
                for mine in 0..rounds as usize {
                    slot.begin(0, mine);
                    let mut tries = 0;
                    while round.load(Ordering::Acquire) != mine {
                        tries += 1;
                        if tries > 100 {
                            thread::yield_now();
                        }
                        std::hint::spin_loop();
                    }
                    let node = current.load(Ordering::Relaxed);
                    let first = i == mine % users;
                    let mut step = |op| slot.begin(op, mine);
                    // SAFETY: a node is up for one round, in which every thread uses it once.
                    if unsafe { N::visit(node, first, &mut step, &mut rng) } {
                        slot.begin(4, mine);
                        // SAFETY: the last user owns the node.
                        current.store(unsafe { heap.replace(node, users) }, Ordering::Relaxed);
                        round.store(mine + 1, Ordering::Release);
                    }
                }
                slot.finish();
            });
        }
        let (current, progress) = (&current, &progress);
        let state = move || {
            // The lock lies somewhere in the node.
            let node = current.load(Ordering::Relaxed).addr();
            let buckets =
                (0..size_of::<N>()).map(|byte| format!("{:?}", lockword::__bucket(node + byte)));
            format!("{fate:?}, by byte of the node:\n{}", buckets.collect::<Vec<_>>().join("\n"))
        };
        scope.spawn(move || progress.watch(LIMIT, state));
    });
    for (node, poison) in heap.quarantine.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Heap::<N>::check(node, poison);
    }
    // SAFETY: made by `allocate`; all threads have ended.
    unsafe { dealloc(current.into_inner().cast(), Layout::new::<N>()) };
    assert_eq!(heap.freed.into_inner() as u64, rounds);
}

fn all_fates<N: Node>(users: usize, share: u64) {
    let rounds = env_number("LOCKWORD_DESTROY_ROUNDS", 200_000);
    for fate in [Fate::Quarantine, Fate::Dealloc, Fate::ReuseAtOnce] {
        run::<N>(users, rounds / share / 3, fate);
    }
}

#[test]
fn the_last_of_two_frees_the_lock() {
    all_fates::<Counted>(2, 1);
}

#[test]
fn the_last_of_four_frees_the_lock() {
    all_fates::<Counted>(4, 2);
}

#[test]
fn the_last_of_two_frees_the_condvar() {
    all_fates::<Awaited>(2, 2);
}

#[test]
fn the_last_of_four_frees_the_condvar() {
    all_fates::<Awaited>(4, 4);
}

#[test]
fn the_last_of_two_frees_the_rwlock() {
    all_fates::<Shared<false>>(2, 2);
}

#[test]
fn the_last_of_four_frees_the_rwlock() {
    all_fates::<Shared<false>>(4, 4);
}

/// A bias is set once in some milliseconds.
#[test]
fn the_last_of_three_frees_the_biased_rwlock() {
    all_fates::<Shared<true>>(3, 1000);
}

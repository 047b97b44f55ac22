//! One address, used as one thing after the other that parks threads on it.

use crate::support::random::Rng;
use crate::support::watchdog::{Slot, fail};
use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// What a thread does at the address.
pub const OPS: &[&str] = &["begin a life", "lock", "RwLock", "parking_lot wait", "wait", "notify"];

#[derive(Clone, Copy, PartialEq, Debug)]
enum Life {
    Lock,
    StrangeCondvar,
    StrangeRwLock,
    Condvar,
}

/// Each life that is not a lock comes after one.
const CYCLE: [Life; 6] =
    [Life::Lock, Life::StrangeCondvar, Life::Lock, Life::StrangeRwLock, Life::Lock, Life::Condvar];

/// The memory that is used again. A `union`, so that every life begins at the same address.
#[repr(C, align(64))]
union Memory {
    lock: std::mem::ManuallyDrop<lockword::Mutex<()>>,
    condvar: std::mem::ManuallyDrop<lockword::Condvar>,
    strange_condvar: std::mem::ManuallyDrop<parking_lot::Condvar>,
    strange_rwlock: std::mem::ManuallyDrop<parking_lot::RwLock<()>>,
}

/// The address, and what the lives at it guard.
pub struct ReusedMemory {
    memory: UnsafeCell<Memory>,
    users: usize,
    lives: usize,
    /// The number of the present life.
    life: AtomicUsize,
    /// Users that have yet to visit, twice: the two differ only inside a critical section.
    left: UnsafeCell<(usize, usize)>,
    /// The number of the life whose waiter is about to wait.
    waiting: AtomicUsize,
    /// The number of the life whose waiter was notified; beside either kind of condvar.
    strange_notified: parking_lot::Mutex<usize>,
    notified: lockword::Mutex<usize>,
}

// SAFETY: `memory` is written by the one user that begins a life, before it publishes the life
// through `life`, and otherwise used through shared references; `left` is guarded by the lock or
// the RwLock of the present life.
unsafe impl Sync for ReusedMemory {}

impl ReusedMemory {
    /// An address at which `users` threads live `lives` lives.
    pub fn new(users: usize, lives: usize) -> Self {
        ReusedMemory {
            memory: UnsafeCell::new(Memory { lock: Default::default() }),
            users,
            lives,
            life: AtomicUsize::new(0),
            left: UnsafeCell::new((users, users)),
            waiting: AtomicUsize::new(0),
            strange_notified: parking_lot::Mutex::new(0),
            notified: lockword::Mutex::new(0),
        }
    }

    /// What there is to say when a thread is stuck.
    pub fn state(&self) -> String {
        let life = self.life.load(Ordering::Relaxed);
        let bucket = lockword::__bucket(self.memory.get().addr());
        format!("life {life}: {:?}; {bucket:?}", CYCLE[life % CYCLE.len()])
    }

    /// Takes part in every life but the condvars, which are for the one who begins them.
    pub fn use_lives(&self, slot: &Slot, rng: &mut Rng) {
        let mut mine = 0;
        while mine < self.lives {
            let kind = CYCLE[mine % CYCLE.len()];
            if matches!(kind, Life::Lock | Life::StrangeRwLock) {
                self.await_life(mine, slot);
                let last = match kind {
                    Life::Lock => self.visit_lock(mine, slot, rng),
                    _ => self.visit_rwlock(mine, slot, rng),
                };
                if last {
                    self.begin(mine + 1);
                    let next = CYCLE[(mine + 1) % CYCLE.len()];
                    if matches!(next, Life::Condvar | Life::StrangeCondvar) {
                        self.wait(mine + 1, next, slot);
                        self.begin(mine + 2);
                    }
                }
            }
            mine += 1;
        }
        slot.finish();
    }

    fn await_life(&self, life: usize, slot: &Slot) {
        slot.begin(0, life);
        let mut tries = 0;
        while self.life.load(Ordering::Acquire) < life {
            tries += 1;
            if tries > 100 {
                thread::yield_now();
            }
            std::hint::spin_loop();
        }
    }

    /// The caller is the only user of the memory: the last of the life before.
    fn begin(&self, life: usize) {
        let memory = self.memory.get();
        // SAFETY: nobody else uses the memory, or `left`, between two lives.
        unsafe {
            *memory = match CYCLE[life % CYCLE.len()] {
                Life::Lock => Memory { lock: Default::default() },
                Life::Condvar => Memory { condvar: Default::default() },
                Life::StrangeCondvar => Memory { strange_condvar: Default::default() },
                Life::StrangeRwLock => Memory { strange_rwlock: Default::default() },
            };
            *self.left.get() = (self.users, self.users);
        }
        self.life.store(life, Ordering::Release);
    }

    /// # Safety
    ///
    /// The caller holds the lock of the present life.
    unsafe fn count_down(&self, rng: &mut Rng) -> bool {
        // SAFETY: guarded by the lock that the caller holds.
        let left = unsafe { &mut *self.left.get() };
        if left.0 != left.1 {
            fail("two threads are in one critical section");
        }
        left.0 -= 1;
        match rng.below(16) {
            0 => (0..2000).for_each(|_| std::hint::spin_loop()),
            1..4 => thread::yield_now(),
            _ => {}
        }
        left.1 -= 1;
        left.1 == 0
    }

    fn visit_lock(&self, life: usize, slot: &Slot, rng: &mut Rng) -> bool {
        slot.begin(1, life);
        // SAFETY: the memory is a lock until all users have been here.
        let lock = unsafe { &(*self.memory.get()).lock };
        let guard = lock.lock();
        // SAFETY: the lock is held.
        let last = unsafe { self.count_down(rng) };
        drop(guard);
        last
    }

    fn visit_rwlock(&self, life: usize, slot: &Slot, rng: &mut Rng) -> bool {
        slot.begin(2, life);
        // SAFETY: the memory is an RwLock until all users have been here.
        let lock = unsafe { &(*self.memory.get()).strange_rwlock };
        let reader = lock.read();
        // SAFETY: read under a read lock.
        let (left, right) = unsafe { *self.left.get() };
        if left != right {
            fail("a reader is in the critical section of a writer");
        }
        drop(reader);
        let writer = lock.write();
        // SAFETY: the lock is held.
        let last = unsafe { self.count_down(rng) };
        drop(writer);
        last
    }

    /// Waits until the other thread notifies, once: a wake-up before that is meant for somebody
    /// else.
    fn wait(&self, life: usize, kind: Life, slot: &Slot) {
        if kind == Life::StrangeCondvar {
            slot.begin(3, life);
            // SAFETY: the memory is this condvar until the caller begins another life.
            let condvar = unsafe { &(*self.memory.get()).strange_condvar };
            let mut notified = self.strange_notified.lock();
            self.waiting.store(life, Ordering::Release);
            condvar.wait(&mut notified);
            if *notified != life {
                fail("a condvar of parking_lot was woken by a lock that lived at its address");
            }
        } else {
            slot.begin(4, life);
            // SAFETY: as above.
            let condvar = unsafe { &(*self.memory.get()).condvar };
            let mut notified = self.notified.lock();
            self.waiting.store(life, Ordering::Release);
            condvar.wait(&mut notified);
            if *notified != life {
                fail("a condvar was woken by a lock that lived at its address");
            }
        }
    }

    /// Notifies the waiter of each condvar, once, a moment after it began to wait.
    pub fn notify_waiters(&self, slot: &Slot, rng: &mut Rng) {
        for life in 0..=self.lives {
            let kind = CYCLE[life % CYCLE.len()];
            // The last life may be one more than was asked for: it is waited for all the same.
            if !matches!(kind, Life::Condvar | Life::StrangeCondvar) {
                continue;
            }
            slot.begin(5, life);
            while self.waiting.load(Ordering::Acquire) < life {
                thread::yield_now();
            }
            // Time for a late wake-up to arrive.
            (0..rng.below(2000)).for_each(|_| std::hint::spin_loop());
            // The waiter holds the mutex until it waits, so it is there to be notified; the
            // condvar is not touched once the mutex is released.
            let found = if kind == Life::StrangeCondvar {
                let mut notified = self.strange_notified.lock();
                *notified = life;
                // SAFETY: the waiter begins no other life before it has the mutex.
                unsafe { &(*self.memory.get()).strange_condvar }.notify_one()
            } else {
                let mut notified = self.notified.lock();
                *notified = life;
                // SAFETY: as above.
                unsafe { &(*self.memory.get()).condvar }.notify_one()
            };
            if !found {
                fail("a waiter was taken out of the queue of a condvar that had not notified");
            }
        }
        slot.finish();
    }
}

//! Fork: the child has the reader-writer locks of its parent, and the readers that its parent had.
//!
//! A lock that was free at the fork, or held by the forking thread, works in the child. A reader that another
//! thread was stays one for ever. One that was about to read, in the middle of its first steps, is none.
//!
//! Linux only, and under ThreadSanitizer with `TSAN_OPTIONS=die_after_fork=0`, as `fork.rs`.
#![cfg(all(not(lockword_loom), target_os = "linux"))]

use lockword::{RwLock, RwLockUpgradableReadGuard, RwLockWriteGuard};
use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};
use std::sync::mpsc::channel;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use support::asleep::Tid;
use support::child::alone;
use support::forked::Forked;
use support::gate::Gate;
use support::setting::env_number;
use support::slots::{counted, has_slots, read_in_slot};

#[path = "../support"]
mod support {
    pub mod asleep;
    pub mod child;
    pub mod forked;
    pub mod gate;
    pub mod setting;
    #[cfg(all(target_arch = "x86_64", not(feature = "trace")))]
    pub mod single_step;
    pub mod slots;
}

/// How long a child may take, on a busy machine too.
const LIMIT: Duration = Duration::from_secs(30);
/// For threads that try in vain.
const SHORT: Duration = Duration::from_millis(2);

type Lock = RwLock<u32>;
type Outcome = Result<(), &'static str>;

/// Whether another thread may read, and whether it may write.
fn lets_in(lock: &'static Lock) -> (bool, bool) {
    let look = || {
        let reads = lock.try_read().is_some();
        (reads, lock.try_write().is_some())
    };
    thread::spawn(look).join().expect("no panic")
}

fn ensure(holds: bool, otherwise: &'static str) -> Outcome {
    if holds { Ok(()) } else { Err(otherwise) }
}

/// The lock, which is free, works among new threads of this process.
fn works(lock: &'static Lock) -> Outcome {
    let mut guard = lock.try_write_for(LIMIT).ok_or("a free lock cannot be written to")?;
    let before = *guard;
    let start = |writes: bool| {
        let tid: &'static Tid = Box::leak(Box::default());
        let thread = thread::spawn(move || {
            tid.set();
            if writes {
                *lock.write() += 1;
            } else {
                assert!(*lock.read() > before);
            }
        });
        (tid, thread)
    };
    let threads = [false, true, false, true].map(start);
    if !threads.iter().all(|(tid, _)| tid.asleep_within(LIMIT)) {
        threads.iter().for_each(|(tid, _)| eprintln!("{}", tid.describe()));
        return Err("a new thread of the child does not wait");
    }
    *guard += 1;
    drop(guard);
    for (_, thread) in threads {
        thread.join().map_err(|_| "a new thread failed")?;
    }
    ensure(*lock.read() == before + 3, "a write is lost")?;
    ensure(!lock.is_locked(), "somebody stays behind")
}

/// A thread of the parent that has a guard of `lock` until the gate opens, however it reads.
fn reader(lock: &'static Lock, gate: &'static Gate, in_slot: bool) -> JoinHandle<()> {
    let (send, ready) = channel();
    let thread = thread::spawn(move || {
        let guard = if in_slot { read_in_slot(lock) } else { lock.read() };
        send.send(()).unwrap();
        gate.pass();
        drop(guard);
    });
    ready.recv().expect("the reader lives");
    thread
}

/// A thread of the parent that sleeps in `wait`, and stays until the gate opens.
fn asleep<R>(
    lock: &'static Lock,
    gate: &'static Gate,
    wait: impl FnOnce(&'static Lock) -> R + Send + 'static,
) -> JoinHandle<()> {
    let tid: &'static Tid = Box::leak(Box::default());
    let thread = thread::spawn(move || {
        tid.set();
        drop(wait(lock));
        gate.pass();
    });
    tid.wait_until_asleep();
    thread
}

fn new_lock() -> &'static Lock {
    Box::leak(Box::default())
}

/// A lock that is biased, if locks are.
fn biased_lock() -> &'static Lock {
    let lock = new_lock();
    drop(read_in_slot(lock));
    lock
}

fn join_all(threads: impl IntoIterator<Item = JoinHandle<()>>) {
    let end = Instant::now() + LIMIT;
    for thread in threads {
        while !thread.is_finished() {
            assert!(Instant::now() < end, "a thread of the parent is not woken after the fork");
            thread::yield_now();
        }
        thread.join().expect("no thread of the parent fails");
    }
}

/// A copy of a guard, for the child: the parent has the guard itself.
///
/// # Safety
/// Only the child drops it.
unsafe fn copy<T>(guard: &T) -> ManuallyDrop<T> {
    // SAFETY: by the caller's promise each process drops it once.
    ManuallyDrop::new(unsafe { std::ptr::read(guard) })
}

/// Runs `in_child` in a child, which gets the guard that this thread has.
fn fork_with<G>(guard: &G, in_child: impl FnOnce(G) -> Outcome) {
    // SAFETY: only the child uses it.
    let theirs = unsafe { copy(guard) };
    let forked = Forked::start(|_| in_child(ManuallyDrop::into_inner(theirs)));
    forked.expect_success(3 * LIMIT);
}

/// Readers of the forking thread, and of others, in slots and counted.
#[test]
fn readers_at_a_fork() {
    alone("readers_at_a_fork", 5 * LIMIT, || {
        for _ in 0..env_number("LOCKWORD_FORK_ROUNDS", 20) {
            let gate: &'static Gate = Box::leak(Box::default());
            let (mine, theirs, both) = (biased_lock(), biased_lock(), biased_lock());
            let (free, counts) = (biased_lock(), new_lock());
            let threads = [(theirs, true), (both, true), (counts, false)]
                .map(|(lock, in_slot)| reader(lock, gate, in_slot));
            let guards = (read_in_slot(mine), read_in_slot(both));
            fork_with(&guards, |(of_mine, of_both)| {
                ensure(lets_in(mine) == (true, false), "the forking thread reads no more")?;
                drop(of_mine);
                works(mine)?;
                works(free)?;
                ensure(lets_in(theirs) == (true, false), "a reader of the parent is gone")?;
                ensure(lets_in(counts) == (true, false), "a counted reader of the parent is gone")?;
                ensure(theirs.try_write_for(SHORT).is_none(), "a writer beside a reader")?;
                drop(of_both);
                ensure(lets_in(both) == (true, false), "a reader of the parent is gone")?;
                // The line of slots is still that of this thread.
                drop(read_in_slot(mine));
                let guard = mine.read();
                ensure(
                    (counted(mine) == 0) == has_slots(),
                    "the forking thread has lost its slots",
                )?;
                ensure(lets_in(mine) == (true, false), "a reader of the child is not seen")?;
                drop(guard);
                Forked::start(|_| works(mine)).expect_success(LIMIT);
                Ok(())
            });
            gate.open();
            drop(guards);
            join_all(threads);
            for lock in [mine, theirs, both, free, counts] {
                assert_eq!(lets_in(lock), (true, true));
            }
        }
    });
}

/// Others wait for what the forking thread has.
#[test]
fn waiters_at_a_fork() {
    alone("waiters_at_a_fork", 5 * LIMIT, || {
        for _ in 0..env_number("LOCKWORD_FORK_ROUNDS", 20) {
            let gate: &'static Gate = Box::leak(Box::default());
            let [written, upgradable, read] = [biased_lock(), biased_lock(), biased_lock()];
            let guards = (written.write(), upgradable.upgradable_read(), read.upgradable_read());
            let threads = [
                asleep(written, gate, |lock| drop(lock.read())),
                asleep(written, gate, |lock| *lock.write() += 1),
                asleep(written, gate, |lock| drop(lock.upgradable_read())),
                asleep(upgradable, gate, |lock| *lock.write() += 1),
                asleep(read, gate, |lock| *lock.write() += 1),
                asleep(read, gate, |lock| drop(lock.upgradable_read())),
            ];
            fork_with(&guards, |(of_written, of_upgradable, of_read)| {
                let guard = RwLockWriteGuard::downgrade(of_written);
                ensure(lets_in(written) == (true, false), "downgraded, not unlocked")?;
                drop(guard);
                works(written)?;
                let guard = RwLockUpgradableReadGuard::upgrade(of_upgradable);
                ensure(lets_in(upgradable) == (false, false), "upgraded, and not alone")?;
                RwLockWriteGuard::unlock_fair(guard);
                works(upgradable)?;
                RwLockUpgradableReadGuard::unlock_fair(of_read);
                works(read)
            });
            gate.open();
            drop(guards);
            join_all(threads);
        }
    });
}

/// Writers wait for the forking thread to stop reading. They do not exist in the child.
#[test]
fn a_writer_waits_for_readers_at_a_fork() {
    alone("a_writer_waits_for_readers_at_a_fork", 5 * LIMIT, || {
        for in_slot in [true, false, true, false] {
            let gate: &'static Gate = Box::leak(Box::default());
            let lock = || if in_slot { biased_lock() } else { new_lock() };
            let read = |lock: &'static Lock| if in_slot { read_in_slot(lock) } else { lock.read() };
            // One is waited for by two writers, of which one has the role; one by an upgradable reader too.
            let locks = [lock(), lock(), lock()];
            let guards = locks.map(read);
            let write = |lock| asleep(lock, gate, |lock: &'static Lock| *lock.write() += 1);
            let upgrade = |lock: &'static Lock| {
                *RwLockUpgradableReadGuard::upgrade(lock.upgradable_read()) += 1;
            };
            let writers = [
                write(locks[0]),
                write(locks[1]),
                write(locks[1]),
                asleep(locks[2], gate, upgrade),
                write(locks[2]),
            ];
            fork_with(&guards, |guards| {
                for lock in locks {
                    ensure(!lets_in(lock).1, "the forking thread reads no more")?;
                }
                drop(guards);
                works(locks[0])?;
                works(locks[1])?;
                // The upgradable reader of the parent reads for ever.
                ensure(lets_in(locks[2]) == (true, false), "it does not read, or it drains")?;
                ensure(locks[2].try_upgradable_read().is_none(), "there are two upgradable readers")
            });
            gate.open();
            drop(guards);
            join_all(writers);
        }
    });
}

/// What a handler of forks does in the child, before that of the crate has run.
static FIRST_IN_CHILD: AtomicPtr<Lock> = AtomicPtr::new(std::ptr::null_mut());

/// Lets the thread of the handler end.
static END: AtomicBool = AtomicBool::new(false);

/// A thread of the child reads, and stays.
extern "C" fn first_in_child() {
    // SAFETY: null, or a lock that is never freed.
    if let Some(lock) = unsafe { FIRST_IN_CHILD.load(Ordering::Relaxed).as_ref() } {
        let (send, ready) = channel();
        thread::spawn(move || {
            drop(read_in_slot(lock));
            send.send(()).unwrap();
            while !END.load(Ordering::Relaxed) {
                thread::yield_now();
            }
        });
        ready.recv().unwrap();
    }
}

/// Runs when the program is loaded, before the crate's own function, which has no number.
#[used]
#[unsafe(link_section = ".init_array.00001")]
static AT_LOAD: extern "C" fn() = {
    extern "C" fn register() {
        // SAFETY: the handler does what the C library allows in it.
        unsafe { libc::pthread_atfork(None, None, Some(first_in_child)) };
    }
    register
};

/// A thread that has got its slots before the crate's own handler ran keeps them for itself: no other thread
/// gets the same ones.
#[test]
fn an_earlier_handler_reads_in_the_child() {
    /// The threads of the process that can have slots.
    const LINES: u32 = 2048;
    const READERS: u32 = LINES + 50;
    alone("an_earlier_handler_reads_in_the_child", 5 * LIMIT, || {
        let lock = biased_lock();
        FIRST_IN_CHILD.store(std::ptr::from_ref(lock).cast_mut(), Ordering::Relaxed);
        let forked = Forked::start(|_| {
            let leave = Gate::default();
            let (number, counts) = (AtomicU32::new(0), AtomicU32::new(0));
            thread::scope(|scope| {
                for _ in 0..READERS {
                    let reader = || {
                        let _guard = lock.read();
                        if number.fetch_add(1, Ordering::SeqCst) + 1 == READERS {
                            counts.store(counted(lock), Ordering::SeqCst);
                            leave.open();
                        }
                        leave.pass();
                    };
                    let thread = thread::Builder::new().stack_size(1 << 16);
                    thread.spawn_scoped(scope, reader).expect("a thread starts");
                }
            });
            END.store(true, Ordering::Relaxed);
            let in_slots = READERS - counts.into_inner();
            // Those of this thread, and of the handler's, are theirs.
            let expected = if has_slots() { LINES - 2 } else { 0 };
            ensure(in_slots == expected, "two threads have the same slots")?;
            ensure(lets_in(lock) == (true, true), "a reader stays behind")
        });
        forked.expect_success(LIMIT);
    });
}

/// Threads that do not exist in the child leave their slots to others.
#[test]
fn slots_of_threads_that_are_gone() {
    /// More than there are lines.
    const THREADS: usize = 2_100;
    alone("slots_of_threads_that_are_gone", 5 * LIMIT, || {
        let (lock, gate) = (biased_lock(), &*Box::leak(Box::<Gate>::default()));
        let (send, ready) = channel();
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                let (lock, send) = (lock, send.clone());
                let reader = move || {
                    drop(lock.read());
                    send.send(()).unwrap();
                    gate.pass();
                };
                let thread = thread::Builder::new().stack_size(1 << 16);
                thread.spawn(reader).expect("a thread starts")
            })
            .collect();
        threads.iter().for_each(|_| ready.recv().unwrap());
        let counts_in_a_new_thread = move || {
            let reader = move || {
                let _guard = lock.read();
                counted(lock)
            };
            thread::spawn(reader).join().expect("no panic")
        };
        assert_eq!(counts_in_a_new_thread(), 1, "there is a free line");
        let forked = Forked::start(|_| {
            let is_in_slot = counts_in_a_new_thread() == 0;
            ensure(is_in_slot == has_slots(), "lines belong to threads that do not exist")?;
            works(lock)
        });
        forked.expect_success(2 * LIMIT);
        gate.open();
        join_all(threads);
    });
}

/// What one child has found.
#[cfg(all(target_arch = "x86_64", not(feature = "trace")))]
const WRITES: u32 = 1;
#[cfg(all(target_arch = "x86_64", not(feature = "trace")))]
const IS_LOCKED: u32 = 2;

/// Forks before each instruction of a thread that reads.
#[cfg(all(target_arch = "x86_64", not(feature = "trace")))]
fn fork_at_each_step_of_a_reader(lock: &'static Lock, reads: fn(&'static Lock)) -> (usize, usize) {
    let (mut held, mut pending) = (0, 0);
    let between = |step| {
        let is_locked = lock.is_locked();
        let forked = Forked::start(|found| {
            let writes = lock.try_write().is_some();
            ensure(writes != lock.is_locked(), "neither free nor held")?;
            found.store(if writes { WRITES } else { IS_LOCKED }, Ordering::SeqCst);
            ensure(lock.try_read().is_some(), "the reader of another thread keeps readers out")?;
            if writes { works(lock) } else { Ok(()) }
        });
        forked.expect_success(LIMIT);
        let writes = forked.step() == WRITES;
        assert!(is_locked || writes, "step {step}: a free lock is held in the child");
        held += usize::from(!writes);
        pending += usize::from(is_locked && writes);
    };
    support::single_step::single_step(|| drop(read_in_slot(lock)), |()| reads(lock), between);
    (held, pending)
}

/// A thread that reads the clock gets on, however long it is stopped at each instruction.
#[cfg(all(target_arch = "x86_64", not(feature = "trace")))]
#[test]
fn a_clock_is_read_in_steps() {
    /// Longer than a tick of the kernel, which moves the clock.
    const STOP: Duration = Duration::from_millis(5);
    alone("a_clock_is_read_in_steps", LIMIT, || {
        let spin = |_| {
            let end = Instant::now() + STOP;
            while Instant::now() < end {
                thread::yield_now();
            }
        };
        support::single_step::single_step(
            || (),
            |()| _ = std::hint::black_box(Instant::now()),
            spin,
        );
    });
}

/// A thread that says in its slot that it is about to read does not read in the child.
// With it a thread is stopped in the allocator of the system, which a fork waits for.
#[cfg(all(target_arch = "x86_64", not(feature = "trace")))]
#[test]
fn a_fork_at_each_step_of_a_reader() {
    alone("a_fork_at_each_step_of_a_reader", 5 * LIMIT, || {
        for reads in
            [|lock: &'static Lock| drop(lock.read()), |lock: &'static Lock| drop(lock.try_read())]
        {
            let (held, pending) = fork_at_each_step_of_a_reader(biased_lock(), reads);
            println!("held at {held} steps, about to read at {pending}");
            assert!(held > 0, "the reader is never in");
            assert_eq!(pending > 0, has_slots(), "no fork came in the middle of a publication");
        }
    });
}

/// Nor is a lock closed for ever that a thread was about to hold.
// With it a thread is stopped in the allocator of the system, which a fork waits for.
#[cfg(all(target_arch = "x86_64", not(feature = "trace")))]
#[test]
fn a_fork_at_the_steps_of_a_writer() {
    alone("a_fork_at_the_steps_of_a_writer", 5 * LIMIT, || {
        let writes: [fn(&'static Lock); 2] = [
            |lock| drop(lock.try_write().expect("nobody else is there")),
            |lock| {
                let guard = lock.upgradable_read();
                drop(RwLockUpgradableReadGuard::try_upgrade(guard).expect("nobody else is there"));
            },
        ];
        const EACH: usize = 16;
        for (upgrades, writes) in [false, true].into_iter().zip(writes) {
            let lock = biased_lock();
            let (mut draining, mut last) = (0, None);
            let between = |step| {
                let is_held = lock.is_locked_exclusive();
                // Nobody reads.
                let is_draining = lock.is_locked() && !is_held;
                draining += usize::from(is_draining);
                // It takes thousands of steps, of which most are alike.
                let state = Some((is_held, is_draining));
                if std::mem::replace(&mut last, state) == state && step % EACH != 0 {
                    return;
                }
                let forked = Forked::start(|_| {
                    ensure(
                        lock.is_locked_exclusive() == is_held,
                        "another one has it in the child",
                    )?;
                    if is_held {
                        return ensure(lock.try_read().is_none(), "a reader beside a writer");
                    }
                    ensure(lock.try_read().is_some(), "closed for a writer that is not there")?;
                    // Who read upgradably does so for ever.
                    let is_read = lock.is_locked();
                    ensure(upgrades || !is_read, "a writer that is not there reads")?;
                    ensure(is_read || !(upgrades && is_draining), "it read before it would write")?;
                    ensure(lock.try_write().is_none() == is_read, "neither free nor held")
                });
                forked.expect_success(LIMIT);
                assert_eq!(forked.step(), 0, "step {step}");
            };
            support::single_step::single_step(
                || drop(read_in_slot(lock)),
                |()| writes(lock),
                between,
            );
            println!("about to write at {draining} steps");
            assert!(draining > 0 || !has_slots() && !upgrades, "no fork came in the middle");
        }
    });
}

//! Readers in slots: their guards outlive threads, thread-local variables and locks.
//!
//! Where there are no slots, as with `--cfg lockword_symmetric`, the same is asked of counted readers.

use crate::asleep::spawn_parked;
use crate::slots_of::{counted, has_slots, is_biased, read_in_slot};
use crate::within::within_limit;
use lockword::{RwLock, SendRwLock};
use std::cell::Cell;
use std::mem::forget;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

/// For threads that try in vain.
const SHORT: Duration = Duration::from_millis(2);

/// Whether another thread may read, and whether it may write.
fn lets_in<T: Send + Sync>(lock: &RwLock<T>) -> (bool, bool) {
    thread::scope(|s| {
        let look = || {
            let reads = lock.try_read().is_some();
            (reads, lock.try_write().is_some())
        };
        s.spawn(look).join().unwrap()
    })
}

/// A thread with a guard of `lock`, which it keeps until it is told to let go; then it answers.
struct Reader {
    go: Sender<()>,
    thread: thread::JoinHandle<()>,
}

impl Reader {
    fn start(lock: &'static RwLock<u32>) -> Self {
        let (go, told) = channel();
        let (send, ready) = channel();
        let thread = thread::spawn(move || {
            let guard = read_in_slot(lock);
            send.send(()).unwrap();
            told.recv().expect("the test lives");
            drop(guard);
        });
        ready.recv().expect("the reader lives");
        Reader { go, thread }
    }

    fn end(self) {
        self.go.send(()).expect("the reader lives");
        self.thread.join().unwrap();
    }
}

#[test]
fn a_thread_has_more_guards_than_slots() {
    within_limit(|| {
        const GUARDS: usize = 20;
        let locks = [RwLock::new(0), RwLock::new(1)];
        // Each order of leaving ends with another guard.
        for leave in [|_: usize| 0, |left: usize| left - 1, |left: usize| left / 2] {
            locks.iter().for_each(|lock| drop(read_in_slot(lock)));
            let mut guards: Vec<_> = (0..GUARDS).map(|i| (i % 2, locks[i % 2].read())).collect();
            let counted: u32 = locks.iter().map(counted).sum();
            assert!(counted > 0, "a thread has no end of slots");
            assert_eq!(counted < GUARDS as u32, has_slots(), "{counted} are counted");
            while !guards.is_empty() {
                drop(guards.swap_remove(leave(guards.len())));
                for (number, lock) in locks.iter().enumerate() {
                    let is_read = guards.iter().any(|guard| guard.0 == number);
                    assert_eq!(lock.is_locked(), is_read);
                    // Not what takes the bias away, while readers are to come.
                    assert!(!is_read || lets_in(lock) == (true, false));
                }
                guards.iter().for_each(|(number, guard)| assert_eq!(*number, **guard));
            }
        }
        assert!(locks.iter().all(|lock| lets_in(lock) == (true, true)));
    });
}

/// The guard is dropped in another thread, while a writer waits for it and other threads use the slots of
/// its maker's line.
#[test]
fn a_guard_outlives_its_thread() {
    static LOCK: SendRwLock<u32> = SendRwLock::new(0);
    static OTHER: RwLock<u32> = RwLock::new(0);
    within_limit(|| {
        for round in 0..20 {
            let guard = thread::spawn(|| read_in_slot(&LOCK)).join().unwrap();
            let others = [(); 3].map(|()| Reader::start(&OTHER));
            assert_eq!(*guard, round);
            assert!(LOCK.try_write().is_none(), "the guard went with its thread");
            thread::scope(|s| {
                let writer = spawn_parked(s, || *LOCK.write() += 1);
                assert_eq!(*guard, round);
                drop(guard);
                writer.join().unwrap();
            });
            for other in others {
                assert!(OTHER.try_write().is_none(), "a stranger's slot was cleared");
                other.end();
            }
            drop(OTHER.try_write().expect("all have left"));
        }
    });
}

#[test]
fn a_thread_ends_without_its_guard() {
    static LOCK: RwLock<u32> = RwLock::new(0);
    within_limit(|| {
        thread::spawn(|| forget(read_in_slot(&LOCK))).join().unwrap();
        let others = [(); 3].map(|()| Reader::start(&LOCK));
        others.into_iter().for_each(Reader::end);
        assert_eq!(lets_in(&LOCK), (true, false), "the guard was forgotten, not dropped");
        assert!(LOCK.try_write_for(SHORT).is_none());
        assert!(LOCK.is_locked());
        assert_eq!(lets_in(&LOCK), (true, false), "who gives up keeps no reader out");
    });
}

type Task = Box<dyn FnOnce()>;

/// Runs a task when it is dropped.
struct AtExit(Cell<Option<Task>>);

impl Drop for AtExit {
    fn drop(&mut self) {
        if let Some(task) = self.0.take() {
            task();
        }
    }
}

thread_local!(static AT_EXIT: AtExit = const { AtExit(Cell::new(None)) });

/// A thread with a guard of `lock`. In a destructor that runs after that of the slots it says how many readers
/// of `lock` are counted: with its guard, and with another one that it takes there instead.
fn reader_in_a_destructor(
    lock: &'static RwLock<u32>,
    go: Receiver<()>,
    said: Sender<u32>,
) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        // Destructors run in the reverse order of their registration: this is the first.
        AT_EXIT.with(|_| ());
        let guard = read_in_slot(lock);
        let last = move || {
            // It must not panic: that aborts.
            let _ = said.send(counted(lock));
            let _ = go.recv();
            drop(guard);
            let guard = lock.read();
            let _ = said.send(counted(lock));
            let _ = go.recv();
            drop(guard);
        };
        AT_EXIT.with(|exit| exit.0.set(Some(Box::new(last))));
    })
}

#[test]
fn slots_are_gone_before_the_last_destructor() {
    static LOCK: RwLock<u32> = RwLock::new(0);
    static OTHER: RwLock<u32> = RwLock::new(0);
    within_limit(|| {
        let in_slot = u32::from(!has_slots());
        for _ in 0..10 {
            let (go, told) = channel();
            let (said, hear) = channel();
            let thread = reader_in_a_destructor(&LOCK, told, said);
            assert_eq!(hear.recv(), Ok(in_slot), "the guard is in its slot");
            // Some thread adopts what there is.
            let others = [(); 3].map(|()| Reader::start(&OTHER));
            assert_eq!(lets_in(&LOCK), (true, false), "the guard outlives the line");
            go.send(()).unwrap();
            assert_eq!(hear.recv(), Ok(1), "a thread has the slots of another one");
            assert_eq!(lets_in(&LOCK), (true, false), "a reader without slots reads");
            go.send(()).unwrap();
            thread.join().expect("no panic");
            for other in others {
                assert!(OTHER.try_write().is_none(), "a stranger's slot was cleared");
                other.end();
            }
            assert_eq!(lets_in(&LOCK), (true, true));
        }
    });
}

/// As long as the destructor of the slots has not run, a destructor reads in a slot.
#[test]
fn a_destructor_reads_in_a_slot() {
    static LOCK: RwLock<u32> = RwLock::new(0);
    within_limit(|| {
        let (said, hear) = channel();
        let thread = thread::spawn(move || {
            drop(read_in_slot(&LOCK));
            let last = move || {
                let guard = LOCK.read();
                let _ = said.send((counted(&LOCK), LOCK.try_write().is_some()));
                drop(guard);
            };
            AT_EXIT.with(|exit| exit.0.set(Some(Box::new(last))));
        });
        assert_eq!(hear.recv(), Ok((u32::from(!has_slots()), false)));
        thread.join().expect("no panic");
        assert_eq!(lets_in(&LOCK), (true, true));
    });
}

/// Reads in a slot, in a thread of its own, and forgets the guard.
fn abandon(lock: &RwLock<u32>) {
    // A thread has few slots.
    thread::scope(|s| s.spawn(|| forget(read_in_slot(lock))).join().unwrap());
    assert_eq!(lets_in(lock), (true, false));
}

#[test]
fn a_new_lock_is_free_where_one_was_read() {
    within_limit(|| {
        let mut reused = RwLock::new(0);
        for _ in 0..10 {
            abandon(&reused);
            reused = RwLock::new(0);
            assert!(!reused.is_locked());
            // It is biased, and scans for its readers.
            drop(read_in_slot(&reused));
            assert_eq!(is_biased(&reused), has_slots());
            assert!(!reused.is_locked(), "it has the reader of another lock");
            *reused.try_write().expect("it has the reader of another lock") += 1;
            *reused.write() += 1;
        }
    });
}

#[test]
fn a_lock_moves_and_is_dropped_while_it_is_read() {
    struct Counted<'a>(&'a AtomicUsize);
    impl Drop for Counted<'_> {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    within_limit(|| {
        let drops = AtomicUsize::new(0);
        for round in 1..=3 {
            let lock = RwLock::new(Counted(&drops));
            thread::scope(|s| s.spawn(|| forget(read_in_slot(&lock))).join().unwrap());
            let there = Box::new(lock);
            assert!(there.is_locked(), "the lock travels with its state");
            assert_eq!(lets_in(&there), (true, false));
            assert!(there.try_write_for(SHORT).is_none());
            let back = *there;
            assert_eq!(lets_in(&back), (true, false));
            if round == 2 {
                drop(back.into_inner());
            } else {
                drop(back);
            }
            assert_eq!(drops.load(Ordering::Relaxed), round, "the data is dropped once");
        }
    });
}

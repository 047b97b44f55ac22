//! Clean programs, of which nothing is said: by no report, and by no watcher that looks all the time.

use crate::support::asleep::Tid;
use crate::support::child;
use crate::support::random::Rng;
use crate::support::setting::env_number;
use crate::{alone, assert_silent, reports, silent, until};
use lockword::debug::{allow_order, check_deadlock, set_class};
use lockword::{
    Condvar, Mutex, MutexGuard, RawLock, ReadRecursive, RecursiveRwLock, ReentrantMutex, RwLock,
    RwLockUpgradableReadGuard, RwLockWriteGuard, SendMutex, SendMutexGuard,
};
use std::mem::MaybeUninit;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

const THREADS: usize = 4;
const ROUNDS: usize = 500;

/// Runs this in some threads at a time, each with its number.
fn threads(body: impl Fn(usize) + Sync) {
    thread::scope(|s| {
        let body = &body;
        (0..THREADS).for_each(|thread| {
            s.spawn(move || body(thread));
        });
    });
}

#[test]
fn hand_over_hand() {
    silent("clean::hand_over_hand", || {
        let list: Vec<Mutex<usize>> = (0..10).map(Mutex::new).collect();
        threads(|_| {
            for _ in 0..ROUNDS {
                let mut guard: MutexGuard<usize> = list[0].lock();
                for next in &list[1..] {
                    let mut after = next.lock();
                    std::mem::swap(&mut *guard, &mut *after);
                    guard = after;
                }
            }
        });
    });
}

#[test]
fn try_lock_back_off() {
    silent("clean::try_lock_back_off", || {
        let locks = [Mutex::new(0), Mutex::new(0)];
        threads(|thread| {
            let (first, second) = (&locks[thread % 2], &locks[(thread + 1) % 2]);
            for _ in 0..ROUNDS {
                loop {
                    let _first = first.lock();
                    if let Some(mut second) = second.try_lock() {
                        *second += 1;
                        break;
                    }
                }
            }
        });
    });
}

#[test]
fn ordered_pairs() {
    silent("clean::ordered_pairs", || {
        let accounts: Vec<Mutex<i64>> = (0..8).map(Mutex::new).collect();
        threads(|thread| {
            for round in 0..ROUNDS {
                let (from, to) = ((round * 3 + thread) % 8, (round * 5 + 1) % 8);
                if from != to {
                    let mut low = accounts[from.min(to)].lock();
                    let mut high = accounts[from.max(to)].lock();
                    (*low, *high) = (*low - 1, *high + 1);
                }
            }
        });
    });
}

/// Each lock has its first place by chance: as the lower one, or as the higher one.
#[test]
fn locks_in_order_at_two_places() {
    silent("clean::locks_in_order_at_two_places", || {
        let locks = [0, 1, 2].map(Mutex::new);
        let take = |low: usize, high: Option<usize>| {
            let _low = locks[low].lock();
            if let Some(high) = high {
                *locks[high].lock() += 1;
            }
        };
        take(0, Some(1));
        take(2, None);
        take(1, Some(2));
    });
}

#[test]
fn classes_in_a_constant_order() {
    silent("clean::classes_in_a_constant_order", || {
        let (a, b, c) = (Mutex::new(0), RwLock::new(0), lockword::sync::Mutex::new(0));
        threads(|thread| {
            for round in 0..ROUNDS {
                let _a = (round % 3 != 0).then(|| a.lock());
                let _b = (round % 2 != 0).then(|| b.write());
                *c.lock().unwrap() += thread;
            }
        });
    });
}

#[test]
fn readers_and_writers() {
    silent("clean::readers_and_writers", || {
        let (outer, inner) = (RwLock::new(0), RwLock::new(0));
        threads(|thread| {
            for round in 0..ROUNDS {
                if (round + thread) % 16 == 0 {
                    *outer.write() += 1;
                } else if (round + thread) % 16 == 1 {
                    *inner.write() += 1;
                } else {
                    let _outer = outer.read();
                    let _inner = inner.read();
                    let _again = outer.read_recursive();
                }
            }
        });
    });
}

#[test]
fn recursive_readers() {
    silent("clean::recursive_readers", || {
        let locks = [RecursiveRwLock::new(0), RecursiveRwLock::new(0)];
        threads(|thread| {
            for round in 0..ROUNDS {
                if (round + thread) % 16 == 0 {
                    *locks[thread % 2].write() += 1;
                }
                let _guards = (locks[thread % 2].read(), locks[(thread + 1) % 2].read());
                let _again = locks[thread % 2].read();
            }
        });
    });
}

#[test]
fn upgrades_and_downgrades() {
    silent("clean::upgrades_and_downgrades", || {
        let lock = RwLock::new(0);
        threads(|_| {
            for round in 0..ROUNDS {
                let upgradable = lock.upgradable_read();
                let mut write = RwLockUpgradableReadGuard::upgrade(upgradable);
                *write += 1;
                if round % 2 == 0 {
                    let _read = RwLockWriteGuard::downgrade(write);
                } else {
                    let upgradable = RwLockWriteGuard::downgrade_to_upgradable(write);
                    let _read = RwLockUpgradableReadGuard::downgrade(upgradable);
                }
                let _ = *lock.read();
            }
        });
        assert_eq!(*lock.read(), THREADS * ROUNDS);
    });
}

#[test]
fn producers_and_consumers() {
    silent("clean::producers_and_consumers", || {
        let (queue, changed) = (Mutex::new(vec![]), Condvar::new());
        threads(|thread| {
            for round in 0..ROUNDS {
                if thread % 2 == 0 {
                    queue.lock().push(round);
                    changed.notify_one();
                } else {
                    let mut queue = queue.lock();
                    changed.wait_while(&mut queue, |queue| queue.is_empty());
                    queue.pop();
                }
            }
        });
    });
}

/// Two threads that wait for each other, of which one gives up.
#[test]
fn timed_waits() {
    silent("clean::timed_waits", || {
        let locks = [Mutex::new(0), Mutex::new(0)];
        let both = Barrier::new(2);
        let asleep = [Tid::default(), Tid::default()];
        thread::scope(|s| {
            let threads = [0, 1].map(|thread| {
                let (locks, both, asleep) = (&locks, &both, &asleep);
                s.spawn(move || {
                    let _own = locks[thread].lock();
                    both.wait();
                    asleep[thread].set();
                    let seconds = if thread == 0 { 1 } else { 1000 };
                    locks[1 - thread].try_lock_for(Duration::from_secs(seconds)).is_some()
                })
            });
            asleep.iter().for_each(Tid::wait_until_asleep);
            while !threads[0].is_finished() {
                assert_eq!(check_deadlock().len(), 0);
            }
            assert_eq!(threads.map(|thread| thread.join().unwrap()), [false, true]);
        });
    });
}

/// A reader waits behind a writer that gives up.
#[test]
fn a_reader_behind_a_writer_with_a_timeout() {
    silent("clean::a_reader_behind_a_writer_with_a_timeout", || {
        let (lock, mutex, both) = (RwLock::new(()), Mutex::new(()), Barrier::new(2));
        set_class(&lock, "lock");
        set_class(&mutex, "mutex");
        allow_order("lock", "mutex");
        thread::scope(|s| {
            s.spawn(|| {
                let _read = lock.read();
                both.wait();
                // Not before the other one has the mutex.
                both.wait();
                drop(mutex.lock());
            });
            both.wait();
            let writer = s.spawn(|| lock.try_write_for(Duration::from_secs(1)).is_some());
            let reader = s.spawn(|| {
                let _mutex = mutex.lock();
                until("the writer keeps readers out", || lock.try_read().is_none());
                both.wait();
                drop(lock.read());
            });
            while !reader.is_finished() {
                assert_eq!(check_deadlock().len(), 0);
            }
            assert!(!writer.join().unwrap(), "it has given up");
        });
    });
}

/// Two orders that are kept apart by a third lock, while many threads make each reading of their records take long.
#[test]
fn orders_behind_a_gate() {
    silent("clean::orders_behind_a_gate", || {
        allow_order("a", "b");
        allow_order("b", "a");
        let (gate, a, b) = (Mutex::new(()), Mutex::new(()), Mutex::new(()));
        set_class(&a, "a");
        set_class(&b, "b");
        let stop = AtomicBool::new(false);
        let is_running = || !stop.load(Ordering::Relaxed);
        let (started, end) = (Barrier::new(2), Barrier::new(51));
        let behind = |first: &Mutex<()>, second: &Mutex<()>| {
            while is_running() {
                let _gate = gate.lock();
                let _first = first.lock();
                let _second = second.lock();
            }
        };
        thread::scope(|s| {
            s.spawn(|| {
                drop(a.lock());
                started.wait();
                behind(&a, &b);
            });
            started.wait();
            for _ in 0..50 {
                s.spawn(|| {
                    let own: Vec<_> = (0..100).map(Mutex::new).collect();
                    // By tries, which have no order.
                    let _held: Vec<_> = own.iter().map(Mutex::try_lock).collect();
                    end.wait();
                });
            }
            s.spawn(|| behind(&b, &a));
            for lock in [&a, &b] {
                s.spawn(|| {
                    while is_running() {
                        let _lock = lock.lock();
                        thread::yield_now();
                    }
                });
            }
            let begin = Instant::now();
            while begin.elapsed() < Duration::from_secs(2) {
                assert_eq!(check_deadlock().len(), 0);
            }
            stop.store(true, Ordering::Relaxed);
            end.wait();
        });
    });
}

#[test]
fn a_reentrant_mutex_is_locked_again() {
    silent("clean::a_reentrant_mutex_is_locked_again", || {
        let (lock, other) = (ReentrantMutex::new(()), Mutex::new(()));
        threads(|_| {
            for _ in 0..ROUNDS {
                let _outer = lock.lock();
                let _other = other.lock();
                // Not an order: the thread has it.
                let _inner = lock.lock();
            }
        });
    });
}

/// The order of the addresses is that of now.
#[test]
fn locks_that_move() {
    silent("clean::locks_that_move", || {
        let mut locks = [Mutex::new(0), Mutex::new(1)];
        for _ in 0..3 {
            let both = [&locks[0], &locks[1]].map(Mutex::lock);
            drop(both);
            let [a, b] = &mut locks;
            std::mem::swap(a, b);
        }
    });
}

/// A lock is dropped, and another one is made at its address.
#[test]
fn locks_at_one_address() {
    silent("clean::locks_at_one_address", || {
        let mut memory = [const { MaybeUninit::<Mutex<u32>>::uninit() }; 2];
        for round in 0..4 {
            memory.iter_mut().for_each(|memory| {
                memory.write(Mutex::new(0));
            });
            // SAFETY: just written.
            let locks = memory.each_ref().map(|memory| unsafe { memory.assume_init_ref() });
            let order = [locks[round % 2], locks[(round + 1) % 2]];
            drop(order.map(Mutex::lock));
        }
    });
}

/// The thread that acquired a lock need not be the one that has it.
#[test]
fn guards_that_are_sent() {
    silent("clean::guards_that_are_sent", || {
        static SENT: SendMutex<u32> = SendMutex::new(0);
        let other = Mutex::new(());
        for _ in 0..ROUNDS / 5 {
            let (sender, receiver) = channel::<SendMutexGuard<'static, u32>>();
            let (go, gone) = channel();
            thread::scope(|s| {
                let other = &other;
                s.spawn(move || {
                    // Has the other mutex, and waits for the one that was sent.
                    let _other = other.lock();
                    go.send(()).unwrap();
                    *SENT.lock() += 1;
                });
                s.spawn(move || {
                    let guard = SENT.lock();
                    sender.send(guard).unwrap();
                    // The guard is elsewhere by now.
                    drop(other.lock());
                });
                s.spawn(move || {
                    gone.recv().unwrap();
                    let guard = receiver.recv().unwrap();
                    thread::sleep(Duration::from_millis(1));
                    drop(guard);
                });
            });
        }
    });
}

/// Threads come and go, with locks held and forgotten.
#[test]
fn threads_that_end() {
    silent("clean::threads_that_end", || {
        let locks: Vec<_> = (0..100).map(Mutex::new).collect();
        let shared = Mutex::new(0);
        for lock in &locks {
            thread::scope(|s| {
                s.spawn(|| std::mem::forget(lock.lock()));
                s.spawn(|| *shared.lock() += 1);
            });
            // SAFETY: the guard was forgotten, and nobody else has the lock.
            unsafe { lock.force_unlock(lockword::lock_api::GuardNoSend::new()) };
            *lock.lock() += 1;
        }
    });
}

/// All locks in all ways, in one order, while somebody looks all the time: for `LOCKWORD_STRESS_SECS`.
#[test]
fn everything_at_once() {
    let test = "clean::everything_at_once";
    let time = Duration::from_secs(env_number("LOCKWORD_STRESS_SECS", 2));
    let body = || {
        let end = Instant::now() + time;
        let (first, last) = (Mutex::new(0), Mutex::new(0));
        let (outer, inner) = (RwLock::new(0), lockword::sync::RwLock::new(0));
        let changed = Condvar::new();
        let soon = Duration::from_micros(50);
        let step = |rng: &mut Rng| {
            let _first = match rng.below(4) {
                0 => Some(first.lock()),
                1 => first.try_lock_for(soon),
                _ => None,
            };
            let mut write = None;
            let _outer = match rng.below(8) {
                0 => {
                    write = Some(outer.write());
                    None
                }
                1 => {
                    write = outer.try_write();
                    None
                }
                2 => {
                    write = outer.try_write_for(soon);
                    None
                }
                3 => {
                    write = Some(RwLockUpgradableReadGuard::upgrade(outer.upgradable_read()));
                    None
                }
                4 => Some(RwLockWriteGuard::downgrade(outer.write())),
                5 => Some(outer.read_recursive()),
                _ => Some(outer.read()),
            };
            if let Some(write) = &mut write {
                **write += 1;
            }
            let _inner = (rng.below(4) != 0).then(|| inner.read().unwrap());
            if _inner.is_none() && rng.below(4) == 0 {
                *inner.write().unwrap() += 1;
            }
            let mut last = last.lock();
            *last += 1;
            match rng.below(8) {
                0 => drop(changed.wait_for(&mut last, soon)),
                1 => drop(changed.notify_all()),
                2 => MutexGuard::bump(&mut last),
                3 => MutexGuard::unlock_fair(last),
                _ => {}
            }
        };
        thread::scope(|s| {
            for seed in 0..2 * THREADS {
                s.spawn(move || {
                    let mut rng = Rng::new(7, seed);
                    while Instant::now() < end {
                        step(&mut rng);
                    }
                });
            }
            while Instant::now() < end {
                let found = check_deadlock();
                assert!(found.is_empty(), "{}", found[0]);
            }
        });
    };
    // It may take longer than other tests.
    if child::role().is_some() {
        silent(test, body);
    } else {
        child::run(test, "alone", time + crate::limit()).expect_success(test);
    }
}

/// A thread that has locked a raw lock does not hold it any more when another one has released it.
#[test]
fn a_raw_lock_that_another_thread_releases() {
    silent("clean::a_raw_lock_that_another_thread_releases", || {
        let (raw, mutex) = (RawLock::new(), Mutex::new(()));
        let both = Barrier::new(2);
        let (first, second) = (Tid::default(), Tid::default());
        thread::scope(|s| {
            s.spawn(|| {
                raw.lock();
                both.wait();
                // The mutex is held by the one that waits for the raw lock.
                both.wait();
                first.set();
                drop(mutex.lock());
            });
            both.wait();
            // SAFETY: the other thread has locked it, and leaves it to this one.
            unsafe { raw.unlock() };
            raw.lock();
            s.spawn(|| {
                let _mutex = mutex.lock();
                second.set();
                raw.lock();
                // SAFETY: just locked.
                unsafe { raw.unlock() };
            });
            second.wait_until_asleep();
            both.wait();
            first.wait_until_asleep();
            assert_eq!(check_deadlock().len(), 0);
            // SAFETY: locked above.
            unsafe { raw.unlock() };
        });
    });
}

/// A callback may panic: nothing comes out of the lock, not out of the wait of a Condvar either.
#[test]
fn a_callback_that_panics() {
    alone("clean::a_callback_that_panics", || {
        lockword::debug::on_report(|_| panic!("a callback may panic"));
        let (a, b, condvar) = (Mutex::new(()), Mutex::new(()), Condvar::new());
        {
            let mut a = a.lock();
            let _b = b.lock();
            condvar.wait_for(&mut a, Duration::ZERO);
        }
        let (c, d) = (Mutex::new(()), Mutex::new(()));
        drop((c.lock(), d.lock()));
        drop((d.lock(), c.lock()));
        let reports = reports();
        drop((d.lock(), c.lock()));
        assert_silent(&reports);
    });
}

//! Where the instruments must not be in the way: in destructors of thread-locals, and in children of a `fork`.

use crate::support::asleep::Tid;
use crate::{alone, assert_silent, reports};
use lockword::debug::check_deadlock;
use lockword::{Mutex, RwLock};
use std::cell::RefCell;
use std::thread;

#[test]
fn a_destructor_of_a_thread_local_locks() {
    alone("process::a_destructor_of_a_thread_local_locks", || {
        static LOCKS: (Mutex<u32>, RwLock<u32>) = (Mutex::new(0), RwLock::new(0));
        struct Locks;
        impl Drop for Locks {
            fn drop(&mut self) {
                *LOCKS.0.lock() += 1;
                let read = *LOCKS.1.read();
                *LOCKS.1.write() += read;
            }
        }
        thread_local!(static LOCAL: RefCell<Vec<Locks>> = const { RefCell::new(vec![]) });
        thread_local!(static LATER: RefCell<Vec<Locks>> = const { RefCell::new(vec![]) });
        let reports = reports();
        for _ in 0..50 {
            let body = || {
                // One is destroyed before the instruments are, and one after.
                LOCAL.with_borrow_mut(|locals| locals.push(Locks));
                drop(LOCKS.0.lock());
                LATER.with_borrow_mut(|locals| locals.push(Locks));
            };
            thread::spawn(body).join().unwrap();
        }
        assert_eq!(*LOCKS.0.lock(), 100);
        assert_silent(&reports);
        assert_eq!(check_deadlock().len(), 0);
    });
}

/// A child that hangs ends by a signal.
#[cfg(unix)]
fn end_soon() {
    // SAFETY: sets a timer of this process, which has no handler.
    unsafe { libc::alarm(20) };
}

#[cfg(unix)]
#[test]
fn a_child_knows_nothing_of_the_threads_of_its_parent() {
    use crate::{found, spawn};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, Barrier};

    alone("process::a_child_knows_nothing_of_the_threads_of_its_parent", || {
        // A deadlock in the parent, and a thread that reads its records all the time, and one that adds orders.
        let shared = Arc::new(([Mutex::new(0), Mutex::new(0)], Barrier::new(2)));
        for at in 0..2 {
            let shared = shared.clone();
            spawn("stuck", move || {
                let (locks, both) = &*shared;
                let _own = locks[at].lock();
                both.wait();
                let _next = locks[1 - at].lock();
            });
        }
        found(1);
        let stop = AtomicBool::new(false);
        let held = Mutex::new(0);
        let outer = held.lock();
        thread::scope(|s| {
            s.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    assert_eq!(check_deadlock().len(), 1);
                }
            });
            s.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let locks: Vec<_> = (0..20).map(Mutex::new).collect();
                    drop(locks.iter().map(Mutex::lock).collect::<Vec<_>>());
                }
            });
            for round in 0..300 {
                // SAFETY: the child uses locks of this crate, and the allocator, which glibc allows.
                let child = unsafe { libc::fork() };
                if child == 0 {
                    end_soon();
                    let mut is_right = check_deadlock().is_empty();
                    let new: Vec<_> = (0..3).map(Mutex::new).collect();
                    is_right &= new.iter().map(Mutex::lock).count() == 3;
                    // What the thread that forked holds, it holds in the child.
                    is_right &= held.try_lock().is_none();
                    is_right &= thread::spawn(|| check_deadlock().is_empty()).join().unwrap();
                    if is_right && round % 2 == 0 {
                        // SAFETY: ends the child, and nothing else.
                        lockword::debug::on_report(|_| unsafe { libc::_exit(0) });
                        // It is reported that it waits for itself.
                        drop(held.lock());
                    }
                    // SAFETY: ends the child, and nothing else.
                    unsafe { libc::_exit(i32::from(!is_right)) };
                }
                let mut status = 0;
                // SAFETY: waits for the child that was just made.
                assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
                assert_eq!(status, 0);
            }
            stop.store(true, Ordering::Relaxed);
        });
        drop(outer);
    });
}

/// A thread that a child starts does not take the record of the thread that forked.
#[cfg(unix)]
#[test]
fn the_record_of_the_thread_that_forked_stays_its_own() {
    alone("process::the_record_of_the_thread_that_forked_stays_its_own", || {
        let reports = reports();
        let lock: &'static Mutex<u32> = Box::leak(Box::new(Mutex::new(0)));
        let guard = lock.lock();
        // SAFETY: the child uses locks of this crate, and the allocator, which glibc allows.
        let child = unsafe { libc::fork() };
        if child == 0 {
            end_soon();
            let (sender, receiver) = std::sync::mpsc::channel();
            static OTHER: Mutex<u32> = Mutex::new(0);
            static FORKED: Tid = Tid::new();
            // It locks before the thread that forked does, which then waits for it.
            let thread = thread::spawn(move || {
                let _other = OTHER.lock();
                sender.send(()).unwrap();
                FORKED.wait_until_asleep();
            });
            receiver.recv().unwrap();
            drop(guard);
            FORKED.set();
            *OTHER.lock() += 1;
            thread.join().unwrap();
            let is_right = reports.try_recv().is_err() && check_deadlock().is_empty();
            // SAFETY: ends the child, and nothing else.
            unsafe { libc::_exit(i32::from(!is_right)) };
        }
        let mut status = 0;
        // SAFETY: waits for the child that was just made.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!(status, 0);
    });
}

/// A fork before an instruction of a lock and its release, in the instruments too: before each twentieth, so that it takes some
/// seconds. What they allocate is there already.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[test]
fn a_fork_at_each_step_of_the_instruments() {
    use crate::support::single_step::single_step;

    alone("process::a_fork_at_each_step_of_the_instruments", || {
        static LOCKS: (Mutex<u32>, Mutex<u32>) = (Mutex::new(0), Mutex::new(0));
        let both = |()| {
            let _outer = LOCKS.0.lock();
            *LOCKS.1.lock() += 1;
        };
        let (mut steps, mut held) = (0, 0);
        const EACH: usize = 20;
        let between = |step| {
            steps = step;
            if step % EACH != 0 {
                return;
            }
            held += u32::from(LOCKS.1.is_locked());
            // SAFETY: the child uses locks of this crate, and the allocator, which glibc allows.
            let child = unsafe { libc::fork() };
            if child == 0 {
                end_soon();
                // It neither hangs, nor tells of the other thread, nor takes its record.
                let new = (Mutex::new(0), Mutex::new(0));
                drop((new.0.lock(), new.1.lock()));
                let is_right = check_deadlock().is_empty();
                // SAFETY: ends the child, and nothing else.
                unsafe { libc::_exit(i32::from(!is_right)) };
            }
            let mut status = 0;
            // SAFETY: waits for the child that was just made.
            assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
            assert_eq!(status, 0, "step {step}");
        };
        single_step(|| both(()), both, between);
        println!("{steps} steps, {held} with both locks held");
        assert!(held > 0 && steps > 500, "{steps} steps, {held} with both locks held");
    });
}

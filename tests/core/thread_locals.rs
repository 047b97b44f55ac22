//! Locks in the destructors of thread-local variables, where a thread may wait for the last time.
//!
//! std runs these destructors in the reverse order of their registration. Both orders are tried: the
//! destructor runs before those of whatever the locks may have registered, and after them.

use crate::asleep::Tid;
use crate::within::within_limit;
use lockword::{Condvar, Mutex, ReentrantMutex};
use std::cell::Cell;
use std::mem::forget;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// What a test and its thread have in common.
#[derive(Default)]
struct Shared {
    /// The thread parks on it before it ends.
    warm_up: Mutex<()>,
    is_warming_up: Tid,
    /// Tells that the thread is about to wait in the destructor.
    tid: Tid,
    lock: Mutex<u32>,
    reentrant: ReentrantMutex<Cell<u32>>,
    /// The thread forgets a guard of it before it ends.
    owned: ReentrantMutex<()>,
    condition: Mutex<bool>,
    condvar: Condvar,
    /// What the destructor has found to be right, counted. It must not panic: that aborts.
    right: Mutex<u32>,
}

/// When the destructor runs.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Order {
    /// Before those that the locks have registered, if any.
    First,
    /// After them.
    Last,
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

/// Starts a thread that parks once, and then runs `last` in a destructor.
fn start(order: Order, shared: &Arc<Shared>, last: fn(&Shared)) -> JoinHandle<()> {
    let warm_up = shared.warm_up.lock();
    let theirs = Arc::clone(shared);
    let thread = thread::spawn(move || {
        let shared = Arc::clone(&theirs);
        let register = || AT_EXIT.with(|exit| exit.0.set(Some(Box::new(move || last(&theirs)))));
        let park = || {
            shared.is_warming_up.set();
            drop(shared.warm_up.lock());
            forget(shared.owned.lock());
        };
        match order {
            Order::First => {
                park();
                register();
            }
            Order::Last => {
                register();
                park();
            }
        }
    });
    shared.is_warming_up.wait_until_asleep();
    drop(warm_up);
    thread
}

fn in_both_orders(test: fn(Order, &Arc<Shared>)) {
    within_limit(move || {
        for _ in 0..20 {
            test(Order::First, &Arc::default());
            test(Order::Last, &Arc::default());
        }
    });
}

#[test]
fn a_lock_is_waited_for_in_a_destructor() {
    in_both_orders(|order, shared| {
        let guard = shared.lock.lock();
        let thread = start(order, shared, |shared| {
            shared.tid.set();
            *shared.lock.lock() += 1;
        });
        shared.tid.wait_until_asleep();
        drop(guard);
        thread.join().expect("no panic");
        assert_eq!(*shared.lock.lock(), 1, "{order:?}");
    });
}

#[test]
fn a_timed_lock_gives_up_in_a_destructor() {
    in_both_orders(|order, shared| {
        let guard = shared.lock.lock();
        let thread = start(order, shared, |shared| {
            let timed_out = shared.lock.try_lock_for(Duration::from_millis(2)).is_none();
            *shared.right.lock() += u32::from(timed_out);
        });
        thread.join().expect("no panic");
        drop(guard);
        assert_eq!(*shared.right.lock(), 1, "{order:?}");
    });
}

#[test]
fn a_condvar_is_waited_for_in_a_destructor() {
    in_both_orders(|order, shared| {
        let thread = start(order, shared, |shared| {
            let mut condition = shared.condition.lock();
            let none = shared.condvar.wait_for(&mut condition, Duration::from_millis(1));
            shared.tid.set();
            shared.condvar.wait(&mut condition);
            *shared.right.lock() += u32::from(none.timed_out()) + u32::from(*condition);
        });
        shared.tid.wait_until_asleep();
        let mut condition = shared.condition.lock();
        *condition = true;
        assert!(shared.condvar.notify_one(), "the thread waits");
        drop(condition);
        thread.join().expect("no panic");
        assert_eq!(*shared.right.lock(), 2, "{order:?}");
    });
}

#[test]
fn a_destructor_has_the_identity_of_its_thread() {
    in_both_orders(|order, shared| {
        let guard = shared.reentrant.lock();
        let thread = start(order, shared, |shared| {
            let still = shared.owned.is_owned_by_current_thread();
            let again = shared.owned.try_lock().is_some();
            shared.tid.set();
            let outer = shared.reentrant.lock();
            let inner = shared.reentrant.lock();
            inner.set(outer.get() + 1);
            *shared.right.lock() += u32::from(still) + u32::from(again);
        });
        shared.tid.wait_until_asleep();
        assert_eq!(guard.get(), 0, "two owners");
        drop(guard);
        thread.join().expect("no panic");
        assert_eq!(shared.reentrant.lock().get(), 1, "{order:?}");
        assert_eq!(*shared.right.lock(), 2, "{order:?}");
        assert!(shared.owned.try_lock().is_none(), "the forgotten guard holds the mutex for ever");
    });
}

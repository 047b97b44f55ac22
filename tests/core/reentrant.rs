//! `ReentrantMutex` and its guards.

use crate::within::within_limit;
use lockword::{MappedReentrantMutexGuard, ReentrantMutex, ReentrantMutexGuard};
use std::cell::{Cell, RefCell};
use std::thread;

/// Whether another thread could lock `m` now.
fn free_for_others<T: Send>(m: &ReentrantMutex<T>) -> bool {
    thread::scope(|s| s.spawn(|| m.try_lock().is_some()).join().expect("no panic"))
}

#[test]
fn one_thread_locks_it_again() {
    let m = ReentrantMutex::new(Cell::new(0));
    let first = m.lock();
    let second = m.lock();
    let third = m.try_lock().expect("the owner may lock again");
    third.set(third.get() + 1);
    assert_eq!(first.get(), 1);
    drop(third);
    assert!(m.is_locked() && m.is_owned_by_current_thread());
    // The order in which guards go does not matter.
    drop(first);
    assert!(m.is_owned_by_current_thread());
    assert!(!free_for_others(&m));
    drop(second);
    assert!(!m.is_locked() && !m.is_owned_by_current_thread());
    assert!(free_for_others(&m));
}

#[test]
fn other_threads_wait() {
    let total = within_limit(|| {
        let m = ReentrantMutex::new(RefCell::new(0));
        thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| {
                    for _ in 0..5_000 {
                        let outer = m.lock();
                        let inner = m.lock();
                        // Panics when a second thread is inside.
                        *inner.borrow_mut() += 1;
                        drop(outer);
                    }
                });
            }
        });
        m.into_inner().into_inner()
    });
    assert_eq!(total, 20_000);
}

#[test]
fn ownership_is_seen_from_each_thread() {
    let m = ReentrantMutex::new(());
    let _guard = m.lock();
    assert!(m.is_owned_by_current_thread());
    thread::scope(|s| {
        s.spawn(|| {
            assert!(m.is_locked());
            assert!(!m.is_owned_by_current_thread());
            assert!(m.try_lock().is_none());
        });
    });
}

#[test]
fn a_thread_that_ended_leaves_no_claim() {
    // The next thread may well get the ended thread's memory, but not its identity.
    let m = ReentrantMutex::new(0);
    for _ in 0..50 {
        thread::scope(|s| {
            s.spawn(|| {
                assert!(!m.is_owned_by_current_thread());
                let outer = m.lock();
                let inner = m.lock();
                assert_eq!(*outer + *inner, 0);
            });
        });
        assert!(!m.is_locked());
    }
}

#[test]
fn a_thread_does_not_inherit_what_an_ended_one_has_forgotten() {
    let mut forgotten: Option<ReentrantMutex<()>> = None;
    for number in 0..100 {
        let m = ReentrantMutex::new(());
        thread::scope(|s| {
            s.spawn(|| {
                if let Some(earlier) = &forgotten {
                    assert!(!earlier.is_owned_by_current_thread(), "thread {number} owns it");
                    assert!(earlier.try_lock().is_none(), "thread {number} has locked it");
                }
                std::mem::forget(m.lock());
                assert!(m.try_lock().is_some(), "the owner may lock again");
            });
        });
        assert!(m.is_locked(), "the forgotten guard holds the mutex for ever");
        forgotten = Some(m);
    }
}

#[test]
fn mapped_guards_count_as_one_lock_each() {
    let m = ReentrantMutex::new((1, "two"));
    let text: MappedReentrantMutexGuard<'_, &str> =
        ReentrantMutexGuard::map(m.lock(), |pair| &pair.1);
    let number = ReentrantMutexGuard::map(m.lock(), |pair| &pair.0);
    let same = MappedReentrantMutexGuard::map(number, |number| number);
    assert_eq!((*text, *same), ("two", 1));
    drop(same);
    assert!(m.is_owned_by_current_thread());
    let none = MappedReentrantMutexGuard::try_map(text, |_| None::<&u8>);
    drop(none.expect_err("the guard comes back"));
    assert!(!m.is_locked());
    assert!(ReentrantMutexGuard::try_map(m.lock(), |_| None::<&u8>).is_err());
    assert!(!m.is_locked());
}

#[test]
fn unlocked_gives_up_one_level_only() {
    let m = ReentrantMutex::new(());
    let mut outer = m.lock();
    ReentrantMutexGuard::unlocked(&mut outer, || assert!(free_for_others(&m)));
    let mut inner = m.lock();
    ReentrantMutexGuard::unlocked(&mut inner, || {
        assert!(m.is_owned_by_current_thread());
        assert!(!free_for_others(&m));
    });
    ReentrantMutexGuard::bump(&mut inner);
    ReentrantMutexGuard::unlocked_fair(&mut inner, || assert!(m.is_owned_by_current_thread()));
    ReentrantMutexGuard::unlock_fair(inner);
    assert!(m.is_owned_by_current_thread());
    drop(outer);
    assert!(!m.is_locked());
}

#[test]
fn a_guard_that_is_forgotten_keeps_its_level() {
    let m = ReentrantMutex::new(());
    let outer = m.lock();
    std::mem::forget(m.lock());
    drop(outer);
    assert!(m.is_owned_by_current_thread());
    assert!(!free_for_others(&m));
    m.into_inner();
}

#[test]
fn a_panic_unwinds_every_level() {
    let m = ReentrantMutex::new(1);
    let result = thread::scope(|s| {
        s.spawn(|| {
            let _outer = m.lock();
            let _inner = m.lock();
            panic!("while locked twice");
        })
        .join()
    });
    assert!(result.is_err());
    assert_eq!(*m.try_lock().expect("released, and not poisoned"), 1);
}

#[test]
fn statics_default_from_and_debug() {
    static M: ReentrantMutex<u32> = ReentrantMutex::new(3);
    let in_const = const { ReentrantMutex::new(4) };
    assert_eq!(*M.lock() + *M.lock(), 6);
    assert_eq!(*in_const.lock(), 4);
    assert_eq!(format!("{M:?}"), "ReentrantMutex { data: 3 }");
    assert_eq!(format!("{:?} {}", M.lock(), M.lock()), "3 3");
    let guard = M.lock();
    thread::scope(|s| {
        s.spawn(|| assert_eq!(format!("{M:?}"), "ReentrantMutex { data: <locked> }"));
    });
    assert!(std::ptr::eq(ReentrantMutexGuard::remutex(&guard), &raw const M));
    assert_eq!(*ReentrantMutex::<u32>::default().lock(), 0);
    let mut m = ReentrantMutex::from(5);
    *m.get_mut() += 1;
    assert_eq!(m.into_inner(), 6);
}

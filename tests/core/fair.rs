//! `unlock_fair`, and every unlock of a `FairMutex`, hands the lock to a waiter, so that nobody can take it in
//! between.

use crate::within::within_limit;
use lockword::{
    FairMutex, FairMutexGuard, MappedFairMutexGuard, MappedMutexGuard, Mutex, MutexGuard,
    ReentrantMutex, ReentrantMutexGuard,
};
use std::time::Duration;

#[test]
fn with_nobody_waiting_a_fair_unlock_is_an_unlock() {
    let m = Mutex::new((1, 2));
    MutexGuard::unlock_fair(m.lock());
    assert!(!m.is_locked());
    MappedMutexGuard::unlock_fair(MutexGuard::map(m.lock(), |pair| &mut pair.0));
    assert!(!m.is_locked());
    let mut guard = m.lock();
    MutexGuard::bump(&mut guard);
    assert!(m.is_locked());
    guard.0 = 5;
    drop(guard);
    assert!(!m.is_locked());
    let re = ReentrantMutex::new(());
    ReentrantMutexGuard::unlock_fair(re.lock());
    assert!(!re.is_locked());
}

#[test]
fn a_fair_mutex_is_a_mutex() {
    static COUNT: FairMutex<u32> = FairMutex::new(1);
    let mut guard = COUNT.lock();
    *guard += 1;
    assert!(COUNT.is_locked() && COUNT.try_lock().is_none());
    assert!(COUNT.try_lock_for(Duration::from_millis(2)).is_none());
    FairMutexGuard::bump(&mut guard);
    FairMutexGuard::unlocked(&mut guard, || *COUNT.try_lock().expect("unlocked") += 1);
    FairMutexGuard::unlocked_fair(&mut guard, || *COUNT.lock() += 1);
    FairMutexGuard::unlock_fair(guard);
    assert_eq!(*COUNT.try_lock_for(Duration::ZERO).expect("free"), 4);
    assert_eq!(format!("{COUNT:?}"), "Mutex { data: 4 }");
    let mut parts = FairMutex::new((1, 2));
    *FairMutexGuard::map(parts.lock(), |pair| &mut pair.0) += 2;
    assert!(!parts.is_locked());
    parts.get_mut().1 = 4;
    assert_eq!(parts.into_inner(), (3, 4));
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _guard = COUNT.lock();
        std::panic::resume_unwind(Box::new(()));
    }));
    assert!(panic.is_err() && !COUNT.is_locked(), "a panic unlocks it");
}

#[test]
fn a_fair_mutex_under_load_loses_nobody() {
    let total = within_limit(|| {
        let m = FairMutex::new(0);
        std::thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| {
                    for round in 0..2_000 {
                        let timeout = Duration::from_micros(round % 50);
                        let guard = if round % 4 == 0 { m.try_lock_for(timeout) } else { None };
                        *guard.unwrap_or_else(|| m.lock()) += 1;
                    }
                });
            }
        });
        m.into_inner()
    });
    assert_eq!(total, 8_000);
}

#[test]
fn fair_unlocks_under_load_lose_nobody() {
    let total = within_limit(|| {
        let m = Mutex::new(0);
        std::thread::scope(|s| {
            for thread in 0..4 {
                let m = &m;
                s.spawn(move || {
                    for round in 0..2_000 {
                        let mut guard = m.lock();
                        *guard += 1;
                        match (thread + round) % 4 {
                            0 => MutexGuard::unlock_fair(guard),
                            1 => MutexGuard::bump(&mut guard),
                            2 => MutexGuard::unlocked_fair(&mut guard, || ()),
                            _ => drop(guard),
                        }
                    }
                });
            }
        });
        m.into_inner()
    });
    assert_eq!(total, 8_000);
}

/// These look at whether a waiter is parked, which only Linux shows.
#[cfg(target_os = "linux")]
mod handoff {
    use super::*;
    use crate::asleep::spawn_parked;
    use lock_api::RawMutex;
    use std::cell::Cell;
    use std::sync::mpsc::{Receiver, channel};

    /// What the waiter does once it has the lock: keep it until the test says so.
    fn hold<R: RawMutex>(m: &lock_api::Mutex<R, Vec<u32>>, name: u32, until: &Receiver<()>) {
        let mut guard = m.lock();
        guard.push(name);
        until.recv().expect("the test lives");
    }

    /// `release` must leave the lock with the parked waiter: the next instruction of the
    /// releasing thread finds it locked, however late the waiter runs.
    fn hands_over<R: RawMutex + Send + Sync + 'static>(
        release: impl Fn(lock_api::MutexGuard<'_, R, Vec<u32>>) + Send + 'static,
    ) {
        within_limit(move || {
            for _ in 0..100 {
                let m = lock_api::Mutex::<R, _>::new(vec![]);
                let guard = m.lock();
                let (go, until) = channel();
                std::thread::scope(|s| {
                    let m = &m;
                    let waiter = spawn_parked(s, move || hold(m, 1, &until));
                    release(guard);
                    let stolen = m.try_lock().is_some();
                    let free = !m.is_locked();
                    go.send(()).expect("the waiter listens");
                    waiter.join().expect("no panic");
                    assert!(!stolen, "the lock could be stolen from the waiter");
                    assert!(!free, "the lock was free between the two holders");
                });
                assert_eq!(m.into_inner(), [1]);
            }
        });
    }

    #[test]
    fn unlock_fair_hands_over() {
        hands_over(|guard: MutexGuard<'_, _>| MutexGuard::unlock_fair(guard));
    }

    #[test]
    fn a_mapped_guard_hands_over() {
        hands_over(|guard: MutexGuard<'_, _>| {
            MappedMutexGuard::unlock_fair(MutexGuard::map(guard, |data| data));
        });
    }

    #[test]
    fn every_unlock_of_a_fair_mutex_hands_over() {
        hands_over(|guard: FairMutexGuard<'_, _>| drop(guard));
        hands_over(|guard: FairMutexGuard<'_, _>| FairMutexGuard::unlock_fair(guard));
        hands_over(|guard: FairMutexGuard<'_, _>| drop(FairMutexGuard::map(guard, |data| data)));
        hands_over(|guard: FairMutexGuard<'_, _>| {
            MappedFairMutexGuard::unlock_fair(FairMutexGuard::map(guard, |data| data));
        });
        hands_over(|guard: FairMutexGuard<'_, _>| {
            let panic = std::panic::AssertUnwindSafe(|| {
                let _guard = guard;
                std::panic::resume_unwind(Box::new(()));
            });
            assert!(std::panic::catch_unwind(panic).is_err());
        });
    }

    #[test]
    fn a_fair_mutex_is_bumped() {
        within_limit(|| {
            for _ in 0..100 {
                let m = FairMutex::new(vec![]);
                let mut guard = m.lock();
                std::thread::scope(|s| {
                    let waiter = spawn_parked(s, || m.lock().push(1));
                    FairMutexGuard::bump(&mut guard);
                    assert_eq!(*guard, [1], "bump came back before the waiter had its turn");
                    drop(guard);
                    waiter.join().expect("no panic");
                });
            }
        });
    }

    #[test]
    fn a_fair_mutex_serves_in_the_order_of_arrival() {
        within_limit(|| {
            for _ in 0..20 {
                let m = FairMutex::new(vec![]);
                let guard = m.lock();
                std::thread::scope(|s| {
                    for name in 0..4 {
                        let m = &m;
                        spawn_parked(s, move || m.lock().push(name));
                    }
                    drop(guard);
                });
                assert_eq!(m.into_inner(), [0, 1, 2, 3]);
            }
        });
    }

    #[test]
    fn unlocked_fair_hands_over() {
        within_limit(|| {
            for _ in 0..50 {
                let m = Mutex::new(vec![]);
                let mut guard = m.lock();
                let (go, until) = channel();
                std::thread::scope(|s| {
                    let m = &m;
                    spawn_parked(s, move || hold(m, 1, &until));
                    let stolen = MutexGuard::unlocked_fair(&mut guard, || {
                        let stolen = m.try_lock().is_some();
                        go.send(()).expect("the waiter listens");
                        stolen
                    });
                    assert!(!stolen, "the lock could be stolen from the waiter");
                    assert_eq!(*guard, [1]);
                });
            }
        });
    }

    #[test]
    fn bump_lets_a_parked_waiter_go_first() {
        within_limit(|| {
            for _ in 0..100 {
                let m = Mutex::new(vec![]);
                let mut guard = m.lock();
                std::thread::scope(|s| {
                    let waiter = spawn_parked(s, || m.lock().push(1));
                    MutexGuard::bump(&mut guard);
                    assert_eq!(*guard, [1], "bump came back before the waiter had its turn");
                    drop(guard);
                    waiter.join().expect("no panic");
                });
            }
        });
    }

    #[test]
    fn bump_of_the_outermost_reentrant_guard_lets_a_parked_waiter_go_first() {
        within_limit(|| {
            for _ in 0..100 {
                let re = ReentrantMutex::new(Cell::new(0));
                let mut guard = re.lock();
                std::thread::scope(|s| {
                    let waiter = spawn_parked(s, || re.lock().set(1));
                    ReentrantMutexGuard::bump(&mut guard);
                    assert_eq!(guard.get(), 1, "bump came back before the waiter had its turn");
                    assert!(re.is_owned_by_current_thread());
                    waiter.join().expect("no panic");
                });
                // It stands for one level, as before.
                drop(guard);
                assert!(!re.is_locked());
            }
        });
    }

    #[test]
    fn bump_of_an_inner_reentrant_guard_keeps_the_mutex() {
        within_limit(|| {
            for _ in 0..50 {
                let re = ReentrantMutex::new(Cell::new(0));
                let mut outer = re.lock();
                let mut inner = re.lock();
                std::thread::scope(|s| {
                    let waiter = spawn_parked(s, || re.lock().set(1));
                    ReentrantMutexGuard::bump(&mut inner);
                    // Which guard was taken first makes no difference: there are two levels.
                    ReentrantMutexGuard::bump(&mut outer);
                    assert_eq!(inner.get(), 0, "the waiter had the mutex of two guards");
                    assert!(re.is_owned_by_current_thread());
                    drop(outer);
                    assert!(re.is_owned_by_current_thread());
                    ReentrantMutexGuard::bump(&mut inner);
                    assert_eq!(inner.get(), 1, "the last level lets the waiter go first");
                    drop(inner);
                    waiter.join().expect("no panic");
                });
                assert!(!re.is_locked());
            }
        });
    }

    #[test]
    fn waiters_are_served_in_the_order_they_came() {
        within_limit(|| {
            for _ in 0..20 {
                let m = Mutex::new(vec![]);
                let guard = m.lock();
                std::thread::scope(|s| {
                    for name in 0..4 {
                        let m = &m;
                        spawn_parked(s, move || {
                            let mut guard = m.lock();
                            guard.push(name);
                            MutexGuard::unlock_fair(guard);
                        });
                    }
                    MutexGuard::unlock_fair(guard);
                });
                assert_eq!(m.into_inner(), [0, 1, 2, 3]);
            }
        });
    }

    #[test]
    fn a_reentrant_mutex_hands_over_from_its_last_guard_only() {
        within_limit(|| {
            for _ in 0..50 {
                let re = ReentrantMutex::new(());
                let outer = re.lock();
                let inner = re.lock();
                let (go, until) = channel();
                std::thread::scope(|s| {
                    let re = &re;
                    let waiter = spawn_parked(s, move || {
                        let guard = re.lock();
                        until.recv().expect("the test lives");
                        drop(guard);
                    });
                    ReentrantMutexGuard::unlock_fair(inner);
                    assert!(re.is_owned_by_current_thread());
                    ReentrantMutexGuard::unlock_fair(outer);
                    let stolen = re.try_lock().is_some();
                    go.send(()).expect("the waiter listens");
                    waiter.join().expect("no panic");
                    assert!(!stolen, "the lock could be stolen from the waiter");
                });
            }
        });
    }
}

//! Each kind of lock.

use crate::support::asleep::spawn_parked;
use crate::{LIMIT, at, found, started};
use lockword::profile::{self, Kind};
use lockword::{
    Condvar, FairMutex, Mutex, ReadRecursive, ReentrantMutex, RwLock, RwLockUpgradableReadGuard,
    RwLockWriteGuard, SendMutex, sync,
};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

/// Of this file.
const FILE: &str = "tests/profile/locks.rs";

/// Has a thread wait for what `hold` holds.
fn wait<H, G>(hold: impl FnOnce() -> H, acquire: impl FnOnce() -> G + Send) {
    thread::scope(|scope| {
        let held = hold();
        let waiter = spawn_parked(scope, || drop(acquire()));
        drop(held);
        waiter.join().expect("it gets the lock");
    });
}

/// The lock is acquired in line `line + 1` once, and is waited for there, behind who has acquired it in line `line`.
#[track_caller]
fn assert_waits<H, G>(
    line: u32,
    kind: Kind,
    hold: impl FnOnce() -> H,
    acquire: impl FnOnce() -> G + Send,
) {
    wait(hold, acquire);
    assert_waited(line, kind, 1);
}

/// The same of waits that are over.
#[track_caller]
fn assert_waited(line: u32, kind: Kind, waits: u64) {
    let found = at(FILE, line + 1, kind);
    assert_eq!((found.contended, found.timeouts, found.waits.count), (waits, 0, waits));
    assert!(found.acquisitions >= waits && found.waits.total_ns > 0, "{found:?}");
    let [holder] = &found.behind[..] else { panic!("{:?}", found.behind) };
    assert_eq!((holder.waits, holder.total_ns), (waits, found.waits.total_ns));
    let place = holder.place.as_ref().expect("the holder is known");
    assert!(place.line == line && place.file == FILE, "behind {place} and not line {line}");
}

#[test]
fn a_mutex_is_waited_for_where_it_is_locked_and_behind_its_holder() {
    let _turn = started();
    let lock = Mutex::new(());
    let (line, hold) = (line!(), || lock.lock());
    let acquire = || lock.lock();
    assert_waits(line, Kind::Mutex, hold, acquire);

    let (line, hold) = (line!(), || lock.try_lock());
    let acquire = || lock.try_lock_for(LIMIT);
    assert_waits(line, Kind::Mutex, hold, acquire);

    let (line, hold) = (line!(), || lock.try_lock_for(LIMIT));
    let acquire = || lock.try_lock_until(Instant::now() + LIMIT);
    assert_waits(line, Kind::Mutex, hold, acquire);

    let lock = SendMutex::new(());
    let (line, hold) = (line!(), || lock.lock());
    let acquire = || lock.lock();
    assert_waits(line, Kind::Mutex, hold, acquire);

    let lock = FairMutex::new(());
    let (line, hold) = (line!(), || lock.lock());
    let acquire = || lock.lock();
    assert_waits(line, Kind::FairMutex, hold, acquire);

    let lock = sync::Mutex::new(());
    let (line, hold) = (line!(), || lock.lock());
    let acquire = || lock.lock();
    assert_waits(line, Kind::Mutex, hold, acquire);
}

#[test]
fn readers_and_writers_are_told_apart() {
    let _turn = started();
    let lock = RwLock::new(());
    let (line, hold) = (line!(), || lock.write());
    let acquire = || lock.write();
    assert_waits(line, Kind::Write, hold, acquire);

    let (line, hold) = (line!(), || lock.write());
    let acquire = || lock.read();
    assert_waits(line, Kind::Read, hold, acquire);

    let (line, hold) = (line!(), || lock.write());
    let acquire = || lock.read_recursive();
    assert_waits(line, Kind::Read, hold, acquire);

    let (line, hold) = (line!(), || lock.read());
    let acquire = || lock.try_write_for(LIMIT);
    assert_waits(line, Kind::Write, hold, acquire);

    let (line, hold) = (line!(), || lock.upgradable_read());
    let acquire = || lock.upgradable_read();
    assert_waits(line, Kind::UpgradableRead, hold, acquire);

    let lock = sync::RwLock::new(());
    let (line, hold) = (line!(), || lock.write());
    let acquire = || lock.read();
    assert_waits(line, Kind::Read, hold, acquire);

    let (line, hold) = (line!(), || lock.read());
    let acquire = || lock.write();
    assert_waits(line, Kind::Write, hold, acquire);
}

#[test]
fn an_upgrade_is_an_acquisition_of_its_own() {
    let _turn = started();
    let lock = RwLock::new(());
    let upgradable = |it| RwLockUpgradableReadGuard::upgrade(it);
    let line = line!() - 1;
    thread::scope(|scope| {
        let reader = lock.read();
        let writer = spawn_parked(scope, || drop(upgradable(lock.upgradable_read())));
        drop(reader);
        writer.join().unwrap();
    });
    let found = at(FILE, line, Kind::Upgrade);
    assert_eq!((found.contended, found.waits.count), (1, 1), "{found:?}");
    // Without a wait, too.
    for _ in 0..61 * 100 {
        let reader = lock.upgradable_read();
        drop(upgradable(reader));
    }
    let reads = at(FILE, line!() - 3, Kind::UpgradableRead);
    let found = at(FILE, line, Kind::Upgrade);
    for found in [&reads, &found] {
        assert!((3_000..12_000).contains(&found.acquisitions), "{found:?}");
        // Each hold that is in the sample ends.
        assert!(found.holds.count >= 40, "{found:?}");
    }
    assert_eq!((found.contended, reads.contended), (1, 0));
}

#[test]
fn who_has_upgraded_is_waited_for_where_it_did() {
    let _turn = started();
    let lock = RwLock::new(());
    let reader = || lock.upgradable_read();
    let (line, hold) = (line!(), || RwLockUpgradableReadGuard::upgrade(reader()));
    let acquire = || lock.write();
    assert_waits(line, Kind::Write, hold, acquire);

    let (line, hold) = (line!(), || RwLockUpgradableReadGuard::try_upgrade(reader()).ok());
    let acquire = || lock.read();
    assert_waits(line, Kind::Read, hold, acquire);

    // An upgrade itself waits for readers, and not behind itself.
    let line = line!() + 1;
    let upgrade = |it| drop(RwLockUpgradableReadGuard::upgrade(it));
    wait(|| lock.read(), || upgrade(lock.upgradable_read()));
    let behind = at(FILE, line, Kind::Upgrade).behind;
    assert!(behind.len() == 1 && behind[0].place.is_none(), "{behind:?}");
}

#[test]
fn a_try_to_upgrade_is_an_acquisition() {
    let _turn = started();
    let lock = RwLock::new(());
    let try_upgrade = |it| RwLockUpgradableReadGuard::try_upgrade(it);
    let line = line!() - 1;
    for _ in 0..61 * 100 {
        drop(try_upgrade(lock.upgradable_read()).expect("there is no other reader"));
    }
    let found_ = at(FILE, line, Kind::Upgrade);
    assert!((3_000..12_000).contains(&found_.acquisitions), "{found_:?}");
    assert!(found_.holds.count >= 40 && found_.contended == 0, "{found_:?}");
    profile::start();
    let _reader = lock.read();
    for _ in 0..61 * 100 {
        assert!(try_upgrade(lock.upgradable_read()).is_err());
    }
    assert_eq!(found(FILE, line), None, "in vain it is nothing");
}

#[test]
fn nobody_waits_behind_itself() {
    let _turn = started();
    let lock = Mutex::new(());
    let end = AtomicBool::new(false);
    let line = line!() + 3;
    let long = || {
        while !end.load(Relaxed) {
            let held = lock.lock();
            let begin = Instant::now();
            while begin.elapsed() < Duration::from_micros(5) {}
            drop(held);
        }
    };
    let waits = || found(FILE, line).map_or(0, |found| found.waits.count);
    thread::scope(|scope| {
        scope.spawn(long);
        scope.spawn(|| {
            while !end.load(Relaxed) {
                drop(lock.lock());
            }
        });
        // Looks are rare: each takes processor time from the two.
        let limit = Instant::now() + LIMIT;
        while waits() < 200 && Instant::now() < limit {
            thread::sleep(Duration::from_millis(5));
        }
        end.store(true, Relaxed);
    });
    let found = at(FILE, line, Kind::Mutex);
    let itself = found.behind.iter().filter(|it| it.place.as_ref() == Some(&found.place));
    let waits: u64 = itself.map(|it| it.waits).sum();
    assert!(found.waits.count >= 200 && waits == 0, "{found:?}");
}

#[test]
fn readers_are_told_from_holders_that_are_alone() {
    let _turn = started();
    let lock = RwLock::new(());
    let behind = |line| {
        let [behind] = &at(FILE, line, Kind::Write).behind[..] else { panic!("line {line}") };
        (behind.place.as_ref().map(|place| place.line), behind.readers)
    };
    let enter = || drop(lock.read());

    // Readers that come and go do not hide the one that keeps the writer out.
    let (line, hold) = (line!(), || lock.upgradable_read());
    let hold = || {
        let held = hold();
        enter();
        held
    };
    wait(hold, || lock.write());
    assert_eq!(behind(line!() - 1), (Some(line), false));

    // A reader that has come in before the run is not known; who has written before it is known to have left.
    drop(lock.write());
    profile::stop();
    let reader = lock.read();
    profile::start();
    wait(|| reader, || lock.write());
    assert_eq!(behind(line!() - 1), (None, false));

    // When it has left, readers leave their place again; of several, it is the last one's.
    drop(lock.upgradable_read());
    let (line, hold) = (line!(), || (lock.read(), lock.read_recursive()));
    wait(hold, || lock.write());
    assert_eq!(behind(line!() - 1), (Some(line), true));

    // A writer that goes on as a reader is one, where it has acquired the lock.
    let (line, write) = (line!(), || lock.write());
    wait(|| RwLockWriteGuard::downgrade(write()), || lock.write());
    assert_eq!(behind(line!() - 1), (Some(line), true));

    // One that goes on as the upgradable reader holds as one.
    let (line, write) = (line!(), || lock.write());
    let hold = || {
        let held = RwLockWriteGuard::downgrade_to_upgradable(write());
        enter();
        held
    };
    wait(hold, || lock.write());
    assert_eq!(behind(line!() - 1), (Some(line), false));

    // And the upgradable reader that goes on as any other.
    let (line, read) = (line!(), || lock.upgradable_read());
    wait(|| RwLockUpgradableReadGuard::downgrade(read()), || lock.write());
    assert_eq!(behind(line!() - 1), (Some(line), true));

    let text = profile::report().to_string();
    assert!(text.contains(&format!("behind readers, last in {FILE}:{line}:")), "{text}");
}

#[test]
fn a_reentrant_mutex_is_known_by_its_kind() {
    let _turn = started();
    let lock = ReentrantMutex::new(());
    wait(|| lock.lock(), || (lock.lock(), lock.lock()));
    let places = profile::report().places;
    // `lock_api` does not tell who called.
    let found = places.iter().find(|it| it.kind == Kind::ReentrantMutex).expect("it is there");
    assert_eq!((found.contended, found.waits.count), (1, 1), "{found:?}");
}

#[test]
fn a_lock_that_moves_stays_one_and_one_that_is_gone_stays_counted() {
    let _turn = started();
    let line = line!() + 2;
    fn wait_for(lock: &Mutex<()>) {
        let hold = || lock.lock();
        let acquire = || lock.lock();
        wait(hold, acquire);
    }
    let lock = Mutex::new(());
    wait_for(&lock);
    let lock = Box::new(lock);
    wait_for(&lock);
    drop(lock);
    wait_for(&Mutex::new(()));
    assert_waited(line, Kind::Mutex, 3);
}

#[test]
fn a_wait_in_vain_is_a_timeout_and_a_try_in_vain_is_nothing() {
    let _turn = started();
    let lock = Mutex::new(());
    let held = lock.lock();
    let ms = Duration::from_millis(5);
    assert!(lock.try_lock_for(ms).is_none());
    let line = line!() - 1;
    let found_ = at(FILE, line, Kind::Mutex);
    assert_eq!((found_.timeouts, found_.contended, found_.acquisitions), (1, 0, 0));
    assert!(found_.waits.max_ns >= 5_000_000, "{found_:?}");
    for _ in 0..10_000 {
        assert!(lock.try_lock().is_none());
    }
    assert_eq!(found(FILE, line!() - 2), None);
    // With a deadline in the past it is a try.
    assert!(lock.try_lock_for(Duration::ZERO).is_none());
    assert_eq!(found(FILE, line!() - 1), None);
    assert!(lock.try_lock_until(Instant::now()).is_none());
    assert_eq!(found(FILE, line!() - 1), None);
    let lock_ = RwLock::new(());
    let held_ = lock_.write();
    assert!(lock_.try_read_for(Duration::ZERO).is_none());
    assert_eq!(found(FILE, line!() - 1), None);
    assert!(lock_.try_write_for(Duration::ZERO).is_none());
    assert_eq!(found(FILE, line!() - 1), None);
    drop(held_);
    drop(held);
    for _ in 0..61 * 100 {
        assert!(lock.try_lock().is_some());
    }
    let found = at(FILE, line!() - 2, Kind::Mutex);
    assert!((3_000..12_000).contains(&found.acquisitions), "{found:?}");
}

/// Waits for a notification, and then for the mutex: the notifier keeps it for that long.
const KEPT: Duration = Duration::from_millis(20);

/// `waits` locks the mutex and waits for a notification, which `notify` sends; `lock` locks it to send it, and `other`
/// once more. Returns the longest that the mutex can have been waited for after the notification.
fn notified<G>(
    waits: impl FnOnce() + Send,
    lock: impl FnOnce() -> G,
    other: impl FnOnce() + Send,
    notify: impl FnOnce(),
) -> Duration {
    thread::scope(|scope| {
        let waiter = spawn_parked(scope, waits);
        // It waits for the notification for longer than for the mutex.
        thread::sleep(3 * KEPT);
        let held = lock();
        // While another one waits for the mutex, who is notified is moved to the queue behind that one.
        let other = spawn_parked(scope, other);
        let begin = Instant::now();
        notify();
        thread::sleep(KEPT);
        drop(held);
        waiter.join().unwrap();
        let longest = begin.elapsed();
        other.join().unwrap();
        longest
    })
}

/// One wait of that length at that line, behind who has locked the mutex in line `holder`.
#[track_caller]
fn assert_moved(line: u32, holder: u32, longest: Duration) {
    let found = at(FILE, line, Kind::Mutex);
    assert_eq!((found.contended, found.waits.count), (1, 1), "{found:?}");
    let waited = Duration::from_nanos(found.waits.total_ns);
    assert!(KEPT <= waited && waited <= longest, "{waited:?} of {longest:?}");
    let [behind] = &found.behind[..] else { panic!("{found:?}") };
    assert_eq!(behind.place.as_ref().map(|place| place.line), Some(holder));
}

#[test]
fn who_is_notified_waits_for_the_mutex_and_not_for_the_notification() {
    let _turn = started();
    let (mutex, condvar) = (sync::Mutex::new(false), sync::Condvar::new());
    let line = line!() + 4;
    let waits = || {
        let mut told = mutex.lock().unwrap();
        while !*told {
            told = condvar.wait(told).unwrap();
        }
    };
    let holder = line!() + 2;
    let lock = || {
        let mut guard = mutex.lock().unwrap();
        *guard = true;
        guard
    };
    let longest = notified(waits, lock, || drop(mutex.lock()), || condvar.notify_one());
    assert_moved(line, holder, longest);
    assert_eq!(at(FILE, line, Kind::Mutex).acquisitions, 1);

    // Here `lock_api` does not tell who waits: it is where the mutex was locked.
    let (mutex, condvar) = (Mutex::new(false), Condvar::new());
    let line = line!() + 2;
    let waits = || {
        let mut told = mutex.lock();
        while !*told {
            condvar.wait(&mut told);
        }
    };
    let holder = line!() + 2;
    let lock = || {
        let mut guard = mutex.lock();
        *guard = true;
        guard
    };
    let notify = || assert!(condvar.notify_one());
    let longest = notified(waits, lock, || drop(mutex.lock()), notify);
    assert_moved(line, holder, longest);
}

#[test]
fn all_that_are_notified_wait_behind_who_holds_the_mutex_then() {
    let _turn = started();
    let (mutex, condvar) = (sync::Mutex::new(false), sync::Condvar::new());
    let line = line!() + 4;
    let waits = || {
        let mut told = mutex.lock().unwrap();
        while !*told {
            told = condvar.wait(told).unwrap();
        }
    };
    let holder = thread::scope(|scope| {
        let waiters = [(); 4].map(|()| spawn_parked(scope, waits));
        let mut told = mutex.lock().unwrap();
        let holder = line!() - 1;
        *told = true;
        // While another one waits for the mutex, all are moved to the queue behind that one.
        let other = spawn_parked(scope, || drop(mutex.lock().unwrap()));
        condvar.notify_all();
        drop(told);
        other.join().unwrap();
        for waiter in waiters {
            waiter.join().unwrap();
        }
        holder
    });
    let found = at(FILE, line, Kind::Mutex);
    let behind: Vec<_> = found.behind.iter().map(|it| (it.place.as_ref(), it.waits)).collect();
    let of_holder = found.behind.iter().find(|it| it.place.as_ref().unwrap().line == holder);
    assert_eq!(of_holder.map(|it| it.waits), Some(4), "{behind:?}");
}

#[test]
fn a_wait_for_a_mutex_that_began_in_another_run_is_in_none() {
    for stops in [false, true] {
        let _turn = started();
        let (mutex, condvar) = (sync::Mutex::new(false), sync::Condvar::new());
        let line = line!() + 4;
        let waits = || {
            let mut told = mutex.lock().unwrap();
            while !*told {
                told = condvar.wait(told).unwrap();
            }
        };
        let lock = || {
            let mut guard = mutex.lock().unwrap();
            *guard = true;
            guard
        };
        let notify = || {
            if stops {
                profile::stop();
            }
            condvar.notify_one();
            profile::start();
        };
        notified(waits, lock, || drop(mutex.lock()), notify);
        let waits = found(FILE, line).map_or(0, |found| found.waits.count);
        assert_eq!(waits, 0, "notified while the profile was stopped: {stops}");
    }
}

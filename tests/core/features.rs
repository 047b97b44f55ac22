//! What the optional features add. Without them this file is empty.

#[cfg(feature = "arc_lock")]
mod arc_lock {
    use lockword::{
        ArcFairMutexGuard, ArcMutexGuard, ArcReentrantMutexGuard, ArcRwLockReadGuard,
        ArcRwLockUpgradableReadGuard, ArcRwLockWriteGuard, ArcSendMutexGuard, FairMutex, Mutex,
        ReentrantMutex, RwLock, SendMutex, SendRwLock,
    };
    use std::cell::Cell;
    use std::sync::Arc;
    use std::thread;
    use std::time::Duration;

    #[test]
    fn the_guard_owns_its_lock() {
        let m = Arc::new(Mutex::new(1));
        let watch = Arc::downgrade(&m);
        let mut guard: ArcMutexGuard<i32> = m.lock_arc();
        assert!(m.try_lock_arc().is_none());
        drop(m);
        *guard += 1;
        assert!(watch.upgrade().expect("kept alive by the guard").is_locked());
        assert_eq!(*guard, 2);
        drop(guard);
        assert!(watch.upgrade().is_none(), "the guard was the last owner");
    }

    #[test]
    fn the_guard_travels_to_a_thread_that_outlives_its_maker() {
        let m = Arc::new(SendMutex::new(vec![1]));
        let mut guard = m.try_lock_arc().expect("free");
        let sent = thread::spawn(move || {
            guard.push(2);
            ArcSendMutexGuard::into_arc(guard)
        });
        let back = sent.join().expect("no panic");
        assert!(Arc::ptr_eq(&m, &back));
        assert_eq!(*m.try_lock().expect("released"), [1, 2]);
    }

    #[test]
    fn timeouts_and_fairness() {
        let m = Arc::new(Mutex::new(()));
        let guard = m.try_lock_arc_for(Duration::ZERO).expect("free");
        assert!(m.try_lock_arc_for(Duration::from_millis(1)).is_none());
        ArcMutexGuard::unlock_fair(guard);
        let mut guard = m.lock_arc();
        ArcMutexGuard::bump(&mut guard);
        assert!(Arc::ptr_eq(ArcMutexGuard::mutex(&guard), &m));
        assert!(m.is_locked());
        drop(guard);
        assert!(!m.is_locked());
    }

    #[test]
    fn a_reentrant_guard_owns_its_lock_and_counts_its_level() {
        let m = Arc::new(ReentrantMutex::new(Cell::new(1)));
        let watch = Arc::downgrade(&m);
        let outer: ArcReentrantMutexGuard<Cell<i32>> = m.lock_arc();
        let inner = m.try_lock_arc().expect("the owner may lock again");
        let borrowed = m.lock();
        inner.set(outer.get() + 1);
        assert_eq!(borrowed.get(), 2);
        drop(borrowed);
        drop(m);
        drop(outer);
        let m = watch.upgrade().expect("kept alive by the guard");
        assert!(m.is_owned_by_current_thread());
        thread::scope(|s| {
            s.spawn(|| {
                assert!(m.try_lock_arc().is_none());
                assert!(m.try_lock_arc_for(Duration::from_millis(1)).is_none());
            });
        });
        drop(m);
        drop(inner);
        assert!(watch.upgrade().is_none(), "the guard was the last owner");
    }

    #[test]
    fn a_reentrant_guard_gives_its_lock_back() {
        let m = Arc::new(ReentrantMutex::new(()));
        let outer = m.try_lock_arc_for(Duration::ZERO).expect("free");
        let inner = m.lock_arc();
        assert!(Arc::ptr_eq(ArcReentrantMutexGuard::remutex(&inner), &m));
        ArcReentrantMutexGuard::unlock_fair(inner);
        assert!(m.is_owned_by_current_thread());
        let back = ArcReentrantMutexGuard::into_arc(outer);
        assert!(Arc::ptr_eq(&m, &back));
        assert!(!m.is_locked());
        let back = ArcReentrantMutexGuard::into_arc_fair(m.lock_arc());
        assert!(!back.is_locked());
    }

    #[test]
    fn a_fair_guard_owns_its_lock() {
        let m = Arc::new(FairMutex::new(1));
        let mut guard: ArcFairMutexGuard<i32> = m.lock_arc();
        *guard += 1;
        assert!(m.try_lock_arc().is_none());
        drop(guard);
        assert_eq!(*m.lock(), 2);
    }

    #[test]
    fn guards_own_their_reader_writer_lock() {
        let lock = Arc::new(RwLock::new(1));
        let watch = Arc::downgrade(&lock);
        let (one, two): (ArcRwLockReadGuard<i32>, _) = (lock.read_arc(), lock.read_arc());
        assert!(lock.try_write_arc().is_none());
        assert!(lock.try_write_arc_for(Duration::from_millis(1)).is_none());
        assert!(Arc::ptr_eq(ArcRwLockReadGuard::rwlock(&one), &lock));
        drop(one);
        ArcRwLockReadGuard::unlock_fair(two);
        let mut writer: ArcRwLockWriteGuard<i32> = lock.write_arc();
        *writer += 1;
        assert!(lock.try_read_arc().is_none() && lock.try_upgradable_read_arc().is_none());
        let reader = ArcRwLockWriteGuard::downgrade(writer);
        let upgradable: ArcRwLockUpgradableReadGuard<i32> = lock.upgradable_read_arc();
        let Err(upgradable) = ArcRwLockUpgradableReadGuard::try_upgrade(upgradable) else {
            panic!("upgraded beside a reader")
        };
        assert_eq!((*reader, *upgradable), (2, 2));
        drop(reader);
        drop(lock);
        *ArcRwLockUpgradableReadGuard::upgrade(upgradable) += 1;
        assert!(watch.upgrade().is_none(), "the guard was the last owner");
    }

    #[test]
    fn readers_travel_to_threads_that_outlive_their_maker() {
        let lock = Arc::new(SendRwLock::new(vec![1]));
        let guards = (lock.read_arc(), lock.try_read_arc().expect("shared"));
        let sent = thread::spawn(move || guards.0[0] + guards.1[0]);
        assert_eq!(sent.join().expect("no panic"), 2);
        let mut guard = lock.try_write_arc().expect("released");
        let sent = thread::spawn(move || guard.push(2));
        sent.join().expect("no panic");
        assert_eq!(*lock.try_read().expect("released"), [1, 2]);
    }
}

#[cfg(feature = "serde")]
mod serde {
    use lockword::{FairMutex, Mutex, RecursiveRwLock, ReentrantMutex, RwLock, SendRwLock};
    use std::collections::BTreeMap;

    #[test]
    fn a_mutex_is_written_as_its_data() {
        let m = Mutex::new(BTreeMap::from([("a".to_owned(), vec![1, 2])]));
        let json = serde_json::to_string(&m).expect("writes");
        assert_eq!(json, r#"{"a":[1,2]}"#);
        assert!(!m.is_locked(), "writing locks it, and unlocks it");
        let back: Mutex<BTreeMap<String, Vec<u32>>> = serde_json::from_str(&json).expect("reads");
        assert!(!back.is_locked());
        assert_eq!(*back.lock(), *m.lock());
    }

    #[test]
    fn a_reentrant_mutex_is_written_as_its_data() {
        let m = ReentrantMutex::new((1, "x".to_owned()));
        let guard = m.lock();
        let json = serde_json::to_string(&m).expect("writes, though this thread holds it");
        drop(guard);
        assert_eq!(json, r#"[1,"x"]"#);
        let back: ReentrantMutex<(u32, String)> = serde_json::from_str(&json).expect("reads");
        assert_eq!(*back.lock(), (1, "x".to_owned()));
    }

    #[test]
    fn sync_is_serialized_as_std_is() {
        use lockword::sync::Mutex;
        let m = Mutex::new(vec![1, 2]);
        let json = serde_json::to_string(&m).expect("writes");
        assert_eq!(json, serde_json::to_string(&std::sync::Mutex::new(vec![1, 2])).unwrap());
        let back: Mutex<Vec<u32>> = serde_json::from_str(&json).expect("reads");
        assert_eq!(*back.lock().unwrap(), [1, 2]);
        assert!(serde_json::from_str::<Mutex<u32>>("{").is_err());

        let poison = std::panic::catch_unwind(|| {
            let _guard = m.lock();
            std::panic::resume_unwind(Box::new(()));
        });
        assert!(poison.is_err());
        let error = serde_json::to_string(&m).expect_err("poisoned").to_string();
        let stds = std::sync::Mutex::new(1);
        let poison = std::panic::catch_unwind(|| {
            let _guard = stds.lock();
            std::panic::resume_unwind(Box::new(()));
        });
        assert!(poison.is_err());
        assert_eq!(error, serde_json::to_string(&stds).expect_err("poisoned").to_string());
    }

    #[test]
    fn a_reader_writer_lock_is_written_as_its_data() {
        let lock = RwLock::new(vec![1, 2]);
        let reader = lock.read();
        let json = serde_json::to_string(&lock).expect("writes, though it is read");
        assert_eq!(json, "[1,2]");
        drop(reader);
        assert!(!lock.is_locked(), "writing reads it, and leaves");
        let back: RwLock<Vec<u32>> = serde_json::from_str(&json).expect("reads");
        assert_eq!(*back.write(), *lock.read());
        let back: SendRwLock<Vec<u32>> = serde_json::from_str(&json).expect("reads");
        assert_eq!(serde_json::to_string(&back).expect("writes"), json);
        let back: RecursiveRwLock<Vec<u32>> = serde_json::from_str(&json).expect("reads");
        assert_eq!(*back.read(), *lock.read());
        let back: FairMutex<Vec<u32>> = serde_json::from_str(&json).expect("reads");
        assert_eq!(serde_json::to_string(&back).expect("writes"), json);
    }

    #[test]
    fn a_reader_writer_lock_of_sync_is_serialized_as_std_is() {
        use lockword::sync;
        let (lock, stds) = (sync::RwLock::new(vec![1, 2]), std::sync::RwLock::new(vec![1, 2]));
        let json = serde_json::to_string(&lock).expect("writes");
        assert_eq!(json, serde_json::to_string(&stds).expect("writes"));
        let back: sync::RwLock<Vec<u32>> = serde_json::from_str(&json).expect("reads");
        assert_eq!(*back.read().unwrap(), [1, 2]);
        assert!(serde_json::from_str::<sync::RwLock<u32>>("{").is_err());
        let poison = std::panic::catch_unwind(|| {
            let _guards = (lock.write(), stds.write());
            std::panic::resume_unwind(Box::new(()));
        });
        assert!(poison.is_err());
        let error = serde_json::to_string(&lock).expect_err("poisoned").to_string();
        assert_eq!(error, serde_json::to_string(&stds).expect_err("poisoned").to_string());
    }

    #[test]
    fn bad_input_is_an_error() {
        assert!(serde_json::from_str::<Mutex<u32>>("\"seven\"").is_err());
        assert!(serde_json::from_str::<ReentrantMutex<u32>>("{").is_err());
        assert!(serde_json::from_str::<RwLock<u32>>("[]").is_err());
    }
}

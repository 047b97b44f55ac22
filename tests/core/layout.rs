//! Sizes, alignments, and which threads may touch what: all decided by the compiler.

use lockword::{
    Condvar, FairMutex, FairMutexGuard, MappedFairMutexGuard, MappedMutexGuard,
    MappedReentrantMutexGuard, MappedRwLockReadGuard, MappedRwLockWriteGuard, MappedSendMutexGuard,
    Mutex, MutexGuard, RawCondvar, RawFairLock, RawLock, RawRecursiveRwLock, RawRwLock,
    RawSendLock, RawSendRwLock, RawThreadId, ReadToken, RecursiveRwLock, RecursiveRwLockReadGuard,
    RecursiveRwLockWriteGuard, ReentrantMutex, ReentrantMutexGuard, RwLock, RwLockReadGuard,
    RwLockUpgradableReadGuard, RwLockWriteGuard, SendMutex, SendMutexGuard, SendReadToken,
    SendRwLock, SendRwLockReadGuard, SendRwLockWriteGuard, WaitTimeoutResult,
};
use std::cell::Cell;
use std::rc::Rc;

const WORD: usize = size_of::<usize>();

// With it the instruments take room.
#[cfg(not(feature = "trace"))]
#[test]
fn the_lock_is_one_byte() {
    assert_eq!((size_of::<RawLock>(), align_of::<RawLock>()), (1, 1));
    assert_eq!((size_of::<Mutex<()>>(), align_of::<Mutex<()>>()), (1, 1));
    assert_eq!((size_of::<RawSendLock>(), align_of::<RawSendLock>()), (1, 1));
    assert_eq!((size_of::<SendMutex<()>>(), align_of::<SendMutex<()>>()), (1, 1));
    assert_eq!((size_of::<RawFairLock>(), align_of::<RawFairLock>()), (1, 1));
    assert_eq!((size_of::<FairMutex<()>>(), align_of::<FairMutex<()>>()), (1, 1));
}

// With it the instruments take room.
#[cfg(not(feature = "trace"))]
#[test]
fn a_reader_writer_lock_is_two_halves() {
    assert_eq!((size_of::<RawRwLock>(), align_of::<RawRwLock>()), (8, 4));
    assert_eq!((size_of::<RwLock<()>>(), align_of::<RwLock<()>>()), (8, 4));
    assert_eq!((size_of::<RwLock<u32>>(), size_of::<RwLock<u64>>()), (12, 8 + size_of::<u64>()));
    assert_eq!((size_of::<SendRwLock<()>>(), size_of::<RecursiveRwLock<()>>()), (8, 8));
    assert_eq!((size_of::<RawSendRwLock>(), size_of::<RawRecursiveRwLock>()), (8, 8));
    let std = size_of::<std::sync::RwLock<()>>();
    assert!(size_of::<lockword::sync::RwLock<()>>() <= std, "std's takes {std} bytes");
}

#[test]
fn a_readers_guard_adds_its_slot() {
    type Reader<'a> = RwLockReadGuard<'a, u32>;
    type Writer<'a> = RwLockWriteGuard<'a, u32>;
    type Upgradable<'a> = RwLockUpgradableReadGuard<'a, u32>;
    assert_eq!((size_of::<Reader>(), size_of::<Option<Reader>>()), (2 * WORD, 2 * WORD));
    assert_eq!((size_of::<Writer>(), size_of::<Option<Writer>>()), (WORD, WORD));
    assert_eq!((size_of::<Upgradable>(), size_of::<Option<Upgradable>>()), (WORD, WORD));
}

// With it the instruments take room.
#[cfg(not(feature = "trace"))]
#[test]
fn a_mutex_is_its_data_and_one_byte() {
    assert_eq!((size_of::<Mutex<u8>>(), align_of::<Mutex<u8>>()), (2, 1));
    assert_eq!((size_of::<Mutex<u16>>(), align_of::<Mutex<u16>>()), (4, 2));
    assert_eq!((size_of::<Mutex<u32>>(), align_of::<Mutex<u32>>()), (8, 4));
    assert_eq!(size_of::<Mutex<u64>>(), 8 + align_of::<u64>());
    assert_eq!(align_of::<Mutex<u64>>(), align_of::<u64>());
    assert_eq!((size_of::<Mutex<[u8; 3]>>(), align_of::<Mutex<[u8; 3]>>()), (4, 1));
    assert_eq!(size_of::<[Mutex<()>; 64]>(), 64, "64 locks on one cache line");
}

// With it the instruments take room.
#[cfg(not(feature = "trace"))]
#[test]
fn sync_adds_a_byte_for_poison() {
    use lockword::sync::{Condvar, Mutex};
    assert_eq!((size_of::<Mutex<()>>(), align_of::<Mutex<()>>()), (2, 1));
    assert_eq!((size_of::<Mutex<u8>>(), size_of::<Mutex<u16>>()), (3, 4));
    assert_eq!(size_of::<Mutex<u32>>(), 8);
    assert!(size_of::<Mutex<u64>>() <= size_of::<std::sync::Mutex<u64>>());
    assert!(size_of::<Condvar>() <= size_of::<std::sync::Condvar>());
    type Guard<'a> = lockword::sync::MutexGuard<'a, u32>;
    assert!(size_of::<Guard>() <= size_of::<std::sync::MutexGuard<'_, u32>>());
}

// With it the instruments take room.
#[cfg(not(feature = "trace"))]
#[test]
fn a_reentrant_mutex_adds_an_owner_and_a_count() {
    assert_eq!(size_of::<ReentrantMutex<()>>(), 3 * WORD);
    assert_eq!(size_of::<RawThreadId>(), 0);
}

#[test]
fn a_condvar_is_small() {
    assert!(size_of::<Condvar>() <= WORD);
    assert_eq!(size_of::<Condvar>(), size_of::<RawCondvar>());
    assert_eq!(size_of::<WaitTimeoutResult>(), 1);
}

#[test]
fn a_guard_is_a_pointer_and_its_option_is_no_larger() {
    type Guard<'a> = MutexGuard<'a, u32>;
    type Mapped<'a> = MappedMutexGuard<'a, u32>;
    type Reentrant<'a> = ReentrantMutexGuard<'a, u32>;
    type MappedReentrant<'a> = MappedReentrantMutexGuard<'a, u32>;
    assert_eq!((size_of::<Guard>(), size_of::<Option<Guard>>()), (WORD, WORD));
    assert_eq!((size_of::<Reentrant>(), size_of::<Option<Reentrant>>()), (WORD, WORD));
    assert_eq!((size_of::<Mapped>(), size_of::<Option<Mapped>>()), (2 * WORD, 2 * WORD));
    let mapped = (size_of::<MappedReentrant>(), size_of::<Option<MappedReentrant>>());
    assert_eq!(mapped, (2 * WORD, 2 * WORD));
}

/// Fails to compile unless each type is `Send` and `Sync` exactly as said.
///
/// The trick: an inherent constant wins over a trait's of the same name, and the inherent one
/// exists only where the bound holds.
macro_rules! threads {
    ($($type:ty: $send:literal, $sync:literal;)*) => {$(
        const _: () = {
            #[allow(dead_code)]
            trait Otherwise {
                const SEND: bool = false;
                const SYNC: bool = false;
            }
            struct Is<T: ?Sized>(std::marker::PhantomData<T>);
            impl<T: ?Sized> Otherwise for Is<T> {}
            #[allow(dead_code)]
            impl<T: ?Sized + Send> Is<T> {
                const SEND: bool = true;
            }
            #[allow(dead_code)]
            impl<T: ?Sized + Sync> Is<T> {
                const SYNC: bool = true;
            }
            assert!(Is::<$type>::SEND == $send, concat!("Send: ", stringify!($type)));
            assert!(Is::<$type>::SYNC == $sync, concat!("Sync: ", stringify!($type)));
        };
    )*};
}

/// May be sent, not shared.
type SendOnly = Cell<u32>;
/// May be neither sent nor shared.
type Neither = Rc<u32>;
/// May be shared, not sent: a guard of std's.
type SyncOnly = std::sync::MutexGuard<'static, u32>;

threads! {
    // The macro itself, on types whose answer is known.
    u32: true, true;
    SendOnly: true, false;
    SyncOnly: false, true;
    Neither: false, false;

    RawLock: true, true;
    RawSendLock: true, true;
    RawCondvar: true, true;
    RawThreadId: true, true;
    Condvar: true, true;
    WaitTimeoutResult: true, true;

    // A mutex hands its data from thread to thread: it asks for Send, and gives Sync.
    Mutex<u32>: true, true;
    Mutex<[u32]>: true, true;
    Mutex<SendOnly>: true, true;
    Mutex<SyncOnly>: false, false;
    Mutex<Neither>: false, false;

    ReentrantMutex<u32>: true, true;
    ReentrantMutex<SendOnly>: true, true;
    ReentrantMutex<SyncOnly>: false, false;
    ReentrantMutex<Neither>: false, false;

    // A guard stays in its thread, and is shared as the data is.
    MutexGuard<'static, u32>: false, true;
    MutexGuard<'static, SendOnly>: false, false;
    MutexGuard<'static, Neither>: false, false;
    MappedMutexGuard<'static, u32>: false, true;
    MappedMutexGuard<'static, SendOnly>: false, false;
    MappedMutexGuard<'static, SyncOnly>: false, true;
    MappedMutexGuard<'static, Neither>: false, false;

    // The word does not care who unlocks: this guard is a `&mut` to the data.
    SendMutex<u32>: true, true;
    SendMutex<SendOnly>: true, true;
    SendMutex<SyncOnly>: false, false;
    SendMutexGuard<'static, u32>: true, true;
    SendMutexGuard<'static, SendOnly>: true, false;
    SendMutexGuard<'static, Neither>: false, false;
    MappedSendMutexGuard<'static, u32>: true, true;
    MappedSendMutexGuard<'static, SendOnly>: true, false;
    MappedSendMutexGuard<'static, SyncOnly>: false, true;
    MappedSendMutexGuard<'static, Neither>: false, false;

    FairMutex<SendOnly>: true, true;
    FairMutex<SyncOnly>: false, false;
    FairMutexGuard<'static, u32>: false, true;
    FairMutexGuard<'static, SendOnly>: false, false;
    MappedFairMutexGuard<'static, u32>: false, true;
    RawFairLock: true, true;

    // Readers share the data, and a writer hands it from thread to thread.
    RawRwLock: true, true;
    RawSendRwLock: true, true;
    RawRecursiveRwLock: true, true;
    ReadToken: false, true;
    SendReadToken: true, true;
    RwLock<u32>: true, true;
    RwLock<[u32]>: true, true;
    RwLock<SendOnly>: true, false;
    RwLock<SyncOnly>: false, false;
    RwLock<Neither>: false, false;
    RwLockReadGuard<'static, u32>: false, true;
    RwLockReadGuard<'static, SendOnly>: false, false;
    RwLockReadGuard<'static, SyncOnly>: false, false;
    RwLockWriteGuard<'static, u32>: false, true;
    RwLockWriteGuard<'static, SendOnly>: false, false;
    RwLockUpgradableReadGuard<'static, u32>: false, true;
    RwLockUpgradableReadGuard<'static, SendOnly>: false, false;
    MappedRwLockReadGuard<'static, u32>: false, true;
    MappedRwLockReadGuard<'static, SendOnly>: false, false;
    MappedRwLockWriteGuard<'static, u32>: false, true;
    MappedRwLockWriteGuard<'static, SendOnly>: false, false;
    RecursiveRwLock<SendOnly>: true, false;
    RecursiveRwLock<u32>: true, true;
    RecursiveRwLockReadGuard<'static, u32>: false, true;
    RecursiveRwLockWriteGuard<'static, u32>: false, true;

    // Its guards are references to the lock, so that the lock must be `Sync`.
    SendRwLock<u32>: true, true;
    SendRwLock<SendOnly>: true, false;
    SendRwLock<SyncOnly>: false, false;
    SendRwLockReadGuard<'static, u32>: true, true;
    SendRwLockReadGuard<'static, SyncOnly>: false, false;
    SendRwLockReadGuard<'static, SendOnly>: false, false;
    SendRwLockReadGuard<'static, Neither>: false, false;
    SendRwLockWriteGuard<'static, u32>: true, true;
    SendRwLockWriteGuard<'static, SendOnly>: false, false;
    SendRwLockWriteGuard<'static, Neither>: false, false;

    // The owner is a thread: its guards stay there, and are shared only as the data is.
    ReentrantMutexGuard<'static, u32>: false, true;
    ReentrantMutexGuard<'static, SendOnly>: false, false;
    ReentrantMutexGuard<'static, Neither>: false, false;
    MappedReentrantMutexGuard<'static, u32>: false, true;
    MappedReentrantMutexGuard<'static, SendOnly>: false, false;
    MappedReentrantMutexGuard<'static, Neither>: false, false;
}

#[cfg(feature = "arc_lock")]
mod arc_lock {
    use super::{Neither, SendOnly, SyncOnly, WORD};
    use lockword::{
        ArcFairMutexGuard, ArcMutexGuard, ArcReentrantMutexGuard, ArcRwLockReadGuard,
        ArcRwLockUpgradableReadGuard, ArcRwLockWriteGuard, ArcSendMutexGuard,
    };

    threads! {
        // An `Arc` of the mutex is part of it, so the mutex must be `Send` and `Sync` too.
        ArcSendMutexGuard<u32>: true, true;
        ArcSendMutexGuard<SendOnly>: true, false;
        ArcSendMutexGuard<SyncOnly>: false, false;
        ArcSendMutexGuard<Neither>: false, false;

        ArcMutexGuard<u32>: false, true;
        ArcMutexGuard<SendOnly>: false, false;
        ArcMutexGuard<SyncOnly>: false, false;
        ArcMutexGuard<Neither>: false, false;

        ArcFairMutexGuard<u32>: false, true;
        ArcRwLockReadGuard<u32>: false, true;
        ArcRwLockReadGuard<SendOnly>: false, false;
        ArcRwLockWriteGuard<u32>: false, true;
        ArcRwLockWriteGuard<SendOnly>: false, false;
        ArcRwLockUpgradableReadGuard<u32>: false, true;

        ArcReentrantMutexGuard<u32>: false, true;
        ArcReentrantMutexGuard<SendOnly>: false, false;
        ArcReentrantMutexGuard<SyncOnly>: false, false;
        ArcReentrantMutexGuard<Neither>: false, false;
    }

    #[test]
    fn a_guard_that_owns_is_a_pointer_and_its_option_is_no_larger() {
        type Guard = ArcMutexGuard<u32>;
        type Reentrant = ArcReentrantMutexGuard<u32>;
        assert_eq!((size_of::<Guard>(), size_of::<Option<Guard>>()), (WORD, WORD));
        assert_eq!((size_of::<Reentrant>(), size_of::<Option<Reentrant>>()), (WORD, WORD));
    }
}

/// Fails to compile unless each type is `RefUnwindSafe` exactly as said. The trick is that of `threads`.
macro_rules! unwinding {
    ($($type:ty: $safe:literal;)*) => {$(
        const _: () = {
            #[allow(dead_code)]
            trait Otherwise {
                const SAFE: bool = false;
            }
            struct Is<T: ?Sized>(std::marker::PhantomData<T>);
            impl<T: ?Sized> Otherwise for Is<T> {}
            #[allow(dead_code)]
            impl<T: ?Sized + std::panic::RefUnwindSafe> Is<T> {
                const SAFE: bool = true;
            }
            assert!(Is::<$type>::SAFE == $safe, concat!("RefUnwindSafe: ", stringify!($type)));
        };
    )*};
}

unwinding! {
    // The macro itself, on types whose answer is known.
    u32: true;
    Cell<u32>: false;
    std::sync::Mutex<u32>: true;

    // What does not poison is not, as with parking_lot.
    parking_lot::Mutex<u32>: false;
    parking_lot::ReentrantMutex<u32>: false;
    Mutex<u32>: false;
    SendMutex<u32>: false;
    FairMutex<u32>: false;
    parking_lot::RwLock<u32>: false;
    RwLock<u32>: false;
    SendRwLock<u32>: false;
    ReentrantMutex<u32>: false;
    lockword::sync::Mutex<u32>: true;
    lockword::sync::RwLock<u32>: true;
}

//! Small programs as users write them, with everything that `use std::sync::` can name.

use super::sync;
use super::sync::atomic::{AtomicUsize, Ordering};
use super::sync::{
    Arc, Barrier, BarrierWaitResult, Condvar, LazyLock, Mutex, Once, OnceLock, OnceState, RwLock,
    RwLockReadGuard, RwLockWriteGuard, Weak, mpsc,
};
use crate::within::within_limit;
use std::collections::VecDeque;
use std::thread;

/// A bounded queue.
struct Queue<T> {
    items: Mutex<VecDeque<T>>,
    not_empty: Condvar,
    not_full: Condvar,
    capacity: usize,
}

impl<T> Queue<T> {
    fn new(capacity: usize) -> Self {
        Queue {
            items: Mutex::new(VecDeque::with_capacity(capacity)),
            not_empty: Condvar::new(),
            not_full: Condvar::new(),
            capacity,
        }
    }

    fn push(&self, item: T) {
        let full = |items: &mut VecDeque<T>| items.len() == self.capacity;
        let mut items = self.not_full.wait_while(self.items.lock().unwrap(), full).unwrap();
        items.push_back(item);
        self.not_empty.notify_one();
    }

    fn pop(&self) -> T {
        let mut items = self.items.lock().unwrap();
        loop {
            if let Some(item) = items.pop_front() {
                self.not_full.notify_one();
                return item;
            }
            items = self.not_empty.wait(items).unwrap();
        }
    }
}

#[test]
fn a_bounded_queue_loses_nothing() {
    const EACH: u64 = 2_000;
    let sum = within_limit(|| {
        let queue = Queue::new(3);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| (1..=EACH).for_each(|item| queue.push(item)));
            }
            let consumers =
                [(); 2].map(|()| scope.spawn(|| (0..EACH).map(|_| queue.pop()).sum::<u64>()));
            consumers.into_iter().map(|thread| thread.join().unwrap()).sum::<u64>()
        })
    });
    assert_eq!(sum, EACH * (EACH + 1));
}

#[test]
fn scoped_threads_borrow_a_local_mutex() {
    let mut list = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for number in 0..4 {
            let list = &list;
            scope.spawn(move || list.lock().unwrap().push(number));
        }
    });
    list.get_mut().unwrap().sort_unstable();
    assert_eq!(list.into_inner().unwrap(), [0, 1, 2, 3]);
}

#[test]
fn shared_trait_objects() {
    trait Animal: Send {
        fn name(&self) -> String;
        fn rename(&mut self, name: &str);
    }
    struct Dog(String);
    impl Animal for Dog {
        fn name(&self) -> String {
            self.0.clone()
        }
        fn rename(&mut self, name: &str) {
            name.clone_into(&mut self.0);
        }
    }
    let zoo: Vec<Arc<Mutex<dyn Animal>>> = vec![Arc::new(Mutex::new(Dog("Rex".to_owned())))];
    let dog = Arc::clone(&zoo[0]);
    thread::spawn(move || dog.lock().unwrap().rename("Max")).join().unwrap();
    assert_eq!(zoo[0].lock().unwrap().name(), "Max");
}

#[test]
fn a_lazy_static_and_a_once() {
    static TABLE: LazyLock<Mutex<Vec<u32>>> = LazyLock::new(|| Mutex::new(vec![1, 2, 3]));
    static CELL: OnceLock<Mutex<u32>> = OnceLock::new();
    static ONCE: Once = Once::new();
    static RUNS: AtomicUsize = AtomicUsize::new(0);
    TABLE.lock().unwrap().push(4);
    assert_eq!(TABLE.lock().unwrap().iter().sum::<u32>(), 10);
    *CELL.get_or_init(|| Mutex::new(1)).lock().unwrap() += 1;
    assert_eq!(*CELL.get().unwrap().lock().unwrap(), 2);
    for _ in 0..2 {
        ONCE.call_once_force(|state: &OnceState| {
            assert!(!state.is_poisoned());
            RUNS.fetch_add(1, Ordering::Relaxed);
        });
    }
    assert_eq!(RUNS.load(Ordering::Relaxed), 1);
}

#[test]
fn what_else_the_module_names() {
    let lock = RwLock::new(1);
    {
        let read: RwLockReadGuard<'_, i32> = lock.read().unwrap();
        assert_eq!(*read, 1);
    }
    let mut write: RwLockWriteGuard<'_, i32> = lock.write().unwrap();
    *write = 2;
    drop(write);
    let leader: BarrierWaitResult = Barrier::new(1).wait();
    assert!(leader.is_leader());
    let (sender, receiver) = mpsc::channel();
    let shared = Arc::new(Mutex::new(receiver));
    let weak: Weak<_> = Arc::downgrade(&shared);
    thread::spawn(move || sender.send(5).unwrap()).join().unwrap();
    assert_eq!(shared.lock().unwrap().recv(), Ok(5));
    drop(shared);
    assert!(weak.upgrade().is_none());
    sync::atomic::fence(sync::atomic::Ordering::SeqCst);
    assert_eq!(*sync::Mutex::new(1).lock().unwrap(), 1);
}

#[test]
fn a_glob_names_the_same() {
    use super::sync::*;
    let pair: Arc<(Mutex<u8>, Condvar)> = Arc::default();
    let guard: MutexGuard<'_, u8> = pair.0.lock().unwrap();
    drop::<LockResult<MutexGuard<'_, u8>>>(Ok(guard));
    let again: TryLockResult<MutexGuard<'_, u8>> = pair.0.try_lock();
    assert!(!matches!(again, Err(TryLockError::WouldBlock)));
}

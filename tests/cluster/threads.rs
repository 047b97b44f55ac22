//! Plain threads, without a runtime or on the threads of one.

use crate::support::ms;
use lockword::cluster::{
    AcquiredVia, ConnectError, Key, LockError, LockStatus, LossReason, Memory, Node, Observer,
    ReleaseError, RemoteOperation, TransportError, blocking,
};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Handle};

/// What `Instant` shows at least after this time of a node. The system slews that clock, by up to a
/// tenth, and not the node's.
fn by_a_slewed_clock(time: Duration) -> Duration {
    time * 9 / 10
}

#[test]
fn a_node_without_a_runtime_has_a_thread_of_its_own() {
    let engine = Memory::new();
    let node = Node::builder(engine.clone()).label("a").build().unwrap().blocking();
    let other = Node::builder(engine).label("b").build().unwrap().blocking();
    let guard = node.lock("k").unwrap().acquire().unwrap();
    assert!(guard.is_valid() && guard.remaining() > Duration::from_secs(5));
    assert_eq!((guard.key().as_str(), guard.acquired_via()), ("k", AcquiredVia::Free));
    let lock = other.lock("k").unwrap();
    assert!(matches!(lock.try_acquire().unwrap_err(), LockError::Busy { .. }));
    let began = Instant::now();
    let error = lock.acquire_timeout(ms(30)).unwrap_err();
    assert!(matches!(error, LockError::TimedOut { .. }), "{error}");
    assert!(began.elapsed() >= by_a_slewed_clock(ms(30)));
    let state = other.inspect("k").unwrap();
    assert!(matches!(state.status, LockStatus::Held { label, .. } if label == "a"));
    let token = guard.token();
    guard.release().unwrap();
    let guard = lock.acquire().unwrap();
    assert!(guard.token() > token);
    assert_eq!(node.break_lock("k").unwrap().unwrap().label, "b");
    drop(guard);
    assert_eq!(other.shutdown().indeterminate, []);
    assert!(matches!(lock.acquire().unwrap_err(), LockError::Closed { .. }));
}

/// The counter is read and written in two steps, which only the lock makes one.
#[test]
fn threads_exclude_each_other_and_tokens_grow() {
    let node = Node::builder(Memory::new()).build().unwrap().blocking();
    let (count, last) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let lock = node.lock("k").unwrap();
                for _ in 0..1_000 {
                    let guard = lock.acquire().unwrap();
                    let before = count.load(Ordering::Relaxed);
                    assert!(
                        last.swap(guard.token().get(), Ordering::Relaxed) < guard.token().get()
                    );
                    count.store(before + 1, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(count.into_inner(), 8_000);
}

/// Threads and tasks use the lock for times of all lengths, and some give up by a timeout. No two have
/// the lock, and each of them ends, so that none sleeps while nobody has the lock.
#[test]
fn threads_and_tasks_that_time_out_lose_no_wake_up() {
    const TURNS: u32 = 3_000;
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let node = Node::builder(Memory::new()).runtime(runtime.handle().clone()).build().unwrap();
    let inside = Arc::new(AtomicU64::new(0));
    // Some uses are longer than the barging window, and than the short timeouts.
    let length = |turn: u32| Duration::from_micros([0, 0, 2, 0, 20, 0, 80][turn as usize % 7]);
    let use_it = move |inside: &AtomicU64, turn| {
        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two have the lock");
        let began = Instant::now();
        while began.elapsed() < length(turn) {
            std::hint::spin_loop();
        }
        inside.fetch_sub(1, Ordering::SeqCst);
    };
    let timeout = |who: u32, turn: u32| match (who + turn) % 3 {
        0 => Duration::from_micros(u64::from(turn % 50) * 10),
        _ => Duration::from_secs(60),
    };
    let tasks: Vec<_> = (0..2)
        .map(|who| {
            let (inside, node) = (inside.clone(), node.clone());
            runtime.spawn(async move {
                let lock = node.lock("k").unwrap();
                for turn in 0..TURNS {
                    match lock.acquire_timeout(timeout(who, turn)).await {
                        Ok(_guard) => use_it(&inside, turn),
                        Err(LockError::TimedOut { after, .. }) => {
                            assert!(after < ms(1), "it was never woken");
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
            })
        })
        .collect();
    std::thread::scope(|scope| {
        for who in 0..6 {
            let (inside, node) = (&inside, node.blocking());
            scope.spawn(move || {
                let lock = node.lock("k").unwrap();
                for turn in 0..TURNS {
                    match lock.acquire_timeout(timeout(who, turn)) {
                        Ok(_guard) => use_it(inside, turn),
                        Err(LockError::TimedOut { after, .. }) => {
                            assert!(after < ms(1), "it was never woken");
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
    });
    tasks.into_iter().for_each(|task| runtime.block_on(task).unwrap());
    assert_eq!(node.waiting("k"), 0);
}

#[test]
fn a_thread_of_a_runtime_may_wait_unless_it_would_wait_for_itself() {
    // On a worker of the runtime that runs the node, even if it is the only one.
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let node = Node::builder(Memory::new()).build().unwrap();
        tokio::spawn(async move {
            let lock = node.blocking().lock("k").unwrap();
            lock.acquire().unwrap().release().unwrap();
            drop(lock.try_acquire().unwrap());
            drop(lock.acquire_timeout(Duration::from_secs(10)).unwrap());
            assert!(node.blocking().inspect("k").is_ok());
        })
        .await
        .unwrap();
    });
    // On the thread of another runtime.
    let node = Node::builder(Memory::new()).runtime(runtime.handle().clone()).build().unwrap();
    let current = Builder::new_current_thread().enable_all().build().unwrap();
    current.block_on(async {
        node.blocking().lock("k").unwrap().acquire().unwrap().release().unwrap();
    });
    // On the thread that runs the node: an error, since it would wait for ever.
    current.block_on(async {
        let builder = Node::builder(Memory::new()).runtime(Handle::current());
        let node = builder.build().unwrap();
        let lock = node.blocking().lock("k").unwrap();
        let error = lock.acquire().unwrap_err();
        assert!(matches!(error, LockError::WouldDeadlock { .. }), "{error}");
        assert!(matches!(node.blocking().inspect("k"), Err(LockError::WouldDeadlock { .. })));
        let guard = node.lock("k").unwrap().acquire().await.unwrap();
        drop(guard);
        node.blocking().shutdown();
        let error = node.lock("k").unwrap().acquire().await.unwrap_err();
        assert!(matches!(error, LockError::Closed { .. }), "{error}");
    });
}

#[tokio::test]
async fn a_thread_of_spawn_blocking_may_wait_on_a_current_thread_runtime() {
    let a = Node::builder(Memory::new()).runtime(Handle::current()).build().unwrap();
    let lock = a.blocking().lock("k").unwrap();
    let got = tokio::task::spawn_blocking(move || lock.acquire().map(|g| g.release())).await;
    got.unwrap().unwrap().unwrap();
}

/// The thread that drove the runtime first does so no more, and the one that does would wait for itself.
#[test]
fn a_runtime_may_move_to_another_thread() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let builder = Node::builder(Memory::new()).runtime(runtime.handle().clone());
    let node = builder.build().unwrap();
    let lock = node.lock("k").unwrap();
    drop(runtime.block_on(lock.acquire()).unwrap());
    let blocking = node.blocking();
    soon(move || {
        runtime.block_on(async {
            let lock = blocking.lock("k").unwrap();
            for error in [lock.acquire().unwrap_err(), lock.try_acquire().unwrap_err()] {
                assert!(matches!(error, LockError::WouldDeadlock { .. }), "{error}");
            }
            // A thread that does not drive it may wait.
            let guard = tokio::task::spawn_blocking(move || lock.acquire()).await.unwrap().unwrap();
            tokio::task::spawn_blocking(move || guard.release()).await.unwrap().unwrap();
        });
    });
}

/// On the system's clock: each wait is for a thread or for the limit itself.
#[test]
fn a_guard_of_a_thread_ends_at_its_limit_and_the_next_thread_gets_the_lock() {
    let node = Node::builder(Memory::new()).build().unwrap().blocking();
    let lock = node.lock("k").unwrap();
    let bounded = lock.clone().hold_at_most(ms(30));
    for _ in 0..3 {
        let began = Instant::now();
        let hangs = bounded.acquire().unwrap();
        let next = lock.acquire().unwrap();
        assert!(began.elapsed() >= by_a_slewed_clock(ms(30)));
        assert!(!hangs.is_valid() && next.is_valid() && next.token() > hangs.token());
        let error = hangs.release().unwrap_err();
        assert!(matches!(&error, ReleaseError::Lost { why: LossReason::HoldLimit, .. }), "{error}");
        assert!(next.is_valid());
        next.release().unwrap();
    }
    let once = lock.clone().without_renewal();
    let guard = once.acquire().unwrap();
    assert!(guard.remaining() > Duration::from_secs(5));
    guard.release().unwrap();
    lock.try_acquire_or_outlast().unwrap().release().unwrap();
}

/// Far longer than anything here takes.
const SOON: Duration = Duration::from_secs(30);

/// Runs a call in a thread of its own. Panics if it does not end.
fn soon<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> T {
    let (tell, told) = mpsc::channel();
    thread::spawn(move || drop(tell.send(call())));
    told.recv_timeout(SOON).expect("the call ends")
}

#[test]
fn a_caller_keeps_the_token_of_its_own_unpark() {
    let node = Node::builder(Memory::new()).build().unwrap().blocking();
    let lock = node.lock("k").unwrap();
    let guard = lock.acquire().unwrap();
    let took = soon(move || {
        thread::current().unpark();
        // It waits: for the holder in vain, and for the engine.
        assert!(matches!(lock.acquire_timeout(ms(20)), Err(LockError::TimedOut { .. })));
        assert!(node.inspect("k").is_ok());
        let began = Instant::now();
        thread::park_timeout(SOON / 2);
        began.elapsed()
    });
    assert!(took < SOON / 2, "a wait has used the token");
    drop(guard);
}

/// A lease that does not end while a busy machine does what comes before the release.
const LEASE: Duration = Duration::from_secs(4);

/// The calls of a thread, while nothing runs the node.
fn calls_end_in_time(node: &Node, guard: lockword::cluster::blocking::Guard) {
    let node = node.blocking();
    let lock = node.lock("k").unwrap();
    let (error, took) = soon(move || {
        let began = Instant::now();
        (lock.acquire_timeout(ms(50)).unwrap_err(), began.elapsed())
    });
    assert!(matches!(error, LockError::TimedOut { after, .. } if after == ms(50)), "{error}");
    // The node has the lock, and the caller waits for its holder.
    assert!(error.to_string().contains("ask who holds it"), "{error}");
    let free = node.lock("free").unwrap();
    let error = soon(move || free.acquire_timeout(ms(50)).unwrap_err());
    assert!(matches!(error, LockError::TimedOut { .. }), "{error}");
    does_not_run(&error.to_string(), "has not run for the last");
    assert!(took >= by_a_slewed_clock(ms(50)) && took < SOON / 2, "{took:?}");
    let looker = node.clone();
    let error = soon(move || looker.inspect("k").unwrap_err());
    assert!(matches!(error, LockError::Transport { .. }), "{error}");
    does_not_run(&error.to_string(), "has not run for the last");
    let (error, took) = soon(move || {
        let began = Instant::now();
        (guard.release().unwrap_err(), began.elapsed())
    });
    assert!(matches!(error, ReleaseError::Indeterminate { .. }), "{error}");
    assert!(took < LEASE + SOON / 2, "{took:?}");
    let report = soon(move || node.shutdown());
    assert_eq!(report.released, []);
    assert!(report.indeterminate.iter().any(|key| key.as_str() == "k"), "{report:?}");
}

/// The error names the cause, and not the engine.
fn does_not_run(error: &str, since: &str) {
    assert!(error.contains("nothing runs the runtime that the node was given"), "{error}");
    assert!(error.contains(since), "{error}");
    assert!(error.ends_with("see that a thread drives it, and that nothing blocks that thread"));
}

#[test]
fn calls_keep_their_time_while_the_threads_of_the_runtime_are_blocked() {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let builder = Node::builder(Memory::new()).runtime(runtime.handle().clone());
    let node = builder.lease(LEASE).request_timeout(ms(200)).build().unwrap();
    let guard = node.blocking().lock("k").unwrap().acquire().unwrap();
    let (is_blocked, blocked) = mpsc::channel();
    let (go, may_go) = mpsc::channel::<()>();
    runtime.spawn(async move {
        is_blocked.send(()).unwrap();
        // Until the test has ended.
        let _ = may_go.recv();
    });
    blocked.recv().unwrap();
    calls_end_in_time(&node, guard);
    drop(go);
}

#[test]
fn calls_keep_their_time_while_nobody_drives_the_runtime() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let builder = Node::builder(Memory::new()).runtime(runtime.handle().clone());
    let node = builder.lease(LEASE).request_timeout(ms(200)).build().unwrap();
    let lock = node.blocking().lock("k").unwrap();
    // A thread waits while this one drives the runtime, once.
    let acquiring = thread::spawn(move || lock.acquire().unwrap());
    let guard = runtime.block_on(async {
        while !acquiring.is_finished() {
            tokio::task::yield_now().await;
        }
        acquiring.join().unwrap()
    });
    calls_end_in_time(&node, guard);
}

#[test]
fn a_timeout_says_that_nobody_has_ever_driven_the_runtime() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let builder = Node::builder(Memory::new()).runtime(runtime.handle().clone());
    let node = builder.build().unwrap();
    let lock = node.blocking().lock("k").unwrap();
    let error = soon(move || lock.acquire_timeout(ms(50)).unwrap_err());
    assert!(matches!(error, LockError::TimedOut { .. }), "{error}");
    does_not_run(&error.to_string(), "has never run");
    // A node that runs, and whose engine answers, has no such cause.
    let holder = Node::builder(Memory::new()).build().unwrap().blocking();
    let guard = holder.lock("k").unwrap().acquire().unwrap();
    let error = holder.lock("k").unwrap().acquire_timeout(ms(50)).unwrap_err();
    assert!(error.to_string().ends_with("ask who holds it by inspect"), "{error}");
    drop(guard);
}

#[test]
fn calls_end_at_once_when_the_runtime_has_ended() {
    for threads in [0, 1] {
        let mut builder = match threads {
            0 => Builder::new_current_thread(),
            _ => Builder::new_multi_thread(),
        };
        let runtime = builder.enable_all().build().unwrap();
        let builder = Node::builder(Memory::new()).runtime(runtime.handle().clone());
        let node = builder.build().unwrap().blocking();
        let lock = node.lock("k").unwrap();
        drop(runtime);
        let errors = soon(move || {
            [
                lock.acquire().unwrap_err(),
                lock.try_acquire().unwrap_err(),
                lock.acquire_timeout(SOON).unwrap_err(),
                node.lock("another").unwrap().acquire().unwrap_err(),
                node.inspect("k").unwrap_err(),
                node.break_lock("k").unwrap_err(),
            ]
        });
        for error in errors {
            assert!(matches!(error, LockError::Closed { .. }), "{error}");
        }
    }
}

/// Tries to connect where it is called.
struct Connects(mpsc::Sender<bool>);

impl Observer for Connects {
    fn request_finished(
        &self,
        _: &Key,
        _: RemoteOperation,
        _: Duration,
        _: Option<&TransportError>,
    ) {
        let connected = blocking::connect("memory:");
        let would_wait = matches!(connected, Err(ConnectError::Thread { .. }));
        self.0.send(would_wait).unwrap();
    }
}

#[test]
fn a_thread_connects_without_a_runtime() {
    let (sender, would_wait) = mpsc::channel();
    let engine = blocking::connect("memory:").unwrap();
    let node = Node::builder(engine).observer(Connects(sender)).build().unwrap().blocking();
    node.lock("k").unwrap().acquire().unwrap().release().unwrap();
    assert!(would_wait.recv().unwrap(), "an observer would wait for itself");
    assert!(matches!(blocking::connect("nothing:"), Err(ConnectError::UnknownScheme { .. })));
}

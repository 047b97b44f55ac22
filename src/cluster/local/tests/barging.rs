//! Waiters that the test polls by hand, only when they were woken, on a paused clock.

use crate::Mutex;
use crate::cluster::guard::DistributedGuard;
use crate::cluster::local::{AcquireFuture, HoldLimits, WaitMode};
use crate::cluster::lock::DistributedLock;
use crate::cluster::{AcquiredVia, Memory, Node, NodeBuilder};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

const US: Duration = Duration::from_micros(1);

fn builder() -> NodeBuilder {
    Node::builder(Memory::new()).tokio_clock()
}

async fn advance(time: Duration) {
    tokio::time::advance(time).await;
}

/// Runs the driver until it sleeps: only then the paused clock moves on.
async fn let_driver_run() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

/// A waiter that is polled by hand.
struct TestWaiter<'a> {
    acquire: Option<Pin<Box<AcquireFuture<'a>>>>,
    guard: Option<DistributedGuard>,
    woken: Arc<WokenFlag>,
}

#[derive(Default)]
struct WokenFlag(Mutex<bool>);

impl Wake for WokenFlag {
    fn wake(self: Arc<Self>) {
        *self.0.lock() = true;
    }
}

impl<'a> TestWaiter<'a> {
    fn idle() -> Self {
        Self { acquire: None, guard: None, woken: Arc::default() }
    }

    /// A waiter that has joined the queue, or has the lock at once.
    fn new(lock: &'a DistributedLock, is_thread: bool) -> Self {
        let mut one = Self::idle();
        one.begin(lock, is_thread);
        one
    }

    fn begin(&mut self, lock: &'a DistributedLock, is_thread: bool) {
        let acquire = lock.handle.acquire(WaitMode::Wait, HoldLimits::default());
        self.acquire = Some(Box::pin(if is_thread { acquire.spinning() } else { acquire }));
        self.poll();
    }

    /// Whether it was woken since the last call of this.
    fn is_woken(&self) -> bool {
        std::mem::take(&mut *self.woken.0.lock())
    }

    fn poll(&mut self) {
        let waker = Waker::from(self.woken.clone());
        let Some(acquire) = &mut self.acquire else { return };
        if let Poll::Ready(result) = acquire.as_mut().poll(&mut Context::from_waker(&waker)) {
            self.guard = Some(result.expect("it is granted"));
            self.acquire = None;
        }
    }

    /// Polls it if it was woken. Returns whether it has the lock.
    fn has_lock(&mut self) -> bool {
        if self.is_woken() {
            self.poll();
        }
        self.guard.is_some()
    }

    fn release(&mut self) {
        self.guard = None;
    }

    fn acquired_via(&self) -> Option<AcquiredVia> {
        self.guard.as_ref().map(DistributedGuard::acquired_via)
    }
}

/// The user of a lock that was just handed off: a barging period has begun.
async fn user_after_handoff(lock: &DistributedLock) -> TestWaiter<'_> {
    let (mut first, mut second) = (TestWaiter::new(lock, false), TestWaiter::new(lock, false));
    let_driver_run().await;
    assert!(first.has_lock());
    first.release();
    assert!(second.has_lock() && second.acquired_via() == Some(AcquiredVia::LocalHandoff));
    second
}

#[tokio::test(start_paused = true)]
async fn callers_barge_past_a_thread_until_the_period_is_over() {
    let node = builder().build().unwrap();
    let lock = node.lock("k").unwrap();
    let mut user = user_after_handoff(&lock).await;
    let mut waits = TestWaiter::new(&lock, true);
    for n in 0..5 {
        user.release();
        assert!(waits.is_woken(), "{n}: it has polled, and was not woken again");
        // Before that one polls.
        user = TestWaiter::new(&lock, n % 2 == 0);
        assert_eq!(user.acquired_via(), Some(AcquiredVia::LocalHandoff));
        waits.poll();
        assert!(!waits.has_lock() && waits.acquire.is_some());
        advance(8 * US).await;
    }
    advance(10 * US).await;
    user.release();
    assert!(waits.has_lock());
    assert!(TestWaiter::new(&lock, true).guard.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_thread_that_has_yet_to_poll_is_not_woken_again() {
    let node = builder().build().unwrap();
    let lock = node.lock("k").unwrap();
    let mut user = user_after_handoff(&lock).await;
    let mut waits = TestWaiter::new(&lock, true);
    user.release();
    assert!(waits.is_woken());
    for _ in 0..3 {
        TestWaiter::new(&lock, true).release();
        assert!(!waits.is_woken());
    }
    advance(US).await;
    waits.poll();
    assert!(waits.guard.is_some());
}

#[tokio::test(start_paused = true)]
async fn an_awake_thread_leaves_the_lease_to_others_for_the_grace() {
    let node = builder().build().unwrap();
    let lock = node.lock("k").unwrap();
    let mut user = user_after_handoff(&lock).await;
    let mut waits = TestWaiter::new(&lock, true);
    user.release();
    for _ in 0..3 {
        assert!(!waits.has_lock(), "the lease is left to others during the grace");
    }
    advance(US).await;
    assert!(waits.has_lock(), "it has woken itself");
}

#[tokio::test(start_paused = true)]
async fn a_thread_defers_a_bounded_number_of_times_on_a_stopped_clock() {
    let node = builder().build().unwrap();
    let lock = node.lock("k").unwrap();
    let mut user = user_after_handoff(&lock).await;
    let mut waits = TestWaiter::new(&lock, true);
    user.release();
    let polls = (1..1000).find(|_| waits.has_lock());
    assert!(polls.is_some_and(|polls| polls > 10), "{polls:?}");
}

#[tokio::test(start_paused = true)]
async fn a_spurious_poll_by_a_later_waiter_does_not_take_the_lease() {
    let node = builder().build().unwrap();
    let lock = node.lock("k").unwrap();
    let mut user = user_after_handoff(&lock).await;
    let (mut first, mut second) = (TestWaiter::new(&lock, true), TestWaiter::new(&lock, true));
    user.release();
    advance(2 * US).await;
    second.poll();
    let mut newcomer = TestWaiter::new(&lock, true);
    assert!(newcomer.guard.is_some(), "the lease is still available");
    newcomer.release();
    advance(US).await;
    assert!(first.has_lock());
}

#[tokio::test(start_paused = true)]
async fn nobody_barges_after_the_period_even_if_the_lease_is_available() {
    let node = builder().build().unwrap();
    let lock = node.lock("k").unwrap();
    let mut user = user_after_handoff(&lock).await;
    let mut waits = TestWaiter::new(&lock, true);
    advance(49 * US).await;
    user.release();
    advance(US).await;
    assert!(TestWaiter::new(&lock, true).guard.is_none());
    assert!(waits.has_lock());
}

#[tokio::test(start_paused = true)]
async fn nobody_barges_past_a_task_nor_with_a_window_of_zero() {
    for (time, is_thread) in [(50 * US, false), (Duration::ZERO, true)] {
        let node = builder().barging_window(time).build().unwrap();
        let lock = node.lock("k").unwrap();
        let mut user = user_after_handoff(&lock).await;
        let mut waits = TestWaiter::new(&lock, is_thread);
        user.release();
        assert!(TestWaiter::new(&lock, true).guard.is_none());
        assert!(waits.has_lock());
    }
}

#[tokio::test(start_paused = true)]
async fn the_next_waiter_is_woken_when_the_first_leaves() {
    for is_thread in [true, false] {
        let node = builder().build().unwrap();
        let lock = node.lock("k").unwrap();
        let mut user = user_after_handoff(&lock).await;
        let first = TestWaiter::new(&lock, true);
        let mut second = TestWaiter::new(&lock, is_thread);
        user.release();
        assert!(first.is_woken() && !second.is_woken());
        drop(first);
        advance(US).await;
        assert!(second.has_lock());
    }
}

#[tokio::test(start_paused = true)]
async fn the_lease_is_released_when_the_last_waiter_leaves() {
    let engine = Memory::new();
    let node = Node::builder(engine.clone()).tokio_clock().build().unwrap();
    let lock = node.lock("k").unwrap();
    let mut user = user_after_handoff(&lock).await;
    let waits = TestWaiter::new(&lock, true);
    user.release();
    drop(waits);
    let_driver_run().await;
    let other = Node::builder(engine).tokio_clock().build().unwrap();
    assert!(other.lock("k").unwrap().try_acquire().await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn the_lease_is_released_when_the_node_is_closed() {
    let engine = Memory::new();
    let node = Node::builder(engine.clone()).tokio_clock().build().unwrap();
    let lock = node.lock("k").unwrap();
    let mut user = user_after_handoff(&lock).await;
    let mut waits = lock.handle.acquire(WaitMode::Wait, HoldLimits::default()).spinning();
    assert!(Pin::new(&mut waits).poll(&mut Context::from_waker(Waker::noop())).is_pending());
    user.release();
    assert_eq!(node.shutdown().await.indeterminate, []);
    assert!(waits.await.is_err());
    let other = Node::builder(engine).tokio_clock().build().unwrap();
    assert!(other.lock("k").unwrap().try_acquire().await.is_ok());
}

/// Five waiters that join, poll when they are woken, use the lock and leave, at random: no two have
/// the lock, and none waits for ever while nobody has it.
#[tokio::test(start_paused = true)]
async fn no_wake_up_is_lost_in_random_runs() {
    let mut barged = 0;
    for seed in 0..2_000 {
        let mut random = fastrand::Rng::with_seed(seed);
        let node = builder().seed(seed).build().unwrap();
        let lock = node.lock("k").unwrap();
        let mut all: [TestWaiter<'_>; 5] = std::array::from_fn(|_| TestWaiter::idle());
        for _ in 0..80 {
            let waits = all.iter().filter(|one| one.acquire.is_some()).count();
            let one = &mut all[random.usize(..5)];
            match (&one.guard, &one.acquire) {
                (None, None) => {
                    one.begin(&lock, random.u8(..4) > 0);
                    barged += usize::from(one.guard.is_some() && waits > 0);
                }
                (Some(_), _) if random.bool() => one.release(),
                (_, Some(_)) if random.u8(..16) == 0 => one.acquire = None,
                _ => drop(one.has_lock()),
            }
            assert!(all.iter().filter(|one| one.guard.is_some()).count() <= 1, "seed {seed}");
            match random.u8(..32) {
                0 => let_driver_run().await,
                1..4 => advance(random.u32(..60) * US).await,
                _ => {}
            }
        }
        // Every holder releases, and every woken waiter polls, until all have had the lock.
        let mut rounds = 0;
        while all.iter().any(|one| one.acquire.is_some()) {
            let_driver_run().await;
            all.iter_mut().for_each(|one| {
                one.has_lock();
                one.release();
            });
            rounds += 1;
            assert!(rounds < 100, "seed {seed}: a waiter sleeps, and nobody has the lock");
        }
    }
    assert!(barged > 1_000, "only {barged} callers barged");
}

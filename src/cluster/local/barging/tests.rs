//! Waiters that are polled by hand, only when they were woken, on a clock that stands still.

use crate::Mutex;
use crate::cluster::guard::DistributedGuard;
use crate::cluster::local::{Acquire, WaitMode};
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

async fn pass(time: Duration) {
    tokio::time::advance(time).await;
}

/// Lets the node's background task do what it has to do: the paused clock moves on when all have.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

/// One that wants the lock.
struct One<'a> {
    acquire: Option<Pin<Box<Acquire<'a>>>>,
    guard: Option<DistributedGuard>,
    alarm: Arc<Alarm>,
}

#[derive(Default)]
struct Alarm(Mutex<bool>);

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        *self.0.lock() = true;
    }
}

impl<'a> One<'a> {
    fn idle() -> Self {
        Self { acquire: None, guard: None, alarm: Arc::default() }
    }

    /// Joins the line, or has it at once.
    fn new(lock: &'a DistributedLock, is_thread: bool) -> Self {
        let mut one = Self::idle();
        one.begin(lock, is_thread);
        one
    }

    fn begin(&mut self, lock: &'a DistributedLock, is_thread: bool) {
        let acquire = lock.handle.acquire(WaitMode::Wait);
        self.acquire = Some(Box::pin(if is_thread { acquire.spinning() } else { acquire }));
        self.poll();
    }

    /// Whether it was woken since this was last asked.
    fn is_woken(&self) -> bool {
        std::mem::take(&mut *self.alarm.0.lock())
    }

    fn poll(&mut self) {
        let waker = Waker::from(self.alarm.clone());
        let Some(acquire) = &mut self.acquire else { return };
        if let Poll::Ready(result) = acquire.as_mut().poll(&mut Context::from_waker(&waker)) {
            self.guard = Some(result.expect("it is granted"));
            self.acquire = None;
        }
    }

    /// Whether it has it, after it was polled if it was woken.
    fn has_it(&mut self) -> bool {
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

/// Somebody has it, whose turn has just begun: it was handed off.
async fn turn(lock: &DistributedLock) -> One<'_> {
    let (mut first, mut second) = (One::new(lock, false), One::new(lock, false));
    settle().await;
    assert!(first.has_it());
    first.release();
    assert!(second.has_it() && second.acquired_via() == Some(AcquiredVia::LocalHandoff));
    second
}

#[tokio::test(start_paused = true)]
async fn who_comes_overtakes_a_thread_until_the_turn_is_over() {
    let node = builder().build().unwrap();
    let lock = node.lock("k").unwrap();
    let mut user = turn(&lock).await;
    let mut waits = One::new(&lock, true);
    for n in 0..5 {
        user.release();
        assert!(waits.is_woken(), "{n}: it has looked, and was not told to look again");
        // Before that one looks.
        user = One::new(&lock, n % 2 == 0);
        assert_eq!(user.acquired_via(), Some(AcquiredVia::LocalHandoff));
        waits.poll();
        assert!(!waits.has_it() && waits.acquire.is_some());
        pass(8 * US).await;
    }
    pass(10 * US).await;
    user.release();
    assert!(waits.has_it());
    assert!(One::new(&lock, true).guard.is_none());
}

/// Told once, until it looks.
#[tokio::test(start_paused = true)]
async fn who_has_yet_to_look_is_not_woken_again() {
    let node = builder().build().unwrap();
    let lock = node.lock("k").unwrap();
    let mut user = turn(&lock).await;
    let mut waits = One::new(&lock, true);
    user.release();
    assert!(waits.is_woken());
    for _ in 0..3 {
        One::new(&lock, true).release();
        assert!(!waits.is_woken());
    }
    pass(US).await;
    waits.poll();
    assert!(waits.guard.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_thread_that_looks_leaves_it_to_others_for_a_moment() {
    let node = builder().build().unwrap();
    let lock = node.lock("k").unwrap();
    let mut user = turn(&lock).await;
    let mut waits = One::new(&lock, true);
    user.release();
    for _ in 0..3 {
        assert!(!waits.has_it(), "who has just released may come back");
    }
    pass(US).await;
    assert!(waits.has_it(), "it looks again by itself");
}

/// Where the clock stands still, it does not look for ever.
#[tokio::test(start_paused = true)]
async fn a_thread_does_not_look_for_ever() {
    let node = builder().build().unwrap();
    let lock = node.lock("k").unwrap();
    let mut user = turn(&lock).await;
    let mut waits = One::new(&lock, true);
    user.release();
    let looks = (1..1000).find(|_| waits.has_it());
    assert!(looks.is_some_and(|looks| looks > 10), "{looks:?}");
}

#[tokio::test(start_paused = true)]
async fn who_is_not_the_first_may_look_for_reasons_of_its_own() {
    let node = builder().build().unwrap();
    let lock = node.lock("k").unwrap();
    let mut user = turn(&lock).await;
    let (mut first, mut second) = (One::new(&lock, true), One::new(&lock, true));
    user.release();
    pass(2 * US).await;
    second.poll();
    let mut newcomer = One::new(&lock, true);
    assert!(newcomer.guard.is_some(), "the lease is open still");
    newcomer.release();
    pass(US).await;
    assert!(first.has_it());
}

#[tokio::test(start_paused = true)]
async fn nobody_overtakes_when_the_turn_is_over_though_the_lease_is_open() {
    let node = builder().build().unwrap();
    let lock = node.lock("k").unwrap();
    let mut user = turn(&lock).await;
    let mut waits = One::new(&lock, true);
    pass(49 * US).await;
    user.release();
    pass(US).await;
    assert!(One::new(&lock, true).guard.is_none());
    assert!(waits.has_it());
}

#[tokio::test(start_paused = true)]
async fn nobody_overtakes_a_task_or_anybody_where_the_order_is_strict() {
    for (time, is_thread) in [(50 * US, false), (Duration::ZERO, true)] {
        let node = builder().barging_window(time).build().unwrap();
        let lock = node.lock("k").unwrap();
        let mut user = turn(&lock).await;
        let mut waits = One::new(&lock, is_thread);
        user.release();
        assert!(One::new(&lock, true).guard.is_none());
        assert!(waits.has_it());
    }
}

/// The one that was told to look leaves instead.
#[tokio::test(start_paused = true)]
async fn the_next_one_is_told_when_the_first_leaves() {
    for is_thread in [true, false] {
        let node = builder().build().unwrap();
        let lock = node.lock("k").unwrap();
        let mut user = turn(&lock).await;
        let first = One::new(&lock, true);
        let mut second = One::new(&lock, is_thread);
        user.release();
        assert!(first.is_woken() && !second.is_woken());
        drop(first);
        pass(US).await;
        assert!(second.has_it());
    }
}

/// And where there is no next one, another node gets it.
#[tokio::test(start_paused = true)]
async fn the_lease_is_given_back_when_the_last_one_leaves() {
    let engine = Memory::new();
    let node = Node::builder(engine.clone()).tokio_clock().build().unwrap();
    let lock = node.lock("k").unwrap();
    let mut user = turn(&lock).await;
    let waits = One::new(&lock, true);
    user.release();
    drop(waits);
    settle().await;
    let other = Node::builder(engine).tokio_clock().build().unwrap();
    assert!(other.lock("k").unwrap().try_acquire().await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn the_lease_is_given_back_when_the_node_is_closed() {
    let engine = Memory::new();
    let node = Node::builder(engine.clone()).tokio_clock().build().unwrap();
    let lock = node.lock("k").unwrap();
    let mut user = turn(&lock).await;
    let mut waits = lock.handle.acquire(WaitMode::Wait).spinning();
    assert!(Pin::new(&mut waits).poll(&mut Context::from_waker(Waker::noop())).is_pending());
    user.release();
    assert_eq!(node.shutdown().await.indeterminate, []);
    assert!(waits.await.is_err());
    let other = Node::builder(engine).tokio_clock().build().unwrap();
    assert!(other.lock("k").unwrap().try_acquire().await.is_ok());
}

/// Five that come, look when they are woken, use it, and leave, at random: nobody waits for ever while
/// nobody uses it, and no two have it.
#[tokio::test(start_paused = true)]
async fn no_wake_up_is_lost_whatever_happens() {
    let mut overtaken = 0;
    for seed in 0..2_000 {
        let mut random = fastrand::Rng::with_seed(seed);
        let node = builder().seed(seed).build().unwrap();
        let lock = node.lock("k").unwrap();
        let mut all: [One<'_>; 5] = std::array::from_fn(|_| One::idle());
        for _ in 0..80 {
            let waits = all.iter().filter(|one| one.acquire.is_some()).count();
            let one = &mut all[random.usize(..5)];
            match (&one.guard, &one.acquire) {
                (None, None) => {
                    one.begin(&lock, random.u8(..4) > 0);
                    overtaken += usize::from(one.guard.is_some() && waits > 0);
                }
                (Some(_), _) if random.bool() => one.release(),
                (_, Some(_)) if random.u8(..16) == 0 => one.acquire = None,
                _ => drop(one.has_it()),
            }
            assert!(all.iter().filter(|one| one.guard.is_some()).count() <= 1, "seed {seed}");
            match random.u8(..32) {
                0 => settle().await,
                1..4 => pass(random.u32(..60) * US).await,
                _ => {}
            }
        }
        // Who has it gives it back, and who is woken looks, until all have had it.
        let mut rounds = 0;
        while all.iter().any(|one| one.acquire.is_some()) {
            settle().await;
            all.iter_mut().for_each(|one| {
                one.has_it();
                one.release();
            });
            rounds += 1;
            assert!(rounds < 100, "seed {seed}: somebody sleeps, and nobody has it");
        }
    }
    assert!(overtaken > 1_000, "only {overtaken} came and overtook");
}

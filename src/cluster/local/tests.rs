//! Grants that nobody takes, limits of holding, and what a loss and a timeout say: nodes over the
//! in-memory engine on a paused clock, with futures that the test polls by hand.

use crate::Mutex;
use crate::cluster::guard::DistributedGuard;
use crate::cluster::layers::{Faulty, Plan};
use crate::cluster::local::{AcquireFuture, HoldLimits, WaitMode};
use crate::cluster::lock::DistributedLock;
use crate::cluster::{
    Key, LockError, LossReason, Memory, Node, NodeBuilder, Observer, ReleaseError, ReleaseOutcome,
    RemoteOperation, Transport, TransportError, Wake, Write,
};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

/// With the default lease of 10 s.
const WINDOW: Duration = Duration::from_millis(500);
const SECOND: Duration = Duration::from_secs(1);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn builder(engine: impl Transport) -> NodeBuilder {
    Node::builder(engine).tokio_clock()
}

fn lock_of(engine: impl Transport) -> (Node, DistributedLock) {
    let node = builder(engine).build().unwrap();
    let lock = node.lock("k").unwrap();
    (node, lock)
}

/// A future that is polled by hand only.
struct Kept<'a>(Pin<Box<AcquireFuture<'a>>>);

impl<'a> Kept<'a> {
    /// Polls it once, so that it joins the queue.
    fn new(lock: &'a DistributedLock, mode: WaitMode) -> Self {
        Self::of(lock.handle.acquire(mode, HoldLimits::default()))
    }

    fn of(acquire: AcquireFuture<'a>) -> Self {
        let mut kept = Self(Box::pin(acquire));
        assert!(kept.poll().is_none(), "it does not wait");
        kept
    }

    fn poll(&mut self) -> Option<Result<DistributedGuard, LockError>> {
        match self.0.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => Some(result),
            Poll::Pending => None,
        }
    }

    fn guard(&mut self) -> DistributedGuard {
        self.poll().expect("it has no result").expect("it is granted")
    }
}

/// Waits for the lock in a task. The result has the time for which it waited.
async fn acquire(lock: &DistributedLock) -> (DistributedGuard, Duration) {
    let began = Instant::now();
    let guard = lock.acquire().await.unwrap();
    (guard, began.elapsed())
}

fn spawn(lock: &DistributedLock) -> tokio::task::JoinHandle<(DistributedGuard, Duration)> {
    let lock = lock.clone();
    tokio::spawn(async move { acquire(&lock).await })
}

/// Runs the driver until it sleeps: only then the paused clock moves on.
async fn settle() {
    sleep(ms(1)).await;
}

fn is_about(took: Duration, expected: Duration) -> bool {
    took >= expected && took < expected + ms(20)
}

// ---- Grants that nobody takes ----

#[tokio::test(start_paused = true)]
async fn an_untaken_grant_passes_on_to_the_next_local_waiter_after_a_claim_window() {
    let (_node, lock) = lock_of(Memory::new());
    let user = lock.acquire().await.unwrap();
    let mut kept = Kept::new(&lock, WaitMode::Wait);
    let second = spawn(&lock);
    settle().await;
    drop(user);
    let began = Instant::now();
    let (guard, _) = second.await.unwrap();
    assert!(is_about(began.elapsed(), WINDOW), "{:?}", began.elapsed());
    // It waits again, and has kept its place.
    let mut third = Kept::new(&lock, WaitMode::Wait);
    assert!(kept.poll().is_none() && third.poll().is_none());
    drop(guard);
    assert!(third.poll().is_none());
    assert!(kept.guard().is_valid());
    assert!(third.guard().is_valid());
}

#[tokio::test(start_paused = true)]
async fn many_kept_futures_pass_a_lock_on_that_they_wait_for() {
    let (node, lock) = lock_of(Memory::new());
    let user = lock.acquire().await.unwrap();
    let mut kept: Vec<_> = (0..3).map(|_| Kept::new(&lock, WaitMode::Wait)).collect();
    let last = spawn(&lock);
    settle().await;
    drop(user);
    let (guard, took) = last.await.unwrap();
    assert!(took < 3 * WINDOW + ms(100), "{took:?}");
    // They have kept their places.
    assert!(kept.iter_mut().all(|one| one.poll().is_none()));
    drop(guard);
    for one in &mut kept {
        assert!(one.guard().is_valid());
    }
    drop(kept);
    drop(lock);
    settle().await;
    assert_eq!(node.keys(), 0, "nothing is left");
}

#[tokio::test(start_paused = true)]
async fn an_untaken_grant_is_released_when_another_node_waits() {
    // The other node waits before the grant, or joins after it.
    for joins_after in [Duration::ZERO, ms(3_200), ms(4_900)] {
        let engine = Memory::new();
        let (_a, lock) = lock_of(engine.clone());
        let (_b, theirs) = lock_of(engine);
        let mut kept = Kept::new(&lock, WaitMode::Wait);
        settle().await;
        sleep(joins_after).await;
        let (guard, took) = acquire(&theirs).await;
        assert!(took <= WINDOW + ms(20), "{took:?}, joined after {joins_after:?}");
        assert!(kept.poll().is_none());
        drop(guard);
        sleep(ms(100)).await;
        assert!(kept.guard().is_valid(), "it waits again when it is polled");
    }
}

#[tokio::test(start_paused = true)]
async fn an_untaken_grant_stays_while_nobody_else_waits() {
    let (_node, lock) = lock_of(Memory::new());
    let mut kept = Kept::new(&lock, WaitMode::Wait);
    sleep(60 * SECOND).await;
    let guard = kept.guard();
    assert!(guard.is_valid());
    sleep(60 * SECOND).await;
    assert!(guard.is_valid());
}

#[tokio::test(start_paused = true)]
async fn a_grant_is_taken_back_at_the_timeout_of_its_waiter() {
    let engine = Memory::new();
    let (_a, lock) = lock_of(engine.clone());
    let (_b, theirs) = lock_of(engine);
    let mut kept = Kept::new(&lock, WaitMode::Within(ms(300)));
    sleep(ms(290)).await;
    assert!(theirs.try_acquire().await.is_err(), "it is granted");
    sleep(ms(15)).await;
    let guard = theirs.try_acquire().await.unwrap();
    let error = kept.poll().unwrap().unwrap_err();
    assert!(matches!(error, LockError::TimedOut { .. }), "{error}");
    drop(guard);
}

#[tokio::test(start_paused = true)]
async fn a_waiter_whose_timeout_has_passed_is_not_granted_anything() {
    let (_node, lock) = lock_of(Memory::new());
    let user = lock.acquire().await.unwrap();
    let mut kept = Kept::new(&lock, WaitMode::Within(ms(300)));
    let mut next = Kept::new(&lock, WaitMode::Wait);
    sleep(ms(400)).await;
    drop(user);
    assert!(next.guard().is_valid());
    assert!(matches!(kept.poll(), Some(Err(LockError::TimedOut { .. }))));
}

#[tokio::test(start_paused = true)]
async fn a_try_whose_grant_was_taken_back_is_busy() {
    let engine = Memory::new();
    let (_a, lock) = lock_of(engine.clone());
    let (_b, theirs) = lock_of(engine);
    let mut kept = Kept::new(&lock, WaitMode::Try);
    settle().await;
    let (guard, took) = acquire(&theirs).await;
    assert!(took <= WINDOW + ms(20), "{took:?}");
    assert!(matches!(kept.poll(), Some(Err(LockError::Busy { .. }))));
    drop(guard);
}

/// A thread that is first and is to take an available lease, but is stopped.
#[tokio::test(start_paused = true)]
async fn a_thread_that_does_not_run_keeps_an_available_lease_for_a_claim_window() {
    let node = builder(Memory::new()).barging_window(5 * SECOND).build().unwrap();
    let lock = node.lock("k").unwrap();
    let user = lock.acquire().await.unwrap();
    let stopped = lock.handle.acquire(WaitMode::Wait, HoldLimits::default()).spinning();
    let mut stopped = Kept::of(stopped);
    let next = spawn(&lock);
    settle().await;
    drop(user);
    let began = Instant::now();
    let (guard, _) = next.await.unwrap();
    assert!(is_about(began.elapsed(), WINDOW), "{:?}", began.elapsed());
    assert!(stopped.poll().is_none());
    drop(guard);
    settle().await; // It leaves the lease to others for a moment.
    assert!(stopped.guard().is_valid());
}

/// The same with a grant: nobody barges.
#[tokio::test(start_paused = true)]
async fn a_thread_that_does_not_run_keeps_its_grant_for_a_claim_window() {
    let node = builder(Memory::new()).barging_window(Duration::ZERO).build().unwrap();
    let lock = node.lock("k").unwrap();
    let stopped = lock.handle.acquire(WaitMode::Wait, HoldLimits::default()).spinning();
    let mut stopped = Kept::of(stopped);
    settle().await;
    let (guard, took) = acquire(&lock).await;
    assert!(took <= WINDOW, "{took:?}");
    assert!(stopped.poll().is_none());
    drop(guard);
    assert!(stopped.guard().is_valid());
}

#[tokio::test(start_paused = true)]
async fn a_waiter_whose_untaken_grant_is_lost_waits_for_another_one() {
    let engine = Memory::new();
    let (_a, lock) = lock_of(engine.clone());
    let operator = builder(engine).build().unwrap();
    let mut kept = Kept::new(&lock, WaitMode::Wait);
    settle().await;
    operator.break_lock("k").await.unwrap().unwrap();
    sleep(5 * SECOND).await;
    assert!(kept.poll().is_none(), "it gets a guard that is lost");
    settle().await;
    assert!(kept.guard().is_valid());
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_has_not_taken_its_grant_is_told_of_the_close() {
    let (node, lock) = lock_of(Memory::new());
    let mut all: [_; 3] = std::array::from_fn(|_| Kept::new(&lock, WaitMode::Wait));
    sleep(WINDOW + ms(10)).await; // The first is absent, the second has the grant, the third waits.
    node.shutdown().await;
    for one in &mut all {
        assert!(matches!(one.poll(), Some(Err(LockError::Closed { .. }))));
    }
}

/// Waiters that are polled, kept, dropped and time out at random: nobody waits for long while others do
/// nothing, and no two have the lock.
#[tokio::test(start_paused = true)]
async fn nobody_is_kept_out_in_random_runs() {
    for seed in 0..300 {
        let mut random = fastrand::Rng::with_seed(seed);
        let engine = Memory::new();
        let nodes: [_; 2] = std::array::from_fn(|n| {
            builder(engine.clone()).seed(2 * seed + n as u64).build().unwrap()
        });
        let locks: [_; 2] = std::array::from_fn(|n| nodes[n].lock("k").unwrap());
        let mut kept: Vec<Kept<'_>> = vec![];
        let mut guards: Vec<DistributedGuard> = vec![];
        for _ in 0..30 {
            match random.u8(..8) {
                0..3 => {
                    let lock = &locks[random.usize(..2)];
                    let mode = match random.u8(..3) {
                        0 => WaitMode::Within(ms(random.u64(..2_000))),
                        _ => WaitMode::Wait,
                    };
                    let acquire = lock.handle.acquire(mode, HoldLimits::default());
                    let acquire = if random.bool() { acquire.spinning() } else { acquire };
                    let mut one = Kept(Box::pin(acquire));
                    match one.poll() {
                        None => kept.push(one),
                        Some(result) => guards.extend(result),
                    }
                }
                3..5 if !kept.is_empty() => {
                    let at = random.usize(..kept.len());
                    if let Some(result) = kept[at].poll() {
                        drop(kept.swap_remove(at));
                        guards.extend(result);
                    }
                }
                5 if !kept.is_empty() => drop(kept.swap_remove(random.usize(..kept.len()))),
                6 => guards.clear(),
                _ => sleep(ms(random.u64(..1_000))).await,
            }
            assert!(guards.iter().filter(|guard| guard.is_valid()).count() <= 1, "seed {seed}");
        }
        guards.clear();
        // Nobody polls those that are left.
        let waits = u32::try_from(kept.len()).unwrap();
        for lock in &locks {
            let (guard, took) = acquire(lock).await;
            assert!(took < (waits + 2) * 2 * WINDOW, "seed {seed}: {took:?} behind {waits}");
            drop(guard);
        }
    }
}

// ---- Limits of holding ----

fn limited(lock: &DistributedLock, limit: Duration) -> DistributedLock {
    lock.clone().hold_at_most(limit)
}

#[tokio::test(start_paused = true)]
async fn a_guard_ends_at_its_limit_and_the_lock_goes_to_the_next_at_once() {
    for is_local in [true, false] {
        let engine = Memory::new();
        let notes = Notes::default();
        let node = builder(engine.clone()).observer(notes.clone()).build().unwrap();
        let lock = node.lock("k").unwrap();
        let (_b, theirs) = lock_of(engine);
        let guard = limited(&lock, 25 * SECOND).acquire().await.unwrap();
        let next = spawn(if is_local { &lock } else { &theirs });
        sleep(24 * SECOND).await;
        assert!(guard.is_valid() && guard.remaining() <= SECOND, "{guard:?}");
        let lost = guard.lost().await;
        assert_eq!((lost, guard.is_valid()), (LossReason::HoldLimit, false));
        let (next, took) = next.await.unwrap();
        assert!(is_about(took, 25 * SECOND), "{took:?}");
        assert!(next.is_valid() && next.token() > guard.token());
        assert_eq!(notes.take(), ["lost HoldLimit"]);
        // The reason stays, whatever becomes of the lease.
        sleep(30 * SECOND).await;
        assert_eq!(guard.lost().await, LossReason::HoldLimit);
        assert!(next.is_valid());
        let error = guard.release().await.unwrap_err();
        let why = LossReason::HoldLimit;
        assert!(matches!(&error, ReleaseError::Lost { why: it, .. } if *it == why), "{error}");
        assert_eq!(notes.take(), ["released Lost"]);
        assert!(next.is_valid(), "it was released by another's guard");
    }
}

#[tokio::test(start_paused = true)]
async fn each_user_of_a_lease_has_its_own_limit() {
    let (_node, lock) = lock_of(Memory::new());
    let first = limited(&lock, SECOND).acquire().await.unwrap();
    let second = limited(&lock, 3 * SECOND);
    let second = tokio::spawn(async move { second.acquire().await.unwrap() });
    let third = spawn(&lock);
    sleep(ms(600)).await;
    first.release().await.unwrap();
    let second = second.await.unwrap();
    let began = Instant::now();
    sleep(ms(2_900)).await;
    assert!(second.is_valid(), "it has the limit of the first");
    let (third, _) = third.await.unwrap();
    assert!(is_about(began.elapsed(), 3 * SECOND), "{:?}", began.elapsed());
    assert!(!second.is_valid());
    sleep(60 * SECOND).await;
    assert!(third.is_valid(), "it has a limit");
    third.release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_release_before_the_limit_succeeds_and_one_after_it_does_not() {
    let (node, lock) = lock_of(Memory::new());
    let bounded = limited(&lock, SECOND);
    let guard = bounded.acquire().await.unwrap();
    sleep(ms(990)).await;
    guard.release().await.unwrap();
    // The driver does not run between the end of the limit and the release.
    let guard = limited(&lock, Duration::ZERO).acquire().await.unwrap();
    assert!(!guard.is_valid());
    let error = guard.release().await.unwrap_err();
    assert!(matches!(&error, ReleaseError::Lost { why: LossReason::HoldLimit, .. }), "{error}");
    // A limit that is longer than what else ends the guard is not the reason.
    let guard = limited(&lock, 60 * SECOND).acquire().await.unwrap();
    node.break_lock("k").await.unwrap().unwrap();
    assert_eq!(guard.lost().await, LossReason::TakenOver);
    sleep(90 * SECOND).await;
    assert_eq!(guard.lost().await, LossReason::TakenOver);
}

#[tokio::test(start_paused = true)]
async fn a_lease_without_renewal_ends_after_one_lease() {
    let engine = Memory::new();
    let counts = crate::cluster::layers::Counts::default();
    let counted = crate::cluster::layers::Intercept::new(engine.clone(), counts.clone());
    let (_a, lock) = lock_of(counted);
    let (_b, theirs) = lock_of(engine);
    let once = lock.clone().without_renewal();
    let guard = once.acquire().await.unwrap();
    assert!(guard.remaining() > ms(9_800));
    sleep(ms(9_000)).await;
    assert!(guard.is_valid());
    assert_eq!(counts.take().compare_exchanges, 1, "it was renewed");
    let next = spawn(&theirs);
    assert_eq!(guard.lost().await, LossReason::HoldLimit);
    assert!(!guard.is_valid());
    next.await.unwrap().0.release().await.unwrap();
    drop(guard);
    // A user that does renew takes the lease over, and renews it.
    let guard = once.acquire().await.unwrap();
    let next = spawn(&lock);
    sleep(ms(5_000)).await;
    guard.release().await.unwrap();
    let (next, _) = next.await.unwrap();
    sleep(60 * SECOND).await;
    assert!(next.is_valid());
    // One that does not gets a lease of its own.
    let waits = tokio::spawn(async move { once.acquire().await.unwrap() });
    sleep(ms(5_000)).await;
    next.release().await.unwrap();
    let guard = waits.await.unwrap();
    assert!(guard.remaining() > ms(9_800), "{guard:?}");
    assert_eq!(guard.lost().await, LossReason::HoldLimit);
}

// ---- What is said ----

/// Writes down what happens to guards. At a loss it looks at the guard.
#[derive(Clone, Default)]
struct Notes(Arc<NotesState>);

#[derive(Default)]
struct NotesState {
    notes: Mutex<Vec<String>>,
    guard: Mutex<Option<Arc<DistributedGuard>>>,
    failed: Notify,
}

impl Notes {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.notes.lock())
    }

    fn note(&self, text: String) {
        self.0.notes.lock().push(text);
    }
}

impl Observer for Notes {
    fn lost(&self, _: &Key, why: &LossReason) {
        let guard = self.0.guard.lock().clone();
        if let Some(guard) = guard {
            let lost = std::pin::pin!(guard.lost()).poll(&mut Context::from_waker(Waker::noop()));
            assert_eq!((guard.is_valid(), lost), (false, Poll::Ready(why.clone())));
            self.note("the guard is lost".to_owned());
        }
        let why = format!("{why:?}");
        self.note(format!("lost {}", why.split(' ').next().unwrap_or_default()));
    }

    fn released(&self, _: &Key, outcome: ReleaseOutcome) {
        self.note(format!("released {outcome:?}"));
    }

    fn request_finished(
        &self,
        _: &Key,
        _: RemoteOperation,
        _: Duration,
        error: Option<&TransportError>,
    ) {
        if error.is_some() {
            self.0.failed.notify_one();
        }
    }
}

/// Whoever waits for the loss finds that the observer was told, and the observer that the guard is lost.
#[tokio::test(start_paused = true)]
async fn an_observer_is_told_of_a_loss_after_the_guard_and_before_its_task() {
    let foreign =
        || Write { value: b"hello".as_slice().into(), wake: Wake::Everybody, idle: false };
    for reason in ["Expired", "TakenOver", "Unreadable(Foreign)", "HoldLimit"] {
        let engine = Memory::new();
        let faulty = Faulty::new(engine.clone(), Plan::default(), 1);
        let faults = faulty.faults();
        let notes = Notes::default();
        let node = builder(faulty).observer(notes.clone()).build().unwrap();
        let mut lock = node.lock("k").unwrap();
        if reason == "HoldLimit" {
            lock = lock.hold_at_most(2 * SECOND);
        }
        let guard = Arc::new(lock.acquire().await.unwrap());
        *notes.0.guard.lock() = Some(guard.clone());
        let task = tokio::spawn({
            let (guard, notes) = (guard.clone(), notes.clone());
            async move {
                guard.lost().await;
                notes.take()
            }
        });
        settle().await;
        let key = Key::new("k").unwrap();
        match reason {
            "Expired" => faults.partition(true),
            "TakenOver" => drop(node.break_lock("k").await.unwrap().unwrap()),
            "HoldLimit" => {}
            _ => {
                let version = engine.load(&key).await.unwrap().map(|seen| seen.version);
                engine.compare_exchange(&key, version, foreign()).await.unwrap();
            }
        }
        let told = task.await.unwrap();
        assert_eq!(told, ["the guard is lost".to_owned(), format!("lost {reason}")]);
        notes.0.guard.lock().take();
    }
}

/// The same kinds of trouble, noticed by the driver.
#[tokio::test(start_paused = true)]
async fn every_loss_by_the_end_of_the_lease_names_the_cause() {
    let refused = Plan { refuse: 1.0, ..Plan::default() };
    let cases: [(&str, fn(&crate::cluster::layers::Faults, Plan)); 3] = [
        ("the connection is refused", |faults, refused| faults.set(refused)),
        ("no response", |faults, _| faults.partition(true)),
        ("no response", |faults, _| faults.pause(true)),
    ];
    for (text, fail) in cases {
        // A request that takes as long as the lease has not failed when that ends.
        for request_timeout in [ms(200), SECOND] {
            let faulty = Faulty::new(Memory::new(), Plan::default(), 1);
            let faults = faulty.faults();
            let node = builder(faulty).lease(SECOND).request_timeout(request_timeout);
            let node = node.build().unwrap();
            let guard = node.lock("k").unwrap().acquire().await.unwrap();
            fail(&faults, refused.clone());
            let LossReason::Expired { last: Some(last) } = guard.lost().await else { panic!() };
            assert!(last.contains(text), "{last}");
        }
    }
}

/// Nobody runs the driver when the lease ends, so the guard goes by the clock alone.
#[test]
fn a_guard_that_notices_its_end_first_names_the_cause_too() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for fails in [true, false] {
        let faulty = Faulty::new(Memory::new(), Plan::default(), 1);
        let faults = faulty.faults();
        let notes = Notes::default();
        let node = Node::builder(faulty).lease(ms(300)).observer(notes.clone());
        let node = node.runtime(runtime.handle().clone()).build().unwrap();
        let lock = node.lock("k").unwrap();
        let guard = runtime.block_on(async {
            let guard = lock.acquire().await.unwrap();
            if fails {
                faults.set(Plan { refuse: 1.0, ..Plan::default() });
                notes.0.failed.notified().await;
                // The driver gets the response.
                tokio::task::yield_now().await;
                tokio::task::yield_now().await;
            }
            guard
        });
        while guard.is_valid() {
            std::thread::yield_now();
        }
        let mut lost = Box::pin(guard.lost());
        let Poll::Ready(why) = lost.as_mut().poll(&mut Context::from_waker(Waker::noop())) else {
            panic!("it is not lost");
        };
        let text = if fails { "the connection is refused" } else { "did not run" };
        assert!(why.to_string().contains(text), "{why}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_timeout_says_what_is_wrong_with_the_engine() {
    let engine = Memory::new();
    let faulty = Faulty::new(engine.clone(), Plan::default(), 1);
    let faults = faulty.faults();
    let (node, lock) = lock_of(faulty);
    let (_other, theirs) = lock_of(engine);
    let within = async || lock.acquire_timeout(ms(300)).await.unwrap_err().to_string();
    faults.set(Plan { refuse: 1.0, ..Plan::default() });
    let error = within().await;
    assert!(error.contains("the connection is refused; check that the engine runs"), "{error}");
    assert!(!error.contains("holds it"), "{error}");
    faults.set(Plan::default());
    faults.pause(true);
    let silent = node.lock("silent").unwrap();
    let error = silent.acquire_timeout(ms(300)).await.unwrap_err().to_string();
    assert!(error.contains("no response for the last 300ms"), "{error}");
    faults.pause(false);
    let guard = theirs.acquire().await.unwrap();
    let error = within().await;
    assert!(error.ends_with("ask who holds it by inspect"), "{error}");
    drop(guard);
}

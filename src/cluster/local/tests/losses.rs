//! The observer is told of each loss once, and before anybody else learns of it.

use super::*;
use crate::cluster::layers::{Faulty, Plan};
use crate::cluster::{ReleaseError, Wake, Write};
use std::sync::mpsc;
use tokio::runtime::{Builder, Runtime};

/// A runtime that runs only while the test has it do so.
fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Lets the driver do all that it has to do.
fn run_driver(runtime: &Runtime) {
    runtime.block_on(async {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        sleep(ms(5)).await;
    });
}

fn poll_lost(guard: &DistributedGuard) -> Poll<LossReason> {
    std::pin::pin!(guard.lost()).poll(&mut Context::from_waker(Waker::noop()))
}

fn wait_until_invalid(guard: &DistributedGuard) {
    while guard.is_valid() {
        std::thread::yield_now();
    }
}

/// The driver does not run between the end of the guard and the first look at it.
#[test]
fn a_task_that_learns_of_a_loss_before_the_driver_tells_the_observer() {
    for (kind, reason) in
        [("at most", "HoldLimit"), ("without renewal", "HoldLimit"), ("lease", "Expired")]
    {
        let runtime = runtime();
        let notes = Notes::default();
        let node = Node::builder(Memory::new()).lease(ms(200)).observer(notes.clone());
        let node = node.runtime(runtime.handle().clone()).build().unwrap();
        let lock = node.lock("k").unwrap();
        let lock = match kind {
            "at most" => lock.hold_at_most(ms(20)),
            "without renewal" => lock.without_renewal(),
            _ => lock,
        };
        let guard = runtime.block_on(lock.acquire()).unwrap();
        wait_until_invalid(&guard);
        assert_eq!(notes.take(), [""; 0], "{kind}: the driver has run");
        let Poll::Ready(why) = poll_lost(&guard) else { panic!("{kind}: it is not lost") };
        assert_eq!(notes.take(), [format!("lost {reason}")], "{kind}");
        // Once, and with a reason that stays.
        assert_eq!(poll_lost(&guard), Poll::Ready(why.clone()));
        run_driver(&runtime);
        assert_eq!(poll_lost(&guard), Poll::Ready(why), "{kind}");
        assert_eq!(notes.take(), [""; 0], "{kind}: it is told again");
        drop(guard);
        run_driver(&runtime);
        assert_eq!(notes.take(), ["released Lost"], "{kind}");
    }
}

/// Nobody has noticed the loss when the guard is given back.
#[test]
fn a_guard_that_is_given_back_too_late_is_lost_first() {
    for (is_limited, reason) in [(true, "HoldLimit"), (false, "Expired")] {
        for is_dropped in [true, false] {
            let runtime = runtime();
            let notes = Notes::default();
            let node = Node::builder(Memory::new()).lease(ms(200)).observer(notes.clone());
            let node = node.runtime(runtime.handle().clone()).build().unwrap();
            let lock = node.lock("k").unwrap();
            let lock = if is_limited { lock.hold_at_most(ms(20)) } else { lock };
            let guard = runtime.block_on(lock.acquire()).unwrap();
            wait_until_invalid(&guard);
            if is_dropped {
                drop(guard);
            } else {
                let error = runtime.block_on(guard.release()).unwrap_err().to_string();
                let text = if is_limited { "held at most" } else { "no renewal got through" };
                assert!(error.contains(text), "{error}");
            }
            run_driver(&runtime);
            assert_eq!(notes.take(), [format!("lost {reason}"), "released Lost".to_owned()]);
        }
    }
}

/// The driver learns that the lock was taken before it looks at the limit, which has passed or not.
#[test]
fn the_observer_is_told_the_reason_that_came_first() {
    for (limit, reason) in [(ms(20), "HoldLimit"), (9 * SECOND, "TakenOver")] {
        let runtime = runtime();
        let notes = Notes::default();
        let node = Node::builder(Memory::new()).observer(notes.clone());
        let node = node.runtime(runtime.handle().clone()).build().unwrap();
        let lock = node.lock("k").unwrap().hold_at_most(limit);
        let guard = runtime.block_on(lock.acquire()).unwrap();
        if reason == "HoldLimit" {
            wait_until_invalid(&guard);
        }
        lock.handle.local.lost(&lock.handle.shared, &LossReason::TakenOver);
        assert_eq!(notes.take(), [format!("lost {reason}")]);
        let Poll::Ready(why) = poll_lost(&guard) else { panic!("it is not lost") };
        assert_eq!(format!("{why:?}"), reason);
        run_driver(&runtime);
        assert_eq!(notes.take(), [""; 0], "it is told again");
    }
}

#[tokio::test(start_paused = true)]
async fn each_guard_of_a_lease_has_its_own_loss() {
    let notes = Notes::default();
    let node = builder(Memory::new()).observer(notes.clone()).build().unwrap();
    let lock = node.lock("k").unwrap();
    let first = lock.clone().hold_at_most(SECOND).acquire().await.unwrap();
    let (second, _) = spawn(&lock).await.unwrap();
    assert_eq!(first.lost().await, LossReason::HoldLimit);
    assert_eq!(notes.take(), ["lost HoldLimit"]);
    node.break_lock("k").await.unwrap().unwrap();
    assert!(matches!(second.lost().await, LossReason::Broken { .. }));
    assert_eq!(first.lost().await, LossReason::HoldLimit);
    assert_eq!(notes.take(), ["lost Broken"]);
}

/// The last guard was released, and the waiter to which the lease went has no guard yet.
#[tokio::test(start_paused = true)]
async fn a_lease_without_a_guard_is_lost_in_silence() {
    let notes = Notes::default();
    let node = builder(Memory::new()).observer(notes.clone()).build().unwrap();
    let lock = node.lock("k").unwrap();
    let guard = lock.acquire().await.unwrap();
    let _kept = Kept::new(&lock, WaitMode::Wait);
    guard.release().await.unwrap();
    node.break_lock("k").await.unwrap().unwrap();
    sleep(5 * SECOND).await;
    assert_eq!(notes.take(), ["released HandedOff"]);
}

#[tokio::test(start_paused = true)]
async fn the_close_of_the_node_is_a_loss_of_its_guards_and_of_no_others() {
    for is_dropped in [false, true] {
        let notes = Notes::default();
        let faulty = Faulty::new(Memory::new(), Plan::default(), 1);
        let faults = faulty.faults();
        let node = builder(faulty).observer(notes.clone()).build().unwrap();
        let lock = node.lock("k").unwrap();
        let guard = Arc::new(lock.acquire().await.unwrap());
        *notes.0.guard.lock() = Some(guard.clone());
        let limited = node.lock("limited").unwrap().hold_at_most(SECOND).acquire().await.unwrap();
        // A guard that is gone, and whose release has no answer yet.
        let released = node.lock("released").unwrap().acquire().await.unwrap();
        faults.pause(true);
        drop(released);
        settle().await;
        faults.pause(false);
        if is_dropped {
            drop(node);
        } else {
            drop(node.shutdown().await);
        }
        assert_eq!(guard.lost().await, LossReason::Closed);
        sleep(20 * SECOND).await;
        let mut told = notes.take();
        told.sort();
        let all = ["lost Closed", "lost Closed", "released Held", "the guard is lost"];
        assert_eq!(told[..3], all[..3]);
        assert_eq!(limited.lost().await, LossReason::Closed);
        notes.0.guard.lock().take();
        drop((limited, Arc::into_inner(guard)));
        assert_eq!(notes.take(), ["released Lost", "released Lost"]);
    }
}

/// Its call of `lost` begins and ends when the test says so.
struct Slow {
    begun: mpsc::Sender<()>,
    may_end: Mutex<mpsc::Receiver<()>>,
}

impl Observer for Slow {
    fn lost(&self, _: &Key, _: &LossReason, _: Hold) {
        self.begun.send(()).unwrap();
        self.may_end.lock().recv().unwrap();
    }
}

/// On the system's clock, with the driver on a thread of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loss_is_not_ready_until_the_observer_has_been_told() {
    for reason in ["Broken", "HoldLimit", "Closed"] {
        let engine = Memory::new();
        let (begun, begins) = mpsc::channel();
        let (end, may_end) = mpsc::channel();
        let observer = Slow { begun, may_end: Mutex::new(may_end) };
        let node = Node::builder(engine.clone()).observer(observer).build().unwrap();
        let mut lock = node.lock("k").unwrap();
        if reason == "HoldLimit" {
            lock = lock.hold_at_most(ms(20));
        }
        let guard = lock.acquire().await.unwrap();
        let closing = match reason {
            "Broken" => {
                // Not by the thread that is about to be held up.
                let here = tokio::runtime::Handle::current();
                let operator = Node::builder(engine).runtime(here).build().unwrap();
                operator.break_lock("k").await.unwrap().unwrap();
                None
            }
            "Closed" => Some(std::thread::spawn(move || drop(node.blocking().shutdown()))),
            _ => None,
        };
        tokio::task::block_in_place(|| begins.recv().unwrap());
        assert!(!guard.is_valid(), "{reason}");
        assert_eq!(poll_lost(&guard), Poll::Pending, "{reason}: the observer was not told yet");
        // A task that looks now is woken when it was told.
        let task = tokio::spawn(async move {
            let why = guard.lost().await;
            (guard, why)
        });
        end.send(()).unwrap();
        let (guard, why) = task.await.unwrap();
        assert!(format!("{why:?}").starts_with(reason), "{why}");
        assert_eq!(poll_lost(&guard), Poll::Ready(why));
        closing.into_iter().for_each(|thread| thread.join().unwrap());
        assert!(begins.try_recv().is_err(), "{reason}: it is told again");
    }
}

#[tokio::test(start_paused = true)]
async fn a_release_that_finds_the_lock_lost_says_why() {
    let engine = Memory::new();
    let notes = Notes::default();
    let node = builder(engine.clone()).observer(notes.clone()).build().unwrap();
    let lock = node.lock("k").unwrap();
    let guard = lock.acquire().await.unwrap();
    let now = engine.load(lock.key()).await.unwrap().unwrap().version;
    let garbage = Write { value: b"{".as_slice().into(), wake: Wake::Nobody, idle: false };
    engine.compare_exchange(lock.key(), Some(now), garbage).await.unwrap();
    let error = guard.release().await.unwrap_err();
    let is_right = matches!(&error, ReleaseError::Lost { why: LossReason::Unreadable(_), .. });
    assert!(is_right, "{error}");
    assert_eq!(notes.take(), ["lost Unreadable(Foreign)", "released Lost"]);
}

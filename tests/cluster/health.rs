//! What a node says of itself.

use crate::support::{builder, ms, poll_once, settle};
use lockword::cluster::layers::{Faulty, Plan};
use lockword::cluster::{Key, Memory, Node, Observer};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

#[tokio::test(start_paused = true)]
async fn health_tells_of_locks_waiters_watches_and_the_engine() {
    let engine = Memory::new();
    let faulty = Faulty::new(engine.clone(), Plan::default(), 1);
    let faults = faulty.faults();
    let (node, other) =
        (builder(faulty, "a").build().unwrap(), builder(engine, "b").build().unwrap());
    let health = node.health();
    assert!(!health.is_reachable() && health.problems().is_empty(), "{health:?}");
    assert_eq!((health.held, health.waiting, health.least_lease_left), (0, 0, None));
    let guard = node.lock("held").unwrap().acquire().await.unwrap();
    let theirs = other.lock("theirs").unwrap().acquire().await.unwrap();
    let lock = node.lock("theirs").unwrap();
    let mut waits = Box::pin(lock.acquire());
    assert!(poll_once(waits.as_mut()).is_pending());
    settle().await;
    let health = node.health();
    assert!(health.is_reachable() && health.problems().is_empty(), "{health:?}");
    assert_eq!((health.held, health.waiting), (1, 1));
    assert_eq!((health.watches_wanted, health.watches, health.longest_queue), (1, 1, 1));
    assert_eq!(health.least_lease_left, Some(guard.remaining()));
    // The engine is cut off: the renewal of the one fails, and the watch of the other ends.
    faults.set(Plan { refuse: 1.0, ..Plan::default() });
    tokio::time::sleep(Duration::from_secs(9)).await;
    let health = node.health();
    assert!(!health.is_reachable());
    let problems = health.problems().join("; ");
    assert!(problems.contains("the engine: ") && problems.contains("responded last"), "{problems}");
    assert!(problems.contains("unless its lease is renewed"), "{problems}");
    faults.set(Plan::default());
    drop((theirs, guard));
    assert!(waits.await.is_ok());
    node.shutdown().await;
    assert_eq!(node.health().problems(), ["the node is closed"]);
}

/// A watch is wanted by one that waits, and by nobody else.
#[tokio::test(start_paused = true)]
async fn a_holder_whose_watch_has_ended_is_well() {
    let engine = Memory::new();
    let faulty = Faulty::new(engine.clone(), Plan::default(), 1);
    let faults = faulty.faults();
    let (node, other) =
        (builder(faulty, "a").build().unwrap(), builder(engine, "b").build().unwrap());
    let theirs = other.lock("k").unwrap().acquire().await.unwrap();
    let lock = node.lock("k").unwrap();
    let mut waits = Box::pin(lock.acquire());
    assert!(poll_once(waits.as_mut()).is_pending());
    settle().await;
    theirs.release().await.unwrap();
    let guard = waits.await.unwrap();
    faults.partition(true);
    settle().await;
    faults.partition(false);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let health = node.health();
    assert!(guard.is_valid() && health.problems().is_empty(), "{health:?}");
    assert_eq!(health.watches_wanted, 0);
}

/// Hangs in the first renewal until it is told to go on.
struct Hangs(Sender<()>, Mutex<Receiver<()>>);

impl Observer for Hangs {
    fn renewed(&self, _: &Key, _: Duration) {
        let _ = self.0.send(());
        let _ = self.1.lock().unwrap().recv();
    }
}

#[test]
fn a_background_task_that_hangs_is_seen_from_outside() {
    let ((hangs, is_hanging), (go_on, waits)) = (channel(), channel());
    let lease = ms(600);
    let node = Node::builder(Memory::new()).lease(lease).observer(Hangs(hangs, Mutex::new(waits)));
    let node = node.build().unwrap();
    let guard = node.blocking().lock("k").unwrap().acquire().unwrap();
    is_hanging.recv().unwrap();
    // It is told something that it does not get to.
    let other = node.blocking().lock("other").unwrap();
    let waiter = std::thread::spawn(move || other.acquire().map(drop));
    while node.health().driver_late < lease / 8 {
        std::thread::yield_now();
    }
    let problems = node.health().problems().join("; ");
    assert!(problems.contains("the background task is late"), "{problems}");
    drop(go_on);
    waiter.join().unwrap().unwrap();
    while node.health().driver_late >= lease / 8 {
        std::thread::yield_now();
    }
    drop(guard);
}

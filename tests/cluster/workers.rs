//! Many workers and many nodes on one key, over a sound engine and over a faulty connection to it.

use crate::support::{builder, ms, node};
use futures_util::FutureExt;
use lockword::cluster::layers::{Faulty, Plan};
use lockword::cluster::{LockError, Memory, Node};
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The number is read and written in two steps, which only the lock makes one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_workers_on_three_nodes_lose_no_increment() {
    let engine = Memory::new();
    let nodes: Vec<_> = (0..3).map(|_| Node::builder(engine.clone()).build().unwrap()).collect();
    let number = Arc::new(AtomicU64::new(0));
    let workers: Vec<_> = (0..10)
        .map(|n| {
            let (lock, number) = (nodes[n % 3].lock("number").unwrap(), number.clone());
            tokio::spawn(async move {
                for _ in 0..100 {
                    let guard = lock.acquire().await.unwrap();
                    // A read and a write, with others in between if they could.
                    let read = number.load(Ordering::Relaxed);
                    tokio::task::yield_now().await;
                    number.store(read + 1, Ordering::Relaxed);
                    if read % 3 == 0 {
                        guard.release().await.unwrap();
                    }
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await.unwrap();
    }
    assert_eq!(number.load(Ordering::Relaxed), 1_000);
    for node in nodes {
        assert_eq!(node.shutdown().await.indeterminate, []);
    }
}

/// The task that it wakes by the release may be in the slot of its worker from which no other worker takes
/// it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_worker_that_blocks_after_a_release_costs_no_other_lock() {
    let lease = ms(500);
    let node = Node::builder(Memory::new()).lease(lease).build().unwrap();
    let kept = node.lock("kept").unwrap().acquire().await.unwrap();
    let released = node.lock("released").unwrap().acquire().await.unwrap();
    let blocked = tokio::spawn(async move {
        drop(released);
        std::thread::sleep(3 * lease);
    });
    blocked.await.unwrap();
    assert!(kept.is_valid(), "it was not renewed");
    kept.release().await.unwrap();
}

/// The only thread of the runtime in which the node was built blocks.
#[tokio::test]
async fn a_runtime_that_blocks_costs_no_lock() {
    let lease = ms(500);
    let engine = Memory::new();
    let node = Node::builder(engine.clone()).lease(lease).build().unwrap();
    let guard = node.lock("k").unwrap().acquire().await.unwrap();
    // A waiter of another node, which would get it.
    let other = Node::builder(engine).lease(lease).build().unwrap().blocking();
    let error = other.lock("k").unwrap().acquire_timeout(3 * lease).unwrap_err();
    assert!(matches!(error, LockError::TimedOut { .. }), "{error}");
    assert!(guard.is_valid(), "it was not renewed");
}

/// Callers take steps of the driver in its place, which must lose neither a request, a timer nor a wake-up:
/// locks are acquired and released alone, several at a time, and with calls that are given up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_drive_their_own_steps_lose_nothing() {
    let lease = ms(500);
    let node = Node::builder(Memory::new()).lease(lease).build().unwrap();
    let kept = node.lock("kept").unwrap().acquire().await.unwrap();
    let workers: Vec<_> = (0..8)
        .map(|n| {
            // Two workers on each key.
            let lock = node.lock(format!("k{}", n / 2)).unwrap();
            tokio::spawn(async move {
                let began = std::time::Instant::now();
                let mut turns = 0_u32;
                while turns < 2_000 || began.elapsed() < 2 * lease {
                    match turns % 4 {
                        0 => drop(lock.acquire().await.unwrap()),
                        1 => lock.acquire().await.unwrap().release().await.unwrap(),
                        2 => drop(lock.acquire().now_or_never()),
                        _ => drop(lock.try_acquire().await),
                    }
                    turns += 1;
                }
            })
        })
        .collect();
    for worker in workers {
        tokio::time::timeout(Duration::from_secs(60), worker).await.expect("a lost step").unwrap();
    }
    assert!(kept.is_valid(), "it was renewed meanwhile");
    kept.release().await.unwrap();
    assert_eq!(node.shutdown().await.indeterminate, []);
}

/// An engine that answers later: each answer wakes the driver, although the request was first polled by a
/// caller. Nothing else happens at the node that could wake it instead.
#[tokio::test]
async fn each_answer_to_a_step_of_a_caller_wakes_the_driver() {
    let limit = Duration::from_secs(5);
    let engine = Faulty::delayed(Memory::new(), Duration::from_micros(50));
    let builder = Node::builder(engine).lease(6 * limit).request_timeout(limit);
    let node = builder.build().unwrap();
    let lock = node.lock("k").unwrap();
    for turn in 0..1_000 {
        let began = std::time::Instant::now();
        lock.acquire().await.unwrap().release().await.unwrap();
        let took = began.elapsed();
        assert!(took < limit, "turn {turn} took {took:?}: it was woken by the timeout");
    }
}

/// An uncontended lock over an engine that answers at once is acquired in the first poll, and released in
/// the first poll: neither waits for another thread.
#[tokio::test]
async fn an_uncontended_lock_waits_for_no_other_thread() {
    let node = Node::builder(Memory::new()).build().unwrap();
    let lock = node.lock("k").unwrap();
    // The driver is asleep except for a moment after it was woken.
    let mut at_once = 0;
    for _ in 0..200 {
        let guard = match lock.acquire().now_or_never() {
            Some(guard) => guard.unwrap(),
            None => lock.acquire().await.unwrap(),
        };
        at_once += u32::from(guard.release().now_or_never().is_some_and(|r| r.is_ok()));
        tokio::time::sleep(ms(1)).await;
    }
    assert!(at_once > 150, "{at_once}");
}

/// The faults of the connection.
fn bad() -> Plan {
    Plan {
        delay: ms(0)..=ms(5),
        refuse: 0.02,
        lose_request: 0.02,
        lose_response: 0.04,
        late: 0.02,
        lateness: ms(0)..=ms(50),
        timeout: ms(30),
        repeat: 0.1,
        reorder: 0.1,
        end: 0.02,
        ..Plan::default()
    }
}

/// Writes of unknown outcome, late writes, disturbed watches: no two nodes hold the lock at a time, and
/// tokens increase.
#[tokio::test(start_paused = true)]
async fn faults_of_the_connection_break_neither_exclusion_nor_the_order_of_tokens() {
    for seed in 0..20 {
        let engine = Memory::new();
        let held = Arc::new(AtomicU64::new(0));
        let last = Arc::new(AtomicU64::new(0));
        let new = |n: u64| {
            let faulty = Faulty::new(engine.clone(), bad(), 100 * seed + n);
            builder(faulty, &format!("n{n}")).lease(ms(2_000)).seed(100 * seed + n).build().unwrap()
        };
        let nodes: Vec<_> = (0..3).map(new).collect();
        let workers: Vec<_> = (0..6)
            .map(|n| {
                let lock = nodes[n % 3].lock("k").unwrap();
                let (held, last) = (held.clone(), last.clone());
                tokio::spawn(async move {
                    let mut got = 0;
                    while got < 30 {
                        let guard = if got % 5 == 4 {
                            match lock.acquire_timeout(ms(40)).await {
                                Err(LockError::TimedOut { .. }) => {
                                    got += 1;
                                    continue;
                                }
                                other => other.unwrap(),
                            }
                        } else {
                            lock.acquire().await.unwrap()
                        };
                        got += 1;
                        let token = guard.token().get();
                        assert!(last.swap(token, Ordering::Relaxed) < token, "seed {seed}");
                        assert_eq!(held.fetch_add(1, Ordering::Relaxed), 0, "seed {seed}");
                        tokio::time::sleep(ms(3)).await;
                        assert!(guard.is_valid(), "seed {seed}: a renewal in 2 s should succeed");
                        held.fetch_sub(1, Ordering::Relaxed);
                        if got % 2 == 0 {
                            // Any result is right: the response may be lost too.
                            drop(guard.release().await);
                        }
                    }
                })
            })
            .collect();
        for worker in workers {
            worker.await.unwrap();
        }
        drop(nodes);
        // Late writes arrive and leases end meanwhile: nothing of the nodes is left.
        tokio::time::sleep(Duration::from_secs(10)).await;
        let fresh = node(engine, "fresh");
        let guard = fresh.lock("k").unwrap().acquire().await.unwrap();
        assert!(guard.token().get() > last.load(Ordering::Relaxed));
    }
}

/// The futures hold a value that is not `Sync`.
#[tokio::test(start_paused = true)]
async fn a_thousand_keys_of_one_node_are_acquired_at_the_same_time() {
    let node = node(Faulty::delayed(Memory::new(), ms(10)), "one");
    let began = tokio::time::Instant::now();
    let tasks: Vec<_> = (0..1_000)
        .map(|n| {
            let lock = node.lock(format!("k{n}")).unwrap();
            tokio::spawn(async move {
                let local = Cell::new(0);
                let guard = lock.acquire().await.unwrap();
                local.set(1);
                guard.release().await.unwrap();
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    // Two round trips, and some until the node knows how many requests the engine responds to in time.
    assert!(began.elapsed() < ms(200), "one after the other: {:?}", began.elapsed());
}

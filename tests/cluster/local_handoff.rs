//! Tasks and threads of one node: one queue, handoffs without a message, and their bounds.

use crate::support::{builder, ms, node, poll_once, settle};
use lockword::cluster::layers::{Counts, Faulty, Intercept};
use lockword::cluster::{AcquiredVia, FencingToken, Memory, Node};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

#[tokio::test(start_paused = true)]
async fn local_handoffs_send_no_request_and_tokens_increase() {
    let counts = Counts::default();
    let counting = Intercept::new(Memory::new(), counts.clone());
    let node = node(counting, "one");
    let lock = node.lock("k").unwrap();
    let began = tokio::time::Instant::now();
    let tokens = Arc::new(Mutex::new(Vec::<FencingToken>::new()));
    let workers: Vec<_> = (0..4)
        .map(|_| {
            let (lock, tokens) = (lock.clone(), tokens.clone());
            tokio::spawn(async move {
                for _ in 0..2_500 {
                    let guard = lock.acquire().await.unwrap();
                    tokens.lock().unwrap().push(guard.token());
                    assert!(guard.is_valid());
                    // Lets the others join, so that there always is a next waiter.
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await.unwrap();
    }
    let tokens = std::mem::take(&mut *tokens.lock().unwrap());
    assert_eq!(tokens.len(), 10_000);
    assert!(tokens.is_sorted_by(|a, b| a < b), "a token is not larger than the one before");
    settle().await;
    let total = counts.now().total();
    assert!(began.elapsed() < ms(100), "{:?}", began.elapsed());
    // 1024 tokens a write at most; renewed after half of the handoffs that are allowed, 256.
    assert!((10..=50).contains(&total), "{total} operations for 10,000 acquisitions");
}

/// Many more handoffs than a version has tokens, while the engine takes long to respond.
#[tokio::test(start_paused = true)]
async fn a_waiter_waits_for_new_tokens_when_they_are_used_up() {
    let engine = Faulty::delayed(Memory::new(), ms(2));
    let node = node(engine, "one");
    let lock = node.lock("k").unwrap();
    let began = tokio::time::Instant::now();
    let mut last = None;
    let mut mine = Box::pin(lock.acquire());
    for _ in 0..5_000 {
        let guard = mine.as_mut().await.unwrap();
        assert!(Some(guard.token()) > last);
        last = Some(guard.token());
        mine = Box::pin(lock.acquire());
        assert!(poll_once(mine.as_mut()).is_pending());
        drop(guard);
    }
    // New tokens are requested when they run short, and not with the next regular renewal.
    assert!(began.elapsed() < ms(100), "{:?}", began.elapsed());
}

/// How many handoffs there are before another node, which waits, gets the lock; and after how
/// long.
async fn until_another_node(node: &Node, other: &Node, busy: Duration) -> (usize, Duration) {
    let lock = node.lock("k").unwrap();
    let theirs = other.lock("k").unwrap();
    let guard = lock.acquire().await.unwrap();
    let waiting = tokio::spawn(async move {
        let guard = theirs.acquire().await.unwrap();
        assert_eq!(guard.acquired_via(), AcquiredVia::Handoff);
        guard.release().await.unwrap();
    });
    settle().await;
    let done = Arc::new(Mutex::new(0));
    let workers: Vec<_> = (0..2)
        .map(|_| {
            let (lock, done) = (lock.clone(), done.clone());
            tokio::spawn(async move {
                loop {
                    let guard = lock.acquire().await.unwrap();
                    *done.lock().unwrap() += 1;
                    tokio::time::sleep(busy).await;
                    drop(guard);
                }
            })
        })
        .collect();
    // Both workers wait here, and the other node is in the queue.
    settle().await;
    assert_eq!(node.waiting("k"), 2);
    let began = tokio::time::Instant::now();
    drop(guard);
    let limit = Duration::from_secs(60);
    tokio::time::timeout(limit, waiting)
        .await
        .expect("the other node never gets the lock")
        .unwrap();
    let took = began.elapsed();
    let done = *done.lock().unwrap();
    workers.iter().for_each(tokio::task::JoinHandle::abort);
    for worker in workers {
        assert!(worker.await.unwrap_err().is_cancelled());
    }
    (done, took)
}

#[tokio::test(start_paused = true)]
async fn another_node_waits_no_longer_than_the_bounds_of_local_handoffs() {
    let engine = Memory::new();
    // The bound of their time.
    let one = builder(engine.clone(), "one").local_handoff_window(ms(40)).build().unwrap();
    let other = builder(engine.clone(), "other").build().unwrap();
    let (done, took) = until_another_node(&one, &other, ms(3)).await;
    assert!(took < ms(60), "{took:?}");
    assert!(done >= 5, "{done} handoffs: the bounds leave room for more");
    drop((one, other));
    // The bound of their number.
    settle().await;
    let one = builder(engine.clone(), "one")
        .local_handoffs(5)
        .local_handoff_window(ms(4_000))
        .build()
        .unwrap();
    let other = builder(engine.clone(), "other").build().unwrap();
    let (done, _) = until_another_node(&one, &other, ms(10)).await;
    // The node learns that another one waits from its next write, after half of them.
    assert!((5..=8).contains(&done), "{done} handoffs");
    drop((one, other));
    // Switched off.
    settle().await;
    let one = builder(engine.clone(), "one").local_handoffs(0).build().unwrap();
    let other = builder(engine, "other").build().unwrap();
    let (done, _) = until_another_node(&one, &other, ms(3)).await;
    assert!(done <= 1, "{done} handoffs");
}

#[tokio::test(start_paused = true)]
async fn with_zero_local_handoffs_every_acquisition_goes_through_the_engine() {
    let counts = Counts::default();
    let counting = Intercept::new(Memory::new(), counts.clone());
    let node = builder(counting, "one").local_handoffs(0).build().unwrap();
    let lock = node.lock("k").unwrap();
    let workers: Vec<_> = (0..2)
        .map(|_| {
            let lock = lock.clone();
            tokio::spawn(async move {
                for _ in 0..50 {
                    let guard = lock.acquire().await.unwrap();
                    assert_eq!(guard.acquired_via(), AcquiredVia::Free);
                    tokio::task::yield_now().await;
                    guard.release().await.unwrap();
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await.unwrap();
    }
    assert_eq!(counts.now().swaps, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_and_threads_are_served_in_the_order_of_their_calls() {
    let node = Node::builder(Memory::new()).build().unwrap();
    let lock = node.lock("k").unwrap();
    let blocking = node.blocking().lock("k").unwrap();
    let (tell, served) = mpsc::channel();
    let guard = lock.acquire().await.unwrap();
    let mut threads = vec![];
    let mut tasks = vec![];
    for n in 0..20 {
        let tell = tell.clone();
        if n % 2 == 0 {
            let lock = lock.clone();
            let mut acquire = Box::pin(async move { lock.acquire().await.unwrap() });
            // The first poll joins the queue.
            assert!(poll_once(acquire.as_mut()).is_pending());
            tasks.push(tokio::spawn(async move {
                let guard = acquire.await;
                tell.send((n, guard.token())).unwrap();
            }));
        } else {
            let blocking = blocking.clone();
            let before = node.waiting("k");
            threads.push(std::thread::spawn(move || {
                let guard = blocking.acquire().unwrap();
                tell.send((n, guard.token())).unwrap();
            }));
            while node.waiting("k") == before {
                tokio::task::yield_now().await;
            }
        }
    }
    drop(guard);
    for task in tasks {
        task.await.unwrap();
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    drop(tell);
    let served: Vec<_> = served.iter().collect();
    let order: Vec<_> = served.iter().map(|(n, _)| *n).collect();
    assert_eq!(order, (0..20).collect::<Vec<_>>());
    assert!(served.is_sorted_by(|a, b| a.1 < b.1));
}

/// The tokens are used up, and a request takes 20 ms.
#[tokio::test(start_paused = true)]
async fn a_release_does_not_wait_for_new_tokens() {
    let engine = Faulty::delayed(Memory::new(), ms(20));
    let a = builder(engine, "a").build().unwrap();
    let lock = a.lock("k").unwrap();
    let longest = Arc::new(AtomicU64::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let mut all = vec![];
    for _ in 0..64 {
        let (lock, longest, stop) = (lock.clone(), longest.clone(), stop.clone());
        all.push(tokio::spawn(async move {
            while !stop.load(Relaxed) {
                let guard = lock.acquire().await.unwrap();
                tokio::task::yield_now().await;
                let began = tokio::time::Instant::now();
                guard.release().await.unwrap();
                longest.fetch_max(began.elapsed().as_millis() as u64, Relaxed);
            }
        }));
    }
    tokio::time::sleep(Duration::from_millis(1000)).await;
    stop.store(true, Relaxed);
    for task in all {
        task.await.unwrap();
    }
    let longest = longest.load(Relaxed);
    assert!(longest < 100, "a release took {longest} ms");
}

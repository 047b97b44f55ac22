//! The cells within one process.

use crate::engine::{At, ContenderKind};
use crate::sample::Sample;
use lockword::cluster::Node;
use lockword::cluster::layers::Counts;
use lockword::contention::statistics;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

const THREADS: usize = 8;

/// The tasks of `keys`, each with its own.
const KEYS: usize = 64;

/// Pairs before anything is measured.
const WARM: usize = 10;

pub fn runtime(threads: usize) -> Runtime {
    match threads {
        1 => tokio::runtime::Builder::new_current_thread().enable_all().build(),
        n => tokio::runtime::Builder::new_multi_thread().worker_threads(n).enable_all().build(),
    }
    .expect("a runtime")
}

/// Calls `pair` until the time is up. Returns how long a call took on average, and the number of calls.
async fn repeat(slice: Duration, mut pair: impl AsyncFnMut()) -> (f64, u64) {
    let (start, mut done) = (Instant::now(), 0);
    while start.elapsed() < slice || done == 0 {
        pair().await;
        done += 1;
    }
    (start.elapsed().as_nanos() as f64 / done as f64, done)
}

/// One task, without contention.
pub fn alone(at: &At, what: ContenderKind, slice: Duration) -> Sample {
    runtime(1).block_on(async {
        if !what.is_lockword() {
            let mut other = at.other(what).await;
            let mut pair = async || {
                other.acquire().await;
                other.release().await;
            };
            for _ in 0..WARM {
                pair().await;
            }
            return Sample::new(repeat(slice, pair).await.0);
        }
        let (node, counts) = at.node(what).await;
        let lock = node.lock("alone").expect("a key");
        let pair = async || lock.acquire().await.expect("free").release().await.expect("held");
        for _ in 0..WARM {
            pair().await;
        }
        counts.take();
        let (ns, done) = repeat(slice, pair).await;
        Sample::new(ns).with_requests(counts.take(), done)
    })
}

/// Threads that call what `client` gives them until time is up: nanoseconds for each call, and how
/// many calls each thread has made.
fn contend<C: FnMut()>(slice: Duration, client: impl Fn() -> C + Sync) -> (f64, Vec<u64>) {
    let (stop, ready) = (AtomicBool::new(false), std::sync::Barrier::new(THREADS + 1));
    let (elapsed, done) = thread::scope(|scope| {
        let worker = || {
            let mut section = client();
            ready.wait();
            let mut done = 0;
            while !stop.load(Ordering::Relaxed) {
                section();
                done += 1;
            }
            done
        };
        let workers: Vec<_> = (0..THREADS).map(|_| scope.spawn(worker)).collect();
        ready.wait();
        let start = Instant::now();
        thread::sleep(slice);
        stop.store(true, Ordering::Relaxed);
        let join = |worker: thread::ScopedJoinHandle<'_, u64>| worker.join().expect("no panic");
        let done: Vec<u64> = workers.into_iter().map(join).collect();
        (start.elapsed(), done)
    });
    (elapsed.as_nanos() as f64 / done.iter().sum::<u64>().max(1) as f64, done)
}

/// Eight threads on one key.
pub fn threads(at: &At, what: ContenderKind, slice: Duration) -> Sample {
    let runtime = runtime(2);
    if !what.is_lockword() {
        let (ns, done) = contend(slice, || {
            let mut other = runtime.block_on(at.other(what));
            let runtime = &runtime;
            move || {
                runtime.block_on(async {
                    other.acquire().await;
                    other.release().await;
                });
            }
        });
        return Sample::new(ns).with_grants(&done);
    }
    let (node, counts) = runtime.block_on(at.node(what));
    let lock = node.blocking().lock("threads").expect("a key");
    drop(lock.acquire().expect("free"));
    counts.take();
    let (ns, done) = contend(slice, || || drop(lock.acquire().expect("it is granted")));
    let sample = Sample::new(ns).with_grants(&done);
    sample.with_requests(counts.take(), done.iter().sum())
}

/// The median of what `act` returns, called after this rest each time.
async fn rested(rest: Duration, slice: Duration, mut act: impl AsyncFnMut() -> Duration) -> Sample {
    let mut took = vec![];
    let start = Instant::now();
    while start.elapsed() < slice || took.is_empty() {
        tokio::time::sleep(rest).await;
        took.push(act().await.as_nanos() as f64);
    }
    Sample::new(statistics::median(&took).mid)
}

/// A bare write, until another client has read it, after a rest of this length.
pub fn bound(at: &At, rest: Duration, slice: Duration) -> Sample {
    let runtime = runtime(2);
    let sample = runtime.block_on(async {
        let mut notifier = at.engine.notifier(&at.address).await;
        notifier.notify().await;
        rested(rest, slice, async || notifier.notify().await).await
    });
    runtime.shutdown_background();
    sample
}

/// Many tasks, each with a key of its own. Bare, they share `connections`.
pub fn keys(at: &At, what: ContenderKind, connections: usize, slice: Duration) -> Sample {
    let runtime = runtime(2);
    let sample = runtime.block_on(async {
        let mut tasks: Vec<Pin<Box<dyn Future<Output = u64> + Send>>> = vec![];
        let (stop, mut counts) = (Arc::new(AtomicBool::new(false)), Counts::default());
        let node;
        if what.is_lockword() {
            (node, counts) = at.node(what).await;
            for number in 0..KEYS {
                let lock = node.lock(format!("keys/{number}")).expect("a key");
                lock.acquire().await.expect("free").release().await.expect("held");
                let stop = stop.clone();
                tasks.push(Box::pin(async move {
                    let mut done = 0;
                    while !stop.load(Ordering::Relaxed) {
                        lock.acquire().await.expect("free").release().await.expect("held");
                        done += 1;
                    }
                    done
                }));
            }
        } else {
            for _ in 0..connections {
                for mut raw in at.engine.raw(&at.address, KEYS / connections).await {
                    let stop = stop.clone();
                    tasks.push(Box::pin(async move {
                        let mut done = 0;
                        while !stop.load(Ordering::Relaxed) {
                            raw.acquire().await;
                            raw.release().await;
                            done += 1;
                            // Where a call never waits, this task would keep its thread from the timer.
                            tokio::task::yield_now().await;
                        }
                        done
                    }));
                }
            }
        }
        counts.take();
        let start = Instant::now();
        let tasks: Vec<_> = tasks.into_iter().map(tokio::spawn).collect();
        tokio::time::sleep(slice).await;
        stop.store(true, Ordering::Relaxed);
        let mut grants = vec![];
        for task in tasks {
            grants.push(task.await.expect("no panic"));
        }
        let (elapsed, done) = (start.elapsed(), grants.iter().sum::<u64>().max(1));
        let sample = Sample::new(elapsed.as_nanos() as f64 / done as f64).with_grants(&grants);
        match what.is_lockword() {
            true => sample.with_requests(counts.take(), done),
            false => sample,
        }
    });
    runtime.shutdown_background();
    sample
}

/// `count` nodes that contend for the lock all the time.
pub fn waiting(at: &At, count: usize, slice: Duration) -> Sample {
    let runtime = runtime(2);
    let sample = runtime.block_on(async {
        let counts = Counts::default();
        let grants = Arc::new(Mutex::new(vec![0_u64; count]));
        let stop = Arc::new(AtomicBool::new(false));
        let mut workers = vec![];
        for number in 0..count {
            let node = Node::builder(at.connect_into(&counts).await).build().expect("a node");
            let lock = node.lock("waiting").expect("a key");
            let (grants, stop) = (grants.clone(), stop.clone());
            workers.push(tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let guard = lock.acquire().await.expect("it is granted");
                    grants.lock().expect("no panic")[number] += 1;
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    guard.release().await.expect("it is held");
                }
                drop(node);
            }));
        }
        // The start, until every node had the lock once, is not measured.
        while grants.lock().expect("no panic").contains(&0) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        grants.lock().expect("no panic").fill(0);
        counts.take();
        let start = Instant::now();
        let mut elapsed = Duration::ZERO;
        // At least one grant for each.
        while elapsed < slice || grants.lock().expect("no panic").iter().sum::<u64>() < count as u64
        {
            tokio::time::sleep(slice.min(Duration::from_millis(10))).await;
            elapsed = start.elapsed();
        }
        let (grants, requests) = (grants.lock().expect("no panic").clone(), counts.now());
        stop.store(true, Ordering::Relaxed);
        for worker in workers {
            worker.await.expect("no panic");
        }
        let done: u64 = grants.iter().sum();
        let sample = Sample::new(elapsed.as_nanos() as f64 / done as f64);
        sample.with_requests(requests, done).with_grants(&grants)
    });
    runtime.shutdown_background();
    sample
}

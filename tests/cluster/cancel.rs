//! Cancellation: futures are dropped after every poll, and at every millisecond.
//!
//! Afterwards no node holds the lock, its queue is empty, and another node gets it at once.

use crate::support::{ms, node};
use lockword::cluster::layers::Faulty;
use lockword::cluster::{DistributedLock, LockStatus, Memory, Node};
use std::future::Future;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;
use tokio::time::Instant;

/// The time of a request and its response together.
const ROUND_TRIP: Duration = Duration::from_millis(4);

/// The call whose future is dropped.
#[derive(Clone, Copy, Debug)]
enum Call {
    Acquire,
    Try,
    Within(u64),
    Release,
}

/// When the future is dropped.
#[derive(Clone, Copy, Debug)]
enum Drop {
    /// After this many polls.
    Polls(u32),
    /// After this many milliseconds.
    After(u64),
}

/// Runs the future up to the point at which it is dropped. Returns whether it was ready before.
async fn run_until(when: Drop, future: impl Future) -> bool {
    match when {
        Drop::After(after) => tokio::time::timeout(ms(after), future).await.is_ok(),
        Drop::Polls(polls) => {
            let mut future = pin!(future);
            let mut polled = 0;
            std::future::poll_fn(|cx| {
                if polled == polls {
                    return Poll::Ready(false);
                }
                polled += 1;
                match future.as_mut().poll(cx) {
                    Poll::Ready(_) => Poll::Ready(true),
                    // That was the last poll.
                    Poll::Pending if polled == polls => Poll::Ready(false),
                    Poll::Pending => Poll::Pending,
                }
            })
            .await
        }
    }
}

async fn make(call: Call, lock: &DistributedLock) {
    match call {
        Call::Acquire => drop(lock.acquire().await),
        Call::Try => drop(lock.try_acquire().await),
        Call::Within(timeout) => drop(lock.acquire_timeout(ms(timeout)).await),
        Call::Release => {
            if let Ok(guard) = lock.acquire().await {
                drop(guard.release().await);
            }
        }
    }
}

/// Who holds the lock meanwhile.
#[derive(Clone, Copy, Debug)]
enum Meanwhile {
    Nobody,
    /// A task of the same node, for this many milliseconds.
    Same(u64),
    /// Another node, for this many milliseconds.
    Other(u64),
    /// Another node, for this many milliseconds, and a third one waits before this one.
    Others(u64),
}

async fn hold(node: &Node, time: u64) {
    let lock = node.lock("k").unwrap();
    let guard = lock.acquire().await.unwrap();
    tokio::spawn(async move {
        tokio::time::sleep(ms(time)).await;
        guard.release().await.unwrap();
    });
}

/// One run. Returns whether the future was ready before it was to be dropped.
async fn run(call: Call, meanwhile: Meanwhile, when: Drop) -> bool {
    let engine = Memory::new();
    let new = |label| node(Faulty::delayed(engine.clone(), ROUND_TRIP), label);
    let (us, other, third) = (new("us"), new("other"), new("third"));
    match meanwhile {
        Meanwhile::Nobody => {}
        Meanwhile::Same(time) => hold(&us, time).await,
        Meanwhile::Other(time) => hold(&other, time).await,
        Meanwhile::Others(time) => {
            hold(&other, time).await;
            let third = third.clone();
            tokio::spawn(async move { hold(&third, 3).await });
            tokio::time::sleep(ms(2)).await;
        }
    }
    let lock = us.lock("k").unwrap();
    let ready = run_until(when, make(call, &lock)).await;
    // Another node gets it as soon as the holders are done.
    let began = Instant::now();
    let guard = other.lock("k").unwrap().acquire().await.unwrap();
    let took = began.elapsed();
    let case = format!("{call:?} {meanwhile:?} {when:?}");
    // A dead entry in the queue would cost a claim window (500 ms), a dead holder a lease.
    assert!(took < ms(100), "{case}: {took:?}");
    guard.release().await.unwrap();
    // So does this node: nothing is left in it.
    let guard = lock.acquire_timeout(ms(1000)).await.unwrap_or_else(|why| panic!("{case}: {why}"));
    guard.release().await.unwrap();
    tokio::time::sleep(ms(50)).await;
    let state = other.inspect("k").await.unwrap();
    assert_eq!((state.status, state.queue), (LockStatus::Free, vec![]), "{case}");
    drop(lock);
    tokio::time::sleep(ms(50)).await;
    assert_eq!(us.keys(), 0, "{case}: the key is remembered");
    ready
}

/// Drops the future later and later, until it is ready before. Returns the number of runs.
async fn enumerate(call: Call, meanwhile: Meanwhile, when: impl Fn(u64) -> Drop) -> u64 {
    for n in 0..200 {
        if run(call, meanwhile, when(n)).await {
            return n;
        }
    }
    panic!("{call:?} {meanwhile:?} is never ready");
}

const CALLS: [Call; 5] =
    [Call::Acquire, Call::Try, Call::Within(500), Call::Within(7), Call::Release];
const MEANWHILE: [Meanwhile; 4] =
    [Meanwhile::Nobody, Meanwhile::Same(9), Meanwhile::Other(9), Meanwhile::Others(9)];

#[tokio::test(start_paused = true)]
async fn a_future_that_is_dropped_after_any_poll_leaves_nothing() {
    for call in CALLS {
        for meanwhile in MEANWHILE {
            let points = enumerate(call, meanwhile, |n| Drop::Polls(n as u32)).await;
            // One poll joins the queue; a refusal within the node needs no more.
            let refused = matches!((call, meanwhile), (Call::Try, Meanwhile::Same(_)));
            assert!(points >= if refused { 1 } else { 2 }, "{call:?} {meanwhile:?}: {points}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_future_that_is_dropped_at_any_millisecond_leaves_nothing() {
    let mut runs = 0;
    for call in CALLS {
        for meanwhile in MEANWHILE {
            runs += enumerate(call, meanwhile, Drop::After).await;
        }
    }
    // Five calls in four situations, of several round trips each.
    assert!(runs > 150, "{runs}");
}

#[tokio::test(start_paused = true)]
async fn a_grant_whose_future_is_dropped_goes_to_the_next_waiter() {
    let node = node(Memory::new(), "us");
    let lock = node.lock("k").unwrap();
    let guard = lock.acquire().await.unwrap();
    let mut first = Box::pin(lock.acquire());
    let mut second = Box::pin(lock.acquire());
    assert!(crate::support::poll_once(first.as_mut()).is_pending());
    assert!(crate::support::poll_once(second.as_mut()).is_pending());
    drop(guard);
    drop(first);
    let Poll::Ready(Ok(guard)) = crate::support::poll_once(second.as_mut()) else {
        panic!("the lock was not passed on at once");
    };
    assert!(guard.is_valid());
}

//! Futures that are dropped at every point at which they wait, and at every millisecond.
//!
//! Afterwards nobody holds the lock and nobody is in its queue, and another node gets it at once.

use crate::support::{ms, node};
use lockword::cluster::layers::Faulty;
use lockword::cluster::{DistributedLock, LockStatus, Memory, Node};
use std::future::Future;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;
use tokio::time::Instant;

/// A request and its answer take so long together.
const ROUND_TRIP: Duration = Duration::from_millis(4);

/// What is waited for in vain.
#[derive(Clone, Copy, Debug)]
enum Then {
    Acquire,
    Try,
    Within(u64),
    Release,
}

/// When it is dropped.
#[derive(Clone, Copy, Debug)]
enum Drop {
    /// After so many polls.
    Polls(u32),
    /// After so many milliseconds.
    After(u64),
}

/// Runs the future up to the point at which it is dropped. Whether it was ready before.
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
                    // The last look is its last.
                    Poll::Pending if polled == polls => Poll::Ready(false),
                    Poll::Pending => Poll::Pending,
                }
            })
            .await
        }
    }
}

async fn claim(then: Then, lock: &DistributedLock) {
    match then {
        Then::Acquire => drop(lock.acquire().await),
        Then::Try => drop(lock.try_acquire().await),
        Then::Within(timeout) => drop(lock.acquire_timeout(ms(timeout)).await),
        Then::Release => {
            if let Ok(guard) = lock.acquire().await {
                drop(guard.release().await);
            }
        }
    }
}

/// Who has the lock meanwhile.
#[derive(Clone, Copy, Debug)]
enum Meanwhile {
    Nobody,
    /// A task of the same node, for so many milliseconds.
    Same(u64),
    /// Another node, for so many milliseconds.
    Other(u64),
    /// Another node, and a third waits before us.
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

/// One run. Whether the future was ready before it was to be dropped.
async fn run(then: Then, meanwhile: Meanwhile, when: Drop) -> bool {
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
    let ready = run_until(when, claim(then, &lock)).await;
    // Another node gets it as soon as the holders are done.
    let began = Instant::now();
    let guard = other.lock("k").unwrap().acquire().await.unwrap();
    let took = began.elapsed();
    let case = format!("{then:?} {meanwhile:?} {when:?}");
    // A dead entry in the queue would cost a claim window (500 ms), a dead holder a lease.
    assert!(took < ms(100), "{case}: {took:?}");
    guard.release().await.unwrap();
    // And we, too: nothing is left at this node.
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

/// Later and later, until the future is ready before it is dropped. How many runs that were.
async fn enumerate(then: Then, meanwhile: Meanwhile, when: impl Fn(u64) -> Drop) -> u64 {
    for n in 0..200 {
        if run(then, meanwhile, when(n)).await {
            return n;
        }
    }
    panic!("{then:?} {meanwhile:?} is never ready");
}

const THEN: [Then; 5] =
    [Then::Acquire, Then::Try, Then::Within(500), Then::Within(7), Then::Release];
const MEANWHILE: [Meanwhile; 4] =
    [Meanwhile::Nobody, Meanwhile::Same(9), Meanwhile::Other(9), Meanwhile::Others(9)];

#[tokio::test(start_paused = true)]
async fn dropped_after_every_poll() {
    for then in THEN {
        for meanwhile in MEANWHILE {
            let points = enumerate(then, meanwhile, |n| Drop::Polls(n as u32)).await;
            // One poll joins the queue; a refusal within the node needs no more.
            let refused = matches!((then, meanwhile), (Then::Try, Meanwhile::Same(_)));
            assert!(points >= if refused { 1 } else { 2 }, "{then:?} {meanwhile:?}: {points}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn dropped_at_every_millisecond() {
    let mut runs = 0;
    for then in THEN {
        for meanwhile in MEANWHILE {
            runs += enumerate(then, meanwhile, Drop::After).await;
        }
    }
    // Five ways and four situations, of several round trips each.
    assert!(runs > 150, "{runs}");
}

/// What is granted at the moment at which its future is dropped goes to the next in the queue.
#[tokio::test(start_paused = true)]
async fn a_grant_that_nobody_fetches_goes_on() {
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

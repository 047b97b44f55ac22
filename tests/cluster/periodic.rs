//! Jobs that run at most once in a period.

use crate::support::{builder, poll_once};
use lockword::cluster::layers::{Faulty, Plan};
use lockword::cluster::periodic::{PeriodicJob, StartError, StartRecord};
use lockword::cluster::{Key, LockError, Memory, Node, Transport, TransportError, Wake, Write};
use std::time::Duration;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn job(node: &Node, period: Duration) -> PeriodicJob {
    node.periodic_job("jobs/nightly", period).unwrap()
}

fn is_not_due<T>(result: &Result<T, StartError>) -> bool {
    matches!(result, Err(StartError::NotDue { .. }))
}

#[tokio::test(start_paused = true)]
async fn of_many_nodes_that_start_it_one_does() {
    let engine = Memory::new();
    let nodes: Vec<_> =
        (0..5).map(|at| builder(engine.clone(), &format!("n{at}")).build().unwrap()).collect();
    let starts = nodes.iter().map(|node| {
        let job = job(node, DAY);
        tokio::spawn(async move {
            let guard = job.start().await?;
            guard.release().await.unwrap();
            Ok::<_, StartError>(())
        })
    });
    let mut started = 0;
    for start in starts.collect::<Vec<_>>() {
        match start.await.unwrap() {
            Ok(()) => started += 1,
            other => assert!(is_not_due(&other), "{other:?}"),
        }
    }
    assert_eq!(started, 1);
    let last = job(&nodes[0], DAY).last().await.unwrap().unwrap();
    assert!(last.label.starts_with('n') && last.token > 0 && !last.is_over());
    assert_eq!(last.for_ms, 24 * 60 * 60 * 1000);
    let Err(StartError::NotDue { due_in, last: told, .. }) = job(&nodes[1], DAY).check().await
    else {
        panic!()
    };
    assert!(told == last && due_in <= DAY && due_in > DAY - Duration::from_secs(60));
    // Another period, another answer: one that is over, and a job that runs once and never again.
    job(&nodes[2], Duration::ZERO).start().await.unwrap().release().await.unwrap();
    assert!(is_not_due(&job(&nodes[3], Duration::MAX).start().await));
}

/// A start under the lock is seen by who waited for the lock.
#[tokio::test(start_paused = true)]
async fn it_is_looked_at_again_under_the_lock() {
    let engine = Memory::new();
    let [a, b] = ["a", "b"].map(|name| builder(engine.clone(), name).build().unwrap());
    let (of_a, of_b) = (job(&a, DAY), job(&b, DAY));
    let guard = a.lock("jobs/nightly").unwrap().acquire().await.unwrap();
    let tried = of_b.try_start().await;
    assert!(matches!(tried, Err(StartError::Lock(LockError::Busy { .. }))), "{tried:?}");
    let mut waits = Box::pin(of_b.start());
    assert!(poll_once(waits.as_mut()).is_pending());
    while a.inspect("jobs/nightly").await.unwrap().queue.is_empty() {
        assert!(poll_once(waits.as_mut()).is_pending());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    of_a.record(&guard).await.unwrap();
    // The same start once more is no other.
    of_a.record(&guard).await.unwrap();
    assert!(is_not_due(&of_a.check().await));
    guard.release().await.unwrap();
    assert!(is_not_due(&waits.await));
    // The lock is free again.
    a.lock("jobs/nightly").unwrap().try_acquire().await.unwrap().release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_start_that_is_forgotten_does_not_count() {
    let engine = Memory::new();
    let [a, b] = ["a", "b"].map(|name| builder(engine.clone(), name).build().unwrap());
    let guard = job(&a, DAY).start().await.unwrap();
    let start = job(&a, DAY).last().await.unwrap().unwrap();
    job(&a, DAY).forget(&start).await.unwrap();
    guard.release().await.unwrap();
    let guard = job(&b, DAY).start().await.unwrap();
    // One of an earlier start changes nothing.
    let earlier = job(&b, DAY).last().await.unwrap().unwrap();
    guard.release().await.unwrap();
    job(&a, DAY).forget(&start).await.unwrap();
    assert_eq!(job(&a, DAY).last().await.unwrap(), Some(earlier));
    assert!(is_not_due(&job(&a, DAY).check().await));
}

/// The response to the write of the record is lost: it counts, once.
#[tokio::test(start_paused = true)]
async fn a_record_whose_response_is_lost_is_found() {
    let engine = Faulty::new(Memory::new(), Plan::default(), 0);
    let faults = engine.faults();
    let node = builder(engine, "a").build().unwrap();
    let job = job(&node, DAY);
    let guard = job.lock().acquire().await.unwrap();
    faults.lose_next_response();
    job.record(&guard).await.unwrap();
    assert!(is_not_due(&job.check().await));
    let start = job.last().await.unwrap().unwrap();
    faults.lose_next_response();
    job.forget(&start).await.unwrap();
    job.check().await.unwrap();
    faults.lose_next_request();
    job.record(&guard).await.unwrap();
    assert!(is_not_due(&job.check().await));
    faults.partition(true);
    let error = job.last().await.unwrap_err();
    let StartError::Record { source: TransportError::Unavailable(_), .. } = error else {
        panic!("{error:?}")
    };
}

#[tokio::test(start_paused = true)]
async fn a_register_that_is_no_record_is_left_as_it_is() {
    let engine = Memory::new();
    let node = builder(engine.clone(), "a").build().unwrap();
    let key = StartRecord::key_of(&Key::new("jobs/nightly").unwrap()).unwrap();
    assert!(StartRecord::is_key(&key));
    let write = Write { value: b"mine"[..].into(), wake: Wake::Nobody, idle: false };
    engine.compare_exchange(&key, None, write).await.unwrap();
    for error in [job(&node, DAY).start().await.err(), job(&node, DAY).check().await.err()] {
        assert!(matches!(error, Some(StartError::InUse { .. })), "{error:?}");
    }
    assert_eq!(&*engine.load(&key).await.unwrap().unwrap().value, b"mine");
    // A name without room for that of its record.
    let longest = "x".repeat(StartRecord::MAX_KEY_LEN);
    node.periodic_job(longest.as_str(), DAY).unwrap();
    let error = node.periodic_job(format!("{longest}x").as_str(), DAY).unwrap_err();
    assert!(matches!(error, LockError::Key(_)), "{error}");
    // A closed node.
    let job = job(&node, DAY);
    node.shutdown().await;
    let error = job.start().await.unwrap_err();
    assert!(matches!(error, StartError::Lock(LockError::Closed { .. })), "{error}");
}

//! What a loss and a timeout say, and who is told first.

use super::*;
use crate::cluster::layers::{Faulty, Plan};
use crate::cluster::{Wake, Write};

/// Whoever waits for the loss finds that the observer was told, and the observer that the guard is lost.
#[tokio::test(start_paused = true)]
async fn an_observer_is_told_of_a_loss_after_the_guard_and_before_its_task() {
    let foreign =
        || Write { value: b"hello".as_slice().into(), wake: Wake::Everybody, idle: false };
    for reason in ["Expired", "Broken", "Unreadable(Foreign)", "HoldLimit"] {
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
            "Broken" => drop(node.break_lock("k").await.unwrap().unwrap()),
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
    for (trouble, text) in [
        ("refused", "the connection is refused"),
        ("cut", "no response"),
        ("paused", "no response"),
    ] {
        // A request that takes as long as the lease has not failed when that ends.
        for request_timeout in [ms(200), SECOND] {
            let faulty = Faulty::new(Memory::new(), Plan::default(), 1);
            let faults = faulty.faults();
            let node = builder(faulty).lease(SECOND).request_timeout(request_timeout);
            let node = node.build().unwrap();
            let guard = node.lock("k").unwrap().acquire().await.unwrap();
            match trouble {
                "refused" => faults.set(Plan { refuse: 1.0, ..Plan::default() }),
                "cut" => faults.partition(true),
                _ => faults.pause(true),
            }
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

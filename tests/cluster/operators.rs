//! What operators use: inspecting a key, and breaking a lock.

use crate::support::{builder, ms, node, settle};
use lockword::cluster::layers::{Faulty, Plan};
use lockword::cluster::{
    Key, LockError, LockStatus, LossReason, Memory, Node, ReleaseError, Transport, TransportError,
    Wake, Write,
};
use std::time::Duration;
use tokio::time::Instant;

#[tokio::test(start_paused = true)]
async fn an_inspection_shows_holder_queue_and_time_without_renewal() {
    let engine = Memory::new();
    let (a, b) = (node(engine.clone(), "a"), node(engine.clone(), "b"));
    let onlooker = node(engine, "onlooker");
    let look = async || onlooker.inspect("k").await.unwrap();
    let state = look().await;
    assert_eq!((state.version, state.status), (None, LockStatus::Free));
    let guard = a.lock("k").unwrap().acquire().await.unwrap();
    let theirs = b.lock("k").unwrap();
    let waiting = tokio::spawn(async move { theirs.acquire().await.unwrap() });
    settle().await;
    let first = look().await;
    assert!(matches!(&first.status, LockStatus::Held { label, .. } if label == "a"));
    assert_eq!(first.unchanged_for, Duration::ZERO);
    assert_eq!(first.queue.iter().map(|w| &*w.label).collect::<Vec<_>>(), ["b"]);
    assert_eq!(first.queue[0].node, b.id());
    tokio::time::sleep(ms(2_000)).await;
    let second = look().await;
    assert_eq!(second.unchanged_for, ms(2_000));
    tokio::time::sleep(ms(2_000)).await;
    assert_eq!(look().await.unchanged_for, Duration::ZERO, "the lease was renewed");
    guard.release().await.unwrap();
    drop(waiting.await.unwrap());
    settle().await;
    assert_eq!(look().await.status, LockStatus::Free);
    assert!(look().await.version > first.version);
}

/// The register has whole milliseconds.
#[tokio::test(start_paused = true)]
async fn the_register_never_shows_a_shorter_lease_than_the_holder_counts_on() {
    let a = builder(Memory::new(), "a").lease(Duration::from_micros(100_999)).build().unwrap();
    let _guard = a.lock("k").unwrap().acquire().await.unwrap();
    let state = a.inspect("k").await.unwrap();
    let LockStatus::Held { lease, .. } = state.status else { panic!() };
    assert!(lease >= Duration::from_micros(100_999), "{lease:?}");
}

#[tokio::test(start_paused = true)]
async fn a_broken_lock_goes_to_the_next_node_and_its_holder_learns_of_the_loss() {
    let engine = Memory::new();
    let (a, b) = (node(engine.clone(), "a"), node(engine.clone(), "b"));
    let operator = node(engine, "operator");
    assert_eq!(operator.break_lock("k").await.unwrap(), None);
    let guard = a.lock("k").unwrap().acquire().await.unwrap();
    let theirs = b.lock("k").unwrap();
    let waiting = tokio::spawn(async move { theirs.acquire().await.unwrap() });
    settle().await;
    let broken = operator.break_lock("k").await.unwrap().unwrap();
    assert_eq!((broken.node, &*broken.label), (a.id(), "a"));
    let began = Instant::now();
    let taken = waiting.await.unwrap();
    assert!(began.elapsed() < ms(10), "{:?}", began.elapsed());
    assert!(taken.token() > guard.token());
    let broken = LossReason::Broken { by: "operator".to_owned(), reason: String::new() };
    assert_eq!(guard.lost().await, broken);
    assert!(began.elapsed() < ms(3_500), "later than the next renewal: {:?}", began.elapsed());
    let error = guard.release().await.unwrap_err();
    assert!(matches!(error, ReleaseError::Lost { why, .. } if why == broken));
    taken.release().await.unwrap();
    assert_eq!(operator.break_lock("k").await.unwrap(), None);
}

/// The lock changes hands between the load and the write of the break.
#[tokio::test(start_paused = true)]
async fn a_break_never_takes_the_lock_from_another_holder_than_it_has_seen() {
    let engine = Memory::new();
    // The operator's requests take 50 ms to arrive, and the responses as long.
    let far = Faulty::delayed(engine.clone(), ms(100));
    let (a, b, op) = (node(engine.clone(), "a"), node(engine, "b"), node(far, "op"));
    let guard = a.lock("k").unwrap().acquire().await.unwrap();
    let lock = b.lock("k").unwrap();
    let next = tokio::spawn(async move { lock.acquire().await.unwrap() });
    settle().await;
    let broken = tokio::spawn(async move { op.break_lock("k").await });
    tokio::time::sleep(ms(120)).await; // It has loaded: a holds the lock.
    guard.release().await.unwrap();
    let next = next.await.unwrap();
    let broken = broken.await.unwrap().unwrap();
    assert!(next.is_valid());
    assert!(broken.is_none_or(|broken| broken.label == "a"), "the lock of b was broken");
}

#[tokio::test(start_paused = true)]
async fn the_error_of_a_break_of_unknown_outcome_does_not_say_that_it_is_undone() {
    let engine = Memory::new();
    let faulty = Faulty::new(engine.clone(), Plan::default(), 1);
    let faults = faulty.faults();
    let (a, op) = (node(engine, "a"), node(faulty, "op"));
    let _guard = a.lock("k").unwrap().acquire().await.unwrap();
    faults.lose_next_response();
    let error = op.break_lock("k").await.unwrap_err();
    assert!(!error.to_string().contains("is undone"), "{error}");
}

/// A stranger has written labels that would act on a terminal or fill a log.
#[tokio::test(start_paused = true)]
async fn labels_are_stripped_and_cut_before_they_are_shown() {
    let engine = Memory::new();
    let key = Key::new("k").unwrap();
    let label = |name: &str| format!(r"\u001b[2J\r\n{name}\u202e{}", "x".repeat(10_000));
    let value = format!(
        r#"{{"lockword":"3.0","heartbeat":1,
            "holder":{{"node":"0000000000000001","nonce":"0000000000000001","label":"{}","lease_ms":60000}},
            "queue":[{{"node":"0000000000000002","nonce":"0000000000000002","label":"{}",
                       "lease_ms":500}}]}}"#,
        label("holder"),
        label("queue")
    );
    let write = Write { value: value.as_bytes().into(), wake: Wake::Nobody, idle: false };
    engine.compare_exchange(&key, None, write).await.unwrap();
    let node = node(engine.clone(), "a");
    let lock = node.lock("k").unwrap();
    let mut shown = vec![];
    for error in [lock.try_acquire().await.unwrap_err(), lock.try_acquire().await.unwrap_err()] {
        let LockError::Busy { holder: Some(holder), .. } = &error else { panic!("{error}") };
        shown.push(holder.clone());
    }
    let state = node.inspect("k").await.unwrap();
    let LockStatus::Held { label, .. } = state.status else { panic!() };
    shown.extend([label, state.queue[0].label.clone()]);
    for _ in 0..2 {
        shown.push(node.break_lock("k").await.unwrap().unwrap().label);
    }
    for (n, label) in shown.iter().enumerate() {
        let name = if [3, 5].contains(&n) { "queue" } else { "holder" };
        assert!(label.starts_with(&format!("[2J{name}xxx")), "{label:?}");
        assert!(label.len() <= 64 + "\u{2026}".len(), "{label:?}");
    }
    // What is wrong with a value is said without what it has.
    let version = engine.load(&key).await.unwrap().map(|seen| seen.version);
    let value = format!(r#"{{"lockword":"3.0","heartbeat":"{}"}}"#, label_of_length(50_000));
    let write = Write { value: value.as_bytes().into(), wake: Wake::Nobody, idle: false };
    engine.compare_exchange(&key, version, write).await.unwrap();
    let error = node.inspect("k").await.unwrap_err().to_string();
    assert!(error.len() < 500 && !error.contains(char::is_control), "{error:?}");
}

fn label_of_length(length: usize) -> String {
    r"\u001b".to_owned() + &"y".repeat(length)
}

/// Nothing is said of the engine, which is only slow.
#[tokio::test(start_paused = true)]
async fn an_inspection_that_the_end_of_the_node_cuts_off_says_that_the_node_is_closed() {
    let node = node(Faulty::delayed(Memory::new(), ms(200)), "a");
    let other = node.clone();
    let (inspected, broken, _) = tokio::join!(node.inspect("k"), node.break_lock("k"), async {
        settle().await;
        other.shutdown().await
    });
    let error = inspected.unwrap_err();
    assert!(matches!(error, LockError::Closed { .. }), "{error}");
    let error = broken.unwrap_err();
    assert!(matches!(error, LockError::Closed { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn only_the_holder_that_was_looked_at_is_broken_and_the_reason_is_kept() {
    let engine = Memory::new();
    let (holder, operator) = (node(engine.clone(), "holder"), node(engine, "operator"));
    let guard = holder.lock("k").unwrap().acquire().await.unwrap();
    assert_eq!(operator.break_lock_of("k", operator.id(), "wrong").await.unwrap(), None);
    assert!(guard.is_valid());
    assert_eq!(operator.inspect("k").await.unwrap().last_break, None);

    let reason = format!("it\u{1b}[2J hangs {}", "x".repeat(100));
    let broken = operator.break_lock_of("k", holder.id(), &reason).await.unwrap().unwrap();
    assert_eq!((broken.node, &*broken.label, broken.was_handed), (holder.id(), "holder", false));
    let noted = operator.inspect("k").await.unwrap().last_break.expect("it is noted");
    assert_eq!((&*noted.by, &*noted.of, noted.node), ("operator", "holder", holder.id()));
    assert!(noted.reason.starts_with("it[2J hangs x") && noted.reason.len() <= 68, "{noted:?}");
    assert_eq!(operator.break_lock_of("k", holder.id(), "again").await.unwrap(), None);
    // The next holders keep the note.
    drop(operator.lock("k").unwrap().acquire().await.unwrap());
    assert_eq!(operator.inspect("k").await.unwrap().last_break, Some(noted));
}

#[tokio::test]
async fn a_holder_says_since_when_and_after_a_renewal_with_which_token() {
    let engine = Memory::new();
    // On the clock of the system: one that a test winds has no date.
    let holder = Node::builder(engine.clone()).lease(ms(300)).build().unwrap();
    let operator = node(engine, "operator");
    let guard = holder.lock("k").unwrap().acquire().await.unwrap();
    let found = operator.inspect("k").await.unwrap().status;
    let LockStatus::Held { since: Some(since), .. } = found else { panic!("{found:?}") };
    assert!(since.elapsed().is_ok_and(|age| age < Duration::from_secs(60)), "{since:?}");
    loop {
        let found = operator.inspect("k").await.unwrap().status;
        let LockStatus::Held { token, since: again, .. } = found else { panic!("{found:?}") };
        assert_eq!(again, Some(since), "a renewal is no new start");
        if let Some(token) = token {
            assert_eq!(token, guard.token());
            return;
        }
        tokio::time::sleep(ms(5)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn keys_are_listed_by_their_prefix_and_in_order() {
    let engine = Memory::new();
    let operator = node(engine, "operator");
    for key in ["b/2", "a", "b/1", "b"] {
        drop(operator.lock(key).unwrap().acquire().await.unwrap());
    }
    let listed = async |prefix: &str| {
        let keys = operator.list(prefix).await.unwrap();
        keys.iter().map(|key| key.as_str().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(listed("").await, ["a", "b", "b/1", "b/2"]);
    assert_eq!(listed("b/").await, ["b/1", "b/2"]);
    assert!(listed("c").await.is_empty());
    operator.shutdown().await;
    assert!(matches!(operator.list("").await, Err(TransportError::Unavailable(_))));
}

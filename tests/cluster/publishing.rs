//! What a holder publishes, and those who follow a key.

use crate::support::{builder, ms, poll_once};
use futures_util::{FutureExt, StreamExt, stream};
use lockword::cluster::election::{CampaignError, Leader};
use lockword::cluster::layers::{Counts, Faults, Faulty, Intercept, Plan};
use lockword::cluster::{
    Capabilities, DistributedGuard, Exchange, Key, KeyState, KeyStates, LockError, LockStatus,
    LossReason, Memory, Node, NodeId, PublishError, QueuedNode, Transport, TransportError, Version,
    Versioned, Wake, Wakeups, Watch, Write, async_trait,
};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

/// The engine in memory, with other wake-ups than its own.
#[derive(Clone)]
struct Woken {
    memory: Memory,
    wakeups: Wakeups,
    watches: Arc<Mutex<Vec<Watcher>>>,
}

type Watcher = (Key, NodeId, UnboundedSender<()>);

impl Woken {
    fn new(wakeups: Wakeups) -> Self {
        Self { memory: Memory::new(), wakeups, watches: Arc::default() }
    }
}

#[async_trait]
impl Transport for Woken {
    async fn load(&self, key: &Key) -> Result<Option<Versioned>, TransportError> {
        self.memory.load(key).await
    }

    async fn compare_exchange(
        &self,
        key: &Key,
        expected: Option<Version>,
        new: Write,
    ) -> Result<Exchange, TransportError> {
        let wake = new.wake;
        let done = self.memory.compare_exchange(key, expected, new).await?;
        if matches!(done, Exchange::Swapped(_)) {
            let is_woken = |node: NodeId| match wake {
                Wake::Nobody => self.wakeups == Wakeups::PushToAll,
                Wake::Node(woken) => self.wakeups == Wakeups::PushToAll || woken == node,
                Wake::Everybody => true,
            };
            let watches = self.watches.lock().unwrap();
            let woken = watches.iter().filter(|(of, node, _)| of == key && is_woken(*node));
            for (.., sender) in woken {
                let _ = sender.send(());
            }
        }
        Ok(done)
    }

    async fn watch(&self, key: &Key, node: NodeId) -> Result<Watch, TransportError> {
        let (sender, receiver) = unbounded_channel();
        self.watches.lock().unwrap().push((key.clone(), node, sender));
        let items = futures_util::stream::unfold(receiver, async |mut receiver| {
            receiver.recv().await.map(|()| (Ok(None), receiver))
        });
        Ok(items.boxed())
    }

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = self.memory.capabilities();
        capabilities.wakeups = self.wakeups;
        capabilities
    }
}

/// An engine that can be cut off.
fn faulty() -> (Faulty<Memory>, Faults) {
    let engine = Faulty::new(Memory::new(), Plan::default(), 0);
    let faults = engine.faults();
    (engine, faults)
}

fn value(state: &KeyState) -> Option<&str> {
    match &state.status {
        LockStatus::Held { value, .. } => value.as_deref(),
        _ => None,
    }
}

async fn published(node: &Node) -> Option<String> {
    value(&node.inspect("k").await.unwrap()).map(str::to_owned)
}

/// The next state within a lease, which there must be.
async fn next(states: &mut KeyStates) -> KeyState {
    let next = tokio::time::timeout(Duration::from_secs(20), states.next());
    next.await.expect("a state").expect("no end").expect("no error")
}

/// The states up to the first that fits.
async fn until(states: &mut KeyStates, fits: impl Fn(&KeyState) -> bool) -> KeyState {
    loop {
        let state = next(states).await;
        if fits(&state) {
            return state;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_value_is_there_as_long_as_its_guard() {
    let engine = Memory::new();
    let a = builder(engine.clone(), "a").build().unwrap();
    let b = builder(engine, "b").build().unwrap();
    let lock = a.lock("k").unwrap();
    let guard = lock.acquire().await.unwrap();
    assert_eq!(published(&b).await, None);
    guard.publish("http://10.0.0.7:8080/\"ä\"").await.unwrap();
    assert_eq!(published(&b).await.as_deref(), Some("http://10.0.0.7:8080/\"ä\""));
    // Renewals keep it, and another takes its place, the same one too.
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(published(&b).await.as_deref(), Some("http://10.0.0.7:8080/\"ä\""));
    for value in ["two", "two", "three"] {
        guard.publish(value).await.unwrap();
        assert_eq!(published(&b).await.as_deref(), Some(value));
    }
    guard.publish("").await.unwrap();
    assert_eq!(published(&b).await, None);
    guard.publish("four").await.unwrap();
    guard.release().await.unwrap();
    assert_eq!(published(&b).await, None);
    // The next guard has none of it.
    let guard = lock.acquire().await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(published(&b).await, None);
    drop(guard);
}

/// Neither a node that is handed the lock has it, nor a task of the same node.
#[tokio::test(start_paused = true)]
async fn a_value_is_not_handed_on() {
    let engine = Memory::new();
    let a = builder(engine.clone(), "a").build().unwrap();
    let b = builder(engine, "b").build().unwrap();
    let guard = a.lock("k").unwrap().acquire().await.unwrap();
    guard.publish("a").await.unwrap();
    let lock = b.lock("k").unwrap();
    let mut waits = Box::pin(lock.acquire());
    assert!(poll_once(waits.as_mut()).is_pending());
    while b.inspect("k").await.unwrap().queue.is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(published(&b).await.as_deref(), Some("a"));
    guard.release().await.unwrap();
    let guard = waits.await.unwrap();
    assert_eq!(published(&a).await, None);
    guard.publish("b").await.unwrap();
    assert_eq!(published(&a).await.as_deref(), Some("b"));
    // Another task of the node.
    let mut waits = Box::pin(lock.acquire());
    assert!(poll_once(waits.as_mut()).is_pending());
    drop(guard);
    let guard = waits.await.unwrap();
    tokio::time::sleep(ms(10)).await;
    assert_eq!(published(&a).await, None);
    assert!(guard.is_valid());
}

/// A kept turn would show a leader that is none.
#[tokio::test(start_paused = true)]
async fn a_turn_is_not_kept_with_a_value() {
    let node = builder(Memory::new(), "a").keep_turn(Duration::from_secs(5)).build().unwrap();
    let lock = node.lock("k").unwrap();
    lock.acquire().await.unwrap().release().await.unwrap();
    let is_held = async || node.inspect("k").await.unwrap().status != LockStatus::Free;
    assert!(is_held().await, "the turn is kept");
    let guard = lock.acquire().await.unwrap();
    guard.publish("a").await.unwrap();
    guard.release().await.unwrap();
    assert!(!is_held().await);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_published_is_refused() {
    let engine = Memory::new();
    let node = builder(engine.clone(), "a").build().unwrap();
    let lock = node.lock("k").unwrap();
    let guard = lock.acquire().await.unwrap();
    guard.publish(&"x".repeat(256)).await.unwrap();
    for wrong in ["x".repeat(257), "\"".repeat(129), "a\nb".into(), "a\u{202e}b".into()] {
        let refused = guard.publish(&wrong).await;
        assert!(matches!(refused, Err(PublishError::InvalidValue { .. })), "{wrong}: {refused:?}");
        let refused = node.election("k").unwrap().campaign(&wrong).now_or_never().unwrap();
        assert!(matches!(refused, Err(CampaignError::Value(_))), "{refused:?}");
    }
    assert_eq!(published(&node).await, Some("x".repeat(256)));
    drop(guard);
    let guard = lock.clone().without_renewal().acquire().await.unwrap();
    let refused = guard.publish("x").await;
    assert!(matches!(refused, Err(PublishError::NotRenewed { .. })), "{refused:?}");
    drop(guard);
    let guard = lock.acquire().await.unwrap();
    node.break_lock("k").await.unwrap().unwrap();
    let lost = guard.publish("x").await;
    let Err(PublishError::Lost { why: LossReason::Broken { .. }, .. }) = lost else {
        panic!("{lost:?}")
    };
    let guard = lock.acquire().await.unwrap();
    node.shutdown().await;
    let lost = guard.publish("x").await;
    assert!(matches!(lost, Err(PublishError::Lost { why: LossReason::Closed, .. })), "{lost:?}");
}

/// The engine is away for longer than the lease; or for less, and then the value is written.
#[tokio::test(start_paused = true)]
async fn a_value_is_written_as_soon_as_the_engine_is_there() {
    let (engine, faults) = faulty();
    let node = builder(engine, "a").build().unwrap();
    let guard = node.lock("k").unwrap().acquire().await.unwrap();
    faults.partition(true);
    let mut publish = Box::pin(guard.publish("late"));
    assert!(poll_once(publish.as_mut()).is_pending());
    tokio::time::sleep(Duration::from_secs(2)).await;
    faults.partition(false);
    publish.await.unwrap();
    assert_eq!(published(&node).await.as_deref(), Some("late"));
    // Dropped, it is published all the same.
    let mut publish = Box::pin(guard.publish("dropped"));
    assert!(poll_once(publish.as_mut()).is_pending());
    drop(publish);
    tokio::time::sleep(ms(10)).await;
    assert_eq!(published(&node).await.as_deref(), Some("dropped"));
    faults.partition(true);
    let lost = guard.publish("never").await;
    assert!(matches!(lost, Err(PublishError::Lost { .. })), "{lost:?}");
    assert!(!guard.is_valid());
}

#[test]
fn a_thread_publishes_and_follows() {
    let engine = Memory::new();
    let a = Node::builder(engine.clone()).build().unwrap().blocking();
    let b = Node::builder(engine).build().unwrap().blocking();
    let mut states = b.observe("k").unwrap();
    assert_eq!(states.next().unwrap().unwrap().status, LockStatus::Free);
    assert_eq!(states.next_within(ms(1)).unwrap(), None);
    let guard = a.lock("k").unwrap().acquire().unwrap();
    guard.publish("here").unwrap();
    let found = states.find(|state| value(state.as_ref().unwrap()).is_some()).unwrap().unwrap();
    assert_eq!(value(&found), Some("here"));
    guard.release().unwrap();
    b.shutdown();
    let end = states.find_map(Result::err).unwrap();
    assert!(matches!(end, LockError::Closed { .. }), "{end}");
    assert!(states.next().is_none());
}

/// Over each kind of wake-ups, every change is told.
#[tokio::test(start_paused = true)]
async fn each_change_of_a_key_is_told_once() {
    for wakeups in [Wakeups::PushToAll, Wakeups::PushToOne, Wakeups::Poll] {
        let engine = Woken::new(wakeups);
        let a = builder(engine.clone(), "a").build().unwrap();
        let b = builder(engine.clone(), "b").build().unwrap();
        let follower = builder(engine, "c").build().unwrap();
        let mut states = follower.observe("k").unwrap();
        assert_eq!(next(&mut states).await.status, LockStatus::Free);
        let guard = a.lock("k").unwrap().acquire().await.unwrap();
        let is_of = |state: &KeyState, name: &str| matches!(&state.status, LockStatus::Held { label, .. } if label == name);
        until(&mut states, |state| is_of(state, "a")).await;
        let began = tokio::time::Instant::now();
        guard.publish("x").await.unwrap();
        until(&mut states, |state| value(state) == Some("x")).await;
        // A write that publishes wakes everybody, if anybody can be.
        assert!(wakeups == Wakeups::Poll || began.elapsed() < ms(50), "{wakeups:?}");
        let lock = b.lock("k").unwrap();
        let mut waits = Box::pin(lock.acquire());
        assert!(poll_once(waits.as_mut()).is_pending());
        let queue = until(&mut states, |state| !state.queue.is_empty()).await.queue;
        assert!(matches!(&queue[..], [QueuedNode { label, .. }] if label == "b"), "{queue:?}");
        // The token of the first renewal comes once. Other renewals are no change.
        let mut told = 0;
        let quiet = tokio::time::timeout(Duration::from_secs(60), async {
            loop {
                states.next().await.unwrap().unwrap();
                told += 1;
            }
        });
        assert!(quiet.await.is_err() && told <= 1, "{told} changes, {wakeups:?}");
        a.break_lock_of("k", a.id(), "why").await.unwrap().unwrap();
        let state = until(&mut states, |state| is_of(state, "b")).await;
        assert_eq!(state.last_break.unwrap().reason, "why");
        drop(guard);
        let guard = waits.await.unwrap();
        guard.release().await.unwrap();
        until(&mut states, |state| state.status == LockStatus::Free).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_holder_without_a_sign_of_life_is_overdue() {
    let (engine, faults) = faulty();
    let a = builder(engine.clone(), "a").build().unwrap();
    let follower = builder(engine.inner().clone(), "c").build().unwrap();
    let mut states = follower.observe("k").unwrap();
    let guard = a.lock("k").unwrap().acquire().await.unwrap();
    let LockStatus::Held { lease, .. } =
        until(&mut states, |state| state.status != LockStatus::Free).await.status
    else {
        panic!()
    };
    faults.partition(true);
    let began = tokio::time::Instant::now();
    until(&mut states, KeyState::is_overdue).await;
    assert!(began.elapsed() >= lease * 2 / 3 && began.elapsed() < lease * 3 / 2);
    assert!(!guard.is_valid());
    // It comes back: the lock that it has lost is released.
    faults.partition(false);
    until(&mut states, |state| state.status == LockStatus::Free).await;
}

/// An engine that fails is told once, and then that it is back.
#[tokio::test(start_paused = true)]
async fn an_error_of_the_engine_is_told_and_the_stream_goes_on() {
    let (engine, faults) = faulty();
    let node = builder(engine, "a").build().unwrap();
    let mut states = node.observe("k").unwrap();
    next(&mut states).await;
    faults.partition(true);
    let error = states.next().await.unwrap().unwrap_err();
    assert!(matches!(error, LockError::Transport { .. }), "{error}");
    let more = tokio::time::timeout(Duration::from_secs(60), states.next()).await;
    assert!(more.is_err(), "{more:?}");
    faults.partition(false);
    assert_eq!(next(&mut states).await.status, LockStatus::Free);
    drop(node);
    assert!(matches!(states.next().await, Some(Err(LockError::Closed { .. }))));
    assert!(states.next().await.is_none());
}

/// Nothing of a stream stays: no task, no watch.
#[tokio::test(start_paused = true)]
async fn a_stream_that_is_dropped_leaves_nothing() {
    let engine = Memory::new();
    let node = builder(engine.clone(), "a").build().unwrap();
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    for _ in 0..3 {
        let mut states = node.observe("k").unwrap();
        next(&mut states).await;
        drop(states);
        drop(node.observe("k").unwrap());
    }
    tokio::time::sleep(ms(1)).await;
    assert_eq!(tasks(), before);
}

/// A watch that misbehaves, in the way that its engine is told to.
#[derive(Clone)]
struct Misbehaved {
    memory: Memory,
    how: Watches,
    begun: Arc<AtomicUsize>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Watches {
    EndAfterANotice,
    FailAndStayPending,
    Panic,
    Flood,
    HangAtTheBeginning,
}

#[async_trait]
impl Transport for Misbehaved {
    async fn load(&self, key: &Key) -> Result<Option<Versioned>, TransportError> {
        self.memory.load(key).await
    }

    async fn compare_exchange(
        &self,
        key: &Key,
        expected: Option<Version>,
        new: Write,
    ) -> Result<Exchange, TransportError> {
        self.memory.compare_exchange(key, expected, new).await
    }

    async fn watch(&self, _: &Key, _: NodeId) -> Result<Watch, TransportError> {
        self.begun.fetch_add(1, SeqCst);
        let notice = || Ok(None);
        Ok(match self.how {
            // It panics if it is polled after its end, as one of `unfold` does.
            Watches::EndAfterANotice => {
                stream::unfold(true, |is_first| async move { is_first.then(|| (Ok(None), false)) })
                    .boxed()
            }
            Watches::FailAndStayPending => {
                let error = Err(TransportError::unavailable("the watch has failed"));
                stream::iter([notice(), error]).chain(stream::pending()).boxed()
            }
            Watches::Panic => {
                stream::poll_fn(|_| panic!("the watch panics, on purpose of the test")).boxed()
            }
            Watches::Flood => stream::repeat_with(notice).boxed(),
            Watches::HangAtTheBeginning => std::future::pending().await,
        })
    }

    fn capabilities(&self) -> Capabilities {
        self.memory.capabilities()
    }
}

/// Whatever the watch does, a change is seen by a look, the stream goes on, and neither the engine nor the thread of the
/// nodes is flooded.
#[tokio::test(start_paused = true)]
async fn a_watch_that_misbehaves_ends_no_stream_and_floods_nobody() {
    use Watches::{EndAfterANotice, FailAndStayPending, Flood, HangAtTheBeginning, Panic};
    for how in [EndAfterANotice, FailAndStayPending, Panic, Flood, HangAtTheBeginning] {
        let memory = Memory::new();
        let begun = Arc::new(AtomicUsize::new(0));
        let engine = Misbehaved { memory: memory.clone(), how, begun: begun.clone() };
        let counts = Counts::default();
        let engine = Intercept::new(engine, counts.clone());
        let follower = builder(engine, "follower").build().unwrap();
        let mut states = follower.observe("k").unwrap();
        assert_eq!(next(&mut states).await.status, LockStatus::Free, "{how:?}");
        let holder = builder(memory, "holder").build().unwrap();
        let guard = holder.lock("k").unwrap().acquire().await.unwrap();
        guard.publish("x").await.unwrap();
        let began = tokio::time::Instant::now();
        until(&mut states, |state| value(state) == Some("x")).await;
        assert!(began.elapsed() <= Duration::from_secs(4), "{how:?}: {:?}", began.elapsed());
        let (loads, watches) = (counts.now().loads, begun.load(SeqCst));
        tokio::time::sleep(Duration::from_secs(10)).await;
        let (loads, watches) = (counts.now().loads - loads, begun.load(SeqCst) - watches);
        // A look in 10 ms at most, and a watch in a lease's third at last.
        assert!(loads <= 1_001 && (loads <= 40 || how == Flood), "{how:?}: {loads} loads");
        assert!(watches <= 15, "{how:?}: {watches} watches");
        drop(guard);
        until(&mut states, |state| state.status == LockStatus::Free).await;
    }
}

/// The lease of a register is no reason to ask the engine without a pause.
#[tokio::test(start_paused = true)]
async fn a_register_with_a_tiny_lease_is_not_looked_at_all_the_time() {
    let memory = Memory::new();
    let who = r#""node":"00000000000000aa","nonce":"00000000000000bb","label":"x""#;
    let value =
        format!(r#"{{"lockword":"3.0","heartbeat":1,"holder":{{{who},"lease_ms":0}},"queue":[]}}"#);
    let write = Write { value: value.into_bytes().into(), wake: Wake::Nobody, idle: false };
    memory.compare_exchange(&Key::new("k").unwrap(), None, write).await.unwrap();
    let counts = Counts::default();
    let node = builder(Intercept::new(memory, counts.clone()), "a").build().unwrap();
    let mut states = node.observe("k").unwrap();
    until(&mut states, KeyState::is_overdue).await;
    let loads = counts.now().loads;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(counts.now().loads - loads <= 101, "{}", counts.now().loads - loads);
}

/// The task of a stream may be dropped before it has run.
#[test]
fn a_stream_whose_runtime_has_ended_ends() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let node = Node::builder(Memory::new()).runtime(runtime.handle().clone()).build().unwrap();
    let [mut early, mut late] = [(); 2].map(|()| node.observe("k").unwrap());
    runtime.block_on(async { early.next().await.unwrap().unwrap() });
    let unpolled = node.observe("k").unwrap();
    drop(runtime);
    let after = node.observe("k").unwrap();
    for states in [&mut early, &mut late, &mut { unpolled }, &mut { after }] {
        // The one that has run has a state yet, which nobody has taken.
        let end = std::iter::from_fn(|| states.next().now_or_never()).take(2);
        let end: Vec<_> = end.flatten().filter_map(Result::err).collect();
        assert!(matches!(end[..], [LockError::Closed { .. }]), "{end:?}");
    }
}

/// The response to the write is lost: it is found, or written once more.
#[tokio::test(start_paused = true)]
async fn a_value_whose_write_has_an_unknown_outcome_is_published() {
    let (engine, faults) = faulty();
    let node = builder(engine, "a").build().unwrap();
    let guard = node.lock("k").unwrap().acquire().await.unwrap();
    for (value, lose) in [
        ("a", Faults::lose_next_response as fn(&Faults)),
        ("b", Faults::lose_next_request),
        ("c", Faults::delay_next_write),
    ] {
        lose(&faults);
        guard.publish(value).await.unwrap();
        assert_eq!(published(&node).await.as_deref(), Some(value));
    }
    // Two at once: the later one is there in the end.
    let (one, two) = futures_util::join!(guard.publish("one"), guard.publish("two"));
    one.unwrap();
    two.unwrap();
    assert_eq!(published(&node).await.as_deref(), Some("two"));
}

/// The guard's own limit passes while its value cannot be written.
#[tokio::test(start_paused = true)]
async fn a_value_is_not_published_after_the_limit_of_its_guard() {
    let (engine, faults) = faulty();
    let node = builder(engine, "a").build().unwrap();
    let lock = node.lock("k").unwrap().hold_at_most(Duration::from_secs(1));
    let guard = lock.acquire().await.unwrap();
    faults.partition(true);
    let lost = guard.publish("late").await;
    let Err(PublishError::Lost { why: LossReason::HoldLimit, .. }) = lost else {
        panic!("{lost:?}")
    };
    faults.partition(false);
    while node.inspect("k").await.unwrap().status != LockStatus::Free {
        assert_eq!(published(&node).await, None);
        tokio::time::sleep(ms(1)).await;
    }
}

async fn leads(guard: &DistributedGuard, election: &lockword::cluster::election::Election) {
    assert!(guard.is_valid());
    let leader = election.leader().await.unwrap().unwrap();
    assert_eq!(leader.value.as_deref(), Some("a"));
}

#[tokio::test(start_paused = true)]
async fn an_election_has_one_leader_and_all_know_where_it_is() {
    let engine = Memory::new();
    let [a, b, c] = ["a", "b", "c"].map(|name| builder(engine.clone(), name).build().unwrap());
    let [of_a, of_b, of_c] = [&a, &b, &c].map(|node| node.election("leader").unwrap());
    let mut leaders = of_c.leaders();
    assert_eq!(leaders.next().await.unwrap().unwrap(), None);
    assert_eq!(of_c.leader().await.unwrap(), None);
    let guard = of_a.campaign("a").await.unwrap();
    leads(&guard, &of_c).await;
    let found = |leader: &Option<Leader>| leader.as_ref().and_then(|it| it.value.clone());
    let mut seen = vec![];
    let mut follow = async |value: Option<&str>| {
        loop {
            let leader = leaders.next().await.unwrap().unwrap();
            seen.push(leader.as_ref().map(|leader| (leader.label.clone(), leader.value.clone())));
            if found(&leader).as_deref() == value {
                return;
            }
        }
    };
    follow(Some("a")).await;
    let mut stands = Box::pin(of_b.campaign("b"));
    assert!(poll_once(stands.as_mut()).is_pending());
    // The queue is no news about the leader.
    tokio::time::sleep(Duration::from_secs(30)).await;
    let term = guard.token();
    guard.release().await.unwrap();
    let guard = stands.await.unwrap();
    assert!(guard.token() > term);
    follow(Some("b")).await;
    drop(guard);
    follow(None).await;
    seen.dedup();
    let of = |label: &str, value: Option<&str>| Some((label.to_owned(), value.map(str::to_owned)));
    let expected = [of("a", None), of("a", Some("a")), of("b", None), of("b", Some("b")), None];
    let in_order: Vec<_> = expected.iter().filter(|state| seen.contains(state)).collect();
    assert_eq!(seen.iter().collect::<Vec<_>>(), in_order, "each at most once, in this order");
    drop(c);
    assert!(matches!(leaders.next().await, Some(Err(LockError::Closed { .. }))));
    assert!(leaders.next().await.is_none());
}

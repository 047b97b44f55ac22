//! The layers do what they say.

use futures_util::{FutureExt, StreamExt};
use lockword::cluster::layers::{Counts, Faulty, Intercept, Interceptor, Plan};
use lockword::cluster::{
    Exchange, Key, Memory, NodeId, Transport, TransportError, Versioned, Wake, Watch, Write,
};
use std::time::Duration;
use tokio::time::{Instant, advance};

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn key() -> Key {
    Key::new("a").unwrap()
}

fn write(value: &str) -> Write {
    Write { value: value.as_bytes().into(), wake: Wake::Everybody, idle: false }
}

/// Writes, whatever the register holds.
async fn put(engine: &Memory, value: &str) -> Versioned {
    let found = engine.load(&key()).await.unwrap().map(|found| found.version);
    match engine.compare_exchange(&key(), found, write(value)).await.unwrap() {
        Exchange::Swapped(version) => Versioned { version, value: value.as_bytes().into() },
        Exchange::Mismatch(found) => panic!("nobody else writes: {found:?}"),
    }
}

async fn value(engine: &Memory) -> Option<String> {
    let found = engine.load(&key()).await.unwrap();
    found.map(|found| String::from_utf8(found.value.to_vec()).unwrap())
}

/// Changes nothing.
#[derive(Clone, Debug, PartialEq)]
struct Nothing;

impl<T: Transport> Interceptor<T> for Nothing {}

#[tokio::test]
async fn an_interceptor_passes_on_what_it_does_not_define() {
    let engine = Memory::new();
    let client = Intercept::new(Intercept::new(engine.clone(), Nothing), Nothing).clone();
    assert!(client.load(&key()).await.unwrap().is_none());
    let mut watch = client.watch(&key(), NodeId::new(1)).await.unwrap();
    let Exchange::Swapped(version) =
        client.compare_exchange(&key(), None, write("1")).await.unwrap()
    else {
        panic!("there was no register");
    };
    let shown = watch.next().await.unwrap().unwrap().unwrap();
    assert_eq!((shown.version, &*shown.value), (version, b"1".as_slice()));
    assert_eq!(client.load(&key()).await.unwrap(), engine.load(&key()).await.unwrap());
    assert_eq!(client.capabilities(), engine.capabilities());
    assert_eq!((client.interceptor(), client.inner().interceptor()), (&Nothing, &Nothing));
    assert!(client.inner().inner().delete(&key()));
}

#[tokio::test]
async fn an_operation_is_counted_when_it_is_called_and_a_swap_when_it_has_happened() {
    let (engine, counts, other) = (Memory::new(), Counts::default(), Counts::default());
    let clients = [(); 2].map(|()| Intercept::new(engine.clone(), counts.clone()));
    for client in &clients {
        client.load(&key()).await.unwrap();
        // The second client finds the register that the first one has made.
        client.compare_exchange(&key(), None, write("1")).await.unwrap();
        drop(client.watch(&key(), NodeId::new(1)).await.unwrap());
    }
    let now = counts.now();
    assert_eq!((now.loads, now.compare_exchanges, now.swaps, now.watches), (2, 2, 1, 2));
    assert_eq!(now.total(), 6);
    assert_eq!(counts.take(), now);
    assert_eq!((counts.now().total(), other.now().total()), (0, 0));
}

/// One write and one load through a client with this plan, with what the register holds right after
/// the write's response, and how long the write took.
async fn one(plan: Plan) -> (Memory, String, String, Option<String>, Duration) {
    let engine = Memory::new();
    let client = Faulty::new(engine.clone(), plan, 1);
    let began = Instant::now();
    let written = name(client.compare_exchange(&key(), None, write("1")).await);
    let (after, took) = (value(&engine).await, began.elapsed());
    (engine, written, name(client.load(&key()).await), after, took)
}

fn name<A>(response: Result<A, TransportError>) -> String {
    let name = |error| match error {
        TransportError::Indeterminate(_) => "indeterminate",
        TransportError::Unavailable(_) => "unavailable",
        other => panic!("{other}"),
    };
    response.map_or_else(name, |_| "well").into()
}

#[tokio::test(start_paused = true)]
async fn each_fault_of_a_request_does_what_it_says() {
    let plan = || Plan { timeout: ms(50), ..Plan::default() };
    let one_of = |plan| async {
        let (_, written, loaded, after, took) = one(plan).await;
        (written, loaded, after.is_some(), took)
    };
    let is =
        |written: &str, loaded: &str, after, took| (written.into(), loaded.into(), after, took);
    assert_eq!(one_of(plan()).await, is("well", "well", true, ms(0)));
    let refuse = Plan { refuse: 1.0, ..plan() };
    assert_eq!(one_of(refuse).await, is("unavailable", "unavailable", false, ms(0)));
    let request = Plan { lose_request: 1.0, ..plan() };
    assert_eq!(one_of(request).await, is("indeterminate", "unavailable", false, ms(50)));
    let response = Plan { lose_response: 1.0, ..plan() };
    assert_eq!(one_of(response).await, is("indeterminate", "unavailable", true, ms(50)));
    let delayed = Plan { delay: ms(3)..=ms(3), ..plan() };
    assert_eq!(one_of(delayed).await, is("well", "well", true, ms(6)));
}

#[tokio::test(start_paused = true)]
async fn a_late_write_is_applied_after_its_error_was_returned() {
    let plan = Plan { late: 1.0, lateness: ms(30)..=ms(30), timeout: ms(50), ..Plan::default() };
    let engine = Memory::new();
    let client = Faulty::new(engine.clone(), plan, 1);
    let response = client.compare_exchange(&key(), None, write("1")).await;
    assert_eq!(name(response), "indeterminate");
    tokio::time::sleep(ms(29)).await;
    assert_eq!(value(&engine).await, None);
    tokio::time::sleep(ms(2)).await;
    assert_eq!(value(&engine).await.as_deref(), Some("1"));
}

#[tokio::test(start_paused = true)]
async fn the_next_write_meets_the_fault_that_was_asked_for() {
    let engine = Memory::new();
    let client = Faulty::new(engine.clone(), Plan::default(), 1);
    client.faults().lose_next_response();
    assert_eq!(name(client.load(&key()).await), "well");
    let response = client.compare_exchange(&key(), None, write("1")).await;
    assert_eq!(
        (name(response).as_str(), value(&engine).await.as_deref()),
        ("indeterminate", Some("1"))
    );
    client.faults().delay_next_write();
    let version = engine.load(&key()).await.unwrap().map(|found| found.version);
    let response = client.compare_exchange(&key(), version, write("2")).await;
    assert_eq!(
        (name(response).as_str(), value(&engine).await.as_deref()),
        ("indeterminate", Some("1"))
    );
    tokio::time::sleep(ms(1)).await;
    assert_eq!(value(&engine).await.as_deref(), Some("2"));
    client.faults().lose_next_request();
    let version = engine.load(&key()).await.unwrap().map(|found| found.version);
    let response = client.compare_exchange(&key(), version, write("3")).await;
    assert_eq!(name(response), "indeterminate");
    tokio::time::sleep(ms(1)).await;
    assert_eq!(value(&engine).await.as_deref(), Some("2"));
    assert_eq!(name(client.compare_exchange(&key(), None, write("4")).await), "well");
}

#[test]
fn the_capabilities_are_the_same_at_every_call() {
    let client = Faulty::new(Memory::new(), Plan { delay: ms(1)..=ms(3), ..Plan::default() }, 1);
    let before = client.capabilities();
    let added = before.wake_within - Memory::new().capabilities().wake_within;
    assert_eq!(added, Duration::from_secs(1) + ms(6));
    client.faults().set(Plan { timeout: ms(1), ..Plan::default() });
    assert_eq!(client.capabilities(), before);
}

#[tokio::test(start_paused = true)]
async fn a_delayed_client_takes_the_round_trip() {
    let client = Faulty::delayed(Memory::new(), ms(5));
    let began = Instant::now();
    client.load(&key()).await.unwrap();
    assert!(began.elapsed().abs_diff(ms(5)) <= ms(2), "{:?}", began.elapsed());
    assert!(client.inner().load(&key()).await.unwrap().is_none());
}

/// What happens to a hundred writes, in short.
async fn replay(seed: u64) -> Vec<(String, Duration)> {
    let plan = Plan {
        delay: ms(1)..=ms(9),
        refuse: 0.2,
        lose_request: 0.2,
        lose_response: 0.2,
        late: 0.2,
        lateness: ms(0)..=ms(9),
        ..Plan::default()
    };
    let client = Faulty::new(Memory::new(), plan, seed);
    let mut met = vec![];
    for _ in 0..100 {
        let began = Instant::now();
        let response = client.compare_exchange(&key(), None, write("1")).await;
        met.push((name(response), began.elapsed()));
    }
    met
}

#[tokio::test(start_paused = true)]
async fn a_seed_replays_its_faults() {
    let first = replay(7).await;
    assert_eq!(first, replay(7).await);
    assert_ne!(first, replay(8).await);
    for response in ["well", "unavailable", "indeterminate"] {
        let often = first.iter().filter(|(met, _)| met == response).count();
        assert!(often > 5, "{response}: {often} times in {first:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_partition_cuts_off_one_client_and_nobody_else() {
    let engine = Memory::new();
    let plan = Plan { timeout: ms(50), delay: ms(10)..=ms(10), ..Plan::default() };
    let cut = Faulty::new(engine.clone(), plan.clone(), 1);
    let other = Faulty::new(engine.clone(), plan, 2);
    let mut watch = cut.watch(&key(), NodeId::new(1)).await.unwrap();
    // A write that was applied when the partition begins: its response is lost.
    let written = key();
    let mut in_flight = cut.compare_exchange(&written, None, write("1"));
    assert!((&mut in_flight).now_or_never().is_none());
    tokio::time::timeout(ms(12), &mut in_flight).await.unwrap_err();
    assert_eq!(value(&engine).await.as_deref(), Some("1"));
    cut.faults().partition(true);
    assert_eq!(name(in_flight.await), "indeterminate");

    let began = Instant::now();
    assert_eq!(name(cut.load(&key()).await), "unavailable");
    assert!(began.elapsed() >= ms(50));
    assert_eq!(name(cut.compare_exchange(&key(), None, write("2")).await), "indeterminate");
    assert_eq!(name(other.load(&key()).await), "well");
    assert_eq!(name(watch.next().await.unwrap()), "unavailable");
    assert!(watch.next().await.is_none());

    cut.faults().set(Plan { partition_is_noticed: true, ..cut.faults().plan() });
    let began = Instant::now();
    assert_eq!(name(cut.compare_exchange(&key(), None, write("2")).await), "unavailable");
    assert_eq!(began.elapsed(), ms(0));
    cut.faults().partition(false);
    assert_eq!(name(cut.load(&key()).await), "well");
    assert_eq!(value(&engine).await.as_deref(), Some("1"));
}

#[tokio::test(start_paused = true)]
async fn a_pause_holds_everything_back_and_loses_nothing() {
    let engine = Memory::new();
    let client = Faulty::new(engine.clone(), Plan::default(), 1);
    let mut watch = client.watch(&key(), NodeId::new(1)).await.unwrap();
    client.faults().pause(true);
    let written = key();
    let mut paused = client.compare_exchange(&written, None, write("1"));
    assert!((&mut paused).now_or_never().is_none());
    advance(Duration::from_secs(60)).await;
    assert!((&mut paused).now_or_never().is_none());
    put(&engine, "0").await;
    assert!(watch.next().now_or_never().is_none());
    client.faults().pause(false);
    assert!(matches!(paused.await.unwrap(), Exchange::Mismatch(Some(_))));
    assert_eq!(name(watch.next().await.unwrap()), "well");
}

/// What a watch with this plan shows of five writes, each made when the watch is idle, or 5 ms after
/// the one before.
async fn watched(plan: Plan, seed: u64) -> Vec<String> {
    let engine = Memory::new();
    let client = Faulty::new(engine.clone(), plan, seed);
    let watch: Watch = client.watch(&key(), NodeId::new(1)).await.unwrap();
    let shown = tokio::spawn(watch.collect::<Vec<_>>());
    for value in ["1", "2", "3", "4", "5"] {
        put(&engine, value).await;
        tokio::time::sleep(ms(5)).await;
    }
    tokio::time::sleep(Duration::from_secs(10)).await;
    drop((engine, client));
    let shown = shown.await.unwrap();
    let text = |found: Option<Versioned>| found.unwrap().value.escape_ascii().to_string();
    shown.into_iter().map(|item| item.map_or_else(|_| "error".into(), text)).collect()
}

#[tokio::test(start_paused = true)]
async fn each_fault_of_a_watch_does_what_it_says() {
    let plan = Plan { lateness: ms(20)..=ms(20), ..Plan::default() };
    assert_eq!(watched(plan.clone(), 1).await, ["1", "2", "3", "4", "5"]);
    let repeat = Plan { repeat: 1.0, ..plan.clone() };
    assert_eq!(watched(repeat, 1).await, ["1", "1", "2", "2", "3", "3", "4", "4", "5", "5"]);
    let reorder = Plan { reorder: 1.0, ..plan.clone() };
    assert_eq!(watched(reorder, 1).await, ["2", "1", "4", "3", "5"]);
    let swallow = Plan { swallow: 1.0, ..plan.clone() };
    assert_eq!(watched(swallow, 1).await, [""; 0]);
    let end = Plan { end: 1.0, ..plan.clone() };
    assert_eq!(watched(end, 1).await, ["error"]);
    // Slower than the changes: they coalesce, and the last one is shown.
    let delay = Plan { delay: ms(12)..=ms(12), ..plan.clone() };
    let shown = watched(delay, 1).await;
    assert!(shown.len() < 5 && shown.last().unwrap() == "5", "{shown:?}");
    let some = Plan { repeat: 0.5, reorder: 0.5, swallow: 0.2, ..plan };
    assert_eq!(watched(some.clone(), 3).await, watched(some.clone(), 3).await);
    assert_ne!(watched(some.clone(), 3).await, watched(some, 4).await);
}

//! Keys over several engines: where each is, that all nodes agree on that, and how it changes.

use futures_util::StreamExt;
use futures_util::future::{join, join_all};
use lockword::cluster::conformance::{Law, Suite};
use lockword::cluster::fence::Gate;
use lockword::cluster::layers::{Faulty, Intercept, Interceptor, Plan, ShardError, Sharded};
use lockword::cluster::{
    Capabilities, Consistency, DistributedGuard, Exchange, Key, LockError, Memory, Node, NodeId,
    Notices, Transport, TransportError, Version, Versioned, Wake, Wakeups, Watch, Write,
    async_trait,
};
use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::future::ready;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::sleep;

const LEASE: Duration = Duration::from_secs(2);

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn key(name: &str) -> Key {
    Key::new(name).unwrap()
}

fn write(value: &str) -> Write {
    Write { value: value.as_bytes().into(), wake: Wake::Everybody, idle: false }
}

fn node(engine: impl Transport) -> Node {
    Node::builder(engine).lease(LEASE).tokio_clock().build().unwrap()
}

/// Engines by name, of which each client is made anew.
type Engines = BTreeMap<&'static str, Arc<dyn Transport>>;

fn memories(names: &[&'static str]) -> Engines {
    names.iter().map(|name| (*name, Arc::new(Memory::new()) as _)).collect()
}

fn list(engines: &Engines, names: &[&'static str]) -> Sharded {
    Sharded::new(names.iter().map(|name| (*name, engines[name].clone()))).unwrap()
}

/// A key of this shard.
fn key_of(engine: &Sharded, shard: &str) -> Key {
    let mut keys = (0..).map(|n| key(&format!("k{n}")));
    keys.find(|key| engine.shard_of(key) == shard).unwrap()
}

/// Why the list was refused.
fn why(error: &TransportError) -> &ShardError {
    let cause = error.source().and_then(|cause| cause.downcast_ref());
    cause.unwrap_or_else(|| panic!("{error}"))
}

fn places(names: &[&'static str], keys: usize) -> Vec<String> {
    let engine = list(&memories(names), names);
    (0..keys).map(|n| engine.shard_of(&key(&format!("orders/{n}"))).to_owned()).collect()
}

#[test]
fn each_shard_has_about_as_many_keys_as_the_others() {
    const KEYS: usize = 24_000;
    for names in [&["a", "b", "c"][..], &["s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8"]] {
        let mut counts = HashMap::new();
        for shard in places(names, KEYS) {
            *counts.entry(shard).or_insert(0) += 1;
        }
        let share = KEYS / names.len();
        let even = |count: &usize| count.abs_diff(share) < share / 10;
        assert!(counts.len() == names.len() && counts.values().all(even), "{counts:?}");
    }
}

#[test]
fn a_new_shard_gets_its_share_and_no_other_key_moves() {
    const KEYS: usize = 24_000;
    let before = places(&["a", "b", "c"], KEYS);
    let after = places(&["a", "b", "c", "d"], KEYS);
    let moved: Vec<_> = before.iter().zip(&after).filter(|(a, b)| a != b).collect();
    assert!(moved.iter().all(|(_, to)| *to == "d"), "a key has moved between old shards");
    assert!(moved.len().abs_diff(KEYS / 4) < KEYS / 40, "{} of {KEYS}", moved.len());
    for n in 0..3 {
        let from = ["a", "b", "c"][n];
        let lost = moved.iter().filter(|(shard, _)| *shard == from).count();
        assert!(lost.abs_diff(KEYS / 12) < KEYS / 60, "{lost} of {from}");
    }
}

#[test]
fn the_order_of_the_shards_does_not_matter() {
    assert_eq!(places(&["a", "b", "c"], 1000), places(&["c", "a", "b"], 1000));
    // What another program computes by the documented hash.
    let engine = list(&memories(&["a", "b", "c"]), &["a", "b", "c"]);
    for (name, shard) in [
        ("jobs/nightly", "a"),
        ("jobs/hourly", "b"),
        ("leader", "c"),
        ("orders/17", "b"),
        ("x", "c"),
    ] {
        assert_eq!(engine.shard_of(&key(name)), shard, "{name}");
    }
}

#[test]
fn lists_that_make_no_sense_are_refused() {
    let new = |names: &[&str]| {
        Sharded::new(names.iter().map(|name| (*name, Memory::new()))).map(drop).unwrap_err()
    };
    assert!(matches!(new(&[]), ShardError::Empty));
    assert!(matches!(new(&["a", "b", "a"]), ShardError::Duplicate { name } if name == "a"));
    let long = "x".repeat(65);
    for name in ["", "a b", "redis://u:p@h", &long] {
        assert!(matches!(new(&["a", name]), ShardError::Name { .. }), "{name:?}");
    }
}

/// An engine that declares something else.
#[derive(Clone)]
struct Declares(fn(&mut Capabilities));

impl<T: Transport> Interceptor<T> for Declares {
    fn capabilities(&self, inner: &T) -> Capabilities {
        let mut capabilities = inner.capabilities();
        self.0(&mut capabilities);
        capabilities
    }
}

#[test]
fn the_capabilities_are_the_weakest() {
    let of = |all: &[fn(&mut Capabilities)]| {
        let engine = |change| Intercept::new(Memory::new(), Declares(change));
        let names = ["a", "b", "c"].into_iter();
        Sharded::new(names.zip(all.iter().map(|change| engine(*change)))).unwrap().capabilities()
    };
    let same: fn(&mut Capabilities) = |_| ();
    let memory = Memory::new().capabilities();
    let shown = of(&[same, same]);
    assert_eq!((shown.name, shown.consistency), ("sharded", memory.consistency));
    assert_eq!((shown.wakeups, shown.notices), (memory.wakeups, memory.notices));
    assert_eq!(shown.wake_within, memory.wake_within);
    assert_eq!(shown.largest_value, memory.largest_value);
    assert_eq!(of(&[same, |c| c.consistency = Consistency::Lossy]).consistency, Consistency::Lossy);
    assert_eq!(of(&[|c| c.notices = Notices::Hints, same]).notices, Notices::Hints);
    assert_eq!(of(&[same, |c| c.notices = Notices::Hints]).notices, Notices::Hints);
    let one: fn(&mut Capabilities) = |c| c.wakeups = Wakeups::PushToOne;
    let poll: fn(&mut Capabilities) = |c| c.wakeups = Wakeups::Poll;
    assert_eq!(of(&[one, same, same]).wakeups, Wakeups::PushToOne);
    assert_eq!(of(&[same, same, one]).wakeups, Wakeups::PushToOne);
    assert_eq!(of(&[one, poll, same]).wakeups, Wakeups::Poll);
    let slow = of(&[same, |c| c.wake_within = Duration::from_secs(9)]);
    assert_eq!(slow.wake_within, Duration::from_secs(9));
    assert_eq!(of(&[same, |c| c.largest_value = 2000, same]).largest_value, 2000);
}

/// Also where a register of a shard could be larger.
#[tokio::test]
async fn the_smallest_largest_value_counts_for_all() {
    let small = Intercept::new(Memory::new(), Declares(|c| c.largest_value = 2000));
    let small: Arc<dyn Transport> = Arc::new(small);
    let engine = Sharded::new([("a", small), ("b", Arc::new(Memory::new()))]).unwrap();
    for shard in ["a", "b"] {
        let key = key_of(&engine, shard);
        let refused = engine.compare_exchange(&key, None, write(&"x".repeat(2001))).await;
        assert!(matches!(refused, Err(TransportError::Unsupported(_))), "{refused:?}");
        let fits = engine.compare_exchange(&key, None, write(&"x".repeat(2000))).await;
        assert!(matches!(fits, Ok(Exchange::Swapped(_))), "{fits:?}");
    }
}

/// An engine whose versions are smaller by so many.
#[derive(Clone)]
struct Behind(u64);

impl Behind {
    fn lower(&self, found: Versioned) -> Versioned {
        Versioned { version: Version::new(found.version.get() - self.0).unwrap(), ..found }
    }
}

#[async_trait]
impl<T: Transport> Interceptor<T> for Behind {
    async fn load(&self, inner: &T, key: &Key) -> Result<Option<Versioned>, TransportError> {
        Ok(inner.load(key).await?.map(|found| self.lower(found)))
    }

    async fn compare_exchange(
        &self,
        inner: &T,
        key: &Key,
        expected: Option<Version>,
        new: Write,
    ) -> Result<Exchange, TransportError> {
        let expected = expected.map(|version| Version::new(version.get() + self.0).unwrap());
        Ok(match inner.compare_exchange(key, expected, new).await? {
            Exchange::Swapped(version) => Exchange::Swapped(Version::new(version.get() - self.0)?),
            Exchange::Mismatch(found) => Exchange::Mismatch(found.map(|found| self.lower(found))),
        })
    }

    async fn watch(&self, inner: &T, key: &Key, node: NodeId) -> Result<Watch, TransportError> {
        let behind = self.clone();
        let watch = inner.watch(key, node).await?;
        Ok(Box::pin(watch.map(move |item| Ok(item?.map(|found| behind.lower(found))))))
    }
}

/// About the half and two thirds of what versions are that begin with the time.
const BEHIND: [u64; 3] = [0, 1_000_000_000_000_000, 1_300_000_000_000_000];

fn behind(by: u64) -> Arc<dyn Transport> {
    Arc::new(Intercept::new(Memory::new(), Behind(by)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn shards_keep_the_laws() {
    let engines = ["a", "b", "c"].map(|name| (name, Memory::new()));
    let deleted = engines.clone();
    let make = move || ready(Sharded::new(engines.clone()).unwrap());
    let delete_hook = move |key: Key| {
        deleted.iter().for_each(|(_, engine)| {
            engine.delete(&key);
        });
        ready(())
    };
    let report = Suite::new(make).delete_hook(delete_hook).run().await.unwrap();
    for law in [Law::Linearizable, Law::Versions, Law::Watch, Law::Dropping, Law::Listing] {
        assert!(report.checked.contains(&law), "{report}");
    }
    let left: Vec<_> = report.not_checked.iter().map(|missing| missing.law).collect();
    assert_eq!(left, [Law::Indeterminate, Law::Versions], "{report}");
}

#[tokio::test(start_paused = true)]
async fn shards_keep_the_laws_after_a_change_and_with_faults() {
    let mut engines = memories(&["a"]);
    engines.extend([("b", behind(BEHIND[1])), ("c", behind(BEHIND[2]))]);
    list(&engines, &["a", "b"]).change_to(&list(&engines, &["b", "c"]), LEASE).await.unwrap();
    let plan = Plan {
        delay: ms(0)..=ms(20),
        refuse: 0.05,
        lose_request: 0.05,
        lose_response: 0.1,
        timeout: ms(50),
        repeat: 0.2,
        reorder: 0.2,
        end: 0.2,
        lateness: ms(0)..=ms(30),
        ..Plan::default()
    };
    for seed in 0..5 {
        let (engines, plan) = (engines.clone(), plan.clone());
        let seeds = AtomicU64::new(seed * 100);
        let make = move || {
            let faulty = |name| {
                let seed = seeds.fetch_add(1, Relaxed);
                (name, Faulty::new(Arc::clone(&engines[name]), plan.clone(), seed))
            };
            ready(Sharded::new(["b", "c"].map(faulty)).unwrap())
        };
        let settling = ms(80);
        let suite = Suite::new(make).rounds(4).settling(settling);
        let report = suite.call_timeout(Duration::from_secs(100)).run().await;
        report.unwrap_or_else(|broken| panic!("seed {seed}: {broken}"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_has_the_keys_of_all_shards_and_none_that_is_reserved() {
    let engines = memories(&["a", "b", "c"]);
    let engine = list(&engines, &["a", "b", "c"]);
    let mut expected = vec![];
    for n in 0..50 {
        let key = key(&format!("k{n}"));
        engine.compare_exchange(&key, None, write("1")).await.unwrap();
        expected.push(key);
    }
    expected.sort();
    assert_eq!(engine.list("").await.unwrap(), expected);
    assert_eq!(engine.list("k4").await.unwrap().len(), 11);
    let to = list(&engines, &["a", "b"]);
    engine.change_to(&to, LEASE).await.unwrap();
    let left: Vec<_> = expected.into_iter().filter(|key| engine.shard_of(key) != "c").collect();
    assert_eq!(to.list("").await.unwrap(), left, "those that have moved are new");
}

/// A shard that can be switched off: it refuses, or it hangs.
fn switched() -> (Faulty<Memory>, Sharded) {
    let shard = Faulty::new(Memory::new(), Plan { timeout: ms(60_000), ..Plan::default() }, 1);
    let other: Arc<dyn Transport> = Arc::new(Memory::new());
    let engine = Sharded::new([("bad", Arc::new(shard.clone()) as _), ("good", other)]).unwrap();
    (shard, engine)
}

#[tokio::test(start_paused = true)]
async fn the_error_of_a_shard_has_its_name_and_its_kind() {
    let (shard, engine) = switched();
    engine.check().await.unwrap();
    let (bad, good) = (key_of(&engine, "bad"), key_of(&engine, "good"));
    let named = |error: TransportError| {
        assert!(error.to_string().contains("the shard \"bad\": a fault"), "{error}");
        error
    };
    shard.faults().set(Plan { lose_response: 1.0, timeout: ms(1), ..Plan::default() });
    let lost = named(engine.compare_exchange(&bad, None, write("1")).await.unwrap_err());
    assert!(matches!(lost, TransportError::Indeterminate(_)), "{lost}");
    shard.faults().set(Plan { refuse: 1.0, ..Plan::default() });
    for error in [
        engine.load(&bad).await.unwrap_err(),
        engine.compare_exchange(&bad, None, write("1")).await.unwrap_err(),
        engine.watch(&bad, NodeId::new(1)).await.err().unwrap(),
        engine.list("").await.unwrap_err(),
    ] {
        assert!(matches!(named(error), TransportError::Unavailable(_)));
    }
    engine.compare_exchange(&good, None, write("1")).await.unwrap();
    shard.faults().set(Plan { timeout: ms(1), ..Plan::default() });
    let mut watch = engine.watch(&bad, NodeId::new(1)).await.unwrap();
    shard.faults().partition(true);
    let last = watch.next().await.unwrap().unwrap_err();
    assert!(last.to_string().contains("the shard \"bad\": "), "{last}");
}

/// A node keeps what it holds elsewhere, and locks there, whether the shard refuses or hangs.
#[tokio::test(start_paused = true)]
async fn a_dead_shard_takes_only_its_own_locks_along() {
    for plan in [
        Plan { refuse: 1.0, ..Plan::default() },
        Plan { lose_request: 1.0, timeout: ms(60_000), ..Plan::default() },
    ] {
        let (shard, engine) = switched();
        let member = node(engine.clone());
        let (bad, good) = (key_of(&engine, "bad"), key_of(&engine, "good"));
        let kept = member.lock(&good).unwrap().acquire().await.unwrap();
        let lost = member.lock(&bad).unwrap().acquire().await.unwrap();
        shard.faults().set(plan.clone());
        sleep(LEASE * 2).await;
        assert!(kept.is_valid() && !lost.is_valid(), "{plan:?}");
        // A new node, which has never seen the shard; the other one keeps the lock.
        let new = node(engine.clone());
        let refused = new.lock(&good).unwrap().try_acquire().await.unwrap_err();
        assert!(matches!(refused, LockError::Busy { .. }), "{refused}");
        kept.release().await.unwrap();
        new.lock(&good).unwrap().acquire().await.unwrap().release().await.unwrap();
        let error = new.lock(&bad).unwrap().try_acquire().await.unwrap_err();
        assert!(matches!(error, LockError::Transport { .. }), "{error}");
        // It is back.
        shard.faults().set(Plan::default());
        new.lock(&bad).unwrap().acquire().await.unwrap().release().await.unwrap();
    }
}

/// A first list needs each shard once, or two lists could come into force that share a shard.
#[tokio::test(start_paused = true)]
async fn a_new_process_needs_only_the_shard_of_its_key_and_the_first_one_needs_all() {
    let shard = Faulty::new(Memory::new(), Plan::default(), 1);
    let good = Memory::new();
    let make = || {
        let bad: Arc<dyn Transport> = Arc::new(shard.clone());
        Sharded::new([("bad", bad), ("good", Arc::new(good.clone()))]).unwrap()
    };
    let key = key_of(&make(), "good");
    shard.faults().set(Plan { refuse: 1.0, ..Plan::default() });
    let error = make().load(&key).await.unwrap_err();
    assert!(matches!(error, TransportError::Unavailable(_)), "{error}");
    assert!(error.to_string().contains("\"bad\""), "{error}");
    shard.faults().set(Plan::default());
    make().check().await.unwrap();
    shard.faults().set(Plan { refuse: 1.0, ..Plan::default() });
    assert_eq!(make().load(&key).await.unwrap(), None);
    assert!(
        matches!(make().check().await, Err(ShardError::Engine { shard, .. }) if shard == "bad")
    );
}

#[tokio::test]
async fn nodes_with_different_lists_are_refused() {
    let engines = memories(&["a", "b", "c"]);
    let first = list(&engines, &["a", "b"]);
    first.check().await.unwrap();
    list(&engines, &["b", "a"]).check().await.unwrap();
    for other in [&["b", "c"][..], &["a"], &["b"], &["a", "b", "c"]] {
        let other = list(&engines, other);
        let error = other.check().await.unwrap_err();
        assert!(matches!(error, ShardError::Differs { .. }), "{error}");
        let member = node(other.clone());
        for shard in other.names().to_vec() {
            let key = key_of(&other, &shard);
            let error = member.lock(&key).unwrap().try_acquire().await.unwrap_err();
            let LockError::Transport { source, .. } = error else { panic!("{error}") };
            assert!(matches!(source, TransportError::Unsupported(_)), "{source}");
            assert!(matches!(why(&source), ShardError::Differs { .. }), "{source}");
            let shown = source.to_string();
            assert!(shown.contains("\"a\", \"b\"") && shown.contains("change_to"), "{shown}");
        }
    }
    first.check().await.unwrap();
    // The same names, and each engine has that of the other one.
    let exchanged = [("a", engines["b"].clone()), ("b", engines["a"].clone())];
    let exchanged = Sharded::new(exchanged).unwrap();
    let error = exchanged.check().await.unwrap_err();
    let ShardError::Misnamed { shard, found } = &error else { panic!("{error}") };
    assert_eq!((&**shard, &**found), ("a", "b"), "{error}");
    for shard in ["a", "b"] {
        let error = exchanged.load(&key_of(&exchanged, shard)).await.unwrap_err();
        assert!(matches!(why(&error), ShardError::Misnamed { .. }), "{error}");
    }
    first.check().await.unwrap();
    // A shard that was used for something else.
    let engines = memories(&["x"]);
    let mark = key("@lockword-shards");
    engines["x"].compare_exchange(&mark, None, write("{}")).await.unwrap();
    let error = list(&engines, &["x"]).check().await.unwrap_err();
    assert!(matches!(error, ShardError::Foreign { .. }), "{error}");
}

/// However the first requests of programs with different lists interleave, and whatever is lost of them.
#[tokio::test(start_paused = true)]
async fn of_two_first_lists_that_share_a_shard_one_at_most_comes_into_force() {
    let mut came = [0; 3];
    for seed in 0..300 {
        let engines = memories(&["a", "b", "c", "d"]);
        let client = |names: &[&'static str], seed: u64| {
            let faulty = |(n, name): (usize, &&'static str)| {
                let plan = Plan {
                    delay: ms(0)..=ms(10),
                    lose_request: 0.1,
                    lose_response: 0.1,
                    timeout: ms(20),
                    ..Plan::default()
                };
                (*name, Faulty::new(engines[name].clone(), plan, seed * 10 + n as u64))
            };
            Sharded::new(names.iter().enumerate().map(faulty)).unwrap()
        };
        let clients = [(&["a", "b", "c"][..], 0), (&["b", "c", "d"][..], 1)];
        let clients = clients.map(|(names, n)| client(names, seed * 2 + n));
        let use_it = async |engine: &Sharded| {
            let mut served = 0;
            for _ in 0..10 {
                for shard in engine.names() {
                    served += u32::from(engine.load(&key_of(engine, shard)).await.is_ok());
                }
            }
            served > 0
        };
        let served = join(use_it(&clients[0]), use_it(&clients[1])).await;
        assert_ne!(served, (true, true), "seed {seed}");
        came[usize::from(served.0) + 2 * usize::from(served.1)] += 1;
    }
    assert!(came[1] > 0 && came[2] > 0, "{came:?}");
}

/// Who holds what, by the guards themselves: two valid ones of a key never are at a time, and tokens only grow.
#[derive(Clone, Default)]
struct Witness {
    gate: Arc<Gate>,
    guards: Arc<Mutex<HashMap<Key, Vec<Arc<DistributedGuard>>>>>,
}

impl Witness {
    fn saw(&self, key: &Key, guard: DistributedGuard) -> Arc<DistributedGuard> {
        self.gate.pass(key, guard.token()).unwrap_or_else(|stale| panic!("{stale}"));
        let guard = Arc::new(guard);
        let mut guards = self.guards.lock().unwrap();
        let of_key = guards.entry(key.clone()).or_default();
        assert!(!of_key.iter().any(|guard| guard.is_valid()), "two holders of {key}");
        of_key.push(guard.clone());
        guard
    }

    fn release(&self, key: &Key, guard: Arc<DistributedGuard>) {
        self.guards.lock().unwrap().get_mut(key).unwrap().retain(|one| !Arc::ptr_eq(one, &guard));
    }
}

fn keys() -> Vec<Key> {
    (0..24).map(|n| key(&format!("jobs/{n}"))).collect()
}

/// A node that is not stopped: every second key is held for ever, the others are acquired again and again.
fn goes_on(engine: Sharded, witness: &Witness) -> Vec<tokio::task::JoinHandle<LockError>> {
    let member = Node::builder(engine).lease(LEASE).tokio_clock().build().unwrap();
    let work = |(n, key): (usize, Key)| {
        let (lock, witness, member) = (member.lock(&key).unwrap(), witness.clone(), member.clone());
        tokio::spawn(async move {
            loop {
                let guard = match lock.acquire().await {
                    Ok(guard) => witness.saw(&key, guard),
                    Err(error) => {
                        drop(member);
                        return error;
                    }
                };
                match n % 2 {
                    0 => drop(guard.lost().await),
                    _ => sleep(ms(70)).await,
                }
                witness.release(&key, guard);
            }
        })
    };
    keys().into_iter().enumerate().map(work).collect()
}

/// The list is changed while nodes with the old one go on: no key ever has two holders, and all tokens grow.
#[tokio::test(start_paused = true)]
async fn a_change_leaves_one_holder_and_growing_tokens() {
    let lists: [(&[&str], &[&str]); 4] = [
        (&["a", "b"], &["a", "b", "c"]), // added
        (&["a", "b", "c"], &["b", "c"]), // removed
        (&["a", "b"], &["a", "c"]),      // replaced
        (&["a"], &["b", "c"]),           // all
    ];
    for (from, to) in lists {
        let mut engines = memories(&["a"]);
        engines.extend([("b", behind(BEHIND[1])), ("c", behind(BEHIND[2]))]);
        let witness = Witness::default();
        // And back, where some registers are still there.
        for (from, to) in [(from, to), (to, from), (from, to)] {
            let (old, new) = (list(&engines, from), list(&engines, to));
            let workers = goes_on(list(&engines, from), &witness);
            sleep(LEASE).await;
            if from.iter().any(|name| to.contains(name)) {
                let told = list(&engines, to).check().await.unwrap_err();
                assert!(matches!(told, ShardError::Differs { .. }), "{told}");
            }
            old.change_to(&new, LEASE).await.unwrap();
            let member = node(new.clone());
            for key in keys() {
                let lock = member.lock(&key).unwrap();
                // Of a node that still renews it, if there were one.
                let guard = lock.acquire_timeout(LEASE * 10).await.unwrap();
                let guard = witness.saw(&key, guard);
                witness.release(&key, guard);
            }
            for error in join_all(workers).await {
                let LockError::Transport { source, .. } = error.unwrap() else { panic!() };
                assert!(
                    matches!(
                        why(&source),
                        ShardError::Differs { .. } | ShardError::Changing { .. }
                    ),
                    "{source}"
                );
            }
            // An object of before knows other versions, if the list is the same again.
            list(&engines, to).change_to(&list(&engines, from), LEASE).await.unwrap();
            list(&engines, from).change_to(&list(&engines, to), LEASE).await.unwrap();
            let told = new.check().await.unwrap_err();
            assert!(matches!(told, ShardError::Changed { .. }), "{told}");
        }
    }
}

/// Fails each request from the nth on.
#[derive(Clone)]
struct Ends(Arc<AtomicU64>);

impl Ends {
    fn step(&self) -> Result<(), TransportError> {
        let left = self.0.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1));
        left.map(drop).map_err(|_| TransportError::unavailable("it has ended"))
    }
}

#[async_trait]
impl<T: Transport> Interceptor<T> for Ends {
    async fn load(&self, inner: &T, key: &Key) -> Result<Option<Versioned>, TransportError> {
        self.step()?;
        inner.load(key).await
    }

    async fn compare_exchange(
        &self,
        inner: &T,
        key: &Key,
        expected: Option<Version>,
        new: Write,
    ) -> Result<Exchange, TransportError> {
        self.step()?;
        inner.compare_exchange(key, expected, new).await
    }
}

/// A change that ends at any of its requests is completed by the next call, and nobody sees two lists meanwhile.
#[tokio::test(start_paused = true)]
async fn a_change_that_was_cut_off_goes_on_where_it_was() {
    let key = key("jobs/nightly");
    let mut was_cut_off = 0;
    for requests in 0.. {
        let mut engines = memories(&["a"]);
        engines.extend([("b", behind(BEHIND[1])), ("c", behind(BEHIND[2]))]);
        let (from, to) = (list(&engines, &["a", "b"]), list(&engines, &["b", "c"]));
        let gate = Gate::new();
        let member = node(from.clone());
        let guard = member.lock(&key).unwrap().acquire().await.unwrap();
        gate.pass(&key, guard.token()).unwrap();
        guard.release().await.unwrap();
        let ends = Ends(Arc::new(AtomicU64::new(requests)));
        let cut = |names: &[&'static str]| {
            let cut =
                |name: &&'static str| (*name, Intercept::new(engines[name].clone(), ends.clone()));
            Sharded::new(names.iter().map(cut)).unwrap()
        };
        let done = cut(&["a", "b"]).change_to(&cut(&["b", "c"]), LEASE).await;
        was_cut_off += u32::from(done.is_err());
        let serve = async |names: &[&'static str]| {
            let all = list(&engines, names);
            let keys: Vec<_> = names.iter().map(|name| key_of(&all, name)).collect();
            let served = join_all(keys.iter().map(|key| all.load(key))).await;
            served.iter().any(Result::is_ok)
        };
        let lists = (serve(&["a", "b"]).await, serve(&["b", "c"]).await);
        assert_ne!(lists, (true, true), "after {requests} requests");
        // Two at a time, as two operators would.
        let again = from.change_to(&to, LEASE);
        let more = list(&engines, &["a", "b"]);
        let other = list(&engines, &["b", "c"]);
        let (one, two) = join(again, more.change_to(&other, LEASE)).await;
        assert!(one.is_ok() || two.is_ok(), "{one:?} {two:?}");
        list(&engines, &["a", "b"]).change_to(&to, LEASE).await.unwrap();
        to.check().await.unwrap();
        let member = node(to.clone());
        let guard = member.lock(&key).unwrap().acquire().await.unwrap();
        gate.pass(&key, guard.token()).unwrap();
        let error = list(&engines, &["a", "b"]).check().await.unwrap_err();
        assert!(matches!(error, ShardError::Differs { .. }), "{error}");
        if done.is_ok() {
            break;
        }
    }
    assert!(was_cut_off > 10, "{was_cut_off}");
}

/// The mark of a shard is lost with its data: it is written again, of the list that is in force.
#[tokio::test(start_paused = true)]
async fn a_shard_that_has_lost_its_data_is_used_again() {
    let (a, b, c) = (Memory::new(), Memory::new(), Memory::new());
    let make = |all: &[(&'static str, &Memory)]| {
        Sharded::new(all.iter().map(|(name, engine)| (*name, (*engine).clone()))).unwrap()
    };
    let old = make(&[("a", &a), ("b", &b)]);
    old.check().await.unwrap();
    old.change_to(&make(&[("a", &a), ("c", &c)]), LEASE).await.unwrap();
    let new = make(&[("a", &a), ("c", &c)]);
    new.check().await.unwrap();
    assert!(c.delete(&key("@lockword-shards")));
    new.check().await.unwrap();
    make(&[("c", &c), ("a", &a)]).check().await.unwrap();
}

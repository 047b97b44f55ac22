//! Attempts to refute.

use crate::support::{builder, ms, node, poll_once, settle};
use lockword::cluster::layers::{Faulty, Plan};
use lockword::cluster::{
    Capabilities, Exchange, Key, LockError, Memory, Node, NodeId, Transport, TransportError,
    Version, Versioned, Watch, Write, async_trait,
};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// 1. A grant that its waiter has not fetched when the lease is lost; then the next is granted.
#[tokio::test(start_paused = true)]
async fn r1_a_grant_that_was_not_fetched_before_the_loss() {
    let engine = Memory::new();
    let a = builder(engine.clone(), "a").lease(ms(300)).build();
    let op = node(engine, "op");
    let lock = a.lock("k").unwrap();
    let mut slow = pin!(lock.acquire());
    assert!(poll_once(slow.as_mut()).is_pending());
    settle().await; // Granted, not fetched.
    assert!(op.break_lock("k").await.unwrap().is_some());
    let second = lock.clone();
    let second = tokio::spawn(async move {
        let guard = second.acquire().await?;
        guard.release().await.unwrap();
        Ok::<_, LockError>(())
    });
    tokio::time::sleep(Duration::from_secs(5)).await;
    let first = tokio::time::timeout(Duration::from_secs(60), slow).await;
    let second = tokio::time::timeout(Duration::from_secs(60), second).await;
    println!("first {first:?}\nsecond {second:?}");
    assert!(first.is_ok(), "the first waits for ever");
    second.unwrap().unwrap().unwrap();
}

/// 2. Release while the tokens are used up.
#[tokio::test(start_paused = true)]
async fn r1_release_when_tokens_are_used_up() {
    let engine = Faulty::delayed(Memory::new(), ms(20));
    let a = builder(engine, "a").build();
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

/// 3. Patience counts from a failure of long ago.
#[tokio::test(start_paused = true)]
async fn r1_patience_counts_from_long_ago() {
    let way = Faulty::new(Memory::new(), Plan::default(), 1);
    let faults = way.faults();
    let a = builder(way, "a").lease(ms(1000)).build();
    let lock = a.lock("k").unwrap();
    faults.set(Plan { refuse: 1.0, ..Plan::default() });
    assert!(lock.try_acquire().await.is_err());
    faults.set(Plan::default());
    tokio::time::sleep(Duration::from_secs(600)).await;
    // Ten minutes later: one refusal, and all is well a millisecond later.
    faults.set(Plan { refuse: 1.0, ..Plan::default() });
    let mut acquire = pin!(lock.acquire());
    assert!(poll_once(acquire.as_mut()).is_pending());
    settle().await;
    faults.set(Plan::default());
    drop(acquire.await.unwrap());
}

/// 4. A break in doubt: the text says that it is undone.
#[tokio::test(start_paused = true)]
async fn r1_text_of_a_break_in_doubt() {
    let engine = Memory::new();
    let way = Faulty::new(engine.clone(), Plan::default(), 1);
    let faults = way.faults();
    let (a, op) = (node(engine, "a"), node(way, "op"));
    let _guard = a.lock("k").unwrap().acquire().await.unwrap();
    faults.lose_next_answer();
    let error = op.break_lock("k").await.unwrap_err();
    println!("{error}");
    assert!(!error.to_string().contains("is undone"), "{error}");
}

/// 5. A blocking thread of a current-thread runtime.
#[tokio::test]
async fn r1_spawn_blocking_on_a_current_thread_runtime() {
    let a = Node::builder(Memory::new()).build();
    let lock = a.blocking().lock("k").unwrap();
    let got = tokio::task::spawn_blocking(move || lock.acquire().map(|g| g.release())).await;
    println!("{got:?}");
    got.unwrap().unwrap().unwrap();
}

/// 6. All that is held is reported.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_shutdown_reports_all_that_was_released() {
    for _ in 0..20 {
        let a = Node::builder(Memory::new()).build();
        let mut guards = vec![];
        for i in 0..300 {
            guards.push(a.lock(format!("k{i}")).unwrap().acquire().await.unwrap());
        }
        let report = a.shutdown().await;
        assert_eq!((report.released.len(), report.in_doubt.len()), (300, 0));
    }
}

/// 7. Others' load must not cost a held lock.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn r1_renewal_under_load_of_other_keys() {
    let a = Node::builder(Memory::new()).lease(ms(500)).build();
    let guard = a.lock("held").unwrap().acquire().await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let count = Arc::new(AtomicU64::new(0));
    let mut all = vec![];
    for i in 0..3000 {
        let lock = a.lock(format!("k{i}")).unwrap();
        let (stop, count) = (stop.clone(), count.clone());
        all.push(tokio::spawn(async move {
            while !stop.load(Relaxed) {
                if let Ok(guard) = lock.acquire().await {
                    count.fetch_add(1, Relaxed);
                    drop(guard);
                }
            }
        }));
    }
    let began = Instant::now();
    let lost = tokio::time::timeout(Duration::from_secs(4), guard.lost()).await;
    stop.store(true, Relaxed);
    println!("{lost:?} after {:?}, {} grants", began.elapsed(), count.load(Relaxed));
    assert!(lost.is_err(), "{lost:?} after {:?}", began.elapsed());
}

/// 8. Handles that are made and dropped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_renewal_under_load_of_handles() {
    let a = Node::builder(Memory::new()).lease(ms(500)).build();
    let guard = a.lock("held").unwrap().acquire().await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let threads: Vec<_> = (0..8)
        .map(|t| {
            let (a, stop) = (a.clone(), stop.clone());
            std::thread::spawn(move || {
                let mut i = 0_u64;
                while !stop.load(Relaxed) {
                    drop(a.lock(format!("k{t}-{i}")).unwrap());
                    i += 1;
                }
                i
            })
        })
        .collect();
    let began = Instant::now();
    let lost = tokio::time::timeout(Duration::from_secs(4), guard.lost()).await;
    let keys = a.keys();
    stop.store(true, Relaxed);
    let made: u64 = threads.into_iter().map(|t| t.join().unwrap()).sum();
    println!("{lost:?} after {:?}, {made} handles, {keys} keys known", began.elapsed());
    assert!(lost.is_err(), "{lost:?} after {:?}", began.elapsed());
}

/// A watch that never stops to yield.
#[derive(Clone)]
struct Endless(Memory);

#[async_trait]
impl Transport for Endless {
    async fn load(&self, key: &Key) -> Result<Option<Versioned>, TransportError> {
        self.0.load(key).await
    }
    async fn compare_exchange(
        &self,
        key: &Key,
        expected: Option<Version>,
        new: Write,
    ) -> Result<Exchange, TransportError> {
        self.0.compare_exchange(key, expected, new).await
    }
    async fn watch(&self, key: &Key, _: NodeId) -> Result<Watch, TransportError> {
        let now = self.0.load(key).await?;
        Ok(Box::pin(futures_util::stream::repeat(Ok(now))))
    }
    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }
}

/// 9. A watch that yields without end starves the timers of other keys.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_an_endless_watch() {
    let engine = Endless(Memory::new());
    let a = Node::builder(engine.clone()).lease(ms(300)).build();
    let b = Node::builder(engine.0.clone()).lease(ms(300)).build();
    let mine = a.lock("mine").unwrap().acquire().await.unwrap();
    let _theirs = b.lock("k").unwrap().acquire().await.unwrap();
    let lock = a.lock("k").unwrap();
    let waits = tokio::spawn(async move { lock.acquire().await.map(drop) });
    let lost = tokio::time::timeout(Duration::from_secs(3), mine.lost()).await;
    waits.abort();
    assert!(lost.is_err(), "{lost:?}");
}

/// 10. Keys of a node that was shut down.
#[tokio::test(start_paused = true)]
async fn r1_keys_of_a_node_that_was_shut_down() {
    let a = node(Memory::new(), "a");
    a.shutdown().await;
    for i in 0..100 {
        assert!(a.lock(format!("k{i}")).unwrap().acquire().await.is_err());
    }
    assert_eq!(a.keys(), 0);
}

/// 11. An operator breaks one holder's lock; by then another holds it.
#[tokio::test(start_paused = true)]
async fn r1_break_lock_takes_it_from_another_than_was_seen() {
    let engine = Memory::new();
    // The operator's write takes 50 ms to arrive.
    let far = Faulty::delayed(engine.clone(), ms(100));
    let (a, b, op) = (node(engine.clone(), "a"), node(engine, "b"), node(far, "op"));
    let guard = a.lock("k").unwrap().acquire().await.unwrap();
    let lock = b.lock("k").unwrap();
    let next = tokio::spawn(async move { lock.acquire().await.unwrap() });
    settle().await;
    let broken = tokio::spawn(async move { op.break_lock("k").await });
    tokio::time::sleep(ms(120)).await; // It has looked: a holds.
    guard.release().await.unwrap();
    let next = next.await.unwrap();
    let broken = broken.await.unwrap().unwrap();
    println!("{broken:?}, {next:?}");
    assert!(broken.is_none_or(|broken| broken.label == "a"), "the innocent was broken");
}

/// What a transport answers to the nth write, instead of the truth.
#[derive(Clone)]
struct Lying {
    inner: Memory,
    writes: Arc<AtomicU64>,
    lie: fn(u64, Exchange, Option<Version>) -> Exchange,
}

#[async_trait]
impl Transport for Lying {
    async fn load(&self, key: &Key) -> Result<Option<Versioned>, TransportError> {
        self.inner.load(key).await
    }
    async fn compare_exchange(
        &self,
        key: &Key,
        expected: Option<Version>,
        new: Write,
    ) -> Result<Exchange, TransportError> {
        let n = self.writes.fetch_add(1, Relaxed);
        let truth = self.inner.compare_exchange(key, expected, new).await?;
        Ok((self.lie)(n, truth, expected))
    }
    async fn watch(&self, key: &Key, node: NodeId) -> Result<Watch, TransportError> {
        self.inner.watch(key, node).await
    }
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
}

/// 12. A renewal is answered by a version that is older.
#[tokio::test(start_paused = true)]
async fn r1_tokens_after_a_swap_with_an_old_version() {
    let lie = |n, truth, _| match truth {
        Exchange::Swapped(_) if n == 1 => Exchange::Swapped(Version::new(5).unwrap()),
        truth => truth,
    };
    let engine = Lying { inner: Memory::new(), writes: Arc::default(), lie };
    let a = builder(engine, "a").lease(ms(300)).build();
    let lock = a.lock("k").unwrap();
    let first = lock.acquire().await.unwrap();
    let token = first.token();
    let next = lock.clone();
    let next = tokio::spawn(async move { next.acquire().await.unwrap().token() });
    tokio::time::sleep(ms(105)).await; // Renewed once.
    println!("first is valid: {}", first.is_valid());
    first.release().await.ok();
    let next = next.await.unwrap();
    assert!(next > token, "{next} after {token}");
}

/// 13. A mismatch that shows the very version that was expected.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_a_mismatch_that_is_none() {
    let lie = |_, _, _| Exchange::Mismatch(None);
    let engine = Lying { inner: Memory::new(), writes: Arc::default(), lie };
    let a = Node::builder(engine.clone()).lease(ms(300)).build();
    let lock = a.lock("k").unwrap();
    let got = lock.acquire_timeout(ms(500)).await;
    let writes = engine.writes.load(Relaxed);
    println!("{got:?}");
    assert!(writes < 1000, "{writes} writes in 500 ms");
}

/// 14. A failure that nobody fetches.
async fn cycles_beside_a_failure(is_fetched: bool) -> Vec<u128> {
    let way = Faulty::new(Memory::new(), Plan::default(), 1);
    let faults = way.faults();
    let a = Node::builder(way).patience(Duration::ZERO).build();
    let lock = a.lock("k").unwrap();
    faults.set(Plan { refuse: 1.0, ..Plan::default() });
    let mut slow = Box::pin(lock.acquire());
    assert!(poll_once(slow.as_mut()).is_pending());
    tokio::time::sleep(ms(50)).await;
    faults.set(Plan::default());
    if is_fetched {
        assert!(poll_once(slow.as_mut()).is_ready());
    }
    let mut took = vec![];
    for _ in 0..4 {
        let began = Instant::now();
        for _ in 0..3000 {
            lock.acquire().await.unwrap().release().await.unwrap();
        }
        took.push(began.elapsed().as_micros() / 3000);
    }
    took
}

#[tokio::test]
async fn r1_a_failure_that_is_not_fetched() {
    let with = cycles_beside_a_failure(true).await;
    let without = cycles_beside_a_failure(false).await;
    println!("us a cycle: fetched {with:?}, not fetched {without:?}");
    assert!(without[3] < with[3] * 2, "{with:?} {without:?}");
}

/// 15. The lease that others see is not shorter than the one that the holder counts on.
#[tokio::test(start_paused = true)]
async fn r1_the_lease_in_the_register() {
    let a = builder(Memory::new(), "a").lease(Duration::from_micros(100_999)).build();
    let _guard = a.lock("k").unwrap().acquire().await.unwrap();
    let state = a.inspect("k").await.unwrap();
    let lockword::cluster::Possession::Held { lease, .. } = state.possession else { panic!() };
    assert!(lease >= Duration::from_micros(100_999), "{lease:?}");
}

/// 16. A grant that is dropped unfetched: `released` without `acquired`.
#[tokio::test(start_paused = true)]
async fn r1_observer_of_an_unfetched_grant() {
    struct Counts(Arc<[AtomicU64; 2]>);
    impl lockword::cluster::Observer for Counts {
        fn acquired(
            &self,
            _: &Key,
            _: Duration,
            _: lockword::cluster::Way,
            _: lockword::cluster::FencingToken,
        ) {
            self.0[0].fetch_add(1, Relaxed);
        }
        fn released(&self, _: &Key, how: lockword::cluster::Released) {
            println!("{how:?}");
            self.0[1].fetch_add(1, Relaxed);
        }
    }
    let counts: Arc<[AtomicU64; 2]> = Arc::default();
    let a = builder(Memory::new(), "a").observer(Counts(counts.clone())).build();
    let lock = a.lock("k").unwrap();
    let mut acquire = Box::pin(lock.acquire());
    assert!(poll_once(acquire.as_mut()).is_pending());
    settle().await;
    drop(acquire);
    settle().await;
    assert_eq!((counts[0].load(Relaxed), counts[1].load(Relaxed)), (0, 0));
}

/// 17. A leaked guard, and the end of time.
#[tokio::test]
async fn r1_leaked_guard_and_endless_timeout() {
    let engine = Memory::new();
    let a = Node::builder(engine.clone()).lease(ms(300)).build();
    let b = Node::builder(engine).lease(ms(300)).build();
    std::mem::forget(a.lock("k").unwrap().acquire().await.unwrap());
    let lock = b.lock("k").unwrap();
    assert!(lock.acquire_timeout(ms(700)).await.is_err());
    let waits = tokio::spawn(async move { lock.acquire_timeout(Duration::MAX).await.map(drop) });
    tokio::time::sleep(ms(50)).await;
    drop(a);
    tokio::time::timeout(ms(200), waits).await.unwrap().unwrap().unwrap();
}

/// 18. Two valid guards while a node is closed: the closing thread stands still in `Local::close`.
/// (The worktree's `local.rs` sleeps there if R1_CLOSE is set.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_two_valid_guards_at_the_end() {
    let engine = Memory::new();
    let a = Node::builder(engine.clone()).lease(ms(900)).build();
    let b = Node::builder(engine).lease(ms(900)).build();
    let mine = a.lock("k").unwrap().acquire().await.unwrap();
    let lock = b.lock("k").unwrap();
    let theirs = tokio::spawn(async move { lock.acquire().await.unwrap() });
    tokio::time::sleep(ms(200)).await;
    // SAFETY: nobody else reads the environment now.
    unsafe { std::env::set_var("R1_CLOSE", "1") };
    let closing = std::thread::spawn(move || drop(a));
    let theirs = theirs.await.unwrap();
    let both = (mine.is_valid(), theirs.is_valid());
    println!("{both:?} {mine:?} {:?}", theirs.way());
    unsafe { std::env::remove_var("R1_CLOSE") };
    closing.join().unwrap();
    assert_ne!(both, (true, true));
}

/// 19. The observer uses the node, as it may.
#[test]
fn r1_observer_that_waits() {
    struct Uses(std::sync::OnceLock<Node>);
    struct Shared(Arc<Uses>);
    impl lockword::cluster::Observer for Shared {
        fn renewed(&self, _: &Key) {
            if let Some(node) = self.0.0.get() {
                let got = node.blocking().lock("other").unwrap().acquire_timeout(ms(100));
                println!("{got:?}");
            }
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(3).enable_all().build().unwrap();
    let uses = Arc::new(Uses(std::sync::OnceLock::new()));
    let lost = runtime.block_on(async {
        let a = Node::builder(Memory::new()).lease(ms(300)).observer(Shared(uses.clone())).build();
        let _ = uses.0.set(a.clone());
        let guard = a.lock("k").unwrap().acquire().await.unwrap();
        let until = Instant::now() + ms(1500);
        while guard.is_valid() && Instant::now() < until {
            tokio::time::sleep(ms(10)).await;
        }
        !guard.is_valid()
    });
    runtime.shutdown_background();
    assert!(!lost, "the driver waits for itself");
}

/// 20. The end of a node must come in time, whatever others do with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_shutdown_under_load_of_handles() {
    let a = Node::builder(Memory::new()).lease(ms(500)).build();
    let guard = a.lock("held").unwrap().acquire().await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let threads: Vec<_> = (0..8)
        .map(|t| {
            let (a, stop) = (a.clone(), stop.clone());
            std::thread::spawn(move || {
                let mut i = 0_u64;
                while !stop.load(Relaxed) {
                    drop(a.lock(format!("k{t}-{i}")).unwrap());
                    i += 1;
                }
            })
        })
        .collect();
    tokio::time::sleep(ms(100)).await;
    let began = Instant::now();
    let report = tokio::time::timeout(Duration::from_secs(4), a.shutdown()).await;
    let took = began.elapsed();
    stop.store(true, Relaxed);
    for thread in threads {
        thread.join().unwrap();
    }
    println!("{report:?} {took:?}");
    drop(guard);
    assert!(took < ms(500), "{took:?}, not two request timeouts (200 ms)");
}

/// 21. A foreign value that is gone again, where a watch said "look yourself".
#[tokio::test(start_paused = true)]
async fn r1_a_foreign_value_that_is_gone() {
    let engine = Memory::new();
    let (a, b) = (node(engine.clone(), "a"), node(engine.clone(), "b"));
    let lock = a.lock("k").unwrap();
    let key = Key::new("k").unwrap();
    let theirs = b.lock("k").unwrap().acquire().await.unwrap();
    assert!(lock.acquire_timeout(ms(100)).await.is_err()); // From here on it watches.
    drop(theirs);
    settle().await;
    let version = engine.load(&key).await.unwrap().map(|now| now.version);
    let write = Write {
        value: b"foreign".as_slice().into(),
        wake: lockword::cluster::Wake::Everybody,
        idle: false,
    };
    engine.compare_exchange(&key, version, write).await.unwrap();
    settle().await;
    let error = lock.acquire().await.unwrap_err();
    assert!(matches!(error, LockError::Unreadable { .. }), "{error}");
    assert!(engine.delete(&key));
    settle().await;
    drop(lock.acquire().await.unwrap());
}

/// A watch that ends at once.
#[derive(Clone)]
struct Flapping(Memory, Arc<AtomicU64>);

#[async_trait]
impl Transport for Flapping {
    async fn load(&self, key: &Key) -> Result<Option<Versioned>, TransportError> {
        self.1.fetch_add(1, Relaxed);
        self.0.load(key).await
    }
    async fn compare_exchange(
        &self,
        key: &Key,
        expected: Option<Version>,
        new: Write,
    ) -> Result<Exchange, TransportError> {
        self.0.compare_exchange(key, expected, new).await
    }
    async fn watch(&self, _: &Key, _: NodeId) -> Result<Watch, TransportError> {
        self.1.fetch_add(1, Relaxed);
        Ok(Box::pin(futures_util::stream::empty()))
    }
    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }
}

/// 22. How often it asks again.
#[tokio::test(start_paused = true)]
async fn r1_a_watch_that_ends_at_once() {
    let asked = Arc::new(AtomicU64::new(0));
    let engine = Memory::new();
    let a = node(Flapping(engine.clone(), asked.clone()), "a");
    let b = node(engine, "b");
    let _theirs = b.lock("k").unwrap().acquire().await.unwrap();
    assert!(a.lock("k").unwrap().acquire_timeout(Duration::from_secs(10)).await.is_err());
    let asked = asked.load(Relaxed);
    assert!(asked < 200, "{asked} requests in 10 s");
}

/// A future whose drop panics: as a transport's may, when the request is given up.
struct Rude;
impl Drop for Rude {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("rude");
        }
    }
}

#[derive(Clone)]
struct RudeTransport(Memory);

#[async_trait]
impl Transport for RudeTransport {
    async fn load(&self, key: &Key) -> Result<Option<Versioned>, TransportError> {
        self.0.load(key).await
    }
    async fn compare_exchange(
        &self,
        key: &Key,
        expected: Option<Version>,
        new: Write,
    ) -> Result<Exchange, TransportError> {
        if key.as_str() == "rude" {
            let _rude = Rude;
            std::future::pending::<()>().await;
        }
        self.0.compare_exchange(key, expected, new).await
    }
    async fn watch(&self, key: &Key, node: NodeId) -> Result<Watch, TransportError> {
        self.0.watch(key, node).await
    }
    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }
}

/// 23. A request that panics when it is dropped.
#[tokio::test(start_paused = true)]
async fn r1_a_request_that_panics_when_dropped() {
    let a = builder(RudeTransport(Memory::new()), "a").lease(ms(1000)).build();
    let good = a.lock("good").unwrap().acquire().await.unwrap();
    let rude = a.lock("rude").unwrap().acquire_timeout(ms(700)).await;
    println!("{rude:?}");
    tokio::time::sleep(ms(100)).await;
    assert!(good.is_valid(), "{:?}", good.lost().await);
}

//! More locks than the server has commits for, if each renewal is one.

use super::*;
use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use lockword::cluster::{Hold, LossReason, NodeId, Observer, RemoteOperation};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

#[derive(Clone, Default)]
struct Counts(Arc<[AtomicUsize; 3]>);

impl Counts {
    fn take(&self) -> [usize; 3] {
        [0, 1, 2].map(|n| self.0[n].swap(0, Relaxed))
    }
}

impl Observer for Counts {
    fn renewed(&self, _: &Key, _: Duration) {
        self.0[0].fetch_add(1, Relaxed);
    }

    fn lost(&self, _: &Key, _: &LossReason, _: Hold) {
        self.0[1].fetch_add(1, Relaxed);
    }

    fn request_finished(
        &self,
        _: &Key,
        _: RemoteOperation,
        _: Duration,
        error: Option<&TransportError>,
    ) {
        self.0[2].fetch_add(usize::from(error.is_some()), Relaxed);
    }
}

/// A commit takes two milliseconds, as on a disk that spins, or beside a synchronous replica.
async fn slow_server() -> Option<PostgresServer> {
    let settings = vec!["commit_delay=2000".to_owned(), "commit_siblings=0".to_owned()];
    server_with(PostgresSetup { settings, ..PostgresSetup::default() }).await
}

/// Each needs a renewal in a third of its lease, and one statement after the other could make half of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_lock_is_lost_where_there_are_more_renewals_than_commits() {
    let Some(server) = slow_server().await else { return };
    let engine = client(&server.address("")).await;
    let (counts, lease) = (Counts::default(), Duration::from_secs(4));
    let node = node(&engine, "a").lease(lease).observer(counts.clone()).build().unwrap();
    let began = Instant::now();
    let names = stream::iter((0..1500).map(|n| format!("k{n}")));
    let acquire = names.map(|name| {
        let lock = lock(&node, &name);
        async move { lock.acquire().await.unwrap() }
    });
    let guards: Vec<_> = acquire.buffer_unordered(32).collect().await;
    println!("acquired in {:?}: {:?}", began.elapsed(), counts.take());
    let began = Instant::now();
    while began.elapsed() < lease * 2 {
        sleep(ms(1000)).await;
        println!("{:?}: renewed, lost, errors: {:?}", began.elapsed(), counts.take());
    }
    let lost = guards.iter().filter(|guard| !guard.is_valid()).count();
    assert_eq!(lost, 0, "of {}", guards.len());
}

/// Many more at a time than are sent by themselves.
async fn at_once(
    engine: &Postgres,
    writes: impl IntoIterator<Item = (String, Option<Version>, Write)>,
) -> Vec<Result<Exchange, TransportError>> {
    let asked = writes.into_iter().map(|(name, expected, write)| {
        let engine = engine.clone();
        tokio::spawn(async move { engine.compare_exchange(&key(&name), expected, write).await })
    });
    join_all(asked).await.into_iter().map(|done| done.expect("no panic")).collect()
}

fn names() -> impl Iterator<Item = String> {
    (0..200).map(|n| format!("k{n:03}"))
}

fn versions(done: Vec<Result<Exchange, TransportError>>) -> Vec<Version> {
    let version = |done| match done {
        Ok(Exchange::Swapped(version)) => version,
        done => panic!("{done:?}"),
    };
    done.into_iter().map(version).collect()
}

/// What each of them would get if it was alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_that_are_sent_together_are_answered_one_by_one() {
    let Some(server) = server().await else { return };
    let by_hand = server.client().await;
    for more in ["", "pooled=true"] {
        let engine = client(&server.address(more)).await;
        let create = |wake| names().map(move |name| (name, None, Write { wake, ..value("v") }));
        let made = versions(at_once(&engine, create(Wake::Nobody)).await);
        // It is there; it has another version; it is not there.
        for found in at_once(&engine, create(Wake::Everybody)).await {
            assert!(matches!(found, Ok(Exchange::Mismatch(Some(_)))), "{found:?}");
        }
        let wrong = |name| (name, Version::new(1).ok(), value("w"));
        for (found, made) in at_once(&engine, names().map(wrong)).await.into_iter().zip(&made) {
            let Ok(Exchange::Mismatch(Some(seen))) = found else { panic!("{found:?}") };
            assert_eq!((seen.version, &*seen.value), (*made, b"v".as_slice()));
        }
        let absent = |name| (format!("no-{name}"), Version::new(1).ok(), value("w"));
        for found in at_once(&engine, names().map(absent)).await {
            assert!(matches!(found, Ok(Exchange::Mismatch(None))), "{found:?}");
        }
        // One of them is kept, one is refused, and one is written twice at a time.
        let sql = "CREATE OR REPLACE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS \
            $$BEGIN RAISE EXCEPTION 'refused' USING ERRCODE = '23514'; END$$; \
            CREATE TRIGGER refuse BEFORE UPDATE ON public.lockword FOR EACH ROW \
            WHEN (new.key = 'k150') EXECUTE FUNCTION public.refuse()";
        by_hand.batch_execute(sql).await.unwrap();
        let sql = "BEGIN; SELECT FROM public.lockword WHERE key = 'k100' FOR UPDATE";
        by_hand.batch_execute(sql).await.unwrap();
        let change = names().zip(&made).map(|(name, version)| (name, Some(*version), value("w")));
        let twice = ("k199".to_owned(), made.last().copied(), value("w"));
        let done = at_once(&engine, change.chain([twice])).await;
        by_hand.batch_execute("COMMIT; DROP TRIGGER refuse ON public.lockword").await.unwrap();
        for ((name, done), made) in names().zip(&done).zip(&made) {
            match (&*name, done) {
                ("k100", Err(TransportError::Unavailable(_))) => {}
                ("k150", Err(TransportError::Unsupported(_))) => {}
                ("k199", _) => {}
                (_, Ok(Exchange::Swapped(version))) if version > made => {}
                other => panic!("{other:?}"),
            }
        }
        match (&done[199], &done[200]) {
            (Ok(Exchange::Swapped(one)), Ok(Exchange::Mismatch(Some(seen))))
            | (Ok(Exchange::Mismatch(Some(seen))), Ok(Exchange::Swapped(one))) => {
                assert_eq!(seen.version, *one);
            }
            other => panic!("{other:?}"),
        }
        // Each wakes whom it names.
        let mut watches = vec![];
        for (n, name) in names().enumerate() {
            let name = key(&name);
            let node = NodeId::new(n as u64 + 1);
            let watch = if more.is_empty() { engine.watch(&name, node).await.ok() } else { None };
            let now = engine.load(&name).await.unwrap().unwrap().version;
            watches.push((watch, name, node, now));
        }
        let tell = watches.iter().map(|(_, name, node, now)| {
            let wake = if node.get() % 2 == 0 { Wake::Node(*node) } else { Wake::Everybody };
            (name.to_string(), Some(*now), Write { wake, ..value("told") })
        });
        versions(at_once(&engine, tell).await);
        for (watch, name, ..) in &mut watches {
            let Some(watch) = watch else { continue };
            let heard = tokio::time::timeout(Duration::from_secs(3), watch.next()).await;
            assert!(matches!(heard, Ok(Some(Ok(None)))), "{name}: {heard:?}");
        }
        for name in names() {
            engine.delete(&key(&name)).await.unwrap();
        }
    }
}

/// Counters that are only right if each write is made once, and no other one is overwritten.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_of_several_clients_that_are_sent_together_exclude_each_other() {
    let Some(server) = server().await else { return };
    let mut tasks = tokio::task::JoinSet::new();
    let mut engines = vec![];
    for more in ["", "", "pooled=true"] {
        engines.push(client(&server.address(more)).await);
    }
    for n in 0..120 {
        let engine = engines[n % 3].clone();
        tasks.spawn(async move {
            let (name, mut found, mut made) = (key(&format!("counter{}", n % 10)), None, 0);
            let mut last = None;
            while made < 5 {
                let count = found.as_ref().map_or(0, |found: &lockword::cluster::Versioned| {
                    std::str::from_utf8(&found.value).unwrap().parse::<u32>().unwrap()
                });
                let expected = found.as_ref().map(|found| found.version);
                let write = value(&(count + 1).to_string());
                found = match engine.compare_exchange(&name, expected, write).await.unwrap() {
                    Exchange::Swapped(version) => {
                        assert!(Some(version) > last);
                        (last, made) = (Some(version), made + 1);
                        engine.load(&name).await.unwrap()
                    }
                    Exchange::Mismatch(found) => found,
                };
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    for n in 0..10 {
        let found = engines[0].load(&key(&format!("counter{n}"))).await.unwrap().unwrap();
        assert_eq!(&*found.value, b"60", "of counter {n}");
    }
}

/// The server does nothing: what waits longer than a fifth of the time is refused, and was not sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_surplus_is_refused_by_name() {
    let Some(server) = server().await else { return };
    let engine = client(&server.address("timeout_ms=2500")).await;
    let by_hand = server.client().await;
    let made = versions(at_once(&engine, names().map(|name| (name, None, value("v")))).await);
    let change = || names().zip(&made).map(|(name, version)| (name, Some(*version), value("w")));
    by_hand.batch_execute("BEGIN; LOCK TABLE public.lockword IN EXCLUSIVE MODE").await.unwrap();
    let looks = server.client().await;
    let first = {
        let (engine, first) = (engine.clone(), change().take(20).collect::<Vec<_>>());
        tokio::spawn(async move { at_once(&engine, first).await })
    };
    until("the connection is busy", async || is_waiting(&looks).await).await;
    let began = Instant::now();
    let mut done = at_once(&engine, change().skip(20)).await;
    let took = began.elapsed();
    done.extend(first.await.unwrap());
    by_hand.batch_execute("COMMIT").await.unwrap();
    let mut overloaded = 0;
    for done in done {
        let Err(TransportError::Unavailable(why)) = done else { panic!("{done:?}") };
        overloaded += usize::from(why.to_string().contains("PostgreSQL is overloaded"));
    }
    println!("{overloaded} of {} were refused, all within {took:?}", made.len());
    assert!(overloaded > 100, "{overloaded}");
    assert!(took < ms(4000), "{took:?}");
    versions(at_once(&engine, change()).await);
}

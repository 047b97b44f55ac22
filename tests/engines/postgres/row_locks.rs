use super::*;
use crate::support::postgres::Pooler;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const KEEP_ALL: &str = "BEGIN; SELECT FROM public.lockword FOR UPDATE";

/// The server gives up, long before the client does, and nothing is indeterminate.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_to_a_locked_row_is_refused_soon() {
    let Some(server) = server().await else { return };
    let Some(pooler) = Pooler::start(&server) else { return };
    let by_hand = server.client().await;
    for address in [
        server.address(""),
        server.address("pooled=true"),
        server.address_at(pooler.port, "pooled=true"),
    ] {
        let engine = client(&address).await;
        let version = put(&engine, "k", "v").await;
        by_hand.batch_execute(KEEP_ALL).await.unwrap();
        let told = engine.compare_exchange(&key("k"), None, value("w")).await;
        assert!(matches!(told, Ok(Exchange::Mismatch(Some(_)))), "it is read: {told:?}");
        for (name, expected) in [("k", Some(version)), ("new", None)] {
            let began = Instant::now();
            let response = engine.compare_exchange(&key(name), expected, value("w")).await;
            assert!(matches!(response, Err(TransportError::Unavailable(_))), "{response:?}");
            let took = began.elapsed();
            println!("{name} {expected:?}: refused after {took:?}");
            assert!(took < ms(2000), "{took:?} of the 5 s that an answer may take");
        }
        assert!(engine.delete(&key("k")).await.is_err());
        by_hand.batch_execute("COMMIT").await.unwrap();
        let written = engine.compare_exchange(&key("k"), Some(version), value("w")).await.unwrap();
        assert!(matches!(written, Exchange::Swapped(_)), "{written:?}");
    }
    // The limit was the transaction's, not the server's connection's, which others use too.
    let address = server.address_at(pooler.port, "");
    let (other, wire) = tokio_postgres::connect(&address, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(wire);
    for _ in 0..4 {
        let said = other.simple_query("SELECT current_setting('lock_timeout')").await.unwrap();
        let said = said.iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        assert_eq!(said, Some("0"));
    }
}

/// All locks of a node share a connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_row_costs_no_other_lock() {
    let Some(server) = server().await else { return };
    let lease = Duration::from_secs(5);
    let engine = client(&server.address("")).await;
    let node = node(&engine, "a").lease(lease).build().unwrap();
    for name in ["kept", "wanted"] {
        lock(&node, name).acquire().await.unwrap().release().await.unwrap();
    }
    let guard = lock(&node, "good").acquire().await.unwrap();
    let by_hand = server.client().await;
    let sql = "BEGIN; SELECT FROM public.lockword WHERE key IN ('kept', 'wanted') FOR UPDATE";
    by_hand.batch_execute(sql).await.unwrap();
    let refused = Arc::new(AtomicU64::new(0));
    let mut trying = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (lock, refused) = (lock(&node, "kept"), refused.clone());
        trying.spawn(async move {
            loop {
                let tried = lock.try_acquire().await;
                assert!(tried.is_err(), "somebody keeps it: {tried:?}");
                refused.fetch_add(1, Ordering::Relaxed);
                // It is refused at once while another one tries here.
                sleep(ms(1)).await;
            }
        });
    }
    let waits = lock(&node, "wanted");
    trying.spawn(async move {
        loop {
            waits.acquire().await.unwrap_err();
            tokio::task::yield_now().await;
        }
    });
    let (began, mut slowest, mut loads) = (Instant::now(), Duration::ZERO, 0);
    while began.elapsed() < lease * 2 {
        let asked = Instant::now();
        engine.load(&key("good")).await.unwrap();
        slowest = slowest.max(asked.elapsed());
        loads += 1;
        assert!(guard.is_valid(), "lost after {:?}", began.elapsed());
        // A load every now and then, as a node's are.
        sleep(ms(10)).await;
    }
    let refused = refused.load(Ordering::Relaxed);
    println!("{refused} tries were refused; the slowest of {loads} loads took {slowest:?}");
    assert!(slowest < lease / 5, "a node gives a request up after a fifth of its lease");
    assert!(refused > 10);
    trying.shutdown().await;
    by_hand.batch_execute("COMMIT").await.unwrap();
    guard.release().await.unwrap();
    lock(&node, "kept").acquire().await.unwrap().release().await.unwrap();
}

/// A statement whose client has given up does not stay: the server's side of a pooled connection is not
/// closed with the client's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_abandoned_statement_waits_for_a_row_behind_a_pooler() {
    let Some(server) = server().await else { return };
    let Some(pooler) = Pooler::start(&server) else { return };
    let engine = client(&server.address_at(pooler.port, "pooled=true&timeout_ms=1000")).await;
    let node = node(&engine, "a").lease(Duration::from_secs(2)).build().unwrap();
    lock(&node, "kept").acquire().await.unwrap().release().await.unwrap();
    let (by_hand, looks) = (server.client().await, server.client().await);
    by_hand.batch_execute(KEEP_ALL).await.unwrap();
    let mut asking = tokio::task::JoinSet::new();
    for name in ["kept", "new"] {
        let lock = lock(&node, name);
        asking.spawn(async move {
            loop {
                // It is passing, but not for ever.
                if let Ok(guard) = lock.acquire().await {
                    break guard;
                }
            }
        });
    }
    let (began, mut most, mut seen) = (Instant::now(), 0, 0);
    while began.elapsed() < Duration::from_secs(8) {
        let now = waiting(&looks).await;
        (most, seen) = (most.max(now), seen + u64::from(now > 0));
        sleep(ms(10)).await;
    }
    println!("at most {most} waited for a row; seen {seen} times");
    assert!((1..=2).contains(&most), "{most}");
    by_hand.batch_execute("COMMIT").await.unwrap();
    while let Some(guard) = asking.join_next().await {
        guard.unwrap().release().await.unwrap();
    }
}

/// It does not wait for locked rows, and only the creation of a register waits for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_housekeeping_skips_locked_rows_and_delays_only_creations() {
    let Some(server) = server().await else { return };
    let (engine, by_hand) = (client(&server.address(WAITING_LONG)).await, server.client().await);
    put(&engine, "held", "v").await;
    // Old ones, a page without any, and old ones again.
    let sql = "INSERT INTO public.lockword (key, version, value, idle_since) \
        SELECT 'k' || to_char(n, 'FM0000'), 1000 + n, '', CASE WHEN n / 1000 <> 1 \
            THEN clock_timestamp() - interval '2 days' END FROM generate_series(0, 2999) AS n";
    by_hand.batch_execute(sql).await.unwrap();
    let kept = "BEGIN; SELECT FROM public.lockword WHERE key IN ('k0007', 'k2999') FOR UPDATE";
    by_hand.batch_execute(kept).await.unwrap();
    let floor = server.client().await;
    floor
        .batch_execute("BEGIN; SELECT FROM public.lockword WHERE key = '' FOR SHARE")
        .await
        .unwrap();
    let cleaning = tokio::spawn({
        let engine = engine.clone();
        async move { engine.housekeeping().await }
    });
    let looks = server.client().await;
    until("it waits for the floor", async || is_waiting(&looks).await).await;
    let version = engine.load(&key("held")).await.unwrap().unwrap().version;
    let written = engine.compare_exchange(&key("held"), Some(version), value("w")).await.unwrap();
    assert!(matches!(written, Exchange::Swapped(_)), "{written:?}");
    assert!(!cleaning.is_finished(), "others are served meanwhile");
    floor.batch_execute("COMMIT").await.unwrap();
    assert_eq!(cleaning.await.unwrap().unwrap(), 1998);
    by_hand.batch_execute("COMMIT").await.unwrap();
    assert_eq!(engine.housekeeping().await.unwrap(), 2);
    let sql =
        "SELECT count(*), min(version) FROM public.lockword WHERE key = '' OR idle_since IS NULL";
    let row = by_hand.query_one(sql, &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 1002, "what is not idle, and the floor");
    assert!(row.get::<_, i64>(1) >= 2000, "the floor is above what is gone");
    until("its connection is closed", async || connections(&looks).await == 1).await;
}

//! Notifications that the server refuses.

use super::*;
use futures_util::StreamExt;
use lockword::cluster::{NodeId, Observer, RemoteOperation, Wakeups};
use std::sync::{Arc, Mutex};
use tokio::time::timeout;

const REVOKE: &str = "REVOKE EXECUTE ON FUNCTION pg_notify(text, text) FROM PUBLIC";
const GRANT: &str = "GRANT EXECUTE ON FUNCTION pg_notify(text, text) TO PUBLIC";

/// The address for a user who is no superuser, and so needs permissions.
async fn for_app(server: &PostgresServer, by_hand: &tokio_postgres::Client, more: &str) -> String {
    let sql = "DROP OWNED BY app; DROP USER app";
    let _ = by_hand.batch_execute(sql).await;
    let sql = "CREATE USER app; GRANT SELECT, INSERT, UPDATE, DELETE ON public.lockword TO app";
    by_hand.batch_execute(sql).await.unwrap();
    server.address(more).replace("//postgres@", "//app@")
}

fn telling(text: &str) -> Write {
    Write { wake: Wake::Everybody, ..value(text) }
}

/// Writes as a node does, some of them with a notice. None fails.
async fn writes_are_made(engine: &Postgres, name: &str) {
    let mut expected = None;
    for n in 0..20 {
        let write = if n % 4 < 2 { telling("v") } else { value("v") };
        let told = engine.compare_exchange(&key(name), expected, write).await;
        let Ok(Exchange::Swapped(version)) = told else { panic!("{name}, write {n}: {told:?}") };
        expected = Some(version);
    }
    assert_eq!(engine.load(&key(name)).await.unwrap().unwrap().version, expected.unwrap());
    engine.delete(&key(name)).await.unwrap();
}

/// What an observer was told of requests that failed.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<(RemoteOperation, String)>>>);

impl Observer for Told {
    fn request_finished(
        &self,
        _: &Key,
        operation: RemoteOperation,
        _: Duration,
        error: Option<&TransportError>,
    ) {
        if let Some(error) = error {
            self.0.lock().unwrap().push((operation, error.to_string()));
        }
    }
}

/// The holder keeps its lock while another node waits, who gets it by polling.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_notice_costs_no_write() {
    let Some(server) = server().await else { return };
    let by_hand = server.client().await;
    let address = for_app(&server, &by_hand, "").await;
    let pooled = client(&for_app(&server, &by_hand, "pooled=true").await).await;
    let (first, second) = (client(&address).await, client(&address).await);
    assert_eq!(first.capabilities().wakeups, Wakeups::PushToOne);
    // Its statements are prepared, and planned for any parameters, before it is refused.
    writes_are_made(&first, "before").await;
    let (told, lease) = (Told::default(), Duration::from_secs(2));
    let a = node(&first, "a").lease(lease).observer(told.clone()).build().unwrap();
    let b = node(&second, "b").lease(lease).observer(told.clone()).build().unwrap();
    let guard = lock(&a, "k").acquire().await.unwrap();
    let waits = lock(&b, "k");
    let waiting = tokio::spawn(async move { waits.acquire().await });
    until("it is in the queue", async || a.inspect("k").await.unwrap().queue.len() == 1).await;
    by_hand.batch_execute(REVOKE).await.unwrap();
    for engine in [&first, &second, &pooled] {
        writes_are_made(engine, "after").await;
    }
    // Another one than those of the two nodes: its watch ends soon, and the next one is refused once.
    let engine = client(&address).await;
    assert_eq!(engine.capabilities().wakeups, Wakeups::Poll, "from the start");
    let began = Instant::now();
    while began.elapsed() < lease * 2 {
        assert!(guard.is_valid(), "lost after {:?}", began.elapsed());
        sleep(ms(20)).await;
    }
    let released = Instant::now();
    guard.release().await.unwrap();
    let guard = timeout(lease, waiting).await.expect("it polls").unwrap().unwrap();
    println!("granted {:?} after the release", released.elapsed());
    guard.release().await.unwrap();
    let told = told.0.lock().unwrap().clone();
    let why = told.iter().filter(|(_, why)| why.contains("pg_notify")).count();
    assert_eq!(why, 1, "the node that waits is told once: {told:?}");
    assert!(told.iter().all(|(of, _)| *of == RemoteOperation::Watch), "{told:?}");
    // Notifications are tried again.
    by_hand.batch_execute(GRANT).await.unwrap();
    until("a watch hears", async || {
        let mut watch = match second.watch(&key("heard"), NodeId::new(1)).await {
            Ok(watch) => watch,
            Err(_) => return false,
        };
        let version = put(&first, "heard", "v").await;
        let told = first.compare_exchange(&key("heard"), Some(version), telling("w")).await;
        assert!(matches!(told, Ok(Exchange::Swapped(_))), "{told:?}");
        matches!(timeout(ms(300), watch.next()).await, Ok(Some(Ok(None))))
    })
    .await;
}

/// Errors of the notice alone, while it is sent and at the commit: that is where the server finds that the
/// queue of notifications is full.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_notice_that_fails_undoes_no_write() {
    let Some(server) = server().await else { return };
    let by_hand = server.client().await;
    // A function that is found before the real one.
    let sql = "CREATE SCHEMA fake;
        CREATE TABLE fake.sent (how text);
        CREATE TABLE fake.failure (code text);
        INSERT INTO fake.failure VALUES ('00000');
        CREATE FUNCTION fake.fail() RETURNS trigger LANGUAGE plpgsql AS $$
            DECLARE failing text := (SELECT code FROM fake.failure);
            BEGIN
                IF failing <> '00000' THEN RAISE SQLSTATE USING ERRCODE = failing; END IF;
                RETURN new;
            END $$;
        CREATE FUNCTION fake.pg_notify(text, text) RETURNS void LANGUAGE sql AS
            'INSERT INTO fake.sent VALUES ($1); SELECT pg_catalog.pg_notify($1, $2)';
        CREATE FUNCTION fake.pg_notification_queue_usage() RETURNS double precision LANGUAGE sql AS
            'SELECT CASE code WHEN ''54000'' THEN 1.0 ELSE 0.0 END FROM fake.failure';
        ALTER DATABASE postgres SET search_path = fake, pg_catalog, public";
    let sql = sql.replace("RAISE SQLSTATE USING", "RAISE EXCEPTION 'refused' USING");
    by_hand.batch_execute(&sql).await.unwrap();
    let fail = async |code| {
        let sql = format!("UPDATE fake.failure SET code = '{code}'");
        by_hand.batch_execute(&sql).await.unwrap();
    };
    for kind in [
        "TRIGGER fail BEFORE INSERT ON fake.sent",
        "CONSTRAINT TRIGGER fail AFTER INSERT ON fake.sent DEFERRABLE INITIALLY DEFERRED",
    ] {
        let sql = format!(
            "DROP TRIGGER IF EXISTS fail ON fake.sent; \
             CREATE {kind} FOR EACH ROW EXECUTE FUNCTION fake.fail()"
        );
        by_hand.batch_execute(&sql).await.unwrap();
        for code in ["42501", "53200", "58030", "0A000", "XX000", "P0001"] {
            let engines =
                [client(&server.address("")).await, client(&server.address("pooled=true")).await];
            // The end of a watch does not wait for the one that pings the server.
            let mut watch = engines[0].watch(&key("watched"), NodeId::new(1)).await.unwrap();
            fail(code).await;
            for engine in &engines {
                writes_are_made(engine, "k").await;
            }
            let ended = watch.next().await;
            assert!(matches!(ended, Some(Err(_))), "{code}: {ended:?}");
            fail("00000").await;
        }
    }
    let engine = client(&server.address("")).await;
    let listens = client(&server.address("")).await;
    let mut watch = listens.watch(&key("watched"), NodeId::new(1)).await.unwrap();
    fail("54000").await;
    writes_are_made(&engine, "k").await;
    // One that writes nothing finds out by itself that nobody is notified.
    let within = listens.capabilities().wake_within + ms(1000);
    let ended = timeout(within, watch.next()).await.expect("it does not sleep on");
    assert!(matches!(ended, Some(Err(_))), "{ended:?}");
    let error = listens.watch(&key("watched"), NodeId::new(1)).await.map(drop).unwrap_err();
    assert!(error.to_string().contains("queue is full"), "{error}");
    let later = client(&server.address("")).await;
    assert_eq!(later.capabilities().wakeups, Wakeups::Poll, "it is seen when it connects");
    fail("00000").await;
    until("notifications are sent again", async || {
        writes_are_made(&engine, "k").await;
        let watch = listens.watch(&key("k"), NodeId::new(1)).await;
        let mut watch = watch.expect("it was told before");
        let told = engine.compare_exchange(&key("k"), None, telling("v")).await;
        assert!(matches!(told, Ok(Exchange::Swapped(_))), "{told:?}");
        let heard = timeout(ms(300), watch.next()).await;
        engine.delete(&key("k")).await.unwrap();
        matches!(heard, Ok(Some(Ok(None))))
    })
    .await;
}

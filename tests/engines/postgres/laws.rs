use super::*;
use crate::support::postgres::Pooler;
use crate::support::relay::{Loss, Relay};
use lockword::cluster::conformance::{Law, Suite, SuiteReport};
use lockword::cluster::layers::{Intercept, Interceptor};
use lockword::cluster::{NodeId, Wakeups};
use std::future::ready;
use std::sync::Arc;

/// A client behind a relay of its own.
type RelayedPostgres = Intercept<Postgres, Relay>;

impl Interceptor<Postgres> for Relay {}

/// All of the suite, at this server, and by this port.
async fn suite(server: &PostgresServer, port: u16, more: &str) -> SuiteReport {
    let address = server.address_at(port, more);
    let own = client(&server.address("")).await;
    let make = {
        let (address, real) = (address.clone(), port);
        move || {
            let address = address.clone();
            async move {
                let relay = Relay::new(real);
                let by_relay =
                    address.replace(&format!(":{real}/"), &format!(":{}/", relay.port()));
                RelayedPostgres::new(client(&by_relay).await, relay)
            }
        }
    };
    let delete_hook = move |key: Key| {
        let own = own.clone();
        async move {
            own.delete(&key).await.expect("it can be deleted");
        }
    };
    let indeterminate_hook = |client: Arc<RelayedPostgres>, _| {
        client.interceptor().lose(if fastrand::bool() { Loss::Response } else { Loss::Request });
        ready(())
    };
    let by_hand = Arc::new(server.client().await);
    let clock_hook = move || {
        let by_hand = by_hand.clone();
        async move {
            let back = "UPDATE fake.clock SET shift = shift - interval '1 minute'";
            by_hand.batch_execute(back).await.expect("the clock steps back");
        }
    };
    let suite = Suite::new(make)
        .delete_hook(delete_hook)
        .indeterminate_hook(indeterminate_hook)
        .settling(ms(50));
    suite.clock_hook(clock_hook).rounds(4).run().await.unwrap_or_else(|e| panic!("{e}"))
}

/// A clock that can be stepped back: a function that is found before the real one.
async fn fake_clock(server: &PostgresServer) {
    let sql = "CREATE SCHEMA fake;
        CREATE TABLE fake.clock (shift interval NOT NULL);
        INSERT INTO fake.clock VALUES ('0');
        CREATE FUNCTION fake.clock_timestamp() RETURNS timestamptz VOLATILE LANGUAGE sql AS
            'SELECT pg_catalog.clock_timestamp() + shift FROM fake.clock';
        ALTER DATABASE postgres SET search_path = fake, pg_catalog, public";
    server.client().await.batch_execute(sql).await.expect("it is the superuser");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_suite_passes() {
    let Some(server) = server().await else { return };
    fake_clock(&server).await;
    let report = suite(&server, server.port, "timeout_ms=3000").await;
    assert!(report.not_checked.is_empty(), "{report}");
    assert!(report.indeterminate > 0, "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_suite_passes_through_a_transaction_pooler_but_for_watches() {
    let Some(server) = server().await else { return };
    let Some(pooler) = Pooler::start(&server) else { return };
    fake_clock(&server).await;
    let address = server.address_at(pooler.port, "pooled=true");
    assert_eq!(client(&address).await.capabilities().wakeups, Wakeups::Poll);
    let report = suite(&server, pooler.port, "pooled=true&timeout_ms=3000").await;
    let missing: Vec<_> = report.not_checked.iter().map(|missing| missing.law).collect();
    assert_eq!(missing, [Law::Watch, Law::Dropping], "{report}");
}

/// If `pooled=true` is missing, the error says so; otherwise there would be no wake-ups.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_undeclared_pooler_is_reported() {
    let Some(server) = server().await else { return };
    let Some(pooler) = Pooler::start(&server) else { return };
    let engine = client(&server.address_at(pooler.port, "connect_timeout=1")).await;
    let error = engine.watch(&key("k"), NodeId::new(1)).await.map(drop).unwrap_err();
    assert!(matches!(error, TransportError::Unsupported(_)), "{error}");
    assert!(error.to_string().contains("pooled=true"), "{error}");
}

/// Statements that are not prepared, under an isolation in which a loser is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_suite_passes_under_a_stricter_isolation() {
    let Some(server) = server().await else { return };
    fake_clock(&server).await;
    for isolation in ["serializable", "repeatable read"] {
        let sql =
            format!("ALTER DATABASE postgres SET default_transaction_isolation = '{isolation}'");
        server.client().await.batch_execute(&sql).await.expect("it is the superuser");
        let report = suite(&server, server.port, "pooled=true&timeout_ms=3000").await;
        assert!(report.operations > 1000, "{report}");
    }
    // What is its own connection's is set to what it needs.
    suite(&server, server.port, "timeout_ms=3000").await;
}

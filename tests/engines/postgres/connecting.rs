use super::*;
use crate::support::postgres::Tls;

const SECRET: &str = "hush-hush%21";

/// The error, in which there is no password.
async fn refused(address: &str) -> ConnectError {
    let error = connect(address).await.map(drop).expect_err("it is refused");
    for text in [error.to_string(), format!("{error:?}"), format!("{error:#?}")] {
        assert!(!text.contains("hush"), "{text}");
    }
    error
}

#[tokio::test]
async fn an_invalid_address_is_refused_and_the_option_named() {
    for (address, part) in [
        ("postgres://postgres:hush@h/db?colour=red", "colour"),
        ("postgres://postgres:hush@h/db?sslmode=prefer", "verify-full"),
        ("postgres://postgres:hush@h/db?sslmode=verify-full&sslrootcert=/none/ca", "/none/ca"),
        ("postgres://postgres:hush@h/db?sslrootcert=/none/ca", "sslmode"),
        ("postgres://postgres:hush@h/db?sslmode=require&sslkey=/none/key", "together"),
        ("postgres://postgres:hush@h/db?table=Robert'); drop", "a-z"),
        ("postgres://postgres:hush@h/db?table=a.b.c", "schema.name"),
        ("postgres://postgres:hush@h/db?timeout_ms=0", "timeout_ms"),
        ("postgres://postgres:hush@h/db?pooled=perhaps", "true or false"),
        ("postgres://postgres:hush@h/db?target_session_attrs=any", "a lock is written"),
        ("postgres://postgres:hush@h/db?port=0", "from 1 to 65535"),
        ("postgres://postgres:hush@h/db?replicas=some", "none, sync or async"),
        ("postgres:///db", "host"),
        ("postgres://postgres:hush@%2Ftmp/db?sslmode=require", "TLS"),
        ("postgres:hush", "postgres://"),
    ] {
        let error = refused(address).await;
        assert!(matches!(error, ConnectError::Address { .. }), "{address}: {error}");
        assert!(error.to_string().contains(part), "{address}: {error}");
    }
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_unreachable() {
    let port = crate::support::process::free_port();
    let error = refused(&format!("postgres://postgres:hush@127.0.0.1:{port}/db")).await;
    assert!(
        matches!(&error, ConnectError::Unreachable { server, .. } if *server == format!("127.0.0.1:{port}"))
    );
    // It takes the connection, and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let address = format!("postgres://postgres:hush@127.0.0.1:{port}/db?connect_timeout=1");
    let error = refused(&address).await;
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn credentials_databases_and_permissions_are_checked() {
    let setup =
        PostgresSetup { password: Some("hush-hush!".to_owned()), ..PostgresSetup::default() };
    let Some(server) = PostgresServer::start(setup) else { return };
    let at = |who: &str, database: &str| {
        format!("postgres://{who}@127.0.0.1:{}/{database}", server.port)
    };
    for who in ["postgres:hush", "postgres", "nobody:hush"] {
        let error = refused(&at(who, "postgres")).await;
        assert!(matches!(error, ConnectError::Denied { .. }), "{who}: {error}");
    }
    let good = format!("postgres:{SECRET}");
    let error = refused(&at(&good, "none")).await;
    assert!(matches!(error, ConnectError::Unsuitable { .. }), "{error}");
    assert!(error.to_string().contains("\"none\""), "{error}");
    let error = refused(&(at(&good, "postgres") + "?sslmode=verify-full")).await;
    assert!(matches!(error, ConnectError::Unsuitable { .. }), "{error}");
    assert!(error.to_string().contains("TLS"), "{error}");
    let engine = client(&(at(&good, "postgres") + "?create_schema=true")).await;
    assert!(!format!("{engine:?}").contains("hush"), "{engine:?}");
    put(&engine, "k", "v").await;
    // By a socket that is a file.
    let folder = server.file("").trim_end_matches('/').replace('/', "%2F");
    let address = format!("postgres://{good}@{folder}:{}/postgres", server.port);
    assert!(client(&address).await.load(&key("k")).await.unwrap().is_some());
    // A user without rights, and one with all that the documentation asks for.
    let by_hand = server.client().await;
    let sql = "CREATE USER poor PASSWORD 'hush'; CREATE USER enough PASSWORD 'hush'; \
        GRANT SELECT, INSERT, UPDATE, DELETE ON public.lockword TO enough";
    by_hand.batch_execute(sql).await.unwrap();
    let poor = client(&at("poor:hush", "postgres")).await;
    for denied in [
        poor.load(&key("k")).await.map(drop),
        poor.compare_exchange(&key("k"), None, value("v")).await.map(drop),
        poor.create_schema().await,
    ] {
        assert!(matches!(denied, Err(TransportError::Denied(_))), "{denied:?}");
    }
    let enough = client(&at("enough:hush", "postgres")).await;
    // The table exists, so no right to create it is needed.
    client(&at("enough:hush", "postgres?create_schema=true")).await;
    enough.create_schema().await.unwrap();
    put(&enough, "k", "w").await;
    put(&enough, "l", "w").await;
    assert_eq!(enough.housekeeping().await.unwrap(), 0);
    assert!(enough.delete(&key("k")).await.unwrap());
    // A password that is not good any more.
    by_hand.batch_execute("ALTER USER enough PASSWORD 'changed'").await.unwrap();
    let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'enough'";
    by_hand.batch_execute(sql).await.unwrap();
    until("it is denied", async || {
        let response = enough.compare_exchange(&key("l"), None, value("v")).await;
        matches!(response, Err(TransportError::Denied(_)))
    })
    .await;
}

#[tokio::test]
async fn certificates_are_checked_on_both_sides() {
    let tls = |tls| PostgresSetup { tls: Some(tls), ..PostgresSetup::default() };
    let Some(server) = PostgresServer::start(tls(Tls::Good)) else { return };
    let by = |server: &PostgresServer, more: &str| {
        server.address(&format!("sslmode=verify-full&sslrootcert={}{more}", server.file("ca.pem")))
    };
    let engine = client(&by(&server, "&create_schema=true")).await;
    put(&engine, "k", "v").await;
    let mut watch = engine.watch(&key("k"), lockword::cluster::NodeId::new(1)).await.unwrap();
    let version = engine.load(&key("k")).await.unwrap().unwrap().version;
    let write = Write { wake: Wake::Everybody, ..value("w") };
    engine.compare_exchange(&key("k"), Some(version), write).await.unwrap();
    assert_eq!(futures_util::StreamExt::next(&mut watch).await.unwrap().unwrap(), None);
    let other = format!("sslmode=require&sslrootcert={}", server.file("other.pem"));
    // The system's authorities do not know it; neither is its name this one.
    for address in [
        server.address(&other),
        server.address("sslmode=require"),
        by(&server, "").replace("127.0.0.1", "localhost"),
    ] {
        let error = refused(&address).await;
        assert!(matches!(error, ConnectError::Untrusted { .. }), "{address}: {error}");
    }
    // By the name in the certificate, at an address that is not in it; and by a builder, from memory.
    let elsewhere = by(&server, "&server_name=127.0.0.1").replace("@127.0.0.1", "@localhost");
    client(&elsewhere).await;
    let pem = std::fs::read(server.file("ca.pem")).unwrap();
    let builder = Postgres::builder(format!("127.0.0.1:{}", server.port));
    let builder = builder.user("postgres").database("postgres").ca_pem(pem);
    let engine = builder.connect().await.unwrap();
    assert!(engine.load(&key("k")).await.unwrap().is_some());
    // Only TLS is let in.
    let error = refused(&server.address("")).await;
    assert!(matches!(error, ConnectError::Denied { .. }), "{error}");
    assert!(error.to_string().contains("no encryption"), "{error}");

    let server = PostgresServer::start(tls(Tls::Expired)).unwrap();
    let error = refused(&by(&server, "")).await;
    assert!(matches!(error, ConnectError::Untrusted { .. }), "{error}");
    assert!(error.to_string().contains("expired"), "{error}");

    let server = PostgresServer::start(tls(Tls::Mutual)).unwrap();
    let error = refused(&by(&server, "")).await;
    assert!(matches!(error, ConnectError::Denied { .. }), "{error}");
    let own =
        format!("&sslcert={}&sslkey={}", server.file("client.pem"), server.file("client.key"));
    client(&by(&server, &own)).await;
}

#[tokio::test]
async fn a_replica_and_a_read_only_server_are_refused() {
    let Some(server) = server().await else { return };
    let engine = client(&server.address("")).await;
    put(&engine, "k", "v").await;
    let replica = server.replica();
    let error = refused(&replica.address("")).await;
    assert!(matches!(error, ConnectError::Unsuitable { .. }), "{error}");
    assert!(error.to_string().contains("read-only"), "{error}");
    // A connection that is there already.
    let sql = "ALTER DATABASE postgres SET default_transaction_read_only = on; \
        SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
        WHERE application_name = 'lockword'";
    server.client().await.batch_execute(sql).await.unwrap();
    until("it is read-only", async || {
        match engine.compare_exchange(&key("k"), None, value("w")).await {
            Err(TransportError::Unavailable(why)) => why.to_string().contains("read-only"),
            _ => false,
        }
    })
    .await;
}

/// What the server reports for a full disk and the like, by a trigger that reports it: while the
/// statement runs, or at its commit.
#[tokio::test]
async fn a_write_that_the_server_refused_is_never_indeterminate() {
    let Some(server) = server().await else { return };
    let prepared = client(&server.address("timeout_ms=1500")).await;
    let pooled = client(&server.address("timeout_ms=1500&pooled=true")).await;
    let version = put(&prepared, "k", "v").await;
    let by_hand = server.client().await;
    for (code, is_right) in [
        ("53100", (|e| matches!(e, TransportError::Unavailable(_))) as fn(&TransportError) -> bool),
        ("53200", |e| matches!(e, TransportError::Unavailable(_))),
        ("25006", |e| matches!(e, TransportError::Unavailable(_))),
        ("40001", |e| matches!(e, TransportError::Unavailable(_))),
        ("40003", |e| matches!(e, TransportError::Indeterminate(_))),
        ("42501", |e| matches!(e, TransportError::Denied(_))),
        ("22003", |e| matches!(e, TransportError::Unsupported(_))),
        ("XX001", |e| matches!(e, TransportError::Corrupt(_))),
    ] {
        for (kind, when, deferred) in [
            ("TRIGGER", "BEFORE", ""),
            ("CONSTRAINT TRIGGER", "AFTER", "DEFERRABLE INITIALLY DEFERRED"),
        ] {
            let sql = format!(
                "CREATE OR REPLACE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS \
                 $$BEGIN RAISE EXCEPTION 'refused' USING ERRCODE = '{code}'; END$$; \
                 DROP TRIGGER IF EXISTS refuse ON public.lockword; \
                 CREATE {kind} refuse {when} INSERT OR UPDATE ON public.lockword {deferred} \
                 FOR EACH ROW EXECUTE FUNCTION public.refuse()"
            );
            by_hand.batch_execute(&sql).await.unwrap();
            for (engine, expected, name) in [
                (&prepared, Some(version), "k"),
                (&prepared, None, "new"),
                (&pooled, Some(version), "k"),
                (&pooled, None, "new"),
            ] {
                let response = engine.compare_exchange(&key(name), expected, value("w")).await;
                let error = response.unwrap_err();
                assert!(is_right(&error), "{code} {when}: {error:?}");
                // A mismatch writes nothing that could be refused.
                let told = engine.compare_exchange(&key("k"), None, value("w")).await.unwrap();
                let Exchange::Mismatch(Some(seen)) = told else { panic!("{told:?}") };
                assert_eq!(&*seen.value, b"v");
                assert_eq!(engine.load(&key("new")).await.unwrap(), None);
            }
        }
    }
    by_hand.batch_execute("DROP TRIGGER refuse ON public.lockword").await.unwrap();
    let large = Write { value: vec![0; 65_537].into(), ..value("") };
    let error = prepared.compare_exchange(&key("k"), None, large).await.unwrap_err();
    assert!(matches!(error, TransportError::Unsupported(_)), "{error:?}");
}

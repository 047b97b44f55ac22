//! Passwords and certificates that change while a lock is held, and passwords in clear text.

use super::*;
use crate::suite::rotation::{Rotation, Vault, replace};
use crate::support::network;
use crate::support::postgres::Tls;
use lockword::cluster::engines::Credentials;
use std::fs;
use std::sync::Arc;

const LEASE: Duration = Duration::from_millis(1200);

/// A server with a user `app`, whose password is `first-one`.
async fn with_user() -> Option<PostgresServer> {
    let setup = PostgresSetup { password: Some("toor".to_owned()), ..PostgresSetup::default() };
    let server = server_with(setup).await?;
    let sql = "CREATE USER app PASSWORD 'first-one'; \
        GRANT SELECT, INSERT, UPDATE ON public.lockword TO app";
    server.client().await.batch_execute(sql).await.unwrap();
    Some(server)
}

/// From now on the server takes this password only. Connections stay.
async fn set_password(server: &PostgresServer, password: &str) {
    let sql = format!("ALTER USER app PASSWORD '{password}'");
    server.client().await.batch_execute(&sql).await.unwrap();
}

/// Ends all connections of the user.
async fn hang_up(server: &PostgresServer) {
    let sql = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'app'";
    let ended: i64 = server.client().await.query_one(sql, &[]).await.unwrap().get(0);
    assert!(ended > 0, "it was connected");
}

fn address(server: &PostgresServer, user: &str, more: &str) -> String {
    format!("postgres://{user}@127.0.0.1:{}/postgres?{more}", server.port)
}

async fn begin(address: &str, lease: Duration) -> Rotation {
    Rotation::begin(Arc::new(client(address).await), lease).await
}

#[tokio::test]
async fn a_password_file_that_is_replaced_after_the_server_loses_nothing() {
    let Some(server) = with_user().await else { return };
    let file = server.file("secret");
    let address = address(&server, "app", &format!("password_file={file}"));
    let refused = connect(&address).await.map(drop).unwrap_err();
    assert!(matches!(refused, ConnectError::Credentials { .. }), "{refused}");
    replace(&file, "first-one\n");
    let rotation = begin(&address, LEASE).await;
    set_password(&server, "second-one").await;
    hang_up(&server).await;
    rotation.fails_with(&["28P01", &format!("password_file={file}")]).await;
    replace(&file, "second-one");
    rotation.survives_for(3).await;
}

#[tokio::test]
async fn a_callback_is_asked_for_each_login() {
    let Some(server) = with_user().await else { return };
    let vault = Vault::with("first-one");
    let asked = vault.clone();
    let builder = Postgres::builder(format!("127.0.0.1:{}", server.port)).database("postgres");
    let builder = builder.credentials_by(move || {
        let password = asked.ask();
        async { Ok::<_, String>(Credentials::new("app", password?)) }
    });
    let rotation = Rotation::begin(Arc::new(builder.connect().await.unwrap()), LEASE).await;
    vault.set(Err("the vault is sealed"));
    set_password(&server, "second-one").await;
    hang_up(&server).await;
    rotation.fails_with(&["the vault is sealed"]).await;
    vault.set(Ok("second-one"));
    rotation.survives_for(3).await;
}

#[tokio::test]
async fn a_token_that_was_replaced_meanwhile_is_asked_for_once_more() {
    let Some(server) = with_user().await else { return };
    let tokens = std::sync::Mutex::new(vec!["first-one", "old-one"]);
    let builder = Postgres::builder(format!("127.0.0.1:{}", server.port)).database("postgres");
    let builder = builder.user("app").credentials_by(move || {
        let token = tokens.lock().unwrap().pop();
        async move { token.map(Credentials::password_only).ok_or("no more") }
    });
    builder.connect().await.unwrap();
}

#[tokio::test]
async fn a_password_that_changes_at_the_server_only_is_the_reason_of_the_loss() {
    let Some(server) = with_user().await else { return };
    let rotation = begin(&address(&server, "app:first-one", ""), LEASE).await;
    set_password(&server, "second-one").await;
    hang_up(&server).await;
    let words = ["password authentication failed", "(28P01)", "check user, password"];
    rotation.loses_because(&words).await;
    // The user may not log in any more.
    let rotation = begin(&address(&server, "app:second-one", ""), LEASE).await;
    server.client().await.batch_execute("ALTER USER app NOLOGIN").await.unwrap();
    hang_up(&server).await;
    rotation.loses_because(&["not permitted to log in", "(28000)", "check user, password"]).await;
}

#[tokio::test]
async fn a_certificate_that_is_replaced_after_the_server_loses_nothing() {
    let setup = PostgresSetup { tls: Some(Tls::Mutual), ..PostgresSetup::default() };
    let Some(server) = PostgresServer::start(setup) else { return };
    let read = |name: &str| fs::read(server.file(name)).unwrap();
    let [ca, cert, key] = ["authority.pem", "mine.pem", "mine.key"].map(|name| server.file(name));
    for (file, from) in [(&ca, "ca.pem"), (&cert, "client.pem"), (&key, "client.key")] {
        replace(file, read(from));
    }
    let more = format!("sslmode=verify-full&ca={ca}&cert={cert}&key={key}&create_schema=true");
    let rotation = begin(&server.address(&more), ms(15_000)).await;
    // The server trusts another authority for its clients, and the client has half of the new pair.
    server.trust_other_clients();
    replace(&cert, read("foreign.pem"));
    server.process.restart();
    rotation.fails_with(&[&format!("key={key}: "), "former content"]).await;
    replace(&key, read("foreign.key"));
    rotation.survives_for(0).await;
    assert!(connect(&server.address(&more)).await.is_ok());
}

#[tokio::test]
async fn a_password_in_clear_text_stays_on_this_machine() {
    let Some(own) = network::own_address() else { return };
    let port = crate::support::process::free_port();
    let at = |more: &str| format!("postgres://app:hush@{own}:{port}/db?{more}");
    let refused = connect(&at("")).await.map(drop).unwrap_err();
    assert!(matches!(refused, ConnectError::Unencrypted { .. }), "{refused}");
    let said = refused.to_string();
    let has = |part: &str| said.contains(part);
    assert!(has(&format!("{own}:{port}")) && has("sslmode=") && has("plaintext=allow"), "{said}");
    // Nothing listens there: it was tried.
    for more in ["plaintext=allow", "sslmode=disable"] {
        let tried = connect(&at(more)).await.map(drop).unwrap_err();
        assert!(matches!(tried, ConnectError::Unreachable { .. }), "{more}: {tried}");
    }
    let anonymous = format!("postgres://app@{own}:{port}/db");
    let tried = connect(&anonymous).await.map(drop).unwrap_err();
    assert!(matches!(tried, ConnectError::Unreachable { .. }), "{tried}");
    // The second address of the list is one, too.
    let several = format!("postgres://app:hush@127.0.0.1:{port}/db?host={own}:{port}");
    let refused = connect(&several).await.map(drop).unwrap_err();
    assert!(matches!(refused, ConnectError::Unencrypted { .. }), "{refused}");
}

/// A password goes to one of the two addresses only.
#[tokio::test]
async fn an_address_that_needs_tls_does_not_keep_the_others_from_being_tried() {
    let (Some(server), Some(own)) = (with_user().await, network::own_address()) else { return };
    let (local, port) = (server.port, crate::support::process::free_port());
    client(&format!("postgres://app:first-one@{own}:{port}/postgres?host=127.0.0.1:{local}")).await;
}

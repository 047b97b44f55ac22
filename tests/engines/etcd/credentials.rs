//! Passwords and certificates that change while a lock is held, and passwords in clear text.

use super::authentication::{PASSWORD, raw_as, with_tls, with_users};
use super::{client, key, ms};
use crate::suite::rotation::{Rotation, Vault, replace};
use crate::support::etcd::{Certificates, EtcdServer};
use crate::support::network;
use crate::support::process::Folder;
use crate::support::relay::Relay;
use futures_util::future::join_all;
use lockword::cluster::engines::Credentials;
use lockword::cluster::engines::etcd::Etcd;
use lockword::cluster::{ConnectError, TransportError, connect};
use std::fs;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

const LEASE: Duration = ms(1200);

/// From now on the server takes this password only, and no token of before.
async fn set_password(server: &EtcdServer, password: &str) {
    raw_as(server, "root", "toor").await.change_password("locks", password).await;
}

#[tokio::test]
async fn a_password_file_that_is_replaced_after_the_server_loses_nothing() {
    let Some(server) = with_users(&[]).await else { return };
    let (folder, relay) = (Folder::new("secret"), Relay::new(server.port));
    let file = folder.file("secret");
    let address = format!("etcd://locks@{}?password_file={file}", relay.server());
    let refused = connect(&address).await.map(drop).unwrap_err();
    assert!(matches!(refused, ConnectError::Credentials { .. }), "{refused}");
    replace(&file, format!("{PASSWORD}\n"));
    let rotation = Rotation::begin(client(&address).await, LEASE).await;
    set_password(&server, "second-one").await;
    relay.cut();
    rotation.refused_with(&["authentication failed", &format!("password_file={file}")]).await;
    replace(&file, "second-one");
    rotation.survives_for(3).await;
}

#[tokio::test]
async fn a_callback_is_asked_for_each_token() {
    let Some(server) = with_users(&[]).await else { return };
    let vault = Vault::with(PASSWORD);
    let asked = vault.clone();
    let builder = Etcd::builder([server.server()]).credentials_by(move || {
        let password = asked.ask();
        async { Ok::<_, String>(Credentials::new("locks", password?)) }
    });
    let rotation = Rotation::begin(Arc::new(builder.connect().await.unwrap()), LEASE).await;
    assert_eq!(vault.asked(), 1, "one token");
    vault.set(Err("the vault is sealed"));
    set_password(&server, "second-one").await;
    rotation.refused_with(&["the vault is sealed"]).await;
    vault.set(Ok("second-one"));
    rotation.survives_for(3).await;
    // One that names no user, where nobody else does.
    let nobody = Etcd::builder([server.server()])
        .credentials_by(|| async { Ok::<_, String>(Credentials::of_password("second-one")) });
    let error = nobody.connect().await.unwrap_err();
    assert!(matches!(error, ConnectError::Credentials { .. }), "{error}");
    assert!(error.to_string().contains("no user"), "{error}");
}

#[tokio::test]
async fn a_token_that_was_replaced_meanwhile_is_asked_for_once_more() {
    let Some(server) = with_users(&[]).await else { return };
    let tokens = std::sync::Mutex::new(vec![PASSWORD, "old-one"]);
    let builder = Etcd::builder([server.server()]).user("locks").credentials_by(move || {
        let token = tokens.lock().unwrap().pop();
        async move { token.map(Credentials::of_password).ok_or("no more") }
    });
    builder.connect().await.unwrap();
}

#[tokio::test]
async fn a_password_that_changes_at_the_server_only_is_the_reason_of_the_loss() {
    let Some(server) = with_users(&[]).await else { return };
    let builder = Etcd::builder([server.server()]).user("locks").password(PASSWORD);
    let etcd = Arc::new(builder.connect().await.unwrap());
    let rotation = Rotation::begin(etcd.clone(), LEASE).await;
    set_password(&server, "second-one").await;
    let words = ["refuses this client", "authentication failed", "check user, password"];
    rotation.ends_with(&words).await;
    // Many that wait for a token do not ask for it one after the other: the server computes for long.
    let asked =
        r#"grpc_server_handled_total{grpc_code="InvalidArgument",grpc_method="Authenticate""#;
    let before = server.metric(asked);
    let k = key("k");
    for refused in join_all((0..50).map(|_| lockword::cluster::Transport::load(&*etcd, &k))).await {
        assert!(matches!(refused, Err(TransportError::Denied(_))), "{refused:?}");
    }
    let asked = server.metric(asked) - before;
    assert!((1.0..10.0).contains(&asked), "{asked} logins for 50 requests");
}

#[tokio::test]
async fn a_certificate_that_is_replaced_after_the_server_loses_nothing() {
    let (own, foreign) =
        (Arc::new(Certificates::new("own", false)), Certificates::new("foreign", false));
    let Some(server) = with_tls(&own, true).await else { return };
    let folder = Folder::new("mine");
    let [ca, cert, key] = ["ca.pem", "cert.pem", "cert.key"].map(|name| folder.file(name));
    let read = |of: &Certificates, name: &str| fs::read(of.file(name)).unwrap();
    replace(&ca, read(&own, "authority.pem"));
    replace(&cert, read(&own, "client.pem"));
    replace(&key, read(&own, "client.key"));
    let address = format!("{}?ca={ca}&cert={cert}&key={key}", server.address());
    let rotation = Rotation::begin(client(&address).await, ms(15_000)).await;
    // The server trusts another authority for its clients, and the client has half of the new pair.
    replace(&own.file("authority.pem"), read(&foreign, "authority.pem"));
    replace(&cert, read(&foreign, "client.pem"));
    server.process.restart();
    rotation.refused_with(&[&format!("key={key}: "), "former content"]).await;
    replace(&key, read(&foreign, "client.key"));
    rotation.survives_for(0).await;
    client(&address).await;
}

#[tokio::test]
async fn a_password_in_clear_text_stays_on_this_machine() {
    let Some(own) = network::own_address() else { return };
    let listener = TcpListener::bind((own, 0)).await.unwrap();
    let server = listener.local_addr().unwrap();
    let at = |user: &str, more: &str| format!("etcd://{user}{server}?timeout_ms=500{more}");
    let refused = connect(&at("locks:hush@", "")).await.map(drop).unwrap_err();
    assert!(matches!(refused, ConnectError::Unencrypted { .. }), "{refused:?}");
    let said = refused.to_string();
    let has = |part: &str| said.contains(part);
    assert!(has(&server.to_string()) && has("etcds://") && has("plaintext=allow"), "{said}");
    let (mut first, _) = listener.accept().await.unwrap();
    let mut received = vec![];
    first.read_to_end(&mut received).await.unwrap();
    assert!(received.is_empty(), "{received:?}");
    for address in [at("locks:hush@", "&plaintext=allow"), at("", "")] {
        let silent = connect(&address).await.map(drop).unwrap_err();
        assert!(matches!(silent, ConnectError::Unreachable { .. }), "{address}: {silent:?}");
    }
}

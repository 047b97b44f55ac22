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
use tokio::time::{sleep, timeout};

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
    rotation.fails_with(&["authentication failed", &format!("password_file={file}")]).await;
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
    rotation.fails_with(&["the vault is sealed"]).await;
    vault.set(Ok("second-one"));
    rotation.survives_for(3).await;
    // One that names no user, where nobody else does.
    let nobody = Etcd::builder([server.server()])
        .credentials_by(|| async { Ok::<_, String>(Credentials::password_only("second-one")) });
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
        async move { token.map(Credentials::password_only).ok_or("no more") }
    });
    builder.connect().await.unwrap();
}

/// A login outlives the requests that wait for it, which the node drops after a fifth of the lease.
#[tokio::test]
async fn a_callback_that_takes_longer_than_a_request_is_asked_once_for_each_token() {
    let Some(server) = with_users(&[]).await else { return };
    let (vault, lease) = (Vault::with(PASSWORD), ms(4000));
    let asked = vault.clone();
    let builder = Etcd::builder([server.server()]).connect_timeout(ms(10_000));
    let builder = builder.credentials_by(move || {
        let password = asked.ask();
        async move {
            sleep(lease * 9 / 40).await;
            Ok::<_, String>(Credentials::new("locks", password?))
        }
    });
    let rotation = Rotation::begin(Arc::new(builder.connect().await.unwrap()), lease).await;
    assert_eq!(vault.asked(), 1);
    vault.set(Ok("second-one"));
    set_password(&server, "second-one").await;
    rotation.survives_for(1).await;
    assert_eq!(vault.asked(), 2);
}

#[tokio::test]
async fn a_password_that_changes_at_the_server_only_is_the_reason_of_the_loss() {
    let Some(server) = with_users(&[]).await else { return };
    let builder = Etcd::builder([server.server()]).user("locks").password(PASSWORD);
    let etcd = Arc::new(builder.connect().await.unwrap());
    let rotation = Rotation::begin(etcd.clone(), LEASE).await;
    set_password(&server, "second-one").await;
    let words = ["refuses this client", "authentication failed", "check user, password"];
    rotation.loses_because(&words).await;
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
    rotation.fails_with(&[&format!("key={key}: "), "former content"]).await;
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

/// A password goes to one of the two servers only.
#[tokio::test]
async fn a_server_that_needs_tls_does_not_keep_requests_from_the_others() {
    let (Some(server), Some(own)) = (with_users(&[]).await, network::own_address()) else { return };
    // It accepts connections, and nothing is sent to it.
    let listener = TcpListener::bind((own, 0)).await.unwrap();
    let (local, remote) = (server.server(), listener.local_addr().unwrap());
    let user = "locks:pa%2Fss%20w%C3%B6rd%2B1";
    client(&format!("etcd://{user}@{remote},{local}")).await;
    let etcd = client(&format!("etcd://{user}@{local},{remote}")).await;
    server.process.kill9();
    let down = etcd.load(&key("k")).await;
    assert!(down.is_err(), "{down:?}");
    let down = etcd.load(&key("k")).await.unwrap_err();
    assert!(matches!(down, TransportError::Denied(_)), "the error that tells more: {down:?}");
    server.process.restart();
    let back = async {
        while etcd.load(&key("k")).await.is_err() {
            sleep(ms(5)).await;
        }
    };
    timeout(ms(30_000), back).await.expect("the server is asked again");
}

//! Credentials, permissions and certificates, and the errors where they do not suffice.

use super::{client, key, ms, put, raw, typed, write};
use crate::support::etcd::{Certificates, EtcdServer, EtcdSetup};
use crate::support::etcd_client::{EtcdClient, connect_as};
use crate::support::process::{Folder, free_port};
use futures_util::StreamExt;
use futures_util::future::join_all;
use lockword::cluster::{ConnectError, Exchange, Node, NodeId, Transport, TransportError, connect};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

pub(super) const PASSWORD: &str = "pa/ss wörd+1";

/// A server on which `locks` may use `lockword/`, and nothing else.
pub(super) async fn with_users(arguments: &[&'static str]) -> Option<EtcdServer> {
    let arguments = [&["--bcrypt-cost", "4"], arguments].concat();
    let server = EtcdServer::start_with(EtcdSetup { arguments, ..EtcdSetup::default() })?;
    let raw = raw(&server.url()).await;
    for (user, password) in [("root", "toor"), ("locks", PASSWORD)] {
        raw.add_user(user, password).await;
        raw.add_role(user).await;
        raw.grant_role(user, user).await;
    }
    raw.grant_permission("locks", "lockword/", "lockword0").await;
    raw.enable_auth().await;
    Some(server)
}

fn address(server: &EtcdServer, user: &str) -> String {
    format!("etcd://{user}@{}", server.server())
}

pub(super) async fn raw_as(server: &EtcdServer, user: &str, password: &str) -> EtcdClient {
    connect_as(&server.url(), user, password).await
}

const USER: &str = "locks:pa%2Fss%20w%C3%B6rd%2B1";

async fn refused(address: &str) -> ConnectError {
    let error = connect(address).await.map(drop).unwrap_err();
    let said = format!("{error} {error:?}");
    for secret in [PASSWORD, "pa%2F", "s3cret"] {
        assert!(!said.contains(secret), "{said}");
    }
    error
}

#[tokio::test]
async fn credentials_and_permissions_are_checked() {
    let Some(server) = with_users(&[]).await else { return };
    let etcd = client(&address(&server, USER)).await;
    put(&etcd, &key("mine"), &write("{}", false)).await;
    for user in ["locks:s3cret", "nobody:s3cret", "locks"] {
        let error = refused(&address(&server, user)).await;
        assert!(matches!(error, ConnectError::Denied { .. }), "{user}: {error:?}");
        assert!(error.to_string().contains(&server.server()), "{error}");
    }
    let anonymous = refused(&server.address()).await;
    assert!(matches!(anonymous, ConnectError::Denied { .. }), "{anonymous:?}");
    // A prefix that is not granted.
    let elsewhere = refused(&format!("{}/elsewhere", address(&server, USER))).await;
    assert!(matches!(elsewhere, ConnectError::Denied { .. }), "{elsewhere:?}");
    assert!(elsewhere.to_string().contains("permission denied"), "{elsewhere}");

    // The permission is taken away while it is used.
    let typed = typed(&address(&server, USER)).await;
    assert!(!format!("{typed:?}").contains(PASSWORD));
    raw_as(&server, "root", "toor").await.revoke_role("locks", "locks").await;
    let key = key("mine");
    let read = etcd.load(&key).await;
    assert!(matches!(read, Err(TransportError::Denied(_))), "{read:?}");
    let written = etcd.compare_exchange(&key, None, write("{}", false)).await;
    assert!(matches!(written, Err(TransportError::Denied(_))), "{written:?}");
    let watched = etcd.watch(&key, NodeId::new(1)).await.map(drop);
    assert!(matches!(watched, Err(TransportError::Denied(_))), "{watched:?}");
}

#[tokio::test]
async fn a_user_is_refused_where_authentication_is_off() {
    let Some(server) = EtcdServer::start() else { return };
    let error = refused(&address(&server, "locks:s3cret")).await;
    assert!(matches!(error, ConnectError::Denied { .. }), "{error:?}");
    assert!(error.to_string().contains("authentication is not enabled"), "{error}");
}

#[tokio::test]
async fn a_token_that_expires_is_renewed() {
    let ttl = ["--auth-token", "simple", "--auth-token-ttl", "2"];
    let Some(server) = with_users(&ttl).await else { return };
    let etcd = client(&address(&server, USER)).await;
    let raw = raw_as(&server, "locks", PASSWORD).await;
    raw.get("lockword/x").await.unwrap();
    // Longer than the two seconds, and the one in which it is cleared away. A use would renew it.
    tokio::time::sleep(ms(4500)).await;
    let expired = raw.get("lockword/x").await.unwrap_err().to_string();
    assert!(expired.contains("invalid auth token"), "the control: {expired}");
    // A write: refused for certain, and made again.
    let key = key("token");
    let written = etcd.compare_exchange(&key, None, write("{}", false)).await;
    let Ok(Exchange::Swapped(_)) = written else { panic!("{written:?}") };
    // A restart forgets all tokens; the watch needs one as well.
    server.process.restart();
    let mut watch = loop {
        match etcd.watch(&key, NodeId::new(1)).await {
            Ok(watch) => break watch,
            Err(TransportError::Unavailable(_)) => tokio::time::sleep(ms(5)).await,
            Err(error) => panic!("{error}"),
        }
    };
    let version = put(&etcd, &key, &write("{}", false)).await;
    let seen = watch.next().await.unwrap().unwrap().unwrap();
    assert_eq!(seen.version, version);
}

/// A token that is signed has the revision of all users and roles in it, and is of no use after the
/// next change of any of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_rights_renews_a_signed_token() {
    let folder = Folder::new("jwt");
    std::fs::write(folder.file("key"), "of nobody else").unwrap();
    let signed = format!("jwt,sign-method=HS256,ttl=10m,priv-key={}", folder.file("key"));
    let Some(server) = with_users(&["--auth-token", signed.leak()]).await else { return };
    let etcd = client(&address(&server, USER)).await;
    let lease = ms(2000);
    let holder = Node::builder(etcd.clone()).lease(lease).build().unwrap();
    let held = holder.lock("held").unwrap().acquire().await.unwrap();
    let key = key("k");
    let mut watch = etcd.watch(&key, NodeId::new(1)).await.unwrap();
    let raw = raw_as(&server, "locks", PASSWORD).await;
    let change = async |role: &str| {
        raw_as(&server, "root", "toor").await.add_role(role).await;
    };

    // A write is the first that meets it; the watch that is there goes on.
    change("first").await;
    let old = raw.get("lockword/k").await.unwrap_err().to_string();
    assert!(old.contains("revision of auth store is old"), "the control: {old}");
    let written = etcd.compare_exchange(&key, None, write("{}", false)).await;
    let Ok(Exchange::Swapped(version)) = written else { panic!("{written:?}") };
    let seen = watch.next().await.unwrap().unwrap().unwrap();
    assert_eq!(seen.version, version);

    // A watch; and then many at once, for which one new token is enough.
    change("second").await;
    drop(etcd.watch(&key, NodeId::new(1)).await.unwrap());
    change("third").await;
    let tokens = r#"grpc_server_handled_total{grpc_code="OK",grpc_method="Authenticate""#;
    let before = server.metric(tokens);
    for read in join_all((0..50).map(|_| etcd.load(&key))).await {
        assert_eq!(read.unwrap().unwrap().version, version);
    }
    let renewals = server.metric(tokens) - before;
    assert_eq!(renewals, 1.0, "50 reads with a token of before");
    assert_eq!(server.connections(), 2, "the transport's, and this test's own");

    // The lease is renewed all the while.
    let lost = tokio::time::timeout(lease * 2, held.lost()).await;
    assert!(lost.is_err(), "{lost:?}");
    assert!(held.is_valid());
    held.release().await.unwrap();
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_unreachable() {
    if EtcdServer::start().is_none() {
        return;
    }
    let server = format!("127.0.0.1:{}", free_port());
    let began = Instant::now();
    let error = refused(&format!("etcd://me:s3cret@{server}")).await;
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error:?}");
    assert!(error.to_string().contains(&server), "{error}");
    assert!(began.elapsed() < Duration::from_secs(6));
    let error = refused("etcd://me:s3cret@no-such-host.invalid,no-such-host.invalid:1").await;
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error:?}");
}

pub(super) async fn with_tls(
    certificates: &Arc<Certificates>,
    wants_certificate: bool,
) -> Option<EtcdServer> {
    let tls = Some(certificates.clone());
    EtcdServer::start_with(EtcdSetup { tls, wants_certificate, ..EtcdSetup::default() })
}

#[tokio::test]
async fn certificates_are_checked_on_both_sides() {
    let certificates = Arc::new(Certificates::new("own", false));
    let Some(server) = with_tls(&certificates, true).await else { return };
    let trusting =
        |of: &Certificates| format!("{}?ca={}", server.address(), of.file("authority.pem"));
    let showing = |of: &Certificates| {
        format!("&cert={}&key={}", of.file("client.pem"), of.file("client.key"))
    };
    let complete = trusting(&certificates) + &showing(&certificates);
    let etcd = client(&complete).await;
    put(&etcd, &key("secret"), &write("{}", false)).await;

    let foreign = Certificates::new("foreign", false);
    for address in [
        // No certificate of the client's.
        trusting(&certificates),
        // One of a foreign authority.
        trusting(&certificates) + &showing(&foreign),
        // The client does not know the server's authority.
        trusting(&foreign) + &showing(&certificates),
        // It expects another server.
        format!("{complete}&server_name=elsewhere.example"),
    ] {
        let error = refused(&address).await;
        assert!(matches!(error, ConnectError::Untrusted { .. }), "{address}: {error:?}");
    }
    // By the name in the certificate, at an address that is not in it.
    let by_address = complete.replace("//localhost:", "//127.0.0.1:");
    let error = refused(&by_address).await;
    assert!(matches!(error, ConnectError::Untrusted { .. }), "{error:?}");
    client(&format!("{by_address}&server_name=localhost")).await;
    // By a builder, from memory.
    let pem = |name: &str| std::fs::read(certificates.file(name)).unwrap();
    let builder = lockword::cluster::engines::etcd::Etcd::builder([server.server()])
        .ca_pem(pem("authority.pem"))
        .client_certificate_pem(pem("client.pem"), pem("client.key"))
        .server_name("localhost");
    let etcd = builder.connect().await.unwrap();
    assert!(etcd.load(&key("secret")).await.unwrap().is_some());
    // Only one of them speaks TLS.
    let error = refused(&format!("etcd://{}?timeout_ms=1000", server.server())).await;
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error:?}");
    assert!(error.to_string().contains("etcds:// instead"), "{error}");
    let plain = EtcdServer::start().expect("as before");
    let ca = certificates.file("authority.pem");
    let error = refused(&format!("etcds://{}?ca={ca}", plain.server())).await;
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error:?}");
    assert!(error.to_string().contains("etcd:// instead"), "{error}");
}

/// A server that does not understand what TLS says cuts the connection off. What the client gets to
/// see of that depends on how much of it the server had read.
#[tokio::test]
async fn a_server_that_hangs_up_may_not_speak_tls() {
    let certificates = Certificates::new("unused", false);
    let ca = certificates.file("authority.pem");
    for reads_all in [true, false] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                // What is not read when it closes makes it a reset; else it is an end.
                client.read_exact(&mut [0]).await.expect("the client begins");
                if reads_all {
                    client.shutdown().await.expect("it is there");
                    let _ = client.read_to_end(&mut vec![]).await;
                }
            }
        });
        let error = refused(&format!("etcds://{server}?ca={ca}")).await;
        assert!(matches!(error, ConnectError::Unreachable { .. }), "{error:?}");
        assert!(error.to_string().contains("etcd:// instead"), "{error}");
    }
}

#[tokio::test]
async fn an_expired_certificate_is_not_trusted() {
    let certificates = Arc::new(Certificates::new("expired", true));
    let Some(server) = with_tls(&certificates, false).await else { return };
    let ca = certificates.file("authority.pem");
    let error = refused(&format!("{}?ca={ca}", server.address())).await;
    let ConnectError::Untrusted { cause, .. } = &error else { panic!("{error:?}") };
    assert!(cause.to_string().contains("xpired"), "{cause}");
}

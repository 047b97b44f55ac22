//! Passwords and certificates that change while a lock is held, and passwords in clear text.

use super::{RedisServer, RedisSetup};
use crate::suite::rotation::{Rotation, Vault, replace};
use crate::support::network;
use crate::support::redis::{Authority, PASSWORD};
use lockword::cluster::engines::Credentials;
use lockword::cluster::engines::redis::Redis;
use lockword::cluster::{ConnectError, connect};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const LEASE: Duration = Duration::from_millis(1200);

fn with_password() -> Option<RedisServer> {
    RedisServer::start_with(RedisSetup { password: true, ..RedisSetup::default() })
}

/// From now on the server takes this password only. Connections stay.
fn set_password(server: &RedisServer, password: &str) {
    let _: () = server.say(&["ACL", "SETUSER", "lock", "resetpass", &format!(">{password}")]);
}

/// Ends all connections of the user.
fn hang_up(server: &RedisServer) {
    let ended: usize = server.say(&["CLIENT", "KILL", "USER", "lock"]);
    assert!(ended > 0, "it was connected");
}

#[tokio::test]
async fn a_password_file_that_is_replaced_after_the_server_loses_nothing() {
    let Some(server) = with_password() else { return };
    let file = server.file("secret");
    replace(&file, format!("{PASSWORD}\n"));
    let address = format!("redis://lock@127.0.0.1:{}?password_file={file}", server.port);
    let rotation = Rotation::begin(connect(&address).await.unwrap(), LEASE).await;
    // What is open stays open.
    set_password(&server, "second-one");
    hang_up(&server);
    rotation.fails_with(&["WRONGPASS", &format!("password_file={file}")]).await;
    replace(&file, "second-one\r\n");
    rotation.survives_for(3).await;
}

#[tokio::test]
async fn a_password_file_that_is_missing_for_a_while_loses_nothing() {
    let Some(server) = with_password() else { return };
    let file = server.file("secret");
    let address = format!("redis://lock@127.0.0.1:{}?password_file={file}", server.port);
    let refused = connect(&address).await.map(drop).unwrap_err();
    assert!(matches!(refused, ConnectError::Credentials { .. }), "{refused}");
    assert!(refused.to_string().contains(&file), "{refused}");
    replace(&file, PASSWORD);
    let rotation = Rotation::begin(connect(&address).await.unwrap(), LEASE).await;
    fs::remove_file(&file).unwrap();
    hang_up(&server);
    rotation.fails_with(&[&file, "No such file"]).await;
    replace(&file, PASSWORD);
    rotation.survives_for(1).await;
}

#[tokio::test]
async fn a_callback_is_asked_for_each_login() {
    let Some(server) = with_password() else { return };
    let vault = Vault::with(PASSWORD);
    let asked = vault.clone();
    let builder = Redis::builder(format!("127.0.0.1:{}", server.port)).credentials_by(move || {
        let password = asked.ask();
        async { Ok::<_, String>(Credentials::new("lock", password?)) }
    });
    let rotation = Rotation::begin(Arc::new(builder.connect().await.unwrap()), LEASE).await;
    assert_eq!(vault.asked(), 1, "one connection");
    vault.set(Err("the vault is sealed"));
    set_password(&server, "second-one");
    hang_up(&server);
    rotation.fails_with(&["the vault is sealed"]).await;
    vault.set(Ok("second-one"));
    rotation.survives_for(3).await;
}

#[tokio::test]
async fn a_token_that_was_replaced_meanwhile_is_asked_for_once_more() {
    let Some(server) = with_password() else { return };
    let tokens = std::sync::Mutex::new(vec![PASSWORD, "old-one"]);
    let builder = Redis::builder(format!("127.0.0.1:{}", server.port)).user("lock");
    let builder = builder.credentials_by(move || {
        let token = tokens.lock().unwrap().pop();
        async move { token.map(Credentials::password_only).ok_or("no more") }
    });
    builder.connect().await.unwrap();
}

#[tokio::test]
async fn a_password_that_changes_at_the_server_only_is_the_reason_of_the_loss() {
    let Some(server) = with_password() else { return };
    let file = server.file("secret");
    replace(&file, PASSWORD);
    let by_file = format!("redis://lock@127.0.0.1:{}?password_file={file}", server.port);
    let (in_file, words) = (format!("password_file={file}"), "check user, password");
    for (address, from) in [(server.address(), "127.0.0.1"), (by_file, &*in_file)] {
        let rotation = Rotation::begin(connect(&address).await.unwrap(), LEASE).await;
        set_password(&server, "second-one");
        hang_up(&server);
        rotation.loses_because(&["WRONGPASS", words, from]).await;
        set_password(&server, PASSWORD);
    }
    // The user is gone, which also ends its connections; and so is a right.
    let rotation = Rotation::begin(connect(&server.address()).await.unwrap(), LEASE).await;
    let _: () = server.say(&["ACL", "SETUSER", "lock", "-evalsha"]);
    rotation.loses_because(&["refuses this client", "NOPERM"]).await;
    let _: () = server.say(&["ACL", "SETUSER", "lock", "+evalsha"]);
    let rotation = Rotation::begin(connect(&server.address()).await.unwrap(), LEASE).await;
    let _: () = server.say(&["ACL", "DELUSER", "lock"]);
    rotation.loses_because(&["WRONGPASS", words]).await;
}

#[tokio::test]
async fn a_certificate_that_is_replaced_after_the_server_loses_nothing() {
    let Some(server) = RedisServer::start_with(RedisSetup { tls: true, ..RedisSetup::default() })
    else {
        return;
    };
    let read = |name: &str| fs::read(server.file(name)).unwrap();
    let (cert, key) = (server.file("mine.pem"), server.file("mine.key"));
    let show = |of: &str| {
        replace(&cert, read(&format!("{of}.pem")));
        replace(&key, read(&format!("{of}.key")));
    };
    show("client");
    let ca = server.file("ca.pem");
    let address = format!("rediss://localhost:{}?ca={ca}&cert={cert}&key={key}", server.port);
    let rotation = Rotation::begin(connect(&address).await.unwrap(), 2 * LEASE).await;
    // The server trusts another authority for its clients, and the client has half of the new pair.
    let _: () = server.say(&["CONFIG", "SET", "tls-ca-cert-file", &server.file("other.pem")]);
    replace(&cert, read("foreign.pem"));
    let _: usize = server.say(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    rotation.fails_with(&[&format!("key={key}: "), "former content"]).await;
    replace(&key, read("foreign.key"));
    rotation.survives_for(2).await;

    // An authority that signs the server's certificate anew.
    let folder = Path::new(&ca).parent().unwrap();
    Authority::new(folder, "next").sign("server", false);
    replace(&ca, read("next.pem"));
    let _: () = server.say(&[
        "CONFIG",
        "SET",
        "tls-cert-file",
        &server.file("server.pem"),
        "tls-key-file",
        &server.file("server.key"),
    ]);
    connect(&address).await.unwrap();
}

#[tokio::test]
async fn half_of_a_pair_goes_on_with_the_former_one() {
    let Some(server) = RedisServer::start_with(RedisSetup { tls: true, ..RedisSetup::default() })
    else {
        return;
    };
    let (cert, key, ca) = (server.file("client.pem"), server.file("client.key"), "ca.pem");
    let rotation = Rotation::begin(connect(&server.address()).await.unwrap(), LEASE).await;
    replace(&cert, fs::read(server.file("foreign.pem")).unwrap());
    replace(&server.file(ca), "-----BEGIN CERTIF");
    fs::remove_file(&key).unwrap();
    let _: usize = server.say(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    rotation.survives_for(1).await;
    let refused = connect(&server.address()).await.map(drop).unwrap_err();
    assert!(matches!(refused, ConnectError::Address { .. }), "nothing was there before: {refused}");
}

#[tokio::test]
async fn a_password_in_clear_text_stays_on_this_machine() {
    let Some(own) = network::own_address() else { return };
    let setup = RedisSetup {
        password: true,
        extra: vec!["--bind".into(), format!("127.0.0.1 {own}")],
        ..RedisSetup::default()
    };
    let Some(server) = RedisServer::start_with(setup) else { return };
    let port = server.port;
    connect(&format!("redis://lock:open%25sesame@localhost:{port}")).await.unwrap();
    let connections = || -> String {
        let stats: String = server.say(&["INFO", "stats"]);
        let line = stats.lines().find(|line| line.starts_with("total_connections_received"));
        line.unwrap().split(':').nth(1).unwrap().to_owned()
    };
    let before: usize = connections().parse().unwrap();
    let refused = connect(&format!("redis://lock:open%25sesame@{own}:{port}")).await;
    let refused = refused.map(drop).unwrap_err();
    assert!(matches!(refused, ConnectError::Unencrypted { .. }), "{refused}");
    let said = refused.to_string();
    let has = |part: &str| said.contains(part);
    assert!(has(&format!("{own}:{port}")) && has("rediss://") && has("plaintext=allow"), "{said}");
    // That of the question itself.
    assert_eq!(connections().parse::<usize>().unwrap(), before + 1, "nothing was sent");
    let builder = || Redis::builder(format!("{own}:{port}")).user("lock").password(PASSWORD);
    assert!(builder().connect().await.is_err());
    builder().allow_plaintext().connect().await.unwrap();
    connect(&format!("redis://lock:open%25sesame@{own}:{port}?plaintext=allow")).await.unwrap();
    // There is nothing to guard: the server itself refuses.
    let anonymous = connect(&format!("redis://{own}:{port}")).await.map(drop).unwrap_err();
    assert!(matches!(anonymous, ConnectError::Denied { .. }), "{anonymous}");
}

//! The commands of `grants`, as a shell reads them; and what such a role can do by hand.

use super::authentication::{raw_as, with_users};
use super::{client, key, ms, put, write};
use crate::support::etcd::EtcdServer;
use crate::support::process::find;
use futures_util::StreamExt;
use lockword::cluster::engines::grants;
use lockword::cluster::{Node, NodeId, Transport, TransportError};
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Arc;

/// Makes a user with the password `x`, and runs the commands with `etcdctl`. `None`: that is not installed.
async fn apply(server: &EtcdServer, address: &str, role: &str, prefix: &str) -> Option<()> {
    find("etcdctl", &[])?;
    raw_as(server, "root", "toor").await.add_user(role, "x").await;
    let grants = grants(address, prefix, role).unwrap();
    let mut command = Command::new(grants.client());
    let command = command
        .env("ETCDCTL_ENDPOINTS", server.server())
        .env("ETCDCTL_USER", "root:toor")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut shell = command.spawn().expect("there is a shell");
    let mut stdin = shell.stdin.take().expect("a pipe");
    stdin.write_all(grants.commands().as_bytes()).expect("it reads");
    drop(stdin);
    let done = shell.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{}: {said}", grants.commands());
    Some(())
}

fn address_of(server: &EtcdServer, role: &str) -> String {
    let name: String = role.bytes().map(|byte| format!("%{byte:02X}")).collect();
    format!("etcd://{name}:x@{}", server.server())
}

fn is_denied<T>(result: &Result<T, TransportError>) -> bool {
    matches!(result, Err(TransportError::Denied(_)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_role_has_locks_below_the_prefix_and_nowhere_else() {
    let Some(server) = with_users(&[]).await else { return };
    for (role, path) in [("jobs", ""), ("-o'b\"x\\\u{e4} $HOME `id`", "/it's%20$HOME/\u{ff}")] {
        let address = |user: &str| format!("{}{path}", address_of(&server, user));
        let Some(()) = apply(&server, &address("root"), role, "a_b/").await else { return };
        let all = client(&address("root").replace(":x@", ":toor@")).await;
        put(&all, &key("other/k"), &write("{}", false)).await;
        let etcd = client(&address(role)).await;
        let lease = ms(1500);
        let node =
            |etcd: &Arc<dyn Transport>| Node::builder(etcd.clone()).lease(lease).build().unwrap();
        let (a, b) = (node(&etcd), node(&etcd));
        let held = a.lock("a_b/deep/k").unwrap().acquire().await.unwrap();
        let waiting = b.lock("a_b/deep/k").unwrap();
        let waiting = tokio::spawn(async move { waiting.acquire().await.unwrap() });
        tokio::time::sleep(lease * 2).await;
        assert!(held.is_valid(), "it is renewed");
        let seen = b.inspect("a_b/deep/k").await.unwrap();
        assert_eq!(seen.queue.len(), 1, "{seen:?}");
        let token = held.token();
        held.release().await.unwrap();
        let next = waiting.await.unwrap();
        assert!(next.token() > token);
        next.release().await.unwrap();
        // The user sees what is below the prefix, and nothing that has more.
        assert_eq!(etcd.list("a_b/").await.unwrap(), [key("a_b/deep/k")]);
        for prefix in ["", "a", "other/"] {
            assert!(is_denied(&etcd.list(prefix).await), "{prefix:?}");
        }
        for name in ["other/k", "other/new", "a_b", "a_bc/k", "axb/k", "a_b0", "lockword"] {
            let name = key(name);
            assert!(is_denied(&etcd.load(&name).await), "{name}");
            let written = etcd.compare_exchange(&name, None, write("{}", false)).await;
            assert!(is_denied(&written), "{name}: {written:?}");
            assert!(is_denied(&etcd.watch(&name, NodeId::new(1)).await), "{name}");
        }
    }
}

/// A register goes, by whoever removes it, and is created again by whichever client: there is no floor.
#[tokio::test]
async fn versions_grow_whoever_removes_and_creates_a_register() {
    let Some(server) = with_users(&[]).await else { return };
    let Some(()) = apply(&server, &address_of(&server, "root"), "jobs", "jobs/").await else {
        return;
    };
    let all = client(&address_of(&server, "root").replace(":x@", ":toor@")).await;
    let limited = client(&address_of(&server, "jobs")).await;
    let (name, mut last) = (key("jobs/k"), None);
    for creator in [&limited, &all] {
        for (remover, password) in [("jobs", "x"), ("root", "toor")] {
            let remover = raw_as(&server, remover, password).await;
            let version = put(creator, &name, &write("{}", true)).await;
            assert!(Some(version) > last, "{version} {last:?}");
            last = Some(version);
            assert_eq!(remover.delete("lockword/jobs/k").await, 1);
        }
    }
}

/// By hand it can do nothing outside: nor make nodes look.
#[tokio::test]
async fn nothing_outside_the_prefix_is_written_or_told() {
    let Some(server) = with_users(&[]).await else { return };
    let Some(()) = apply(&server, &address_of(&server, "root"), "jobs", "jobs/").await else {
        return;
    };
    let all = client(&address_of(&server, "root").replace(":x@", ":toor@")).await;
    let before = put(&all, &key("other/k"), &write("{}", false)).await;
    let mut watch = all.watch(&key("other/k"), NodeId::new(9)).await.unwrap();
    let evil = raw_as(&server, "jobs", "x").await;
    for name in ["lockword/other/k", "lockword/jobs", "lockword/jobs0", "lockword", "other"] {
        assert!(evil.put(name, "{}").await.is_err(), "{name}");
        assert!(evil.get(name).await.is_err(), "{name}");
    }
    // Its own: the key where the connection is checked, which is nobody's, and those below the prefix.
    for name in ["lockword/", "lockword/jobs/k"] {
        evil.put(name, "of no lock\n").await.unwrap();
    }
    let listed = all.list("").await.unwrap();
    assert_eq!(listed, [key("jobs/k"), key("other/k")], "the first is no register");
    client(&address_of(&server, "jobs")).await;
    // The next item is the next write.
    let after = put(&all, &key("other/k"), &write("{}", false)).await;
    let item = watch.next().await.unwrap().unwrap().unwrap();
    assert_eq!(item.version, after);
    assert!(after > before);
}

//! Addresses as people write them: names with several addresses, and hints where one is not right.

use super::{RedisServer, RedisSetup, until};
use crate::support::namespace::{Isolated, Namespace};
use crate::support::process::{Folder, free_port};
use crate::support::relay::Relay;
use lockword::cluster::{ConnectError, connect, connect_on};
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What listens at the first address of a name.
#[derive(Clone, Copy, Debug)]
enum First {
    Nothing,
    /// It accepts connections, and says nothing.
    Silent,
    Replica,
}

#[tokio::test]
async fn the_next_address_of_a_name_is_tried_while_time_is_left() {
    let Some(primary) = RedisServer::start() else { return };
    let extra = vec!["--replicaof".into(), format!("127.0.0.1 {}", primary.port)];
    let setup = RedisSetup { extra, ..RedisSetup::default() };
    let Some(replica) = RedisServer::start_with(setup) else { return };
    until("it is a replica", || {
        replica.say::<String>(&["INFO", "replication"]).contains("role:slave")
    })
    .await;
    let Some(namespace) = with_hosts("127.0.0.2 several\n127.0.0.3 several\n") else { return };
    for first in [First::Nothing, First::Silent, First::Replica] {
        let (primary, replica) = (primary.port, replica.port);
        // The names of a thread's own hosts file are known to it and to those that it starts.
        let took = namespace.run(move || connects_behind(first, primary, replica));
        assert!(took < Duration::from_millis(2500), "{first:?}: {took:?}");
    }
}

/// Connects to a name with two addresses, the first of which is of no use.
fn connects_behind(first: First, primary: u16, replica: u16) -> Duration {
    let port = free_port();
    let places: Vec<SocketAddr> = ("several", port).to_socket_addrs().expect("a name").collect();
    let [one, two] = places[..] else { panic!("{places:?}") };
    let listen = |place| TcpListener::bind(place).expect("a free port");
    let _good = Relay::from(listen(two), primary);
    let (_silent, _bad) = match first {
        First::Nothing => (None, None),
        First::Silent => (Some(listen(one)), None),
        First::Replica => (None, Some(Relay::from(listen(one), replica))),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let began = Instant::now();
    let redis = runtime
        .block_on(connect_on(runtime.handle(), &format!("redis://several:{port}")))
        .unwrap_or_else(|error| panic!("{first:?}: {error}"));
    let took = began.elapsed();
    runtime.block_on(redis.load(&super::key("k"))).unwrap();
    took
}

/// A namespace with this file of hosts. `None`: the system does not permit it.
fn with_hosts(text: &str) -> Option<Arc<Namespace>> {
    let folder = Folder::new("hosts");
    let file = folder.file("hosts");
    std::fs::write(&file, text).expect("a file");
    let mounted = Namespace::isolated(Isolated::Mounts).map_err(|error| error.to_string());
    let mounted = mounted.and_then(|namespace| {
        namespace.run_command("mount --make-rprivate /")?;
        namespace.run_command(&format!("mount --bind {file} /etc/hosts"))?;
        Ok(namespace)
    });
    mounted.inspect_err(|why| eprintln!("skipped: no file can be mounted: {why}")).ok()
}

#[tokio::test]
async fn tls_at_a_plain_port_and_none_at_a_tls_port_are_hinted_at() {
    let Some(plain) = RedisServer::start() else { return };
    let Some(tls) = RedisServer::start_with(RedisSetup { tls: true, ..RedisSetup::default() })
    else {
        return;
    };
    for (address, hint) in [
        (format!("rediss://127.0.0.1:{}", plain.port), "redis://"),
        (format!("redis://localhost:{}", tls.port), "rediss://"),
        (format!("rediss+sentinel://127.0.0.1:{}/main", plain.port), "redis+sentinel://"),
        (format!("redis+sentinel://localhost:{}/main", tls.port), "rediss+sentinel://"),
    ] {
        let error = connect(&address).await.err().unwrap_or_else(|| panic!("{address}"));
        assert!(matches!(error, ConnectError::Unreachable { .. }), "{address}: {error}");
        let said = error.to_string();
        assert!(said.contains(&format!("{hint} in the address")), "{address}: {said}");
    }
    // Not where it cannot be the reason.
    let gone = format!("rediss://127.0.0.1:{}", free_port());
    let error = connect(&gone).await.err().unwrap().to_string();
    assert!(!error.contains("redis://"), "{error}");
}

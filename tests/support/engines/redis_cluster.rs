//! A Redis Cluster of two primaries, and the move of the slot of the prefix `lockword` between them, step
//! by step.

use super::process::free_port;
use super::redis::{RedisServer, RedisSetup};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// A running cluster.
pub struct RedisCluster {
    /// The server that has the slot at first.
    pub source: RedisServer,
    /// The server to which it moves.
    pub target: RedisServer,
    slot: String,
}

impl RedisCluster {
    /// Starts it. `None`: Redis is not installed.
    pub fn start() -> Option<Self> {
        Self::start_with(false)
    }

    /// Starts it, with a user whose rights are those of the documentation if `password`.
    pub fn start_with(password: bool) -> Option<Self> {
        let (source, target) = (server(password)?.0, server(password)?);
        let (target, bus) = target;
        let slot = source.say::<u16>(&["CLUSTER", "KEYSLOT", "{lockword}floor"]).to_string();
        // Each has another slot too, since a server without slots becomes a replica.
        let _: () = source.say(&["CLUSTER", "ADDSLOTS", "0", &slot]);
        let _: () = target.say(&["CLUSTER", "ADDSLOTS", "1"]);
        let _: () = source.say(&["CLUSTER", "MEET", "127.0.0.1", &target.port.to_string(), &bus]);
        let cluster = Self { source, target, slot };
        until("they know each other's slots", || {
            [&cluster.source, &cluster.target].iter().all(|server| {
                let info: String = server.say(&["CLUSTER", "INFO"]);
                info.contains("cluster_state:ok") && info.contains("cluster_slots_assigned:3")
            })
        });
        Some(cluster)
    }

    /// The slot begins to move. Nothing of what is in it has moved yet.
    pub fn begin(&self) {
        let (from, to) = (id(&self.source), id(&self.target));
        let _: () = self.target.say(&["CLUSTER", "SETSLOT", &self.slot, "IMPORTING", &from]);
        let _: () = self.source.say(&["CLUSTER", "SETSLOT", &self.slot, "MIGRATING", &to]);
    }

    /// Moves these names, as far as they are there.
    pub fn move_names(&self, names: &[&str]) {
        let port = self.target.port.to_string();
        let mut words = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000"];
        if self.target.needs_password() {
            words.extend(["AUTH2", "admin", "x"]);
        }
        words.push("KEYS");
        words.extend(names);
        let moved: String = self.source.say(&words);
        assert!(moved == "OK" || moved == "NOKEY", "{moved}");
    }

    /// The names that have not moved.
    pub fn left(&self) -> Vec<String> {
        self.source.say(&["CLUSTER", "GETKEYSINSLOT", &self.slot, "1000"])
    }

    /// Moves what is left, and gives the slot to the target.
    pub fn finish(&self) {
        loop {
            let left = self.left();
            if left.is_empty() {
                break;
            }
            self.move_names(&left.iter().map(String::as_str).collect::<Vec<_>>());
        }
        let to = id(&self.target);
        for server in [&self.target, &self.source] {
            let _: () = server.say(&["CLUSTER", "SETSLOT", &self.slot, "NODE", &to]);
        }
    }
}

/// A server of a cluster, and the port on which the others talk to it.
fn server(password: bool) -> Option<(RedisServer, String)> {
    let bus = free_port().to_string();
    let yes = ["--cluster-enabled", "yes", "--cluster-port", &bus];
    let no = ["--cluster-require-full-coverage", "no"];
    let extra = [&yes[..], &no[..]].concat().into_iter().map(Into::into).collect();
    let setup = RedisSetup { password, extra, ..RedisSetup::default() };
    Some((RedisServer::start_with(setup)?, bus))
}

fn id(server: &RedisServer) -> String {
    server.say(&["CLUSTER", "MYID"])
}

fn until(what: &str, so: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !so() {
        assert!(Instant::now() < end, "still not so: {what}");
        sleep(Duration::from_millis(5));
    }
}

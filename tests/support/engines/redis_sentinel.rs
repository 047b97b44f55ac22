//! A primary of Redis, its replica, and a sentinel that watches them.

use super::process::{Folder, ServerProcess, find, free_port};
use super::redis::{RedisServer, RedisSetup};
use std::fs;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Running servers. They end when this is dropped.
pub struct RedisSentinel {
    pub primary: RedisServer,
    pub replica: RedisServer,
    pub process: ServerProcess,
    pub port: u16,
    _folder: Folder,
}

impl RedisSentinel {
    /// The password of the sentinel, which the servers do not have.
    pub const PASSWORD: &str = "open-sentinel";

    /// Starts them. `None`: Redis is not installed. The sentinel knows the replica when this returns.
    pub fn start() -> Option<Self> {
        let program = find("redis-server", &["/usr/local/bin", "/opt/homebrew/bin"])?;
        let primary = RedisServer::start()?;
        let extra = vec!["--replicaof".into(), format!("127.0.0.1 {}", primary.port)];
        let replica = RedisServer::start_with(RedisSetup { extra, ..RedisSetup::default() })?;
        // A sentinel asks for the replicas when it starts, and then each ten seconds.
        while !primary.is_replicated_by(&replica) {
            sleep(Duration::from_millis(5));
        }
        let (folder, port) = (Folder::new("sentinel"), free_port());
        let text = format!(
            "port {port}\nbind 127.0.0.1\ndir {dir}\nrequirepass {password}\n\
             sentinel monitor main 127.0.0.1 {primary} 1\n\
             sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 3000\n",
            dir = folder.path().display(),
            password = Self::PASSWORD,
            primary = primary.port
        );
        let file = folder.file("sentinel.conf");
        fs::write(&file, text).expect("a file");
        let process = ServerProcess::start(
            "redis-sentinel",
            &folder.path().join("log"),
            move || {
                let mut command = Command::new(&program);
                command.arg(&file).arg("--sentinel");
                command
            },
            move || {
                let known: Vec<::redis::Value> = ask(port, &["SENTINEL", "REPLICAS", "main"])?;
                match known.len() {
                    1 => Ok(()),
                    _ => Err("it does not know the replica".to_owned()),
                }
            },
        );
        Some(Self { primary, replica, process, port, _folder: folder })
    }

    /// The address for `lockword::cluster::connect`.
    pub fn address(&self) -> String {
        format!(
            "redis+sentinel://127.0.0.1:{}/main?sentinel_password={}",
            self.port,
            Self::PASSWORD
        )
    }

    /// Has the replica become the primary, while the primary is alive.
    pub fn fail_over(&self) {
        // It may not have heard the replica yet.
        let end = Instant::now() + Duration::from_secs(30);
        while let Err(why) = ask::<String>(self.port, &["SENTINEL", "FAILOVER", "main"]) {
            assert!(why.contains("NOGOODSLAVE") && Instant::now() < end, "{why}");
            sleep(Duration::from_millis(5));
        }
    }

    /// Whether the server says that it is a primary.
    pub fn is_primary(server: &RedisServer) -> bool {
        let words = ["INFO", "replication"];
        // A sentinel that changes the role of a server ends all of its connections, once.
        let said: String = server.ask(&words).unwrap_or_else(|_| server.say(&words));
        said.contains("role:master")
    }
}

fn ask<A: ::redis::FromRedisValue>(port: u16, words: &[&str]) -> Result<A, String> {
    let password = RedisSentinel::PASSWORD;
    let client = ::redis::Client::open(format!("redis://:{password}@127.0.0.1:{port}"));
    let mut client = client.and_then(|it| it.get_connection()).map_err(|why| why.to_string())?;
    let mut command = ::redis::cmd(words[0]);
    command.arg(&words[1..]).query(&mut client).map_err(|why| why.to_string())
}

//! A Redis server of the test's own.

use super::disk::Disk;
use super::process::{Folder, Process, find, free_port};
use certificates::Authority;
use std::fs;
use std::process::Command;
use std::sync::Arc;

// Certificates, made on the spot.
pub mod certificates;

/// The password of the user `lock`, and of nobody else.
pub const PASSWORD: &str = "open%sesame";

/// What the docs say that a user needs.
const GRANTS: &str = "resetchannels ~{lockword}* &{lockword}:* \
    +info +get +set +hget +hmget +hset +del +expire +persist +time +eval +evalsha \
    +publish +subscribe +unsubscribe +ping +hello";

/// How a server is to be.
#[derive(Default)]
pub struct How {
    /// It speaks TLS, and trusts the clients whom its authority has signed.
    pub tls: bool,
    /// Its certificate has expired.
    pub expired: bool,
    /// It wants a password.
    pub password: bool,
    /// The test sets its clock.
    pub clock: bool,
    /// It writes each change to its disk before it answers.
    pub durable: bool,
    /// It has a disk of its own, of so many megabytes.
    pub disk: Option<u32>,
    /// What else is on its command line.
    pub extra: Vec<String>,
}

/// A server. It ends with this value.
pub struct Server {
    pub process: Process,
    pub port: u16,
    pub disk: Disk,
    how: How,
    folder: Arc<Folder>,
}

impl Server {
    /// A server with nothing special. `None`: there is no program for it.
    pub fn start() -> Option<Self> {
        Self::with(How::default())
    }

    /// A server that is so. `None`: there is no program for it.
    pub fn with(how: How) -> Option<Self> {
        let program = find("redis-server", &["/usr/local/bin", "/opt/homebrew/bin"])?;
        let folder = Arc::new(Folder::new("redis"));
        let port = free_port();
        let disk = Disk::new(folder.file("disk"), how.disk, None)?;
        let mut arguments: Vec<String> = vec![];
        let mut set = |name: &str, value: &str| {
            arguments.extend([format!("--{name}"), value.to_owned()]);
        };
        set("bind", "127.0.0.1");
        set("dir", &folder.file("disk"));
        set("unixsocket", &folder.file("admin"));
        set("save", "");
        set("appendonly", if how.durable { "yes" } else { "no" });
        set("appendfsync", "always");
        set("repl-diskless-sync-delay", "0");
        if how.tls {
            let authority = Authority::new(folder.path(), "ca");
            authority.sign("server", how.expired);
            authority.sign("client", false);
            Authority::new(folder.path(), "other").sign("stranger", false);
            set("port", "0");
            set("tls-port", &port.to_string());
            set("tls-cert-file", &folder.file("server.pem"));
            set("tls-key-file", &folder.file("server.key"));
            set("tls-ca-cert-file", &folder.file("ca.pem"));
        } else {
            set("port", &port.to_string());
        }
        if how.password {
            let users = format!(
                "user default off\nuser admin on nopass ~* &* +@all\n\
                 user lock on >{PASSWORD} {GRANTS}\n\
                 user dumb on >{PASSWORD} {GRANTS} -publish\n"
            );
            fs::write(folder.path().join("users"), users).expect("a file");
            set("aclfile", &folder.file("users"));
        }
        arguments.extend(how.extra.iter().cloned());
        let clock = how.clock.then(|| shim(&folder));
        let clock_file = folder.file("clock");
        let admin = admin_address(&how, &folder);
        let process = Process::start_at(
            disk.namespace.clone(),
            "redis-server",
            &folder.path().join("log"),
            move || {
                let mut command = Command::new(&program);
                command.args(&arguments);
                if let Some(shim) = &clock {
                    command.env("LD_PRELOAD", shim).env("LOCKWORD_CLOCK", &clock_file);
                }
                command
            },
            move || {
                let client = ::redis::Client::open(&*admin).map_err(|error| error.to_string())?;
                let mut client = client.get_connection().map_err(|error| error.to_string())?;
                ::redis::cmd("PING").exec(&mut client).map_err(|error| error.to_string())
            },
        );
        Some(Self { process, port, disk, how, folder })
    }

    /// The address for the transport, with what is needed.
    pub fn address(&self) -> String {
        self.address_at(self.port)
    }

    /// The same through another port.
    pub fn address_at(&self, port: u16) -> String {
        let user = if self.how.password { "lock:open%25sesame@" } else { "" };
        let (ca, cert, key) =
            (self.file("ca.pem"), self.file("client.pem"), self.file("client.key"));
        if self.how.tls {
            format!("rediss://{user}localhost:{port}?ca={ca}&cert={cert}&key={key}")
        } else {
            format!("redis://{user}127.0.0.1:{port}")
        }
    }

    /// A file in the server's folder.
    pub fn file(&self, name: &str) -> String {
        self.folder.file(name)
    }

    /// Says something to the server, as one who may do anything.
    pub fn say<A: ::redis::FromRedisValue>(&self, words: &[&str]) -> A {
        let address = admin_address(&self.how, &self.folder);
        let client = ::redis::Client::open(address).expect("an address");
        let mut client = client.get_connection().expect("the server runs");
        let mut command = ::redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query(&mut client).unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    /// How often this command was carried out, by scripts too.
    pub fn calls(&self, command: &str) -> u32 {
        let info: String = self.say(&["INFO", "commandstats"]);
        let line = info.lines().find_map(|l| l.strip_prefix(&format!("cmdstat_{command}:calls=")));
        line.map_or(0, |line| line.split(',').next().unwrap().parse().expect("a number"))
    }

    /// How many connections there are through the network.
    pub fn connections(&self) -> usize {
        let list: String = self.say(&["CLIENT", "LIST"]);
        list.lines().filter(|line| line.contains(" addr=127.0.0.1")).count()
    }

    /// Makes the server's clock wrong by so many seconds.
    pub fn set_clock(&self, wrong_by: i64) {
        // At once, so that no half of it is read.
        fs::write(self.file("clock.new"), wrong_by.to_string()).expect("a file");
        fs::rename(self.file("clock.new"), self.file("clock")).expect("the same folder");
    }
}

fn admin_address(how: &How, folder: &Folder) -> String {
    let user = if how.password { "?user=admin&pass=x" } else { "" };
    format!("redis+unix://{}{user}", folder.file("admin"))
}

/// Compiles the clock.
fn shim(folder: &Folder) -> String {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/engines/redis/clock.c");
    let shim = folder.file("clock.so");
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-O1", "-o", &shim, source, "-ldl"]);
    assert!(cc.status().expect("Rust needs a C linker too").success(), "{cc:?}");
    shim
}

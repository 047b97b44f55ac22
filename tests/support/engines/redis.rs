//! A Redis server that a test starts.

use super::disk::Disk;
use super::engine::{Engine, OnDisk, Server, Usage, WhenFull};
use super::process::{Folder, ServerProcess, find, free_port};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

/// The password of the user `lock`.
pub const PASSWORD: &str = "open%sesame";

/// The permissions that a user needs, as in the documentation.
const GRANTS: &str = "resetchannels ~{lockword}* &{lockword}:#* \
    +info +get +set +hmget +hset +del +expire +persist +time +eval +evalsha \
    +publish +subscribe +unsubscribe +ping +hello +scan +asking +wait";

/// The options of a server.
#[derive(Default)]
pub struct RedisSetup {
    /// With TLS, and a client certificate of its authority is required.
    pub tls: bool,
    /// Its certificate has expired.
    pub expired: bool,
    /// A user and a password are required.
    pub password: bool,
    /// The test can set its clock.
    pub clock: bool,
    /// It writes each change to its disk before it answers.
    pub durable: bool,
    /// The size of a disk of its own, in megabytes.
    pub disk: Option<u32>,
    /// Further arguments of the command line.
    pub extra: Vec<String>,
}

/// A running server. It ends when this is dropped.
pub struct RedisServer {
    pub process: ServerProcess,
    pub port: u16,
    pub disk: Disk,
    setup: RedisSetup,
    folder: Arc<Folder>,
}

impl RedisServer {
    /// Starts a server with default options. `None`: Redis is not installed.
    pub fn start() -> Option<Self> {
        Self::start_with(RedisSetup::default())
    }

    /// Starts a server. `None`: Redis is not installed.
    pub fn start_with(setup: RedisSetup) -> Option<Self> {
        let program = find("redis-server", &["/usr/local/bin", "/opt/homebrew/bin"])?;
        let folder = Arc::new(Folder::new("redis"));
        let port = free_port();
        let disk = Disk::new(folder.file("disk"), setup.disk, None)?;
        let mut arguments: Vec<String> = vec![];
        let mut set = |name: &str, value: &str| {
            arguments.extend([format!("--{name}"), value.to_owned()]);
        };
        set("bind", "127.0.0.1");
        set("dir", &folder.file("disk"));
        set("unixsocket", &folder.file("admin"));
        set("save", "");
        set("appendonly", if setup.durable { "yes" } else { "no" });
        set("appendfsync", "always");
        set("repl-diskless-sync-delay", "0");
        if setup.tls {
            let authority = Authority::new(folder.path(), "ca");
            authority.sign("server", setup.expired);
            authority.sign("client", false);
            Authority::new(folder.path(), "other").sign("foreign", false);
            set("port", "0");
            set("tls-port", &port.to_string());
            set("tls-cert-file", &folder.file("server.pem"));
            set("tls-key-file", &folder.file("server.key"));
            set("tls-ca-cert-file", &folder.file("ca.pem"));
        } else {
            set("port", &port.to_string());
        }
        if setup.password {
            let users = format!(
                "user default off\nuser admin on nopass ~* &* +@all\n\
                 user lock on >{PASSWORD} {GRANTS}\n\
                 user dumb on >{PASSWORD} {GRANTS} -publish\n"
            );
            fs::write(folder.path().join("users"), users).expect("a file");
            set("aclfile", &folder.file("users"));
        }
        arguments.extend(setup.extra.iter().cloned());
        let clock = setup.clock.then(|| shim(&folder));
        let clock_file = folder.file("clock");
        let admin = admin_address(&setup, &folder);
        let process = ServerProcess::start_at(
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
        Some(Self { process, port, disk, setup, folder })
    }

    /// The address for `lockword::cluster::connect`, with user and certificates.
    pub fn address(&self) -> String {
        self.address_at(self.port)
    }

    /// The address with another port.
    pub fn address_at(&self, port: u16) -> String {
        let user = if self.setup.password { "lock:open%25sesame@" } else { "" };
        let (ca, cert, key) =
            (self.file("ca.pem"), self.file("client.pem"), self.file("client.key"));
        if self.setup.tls {
            format!("rediss://{user}localhost:{port}?ca={ca}&cert={cert}&key={key}")
        } else {
            format!("redis://{user}127.0.0.1:{port}")
        }
    }

    /// Whether a user and a password are required.
    pub fn needs_password(&self) -> bool {
        self.setup.password
    }

    /// A file in the server's folder.
    pub fn file(&self, name: &str) -> String {
        self.folder.file(name)
    }

    /// Sends a command to the server, as a user with all permissions.
    pub fn say<A: ::redis::FromRedisValue>(&self, words: &[&str]) -> A {
        self.ask(words).unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    /// The same, where the connection may be ended by somebody else.
    pub fn ask<A: ::redis::FromRedisValue>(&self, words: &[&str]) -> ::redis::RedisResult<A> {
        let address = admin_address(&self.setup, &self.folder);
        let mut client = ::redis::Client::open(address).expect("an address").get_connection()?;
        let mut command = ::redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query(&mut client)
    }

    /// Whether `replica` has all that this server has written until now.
    ///
    /// By offsets, since `WAIT` waits only for what was written over its own connection.
    pub fn is_replicated_by(&self, replica: &RedisServer) -> bool {
        let number = |info: &str, name: &str| {
            let found = info.lines().find_map(|line| line.strip_prefix(name));
            found.map(|digits| digits.trim().parse::<u64>().expect("an offset"))
        };
        let written: String = self.say(&["INFO", "replication"]);
        let applied: String = replica.say(&["INFO", "replication"]);
        applied.contains("master_link_status:up")
            && number(&applied, "slave_repl_offset:") >= number(&written, "master_repl_offset:")
    }

    /// How often this command was run, also by scripts.
    pub fn calls(&self, command: &str) -> u32 {
        let info: String = self.say(&["INFO", "commandstats"]);
        let line = info.lines().find_map(|l| l.strip_prefix(&format!("cmdstat_{command}:calls=")));
        line.map_or(0, |line| line.split(',').next().unwrap().parse().expect("a number"))
    }

    /// The number of connections over the network.
    pub fn connections(&self) -> usize {
        let list: String = self.say(&["CLIENT", "LIST"]);
        list.lines().filter(|line| line.contains(" addr=127.0.0.1")).count()
    }

    /// Sets the server's clock ahead by this many seconds.
    pub fn set_clock(&self, wrong_by: i64) {
        // At once, so that no half of it is read.
        fs::write(self.file("clock.new"), wrong_by.to_string()).expect("a file");
        fs::rename(self.file("clock.new"), self.file("clock")).expect("the same folder");
    }
}

fn admin_address(setup: &RedisSetup, folder: &Folder) -> String {
    let user = if setup.password { "?user=admin&pass=x" } else { "" };
    format!("redis+unix://{}{user}", folder.file("admin"))
}

/// Compiles the library that replaces the clock, and returns its path.
fn shim(folder: &Folder) -> String {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/engines/redis_clock.c");
    let shim = folder.file("clock.so");
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-O1", "-o", &shim, source, "-ldl"]);
    assert!(cc.status().expect("Rust needs a C linker too").success(), "{cc:?}");
    shim
}

/// Redis that writes each change to its disk before it answers.
pub struct DurableRedis(RedisServer);

/// Redis that keeps nothing on its disk.
pub struct VolatileRedis(RedisServer);

impl Engine for DurableRedis {
    const CONNECTIONS: usize = 2;

    async fn start() -> Option<Self> {
        Some(Self(RedisServer::start_with(RedisSetup { durable: true, ..RedisSetup::default() })?))
    }

    fn address(&self) -> String {
        self.0.address()
    }

    fn data(&self) -> PathBuf {
        self.0.disk.file("").into()
    }

    async fn usage(&self) -> Usage {
        usage(&self.0)
    }
}

impl Server for DurableRedis {
    fn process(&self) -> &ServerProcess {
        &self.0.process
    }

    fn port(&self) -> u16 {
        self.0.port
    }

    fn address_at(&self, port: u16) -> String {
        self.0.address_at(port)
    }
}

impl OnDisk for DurableRedis {
    // With `appendfsync always` it has no other way: it did already what it cannot write down.
    const WHEN_FULL: WhenFull = WhenFull::Ends;

    async fn start_on_disk() -> Option<Self> {
        Some(Self(RedisServer::start_with(RedisSetup {
            durable: true,
            disk: Some(4),
            ..RedisSetup::default()
        })?))
    }

    fn disk(&self) -> &Disk {
        &self.0.disk
    }
}

impl Engine for VolatileRedis {
    const CONNECTIONS: usize = 2;

    async fn start() -> Option<Self> {
        Some(Self(RedisServer::start()?))
    }

    fn address(&self) -> String {
        self.0.address()
    }

    fn data(&self) -> PathBuf {
        self.0.disk.file("").into()
    }

    async fn usage(&self) -> Usage {
        usage(&self.0)
    }
}

impl Server for VolatileRedis {
    fn process(&self) -> &ServerProcess {
        &self.0.process
    }

    fn port(&self) -> u16 {
        self.0.port
    }

    fn address_at(&self, port: u16) -> String {
        self.0.address_at(port)
    }
}

/// What the server has of its clients.
fn usage(server: &RedisServer) -> Usage {
    Usage {
        connections: server.connections(),
        watches: server.say::<Vec<String>>(&["PUBSUB", "CHANNELS"]).len(),
        // All but the floor.
        keys: server.say::<usize>(&["DBSIZE"])
            - server.say::<usize>(&["EXISTS", "{lockword}floor"]),
    }
}

/// An authority whose files are in a folder.
pub struct Authority<'a> {
    folder: &'a Path,
    issuer: Issuer<'static, KeyPair>,
}

impl<'a> Authority<'a> {
    /// A new authority. Its certificate is `name.pem` in `folder`.
    pub fn new(folder: &'a Path, name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec![]).expect("no names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let certificate = params.self_signed(&key).expect("a certificate");
        fs::write(folder.join(format!("{name}.pem")), certificate.pem()).expect("a file");
        Self { folder, issuer: Issuer::new(params, key) }
    }

    /// Signs a certificate for `localhost` (and no address), good for servers and clients: `name.pem`
    /// and `name.key`. `expired`: it was valid until 2020.
    pub fn sign(&self, name: &str, expired: bool) {
        let key = KeyPair::generate().expect("a key");
        let names = vec!["localhost".to_owned()];
        let mut params = CertificateParams::new(names).expect("names of this machine");
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        if expired {
            params.not_before = date_time_ymd(2019, 1, 1);
            params.not_after = date_time_ymd(2020, 1, 1);
        }
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        fs::write(self.folder.join(format!("{name}.pem")), certificate.pem()).expect("a file");
        fs::write(self.folder.join(format!("{name}.key")), key.serialize_pem()).expect("a file");
    }
}

//! etcd servers that a test starts: one, or a cluster of three.

use super::disk::Disk;
use super::engine::{Engine, OnDisk, Server, Usage, WhenFull};
use super::process::{Folder, ServerProcess, find, free_port};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, date_time_ymd,
};
use std::fs::write;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The options of a server.
#[derive(Clone, Default)]
pub struct EtcdSetup {
    /// With TLS for its clients, with these certificates.
    pub tls: Option<Arc<Certificates>>,
    /// A client certificate is required.
    pub wants_certificate: bool,
    /// Further arguments.
    pub arguments: Vec<&'static str>,
    /// The size of a disk of its own, in megabytes.
    pub disk: Option<u32>,
}

/// A running server.
pub struct EtcdServer {
    pub process: ServerProcess,
    pub port: u16,
    pub disk: Disk,
    metrics: u16,
    tls: bool,
    _folder: Folder,
}

impl EtcdServer {
    /// Starts a single server with default options. `None`: etcd is not installed, skip the test.
    pub fn start() -> Option<Self> {
        Self::start_with(EtcdSetup::default())
    }

    pub fn start_with(setup: EtcdSetup) -> Option<Self> {
        Some(Cluster::start_some(1, &setup)?.members.remove(0))
    }

    /// Host and port.
    pub fn server(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The address for `lockword::cluster::connect`.
    pub fn address(&self) -> String {
        match self.tls {
            // The name in its certificate.
            true => format!("etcds://localhost:{}", self.port),
            false => format!("etcd://{}", self.server()),
        }
    }

    /// The URL for `etcd_client`, without TLS.
    pub fn url(&self) -> String {
        format!("http://{}", self.server())
    }

    /// The sum of the metrics that begin with this.
    pub fn metric(&self, name: &str) -> f64 {
        let text = http(self.metrics, "/metrics").expect("the server answers");
        let of = |line: &&str| line.starts_with(name);
        let value =
            |line: &str| line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok());
        text.lines().filter(of).filter_map(value).sum()
    }

    /// How many connections this process has to it. (etcd has one to itself, too.)
    pub fn connections(&self) -> usize {
        let fds = std::fs::read_dir("/proc/self/fd").expect("Linux tells").flatten();
        let links = fds.filter_map(|fd| std::fs::read_link(fd.path()).ok());
        let mine: Vec<String> = links.filter_map(|link| Some(link.to_str()?.to_owned())).collect();
        let table = std::fs::read_to_string("/proc/self/net/tcp").expect("Linux tells");
        let there = format!("0100007F:{:04X}", self.port);
        // "number local remote state .. inode", established is 1.
        let is_one = |line: &&str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let inode = format!("socket:[{}]", words.get(9).unwrap_or(&""));
            words.get(2) == Some(&&*there) && words.get(3) == Some(&"01") && mine.contains(&inode)
        };
        table.lines().filter(is_one).count()
    }

    pub fn is_leader(&self) -> bool {
        http(self.metrics, "/metrics").is_ok_and(|text| text.contains("etcd_server_is_leader 1"))
    }
}

/// Several servers of one cluster.
pub struct Cluster {
    pub members: Vec<EtcdServer>,
}

impl Cluster {
    /// Starts a cluster of three. `None`: etcd is not installed, skip the test.
    pub fn start() -> Option<Self> {
        // Elections within the second.
        let arguments = vec!["--heartbeat-interval", "50", "--election-timeout", "500"];
        Self::start_some(3, &EtcdSetup { arguments, ..EtcdSetup::default() })
    }

    fn start_some(number: usize, setup: &EtcdSetup) -> Option<Self> {
        let program = find("etcd", &["/usr/local/bin"])?;
        let ports: Vec<[u16; 3]> = (0..number).map(|_| [(); 3].map(|()| free_port())).collect();
        let peers: Vec<String> = ports.iter().map(|ports| peer(ports[1])).collect();
        let peers = peers.join(",");
        let start = |ports: [u16; 3]| {
            let folder = Folder::new("etcd");
            let log = folder.path().join("log");
            let disk = Disk::new(folder.file("disk"), setup.disk, None)?;
            let [client, own_peer, metrics] = ports;
            let scheme = if setup.tls.is_some() { "https" } else { "http" };
            let clients = format!("{scheme}://127.0.0.1:{client}");
            let (name, own_peer) = peer(own_peer).split_once('=').map(own).expect("name=address");
            let mut arguments = vec![];
            let mut add = |option: &str, value: &str| {
                arguments.extend([format!("--{option}"), value.to_owned()]);
            };
            add("name", &name);
            add("data-dir", &disk.file("data"));
            add("listen-client-urls", &clients);
            add("advertise-client-urls", &clients);
            add("listen-peer-urls", &own_peer);
            add("initial-advertise-peer-urls", &own_peer);
            add("initial-cluster", &peers);
            add("listen-metrics-urls", &format!("http://127.0.0.1:{metrics}"));
            if let Some(tls) = &setup.tls {
                add("cert-file", &tls.file("server.pem"));
                add("key-file", &tls.file("server.key"));
                if setup.wants_certificate {
                    arguments.push("--client-cert-auth".to_owned());
                    arguments.extend(["--trusted-ca-file".to_owned(), tls.file("authority.pem")]);
                }
            }
            arguments.extend(setup.arguments.iter().map(|argument| (*argument).to_owned()));
            let program = program.clone();
            let command = move || {
                let mut command = Command::new(&program);
                command.args(&arguments);
                command
            };
            // It says so when it knows a leader, and can read by the word of the majority.
            let ready = move || match http(metrics, "/health") {
                Ok(text) if text.contains(r#""health":"true""#) => Ok(()),
                Ok(text) => Err(text),
                Err(error) => Err(error.to_string()),
            };
            let process =
                ServerProcess::start_at(disk.namespace.clone(), "etcd", &log, command, ready);
            let tls = setup.tls.is_some();
            Some(EtcdServer { process, port: client, disk, metrics, tls, _folder: folder })
        };
        // None is ready before the majority is.
        let members: Option<_> = std::thread::scope(|scope| {
            let started: Vec<_> = ports.iter().map(|ports| scope.spawn(|| start(*ports))).collect();
            started.into_iter().map(|member| member.join().expect("a member starts")).collect()
        });
        Some(Self { members: members? })
    }

    /// The address for `lockword::cluster::connect`, with all members, beginning with this one.
    pub fn address(&self, first: usize) -> String {
        let number = self.members.len();
        let order = (first..number).chain(0..first);
        let servers: Vec<String> = order.map(|member| self.members[member].server()).collect();
        format!("etcd://{}", servers.join(","))
    }

    /// The number of the leader. Waits until there is one.
    pub fn leader(&self) -> usize {
        loop {
            if let Some(leader) = self.members.iter().position(EtcdServer::is_leader) {
                return leader;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn peer(port: u16) -> String {
    format!("m{port}=http://127.0.0.1:{port}")
}

fn own((name, address): (&str, &str)) -> (String, String) {
    (name.to_owned(), address.to_owned())
}

fn http(port: u16, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    let limit = Some(Duration::from_secs(2));
    stream.set_read_timeout(limit)?;
    stream.set_write_timeout(limit)?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

impl Engine for EtcdServer {
    const CONNECTIONS: usize = 1;

    async fn start() -> Option<Self> {
        EtcdServer::start()
    }

    fn address(&self) -> String {
        Server::address_at(self, self.port)
    }

    fn data(&self) -> PathBuf {
        self.disk.file("").into()
    }

    async fn usage(&self) -> Usage {
        Usage {
            connections: self.connections(),
            watches: self.metric("etcd_debugging_mvcc_watcher_total") as usize,
            keys: self.metric("etcd_debugging_mvcc_keys_total") as usize,
        }
    }
}

impl Server for EtcdServer {
    fn process(&self) -> &ServerProcess {
        &self.process
    }

    fn port(&self) -> u16 {
        self.port
    }

    fn address_at(&self, port: u16) -> String {
        format!("etcd://127.0.0.1:{port}")
    }
}

impl OnDisk for EtcdServer {
    const WHEN_FULL: WhenFull = WhenFull::Ends;

    async fn start_on_disk() -> Option<Self> {
        let server = Self::start_with(EtcdSetup { disk: Some(150), ..EtcdSetup::default() })?;
        // Its log has reserved 64 MB, and reserves 64 more, all or nothing.
        let end = Instant::now() + Duration::from_secs(60);
        while server.disk.len("data/member/wal/0.tmp").unwrap_or(0) < 64_000_000 {
            assert!(Instant::now() < end, "it keeps its log in another way");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Some(server)
    }

    fn disk(&self) -> &Disk {
        &self.disk
    }
}

/// An authority, and what it has signed for a server and a client named `localhost`. The files
/// (`authority.pem`, `server.pem`, `server.key`, `client.pem`, `client.key`) go with this value.
pub struct Certificates(Folder);

impl Certificates {
    /// `expired`: the server's certificate has expired.
    pub fn new(name: &str, expired: bool) -> Self {
        let folder = Folder::new(name);
        let mut params = CertificateParams::new(vec![]).expect("no names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("an authority");
        write(folder.file("authority.pem"), issuer.pem()).expect("a file");
        // etcd shows the server's as a client, too: to itself.
        let server = ExtendedKeyUsagePurpose::ServerAuth;
        let client = ExtendedKeyUsagePurpose::ClientAuth;
        for (name, usages, expired) in
            [("server", vec![server, client.clone()], expired), ("client", vec![client], false)]
        {
            let mut params = CertificateParams::new(vec!["localhost".into()]).expect("a name");
            params.extended_key_usages = usages;
            if expired {
                params.not_before = date_time_ymd(2001, 1, 1);
                params.not_after = date_time_ymd(2002, 1, 1);
            }
            let key = KeyPair::generate().expect("a key");
            let signed = params.signed_by(&key, &issuer).expect("a certificate");
            write(folder.file(&format!("{name}.pem")), signed.pem()).expect("a file");
            write(folder.file(&format!("{name}.key")), key.serialize_pem()).expect("a file");
        }
        Self(folder)
    }

    /// The path of one of the files.
    pub fn file(&self, name: &str) -> String {
        self.0.file(name)
    }
}

//! A PostgreSQL server that a test starts, and a pooler in front of it.

use super::disk::Disk;
use super::engine::{Engine, OnDisk, Server, Usage, WhenFull};
use super::namespace::Namespace;
use super::process::{Folder, ServerProcess, find, free_port};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio_postgres::{AsyncMessage, Client, NoTls};

/// The options of a server.
#[derive(Clone, Default)]
pub struct PostgresSetup {
    /// `name=value`, as in the server's configuration.
    pub settings: Vec<String>,
    /// The password of the user `postgres`; without one everybody is trusted.
    pub password: Option<String>,
    /// With TLS, and only with TLS.
    pub tls: Option<Tls>,
    /// The size of a disk of its own, in megabytes.
    pub disk: Option<u32>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    /// A good certificate.
    Good,
    /// One that has expired.
    Expired,
    /// A good one, and the client needs one too.
    Mutual,
}

/// A running server.
pub struct PostgresServer {
    pub process: ServerProcess,
    pub port: u16,
    pub disk: Disk,
    folder: Folder,
    password: Option<String>,
    has_tls: bool,
}

/// The programs of the newest version that is installed. `None`: skip the test.
fn programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut folders: Vec<_> = versions.map(|version| version.path().join("bin")).collect();
    folders.sort();
    folders.reverse();
    let folders: Vec<_> = folders.iter().filter_map(|folder| folder.to_str()).collect();
    let postgres = find("postgres", &folders)?;
    // On the `PATH` it may be a link.
    Some(fs::canonicalize(postgres).expect("it is there").parent().expect("a folder").to_owned())
}

/// The user and group to run as, since PostgreSQL refuses to run as root. `None`: those of this process.
fn user() -> Option<(u32, u32)> {
    // SAFETY: a system call without arguments.
    if unsafe { libc::geteuid() } != 0 {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").expect("there are users");
    let find = |name: &str| {
        let user = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut numbers = user.split(':').skip(2).map(|number| number.parse().expect("a number"));
        Some((numbers.next()?, numbers.next()?))
    };
    Some(find("postgres").or_else(|| find("nobody")).expect("a user that is not root"))
}

fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    if let Some((user, group)) = user() {
        command.uid(user).gid(group);
    }
    command.env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C").current_dir("/");
    command
}

fn run(namespace: &Namespace, program: &Path, args: &[&str]) {
    let mut command = command(program);
    command.args(args).stdin(Stdio::null());
    let done = namespace.run(move || command.output()).expect("it runs");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{}: {said}", program.display());
}

fn owned_folder(name: &str) -> Folder {
    let folder = Folder::new(name);
    if let Some((user, group)) = user() {
        chown(folder.path(), Some(user), Some(group)).expect("root may do that");
    }
    folder
}

fn write(path: &str, text: &str) {
    fs::write(path, text).expect("a file of ours");
    fs::set_permissions(path, Permissions::from_mode(0o600)).expect("a file of ours");
    if let Some((user, group)) = user() {
        chown(path, Some(user), Some(group)).expect("root may do that");
    }
}

fn start(
    disk: &Disk,
    bin: &Path,
    folder: &Folder,
    port: u16,
    settings: Vec<String>,
) -> ServerProcess {
    let ready = bin.join("pg_isready");
    let (bin, data, socket) = (bin.join("postgres"), disk.file("data"), folder.file(""));
    ServerProcess::start_at(
        disk.namespace.clone(),
        "PostgreSQL",
        &folder.path().join("log"),
        move || {
            let mut postgres = command(&bin);
            postgres.args([
                "-D",
                &data,
                "-p",
                &port.to_string(),
                "-c",
                "listen_addresses=127.0.0.1",
            ]);
            postgres.args(["-c", &format!("unix_socket_directories={socket}")]);
            for setting in &settings {
                postgres.args(["-c", setting]);
            }
            postgres
        },
        move || {
            let port = port.to_string();
            let asked = command(&ready).args(["-q", "-h", "127.0.0.1", "-p", &port]).status();
            match asked.expect("pg_isready runs").success() {
                true => Ok(()),
                false => Err("it takes no connections".to_owned()),
            }
        },
    )
}

impl PostgresServer {
    /// Starts a server. `None`: PostgreSQL is not installed, skip the test.
    pub fn start(setup: PostgresSetup) -> Option<Self> {
        let bin = programs()?;
        let (folder, port) = (owned_folder("postgres"), free_port());
        let disk = Disk::new(folder.file("disk"), setup.disk, user())?;
        let data = disk.file("data");
        let mut args = vec!["-D", &data, "-U", "postgres", "--no-sync", "-E", "UTF8"];
        let file = folder.file("password");
        match &setup.password {
            Some(password) => {
                write(&file, password);
                args.extend(["-A", "scram-sha-256", "--pwfile", &file]);
            }
            None => args.extend(["-A", "trust"]),
        }
        run(&disk.namespace, &bin.join("initdb"), &args);
        let mut settings = vec!["shared_buffers=16MB".to_owned(), "max_connections=50".to_owned()];
        settings.extend(setup.settings);
        if let Some(tls) = setup.tls {
            certificates(&folder, tls == Tls::Expired);
            settings.push("ssl=on".to_owned());
            for (name, file) in [("cert", "server.pem"), ("key", "server.key"), ("ca", "ca.pem")] {
                settings.push(format!("ssl_{name}_file={}", folder.file(file)));
            }
            let how = if setup.password.is_some() { "scram-sha-256" } else { "trust" };
            let client = if tls == Tls::Mutual { " clientcert=verify-ca" } else { "" };
            let line = format!("hostssl all all 127.0.0.1/32 {how}{client}\n");
            write(&disk.file("data/pg_hba.conf"), &line);
        }
        let process = start(&disk, &bin, &folder, port, settings);
        let has_tls = setup.tls.is_some();
        Some(Self { process, port, disk, folder, password: setup.password, has_tls })
    }

    /// Starts a read-only replica of this server.
    pub fn replica(&self) -> Self {
        let bin = programs().expect("it was there before");
        let (folder, port) = (owned_folder("replica"), free_port());
        let disk = Disk::new(folder.file("disk"), None, user()).expect("it is nothing special");
        let (data, from) = (disk.file("data"), self.port.to_string());
        let args = [
            "-h",
            "127.0.0.1",
            "-p",
            &from,
            "-U",
            "postgres",
            "-D",
            &data,
            "-R",
            "-c",
            "fast",
            "-N",
        ];
        run(&disk.namespace, &bin.join("pg_basebackup"), &args);
        let process = start(&disk, &bin, &folder, port, vec!["max_connections=50".to_owned()]);
        Self { process, port, disk, folder, password: None, has_tls: false }
    }

    /// The address, with `more` behind the question mark.
    pub fn address(&self, more: &str) -> String {
        self.address_at(self.port, more)
    }

    /// The address with another port.
    pub fn address_at(&self, port: u16, more: &str) -> String {
        let password = self.password.as_ref().map_or(String::new(), |word| format!(":{word}"));
        format!("postgres://postgres{password}@127.0.0.1:{port}/postgres?{more}")
    }

    /// Replaces the authority whose certificates it wants of its clients by that of `other.pem`. Restart it then.
    pub fn trust_other_clients(&self) {
        let other = fs::read_to_string(self.file("other.pem")).expect("a file of ours");
        write(&self.file("ca.pem"), &other);
    }

    /// A file of its folder: `ca.pem`, `client.pem`, `client.key`; of another authority `other.pem`,
    /// `foreign.pem`, `foreign.key`.
    pub fn file(&self, name: &str) -> String {
        self.folder.file(name)
    }

    /// PostgreSQL's own client, without TLS.
    pub async fn client(&self) -> Client {
        assert!(!self.has_tls, "a plain client");
        let address = self.address("application_name=by-hand");
        let (client, wire) = tokio_postgres::connect(&address, NoTls).await.expect("it runs");
        tokio::spawn(wire);
        client
    }

    /// The notifications on `channel`, for as long as the client lives.
    pub async fn listen(&self, channel: &str) -> (Client, UnboundedReceiver<String>) {
        let address = self.address("application_name=by-hand");
        let (client, mut wire) = tokio_postgres::connect(&address, NoTls).await.expect("it runs");
        let (tell, told) = unbounded_channel();
        tokio::spawn(async move {
            while let Some(Ok(message)) = std::future::poll_fn(|cx| wire.poll_message(cx)).await {
                if let AsyncMessage::Notification(said) = message {
                    let _ = tell.send(said.payload().to_owned());
                }
            }
        });
        client.batch_execute(&format!("LISTEN \"{channel}\"")).await.expect("it runs");
        (client, told)
    }
}

/// Writes the certificates of an authority, the server and a client, and that of another authority.
fn certificates(folder: &Folder, expired: bool) {
    let authority = |name: &str| {
        let mut params = CertificateParams::new(vec![]).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("signed")
    };
    let (ca, other) = (authority("lockword"), authority("somebody else"));
    write(&folder.file("ca.pem"), &ca.pem());
    write(&folder.file("other.pem"), &other.pem());
    let address = || vec!["127.0.0.1".to_owned()];
    for (name, alternatives, ca) in
        [("server", address(), &ca), ("client", vec![], &ca), ("foreign", vec![], &other)]
    {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(alternatives).expect("an address");
        params.distinguished_name.push(DnType::CommonName, "postgres");
        if expired {
            params.not_before = rcgen::date_time_ymd(2000, 1, 1);
            params.not_after = rcgen::date_time_ymd(2001, 1, 1);
        }
        let certificate = params.signed_by(&key, ca).expect("signed");
        write(&folder.file(&format!("{name}.pem")), &certificate.pem());
        write(&folder.file(&format!("{name}.key")), &key.serialize_pem());
    }
}

/// PgBouncer in transaction mode.
pub struct Pooler {
    pub port: u16,
    _process: ServerProcess,
    _folder: Folder,
}

impl Pooler {
    /// Starts a pooler in front of `server`. `None`: it is not installed, skip the test.
    pub fn start(server: &PostgresServer) -> Option<Self> {
        let program = find("pgbouncer", &["/usr/sbin"])?;
        let (folder, port) = (owned_folder("pooler"), free_port());
        let config = folder.file("config");
        let text = format!(
            "[databases]\n* = host=127.0.0.1 port={} user=postgres\n[pgbouncer]\nauth_type = any\n\
             listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             pool_mode = transaction\ndefault_pool_size = 3\n",
            server.port
        );
        write(&config, &text);
        let process = ServerProcess::start(
            "PgBouncer",
            &folder.path().join("log"),
            move || {
                let mut pooler = command(&program);
                pooler.arg(&config);
                pooler
            },
            move || match std::net::TcpStream::connect(("127.0.0.1", port)) {
                Ok(_) => Ok(()),
                Err(error) => Err(error.to_string()),
            },
        );
        Some(Self { port, _process: process, _folder: folder })
    }
}

impl Engine for PostgresServer {
    // One is for notifications.
    const CONNECTIONS: usize = 2;

    async fn start() -> Option<Self> {
        start_with_table(None).await
    }

    fn address(&self) -> String {
        Server::address_at(self, self.port)
    }

    fn data(&self) -> PathBuf {
        self.disk.file("").into()
    }

    /// The server does not show the subscriptions of other connections: a leaked one shows as a
    /// connection.
    async fn usage(&self) -> Usage {
        let by_hand = self.client().await;
        let connections = "SELECT count(*) FROM pg_stat_activity \
            WHERE application_name = 'lockword'";
        let keys = "SELECT count(*) FROM public.lockword WHERE key <> ''";
        let count = async |sql: &str| {
            let row = by_hand.query_one(sql, &[]).await.expect("it runs");
            usize::try_from(row.get::<_, i64>(0)).expect("a count")
        };
        Usage { connections: count(connections).await, watches: 0, keys: count(keys).await }
    }
}

impl Server for PostgresServer {
    fn process(&self) -> &ServerProcess {
        &self.process
    }

    fn port(&self) -> u16 {
        self.port
    }

    fn address_at(&self, port: u16) -> String {
        PostgresServer::address_at(self, port, "")
    }
}

impl OnDisk for PostgresServer {
    // While its log still has room: that is reserved in pieces of 16 MB.
    const WHEN_FULL: WhenFull = WhenFull::Refuses;

    async fn start_on_disk() -> Option<Self> {
        start_with_table(Some(96)).await
    }

    fn disk(&self) -> &Disk {
        &self.disk
    }
}

async fn start_with_table(disk: Option<u32>) -> Option<PostgresServer> {
    // The suite's 32 processes have two connections each.
    let settings = vec!["max_connections=120".to_owned()];
    let server =
        PostgresServer::start(PostgresSetup { settings, disk, ..PostgresSetup::default() })?;
    let address = server.address("create_schema=true");
    lockword::cluster::connect(&address).await.expect("the table can be made");
    Some(server)
}

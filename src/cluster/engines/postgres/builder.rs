//! The options of the PostgreSQL engine, from setters or from a URL.

use super::Postgres;
use super::sql::{ServerTimeouts, SqlStatements};
use crate::cluster::ConnectError;
use crate::cluster::engines::credentials::{Credentials, LoginSource};
use crate::cluster::engines::options::{
    ConnectionOptions, EngineUrl, LONGEST_TIMEOUT, connection_setters, host_and_port, invalid,
    number, shown, unknown_option,
};
use crate::cluster::engines::tls::RustlsSource;
use rustls::ClientConfig;
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Config, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;
use url::Url;

/// The longest name of a table, with its schema, in bytes. The name of a channel may have 63 bytes, and
/// has the name of the table, a colon and the number of a node.
const LONGEST_TABLE: usize = 46;

const PORT: u16 = 5432;

/// libpq's names of the options that all engines have, and the names that lockword gives them.
const LIBPQ_NAMES: [(&str, &str); 4] = [
    ("sslrootcert", "ca"),
    ("sslcert", "cert"),
    ("sslkey", "key"),
    ("connect_timeout", "connect_timeout_ms"),
];

/// How PostgreSQL is to be reached: from [`Postgres::builder`], or from a URL.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use lockword::cluster::engines::postgres::{Postgres, PostgresBuilder};
///
/// let postgres = Postgres::builder("db.example.org:5432")
///     .user("app")
///     .password("pass/word")
///     .database("shop")
///     .tls()
///     .create_schema(true)
///     .connect()
///     .await?;
/// // The same by a URL.
/// let url = "postgres://app:pass%2Fword@db.example.org:5432/shop?sslmode=verify-full\
///            &create_schema=true";
/// let postgres = PostgresBuilder::from_url(&url.parse()?)?.connect().await?;
/// # Ok(())
/// # }
/// ```
#[must_use = "nothing happens before connect is called"]
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresBuilder {
    servers: Vec<String>,
    /// For those of `servers` that name none.
    port: u16,
    database: Option<String>,
    application_name: String,
    pub(super) table: String,
    create_schema: bool,
    unlogged: bool,
    replicas: Option<Replicas>,
    pooled: bool,
    pub(super) connection: ConnectionOptions,
}

/// The servers to which a failover may lead: see [the guarantees](super#guarantees).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Replicas {
    /// A failover never leads to a replica. In a URL: `none`.
    None,
    /// A failover leads only to replicas that have every acknowledged write. A server that is not set
    /// up for this is refused. In a URL: `sync`.
    Sync,
    /// A failover may lead to a replica that lacks acknowledged writes. In a URL: `async`.
    Async,
}

impl PostgresBuilder {
    pub(super) fn new(server: String) -> Self {
        Self {
            servers: vec![server],
            port: PORT,
            database: None,
            application_name: "lockword".to_owned(),
            table: "public.lockword".to_owned(),
            create_schema: false,
            unlogged: false,
            replicas: None,
            pooled: false,
            connection: ConnectionOptions::new(Duration::from_secs(5), Duration::from_secs(5)),
        }
    }

    /// Reads the options from a URL, whose form is described at the [module](super#the-url). No file
    /// is read and nothing is connected yet.
    ///
    /// # Errors
    ///
    /// [`ConnectError::Address`] if the URL is not valid. Its password is not part of the error.
    pub fn from_url(url: &Url) -> Result<Self, ConnectError> {
        let url = with_host(url);
        let url_parts = EngineUrl::parse(&url, "postgres://user:password@host:port/database")?;
        let mut servers = url_parts.servers;
        if servers[0].starts_with('/') && url.port().is_none() && servers[0].contains(':') {
            // A colon in the name of the folder: what follows it is not the port.
            servers[0] = format!("{}:{PORT}", servers[0]);
        }
        let mut builder = Self { servers, ..Self::new(String::new()) };
        builder.connection.set_login(url_parts.user, url_parts.password);
        builder.database = Some(url_parts.path).filter(|name| !name.is_empty());
        for (alias, name) in LIBPQ_NAMES {
            let is_set = |name: &str| url_parts.options.iter().any(|(other, _)| other == name);
            if is_set(alias) && is_set(name) {
                let both =
                    format!("the options {alias:?} and {name:?} mean the same: use only one");
                return Err(invalid(both));
            }
        }
        for (name, value) in &url_parts.options {
            builder.set(name, value)?;
        }
        Ok(builder)
    }

    /// Sets the option of a URL that is called `name`.
    fn set(&mut self, name: &str, value: &str) -> Result<(), ConnectError> {
        let refused =
            |allowed: &str| invalid(format!("{name} is {value:?}, but must be {allowed}"));
        let boolean = || value.parse().map_err(|_| refused("true or false"));
        // libpq's names, of which the errors are to speak where they are used.
        let names = &mut self.connection.tls.names;
        let name = match name {
            "sslrootcert" => {
                names.ca = "sslrootcert";
                "ca"
            }
            "sslcert" => {
                names.certificate = "sslcert";
                "cert"
            }
            "sslkey" => {
                names.key = "sslkey";
                "key"
            }
            "connect_timeout" => {
                let seconds = number(name, value)?;
                if !(1..=LONGEST_TIMEOUT.as_secs()).contains(&seconds) {
                    let most = LONGEST_TIMEOUT.as_secs();
                    return Err(refused(&format!("from 1 to {most} (in seconds)")));
                }
                self.connection.connect_timeout = Duration::from_secs(seconds);
                return Ok(());
            }
            name => name,
        };
        match name {
            "sslmode" => {
                self.connection.tls.enabled = match value {
                    "disable" => false,
                    "require" | "verify-full" => true,
                    _ => return Err(refused("disable or verify-full (require is the same)")),
                };
                // Who writes it means it.
                self.connection.allows_plaintext |= value == "disable";
            }
            "port" => match value.parse() {
                Ok(port) if port > 0 => self.port = port,
                _ => return Err(refused("from 1 to 65535")),
            },
            "user" => self.connection.login.user = Some(value.to_owned()),
            // The only kind of server that is of use. The engine always looks for it.
            "target_session_attrs" => match value {
                "read-write" | "primary" => {}
                _ => return Err(refused("read-write or primary: a lock is written")),
            },
            "application_name" => value.clone_into(&mut self.application_name),
            "table" => value.clone_into(&mut self.table),
            "create_schema" => self.create_schema = boolean()?,
            "unlogged" => self.unlogged = boolean()?,
            "pooled" => self.pooled = boolean()?,
            "replicas" => {
                self.replicas = Some(match value {
                    "none" => Replicas::None,
                    "sync" => Replicas::Sync,
                    "async" => Replicas::Async,
                    _ => return Err(refused("none, sync or async")),
                });
            }
            _ if self.connection.set(name, value)? => {}
            _ => {
                let known = "sslmode, table, create_schema, unlogged, replicas, pooled, \
                             application_name, host, port, user, target_session_attrs";
                let known = format!("{}, {known}", ConnectionOptions::NAMES);
                return Err(unknown_option(name, &known));
            }
        }
        Ok(())
    }

    /// A further server, in the form of [`Postgres::builder`]. Each new connection tries the servers in order,
    /// and is one to the first that is a primary. In a URL: `host1:port1,host2:port2`.
    pub fn server(mut self, server: impl Into<String>) -> Self {
        self.servers.push(server.into());
        self
    }

    /// The name of the database. Default: the name of the [user](Self::user). In a URL: the path.
    pub fn database(mut self, name: impl Into<String>) -> Self {
        self.database = Some(name.into());
        self
    }

    /// The name under which the server shows the connections. Default: `lockword`. In a URL:
    /// `application_name`.
    pub fn application_name(mut self, name: impl Into<String>) -> Self {
        self.application_name = name.into();
        self
    }

    /// The table of the registers: `name` or `schema.name`, of `a-z`, `0-9` and `_`, at most 46 bytes
    /// together. Default: `public.lockword`. In a URL: `table`.
    pub fn table(mut self, name: impl Into<String>) -> Self {
        self.table = name.into();
        self
    }

    /// Whether [`connect`](Self::connect) creates the table if it does not exist. Default: `false`. In
    /// a URL: `create_schema`.
    pub fn create_schema(mut self, create: bool) -> Self {
        self.create_schema = create;
        self
    }

    /// Whether the table is one that is not written to the log, and that a crash of the server empties: see
    /// [the module](super#an-unlogged-table). Default: `false`. In a URL: `unlogged`.
    pub fn unlogged(mut self, unlogged: bool) -> Self {
        self.unlogged = unlogged;
        self
    }

    /// The servers to which a failover may lead, which decides what the engine promises. Default: it is
    /// derived from the replicas that the server has when the engine connects. In a URL: `replicas`.
    pub fn replicas(mut self, replicas: Replicas) -> Self {
        self.replicas = Some(replicas);
        self
    }

    /// Whether there is a transaction pooler between here and the server: see
    /// [the module](super#poolers). Default: `false`. In a URL: `pooled`.
    pub fn pooled(mut self, pooled: bool) -> Self {
        self.pooled = pooled;
        self
    }

    connection_setters! {
        user: "the user of the system that runs this process",
        connect_timeout: "5 s", timeout: "5 s",
        "How long a request may take, with everything that it needs"
    }

    /// Checks the options, reads the files that they name, connects, and checks the server.
    ///
    /// Whether the table exists is not checked: see [`create_schema`](Self::create_schema) and
    /// [`Postgres::create_schema`]. It has to be called within a tokio runtime whose timers are enabled,
    /// and so has every method of [`Postgres`].
    ///
    /// It returns within four times the connect timeout plus the timeout: twice the connect timeout to
    /// connect and to set the connection up, and that again if the connection is lost at once. If it
    /// creates the table, it returns within twice as long plus the timeout; and so it does if a
    /// [runtime](Self::runtime) was given that nothing drives.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future is safe at any moment. It leaves nothing behind but a try to connect, which ends by
    /// itself within four times the connect timeout. A table that is being created may or may not be created.
    ///
    /// # Errors
    ///
    /// [`ConnectError`], but never `UnknownScheme` or `MissingFeature`.
    /// [`Address`](ConnectError::Address) names the option that is not valid.
    pub async fn connect(self) -> Result<Postgres, ConnectError> {
        let create_schema = self.create_schema;
        let (runtime, limit) =
            (self.connection.runtime.clone(), self.connection.connecting_limit());
        let config = self.config()?;
        let server = config.server.clone();
        let open = |on| async move {
            let postgres = Postgres::open(config, on).await?;
            if create_schema {
                postgres.create_schema().await.map_err(|error| ConnectError::Unsuitable {
                    server,
                    why: format!("the table could not be created: {error}"),
                })?;
            }
            Ok(postgres)
        };
        runtime.open(limit, open).await
    }

    /// The checked options.
    fn config(self) -> Result<PostgresConfig, ConnectError> {
        self.connection.check("sslmode=verify-full")?;
        let table = full_name(&self.table)?;
        if self.unlogged && self.replicas == Some(Replicas::Sync) {
            let why = "unlogged=true and replicas=sync: no replica has an unlogged table";
            return Err(invalid(why));
        }
        let ConnectionOptions { login, allows_plaintext, connect_timeout, timeout, tls, .. } =
            self.connection;
        let mut client = Config::new();
        let hosts = self.servers.iter().map(|server| socket_or_host(server, self.port));
        let hosts = hosts.collect::<Result<Vec<_>, _>>()?;
        if tls.enabled && hosts.iter().any(|(host, _)| host.starts_with('/')) {
            return Err(invalid("there is no TLS over a socket that is a file"));
        }
        let server: Vec<_> = hosts.iter().map(|(host, port)| format!("{host}:{port}")).collect();
        if let Some(database) = self.database {
            client.dbname(database);
        }
        client.ssl_mode(if tls.enabled { SslMode::Require } else { SslMode::Disable });
        client.application_name(self.application_name);
        client.keepalives_idle(Duration::from_secs(30));
        client.tcp_user_timeout(timeout);
        let limits = ServerTimeouts::new(timeout);
        let guards_password = login.has_password() && !tls.enabled && !allows_plaintext;
        let server_name = tls.server_name.clone();
        Ok(PostgresConfig {
            client,
            login,
            guards_password,
            tls: tls.rustls()?,
            server_name,
            server: server.join(","),
            hosts,
            statements: SqlStatements::new(&table, limits, !self.pooled),
            table,
            unlogged: self.unlogged,
            pooled: self.pooled,
            replicas: self.replicas,
            connect_timeout,
            timeout,
            limits,
        })
    }
}

/// The URL with the first host of its query where a URL has its host, if it has none there.
fn with_host(url: &Url) -> Cow<'_, Url> {
    if url.host_str().is_some_and(|host| !host.is_empty()) {
        return Cow::Borrowed(url);
    }
    let mut pairs: Vec<_> = url.query_pairs().into_owned().collect();
    let Some(at) = pairs.iter().position(|(name, _)| name == "host") else {
        return Cow::Borrowed(url);
    };
    let (_, host) = pairs.remove(at);
    let mut moved = url.clone();
    moved.query_pairs_mut().clear().extend_pairs(pairs);
    match moved.set_host(Some(&host.replace('%', "%25").replace('/', "%2F").replace(':', "%3A"))) {
        Ok(()) => Cow::Owned(moved),
        Err(_) => Cow::Borrowed(url),
    }
}

/// The host or the folder of a socket, and the port.
fn socket_or_host(server: &str, default_port: u16) -> Result<(String, u16), ConnectError> {
    if !cfg!(unix) || !server.starts_with('/') {
        return host_and_port(server, default_port);
    }
    let Some((folder, port)) = server.rsplit_once(':') else {
        return Ok((server.to_owned(), default_port));
    };
    match port.parse() {
        Ok(port) => Ok((folder.to_owned(), port)),
        Err(_) => Err(invalid(format!(
            "{} is no server: a folder with a colon in its name needs the port behind it, as in \
             /folder:name:{PORT}",
            shown(server)
        ))),
    }
}

/// The name of a table with its schema. `lockword` is `public.lockword`. Only names that need no
/// quotation marks are allowed.
pub(super) fn full_name(table: &str) -> Result<String, ConnectError> {
    let full = if table.contains('.') { table.to_owned() } else { format!("public.{table}") };
    let is_name = |name: &str| {
        let allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_';
        name.bytes().all(allowed) && name.bytes().next().is_some_and(|c| !c.is_ascii_digit())
    };
    if full.len() > LONGEST_TABLE || full.split('.').count() != 2 || !full.split('.').all(is_name) {
        return Err(invalid(format!(
            "table is {table:?}, but must be a name or schema.name of a-z, 0-9 and _, of at most \
             {LONGEST_TABLE} bytes together"
        )));
    }
    Ok(full)
}

/// Without user, password and key.
impl fmt::Debug for PostgresBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut fields = f.debug_struct("PostgresBuilder");
        for server in &self.servers {
            fields.field("server", &format_args!("{}", shown(server)));
        }
        self.connection.debug_fields(&mut fields);
        fields.field("table", &self.table).field("pooled", &self.pooled).finish_non_exhaustive()
    }
}

/// The options after they were checked, and what follows from them.
pub(super) struct PostgresConfig {
    /// Without a server, user and password.
    pub(super) client: Config,
    pub(super) login: LoginSource,
    /// The password goes to addresses of the loopback interface only.
    pub(super) guards_password: bool,
    /// The servers, in the order in which they are tried: a host or the folder of a socket, and the port.
    pub(super) hosts: Vec<(String, u16)>,
    pub(super) tls: Arc<RustlsSource>,
    /// What is expected in the certificate, if it is not the host.
    pub(super) server_name: Option<String>,
    /// Hosts and ports, for messages.
    pub(super) server: String,
    /// With its schema.
    pub(super) table: String,
    /// A crash empties the table.
    pub(super) unlogged: bool,
    pub(super) statements: SqlStatements,
    /// There is a transaction pooler between here and the server.
    pub(super) pooled: bool,
    pub(super) replicas: Option<Replicas>,
    pub(super) connect_timeout: Duration,
    pub(super) timeout: Duration,
    pub(super) limits: ServerTimeouts,
}

/// Without user and password.
impl fmt::Debug for PostgresConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("PostgresConfig");
        shown.field("server", &self.server).field("table", &self.table);
        shown.field("pooled", &self.pooled).finish_non_exhaustive()
    }
}

impl PostgresConfig {
    /// The options of a connection with these credentials.
    pub(super) fn client_with(&self, credentials: Credentials) -> Config {
        let mut client = self.client.clone();
        if let Some(user) = credentials.user {
            client.user(user);
        }
        if let Some(password) = credentials.password {
            client.password(password);
        }
        client
    }

    /// TLS by this configuration.
    pub(super) fn tls_with(&self, config: &ClientConfig) -> PostgresTls {
        PostgresTls {
            connector: MakeRustlsConnect::new(config.clone()),
            server_name: self.server_name.clone(),
        }
    }
}

/// TLS that expects `server_name` in the certificate, if there is one, instead of the host.
#[derive(Clone)]
pub(super) struct PostgresTls {
    connector: MakeRustlsConnect,
    server_name: Option<String>,
}

impl MakeTlsConnect<Socket> for PostgresTls {
    type Stream = <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream;
    type TlsConnect = <MakeRustlsConnect as MakeTlsConnect<Socket>>::TlsConnect;
    type Error = <MakeRustlsConnect as MakeTlsConnect<Socket>>::Error;

    fn make_tls_connect(&mut self, host: &str) -> Result<Self::TlsConnect, Self::Error> {
        let name = self.server_name.as_deref().unwrap_or(host);
        MakeTlsConnect::<Socket>::make_tls_connect(&mut self.connector, name)
    }
}

#[cfg(test)]
mod tests {
    use super::{Postgres, PostgresBuilder, PostgresConfig, Replicas};
    use std::time::Duration;
    use url::Url;

    fn builder(url: &str) -> Result<PostgresBuilder, String> {
        PostgresBuilder::from_url(&Url::parse(url).unwrap()).map_err(|error| error.to_string())
    }

    fn config(url: &str) -> Result<PostgresConfig, String> {
        builder(url)?.config().map_err(|error| error.to_string())
    }

    #[test]
    fn a_url_and_setters_give_the_same_options() {
        let by_setters = Postgres::builder("a:7000")
            .user("me")
            .password("p@ss")
            .database("shop")
            .application_name("checkout")
            .table("my.locks")
            .create_schema(true)
            .unlogged(true)
            .replicas(Replicas::Async)
            .pooled(true)
            .ca_file("/ca")
            .client_certificate_files("/cert", "/key")
            .connect_timeout(Duration::from_secs(7))
            .timeout(Duration::from_secs(2));
        let shared = "sslmode=verify-full&application_name=checkout&table=my.locks\
             &create_schema=true&unlogged=true&replicas=async&pooled=true&timeout_ms=2000";
        for names in [
            "ca=/ca&cert=/cert&key=/key&connect_timeout_ms=7000",
            // As libpq has it.
            "sslrootcert=/ca&sslcert=/cert&sslkey=/key&connect_timeout=7",
        ] {
            let url = format!("postgres://me:p%40ss@a:7000/shop?{shared}&{names}");
            assert!(builder(&url).unwrap() == by_setters, "{names}");
        }
        assert!(builder("postgres://a").unwrap() == Postgres::builder("a"));
        let by_file = Postgres::builder("a").user("me").password_file("/x y").allow_plaintext();
        assert!(
            builder("postgres://me@a?password_file=/x%20y&plaintext=allow").unwrap() == by_file
        );
        assert!(
            builder("postgres://me@a?password_file=/x%20y&sslmode=disable").unwrap() == by_file
        );
        let named = builder("postgres://a?sslmode=require&server_name=b").unwrap();
        assert!(named == Postgres::builder("a").server_name("b"));
    }

    #[test]
    fn an_error_has_the_name_of_the_option_as_it_was_written() {
        let tls = "sslmode=verify-full";
        for (options, why) in [
            ("sslrootcert=/x", "\"sslrootcert\" needs sslmode=verify-full"),
            ("sslcert=/x&sslkey=/y", "\"sslcert\" needs sslmode=verify-full"),
            ("sslkey=/x", "\"sslkey\" needs sslmode=verify-full"),
            ("ca=/x", "\"ca\" needs sslmode=verify-full"),
            ("password_file=/x", "leave one of the two out"),
            (&format!("{tls}&sslrootcert=/none/ca"), "sslrootcert=/none/ca: "),
            (&format!("{tls}&sslcert=/none/c&sslkey=/none/k"), "sslcert=/none/c: "),
            (&format!("{tls}&sslkey=/x"), "\"sslkey\" go together"),
            (&format!("{tls}&key=/x"), "\"key\" go together"),
            ("unlogged=yes", "unlogged is \"yes\", but must be true or false"),
            ("unlogged=true&replicas=sync", "no replica has an unlogged table"),
            ("connect_timeout=soon", "connect_timeout is \"soon\""),
            ("connect_timeout=0", "connect_timeout is \"0\", but must be from 1 to 3600 (in"),
            ("connect_timeout=3601", "connect_timeout is \"3601\""),
            ("connect_timeout_ms=0", "connect_timeout_ms is 0"),
            ("ca=/x&sslrootcert=/y", "\"sslrootcert\" and \"ca\" mean the same"),
            ("sslcert=/x&cert=/x", "\"sslcert\" and \"cert\" mean the same"),
            ("key=/x&sslkey=/y", "\"sslkey\" and \"key\" mean the same"),
            (
                "connect_timeout=1&connect_timeout_ms=9",
                "\"connect_timeout\" and \"connect_timeout_ms\" mean the same",
            ),
        ] {
            let said = config(&format!("postgres://u:hush@a?{options}")).unwrap_err();
            assert!(said.contains(why) && !said.contains("hush"), "{options}: {said}");
        }
    }

    #[test]
    fn a_server_is_a_host_or_the_folder_of_a_socket() {
        for (url, server) in [
            ("postgres://a", "a:5432"),
            ("postgresql://[::1]:7/db", "::1:7"),
            ("postgres://me@%2Fvar%2Frun/db", "/var/run:5432"),
            ("postgres://me@%2Fvar%2Frun:7/db", "/var/run:7"),
            ("postgres://me@%2Fvar%2Frun%3A7/db", "/var/run:7:5432"),
            ("postgres://me@%2Fvar%2Frun%3A7%2Fx:8/db", "/var/run:7/x:8"),
            ("postgres:///db?host=/var/run", "/var/run:5432"),
            ("postgres:///db?port=7&host=%2Fvar%2Frun&user=me", "/var/run:7"),
            ("postgres:///db?host=a:1&host=b&host=[::1]&port=7", "a:1,b:7,::1:7"),
            ("postgres://a:1/db?host=b&port=7", "a:1,b:7"),
        ] {
            assert_eq!(config(url).unwrap().server, server);
        }
        for (folder, server) in
            [("/var/run:7", Some("/var/run:7")), ("/run:a:7", Some("/run:a:7")), ("/run:a", None)]
        {
            let config = Postgres::builder(folder).config();
            match server {
                Some(server) => assert_eq!(config.unwrap().server, server),
                None => {
                    let said = config.unwrap_err().to_string();
                    assert!(said.contains("\"/run:a\"") && said.contains("port"), "{said}");
                }
            }
        }
        let several = Postgres::builder("a:1").server("b").user("me").database("db");
        assert!(builder("postgres://me@a:1/db?host=b").unwrap() == several);
        assert!(builder("postgres://a:1/db?host=b&user=me").unwrap() == several);
        let by_folder = Postgres::builder("/var/run:7").user("me").database("db");
        assert!(builder("postgres://me@%2Fvar%2Frun:7/db").unwrap() == by_folder);
        let debug = format!("{:?}", builder("postgres://user:secret@h/1").unwrap());
        assert!(!debug.contains("secret") && !debug.contains("user"), "{debug}");
    }
}

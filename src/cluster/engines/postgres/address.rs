//! What an address says.

use super::sql::{Limits, Statements};
use super::tls;
use crate::cluster::ConnectError;
use crate::cluster::engines::connect::{check, unknown_option};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres_rustls::MakeRustlsConnect;
use url::Url;

/// The longest name of a table, with its schema, in bytes: the name of a channel may have 63, and
/// has a colon and a node's number too.
const TABLE: usize = 46;

/// All that is known before there is a connection.
pub(super) struct Settings {
    pub(super) config: Config,
    pub(super) tls: MakeRustlsConnect,
    /// For messages: host and port.
    pub(super) server: String,
    /// With its schema.
    pub(super) table: String,
    pub(super) statements: Statements,
    /// A transaction pooler is in between.
    pub(super) pooled: bool,
    pub(super) create_schema: bool,
    pub(super) replicas: Option<Replicas>,
    pub(super) connect_timeout: Duration,
    pub(super) timeout: Duration,
    /// The server's.
    pub(super) limits: Limits,
}

/// What a failover may lead to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Replicas {
    /// To none.
    None,
    /// To those that have what was acknowledged.
    Sync,
    /// To any.
    Async,
}

impl Settings {
    /// Reads an address, and the files that it names.
    ///
    /// # Errors
    ///
    /// [`ConnectError::Address`]; nothing that could be a password is in it.
    pub(super) fn new(url: &Url) -> Result<Self, ConnectError> {
        check(url)?;
        let mut base = url.clone();
        base.set_query(None);
        base.set_fragment(None);
        // Its error might have part of a password that has a character too many.
        let mut config = Config::from_str(base.as_str())
            .map_err(|_| wrong("expected postgres://user:password@host:port/database"))?;
        let mut options = Options::default();
        for (name, value) in url.query_pairs() {
            options.set(&mut config, &name, &value)?;
        }
        let [host] = config.get_hosts() else {
            return Err(wrong("it needs one host: postgres://user:password@host/database"));
        };
        let port = config.get_ports().first().copied().unwrap_or(5432);
        let (server, is_local) = match host {
            Host::Tcp(host) => (format!("{host}:{port}"), false),
            #[cfg(unix)]
            Host::Unix(path) => (format!("{}:{port}", path.display()), true),
        };
        if is_local && options.tls.wanted {
            return Err(wrong("there is no TLS over a socket that is a file"));
        }
        config.ssl_mode(if options.tls.wanted { SslMode::Require } else { SslMode::Disable });
        if config.get_application_name().is_none() {
            config.application_name("lockword");
        }
        config.connect_timeout(options.connect_timeout);
        config.keepalives_idle(Duration::from_secs(30));
        config.tcp_user_timeout(options.timeout);
        let limits = Limits::new(options.timeout);
        Ok(Self {
            config,
            tls: MakeRustlsConnect::new(tls::config(&options.tls)?),
            server,
            statements: Statements::new(&options.table, limits, !options.pooled),
            table: options.table,
            pooled: options.pooled,
            create_schema: options.create_schema,
            replicas: options.replicas,
            connect_timeout: options.connect_timeout,
            timeout: options.timeout,
            limits,
        })
    }
}

/// What follows the question mark.
struct Options {
    tls: tls::Options,
    table: String,
    pooled: bool,
    create_schema: bool,
    replicas: Option<Replicas>,
    connect_timeout: Duration,
    timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            tls: tls::Options::default(),
            table: "public.lockword".to_owned(),
            pooled: false,
            create_schema: false,
            replicas: None,
            connect_timeout: Duration::from_secs(5),
            timeout: Duration::from_secs(5),
        }
    }
}

impl Options {
    fn set(&mut self, config: &mut Config, name: &str, value: &str) -> Result<(), ConnectError> {
        match name {
            "sslmode" => self.tls.wanted = mode(value)?,
            "sslrootcert" => self.tls.authority = Some(value.into()),
            "sslcert" => self.tls.certificate = Some(value.into()),
            "sslkey" => self.tls.key = Some(value.into()),
            "table" => self.table = table(value)?,
            "pooled" => self.pooled = boolean(name, value)?,
            "create_schema" => self.create_schema = boolean(name, value)?,
            "replicas" => self.replicas = Some(replicas(value)?),
            "connect_timeout" => self.connect_timeout = whole(name, value, Duration::from_secs)?,
            "timeout_ms" => self.timeout = whole(name, value, Duration::from_millis)?,
            "application_name" => _ = config.application_name(value),
            _ => {
                let known = "application_name, connect_timeout, create_schema, pooled, replicas, \
                             sslcert, sslkey, sslmode, sslrootcert, table, timeout_ms";
                return Err(unknown_option(name, known));
            }
        }
        Ok(())
    }
}

fn mode(value: &str) -> Result<bool, ConnectError> {
    match value {
        "disable" => Ok(false),
        "require" | "verify-full" => Ok(true),
        _ => Err(wrong(format!(
            "sslmode is {value:?}, but must be disable or verify-full (require is the same)"
        ))),
    }
}

fn boolean(name: &str, value: &str) -> Result<bool, ConnectError> {
    value.parse().map_err(|_| wrong(format!("{name} is {value:?}, but must be true or false")))
}

fn replicas(value: &str) -> Result<Replicas, ConnectError> {
    match value {
        "none" => Ok(Replicas::None),
        "sync" => Ok(Replicas::Sync),
        "async" => Ok(Replicas::Async),
        _ => Err(wrong(format!("replicas is {value:?}, but must be none, sync or async"))),
    }
}

fn whole(name: &str, value: &str, unit: fn(u64) -> Duration) -> Result<Duration, ConnectError> {
    let number = value.parse().ok().filter(|number| (1..=3_600_000).contains(number));
    let why = || wrong(format!("{name} is {value:?}, but must be a number from 1 to 3600000"));
    Ok(unit(number.ok_or_else(why)?))
}

/// `lockword` is `public.lockword`. Only what needs no quotation marks.
fn table(value: &str) -> Result<String, ConnectError> {
    let full = if value.contains('.') { value.to_owned() } else { format!("public.{value}") };
    let is_name = |name: &str| {
        let allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_';
        name.bytes().all(allowed) && name.bytes().next().is_some_and(|c| !c.is_ascii_digit())
    };
    if full.len() > TABLE || full.split('.').count() != 2 || !full.split('.').all(is_name) {
        return Err(wrong(format!(
            "table is {value:?}, but must be a name or schema.name of a-z, 0-9 and _, of at most \
             {TABLE} bytes together"
        )));
    }
    Ok(full)
}

pub(super) fn wrong(why: impl Into<String>) -> ConnectError {
    ConnectError::Address { why: why.into() }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Settings");
        shown.field("server", &self.server).field("table", &self.table);
        shown.field("pooled", &self.pooled).finish_non_exhaustive()
    }
}

//! The options of the Redis engine, from setters or from a URL.

use super::Redis;
use super::sentinel::Sentinels;
use super::socket::RedisAddress;
use crate::cluster::engines::credentials::{Credentials, LoginSource, PasswordSource};
use crate::cluster::engines::hint;
use crate::cluster::engines::options::{
    ConnectionOptions, EngineUrl, connection_setters, host_and_port, invalid, number,
    password_file, shown, unknown_option,
};
use crate::cluster::engines::tls::RustlsSource;
use crate::cluster::{ConnectError, Key, NodeId};
use rustls::ClientConfig;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use url::Url;

/// The longest prefix, in bytes.
const LONGEST_PREFIX: usize = 100;

const PORT: u16 = 6379;

const SENTINEL_PORT: u16 = 26379;

/// The beginnings of a URL.
const SCHEMES: &str =
    "redis://, rediss:// (TLS), redis+sentinel://, rediss+sentinel://, redis+unix:///path";

/// How Redis is to be reached: from [`Redis::builder`], or from a URL.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use lockword::cluster::engines::redis::{Redis, RedisBuilder};
///
/// let redis = Redis::builder("redis.example.org:6379")
///     .user("lock")
///     .password("pass/word")
///     .tls()
///     .prefix("shop")
///     .connect()
///     .await?;
/// // The same by a URL.
/// let url = "rediss://lock:pass%2Fword@redis.example.org:6379/0?prefix=shop".parse()?;
/// let redis = RedisBuilder::from_url(&url)?.connect().await?;
/// # Ok(())
/// # }
/// ```
#[must_use = "nothing happens before connect is called"]
#[derive(Clone, PartialEq, Eq)]
pub struct RedisBuilder {
    target: RedisTarget,
    pub(super) database: u32,
    pub(super) prefix: String,
    pub(super) wait_replicas: Option<u32>,
    wait_timeout: Duration,
    connection: ConnectionOptions,
}

/// How the server is found.
#[derive(Clone, PartialEq, Eq)]
enum RedisTarget {
    Server(String),
    Sentinels { servers: Vec<String>, service: String, login: LoginSource },
}

impl RedisTarget {
    /// For messages.
    fn shown(&self) -> String {
        match self {
            Self::Server(server) => shown(server).into_owned(),
            Self::Sentinels { servers, service, .. } => {
                let servers: Vec<_> = servers.iter().map(|server| shown(server)).collect();
                format!("{service:?} of the sentinels {}", servers.join(", "))
            }
        }
    }
}

impl RedisBuilder {
    pub(super) fn new(server: String) -> Self {
        Self::of(RedisTarget::Server(server))
    }

    pub(super) fn by_sentinels(servers: Vec<String>, service: String) -> Self {
        Self::of(RedisTarget::Sentinels { servers, service, login: LoginSource::default() })
    }

    fn of(target: RedisTarget) -> Self {
        Self {
            target,
            database: 0,
            prefix: "lockword".to_owned(),
            wait_replicas: None,
            wait_timeout: Duration::from_millis(500),
            connection: ConnectionOptions::new(Duration::from_secs(3), Duration::from_secs(5)),
        }
    }

    /// Reads the options from a URL, whose form is described at the
    /// [module](super#the-url). No file is read and nothing is connected yet.
    ///
    /// # Errors
    ///
    /// [`ConnectError::Address`] if the URL is not valid. Its password is not part of the error.
    pub fn from_url(url: &Url) -> Result<Self, ConnectError> {
        // Valkey is the same.
        let scheme = match url.scheme().strip_prefix("valkey") {
            Some(rest) => format!("redis{rest}"),
            None => url.scheme().to_owned(),
        };
        let (kind, has_sentinels) = match scheme.split_once('+') {
            None => (&*scheme, false),
            Some((kind, "sentinel")) => (kind, true),
            Some(("redis", "unix")) => return Self::from_unix_url(url),
            Some(_) => ("", false),
        };
        if !matches!(kind, "redis" | "rediss") {
            return Err(invalid(format!(
                "{}:// is no form of it: there are {SCHEMES}",
                url.scheme()
            )));
        }
        let form = match has_sentinels {
            false => "redis://user:password@host:port/database",
            true => "redis+sentinel://user:password@host:port,host:port/service?db=0",
        };
        let url_parts = EngineUrl::parse(url, form)?;
        let mut path = &*url_parts.path;
        let mut builder = if has_sentinels {
            let service;
            (service, path) = path.split_once('/').unwrap_or((path, ""));
            if service.is_empty() {
                return Err(invalid(format!("it names no service: expected {form}")));
            }
            Self::by_sentinels(url_parts.servers.clone(), service.to_owned())
        } else if url_parts.servers.len() > 1 {
            return Err(invalid(
                "it names several servers: one is expected; for sentinels write \
                 redis+sentinel://host:port,host:port/service",
            ));
        } else {
            Self::new(url_parts.only_server()?)
        };
        builder.connection.tls.enabled = kind == "rediss";
        builder.connection.set_login(url_parts.user, url_parts.password);
        if !path.is_empty() {
            // The path could be a part of a password: it is not shown.
            builder.database = path.parse().map_err(|_| {
                invalid(format!(
                    "the database in it is not a number: expected {form}, where the path is only \
                     the number of a database, such as /0"
                ))
            })?;
        }
        builder.set_options(&url_parts.options)?;
        Ok(builder)
    }

    /// `redis+unix:///path?db=0&user=name&pass=password`.
    fn from_unix_url(url: &Url) -> Result<Self, ConnectError> {
        let form = "redis+unix:///path/of/the/socket?db=0";
        if url.host_str().is_some_and(|host| !host.is_empty()) || url.path().len() < 2 {
            return Err(invalid(format!(
                "it names no socket: expected {form}, with three slashes"
            )));
        }
        // What else is expected of a URL, and its parts: as if the socket were on a host.
        let mut with_host = url.clone();
        let refused = |_| invalid(format!("expected {form}"));
        with_host.set_host(Some("localhost")).map_err(refused)?;
        let mut parts = EngineUrl::parse(&with_host, form)?;
        let mut builder = Self::new(format!("/{}", parts.path));
        let mut take = |name: &str| {
            let at = parts.options.iter().position(|(found, _)| found == name)?;
            Some(parts.options.remove(at).1)
        };
        let (user, password) = (take("user"), take("pass"));
        builder.connection.set_login(user, password);
        builder.set_options(&parts.options)?;
        Ok(builder)
    }

    fn set_options(&mut self, options: &[(String, String)]) -> Result<(), ConnectError> {
        for (name, value) in options {
            match (&**name, &mut self.target) {
                ("prefix", _) => self.prefix.clone_from(value),
                ("db", _) => {
                    let number = number("db", value)?.try_into();
                    self.database = number.map_err(|_| invalid("db is no number of a database"))?;
                }
                ("wait_replicas", _) => {
                    let number = number(name, value)?.try_into();
                    let number = number.map_err(|_| invalid("wait_replicas is too large"))?;
                    self.wait_replicas = Some(number);
                }
                ("wait_timeout_ms", _) => {
                    self.wait_timeout = Duration::from_millis(number(name, value)?);
                }
                ("sentinel_user", RedisTarget::Sentinels { login, .. }) => {
                    login.user = Some(value.clone());
                }
                ("sentinel_password", RedisTarget::Sentinels { login, .. }) => {
                    if login.has_password() {
                        return Err(invalid(
                            "there is a sentinel_password besides sentinel_password_file: leave one of \
                             the two out",
                        ));
                    }
                    login.password = PasswordSource::Fixed(value.clone());
                }
                ("sentinel_password_file", RedisTarget::Sentinels { login, .. }) => {
                    login.password = password_file(&login.password, value)?;
                }
                _ if self.connection.set(name, value)? => {}
                _ => {
                    let known = format!(
                        "{}, prefix, db, wait_replicas, wait_timeout_ms",
                        ConnectionOptions::NAMES
                    );
                    return Err(unknown_option(name, &known));
                }
            }
        }
        Ok(())
    }

    /// The number of the database. Default: 0. In a URL: the path, or `db`.
    pub fn database(mut self, number: u32) -> Self {
        self.database = number;
        self
    }

    /// What all names on the server begin with: 1 to 100 bytes, of the characters of a [`Key`].
    /// Default: `lockword`. In a URL: `prefix`.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Believes no answer that this many replicas do not confirm within `timeout`, which is from 1 ms to 1 s,
    /// and should be a part of the node's request timeout: see [replicas](super#waiting-for-replicas), for
    /// what that promises. Default: it waits for none. In a URL: `wait_replicas`, and `wait_timeout_ms`, which
    /// is 500 by default.
    pub fn wait_for_replicas(mut self, number: u32, timeout: Duration) -> Self {
        (self.wait_replicas, self.wait_timeout) = (Some(number), timeout);
        self
    }

    /// The name of the user that logs in at the sentinels, with [`sentinel_password`](Self::sentinel_password).
    /// Default: the sentinels' user `default`. It means nothing without sentinels. In a URL: `sentinel_user`.
    pub fn sentinel_user(mut self, name: impl Into<String>) -> Self {
        if let RedisTarget::Sentinels { login, .. } = &mut self.target {
            login.user = Some(name.into());
        }
        self
    }

    /// The password at the sentinels, which have their own. Default: none, and the password of the server is
    /// not sent to them. It means nothing without sentinels. In a URL: `sentinel_password`.
    pub fn sentinel_password(mut self, password: impl Into<String>) -> Self {
        if let RedisTarget::Sentinels { login, .. } = &mut self.target {
            login.password = PasswordSource::Fixed(password.into());
        }
        self
    }

    /// The password at the sentinels is the content of this file, as with
    /// [`password_file`](Self::password_file). It means nothing without sentinels. In a URL:
    /// `sentinel_password_file`.
    pub fn sentinel_password_file(mut self, file: impl Into<std::path::PathBuf>) -> Self {
        if let RedisTarget::Sentinels { login, .. } = &mut self.target {
            login.password = PasswordSource::File(file.into());
        }
        self
    }

    connection_setters! {
        user: "the server's user `default`",
        connect_timeout: "3 s", timeout: "5 s",
        "How long the server may take to answer a request"
    }

    /// Checks the options, reads the files that they name, connects, and checks that the server and
    /// the user's permissions suffice.
    ///
    /// It returns within the connect timeout, however often the servers of a cluster redirect it; later if a
    /// [runtime](Self::runtime) was given that nothing drives. It has to be called within a tokio runtime whose timers
    /// are enabled, and so has every method of [`Redis`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future is safe at any moment. It leaves nothing behind but a try to connect, which ends by
    /// itself within the connect timeout. Connecting writes nothing.
    ///
    /// # Errors
    ///
    /// [`ConnectError`], but never `UnknownScheme` or `MissingFeature`.
    /// [`Address`](ConnectError::Address) names the option that is not valid;
    /// [`Unsuitable`](ConnectError::Unsuitable) is a server that is too old, that is a replica, or
    /// that may evict what is held.
    pub async fn connect(self) -> Result<Redis, ConnectError> {
        let (runtime, limit) =
            (self.connection.runtime.clone(), self.connection.connecting_limit());
        let config = self.config()?;
        runtime.open(limit, |on| Redis::open(config, on)).await
    }

    /// The checked options.
    pub(super) fn config(self) -> Result<RedisConfig, ConnectError> {
        self.connection.check("rediss://")?;
        let ConnectionOptions { login, allows_plaintext, connect_timeout, timeout, tls, .. } =
            self.connection;
        let (address, sentinels) = match self.target {
            RedisTarget::Server(server) => (address(&server, PORT)?, None),
            RedisTarget::Sentinels { servers, service, login } => {
                let addresses: Vec<_> = servers
                    .iter()
                    .map(|server| address(server, SENTINEL_PORT))
                    .collect::<Result<_, _>>()?;
                let first = addresses.first().cloned();
                let first = first.ok_or_else(|| invalid("it names no sentinel"))?;
                (first, Some(Arc::new(Sentinels { service, addresses, login })))
            }
        };
        #[cfg(unix)]
        if tls.enabled && matches!(address, RedisAddress::Unix(_)) {
            return Err(invalid("a socket of this machine has no TLS"));
        }
        let tls = match tls.enabled {
            true => {
                let server_name = tls.server_name.clone();
                Some(RedisTls { source: tls.rustls()?, server_name })
            }
            false => None,
        };
        let wait = match self.wait_replicas {
            Some(0) => return Err(invalid("wait_replicas is 0, but must be at least 1")),
            Some(replicas) => {
                let timeout = self.wait_timeout.as_millis();
                if !(1..=1000).contains(&timeout) {
                    let why = format!("wait_timeout_ms is {timeout}, but must be from 1 to 1000");
                    return Err(invalid(why));
                }
                Some(ReplicaWait { replicas, timeout: self.wait_timeout })
            }
            None => None,
        };
        let names = RedisNames::new(&self.prefix, self.database)?;
        Ok(RedisConfig {
            address,
            sentinels,
            login,
            database: self.database,
            allows_plaintext,
            tls,
            names,
            wait,
            attempt: RedisAttempt::default(),
            connect_timeout,
            timeout,
        })
    }
}

fn address(server: &str, default_port: u16) -> Result<RedisAddress, ConnectError> {
    if server.starts_with('/') {
        #[cfg(unix)]
        return Ok(RedisAddress::Unix(server.into()));
        #[cfg(not(unix))]
        return Err(invalid(format!("{server:?} is a socket of Unix, and this is another system")));
    }
    let (host, port) = host_and_port(server, default_port)?;
    Ok(RedisAddress::Tcp(host, port))
}

/// Without user, password and key.
impl fmt::Debug for RedisBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut fields = f.debug_struct("RedisBuilder");
        fields.field("server", &format_args!("{}", self.target.shown()));
        self.connection.debug_fields(&mut fields);
        fields.field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

/// How many replicas have to confirm what a server answers, and within which time.
#[derive(Clone, Copy)]
pub(super) struct ReplicaWait {
    pub(super) replicas: u32,
    pub(super) timeout: Duration,
}

/// The options after they were checked.
#[derive(Clone)]
pub(super) struct RedisConfig {
    /// Where the server is; with sentinels, where one of those is.
    pub(super) address: RedisAddress,
    /// Who knows where the server is.
    pub(super) sentinels: Option<Arc<Sentinels>>,
    pub(super) login: LoginSource,
    pub(super) database: u32,
    /// A password may be sent without TLS, wherever it goes.
    pub(super) allows_plaintext: bool,
    pub(super) tls: Option<RedisTls>,
    pub(super) names: RedisNames,
    pub(super) wait: Option<ReplicaWait>,
    pub(super) attempt: RedisAttempt,
    pub(super) connect_timeout: Duration,
    pub(super) timeout: Duration,
}

/// Where the configuration of TLS comes from.
#[derive(Clone)]
pub(super) struct RedisTls {
    pub(super) source: Arc<RustlsSource>,
    /// The name that is expected in the certificate, if it is not the host.
    pub(super) server_name: Option<String>,
}

/// What is found anew for each attempt to connect.
#[derive(Clone, Default)]
pub(super) struct RedisAttempt {
    pub(super) credentials: Credentials,
    /// `None`: no TLS.
    pub(super) tls: Option<Arc<ClientConfig>>,
    /// Whether a TLS handshake has no answer yet, for the error of an attempt whose time is over.
    pub(super) in_handshake: Arc<AtomicBool>,
}

impl RedisConfig {
    /// What is to be found, for messages.
    pub(super) fn server(&self) -> String {
        let Some(sentinels) = &self.sentinels else { return self.address.to_string() };
        let all: Vec<_> = sentinels.addresses.iter().map(ToString::to_string).collect();
        format!("{:?} of the sentinels {}", sentinels.service, all.join(", "))
    }

    /// How TLS is turned on in an address.
    pub(super) fn tls_scheme(&self) -> &'static str {
        match self.sentinels {
            Some(_) => "rediss+sentinel://",
            None => "rediss://",
        }
    }
}

/// Without user and password.
impl fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisConfig").field("server", &self.server()).finish_non_exhaustive()
    }
}

/// The names of the keys and channels on the server.
///
/// The braces keep all names of a prefix in one slot of a Redis Cluster.
#[derive(Clone, Debug)]
pub(super) struct RedisNames {
    pub(super) prefix: String,
    database: u32,
}

impl RedisNames {
    pub(super) fn new(prefix: &str, database: u32) -> Result<Self, ConnectError> {
        if prefix.len() > LONGEST_PREFIX {
            return Err(invalid(format!("prefix is longer than {LONGEST_PREFIX} bytes")));
        }
        let key = Key::new(prefix).map_err(|why| invalid(format!("prefix: {why}")))?;
        Ok(Self { prefix: key.as_str().to_owned(), database })
    }

    /// The register of `key`.
    pub(super) fn register(&self, key: &Key) -> String {
        format!("{{{}}}:{key}", self.prefix)
    }

    /// What the names of all registers whose keys begin with `prefix` match, for `SCAN`.
    pub(super) fn pattern(&self, prefix: &str) -> String {
        let plain = |text: &str| {
            let special = |c: char| "*?[]^\\".contains(c);
            let quoted = |c: char| if special(c) { vec!['\\', c] } else { vec![c] };
            text.chars().flat_map(quoted).collect::<String>()
        };
        format!("{{{}}}:{}*", plain(&self.prefix), plain(prefix))
    }

    /// The key whose register has this name.
    pub(super) fn key<'a>(&self, name: &'a str) -> Option<&'a str> {
        name.strip_prefix(&format!("{{{}}}:", self.prefix))
    }

    /// The channel of a node. No key has a number sign.
    pub(super) fn channel(&self, node: NodeId) -> String {
        format!("{{{}}}:#{node}", self.prefix)
    }

    /// The channel to which every connection subscribes that has a watch.
    pub(super) fn channel_of_all(&self) -> String {
        format!("{{{}}}:#all", self.prefix)
    }

    /// A channel to which nobody subscribes.
    pub(super) fn channel_of_none(&self) -> String {
        format!("{{{}}}:#", self.prefix)
    }

    /// What a message says of `key`: a hash of its name. All databases share the channels, so those but 0 are part
    /// of the name.
    pub(super) fn hint(&self, key: &Key) -> String {
        match self.database {
            0 => hint::of(key.as_str()),
            other => hint::of(&format!("#{other}:{key}")),
        }
    }

    /// The key of the largest version of all registers whose prefixes have no floor. No register has this name,
    /// nor those of the next two.
    pub(super) fn floor(&self) -> String {
        format!("{{{}}}floor", self.prefix)
    }

    /// The key of the largest version of the registers of a prefix.
    pub(super) fn floor_of(&self, prefix: impl fmt::Display) -> String {
        format!("{{{}}}floor:{prefix}", self.prefix)
    }

    /// The key of the hash of the prefixes that have a floor.
    pub(super) fn floors(&self) -> String {
        format!("{{{}}}floors", self.prefix)
    }

    /// A register that nobody writes.
    pub(super) fn unused(&self) -> String {
        format!("{{{}}}:", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::{LoginSource, PasswordSource, Redis, RedisAddress, RedisBuilder, RedisConfig};
    use crate::cluster::{Key, NodeId};
    use std::time::Duration;
    use url::Url;

    fn builder(url: &str) -> Result<RedisBuilder, String> {
        RedisBuilder::from_url(&Url::parse(url).unwrap()).map_err(|error| error.to_string())
    }

    fn password(login: &LoginSource) -> Option<&str> {
        match &login.password {
            PasswordSource::Fixed(password) => Some(password),
            _ => None,
        }
    }

    fn config(url: &str) -> Result<RedisConfig, String> {
        builder(url)?.config().map_err(|error| error.to_string())
    }

    #[test]
    fn a_url_and_setters_give_the_same_options() {
        let by_url = builder(
            "rediss://me:p%40ss@a:7000/3?prefix=a/b&ca=/ca&cert=/cert&key=/key&server_name=b\
             &connect_timeout_ms=1000&timeout_ms=2000&wait_replicas=2&wait_timeout_ms=30",
        );
        let by_setters = Redis::builder("a:7000")
            .user("me")
            .password("p@ss")
            .database(3)
            .prefix("a/b")
            .wait_for_replicas(2, Duration::from_millis(30))
            .ca_file("/ca")
            .client_certificate_files("/cert", "/key")
            .server_name("b")
            .connect_timeout(Duration::from_secs(1))
            .timeout(Duration::from_secs(2));
        assert!(by_url.unwrap() == by_setters);
        assert!(builder("redis://a").unwrap() == Redis::builder("a"));
        let by_file = Redis::builder("a").user("me").password_file("/x y").allow_plaintext();
        assert!(builder("redis://me@a?password_file=/x%20y&plaintext=allow").unwrap() == by_file);
        assert!(builder("rediss://a").unwrap() == Redis::builder("a").tls());
    }

    #[test]
    fn a_socket_of_this_machine_has_a_url() {
        let url = "redis+unix:///run/a%20b/redis.sock?db=2&user=me&pass=p%40ss&prefix=x";
        let by_setters = Redis::builder("/run/a b/redis.sock");
        let by_setters = by_setters.database(2).user("me").password("p@ss").prefix("x");
        assert!(builder(url).unwrap() == by_setters);
        let settings = config(url).unwrap();
        assert_eq!(settings.server(), "unix:/run/a b/redis.sock");
        assert_eq!(password(&settings.login), Some("p@ss"));
    }

    #[test]
    fn sentinels_have_a_url() {
        let url = "redis+sentinel://me:p%40ss@a:1/main?host=b&db=3&sentinel_user=s\
                   &sentinel_password=q%40ss&prefix=x";
        let by_setters = Redis::sentinel_builder(["a:1", "b"], "main").user("me").password("p@ss");
        let by_setters = by_setters.sentinel_user("s").sentinel_password("q@ss");
        assert!(builder(url).unwrap() == by_setters.database(3).prefix("x"));
        let settings = config(url).unwrap();
        assert_eq!(settings.server(), "\"main\" of the sentinels a:1, b:26379");
        assert_eq!(password(&settings.login), Some("p@ss"));
        let sentinels = settings.sentinels.as_ref().unwrap();
        assert_eq!(password(&sentinels.login), Some("q@ss"));
        assert_eq!(sentinels.login.user.as_deref(), Some("s"));
        assert_eq!(config("redis+sentinel://a/main/4").unwrap().database, 4);
        assert!(config("rediss+sentinel://a/main").unwrap().tls.is_some());
        let alone = config("redis+sentinel://u:p@a/main").unwrap();
        assert_eq!(password(&alone.sentinels.unwrap().login), None, "it is the server's");
        let files = builder("redis+sentinel://a/main?password_file=/a&sentinel_password_file=/b");
        let by_setters = Redis::sentinel_builder(["a"], "main").password_file("/a");
        assert!(files.unwrap() == by_setters.sentinel_password_file("/b"));
    }

    #[test]
    fn valkey_is_the_same() {
        for (valkey, redis) in [
            ("valkey://a/1", "redis://a/1"),
            ("valkeys://a", "rediss://a"),
            ("valkey+sentinel://a/main", "redis+sentinel://a/main"),
            ("valkeys+sentinel://a/main", "rediss+sentinel://a/main"),
            ("valkey+unix:///a", "redis+unix:///a"),
        ] {
            assert!(builder(valkey).unwrap() == builder(redis).unwrap(), "{valkey}");
        }
    }

    #[test]
    fn a_url_says_everything() {
        let settings = config("redis://me:p%40ss%23@example.org:7000/3?prefix=a/b").unwrap();
        assert_eq!(settings.server(), "example.org:7000");
        assert_eq!(settings.login.user.as_deref(), Some("me"));
        assert_eq!(password(&settings.login), Some("p@ss#"));
        assert_eq!(settings.database, 3);
        let key = Key::new("jobs").unwrap();
        assert_eq!(settings.names.register(&key), "{a/b}:jobs");
        assert_eq!(settings.names.channel(NodeId::new(255)), "{a/b}:#00000000000000ff");
        assert_eq!(settings.names.channel_of_all(), "{a/b}:#all");
        let in_three = settings.names.hint(&key);
        assert_eq!(settings.names.floor(), "{a/b}floor");
        assert_eq!(settings.names.floor_of("jobs/"), "{a/b}floor:jobs/");
        assert_eq!(settings.names.floors(), "{a/b}floors");
        let settings = config("redis://[::1]").unwrap();
        assert_eq!(settings.names.channel(NodeId::new(255)), "{lockword}:#00000000000000ff");
        assert_ne!(settings.names.hint(&key), in_three);
        assert_eq!(settings.address, RedisAddress::Tcp("::1".into(), 6379));
        assert_eq!(settings.names.floor(), "{lockword}floor");
        assert!(config("rediss://localhost").unwrap().tls.is_some());
    }

    #[test]
    fn an_option_that_is_not_valid_is_named_and_the_password_is_not_shown() {
        for (url, why) in [
            ("redis://u:secret@h/1?prefx=a", "there is no option \"prefx\""),
            ("redis://u:secret@h/1?prefix=a&prefix=b", "\"prefix\" is there twice"),
            ("redis://u:secret@h/1?prefix=a{b", "prefix: "),
            ("redis://u:secret@h/1?ca=/x", "\"ca\" needs rediss://"),
            ("redis://u:secret@h/one", "user:password@host:port/database"),
            ("redis://u:secret@h/1/", "only the number of a database, such as /0"),
            ("redis://u:secret@h/1#x", "%23"),
            ("redis://u:secret@h/1?host=b", "several servers"),
            ("redis://u:secret@h/1?timeout_ms=0", "timeout_ms"),
            ("redis:///1", "no server"),
            ("redis://u:secret@h/1?host=b", "redis+sentinel://"),
            ("redis+sentinel://u:secret@h", "no service"),
            ("redis+sentinel://u:secret@h/main/x", "not a number"),
            ("redis+sentinel://u:secret@h/main?sentinel_name=x", "\"sentinel_name\""),
            ("redis://u:secret@h?sentinel_user=x", "\"sentinel_user\""),
            ("redis://u:secret@h?db=x", "db is \"x\""),
            ("redis+cluster://u:secret@h", "redis+sentinel://"),
            ("http://u:secret@h", "redis://"),
            ("redis+unix://run/redis.sock", "three slashes"),
            ("redis+unix:///", "three slashes"),
            ("redis+unix:///a?pass=secret&password_file=/x", "leave one of the two out"),
            ("redis://u:secret@h?password_file=/x", "leave one of the two out"),
            (
                "redis+sentinel://h/main?sentinel_password=secret&sentinel_password_file=/x",
                "leave one of the two out",
            ),
            (
                "redis+sentinel://h/main?sentinel_password_file=/x&sentinel_password=secret",
                "leave one of the two out",
            ),
            ("redis+unix:///a?ca=/x", "\"ca\""),
            ("rediss://u:secret@h/1?ca=/no/such/file", "ca=/no/such/file"),
            ("rediss://u:secret@h/1?cert=/no/such/file", "\"key\""),
        ] {
            let error = config(url).unwrap_err();
            assert!(error.contains(why), "{url}: {error}");
            assert!(!error.contains("secret"), "{url}: {error}");
        }
        let long = Redis::builder("a").prefix("x".repeat(101)).config().unwrap_err().to_string();
        assert!(long.contains("prefix is longer"), "{long}");
        let builder = builder("redis://user:secret@h/1").unwrap();
        let debug = format!("{builder:?} {:?}", builder.clone().config().unwrap());
        assert!(!debug.contains("secret") && !debug.contains("user"), "{debug}");
    }
}

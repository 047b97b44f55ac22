//! The options of the etcd engine, from setters or from a URL.

use super::Etcd;
use super::members::{Credentials, Members};
use crate::cluster::ConnectError;
use crate::cluster::engines::credentials::PasswordSource;
use crate::cluster::engines::options::{
    ConnectionOptions, EngineUrl, connection_setters, host_and_port, invalid, shown, unknown_option,
};
use std::error::Error;
use std::fmt;
use std::time::Duration;
use tonic::transport::Endpoint;
use url::Url;

/// How often a connection with open requests or watches is asked for a sign of life. etcd hangs up on
/// clients that ask more often than every five seconds.
const PING_EVERY: Duration = Duration::from_secs(6);
/// How long a sign of life may take.
const PING_WITHIN: Duration = Duration::from_secs(2);
/// The longest time until a watch has yielded or ended. A watch whose connection is silent ends when
/// the sign of life is overdue; the last second is for the way.
pub(super) const WAKE_WITHIN: Duration =
    Duration::from_secs(PING_EVERY.as_secs() + PING_WITHIN.as_secs() + 1);

const PORT: u16 = 2379;

/// How etcd is to be reached: from [`Etcd::builder`], or from a URL.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use lockword::cluster::engines::etcd::{Etcd, EtcdBuilder};
///
/// let etcd = Etcd::builder(["a:2379", "b:2379", "c:2379"])
///     .user("lock")
///     .password("pass/word")
///     .ca_file("/etc/etcd/ca.pem")
///     .prefix("shop/locks")
///     .connect()
///     .await?;
/// // The same by a URL. (`lockword::cluster::connect` also takes several hosts in the usual form.)
/// let url = "etcds://lock:pass%2Fword@a:2379/shop/locks?host=b:2379&host=c:2379&ca=/etc/etcd/ca.pem";
/// let etcd = EtcdBuilder::from_url(&url.parse()?)?.connect().await?;
/// # Ok(())
/// # }
/// ```
#[must_use = "nothing happens before connect is called"]
#[derive(Clone, PartialEq, Eq)]
pub struct EtcdBuilder {
    servers: Vec<String>,
    prefix: String,
    connection: ConnectionOptions,
}

impl EtcdBuilder {
    pub(super) fn new(servers: Vec<String>) -> Self {
        Self {
            servers,
            prefix: "lockword/".to_owned(),
            connection: ConnectionOptions::new(Duration::from_secs(2), Duration::from_secs(5)),
        }
    }

    /// Reads the options from a URL, whose form is described at the [module](super#the-url). No file
    /// is read and nothing is connected yet.
    ///
    /// # Errors
    ///
    /// [`ConnectError::Address`] if the URL is not valid. Its password is not part of the error.
    pub fn from_url(url: &Url) -> Result<Self, ConnectError> {
        let url_parts = EngineUrl::parse(url, "etcd://user:password@host:port/prefix")?;
        let mut builder = Self::new(url_parts.servers);
        builder.connection.tls.enabled = url.scheme() == "etcds";
        builder.connection.set_login(url_parts.user, url_parts.password);
        let prefix = url_parts.path.trim_start_matches('/');
        if !prefix.is_empty() {
            builder = builder.prefix(prefix);
        }
        for (name, value) in &url_parts.options {
            if !builder.connection.set(name, value)? {
                let known = format!("host, {}", ConnectionOptions::NAMES);
                return Err(unknown_option(name, &known));
            }
        }
        Ok(builder)
    }

    /// What all keys begin with. A slash is added if it does not end with one. Default: `lockword/`.
    /// In a URL: the path.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        if !self.prefix.ends_with('/') {
            self.prefix.push('/');
        }
        self
    }

    connection_setters! {
        user: "none, and no authentication",
        connect_timeout: "2 s (for each server)", timeout: "5 s",
        "How long a request may take, with all tries of all servers"
    }

    /// Checks the options, reads the files that they name, and connects. One of the servers has to
    /// answer, and a majority has to be available: the credentials and permissions are checked by a
    /// write that changes nothing.
    ///
    /// It returns within [`timeout`](Self::timeout), or with TLS within three times of it, since a
    /// server that hangs up after the handshake is tried again; later if a [runtime](Self::runtime) was
    /// given that nothing drives. It has to be called within a tokio
    /// runtime whose network and timers are enabled. Dropping the future is safe at any moment, and
    /// leaves nothing behind.
    ///
    /// # Errors
    ///
    /// [`ConnectError`], but never `UnknownScheme` or `MissingFeature`.
    /// [`Address`](ConnectError::Address) names the option that is not valid.
    pub async fn connect(self) -> Result<Etcd, ConnectError> {
        let (endpoints, limit) = (self.endpoints()?, self.connection.connecting_limit());
        let ConnectionOptions { login, connect_timeout, timeout, tls, runtime, .. } =
            self.connection;
        let password = match login.password {
            PasswordSource::None => String::new(),
            PasswordSource::Fixed(password) => password,
            _ => return Err(invalid("etcd takes a password that does not change only")),
        };
        let user = login.user.map(|name| Credentials { name, password });
        let open = |on| {
            let members = Members::new(endpoints, user, on, connect_timeout, timeout);
            Etcd::open(members, self.prefix, tls.enabled)
        };
        runtime.open(limit, open).await
    }

    /// Checks the options: the name of each server, and how to connect to it.
    fn endpoints(&self) -> Result<Vec<(String, Endpoint)>, ConnectError> {
        let ConnectionOptions { login, connect_timeout, tls, .. } = &self.connection;
        self.connection.check("etcds://")?;
        if self.servers.is_empty() {
            return Err(invalid(
                "it names no server: one is needed at least, as host or host:port",
            ));
        }
        if login.user.is_none() && login.has_password() {
            return Err(invalid(
                "there is a password, but no user: name the user, as in \
                 etcd://user:password@host, or leave the password out",
            ));
        }
        let config = if tls.enabled { Some(tls.tonic()?) } else { None };
        let scheme = if tls.enabled { "https" } else { "http" };
        let endpoint = |server: &String| {
            let (host, port) = host_and_port(server, PORT)?;
            let host = if host.contains(':') { format!("[{host}]") } else { host };
            let mut endpoint = Endpoint::from_shared(format!("{scheme}://{host}:{port}"))
                .map_err(|why| invalid(format!("{} is no server: {why}", shown(server))))?
                .connect_timeout(*connect_timeout)
                .http2_keep_alive_interval(PING_EVERY)
                .keep_alive_timeout(PING_WITHIN);
            if let Some(config) = &config {
                endpoint = endpoint.tls_config(config.clone()).map_err(|why| {
                    let why: &dyn Error = &why;
                    invalid(format!("TLS cannot be set up: {}", why.source().unwrap_or(why)))
                })?;
            }
            Ok((server.clone(), endpoint))
        };
        self.servers.iter().map(endpoint).collect()
    }
}

/// Without user, password and key.
impl fmt::Debug for EtcdBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let servers: Vec<_> = self.servers.iter().map(|server| shown(server)).collect();
        let mut fields = f.debug_struct("EtcdBuilder");
        fields.field("servers", &format_args!("[{}]", servers.join(", ")));
        self.connection.debug_fields(&mut fields);
        fields.field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::{Etcd, EtcdBuilder};
    use std::time::Duration;
    use url::Url;

    fn read(url: &str) -> Result<EtcdBuilder, String> {
        let builder = EtcdBuilder::from_url(&Url::parse(url).unwrap());
        let builder = builder.map_err(|error| error.to_string())?;
        builder.endpoints().map_err(|error| error.to_string())?;
        Ok(builder)
    }

    #[test]
    fn a_url_and_setters_give_the_same_options() {
        let url = "etcds://me:p%2Fw%2B+&@a/my/locks?host=b:1&host=[::1]:2&ca=/ca&cert=/cert&key=/key\
             &server_name=c&connect_timeout_ms=1000&timeout_ms=9";
        let by_url = EtcdBuilder::from_url(&Url::parse(url).unwrap()).unwrap();
        let by_setters = Etcd::builder(["a", "b:1", "[::1]:2"])
            .user("me")
            .password("p/w++&")
            .prefix("my/locks")
            .ca_file("/ca")
            .client_certificate_files("/cert", "/key")
            .server_name("c")
            .connect_timeout(Duration::from_secs(1))
            .timeout(Duration::from_millis(9));
        assert!(by_url == by_setters, "{by_url:?} is not {by_setters:?}");
        assert!(read("etcd://a").unwrap() == Etcd::builder(["a"]));
        assert!(read("etcds://a").unwrap() == Etcd::builder(["a"]).tls());
    }

    #[test]
    fn an_endpoint_has_the_default_port() {
        for (server, full) in
            [("a", "http://a:2379/"), ("a:80", "http://a:80/"), ("[::1]", "http://[::1]:2379/")]
        {
            let endpoints = Etcd::builder([server]).endpoints().unwrap();
            assert_eq!(endpoints[0].1.uri().to_string(), full);
        }
        assert_eq!(read("etcd://a").unwrap().prefix, "lockword/");
        assert_eq!(read("etcd://a/my/locks").unwrap().prefix, "my/locks/");
    }

    #[test]
    fn an_option_that_is_not_valid_is_named() {
        let none: [&str; 0] = [];
        let said = Etcd::builder(none).endpoints().unwrap_err().to_string();
        assert!(said.contains("no server: one is needed"), "{said}");
        for (url, why) in [
            ("etcd://", "no server"),
            ("etcd://a?host=b:x", "\"b:x\" is no server"),
            ("etcd://a?host=u:secret%40b", "is no server"),
            ("etcd://:p@a", "no user: name the user"),
            ("etcd://a?colour=red", "\"colour\""),
            ("etcd://a?ca=/x", "etcds://"),
            ("etcds://a?ca=/no/such/file", "ca=/no/such/file"),
            ("etcds://a?cert=/dev/null", "together"),
            ("etcd://a?timeout_ms=0", "timeout_ms"),
            ("etcd://a?timeout_ms=1&timeout_ms=2", "timeout_ms"),
        ] {
            let said = read(url).unwrap_err();
            assert!(said.contains(why), "{url}: {said}");
        }
    }
}

//! The options of the etcd engine, from setters or from a URL.

use super::Etcd;
use super::connector::{EtcdConnector, EtcdTls};
use super::members::{EtcdServer, Members};
use crate::cluster::ConnectError;
use crate::cluster::engines::options::{
    ConnectionOptions, EngineUrl, connection_setters, host_and_port, invalid, shown, unknown_option,
};
use rustls::pki_types::ServerName;
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
    pub(super) prefix: String,
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
    /// given that nothing drives. It has to be called within a tokio runtime whose timers are enabled, and so has
    /// every method of [`Etcd`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future is safe at any moment. It leaves nothing behind but a try to connect, which ends by
    /// itself within the connect timeout. Connecting writes nothing.
    ///
    /// # Errors
    ///
    /// [`ConnectError`], but never `UnknownScheme` or `MissingFeature`.
    /// [`Address`](ConnectError::Address) names the option that is not valid.
    pub async fn connect(self) -> Result<Etcd, ConnectError> {
        let (servers, limit) = (self.servers()?, self.connection.connecting_limit());
        let ConnectionOptions { login, connect_timeout, timeout, tls, runtime, .. } =
            self.connection;
        let open = |on| {
            let members = Members::new(servers, login, on, connect_timeout, timeout);
            Etcd::open(members, self.prefix, tls.enabled)
        };
        runtime.open(limit, open).await
    }

    /// Checks the options: the name of each server, and how to connect to it.
    fn servers(&self) -> Result<Vec<EtcdServer>, ConnectError> {
        let ConnectionOptions { login, allows_plaintext, connect_timeout, tls, .. } =
            &self.connection;
        self.connection.check("etcds://")?;
        if self.servers.is_empty() {
            return Err(invalid(
                "it names no server: one is needed at least, as host or host:port",
            ));
        }
        if login.user.is_none() && !login.needs_no_user() {
            return Err(invalid(
                "there is a password, but no user: name the user, as in \
                 etcd://user:password@host, or leave the password out",
            ));
        }
        let source = if tls.enabled { Some(tls.clone().rustls_for_http2()?) } else { None };
        let guards_password = login.has_password() && !allows_plaintext;
        let server = |name: &String| {
            let (host, port) = host_and_port(name, PORT)?;
            let refused =
                |why: &dyn fmt::Display| invalid(format!("{} is no server: {why}", shown(name)));
            let tls = match &source {
                Some(source) => {
                    let expected = tls.server_name.as_ref().unwrap_or(&host).clone();
                    let name = ServerName::try_from(expected).map_err(|why| refused(&why))?;
                    Some(EtcdTls { source: source.clone(), name })
                }
                None => None,
            };
            let host = if host.contains(':') { format!("[{host}]") } else { host };
            let at = format!("{host}:{port}");
            let endpoint = Endpoint::from_shared(format!("http://{at}"))
                .map_err(|why| refused(&why))?
                .connect_timeout(*connect_timeout)
                .http2_keep_alive_interval(PING_EVERY)
                .keep_alive_timeout(PING_WITHIN);
            let endpoint = match tls {
                // The connector encrypts, not the library.
                Some(_) => {
                    endpoint.origin(format!("https://{at}").parse().map_err(|why| refused(&why))?)
                }
                None => endpoint,
            };
            let connector =
                EtcdConnector::new(name.clone(), tls, guards_password, *connect_timeout);
            Ok(EtcdServer { name: name.clone(), endpoint, connector })
        };
        self.servers.iter().map(server).collect()
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
        builder.servers().map_err(|error| error.to_string())?;
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
        let by_file = Etcd::builder(["a"]).user("me").password_file("/x y").allow_plaintext();
        assert!(read("etcd://me@a?password_file=/x%20y&plaintext=allow").unwrap() == by_file);
        assert!(read("etcds://a").unwrap() == Etcd::builder(["a"]).tls());
    }

    #[test]
    fn an_endpoint_has_the_default_port() {
        for (server, full) in
            [("a", "http://a:2379/"), ("a:80", "http://a:80/"), ("[::1]", "http://[::1]:2379/")]
        {
            let servers = Etcd::builder([server]).servers().unwrap();
            assert_eq!(servers[0].endpoint.uri().to_string(), full);
        }
        assert_eq!(read("etcd://a").unwrap().prefix, "lockword/");
        assert_eq!(read("etcd://a/my/locks").unwrap().prefix, "my/locks/");
    }

    #[test]
    fn an_option_that_is_not_valid_is_named() {
        let none: [&str; 0] = [];
        let said = Etcd::builder(none).servers().map(drop).unwrap_err().to_string();
        assert!(said.contains("no server: one is needed"), "{said}");
        for (url, why) in [
            ("etcd://", "no server"),
            ("etcd://a?host=b:x", "\"b:x\" is no server"),
            ("etcd://a?host=u:secret%40b", "is no server"),
            ("etcd://:p@a", "no user: name the user"),
            ("etcd://a?password_file=/x", "no user: name the user"),
            ("etcd://u:secret@a?password_file=/x", "leave one of the two out"),
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

//! What an address says, and what it cannot say.

use super::Etcd;
use super::members::Members;
use crate::cluster::ConnectError;
use crate::cluster::engines::connect::{check, shown, unknown_option};
use etcd_client::ConnectOptions;
use percent_encoding::percent_decode_str;
use std::fmt;
use std::time::Duration;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};
use url::Url;

/// How etcd is to be reached: from [`Etcd::builder`].
#[must_use = "call connect"]
#[derive(Clone)]
pub struct Builder {
    servers: Vec<String>,
    tls: bool,
    user: Option<(String, String)>,
    prefix: String,
    authorities: Option<Vec<u8>>,
    identity: Option<(Vec<u8>, Vec<u8>)>,
    server_name: Option<String>,
    request_timeout: Duration,
}

/// How often a connection on which something is awaited is asked for a sign of life. etcd hangs up on
/// clients that do so more than every five seconds.
const PING_EVERY: Duration = Duration::from_secs(6);
/// How long a sign of life may take.
const PING_WITHIN: Duration = Duration::from_secs(2);
/// The longest time until a watch has yielded or ended. One whose connection is silent ends when the
/// sign of life is overdue; the last second is for the way.
pub(super) const WAKE_WITHIN: Duration =
    Duration::from_secs(PING_EVERY.as_secs() + PING_WITHIN.as_secs() + 1);
/// How long a connection may take, with the TLS handshake.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);

const PORT: u16 = 2379;

impl Builder {
    pub(super) fn new(servers: Vec<String>) -> Self {
        Self {
            servers,
            tls: false,
            user: None,
            prefix: "lockword/".to_owned(),
            authorities: None,
            identity: None,
            server_name: None,
            request_timeout: Duration::from_secs(5),
        }
    }

    /// The name of a user, and the password. Nobody unless it is set.
    pub fn user(mut self, name: impl Into<String>, password: impl Into<String>) -> Self {
        self.user = Some((name.into(), password.into()));
        self
    }

    /// What all keys begin with: `lockword/` unless it is set. A slash is put behind it if there is
    /// none.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        if !self.prefix.ends_with('/') {
            self.prefix.push('/');
        }
        self
    }

    /// Talks TLS, and trusts the system's authorities.
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// Talks TLS, and trusts these authorities and no others: one or more certificates, PEM.
    pub fn authorities(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.authorities = Some(pem.into());
        self.tls()
    }

    /// Talks TLS, and shows this certificate, of this private key: PEM.
    pub fn identity(mut self, certificate: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        self.identity = Some((certificate.into(), key.into()));
        self.tls()
    }

    /// Talks TLS, and expects this name in the servers' certificates. Their hosts unless it is set.
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self.tls()
    }

    /// How long a request may take, with all attempts: 5 seconds unless it is set.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// Connects: see [`Etcd::connect`].
    ///
    /// # Errors
    ///
    /// The same.
    pub async fn connect(self) -> Result<Etcd, ConnectError> {
        if self.servers.is_empty() {
            return Err(bad("it names no server"));
        }
        let mut servers = vec![];
        for server in &self.servers {
            servers.push((server.clone(), self.endpoint(server)?));
        }
        // A server that has lost the others says so, and ends its watches.
        let mut options =
            ConnectOptions::new().with_require_leader(true).with_auto_token_refresh(true);
        if let Some((name, password)) = self.user {
            options = options.with_user(name, password);
        }
        Etcd::new(Members::new(servers, options, self.request_timeout), self.prefix, self.tls).await
    }

    fn endpoint(&self, server: &str) -> Result<Endpoint, ConnectError> {
        let scheme = if self.tls { "https" } else { "http" };
        let url = Url::parse(&format!("{scheme}://{server}"));
        let url = url.map_err(|why| bad(format!("{} is no server: {why}", shown(server))))?;
        let host = url.host_str().unwrap_or_default();
        let is_plain = url.path() == "/" && url.username().is_empty() && url.query().is_none();
        if host.is_empty() || !is_plain || server.contains(['@', '%']) {
            let server = shown(server);
            return Err(bad(format!("{server} is no server: a host and a port are expected")));
        }
        let port = port(server, &url);
        let endpoint = Endpoint::from_shared(format!("{scheme}://{host}:{port}"));
        let endpoint = endpoint
            .map_err(|why| bad(format!("{} is no server: {why}", shown(server))))?
            .connect_timeout(CONNECT_WITHIN)
            .http2_keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_WITHIN);
        if !self.tls {
            return Ok(endpoint);
        }
        let mut tls = ClientTlsConfig::new();
        tls = match &self.authorities {
            Some(pem) => tls.ca_certificate(Certificate::from_pem(pem)),
            None => tls.with_native_roots(),
        };
        if let Some((certificate, key)) = &self.identity {
            tls = tls.identity(Identity::from_pem(certificate, key));
        }
        if let Some(name) = &self.server_name {
            tls = tls.domain_name(name);
        }
        endpoint.tls_config(tls).map_err(|why| {
            let why: &dyn std::error::Error = &why;
            bad(format!("TLS cannot be set up: {}", why.source().unwrap_or(why)))
        })
    }

    pub(super) fn from_url(url: &Url) -> Result<Self, ConnectError> {
        check(url)?;
        let host = url.host_str().filter(|host| !host.is_empty());
        let host = host.ok_or_else(|| bad("it names no server"))?;
        let first = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        let mut builder = Self::new(vec![first]);
        builder.tls = url.scheme() == "etcds";
        if !url.username().is_empty() {
            let name = decoded("user", url.username())?;
            builder = builder.user(name, decoded("password", url.password().unwrap_or_default())?);
        }
        let prefix = decoded("prefix", url.path().trim_start_matches('/'))?;
        if !prefix.is_empty() {
            builder = builder.prefix(prefix);
        }
        let (mut certificate, mut key) = (None, None);
        for (option, value) in url.query_pairs() {
            let needs_tls = matches!(&*option, "ca" | "cert" | "key" | "name");
            if needs_tls && !builder.tls {
                return Err(bad(format!("the option {option:?} needs etcds://")));
            }
            match &*option {
                "host" => builder.servers.push(value.into_owned()),
                "ca" => builder = builder.authorities(file("ca", &value)?),
                "cert" => certificate = Some(file("cert", &value)?),
                "key" => key = Some(file("key", &value)?),
                "name" => builder = builder.server_name(value),
                "timeout_ms" => {
                    let millis = value.parse().ok().filter(|millis| *millis > 0);
                    let millis = millis.ok_or_else(|| bad("timeout_ms is no positive number"))?;
                    builder = builder.request_timeout(Duration::from_millis(millis));
                }
                _ => {
                    let known = "host, ca, cert, key, name and timeout_ms";
                    return Err(unknown_option(&option, known));
                }
            }
        }
        match (certificate, key) {
            (Some(certificate), Some(key)) => Ok(builder.identity(certificate, key)),
            (None, None) => Ok(builder),
            _ => Err(bad("cert and key go together")),
        }
    }
}

/// The port, also where it is the scheme's usual one, which a URL does not show.
fn port(server: &str, url: &Url) -> u16 {
    let says = |port: u16| server.trim_end_matches('/').ends_with(&format!(":{port}"));
    let usual = url.port_or_known_default().filter(|port| says(*port));
    url.port().or(usual).unwrap_or(PORT)
}

fn bad(why: impl Into<String>) -> ConnectError {
    ConnectError::Address { why: why.into() }
}

fn decoded(what: &str, text: &str) -> Result<String, ConnectError> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(Into::into).map_err(|_| bad(format!("the {what} is not UTF-8")))
}

fn file(option: &str, path: &str) -> Result<Vec<u8>, ConnectError> {
    std::fs::read(path).map_err(|why| bad(format!("{option}={path} cannot be read: {why}")))
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let servers: Vec<_> = self.servers.iter().map(|server| shown(server)).collect();
        let mut fields = f.debug_struct("Builder");
        fields.field("servers", &format_args!("[{}]", servers.join(", "))).field("tls", &self.tls);
        fields.field("user", &self.user.as_ref().map(|(name, _)| name));
        fields.field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::Builder;
    use url::Url;

    fn read(address: &str) -> Result<Builder, String> {
        let builder = Builder::from_url(&Url::parse(address).unwrap());
        let builder = builder.map_err(|error| error.to_string())?;
        for server in &builder.servers {
            builder.endpoint(server).map_err(|error| error.to_string())?;
        }
        Ok(builder)
    }

    #[test]
    fn an_address_is_read() {
        let builder = read("etcd://me:p%2Fw%2B+&@a?host=b:1&host=[::1]:2").unwrap();
        assert_eq!(builder.servers, ["a", "b:1", "[::1]:2"]);
        assert_eq!(builder.user, Some(("me".to_owned(), "p/w++&".to_owned())));
        assert_eq!(builder.prefix, "lockword/");
        assert_eq!(read("etcd://a/my/locks?timeout_ms=9").unwrap().prefix, "my/locks/");
        for (server, full) in
            [("a", "http://a:2379/"), ("a:80", "http://a:80/"), ("[::1]", "http://[::1]:2379/")]
        {
            let endpoint = Builder::new(vec![]).endpoint(server).unwrap();
            assert_eq!(endpoint.uri().to_string(), full);
        }
        let shown = format!("{builder:?}");
        assert!(shown.contains("me") && !shown.contains("p/w"), "{shown}");
    }

    #[test]
    fn what_is_wrong_with_an_address_is_said() {
        for (address, why) in [
            ("etcd://", "no server"),
            ("etcd://a?host=b:x", "\"b:x\" is no server"),
            ("etcd://a?host=u:secret%40b", "is no server"),
            ("etcd://a?colour=red", "\"colour\""),
            ("etcd://a?ca=/x", "etcds://"),
            ("etcds://a?ca=/no/such/file", "ca=/no/such/file"),
            ("etcds://a?cert=/dev/null", "together"),
            ("etcd://a?timeout_ms=0", "timeout_ms"),
        ] {
            let said = read(address).unwrap_err();
            assert!(said.contains(why), "{address}: {said}");
        }
    }
}

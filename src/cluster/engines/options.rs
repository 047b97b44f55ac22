//! What the builders of the engines have in common: the parts of a URL, and the options that have the
//! same name and meaning for every engine.

use super::connect::{ConnectError, ENCODE};
pub(crate) use super::connect::{GivenRuntime, invalid};
use super::credentials::{LoginSource, PasswordSource};
use super::tls::{Pem, TlsOptions};
use percent_encoding::percent_decode_str;
use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;
use url::Url;

/// The longest timeout that can be set.
pub(crate) const LONGEST_TIMEOUT: Duration = Duration::from_secs(60 * 60);

/// A URL of an engine, in decoded parts.
pub(crate) struct EngineUrl {
    /// `host` or `host:port` each: the one of the URL itself, then those of the option `host`.
    pub(crate) servers: Vec<String>,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<String>,
    /// Without its first slash.
    pub(crate) path: String,
    /// All other options. No name occurs twice.
    pub(crate) options: Vec<(String, String)>,
}

impl EngineUrl {
    /// Splits `url` up. `form`: what such a URL looks like, for messages.
    ///
    /// # Errors
    ///
    /// [`ConnectError::Address`] if there is no server, if an option occurs twice, and if a part of a
    /// password seems to be in the wrong place. Nothing that could be one is in the error.
    pub(crate) fn parse(url: &Url, form: &str) -> Result<Self, ConnectError> {
        let parts =
            [url.path(), url.query().unwrap_or_default(), url.fragment().unwrap_or_default()];
        if parts.iter().any(|part| part.contains('@')) {
            return Err(invalid(ENCODE));
        }
        if url.fragment().is_some() {
            return Err(invalid("there is a # in it: write %23 if it is part of the password"));
        }
        let host = url.host_str().filter(|host| !host.is_empty());
        let host = host.ok_or_else(|| invalid(format!("it names no server: expected {form}")))?;
        if has_at(host) {
            return Err(invalid(format!("{} is no server", shown(host))));
        }
        let host = decoded("server", host)?;
        let server = url.port().map_or_else(|| host.clone(), |port| format!("{host}:{port}"));
        let user = Some(url.username()).filter(|user| !user.is_empty());
        let path = url.path();
        let mut parts = Self {
            servers: vec![server],
            user: user.map(|user| decoded("user", user)).transpose()?,
            password: url.password().map(|text| decoded("password", text)).transpose()?,
            path: decoded("path", path.strip_prefix('/').unwrap_or(path))?,
            options: vec![],
        };
        for (name, value) in url.query_pairs() {
            if name == "host" {
                parts.servers.push(value.into_owned());
                continue;
            }
            if parts.options.iter().any(|(other, _)| *other == name) {
                let name = option_name(&name);
                return Err(invalid(format!("the option {name} is there twice")));
            }
            parts.options.push((name.into_owned(), value.into_owned()));
        }
        Ok(parts)
    }

    /// The server, for an engine that has one.
    #[cfg(feature = "redis")]
    pub(crate) fn only_server(&self) -> Result<String, ConnectError> {
        match &self.servers[..] {
            [server] => Ok(server.clone()),
            _ => Err(invalid("it names several servers: one is expected")),
        }
    }
}

/// Options that every engine has. The setters are those of [`connection_setters`].
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct ConnectionOptions {
    pub(crate) login: LoginSource,
    /// A password may be sent without TLS, wherever it goes.
    pub(crate) allows_plaintext: bool,
    pub(crate) connect_timeout: Duration,
    pub(crate) timeout: Duration,
    pub(crate) tls: TlsOptions,
    pub(crate) runtime: GivenRuntime,
}

impl ConnectionOptions {
    pub(crate) fn new(connect_timeout: Duration, timeout: Duration) -> Self {
        Self {
            login: LoginSource::default(),
            allows_plaintext: false,
            connect_timeout,
            timeout,
            tls: TlsOptions::default(),
            runtime: GivenRuntime::default(),
        }
    }

    /// Sets the user and the password of a URL.
    pub(crate) fn set_login(&mut self, user: Option<String>, password: Option<String>) {
        self.login.user = user;
        self.login.password = password.map_or(PasswordSource::None, PasswordSource::Fixed);
    }

    /// The longest that connecting takes, as the documentation of [`connect`](super::connect) says.
    pub(crate) fn connecting_limit(&self) -> Duration {
        // Not checked yet.
        self.connect_timeout.saturating_mul(8).saturating_add(self.timeout.saturating_mul(3))
    }

    /// What the URL options of [`set`](Self::set) are called, for messages.
    pub(crate) const NAMES: &str = "password_file, plaintext, ca, cert, key, server_name, \
        connect_timeout_ms, timeout_ms";

    /// Sets the option of a URL that is called `name`. `false`: it is none of these.
    pub(crate) fn set(&mut self, name: &str, value: &str) -> Result<bool, ConnectError> {
        match name {
            "password_file" => self.login.password = password_file(&self.login.password, value)?,
            "plaintext" if value == "allow" => self.allows_plaintext = true,
            "plaintext" => return Err(invalid("plaintext can only be set to \"allow\"")),
            "ca" => self.tls.ca = Some(Pem::File(value.into())),
            "cert" => self.tls.certificate = Some(Pem::File(value.into())),
            "key" => self.tls.key = Some(Pem::File(value.into())),
            "server_name" => self.tls.server_name = Some(value.to_owned()),
            "connect_timeout_ms" => {
                self.connect_timeout = Duration::from_millis(number(name, value)?);
            }
            "timeout_ms" => self.timeout = Duration::from_millis(number(name, value)?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Checks what was set, by a URL or by setters. `tls_by`: how TLS is turned on in a URL.
    pub(crate) fn check(&self, tls_by: &str) -> Result<(), ConnectError> {
        for (name, timeout) in
            [("connect_timeout_ms", self.connect_timeout), ("timeout_ms", self.timeout)]
        {
            if timeout < Duration::from_millis(1) || timeout > LONGEST_TIMEOUT {
                let (is, most) = (timeout.as_millis(), LONGEST_TIMEOUT.as_millis());
                return Err(invalid(format!("{name} is {is}, but must be from 1 to {most}")));
            }
        }
        self.tls.check(tls_by)
    }

    /// Adds what the `Debug` output of every builder has: nothing of the user, and no PEM text.
    pub(crate) fn debug_fields(&self, fields: &mut fmt::DebugStruct<'_, '_>) {
        fields.field("tls", &self.tls.enabled);
        fields.field("connect_timeout", &self.connect_timeout).field("timeout", &self.timeout);
    }
}

/// The file of a password in a URL that has no password yet.
pub(crate) fn password_file(
    given: &PasswordSource,
    file: &str,
) -> Result<PasswordSource, ConnectError> {
    match given {
        PasswordSource::None if !file.is_empty() => Ok(PasswordSource::File(file.into())),
        PasswordSource::None => Err(invalid("password_file names no file")),
        _ => Err(invalid("there is a password besides password_file: leave one of the two out")),
    }
}

/// Refuses to send a password to this address without TLS, unless it is one of the loopback interface. `server`:
/// for the message. `tls`: how TLS is turned on in an address.
pub(crate) fn check_plaintext(
    address: IpAddr,
    server: &str,
    tls: &'static str,
) -> Result<(), ConnectError> {
    match address.to_canonical().is_loopback() {
        true => Ok(()),
        false => Err(ConnectError::Unencrypted { server: server.to_owned(), tls }),
    }
}

/// The setters of the [`ConnectionOptions`] in the field `connection`.
macro_rules! connection_setters {
    (
        user: $user:literal,
        connect_timeout: $connect_timeout:literal,
        timeout: $timeout:literal, $bounds:literal
    ) => {
        #[doc = concat!("The name of the user. Default: ", $user, ".")]
        pub fn user(mut self, name: impl Into<String>) -> Self {
            self.connection.login.user = Some(name.into());
            self
        }

        /// The user's password, as it is (in a URL it is percent-encoded). Default: none. It is in no
        /// error and in no `Debug` output.
        ///
        /// If several of this, [`password_file`](Self::password_file) and [`credentials_by`](Self::credentials_by) are
        /// called, the last call wins. In a URL, a password and `password_file` together are an error.
        pub fn password(mut self, password: impl Into<String>) -> Self {
            self.connection.login.password =
                $crate::cluster::engines::credentials::PasswordSource::Fixed(password.into());
            self
        }

        /// The user's password is the content of this regular file: UTF-8, at most 64 KiB. One end of a line at its
        /// end is removed; other white space is part of the password. Each login reads the file again, so it may be
        /// [replaced](crate::cluster::connect#credentials-that-change) while connections are open. Its content is in
        /// no error and in no `Debug` output. In a URL: `password_file`.
        ///
        /// To read it may take half of what is left of the [connect timeout](Self::connect_timeout). A file that cannot
        /// be read in that time, or is empty, is
        /// [`ConnectError::Credentials`](crate::cluster::ConnectError::Credentials) from
        /// [`connect`](Self::connect), and later
        /// [`Unavailable`](crate::cluster::TransportError::Unavailable).
        pub fn password_file(mut self, file: impl Into<std::path::PathBuf>) -> Self {
            self.connection.login.password =
                $crate::cluster::engines::credentials::PasswordSource::File(file.into());
            self
        }

        /// Each login calls `ask` for its password, and for its user if that is not always the same: for
        /// tokens that live for minutes, such as those of the databases of cloud providers, or users that a vault
        /// makes. A user that it returns wins over [`user`](Self::user). Several logins may call it at a time. After
        /// a login that the server has refused it is called once more, so it should not return what it knows to be
        /// old.
        ///
        /// The future runs where the connections live, on a thread of this crate unless there is a
        /// [runtime](Self::runtime); it must not block, and may use tokio's timers and sockets. It may take half of
        /// what is left of the [connect timeout](Self::connect_timeout), the second call half of the rest, and is
        /// dropped then. It is not dropped when the request that needs the login ends before: the next ones use
        /// the login.
        ///
        /// # Errors
        ///
        /// If it takes longer, panics, returns an error, or with etcd returns no user where none is set, that is
        /// [`ConnectError::Credentials`](crate::cluster::ConnectError::Credentials) from [`connect`](Self::connect),
        /// and later [`Unavailable`](crate::cluster::TransportError::Unavailable): the node tries again while
        /// its leases last. The text of its error is shown to users, so it must not have a secret in it.
        pub fn credentials_by<F, E>(
            mut self,
            ask: impl Fn() -> F + Send + Sync + 'static,
        ) -> Self
        where
            F: Future<Output = Result<$crate::cluster::engines::Credentials, E>> + Send + 'static,
            E: Into<$crate::cluster::Cause>,
        {
            use $crate::cluster::engines::credentials::{CredentialCallback, PasswordSource};
            self.connection.login.password =
                PasswordSource::Callback(CredentialCallback::new(ask));
            self
        }

        /// Lets a password be sent [without TLS](crate::cluster::connect#no-password-in-clear-text) to any address.
        /// Default: only to loopback addresses, and over Unix sockets. In a URL: `plaintext=allow`.
        pub fn allow_plaintext(mut self) -> Self {
            self.connection.allows_plaintext = true;
            self
        }

        #[doc = concat!(
            "How long it may take to open a connection, with the TLS handshake and the login: from ",
            "1 ms to 1 h. Default: ", $connect_timeout, ". In a URL: `connect_timeout_ms`."
        )]
        pub fn connect_timeout(mut self, timeout: std::time::Duration) -> Self {
            self.connection.connect_timeout = timeout;
            self
        }

        #[doc = concat!(
            $bounds, ": from 1 ms to 1 h. Default: ", $timeout, ". In a URL: `timeout_ms`."
        )]
        pub fn timeout(mut self, timeout: std::time::Duration) -> Self {
            self.connection.timeout = timeout;
            self
        }

        /// The tokio runtime on which the connections live, with its I/O and timers enabled. Default:
        /// a thread of this crate's own, one for the process.
        ///
        /// Something has to drive it while this connects: the [`connect`](Self::connect) ends after eight times
        /// the connect timeout plus three times the timeout, with
        /// [`ConnectError::Runtime`](crate::cluster::ConnectError::Runtime), if nothing does. It fails with the
        /// same error if I/O or timers are missing, which tokio tells by a panic that the panic hook reports.
        ///
        /// On the runtime of the callers a request costs no change of threads. Give one together with
        /// [`NodeBuilder::runtime`](crate::cluster::NodeBuilder::runtime), and only one none of whose tasks
        /// blocks its thread: no request is answered meanwhile, and the leases end. When the runtime
        /// ends, requests fail as [`Unavailable`](crate::cluster::TransportError::Unavailable), and
        /// those that were sent as [`Indeterminate`](crate::cluster::TransportError::Indeterminate).
        pub fn runtime(self, runtime: tokio::runtime::Handle) -> Self {
            self.given_runtime($crate::cluster::engines::options::GivenRuntime(Some(runtime)))
        }

        pub(crate) fn given_runtime(
            mut self,
            runtime: $crate::cluster::engines::options::GivenRuntime,
        ) -> Self {
            self.connection.runtime = runtime;
            self
        }

        /// Encrypts the connection (TLS 1.2 or 1.3), and checks the server's certificate against the
        /// authorities that the system trusts. Default: no TLS. There is no way to use TLS without
        /// this check.
        pub fn tls(mut self) -> Self {
            self.connection.tls.enabled = true;
            self
        }

        /// Turns TLS on, and trusts the authorities in this PEM file (one or more certificates)
        /// instead of the system's. Each new connection reads the file again, and uses the last content that is
        /// valid. In a URL: `ca`.
        pub fn ca_file(mut self, file: impl Into<std::path::PathBuf>) -> Self {
            self.connection.tls.ca = Some($crate::cluster::engines::tls::Pem::File(file.into()));
            self.tls()
        }

        /// The same as [`ca_file`](Self::ca_file), with the text of the file.
        pub fn ca_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
            self.connection.tls.ca = Some($crate::cluster::engines::tls::Pem::Text(pem.into()));
            self.tls()
        }

        /// Turns TLS on, and presents to the server the certificate chain in the first PEM file, whose
        /// private key is in the second. Each new connection reads the files again, and uses the last
        /// pair that is valid and fits together. Default: no client certificate is presented. In a URL: `cert`
        /// and `key`.
        pub fn client_certificate_files(
            mut self,
            certificate: impl Into<std::path::PathBuf>,
            key: impl Into<std::path::PathBuf>,
        ) -> Self {
            use $crate::cluster::engines::tls::Pem;
            self.connection.tls.certificate = Some(Pem::File(certificate.into()));
            self.connection.tls.key = Some(Pem::File(key.into()));
            self.tls()
        }

        /// The same as [`client_certificate_files`](Self::client_certificate_files), with the texts of
        /// the files.
        pub fn client_certificate_pem(
            mut self,
            certificate: impl Into<Vec<u8>>,
            key: impl Into<Vec<u8>>,
        ) -> Self {
            use $crate::cluster::engines::tls::Pem;
            self.connection.tls.certificate = Some(Pem::Text(certificate.into()));
            self.connection.tls.key = Some(Pem::Text(key.into()));
            self.tls()
        }

        /// Turns TLS on, and expects this name in the server's certificate. Default: the host to which
        /// it connects. In a URL: `server_name`.
        pub fn server_name(mut self, name: impl Into<String>) -> Self {
            self.connection.tls.server_name = Some(name.into());
            self.tls()
        }
    };
}
pub(crate) use connection_setters;

/// The host and the port of `server`: `host`, `host:port`, `[IPv6]` or `[IPv6]:port`. The brackets are
/// not part of the host.
pub(crate) fn host_and_port(
    server: &str,
    default_port: u16,
) -> Result<(String, u16), ConnectError> {
    let refused = |why: &str| invalid(format!("{} is no server: {why}", shown(server)));
    if server.contains(['@', '%', '/', '?', '#']) {
        return Err(refused("a host and a port are expected"));
    }
    if !server.is_ascii() {
        return Err(refused(
            "a host name has ASCII letters only here: write its other labels in the form that \
             begins with xn--",
        ));
    }
    let url = Url::parse(&format!("server://{server}")).map_err(|why| refused(&why.to_string()))?;
    let host = url.host_str().filter(|host| !host.is_empty());
    let host = host.ok_or_else(|| refused("a host and a port are expected"))?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Ok((host.to_owned(), url.port().unwrap_or(default_port)))
}

/// The error that there is no option `name`. `known`: those that there are.
pub(crate) fn unknown_option(name: &str, known: &str) -> ConnectError {
    invalid(format!("there is no option {}; there are {known}", option_name(name)))
}

/// The name of an option, for messages: not if it could be part of a password.
fn option_name(name: &str) -> Cow<'static, str> {
    let is_name = name.bytes().all(|c| c.is_ascii_lowercase() || c == b'_');
    if is_name && (1..=32).contains(&name.len()) {
        return format!("{name:?}").into();
    }
    "of a name that is not shown, since it may be part of a password (percent-encode special \
     characters in it)"
        .into()
}

/// The number that the option `name` of a URL is set to.
pub(crate) fn number(name: &str, value: &str) -> Result<u64, ConnectError> {
    value.parse().map_err(|_| invalid(format!("{name} is {value:?}, but must be a number")))
}

/// A server's name, for messages: not if it could have a password in it.
pub(crate) fn shown(server: &str) -> Cow<'_, str> {
    if has_at(server) {
        return "a name that is not shown, since it has an @ in it,".into();
    }
    format!("{server:?}").into()
}

fn has_at(server: &str) -> bool {
    server.contains('@') || server.contains("%40")
}

fn decoded(what: &str, text: &str) -> Result<String, ConnectError> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(Into::into).map_err(|_| invalid(format!("the {what} in it is not UTF-8")))
}

#[cfg(test)]
mod tests {
    use super::{ConnectionOptions, EngineUrl, check_plaintext, host_and_port};
    use std::time::Duration;
    use url::Url;

    fn parse(url: &str) -> Result<EngineUrl, String> {
        EngineUrl::parse(&Url::parse(url).unwrap(), "x://host").map_err(|error| error.to_string())
    }

    #[test]
    fn a_url_is_split_into_decoded_parts() {
        let url = parse("x://me:p%2Fw%2B+&@a:1/db%20x/y?host=[::1]:2&z=1%2C2&host=b").unwrap();
        assert_eq!(url.servers, ["a:1", "[::1]:2", "b"]);
        assert_eq!((url.user.as_deref(), url.password.as_deref()), (Some("me"), Some("p/w++&")));
        assert_eq!(url.path, "db x/y");
        assert_eq!(url.options, [("z".to_owned(), "1,2".to_owned())]);
        for (bad, why) in [
            ("x:///db", "names no server: expected x://host"),
            ("x:db", "names no server"),
            ("x://a/#z", "%23"),
            ("x://a?z=1&z=2", "\"z\" is there twice"),
            ("x://a?Hush=1&Hush=2", "not shown"),
            ("x://a/%FF", "not UTF-8"),
        ] {
            let said = parse(bad).map(|_| ()).unwrap_err();
            assert!(said.contains(why) && !said.contains("Hush"), "{bad}: {said}");
        }
    }

    #[test]
    fn a_server_is_a_host_and_a_port() {
        for (server, host, port) in
            [("a", "a", 9), ("a:80", "a", 80), ("[::1]", "::1", 9), ("[::1]:443", "::1", 443)]
        {
            assert_eq!(host_and_port(server, 9).unwrap(), (host.to_owned(), port));
        }
        for bad in ["", ":1", "a:x", "a:1/b", "u:p@a", "u%40a", "a b", "::1"] {
            assert!(host_and_port(bad, 9).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_password_goes_in_clear_text_to_the_loopback_interface_only() {
        for local in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            assert!(check_plaintext(local.parse().unwrap(), "a:1", "x://").is_ok(), "{local}");
        }
        for remote in ["10.0.0.1", "192.168.0.1", "0.0.0.0", "::", "fe80::1", "fd00::1"] {
            let refused = check_plaintext(remote.parse().unwrap(), "a:1", "x://").unwrap_err();
            let said = refused.to_string();
            let has = |part| said.contains(part);
            assert!(has("a:1") && has("x://") && has("plaintext=allow"), "{remote}: {said}");
        }
    }

    #[test]
    fn there_is_one_password() {
        let mut options = ConnectionOptions::new(Duration::from_secs(1), Duration::from_secs(1));
        for (name, value, why) in [
            ("password_file", "", "password_file"),
            ("plaintext", "deny", "\"allow\""),
            ("plaintext", "true", "\"allow\""),
        ] {
            let said = options.set(name, value).unwrap_err().to_string();
            assert!(said.contains(why), "{said}");
        }
        assert!(options.set("password_file", "/a").unwrap());
        options.set_login(None, Some("hush".to_owned()));
        let said = options.set("password_file", "/a").unwrap_err().to_string();
        assert!(said.contains("leave one of the two out") && !said.contains("hush"), "{said}");
    }

    #[test]
    fn timeouts_have_bounds_and_names() {
        let second = Duration::from_secs(1);
        let mut options = ConnectionOptions::new(second, second);
        assert!(options.check("").is_ok());
        for (name, value) in
            [("timeout_ms", "0"), ("timeout_ms", "3600001"), ("connect_timeout_ms", "0")]
        {
            let mut options = options.clone();
            assert!(options.set(name, value).unwrap());
            let said = options.check("").unwrap_err().to_string();
            assert!(said.contains(name), "{said}");
        }
        assert!(options.set("timeout_ms", "soon").unwrap_err().to_string().contains("timeout_ms"));
        assert!(!options.set("colour", "red").unwrap());
    }
}

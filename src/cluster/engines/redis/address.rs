//! What an address says: where the server is, who asks, and under which names.

use super::tls::Tls;
use crate::cluster::engines::connect::{check, unknown_option};
use crate::cluster::{ConnectError, Key};
use ::redis::{ConnectionAddr, IntoConnectionInfo, ProtocolVersion, RedisConnectionInfo};
use url::Url;

/// The longest prefix, in bytes.
const LONGEST_PREFIX: usize = 100;

/// An address that was understood.
#[derive(Clone)]
pub(super) struct Settings {
    pub(super) host: String,
    pub(super) port: u16,
    /// User, password, database.
    pub(super) login: RedisConnectionInfo,
    pub(super) tls: Option<Tls>,
    pub(super) names: Names,
}

impl Settings {
    /// Reads the files that the address names.
    pub(super) fn read(url: &Url) -> Result<Self, ConnectError> {
        check(url)?;
        let tls = url.scheme() == "rediss";
        let (mut prefix, mut ca, mut cert, mut key) = (None, None, None, None);
        for (name, value) in url.query_pairs() {
            let slot = match &*name {
                "prefix" => &mut prefix,
                "ca" if tls => &mut ca,
                "cert" if tls => &mut cert,
                "key" if tls => &mut key,
                "ca" | "cert" | "key" => return Err(bad(format!("{name:?} needs rediss://"))),
                _ => return Err(unknown_option(&name, "prefix, ca, cert and key")),
            };
            if slot.replace(value.into_owned()).is_some() {
                return Err(bad(format!("{name:?} is there twice")));
            }
        }
        if url.fragment().is_some() {
            return Err(bad("there is a # in it: write %23 if it is part of the password"));
        }
        if url.host_str().is_none_or(str::is_empty) {
            return Err(bad("there is no host in it"));
        }
        // The client library reads the rest. Of TLS it knows nothing here.
        let mut plain = url.clone();
        plain.set_query(None);
        plain.set_scheme("redis").map_err(|()| bad("it is no address of a server"))?;
        // Its words may quote the address.
        let info = plain.into_connection_info();
        let info = info.map_err(|_| bad("it is not redis://user:password@host:port/database"))?;
        let ConnectionAddr::Tcp(host, port) = info.addr() else {
            return Err(bad("there is no host in it"));
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let login = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        Ok(Self {
            host,
            port: *port,
            // It would need one more grant.
            login: login.set_skip_set_lib_name(),
            tls: tls.then(|| Tls::read(ca, cert, key)).transpose()?,
            names: Names::new(prefix.as_deref().unwrap_or("lockword"), info.redis_settings().db())?,
        })
    }

    /// Host and port, for messages.
    pub(super) fn server(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

/// No user and no password.
impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings").field("server", &self.server()).finish_non_exhaustive()
    }
}

fn bad(why: impl Into<String>) -> ConnectError {
    ConnectError::Address { why: why.into() }
}

/// What the keys and channels of the server are called.
///
/// The braces keep all names of a prefix in one slot of a Redis Cluster.
#[derive(Clone, Debug)]
pub(super) struct Names {
    pub(super) prefix: String,
    database: i64,
}

impl Names {
    fn new(prefix: &str, database: i64) -> Result<Self, ConnectError> {
        if prefix.len() > LONGEST_PREFIX {
            return Err(bad(format!("the prefix is longer than {LONGEST_PREFIX} bytes")));
        }
        let key = Key::new(prefix).map_err(|why| bad(format!("as the prefix: {why}")))?;
        Ok(Self { prefix: key.as_str().to_owned(), database })
    }

    /// The register of `key`.
    pub(super) fn register(&self, key: &Key) -> String {
        format!("{{{}}}:{key}", self.prefix)
    }

    /// The channel on which the changes of `key` are told. All databases share the channels, so the
    /// name says which one it is, with a character that no key has; not so that of database 0.
    pub(super) fn channel(&self, key: &Key) -> String {
        match self.database {
            0 => self.register(key),
            other => format!("{{{}}}:#{other}:{key}", self.prefix),
        }
    }

    /// The largest version of all registers. No register is called that.
    pub(super) fn floor(&self) -> String {
        format!("{{{}}}floor", self.prefix)
    }

    /// A channel that nobody listens to.
    pub(super) fn nobody(&self) -> String {
        format!("{{{}}}:", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::Settings;
    use crate::cluster::Key;
    use url::Url;

    fn read(address: &str) -> Result<Settings, String> {
        Settings::read(&Url::parse(address).unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn an_address_says_everything() {
        let settings = read("redis://me:p%40ss%23@example.org:7000/3?prefix=a/b").unwrap();
        assert_eq!(settings.server(), "example.org:7000");
        assert_eq!(settings.login.username(), Some("me"));
        assert_eq!(settings.login.password(), Some("p@ss#"));
        assert_eq!(settings.login.db(), 3);
        let key = Key::new("jobs").unwrap();
        assert_eq!(settings.names.register(&key), "{a/b}:jobs");
        assert_eq!(settings.names.channel(&key), "{a/b}:#3:jobs");
        assert_eq!(settings.names.floor(), "{a/b}floor");
        let settings = read("redis://[::1]").unwrap();
        assert_eq!(settings.names.channel(&key), "{lockword}:jobs");
        assert_eq!((&*settings.host, settings.port), ("::1", 6379));
        assert_eq!(settings.names.floor(), "{lockword}floor");
        assert!(read("rediss://localhost").unwrap().tls.is_some());
    }

    #[test]
    fn a_bad_address_is_told_why_without_the_password() {
        for (address, why) in [
            ("redis://u:secret@h/1?prefx=a", "there is no option \"prefx\""),
            ("redis://u:secret@h/1?prefix=a&prefix=b", "\"prefix\" is there twice"),
            ("redis://u:secret@h/1?prefix=a{b", "must not have '{'"),
            ("redis://u:secret@h/1?ca=/x", "\"ca\" needs rediss://"),
            ("redis://u:secret@h/one", "user:password@host:port/database"),
            ("redis://u:secret@h/1#x", "%23"),
            ("redis:///1", "no host"),
            ("rediss://u:secret@h/1?ca=/no/such/file", "/no/such/file"),
            ("rediss://u:secret@h/1?cert=/no/such/file", "\"key\""),
        ] {
            let error = read(address).unwrap_err();
            assert!(error.contains(why), "{address}: {error}");
            assert!(!error.contains("secret"), "{address}: {error}");
        }
        let debug = format!("{:?}", read("redis://user:secret@h/1").unwrap());
        assert!(!debug.contains("secret") && !debug.contains("user"), "{debug}");
    }
}

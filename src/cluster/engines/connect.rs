//! An engine by its address.

use super::Memory;
use crate::cluster::transport::{Cause, Transport};
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use url::Url;

/// Connects to the engine at this address.
///
/// | address | feature | engine |
/// |---|---|---|
/// | `memory:` | none | [`Memory`], a new and empty one |
/// | `redis://`, `rediss://` (TLS) | `redis` | Redis or Valkey |
/// | `postgres://`, `postgresql://` | `postgres` | PostgreSQL |
/// | `etcd://`, `etcds://` (TLS) | `etcd` | etcd |
///
/// Several hosts are separated by commas, where an engine has several:
/// `etcd://a:2379,b:2379,c:2379`.
///
/// What else an address may say is told on each engine's page. A password in it is never part of an
/// error's text. What is not a letter or a digit in it is written as `%` and two hexadecimal digits: an
/// address with an `@` where none belongs is refused.
///
/// # Errors
///
/// [`ConnectError`].
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use lockword::cluster::{Node, connect};
///
/// let node = Node::builder(connect("memory:").await?).build()?;
/// node.lock("jobs/nightly")?.acquire().await?.release().await?;
/// # Ok(())
/// # }
/// ```
pub async fn connect(address: &str) -> Result<Arc<dyn Transport>, ConnectError> {
    check_text(address)?;
    let url = Url::parse(&to_url(address))
        .map_err(|why| ConnectError::Address { why: why.to_string() })?;
    match url.scheme() {
        "memory" => Ok(Arc::new(Memory::new())),
        "redis" | "rediss" => redis(&url).await,
        "postgres" | "postgresql" => postgres(&url).await,
        "etcd" | "etcds" => etcd(&url).await,
        other => Err(ConnectError::UnknownScheme { scheme: other.to_owned() }),
    }
}

/// Fails: there is no such engine in this build.
#[allow(dead_code, reason = "with all engines there is none missing")]
fn missing(url: &Url, feature: &'static str) -> Result<Arc<dyn Transport>, ConnectError> {
    Err(ConnectError::MissingFeature { scheme: url.scheme().to_owned(), feature })
}

#[cfg(not(feature = "redis"))]
async fn redis(url: &Url) -> Result<Arc<dyn Transport>, ConnectError> {
    missing(url, "redis")
}

#[cfg(feature = "redis")]
async fn redis(url: &Url) -> Result<Arc<dyn Transport>, ConnectError> {
    Ok(Arc::new(super::redis::Redis::connect(url).await?))
}

#[cfg(not(feature = "postgres"))]
async fn postgres(url: &Url) -> Result<Arc<dyn Transport>, ConnectError> {
    missing(url, "postgres")
}

#[cfg(feature = "postgres")]
async fn postgres(url: &Url) -> Result<Arc<dyn Transport>, ConnectError> {
    Ok(Arc::new(super::postgres::Postgres::connect(url).await?))
}

#[cfg(not(feature = "etcd"))]
async fn etcd(url: &Url) -> Result<Arc<dyn Transport>, ConnectError> {
    missing(url, "etcd")
}

#[cfg(feature = "etcd")]
async fn etcd(url: &Url) -> Result<Arc<dyn Transport>, ConnectError> {
    Ok(Arc::new(super::etcd::Etcd::connect(url).await?))
}

/// Why there is no connection. No password, and no address that could have one, is in its text.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ConnectError {
    /// The address is not understood.
    Address {
        /// What is wrong with it.
        why: String,
    },
    /// No engine has this scheme.
    UnknownScheme {
        /// The part before the colon.
        scheme: String,
    },
    /// The engine is not part of this build.
    MissingFeature {
        /// The part before the colon.
        scheme: String,
        /// The feature of lockword to enable.
        feature: &'static str,
    },
    /// Nothing answers there.
    Unreachable {
        /// Host and port.
        server: String,
        /// What the client said.
        cause: Cause,
    },
    /// The server refuses the credentials, or grants too little.
    Denied {
        /// Host and port.
        server: String,
        /// What the server said.
        cause: Cause,
    },
    /// The server's certificate is not trusted, or has expired, or is for another name; or the server
    /// does not trust the client's.
    Untrusted {
        /// Host and port.
        server: String,
        /// What the client said.
        cause: Cause,
    },
    /// The server works, but not for locks: its version, or a setting.
    Unsuitable {
        /// Host and port.
        server: String,
        /// What does not suit, and what to do.
        why: String,
    },
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address { why } => write!(f, "the engine's address is not understood: {why}"),
            Self::UnknownScheme { scheme } => write!(
                f,
                "no engine is known for {scheme:?}: \
                 use memory:, redis://, rediss://, postgres://, etcd:// or etcds://"
            ),
            Self::MissingFeature { scheme, feature } => {
                write!(
                    f,
                    "{scheme}:// needs lockword's feature {feature:?}: enable it in Cargo.toml"
                )
            }
            Self::Unreachable { server, cause } => write!(
                f,
                "{server} cannot be reached ({cause}): check the address, and that the server runs"
            ),
            Self::Denied { server, cause } => write!(
                f,
                "{server} refuses this client ({cause}): check user, password and permissions"
            ),
            Self::Untrusted { server, cause } => write!(
                f,
                "the certificate of {server} is not trusted ({cause}): \
                 check the authority, the dates and the name in it"
            ),
            Self::Unsuitable { server, why } => write!(f, "{server} is not fit for locks: {why}"),
        }
    }
}

impl std::error::Error for ConnectError {}

/// An attempt to connect that several callers wait for.
///
/// It is a task of its own, so it goes on when the caller that began it has stopped waiting. To look
/// at its state, which is done under a lock, polls nothing: no waker runs under that lock, and the
/// runtime's cooperative budget does not matter.
#[cfg(any(feature = "postgres", feature = "redis"))]
pub(crate) struct PendingConnection<T>(tokio::sync::watch::Receiver<Option<T>>);

#[cfg(any(feature = "postgres", feature = "redis"))]
impl<T: Send + Sync + 'static> PendingConnection<T> {
    pub(crate) fn begin(connect: impl Future<Output = T> + Send + 'static) -> Self {
        let (sender, receiver) = tokio::sync::watch::channel(None);
        tokio::spawn(async move {
            let result = connect.await;
            sender.send_replace(Some(result));
        });
        Self(receiver)
    }

    /// Whether it is in flight, or has ended with what `is_good`.
    pub(crate) fn is_of_use(&self, is_good: impl FnOnce(&T) -> bool) -> bool {
        match &*self.0.borrow() {
            Some(result) => is_good(result),
            // Its runtime may have ended, and it with that.
            None => self.0.has_changed().is_ok(),
        }
    }

    /// Waits until it has ended. `None`: its runtime has ended before.
    pub(crate) async fn result(&self) -> Option<T>
    where
        T: Clone,
    {
        let mut receiver = self.0.clone();
        let result = receiver.wait_for(Option::is_some).await.ok()?;
        result.clone()
    }

    /// Whether both are the same.
    #[cfg(feature = "redis")]
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.0.same_channel(&other.0)
    }
}

#[cfg(any(feature = "postgres", feature = "redis"))]
impl<T> Clone for PendingConnection<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// `scheme://user@a:1,b:2/path?query` as a URL: `scheme://user@a:1/path?query&host=b:2`.
///
/// An address with one host, or none, is left as it is.
fn to_url(address: &str) -> Cow<'_, str> {
    let Some((scheme, rest)) = address.split_once("://") else { return address.into() };
    let (authority, rest) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let at = authority.rfind('@').map_or(0, |at| at + 1);
    let (user, hosts) = authority.split_at(at);
    let mut hosts = hosts.split(',');
    let first = hosts.next().unwrap_or_default();
    let (rest, fragment) = rest.split_at(rest.find('#').unwrap_or(rest.len()));
    let mut separator = if rest.contains('?') { '&' } else { '?' };
    let mut more = String::new();
    for host in hosts {
        more.extend([&*separator.to_string(), "host=", host]);
        separator = '&';
    }
    if more.is_empty() {
        return address.into();
    }
    format!("{scheme}://{user}{first}{rest}{more}{fragment}").into()
}

// Addresses in which a password may stand where none is looked for.
//
// A character that is not percent-encoded ends the password too early, and the rest of it becomes a
// host, an option, a part of the path. It must not be shown then, nor used.
/// Why an address is refused, and what is to be done about it.
const ENCODE: &str = "there is an @ that is not percent-encoded behind the server's name, or two \
                      before it: write what is special in a user's name or a password as % and two \
                      hexadecimal digits (@ is %40, / is %2F, ? is %3F, # is %23)";

/// Whether the address, as it was written, has a stray `@`. A URL does not tell: of two in its
/// authority it takes the first for a part of the password.
fn check_text(address: &str) -> Result<(), ConnectError> {
    let Some((_, rest)) = address.split_once("://") else { return Ok(()) };
    let (authority, rest) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    if authority.matches('@').count() > 1 || rest.contains('@') {
        return Err(bad(ENCODE));
    }
    Ok(())
}

/// The same of a URL, as far as it tells. Every engine asks this before it looks at one.
#[cfg(any(feature = "redis", feature = "postgres", feature = "etcd"))]
pub(crate) fn check(url: &Url) -> Result<(), ConnectError> {
    let behind = [url.path(), url.query().unwrap_or_default(), url.fragment().unwrap_or_default()];
    if behind.iter().any(|part| part.contains('@')) {
        return Err(bad(ENCODE));
    }
    match url.host_str() {
        Some(host) if has_at(host) => Err(bad(format!("{} is no server", shown(host)))),
        _ => Ok(()),
    }
}

/// That there is no such option. `known`: those that there are.
#[cfg(any(feature = "redis", feature = "postgres", feature = "etcd"))]
pub(crate) fn unknown_option(name: &str, known: &str) -> ConnectError {
    let is_name = name.bytes().all(|c| c.is_ascii_lowercase() || c == b'_');
    let name: Cow<'_, str> = if is_name && (1..=32).contains(&name.len()) {
        format!("there is no option {name:?}").into()
    } else {
        "there is an option whose name is not shown, since it may be part of a password: \
         percent-encode special characters in it"
            .into()
    };
    bad(format!("{name}; there are {known}"))
}

/// A server's name, for messages: not if it could have a password in it.
#[cfg(any(feature = "redis", feature = "postgres", feature = "etcd"))]
pub(crate) fn shown(server: &str) -> Cow<'_, str> {
    if has_at(server) {
        return "a name that is not shown, since it has an @ in it,".into();
    }
    format!("{server:?}").into()
}

#[cfg(any(feature = "redis", feature = "postgres", feature = "etcd"))]
fn has_at(server: &str) -> bool {
    server.contains('@') || server.contains("%40")
}

fn bad(why: impl Into<String>) -> ConnectError {
    ConnectError::Address { why: why.into() }
}

#[cfg(all(test, feature = "redis", feature = "postgres", feature = "etcd"))]
mod secret_tests {
    use super::ConnectError;
    use crate::cluster::connect;
    use crate::cluster::engines::{etcd::Etcd, postgres::Postgres, redis::Redis};
    use url::Url;

    const SECRET: &str = "Hush";

    /// Behind the scheme. Nothing listens at these ports.
    const ADDRESSES: [&str; 15] = [
        // A slash, a question mark, a number sign in the password.
        "app:5/Hush@127.0.0.1",
        "app:5,Hush/x@127.0.0.1",
        "app:7?Hush@127.0.0.1/x",
        "app:7?kQzHush@127.0.0.1/x",
        "app:7?table=Hush@127.0.0.1/x",
        "app:7?ca=Hush@127.0.0.1/x",
        "app:7?host=Hush@127.0.0.1/x",
        "app:7#Hush@127.0.0.1/x",
        // An @ in it; a user for each server.
        "u:p@Hush@127.0.0.1:1",
        "u:Hush@127.0.0.1:1,u:Hush@127.0.0.1:2",
        "u:p@127.0.0.1:1?host=u:Hush@b",
        // What was encoded as a whole.
        "u:p@127.0.0.1:1?host=u%3AHush%40b",
        "u%3AHush%40127.0.0.1:1",
        // No @ at all: only a name that can be an option's is shown.
        "127.0.0.1:1?kQzHush=1",
        "127.0.0.1:1?pass_Hush",
    ];

    /// The error's text. The secret is not in it, nor in what a debugger is shown.
    fn told<T>(address: &str, refused: Result<T, ConnectError>) -> (ConnectError, String) {
        let Err(error) = refused else { panic!("{address} is accepted") };
        let said = error.to_string();
        assert!(!said.contains(SECRET) && !format!("{error:?}").contains(SECRET), "{said}");
        (error, said)
    }

    #[tokio::test]
    async fn a_secret_in_the_wrong_place_is_not_shown() {
        for (scheme, address) in ["redis", "postgres", "etcd"]
            .iter()
            .flat_map(|scheme| ADDRESSES.map(|address| (scheme, format!("{scheme}://{address}"))))
        {
            let (error, said) = told(&address, connect(&address).await);
            assert!(matches!(error, ConnectError::Address { .. }), "{address}: {said}");
            // Who brings a URL has to bring one that can be parsed.
            let Ok(url) = Url::parse(&address) else { continue };
            let of_url = match *scheme {
                "redis" => Redis::connect(&url).await.map(drop),
                "postgres" => Postgres::connect(&url).await.map(drop),
                _ => Etcd::connect(&url).await.map(drop),
            };
            println!("{address}: {}", told(&address, of_url).1);
        }
        for server in ["u:Hush@h:1", "u:Hush%40h:1", "Hush@h"] {
            let builder = Etcd::builder(["a:1", server]);
            let shown = format!("{builder:?}");
            assert!(!shown.contains(SECRET) && shown.contains("\"a:1\""), "{shown}");
            told(server, builder.connect().await);
        }
    }

    #[tokio::test]
    async fn what_to_do_about_it_is_said() {
        for (address, why) in [
            ("etcd://u:p@a:1,u:p@b:2", "%40"),
            ("redis://u:p?x@a", "%3F"),
            ("postgres://u:5/x@a", "%2F"),
            ("redis://a?Kx=1", "percent-encode"),
            ("etcd://a?abcdefghijklmnopqrstuvwxyz_abcdef=1", "percent-encode"),
            ("postgres://a?abcdefghijklmnopqrstuvwxyz_abcde=1", "\"abcdef"),
            ("etcd://a?colour=red", "\"colour\""),
        ] {
            let (_, said) = told(address, connect(address).await);
            assert!(said.contains(why), "{address}: {said}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::connect;
    use super::to_url;

    async fn refused(address: &str) -> String {
        connect(address).await.map(drop).unwrap_err().to_string()
    }

    #[tokio::test]
    async fn an_address_without_an_engine_is_refused() {
        let said = refused("mysql://me:secret@host").await;
        assert!(said.contains("\"mysql\"") && said.contains("etcd://"), "{said}");
        assert!(!said.contains("secret"), "{said}");
        let said = refused("no address").await;
        assert!(said.contains("not understood"), "{said}");
    }

    #[tokio::test]
    async fn a_feature_that_is_missing_is_named() {
        for (address, feature, is_there) in [
            ("redis://me:secret@a", "redis", cfg!(feature = "redis")),
            ("postgres://me:secret@a:1,b:2", "postgres", cfg!(feature = "postgres")),
            ("etcds://me:secret@a:1,b:2/x?ca=y", "etcd", cfg!(feature = "etcd")),
        ] {
            if !is_there {
                let said = refused(address).await;
                assert!(said.contains(&format!("feature \"{feature}\"")), "{said}");
                assert!(!said.contains("secret"), "{said}");
            }
        }
    }

    #[test]
    fn further_hosts_go_into_the_query() {
        for (address, url) in [
            ("memory:", "memory:"),
            ("etcd://a:1", "etcd://a:1"),
            ("etcd://a:1,b:2", "etcd://a:1?host=b:2"),
            (
                "etcd://u:p,w@a:1,[::1]:2,c/x/?y=z,1#f",
                "etcd://u:p,w@a:1/x/?y=z,1&host=[::1]:2&host=c#f",
            ),
            ("redis://a/0?x=1,2", "redis://a/0?x=1,2"),
        ] {
            assert_eq!(to_url(address), url);
        }
    }
}

//! An engine by its address.

use super::transport::{Cause, Transport};
use super::transports::Memory;
use std::fmt;
use std::sync::Arc;
use url::Url;

// An attempt to connect, for several who wait for it.
#[cfg(any(feature = "postgres", feature = "redis"))]
mod attempt;
// Several hosts in one address.
mod hosts;
// What must not be shown.
mod secrets;

#[cfg(any(feature = "postgres", feature = "redis"))]
pub(super) use attempt::Attempt;
#[cfg(feature = "etcd")]
pub(super) use secrets::shown;
#[cfg(any(feature = "redis", feature = "postgres", feature = "etcd"))]
pub(super) use secrets::{check, unknown_option};

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
/// let node = Node::builder(connect("memory:").await?).build();
/// node.lock("jobs/nightly")?.acquire().await?.release().await?;
/// # Ok(())
/// # }
/// ```
pub async fn connect(address: &str) -> Result<Arc<dyn Transport>, ConnectError> {
    secrets::check_text(address)?;
    let url = Url::parse(&hosts::to_url(address))
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
    Ok(Arc::new(super::transports::redis::Redis::connect(url).await?))
}

#[cfg(not(feature = "postgres"))]
async fn postgres(url: &Url) -> Result<Arc<dyn Transport>, ConnectError> {
    missing(url, "postgres")
}

#[cfg(feature = "postgres")]
async fn postgres(url: &Url) -> Result<Arc<dyn Transport>, ConnectError> {
    Ok(Arc::new(super::transports::postgres::Postgres::connect(url).await?))
}

#[cfg(not(feature = "etcd"))]
async fn etcd(url: &Url) -> Result<Arc<dyn Transport>, ConnectError> {
    missing(url, "etcd")
}

#[cfg(feature = "etcd")]
async fn etcd(url: &Url) -> Result<Arc<dyn Transport>, ConnectError> {
    Ok(Arc::new(super::transports::etcd::Etcd::connect(url).await?))
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

#[cfg(test)]
mod tests {
    use super::connect;

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
}

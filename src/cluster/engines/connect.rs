//! Connecting to an engine by its address, and why that fails.

use super::{Memory, spelling};
#[cfg(any(unix, feature = "etcd", feature = "postgres", feature = "redis"))]
use crate::cluster::background::Background;
use crate::cluster::transport::{Cause, Transport};
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
#[cfg(any(unix, feature = "etcd", feature = "postgres", feature = "redis"))]
use std::{
    net::{Ipv4Addr, UdpSocket},
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};
use tokio::runtime::Handle;
use url::Url;

/// Connects to the engine at this address, and returns a transport for [`Node::builder`].
///
/// | address | feature | engine |
/// |---|---|---|
/// | `memory:` | none | [`Memory`], a new and empty one |
/// | `dir:/path` | none, on Unix | [`Dir`](crate::cluster::engines::dir), for the processes of this machine |
/// | `redis://`, `rediss://` (TLS), `redis+sentinel://`, `redis+unix://` | `redis` | Redis or Valkey |
/// | `postgres://`, `postgresql://` | `postgres` | PostgreSQL |
/// | `etcd://`, `etcds://` (TLS) | `etcd` | etcd |
///
/// The form is `scheme://user:password@host:port/path?option=value`. Several servers, where an engine
/// has several, are separated by commas: `etcd://a:2379,b:2379,c:2379`. The path and the options are
/// described on the page of each [engine](crate::cluster::engines). These options mean the same for
/// all that have a server: `password_file`, `plaintext`, `ca`, `cert`, `key`, `server_name`. All have
/// `connect_timeout_ms` and `timeout_ms`, too, and each engine's page says what these two cover. Each engine also has a
/// builder with a setter for each option.
///
/// Write every character of a user's name or a password that is not a letter or a digit as `%` and two
/// hexadecimal digits. An address with an `@` in a wrong place is refused. A password is never part of
/// an error's text.
///
/// It has to be called within a tokio runtime whose timers are enabled; its I/O is not needed. (`memory:` needs no
/// runtime.) That runtime is needed for this call only: the connections live on a thread of this crate's own, one for the
/// process, which ends with the last node and the last transport. A program without a runtime calls
/// [`blocking::connect`](crate::cluster::blocking::connect).
///
/// It takes at most eight times `connect_timeout_ms` plus three times `timeout_ms`, and usually a few round
/// trips; each engine's `connect` has a closer bound.
///
/// # Credentials that change
///
/// The files of `ca`, `cert` and `key` are read again for each new connection. The file of `password_file` is read again
/// for each login, and a function that was given to a builder's `credentials_by` is called again: that is for each new
/// connection, and with etcd for each new token. Connections that are open go on with what they began with, as far as the
/// server lets them.
///
/// *A lock that is held* is kept if the new password is found before what is left of its lease is over. A login that is
/// refused is repeated until then, with the file as it is then: after 5 to 10 ms for the first time, then after twice as
/// long each, up to a twentieth of the lease. (Each lock counts for itself, but all share a login that is in flight.) So
/// keep the time between the change at the server and the change of the file below half of the lease. If the lease ends,
/// the [reason](crate::cluster::LossReason) of the loss says what the server has said about the password.
///
/// *A call that waits for a lock* fails at once as [`Denied`](crate::cluster::TransportError::Denied), if it needs a
/// login in that time.
///
/// Where the server locks accounts after failed logins, the repetitions may do that: change the file first, or better,
/// use a second user or a server that accepts both passwords for a while.
///
/// Replace a file by renaming another one to its name. Certificate and key, which are two files, may be read between the
/// two renamings: then the last pair that fits together is used, and the next connection reads again.
///
/// How to rotate a password:
///
/// 1. Use `password_file` or `credentials_by`.
/// 2. Redis: a user may have two passwords. `ACL SETUSER lock >new`; replace the file; `ACL SETUSER lock <old`. No login
///    is refused.
/// 3. PostgreSQL and etcd have one password for each user. Make a second user with the same rights, let `credentials_by`
///    return it, and remove the first one when no connection uses it: no login is refused. With `password_file`, change the
///    server and the file within half of a lease.
/// 4. If the old password has leaked, end the open connections: `CLIENT KILL USER lock` in Redis, `pg_terminate_backend`
///    in PostgreSQL. A new password ends etcd's tokens by itself.
///
/// # No password in clear text
///
/// Without TLS, a password is sent only to loopback addresses and over Unix sockets. For every other address, also in a
/// private network, and also one that a sentinel or a cluster names, the connection fails before anything is sent:
/// [`ConnectError::Unencrypted`] from `connect`, and [`Denied`](crate::cluster::TransportError::Denied) later, if no
/// other address is of use. `plaintext=allow` permits it: then whoever reads the traffic has the password of Redis or
/// etcd, and whoever can change the traffic has that of PostgreSQL.
///
/// # Cancel safety
///
/// Dropping the future is safe at any moment. It leaves nothing behind but a try to connect, which ends
/// by itself within the time above. With `create_schema=true` the table may or may not be created.
///
/// # Errors
///
/// [`ConnectError`]. Nothing is left open after one.
///
/// [`Node::builder`]: crate::cluster::Node::builder
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
    connect_to(address, None).await
}

/// The same as [`connect`], with connections that live on this runtime, which has its I/O and timers
/// enabled. On the runtime of the callers a request costs no change of threads, if the
/// [node is there too](crate::cluster::NodeBuilder::runtime).
///
/// Give a runtime none of whose tasks blocks its thread: no request is answered meanwhile, and leases end.
///
/// Something has to drive that runtime while this connects, and the one on which this is awaited, whose timers
/// end it within the time that [`connect`] takes at most: with [`ConnectError::Runtime`] if nothing drives the
/// other one.
///
/// When the runtime ends, requests fail as [`Unavailable`](crate::cluster::TransportError::Unavailable), and
/// those that were sent as [`Indeterminate`](crate::cluster::TransportError::Indeterminate).
///
/// # Cancel safety
///
/// That of [`connect`].
///
/// # Errors
///
/// Those of [`connect`].
pub async fn connect_on(
    runtime: &Handle,
    address: &str,
) -> Result<Arc<dyn Transport>, ConnectError> {
    connect_to(address, Some(runtime.clone())).await
}

/// The address as a URL.
pub(super) fn parse(address: &str) -> Result<Url, ConnectError> {
    // Such as the end of a line in a file.
    let address = address.trim();
    check_text(address)?;
    if let Some(why) = spelling::advice(address) {
        return Err(invalid(why));
    }
    Url::parse(&to_url(address)).map_err(|why| invalid(why.to_string()))
}

async fn connect_to(
    address: &str,
    runtime: Option<Handle>,
) -> Result<Arc<dyn Transport>, ConnectError> {
    let url = parse(address)?;
    match url.scheme() {
        "memory" => Ok(Arc::new(Memory::new())),
        "dir" => dir(&url, runtime).await,
        "redis" | "rediss" | "redis+sentinel" | "rediss+sentinel" | "redis+unix" | "valkey"
        | "valkeys" | "valkey+sentinel" | "valkeys+sentinel" | "valkey+unix" => {
            redis(&url, runtime).await
        }
        "postgres" | "postgresql" => postgres(&url, runtime).await,
        "etcd" | "etcds" => etcd(&url, runtime).await,
        other => Err(ConnectError::UnknownScheme { scheme: other.to_owned() }),
    }
}

#[cfg(unix)]
async fn dir(url: &Url, runtime: Option<Handle>) -> Result<Arc<dyn Transport>, ConnectError> {
    let builder = super::dir::DirBuilder::from_url(url)?;
    Ok(Arc::new(builder.given_runtime(GivenRuntime(runtime)).connect().await?))
}

#[cfg(not(unix))]
async fn dir(url: &Url, _: Option<Handle>) -> Result<Arc<dyn Transport>, ConnectError> {
    Err(ConnectError::Unsuitable {
        server: url.path().to_owned(),
        why:
            "dir: needs a Unix system, whose locks on files end with their process: use an engine \
              with a server here, such as redis: or etcd:"
                .to_owned(),
    })
}

/// The error that this engine is not part of the build.
#[allow(dead_code, reason = "with all features no engine is missing")]
fn missing(url: &Url, feature: &'static str) -> Result<Arc<dyn Transport>, ConnectError> {
    Err(ConnectError::MissingFeature { scheme: url.scheme().to_owned(), feature })
}

#[cfg(not(feature = "redis"))]
async fn redis(url: &Url, _: Option<Handle>) -> Result<Arc<dyn Transport>, ConnectError> {
    missing(url, "redis")
}

#[cfg(feature = "redis")]
async fn redis(url: &Url, runtime: Option<Handle>) -> Result<Arc<dyn Transport>, ConnectError> {
    let builder = super::redis::RedisBuilder::from_url(url)?;
    Ok(Arc::new(builder.given_runtime(GivenRuntime(runtime)).connect().await?))
}

#[cfg(not(feature = "postgres"))]
async fn postgres(url: &Url, _: Option<Handle>) -> Result<Arc<dyn Transport>, ConnectError> {
    missing(url, "postgres")
}

#[cfg(feature = "postgres")]
async fn postgres(url: &Url, runtime: Option<Handle>) -> Result<Arc<dyn Transport>, ConnectError> {
    let builder = super::postgres::PostgresBuilder::from_url(url)?;
    Ok(Arc::new(builder.given_runtime(GivenRuntime(runtime)).connect().await?))
}

#[cfg(not(feature = "etcd"))]
async fn etcd(url: &Url, _: Option<Handle>) -> Result<Arc<dyn Transport>, ConnectError> {
    missing(url, "etcd")
}

#[cfg(feature = "etcd")]
async fn etcd(url: &Url, runtime: Option<Handle>) -> Result<Arc<dyn Transport>, ConnectError> {
    let builder = super::etcd::EtcdBuilder::from_url(url)?;
    Ok(Arc::new(builder.given_runtime(GivenRuntime(runtime)).connect().await?))
}

/// Why there is no connection. Its text never has a password, nor an address that could have one.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ConnectError {
    /// The address, or an option of it or of a builder, is not valid.
    Address {
        /// What is wrong with it, with the name of the option.
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
    /// No server answers at this address. A later attempt may succeed.
    Unreachable {
        /// Host and port.
        server: String,
        /// What the client said.
        cause: Cause,
    },
    /// The server refuses the credentials, or the user has too few permissions.
    Denied {
        /// Host and port.
        server: String,
        /// What the server said.
        cause: Cause,
    },
    /// User and password for the login could not be had: the file cannot be read, or the function that was given
    /// returned an error, has panicked, names no user where one is needed, or takes too long (half of what is left of
    /// the connect timeout). A later attempt may succeed.
    Credentials {
        /// What is wrong, with the name of the file or what the function returned.
        cause: Cause,
    },
    /// A password would be sent without TLS to an address that is not one of the loopback interface. It was not.
    Unencrypted {
        /// Host and port.
        server: String,
        /// How TLS is turned on in an address.
        tls: &'static str,
    },
    /// The server's certificate is not trusted, has expired, or is for another name; or the server
    /// does not trust the client's certificate.
    Untrusted {
        /// Host and port.
        server: String,
        /// What the client said.
        cause: Cause,
    },
    /// The runtime of the connections cannot be used. The thread of the process could not be started, or
    /// calls [`blocking::connect`] itself. Or the runtime that was given has no timers or no I/O, or nothing
    /// drives it.
    ///
    /// [`blocking::connect`]: crate::cluster::blocking::connect
    Runtime {
        /// What is wrong with it.
        cause: Cause,
    },
    /// The server answers, but is not fit for locks: because of its version, a setting, or its role.
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
            Self::Address { why } => write!(f, "the engine's address is not valid: {why}"),
            Self::UnknownScheme { scheme } => write!(
                f,
                "no engine is known for {scheme:?}: \
                 use memory:, dir:, redis://, rediss://, redis+sentinel://, redis+unix://, \
                 postgres://, etcd:// or etcds://"
            ),
            Self::MissingFeature { scheme, feature } => {
                write!(
                    f,
                    "{scheme}:// needs lockword's feature {feature:?}: enable it in Cargo.toml"
                )
            }
            // A directory, by its absolute path.
            Self::Unreachable { server, cause } if server.starts_with('/') => write!(
                f,
                "the directory {server} cannot be used ({cause}): check the path; \
                 the directory that it is in has to exist"
            ),
            Self::Unreachable { server, cause } => write!(
                f,
                "{server} cannot be reached ({cause}): check the address, and that the server runs"
            ),
            Self::Denied { server, cause } if server.starts_with('/') => write!(
                f,
                "the directory {server} cannot be used ({cause}): check its owner and mode, \
                 or share it with a group by ?mode=2770 in the address"
            ),
            Self::Denied { server, cause } => write!(
                f,
                "{server} refuses this client ({cause}): check user, password and permissions"
            ),
            Self::Credentials { cause } => write!(
                f,
                "the credentials for the login cannot be had ({cause}): check what they come from"
            ),
            Self::Unencrypted { server, tls } => write!(
                f,
                "the password for {server} would be sent in clear text: turn TLS on by {tls}, or add \
                 plaintext=allow if all who can listen may have it"
            ),
            Self::Untrusted { server, cause } => write!(
                f,
                "the certificate of {server} is not trusted ({cause}): \
                 check the authority, the dates and the name in it"
            ),
            Self::Runtime { cause } => {
                write!(f, "the runtime for connections cannot be used: {cause}")
            }
            Self::Unsuitable { server, why } => write!(f, "{server} is not fit for locks: {why}"),
        }
    }
}

impl std::error::Error for ConnectError {}

#[cfg(any(feature = "postgres", feature = "redis"))]
impl ConnectError {
    /// Adds this to what the server or the client said, if one of them did.
    pub(crate) fn with_note(mut self, note: &str) -> Self {
        if let Self::Unreachable { cause, .. }
        | Self::Denied { cause, .. }
        | Self::Untrusted { cause, .. } = &mut self
        {
            *cause = format!("{cause}; {note}").into();
        }
        self
    }
}

/// The runtime that was given for the connections, if there is one.
#[cfg(any(unix, feature = "etcd", feature = "postgres", feature = "redis"))]
#[derive(Clone, Debug, Default)]
pub(crate) struct GivenRuntime(pub(crate) Option<Handle>);

#[cfg(any(unix, feature = "etcd", feature = "postgres", feature = "redis"))]
impl GivenRuntime {
    /// Opens connections there, or else on the thread of this process. If nothing drives a runtime that was given, this ends after `limit`.
    pub(crate) async fn open<T, F>(
        self,
        limit: Duration,
        open: impl FnOnce(ConnectionRuntime) -> F,
    ) -> Result<T, ConnectError>
    where
        F: Future<Output = Result<T, ConnectError>>,
    {
        let failed = |cause: &str| Err(ConnectError::Runtime { cause: cause.into() });
        let Self(Some(runtime)) = self else { return open(ConnectionRuntime::background()?).await };
        if !has_timers_and_io(&runtime) {
            return failed("the one that was given has no timers, or no I/O: call enable_all");
        }
        let opened = async {
            // What opens connections may have limits of its own, which would hide that nothing runs.
            let _ = runtime.spawn(async {}).await;
            open(ConnectionRuntime::Given(runtime.clone())).await
        };
        tokio::time::timeout(limit, opened).await.unwrap_or_else(|_| {
            failed("nothing drives the one that was given, or one of its tasks blocks its thread")
        })
    }

    fn id(&self) -> Option<tokio::runtime::Id> {
        self.0.as_ref().map(Handle::id)
    }
}

/// Tokio tells it only by a panic, which the panic hook of the program sees.
#[cfg(any(unix, feature = "etcd", feature = "postgres", feature = "redis"))]
fn has_timers_and_io(runtime: &Handle) -> bool {
    let _in_it = runtime.enter();
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0));
    let register = || {
        drop(tokio::time::sleep(Duration::ZERO));
        if let Ok(socket) = socket
            && socket.set_nonblocking(true).is_ok()
        {
            drop(tokio::net::UdpSocket::from_std(socket));
        }
    };
    catch_unwind(AssertUnwindSafe(register)).is_ok()
}

#[cfg(any(unix, feature = "etcd", feature = "postgres", feature = "redis"))]
impl PartialEq for GivenRuntime {
    fn eq(&self, other: &Self) -> bool {
        self.id() == other.id()
    }
}

#[cfg(any(unix, feature = "etcd", feature = "postgres", feature = "redis"))]
impl Eq for GivenRuntime {}

/// Where the connections of a transport live.
#[cfg(any(unix, feature = "etcd", feature = "postgres", feature = "redis"))]
#[derive(Clone)]
pub(crate) enum ConnectionRuntime {
    /// On the thread of this process.
    Background(Background),
    /// On a runtime that was given.
    Given(Handle),
}

#[cfg(any(unix, feature = "etcd", feature = "postgres", feature = "redis"))]
impl ConnectionRuntime {
    pub(crate) fn background() -> Result<Self, ConnectError> {
        let thread = Background::get();
        let failed = |why: std::io::Error| {
            let cause = format!(
                "its thread could not be started ({why}): raise the limits of threads and open files"
            );
            ConnectError::Runtime { cause: cause.into() }
        };
        thread.map(Self::Background).map_err(failed)
    }

    pub(crate) fn handle(&self) -> &Handle {
        match self {
            Self::Background(thread) => thread.runtime(),
            Self::Given(runtime) => runtime,
        }
    }
}

/// An attempt to connect for which several callers wait.
///
/// It is a task of its own, so it goes on when the caller that began it has stopped waiting. Its state
/// is read under a lock and without polling: no waker runs under that lock, and the runtime's
/// cooperative budget does not matter.
#[cfg(any(feature = "etcd", feature = "postgres", feature = "redis"))]
pub(crate) struct PendingConnection<T>(tokio::sync::watch::Receiver<Option<T>>);

#[cfg(any(feature = "etcd", feature = "postgres", feature = "redis"))]
impl<T: Send + Sync + 'static> PendingConnection<T> {
    pub(crate) fn begin(on: &Handle, connect: impl Future<Output = T> + Send + 'static) -> Self {
        let (sender, receiver) = tokio::sync::watch::channel(None);
        on.spawn(async move {
            let result = connect.await;
            sender.send_replace(Some(result));
        });
        Self(receiver)
    }

    /// Whether it is in flight, or has ended with a result that `is_good`.
    pub(crate) fn is_of_use(&self, is_good: impl FnOnce(&T) -> bool) -> bool {
        match &*self.0.borrow() {
            Some(result) => is_good(result),
            // It ends without a result when its runtime ends.
            None => self.0.has_changed().is_ok(),
        }
    }

    /// Waits for the result. `None`: its runtime has ended before.
    pub(crate) async fn result(&self) -> Option<T>
    where
        T: Clone,
    {
        let mut receiver = self.0.clone();
        let result = receiver.wait_for(Option::is_some).await.ok()?;
        result.clone()
    }

    /// Whether both are the same attempt.
    #[cfg(feature = "redis")]
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.0.same_channel(&other.0)
    }
}

#[cfg(any(feature = "etcd", feature = "postgres", feature = "redis"))]
impl<T> Clone for PendingConnection<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// Turns `scheme://user@a:1,b:2/path?query` into a URL: `scheme://user@a:1/path?query&host=b:2`.
///
/// An address with one host, or none, is returned as it is.
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

/// What to do about a special character that stands in a user's name or a password as it is.
///
/// Such a character ends the password too early, and the rest of it becomes a host, an option or a
/// part of the path, where it would be used and shown.
pub(super) const ENCODE: &str = "there is an @ that is not percent-encoded behind the server's \
     name, or two before it: write what is special in a user's name or a password as % and two \
     hexadecimal digits (@ is %40, / is %2F, ? is %3F, # is %23)";

/// The error that an address or an option is not valid.
pub(crate) fn invalid(why: impl Into<String>) -> ConnectError {
    ConnectError::Address { why: why.into() }
}

/// Refuses an address with an `@` in a wrong place. The address is checked as it was written, since
/// the parser of URLs takes the first of two for a part of the password.
fn check_text(address: &str) -> Result<(), ConnectError> {
    let Some((_, rest)) = address.split_once("://") else { return Ok(()) };
    let (authority, rest) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    if authority.matches('@').count() > 1 || rest.contains('@') {
        return Err(invalid(ENCODE));
    }
    Ok(())
}

#[cfg(all(test, feature = "redis", feature = "postgres", feature = "etcd"))]
mod timeouts {
    use super::ConnectError;
    use crate::cluster::engines::{etcd::Etcd, postgres::Postgres, redis::Redis};
    use std::time::Duration;

    #[tokio::test]
    async fn one_that_is_too_long_is_refused() {
        let refused = |result: Result<(), ConnectError>| {
            assert!(matches!(result, Err(ConnectError::Address { .. })), "{result:?}");
        };
        for timeout in [Duration::ZERO, Duration::from_secs(3601), Duration::MAX] {
            let runtime = || tokio::runtime::Handle::current();
            let server = "127.0.0.1:1";
            let (etcd, redis) = (Etcd::builder([server]), Redis::builder(server));
            let postgres = Postgres::builder(server).user("app");
            refused(
                etcd.clone().connect_timeout(timeout).runtime(runtime()).connect().await.map(drop),
            );
            refused(
                redis.clone().connect_timeout(timeout).runtime(runtime()).connect().await.map(drop),
            );
            refused(postgres.clone().connect_timeout(timeout).connect().await.map(drop));
            refused(etcd.timeout(timeout).connect().await.map(drop));
            refused(redis.timeout(timeout).connect().await.map(drop));
            refused(postgres.timeout(timeout).runtime(runtime()).connect().await.map(drop));
        }
    }
}

#[cfg(all(test, feature = "redis", feature = "postgres", feature = "etcd"))]
mod secrets {
    use super::ConnectError;
    use crate::cluster::connect;
    use crate::cluster::engines::{etcd::Etcd, postgres::Postgres, redis::Redis};
    use url::Url;

    const SECRET: &str = "Hush";

    /// What follows the scheme. Nothing listens at these ports.
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

    /// The error and its text. The secret is neither in it nor in its `Debug` output.
    fn refusal<T>(address: &str, refused: Result<T, ConnectError>) -> (ConnectError, String) {
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
            let (error, said) = refusal(&address, connect(&address).await);
            assert!(matches!(error, ConnectError::Address { .. }), "{address}: {said}");
            // Not every address can be parsed as a URL.
            let Ok(url) = Url::parse(&address) else { continue };
            let of_url = match *scheme {
                "redis" => Redis::connect(&url).await.map(drop),
                "postgres" => Postgres::connect(&url).await.map(drop),
                _ => Etcd::connect(&url).await.map(drop),
            };
            refusal(&address, of_url);
        }
        for server in ["u:Hush@h:1", "u:Hush%40h:1", "Hush@h"] {
            let etcd = Etcd::builder(["a:1", server]);
            let shown = format!("{etcd:?}");
            assert!(!shown.contains(SECRET) && shown.contains("\"a:1\""), "{shown}");
            refusal(server, etcd.connect().await);
            let (redis, postgres) = (Redis::builder(server), Postgres::builder(server));
            let shown = format!("{redis:?} {postgres:?}");
            assert!(!shown.contains(SECRET), "{shown}");
            refusal(server, redis.connect().await);
            refusal(server, postgres.connect().await);
        }
    }

    /// A certificate that no authority has signed.
    const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";

    #[tokio::test]
    async fn neither_a_password_nor_a_key_is_shown() {
        let keys = [
            SECRET.to_owned(),
            // In one line, with and without its end; with a part that is no base64.
            format!("-----BEGIN PRIVATE KEY-----{SECRET}-----END PRIVATE KEY-----"),
            format!("-----BEGIN PRIVATE KEY-----{SECRET}"),
            format!("-----BEGIN PRIVATE KEY-----\n{SECRET}!\n-----END PRIVATE KEY-----\n"),
            format!("-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----\n"),
        ];
        // The bytes of a line are shown as numbers by some libraries.
        let bytes = format!("{:?}", SECRET.as_bytes());
        let bytes = bytes.trim_matches(['[', ']']);
        for key in keys {
            let ca = key.replace("PRIVATE KEY", "CERTIFICATE");
            macro_rules! check {
                ($builder:expr) => {{
                    let builder = $builder.user("Hush-user").password("Hush-password");
                    for builder in [
                        builder.clone().client_certificate_pem(CERTIFICATE, key.clone()),
                        builder.clone().client_certificate_pem(ca.clone(), key.clone()),
                        builder.ca_pem(ca.clone()),
                    ] {
                        let shown = format!("{builder:?}");
                        for part in ["127.0.0.1:1", "tls: true", "connect_timeout: ", " timeout: "]
                        {
                            assert!(shown.contains(part), "{part} is missing: {shown}");
                        }
                        assert!(!shown.contains(SECRET) && !shown.contains(bytes), "{shown}");
                        let (_, said) = refusal(&shown, builder.connect().await);
                        assert!(!said.contains(bytes), "{said}");
                    }
                }};
            }
            check!(Redis::builder("127.0.0.1:1"));
            check!(Postgres::builder("127.0.0.1:1"));
            check!(Etcd::builder(["127.0.0.1:1"]));
        }
    }

    #[tokio::test]
    async fn a_host_name_with_other_letters_than_ascii_is_refused_with_advice() {
        let (name, encoded) = ("b\u{fc}cher.example", "b%C3%BCcher.example");
        for address in [name, encoded].iter().flat_map(|name| {
            ["redis", "postgres", "etcd"].map(|scheme| format!("{scheme}://{name}:1"))
        }) {
            let (error, said) = refusal(&address, connect(&address).await);
            assert!(matches!(error, ConnectError::Address { .. }), "{address}: {said}");
            assert!(said.contains(name) && said.contains("xn--"), "{address}: {said}");
        }
        let of_builders = [
            Redis::builder(name).connect().await.map(drop),
            Postgres::builder(name).connect().await.map(drop),
            Etcd::builder(["a", name]).connect().await.map(drop),
        ];
        for refused in of_builders {
            let (_, said) = refusal(name, refused);
            assert!(said.contains(name) && said.contains("xn--"), "{said}");
        }
    }

    #[tokio::test]
    async fn the_error_says_how_to_encode_the_secret() {
        for (address, why) in [
            ("etcd://u:p@a:1,u:p@b:2", "%40"),
            ("redis://u:p?x@a", "%3F"),
            ("postgres://u:5/x@a", "%2F"),
            ("redis://a?Kx=1", "percent-encode"),
            ("etcd://a?abcdefghijklmnopqrstuvwxyz_abcdef=1", "percent-encode"),
            ("postgres://a?abcdefghijklmnopqrstuvwxyz_abcde=1", "\"abcdef"),
            ("etcd://a?colour=red", "\"colour\""),
        ] {
            let (_, said) = refusal(address, connect(address).await);
            assert!(said.contains(why), "{address}: {said}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{connect, to_url};

    async fn refused(address: &str) -> String {
        connect(address).await.map(drop).unwrap_err().to_string()
    }

    #[tokio::test]
    async fn an_unknown_scheme_is_refused() {
        let said = refused("mysql://me:secret@host").await;
        assert!(said.contains("\"mysql\"") && said.contains("etcd://"), "{said}");
        assert!(!said.contains("secret"), "{said}");
        let said = refused("no address").await;
        assert!(said.contains("not valid"), "{said}");
        let said = refused("localhost:6379").await;
        assert!(
            said.contains("not valid: it has no scheme") && said.contains("redis://l"),
            "{said}"
        );
    }

    #[tokio::test]
    async fn a_missing_feature_is_named() {
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

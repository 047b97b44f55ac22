//! Where a server is, and how a socket to it is opened.

use super::builder::RedisConfig;
use super::commands::{self, RedisConnectError};
use crate::cluster::ConnectError;
use crate::cluster::engines::credentials::Credentials;
use crate::cluster::engines::options::check_plaintext;
use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, ErrorKind, ProtocolVersion, RedisConnectionInfo, RedisError};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rustls::pki_types::ServerName;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::{fmt, io};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Duration, timeout};
use tokio_rustls::TlsConnector;

/// How long an attempt may be silent until the next one begins beside it.
const NEXT_ATTEMPT: Duration = Duration::from_millis(300);

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RedisAddress {
    /// A host and a port.
    Tcp(String, u16),
    /// The path of a socket of this machine.
    #[cfg(unix)]
    Unix(std::path::PathBuf),
}

impl RedisAddress {
    /// The host.
    pub(super) fn host(&self) -> &str {
        match self {
            Self::Tcp(host, _) => host,
            #[cfg(unix)]
            Self::Unix(_) => "localhost",
        }
    }

    fn is_tcp(&self) -> bool {
        matches!(self, Self::Tcp(..))
    }

    /// All places to which its name leads.
    pub(super) async fn resolve(&self) -> io::Result<Vec<SocketPlace>> {
        match self {
            Self::Tcp(host, port) => {
                let places: Vec<_> =
                    lookup_host((&**host, *port)).await?.map(SocketPlace::Tcp).collect();
                match places.is_empty() {
                    true => Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address")),
                    false => Ok(places),
                }
            }
            #[cfg(unix)]
            Self::Unix(path) => Ok(vec![SocketPlace::Unix(path.clone())]),
        }
    }
}

impl fmt::Display for RedisAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            #[cfg(unix)]
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// What a socket can be connected to.
pub(super) enum SocketPlace {
    Tcp(SocketAddr),
    #[cfg(unix)]
    Unix(std::path::PathBuf),
}

/// A socket, encrypted or not.
pub(super) trait RedisStream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> RedisStream for T {}

/// Connects to the server, with a TLS handshake if the configuration says so.
async fn open_socket(
    config: &RedisConfig,
    place: &SocketPlace,
    server: &str,
) -> Result<Box<dyn RedisStream>, ConnectError> {
    let failed = |error| commands::socket_failed(error, server.to_owned());
    let stream = match place {
        SocketPlace::Tcp(address) => TcpStream::connect(address).await.map_err(failed)?,
        #[cfg(unix)]
        SocketPlace::Unix(path) => {
            return Ok(Box::new(tokio::net::UnixStream::connect(path).await.map_err(failed)?));
        }
    };
    stream.set_nodelay(true).map_err(failed)?;
    let Some(tls) = &config.attempt.tls else { return Ok(Box::new(stream)) };
    let name = config.tls.as_ref().and_then(|tls| tls.server_name.as_deref());
    let name = name.unwrap_or(config.address.host()).to_owned();
    let name = ServerName::try_from(name).map_err(io::Error::other).map_err(failed)?;
    config.attempt.in_handshake.store(true, Relaxed);
    let stream = TlsConnector::from(tls.clone()).connect(name, stream).await;
    config.attempt.in_handshake.store(false, Relaxed);
    Ok(Box::new(stream.map_err(|error| with_hint(failed(error), config))?))
}

/// Adds to the error of a server that did not understand what it was sent that it may use TLS, or none.
pub(super) fn with_hint(error: ConnectError, config: &RedisConfig) -> ConnectError {
    let ConnectError::Unreachable { server, cause } = error else { return error };
    let (uses, kind) = match config.tls {
        Some(_) => ("does not use", "redis"),
        None => ("uses", "rediss"),
    };
    let kind = if config.sentinels.is_some() { format!("{kind}+sentinel") } else { kind.into() };
    let cause = format!("{cause}; if it {uses} TLS there, write {kind}:// in the address").into();
    ConnectError::Unreachable { server, cause }
}

/// Connects a client, and logs in. `server`: what it is, for messages. The second part of the result is what
/// reads and writes.
pub(super) async fn open_client(
    config: &RedisConfig,
    place: &SocketPlace,
    login: &RedisConnectionInfo,
    options: AsyncConnectionConfig,
    server: &str,
) -> Result<(MultiplexedConnection, impl Future<Output = ()> + Send + 'static), RedisConnectError> {
    if let SocketPlace::Tcp(address) = place
        && login.password().is_some()
        && config.tls.is_none()
        && !config.allows_plaintext
    {
        check_plaintext(address.ip(), server, config.tls_scheme())?;
    }
    let stream = open_socket(config, place, server).await?;
    let opened = MultiplexedConnection::new_with_config(login, stream, options).await;
    Ok(opened.map_err(|error| client_failed(error, config, server))?)
}

/// User and password for the server that [`open_client`] connects to.
pub(super) fn sentinel_login(credentials: Credentials) -> RedisConnectionInfo {
    // To set the name of the library would need one more grant.
    let mut login = RedisConnectionInfo::default().set_skip_set_lib_name();
    if let Some(user) = credentials.user {
        login = login.set_username(user);
    }
    if let Some(password) = credentials.password {
        login = login.set_password(password);
    }
    login
}

/// The same, and all else that is said to a server that has locks.
pub(super) fn server_login(config: &RedisConfig) -> RedisConnectionInfo {
    let login = sentinel_login(config.attempt.credentials.clone());
    login.set_protocol(ProtocolVersion::RESP3).set_db(config.database.into())
}

/// The error of a connection that was just opened, and whose server may use TLS.
pub(super) fn client_failed(error: RedisError, config: &RedisConfig, server: &str) -> ConnectError {
    let is_answer = matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension);
    let may_be_tls = !is_answer && config.tls.is_none() && config.address.is_tcp();
    let error = commands::connect_failed(error, server.to_owned());
    if may_be_tls { with_hint(error, config) } else { error }
}

/// The first attempt that succeeds. Each one begins when those before it have failed, or were silent for a
/// while, and they go on beside it. The error is that of the first one, or of the first server that answered.
pub(super) async fn first_success<T, F>(
    attempts: impl IntoIterator<Item = F>,
) -> Result<T, RedisConnectError>
where
    F: Future<Output = Result<T, RedisConnectError>>,
{
    let mut waiting: VecDeque<_> = attempts.into_iter().enumerate().collect();
    let mut running = FuturesUnordered::new();
    let mut errors: Vec<(usize, RedisConnectError)> = vec![];
    loop {
        if let Some((number, attempt)) = waiting.pop_front() {
            running.push(async move { (number, attempt.await) });
        }
        let next = running.next();
        let ended = match waiting.len() {
            0 => next.await,
            _ => match timeout(NEXT_ATTEMPT, next).await {
                Ok(ended) => ended,
                Err(_) => continue,
            },
        };
        match ended {
            Some((_, Ok(made))) => return Ok(made),
            Some((number, Err(error))) => errors.push((number, error)),
            None => break,
        }
    }
    errors.sort_by_key(|(number, error)| (error.is_unreachable(), *number));
    Err(errors.swap_remove(0).1)
}

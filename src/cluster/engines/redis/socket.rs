//! Where a server is, and how a socket to it is opened.

use super::builder::RedisConfig;
use super::commands::{self, RedisConnectError};
use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, RedisConnectionInfo};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rustls::pki_types::ServerName;
use std::collections::VecDeque;
use std::net::SocketAddr;
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
) -> io::Result<Box<dyn RedisStream>> {
    let stream = match place {
        SocketPlace::Tcp(address) => TcpStream::connect(address).await?,
        #[cfg(unix)]
        SocketPlace::Unix(path) => {
            return Ok(Box::new(tokio::net::UnixStream::connect(path).await?));
        }
    };
    stream.set_nodelay(true)?;
    let Some((tls, name)) = &config.tls else { return Ok(Box::new(stream)) };
    let name = name.as_deref().unwrap_or(config.address.host()).to_owned();
    let name = ServerName::try_from(name).map_err(io::Error::other)?;
    Ok(Box::new(TlsConnector::from(tls.clone()).connect(name, stream).await?))
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
    let server = || server.to_owned();
    let stream = open_socket(config, place).await;
    let stream = stream.map_err(|error| commands::socket_failed(error, server()))?;
    let opened = MultiplexedConnection::new_with_config(login, stream, options).await;
    Ok(opened.map_err(|error| commands::connect_failed(error, server()))?)
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

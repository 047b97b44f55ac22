//! What the server's and the client's errors mean.

use super::tls;
use crate::cluster::{ConnectError, TransportError};
use ::redis::{ErrorKind, RedisError};
use std::{fmt, io};

/// What the server said, which is not its library's way to say it.
struct Said(String);

/// What an error is about.
pub(super) enum Meaning {
    /// The server refuses for now: it did nothing.
    NotNow,
    /// The server refuses this client: it did nothing.
    Denied,
    /// The server cannot do that: it did nothing.
    Unable,
    /// What is there is not ours.
    Nonsense,
    /// The register is at another server of a cluster; this one did nothing.
    Elsewhere,
    /// The server does not know the script; it did nothing.
    NoScript,
    /// Nothing is known: the connection was lost, or no answer came.
    Unknown,
}

/// What `error` is about, for a request that was sent.
pub(super) fn meaning(error: &RedisError) -> Meaning {
    if !matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension) {
        return Meaning::Unknown;
    }
    let detail = error.detail().unwrap_or_default();
    match error.code().unwrap_or_default() {
        "NOSCRIPT" => Meaning::NoScript,
        "MOVED" => Meaning::Elsewhere,
        "NOAUTH" | "WRONGPASS" | "NOPERM" | "DENIED" => Meaning::Denied,
        "READONLY" | "OOM" | "MISCONF" | "NOREPLICAS" | "LOADING" | "BUSY" | "MASTERDOWN"
        | "CLUSTERDOWN" | "TRYAGAIN" | "ASK" => Meaning::NotNow,
        "CROSSSLOT" | "NOPROTO" => Meaning::Unable,
        "WRONGTYPE" | "LOCKWORD" => Meaning::Nonsense,
        "ERR" if detail.contains("ACL failure") || detail.contains("can't run this command") => {
            Meaning::Denied
        }
        "ERR" if detail.contains("max number of clients") => Meaning::NotNow,
        "ERR" if detail.contains("unknown command") => Meaning::Unable,
        _ => Meaning::Unknown,
    }
}

/// The error of a request that was sent. `wrote`: if it was to write.
pub(super) fn failed(error: RedisError, wrote: bool) -> TransportError {
    let meaning = meaning(&error);
    let said = said(error);
    match meaning {
        Meaning::Denied => TransportError::denied(said),
        Meaning::NotNow | Meaning::Elsewhere | Meaning::NoScript => {
            TransportError::unavailable(said)
        }
        Meaning::Unable => TransportError::unsupported(said),
        Meaning::Nonsense => TransportError::corrupt(said),
        Meaning::Unknown if wrote => TransportError::indeterminate(said),
        Meaning::Unknown => TransportError::unavailable(said),
    }
}

/// Why there is no connection.
#[derive(Clone)]
pub(super) struct NoConnection {
    pub(super) error: ConnectError,
    /// It may be otherwise a moment later.
    pub(super) passes: bool,
}

impl From<ConnectError> for NoConnection {
    fn from(error: ConnectError) -> Self {
        let passes = matches!(error, ConnectError::Unreachable { .. });
        Self { error, passes }
    }
}

/// The error of a connection that could not be had.
pub(super) fn no_connection(error: RedisError, server: String) -> ConnectError {
    if tls::speaks_of_distrust(&error.to_string()) {
        return ConnectError::Untrusted { server, cause: said(error).into() };
    }
    match meaning(&error) {
        Meaning::Denied => ConnectError::Denied { server, cause: said(error).into() },
        Meaning::Unable | Meaning::Nonsense => {
            ConnectError::Unsuitable { server, why: said(error).to_string() }
        }
        _ if error.kind() == ErrorKind::AuthenticationFailed => {
            ConnectError::Denied { server, cause: said(error).into() }
        }
        _ if error.kind() == ErrorKind::RESP3NotSupported => {
            let why = "it does not speak RESP3: Redis 6.2 or newer is needed, or Valkey".to_owned();
            ConnectError::Unsuitable { server, why }
        }
        // It does answer: that it has no such database, for one.
        Meaning::Unknown if matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension) => {
            ConnectError::Unsuitable { server, why: said(error).to_string() }
        }
        _ => ConnectError::Unreachable { server, cause: said(error).into() },
    }
}

/// The error of a socket that could not be had.
pub(super) fn no_stream(error: io::Error, server: String) -> ConnectError {
    if tls::is_distrust(&error) {
        return ConnectError::Untrusted { server, cause: error.into() };
    }
    ConnectError::Unreachable { server, cause: error.into() }
}

/// The same for a call that needed a connection: nothing was sent.
pub(super) fn not_sent(NoConnection { error, passes }: NoConnection) -> TransportError {
    match &error {
        _ if passes => TransportError::unavailable(error),
        ConnectError::Denied { .. } | ConnectError::Untrusted { .. } => {
            TransportError::denied(error)
        }
        _ => TransportError::unsupported(error),
    }
}

/// "CODE what happened", as the server put it, or what the client says.
fn said(error: RedisError) -> Said {
    match (error.kind(), error.code(), error.detail()) {
        (ErrorKind::Server(_) | ErrorKind::Extension, Some(code), Some(detail)) => {
            Said(format!("{code} {detail}"))
        }
        _ => Said(error.to_string()),
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Said {}

//! What the client and the server say went wrong, in our words.

use crate::cluster::{ConnectError, TransportError};
use std::error::Error;
use std::io;
use tokio_postgres::error::{DbError, Severity};

/// Why there is no connection: told to who connects, and to who calls later.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) connect: ConnectError,
    pub(super) call: TransportError,
}

impl Failure {
    pub(super) fn unreachable(server: &str, why: impl Into<String>) -> Self {
        let why = why.into();
        let call = TransportError::unavailable(why.clone());
        let connect = ConnectError::Unreachable { server: server.to_owned(), cause: why.into() };
        Self { connect, call }
    }

    pub(super) fn unsuitable(server: &str, why: impl Into<String>) -> Self {
        let why = why.into();
        let call = TransportError::unsupported(why.clone());
        Self { connect: ConnectError::Unsuitable { server: server.to_owned(), why }, call }
    }

    /// A server that may be fit later.
    pub(super) fn passing(server: &str, why: impl Into<String>) -> Self {
        let failure = Self::unsuitable(server, why.into());
        let ConnectError::Unsuitable { why, .. } = &failure.connect else { return failure };
        Self { call: TransportError::unavailable(why.clone()), ..failure }
    }

    fn denied(server: &str, why: String) -> Self {
        let call = TransportError::denied(why.clone());
        Self {
            connect: ConnectError::Denied { server: server.to_owned(), cause: why.into() },
            call,
        }
    }

    fn untrusted(server: &str, why: String) -> Self {
        let call = TransportError::denied(why.clone());
        let server = server.to_owned();
        Self { connect: ConnectError::Untrusted { server, cause: why.into() }, call }
    }

    /// An attempt to connect failed so.
    pub(super) fn connecting(server: &str, error: &tokio_postgres::Error) -> Self {
        let why = text(error);
        if let Some(said) = error.as_db_error() {
            return match said.code().code() {
                // A database or a schema that is not there.
                "3D000" => Self::unsuitable(server, why),
                code if code.starts_with("28") || code == "42501" => Self::denied(server, why),
                code if code.starts_with("42") => Self::unsuitable(server, why),
                _ => Self::unreachable(server, why),
            };
        }
        match in_tls(error) {
            Some(rustls::Error::InvalidCertificate(_) | rustls::Error::AlertReceived(_)) => {
                Self::untrusted(server, why)
            }
            Some(_) => Self::unsuitable(server, why),
            None if why.contains("does not support TLS") => Self::unsuitable(
                server,
                "it offers no TLS: use sslmode=disable where the network is trusted",
            ),
            None if why.starts_with("authentication error") => Self::denied(server, why),
            None if why.starts_with("invalid configuration") => Self::denied(server, why),
            None => Self::unreachable(server, why),
        }
    }
}

/// What a statement's failure means.
pub(super) struct Told {
    pub(super) error: TransportError,
    /// It was certainly not applied, and the same statement may succeed at once.
    pub(super) again: bool,
    /// The connection is of no use any more.
    pub(super) broken: bool,
}

/// A statement failed so. `write`: it would have changed something.
pub(super) fn told(error: &tokio_postgres::Error, write: bool) -> Told {
    let why = text(error);
    let lost = |why: String| {
        let indeterminate = if write {
            TransportError::indeterminate(why)
        } else {
            TransportError::unavailable(why)
        };
        Told { error: indeterminate, again: false, broken: true }
    };
    let Some(said) = error.as_db_error() else { return lost(why) };
    let code = said.code().code();
    // What ends the connection may come in place of an answer.
    if is_fatal(said) || code.starts_with("08") || code == "40003" {
        return lost(why);
    }
    let passing = |why: String| TransportError::unavailable(why);
    let (error, again, broken) = match code {
        // It lost against another transaction.
        "40001" | "40P01" => (passing(why), true, false),
        // A replica: the next connection may lead to another server.
        "25006" => (passing(why), false, true),
        // A statement of ours is not known, or another one has its name.
        "26000" | "42P05" => {
            let hint = "if a transaction pooler is in between, add pooled=true to the address";
            (TransportError::unsupported(format!("{why}; {hint}")), false, true)
        }
        // A prepared statement has become invalid: the table was changed.
        "0A000" => (passing(why), false, true),
        "42P01" | "42703" | "3F000" | "42P10" => {
            let hint = "create the table by create_schema(), or by the SQL of schema_sql()";
            (TransportError::unsupported(format!("{why}; {hint}")), false, false)
        }
        "42501" => (TransportError::denied(why), false, false),
        _ if code.starts_with("28") => (TransportError::denied(why), false, true),
        _ if code.starts_with("XX") => (TransportError::corrupt(why), false, false),
        _ if ["0A", "21", "22", "23", "42"].iter().any(|class| code.starts_with(class)) => {
            (TransportError::unsupported(why), false, false)
        }
        // A full disk, too little memory, a time that is over, ..
        _ => (passing(why), false, false),
    };
    Told { error, again, broken }
}

fn is_fatal(said: &DbError) -> bool {
    match said.parsed_severity() {
        Some(severity) => matches!(severity, Severity::Fatal | Severity::Panic),
        None => said.severity() != "ERROR",
    }
}

/// The error and what caused it, in one queue.
fn text(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = match cause.downcast_ref::<DbError>() {
            Some(said) => format!("{} ({})", said.message(), said.code().code()),
            None => cause.to_string(),
        };
        if !text.contains(&said) {
            text = if text == "db error" { said } else { format!("{text}: {said}") };
        }
        next = cause.source();
    }
    text
}

/// The error of TLS behind it, if there is one.
fn in_tls<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<rustls::Error>() {
            return Some(found);
        }
        let inside = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match inside {
            Some(inside) => Some(inside),
            None => error.source(),
        };
    }
    None
}

//! What is sent to the server, the scripts above all, and what its answers and errors mean.

use super::builder::{RedisNames, ReplicaWait};
use super::socket::RedisAddress;
use crate::cluster::{
    ConnectError, Exchange, Key, TransportError, Version, Versioned, Wake, Write,
};
use ::redis::{Cmd, ErrorKind, RedisError, Script, Value, cmd};
use std::{fmt, io};

/// How long an idle register is kept, in seconds: an hour.
const RETENTION: &str = "3600";

/// A script, and the digest by which the server knows it.
pub(super) struct LuaScript {
    text: &'static str,
    digest: String,
}

impl LuaScript {
    pub(super) fn load() -> Self {
        Self::new(concat!(
            include_str!("look.lua"),
            include_str!("read.lua"),
            include_str!("load.lua")
        ))
    }

    pub(super) fn compare_exchange() -> Self {
        Self::new(concat!(
            include_str!("look.lua"),
            include_str!("read.lua"),
            include_str!("compare_exchange.lua")
        ))
    }

    pub(super) fn delete() -> Self {
        Self::new(concat!(
            include_str!("look.lua"),
            include_str!("read.lua"),
            include_str!("delete.lua")
        ))
    }

    pub(super) fn create_floor() -> Self {
        Self::new(concat!(include_str!("look.lua"), include_str!("create_floor.lua")))
    }

    pub(super) fn list() -> Self {
        Self::new(include_str!("list.lua"))
    }

    fn new(text: &'static str) -> Self {
        Self { text, digest: Script::new(text).get_hash().to_owned() }
    }

    pub(super) fn text(&self) -> &'static str {
        self.text
    }

    pub(super) fn call<'a>(
        &'a self,
        keys: &'a [&'a str],
        arguments: &'a [Vec<u8>],
    ) -> ScriptCall<'a> {
        ScriptCall { script: self, keys, arguments, shared_floor: None }
    }
}

/// A script with its keys and arguments.
pub(super) struct ScriptCall<'a> {
    script: &'a LuaScript,
    keys: &'a [&'a str],
    arguments: &'a [Vec<u8>],
    /// The name of the shared floor, if the script needs the floor of its register.
    shared_floor: Option<&'a str>,
}

impl<'a> ScriptCall<'a> {
    /// The same for a script that needs the floor of its register. `shared`: the name of the shared one.
    pub(super) fn with_floor(self, shared: &'a str) -> Self {
        Self { shared_floor: Some(shared), ..self }
    }

    pub(super) fn needs_floor(&self) -> bool {
        self.shared_floor.is_some()
    }

    /// The register, if that is the only key.
    pub(super) fn register(&self) -> Option<&str> {
        (self.keys.len() == 1).then(|| self.keys[0])
    }

    /// The command for a server from or to which the slot moves, which may lack the floor. `name`: that of the
    /// floor, if it is known; `floor`: what it is, if it is known to be at another server.
    pub(super) fn while_moving(&self, name: &str, floor: &[u8]) -> Cmd {
        self.command("EVAL", self.script.text, [b"1", name.as_bytes(), floor])
    }

    /// The command for a server that knows the script.
    pub(super) fn by_digest(&self) -> Cmd {
        self.command("EVALSHA", &self.script.digest, [b""; 3])
    }

    /// The command for a server that does not know the script; it knows the script afterwards.
    pub(super) fn with_text(&self) -> Cmd {
        self.command("EVAL", self.script.text, [b""; 3])
    }

    fn command(&self, name: &str, script: &str, while_moving: [&[u8]; 3]) -> Cmd {
        let mut command = cmd(name);
        command.arg(script).arg(self.keys.len()).arg(self.keys).arg(self.arguments);
        if let Some(shared) = self.shared_floor {
            command.arg(shared).arg(&while_moving);
        }
        command
    }
}

/// The arguments of `compare_exchange.lua`.
pub(super) fn arguments(
    expected: Option<Version>,
    new: &Write,
    names: &RedisNames,
    key: &Key,
) -> [Vec<u8>; 5] {
    let expected = expected.map(|version| version.to_string()).unwrap_or_default();
    let channel = match new.wake {
        Wake::Nobody => String::new(),
        Wake::Node(node) => names.channel(node),
        Wake::Everybody => names.channel_of_all(),
    };
    let retention = if new.idle { RETENTION } else { "" };
    [
        expected.into_bytes(),
        new.value.to_vec(),
        channel.into_bytes(),
        retention.into(),
        names.hint(key).into_bytes(),
    ]
}

/// The answer of `compare_exchange.lua`.
///
/// An error is [`Corrupt`](TransportError::Corrupt) only where the script says that it did not write.
pub(super) fn exchange(response: &Value) -> Result<Exchange, TransportError> {
    let parts = match response {
        Value::Array(parts) => parts.iter().map(bytes).collect::<Option<Vec<_>>>(),
        _ => None,
    };
    match parts.as_deref() {
        Some([b"1", version]) => number(version).map(Exchange::Swapped).ok_or_else(|| {
            TransportError::indeterminate("the version that the script has written is none")
        }),
        Some([b"0"]) => Ok(Exchange::Mismatch(None)),
        Some([b"0", version, value]) => {
            let version =
                number(version).ok_or_else(|| TransportError::corrupt("it is no register"))?;
            Ok(Exchange::Mismatch(Some(Versioned { version, value: (*value).into() })))
        }
        _ => Err(TransportError::indeterminate("the script's answer makes no sense")),
    }
}

/// Whether this is the answer of a script that has written: of `compare_exchange.lua` or `delete.lua`.
pub(super) fn has_written(response: &Value) -> bool {
    match response {
        Value::Int(removed) => *removed == 1,
        Value::Array(parts) => parts.first().and_then(bytes) == Some(b"1"),
        _ => true,
    }
}

/// The command that waits until replicas have what the server has written up to the command before it, also
/// for others.
pub(super) fn wait(wait: ReplicaWait) -> Cmd {
    cmd("WAIT").arg(wait.replicas).arg(wait.timeout.as_millis().to_string()).clone()
}

/// Why the answer of `WAIT` is none that suffices.
pub(super) fn unconfirmed(wait: ReplicaWait, response: Value) -> Option<String> {
    let replicas = wait.replicas;
    match response.extract_error() {
        Ok(Value::Int(confirmed)) if confirmed >= i64::from(replicas) => None,
        Ok(Value::Int(confirmed)) => {
            let timeout = wait.timeout;
            Some(format!("{confirmed} of {replicas} replicas have confirmed it in {timeout:?}"))
        }
        Ok(_) => Some("the answer of WAIT is no number".to_owned()),
        Err(error) => Some(message(error).to_string()),
    }
}

/// The answer of `load.lua`.
pub(super) fn register(response: &Value) -> Result<Option<Versioned>, TransportError> {
    let understood = match response {
        Value::Array(parts) => match &parts[..] {
            [Value::Nil, Value::Nil] => Some(None),
            [version, value] => bytes(version).and_then(number).zip(bytes(value)).map(Some),
            _ => None,
        },
        _ => None,
    };
    let understood = understood.ok_or_else(|| TransportError::corrupt("it is no register"))?;
    Ok(understood.map(|(version, value)| Versioned { version, value: value.into() }))
}

/// The answer of `list.lua`: the next cursor, and names.
pub(super) fn page(response: &Value) -> Option<(Vec<u8>, Vec<String>)> {
    let text = |value: &Value| String::from_utf8(bytes(value)?.to_vec()).ok();
    let Value::Array(parts) = response else { return None };
    let [cursor, Value::Array(names)] = &parts[..] else { return None };
    Some((bytes(cursor)?.to_vec(), names.iter().filter_map(text).collect()))
}

/// The answer of a sentinel that was asked for a primary: its address.
pub(super) fn primary(response: &Value) -> Option<RedisAddress> {
    let text = |value: &Value| Some(str::from_utf8(bytes(value)?).ok()?.to_owned());
    let Value::Array(parts) = response else { return None };
    let [host, port] = &parts[..] else { return None };
    Some(RedisAddress::Tcp(text(host)?, text(port)?.parse().ok()?))
}

/// The answer of `HMGET` for the prefixes of a key, the shortest first: which of them is the longest that has a
/// floor.
pub(super) fn longest(response: &Value) -> Option<usize> {
    let Value::Array(found) = response else { return None };
    found.iter().rposition(|first| bytes(first).is_some())
}

fn bytes(value: &Value) -> Option<&[u8]> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        _ => None,
    }
}

/// A version, as the script writes it and in no other form: that would never be the expected one.
fn number(text: &[u8]) -> Option<Version> {
    let version = Version::new(std::str::from_utf8(text).ok()?.parse().ok()?).ok()?;
    (version.to_string().as_bytes() == text).then_some(version)
}

/// What an error means for the request that it answers.
pub(super) enum RedisErrorKind {
    /// The server refuses for now. It did nothing.
    Transient,
    /// The server refuses this client. It did nothing.
    Denied,
    /// The server cannot do this. It did nothing.
    Unsupported,
    /// The key has a value that lockword did not write.
    Corrupt,
    /// Another server of the cluster has the slot. This one did nothing.
    Moved,
    /// The slot moves to another server, which may have the key already. This one did nothing.
    Moving,
    /// The server is no primary, or none that serves the slot. It did nothing.
    NotInCharge,
    /// The server does not know the script. It did nothing.
    NoScript,
    /// Nothing is known: the connection was lost, or no answer came.
    Unknown,
}

/// What `error` means for a request that was sent.
pub(super) fn kind(error: &RedisError) -> RedisErrorKind {
    if !matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension) {
        return RedisErrorKind::Unknown;
    }
    let detail = error.detail().unwrap_or_default();
    match error.code().unwrap_or_default() {
        "NOSCRIPT" => RedisErrorKind::NoScript,
        "MOVED" => RedisErrorKind::Moved,
        "ASK" | "TRYAGAIN" => RedisErrorKind::Moving,
        "READONLY" | "MASTERDOWN" | "CLUSTERDOWN" => RedisErrorKind::NotInCharge,
        "NOAUTH" | "WRONGPASS" | "NOPERM" | "DENIED" => RedisErrorKind::Denied,
        "OOM" | "MISCONF" | "NOREPLICAS" | "LOADING" | "BUSY" => RedisErrorKind::Transient,
        "CROSSSLOT" | "NOPROTO" => RedisErrorKind::Unsupported,
        "WRONGTYPE" | "LOCKWORD" => RedisErrorKind::Corrupt,
        // From a script: of a command, of a key.
        "ERR"
            if [
                "ACL failure",
                "can't run this command",
                "can't access at least one of the keys",
            ]
            .iter()
            .any(|said| detail.contains(said)) =>
        {
            RedisErrorKind::Denied
        }
        // From a script, Redis 6.2 puts the code into the text.
        "ERR" if detail.contains("WRONGTYPE") => RedisErrorKind::Corrupt,
        "ERR" if detail.contains("max number of clients") => RedisErrorKind::Transient,
        "ERR" if detail.contains("unknown command") => RedisErrorKind::Unsupported,
        _ => RedisErrorKind::Unknown,
    }
}

/// The server to which MOVED or ASK leads. `host`: the one that has said so, and may leave out its own.
pub(super) fn redirected(error: &RedisError, host: &str) -> Option<RedisAddress> {
    let (to, port) = error.redirect_node()?.0.rsplit_once(':')?;
    let to = if to.is_empty() { host } else { to };
    Some(RedisAddress::Tcp(to.to_owned(), port.parse().ok()?))
}

/// The error of a request that was sent. `writes`: whether it was to write.
pub(super) fn request_failed(error: RedisError, writes: bool) -> TransportError {
    let kind = kind(&error);
    let message = message(error);
    match kind {
        RedisErrorKind::Denied => TransportError::denied(message),
        RedisErrorKind::Transient
        | RedisErrorKind::Moved
        | RedisErrorKind::Moving
        | RedisErrorKind::NotInCharge
        | RedisErrorKind::NoScript => TransportError::unavailable(message),
        RedisErrorKind::Unsupported => TransportError::unsupported(message),
        RedisErrorKind::Corrupt => TransportError::corrupt(message),
        RedisErrorKind::Unknown if writes => TransportError::indeterminate(message),
        RedisErrorKind::Unknown => TransportError::unavailable(message),
    }
}

/// Why there is no connection.
#[derive(Clone)]
pub(super) struct RedisConnectError {
    pub(super) error: ConnectError,
    /// A later attempt may succeed.
    pub(super) is_transient: bool,
}

impl RedisConnectError {
    /// No server has answered.
    pub(super) fn is_unreachable(&self) -> bool {
        matches!(self.error, ConnectError::Unreachable { .. })
    }

    /// The server refuses the login, or what was asked after it.
    pub(super) fn is_denied(&self) -> bool {
        matches!(self.error, ConnectError::Denied { .. })
    }
}

impl From<ConnectError> for RedisConnectError {
    fn from(error: ConnectError) -> Self {
        let is_transient =
            matches!(error, ConnectError::Unreachable { .. } | ConnectError::Credentials { .. });
        Self { error, is_transient }
    }
}

impl From<RedisConnectError> for TransportError {
    /// The error of a request that needed a connection: it was not sent.
    fn from(RedisConnectError { error, is_transient }: RedisConnectError) -> Self {
        match &error {
            _ if is_transient => Self::unavailable(error),
            ConnectError::Denied { .. }
            | ConnectError::Untrusted { .. }
            | ConnectError::Unencrypted { .. } => Self::denied(error),
            _ => Self::unsupported(error),
        }
    }
}

/// The error of an attempt to connect to `server`, or to set the connection up.
pub(super) fn connect_failed(error: RedisError, server: String) -> ConnectError {
    if is_certificate_alert(&error.to_string()) {
        return ConnectError::Untrusted { server, cause: message(error).into() };
    }
    match kind(&error) {
        RedisErrorKind::Denied => ConnectError::Denied { server, cause: message(error).into() },
        RedisErrorKind::Unsupported | RedisErrorKind::Corrupt => {
            ConnectError::Unsuitable { server, why: message(error).to_string() }
        }
        _ if error.kind() == ErrorKind::AuthenticationFailed => {
            ConnectError::Denied { server, cause: message(error).into() }
        }
        _ if error.kind() == ErrorKind::RESP3NotSupported => {
            let why = "it does not speak RESP3: Redis 6.2 or newer is needed, or Valkey".to_owned();
            ConnectError::Unsuitable { server, why }
        }
        // The server did answer: that it has no such database, for example.
        RedisErrorKind::Unknown
            if matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension) =>
        {
            ConnectError::Unsuitable { server, why: message(error).to_string() }
        }
        _ => ConnectError::Unreachable { server, cause: message(error).into() },
    }
}

/// The error of an attempt to open a socket to `server`, with the TLS handshake.
pub(super) fn socket_failed(error: io::Error, server: String) -> ConnectError {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let is_refused = matches!(inner, Some(rustls::Error::InvalidCertificate(_)));
    if is_refused || is_certificate_alert(&error.to_string()) {
        return ConnectError::Untrusted { server, cause: error.into() };
    }
    ConnectError::Unreachable { server, cause: error.into() }
}

/// Whether the text of an error has a TLS alert about a certificate. A server that does not trust the
/// client's sends it after the handshake.
fn is_certificate_alert(text: &str) -> bool {
    let alert = text.split_once("fatal alert: ").map_or("", |(_, alert)| alert);
    let alert: String = alert.chars().filter(char::is_ascii_alphabetic).collect();
    alert.contains("Certificate") || alert == "UnknownCA" || alert == "AccessDenied"
}

/// The text of an error: "CODE what happened" as the server puts it, or what the client says.
struct ServerMessage(String);

fn message(error: RedisError) -> ServerMessage {
    match (error.kind(), error.code(), error.detail()) {
        (ErrorKind::Server(_) | ErrorKind::Extension, Some(code), Some(detail)) => {
            ServerMessage(format!("{code} {detail}"))
        }
        _ => ServerMessage(error.to_string()),
    }
}

impl fmt::Display for ServerMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ServerMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ServerMessage {}

#[cfg(test)]
mod tests {
    use super::{exchange, register};
    use crate::cluster::{Exchange, TransportError};
    use ::redis::Value::{self, Array, Int, Nil};

    fn text(text: &str) -> Value {
        Value::BulkString(text.into())
    }

    #[test]
    fn answers_that_make_no_sense_are_seen() {
        let good = Array(vec![text("1"), text("4503599627370495")]);
        assert!(matches!(exchange(&good), Ok(Exchange::Swapped(version)) if version.get() > 1));
        assert_eq!(exchange(&Array(vec![text("0")])).unwrap(), Exchange::Mismatch(None));
        // It has written, or nobody knows.
        for bad in [
            Nil,
            Array(vec![]),
            Array(vec![text("1")]),
            Array(vec![text("1"), text("0")]),
            Array(vec![text("1"), text("4503599627370496")]),
            Array(vec![Int(1), text("7")]),
            Array(vec![text("0"), text("7")]),
            Array(vec![text("0"), text("7"), Nil]),
        ] {
            let error = exchange(&bad).unwrap_err();
            assert!(matches!(error, TransportError::Indeterminate(_)), "{bad:?}: {error}");
        }
        // It has not.
        for bad in ["", "0", "07", "many"] {
            let error = exchange(&Array(vec![text("0"), text(bad), text("v")])).unwrap_err();
            assert!(matches!(error, TransportError::Corrupt(_)), "{bad:?}: {error}");
        }
        assert_eq!(register(&Array(vec![Nil, Nil])).unwrap(), None);
        assert!(register(&Array(vec![text("7"), text("v")])).unwrap().is_some());
        for bad in [
            Nil,
            Array(vec![text("x"), text("v")]),
            Array(vec![text("7"), Nil]),
            Array(vec![Nil, text("v")]),
        ] {
            assert!(register(&bad).is_err(), "{bad:?}");
        }
        // A long text was cut after its 17th byte.
        for bad in ["+7", "07", "7 ", "00000000000000007", "45035996273704950"] {
            assert!(register(&Array(vec![text(bad), text("v")])).is_err(), "{bad}");
        }
    }
}

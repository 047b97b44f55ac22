//! What an error of a call means: was the request certainly not applied, or is that unknown?

use super::rpc::RpcError;
use crate::cluster::{ConnectError, TransportError};
use std::error::Error;

/// Why a request failed.
#[derive(Clone, Debug)]
pub(super) struct EtcdFailure {
    pub(super) kind: EtcdFailureKind,
    /// The message of the library or the server.
    pub(super) said: String,
    /// There was no connection to send the request over.
    is_unsent: bool,
    /// What this side knows about the cause, for the text of the error only.
    note: Option<String>,
}

/// What a failure means for the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EtcdFailureKind {
    /// There was no answer, or one that does not tell: a write may have been applied.
    Indeterminate,
    /// Not applied; another member may apply it, or a later attempt.
    Transient,
    /// The same; and the client is of no use any more, since the task that has its connection has ended.
    DeadClient,
    /// Not applied: the credentials do not suffice.
    Denied,
    /// Not applied: one side does not trust the other's certificate.
    Untrusted,
    /// Not applied: user and password could not be had.
    NoCredentials,
    /// Not applied: a password would have been sent in clear text.
    Unencrypted,
    /// The database is full. A write may have been applied nevertheless: if it was proposed while
    /// there was room, and there was none when its turn came, the server applies it, and then answers
    /// this. Nothing happens to the write after that answer: see [`EtcdFailure::of_full`].
    Full,
    /// Not applied: this server cannot do it.
    Unsupported,
    /// Not applied: the server's data are damaged, or its answer makes no sense.
    Corrupt,
    /// Not applied: the answer is longer than what the client reads, so it has a value, which that to a
    /// write that was applied has not.
    TooLarge,
}

impl EtcdFailure {
    pub(super) fn new(kind: EtcdFailureKind, said: impl Into<String>) -> Self {
        Self { kind, said: said.into(), is_unsent: false, note: None }
    }

    /// The error of a write.
    pub(super) fn of_write(self) -> TransportError {
        match self.kind {
            EtcdFailureKind::Indeterminate | EtcdFailureKind::Full => {
                TransportError::indeterminate(self.text())
            }
            _ => self.of_read(),
        }
    }

    /// The error of a write for which there was no room. `unchanged`: a read after the answer has
    /// found the register as the write expected it.
    ///
    /// Then the write was not applied, and will not be. Otherwise it may be this write that has
    /// changed the register.
    pub(super) fn of_full(self, unchanged: bool) -> TransportError {
        if unchanged { self.of_read() } else { self.of_write() }
    }

    /// The error of a request that does not write.
    pub(super) fn of_read(self) -> TransportError {
        let said = self.text();
        match self.kind {
            EtcdFailureKind::Indeterminate
            | EtcdFailureKind::Transient
            | EtcdFailureKind::DeadClient => TransportError::unavailable(said),
            EtcdFailureKind::NoCredentials => {
                TransportError::unavailable(ConnectError::Credentials { cause: said.into() })
            }
            EtcdFailureKind::Denied => {
                TransportError::denied(format!("{said}: check user, password and permissions"))
            }
            EtcdFailureKind::Untrusted | EtcdFailureKind::Unencrypted => {
                TransportError::denied(said)
            }
            EtcdFailureKind::Full => TransportError::unsupported(format!("{said}: {MAKE_SPACE}")),
            EtcdFailureKind::Unsupported => TransportError::unsupported(said),
            EtcdFailureKind::Corrupt | EtcdFailureKind::TooLarge => TransportError::corrupt(said),
        }
    }

    /// The error of the first request, with which the engine connects.
    pub(super) fn of_connect(self, server: String) -> ConnectError {
        let said = self.text();
        match self.kind {
            EtcdFailureKind::Indeterminate
            | EtcdFailureKind::Transient
            | EtcdFailureKind::DeadClient => {
                ConnectError::Unreachable { server, cause: said.into() }
            }
            EtcdFailureKind::Denied => ConnectError::Denied { server, cause: said.into() },
            EtcdFailureKind::NoCredentials => ConnectError::Credentials { cause: said.into() },
            EtcdFailureKind::Unencrypted => ConnectError::Unencrypted { server, tls: "etcds://" },
            EtcdFailureKind::Untrusted => ConnectError::Untrusted { server, cause: said.into() },
            EtcdFailureKind::Full => {
                ConnectError::Unsuitable { server, why: format!("{said}: {MAKE_SPACE}") }
            }
            EtcdFailureKind::Unsupported | EtcdFailureKind::Corrupt | EtcdFailureKind::TooLarge => {
                ConnectError::Unsuitable { server, why: said }
            }
        }
    }

    /// The connection could not be made: nothing was sent.
    pub(super) fn of_connecting(error: &tonic::transport::Error) -> Self {
        let said = chain(error);
        let kind = if is_unencrypted(error) {
            EtcdFailureKind::Unencrypted
        } else if is_distrust(&said) {
            EtcdFailureKind::Untrusted
        } else {
            EtcdFailureKind::Transient
        };
        Self { is_unsent: true, ..Self::new(kind, said) }
    }

    /// The login failed: there is no token, and no request was sent.
    pub(super) fn of_login(error: RpcError) -> Self {
        let failure = Self::from(error);
        let kind = if failure.kind == EtcdFailureKind::Indeterminate {
            EtcdFailureKind::Transient
        } else {
            failure.kind
        };
        Self { kind, ..failure }
    }

    /// The same with what this side knows about the cause.
    pub(super) fn with_note(self, note: Option<String>) -> Self {
        Self { note, ..self }
    }

    /// The same with what this side knows about the last connection, if the failure may come from that: there was
    /// none, or it broke, or one side does not trust the other.
    pub(super) fn with_note_of_connection(self, note: Option<String>) -> Self {
        match self.is_unsent || self.is_hung_up() || self.kind == EtcdFailureKind::Untrusted {
            true => self.with_note(note),
            false => self,
        }
    }

    /// The message, with the note.
    fn text(&self) -> String {
        match &self.note {
            Some(note) => format!("{}; {note}", self.said),
            None => self.said.clone(),
        }
    }

    /// Whether the connection was made, and broke.
    ///
    /// A server also refuses a client's certificate in this way: with TLS 1.3 the handshake is over by
    /// then, and the connection's task receives the alert and does not pass it on.
    pub(super) fn is_hung_up(&self) -> bool {
        const PHRASES: [&str; 4] =
            ["connection closed", "onnection reset", "roken pipe", "os error"];
        self.kind == EtcdFailureKind::Indeterminate
            && PHRASES.iter().any(|phrase| self.said.contains(phrase))
    }

    /// Whether the TLS handshake was answered by something that is not TLS, or by the end of the
    /// connection, which the server may have closed before it had read the whole handshake.
    fn is_no_handshake(&self) -> bool {
        const PHRASES: [&str; 4] =
            ["handshake eof", "InvalidContentType", "onnection reset", "roken pipe"];
        self.kind == EtcdFailureKind::Transient
            && PHRASES.iter().any(|phrase| self.said.contains(phrase))
    }

    /// The failure of a first request that has failed repeatedly, with what that may mean.
    pub(super) fn with_hint(self, tls: bool) -> Self {
        let Self { kind, said, .. } = &self;
        let (kind, hint) = match tls {
            true if self.is_hung_up() => (
                EtcdFailureKind::Untrusted,
                "after the TLS handshake the server hangs up, as it does when it wants a \
                 certificate of the client's or does not trust it",
            ),
            true if self.is_no_handshake() => {
                (*kind, "the server may not speak TLS: that is etcd:// instead of etcds://")
            }
            false if self.is_hung_up() => {
                (*kind, "the server may speak TLS: that is etcds:// instead of etcd://")
            }
            _ => return self,
        };
        Self { kind, said: format!("{hint}: {said}"), ..self }
    }

    /// Whether the token is unknown or has expired, or users or roles were changed since it was made, after which a
    /// signed token (JWT) is not valid. The server checks this before it does anything: the request was
    /// not applied.
    pub(super) fn is_token_rejected(&self) -> bool {
        match self.kind {
            EtcdFailureKind::Denied => self.said.contains(EXPIRED_TOKEN),
            EtcdFailureKind::Transient => self.said.contains(OLD_TOKEN),
            _ => false,
        }
    }
}

/// What to do about a full database.
const MAKE_SPACE: &str = "make room (compact the history, defragment, or raise --quota-backend-bytes), and \
                    then disarm the alarm: etcdctl alarm disarm";

impl From<tonic::Status> for EtcdFailure {
    fn from(status: tonic::Status) -> Self {
        let said = match status.source() {
            Some(source) => chain(source),
            None => status.message().to_owned(),
        };
        Self { is_unsent: is_unsent(&status), ..Self::new(kind(&status, &said), said) }
    }
}

/// There are no credentials for a token.
impl From<ConnectError> for EtcdFailure {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Credentials { cause } => {
                Self::new(EtcdFailureKind::NoCredentials, cause.to_string())
            }
            other => Self::new(EtcdFailureKind::Transient, other.to_string()),
        }
    }
}

impl From<RpcError> for EtcdFailure {
    fn from(error: RpcError) -> Self {
        match error {
            RpcError::Ended(error) => Self::new(EtcdFailureKind::DeadClient, chain(&error)),
            RpcError::Status(status) => Self::from(status),
        }
    }
}

/// The message of etcd about a token that it does not know, or not any more.
const EXPIRED_TOKEN: &str = "invalid auth token";
/// The message of etcd about a signed token from before a change of users or roles.
const OLD_TOKEN: &str = "revision of auth store is old";

fn kind(status: &tonic::Status, said: &str) -> EtcdFailureKind {
    use tonic::Code;
    // It comes from the handshake, or from the first bytes that the server reads: no request was read.
    if is_distrust(said) {
        return EtcdFailureKind::Untrusted;
    }
    if is_unencrypted(status) {
        return EtcdFailureKind::Unencrypted;
    }
    if is_unsent(status) {
        return EtcdFailureKind::Transient;
    }
    let says = |what: &str| said.contains(what);
    match status.code() {
        Code::PermissionDenied | Code::Unauthenticated => EtcdFailureKind::Denied,
        // "authentication is not enabled", when a user is given.
        Code::FailedPrecondition if says("etcdserver:") => EtcdFailureKind::Denied,
        Code::InvalidArgument if says(OLD_TOKEN) => EtcdFailureKind::Transient,
        Code::InvalidArgument if says("authentication failed") || says("user name") => {
            EtcdFailureKind::Denied
        }
        Code::InvalidArgument | Code::Unimplemented => EtcdFailureKind::Unsupported,
        Code::ResourceExhausted if says("too many requests") => EtcdFailureKind::Transient,
        Code::ResourceExhausted if says("database space exceeded") => EtcdFailureKind::Full,
        Code::ResourceExhausted if says("etcdserver:") => EtcdFailureKind::Unsupported,
        // The server answers these before it proposes anything to the cluster.
        Code::Unavailable if says("etcdserver: no leader") => EtcdFailureKind::Transient,
        Code::Unavailable if says("not supported for learner") => EtcdFailureKind::Transient,
        Code::Unavailable if says("etcdserver: not capable") => EtcdFailureKind::Transient,
        Code::DataLoss if says("corrupt cluster") => EtcdFailureKind::Corrupt,
        // The client says this about the answer, of which it has read nothing.
        Code::OutOfRange if says("decoded message length too large") => EtcdFailureKind::TooLarge,
        // Timeouts, lost leaders, stopped servers, broken connections.
        _ => EtcdFailureKind::Indeterminate,
    }
}

/// Whether the connector has refused to open a connection that is not encrypted.
fn is_unencrypted(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if matches!(error.downcast_ref(), Some(ConnectError::Unencrypted { .. })) {
            return true;
        }
        next = error.source();
    }
    false
}

/// Whether there was no connection to send anything over.
fn is_unsent(status: &tonic::Status) -> bool {
    let mut next = status.source();
    while let Some(error) = next {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        next = error.source();
    }
    false
}

/// Whether the TLS library says that one side refused the certificate of the other.
fn is_distrust(said: &str) -> bool {
    const ALERTS: [&str; 8] = [
        "BadCertificate",
        "UnsupportedCertificate",
        "CertificateRevoked",
        "CertificateExpired",
        "CertificateUnknown",
        "CertificateRequired",
        "UnknownCA",
        "AccessDenied",
    ];
    said.contains("invalid peer certificate")
        || (said.contains("fatal alert") && ALERTS.iter().any(|alert| said.contains(alert)))
}

/// The texts of an error and its sources, without repetitions.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut said = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let text = source.to_string();
        if !said.contains(&text) {
            said = format!("{said}: {text}");
        }
        next = source.source();
    }
    said
}

#[cfg(test)]
mod tests {
    use super::{EtcdFailure, EtcdFailureKind};
    use crate::cluster::TransportError;
    use tonic::{Code, Status};

    #[test]
    fn each_message_of_the_server_has_its_meaning() {
        for (code, said, kind) in [
            (Code::Unavailable, "etcdserver: request timed out", EtcdFailureKind::Indeterminate),
            (Code::Unavailable, "etcdserver: leader changed", EtcdFailureKind::Indeterminate),
            (Code::Unavailable, "etcdserver: server stopped", EtcdFailureKind::Indeterminate),
            (Code::Unavailable, "transport is closing", EtcdFailureKind::Indeterminate),
            (Code::DeadlineExceeded, "context deadline exceeded", EtcdFailureKind::Indeterminate),
            (Code::Cancelled, "", EtcdFailureKind::Indeterminate),
            (Code::Unknown, "raft proposal dropped", EtcdFailureKind::Indeterminate),
            (Code::Internal, "", EtcdFailureKind::Indeterminate),
            (Code::OutOfRange, "", EtcdFailureKind::Indeterminate),
            (
                Code::OutOfRange,
                "Error, decoded message length too large: found 5 bytes, the limit is: 4 bytes",
                EtcdFailureKind::TooLarge,
            ),
            (
                Code::ResourceExhausted,
                "received message larger than max",
                EtcdFailureKind::Indeterminate,
            ),
            (Code::Unavailable, "etcdserver: no leader", EtcdFailureKind::Transient),
            (Code::ResourceExhausted, "etcdserver: too many requests", EtcdFailureKind::Transient),
            (
                Code::ResourceExhausted,
                "etcdserver: mvcc: database space exceeded",
                EtcdFailureKind::Full,
            ),
            (
                Code::InvalidArgument,
                "etcdserver: revision of auth store is old",
                EtcdFailureKind::Transient,
            ),
            (
                Code::InvalidArgument,
                "etcdserver: request is too large",
                EtcdFailureKind::Unsupported,
            ),
            (
                Code::InvalidArgument,
                "etcdserver: authentication failed, invalid user ID or password",
                EtcdFailureKind::Denied,
            ),
            (Code::InvalidArgument, "etcdserver: user name is empty", EtcdFailureKind::Denied),
            (Code::Unauthenticated, "etcdserver: invalid auth token", EtcdFailureKind::Denied),
            (Code::PermissionDenied, "etcdserver: permission denied", EtcdFailureKind::Denied),
            (Code::DataLoss, "etcdserver: corrupt cluster", EtcdFailureKind::Corrupt),
        ] {
            let failure = EtcdFailure::from(Status::new(code, said));
            assert_eq!(failure.kind, kind, "{code:?} {said}");
            let is_old =
                ["invalid auth token", "auth store is old"].map(|what| said.contains(what));
            assert_eq!(failure.is_token_rejected(), is_old != [false; 2], "{said}");
        }
    }

    #[test]
    fn a_note_about_the_connection_belongs_to_failures_of_connecting_only() {
        let note = || Some("key=/x: No such file or directory (os error 2)".to_owned());
        let has_note = |failure: &EtcdFailure| failure.clone().of_read().to_string().contains("/x");
        for (kind, said) in [
            (EtcdFailureKind::Denied, "etcdserver: permission denied"),
            (EtcdFailureKind::Indeterminate, "no answer in time"),
            (EtcdFailureKind::Corrupt, "corrupt cluster"),
        ] {
            let failure = EtcdFailure::new(kind, said).with_note_of_connection(note());
            assert!(!has_note(&failure), "{said}");
        }
        let refused = || tonic::ConnectError(Box::new(std::io::Error::other("refused")));
        let unsent = EtcdFailure::from(Status::from_error(Box::new(refused())));
        let hung_up = EtcdFailure::new(EtcdFailureKind::Indeterminate, "connection closed");
        let distrust = EtcdFailure::new(EtcdFailureKind::Untrusted, "received fatal alert");
        for failure in [unsent, hung_up, distrust] {
            let kind = failure.kind;
            let failure = failure.with_note_of_connection(note());
            assert!(has_note(&failure) && failure.kind == kind, "{failure:?}");
        }
        // What the note says is not taken for what the server did.
        let silent = EtcdFailure::new(EtcdFailureKind::Indeterminate, "no answer in time");
        let silent = silent.with_note(note());
        assert!(!silent.is_hung_up());
        assert_eq!(silent.with_hint(true).kind, EtcdFailureKind::Indeterminate);
    }

    #[test]
    fn a_write_without_room_is_refused_only_if_the_register_is_unchanged() {
        let full = || EtcdFailure::new(EtcdFailureKind::Full, "full");
        assert!(matches!(full().of_write(), TransportError::Indeterminate(_)));
        assert!(matches!(full().of_full(false), TransportError::Indeterminate(_)));
        assert!(matches!(full().of_full(true), TransportError::Unsupported(_)));
    }

    #[test]
    fn only_a_request_without_a_connection_is_certainly_not_applied() {
        let refused = || Box::new(std::io::Error::other("refused"));
        let unsent = Status::from_error(Box::new(tonic::ConnectError(refused())));
        assert_eq!(EtcdFailure::from(unsent).kind, EtcdFailureKind::Transient);
        let broken = Status::from_error(refused());
        assert_eq!(EtcdFailure::from(broken).kind, EtcdFailureKind::Indeterminate);
    }
}

//! What an error of the client means: was the request refused for certain, or is that unknown?

use crate::cluster::{ConnectError, TransportError};
use std::error::Error;

/// Why a request failed.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) kind: FailureKind,
    /// What the client or the server said, in words.
    pub(super) said: String,
}

/// What follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FailureKind {
    /// No answer, or one that leaves it open: a write may have been applied.
    Indeterminate,
    /// Not applied; another member, or a later try, may do it.
    Passing,
    /// Not applied: the credentials do not suffice.
    Denied,
    /// Not applied: one side does not trust the other's certificate.
    Untrusted,
    /// The database is full. A write may have been applied all the same: where it was proposed while
    /// there was room, and there was none left when its turn came, the server applies it, and then
    /// answers this. It is the last that happens to the write: see [`Failure::of_full`].
    Full,
    /// Not applied: not on this server.
    Unsupported,
    /// Not applied: the server's data are damaged, or its answer makes no sense.
    Corrupt,
}

impl Failure {
    pub(super) fn new(kind: FailureKind, said: impl Into<String>) -> Self {
        Self { kind, said: said.into() }
    }

    /// What is to be told of a write.
    pub(super) fn of_write(self) -> TransportError {
        match self.kind {
            FailureKind::Indeterminate | FailureKind::Full => {
                TransportError::indeterminate(self.said)
            }
            _ => self.of_read(),
        }
    }

    /// What is to be told of a write for which there was no room, given what was read after the
    /// answer: whether the register still was what the write expected.
    ///
    /// Then it was not applied, and will not be. Otherwise it may have been this write that changed
    /// it, or the next one may have hidden it.
    pub(super) fn of_full(self, unchanged: bool) -> TransportError {
        if unchanged { self.of_read() } else { self.of_write() }
    }

    /// What is to be told where nothing was to be written.
    pub(super) fn of_read(self) -> TransportError {
        match self.kind {
            FailureKind::Indeterminate | FailureKind::Passing => {
                TransportError::unavailable(self.said)
            }
            FailureKind::Denied | FailureKind::Untrusted => TransportError::denied(self.said),
            FailureKind::Full => {
                TransportError::unsupported(format!("{}: {MAKE_SPACE}", self.said))
            }
            FailureKind::Unsupported => TransportError::unsupported(self.said),
            FailureKind::Corrupt => TransportError::corrupt(self.said),
        }
    }

    /// What is to be told of the first request of all.
    pub(super) fn of_connect(self, server: String) -> ConnectError {
        let Self { kind, said } = self;
        match kind {
            FailureKind::Indeterminate | FailureKind::Passing => {
                ConnectError::Unreachable { server, cause: said.into() }
            }
            FailureKind::Denied => ConnectError::Denied { server, cause: said.into() },
            FailureKind::Untrusted => ConnectError::Untrusted { server, cause: said.into() },
            FailureKind::Full => {
                ConnectError::Unsuitable { server, why: format!("{said}: {MAKE_SPACE}") }
            }
            FailureKind::Unsupported | FailureKind::Corrupt => {
                ConnectError::Unsuitable { server, why: said }
            }
        }
    }
}

/// What to do about a full database.
const MAKE_SPACE: &str = "make room (compact the history, defragment, or raise --quota-backend-bytes), and \
                    then disarm the alarm: etcdctl alarm disarm";

impl From<etcd_client::Error> for Failure {
    fn from(error: etcd_client::Error) -> Self {
        match error {
            etcd_client::Error::GRpcStatus(status) => Self::of_status(&status),
            // None of the others is known to come after a request was sent; nor not to.
            other => Self::new(FailureKind::Indeterminate, other.to_string()),
        }
    }
}

impl Failure {
    /// The connection could not be made: nothing was sent.
    pub(super) fn of_dialling(error: &tonic::transport::Error) -> Self {
        let said = chain(error);
        Self {
            kind: if is_distrust(&said) { FailureKind::Untrusted } else { FailureKind::Passing },
            said,
        }
    }

    /// There is no token, and nothing of ours was sent.
    pub(super) fn of_login(error: etcd_client::Error) -> Self {
        let failure = Self::from(error);
        let kind = if failure.kind == FailureKind::Indeterminate {
            FailureKind::Passing
        } else {
            failure.kind
        };
        Self { kind, ..failure }
    }

    fn of_status(status: &tonic::Status) -> Self {
        let said = match status.source() {
            Some(source) => chain(source),
            None => status.message().to_owned(),
        };
        Self { kind: kind(status, &said), said }
    }

    /// The connection was made, and broke.
    ///
    /// That is how a server tells a client that its certificate does not suffice: by TLS 1.3, the
    /// handshake is over then, and the connection's task, which gets the alert, keeps it for itself.
    pub(super) fn is_hung_up(&self) -> bool {
        const PHRASES: [&str; 4] =
            ["connection closed", "onnection reset", "roken pipe", "os error"];
        self.kind == FailureKind::Indeterminate
            && PHRASES.iter().any(|phrase| self.said.contains(phrase))
    }

    /// The TLS handshake was not answered by one: by something else, or by the end of the connection,
    /// which the server may have cut off before it had read all of it.
    fn is_no_handshake(&self) -> bool {
        const PHRASES: [&str; 4] =
            ["handshake eof", "InvalidContentType", "onnection reset", "roken pipe"];
        self.kind == FailureKind::Passing && PHRASES.iter().any(|phrase| self.said.contains(phrase))
    }

    /// The same of a first request, which has failed again and again, with what it may mean.
    pub(super) fn with_hint(self, tls: bool) -> Self {
        let Self { kind, said } = &self;
        let (kind, hint) = match tls {
            true if self.is_hung_up() => (
                FailureKind::Untrusted,
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
        Self { kind, said: format!("{hint}: {said}") }
    }

    /// The client is bound to a runtime that has gone, and is of no use any more.
    pub(super) fn is_dead_client(&self) -> bool {
        self.said.starts_with(NOT_READY)
    }
}

impl Failure {
    /// Users or roles were changed since the token was made, which a token that is signed (JWT) does
    /// not survive. The server looks before it does anything: the request was not applied.
    pub(super) fn is_old_token(&self) -> bool {
        self.kind == FailureKind::Passing && self.said.contains(OLD_TOKEN)
    }
}

/// What etcd says of such a token.
const OLD_TOKEN: &str = "revision of auth store is old";

/// How the generated code reports that a request could not even be handed to the connection's task.
const NOT_READY: &str = "Service was not ready";

fn kind(status: &tonic::Status, said: &str) -> FailureKind {
    use tonic::Code;
    // Of the handshake, or of the server's reading the very first bytes: no request was read.
    if is_distrust(said) {
        return FailureKind::Untrusted;
    }
    if is_unsent(status) || said.starts_with(NOT_READY) {
        return FailureKind::Passing;
    }
    let says = |what: &str| said.contains(what);
    match status.code() {
        Code::PermissionDenied | Code::Unauthenticated => FailureKind::Denied,
        // "authentication is not enabled", when a user is given.
        Code::FailedPrecondition if says("etcdserver:") => FailureKind::Denied,
        Code::InvalidArgument if says(OLD_TOKEN) => FailureKind::Passing,
        Code::InvalidArgument if says("authentication failed") || says("user name") => {
            FailureKind::Denied
        }
        Code::InvalidArgument | Code::Unimplemented => FailureKind::Unsupported,
        Code::ResourceExhausted if says("too many requests") => FailureKind::Passing,
        Code::ResourceExhausted if says("database space exceeded") => FailureKind::Full,
        Code::ResourceExhausted if says("etcdserver:") => FailureKind::Unsupported,
        // These are said before anything is proposed to the cluster.
        Code::Unavailable if says("etcdserver: no leader") => FailureKind::Passing,
        Code::Unavailable if says("not supported for learner") => FailureKind::Passing,
        Code::Unavailable if says("etcdserver: not capable") => FailureKind::Passing,
        Code::DataLoss if says("corrupt cluster") => FailureKind::Corrupt,
        // Timeouts, lost leaders, stopped servers, broken connections.
        _ => FailureKind::Indeterminate,
    }
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

/// Whether the TLS library says that a certificate was refused, here or there.
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
        || (said.contains("fatal alert") && ALERTS.iter().any(|wake_next| said.contains(wake_next)))
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
    use super::{Failure, FailureKind};
    use crate::cluster::TransportError;
    use tonic::{Code, Status};

    #[test]
    fn what_the_server_says_is_understood() {
        for (code, said, kind) in [
            (Code::Unavailable, "etcdserver: request timed out", FailureKind::Indeterminate),
            (Code::Unavailable, "etcdserver: leader changed", FailureKind::Indeterminate),
            (Code::Unavailable, "etcdserver: server stopped", FailureKind::Indeterminate),
            (Code::Unavailable, "transport is closing", FailureKind::Indeterminate),
            (Code::DeadlineExceeded, "context deadline exceeded", FailureKind::Indeterminate),
            (Code::Cancelled, "", FailureKind::Indeterminate),
            (Code::Unknown, "raft proposal dropped", FailureKind::Indeterminate),
            (Code::Internal, "", FailureKind::Indeterminate),
            // Said by the client, of the answer.
            (Code::OutOfRange, "decoded message length too large", FailureKind::Indeterminate),
            (
                Code::ResourceExhausted,
                "received message larger than max",
                FailureKind::Indeterminate,
            ),
            (Code::Unavailable, "etcdserver: no leader", FailureKind::Passing),
            (Code::ResourceExhausted, "etcdserver: too many requests", FailureKind::Passing),
            (
                Code::ResourceExhausted,
                "etcdserver: mvcc: database space exceeded",
                FailureKind::Full,
            ),
            (
                Code::InvalidArgument,
                "etcdserver: revision of auth store is old",
                FailureKind::Passing,
            ),
            (Code::InvalidArgument, "etcdserver: request is too large", FailureKind::Unsupported),
            (
                Code::InvalidArgument,
                "etcdserver: authentication failed, invalid user ID or password",
                FailureKind::Denied,
            ),
            (Code::InvalidArgument, "etcdserver: user name is empty", FailureKind::Denied),
            (Code::Unauthenticated, "etcdserver: invalid auth token", FailureKind::Denied),
            (Code::PermissionDenied, "etcdserver: permission denied", FailureKind::Denied),
            (Code::DataLoss, "etcdserver: corrupt cluster", FailureKind::Corrupt),
        ] {
            let failure = Failure::from(etcd_client::Error::from(Status::new(code, said)));
            assert_eq!(failure.kind, kind, "{code:?} {said}");
        }
    }

    #[test]
    fn a_write_without_room_is_refused_only_if_it_left_no_trace() {
        let full = || Failure::new(FailureKind::Full, "full");
        assert!(matches!(full().of_write(), TransportError::Indeterminate(_)));
        assert!(matches!(full().of_full(false), TransportError::Indeterminate(_)));
        assert!(matches!(full().of_full(true), TransportError::Unsupported(_)));
    }

    #[test]
    fn only_a_connection_that_was_never_made_is_certain() {
        let refused = || Box::new(std::io::Error::other("refused"));
        let unsent = Status::from_error(Box::new(tonic::ConnectError(refused())));
        assert_eq!(Failure::from(etcd_client::Error::from(unsent)).kind, FailureKind::Passing);
        let broken = Status::from_error(refused());
        assert_eq!(
            Failure::from(etcd_client::Error::from(broken)).kind,
            FailureKind::Indeterminate
        );
    }
}

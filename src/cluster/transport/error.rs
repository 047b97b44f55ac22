//! What can go wrong at an engine, as far as the protocol has to tell it apart.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

/// What went wrong at an engine.
///
/// The kinds are what the protocol acts upon; what the engine itself said is the
/// [`source`](Error::source). Cheap to clone: one failure is told to many waiters.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum TransportError {
    /// A write was sent, and it is not known whether it was applied, or will be.
    Indeterminate(Cause),
    /// The engine cannot be reached, or does not answer, or refuses for now. Nothing was written.
    Unavailable(Cause),
    /// The engine refuses this client: credentials, permissions, a certificate.
    Denied(Cause),
    /// The engine cannot do this: its version, its configuration, a value too large.
    Unsupported(Cause),
    /// The engine answered what it never should: a version out of range, an answer that makes no
    /// sense.
    Corrupt(Cause),
}

impl TransportError {
    /// [`TransportError::Indeterminate`] because of this.
    pub fn indeterminate(cause: impl Into<Cause>) -> Self {
        Self::Indeterminate(cause.into())
    }

    /// [`TransportError::Unavailable`] because of this.
    pub fn unavailable(cause: impl Into<Cause>) -> Self {
        Self::Unavailable(cause.into())
    }

    /// [`TransportError::Denied`] because of this.
    pub fn denied(cause: impl Into<Cause>) -> Self {
        Self::Denied(cause.into())
    }

    /// [`TransportError::Unsupported`] because of this.
    pub fn unsupported(cause: impl Into<Cause>) -> Self {
        Self::Unsupported(cause.into())
    }

    /// [`TransportError::Corrupt`] because of this.
    pub fn corrupt(cause: impl Into<Cause>) -> Self {
        Self::Corrupt(cause.into())
    }

    /// Whether the same call may succeed later without anybody's doing anything.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Indeterminate(_) | Self::Unavailable(_))
    }

    fn cause(&self) -> &Cause {
        match self {
            Self::Indeterminate(cause)
            | Self::Unavailable(cause)
            | Self::Denied(cause)
            | Self::Unsupported(cause)
            | Self::Corrupt(cause) => cause,
        }
    }
}

impl fmt::Display for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self {
            Self::Indeterminate(_) => "it is not known whether the write was applied",
            Self::Unavailable(_) => "the engine cannot be reached",
            Self::Denied(_) => "the engine refuses this client",
            Self::Unsupported(_) => "the engine cannot do this",
            Self::Corrupt(_) => "the engine's answer makes no sense",
        };
        write!(f, "{what}: {}", self.cause())
    }
}

impl Error for TransportError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.cause().0)
    }
}

/// Why a [`TransportError`] happened: any error, or a sentence.
#[derive(Clone)]
pub struct Cause(Arc<dyn Error + Send + Sync>);

impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for Cause {
    fn from(error: E) -> Self {
        Self(error.into().into())
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

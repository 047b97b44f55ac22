//! The engine that the commands about locks talk to, and which exit status a failure of it has.

use crate::{CliError, exit};
#[cfg(unix)]
use lockword::cluster::Dir;
use lockword::cluster::{ConnectError, LockError, Transport, TransportError, connect};
use std::sync::Arc;
use std::time::Duration;
#[cfg(unix)]
use url::Url;

/// The variable that has the address of the engine where `--on` is not given.
const ADDRESS: &str = "LOCKWORD_ON";

/// An engine that is busy may take as long to respond. A shorter wait does not tell whether it can be reached.
const RESPONSE_TIME: Duration = Duration::from_secs(1);

/// A connection to an engine.
pub struct Engine {
    pub transport: Arc<dyn Transport>,
    /// The same, if it is a directory: it can tie a lock to processes.
    #[cfg(unix)]
    pub dir: Option<Arc<Dir>>,
}

impl Engine {
    /// Connects to the engine of `--on`, or of the variable.
    pub async fn connect(on: Option<&str>) -> Result<Engine, CliError> {
        let address = address(on)?;
        if address.starts_with("memory:") {
            let why = "memory: is within one process, so its locks keep nobody else out: \
                       use dir:/PATH for the processes of this machine";
            return Err(CliError::with(exit::USAGE, why));
        }
        #[cfg(unix)]
        if address.starts_with("dir:") {
            let url = Url::parse(&address)
                .map_err(|why| CliError::with(exit::USAGE, format!("the address: {why}")))?;
            let dir = Arc::new(Dir::connect(&url).await.map_err(|why| refused(&why))?);
            return Ok(Engine { transport: dir.clone(), dir: Some(dir) });
        }
        let transport = connect(&address).await.map_err(|why| refused(&why))?;
        Ok(Engine {
            transport,
            #[cfg(unix)]
            dir: None,
        })
    }
}

impl Engine {
    /// Whether it can tie a lock to processes.
    pub fn has_ties(&self) -> bool {
        #[cfg(unix)]
        return self.dir.is_some();
        #[cfg(not(unix))]
        false
    }
}

fn address(on: Option<&str>) -> Result<String, CliError> {
    let address = on.map(str::to_owned).or_else(|| std::env::var(ADDRESS).ok());
    address.filter(|address| !address.is_empty()).ok_or_else(|| {
        let why = "which engine? Give its address by --on or by LOCKWORD_ON: \
                   dir:/PATH needs no server";
        CliError::with(exit::USAGE, why)
    })
}

fn refused(error: &ConnectError) -> CliError {
    let code = match error {
        ConnectError::Address { .. }
        | ConnectError::Unencrypted { .. }
        | ConnectError::UnknownScheme { .. }
        | ConnectError::MissingFeature { .. } => exit::USAGE,
        ConnectError::Denied { .. } | ConnectError::Untrusted { .. } => exit::DENIED,
        _ => exit::UNREACHABLE,
    };
    CliError::with(code, error.to_string())
}

/// A failure of a request.
pub fn request_failed(error: &TransportError) -> CliError {
    CliError::with(code_of(error), error.to_string())
}

fn code_of(error: &TransportError) -> u8 {
    match error {
        TransportError::Denied(_) => exit::DENIED,
        _ => exit::UNREACHABLE,
    }
}

impl From<LockError> for CliError {
    fn from(error: LockError) -> CliError {
        let code = match &error {
            LockError::Key(_) => exit::USAGE,
            LockError::Busy { .. } | LockError::TimedOut { last: None, .. } => exit::BUSY,
            LockError::TimedOut { last: Some(source), after, .. } => match code_of(source) {
                exit::UNREACHABLE if *after < RESPONSE_TIME => exit::BUSY,
                code => code,
            },
            LockError::Transport { source, .. } => code_of(source),
            _ => exit::UNREACHABLE,
        };
        // The library's own text advises its callers.
        let line = match &error {
            LockError::Busy { at, holder: Some(holder) } => {
                format!("{} is held by {holder}", at.key)
            }
            LockError::Busy { at, holder: None } => format!("{} is taken or waited for", at.key),
            LockError::TimedOut { at, last: None, .. } => {
                format!("{} was not free in time", at.key)
            }
            other => other.to_string(),
        };
        CliError::with(code, line)
    }
}

//! The engine that the commands about locks talk to, and which exit status a failure of it has.

use crate::lock_args::EngineArgs;
#[cfg(unix)]
use crate::ties::Ties;
use crate::{CliError, exit};
use lockword::cluster::layers::{SealError, SealKeys, Sealed, is_sealed};
use lockword::cluster::{ConnectError, LockError, Transport, TransportError, connect};
use std::env;
use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;
#[cfg(unix)]
use url::Url;

/// The variable that has the address of the engine where `--on` is not given.
const ADDRESS: &str = "LOCKWORD_ON";

/// That has the file of keys where `--seal-key-file` is not given.
const SEAL_KEY_FILE: &str = "LOCKWORD_SEAL_KEY_FILE";

/// An engine that is busy may take as long to respond. A shorter wait does not tell whether it can be reached.
const RESPONSE_TIME: Duration = Duration::from_secs(1);

/// A look at the mark of sealed locks may take as long.
const LOOK_TIME: Duration = Duration::from_secs(10);

/// A connection to an engine.
pub struct Engine {
    pub transport: Arc<dyn Transport>,
    /// The same, if it is a directory: it can tie a lock to processes.
    #[cfg(unix)]
    pub dir: Option<Ties>,
}

impl Engine {
    /// Connects to the engine of `--on`, or of the variable, and seals if there is a file of keys.
    pub async fn connect(args: &EngineArgs) -> Result<Engine, CliError> {
        let address = address(args.on.as_deref())?;
        let keys = seal_keys(args.seal_key_file.clone())?;
        if address.starts_with("memory:") {
            let why = "memory: is within one process, so its locks keep nobody else out: \
                       use dir:/PATH for the processes of this machine";
            return Err(CliError::with(exit::USAGE, why));
        }
        #[cfg(unix)]
        if address.starts_with("dir:") {
            let url = Url::parse(&address)
                .map_err(|why| CliError::with(exit::USAGE, format!("the address: {why}")))?;
            let ties = Ties::connect(&url, keys.clone()).await.map_err(|why| refused(&why))?;
            let transport = sealed(ties.transport(), keys).await?;
            return Ok(Engine { transport, dir: Some(ties) });
        }
        let transport = connect(&address).await.map_err(|why| refused(&why))?;
        Ok(Engine {
            transport: sealed(transport, keys).await?,
            #[cfg(unix)]
            dir: None,
        })
    }
}

/// Seals if there are keys. Without them it refuses an engine that others use with keys: a lock that they hold would
/// be free, under another name.
async fn sealed(
    transport: Arc<dyn Transport>,
    keys: Option<SealKeys>,
) -> Result<Arc<dyn Transport>, CliError> {
    if let Some(keys) = keys {
        return Ok(Arc::new(Sealed::new(transport, keys)));
    }
    let Ok(looked) = timeout(LOOK_TIME, is_sealed(&transport)).await else {
        let why = format!("the engine has not responded for {LOOK_TIME:?}");
        return Err(CliError::with(exit::UNREACHABLE, why));
    };
    match looked {
        Ok(false) => Ok(transport),
        // Who may not look has rights on a prefix, which were not given for sealed locks.
        Err(TransportError::Denied(_)) => Ok(transport),
        Ok(true) => {
            let why = format!(
                "the locks of this engine are sealed: give the file of their keys by --seal-key-file or by \
                 {SEAL_KEY_FILE} (unsealed ones need another prefix, table, database or directory)"
            );
            Err(CliError::with(exit::USAGE, why))
        }
        Err(error) => Err(request_failed(&error)),
    }
}

/// The keys of the file, or of the file that the variable names.
pub fn seal_keys(file: Option<PathBuf>) -> Result<Option<SealKeys>, CliError> {
    let file = file.or_else(|| env::var_os(SEAL_KEY_FILE).map(PathBuf::from));
    let read =
        |file| SealKeys::read(file).map_err(|why| CliError::with(exit::USAGE, why.to_string()));
    if file.as_ref().is_some_and(|file| file.as_os_str().is_empty()) {
        // Not as if there were none: then the names would go out in the clear.
        let why =
            format!("{SEAL_KEY_FILE} is empty: give it the path of the file of keys, or unset it");
        return Err(CliError::with(exit::USAGE, why));
    }
    file.map(read).transpose()
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

/// The address of `--on`, or of the variable.
pub fn address(on: Option<&str>) -> Result<String, CliError> {
    let address = on.map(str::to_owned).or_else(|| env::var(ADDRESS).ok());
    address.filter(|address| !address.is_empty()).ok_or_else(|| {
        let why = "which engine? Give its address by --on or by LOCKWORD_ON: \
                   dir:/PATH needs no server";
        CliError::with(exit::USAGE, why)
    })
}

/// An address that is not valid, or an engine that cannot be used.
pub fn refused(error: &ConnectError) -> CliError {
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

/// Why the value of this one key is refused, if that is the error: others of the engine may be good.
pub fn unreadable(error: &LockError) -> Option<String> {
    match error {
        LockError::Unreadable { source, .. } => Some(source.to_string()),
        LockError::Transport { source, .. } => value_refused(source),
        _ => None,
    }
}

/// The same of a request.
pub fn value_refused(error: &TransportError) -> Option<String> {
    let seal = error.source().and_then(|cause| cause.downcast_ref::<SealError>());
    match (seal, error) {
        (Some(seal), _) => seal.stored().map(|_| seal.to_string()),
        (None, TransportError::Corrupt(why)) => Some(why.to_string()),
        _ => None,
    }
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

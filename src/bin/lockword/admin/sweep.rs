//! `lockword sweep`: what is of no use any more.

use super::at_desk;
use crate::engine::request_failed;
use crate::lock_args::SweepArgs;
use crate::output::{count, json_line, print};
use crate::run::once::{LastRun, is_record};
use crate::{CliError, ExitOutcome};
use lockword::cluster::{Exchange, TransportError};
use serde_json::json;

/// Marks records whose time is over as idle, so that the engine deletes them, and has a directory swept.
pub fn sweep(args: &SweepArgs) -> Result<ExitOutcome, CliError> {
    at_desk(&args.engine, async |desk| {
        let transport = &desk.engine.transport;
        let mut records = 0;
        for key in desk.keys(&args.prefix).await?.iter().filter(|key| is_record(key)) {
            let seen = transport.load(key).await.map_err(|error| request_failed(&error))?;
            let Some(seen) = seen else { continue };
            let Some(record) = LastRun::decode(&seen.value) else { continue };
            if record.is_swept() || !record.is_over() {
                continue;
            }
            match transport.compare_exchange(key, Some(seen.version), record.swept()).await {
                Ok(Exchange::Swapped(_)) => records += 1,
                // Somebody has started a command meanwhile; or the next sweep does it.
                Ok(Exchange::Mismatch(_)) | Err(TransportError::Indeterminate(_)) => {}
                Err(error) => return Err(request_failed(&error)),
            }
        }
        #[cfg(unix)]
        let registers = match &desk.engine.dir {
            Some(dir) if args.prefix.is_empty() => {
                dir.sweep().await.map_err(|error| request_failed(&error))?
            }
            _ => 0,
        };
        #[cfg(not(unix))]
        let registers = 0;
        if args.json {
            print(&json_line(&json!({"records": records, "registers": registers})))?;
        } else {
            let records = count(records, "record");
            print(&format!(
                "{records} handed to the engine, {} deleted\n",
                count(registers, "register")
            ))?;
        }
        Ok(ExitOutcome::Done)
    })
}

//! `lockword sweep`: what is of no use any more.

use super::status::is_tied;
use super::{Desk, at_desk};
use crate::engine::{request_failed, unreadable, value_refused};
use crate::lock_args::SweepArgs;
use crate::output::{count, json_line, print};
use crate::{CliError, ExitOutcome};
use lockword::cluster::periodic::StartRecord;
use lockword::cluster::{Exchange, Key, LockError, LockStatus, TransportError};
use serde_json::json;
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// How many locks are watched at a time.
const WATCHED: usize = 64;

/// Marks records whose time is over as idle, so that the engine deletes them, frees the locks of dead holders if
/// that is asked for, and has a directory swept.
pub fn sweep(args: &SweepArgs) -> Result<ExitOutcome, CliError> {
    at_desk(&args.engine, None, async |desk| {
        let transport = &desk.engine.transport;
        let mut records = 0;
        let keys = desk.keys(&args.prefix).await?;
        for key in keys.iter().filter(|key| StartRecord::is_key(key)) {
            let seen = match transport.load(key).await {
                // One that cannot be read is not ours to hand over.
                Err(error) if value_refused(&error).is_some() => continue,
                seen => seen.map_err(|error| request_failed(&error))?,
            };
            let Some(seen) = seen else { continue };
            let Some(record) = StartRecord::decode(&seen.value) else { continue };
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
        let freed = if args.dead { free_the_dead(desk, keys).await? } else { 0 };
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
            let swept = json!({"records": records, "freed": freed, "registers": registers});
            print(&json_line(&swept))?;
        } else {
            let records = count(records, "record");
            let freed = if args.dead {
                format!("{} of dead holders freed, ", count(freed, "lock"))
            } else {
                String::new()
            };
            print(&format!(
                "{records} handed to the engine, {freed}{} deleted\n",
                count(registers, "register")
            ))?;
        }
        Ok(ExitOutcome::Done)
    })
}

/// Takes the locks of dead holders and of dead waiters, as whoever wants them would, and releases them: then the
/// engine takes them for unused. Returns how many.
///
/// No clock of the engine says that a holder is dead, since it may step: it is watched.
async fn free_the_dead(desk: &Desk, keys: Vec<Key>) -> Result<usize, CliError> {
    let (turns, mut watched) = (Arc::new(Semaphore::new(WATCHED)), JoinSet::new());
    let (mut freed, mut failure) = (0, None);
    for key in keys.into_iter().filter(|key| !StartRecord::is_key(key)) {
        match desk.node.inspect(&key).await {
            Ok(state) if state.status == LockStatus::Free => continue,
            Ok(_) => {}
            // It is not ours.
            Err(error) if unreadable(&error).is_some() => continue,
            Err(error) => {
                failure = Some(error);
                continue;
            }
        }
        if is_tied(desk, &key).await? {
            continue;
        }
        let lock = desk.node.lock(key)?;
        let turns = turns.clone();
        watched.spawn(async move {
            let _turn = turns.acquire_owned().await;
            match lock.try_acquire_or_outlast().await {
                // Whatever comes of the release: this holder is alive, and its lease ends.
                Ok(guard) => Ok(usize::from(guard.release().await.is_ok())),
                // It lives, or somebody was first.
                Err(LockError::Busy { .. }) => Ok(0),
                Err(error) => Err(error),
            }
        });
    }
    // One that fails does not end the others, of which some may have a lock to release.
    while let Some(done) = watched.join_next().await {
        match done.expect("it does not panic") {
            Ok(number) => freed += number,
            Err(error) => failure = Some(error),
        }
    }
    match failure {
        Some(error) => Err(error.into()),
        None => Ok(freed),
    }
}

//! What a failover may lead to.

use super::address::{Replicas, Settings};
use super::failure::Failure;
use super::session::Session;

/// Whether there are replicas now, and whether they have what is acknowledged.
const SEEN: &str = "SELECT EXISTS (SELECT FROM pg_stat_replication), \
    current_setting('synchronous_standby_names') <> '' \
    AND current_setting('synchronous_commit') IN ('on', 'remote_apply')";

/// Whether a failover may lead to a replica that has not all that was acknowledged.
///
/// # Errors
///
/// [`Failure`] if that is not what the address says.
pub(super) async fn lag(session: &Session, settings: &Settings) -> Result<bool, Failure> {
    match settings.replicas {
        Some(Replicas::None) => return Ok(false),
        Some(Replicas::Async) => return Ok(true),
        Some(Replicas::Sync) | None => {}
    }
    let seen = session.yes(SEEN).await?;
    // What may not be seen is not promised.
    let (is_there, is_sync) = seen.map_or((true, false), |seen| (seen[0], seen[1]));
    if settings.replicas == Some(Replicas::Sync) && !is_sync {
        let why = "the address says replicas=sync, but synchronous_standby_names is empty, or \
                   synchronous_commit is not on or remote_apply";
        return Err(Failure::unsuitable(&settings.server, why));
    }
    Ok(is_there && !is_sync)
}

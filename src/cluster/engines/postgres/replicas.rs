//! What a failover may lead to.

use super::address::{Replicas, Settings};
use super::failure::Failure;
use super::session::Session;
use super::sql::SYNC;

/// Whether a failover may lead to a replica that has not all that was acknowledged.
///
/// # Errors
///
/// [`Failure`] if the server does not answer.
pub(super) async fn lag(session: &Session, settings: &Settings) -> Result<bool, Failure> {
    match settings.replicas {
        // `sync` is looked at by every new connection.
        Some(Replicas::None | Replicas::Sync) => return Ok(false),
        Some(Replicas::Async) => return Ok(true),
        None => {}
    }
    // Whether there are replicas now, and whether they have what is acknowledged.
    let seen = format!("SELECT EXISTS (SELECT FROM pg_stat_replication), {SYNC}");
    let seen = session.yes(&seen).await?;
    // What may not be seen is not promised.
    let (is_there, is_sync) = seen.map_or((true, false), |seen| (seen[0], seen[1]));
    Ok(is_there && !is_sync)
}

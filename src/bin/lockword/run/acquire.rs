//! Acquiring the lock, and in a directory also the tie to its processes.

use super::clock::Moment;
use crate::engine::{Engine, request_failed};
use crate::ties::Ties;
use crate::{CliError, exit, output};
use lockword::cluster::engines::dir::{Tie, TieStatus};
use lockword::cluster::{
    DistributedGuard, DistributedLock, FencingToken, Key, LockError, LockStatus, Node, NodeId,
};
use std::convert::Infallible;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How to wait for the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    Forever,
    Within(Duration),
    /// Not at all.
    No,
    /// Only to see whether the holder is dead.
    IfDead,
}

/// The lock, held.
pub struct Held {
    pub guard: DistributedGuard,
    /// When it was acquired, or a moment later.
    pub acquired: Moment,
    /// What ties it to the processes of the command.
    pub tie: Option<Tie>,
}

/// How often a tie is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Acquires the lock. It is valid when this returns.
pub async fn acquire(
    engine: &Engine,
    node: &Node,
    lock: &DistributedLock,
    wait: Wait,
) -> Result<Held, CliError> {
    let until = match wait {
        Wait::Within(time) => Instant::now().checked_add(time),
        _ => None,
    };
    let dir = engine.dir.as_ref();
    if let Some(dir) = dir {
        // Also for one that does not wait.
        break_if_dead(dir, node, lock.key()).await;
    }
    loop {
        let guard = tokio::select! {
            guard = acquire_lease(lock, wait, until) => guard?,
            never = break_dead_holders(dir, node, lock.key()) => match never {},
        };
        let acquired = Moment::now();
        let tie = match dir {
            None => None,
            Some(dir) => match tie(dir, node.id(), &guard, wait, until).await? {
                Some(tie) => Some(tie),
                // The lease was lost meanwhile.
                None => continue,
            },
        };
        // It is not if this process was stopped for long.
        if guard.is_valid() {
            return Ok(Held { guard, acquired, tie });
        }
        if let Some(tie) = tie {
            tie.release();
        }
    }
}

/// What keeps others out when nobody holds the lock.
pub fn still_tied(dir: &Ties, key: &Key) -> String {
    let mut line =
        format!("{key} has no holder, but a process that was started under it still runs");
    if let Ok(path) = dir.tie_path(key) {
        line += &format!(": `fuser -v {}` shows it", output::shell(&path.to_string_lossy()));
    }
    line
}

async fn acquire_lease(
    lock: &DistributedLock,
    wait: Wait,
    until: Option<Instant>,
) -> Result<DistributedGuard, LockError> {
    match wait {
        Wait::Forever => lock.acquire().await,
        Wait::Within(time) => {
            let left = until.map_or(time, |until| until.saturating_duration_since(Instant::now()));
            lock.acquire_timeout(left).await
        }
        Wait::No => lock.try_acquire().await,
        Wait::IfDead => lock.try_acquire_or_outlast().await,
    }
}

/// Ties the lock to this process, and waits until the processes of an earlier holder are dead. `None`:
/// the lease was lost.
async fn tie(
    dir: &Ties,
    node: NodeId,
    guard: &DistributedGuard,
    wait: Wait,
    until: Option<Instant>,
) -> Result<Option<Tie>, CliError> {
    loop {
        let tie = dir.try_tie(guard.key(), node, guard.token()).await;
        if let Some(tie) = tie.map_err(|error| request_failed(&error))? {
            return Ok(Some(tie));
        }
        if !guard.is_valid() {
            return Ok(None);
        }
        let is_over = until.is_some_and(|until| Instant::now() >= until);
        if is_over || matches!(wait, Wait::No | Wait::IfDead) {
            return Err(CliError::with(exit::BUSY, still_tied(dir, guard.key())));
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Breaks the lock when all processes of its holder have died, so that nobody has to wait for the end of the
/// lease. It never ends.
async fn break_dead_holders(dir: Option<&Ties>, node: &Node, key: &Key) -> Infallible {
    let Some(dir) = dir else { return std::future::pending().await };
    loop {
        break_if_dead(dir, node, key).await;
        sleep(LOOK_EVERY).await;
    }
}

/// Breaks the lock if all processes of its holder have died, which the engine in a directory knows. Returns
/// whether it did so.
///
/// The holder is the one whose node and token the tie has. One that has come after it is left alone.
async fn break_if_dead(dir: &Ties, node: &Node, key: &Key) -> bool {
    if let Ok(TieStatus::Ended { node: dead, token: of }) = dir.tied(key).await
        && let Some((holder, token)) = holder(node, key).await
        && holder == dead
        && token.is_none_or(|token| token == of)
    {
        // An error: it is tried again, and the lease has an end of its own.
        let broken = node.break_lock_of(key, dead, "its processes are dead").await;
        return matches!(broken, Ok(Some(_)));
    }
    false
}

/// The node that has the lock, and its token if that is known.
async fn holder(node: &Node, key: &Key) -> Option<(NodeId, Option<FencingToken>)> {
    match node.inspect(key).await.ok()?.status {
        LockStatus::Held { node, token, .. } => Some((node, token)),
        _ => None,
    }
}

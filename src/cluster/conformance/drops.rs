//! Futures and watches that are dropped: law 6.

use super::law::{Law, Violation};
use super::suite::{NO_WAKEUPS, Run};
use super::watches::{Manner, wakes};
use crate::cluster::{NodeId, Transport, Wake};
use futures_util::{FutureExt, StreamExt};
use std::pin::Pin;
use std::time::Duration;
use tokio::task::yield_now;
use tokio::time::{Instant, timeout};

/// A future is dropped after 0, 1, .. polls, up to so many.
const POLLS: usize = 12;

type Call<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// # Errors
///
/// The first violation.
pub(super) async fn check<T: Transport>(run: &mut Run<T>) -> Result<(), Violation> {
    drops(run).await.map_err(|broken| match broken.law {
        // All of this went well before anything was dropped.
        Law::Responses | Law::Linearizable | Law::Mismatch | Law::Watch => {
            let what = format!("after futures were dropped, {}", broken.what);
            Violation { law: Law::Dropping, what, ..broken }
        }
        _ => broken,
    })?;
    run.checked(Law::Dropping);
    if !run.has_wakeups() {
        run.not_checked(Law::Dropping, "watches that are dropped", NO_WAKEUPS);
    }
    Ok(())
}

async fn drops<T: Transport>(run: &mut Run<T>) -> Result<(), Violation> {
    let has_wakeups = run.has_wakeups();
    for _ in 0..run.rounds.div_ceil(4) {
        let (clients, history) = run.clients();
        let (victim, other) = (&clients[0], &clients[1]);
        let (key, second) = (run.key(), run.key());
        let began = Instant::now();
        let mut known = Some(victim.must_write(&key, Wake::Nobody, false).await?.version);
        // A load and a write took so long.
        let usual = began.elapsed();
        for turn in 0..2 * POLLS {
            for kind in 0..if has_wakeups { 3 } else { 2 } {
                let call: Call<'_> = match kind {
                    0 => Box::pin(victim.load(&key).map(drop)),
                    1 => {
                        let new = victim.new_write(Wake::Everybody, false);
                        Box::pin(victim.compare_exchange(&key, known, new).map(drop))
                    }
                    _ => Box::pin(async {
                        let node = NodeId::new(1);
                        if let Ok(Ok(mut watch)) = victim.watch(&key, node).await {
                            watch.next().await;
                        }
                    }),
                };
                // Half of them in the middle of things, as far as time tells.
                let after = (turn % 2 == 1).then(|| usual.mul_f64(run.dice.f64()));
                start(call, turn / 2, after).await;
                victim.must_load(&second).await?;
                known = Some(victim.must_write(&key, Wake::Everybody, false).await?.version);
                victim.must_write(&second, Wake::Nobody, true).await?;
                other.must_load(&key).await?;
            }
        }
        history.check()?;
        if has_wakeups {
            let node = NodeId::new(run.dice.u64(..));
            wakes(victim, other, &key, node, true, Manner::Before).await?;
        }
    }
    Ok(())
}

/// Polls `call` so often, or for so long, and drops it.
async fn start(mut call: Call<'_>, polls: usize, after: Option<Duration>) {
    if let Some(after) = after {
        let _ = timeout(after, call).await;
        return;
    }
    for _ in 0..polls {
        if call.as_mut().now_or_never().is_some() {
            return;
        }
        yield_now().await;
    }
}

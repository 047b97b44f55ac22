//! Writes whose answer is lost: law 3.

use super::history::Response;
use super::law::{Law, Violation};
use super::suite::{Doubting, Run};
use crate::cluster::{Transport, Wake};
use tokio::time::sleep;

/// How many keys a client writes once in one round.
const ONCE: usize = 4;
/// How many writes lose their answer in one round.
const WRITES: usize = 4;

/// Each key is written once, whatever comes of it, so that what arrives late is applied and seen.
async fn once<T: Transport>(run: &mut Run<T>) -> Result<(), Violation> {
    let (clients, history) = run.clients();
    let mut keys = vec![];
    for client in clients.iter().cycle().take(run.rounds * clients.len() * ONCE) {
        let key = run.key();
        let new = client.new_write(Wake::Nobody, false);
        let _ = client.compare_exchange(&key, None, new).await?;
        keys.push(key);
    }
    sleep(run.settling).await;
    for (key, client) in keys.iter().zip(clients.iter().cycle().skip(1)) {
        client.must_load(key).await?;
    }
    history.check()
}

/// # Errors
///
/// The first violation.
pub(super) async fn check<T: Transport>(
    run: &mut Run<T>,
    hook: Option<Doubting<T>>,
) -> Result<(), Violation> {
    once(run).await?;
    let what = "writes whose answer is lost";
    let Some(hook) = hook else {
        run.not_checked(Law::Indeterminate, what, "no hook `doubting`");
        return Ok(());
    };
    let mut indeterminate = 0;
    for round in 0..run.rounds {
        let (clients, history) = run.clients();
        let (victim, other) = (&clients[round % clients.len()], &clients[(round + 1) % 4]);
        let mut keys = vec![];
        for write in 0..WRITES {
            let key = run.key();
            let begin = match write % 2 {
                0 => None,
                _ => Some(other.must_write(&key, Wake::Nobody, false).await?.version),
            };
            hook(victim.transport.clone(), key.clone()).await;
            let new = victim.new_write(Wake::Everybody, false);
            let _ = victim.compare_exchange(&key, begin, new).await?;
            other.must_load(&key).await?;
            keys.push(key);
        }
        history.check()?;
        // What arrives now arrives late.
        sleep(run.settling).await;
        for key in &keys {
            other.must_load(key).await?;
            other.must_write(key, Wake::Nobody, false).await?;
        }
        // The victim is as good as before, and no write happens a second time.
        sleep(run.settling).await;
        for key in &keys {
            victim.must_write(key, Wake::Nobody, false).await?;
            other.must_load(key).await?;
        }
        history.check()?;
        let operations = history.operations();
        let indeterminates = operations.iter().filter_map(|operation| operation.response.as_ref());
        indeterminate +=
            indeterminates.filter(|(_, response)| *response == Response::Indeterminate).count();
    }
    if indeterminate == 0 {
        run.not_checked(
            Law::Indeterminate,
            what,
            "the hook `doubting` never led to a doubtful outcome",
        );
    } else {
        run.checked(Law::Indeterminate);
    }
    Ok(())
}

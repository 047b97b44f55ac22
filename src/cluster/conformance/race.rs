//! Clients that all want the same few keys: laws 1, 2 and 4.

use super::client::{Client, take_turns};
use super::law::{Law, Violation};
use super::suite::Run;
use crate::cluster::{Exchange, Key, Transport, Version, Wake};
use fastrand::Rng;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// How many operations a client does in a round.
const OPERATIONS: usize = 30;

/// # Errors
///
/// The first violation.
pub(super) async fn check<T: Transport>(run: &mut Run<T>) -> Result<(), Violation> {
    let mut rounds = vec![];
    for _ in 0..run.rounds {
        let keys = [run.key(), run.key()];
        let (clients, history) = run.clients();
        let mut racing = JoinSet::new();
        for client in clients {
            racing.spawn(race(client, keys.clone(), run.dice.fork()));
        }
        while let Some(ended) = racing.join_next().await {
            match ended {
                Ok(ended) => ended?,
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                // The runtime is shutting down.
                Err(_) => return Err(Violation::new(Law::Answers, "a task was cancelled")),
            }
        }
        history.check()?;
        rounds.push((keys, history));
    }
    // What arrives now arrives late.
    sleep(run.settling).await;
    for (keys, history) in rounds {
        let (clients, _) = run.clients();
        for key in &keys {
            clients[0].recording_in(&history).must_load(key).await?;
        }
        history.check()?;
    }
    for law in [Law::Linearizable, Law::Versions, Law::Mismatch] {
        run.checked(law);
    }
    Ok(())
}

/// One client's part: loads, writes upon what it knows, and some upon what it knows to be old.
async fn race<T: Transport>(
    client: Client<T>,
    keys: [Key; 2],
    mut dice: Rng,
) -> Result<(), Violation> {
    let mut known: [Option<Version>; 2] = [None; 2];
    let mut old: [Option<Version>; 2] = [None; 2];
    for _ in 0..OPERATIONS {
        let which = dice.usize(..keys.len());
        let (key, known, old) = (&keys[which], &mut known[which], &mut old[which]);
        let now = if dice.f32() < 0.3 {
            match client.load(key).await? {
                Ok(found) => found.map(|found| found.version),
                Err(_) => *known,
            }
        } else {
            let expected = if dice.f32() < 0.1 { *old } else { *known };
            let new = client.new_write(Wake::Everybody, dice.f32() < 0.1);
            match client.compare_exchange(key, expected, new).await? {
                Ok(Exchange::Swapped(version)) => Some(version),
                Ok(Exchange::Mismatch(found)) => found.map(|found| found.version),
                Err(_) => *known,
            }
        };
        if now != *known {
            *old = std::mem::replace(known, now);
        }
        take_turns(&mut dice).await;
    }
    Ok(())
}

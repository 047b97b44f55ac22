//! Clients that all want the same few keys: laws 1, 2 and 4.

use super::client::{Client, take_turns};
use super::law::{Law, Violation};
use super::suite::Run;
use crate::cluster::{Exchange, Key, Transport, Version, Wake};
use fastrand::Rng;
use std::sync::Arc;
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// How often in a round all clients meet, to write the same key at the same time.
const BOUTS: usize = 5;
/// How many operations a client does after each.
const OPERATIONS: usize = 5;

/// # Errors
///
/// The first violation.
pub(super) async fn check<T: Transport>(run: &mut Run<T>) -> Result<(), Violation> {
    let mut rounds = vec![];
    for _ in 0..run.rounds {
        let keys = [run.key(), run.key()];
        let (clients, history) = run.clients();
        let start = Arc::new(Barrier::new(clients.len()));
        // A client that fails ends the others, too: they would wait for it.
        let mut racing = JoinSet::new();
        for client in clients {
            let racer = Racer { client, keys: keys.clone(), known: [None; 2], old: [None; 2] };
            racing.spawn(race(racer, Arc::clone(&start), run.dice.fork()));
        }
        while let Some(ended) = racing.join_next().await {
            match ended {
                Ok(ended) => ended?,
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                // The runtime is shutting down.
                Err(_) => return Err(Violation::new(Law::Responses, "a task was cancelled")),
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

/// One client, and what it knows.
struct Racer<T> {
    client: Client<T>,
    keys: [Key; 2],
    known: [Option<Version>; 2],
    /// What it knew before.
    old: [Option<Version>; 2],
}

/// One client's part.
async fn race<T: Transport>(
    mut racer: Racer<T>,
    start: Arc<Barrier>,
    mut dice: Rng,
) -> Result<(), Violation> {
    for bout in 0..BOUTS {
        let which = bout % 2;
        start.wait().await;
        racer.load(which).await?;
        start.wait().await;
        racer.write(which, false, false).await?;
        for _ in 0..OPERATIONS {
            let which = dice.usize(..2);
            if dice.f32() < 0.3 {
                racer.load(which).await?;
            } else {
                racer.write(which, dice.f32() < 0.1, dice.f32() < 0.1).await?;
            }
            take_turns(&mut dice).await;
        }
    }
    Ok(())
}

impl<T: Transport> Racer<T> {
    async fn load(&mut self, which: usize) -> Result<(), Violation> {
        if let Ok(found) = self.client.load(&self.keys[which]).await? {
            self.learn(which, found.map(|found| found.version));
        }
        Ok(())
    }

    /// Writes upon what it knows, or upon what it knows to be old.
    async fn write(&mut self, which: usize, upon_old: bool, idle: bool) -> Result<(), Violation> {
        let expected = if upon_old { self.old[which] } else { self.known[which] };
        let new = self.client.new_write(Wake::Everybody, idle);
        match self.client.compare_exchange(&self.keys[which], expected, new).await? {
            Ok(Exchange::Swapped(version)) => self.learn(which, Some(version)),
            Ok(Exchange::Mismatch(found)) => self.learn(which, found.map(|found| found.version)),
            Err(_) => {}
        }
        Ok(())
    }

    fn learn(&mut self, which: usize, now: Option<Version>) {
        if now != self.known[which] {
            self.old[which] = std::mem::replace(&mut self.known[which], now);
        }
    }
}

//! Versions across deletion and across a clock that steps back: law 2.

use super::client::Client;
use super::history::{Call, History, Response};
use super::law::{Law, Violation};
use super::suite::{Deleting, Run, SteppingBack};
use crate::cluster::{Key, Transport, Wake};

/// # Errors
///
/// The first violation.
pub(super) async fn check<T: Transport>(
    run: &mut Run<T>,
    deleting: Option<Deleting>,
    stepping_back: Option<SteppingBack>,
) -> Result<(), Violation> {
    for (missing, what, why) in [
        (deleting.is_none(), "versions after deletion", "no hook `deleting`"),
        (stepping_back.is_none(), "versions after a step of the clock", "no hook `stepping_back`"),
    ] {
        if missing {
            run.not_checked(Law::Versions, what, why);
        }
    }
    let mut any_deleted = deleting.is_none();
    for _ in 0..run.rounds.min(8) {
        let (clients, history) = run.clients();
        if let Some(hook) = &stepping_back {
            let key = run.key();
            for client in &clients {
                client.must_write(&key, Wake::Nobody, false).await?;
                hook().await;
            }
            clients[0].must_write(&key, Wake::Nobody, true).await?;
        }
        if let Some(hook) = &deleting {
            let key = run.key();
            for (turn, client) in clients.iter().enumerate() {
                let written = client.must_write(&key, Wake::Nobody, turn % 2 == 1).await?;
                any_deleted |= delete(client, &key, hook, &history).await?;
                if let Some(step) = stepping_back.as_ref().filter(|_| turn > 1) {
                    step().await;
                }
                // The old version is not there any more.
                let new = clients[0].new_write(Wake::Nobody, false);
                let _ = clients[0].compare_exchange(&key, Some(written.version), new).await?;
            }
            clients[0].must_write(&key, Wake::Nobody, false).await?;
        }
        history.check()?;
    }
    if !any_deleted {
        let why = "the register was still there after the hook `deleting`";
        run.not_checked(Law::Versions, "versions after deletion", why);
    }
    Ok(())
}

/// Deletes the register, and tells whether it is gone.
async fn delete<T: Transport>(
    client: &Client<T>,
    key: &Key,
    hook: &Deleting,
    history: &History,
) -> Result<bool, Violation> {
    let begun = history.begin(client.number, key, Call::Delete);
    hook(key.clone()).await;
    // A register that is still there was not deleted: such a call need not have happened.
    let gone = client.must_load(key).await?.is_none();
    if gone {
        history.end(begun, Response::Deleted);
    }
    Ok(gone)
}

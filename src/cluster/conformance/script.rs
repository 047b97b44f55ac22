//! One step after the other: what a register must do when nobody is in the way.

use super::law::{Law, Violation};
use super::suite::Run;
use crate::cluster::{Key, Transport, Wake, Write};

/// The largest value that is tried, in bytes.
const LARGEST: usize = 1 << 20;

/// # Errors
///
/// The first violation.
pub(super) async fn check<T: Transport>(run: &mut Run<T>) -> Result<(), Violation> {
    for _ in 0..run.rounds {
        one_register(run).await?;
        names(run).await?;
    }
    values(run).await?;
    run.checked(Law::Responses);
    Ok(())
}

/// Writes in turns, stale and wrong expectations in between, each seen by all clients.
async fn one_register<T: Transport>(run: &mut Run<T>) -> Result<(), Violation> {
    let key = run.key();
    let (clients, history) = run.clients();
    let mut versions = vec![];
    clients[1].must_load(&key).await?;
    for (turn, client) in clients.iter().cycle().take(2 * clients.len()).enumerate() {
        // After an idle write, too, the register is there.
        let written = client.must_write(&key, Wake::Nobody, turn % 3 == 1).await?;
        versions.push(written.version);
        for other in &clients {
            let oldest = versions.first().filter(|oldest| **oldest != written.version);
            let before = versions.iter().nth_back(1);
            for wrong in [None, oldest.copied(), before.copied()] {
                let new = other.new_write(Wake::Everybody, false);
                let _ = other.compare_exchange(&key, wrong, new).await?;
            }
            other.must_load(&key).await?;
        }
    }
    // A version that is not there, where there is nothing.
    let (other, wrong) = (run.key(), versions.first().copied());
    let new = clients[0].new_write(Wake::Nobody, false);
    let _ = clients[0].compare_exchange(&other, wrong, new).await?;
    clients[1].must_load(&other).await?;
    history.check()
}

/// Names that look alike are keys of their own.
async fn names<T: Transport>(run: &mut Run<T>) -> Result<(), Violation> {
    let base = run.key();
    let (clients, history) = run.clients();
    let alike = ["", "a", "A", "/a", "/a/", "/a/b", ":a", "-a", "_a", ".a", "@a"];
    let mut keys = vec![];
    for suffix in alike {
        let name = format!("{base}{suffix}");
        keys.push(Key::new(&name).expect("short, and of the alphabet"));
    }
    let longest = format!("{base}/{}", "x".repeat(Key::MAX_LEN - base.as_str().len() - 1));
    keys.push(Key::new(&longest).expect("as long as a key may be"));
    for _ in 0..2 {
        for (key, client) in keys.iter().zip(clients.iter().cycle()) {
            client.must_write(key, Wake::Nobody, false).await?;
        }
        for (key, client) in keys.iter().rev().zip(clients.iter().cycle()) {
            client.must_load(key).await?;
        }
    }
    history.check()
}

/// Any bytes come back as they are.
async fn values<T: Transport>(run: &mut Run<T>) -> Result<(), Violation> {
    let largest = run.engines[0].capabilities().largest_value.min(LARGEST);
    let bytes: Vec<u8> = (0..=255).cycle().take(1024).collect();
    let (clients, history) = run.clients();
    for value in [vec![], vec![0], bytes, b"{\"a\": 1}\r\n".to_vec(), vec![b'x'; largest]] {
        // The only write of this key: a doubtful one is not repeated.
        let key = run.key();
        let new = Write { value: value.into(), wake: Wake::Nobody, idle: false };
        let _ = clients[0].compare_exchange(&key, None, new).await?;
        clients[1].must_load(&key).await?;
    }
    history.check()
}

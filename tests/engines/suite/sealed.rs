//! `layers::Sealed` over real engines.

use super::fixture::{SEALED, client, granted, release, soon, wait};
use crate::support::engine::{Engine, Server, Usage};
use crate::support::process::ServerProcess;
use lockword::cluster::Node;
use lockword::cluster::conformance::Suite;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// An engine whose clients seal.
pub struct Through<E>(E);

impl<E: Engine> Engine for Through<E> {
    const CONNECTIONS: usize = E::CONNECTIONS;

    async fn start() -> Option<Self> {
        Some(Self(E::start().await?))
    }

    fn address(&self) -> String {
        format!("{SEALED}{}", self.0.address())
    }

    fn data(&self) -> PathBuf {
        self.0.data()
    }

    async fn usage(&self) -> Usage {
        self.0.usage().await
    }
}

impl<E: Server> Server for Through<E> {
    fn process(&self) -> &ServerProcess {
        self.0.process()
    }

    fn port(&self) -> u16 {
        self.0.port()
    }

    fn address_at(&self, port: u16) -> String {
        format!("{SEALED}{}", self.0.address_at(port))
    }
}

/// The suite of the laws, through the layer.
pub async fn laws_are_kept<E: Engine>() {
    let Some(server) = E::start().await else { return };
    let address = server.address();
    let make = move || {
        let address = address.clone();
        async move { client(&address).await }
    };
    let report = Suite::new(make).rounds(2).run().await;
    println!("{}", report.unwrap_or_else(|broken| panic!("{broken}")));
}

/// Words that a reader of the data must not find: of the name, of the label, of the register.
const WORDS: [&str; 4] = ["giveaway", "the-very-host", "lease_ms", "heartbeat"];

const LABEL: &str = "giveaway@the-very-host/giveaway[1]";

/// Neither names of files nor their bytes have a word of what is locked, and by whom.
pub async fn nothing_is_told<E: Engine>() {
    let Some(server) = E::start().await else { return };
    let address = server.address();
    used(&address).await;
    assert_eq!(found(&server.data()), [""; 0]);
    // They would have been found.
    used(address.strip_prefix(SEALED).expect("it is sealed")).await;
    assert_eq!(found(&server.data()), WORDS);
}

/// A lock is held and waited for, handed over, broken, and released.
async fn used(address: &str) {
    let mut nodes = vec![];
    for _ in 0..2 {
        let builder = Node::builder(client(address).await).lease(Duration::from_secs(30));
        nodes.push(builder.label(LABEL).build().expect("it is fine"));
    }
    let [one, two] = &nodes[..] else { unreachable!() };
    let held = soon("it is free", one.lock("giveaway/k").unwrap().acquire()).await.unwrap();
    release(held).await;
    let held = soon("it is free", super::fixture::lock(one).acquire()).await.unwrap();
    let waiting = wait(two, one).await;
    release(held).await;
    let next = granted(waiting).await;
    let broken = one.break_lock_of("suite/k", two.id(), "giveaway").await;
    assert!(broken.expect("it is there").is_some());
    drop(next);
    let held = soon("it is free", two.lock("giveaway/held").unwrap().acquire()).await.unwrap();
    one.shutdown().await;
    drop(held);
    two.shutdown().await;
}

/// Those of the words that are in the names or the bytes of the files in this folder.
fn found(folder: &Path) -> Vec<&'static str> {
    let mut bytes = vec![];
    collect(folder, &mut bytes);
    let has = |word: &&str| bytes.windows(word.len()).any(|part| part == word.as_bytes());
    WORDS.into_iter().filter(has).collect()
}

fn collect(folder: &Path, bytes: &mut Vec<u8>) {
    // A file may go meanwhile.
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        bytes.extend(entry.file_name().as_encoded_bytes());
        bytes.push(b'\n');
        if path.is_dir() {
            collect(&path, bytes);
        } else if entry.file_type().is_ok_and(|kind| kind.is_file())
            && let Ok(content) = fs::read(&path)
        {
            // What was allocated and not written yet.
            bytes.extend(content.into_iter().filter(|byte| *byte != 0));
        }
    }
}

//! The engine in a directory.

mod laws;

use crate::support::process::Folder;
use lockword::cluster::{Dir, Exchange, Key, Transport, Version, Wake, Write};

/// An engine in this directory.
async fn open(path: &str) -> Dir {
    Dir::builder(path).connect().await.unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A directory that is not there yet, in a folder that is removed in the end.
fn place() -> (Folder, String) {
    let folder = Folder::new("dir");
    let path = folder.file("locks");
    (folder, path)
}

fn key(name: &str) -> Key {
    Key::new(name).expect("a good name")
}

fn write(value: &str) -> Write {
    Write { value: value.as_bytes().into(), wake: Wake::Everybody, idle: false }
}

/// A write that has to succeed.
async fn put(dir: &Dir, key: &Key, expected: Option<Version>, new: Write) -> Version {
    match dir.compare_exchange(key, expected, new).await {
        Ok(Exchange::Swapped(version)) => version,
        other => panic!("{key}: {other:?}"),
    }
}

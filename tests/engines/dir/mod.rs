//! The engine in a directory.

mod crashes;
mod fork;
mod full_disk;
mod laws;
mod rights;
mod ties;
mod vanishing;

use crate::suite::processes::ChildProcess;
use crate::support::process::Folder;
use lockword::cluster::{Dir, Exchange, Key, Transport, TransportError, Version, Wake, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// Longer than anything here may take.
const LIMIT: Duration = Duration::from_secs(60);

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

/// The names of the files in a directory, in order.
fn files(path: &str) -> Vec<String> {
    let files = std::fs::read_dir(path).expect("it is there").flatten();
    let mut names: Vec<String> =
        files.map(|file| file.file_name().into_string().expect("text")).collect();
    names.sort();
    names
}

/// Waits until it is so.
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !is_so() {
        assert!(Instant::now() < end, "in vain: {what}");
        std::thread::yield_now();
    }
}

/// A child in this role, whose name begins with `dir-`. `address` is what its role takes it for.
fn start(role: &str, address: &str, file: &str) -> ChildProcess {
    ChildProcess::start(role, address, file)
}

/// What a child does.
pub async fn child(role: &str, address: &str) {
    match role {
        "dir-serve" => crashes::serve(address).await,
        "dir-die" => crashes::die(address).await,
        "dir-churn" => crashes::churn(address).await,
        "dir-fill" => full_disk::fill(address).await,
        "dir-stranger" => rights::stranger(address).await,
        "dir-tie" => ties::tie(address).await,
        other => panic!("{other}?"),
    }
}

/// The kind of an error, and its text.
fn kind(error: &TransportError) -> &'static str {
    match error {
        TransportError::Indeterminate(_) => "indeterminate",
        TransportError::Unavailable(_) => "unavailable",
        TransportError::Denied(_) => "denied",
        TransportError::Unsupported(_) => "unsupported",
        _ => "corrupt",
    }
}

fn exists(path: &str) -> bool {
    Path::new(path).exists()
}

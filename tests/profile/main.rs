//! The contention profile: each kind of lock is counted at the place that acquires it, as often and for as long as it is.
#![cfg(all(not(lockword_loom), target_os = "linux"))]

mod locks;
mod processes;
#[path = "../examples/profile.rs"]
mod program;
mod ranks;
#[path = "../support"]
mod support {
    pub mod asleep;
    pub mod forked;
}

use lockword::profile::{self, Kind, PlaceReport};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A thread that is lost hangs the test; a slow machine needs a fraction of this.
const LIMIT: Duration = Duration::from_secs(60);

/// Starts the profile. There is one, so the tests take turns.
fn started() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    profile::start();
    turn
}

/// What the profile has of a line of a file in this folder.
fn found(file: &str, line: u32) -> Option<PlaceReport> {
    let places = profile::report().places;
    let is_it = |it: &PlaceReport| it.place.line == line && it.place.file.ends_with(file);
    places.into_iter().find(is_it)
}

/// The same, of that kind.
#[track_caller]
fn at(file: &str, line: u32, kind: Kind) -> PlaceReport {
    let found = found(file, line).unwrap_or_else(|| panic!("line {line} is not in the profile"));
    assert_eq!(found.kind, kind, "line {line}");
    found
}

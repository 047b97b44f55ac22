//! The locks that can be measured.

use lockword::contention::peers::{ParkingLot, ParkingLotFair, Spin, Usync};
use lockword::contention::{Comparison, Lockword, Std, Twin};

/// A lock: its name, a line about it, and how it enters a comparison.
pub struct Choice {
    /// As the user names it, and the report.
    pub name: &'static str,
    /// For the help.
    pub about: &'static str,
    /// Adds it.
    pub add: fn(Comparison, &str) -> Comparison,
}

/// All of them, in the order in which they are measured and shown.
pub const ALL: [Choice; 7] = [
    Choice {
        name: "lockword",
        about: "This crate's lock: waiters spin, then sleep; none starves",
        add: |comparison, name| comparison.lock::<Lockword>(name),
    },
    Choice {
        name: "lockword_sync",
        about: "lockword::sync::Mutex: the same, with std's methods and poisoning",
        add: |comparison, name| comparison.lock::<Twin>(name),
    },
    Choice {
        name: "std",
        about: "std::sync::Mutex",
        add: |comparison, name| comparison.lock::<Std>(name),
    },
    Choice {
        name: "parking_lot",
        about: "parking_lot::Mutex: hands the lock over every half millisecond or so",
        add: |comparison, name| comparison.lock::<ParkingLot>(name),
    },
    Choice {
        name: "parking_lot_fair",
        about: "parking_lot::FairMutex: hands the lock over at every unlock",
        add: |comparison, name| comparison.lock::<ParkingLotFair>(name),
    },
    Choice {
        name: "usync",
        about: "usync::Mutex: a word-sized queue lock",
        add: |comparison, name| comparison.lock::<Usync>(name),
    },
    Choice {
        name: "spin",
        about: "spin::Mutex: waiters never sleep",
        add: |comparison, name| comparison.lock::<Spin>(name),
    },
];

/// Adds the locks of these names, in the order of [`ALL`].
pub fn add(mut comparison: Comparison, names: &[String]) -> Comparison {
    for choice in ALL.iter().filter(|choice| names.iter().any(|name| name == choice.name)) {
        comparison = (choice.add)(comparison, choice.name);
    }
    comparison
}

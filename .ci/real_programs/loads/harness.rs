//! What the loads have in common: a load performs a number of operations over one crate, and this
//! measures how many it performs in a second.
//!
//! ```text
//! load                  # prints the names of its cells, a line each
//! load CELL MILLISECONDS
//! ```
//!
//! The second form performs a batch that is not measured, then batches until that time has passed.
//! It prints the measured operations, the nanoseconds that they took, and all operations.

// No load uses all of this.
#![allow(dead_code)]

use std::hint::black_box;
use std::thread;
use std::time::{Duration, Instant};

/// A load of one kind.
pub struct Cell {
    /// What the command line calls it.
    pub name: &'static str,
    /// The operations of a batch: some 50 milliseconds of work, so that the start of the threads
    /// counts little.
    pub batch: u64,
    /// Performs that many operations, and returns when all of them are done.
    pub run: fn(u64),
}

/// The `main` of a load.
pub fn main(cells: &[Cell]) {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (name, milliseconds) = match &arguments[..] {
        [] => return cells.iter().for_each(|cell| println!("{}", cell.name)),
        [name, milliseconds] => (name, milliseconds.parse().expect("a number of milliseconds")),
        _ => panic!("usage: CELL MILLISECONDS"),
    };
    let cell = cells.iter().find(|cell| cell.name == name).expect("the name of a cell");
    (cell.run)(cell.batch);
    let (limit, started) = (Duration::from_millis(milliseconds), Instant::now());
    let mut operations = 0;
    while operations == 0 || started.elapsed() < limit {
        (cell.run)(cell.batch);
        operations += cell.batch;
    }
    println!("{operations} {} {}", started.elapsed().as_nanos(), operations + cell.batch);
}

/// Computes for about a nanosecond a unit.
pub fn work(units: u64) {
    let mut value = units | 1;
    for _ in 0..units {
        value = black_box(value ^ (value << 7));
    }
}

/// Runs `run(number, share)` on that many threads, until all have returned. The shares add up to
/// `operations`.
pub fn threads(count: u64, operations: u64, run: impl Fn(u64, u64) + Sync) {
    thread::scope(|scope| {
        let run = &run;
        for number in 0..count {
            scope.spawn(move || run(number, share(number, count, operations)));
        }
    });
}

/// The share of one of `count` threads in the operations.
pub fn share(number: u64, count: u64, operations: u64) -> u64 {
    operations / count + u64::from(number < operations % count)
}

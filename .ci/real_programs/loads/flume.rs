//! Channels of flume: a queue under a `Mutex`. Threads that wait are parked by `thread::park`.

mod harness;

use harness::{Cell, threads, work};

/// Each of the senders and receivers handles its share of the messages, an operation each.
fn pass(channel: (flume::Sender<u64>, flume::Receiver<u64>), pairs: u64, operations: u64) {
    let (sender, receiver) = channel;
    threads(2 * pairs, 2 * operations, |number, share| {
        for message in 0..share {
            if number % 2 == 0 {
                sender.send(message).unwrap();
            } else {
                receiver.recv().unwrap();
            }
            work(50);
        }
    });
}

fn main() {
    harness::main(&[
        Cell { name: "bounded-1x1", batch: 100_000, run: |n| pass(flume::bounded(16), 1, n) },
        Cell { name: "bounded-4x4", batch: 100_000, run: |n| pass(flume::bounded(16), 4, n) },
        Cell { name: "unbounded-4x4", batch: 200_000, run: |n| pass(flume::unbounded(), 4, n) },
    ]);
}

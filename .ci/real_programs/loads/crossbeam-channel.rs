//! Channels of crossbeam: lists of waiting threads under a `Mutex`, which a channel without
//! capacity locks for each message. Threads that wait are parked by `thread::park`.

mod harness;

use crossbeam_channel::{Receiver, Sender, bounded, select};
use harness::{Cell, threads, work};

/// Each of the senders and receivers handles its share of the messages, an operation each.
fn pass(channel: (Sender<u64>, Receiver<u64>), pairs: u64, operations: u64) {
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

/// The receivers wait for two channels at a time; two senders serve either.
fn select(operations: u64) {
    let (left, right) = (bounded(0), bounded(0));
    threads(4, 2 * operations, |number, share| {
        for message in 0..share {
            match number {
                0 => left.0.send(message).unwrap(),
                1 => right.0.send(message).unwrap(),
                _ => select! {
                    recv(left.1) -> message => assert!(message.is_ok()),
                    recv(right.1) -> message => assert!(message.is_ok()),
                },
            }
            work(50);
        }
    });
}

fn main() {
    harness::main(&[
        Cell { name: "rendezvous-2x2", batch: 30_000, run: |n| pass(bounded(0), 2, n) },
        Cell { name: "bounded-4x4", batch: 100_000, run: |n| pass(bounded(16), 4, n) },
        Cell { name: "select", batch: 20_000, run: select },
    ]);
}

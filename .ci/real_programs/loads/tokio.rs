//! The runtime tokio: a worker without a task sleeps on a `Condvar`, the pool for blocking calls is
//! a queue under a `Mutex` with a `Condvar`, and a semaphore has its waiters under a `Mutex`.

mod harness;

use harness::{Cell, share, work};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).max_blocking_threads(4).build().unwrap()
}

/// Four tasks have something computed in the pool for blocking calls, and wait for it: an operation
/// each.
fn blocking(operations: u64) {
    runtime().block_on(async {
        let tasks = (0..4).map(|number| {
            tokio::spawn(async move {
                for _ in 0..share(number, 4, operations) {
                    spawn_blocking(|| work(500)).await.unwrap();
                }
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.unwrap();
        }
    });
}

/// Four tasks send through a bounded channel, whose room is a semaphore. An operation is a message.
fn bounded(operations: u64) {
    runtime().block_on(async {
        let (sender, mut receiver) = mpsc::channel(16);
        for number in 0..4 {
            let sender = sender.clone();
            tokio::spawn(async move {
                for message in 0..share(number, 4, operations) {
                    sender.send(message).await.unwrap();
                    work(50);
                }
            });
        }
        drop(sender);
        while receiver.recv().await.is_some() {
            work(50);
        }
    });
}

fn main() {
    harness::main(&[
        Cell { name: "blocking", batch: 10_000, run: blocking },
        Cell { name: "bounded", batch: 200_000, run: bounded },
    ]);
}

//! The connection pool r2d2: a `Mutex` around the idle connections, and a `Condvar` on which a
//! thread waits, with a timeout, where there is none.

mod harness;

use harness::{Cell, threads, work};
use r2d2::{ManageConnection, Pool};

/// Makes connections that are nothing.
struct Manager;

impl ManageConnection for Manager {
    type Connection = ();
    type Error = std::fmt::Error;

    fn connect(&self) -> Result<(), Self::Error> {
        Ok(())
    }

    fn is_valid(&self, (): &mut ()) -> Result<(), Self::Error> {
        Ok(())
    }

    fn has_broken(&self, (): &mut ()) -> bool {
        false
    }
}

/// Threads take a connection, use it for a time, and give it back: an operation.
fn check_out(count: u64, connections: u32, held: u64, operations: u64) {
    let pool = Pool::builder().max_size(connections).test_on_check_out(false).build(Manager);
    let pool = pool.unwrap();
    threads(count, operations, |_, share| {
        for _ in 0..share {
            let connection = pool.get().unwrap();
            work(held);
            drop(connection);
            work(500);
        }
    });
}

fn main() {
    harness::main(&[
        Cell { name: "8-of-2", batch: 30_000, run: |n| check_out(8, 2, 1_000, n) },
        Cell { name: "16-of-4", batch: 30_000, run: |n| check_out(16, 4, 1_000, n) },
        // A connection for each: the mutex alone.
        Cell { name: "4-of-4", batch: 100_000, run: |n| check_out(4, 4, 200, n) },
    ]);
}

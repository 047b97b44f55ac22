//! The suite over `std::sync`.

use std::sync;

#[path = "suite/condvar.rs"]
mod condvar;
#[path = "suite/mutex.rs"]
mod mutex;
#[path = "suite/poison.rs"]
mod poison;
#[path = "suite/programs.rs"]
mod programs;
#[path = "suite/types.rs"]
mod types;

//! lockword

#[cfg(doctest)]
mod compile_fail;
mod condvar;
mod mutex;
mod raw;

pub use condvar::{Condvar, RawCondvar, WaitTimeoutResult};
pub use mutex::*;
pub use raw::RawLock;

//! Ctrl-C: the first ends the measurement, the second ends the program.

use crate::failure::{Failure, INTERRUPTED as STATUS};
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From now on Ctrl-C sets the flag that is returned.
pub fn watch() -> Result<&'static AtomicBool, Failure> {
    ctrlc::set_handler(|| {
        if INTERRUPTED.swap(true, Ordering::Relaxed) {
            process::exit(STATUS.into());
        }
    })
    .map_err(|error| Failure::new(format!("cannot watch for Ctrl-C: {error}")))?;
    Ok(&INTERRUPTED)
}

//! Files that the user has named: passwords, certificates, keys.

use std::fs::{self, File};
use std::io;
use std::path::Path;

/// Opens a file for reading. `file` may be a link to it.
///
/// # Errors
///
/// Those of the system; and that it is no regular file. (To open a pipe would wait until somebody writes to it, and
/// what was read once is not there for the next login.)
pub(super) fn open_regular(file: &Path) -> io::Result<File> {
    if !fs::metadata(file)?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    File::open(file)
}

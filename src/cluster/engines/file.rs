//! Files that the user has named: passwords, certificates, keys.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

/// Opens a file for reading. `file` may be a link to it.
///
/// # Errors
///
/// Those of the system; and that it is no regular file. (What was read once from a pipe is not there for the next
/// login.)
pub(in crate::cluster) fn open_regular(file: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    // To open a pipe does not wait then until somebody writes to it. To a regular file it is all the same.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(
        &mut options,
        libc::O_NONBLOCK | libc::O_CLOEXEC | libc::O_NOCTTY,
    );
    let opened = options.open(file)?;
    // That which is open, whatever has the name meanwhile.
    if !opened.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    Ok(opened)
}

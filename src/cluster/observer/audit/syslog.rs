//! An audit trail to the system log.

use super::AuditSink;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

/// An audit trail to the system log of the machine, by the socket of syslog(3): each line is a message of facility
/// `authpriv` and severity `info`. The log may drop or cut messages; the numbers of the lines show that. A new process
/// begins a new chain.
#[derive(Debug)]
pub struct Syslog {
    path: PathBuf,
    socket: Option<UnixDatagram>,
    pid: u32,
}

/// `authpriv` (10) and `info` (6), as RFC 3164, 4.1.1 has it.
const PRIORITY: u32 = 10 * 8 + 6;

impl Syslog {
    /// At `/dev/log`, where the log of the system is.
    #[must_use]
    pub fn new() -> Self {
        Self::at("/dev/log")
    }

    /// At this socket. It is connected to at the first line, and again after an error.
    #[must_use]
    pub fn at(path: impl AsRef<Path>) -> Self {
        Self { path: path.as_ref().to_owned(), socket: None, pid: std::process::id() }
    }
}

impl Default for Syslog {
    fn default() -> Self {
        Self::new()
    }
}

impl AuditSink for Syslog {
    fn write(&mut self, line: &str) -> io::Result<()> {
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => {
                let socket = UnixDatagram::unbound()?;
                socket.connect(&self.path)?;
                socket
            }
        };
        socket.send(format!("<{PRIORITY}>lockword[{}]: {line}", self.pid).as_bytes())?;
        self.socket = Some(socket);
        Ok(())
    }
}

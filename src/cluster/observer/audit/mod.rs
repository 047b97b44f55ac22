//! An audit trail: who had which lock, when, how that ended, and who broke it (feature `audit`).
//!
//! An [`Audit`] is an [`Observer`]. It writes one line of JSON for each event:
//!
//! | Field | What |
//! |---|---|
//! | `seq` | the number of the line, from 1 on, without a gap; also across rotation and restarts |
//! | `prev` | SHA-256 of the line before, in hexadecimal digits, without its line end; 64 zeros in the first line |
//! | `at_ms` | the time, in milliseconds since 1970, by the clock of this machine |
//! | `who`, `host` | the label of this process, as in the registers, and its host |
//! | `event` | `opened`, `node`, `acquired`, `not_acquired`, `cancelled`, `lost`, `released`, `broke`, `went_back`, or `lines_lost` |
//! | `key`, `token` | the lock, and the fencing token |
//! | `waited_us`, `held_us` | the length of the wait, and of the hold, in microseconds |
//! | `via` | how it was acquired: `free`, `handoff`, `local_handoff`, or `takeover` ([`AcquiredVia`]) |
//! | `outcome` | of a release: `held` (it was held until then), `handed_off` (to another task of the node), `lost`, or `indeterminate` |
//! | `why` | the error of an acquisition, or the reason of a loss, as text |
//! | `broken_by`, `reason` | of a loss by an operator: who broke the lock, and why |
//! | `from`, `from_node`, `reason` | of a break by this process: the node that had the lock, and the reason |
//! | `node`, `label`, `engine` | of a node that was built: its number and label in the registers, and its engine |
//!
//! # What it proves
//!
//! A line that is changed, removed, or put in breaks the chain of hashes; [`verify`] and `lockword audit verify` find it.
//! There is no secret in the chain, so whoever may write the file can compute all of it anew from some line on, and can
//! cut its end. Neither is seen unless a later hash is kept elsewhere: read [`Audit::last`] from time to time, send it to
//! another machine, and give it to `verify`. Lines that go to another machine at once ([`AuditSink`], syslog) are
//! better still.
//!
//! The engine can keep that hash while the process lives: hold a lock for the trail, and
//! [publish](crate::cluster::DistributedGuard::publish) the mark with it, every minute, say. Another host checks the file by
//! `lockword audit verify FILE --contains "$(lockword status --json audit/web-3 | jq -r .holder.value)"`.
//! Whoever may write the engine's register can replace it, so this helps if those are not the same people; and it is gone
//! when the process ends, so let the other host read it now and then, and keep what it has read.
//!
//! ```
//! use lockword::cluster::audit::{Audit, AuditFile, AuditMark, verify_from};
//! use lockword::cluster::{LockStatus, Memory, Node};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = std::env::temp_dir().join(format!("lockword-audit-mark-{}", std::process::id()));
//! # std::fs::create_dir_all(&folder)?;
//! # let path = folder.join("locks.jsonl");
//! let audit = Audit::new(AuditFile::open(&path)?)?;
//! let node = Node::builder(Memory::new()).observer(audit.clone()).build()?.blocking();
//! assert!(audit.flush(std::time::Duration::from_secs(5)));
//! let keeper = node.lock("audit/web-3")?.acquire()?;
//! keeper.publish(&audit.last().to_string())?;
//!
//! // Elsewhere.
//! let LockStatus::Held { value: Some(value), .. } = node.inspect("audit/web-3")?.status else {
//!     panic!("no process keeps this trail");
//! };
//! let mark: AuditMark = value.parse()?;
//! let found = verify_from(std::io::BufReader::new(std::fs::File::open(&path)?), mark)?;
//! assert!(found.faults.is_empty() && found.contains);
//! # std::fs::remove_dir_all(&folder)?;
//! # Ok(())
//! # }
//! ```
//!
//! # It never blocks a lock
//!
//! Events go into a queue of [`QUEUE`] lines, and a thread of its own writes them. If the sink fails (a full disk), that
//! thread tries the same line again, and the queue fills; what does not fit is counted. As soon as the sink works, a line
//! `lines_lost` says how many are missing. [`Audit::status`] tells of it meanwhile. A process that is killed loses what
//! is in the queue: call [`Audit::flush`] before its end. [`Audit::close`] gives the file to the next that opens it.
//!
//! # Example
//!
//! ```
//! use lockword::cluster::audit::{Audit, AuditFile, verify};
//! use lockword::cluster::{Memory, Node};
//! use std::time::Duration;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = std::env::temp_dir().join(format!("lockword-audit-{}", std::process::id()));
//! # std::fs::create_dir_all(&folder)?;
//! let path = folder.join("locks.jsonl");
//! let audit = Audit::new(AuditFile::open(&path)?)?;
//! let node = Node::builder(Memory::new()).observer(audit.clone()).build()?.blocking();
//! node.lock("jobs/nightly")?.acquire()?.release()?;
//! assert!(audit.flush(Duration::from_secs(5)));
//!
//! let found = verify(std::io::BufReader::new(std::fs::File::open(&path)?))?;
//! assert!(found.faults.is_empty() && found.last == Some(audit.last()));
//! # std::fs::remove_dir_all(&folder)?;
//! # Ok(())
//! # }
//! ```

mod file;
#[cfg(unix)]
mod syslog;
mod verify;

pub use file::AuditFile;
#[cfg(unix)]
pub use syslog::Syslog;
pub use verify::{AuditFault, Verified, verify, verify_from};

use super::{Hold, Observer, ReleaseOutcome};
use crate::Mutex;
use crate::cluster::admin::ForcedRelease;
use crate::cluster::error::LockError;
use crate::cluster::fence::FencingToken;
use crate::cluster::guard::{AcquiredVia, LossReason};
use crate::cluster::key::Key;
use crate::cluster::label::Label;
use crate::cluster::transport::{NodeId, Version};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How many lines wait to be written.
pub const QUEUE: usize = 10_000;

/// The time between two attempts to write a line.
const RETRY: Duration = Duration::from_millis(200);

/// A line of a trail: its number, and its hash. Kept elsewhere, it proves that nothing before it has changed.
///
/// As text: the number, a colon, and the hash in hexadecimal digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct AuditMark {
    /// The number of the line. 0: there is none yet.
    pub sequence: u64,
    /// SHA-256 of the line, without its line end.
    pub hash: [u8; 32],
}

impl AuditMark {
    /// That of this line.
    pub(crate) fn of(sequence: u64, line: &[u8]) -> Self {
        Self { sequence, hash: Sha256::digest(line).into() }
    }

    fn hex(&self) -> String {
        use std::fmt::Write as _;
        self.hash.iter().fold(String::with_capacity(64), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        })
    }
}

impl fmt::Display for AuditMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.sequence, self.hex())
    }
}

impl FromStr for AuditMark {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no mark: a number, a colon, and 64 hexadecimal digits");
        let (sequence, hex) = text.split_once(':').ok_or_else(wrong)?;
        let sequence = sequence.parse().map_err(|_| wrong())?;
        Ok(Self { sequence, hash: hash_of(hex).ok_or_else(wrong)? })
    }
}

/// The hash that these 64 digits are.
fn hash_of(hex: &str) -> Option<[u8; 32]> {
    let mut hash = [0; 32];
    if hex.len() != 64 || !hex.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, at) in hash.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(&hex[at..at + 2], 16).ok()?;
    }
    Some(hash)
}

/// Where the lines of an audit trail go.
pub trait AuditSink: Send + 'static {
    /// The line that was written last, by an earlier process too: the next one continues from it. And how many bytes
    /// of a line after it were written when that process was killed. By default there is nothing.
    fn resume(&mut self) -> (AuditMark, usize) {
        (AuditMark::default(), 0)
    }

    /// Writes a line, which has no line end. The thread of the trail waits meanwhile, and nobody else.
    ///
    /// # Errors
    ///
    /// Any error of the system. Then the same line comes again, so nothing of it should be left.
    fn write(&mut self, line: &str) -> io::Result<()>;
}

/// How a trail fares.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct AuditStatus {
    /// Lines that are lost since the last one that was written.
    pub lost: u64,
    /// The error of the last attempt to write, if it has failed.
    pub error: Option<Arc<io::Error>>,
}

/// An audit trail. A clone is the same one.
#[derive(Clone, Debug)]
pub struct Audit(Arc<Trail>);

#[derive(Debug)]
struct Trail {
    queue: SyncSender<Message>,
    shared: Arc<Shared>,
}

/// What the callers and the thread share.
#[derive(Debug)]
struct Shared {
    state: Mutex<(AuditMark, AuditStatus)>,
    who: String,
    host: String,
}

enum Message {
    Line(Map<String, Value>),
    /// All before it is written.
    Flush(SyncSender<()>),
    /// All before it is written, and nobody has the sink any more.
    Close(SyncSender<()>),
}

impl Audit {
    /// A trail into this sink, which continues where the sink ends. A line `opened` is its first.
    ///
    /// # Errors
    ///
    /// If the thread that writes cannot be started.
    pub fn new(mut sink: impl AuditSink) -> io::Result<Self> {
        let user = ["USER", "LOGNAME"].into_iter().find_map(|name| std::env::var(name).ok());
        let program = std::env::current_exe().ok();
        let program = program.as_deref().and_then(|path| path.file_name());
        let program = program.map_or_else(|| "?".into(), |name| name.to_string_lossy());
        let label = Label::of_this_process(user.as_deref(), &program);
        let (host, who) = (label.host.clone().unwrap_or_default(), label.to_string());
        let (queue, messages) = sync_channel(QUEUE);
        let (mark, torn) = sink.resume();
        let state = Mutex::new((mark, AuditStatus::default()));
        let shared = Arc::new(Shared { state, who, host });
        let mut writer = Writer { sink: Box::new(sink), shared: shared.clone(), mark };
        let first = json!({"event": "opened", "torn": torn});
        thread::Builder::new().name("lockword-audit".to_owned()).spawn(move || {
            let first = writer.shared.stamp(&first);
            let closed = writer.run(first, &messages);
            drop((writer, messages));
            if let Some(closed) = closed {
                let _ = closed.try_send(());
            }
        })?;
        Ok(Self(Arc::new(Trail { queue, shared })))
    }

    /// The last line that was written.
    #[must_use]
    pub fn last(&self) -> AuditMark {
        self.0.shared.state.lock().0
    }

    /// Whether lines are lost, and why.
    #[must_use]
    pub fn status(&self) -> AuditStatus {
        self.0.shared.state.lock().1.clone()
    }

    /// Waits until everything up to now is written, for so long at most. Returns whether it is. This blocks the thread.
    pub fn flush(&self, limit: Duration) -> bool {
        self.ask(Message::Flush, limit)
    }

    /// Writes everything up to now and drops the sink, so that another process (or another [`AuditFile`]) can continue
    /// the trail. What is noted later is lost, and counted in [`AuditStatus::lost`].
    ///
    /// Waits for so long at most, and returns whether it is closed; if not, it is closed as soon as the lines are
    /// written. This blocks the thread. If all clones are dropped instead, the sink is dropped too, but some time later.
    pub fn close(&self, limit: Duration) -> bool {
        self.ask(Message::Close, limit)
    }

    /// Has the thread answer, when it has written what comes before the question.
    fn ask(&self, question: fn(SyncSender<()>) -> Message, limit: Duration) -> bool {
        let (answer, answered) = sync_channel(1);
        let began = std::time::Instant::now();
        let mut message = question(answer);
        loop {
            match self.0.queue.try_send(message) {
                Ok(()) => break,
                // The trail is closed: everything before that is written.
                Err(TrySendError::Disconnected(_)) => return true,
                Err(TrySendError::Full(_)) if began.elapsed() >= limit => return false,
                Err(TrySendError::Full(back)) => message = back,
            }
            thread::sleep(Duration::from_millis(1));
        }
        answered.recv_timeout(limit.saturating_sub(began.elapsed())).is_ok()
    }

    fn note(&self, event: Value) {
        let line = self.0.shared.stamp(&event);
        if self.0.queue.try_send(Message::Line(line)).is_err() {
            self.0.shared.state.lock().1.lost += 1;
        }
    }
}

impl Shared {
    /// The event with the time, and with who tells it.
    fn stamp(&self, event: &Value) -> Map<String, Value> {
        let mut line = event.as_object().cloned().unwrap_or_default();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        line.insert("at_ms".to_owned(), json!(u64::try_from(now.as_millis()).unwrap_or(u64::MAX)));
        line.insert("who".to_owned(), json!(self.who));
        line.insert("host".to_owned(), json!(self.host));
        line
    }
}

/// The thread of a trail.
struct Writer {
    sink: Box<dyn AuditSink>,
    shared: Arc<Shared>,
    mark: AuditMark,
}

impl Writer {
    /// Returns whom to tell when the sink is dropped, if somebody asked for that.
    fn run(
        &mut self,
        first: Map<String, Value>,
        messages: &Receiver<Message>,
    ) -> Option<SyncSender<()>> {
        let mut is_written = self.write(first);
        while is_written {
            is_written = match messages.recv().ok()? {
                Message::Line(line) => self.write_lost() && self.write(line),
                Message::Flush(done) => {
                    let is_written = self.write_lost();
                    let _ = done.try_send(());
                    is_written
                }
                Message::Close(done) => {
                    self.write_lost();
                    return Some(done);
                }
            };
        }
        None
    }

    /// Says how many lines are missing here, if any are.
    fn write_lost(&mut self) -> bool {
        let lost = self.shared.state.lock().1.lost;
        if lost == 0 {
            return true;
        }
        let line = self.shared.stamp(&json!({"event": "lines_lost", "lines": lost}));
        let is_written = self.write(line);
        self.shared.state.lock().1.lost -= lost;
        is_written
    }

    /// Writes a line, however often it takes. Returns false if nobody has the trail any more and it still fails.
    fn write(&mut self, mut line: Map<String, Value>) -> bool {
        let sequence = self.mark.sequence + 1;
        line.insert("seq".to_owned(), json!(sequence));
        line.insert("prev".to_owned(), json!(self.mark.hex()));
        let text = Value::Object(line).to_string();
        // A sink of the user's may panic. The thread must not end, since the queue would fill for ever.
        let sink = &mut self.sink;
        while let Err(error) =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| sink.write(&text)))
                .unwrap_or_else(|_| Err(io::Error::other("the sink panicked")))
        {
            self.shared.state.lock().1.error = Some(Arc::new(error));
            thread::sleep(RETRY);
            // The others stay in the queue, unless nobody has the trail any more.
            if Arc::strong_count(&self.shared) == 1 {
                return false;
            }
        }
        self.mark = AuditMark::of(sequence, text.as_bytes());
        let mut state = self.shared.state.lock();
        state.0 = self.mark;
        // The drop of an error may run code of the sink.
        let error = state.1.error.take();
        drop(state);
        drop(error);
        true
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Message")
    }
}

fn us(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

impl Observer for Audit {
    fn node_built(&self, node: NodeId, label: &str, engine: &'static str) {
        let node = node.to_string();
        self.note(json!({"event": "node", "node": node, "label": label, "engine": engine}));
    }

    fn acquired(&self, key: &Key, waited: Duration, via: AcquiredVia, token: FencingToken) {
        let (key, token, via) = (key.as_str(), token.get(), via.name());
        let waited_us = us(waited);
        self.note(json!({
            "event": "acquired", "key": key, "token": token, "via": via, "waited_us": waited_us,
        }));
    }

    fn acquire_failed(&self, key: &Key, waited: Duration, error: &LockError) {
        let (key, waited_us, why) = (key.as_str(), us(waited), error.to_string());
        self.note(json!({
            "event": "not_acquired", "key": key, "waited_us": waited_us, "why": why,
        }));
    }

    fn acquire_cancelled(&self, key: &Key, waited: Duration) {
        let (key, waited_us) = (key.as_str(), us(waited));
        self.note(json!({"event": "cancelled", "key": key, "waited_us": waited_us}));
    }

    fn lost(&self, key: &Key, why: &LossReason, hold: Hold) {
        let (key, token, held_us) = (key.as_str(), hold.token.get(), us(hold.held_for));
        let mut line = json!({
            "event": "lost", "key": key, "token": token, "held_us": held_us, "why": why.to_string(),
        });
        if let LossReason::Broken { by, reason } = why {
            line["broken_by"] = json!(by);
            line["reason"] = json!(reason);
        }
        self.note(line);
    }

    fn released(&self, key: &Key, outcome: ReleaseOutcome, hold: Hold) {
        let (key, token, held_us) = (key.as_str(), hold.token.get(), us(hold.held_for));
        let outcome = outcome.name();
        self.note(json!({
            "event": "released", "key": key, "token": token, "held_us": held_us, "outcome": outcome,
        }));
    }

    fn broke(&self, key: &Key, from: &ForcedRelease, reason: &str) {
        let (key, node, label) = (key.as_str(), from.node.to_string(), &from.label);
        self.note(json!({
            "event": "broke", "key": key, "from": label, "from_node": node, "reason": reason,
        }));
    }

    fn engine_went_back(&self, key: &Key, shown: Version, newest: Version) {
        let (key, shown, newest) = (key.as_str(), shown.get(), newest.get());
        self.note(json!({"event": "went_back", "key": key, "shown": shown, "newest": newest}));
    }
}

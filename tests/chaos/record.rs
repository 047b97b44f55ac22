//! The history of a run: lines of JSON in one file, to which all processes append.

use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

/// A moment of this machine, in nanoseconds: `CLOCK_MONOTONIC_RAW`, whose rate nobody changes.
pub type Nanos = u64;

pub const MS: Nanos = 1_000_000;

/// Now, on the clock that all processes of the machine share.
pub fn now() -> Nanos {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a value of ours.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_RAW, &raw mut time) };
    assert_eq!(result, 0, "Linux has this clock");
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// One line. `from` and `to` are the moments before and after what it tells.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "snake_case")]
pub enum Line {
    /// The run begins.
    Run { engine: String, seed: u64, faults: Vec<String>, at: Nanos },
    /// A fault, and on what. To a process: by its number.
    Fault { name: String, on: String, process: Option<u32>, from: Nanos, to: Nanos },
    /// A process did not run for this time.
    Stall { process: u32, from: Nanos, to: Nanos },
    /// A lock was granted.
    Granted {
        process: u32,
        user: u32,
        guard: u64,
        key: String,
        token: u64,
        via: String,
        from: Nanos,
        to: Nanos,
    },
    /// A lock was not granted. `usual`: by an error that faults explain.
    Refused {
        process: u32,
        user: u32,
        key: String,
        tried: String,
        why: String,
        usual: bool,
        from: Nanos,
        to: Nanos,
    },
    /// A guard was valid, and would be for so many nanoseconds without a renewal.
    Valid { process: u32, guard: u64, key: String, remaining: Nanos, from: Nanos, to: Nanos },
    /// A guard is not used any more.
    Ended { process: u32, guard: u64, key: String, how: End, from: Nanos, to: Nanos },
    /// A process sends a request to the engine: a load, or a write.
    Invoked { process: u32, request: u64, key: String, write: Option<WriteRequest>, at: Nanos },
    /// The response to that.
    Responded { process: u32, request: u64, response: Response, at: Nanos },
    /// A watch has yielded a register.
    Noticed { process: u32, key: String, seen: Seen, at: Nanos },
    /// A process ends in order: nobody waits in it.
    Done { process: u32, at: Nanos },
}

/// How the use of a guard ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// It was released, and held until then.
    Released,
    /// It was dropped, and with it the release.
    Dropped,
    /// It was released, and nobody knows whether it was held until then.
    Indeterminate,
    /// It was lost.
    Lost { why: Why, text: String },
}

/// Why a guard was lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// The lease ended. Whether an error of the engine is named.
    Expired { with_error: bool },
    /// The node was closed.
    Closed,
    /// Anything else: the reason's name.
    Other(String),
}

/// A write. Its value is told by a mark, which no other value has.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WriteRequest {
    pub expected: Option<u64>,
    pub mark: String,
    /// The value, for people.
    pub value: String,
}

/// A register.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Seen {
    pub version: u64,
    pub mark: String,
}

/// What the engine answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    Loaded(Option<Seen>),
    Swapped(u64),
    Mismatch(Option<Seen>),
    Indeterminate(String),
    Failed(String),
}

/// The mark of a value: FNV-1a.
pub fn mark(value: &[u8]) -> String {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    format!("{:016x}", value.iter().fold(0xcbf2_9ce4_8422_2325, step))
}

/// The file, open for appending.
pub struct Log(File);

impl Log {
    pub fn open(path: impl AsRef<Path>) -> Self {
        let file = OpenOptions::new().create(true).append(true).open(path);
        Self(file.expect("a file of ours"))
    }

    /// Appends a line, by one system call.
    pub fn write(&self, line: &Line) {
        // A process that is killed may leave half a line: the next one begins with its own newline.
        let mut text = "\n".to_owned();
        text += &serde_json::to_string(line).expect("a line is JSON");
        text.push('\n');
        (&self.0).write_all(text.as_bytes()).expect("there is room on the disk");
    }
}

/// All lines of a file, and how many were torn.
pub fn read(path: impl AsRef<Path>) -> (Vec<Line>, usize) {
    let bytes = std::fs::read(path).expect("the file is there");
    let text = String::from_utf8_lossy(&bytes);
    let (mut lines, mut torn) = (vec![], 0);
    for line in text.lines().filter(|line| !line.is_empty()) {
        match serde_json::from_str(line) {
            Ok(line) => lines.push(line),
            Err(_) => torn += 1,
        }
    }
    (lines, torn)
}

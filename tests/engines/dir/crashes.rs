//! Processes that are killed or stopped at any instant of a request.

use super::{LIMIT, key, kind, open, place, put, start, wait_until, write};
use crate::suite::processes::{ChildProcess, ask, tell};
use lockword::cluster::conformance::Suite;
use lockword::cluster::{
    Capabilities, Dir, Exchange, Key, NodeId, Transport, TransportError, Version, Versioned, Wake,
    Watch, Write, async_trait,
};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The seed of the choices: `LOCKWORD_SEED`, or random and printed.
fn dice(test: &str) -> fastrand::Rng {
    let seed = std::env::var("LOCKWORD_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("{test}: LOCKWORD_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}

/// Waits without sleeping, since a sleep is no shorter than a request.
fn spin(time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        std::hint::spin_loop();
    }
}

// A client whose writes another process makes, which is killed in the middle of some of them.

/// Makes the requests that its parent asks for, one line each.
pub async fn serve(path: &str) {
    let dir = open(path).await;
    tell("ready");
    loop {
        let line = ask();
        let words: Vec<&str> = line.split(' ').collect();
        let [name, expected, wake, idle, value] = words[..] else { panic!("{line}?") };
        let expected = expected.parse().ok().map(|number| Version::new(number).unwrap());
        let wake = match wake {
            "nobody" => Wake::Nobody,
            "everybody" => Wake::Everybody,
            node => Wake::Node(NodeId::new(node.parse().unwrap())),
        };
        let new = Write { value: from_hex(value).into(), wake, idle: idle == "true" };
        match dir.compare_exchange(&key(name), expected, new).await {
            Ok(Exchange::Swapped(version)) => tell(format!("swapped {version}")),
            Ok(Exchange::Mismatch(None)) => tell("none"),
            Ok(Exchange::Mismatch(Some(found))) => {
                tell(format!("found {} {}", found.version, to_hex(&found.value)));
            }
            Err(error) => tell(format!("{} {error}", kind(&error))),
        }
    }
}

fn to_hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().map(|byte| format!("{byte:02x}"));
    std::iter::once("x".to_owned()).chain(digits).collect()
}

fn from_hex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes()[1..].chunks(2);
    digits.map(|two| u8::from_str_radix(str::from_utf8(two).unwrap(), 16).unwrap()).collect()
}

/// Loads and watches by itself, and has a child that writes.
struct Remote {
    dir: Dir,
    path: String,
    child: Arc<Mutex<RemoteChild>>,
}

struct RemoteChild {
    process: Option<ChildProcess>,
    /// When it is to be killed, after the next request was sent.
    kill_after: Option<Duration>,
}

impl Remote {
    async fn new(path: &str) -> Self {
        let child = RemoteChild { process: None, kill_after: None };
        let child = Arc::new(Mutex::new(child));
        Self { dir: open(path).await, path: path.to_owned(), child }
    }
}

impl RemoteChild {
    /// Sends a line, and returns the response. `None`: it has died.
    fn ask(&mut self, path: &str, line: &str) -> Option<String> {
        // It may have been killed after its last response.
        let is_sent = self.process.as_mut().is_some_and(|process| process.try_say(line));
        if !is_sent {
            let mut process = start("dir-serve", path, "");
            assert_eq!(process.hear().as_deref(), Some("ready"));
            process.say(line);
            self.process = Some(process);
        }
        let process = self.process.as_mut().expect("it was started");
        if let Some(after) = self.kill_after.take() {
            spin(after);
            process.signal(libc::SIGKILL);
        }
        let response = process.hear();
        if response.is_none() {
            self.process = None;
        }
        response
    }
}

#[async_trait]
impl Transport for Remote {
    async fn load(&self, key: &Key) -> Result<Option<Versioned>, TransportError> {
        self.dir.load(key).await
    }

    async fn compare_exchange(
        &self,
        key: &Key,
        expected: Option<Version>,
        new: Write,
    ) -> Result<Exchange, TransportError> {
        let expected = expected.map_or_else(|| "-".to_owned(), |version| version.to_string());
        let wake = match new.wake {
            Wake::Nobody => "nobody".to_owned(),
            Wake::Everybody => "everybody".to_owned(),
            Wake::Node(node) => node.get().to_string(),
        };
        let line = format!("{key} {expected} {wake} {} {}", new.idle, to_hex(&new.value));
        let (child, path) = (Arc::clone(&self.child), self.path.clone());
        let response =
            tokio::task::spawn_blocking(move || child.lock().unwrap().ask(&path, &line)).await;
        let Some(response) = response.expect("no panic") else {
            return Err(TransportError::indeterminate("the child was killed"));
        };
        let (what, rest) = response.split_once(' ').unwrap_or((&response, ""));
        let version = |text: &str| Version::new(text.parse().unwrap());
        match what {
            "swapped" => Ok(Exchange::Swapped(version(rest)?)),
            "none" => Ok(Exchange::Mismatch(None)),
            "found" => {
                let (number, value) = rest.split_once(' ').expect("a version and a value");
                let (version, value) = (version(number)?, from_hex(value).into());
                Ok(Exchange::Mismatch(Some(Versioned { version, value })))
            }
            "unavailable" => Err(TransportError::unavailable(rest)),
            other => panic!("{other} {rest}"),
        }
    }

    async fn watch(&self, key: &Key, node: NodeId) -> Result<Watch, TransportError> {
        self.dir.watch(key, node).await
    }

    fn capabilities(&self) -> Capabilities {
        self.dir.capabilities()
    }
}

/// Law 3, and all others, with writers that are killed in the middle of a write.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_suite_passes_with_writers_that_are_killed() {
    let (_folder, path) = place();
    let engine = Arc::new(open(&path).await);
    let dice = Mutex::new(dice("kill"));
    let make = move || {
        let path = path.clone();
        async move { Remote::new(&path).await }
    };
    let kill = move |client: Arc<Remote>, _| {
        let after = Duration::from_micros(dice.lock().unwrap().u64(..300));
        client.child.lock().unwrap().kill_after = Some(after);
        std::future::ready(())
    };
    let delete = move |key| {
        let engine = Arc::clone(&engine);
        async move {
            engine.delete(&key).await.expect("nothing is in the way");
        }
    };
    let suite = Suite::new(make).rounds(6).delete_hook(delete).indeterminate_hook(kill);
    let report = suite.run().await.unwrap_or_else(|broken| panic!("{broken}"));
    println!("{report}");
    assert!(report.indeterminate > 0, "{report}");
}

// A process that does nothing but write.

const CHURNED: &str = "churned";

/// Writes for ever, and tells each version when it is written.
pub async fn churn(path: &str) {
    let dir = open(path).await;
    let key = key(CHURNED);
    let mut last = dir.load(&key).await.unwrap().map(|found| found.version);
    loop {
        // Of various lengths, so that a part of one would be seen.
        let value = "x".repeat(fastrand::usize(..20_000));
        last = Some(put(&dir, &key, last, write(&value)).await);
        tell(last.expect("it was written"));
    }
}

/// The last version that the process has told, when it has ended.
fn last_words(mut process: ChildProcess) -> Option<u64> {
    std::iter::from_fn(|| process.hear()).last().map(|said| said.parse().expect("a version"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_that_is_killed_at_any_instant_leaves_a_whole_register() {
    const KILLED: usize = 60;
    let (_folder, path) = place();
    let dir = Dir::builder(&path).timeout(LIMIT).connect().await.unwrap();
    let (key, mut dice) = (key(CHURNED), dice("killed"));
    let mut last = 0;
    for round in 0..KILLED {
        let mut process = start("dir-churn", &path, "");
        process.hear().expect("it writes");
        spin(Duration::from_micros(dice.u64(..3_000)));
        process.signal(libc::SIGKILL);
        let acknowledged = last_words(process).unwrap_or(last);
        let found = dir.load(&key).await.unwrap().expect("it was written");
        assert!(found.version.get() >= acknowledged.max(last), "{round}: a write is lost");
        // Nothing is in the way of the next write.
        last = put(&dir, &key, Some(found.version), write("whole")).await.get();
    }
}

/// The calls of the system at which a process is killed, and how a write that is killed there ends.
const DEADLY: [(&str, libc::c_long); 6] = [
    ("flock", libc::SYS_flock),
    ("pwrite64", libc::SYS_pwrite64),
    ("ftruncate", libc::SYS_ftruncate),
    ("renameat2", libc::SYS_renameat2),
    ("renameat", libc::SYS_renameat),
    ("unlinkat", libc::SYS_unlinkat),
];

/// Is killed at a call of the system, in a write or in a deletion.
pub async fn die(path: &str) {
    let dir = open(path).await;
    let key = key(CHURNED);
    let found = dir.load(&key).await.unwrap();
    tell("at what?");
    let line = ask();
    let (what, call) = line.split_once(' ').expect("what to do, and where to die");
    let (_, number) = DEADLY.iter().find(|(name, _)| *name == call).expect("one of them");
    crate::seccomp::kill_on(*number);
    let version = found.map(|found| found.version);
    let done = match what {
        "write" => {
            dir.compare_exchange(&key, version, write("short")).await.map(|_| ()).map_err(drop)
        }
        _ => dir.delete(&key).await.map(drop).map_err(drop),
    };
    tell(format!("{done:?}"));
}

/// Killed at each step: the register is the old one or the new one, and no version comes again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_is_killed_at_a_step_of_a_write_or_a_deletion_breaks_nothing() {
    let (_folder, path) = place();
    let dir = open(&path).await;
    let key = key(CHURNED);
    let long = "long".repeat(3000);
    let mut killed = vec![];
    for (what, (call, _)) in ["write", "make", "delete"].iter().flat_map(|w| DEADLY.map(|d| (w, d)))
    {
        let before = match *what {
            "make" => {
                dir.delete(&key).await.unwrap();
                None
            }
            _ => {
                // Twice, so that the file before is there, and is to be cut.
                for _ in 0..2 {
                    let last = dir.load(&key).await.unwrap().map(|found| found.version);
                    put(&dir, &key, last, write(&long)).await;
                }
                dir.load(&key).await.unwrap()
            }
        };
        let mut process = start("dir-die", &path, "");
        assert_eq!(process.hear().as_deref(), Some("at what?"));
        process.say(&format!("{} {call}", if *what == "make" { "write" } else { what }));
        let ended = process.hear();
        if ended.is_none() {
            killed.push(format!("{what} {call}"));
        }
        let found = dir.load(&key).await.unwrap();
        let case = format!("{what} at {call}, {ended:?}: {:?}", found.as_ref().map(|f| f.version));
        let old = found == before;
        let new = match *what {
            "delete" => found.is_none(),
            _ => found.as_ref().is_some_and(|found| *found.value == *b"short"),
        };
        assert!(old || new, "neither the old one nor the new one: {case}");
        assert!(ended.is_none() || new, "it was done: {case}");
        // Nothing is in the way, and all versions are larger.
        let next = put(&dir, &key, found.as_ref().map(|found| found.version), write("next")).await;
        let last = found.max_by_version(before);
        assert!(last.is_none_or(|last| next > last), "{next} after {last:?}: {case}");
    }
    println!("killed at: {}", killed.join(", "));
    // A file is renamed over none where there is none; its floor is there from the second deletion on.
    for at in
        ["write pwrite64", "write ftruncate", "write renameat2", "make pwrite64", "delete unlinkat"]
    {
        assert!(killed.iter().any(|one| one == at), "not killed at {at}: {killed:?}");
    }
}

trait Latest {
    fn max_by_version(self, other: Self) -> Option<Version>;
}

impl Latest for Option<Versioned> {
    fn max_by_version(self, other: Self) -> Option<Version> {
        self.map(|found| found.version).max(other.map(|found| found.version))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_that_is_stopped_at_any_instant_is_named_and_goes_on() {
    const STOPPED: usize = 40;
    let (_folder, path) = place();
    let dir = Dir::builder(&path).timeout(Duration::from_millis(20)).connect().await.unwrap();
    let (key, mut dice) = (key(CHURNED), dice("stopped"));
    let mut process = start("dir-churn", &path, "");
    let pid = process.id();
    process.hear().expect("it writes");
    let mut in_section = 0;
    for round in 0..STOPPED {
        spin(Duration::from_micros(dice.u64(..3_000)));
        process.signal(libc::SIGSTOP);
        wait_until("it is stopped", || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it lives");
            let (_, state) = stat.rsplit_once(") ").expect("a name and a state");
            state.starts_with('T')
        });
        // Reading waits for nobody.
        let found = dir.load(&key).await.unwrap().expect("it was written");
        // With a version that is never there: nothing is taken from the child.
        let never = Some(Version::new(1).unwrap());
        match dir.compare_exchange(&key, never, write("never")).await {
            Ok(Exchange::Mismatch(Some(now))) => assert_eq!(now, found, "{round}"),
            Err(TransportError::Unavailable(why)) => {
                in_section += 1;
                let why = why.to_string();
                let named = why.contains(&format!("process {pid} (")) && why.contains("stopped");
                assert!(named && why.contains("churned.lock"), "{round}: {why}");
            }
            other => panic!("{round}: {other:?}"),
        }
        process.signal(libc::SIGCONT);
        // All that it wrote meanwhile, so that it does not wait for its pipe.
        process.hear().expect("it goes on");
        let before = found.version.get();
        wait_until("it writes on", || {
            process.hear().expect("it lives").parse::<u64>().expect("a version") > before
        });
    }
    println!("{in_section} of {STOPPED} were stopped in their section");
    assert!(in_section > 0, "none was stopped in its section");
    // Killed while it is stopped in its section, it does not stay in the way.
    process.signal(libc::SIGSTOP);
    process.signal(libc::SIGKILL);
    last_words(process);
    let found = dir.load(&key).await.unwrap().expect("it was written");
    put(&dir, &key, Some(found.version), write("free")).await;
}

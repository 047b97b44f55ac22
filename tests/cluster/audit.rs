//! An audit trail: what is in it, and what is seen of a trail that was changed.

#[cfg(target_os = "linux")]
use crate::forked::Forked;
use crate::support::{builder, ms, poll_once};
use lockword::cluster::audit::{
    Audit, AuditFile, AuditMark, AuditSink, QUEUE, Verified, verify, verify_from,
};
use lockword::cluster::{Memory, Node};
use serde_json::Value;
use std::fs;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);

/// A folder that is removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let name = format!("lockword-audit-{}-{}", std::process::id(), fastrand::u64(..));
        let folder = std::env::temp_dir().join(name);
        fs::create_dir(&folder).expect("a new folder");
        Self(folder)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).expect("the trail");
    text.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

fn verified(text: &[u8]) -> Verified {
    verify(text).expect("memory can be read")
}

/// A trail of some acquisitions, into this file.
fn use_locks(path: &Path, times: u64) -> AuditMark {
    let audit = Audit::new(AuditFile::open(path).unwrap()).unwrap();
    let node = Node::builder(Memory::new()).observer(audit.clone()).build().unwrap().blocking();
    for _ in 0..times {
        node.lock("k").unwrap().acquire().unwrap().release().unwrap();
    }
    assert!(audit.close(SOON));
    audit.last()
}

#[tokio::test(start_paused = true)]
async fn a_trail_tells_who_had_what_and_how_it_ended() {
    let folder = Folder::new();
    let path = folder.file("trail");
    let audit = Audit::new(AuditFile::open(&path).unwrap()).unwrap();
    let engine = Memory::new();
    let node = builder(engine.clone(), "a").observer(audit.clone()).build().unwrap();
    let operator = builder(engine, "operator").observer(audit.clone()).build().unwrap();
    let lock = node.lock("k").unwrap();
    let guard = lock.acquire().await.unwrap();
    let token = guard.token().get();
    assert!(lock.try_acquire().await.is_err());
    let mut waits = Box::pin(lock.acquire());
    assert!(poll_once(waits.as_mut()).is_pending());
    drop(waits);
    tokio::time::sleep(ms(20)).await;
    operator.break_lock_of("k", node.id(), "it \"hangs\"\nfor ever").await.unwrap().unwrap();
    guard.lost().await;
    drop(guard);
    lock.acquire().await.unwrap().release().await.unwrap();
    assert!(audit.flush(SOON));
    let found = lines(&path);
    let events: Vec<_> = found.iter().map(|line| line["event"].as_str().unwrap()).collect();
    let expected = [
        "opened",
        "node",
        "node",
        "acquired",
        "not_acquired",
        "cancelled",
        "broke",
        "lost",
        "released",
        "acquired",
        "released",
    ];
    assert_eq!(events, expected);
    for (line, number) in found.iter().zip(1..) {
        assert_eq!(line["seq"], number);
        assert!(line["who"].as_str().unwrap().ends_with(&format!("[{}]", std::process::id())));
        assert!(line["at_ms"].as_u64().unwrap() > 1_700_000_000_000 && line["host"].is_string());
    }
    assert_eq!((&found[1]["label"], &found[1]["engine"]), (&"a".into(), &"memory".into()));
    assert_eq!((&found[3]["key"], &found[3]["token"]), (&"k".into(), &token.into()));
    assert_eq!(found[3]["via"], "free");
    let (broke, lost) = (&found[6], &found[7]);
    assert_eq!((&broke["from"], &broke["from_node"]), (&"a".into(), &node.id().to_string().into()));
    assert_eq!(broke["reason"], "it \"hangs\"for ever");
    assert_eq!((&lost["broken_by"], &lost["reason"]), (&"operator".into(), &broke["reason"]));
    assert!(lost["held_us"].as_u64().unwrap() >= 20_000, "{lost}");
    assert_eq!((&found[8]["outcome"], &found[10]["outcome"]), (&"lost".into(), &"held".into()));
    let trail = verified(&fs::read(&path).unwrap());
    assert_eq!((trail.faults.len(), trail.lines, trail.last), (0, 11, Some(audit.last())));
}

/// Each line in turn is changed in one byte, left out, written twice, or exchanged with the next one.
#[test]
fn every_change_of_a_trail_is_found() {
    let folder = Folder::new();
    let path = folder.file("trail");
    let last = use_locks(&path, 4);
    let whole = fs::read(&path).unwrap();
    assert_eq!(verified(&whole).faults, []);
    let split: Vec<&[u8]> = whole.split_inclusive(|byte| *byte == b'\n').collect();
    // A changed byte of the last line is seen by its mark only.
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        let found = verify_from(&*changed, last).unwrap();
        assert!(!found.faults.is_empty() || !found.contains, "byte {at}");
        let is_last = at >= whole.len() - split[split.len() - 1].len();
        assert!(!verified(&changed).faults.is_empty() || is_last, "byte {at}");
    }
    for at in 0..split.len() - 1 {
        let mut without = split.clone();
        without.remove(at);
        // Without its first line it is a trail whose beginning is elsewhere.
        let found = verified(&without.concat());
        assert!(!found.faults.is_empty() || at == 0 && found.before.unwrap().sequence == 1, "{at}");
        let mut twice = split.clone();
        twice.insert(at, split[at]);
        assert!(!verified(&twice.concat()).faults.is_empty(), "{at}");
        let mut exchanged = split.clone();
        exchanged.swap(at, at + 1);
        assert!(!verified(&exchanged.concat()).faults.is_empty(), "{at}");
    }
    // Whoever writes the file can cut its end. The mark of a line that was kept shows it.
    let cut = split[..split.len() - 2].concat();
    assert_eq!(verified(&cut).faults, []);
    assert!(!verify_from(&*cut, last).unwrap().contains);
    assert!(verify_from(&*whole, last).unwrap().contains);
    assert_eq!(last.to_string().parse(), Ok(last));
    assert!("7:abc".parse::<AuditMark>().is_err());
}

#[test]
fn a_trail_goes_on_after_a_restart_and_a_process_that_was_killed_in_the_middle_of_a_line() {
    let folder = Folder::new();
    let path = folder.file("trail");
    let first = use_locks(&path, 1);
    let second = use_locks(&path, 1);
    assert!(second.sequence > first.sequence);
    let mut torn = fs::read(&path).unwrap();
    torn.extend_from_slice(b"{\"event\":\"acq");
    fs::write(&path, &torn).unwrap();
    let found = verified(&torn);
    assert!(found.faults[0].to_string().contains("it is cut"), "{:?}", found.faults);
    let third = use_locks(&path, 1);
    let whole = fs::read(&path).unwrap();
    let found = verified(&whole);
    assert_eq!((found.faults, found.last), (vec![], Some(third)));
    // Another text of another length is not excused.
    let text =
        String::from_utf8(whole).unwrap().replace("{\"event\":\"acq\n", "{\"event\":\"acquired\n");
    assert_eq!(verified(text.as_bytes()).faults.len(), 1);
    // Nor is a file of something else continued.
    fs::write(&path, "hello\n").unwrap();
    assert_eq!(AuditFile::open(&path).unwrap_err().kind(), io::ErrorKind::InvalidData);
    assert!(AuditFile::open(&folder.0).is_err());
}

/// A program that runs a command has a child with copies of its descriptors, until the command begins.
#[cfg(target_os = "linux")]
#[test]
fn a_file_that_is_closed_is_free_although_a_child_has_it_too() {
    let folder = Folder::new();
    let path = folder.file("trail");
    let file = AuditFile::open(&path).unwrap();
    let (reader, writer) = io::pipe().unwrap();
    // The child has the other end of the pipe too; it ends with its parent.
    let forked = Forked::start(move |_| {
        let _ = io::Read::read(&mut &reader, &mut [0]);
        drop(file);
        Ok(())
    });
    let mut held = Some(AuditFile::open(&path).expect("it is free"));
    io::Write::write_all(&mut &writer, &[0]).unwrap();
    forked.expect_success(SOON);
    // A child that drops its copy leaves the parent's locked.
    let forked = Forked::start(|_| {
        drop(held.take());
        Ok(())
    });
    forked.expect_success(SOON);
    assert_eq!(AuditFile::open(&path).unwrap_err().kind(), io::ErrorKind::ResourceBusy);
    assert!(held.is_some());
}

#[test]
fn a_trail_that_is_closed_counts_what_comes_later() {
    let folder = Folder::new();
    let path = folder.file("trail");
    let audit = Audit::new(AuditFile::open(&path).unwrap()).unwrap();
    assert!(audit.close(SOON) && audit.close(SOON) && audit.flush(SOON));
    let _continued = AuditFile::open(&path).expect("it is free");
    let _node = Node::builder(Memory::new()).observer(audit.clone()).build().unwrap();
    assert_eq!(audit.status().lost, 1);
    assert_eq!(lines(&path).len(), 1);
}

#[test]
fn a_file_is_of_one_process_and_is_followed_where_it_rotates() {
    let folder = Folder::new();
    let path = folder.file("trail");
    let file = AuditFile::open(&path).unwrap().rotate_at(1_500, 2);
    assert_eq!(AuditFile::open(&path).unwrap_err().kind(), io::ErrorKind::ResourceBusy);
    let audit = Audit::new(file).unwrap();
    let node = Node::builder(Memory::new()).observer(audit.clone()).build().unwrap().blocking();
    for _ in 0..20 {
        node.lock("k").unwrap().acquire().unwrap().release().unwrap();
    }
    assert!(audit.flush(SOON));
    let mut all = vec![];
    for name in ["trail.2", "trail.1", "trail"] {
        all.extend(fs::read(folder.file(name)).expect(name));
    }
    assert!(!folder.file("trail.3").exists());
    let found = verified(&all);
    assert_eq!((found.faults, found.last), (vec![], Some(audit.last())));
    // The file before is needed to check the first line of the next.
    let (one, two) = (fs::read(folder.file("trail.1")).unwrap(), fs::read(&path).unwrap());
    assert_eq!(verified(&two).before, verified(&one).last);
    // Another program has moved it.
    #[cfg(unix)]
    {
        fs::rename(&path, folder.file("moved")).unwrap();
        node.lock("k").unwrap().acquire().unwrap().release().unwrap();
        assert!(audit.flush(SOON));
        let (moved, new) = (fs::read(folder.file("moved")).unwrap(), fs::read(&path).unwrap());
        assert_eq!(verified(&[moved, new].concat()).faults, []);
    }
}

/// A sink whose disk is full until it is told otherwise.
struct Full {
    is_full: Arc<AtomicBool>,
    lines: Arc<Mutex<Vec<u8>>>,
}

impl AuditSink for Full {
    fn write(&mut self, line: &str) -> io::Result<()> {
        if self.is_full.load(SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let mut lines = self.lines.lock().unwrap();
        lines.extend_from_slice(line.as_bytes());
        lines.push(b'\n');
        Ok(())
    }
}

#[test]
fn a_full_disk_stops_no_lock_and_is_told() {
    let (is_full, lines) = (Arc::new(AtomicBool::new(true)), Arc::new(Mutex::new(vec![])));
    let audit = Audit::new(Full { is_full: is_full.clone(), lines: lines.clone() }).unwrap();
    let node = Node::builder(Memory::new()).observer(audit.clone()).build().unwrap().blocking();
    let lock = node.lock("k").unwrap();
    let uses = QUEUE / 2 + 100;
    for _ in 0..uses {
        lock.acquire().unwrap().release().unwrap();
    }
    while audit.status().error.is_none() {
        std::thread::yield_now();
    }
    let status = audit.status();
    assert_eq!(status.error.unwrap().kind(), io::ErrorKind::StorageFull);
    assert!(status.lost > 0 && !audit.flush(ms(10)));
    is_full.store(false, SeqCst);
    assert!(audit.flush(SOON));
    let text = lines.lock().unwrap().clone();
    let found = verified(&text);
    assert_eq!((found.faults, found.last), (vec![], Some(audit.last())));
    let missing: u64 = String::from_utf8(text)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter_map(|line| line["lines"].as_u64())
        .sum();
    // Opened, the node, and two for each use.
    let all = found.lines - 1 + missing;
    assert!((2 * uses as u64 + 2..=2 * uses as u64 + 4).contains(&all), "{all}: {missing}");
    let status = audit.status();
    assert!(status.lost == 0 && status.error.is_none());
}

/// A file that may not grow takes the first part of a line, and refuses the rest.
#[cfg(target_os = "linux")]
#[test]
fn a_line_that_is_written_in_part_is_taken_back() {
    crate::child::alone("audit::a_line_that_is_written_in_part_is_taken_back", 3 * SOON, || {
        /// Up to which length files of this process may grow.
        fn limit_files(bytes: libc::rlim_t) {
            let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            // SAFETY: both calls read or write this one value.
            unsafe {
                assert_eq!(libc::getrlimit(libc::RLIMIT_FSIZE, &raw mut limit), 0);
                limit.rlim_cur = bytes.min(limit.rlim_max);
                assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit), 0);
            }
        }
        // SAFETY: the signal that tells of the limit is ignored, so that the write fails.
        unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
        let folder = Folder::new();
        let path = folder.file("trail");
        let audit = Audit::new(AuditFile::open(&path).unwrap()).unwrap();
        let node = Node::builder(Memory::new()).observer(audit.clone()).build().unwrap().blocking();
        let lock = node.lock("k").unwrap();
        lock.acquire().unwrap().release().unwrap();
        assert!(audit.flush(SOON));
        let length = fs::metadata(&path).unwrap().len();
        limit_files(length + 20);
        lock.acquire().unwrap().release().unwrap();
        while audit.status().error.is_none() {
            std::thread::yield_now();
        }
        limit_files(libc::RLIM_INFINITY);
        assert!(audit.flush(SOON));
        let found = verified(&fs::read(&path).unwrap());
        assert_eq!((found.faults, found.last), (vec![], Some(audit.last())));
    });
}

#[cfg(unix)]
#[test]
fn a_trail_may_go_to_the_system_log() {
    use lockword::cluster::audit::Syslog;
    use std::os::unix::net::UnixDatagram;

    let folder = Folder::new();
    let path = folder.file("log");
    // It is not there at first.
    let audit = Audit::new(Syslog::at(&path)).unwrap();
    while audit.status().error.is_none() {
        std::thread::yield_now();
    }
    let log = UnixDatagram::bind(&path).unwrap();
    let mut message = [0; 4096];
    let length = log.recv(&mut message).unwrap();
    let text = std::str::from_utf8(&message[..length]).unwrap();
    let head = format!("<86>lockword[{}]: ", std::process::id());
    let line: Value = serde_json::from_str(text.strip_prefix(&head).expect(text)).unwrap();
    assert_eq!((&line["seq"], &line["event"]), (&1.into(), &"opened".into()));
}

/// Files of which the newest is read while it is written.
#[test]
fn a_trail_can_be_read_while_it_is_written() {
    let folder = Folder::new();
    let path = folder.file("trail");
    let audit = Audit::new(AuditFile::open(&path).unwrap().sync(true)).unwrap();
    assert!(audit.flush(SOON));
    let found = verify(BufReader::new(fs::File::open(&path).unwrap())).unwrap();
    assert_eq!((found.lines, found.last), (1, Some(audit.last())));
}

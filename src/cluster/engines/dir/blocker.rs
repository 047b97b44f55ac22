//! Which process has locked a file, for messages.

use super::folder::FileId;

/// The process that keeps others out of the file, as a part of a sentence.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn blocker(file: FileId) -> String {
    use crate::cluster::text::shown;
    use std::io::Read;

    /// More than it ever is, unless the machine has a hundred thousand locks.
    const LONGEST_LIST: u64 = 8 << 20;
    /// So often a list may lack a lock that is there.
    const LOOKS: usize = 10;
    let read = |path: &str| {
        let mut text = vec![];
        let list = std::fs::File::open(path)?;
        list.take(LONGEST_LIST).read_to_end(&mut text)?;
        std::io::Result::Ok(String::from_utf8_lossy(&text).into_owned())
    };
    // The kernel gives the list in parts. Locks that others free between two of them move the rest up, so one in
    // some hundred lists lacks a lock that is held all the time.
    let look = |_| in_list(&read("/proc/locks").unwrap_or_default(), file);
    let Some(pid) = (0..LOOKS).find_map(look) else {
        return "a process that cannot be seen from here (of another container, or forked from one \
                that has ended)"
            .to_owned();
    };
    // `pid (name) state ..`, where the name may have blanks and brackets in it.
    let stat = read(&format!("/proc/{pid}/stat")).unwrap_or_default();
    let (before, after) = stat.rsplit_once(')').unwrap_or_default();
    let name = shown(before.split_once('(').unwrap_or_default().1);
    let state = match after.trim_start().chars().next() {
        Some('T' | 't') => "stopped: continue it (SIGCONT), or kill it",
        Some('Z' | 'X') | None => {
            "which has ended, but a process that it forked still has the file open"
        }
        Some('D') => "waiting for its disk",
        Some(_) => "running",
    };
    format!("process {pid} ({name}), {state}")
}

/// The process that holds the lock on this file in the text of `/proc/locks`.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn in_list(locks: &str, file: FileId) -> Option<u32> {
    // `1: FLOCK  ADVISORY  WRITE 1234 08:01:5678 0 EOF`. A line with an arrow is of one that waits.
    let holders = locks.lines().filter_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let (kind, pid) = (words.next()?, words.nth(2)?);
        let (device, inode) = words.next()?.rsplit_once(':')?;
        let is_it = kind == "FLOCK" && inode.parse() == Ok(file.inode);
        is_it.then(|| (device.to_owned(), pid.parse::<u32>().ok()))
    });
    let device = format!("{:02x}:{:02x}", file.device_major(), file.device_minor());
    // Some file systems show another number there than `stat` does: Btrfs, overlayfs.
    let (exact, other): (Vec<_>, Vec<_>) = holders.partition(|(found, _)| *found == device);
    exact.into_iter().chain(other).find_map(|(_, pid)| pid).filter(|pid| *pid != 0)
}

/// The process that keeps others out of the file, as a part of a sentence.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) fn blocker(_: FileId) -> String {
    "a process that this system does not name".to_owned()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::{FileId, blocker, in_list};
    use rustix::fs::{FlockOperation, flock, fstat};
    use std::fs::File;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// The list is longer than the part that the kernel gives at once, and changes all the time.
    #[test]
    fn the_holder_is_found_while_others_lock_and_unlock() {
        let folder =
            std::env::temp_dir().join(format!("lockword-blocker-{:016x}", fastrand::u64(..)));
        std::fs::create_dir(&folder).unwrap();
        let file = |name: String| File::create(folder.join(name)).unwrap();
        let held = file("held".to_owned());
        flock(&held, FlockOperation::LockExclusive).unwrap();
        let held = (FileId::of(&fstat(&held).unwrap()), held);
        let ends = AtomicBool::new(false);
        std::thread::scope(|s| {
            for thread in 0..2 {
                let others: Vec<_> = (0..100).map(|n| file(format!("{thread}-{n}"))).collect();
                let ends = &ends;
                s.spawn(move || {
                    while !ends.load(Ordering::Relaxed) {
                        for how in [FlockOperation::LockExclusive, FlockOperation::Unlock] {
                            others.iter().for_each(|other| flock(other, how).unwrap());
                        }
                    }
                });
            }
            let process = format!("process {} ", std::process::id());
            let named = (0..500).all(|_| blocker(held.0).contains(&process));
            ends.store(true, Ordering::Relaxed);
            assert!(named);
        });
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn the_holder_is_found_in_the_list_and_one_that_waits_is_not() {
        let locks = "\
            1: POSIX  ADVISORY  WRITE 11 fd:00:77 0 EOF\n\
            2: FLOCK  ADVISORY  WRITE 22 00:1b:77 0 EOF\n\
            3: -> FLOCK  ADVISORY  WRITE 33 fd:00:77 0 EOF\n\
            4: FLOCK  ADVISORY  WRITE 44 fd:00:77 0 EOF\n\
            5: FLOCK  ADVISORY  WRITE 55 fd:00:78 0 EOF\n\
            6: FLOCK  ADVISORY  WRITE 0 fd:00:79 0 EOF\n";
        let at = |device, inode| in_list(locks, FileId { device, inode });
        assert_eq!(at(0xfd00, 77), Some(44));
        assert_eq!(at(0x001b, 77), Some(22));
        // By the number of the file alone.
        assert_eq!(at(0x0801, 78), Some(55));
        assert_eq!(at(0xfd00, 79), None, "of another container");
        assert_eq!(at(0xfd00, 80), None);
    }
}

//! Which file systems are admitted: those of one machine, on which locks and renaming do what they should.

use rustix::fd::BorrowedFd;

/// Names the file system of this folder and says whether it is admitted.
///
/// The list is of what is admitted, since nobody knows all that is not: a lock on a network file system may
/// be one of this machine alone, a renaming may be seen late by others, and nothing tells of a change.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn admitted(folder: BorrowedFd<'_>) -> Result<(), String> {
    let magic = match rustix::fs::fstatfs(folder) {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "32 bits")]
        Ok(found) => found.f_type as u32,
        Err(why) => return Err(format!("unknown ({why})")),
    };
    match magic {
        // ext2 to ext4, XFS, Btrfs, tmpfs, ramfs, F2FS, ZFS, overlayfs, bcachefs, JFS, ReiserFS, NILFS.
        0xef53 | 0x5846_5342 | 0x9123_683e | 0x0102_1994 | 0x8584_58f6 | 0xf2f5_2010
        | 0x2fc1_2fc1 | 0x794c_7630 | 0xca45_1a4e | 0x3153_464a | 0x5265_4973 | 0x3434 => Ok(()),
        0x6969 => Err("NFS".to_owned()),
        0x517b | 0xff53_4d42 | 0xfe53_4d42 => Err("SMB".to_owned()),
        0x6573_5546 => Err("FUSE".to_owned()),
        0x0102_1997 => Err("9P".to_owned()),
        0x00c3_6400 => Err("Ceph".to_owned()),
        0x5346_414f | 0x6b41_4653 => Err("AFS".to_owned()),
        0x0bd0_0bd0 => Err("Lustre".to_owned()),
        0x0116_1970 => Err("GFS2".to_owned()),
        0x7461_636f => Err("OCFS2".to_owned()),
        0x4d44 | 0x2011_bab0 => Err("FAT".to_owned()),
        other => Err(format!("one with the number {other:#x}")),
    }
}

/// The same, by the name that the system has for it.
#[cfg(any(target_vendor = "apple", target_os = "freebsd", target_os = "dragonfly"))]
pub(super) fn admitted(folder: BorrowedFd<'_>) -> Result<(), String> {
    let found = rustix::fs::fstatfs(folder).map_err(|why| format!("unknown ({why})"))?;
    let letters = found.f_fstypename.iter().map(|letter| letter.to_ne_bytes()[0]);
    let name: String = letters.take_while(|letter| *letter != 0).map(char::from).collect();
    match &*name {
        "apfs" | "hfs" | "ufs" | "ffs" | "zfs" | "tmpfs" | "hammer" | "hammer2" => Ok(()),
        _ => Err(name),
    }
}

/// Elsewhere nothing is known of it.
#[cfg(not(any(
    target_os = "linux",
    target_os = "android",
    target_vendor = "apple",
    target_os = "freebsd",
    target_os = "dragonfly"
)))]
pub(super) fn admitted(_: BorrowedFd<'_>) -> Result<(), String> {
    Err("not known on this system".to_owned())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::admitted;
    use std::fs::File;
    use std::os::fd::AsFd;

    #[test]
    fn a_disk_and_memory_are_admitted_and_proc_is_not() {
        for folder in [env!("CARGO_MANIFEST_DIR"), "/dev/shm"] {
            assert_eq!(admitted(File::open(folder).unwrap().as_fd()), Ok(()), "{folder}");
        }
        let refused = admitted(File::open("/proc").unwrap().as_fd()).unwrap_err();
        assert!(refused.contains("0x9fa0"), "{refused}");
    }
}

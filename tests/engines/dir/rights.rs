//! Who may use a directory, and what may be in it.

use super::{exists, files, key, kind, open, place, put, start, write};
use crate::suite::processes::{ask, tell};
use lockword::cluster::{ConnectError, Dir, Transport, TransportError, connect};
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::time::Duration;

fn set_mode(path: &str, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("it is ours");
}

fn mode(path: &str) -> u32 {
    fs::metadata(path).expect("it is there").mode() & 0o7777
}

#[tokio::test]
async fn a_directory_is_made_for_its_owner_and_a_shared_one_whatever_the_mask() {
    let (folder, path) = place();
    put(&open(&path).await, &key("k"), None, write("v")).await;
    assert_eq!(mode(&path), 0o700);
    for file in files(&path) {
        assert_eq!(mode(&format!("{path}/{file}")), 0o600, "{file}");
    }
    // The usual mask, 022, would take the group's right to write away.
    let shared = folder.file("shared");
    let dir = Dir::builder(&shared).mode(0o2770).connect().await.unwrap();
    put(&dir, &key("k"), None, write("v")).await;
    assert_eq!(mode(&shared), 0o2770);
    for file in files(&shared) {
        assert_eq!(mode(&format!("{shared}/{file}")), 0o660, "{file}");
    }
}

async fn refused(address: &str) -> (ConnectError, String) {
    let error = connect(address).await.map(drop).expect_err(address);
    let said = error.to_string();
    (error, said)
}

#[tokio::test]
async fn a_directory_that_must_not_be_used_is_refused_with_the_reason() {
    let (folder, path) = place();
    fs::create_dir(&path).unwrap();
    for (forbidden, granted) in [(0o770, 0o770), (0o702, 0o702), (0o1777, 0o777)] {
        set_mode(&path, forbidden);
        let (error, said) = refused(&format!("dir:{path}")).await;
        assert!(matches!(error, ConnectError::Unsuitable { .. }), "{said}");
        assert!(said.contains(&format!("{forbidden:o}")) && said.contains(&path), "{said}");
        let granted = format!("dir:{path}?mode={granted:o}");
        connect(&granted).await.unwrap_or_else(|error| panic!("{granted}: {error}"));
    }
    set_mode(&path, 0o700);
    let link = folder.file("link");
    symlink(&path, &link).unwrap();
    for link in [format!("dir:{link}"), format!("dir:{link}/")] {
        let (error, said) = refused(&link).await;
        assert!(matches!(error, ConnectError::Unsuitable { .. }), "{said}");
        assert!(said.contains("symbolic link"), "{said}");
    }
    let (error, said) = refused("dir:/proc/sys").await;
    assert!(matches!(error, ConnectError::Unsuitable { .. }), "{said}");
    assert!(said.contains("file system") && said.contains("any_file_system"), "{said}");
    connect("dir:/proc/sys?any_file_system=true").await.expect("as it was asked for");
    for missing in ["dir:/no/such/folder", "dir:/etc/passwd", "dir:/etc/passwd/x"] {
        let (error, said) = refused(missing).await;
        assert!(matches!(error, ConnectError::Unreachable { .. }), "{missing}: {said}");
    }
}

/// As a user who owns nothing of it.
pub async fn stranger(path: &str) {
    // SAFETY: two calls of the system that take numbers; the process has no privileges afterwards.
    let changed = unsafe { libc::setgid(65_534) == 0 && libc::setuid(65_534) == 0 };
    assert!(changed, "{}", std::io::Error::last_os_error());
    let dir = loop {
        match Dir::builder(path).connect().await {
            Ok(dir) => break dir,
            Err(error) => tell(format!("{error:?}")),
        }
        ask();
    };
    let key = key("k");
    let error = dir.load(&key).await.expect_err("it must not be read");
    tell(format!("load {} {error}", kind(&error)));
    let error = dir.compare_exchange(&key, None, write("theirs")).await.expect_err("nor written");
    tell(format!("write {} {error}", kind(&error)));
    let error = dir.list("").await.expect_err("nor listed");
    tell(format!("list {} {error}", kind(&error)));
    ask();
    let dir = Dir::builder(path).mode(0o777).connect().await.expect("it is shared");
    let found = dir.load(&key).await.expect("it is shared").expect("it was written");
    put(&dir, &key, Some(found.version), write("theirs")).await;
    tell("written");
}

#[tokio::test]
async fn a_user_without_rights_is_denied_and_one_with_rights_is_not() {
    // SAFETY: a call of the system without arguments.
    if unsafe { libc::geteuid() } != 0 {
        eprintln!("skipped: only root can become another user");
        return;
    }
    let (folder, path) = place();
    set_mode(folder.path().to_str().unwrap(), 0o755);
    let dir = open(&path).await;
    put(&dir, &key("k"), None, write("ours")).await;
    let mut stranger = start("dir-stranger", &path, "");
    let mut hear = || stranger.hear().expect("it goes on");
    let refused = hear();
    assert!(refused.starts_with("Denied") && refused.contains(&path), "{refused}");
    set_mode(&path, 0o755);
    stranger.say("now it can be read");
    let mut hear = || stranger.hear().expect("it goes on");
    for what in ["load", "write", "list"] {
        let denied = hear();
        assert!(denied.starts_with(&format!("{what} denied")), "{denied}");
        assert!(denied.contains(&path), "{denied}");
    }
    // All of it is shared.
    set_mode(&path, 0o777);
    let shared = Dir::builder(&path).mode(0o777).connect().await.unwrap();
    let found = shared.load(&key("k")).await.unwrap().unwrap();
    put(&shared, &key("k"), Some(found.version), write("shared")).await;
    stranger.say("now it is shared");
    assert_eq!(stranger.hear().as_deref(), Some("written"));
    let found = shared.load(&key("k")).await.unwrap().unwrap();
    assert_eq!(&*found.value, b"theirs");
    put(&shared, &key("k"), Some(found.version), write("ours")).await;
}

/// What somebody has put in the place of a file is neither followed nor read for ever, and is left alone.
#[tokio::test]
async fn links_and_pipes_are_refused() {
    let (folder, path) = place();
    let dir = Dir::builder(&path).timeout(Duration::from_secs(20)).connect().await.unwrap();
    let victim = folder.file("victim");
    fs::write(&victim, "mine").unwrap();
    let pipe = |path: &str| {
        let path = std::ffi::CString::new(path).unwrap();
        // SAFETY: the path ends with a zero.
        assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
    };
    for (name, ending, is_pipe) in [
        ("a", "register", false),
        ("b", "register", true),
        ("c", "lock", false),
        ("d", "lock", true),
    ] {
        let file = format!("{path}/{name}.{ending}");
        if is_pipe {
            pipe(&file)
        } else {
            symlink(&victim, &file).unwrap()
        }
        if ending == "register" {
            let error = dir.load(&key(name)).await.expect_err(&file);
            assert!(matches!(error, TransportError::Corrupt(_)), "{file}: {error}");
        }
        let written = dir.compare_exchange(&key(name), None, write("theirs")).await;
        let error = written.expect_err(&file);
        assert!(matches!(error, TransportError::Corrupt(_)), "{file}: {error}");
        assert!(error.to_string().contains(&file), "{error}");
    }
    // What a process left behind when it was killed is replaced, whatever it is.
    for (name, make) in [("e", 0), ("f", 1), ("g", 2)] {
        let new = format!("{path}/{name}.new");
        match make {
            0 => symlink(&victim, &new).unwrap(),
            1 => fs::hard_link(&victim, &new).unwrap(),
            _ => pipe(&new),
        }
        put(&dir, &key(name), None, write("ours")).await;
        assert!(!exists(&new), "{new}");
        assert_eq!(&*dir.load(&key(name)).await.unwrap().unwrap().value, b"ours");
    }
    assert_eq!(fs::read_to_string(&victim).unwrap(), "mine");
}

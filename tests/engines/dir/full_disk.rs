//! A disk that is full, and then is not.

use super::{key, kind, open, put, write};
use crate::suite::processes::{ChildProcess, ask, tell};
use crate::support::disk::Disk;
use crate::support::process::Folder;
use lockword::cluster::{Exchange, Node, Transport, Version};
use std::time::Duration;

/// Works in a directory that is visible in its namespace alone.
pub async fn fill(path: &str) {
    let dir = std::sync::Arc::new(open(path).await);
    let key = key("full");
    let node = Node::builder(dir.clone()).lease(Duration::from_secs(600)).build().unwrap();
    let held = node.lock("held").unwrap().acquire().await.unwrap();
    let last = put(&dir, &key, None, write(&"x".repeat(9_000))).await;
    tell("fill it up");
    ask();
    let write_more = async |expected: Version| {
        dir.compare_exchange(&key, Some(expected), write(&"y".repeat(60_000))).await
    };
    let error = write_more(last).await.expect_err("there is no space");
    tell(format!("{} {error}", kind(&error)));
    // Nothing is lost, and nothing is left of the write.
    let found = dir.load(&key).await.unwrap().expect("it was written");
    assert_eq!((found.version, found.value.len()), (last, 9_000));
    let left = super::files(path);
    assert!(!left.iter().any(|name| name.ends_with(".new")), "{left:?}");
    assert!(held.is_valid());
    tell("make space");
    ask();
    match write_more(last).await {
        Ok(Exchange::Swapped(_)) => {}
        other => panic!("{other:?}"),
    }
    held.release().await.expect("it was held all the time");
    tell("done");
}

#[test]
fn a_full_disk_refuses_writes_and_loses_nothing() {
    let folder = Folder::new("disk");
    let Some(disk) = Disk::new(folder.file("disk"), Some(1), None) else { return };
    let mut process = ChildProcess::start_at(&disk.namespace, "dir-fill", &disk.file("locks"), "");
    assert_eq!(process.hear().as_deref(), Some("fill it up"));
    disk.fill();
    process.say("it is full");
    let refused = process.hear().expect("an error");
    assert!(refused.starts_with("unavailable ") && refused.contains("full.new"), "{refused}");
    assert!(refused.contains("space"), "{refused}");
    assert_eq!(process.hear().as_deref(), Some("make space"));
    disk.make_space();
    process.say("there is space");
    assert_eq!(process.hear().as_deref(), Some("done"));
}

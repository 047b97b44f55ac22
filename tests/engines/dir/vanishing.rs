//! A directory, or a file in it, that somebody removes.

use super::{LIMIT, key, open, place, put, wait_until, write};
use crate::suite::fixture::{KEY, acquire, granted, release, soon, wait};
use futures_util::StreamExt;
use lockword::cluster::{Dir, Node, NodeId, Transport, TransportError};
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

fn make(path: &str) {
    fs::create_dir(path).expect("its place is free");
    fs::set_permissions(path, Permissions::from_mode(0o700)).expect("it is ours");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locks_of_a_directory_that_is_removed_are_lost_and_go_on_in_the_next_one() {
    let (_folder, path) = place();
    let node = async || {
        let builder = Node::builder(open(&path).await).lease(Duration::from_secs(2));
        builder.unavailable_timeout(LIMIT).build().unwrap()
    };
    let (one, two, looker) = (node().await, node().await, node().await);
    let held = acquire(&one).await;
    let waiting = wait(&two, &looker).await;
    fs::remove_dir_all(&path).expect("it is ours");
    let error = open_error(&one).await;
    assert!(error.contains(&path) && error.contains("is gone"), "{error}");
    // Its lease is over, since nothing can be renewed.
    soon("the loss", held.lost()).await;
    assert!(!waiting.is_finished(), "there is nothing to be granted by");
    make(&path);
    let next = granted(waiting).await;
    assert!(!held.is_valid(), "two hold");
    assert!(next.token() > held.token(), "{} after {}", next.token(), held.token());
    release(next).await;
    release(acquire(&one).await).await;
}

/// The text of the error of a request.
async fn open_error(node: &Node) -> String {
    let error = node.inspect(KEY).await.expect_err("there is no directory");
    let causes = std::iter::successors(Some(&error as &dyn std::error::Error), |e| e.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[tokio::test]
async fn requests_go_to_the_directory_that_is_at_the_path_now() {
    let (folder, path) = place();
    let dir = open(&path).await;
    let old = put(&dir, &key("k"), None, write("old")).await;
    let mut watch = dir.watch(&key("k"), NodeId::new(1)).await.unwrap();
    let away = folder.file("away");
    fs::rename(&path, &away).expect("it is ours");
    for error in [
        dir.load(&key("k")).await.expect_err("there is none"),
        dir.load(&key("never")).await.expect_err("there is none"),
        dir.compare_exchange(&key("k"), Some(old), write("lost")).await.expect_err("nor here"),
        dir.list("").await.expect_err("nor here"),
    ] {
        let is_right = matches!(error, TransportError::Unavailable(_));
        assert!(is_right && error.to_string().contains("is gone"), "{error}");
    }
    // The watch ends, with an error or after an item that makes the node look.
    let ended = async { while !matches!(watch.next().await, None | Some(Err(_))) {} };
    soon("the end of the watch", ended).await;
    make(&path);
    let mut watch = dir.watch(&key("k"), NodeId::new(1)).await.unwrap();
    assert_eq!(dir.load(&key("k")).await.unwrap(), None);
    let new = put(&dir, &key("k"), None, write("new")).await;
    assert!(new > old, "{new} after {old}");
    let seen = soon("the new one", watch.next()).await.unwrap().unwrap().expect("it was written");
    assert_eq!(seen.version, new);
    // Nothing was written in the one that was moved away.
    let moved = open(&away).await.load(&key("k")).await.unwrap().expect("it was written");
    assert_eq!((moved.version, &*moved.value), (old, b"old".as_slice()));
}

/// A cleaner of old files removes the lock for which a request waits. The request must not go on with what
/// it has: others lock what is there now.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_that_is_removed_while_a_request_waits_for_it_counts_no_more() {
    let (_folder, path) = place();
    let dir = Dir::builder(&path).timeout(Duration::from_millis(500)).connect().await.unwrap();
    let key = key("k");
    let first = put(&dir, &key, None, write("first")).await;
    let lock = || {
        let file = File::options().create(true).append(true).open(format!("{path}/k.lock"));
        let file = file.expect("it is ours");
        file.lock().expect("flock");
        file
    };
    let removed = lock();
    let opened = || {
        let files = fs::read_dir("/proc/self/fd").expect("Linux has that").flatten();
        let targets = files.filter_map(|file| fs::read_link(file.path()).ok());
        targets.filter(|target| target.starts_with(&path) && target.ends_with("k.lock")).count()
    };
    let mut waiting = std::pin::pin!(dir.compare_exchange(&key, Some(first), write("late")));
    assert!(futures_util::poll!(&mut waiting).is_pending());
    wait_until("it waits for the first lock", || opened() == 2);
    fs::remove_file(format!("{path}/k.lock")).unwrap();
    let now = lock();
    drop(removed);
    let refused = waiting.await;
    let Err(TransportError::Unavailable(why)) = refused else { panic!("{refused:?}") };
    assert!(why.to_string().contains("k.lock has been locked for"), "{why}");
    assert_eq!(dir.load(&key).await.unwrap().unwrap().version, first);
    drop(now);
    put(&dir, &key, Some(first), write("second")).await;
}

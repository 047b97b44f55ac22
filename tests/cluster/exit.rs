//! The end of the process: what was given back is written before.
//!
//! The engine is a directory, which the child and the parent share. In the child each write takes a while, so a
//! process that did not wait for it would end before.

use crate::child;
use crate::support::ms;
use lockword::cluster::blocking;
use lockword::cluster::layers::Faulty;
use lockword::cluster::{LockStatus, Node, Observer, Transport};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(30);
/// How long a write takes in the child.
const SLOW: Duration = ms(40);
/// The variable that has the directory.
const DIR: &str = "LOCKWORD_TEST_DIR";

/// Runs `body` in a child, which ends as `body` does. Then `check` looks at the directory.
fn ends(test: &str, body: impl FnOnce(&Path), check: impl FnOnce(&blocking::Node)) {
    if child::role().is_some() {
        return body(&PathBuf::from(std::env::var_os(DIR).expect("the parent has set it")));
    }
    let dir = std::env::temp_dir().join(format!(
        "lockword-exit-{}-{}",
        std::process::id(),
        fastrand::u64(..)
    ));
    std::fs::create_dir(&dir).expect("a new directory");
    child::run_with(test, "ends", &[(DIR, dir.as_path())], LIMIT).expect_success(test);
    let node = Node::builder(engine(&dir)).build().unwrap();
    check(&node.blocking());
    std::fs::remove_dir_all(&dir).expect("nobody uses it");
}

fn engine(dir: &Path) -> Arc<dyn Transport> {
    blocking::connect(&format!("dir:{}", dir.display())).expect("a directory")
}

fn slow(dir: &Path) -> Node {
    Node::builder(Faulty::delayed(engine(dir), SLOW)).build().unwrap()
}

fn is_free(node: &blocking::Node) {
    assert_eq!(node.inspect("k").unwrap().status, LockStatus::Free);
}

#[test]
fn a_guard_that_is_dropped_last_is_released() {
    let body = |dir: &Path| {
        let node = slow(dir).blocking();
        let guard = node.lock("k").unwrap().acquire().unwrap();
        drop(guard);
        std::process::exit(0);
    };
    ends("exit::a_guard_that_is_dropped_last_is_released", body, is_free);
}

#[test]
fn a_node_that_is_dropped_last_releases_its_locks() {
    let body = |dir: &Path| {
        let node = slow(dir).blocking();
        let guard = node.lock("k").unwrap().acquire().unwrap();
        drop(node);
        drop(guard);
        std::process::exit(0);
    };
    ends("exit::a_node_that_is_dropped_last_releases_its_locks", body, is_free);
}

#[test]
fn a_node_that_is_never_dropped_gives_up_its_turn() {
    static NODE: OnceLock<blocking::Node> = OnceLock::new();
    let body = |dir: &Path| {
        let engine = Faulty::delayed(engine(dir), SLOW);
        let node = Node::builder(engine).keep_turn(Duration::from_secs(9)).build().unwrap();
        let node = NODE.get_or_init(|| node.blocking());
        node.lock("k").unwrap().acquire().unwrap().release().unwrap();
        std::process::exit(0);
    };
    ends("exit::a_node_that_is_never_dropped_gives_up_its_turn", body, is_free);
}

/// Another thread may be in the middle of a critical section.
#[test]
fn a_lock_that_is_held_stays_held() {
    let body = |dir: &Path| {
        let node = slow(dir).blocking();
        std::mem::forget(node.lock("k").unwrap().acquire().unwrap());
        std::mem::forget(node);
        std::process::exit(0);
    };
    let is_held = |node: &blocking::Node| {
        let status = node.inspect("k").unwrap().status;
        assert!(matches!(status, LockStatus::Held { .. }), "{status:?}");
    };
    ends("exit::a_lock_that_is_held_stays_held", body, is_held);
}

/// For an engine that does not answer.
#[test]
fn the_end_does_not_wait_for_ever() {
    let body = |dir: &Path| {
        let engine = Faulty::delayed(engine(dir), ms(1));
        let faults = engine.faults();
        let node = Node::builder(engine).build().unwrap().blocking();
        let guard = node.lock("k").unwrap().acquire().unwrap();
        faults.pause(true);
        drop(guard);
        std::process::exit(0);
    };
    ends("exit::the_end_does_not_wait_for_ever", body, |_| {});
}

/// The lock goes to another node, although a thread of this one waits for it.
#[test]
fn a_guard_that_is_dropped_is_released_while_another_thread_waits() {
    let body = |dir: &Path| {
        let here = Faulty::delayed(engine(dir), SLOW);
        let node = Node::builder(here).local_handoffs(0).build().unwrap();
        let here = node.blocking();
        let guard = here.lock("k").unwrap().acquire().unwrap();
        let waits = here.lock("k").unwrap();
        std::thread::spawn(move || waits.acquire());
        while node.waiting("k") == 0 {
            std::thread::yield_now();
        }
        drop(guard);
        std::process::exit(0);
    };
    let is_taken_over = |node: &blocking::Node| {
        // At most the handoff lease of the thread that waited, and not the lease of the guard.
        let lock = node.lock("k").unwrap();
        drop(lock.acquire_timeout(Duration::from_secs(6)).unwrap());
    };
    let test = "exit::a_guard_that_is_dropped_is_released_while_another_thread_waits";
    ends(test, body, is_taken_over);
}

/// Code of the user that runs while the process ends.
#[test]
fn an_observer_whose_destructor_panics_does_not_abort_the_end() {
    struct Panics;
    impl Observer for Panics {}
    impl Drop for Panics {
        fn drop(&mut self) {
            panic!("the destructor of an observer");
        }
    }
    let body = |dir: &Path| {
        let engine = Faulty::delayed(engine(dir), SLOW);
        let node = Node::builder(engine).observer(Panics).build().unwrap().blocking();
        let guard = node.lock("k").unwrap().acquire().unwrap();
        drop(node);
        drop(guard);
        std::process::exit(0);
    };
    ends("exit::an_observer_whose_destructor_panics_does_not_abort_the_end", body, is_free);
}

/// It has none of the parent's nodes, and the parent's locks stay.
#[cfg(target_os = "linux")]
#[test]
fn a_forked_child_that_ends_waits_for_nothing() {
    let body = |dir: &Path| {
        let node = slow(dir).blocking();
        let guard = node.lock("k").unwrap().acquire().unwrap();
        // SAFETY: the child does nothing but to end.
        match unsafe { libc::fork() } {
            0 => std::process::exit(0),
            child => {
                let mut status = 0;
                // SAFETY: `status` is there to be written.
                assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
                assert!(guard.is_valid());
                guard.release().unwrap();
            }
        }
    };
    ends("exit::a_forked_child_that_ends_waits_for_nothing", body, is_free);
}

//! Locks that are tied to processes.

use super::{LIMIT, files, key, open, place, start};
use crate::suite::processes::{ask, tell};
use lockword::cluster::engines::dir::TieStatus;
use lockword::cluster::{FencingToken, Node, NodeId};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Holds and ties the lock, and starts a command that inherits the tie, and one that does not.
#[expect(clippy::zombie_processes, reason = "both outlive this process, and the test ends them")]
pub async fn tie(path: &str) {
    let dir = Arc::new(open(path).await);
    let node = Node::builder(dir.clone()).build().unwrap();
    let held = node.lock("tied").unwrap().acquire().await.unwrap();
    let tie =
        dir.try_tie(held.key(), node.id(), held.token()).await.unwrap().expect("nobody else has");
    let sleep = || {
        let mut command = Command::new("sleep");
        // Not the pipe to the parent, which hears of the end of this process by it.
        command.arg("1000").stdout(Stdio::null());
        command
    };
    let stranger = sleep().spawn().expect("sleep is there");
    let mut command = sleep();
    tie.inherited_by(&mut command).expect("there are descriptors left");
    let child = command.spawn().expect("sleep is there");
    tell(format!("{} {} {} {}", held.token(), child.id(), stranger.id(), node.id().get()));
    match &*ask() {
        "release" => {
            tie.release();
            tell("released");
            ask();
        }
        other => panic!("{other}?"),
    }
}

fn kill(pid: u32) {
    // SAFETY: a signal to a process that a child of ours has started and that nobody has waited for.
    unsafe { libc::kill(pid.try_into().expect("a process"), libc::SIGKILL) };
}

struct Killed(u32);

impl Drop for Killed {
    fn drop(&mut self) {
        kill(self.0);
    }
}

fn words(said: &str) -> (FencingToken, Killed, Killed, NodeId) {
    let numbers: Vec<u64> = said.split(' ').map(|word| word.parse().expect("a number")).collect();
    let process = |number: u64| Killed(number.try_into().expect("a process"));
    let (token, node) = (FencingToken::from_u64(numbers[0]), NodeId::new(numbers[3]));
    (token, process(numbers[1]), process(numbers[2]), node)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tie_ends_with_the_last_process_that_inherited_it_and_not_before() {
    let (_folder, path) = place();
    let dir = open(&path).await;
    let key = key("tied");
    assert_eq!(dir.tied(&key).await.unwrap(), TieStatus::Untied);
    let mut holder = start("dir-tie", &path, "");
    let (token, command, _stranger, node) = words(&holder.hear().expect("it is tied"));
    let (other, next) = (FencingToken::from_u64(token.get() + 1), NodeId::new(1));
    let is_tied = async || {
        let status = dir.tied(&key).await.unwrap();
        assert!(
            dir.try_tie(&key, next, other).await.unwrap().is_none() == (status == TieStatus::Alive)
        );
        status
    };
    assert_eq!(is_tied().await, TieStatus::Alive);
    holder.signal(libc::SIGKILL);
    while holder.hear().is_some() {}
    // The command lives on, and so does the tie: for as long as anybody looks here.
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(200) {
        assert_eq!(is_tied().await, TieStatus::Alive);
    }
    kill(command.0);
    let began = Instant::now();
    while dir.tied(&key).await.unwrap() == TieStatus::Alive {
        assert!(began.elapsed() < LIMIT, "still tied");
    }
    println!("the tie ended {:?} after the command was killed", began.elapsed());
    assert_eq!(dir.tied(&key).await.unwrap(), TieStatus::Ended { node, token });
    // The next holder ties it. A tie that is dropped has ended, one that is released is none.
    let tie = dir.try_tie(&key, next, other).await.unwrap().expect("all of them have ended");
    assert_eq!(dir.tied(&key).await.unwrap(), TieStatus::Alive);
    drop(tie);
    assert_eq!(dir.tied(&key).await.unwrap(), TieStatus::Ended { node: next, token: other });
    dir.try_tie(&key, next, other).await.unwrap().expect("it has ended").release();
    assert_eq!(dir.tied(&key).await.unwrap(), TieStatus::Untied);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_ends_the_tie_of_those_that_still_have_it() {
    let (_folder, path) = place();
    let dir = open(&path).await;
    let mut holder = start("dir-tie", &path, "");
    let (_, _command, _stranger, _) = words(&holder.hear().expect("it is tied"));
    assert_eq!(dir.tied(&key("tied")).await.unwrap(), TieStatus::Alive);
    holder.say("release");
    assert_eq!(holder.hear().as_deref(), Some("released"));
    assert_eq!(dir.tied(&key("tied")).await.unwrap(), TieStatus::Untied);
    holder.say("end");
    // It gives the lock back.
    while holder.hear().is_some() {}
    // Nobody has the tie any more: it goes with the register.
    let left = files(&path);
    assert!(left.contains(&"tied.tie".to_owned()), "{left:?}");
    dir.delete(&key("tied")).await.unwrap();
    let left = files(&path);
    assert!(left.iter().all(|name| name.starts_with('.')), "{left:?}");
}

#[tokio::test]
async fn a_tie_that_is_in_use_outlives_its_register() {
    let (_folder, path) = place();
    let dir = open(&path).await;
    let (key, token) = (key("k"), FencingToken::from_u64(7));
    let _tie = dir.try_tie(&key, NodeId::new(5), token).await.unwrap().expect("nobody else has it");
    dir.delete(&key).await.unwrap();
    super::put(&dir, &key, None, super::write("v")).await;
    dir.delete(&key).await.unwrap();
    assert_eq!(dir.tied(&key).await.unwrap(), TieStatus::Alive);
}

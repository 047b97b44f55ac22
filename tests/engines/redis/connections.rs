//! Connections that fail while nobody looks, and those that only seem to.

use super::{Server, client, key, put, write};
use crate::support::moody::moody;
use futures_util::FutureExt;
use lockword::cluster::Transport;
use std::time::Duration;
use tokio::time::{sleep, timeout};

#[tokio::test]
async fn an_attempt_that_failed_when_nobody_waited_is_not_what_the_next_one_gets() {
    let Some(server) = Server::start() else { return };
    let (port, was_left) = moody(server.port).await;
    let redis = client(&server.address_at(port)).await;
    let written = put(&redis, &key("k"), None, write("x")).await;
    server.process.restart();
    // It finds the connection dead, and begins another.
    while timeout(Duration::from_millis(300), redis.load(&key("k"))).await.is_ok() {}
    was_left.await.expect("the attempt is given up");
    let found = redis.load(&key("k")).await.expect("the server answers since then");
    assert!(found.is_none(), "it kept nothing of {written}");
}

#[tokio::test]
async fn a_request_that_was_given_up_does_not_cost_the_connection() {
    let Some(server) = Server::start() else { return };
    let redis = client(&server.address()).await;
    put(&redis, &key("k"), None, write("x")).await;
    let id = || {
        let list: String = server.say(&["CLIENT", "LIST"]);
        let own = list.lines().find(|line| line.contains(" addr=127.0.0.1")).expect("one");
        own.split(' ').next().expect("its number").to_owned()
    };
    let before = id();
    // Polled once, so that it is sent.
    assert!(redis.load(&key("k")).now_or_never().is_none());
    // Longer than a server may be silent that was asked something.
    sleep(Duration::from_millis(2500)).await;
    assert!(redis.load(&key("k")).await.unwrap().is_some());
    assert_eq!(id(), before);
}

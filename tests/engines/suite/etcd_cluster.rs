//! Three servers that are one etcd, and lose each other.

use super::fixture::{LONG, acquire, client, granted, is_free, node, release, soon, wait};
use crate::support::etcd::Cluster;
use lockword::cluster::conformance::History;
use lockword::cluster::{LossReason, Node};
use std::time::Duration;

struct Fixture {
    cluster: Cluster,
    leader: usize,
    history: History,
}

impl Fixture {
    fn start() -> Option<Self> {
        let cluster = Cluster::start()?;
        let leader = cluster.leader();
        Some(Self { cluster, leader, history: History::new() })
    }

    /// A node whose first server is this one after the leader.
    async fn node(&self, after: usize, lease: Duration) -> Node {
        let address = self.cluster.address((self.leader + after) % 3);
        node(&address, lease, after, &self.history).await
    }

    async fn looker(&self) -> Node {
        Node::builder(client(&self.cluster.address((self.leader + 2) % 3)).await).build().unwrap()
    }

    async fn end(&self, looker: &Node) {
        is_free(looker).await;
        if let Err(violation) = self.history.check() {
            panic!("{violation}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_dies_while_a_node_holds_and_another_waits() {
    let Some(fixture) = Fixture::start() else { return };
    let (one, two) = (fixture.node(0, LONG).await, fixture.node(1, LONG).await);
    let looker = fixture.looker().await;
    let held = acquire(&one).await;
    let token = held.token();
    let waiting = wait(&two, &looker).await;
    fixture.cluster.members[fixture.leader].process.kill9();
    assert!(held.is_valid());
    release(held).await;
    let next = granted(waiting).await;
    assert!(next.token() > token, "{} after {token}", next.token());
    // The minority is lost, and all goes on.
    release(next).await;
    for node in [&one, &two, &one] {
        release(acquire(node).await).await;
    }
    fixture.cluster.members[fixture.leader].process.restart();
    release(acquire(&one).await).await;
    fixture.end(&looker).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_majority_is_lost_and_returns() {
    let Some(fixture) = Fixture::start() else { return };
    let lease = Duration::from_secs(3);
    let (one, two) = (fixture.node(0, lease).await, fixture.node(1, lease).await);
    let looker = fixture.looker().await;
    let held = acquire(&one).await;
    let waiting = wait(&two, &looker).await;
    let others = [1, 2].map(|after| &fixture.cluster.members[(fixture.leader + after) % 3].process);
    for other in others {
        other.kill9();
    }
    let why = soon("the loss", held.lost()).await;
    assert!(matches!(why, LossReason::Expired { .. }), "{why}");
    assert!(!waiting.is_finished(), "no server can have answered");
    // They are ready when there is a leader: both at a time.
    for other in others {
        other.spawn();
    }
    for other in others {
        other.wait_until_ready();
    }
    let next = granted(waiting).await;
    assert!(!held.is_valid(), "two hold");
    assert!(next.token() > held.token(), "{} after {}", next.token(), held.token());
    drop(held);
    release(next).await;
    release(acquire(&one).await).await;
    fixture.end(&looker).await;
}

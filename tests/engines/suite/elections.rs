//! An election: those who follow it hear of a new leader at once, over every engine.

use super::fixture::{Fixture, LONG, soon};
use crate::support::engine::Engine;
use lockword::cluster::Node;
use lockword::cluster::election::{Election, Leader, Leaders};
use std::time::Instant;

fn election(node: &Node) -> Election {
    node.election("suite/leader").expect("a key")
}

/// The first leader that publishes this.
async fn leader(leaders: &mut Leaders, value: &str) -> Leader {
    let found = async {
        loop {
            let leader = leaders.next().await.expect("no end").expect("no error");
            if let Some(leader) = leader.filter(|leader| leader.value.as_deref() == Some(value)) {
                break leader;
            }
        }
    };
    soon("the news of a leader", found).await
}

/// Long before a follower would look by itself, which is after a third of the lease.
pub(super) async fn a_leader_is_found_at_once<E: Engine>() {
    let Some(fixture) = Fixture::<E>::start().await else { return };
    let [one, two, follower] =
        [fixture.node(LONG).await, fixture.node(LONG).await, fixture.node(LONG).await];
    let (of_one, of_two, mut leaders) =
        (election(&one), election(&two), election(&follower).leaders());
    let first = soon("who leads", leaders.next()).await.expect("no end").expect("no error");
    assert_eq!(first, None);
    let mut last_term = None;
    for turn in 0..4 {
        let (candidate, number) = [(&of_one, one.id()), (&of_two, two.id())][turn % 2];
        let value = format!("http://10.0.0.{turn}:8080/");
        let began = Instant::now();
        let leads = soon("the lead", candidate.campaign(&value)).await.expect("it is free");
        let found = leader(&mut leaders, &value).await;
        println!("found after {:?}", began.elapsed());
        assert!(began.elapsed() < LONG / 6, "after {:?}", began.elapsed());
        assert!(found.node == number && !found.is_overdue);
        assert!(Some(leads.token()) > last_term);
        last_term = Some(leads.token());
        soon("to step down", leads.release()).await.expect("it led");
    }
    let asked = soon("who leads", election(&follower).leader()).await.expect("an answer");
    assert_eq!(asked, None);
    fixture.check();
}

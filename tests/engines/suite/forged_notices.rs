//! Notices that a stranger sends, who may not read or write a register.

use super::fixture::{Fixture, KEY, acquire, granted, is_free, release, soon, until, wait};
use crate::support::engine::Engine;
use lockword::cluster::{Node, Transport};
use std::time::Duration;

/// A register that nobody holds and nobody waits for, as a node writes it.
const FREE: &str = r#"{"lockword":"3.0","heartbeat":7,"queue":[]}"#;

/// An engine whose notices anybody can send.
pub trait Forgeable: Engine {
    /// Sends a notice of [`KEY`] to all nodes, and to this one by its own address: with each of these
    /// registers in the form in which the engine once sent them, and with others that make no sense.
    async fn forge(&self, node: &Node, registers: &[(u64, &str)]);
}

/// The lease, in which nobody renews by himself.
const LEASE: Duration = Duration::from_secs(60);

/// A held lock stays held, a node that waits goes on waiting, and gets the lock when it is released.
/// Nothing of what was sent is written.
pub async fn do_no_harm<E: Forgeable>() {
    let Some(fixture) = Fixture::<E>::start().await else { return };
    let (one, two) = (fixture.node(LEASE).await, fixture.node(LEASE).await);
    let looker = fixture.looker().await;
    let engine = super::fixture::client(&fixture.server.address()).await;
    let key = KEY.parse().expect("a key");
    let mut guard = acquire(&one).await;
    for turn in 0..3 {
        // The node that holds the lock watches the key too, from its second turn on.
        let (waiter, holder) = if turn % 2 == 0 { (&two, &one) } else { (&one, &two) };
        let waiting = wait(waiter, &looker).await;
        let before = engine.load(&key).await.expect("it runs").expect("it is held");
        let version = before.version.get();
        let held = String::from_utf8(before.value.to_vec()).expect("JSON");
        let forged = [
            ((1 << 52) - 1, FREE),
            (version, FREE),
            (version + 1, FREE),
            (1, FREE),
            (1, &*held),
            ((1 << 52) - 1, "garbage"),
            (version + 1, r#"{"lockword":"9.0"}"#),
        ];
        for node in [holder, waiter] {
            fixture.server.forge(node, &forged).await;
        }
        // All of them have arrived when a true one has: another node joins the queue and leaves it.
        let third = fixture.node(LEASE).await;
        let joins = wait(&third, &looker).await;
        joins.abort();
        until("it has left", async || {
            looker.inspect(KEY).await.is_ok_and(|state| state.queue.len() == 1)
        })
        .await;
        assert!(guard.is_valid() && !waiting.is_finished(), "turn {turn}: {guard:?}");
        let now = engine.load(&key).await.expect("it runs").expect("it is held");
        let names = |node: &Node, text: &[u8]| {
            String::from_utf8_lossy(text).contains(&node.id().to_string())
        };
        assert!(names(holder, &now.value) && names(waiter, &now.value), "{now:?}");
        release(guard).await;
        guard = granted(waiting).await;
    }
    // The listening goes on: a break is noticed long before the next renewal.
    assert!(looker.break_lock(KEY).await.expect("it runs").is_some());
    soon("the loss", guard.lost()).await;
    drop(guard);
    let last = acquire(&one).await;
    release(last).await;
    is_free(&looker).await;
}

/// What a node of an older version was believed, or what makes no sense; besides the registers.
const NONSENSE: [&str; 7] = ["", " ", "?", "*", "* x", "suite/k x", "\u{e4}"];

/// The true hint of [`KEY`].
fn hint() -> String {
    let hash = KEY.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("{hash:016x}")
}

#[cfg(feature = "postgres")]
mod postgres {
    use super::{Forgeable, KEY, NONSENSE, do_no_harm, hint};
    use crate::support::postgres::PostgresServer;
    use lockword::cluster::Node;

    impl Forgeable for PostgresServer {
        async fn forge(&self, node: &Node, registers: &[(u64, &str)]) {
            // A role that may connect, and nothing else.
            let client = self.client().await;
            let create = "DO $$ BEGIN CREATE ROLE stranger; \
                EXCEPTION WHEN duplicate_object THEN NULL; END $$";
            client.batch_execute(create).await.expect("it is the owner");
            client.batch_execute("SET SESSION AUTHORIZATION stranger").await.expect("a role");
            assert!(client.batch_execute("SELECT FROM public.lockword").await.is_err());
            let hash = hint();
            let mut payloads = vec![hash.clone()];
            payloads.extend(NONSENSE.map(str::to_owned));
            for (version, register) in registers {
                let digits: String = register.bytes().map(|byte| format!("{byte:02x}")).collect();
                payloads.push(format!("{KEY} {version} {digits}"));
                payloads.push(format!("{hash} {version} {digits}"));
            }
            for channel in ["public.lockword".to_owned(), format!("public.lockword:{}", node.id())]
            {
                for payload in &payloads {
                    let sql = "SELECT pg_notify($1::text, $2::text)";
                    client.execute(sql, &[&channel, payload]).await.expect("anybody may");
                }
            }
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn forged_notifications_do_no_harm() {
        do_no_harm::<PostgresServer>().await;
    }
}

#[cfg(feature = "redis")]
mod redis {
    use super::{Forgeable, NONSENSE, do_no_harm, hint};
    use crate::support::engine::Engine;
    use crate::support::redis::DurableRedis;
    use lockword::cluster::Node;

    impl Forgeable for DurableRedis {
        async fn forge(&self, node: &Node, registers: &[(u64, &str)]) {
            let id = node.id().to_string();
            let mut messages: Vec<Vec<u8>> = NONSENSE.map(|text| text.as_bytes().to_vec()).into();
            messages.extend([id.clone().into_bytes(), vec![0xff, 0], vec![b'x'; 100_000]]);
            messages.push(hint().into_bytes());
            for (version, register) in registers {
                for node in [&*id, "*", &*hint()] {
                    messages.push(format!("{node} {version} {register}").into_bytes());
                }
            }
            let client = ::redis::Client::open(self.address()).expect("an address");
            let mut client = client.get_connection().expect("it runs");
            for message in messages {
                // The node itself may not wait, and then nobody hears it.
                for (channel, least) in [("all", 1), (&*id, 0)] {
                    let mut publish = ::redis::cmd("PUBLISH");
                    publish.arg(format!("{{lockword}}:#{channel}")).arg(&message);
                    let heard: usize = publish.query(&mut client).expect("anybody may");
                    assert!(heard >= least, "a node listens");
                }
            }
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn forged_messages_do_no_harm() {
        do_no_harm::<DurableRedis>().await;
    }
}

use super::*;
use crate::support::postgres::Pooler;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A counter that is only right if one task at a time has it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_tasks_on_three_nodes_exclude_each_other() {
    let Some(server) = server().await else { return };
    let Some(pooler) = Pooler::start(&server) else { return };
    for address in [server.address(""), server.address_at(pooler.port, "pooled=true")] {
        let counter = Arc::new(AtomicU64::new(0));
        let mut tasks = tokio::task::JoinSet::new();
        let mut nodes = vec![];
        for n in 0..3 {
            // Handoffs within a node are few, so that the lock goes from node to node.
            let engine = client(&address).await;
            nodes.push(node(&engine, &format!("n{n}")).local_handoffs(2).build().unwrap());
        }
        for task in 0..10 {
            let (lock, counter) = (lock(&nodes[task % 3], "counted"), counter.clone());
            tasks.spawn(async move {
                let mut last = None;
                for _ in 0..20 {
                    let guard = lock.acquire().await.unwrap();
                    assert!(Some(guard.token()) > last, "{guard:?}");
                    last = Some(guard.token());
                    let count = counter.load(Ordering::Relaxed);
                    tokio::task::yield_now().await;
                    counter.store(count + 1, Ordering::Relaxed);
                    guard.release().await.unwrap();
                }
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
        assert_eq!(counter.load(Ordering::Relaxed), 200, "{address}");
        for node in nodes {
            node.shutdown().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_behind() {
    let Some(server) = server().await else { return };
    let by_hand = server.client().await;
    let engine = client(&server.address("")).await;
    let (a, b) = (node(&engine, "a").build().unwrap(), node(&engine, "b").build().unwrap());
    for n in 0..1000 {
        lock(&a, &format!("k{}", n % 10)).acquire().await.unwrap().release().await.unwrap();
    }
    // No one waits: no notification, and no connection for them.
    assert_eq!(connections(&by_hand).await, 1);
    let guard = lock(&a, "k0").acquire().await.unwrap();
    for n in 0..100 {
        let lock = lock(&b, "k0");
        let waiting = tokio::time::timeout(ms(n % 10), lock.acquire()).await;
        assert!(waiting.is_err(), "{waiting:?}");
    }
    until("the queue is empty", async || a.inspect("k0").await.unwrap().queue.is_empty()).await;
    assert!(connections(&by_hand).await <= 2);
    guard.release().await.unwrap();
    lock(&b, "k0").acquire().await.unwrap().release().await.unwrap();
    let sql = "SELECT count(*), count(*) FILTER (WHERE idle_since IS NULL AND key <> '') \
        FROM public.lockword";
    let row = by_hand.query_one(sql, &[]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (11, 0), "ten keys and the floor");
    for node in [a, b] {
        assert_eq!(node.shutdown().await.indeterminate, []);
    }
    drop(engine);
    until("the connections are closed", async || connections(&by_hand).await == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_wakes_the_next_node_by_a_notification() {
    let Some(server) = server().await else { return };
    let (first, second) = (client(&server.address("")).await, client(&server.address("")).await);
    // Without a wake-up it would take a third of that.
    let lease = Duration::from_secs(60);
    let (a, b) = (
        node(&first, "a").lease(lease).build().unwrap(),
        node(&second, "b").lease(lease).build().unwrap(),
    );
    for _ in 0..20 {
        let guard = lock(&a, "k").acquire().await.unwrap();
        let waits = lock(&b, "k");
        let waiting = tokio::spawn(async move { waits.acquire().await });
        until("it is in the queue", async || a.inspect("k").await.unwrap().queue.len() == 1).await;
        let began = Instant::now();
        guard.release().await.unwrap();
        let guard = waiting.await.unwrap().unwrap();
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        guard.release().await.unwrap();
    }
}

/// The engine by `connect`, as a user has it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_by_its_address_locks() {
    let Some(server) = server().await else { return };
    let engine = lockword::cluster::connect(&server.address("")).await.unwrap();
    assert_eq!(engine.capabilities().name, "postgres");
    let node = Node::builder(engine).build().unwrap();
    let guard = lock(&node, "jobs/nightly").acquire().await.unwrap();
    let sql = "SELECT convert_from(value, 'UTF8')::json -> 'holder' ->> 'node', version \
        FROM public.lockword WHERE key = 'jobs/nightly'";
    let row = server.client().await.query_one(sql, &[]).await.unwrap();
    assert_eq!(row.get::<_, String>(0), node.id().to_string());
    assert_eq!(guard.token().get() >> 10, u64::try_from(row.get::<_, i64>(1)).unwrap());
}

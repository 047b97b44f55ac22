//! Nodes that keep a place in the queue for their own next acquisition.

use super::*;

/// A node whose users come back at once keeps its place; when it shuts down, nothing of it stays.
#[tokio::test(start_paused = true)]
async fn a_node_that_shuts_down_gives_up_its_place() {
    let engine = Memory::new();
    let node = builder(engine.clone()).keep_place(Duration::from_secs(5)).build().unwrap();
    let lock = node.lock("k").unwrap();
    let (other, theirs) = lock_of(engine);
    let queue = async || other.inspect("k").await.unwrap().queue.len();
    let mut guard = lock.acquire().await.unwrap();
    // The second time a watch is in force: the first acquisition found the lock free.
    for is_kept in [false, false, true] {
        let waits = spawn(&theirs);
        settle().await;
        guard.release().await.unwrap();
        let (held, _) = waits.await.unwrap();
        assert_eq!(queue().await, usize::from(is_kept));
        if is_kept {
            let began = Instant::now();
            node.shutdown().await;
            assert_eq!((queue().await, began.elapsed() < ms(10)), (0, true));
            return;
        }
        let waits = spawn(&lock);
        settle().await;
        drop(held);
        guard = waits.await.unwrap().0;
    }
}

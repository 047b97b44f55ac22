//! Many nodes that contend for one key, and whether they get it in the order of the queue.

use super::{Sample, runtime};
use lockword::cluster::layers::{Counting, Counts, Faulty, Plan};
use lockword::cluster::{
    Capabilities, Exchange, Key, Memory, Node, NodeId, Transport, TransportError, Version,
    Versioned, Watch, Write, async_trait,
};
use serde_json::Value;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How many writes there were of what was written, by version: the history of the register.
type History = Arc<Mutex<Vec<(Version, Arc<[u8]>)>>>;

/// The engine, with its history.
#[derive(Clone)]
struct Recorded {
    engine: Memory,
    history: History,
}

#[async_trait]
impl Transport for Recorded {
    async fn load(&self, key: &Key) -> Result<Option<Versioned>, TransportError> {
        self.engine.load(key).await
    }

    async fn compare_exchange(
        &self,
        key: &Key,
        expected: Option<Version>,
        new: Write,
    ) -> Result<Exchange, TransportError> {
        let value = new.value.clone();
        let response = self.engine.compare_exchange(key, expected, new).await;
        if let Ok(Exchange::Swapped(version)) = response {
            self.history.lock().expect("no panic").push((version, value));
        }
        response
    }

    async fn watch(&self, key: &Key, node: NodeId) -> Result<Watch, TransportError> {
        self.engine.watch(key, node).await
    }

    fn capabilities(&self) -> Capabilities {
        self.engine.capabilities()
    }
}

/// Of the grants in this history, the part that went past somebody who stood before in the queue.
fn out_of_turn(history: &History) -> f64 {
    let mut history = std::mem::take(&mut *history.lock().expect("no panic"));
    // Two answers can come in another order than the writes.
    history.sort_unstable_by_key(|(version, _)| *version);
    let read = |(_, value): &(Version, Arc<[u8]>)| -> Value {
        serde_json::from_slice(value).expect("the register is JSON")
    };
    let registers: Vec<Value> = history.iter().map(read).collect();
    let (mut grants, mut found) = (0_u32, 0_u32);
    for pair in registers.windows(2) {
        let holder = &pair[1]["holder"]["nonce"];
        if holder.is_null() || *holder == pair[0]["holder"]["nonce"] {
            continue;
        }
        grants += 1;
        let first = &pair[0]["queue"][0]["nonce"];
        found += u32::from(!first.is_null() && first != holder);
    }
    f64::from(found) / f64::from(grants.max(1))
}

/// A slice: `count` nodes, a task each, that hold the lock for `hold` and want it again at once.
pub fn nodes(slice: Duration, count: usize, hold: Duration, plan: Option<&Plan>) -> Sample {
    let runtime = runtime(2);
    let sample = runtime.block_on(async {
        let (history, counts) = (History::default(), Counts::default());
        let engine = Recorded { engine: Memory::new(), history: history.clone() };
        let grants = Arc::new(Mutex::new(vec![0_u32; count]));
        let stop = Arc::new(AtomicBool::new(false));
        let nodes: Vec<_> = (0..count)
            .map(|number| {
                let counted = Counting::into(engine.clone(), counts.clone());
                let builder = match plan {
                    Some(plan) => Node::builder(Faulty::new(counted, plan.clone(), number as u64)),
                    None => Node::builder(counted),
                };
                builder.request_timeout(Duration::from_millis(50)).build().expect("a node")
            })
            .collect();
        let work = |(number, node): (usize, &Node)| {
            let lock = node.lock("bench").expect("a key");
            let (grants, stop) = (grants.clone(), stop.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let guard = lock.acquire().await.expect("it is granted");
                    grants.lock().expect("no panic")[number] += 1;
                    if !hold.is_zero() {
                        tokio::time::sleep(hold).await;
                    }
                    // Indeterminate, where there are faults: that is for others to look at.
                    let _ = guard.release().await;
                }
            })
        };
        let workers: Vec<_> = nodes.iter().enumerate().map(work).collect();
        // Everyone is in: the start is not measured.
        while grants.lock().expect("no panic").contains(&0) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        grants.lock().expect("no panic").fill(0);
        history.lock().expect("no panic").clear();
        counts.take();
        let start = Instant::now();
        tokio::time::sleep(slice).await;
        let (elapsed, operations) = (start.elapsed(), counts.now());
        let grants = grants.lock().expect("no panic").clone();
        let out_of_turn = out_of_turn(&history);
        stop.store(true, Ordering::Relaxed);
        for worker in workers {
            worker.await.expect("no panic");
        }
        let (least, most) = (grants.iter().min(), grants.iter().max());
        let evenness = f64::from(*least.unwrap_or(&0)) / f64::from(*most.unwrap_or(&0).max(&1));
        let all: u32 = grants.iter().sum();
        let sample = Sample::new(elapsed, u64::from(all.max(1)), operations);
        Sample { out_of_turn, evenness, ..sample }
    });
    runtime.shutdown_background();
    sample
}

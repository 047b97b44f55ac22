//! Many nodes that contend for one key, and whether they get the lock in the order of the queue.

use super::{Sample, runtime};
use lockword::cluster::layers::{Counts, Faulty, Intercept, Interceptor, Plan};
use lockword::cluster::{
    Exchange, Key, Memory, Node, Transport, TransportError, Version, Write, async_trait,
};
use serde_json::Value;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Records the values that the register had, and their versions. A clone shares the record.
#[derive(Clone, Default)]
struct Values(Arc<Mutex<Vec<WrittenValue>>>);

type WrittenValue = (Version, Arc<[u8]>);

#[async_trait]
impl Interceptor<Memory> for Values {
    async fn compare_exchange(
        &self,
        inner: &Memory,
        key: &Key,
        expected: Option<Version>,
        new: Write,
    ) -> Result<Exchange, TransportError> {
        let value = new.value.clone();
        let response = inner.compare_exchange(key, expected, new).await;
        if let Ok(Exchange::Swapped(version)) = response {
            self.0.lock().expect("no panic").push((version, value));
        }
        response
    }
}

/// The part of the grants in this history that passed over a node which was first in the queue.
fn out_of_turn(history: &Values) -> f64 {
    let mut history = std::mem::take(&mut *history.0.lock().expect("no panic"));
    // Responses may arrive in another order than that of the writes.
    history.sort_unstable_by_key(|(version, _)| *version);
    let read = |(_, value): &WrittenValue| -> Value {
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

/// One slice: `count` nodes, with one task each, which holds the lock for `hold` and acquires it again
/// at once.
pub fn nodes(slice: Duration, count: usize, hold: Duration, plan: Option<&Plan>) -> Sample {
    let runtime = runtime(2);
    let sample = runtime.block_on(async {
        let (history, counts) = (Values::default(), Counts::default());
        let engine = Intercept::new(Memory::new(), history.clone());
        let grants = Arc::new(Mutex::new(vec![0_u32; count]));
        let stop = Arc::new(AtomicBool::new(false));
        let nodes: Vec<_> = (0..count)
            .map(|number| {
                let counted = Intercept::new(engine.clone(), counts.clone());
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
                    // With faults the result may be indeterminate.
                    let _ = guard.release().await;
                }
            })
        };
        let workers: Vec<_> = nodes.iter().enumerate().map(work).collect();
        // The start, until each node has had the lock, is not measured.
        while grants.lock().expect("no panic").contains(&0) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        grants.lock().expect("no panic").fill(0);
        history.0.lock().expect("no panic").clear();
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

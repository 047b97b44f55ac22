//! The laws of a transport, what this one adds to them, and locks over it.

use super::{open, place};
use lockword::cluster::Dir;
use lockword::cluster::conformance::Suite;
use lockword::cluster::layers::{Faulty, Plan};
use std::sync::Arc;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_suite_passes_with_deletions_and_lost_requests_and_responses() {
    let (_folder, path) = place();
    let engine = Arc::new(open(&path).await);
    let plan = Plan { timeout: Duration::from_millis(5), ..Plan::default() };
    let make = move || {
        let (path, plan) = (path.clone(), plan.clone());
        async move { Faulty::new(open(&path).await, plan, 1) }
    };
    let lose = |client: Arc<Faulty<Dir>>, _| {
        match fastrand::u8(..3) {
            0 => client.faults().lose_next_request(),
            1 => client.faults().lose_next_response(),
            _ => client.faults().delay_next_write(),
        }
        std::future::ready(())
    };
    let delete = move |key| {
        let engine = engine.clone();
        async move {
            engine.delete(&key).await.expect("nothing is in the way");
        }
    };
    let suite = Suite::new(make).delete_hook(delete).indeterminate_hook(lose);
    let report = suite.run().await.unwrap_or_else(|broken| panic!("{broken}"));
    println!("{report}");
    assert!(report.not_checked.iter().all(|one| one.why.contains("clock_hook")), "{report}");
    assert!(report.indeterminate > 0, "{report}");
}

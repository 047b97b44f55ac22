//! What the metrics report, as Prometheus would read it.

use crate::support::{builder, ms, poll_once, settle};
use lockword::cluster::layers::{Faulty, Plan};
use lockword::cluster::{Key, Memory, Node};
use metrics_exporter_prometheus::PrometheusBuilder;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[path = "../examples/prometheus.rs"]
mod prometheus;

/// The value of the metric that is written like this. `None`: there is no such line.
fn value(text: &str, metric: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(metric)?.strip_prefix(' '));
    line.map(|value| value.parse().expect("a number"))
}

#[tokio::test(start_paused = true)]
async fn every_acquisition_and_every_guard_is_counted_once() {
    let faulty = Faulty::new(Memory::new(), Plan::default(), 1);
    let faults = faulty.faults();
    let recorder = PrometheusBuilder::new().build_recorder();
    let metrics = recorder.handle();
    // The runtime of the test has one thread.
    let _recording = ::metrics::set_default_local_recorder(&recorder);
    let node = builder(faulty, "a").build().unwrap();
    let at =
        |metric: &str| value(&metrics.render(), &format!("lockword_{metric}")).unwrap_or(f64::NAN);
    let (waiting, held) = ("waiting{engine=\"memory\"}", "held{engine=\"memory\"}");
    let lock = node.lock("k").unwrap();
    let guard = lock.acquire().await.unwrap();
    assert_eq!((at(waiting), at(held)), (0.0, 1.0));
    let mut second = Box::pin(lock.acquire());
    assert!(poll_once(second.as_mut()).is_pending());
    assert_eq!((at(waiting), at(held)), (1.0, 1.0));
    drop(second);
    assert!(lock.acquire_timeout(ms(5)).await.is_err());
    assert!(lock.try_acquire().await.is_err());
    assert_eq!((at(waiting), at(held)), (0.0, 1.0));
    for why in ["cancelled", "timeout", "busy"] {
        let metric = format!("not_acquired_total{{engine=\"memory\",why=\"{why}\"}}");
        assert_eq!(at(&metric), 1.0, "{why}");
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    guard.release().await.unwrap();
    assert_eq!(at(held), 0.0);
    assert_eq!(at("released_total{engine=\"memory\",outcome=\"held\"}"), 1.0);
    let text = metrics.render();
    let sum = value(&text, "lockword_hold_seconds_sum{engine=\"memory\"}").unwrap();
    assert!((2.0..2.1).contains(&sum), "{sum}");
    // One that is lost, and given back later; and one whose loss only the release shows.
    let guard = lock.acquire().await.unwrap();
    node.break_lock_of("k", node.id(), "a test").await.unwrap().unwrap();
    guard.lost().await;
    assert_eq!(at(held), 0.0);
    drop(guard);
    settle().await;
    let guard = lock.acquire().await.unwrap();
    node.break_lock("k").await.unwrap().unwrap();
    assert_eq!(at(held), 1.0);
    assert!(guard.release().await.is_err());
    assert_eq!(at(held), 0.0);
    assert_eq!(at("lost_total{engine=\"memory\",why=\"broken\"}"), 2.0);
    assert_eq!(at("broken_total{engine=\"memory\"}"), 2.0);
    assert_eq!(at("released_total{engine=\"memory\",outcome=\"lost\"}"), 2.0);
    assert_eq!(at("hold_seconds_count{engine=\"memory\"}"), 3.0);
    assert_eq!(at("wait_seconds_count{engine=\"memory\",via=\"free\"}"), 3.0);
    // A request that fails is counted by its kind.
    faults.set(Plan { refuse: 1.0, ..Plan::default() });
    assert!(lock.try_acquire().await.is_err());
    let errors = "request_errors_total{engine=\"memory\",operation=\"compare_exchange\",kind=\"unavailable\"}";
    assert!(at(errors) >= 1.0, "{}", metrics.render());
}

#[tokio::test(start_paused = true)]
async fn keys_are_told_apart_by_group() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let _recording = ::metrics::set_default_local_recorder(&recorder);
    let group = |key: &Key| key.as_str().split('/').next().unwrap_or_default().to_owned();
    let node = builder(Memory::new(), "a").metrics_group(group).build().unwrap();
    for key in ["a/1", "a/2", "b/1"] {
        drop(node.lock(key).unwrap().acquire().await.unwrap());
    }
    settle().await;
    let released = |group: &str| {
        let metric = "lockword_released_total";
        let labels = format!("engine=\"memory\",group=\"{group}\",outcome=\"held\"");
        value(&recorder.handle().render(), &format!("{metric}{{{labels}}}"))
    };
    assert_eq!((released("a"), released("b"), released("c")), (Some(2.0), Some(1.0), None));
    // A function that makes a group of each key costs memory for 1,000 of them, and no more.
    for number in 0..1_100 {
        drop(node.lock(format!("{number}/")).unwrap().acquire().await.unwrap());
    }
    settle().await;
    assert_eq!((released("900"), released("1050")), (Some(1.0), None));
    assert_eq!(released("other"), Some(102.0));
}

/// The example, as a scrape reads it.
#[tokio::test]
async fn a_scrape_of_the_example_shows_the_locks_and_the_state_of_the_node() {
    let metrics = prometheus::install().expect("no other recorder in this process");
    let node = Node::builder(Memory::new()).build().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(prometheus::serve(listener, metrics, node.clone()));
    let _guard = node.lock("k").unwrap().acquire().await.unwrap();
    let mut scrape = TcpStream::connect(address).await.unwrap();
    scrape.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").await.unwrap();
    let mut text = String::new();
    scrape.read_to_string(&mut text).await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    for line in ["# TYPE lockword_wait_seconds histogram", "# HELP lockword_held"] {
        assert!(body.contains(line), "{line}: {body}");
    }
    // Other tests of this process have nodes, too.
    assert!(value(body, "lockword_held{engine=\"memory\"}").unwrap() >= 1.0, "{body}");
    assert_eq!(value(body, "lockword_engine_reachable{engine=\"memory\"}"), Some(1.0), "{body}");
    let left = value(body, "lockword_least_lease_left_seconds{engine=\"memory\"}").unwrap();
    assert!((1.0..=10.0).contains(&left), "{left}");
    server.abort();
}

//! The metrics of locks at an endpoint for Prometheus.
//!
//! ```sh
//! cargo run --features metrics --example prometheus &
//! curl http://127.0.0.1:9464/metrics
//! ```

use lockword::cluster::{Node, connect};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use std::error::Error;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// From a handoff within the process to a lease.
const SECONDS: [f64; 9] = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 60.0];

/// Where the metrics go. This comes before the first node, which asks for its instruments when it is built.
pub fn install() -> Result<PrometheusHandle, Box<dyn Error>> {
    let builder = PrometheusBuilder::new();
    Ok(builder
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
        .install_recorder()?)
}

/// Answers each request with the metrics.
pub async fn serve(listener: TcpListener, metrics: PrometheusHandle, node: Node) {
    while let Ok((mut client, _)) = listener.accept().await {
        // Some of the metrics are the state of the node, at this moment.
        node.health();
        metrics.run_upkeep();
        let body = metrics.render();
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n",
            body.len()
        );
        let mut request = [0; 1024];
        let _ = client.read(&mut request).await;
        let _ = client.write_all(format!("{head}{body}").as_bytes()).await;
    }
}

#[allow(dead_code, reason = "a test uses the rest")]
#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let metrics = install()?;
    let node = Node::builder(connect("memory:").await?)
        // Not the key itself: a program may have any number of them.
        .metrics_group(|key| key.as_str().split('/').next().unwrap_or_default().to_owned())
        .build()?;
    let listener = TcpListener::bind("127.0.0.1:9464").await?;
    println!("http://{}/metrics", listener.local_addr()?);
    tokio::spawn(serve(listener, metrics, node.clone()));
    for round in 0.. {
        let guard = node.lock(format!("jobs/{}", round % 3))?.acquire().await?;
        tokio::time::sleep(Duration::from_millis(100)).await;
        guard.release().await?;
    }
    Ok(())
}

//! The spans of locks as OpenTelemetry exports them. Here they stay in memory, and are printed at the end.
//!
//! ```sh
//! cargo run --features tracing --example opentelemetry
//! ```

use lockword::cluster::{Node, connect};
use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider};
use std::error::Error;
use tracing::{Instrument, Subscriber, info_span};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;

/// Has the spans of this crate exported, and those of the program. Requests to the engine are of level TRACE, and left
/// out.
pub fn subscriber(provider: &SdkTracerProvider) -> impl Subscriber + Send + Sync + use<> {
    let targets =
        Targets::new().with_target("lockword", LevelFilter::DEBUG).with_default(LevelFilter::INFO);
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("my-service"));
    tracing_subscriber::registry().with(targets).with(layer)
}

#[allow(dead_code, reason = "a test uses the rest")]
#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // In its place comes the exporter of your collector, such as that of `opentelemetry-otlp`.
    let exporter = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build();
    tracing::subscriber::set_global_default(subscriber(&provider))?;
    let node = Node::builder(connect("memory:").await?).build()?;
    let work = async {
        let guard = node.lock("jobs/nightly")?.acquire().await?;
        guard.release().await?;
        Ok::<_, Box<dyn Error>>(())
    };
    work.instrument(info_span!("nightly")).await?;
    node.shutdown().await;
    for span in exporter.get_finished_spans()? {
        println!("{}: {:?}", span.name, span.attributes);
    }
    provider.shutdown()?;
    Ok(())
}

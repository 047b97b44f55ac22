//! The spans and events of a lock, as a subscriber sees them.

use crate::support::{builder, ms, poll_once, settle};
use ::tracing::field::{Field, Visit};
use ::tracing::span::{Attributes, Id, Record};
use ::tracing::subscriber::DefaultGuard;
use ::tracing::{Dispatch, Event, Instrument, Subscriber, info_span};
use lockword::cluster::{Memory, Node};
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

#[path = "../examples/opentelemetry.rs"]
mod opentelemetry;

/// Makes this the subscriber of the present thread.
///
/// While there is only one in the process, `tracing` asks the thread that is first at a span or an event whether anybody
/// wants it, and believes that for all. Other tests run beside these, and nobody wants anything there. So there are
/// two more, which stay.
fn subscribe(subscriber: impl Subscriber + Send + Sync) -> DefaultGuard {
    static OTHERS: OnceLock<[Dispatch; 2]> = OnceLock::new();
    OTHERS.get_or_init(|| [(); 2].map(|()| Dispatch::new(tracing_subscriber::registry())));
    ::tracing::subscriber::set_default(subscriber)
}

/// What was reported of a span.
#[derive(Clone, Debug, Default)]
struct Seen {
    name: &'static str,
    parent: Option<&'static str>,
    fields: BTreeMap<&'static str, String>,
    events: Vec<String>,
    is_closed: bool,
}

/// The spans and events of this crate, in order.
#[derive(Clone, Default)]
struct Spans(Arc<Mutex<Vec<(u64, Seen)>>>);

impl Spans {
    fn change(&self, id: &Id, change: impl FnOnce(&mut Seen)) {
        let mut spans = self.0.lock().unwrap();
        // The number of a span that is closed is used again.
        let known = spans.iter_mut().rev().find(|(known, _)| *known == id.into_u64());
        if let Some((_, span)) = known {
            change(span);
        }
    }

    fn named(&self, name: &str) -> Vec<Seen> {
        let spans = self.0.lock().unwrap();
        spans.iter().map(|(_, span)| span.clone()).filter(|span| span.name == name).collect()
    }
}

/// The fields as text. A number has `n:` before it.
struct Fields<'a>(&'a mut BTreeMap<&'static str, String>);

impl Visit for Fields<'_> {
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name(), format!("n:{value}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Spans {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, cx: Context<'_, S>) {
        let (metadata, parent) =
            (attributes.metadata(), cx.span(id).and_then(|span| span.parent()));
        let parent = parent.map(|parent| parent.name());
        let mut seen = Seen { name: metadata.name(), parent, ..Seen::default() };
        attributes.record(&mut Fields(&mut seen.fields));
        if seen.name != "work" {
            assert_eq!(metadata.target(), "lockword");
        }
        self.0.lock().unwrap().push((id.into_u64(), seen));
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, _: Context<'_, S>) {
        self.change(id, |span| values.record(&mut Fields(&mut span.fields)));
    }

    fn on_event(&self, event: &Event<'_>, cx: Context<'_, S>) {
        assert_eq!(event.metadata().target(), "lockword");
        let mut fields = BTreeMap::new();
        event.record(&mut Fields(&mut fields));
        let text = format!("{} {}", event.metadata().level(), fields["message"]);
        if let Some(span) = cx.event_span(event) {
            self.change(&span.id(), |span| span.events.push(text));
        }
    }

    fn on_close(&self, id: Id, _: Context<'_, S>) {
        self.change(&id, |span| span.is_closed = true);
    }
}

#[tokio::test(start_paused = true)]
async fn a_wait_and_a_hold_are_spans_with_numbers_and_what_happened_in_them() {
    let spans = Spans::default();
    let _subscriber = subscribe(tracing_subscriber::registry().with(spans.clone()));
    let engine = Memory::new();
    let [a, b] = ["a", "b"].map(|label| builder(engine.clone(), label).build().unwrap());
    let held = b.lock("k").unwrap().acquire().await.unwrap();
    let (lock, work) = (a.lock("k").unwrap(), info_span!("work"));
    let waiting = tokio::spawn(async move { lock.acquire().await.unwrap() }.instrument(work));
    settle().await;
    tokio::time::sleep(ms(1_500)).await;
    held.release().await.unwrap();
    let guard = waiting.await.unwrap();
    let token = guard.token().get();
    let wait = spans.named("acquire").pop().unwrap();
    assert_eq!((wait.parent, wait.is_closed), (Some("work"), true), "{wait:?}");
    assert_eq!(wait.fields["key"], "k");
    assert_eq!(wait.fields["engine"], "memory");
    assert_eq!(wait.fields["via"], "handoff");
    assert_eq!(wait.fields["token"], format!("n:{token}"));
    let waited: u64 = wait.fields["waited_us"].strip_prefix("n:").unwrap().parse().unwrap();
    assert!((1_400_000..1_600_000).contains(&waited), "{waited}");
    assert!(wait.events.contains(&"DEBUG acquired".to_owned()), "{wait:?}");
    let hold = spans.named("hold").pop().unwrap();
    assert_eq!((hold.parent, hold.is_closed), (Some("work"), false), "{hold:?}");
    // A renewal is noticed by the background task, and a loss, too.
    tokio::time::sleep(Duration::from_secs(4)).await;
    a.break_lock_of("k", a.id(), "it hangs").await.unwrap().unwrap();
    guard.lost().await;
    let hold = spans.named("hold").pop().unwrap();
    assert!(hold.events.contains(&"TRACE renewed".to_owned()), "{hold:?}");
    assert!(hold.events.contains(&"WARN lost".to_owned()), "{hold:?}");
    assert_eq!(hold.fields["lost"], "a broke it: it hangs");
    assert!(!hold.is_closed);
    drop(guard);
    let hold = spans.named("hold").pop().unwrap();
    assert_eq!((&*hold.fields["outcome"], hold.is_closed), ("lost", true), "{hold:?}");
    assert!(hold.fields["held_us"].starts_with("n:"), "{hold:?}");
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_ends_without_the_lock_says_why() {
    let spans = Spans::default();
    let _subscriber = subscribe(tracing_subscriber::registry().with(spans.clone()));
    let node = builder(Memory::new(), "a").build().unwrap();
    let lock = node.lock("k").unwrap();
    let guard = lock.acquire().await.unwrap();
    assert!(lock.acquire_timeout(ms(5)).await.is_err());
    let mut cancelled = Box::pin(lock.acquire());
    assert!(poll_once(cancelled.as_mut()).is_pending());
    drop(cancelled);
    let waits = spans.named("acquire");
    assert_eq!(waits.len(), 3);
    assert!(waits[1].fields["error"].contains("k"), "{waits:?}");
    assert_eq!((&*waits[2].fields["error"], waits[2].is_closed), ("cancelled", true));
    // The engine confirms the release after the guard is gone.
    drop(guard);
    settle().await;
    let hold = spans.named("hold").pop().unwrap();
    assert_eq!((&*hold.fields["outcome"], hold.is_closed), ("held", true), "{hold:?}");
    assert!(hold.events.contains(&"DEBUG released".to_owned()), "{hold:?}");
}

/// Panics when one of these is called for a span of this crate.
struct Panics(&'static str);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Panics {
    fn on_enter(&self, _: &Id, _: Context<'_, S>) {
        assert_ne!(self.0, "enter");
    }

    fn on_exit(&self, _: &Id, _: Context<'_, S>) {
        assert_ne!(self.0, "exit");
    }

    fn on_close(&self, _: Id, _: Context<'_, S>) {
        assert_ne!(self.0, "close");
    }
}

/// It is nobody else's matter, as that of an observer.
#[tokio::test(start_paused = true)]
async fn a_subscriber_that_panics_ends_no_node_and_keeps_no_loss_from_being_told() {
    for when in ["enter", "exit", "close"] {
        let subscriber = tracing_subscriber::registry().with(Panics(when));
        let _subscriber = subscribe(subscriber);
        let node = builder(Memory::new(), "a").build().unwrap();
        let lock = node.lock("k").unwrap();
        let guard = lock.acquire().await.unwrap();
        tokio::time::sleep(Duration::from_secs(15)).await;
        assert!(guard.is_valid(), "{when}: it is renewed");
        node.break_lock("k").await.unwrap().unwrap();
        guard.lost().await;
        drop(guard);
        lock.acquire().await.unwrap().release().await.unwrap();
    }
}

/// Where the subscriber wants no spans of this crate, its events leave those of the user alone.
#[tokio::test(start_paused = true)]
async fn nothing_is_recorded_in_a_span_of_the_user() {
    use tracing_subscriber::filter::{LevelFilter, Targets};

    let spans = Spans::default();
    let targets =
        Targets::new().with_target("lockword", LevelFilter::WARN).with_default(LevelFilter::INFO);
    let subscriber = tracing_subscriber::registry().with(targets).with(spans.clone());
    let _subscriber = subscribe(subscriber);
    let node = builder(Memory::new(), "a").build().unwrap();
    let lock = node.lock("k").unwrap();
    let empty = ::tracing::field::Empty;
    let work = info_span!("work", error = empty, token = empty, outcome = empty, via = empty);
    async {
        let guard = lock.acquire().await.unwrap();
        assert!(lock.try_acquire().await.is_err());
        guard.release().await.unwrap();
    }
    .instrument(work)
    .await;
    assert_eq!(spans.named("work").pop().unwrap().fields, BTreeMap::new());
}

/// A plain thread has the same spans.
#[test]
fn a_blocking_caller_has_the_spans_too() {
    let spans = Spans::default();
    let _subscriber = subscribe(tracing_subscriber::registry().with(spans.clone()));
    let node = Node::builder(Memory::new()).build().unwrap().blocking();
    node.lock("k").unwrap().acquire().unwrap().release().unwrap();
    assert_eq!((spans.named("acquire").len(), spans.named("hold").len()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn opentelemetry_exports_the_spans_as_the_example_does() {
    let exporter = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build();
    let _subscriber = subscribe(opentelemetry::subscriber(&provider));
    let node = builder(Memory::new(), "a").build().unwrap();
    let work = async {
        let guard = node.lock("jobs/nightly").unwrap().acquire().await.unwrap();
        guard.release().await.unwrap();
    };
    work.instrument(info_span!("nightly")).await;
    settle().await;
    let spans = exporter.get_finished_spans().unwrap();
    let named = |name: &str| -> SpanData {
        spans.iter().find(|span| span.name == name).cloned().unwrap_or_else(|| panic!("{spans:?}"))
    };
    let (work, wait, hold) = (named("nightly"), named("acquire"), named("hold"));
    for span in [&wait, &hold] {
        assert_eq!(span.parent_span_id, work.span_context.span_id());
        let key = span.attributes.iter().find(|field| field.key.as_str() == "key");
        assert_eq!(key.unwrap().value.as_str(), "jobs/nightly");
    }
    let held = hold.attributes.iter().find(|field| field.key.as_str() == "held_us").unwrap();
    assert!(matches!(held.value, ::opentelemetry::Value::I64(_)), "{held:?}");
}

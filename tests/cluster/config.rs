//! The settings of a node: ranges, the default label, and the runtime.

use crate::support::ms;
use lockword::cluster::{ConfigError, LockStatus, Memory, Node, NodeBuilder};
use std::time::Duration;

fn setting(change: impl FnOnce(NodeBuilder) -> NodeBuilder) -> (&'static str, String) {
    let error = change(Node::builder(Memory::new())).build().unwrap_err();
    let text = error.to_string();
    let ConfigError::OutOfRange { setting, .. } = error else { panic!("{text}") };
    (setting, text)
}

#[tokio::test]
async fn each_setting_has_its_range() {
    let hours = |n: u64| Duration::from_secs(n * 3_600);
    let cases: [(&str, (&str, String)); 14] = [
        ("lease", setting(|b| b.lease(ms(99)))),
        ("lease", setting(|b| b.lease(hours(2)))),
        ("claim_window", setting(|b| b.claim_window(Duration::ZERO))),
        ("claim_window", setting(|b| b.claim_window(Duration::from_secs(11)))),
        ("handoff_lease", setting(|b| b.handoff_lease(Duration::ZERO))),
        ("handoff_lease", setting(|b| b.handoff_lease(Duration::from_secs(11)))),
        ("label", setting(|b| b.label("x".repeat(65)))),
        ("label", setting(|b| b.label("a\nb"))),
        ("local_handoffs", setting(|b| b.local_handoffs(1_000_001))),
        ("local_handoff_window", setting(|b| b.local_handoff_window(Duration::from_secs(11)))),
        ("request_timeout", setting(|b| b.request_timeout(Duration::from_secs(11)))),
        ("unavailable_timeout", setting(|b| b.unavailable_timeout(hours(25)))),
        ("queue_limit", setting(|b| b.queue_limit(0))),
        ("poll", setting(|b| b.poll(Duration::ZERO))),
    ];
    for (expected, (setting, text)) in cases {
        assert_eq!(expected, setting);
        assert!(text.starts_with(setting) && text.contains("must be"), "{text}");
    }
    let (_, text) = setting(|b| b.lease(ms(99)));
    assert_eq!(text, "lease is 99ms, but must be from 100ms to 3600s");
}

#[tokio::test]
async fn the_limits_themselves_are_allowed() {
    let built = [
        Node::builder(Memory::new()).lease(ms(100)).build(),
        Node::builder(Memory::new()).lease(Duration::from_secs(3_600)).build(),
        Node::builder(Memory::new()).label("").build(),
        Node::builder(Memory::new()).local_handoffs(0).local_handoff_window(Duration::ZERO).build(),
        Node::builder(Memory::new())
            .unavailable_timeout(Duration::ZERO)
            .queue_limit(10_000)
            .build(),
    ];
    for node in built {
        let node = node.unwrap();
        let guard = node.lock("k").unwrap().acquire().await.unwrap();
        guard.release().await.unwrap();
    }
}

#[test]
fn a_runtime_without_timers_is_refused() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    // Tokio reports it by a panic, whose message is of no interest here.
    std::panic::set_hook(Box::new(|_| {}));
    let error = Node::builder(Memory::new()).runtime(runtime.handle().clone()).build();
    drop(std::panic::take_hook());
    let error = error.unwrap_err();
    assert!(matches!(error, ConfigError::Runtime { .. }), "{error}");
    assert!(error.to_string().contains("enable_all"), "{error}");
}

/// The process has no file left for the runtime of the thread.
#[cfg(target_os = "linux")]
#[test]
fn a_thread_that_cannot_be_started_is_an_error_and_the_next_build_works() {
    let limit_files = |files: u64| {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: the limit is ours to write and to read.
        unsafe {
            assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit), 0);
            let before = std::mem::replace(&mut limit.rlim_cur, files);
            assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &limit), 0);
            before
        }
    };
    let name = "config::a_thread_that_cannot_be_started_is_an_error_and_the_next_build_works";
    crate::child::alone(name, Duration::from_secs(60), || {
        // In a runtime, where the end of another one must not wait.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let before = limit_files(0);
            let error = Node::builder(Memory::new()).build();
            limit_files(before);
            let error = error.unwrap_err();
            assert!(matches!(error, ConfigError::Thread { .. }), "{error}");
            assert!(error.to_string().contains("cannot be started"), "{error}");
            let node = Node::builder(Memory::new()).build().unwrap();
            node.lock("k").unwrap().acquire().await.unwrap().release().await.unwrap();
        });
    });
}

#[tokio::test]
async fn the_default_label_names_the_program_and_the_process() {
    let node = Node::builder(Memory::new()).build().unwrap();
    let _guard = node.lock("k").unwrap().acquire().await.unwrap();
    let status = node.inspect("k").await.unwrap().status;
    let LockStatus::Held { label, .. } = status else { panic!("{status:?}") };
    assert!(label.len() <= 64 && label.ends_with(&format!("[{}]", std::process::id())), "{label}");
    assert!(label.contains("cluster"), "{label}");
}

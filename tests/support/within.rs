//! A test that hangs says so, instead of hanging the run.

use std::sync::mpsc;
use std::time::Duration;

/// Far longer than anything here takes, on a machine that is busy with other things too.
const LIMIT: Duration = Duration::from_secs(120);

/// Runs `test` in a thread of its own; fails when it has not ended after two minutes.
pub fn within_limit<T: Send + 'static>(test: impl FnOnce() -> T + Send + 'static) -> T {
    let (send, receive) = mpsc::channel();
    let thread = std::thread::Builder::new()
        .name(std::thread::current().name().unwrap_or("test").to_owned())
        .spawn(move || {
            let result = test();
            // The receiver is gone when the limit has passed and the test has failed already.
            let _ = send.send(());
            result
        })
        .expect("a thread starts");
    match receive.recv_timeout(LIMIT) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("no end after {LIMIT:?}: a lost wake-up?"),
        Ok(()) | Err(mpsc::RecvTimeoutError::Disconnected) => match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        },
    }
}

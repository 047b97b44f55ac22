//! Whether the server answers.

use super::subscriptions::Subscriptions;
use crate::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// A connection on which something is asked and nothing is heard for so long is given up.
const SILENCE: Duration = Duration::from_secs(2);

/// What was asked on a connection, and not answered.
pub(super) struct Silence {
    state: Mutex<State>,
    subscriptions: Arc<Subscriptions>,
}

#[derive(Default)]
struct State {
    /// How many wait for an answer.
    waiting: usize,
    /// Since when nothing was heard, if something was asked. Without anybody who waits only until a
    /// probe, which waits itself, is answered.
    since: Option<Instant>,
}

impl Silence {
    pub(super) fn new(subscriptions: Arc<Subscriptions>) -> Self {
        Self { state: Mutex::default(), subscriptions }
    }

    pub(super) fn is_long(&self) -> bool {
        self.state.lock().since.is_some_and(|since| since.elapsed() >= SILENCE)
    }

    /// Something is asked.
    pub(super) fn wait(&self) -> Waiting<'_> {
        let mut now = self.state.lock();
        now.waiting += 1;
        now.since.get_or_insert_with(Instant::now);
        Waiting(self)
    }
}

/// Someone who waits for an answer.
pub(super) struct Waiting<'a>(&'a Silence);

impl Waiting<'_> {
    /// It has come. One step: of two who hear at a time the last one knows that nobody waits.
    pub(super) fn heard(self) {
        let mut now = self.0.state.lock();
        now.waiting -= 1;
        now.since = (now.waiting > 0).then(Instant::now);
        drop(now);
        std::mem::forget(self);
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut now = self.0.state.lock();
        now.waiting -= 1;
        let nobody_waits = now.waiting == 0;
        drop(now);
        // The answer may come and nobody sees it: that is no reason to give the connection up.
        if nobody_waits {
            self.0.subscriptions.probe();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Silence;
    use std::thread;

    /// Else a connection that is idle, and well, would be given up.
    #[test]
    fn when_all_have_heard_there_is_no_silence() {
        let silence = Silence::new(std::sync::Arc::default());
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for round in 0..100_000 {
                        silence.wait().heard();
                        let now = silence.state.lock();
                        assert!(now.waiting > 0 || now.since.is_none(), "in round {round}");
                    }
                });
            }
        });
    }

    #[test]
    fn who_gives_up_leaves_the_silence_to_the_probe() {
        let silence = Silence::new(std::sync::Arc::default());
        let (first, second) = (silence.wait(), silence.wait());
        drop(first);
        drop(second);
        assert!(silence.state.lock().since.is_some() && !silence.is_long());
        // The probe.
        silence.wait().heard();
        assert!(silence.state.lock().since.is_none());
    }
}

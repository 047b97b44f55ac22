//! Whether notifications can be sent now. A write never fails for its notice: where the server refuses the notice,
//! the write is made without, and the nodes that wait poll.

use crate::Mutex;
use crate::cluster::{NodeId, TransportError, Watch};
use futures_util::{StreamExt, stream};
use std::collections::HashSet;
use std::time::Duration;
use tokio::time::Instant;

/// How long nothing is notified after the server has refused it. Then one write tries it again.
const PAUSE: Duration = Duration::from_secs(5);

/// What is known about notifications, from all connections of this engine.
#[derive(Default)]
pub(super) struct NotifyState(Mutex<Option<Refusal>>);

struct Refusal {
    why: TransportError,
    until: Instant,
    /// The nodes that were told.
    told: HashSet<NodeId>,
}

impl NotifyState {
    /// Whether to notify now. After a pause this is so for the first one that asks.
    pub(super) fn may_try(&self) -> bool {
        let mut state = self.0.lock();
        let Some(refusal) = &mut *state else { return true };
        let now = Instant::now();
        let is_over = now >= refusal.until;
        if is_over {
            refusal.until = now + PAUSE;
        }
        is_over
    }

    /// A notice was sent.
    pub(super) fn works(&self) {
        *self.0.lock() = None;
    }

    /// A notice was refused, and nothing else.
    pub(super) fn refused(&self, why: TransportError) {
        let mut state = self.0.lock();
        let told = state.take().map(|refusal| refusal.told).unwrap_or_default();
        *state = Some(Refusal { why, until: Instant::now() + PAUSE, told });
    }

    /// What a node gets in place of a watch while nothing is notified: once the reason, as an error, of which
    /// the node's observer learns; then watches that end at once. With both of them the node polls.
    ///
    /// # Errors
    ///
    /// The reason.
    pub(super) fn no_watch(&self, node: NodeId) -> Result<Watch, TransportError> {
        if let Some(refusal) = &mut *self.0.lock()
            && refusal.told.insert(node)
        {
            return Err(refusal.why.clone());
        }
        Ok(stream::empty().boxed())
    }
}

#[cfg(test)]
mod tests {
    use super::{NotifyState, PAUSE};
    use crate::cluster::{NodeId, TransportError};
    use tokio::time::advance;

    #[tokio::test(start_paused = true)]
    async fn it_is_tried_again_by_one_and_told_once_to_each_node() {
        let (state, nodes) = (NotifyState::default(), [NodeId::new(1), NodeId::new(2)]);
        assert!(state.may_try());
        for _ in 0..3 {
            state.refused(TransportError::denied("no"));
            assert!(!state.may_try());
            advance(PAUSE).await;
            assert!(state.may_try() && !state.may_try(), "one of them");
        }
        for node in nodes {
            assert!(state.no_watch(node).is_err(), "it is told");
            assert!(state.no_watch(node).is_ok(), "once");
        }
        state.works();
        assert!(state.may_try());
        state.refused(TransportError::denied("again"));
        assert!(state.no_watch(nodes[0]).is_err(), "it is told again");
    }
}

//! A watch with faults.

use super::{Faults, between, pass};
use crate::cluster::{TransportError, Versioned, Watch};
use fastrand::Rng;
use futures_util::future::{Either, select};
use futures_util::{StreamExt, stream};
use std::collections::VecDeque;
use std::pin::pin;
use std::time::Duration;
use tokio::time::{sleep, timeout};

type Item = Result<Option<Versioned>, TransportError>;

/// A watch on its way through the faults.
struct Disturbed {
    inner: Watch,
    faults: Faults,
    dice: Rng,
    /// What is to be yielded next.
    ready: VecDeque<Item>,
    ended: bool,
}

/// What happens to one item.
struct Throw {
    delay: Duration,
    held: Option<Duration>,
    repeated: bool,
    swallowed: bool,
    ends: bool,
}

/// `inner`, disturbed as the plan of `faults` says, by dice of its own.
pub(super) fn disturbed(inner: Watch, faults: Faults, dice: Rng) -> Watch {
    let inner = inner.fuse().boxed();
    let watch = Disturbed { inner, faults, dice, ready: VecDeque::new(), ended: false };
    Box::pin(stream::unfold(watch, |mut watch| async {
        let item = watch.next().await?;
        Some((item, watch))
    }))
}

impl Disturbed {
    async fn next(&mut self) -> Option<Item> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                return Some(item);
            }
            if self.ended {
                return None;
            }
            let Some(item) = self.uncut(None).await else {
                return Some(Err(self.cut_off().await));
            };
            let Some(item) = item else {
                self.ended = true;
                continue;
            };
            self.take(item).await;
        }
    }

    /// The inner watch's next item, within `limit` if there is one; the outer `None` if the way is cut.
    async fn uncut(&mut self, limit: Option<Duration>) -> Option<Option<Item>> {
        let mut route = self.faults.0.route.subscribe();
        let cut = pin!(route.wait_for(|route| route.cut));
        let next = async {
            match limit {
                Some(limit) => timeout(limit, self.inner.next()).await.unwrap_or_default(),
                None => self.inner.next().await,
            }
        };
        // The cut first: what comes at the same time is lost.
        match select(cut, pin!(next)).await {
            Either::Left(_) => None,
            Either::Right((item, _)) => Some(item),
        }
    }

    /// Silence, and then an error.
    async fn cut_off(&mut self) -> TransportError {
        self.ended = true;
        self.ready.clear();
        sleep(self.faults.plan().timeout).await;
        TransportError::unavailable("a fault: the watch is cut off")
    }

    /// Does to `item` what the dice say.
    async fn take(&mut self, item: Item) {
        let Throw { delay, held, repeated, swallowed, ends } = self.throw();
        pass(delay).await;
        self.faults.go().await;
        if self.faults.is_cut() {
            let error = self.cut_off().await;
            self.ready.push_back(Err(error));
        } else if item.is_err() {
            self.ended = true;
            self.ready.push_back(item);
        } else if ends {
            self.ended = true;
            self.ready.push_back(Err(TransportError::unavailable("a fault: the watch ends")));
        } else if !swallowed {
            let mut last = None;
            if let Some(limit) = held {
                match self.uncut(Some(limit)).await {
                    Some(Some(Ok(successor))) => self.ready.push_back(Ok(successor)),
                    Some(Some(Err(error))) => last = Some(Err(error)),
                    // No successor in time, or the end.
                    Some(None) => {}
                    None => {
                        let error = self.cut_off().await;
                        return self.ready.push_back(Err(error));
                    }
                }
            }
            if repeated {
                self.ready.push_back(item.clone());
            }
            self.ready.push_back(item);
            self.ended |= last.is_some();
            self.ready.extend(last);
        }
    }

    fn throw(&mut self) -> Throw {
        let (plan, dice) = (self.faults.plan(), &mut self.dice);
        let delay = between(dice, &plan.delay);
        let hold = between(dice, &plan.lateness);
        let [reorder, repeat, swallow, end] = [(); 4].map(|()| dice.f64());
        Throw {
            delay,
            held: (reorder < plan.reorder).then_some(hold),
            repeated: repeat < plan.repeat,
            swallowed: swallow < plan.swallow,
            ends: end < plan.end,
        }
    }
}

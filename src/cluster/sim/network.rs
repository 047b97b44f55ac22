//! Between a node and the engine: what is late, lost, refused, doubled.

use super::clock::{MS, Moment};
use super::node::{Input, Life, Request, What};
use super::store::Author;
use super::world::{Item, Watcher, World};
use crate::cluster::protocol::Event;
use crate::cluster::transport::{
    Exchange, TransportError, Version, Versioned, Wake, Wakeups, Write,
};
use std::time::Duration;

impl World {
    /// A request leaves its node.
    pub(super) fn send(&mut self, request: Request) {
        self.counts.requests += 1;
        let profile = &self.profile;
        let [delayed, lost, refused, doubted] =
            [profile.delayed, profile.lost_before, profile.refused, profile.doubted];
        let (late, profile_timeout) = (profile.late, profile.request_timeout);
        let mut after = self.latency(request.node);
        if self.chance(delayed) {
            let most = if self.chance(500) { late.min(profile_timeout) } else { late };
            after += self.random.u64(..=most);
        }
        let is_write = matches!(request.what, What::Exchange(..));
        if self.chance(refused) {
            self.tell(format_args!(
                "the engine refuses {}'s request {}",
                request.node, request.request
            ));
            let error = TransportError::unavailable("refused");
            return self.answer_error(&request, after, error);
        }
        if is_write && self.chance(doubted) {
            let at = self.latency(request.node);
            let error = TransportError::indeterminate("the connection was reset");
            self.answer_error(&request, at, error);
        }
        if self.chance(lost) {
            self.tell(format_args!("{}'s request {} is lost", request.node, request.request));
            return;
        }
        if let What::Exchange(expected, _) = &request.what {
            self.in_flight.push((request.node, request.key, *expected, request.number));
        }
        self.later(after, Item::Arrive(request));
    }

    fn answer_error(&mut self, request: &Request, after: Moment, error: TransportError) {
        let &Request { node, key, request, number, ref what } = request;
        let event = match what {
            What::Load => Event::Loaded { request, result: Err(error) },
            What::Exchange(..) => Event::Exchanged { request, result: Err(error) },
        };
        self.later(after, Item::AtNode(node, Input::Response { key, number, event }));
    }

    /// A request arrives at the engine, and takes effect.
    pub(super) fn arrive(&mut self, request: Request) {
        let Request { node, key, request, number, what } = request;
        self.in_flight.retain(|&(.., other)| other != number);
        if self.nodes[node].is_parted {
            return self.tell(format_args!("{node}'s request {request} is cut off"));
        }
        let event = match what {
            What::Load => {
                let seen = self.stores[key].load();
                self.tell(format_args!(
                    "engine: {node} loads key {key} (request {request}): {}",
                    show(seen.as_ref())
                ));
                Event::Loaded { request, result: Ok(seen) }
            }
            What::Exchange(expected, write) => {
                let exchanged = self.exchange(key, expected, &write, Author::Node(node));
                let Some(exchanged) = exchanged else { return };
                self.tell(format_args!(
                    "engine: {node} writes key {key} (request {request}), expecting {}: {}",
                    expected.map_or(0, Version::get),
                    match &exchanged {
                        Exchange::Swapped(version) => {
                            format!("{version} = {}", String::from_utf8_lossy(&write.value))
                        }
                        Exchange::Mismatch(seen) => format!("no, it is {}", show(seen.as_ref())),
                    }
                ));
                Event::Exchanged { request, result: Ok(exchanged) }
            }
        };
        let mut after = self.latency(node);
        if self.chance(self.profile.delayed) {
            after += self.random.u64(..=self.profile.late.min(2 * self.profile.request_timeout));
        }
        if self.chance(self.profile.lost_after) {
            return self.tell(format_args!("the answer to {node}'s request {request} is lost"));
        }
        self.later(after, Item::AtNode(node, Input::Response { key, number, event }));
    }

    /// A write at the engine. `None` if it broke the contract.
    pub(super) fn exchange(
        &mut self,
        key: usize,
        expected: Option<Version>,
        write: &Write,
        by: Author,
    ) -> Option<Exchange> {
        let step = if self.chance(300) { self.random.u64(1..1000) } else { 1 };
        match self.stores[key].exchange(expected, write, by, step) {
            Ok(exchanged) => {
                if let Exchange::Swapped(version) = exchanged {
                    self.counts.writes += 1;
                    self.check_write(key);
                    if let Author::Node(node) = by {
                        self.count_inversions(node, key);
                    }
                    self.note_joins(key);
                    if let (true, Some(retention)) = (write.idle, self.profile.retention) {
                        self.later(retention, Item::Drop { key, version });
                    }
                    self.notice(key, write.wake);
                }
                Some(exchanged)
            }
            Err(why) => {
                self.violate(why);
                None
            }
        }
    }

    /// Tells those who watch.
    fn notice(&mut self, key: usize, wake: Wake) {
        let watchers = self.watchers[key].clone();
        for Watcher { node, watch } in watchers {
            let concerns = match (self.wakeups, wake) {
                (Wakeups::Poll, _) => false,
                (Wakeups::PushToAll, _) | (_, Wake::Everybody) => true,
                (_, Wake::Node(id)) => id == self.nodes[node].id,
                (_, Wake::Nobody) => false,
            };
            if !concerns || self.chance(self.profile.notice_lost) {
                continue;
            }
            let times = 1 + u8::from(self.chance(self.profile.notice_twice));
            for _ in 0..times {
                let empty = self.chance(self.profile.notice_empty);
                let seen = if empty { None } else { self.stores[key].load() };
                let mut after = self.latency(node);
                if self.chance(self.profile.delayed) {
                    after += self.random.u64(..=self.profile.late);
                }
                self.later(after, Item::AtNode(node, Input::Noticed { key, watch, seen }));
            }
            if self.chance(self.profile.watch_ends) {
                self.end_watch(key, watch);
            }
        }
    }

    /// A watch ends at the engine, and its node learns of it.
    pub(super) fn end_watch(&mut self, key: usize, watch: u64) {
        if let Some(at) = self.watchers[key].iter().position(|watcher| watcher.watch == watch) {
            let Watcher { node, .. } = self.watchers[key].remove(at);
            let after = self.latency(node);
            self.later(after, Item::AtNode(node, Input::WatchEnded { key, watch }));
        }
    }

    /// A node asks for a watch.
    pub(super) fn ask_for_watch(&mut self, node: usize, key: usize) {
        let watch = self.number();
        self.nodes[node].seats[key].watch = Some((watch, false));
        let mut after = self.latency(node);
        if self.chance(self.profile.delayed) {
            after += self.random.u64(..=self.profile.late);
        }
        let fails = self.chance(self.profile.refused) || self.chance(self.profile.lost_before);
        if !fails {
            self.later(after, Item::Subscribe { node, key, watch });
        }
        // If nothing else is heard of it in time, the driver gives it up.
        let timeout = self.profile.request_timeout;
        let at = self.on_its_clock(node, Duration::from_nanos(timeout));
        let result = Err(TransportError::unavailable("no answer to the subscription"));
        self.schedule(at, Item::AtNode(node, Input::Watching { key, watch, result }));
    }

    pub(super) fn subscribe(&mut self, node: usize, key: usize, watch: u64) {
        if self.nodes[node].is_parted || self.nodes[node].life == Life::Dead {
            return;
        }
        self.tell(format_args!("engine: {node} watches key {key}"));
        self.watchers[key].push(Watcher { node, watch });
        let after = self.latency(node);
        self.later(after, Item::AtNode(node, Input::Watching { key, watch, result: Ok(()) }));
    }

    pub(super) fn unwatch(&mut self, node: usize, key: usize) {
        if let Some((watch, _)) = self.nodes[node].seats[key].watch.take() {
            self.watchers[key].retain(|watcher| watcher.watch != watch);
        }
    }

    /// A thread uses the resource behind the lock.
    pub(super) fn send_access(&mut self, node: usize, key: usize) {
        let Some(held_lease) = self.nodes[node].seats[key].local.held_lease else { return };
        let token = held_lease.token;
        // Most take time, so that they come late; the others are checked strictly.
        let after = match self.random.u8(..4) {
            0 => 0,
            1 => self.random.u64(..2 * self.profile.lease),
            _ => self.random.u64(..20 * MS),
        };
        let must_pass = after == 0 && !held_lease.is_excused;
        if after == 0 {
            self.access(node, key, token, must_pass);
        } else {
            self.later(after, Item::Access { node, key, token, must_pass });
        }
    }
}

fn show(seen: Option<&Versioned>) -> String {
    seen.map_or("nothing".to_owned(), |seen| {
        format!("{} = {}", seen.version, String::from_utf8_lossy(&seen.value))
    })
}

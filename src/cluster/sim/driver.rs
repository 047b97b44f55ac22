//! What the real driver does around a machine: it tells it what comes, does what it asks for, gives
//! up what is not answered in time, and keeps one timer.

use super::clock::MS;
use super::node::{Input, Request, Step, What};
use super::world::{Item, World};
use crate::cluster::protocol::{Action, Event, Intent};
use crate::cluster::transport::TransportError;
use std::time::Duration;

impl World {
    /// Something comes to a node that runs.
    pub(super) fn take_in(&mut self, node: usize, input: Input) {
        let is_parted = self.nodes[node].is_parted;
        match input {
            Input::Timer { key, number } => self.timer(node, key, number),
            Input::Send(request) => {
                if !self.awaits(node, request.key, request.number) {
                    // It was given up before it left.
                } else if self.chance(self.profile.freeze_at_send) && !self.is_calm() {
                    self.happen_at_once(Item::Freeze { node, again: false });
                    self.nodes[node].inbox.push(Input::Send(request));
                } else {
                    self.send(request);
                }
            }
            Input::Response { key, number, event } => {
                if !is_parted && self.forget(node, key, number) {
                    self.handle(node, key, event);
                }
            }
            Input::TimedOut { key, number, request, is_load } => {
                if self.forget(node, key, number) {
                    self.handle(
                        node,
                        key,
                        if is_load {
                            let result = Err(TransportError::unavailable("no answer"));
                            Event::Loaded { request, result }
                        } else {
                            let result = Err(TransportError::indeterminate("no answer"));
                            Event::Exchanged { request, result }
                        },
                    );
                }
            }
            Input::Watching { key, watch, result } => {
                let lost = is_parted && result.is_ok();
                if !lost && self.nodes[node].seats[key].watch == Some((watch, false)) {
                    self.nodes[node].seats[key].watch = result.is_ok().then_some((watch, true));
                    if result.is_err() {
                        self.watchers[key].retain(|watcher| watcher.watch != watch);
                    }
                    self.handle(node, key, Event::Watching(result));
                }
            }
            Input::Noticed { key, watch, seen } => match self.nodes[node].seats[key].watch {
                Some((present, true)) if present == watch && !is_parted => {
                    self.handle(node, key, Event::Noticed(seen));
                }
                // It waits behind the answer to the subscription.
                Some((present, false)) if present == watch && !is_parted => {
                    self.later(MS, Item::AtNode(node, Input::Noticed { key, watch, seen }));
                }
                _ => {}
            },
            Input::WatchEnded { key, watch } => match self.nodes[node].seats[key].watch {
                Some((present, true)) if present == watch => {
                    self.nodes[node].seats[key].watch = None;
                    self.handle(node, key, Event::WatchEnded);
                }
                Some((present, false)) if present == watch => {
                    self.later(MS, Item::AtNode(node, Input::WatchEnded { key, watch }));
                }
                _ => {}
            },
            Input::Local { key, step } => self.act(node, key, step),
        }
    }

    fn awaits(&self, node: usize, key: usize, number: u64) -> bool {
        self.nodes[node].seats[key].awaited.contains(&number)
    }

    /// The answer is here, or given up: whether it was still waited for.
    fn forget(&mut self, node: usize, key: usize, number: u64) -> bool {
        let awaited = &mut self.nodes[node].seats[key].awaited;
        let before = awaited.len();
        awaited.retain(|request| *request != number);
        awaited.len() < before
    }

    fn timer(&mut self, node: usize, key: usize, number: u64) {
        let now = self.clock(node);
        let seat = &mut self.nodes[node].seats[key];
        match seat.timer {
            Some((at, present)) if present == number && now >= at => {
                seat.timer = None;
                seat.spins = if seat.spins.0 == now { (now, seat.spins.1 + 1) } else { (now, 1) };
                if seat.spins.1 > 3 {
                    return self.violate(format!("{node} is woken at one time again and again"));
                }
                self.handle(node, key, Event::Timer);
            }
            // Its clock stood still.
            Some((at, present)) if present == number => {
                let at = self.nodes[node].clock.when(at);
                self.schedule(at, Item::AtNode(node, Input::Timer { key, number }));
            }
            _ => {}
        }
    }

    /// Tells the machine, and does what it asks for.
    pub(super) fn handle(&mut self, node: usize, key: usize, event: Event) {
        self.tell_machine(node, key, event);
        let handled = self.nodes[node].seats[key].handled;
        if let Some((of, after, _)) = &self.interruption
            && (*of, *after) == (node, handled)
        {
            let (_, _, events) = self.interruption.take().expect("it was looked at");
            for event in events {
                if self.interrupt(node, key, &event) {
                    self.tell_machine(node, key, event);
                }
            }
        }
    }

    fn tell_machine(&mut self, node: usize, key: usize, event: Event) {
        let now = self.clock(node);
        if self.history.keeps_lines() {
            let text = shorten(&event);
            self.tell(format_args!("{node}/{key} at {}: {text}", now.since_origin().as_nanos()));
        } else {
            self.tell(format_args!(""));
        }
        let seat = &mut self.nodes[node].seats[key];
        seat.failed_at = match &event {
            Event::Loaded { result: Err(_), .. } | Event::Exchanged { result: Err(_), .. } => {
                Some(self.now)
            }
            Event::Loaded { .. } | Event::Exchanged { .. } => None,
            // Who tries asks once, and at once.
            Event::Intent(Intent::Try) => None,
            _ => seat.failed_at,
        };
        seat.handled += 1;
        seat.machine.handle(event, now);
        let mut count = 0;
        while let Some(action) = self.nodes[node].seats[key].machine.next_action() {
            count += 1;
            if count > 16 {
                return self.violate(format!("{node} asks for ever more"));
            }
            if self.history.keeps_lines() {
                self.tell(format_args!("{node}/{key}   {}", shorten(&action)));
            }
            self.perform(node, key, action);
        }
        self.check_seat(node, key);
        self.set_timer(node, key);
    }

    fn perform(&mut self, node: usize, key: usize, action: Action) {
        match action {
            Action::Load { request } => self.request(node, key, request, What::Load),
            Action::CompareExchange { request, expected, write } => {
                self.request(node, key, request, What::Exchange(expected, write));
            }
            Action::Watch => self.ask_for_watch(node, key),
            Action::Unwatch => self.unwatch(node, key),
            Action::Granted(grant) => self.granted(node, key, grant),
            Action::Renewed { version, deadline } => self.renewed(node, key, version, deadline),
            Action::Lost(loss) => self.lost(node, key, &loss),
            Action::Released(outcome) => self.released(node, key, outcome),
            Action::Failed(failure) => self.failed(node, key, &failure),
        }
    }

    fn request(&mut self, node: usize, key: usize, request: u64, what: What) {
        let number = self.number();
        let is_load = matches!(what, What::Load);
        self.check_request(node, key);
        let seat = &mut self.nodes[node].seats[key];
        seat.awaited.push(number);
        seat.asked_at = self.now;
        if seat.awaited.len() > 1 {
            return self.violate(format!("{node} has two requests under way"));
        }
        let after = self.random.u64(1..MS / 20);
        self.later(
            after,
            Item::AtNode(node, Input::Send(Request { node, key, request, number, what })),
        );
        let timeout = Duration::from_nanos(self.profile.request_timeout);
        let at = self.on_its_clock(node, timeout);
        self.schedule(at, Item::AtNode(node, Input::TimedOut { key, number, request, is_load }));
    }

    fn set_timer(&mut self, node: usize, key: usize) {
        let wake_at = self.nodes[node].seats[key].machine.wake_at();
        let is_set = self.nodes[node].seats[key].timer.map(|(at, _)| at);
        if wake_at == is_set {
            return;
        }
        let number = self.number();
        self.nodes[node].seats[key].timer = wake_at.map(|at| (at, number));
        let Some(at) = wake_at else { return };
        let exact = self.nodes[node].clock.when(at);
        let late = match self.random.u8(..8) {
            0 => self.random.u64(..=self.profile.timer_late),
            1..4 => 0,
            _ => self.random.u64(..=self.profile.timer_late.min(MS)),
        };
        let moment = exact.max(self.now).saturating_add(late);
        self.schedule(moment, Item::AtNode(node, Input::Timer { key, number }));
    }

    /// What a thread does, later.
    pub(super) fn step_later(&mut self, node: usize, key: usize, after: u64, step: Step) {
        self.later(after, Item::AtNode(node, Input::Local { key, step }));
    }
}

/// Its text, with the bytes of a value as text.
fn shorten(what: &impl std::fmt::Debug) -> String {
    let text = format!("{what:?}");
    let mut short = String::new();
    let mut rest = text.as_str();
    while let Some((before, after)) = rest.split_once("value: [") {
        short += before;
        rest = after.split_once(']').map_or("", |(_, rest)| rest);
        short += "value";
    }
    short + rest
}

//! Which entries of the register are this machine's own: to confirm, to renew, and to remove.
//!
//! # Copies of a node
//!
//! After a snapshot that was resumed twice, or a bare `fork` system call that runs no handlers of
//! `pthread_atfork`, two processes have the state of one machine and send its requests. (A `fork` that is
//! noticed makes no copy: the child leaves the nodes of its parent alone.) They differ in what they draw
//! from then on ([`IdSource`](super::IdSource)). So the holder draws each heartbeat anew and remembers those that it wrote:
//! a register that names its claim with another heartbeat was written by a copy, and the lease is lost
//! ([`Loss::Copied`](super::Loss::Copied)). Of two copies that hold the lock, one at most renews, since both expect the same
//! version, and the other one finds that heartbeat. Until then both hold it, with equal tokens; and if one
//! releases it meanwhile, a third node may hold it beside the other copy, with a larger token.
//!
//! As the holder, only a claim with a heartbeat that this machine wrote is its own, to confirm or to
//! remove, or one that was handed the lock and has not written since. When one of two copies that wait with one
//! claim has written, the other one leaves the claim to it and joins the queue by a new one, or rests. If both
//! were handed the lock, or if the copy was made while the write that takes the lock was in flight, they are as
//! two copies that hold the lock.

use super::Machine;
use super::break_note::BreakNote;
use crate::cluster::protocol::MachineSettings;
use crate::cluster::protocol::register::{ClaimId, Register};

/// A claim that this machine drew.
#[derive(Clone, Debug)]
pub(super) struct OwnClaim {
    pub(super) id: ClaimId,
    /// The heartbeats that the register may have by a write of this machine that makes or keeps this
    /// claim the holder: the one that a response has confirmed, and those of writes that are in flight
    /// or of unknown outcome.
    heartbeats: Vec<u64>,
    /// It was drawn by the present event, so that no copy of this machine has it.
    is_new: bool,
}

impl Machine {
    /// The claim of the present acquisition.
    pub(super) fn claim_id(&mut self) -> ClaimId {
        self.claim.get_or_insert_with(|| OwnClaim::draw(&self.settings)).id
    }

    /// The present claim has had the lock. The register may still name it.
    pub(super) fn end_claim(&mut self) {
        self.traces.extend(self.claim.take());
    }

    /// A heartbeat for a write that makes or keeps this node the holder. It differs from the present
    /// one, and from all that a copy of this node draws.
    ///
    /// If the claim was drawn just now, the heartbeat is a part of the claim's own number, which spares a
    /// draw. It must not come again: an observer that has seen it before would take the holder for dead,
    /// and a copy that has the claim would take it for its own.
    ///
    /// It has 53 bits: many readers of JSON take a number for a float.
    pub(super) fn draw_heartbeat(&self) -> u64 {
        let first = self.claim.as_ref().filter(|claim| claim.is_new);
        let drawn = first.map_or_else(|| self.settings.ids.draw(), |claim| claim.id.nonce) >> 11;
        if drawn == self.view.heartbeat() { drawn ^ 1 } else { drawn }
    }

    /// Whether this is the claim of the present acquisition.
    pub(super) fn is_present(&self, claim: ClaimId) -> bool {
        self.claim.as_ref().is_some_and(|present| present.id == claim)
    }

    /// Whether the claim of the present acquisition is the holder in this register.
    pub(super) fn is_holder(&self, register: &Register) -> bool {
        self.claim.as_ref().is_some_and(|present| register.is_held_by(present.id))
    }

    /// Whether this machine drew the claim, and has not forgotten it.
    pub(super) fn is_own(&self, claim: ClaimId) -> bool {
        self.is_present(claim) || self.traces.iter().any(|trace| trace.id == claim)
    }

    /// Whether the holder is this machine's to remove: a claim of it, by a write of it and not of a copy.
    pub(super) fn holds(&self, register: &Register) -> bool {
        self.claim.iter().chain(&self.traces).any(|claim| claim.holds(register))
    }

    /// If a copy that waited with the same claim has taken the lock by it, the claim is the copy's, and
    /// this machine needs another. Nobody but a copy can have done that: to release the lock is to hand
    /// it to another. The lock is not held, and no request is in flight.
    pub(super) fn leave_claim_to_copy(&mut self) {
        let Ok(register) = &self.view.register else { return };
        self.claim.take_if(|claim| register.is_held_by(claim.id) && !claim.holds(register));
        // A claim gets the lock at most once, and this one was broken before this node knew that it had it.
        let broken = BreakNote::of(register);
        self.claim.take_if(|claim| {
            broken.is_some_and(|note| note.is_of(claim.id)) && !register.is_held_by(claim.id)
        });
    }

    /// The event has been processed: a copy that is made from now on has the claim.
    pub(super) fn claim_is_known(&mut self) {
        if let Some(claim) = &mut self.claim {
            claim.is_new = false;
        }
    }

    /// A write of this register is sent.
    pub(super) fn note_sent_heartbeat(&mut self, register: &Register) {
        if let Some(claim) = self.holding_claim(register) {
            claim.heartbeats.push(register.heartbeat);
        }
    }

    /// The write of this register has taken effect, so that no earlier one can.
    pub(super) fn note_written_heartbeat(&mut self, written: &Register) {
        if let Some(claim) = self.holding_claim(written) {
            claim.heartbeats.retain(|heartbeat| *heartbeat == written.heartbeat);
        }
    }

    /// The present claim holds the lock that it was handed, without a write of its own.
    pub(super) fn note_accepted_heartbeat(&mut self, heartbeat: u64) {
        if let Some(claim) = &mut self.claim {
            claim.heartbeats.push(heartbeat);
        }
    }

    /// The present claim, if it is the holder in this register.
    fn holding_claim(&mut self, register: &Register) -> Option<&mut OwnClaim> {
        self.claim.as_mut().filter(|claim| register.is_held_by(claim.id))
    }

    /// Forgets the heartbeats of writes that will never take effect.
    pub(super) fn forget_heartbeats(&mut self) {
        if self.indeterminate.is_some() {
            return;
        }
        let written = self.in_flight.as_ref().and_then(|request| request.written.as_ref());
        let (present, written) = (self.view.heartbeat(), written.map(|written| written.heartbeat));
        if let Some(claim) = &mut self.claim {
            let may_be = |heartbeat: &u64| *heartbeat == present || Some(*heartbeat) == written;
            claim.heartbeats.retain(may_be);
        }
    }

    /// Forgets the claims that the register does not name, and that no write can bring back.
    pub(super) fn forget_traces(&mut self) {
        if self.traces.is_empty() || self.in_flight.is_some() || self.indeterminate.is_some() {
            return;
        }
        let Ok(register) = &self.view.register else { return };
        let releasing = self.releasing.map(|releasing| releasing.claim);
        self.traces.retain(|trace| {
            trace.holds(register)
                || register.position(trace.id).is_some()
                || Some(trace.id) == releasing
        });
    }

    /// The register without the entries of this node's earlier claims.
    pub(super) fn without_stale_claims(&self, register: &Register) -> Register {
        let mut register = register.clone();
        register.queue.retain(|waiter| !self.traces.iter().any(|trace| trace.id == waiter.claim));
        if self.traces.iter().any(|trace| trace.holds(&register)) {
            register.hand_over();
        }
        register
    }

    /// Whether the register, as last seen, has an entry of this machine.
    pub(super) fn is_in_register(&self) -> bool {
        let has_own = |register: &Register| {
            self.holds(register) || register.queue.iter().any(|waiter| self.is_own(waiter.claim))
        };
        self.view.register.as_ref().is_ok_and(has_own)
    }
}

impl OwnClaim {
    fn draw(settings: &MachineSettings) -> Self {
        let id = ClaimId { node: settings.node, nonce: settings.ids.draw() };
        Self { id, heartbeats: vec![], is_new: true }
    }

    /// Whether this claim is the holder, by a write of this machine or by one that has handed it the lock.
    fn holds(&self, register: &Register) -> bool {
        let is_written_here = || self.heartbeats.contains(&register.heartbeat);
        register.is_held_by(self.id) && (register.is_handed_to(self.id) || is_written_here())
    }
}

//! The engine: one atomic versioned register, and the list of all that was written to it.

use crate::cluster::protocol::register::{ClaimId, Register};
use crate::cluster::transport::{Exchange, Version, Versioned, Write};

/// Who wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Author {
    /// A node, by its number in the simulation.
    Node(usize),
    /// A person who breaks the lock.
    Operator,
}

/// A write that was applied.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) version: Version,
    pub(super) by: Author,
    /// There was no register: its heartbeat begins anew.
    pub(super) anew: bool,
    /// What it wrote.
    pub(super) register: Register,
}

impl Written {
    /// The attempt that holds since this write.
    pub(super) fn holder(&self) -> Option<ClaimId> {
        self.register.holder.as_ref().map(|holder| holder.claim)
    }
}

/// The register of one key.
#[derive(Debug, Default)]
pub(super) struct Store {
    current: Option<Versioned>,
    idle: bool,
    /// The newest version ever, also when the register was dropped.
    floor: u64,
    pub(super) log: Vec<Written>,
}

impl Store {
    pub(super) fn load(&self) -> Option<Versioned> {
        self.current.clone()
    }

    pub(super) fn version(&self) -> Option<Version> {
        self.current.as_ref().map(|current| current.version)
    }

    /// What it holds; the register of nobody if there is none.
    pub(super) fn register(&self) -> Register {
        match (&self.current, self.log.last()) {
            (Some(_), Some(last)) => last.register.clone(),
            _ => Register::empty(),
        }
    }

    /// Compares and exchanges. `step` is by how much the version grows.
    ///
    /// An error is a write that breaks the contract with the engine.
    pub(super) fn exchange(
        &mut self,
        expected: Option<Version>,
        write: &Write,
        by: Author,
        step: u64,
    ) -> Result<Exchange, String> {
        if expected != self.version() {
            return Ok(Exchange::Mismatch(self.current.clone()));
        }
        let register = Register::decode(&write.value)
            .map_err(|why| format!("what {by:?} wrote cannot be read: {why}"))?;
        if write.idle != register.is_idle() {
            return Err(format!("{by:?} says idle: {} of {register:?}", write.idle));
        }
        self.floor += step;
        let version = Version::new(self.floor).map_err(|error| error.to_string())?;
        self.current = Some(Versioned { version, value: write.value.clone() });
        self.idle = write.idle;
        self.log.push(Written { version, by, anew: expected.is_none(), register });
        Ok(Exchange::Swapped(version))
    }

    /// Drops the register if it is idle, and still has this version.
    pub(super) fn drop_if_idle(&mut self, version: Version) -> bool {
        let drops = self.idle && self.version() == Some(version);
        if drops {
            self.current = None;
        }
        drops
    }

    /// The write that got this version.
    pub(super) fn written(&self, version: Version) -> Option<&Written> {
        let at = self.log.binary_search_by_key(&version, |written| written.version).ok()?;
        Some(&self.log[at])
    }

    /// The writes after this version, each with the one before it.
    pub(super) fn after(&self, version: Version) -> impl Iterator<Item = [&Written; 2]> {
        let from = self.log.partition_point(|written| written.version <= version).max(1);
        (from..self.log.len()).map(|at| [&self.log[at - 1], &self.log[at]])
    }
}

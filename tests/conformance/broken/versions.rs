//! An engine that gives out versions of its own, in several wrong ways.

use super::{Exchanged, Loaded};
use lockword::cluster::{
    Capabilities, Exchange, Key, Memory, NodeId, Transport, TransportError, Version, Versioned,
    Watch, Write, async_trait,
};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// How the next version is made.
#[derive(Clone, Copy, PartialEq)]
pub enum Versions {
    /// One more than the register's, from 1.
    Counted,
    /// The clock.
    Clock,
    /// The clock, but more than the register's.
    ClockOrMore,
    /// Counted from just below the limit.
    TooLarge,
    /// One for each second write.
    Shared,
}

/// An engine; a clone is the same.
#[derive(Clone)]
pub struct Small {
    versions: Versions,
    state: Arc<Mutex<State>>,
    /// Wakes the watches.
    notifier: Memory,
}

struct State {
    registers: HashMap<Key, Versioned>,
    clock: u64,
}

impl Small {
    pub fn new(versions: Versions) -> Self {
        let state = State { registers: HashMap::new(), clock: 1 << 40 };
        Self { versions, state: Arc::new(Mutex::new(state)), notifier: Memory::new() }
    }

    pub fn delete(&self, key: &Key) {
        self.state.lock().unwrap().registers.remove(key);
    }

    pub fn step_back(&self) {
        self.state.lock().unwrap().clock -= 1000;
    }
}

#[async_trait]
impl Transport for Small {
    async fn load(&self, key: &Key) -> Loaded {
        Ok(self.state.lock().unwrap().registers.get(key).cloned())
    }

    async fn compare_exchange(
        &self,
        key: &Key,
        expected: Option<Version>,
        new: Write,
    ) -> Exchanged {
        let written = {
            let mut state = self.state.lock().unwrap();
            let found = state.registers.get(key).cloned();
            let version = found.as_ref().map(|found| found.version);
            if version != expected {
                return Ok(Exchange::Mismatch(found));
            }
            state.clock += 10;
            let more = version.map_or(1, |version| version.get() + 1);
            let version = Version::new(match self.versions {
                Versions::Counted => more,
                Versions::Clock => state.clock,
                Versions::ClockOrMore => state.clock.max(more),
                Versions::TooLarge => more.max((1 << 52) - 3),
                Versions::Shared => (state.clock / 20) * 20,
            })?;
            state.registers.insert(key.clone(), Versioned { version, value: new.value.clone() });
            version
        };
        super::overwrite(&self.notifier, key, new).await?;
        Ok(Exchange::Swapped(written))
    }

    async fn watch(&self, key: &Key, node: NodeId) -> Result<Watch, TransportError> {
        use futures_util::StreamExt;
        Ok(self.notifier.watch(key, node).await?.map(|item| item.map(|_| None)).boxed())
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new("small")
    }
}

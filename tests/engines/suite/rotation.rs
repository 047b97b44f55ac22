//! Credentials that change while a lock is held.

use lockword::cluster::{
    DistributedGuard, Hold, Key, LossReason, Node, Observer, RemoteOperation, Transport,
    TransportError,
};
use std::fs;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;

/// Longer than anything here may take.
const LIMIT: Duration = Duration::from_secs(60);

/// How many renewals a lease has room for.
const RENEWALS_A_LEASE: usize = 3;

/// What a node tells about its lock.
#[derive(Clone, Default)]
struct Told {
    renewals: usize,
    failures: Vec<String>,
    losses: Vec<LossReason>,
}

#[derive(Clone)]
struct Listener(Arc<watch::Sender<Told>>);

impl Observer for Listener {
    fn renewed(&self, _: &Key, _: Duration) {
        self.0.send_modify(|told| told.renewals += 1);
    }

    fn lost(&self, _: &Key, why: &LossReason, _: Hold) {
        self.0.send_modify(|told| told.losses.push(why.clone()));
    }

    fn request_finished(
        &self,
        _: &Key,
        _: RemoteOperation,
        _: Duration,
        error: Option<&TransportError>,
    ) {
        if let Some(error @ (TransportError::Denied(_) | TransportError::Unavailable(_))) = error {
            self.0.send_modify(|told| told.failures.push(error.to_string()));
        }
    }
}

/// A lock that is held over a transport whose credentials change.
pub struct Rotation {
    told: watch::Receiver<Told>,
    node: Node,
    other: Node,
    guard: DistributedGuard,
}

impl Rotation {
    /// Acquires the lock, with leases of this length, and waits for a first renewal. Another node waits for it
    /// by a watch later, over the same transport.
    pub async fn begin(transport: Arc<dyn Transport>, lease: Duration) -> Self {
        let (tell, told) = watch::channel(Told::default());
        let node = |label| Node::builder(transport.clone()).label(label).lease(lease);
        let other = node("other").build().unwrap();
        let node = node("holder").observer(Listener(Arc::new(tell))).build().unwrap();
        let guard = node.lock("rotation/held").unwrap().acquire().await.unwrap();
        let rotation = Self { told, node, other, guard };
        rotation.wait_for("a renewal", |told| told.renewals > 0).await;
        rotation
    }

    async fn wait_for(&self, what: &str, so: impl FnMut(&Told) -> bool) -> Told {
        let mut told = self.told.clone();
        match timeout(LIMIT, told.wait_for(so)).await {
            Ok(told) => told.unwrap().clone(),
            Err(_) => panic!("in vain: {what}: {:?}", self.told.borrow().failures),
        }
    }

    /// Waits until a request of the holder fails as `Denied` or `Unavailable`, with all these words.
    pub async fn fails_with(&self, words: &[&str]) {
        let has_all = |said: &String| words.iter().all(|word| said.contains(word));
        let what = format!("fails with {words:?}");
        self.wait_for(&what, |told| told.failures.iter().any(has_all)).await;
    }

    /// The lock is kept for this many leases more, but for one renewal at least: as many renewals as the leases have
    /// room for are seen. Then another lock is acquired, and this one is handed to a node that waits for it.
    pub async fn survives_for(self, leases: usize) {
        let goal = self.told.borrow().renewals + (leases * RENEWALS_A_LEASE).max(1);
        self.wait_for("renewals", |told| told.renewals >= goal || !told.losses.is_empty()).await;
        assert!(self.guard.is_valid(), "{:?}", self.told.borrow().losses);
        let free = self.node.lock("rotation/free").unwrap();
        free.acquire().await.unwrap().release().await.unwrap();
        let held = self.other.lock("rotation/held").unwrap();
        let waiting = tokio::spawn(async move { held.acquire().await });
        while self.node.inspect(&Key::new("rotation/held").unwrap()).await.unwrap().queue.is_empty()
        {
            tokio::task::yield_now().await;
        }
        self.guard.release().await.unwrap();
        let next = timeout(LIMIT, waiting).await.expect("it is woken").unwrap().unwrap();
        next.release().await.unwrap();
    }

    /// The lock is lost, and the reason has all these words, also that for the observer.
    pub async fn loses_because(self, words: &[&str]) {
        let why = timeout(LIMIT, self.guard.lost()).await.expect("it is lost");
        let LossReason::Expired { last: Some(last) } = &why else { panic!("{why:?}") };
        for word in words {
            assert!(last.contains(word), "{word} is missing: {last}");
        }
        assert_eq!(self.told.borrow().losses, [why]);
    }
}

/// The credentials of [`by_callback`], with which a test plays a vault.
#[derive(Clone)]
pub struct Vault(Arc<Mutex<(Result<String, String>, usize)>>);

impl Vault {
    pub fn with(password: &str) -> Self {
        Self(Arc::new(Mutex::new((Ok(password.to_owned()), 0))))
    }

    pub fn set(&self, password: Result<&str, &str>) {
        self.0.lock().unwrap().0 = password.map(str::to_owned).map_err(str::to_owned);
    }

    /// The password, which is counted.
    pub fn ask(&self) -> Result<String, String> {
        let mut state = self.0.lock().unwrap();
        state.1 += 1;
        state.0.clone()
    }

    pub fn asked(&self) -> usize {
        self.0.lock().unwrap().1
    }
}

/// Replaces the file at once.
pub fn replace(file: &str, text: impl AsRef<[u8]>) {
    let new = format!("{file}.new");
    fs::write(&new, text).expect("a file");
    fs::rename(&new, file).expect("the same folder");
}

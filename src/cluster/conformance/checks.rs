//! What the suite has its clients do, law by law.

use super::history::{History, Invocation, Response};
use super::suite::{Client, ClockHook, DeleteHook, IndeterminateHook, SuiteRun};
use super::suite::{Law, Violation};
use crate::cluster::{
    Exchange, Key, NodeId, Notices, Transport, TransportError, Version, Versioned, Wake, Watch,
    Write,
};
use fastrand::Rng;
use futures_util::future::{BoxFuture, Either, select};
use futures_util::{FutureExt, StreamExt};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Barrier;
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// The largest value that is tried, in bytes.
const LARGEST: usize = 1 << 20;
/// How often in a round all clients write the same key at the same time.
const BOUTS: usize = 5;
/// How many operations a client does after each bout.
const OPERATIONS: usize = 5;
/// How many keys a client writes once in a round.
const ONCE: usize = 4;
/// How many writes lose their response in a round.
const LOST: usize = 4;
/// Futures are dropped after 0, 1, .. polls, up to this number.
const POLLS: usize = 12;
/// How much later than declared a wake-up may come, because this process is busy.
const SLACK: Duration = Duration::from_secs(1);
/// How many changes one watch is to show.
const CHANGES: usize = 3;
/// How often a watch that has ended is opened again.
const REOPENED: usize = 20;
/// Why something that needs a watch is not checked.
const NO_WAKEUPS: &str = "the engine declares `Wakeups::Poll`";

/// Checks laws 1, 2 and 4 without contention: each operation ends before the next one begins.
///
/// # Errors
///
/// The first violation.
pub(super) async fn sequential<T: Transport>(run: &mut SuiteRun<T>) -> Result<(), Violation> {
    for _ in 0..run.rounds {
        one_register(run).await?;
        names(run).await?;
    }
    values(run).await?;
    run.checked(Law::Responses);
    Ok(())
}

/// The clients write in turns, with stale and wrong expectations in between, and all of them read.
async fn one_register<T: Transport>(run: &mut SuiteRun<T>) -> Result<(), Violation> {
    let key = run.key();
    let (clients, history) = run.clients();
    let mut versions = vec![];
    clients[1].must_load(&key).await?;
    for (turn, client) in clients.iter().cycle().take(2 * clients.len()).enumerate() {
        // An idle write keeps the register, too.
        let written = client.must_write(&key, Wake::Nobody, turn % 3 == 1).await?;
        versions.push(written.version);
        for other in &clients {
            let oldest = versions.first().filter(|oldest| **oldest != written.version);
            let before = versions.iter().nth_back(1);
            for wrong in [None, oldest.copied(), before.copied()] {
                let new = other.new_write(Wake::Everybody, false);
                let _ = other.compare_exchange(&key, wrong, new).await?;
            }
            other.must_load(&key).await?;
        }
    }
    // A version is expected where there is no register.
    let (other, wrong) = (run.key(), versions.first().copied());
    let new = clients[0].new_write(Wake::Nobody, false);
    let _ = clients[0].compare_exchange(&other, wrong, new).await?;
    clients[1].must_load(&other).await?;
    history.check()
}

/// Keys whose names look alike have registers of their own.
async fn names<T: Transport>(run: &mut SuiteRun<T>) -> Result<(), Violation> {
    let base = run.key();
    let (clients, history) = run.clients();
    let alike = ["", "a", "A", "/a", "/a/", "/a/b", ":a", "-a", "_a", ".a", "@a"];
    let mut keys = vec![];
    for suffix in alike {
        let name = format!("{base}{suffix}");
        keys.push(Key::new(&name).expect("short, and of the alphabet"));
    }
    let longest = format!("{base}/{}", "x".repeat(Key::MAX_LEN - base.as_str().len() - 1));
    keys.push(Key::new(&longest).expect("as long as a key may be"));
    for _ in 0..2 {
        for (key, client) in keys.iter().zip(clients.iter().cycle()) {
            client.must_write(key, Wake::Nobody, false).await?;
        }
        for (key, client) in keys.iter().rev().zip(clients.iter().cycle()) {
            client.must_load(key).await?;
        }
    }
    history.check()?;
    // All of them begin with the first, and no other key does.
    let mut expected = keys;
    expected.sort_unstable();
    if let Some(listed) = clients[0].must_list(&base).await? {
        if listed != expected {
            let what = format!("{expected:?} have a register, and the list of them was {listed:?}");
            return Err(Violation::new(Law::Listing, what));
        }
        run.checked(Law::Listing);
    }
    Ok(())
}

/// Any bytes are loaded as they were written.
async fn values<T: Transport>(run: &mut SuiteRun<T>) -> Result<(), Violation> {
    let largest = run.largest_value().min(LARGEST);
    let bytes: Vec<u8> = (0..=255).cycle().take(1024).collect();
    let (clients, history) = run.clients();
    for value in [vec![], vec![0], bytes, b"{\"a\": 1}\r\n".to_vec(), vec![b'x'; largest]] {
        // This is the only write of the key: one of unknown outcome is not repeated.
        let key = run.key();
        let new = Write { value: value.into(), wake: Wake::Nobody, idle: false };
        let _ = clients[0].compare_exchange(&key, None, new).await?;
        clients[1].must_load(&key).await?;
    }
    history.check()
}

/// Checks laws 1, 2 and 4 under contention: all clients use the same few keys.
///
/// # Errors
///
/// The first violation.
pub(super) async fn races<T: Transport>(run: &mut SuiteRun<T>) -> Result<(), Violation> {
    let mut rounds = vec![];
    for _ in 0..run.rounds {
        let keys = [run.key(), run.key()];
        let (clients, history) = run.clients();
        let start = Arc::new(Barrier::new(clients.len()));
        // A client that fails ends the others, which would wait for it.
        let mut racing = JoinSet::new();
        for client in clients {
            let racer = Racer { client, keys: keys.clone(), known: [None; 2], old: [None; 2] };
            racing.spawn(race(racer, Arc::clone(&start), run.dice.fork()));
        }
        while let Some(ended) = racing.join_next().await {
            match ended {
                Ok(ended) => ended?,
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                // The runtime is shutting down.
                Err(_) => return Err(Violation::new(Law::Responses, "a task was cancelled")),
            }
        }
        history.check()?;
        rounds.push((keys, history));
    }
    // What is applied from here on is late.
    sleep(run.settling).await;
    for (keys, history) in rounds {
        let (clients, _) = run.clients();
        for key in &keys {
            clients[0].recording_in(&history).must_load(key).await?;
        }
        history.check()?;
    }
    for law in [Law::Linearizable, Law::Versions, Law::Mismatch] {
        run.checked(law);
    }
    Ok(())
}

/// A client, and the versions that it knows.
struct Racer<T> {
    client: Client<T>,
    keys: [Key; 2],
    known: [Option<Version>; 2],
    /// What it knew before that.
    old: [Option<Version>; 2],
}

/// What one client does in a round.
async fn race<T: Transport>(
    mut racer: Racer<T>,
    start: Arc<Barrier>,
    mut dice: Rng,
) -> Result<(), Violation> {
    for bout in 0..BOUTS {
        let which = bout % 2;
        start.wait().await;
        racer.load(which).await?;
        start.wait().await;
        racer.write(which, false, false).await?;
        for _ in 0..OPERATIONS {
            let which = dice.usize(..2);
            if dice.f32() < 0.3 {
                racer.load(which).await?;
            } else {
                racer.write(which, dice.f32() < 0.1, dice.f32() < 0.1).await?;
            }
            take_turns(&mut dice).await;
        }
    }
    Ok(())
}

impl<T: Transport> Racer<T> {
    async fn load(&mut self, which: usize) -> Result<(), Violation> {
        if let Ok(found) = self.client.load(&self.keys[which]).await? {
            self.learn(which, found.map(|found| found.version));
        }
        Ok(())
    }

    /// Writes with the version that it knows to be the last, or with one that it knows to be old.
    async fn write(
        &mut self,
        which: usize,
        expects_old: bool,
        idle: bool,
    ) -> Result<(), Violation> {
        let expected = if expects_old { self.old[which] } else { self.known[which] };
        let new = self.client.new_write(Wake::Everybody, idle);
        match self.client.compare_exchange(&self.keys[which], expected, new).await? {
            Ok(Exchange::Swapped(version)) => self.learn(which, Some(version)),
            Ok(Exchange::Mismatch(found)) => self.learn(which, found.map(|found| found.version)),
            Err(_) => {}
        }
        Ok(())
    }

    fn learn(&mut self, which: usize, now: Option<Version>) {
        if now != self.known[which] {
            self.old[which] = std::mem::replace(&mut self.known[which], now);
        }
    }
}

/// Yields some of the time, so that tasks of one thread take turns.
async fn take_turns(dice: &mut Rng) {
    if dice.bool() {
        yield_now().await;
    }
}

/// When the watch is polled, relative to the write.
#[derive(Clone, Copy)]
enum PollOrder {
    /// After the write only, which comes right after the watch was opened.
    Afterwards,
    /// Before the write, and again after it.
    Before,
    /// While the write is made.
    Meanwhile,
    /// After several writes only.
    AfterSeveral,
}

const ORDERS: [PollOrder; 4] =
    [PollOrder::Afterwards, PollOrder::Before, PollOrder::Meanwhile, PollOrder::AfterSeveral];

/// Checks law 5.
///
/// # Errors
///
/// The first violation.
pub(super) async fn watches<T: Transport>(run: &mut SuiteRun<T>) -> Result<(), Violation> {
    if !run.has_wakeups() {
        run.not_checked(Law::Watch, "all of it", NO_WAKEUPS);
        return Ok(());
    }
    for round in 0..run.rounds {
        for order in ORDERS {
            let (clients, _) = run.clients();
            let (watcher, writer) = (&clients[round % 2], &clients[round / 2 % 2]);
            let key = run.key();
            if round % 3 == 0 {
                writer.must_write(&key, Wake::Nobody, false).await?;
            }
            let by_node = run.dice.bool();
            wakes(watcher, writer, &key, NodeId::new(run.dice.u64(..)), by_node, order).await?;
        }
        several(run).await?;
    }
    run.checked(Law::Watch);
    Ok(())
}

/// Checks that a watch of `watcher` shows what `writer` writes.
async fn wakes<T: Transport>(
    watcher: &Client<T>,
    writer: &Client<T>,
    key: &Key,
    node: NodeId,
    by_node: bool,
    order: PollOrder,
) -> Result<(), Violation> {
    let wake = if by_node { Wake::Node(node) } else { Wake::Everybody };
    let mut noticed = 0;
    for _ in 0..REOPENED {
        let mut open = OpenWatch::new(watcher, key, node).await?;
        while noticed < CHANGES {
            let seen = match order {
                PollOrder::Afterwards | PollOrder::AfterSeveral => {
                    let several = matches!(order, PollOrder::AfterSeveral);
                    let mut written = writer.must_write(key, wake, false).await?;
                    for _ in 0..if several { 2 } else { 0 } {
                        let_others_run().await;
                        written = writer.must_write(key, wake, false).await?;
                    }
                    if several {
                        let_others_run().await;
                    }
                    open.shows(written.version).await?
                }
                PollOrder::Before => {
                    open.drain()?;
                    let written = writer.must_write(key, wake, false).await?;
                    open.shows(written.version).await?
                }
                PollOrder::Meanwhile => {
                    open.drain()?;
                    open.shows_meanwhile(writer.must_write(key, wake, false)).await?
                }
            };
            if !seen {
                break;
            }
            noticed += 1;
        }
        if noticed == CHANGES {
            break;
        }
    }
    Ok(())
}

/// Lets the tasks run that pass a change on.
async fn let_others_run() {
    for _ in 0..3 {
        yield_now().await;
    }
}

/// Several watches of one key are all woken, and the end of one does not harm the others.
async fn several<T: Transport>(run: &mut SuiteRun<T>) -> Result<(), Violation> {
    let key = run.key();
    let (clients, _) = run.clients();
    let nodes = [(); 3].map(|()| NodeId::new(run.dice.u64(..)));
    let mut first = OpenWatch::new(&clients[0], &key, nodes[0]).await?;
    let mut second = OpenWatch::new(&clients[1], &key, nodes[1]).await?;
    let mut third = OpenWatch::new(&clients[1], &key, nodes[2]).await?;
    let written = clients[2].must_write(&key, Wake::Everybody, false).await?.version;
    first.shows(written).await?;
    let second_lives = second.shows(written).await?;
    let third_lives = third.shows(written).await?;
    drop(first);
    if third_lives {
        let written = clients[2].must_write(&key, Wake::Node(nodes[2]), false).await?.version;
        third.shows(written).await?;
    }
    drop(third);
    if second_lives {
        let written = clients[2].must_write(&key, Wake::Node(nodes[1]), false).await?.version;
        second.shows(written).await?;
    }
    Ok(())
}

/// A watch, from the moment from which on it must show changes.
struct OpenWatch<'a, T> {
    watch: Watch,
    watcher: &'a Client<T>,
    key: &'a Key,
    within: Duration,
    ended: bool,
}

impl<'a, T: Transport> OpenWatch<'a, T> {
    async fn new(watcher: &'a Client<T>, key: &'a Key, node: NodeId) -> Result<Self, Violation> {
        let watch = watcher.must_watch(key, node).await?;
        let within = watcher.transport.capabilities().wake_within + SLACK;
        Ok(Self { watch, watcher, key, within, ended: false })
    }

    /// Takes the items that are there already.
    fn drain(&mut self) -> Result<(), Violation> {
        while !self.ended
            && let Some(item) = self.watch.next().now_or_never()
        {
            self.is_seen(item, None)?;
        }
        Ok(())
    }

    /// Whether the watch shows the change to `version`. `false`: it has ended.
    async fn shows(&mut self, version: Version) -> Result<bool, Violation> {
        let deadline = Instant::now() + self.within;
        while !self.ended {
            let Ok(item) = timeout_at(deadline, self.watch.next()).await else {
                let (key, within) = (self.key, self.within);
                let what = format!("a watch of {key} was silent for {within:?} after a change");
                return Err(Violation::new(Law::Watch, what));
            };
            if self.is_seen(item, Some(version))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The same for a write that is made while the watch is polled.
    async fn shows_meanwhile(
        &mut self,
        write: impl Future<Output = Result<Versioned, Violation>>,
    ) -> Result<bool, Violation> {
        if self.ended {
            return Ok(false);
        }
        let (early, written) = {
            let mut write = pin!(write);
            match select(self.watch.next(), &mut write).await {
                Either::Left((item, _)) => (Some(item), write.await?),
                Either::Right((written, _)) => (None, written?),
            }
        };
        if let Some(item) = early
            && self.is_seen(item, Some(written.version))?
        {
            return Ok(true);
        }
        self.shows(written.version).await
    }

    /// Whether `item` shows the change to `version`, or a later one.
    fn is_seen(
        &mut self,
        item: Option<Result<Option<Versioned>, TransportError>>,
        version: Option<Version>,
    ) -> Result<bool, Violation> {
        match item {
            None | Some(Err(_)) => {
                self.ended = true;
                Ok(false)
            }
            Some(Ok(None)) => Ok(true),
            // A node looks after a hint, whatever it carries.
            Some(Ok(_)) if self.watcher.transport.capabilities().notices == Notices::Hints => {
                Ok(true)
            }
            Some(Ok(Some(shown))) => {
                if !self.watcher.history.wrote(self.key, &shown.value) {
                    let value = shown.value.escape_ascii();
                    let what =
                        format!("a watch of {} showed {value}, which was never written", self.key);
                    return Err(Violation::new(Law::Watch, what));
                }
                Ok(version.is_some_and(|version| shown.version >= version))
            }
        }
    }
}

/// Checks law 3.
///
/// # Errors
///
/// The first violation.
pub(super) async fn lost_responses<T: Transport>(
    run: &mut SuiteRun<T>,
    hook: Option<IndeterminateHook<T>>,
) -> Result<(), Violation> {
    write_once(run).await?;
    let what = "writes whose response is lost";
    let Some(hook) = hook else {
        run.not_checked(Law::Indeterminate, what, "no `indeterminate_hook`");
        return Ok(());
    };
    let mut indeterminate = 0;
    for round in 0..run.rounds {
        let (clients, history) = run.clients();
        let (victim, other) = (&clients[round % clients.len()], &clients[(round + 1) % 4]);
        let mut keys = vec![];
        for write in 0..LOST {
            let key = run.key();
            let begin = match write % 2 {
                0 => None,
                _ => Some(other.must_write(&key, Wake::Nobody, false).await?.version),
            };
            hook(Arc::clone(victim.transport.inner()), key.clone()).await;
            let new = victim.new_write(Wake::Everybody, false);
            let _ = victim.compare_exchange(&key, begin, new).await?;
            other.must_load(&key).await?;
            keys.push(key);
        }
        history.check()?;
        // What is applied from here on is late.
        sleep(run.settling).await;
        for key in &keys {
            other.must_load(key).await?;
            other.must_write(key, Wake::Nobody, false).await?;
        }
        // The client works as before, and no write is applied a second time.
        sleep(run.settling).await;
        for key in &keys {
            victim.must_write(key, Wake::Nobody, false).await?;
            other.must_load(key).await?;
        }
        history.check()?;
        indeterminate += history.operations().iter().filter(|o| o.is_indeterminate()).count();
    }
    if indeterminate == 0 {
        run.not_checked(
            Law::Indeterminate,
            what,
            "the `indeterminate_hook` never led to an unknown outcome",
        );
    } else {
        run.checked(Law::Indeterminate);
    }
    Ok(())
}

/// Writes each key once, whatever the response, so that a write that is late is applied and seen.
async fn write_once<T: Transport>(run: &mut SuiteRun<T>) -> Result<(), Violation> {
    let (clients, history) = run.clients();
    let mut keys = vec![];
    for client in clients.iter().cycle().take(run.rounds * clients.len() * ONCE) {
        let key = run.key();
        let new = client.new_write(Wake::Nobody, false);
        let _ = client.compare_exchange(&key, None, new).await?;
        keys.push(key);
    }
    sleep(run.settling).await;
    for (key, client) in keys.iter().zip(clients.iter().cycle().skip(1)) {
        client.must_load(key).await?;
    }
    history.check()
}

/// Checks law 2 across deletions and across a clock that steps back.
///
/// # Errors
///
/// The first violation.
pub(super) async fn versions<T: Transport>(
    run: &mut SuiteRun<T>,
    delete_hook: Option<DeleteHook>,
    clock_hook: Option<ClockHook>,
) -> Result<(), Violation> {
    for (missing, what, why) in [
        (delete_hook.is_none(), "versions after deletion", "no `delete_hook`"),
        (clock_hook.is_none(), "versions after a step of the clock", "no `clock_hook`"),
    ] {
        if missing {
            run.not_checked(Law::Versions, what, why);
        }
    }
    let mut any_deleted = delete_hook.is_none();
    for _ in 0..run.rounds.min(8) {
        let (clients, history) = run.clients();
        if let Some(hook) = &clock_hook {
            let key = run.key();
            for client in &clients {
                client.must_write(&key, Wake::Nobody, false).await?;
                hook().await;
            }
            clients[0].must_write(&key, Wake::Nobody, true).await?;
        }
        if let Some(hook) = &delete_hook {
            let key = run.key();
            for (turn, client) in clients.iter().enumerate() {
                let written = client.must_write(&key, Wake::Nobody, turn % 2 == 1).await?;
                any_deleted |= delete(client, &key, hook, &history).await?;
                if let Some(step) = clock_hook.as_ref().filter(|_| turn > 1) {
                    step().await;
                }
                // This version is not there any more.
                let new = clients[0].new_write(Wake::Nobody, false);
                let _ = clients[0].compare_exchange(&key, Some(written.version), new).await?;
            }
            clients[0].must_write(&key, Wake::Nobody, false).await?;
        }
        history.check()?;
    }
    if !any_deleted {
        let why = "the register was still there after the `delete_hook`";
        run.not_checked(Law::Versions, "versions after deletion", why);
    }
    Ok(())
}

/// Deletes the register. Returns whether it is gone.
async fn delete<T: Transport>(
    client: &Client<T>,
    key: &Key,
    hook: &DeleteHook,
    history: &History,
) -> Result<bool, Violation> {
    let deletion = history.invoke(client.number, key, Invocation::Delete);
    hook(key.clone()).await;
    // A register that is still there was not deleted: without a response, the deletion need not have
    // happened.
    let gone = client.must_load(key).await?.is_none();
    if gone {
        history.respond(deletion, Response::Deleted);
    }
    Ok(gone)
}

/// Checks law 6.
///
/// # Errors
///
/// The first violation.
pub(super) async fn drops<T: Transport>(run: &mut SuiteRun<T>) -> Result<(), Violation> {
    drop_futures(run).await.map_err(|broken| match broken.law {
        // These laws were kept before anything was dropped.
        Law::Responses | Law::Linearizable | Law::Mismatch | Law::Watch => {
            let what = format!("after futures were dropped, {}", broken.what);
            Violation { law: Law::Dropping, what, ..broken }
        }
        _ => broken,
    })?;
    run.checked(Law::Dropping);
    if !run.has_wakeups() {
        run.not_checked(Law::Dropping, "watches that are dropped", NO_WAKEUPS);
    }
    Ok(())
}

async fn drop_futures<T: Transport>(run: &mut SuiteRun<T>) -> Result<(), Violation> {
    let has_wakeups = run.has_wakeups();
    for _ in 0..run.rounds.div_ceil(4) {
        let (clients, history) = run.clients();
        let (victim, other) = (&clients[0], &clients[1]);
        let (key, second) = (run.key(), run.key());
        let began = Instant::now();
        let mut known = Some(victim.must_write(&key, Wake::Nobody, false).await?.version);
        // How long a load and a write take.
        let usual = began.elapsed();
        for turn in 0..2 * POLLS {
            for kind in 0..if has_wakeups { 3 } else { 2 } {
                let call: BoxFuture<'_, ()> = match kind {
                    0 => Box::pin(victim.load(&key).map(drop)),
                    1 => {
                        let new = victim.new_write(Wake::Everybody, false);
                        Box::pin(victim.compare_exchange(&key, known, new).map(drop))
                    }
                    _ => Box::pin(async {
                        let node = NodeId::new(1);
                        if let Ok(Ok(mut watch)) = victim.watch(&key, node).await {
                            watch.next().await;
                        }
                    }),
                };
                // Half of the futures are dropped after a part of the usual time.
                let after = (turn % 2 == 1).then(|| usual.mul_f64(run.dice.f64()));
                poll_and_drop(call, turn / 2, after).await;
                victim.must_load(&second).await?;
                known = Some(victim.must_write(&key, Wake::Everybody, false).await?.version);
                victim.must_write(&second, Wake::Nobody, true).await?;
                other.must_load(&key).await?;
            }
        }
        history.check()?;
        if has_wakeups {
            let node = NodeId::new(run.dice.u64(..));
            wakes(victim, other, &key, node, true, PollOrder::Before).await?;
        }
    }
    Ok(())
}

/// Polls `call` as often as `polls` says, or until the time `after` is over, and drops it.
async fn poll_and_drop(mut call: BoxFuture<'_, ()>, polls: usize, after: Option<Duration>) {
    if let Some(after) = after {
        let _ = timeout(after, call).await;
        return;
    }
    for _ in 0..polls {
        if call.as_mut().now_or_never().is_some() {
            return;
        }
        yield_now().await;
    }
}

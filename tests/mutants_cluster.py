#!/usr/bin/env python3
"""Breaks the protocol on purpose, and checks that the simulation notices.

    python3 tests/mutants_cluster.py [NAME...]

Each mutant is one change of one file of `src/cluster`. It is applied to a copy of the crate under
`target/mutants_cluster`, and the simulation is run: 2,000 seeds, then the scenarios; or, for those
of `local`, its tests. What fails first has killed it.
Exit status 1 if a mutant survives, 2 if a text is not found exactly once (so the list cannot rot).
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
WORK = ROOT / "target" / "mutants_cluster"
SEEDS = "2000"
# A simulation that runs longer is stuck: its mutant spins.
LIMIT_S = 150

# (name, file, old text, new text)
MUTANTS = [
    # The holder's time.
    ('deadline-from-response', 'protocol/mod.rs',
     'let deadline = self.deadline(sent);\n        if self.intent',
     'let deadline = { let _ = sent; self.deadline(now) };\n        if self.intent'),
    ('renewal-from-response', 'protocol/mod.rs',
     'RequestKind::Renew => self.renewed(version, sent.sent),',
     'RequestKind::Renew => self.renewed(version, now),'),
    ('deadline-without-allowance', 'protocol/mod.rs',
     'sent + (self.settings.lease - allowance(self.settings.lease))',
     'sent + self.settings.lease'),
    ('late-renewal-revives', 'protocol/mod.rs',
     '        self.check_deadline(now);\n        match event {',
     '        if !matches!(event, Event::Exchanged { .. }) {\n            self.check_deadline(now);\n        }\n        match event {'),
    ('deadline-unwatched', 'protocol/mod.rs',
     '            self.wake_by(held.deadline);\n',
     ''),
    ('grant-when-too-late', 'protocol/mod.rs',
     'if self.intent == Intent::Nothing || now >= deadline {',
     'if self.intent == Intent::Nothing {'),
    ('never-renews', 'protocol/mod.rs',
     'if now < held.renew_at {',
     'if true {'),
    ('lost-unnoticed', 'protocol/mod.rs',
     'Ok(_) => self.lose(Loss::TakenOver),',
     'Ok(_) => {}'),
    ('token-of-renewal-is-old', 'protocol/mod.rs',
     'self.actions.push_back(Action::Renewed { version, deadline });',
     'let version = Version::new(version.get() - 1).unwrap_or(version);\n        self.actions.push_back(Action::Renewed { version, deadline });'),
    ('token-after-handoff', 'token.rs',
     '+ u64::from(local_handoffs)',
     '+ u64::from(local_handoffs / 2)'),
    # The observer's wait.
    ('takeover-without-allowance', 'protocol/view.rs',
     'holder.lease.saturating_add(allowance(holder.lease))',
     'holder.lease.saturating_sub(allowance(holder.lease))'),
    ('lease-not-respected', 'protocol/view.rs',
     'holder.lease.saturating_add(allowance(holder.lease))',
     'holder.lease / 2'),
    ('join-refreshes-heartbeat', 'protocol/mod.rs',
     '            register.queue.push(Waiter::new(self.claim, &self.settings.label));\n        }\n        self.write(RequestKind::Join',
     '            register.queue.push(Waiter::new(self.claim, &self.settings.label));\n        }\n        register.advance();\n        self.write(RequestKind::Join'),
    ('renewal-keeps-heartbeat', 'protocol/mod.rs',
     '        register.advance();\n        self.write(RequestKind::Renew',
     '        self.write(RequestKind::Renew'),
    ('observed-from-sending', 'protocol/mod.rs',
     'self.view.responded(seen, sent.basis, now);',
     'self.view.responded(seen, sent.basis, sent.sent);'),
    ('observed-never-anew', 'protocol/view.rs',
     'if mark(&self.register) != mark(&new) || !self.is_known {',
     'if !self.is_known {'),
    ('stale-notice-is-news', 'protocol/view.rs',
     '        if Some(seen.version) > self.version {\n            self.heard = now;',
     '        {\n            self.heard = now;'),
    # The queue.
    ('join-at-front', 'protocol/mod.rs',
     '            register.queue.push(Waiter::new(self.claim, &self.settings.label));\n        }\n        self.write(RequestKind::Join',
     '            register.queue.insert(0, Waiter::new(self.claim, &self.settings.label));\n        }\n        self.write(RequestKind::Join'),
    ('queue-ignored', 'protocol/mod.rs',
     'None => (rank == 0 || due).then_some(GrantedVia::Handoff),',
     'None => Some(GrantedVia::Handoff),'),
    ('claim-windows-ignored', 'protocol/view.rs',
     'self.settings.claim_window.saturating_mul(before)',
     'self.settings.claim_window.saturating_mul(before.min(0))'),
    ('dead-next-waiters-stay', 'protocol/mod.rs',
     'None => (rank == 0 || due).then_some(GrantedVia::Handoff),',
     'None => (rank == 0).then_some(GrantedVia::Handoff),'),
    ('next-waiter-does-not-confirm', 'protocol/mod.rs',
     '        self.via_tried = via;\n        // The next',
     '        self.via_tried = via;\n        if let (GrantedVia::Handoff, 0, Some(version)) = (via, passed_over, self.view.version) {\n            self.taken(version, now, now);\n        }\n        // The next'),
    ('passed-over-stay', 'protocol/mod.rs',
     'register.queue.drain(..passed_over);',
     'register.queue.drain(..passed_over.min(0));'),
    ('granted-stays-in-queue', 'protocol/mod.rs',
     'register.queue.retain(|waiter| waiter.claim != self.claim);\n        register.holder',
     'register.holder'),
    ('limit-ignored', 'protocol/mod.rs',
     'if position.is_none() && register.queue.len() < self.settings.queue_limit {',
     'if position.is_none() {'),
    ('never-looks', 'protocol/watch.rs',
     'if self.must_look || now >= at {',
     'if self.must_look {'),
    ('never-pauses', 'protocol/fairness.rs',
     '        if now < until {\n            self.backoff.waits = true;',
     '        if false {\n            self.backoff.waits = true;'),
    ('never-invites', 'protocol/fairness.rs',
     '        if now < until {\n            self.backoff.yields = true;',
     '        if false {\n            self.backoff.yields = true;'),
    ('invites-for-ever', 'protocol/fairness.rs',
     '(after < ALONE).then_some(2 * after)',
     '(after < ALONE).then_some(after)'),
    ('joins-by-what-is-old', 'protocol/fairness.rs',
     'self.collisions < self.collision_limit() || self.has_looked;',
     'self.collisions < self.collision_limit();'),
    ('joins-what-is-reserved', 'protocol/fairness.rs',
     'register.holder.is_none() && !register.queue.is_empty();',
     'false && register.holder.is_none();'),
    ('looks-before-the-confirmation', 'protocol/fairness.rs',
     'Some(now + trip.min(self.most()))',
     'None'),
    # Giving back.
    ('release-of-any-holder', 'protocol/mod.rs',
     'register.holder.as_ref().is_some_and(|holder| self.is_own(holder.claim)) {',
     'register.holder.is_some() {'),
    ('release-keeps-holder', 'protocol/mod.rs',
     'self.is_own(holder.claim)) {\n            register.holder = None;\n',
     'self.is_own(holder.claim)) {\n'),
    ('leaves-queue-entry', 'protocol/mod.rs',
     '        register.queue.retain(|waiter| !self.is_own(waiter.claim));\n',
     ''),
    ('released-is-held', 'protocol/mod.rs',
     '            self.released(Outcome::Lost);\n',
     '            self.released(Outcome::Held);\n'),
    ('indeterminate-release-is-lost', 'protocol/mod.rs',
     'is_there || is_asked || leaving.is_indeterminate',
     'is_there || is_asked'),
    ('valid-after-indeterminate-release', 'protocol/mod.rs',
     '            self.released(Outcome::Indeterminate);\n',
     '            self.held = Some(super::Held {\n                claim: leaving.claim,\n                deadline: leaving.until,\n                renew_at: leaving.until,\n            });\n            self.released(Outcome::Indeterminate);\n'),
    # Indeterminate writes.
    ('indeterminate-forgotten', 'protocol/mod.rs',
     'self.indeterminate = Some(basis);',
     'let _ = basis;'),
    ('indeterminate-not-rested-on', 'protocol/mod.rs',
     '            && self.indeterminate.is_none()\n            && self.actions',
     '            && self.actions'),
    ('indeterminate-ends-early', 'protocol/mod.rs',
     'if self.indeterminate.is_some_and(|expected| expected != self.view.version) {',
     'if self.indeterminate.is_some() && self.in_flight.is_none() {'),
    ('indeterminate-take-is-a-grant', 'protocol/mod.rs',
     'Some(holder) if holder.claim == self.claim => Some(self.via_tried),',
     'Some(holder) if holder.claim == self.claim => None,'),
    ('cancelled-take-is-granted', 'protocol/mod.rs',
     'if self.intent == Intent::Nothing || now >= deadline {',
     'if now >= deadline {'),
    ('no-jitter-no-timeout', 'protocol/mod.rs',
     'Some(at) if now < at && !tries => return self.wake_by(at),',
     'Some(at) if now < at && false => return self.wake_by(at),'),
    # Who gets the lease at one node. These are killed by the tests of `local`.
    ('open-untold', 'local/state.rs',
     'let waker = self.wait_queue.wake_next();',
     'let waker = None;'),
    ('alerted-for-ever', 'local/wait_queue.rs',
     '            waiter.is_woken = false;\n',
     ''),
    ('alerted-always', 'local/wait_queue.rs',
     'let is_new = !std::mem::replace(&mut first.is_woken, true);',
     'let is_new = true;'),
    ('alerted-leaves', 'local/state.rs',
     'Lease::Here(here) if here.user.is_none() => self.settle(core),',
     'Lease::Here(here) if here.user.is_none() && self.wait_queue.is_empty() => self.settle(core),'),
    ('looks-once', 'local/barging.rs',
     '                waker.wake_by_ref();\n',
     ''),
    ('looks-at-once', 'local/barging.rs',
     'now.since(since) < GRACE &&',
     'false &&'),
    ('any-one-looks', 'local/barging.rs',
     '            && self.wait_queue.first() == Some(waiter_id)\n',
     ''),
    ('turn-without-end', 'local/barging.rs',
     'now.since(self.began) >= config.barging_window',
     'false'),
    ('late-barging', 'local/barging.rs',
     'if here.turn.is_over(&core.config, now) || !here.may_pass_on(',
     'if !here.may_pass_on('),
    ('stays-open', 'local/barging.rs',
     '        here.turn.open = None;\n',
     ''),
    ('task-overtaken', 'local/wait_queue.rs',
     'self.waiting.front().is_some_and(|waiter| waiter.spins)',
     '!self.waiting.is_empty()'),
    ('turn-never-anew', 'local/state.rs',
     '            here.turn = Turn::new(now);\n',
     ''),
]


def source(mutant):
    """The mutated text of the mutant's file."""
    name, file, old, new = mutant
    text = (ROOT / "src" / "cluster" / file).read_text()
    if text.count(old) != 1:
        print(f"{name}: its text occurs {text.count(old)} times in src/cluster/{file}, not once")
        sys.exit(2)
    return text.replace(old, new)


def prepare():
    """A copy of the crate, without what the simulation does not need."""
    shutil.rmtree(WORK / "src", ignore_errors=True)
    shutil.copytree(ROOT / "src", WORK / "src")
    manifest = (ROOT / "Cargo.toml").read_text()
    manifest = re.sub(r"(?ms)^\[\[(bench|test|bin)\]\].*?(?=^\[(?!\[)|^\[\[(?!bench|test|bin)|\Z)",
                      "", manifest)
    (WORK / "Cargo.toml").write_text(manifest + "\n[workspace]\n")
    for name in ("Cargo.lock", "README.md"):
        shutil.copy(ROOT / name, WORK / name)


def build():
    """Builds the tests of the library. Returns the path of the program, or None."""
    environment = os.environ | {
        "RUSTFLAGS": "--cap-lints allow",
        "CARGO_PROFILE_DEV_DEBUG": "0",
        "CARGO_TARGET_DIR": str(WORK / "target"),
    }
    command = ["cargo", "test", "--lib", "--features", "cluster,conformance", "--no-run", "--offline",
               "--quiet", "--message-format=json"]
    built = subprocess.run(command, cwd=WORK, env=environment, capture_output=True, text=True)
    for line in built.stdout.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["reason"] == "compiler-artifact":
            return message["executable"]
        if message["reason"] == "compiler-message" and message["message"]["level"] == "error":
            print(message["message"]["rendered"])
    print(built.stderr)
    return None


SIMULATION = (["--exact", "cluster::sim::runs::many_seeds"], ["cluster::sim::scenarios"])
LOCAL = (["cluster::local::"],)


def killer(program, suites):
    """What fails first, as a text; None if nothing does."""
    environment = os.environ | {"LOCKWORD_SEEDS": SEEDS}
    for tests in suites:
        try:
            done = subprocess.run([program, *tests], env=environment, capture_output=True, text=True,
                                  timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            return "runs for ever"
        if "running 0 tests" in done.stdout:
            sys.exit(f"no such test: {tests[-1]}")
        if done.returncode != 0:
            text = done.stdout + done.stderr
            seed = re.search(r"(?m)^profile (\w+), seed (\d+): (.{0,90})", text)
            if seed:
                return f"{seed[1]:10} {seed[2]:>5}  {seed[3]}"
            test = re.search(r"(?m)^test cluster::(?:simulation|local)::(\S+) \.\.\. FAILED", text)
            return test[1] if test else "it aborts"
    return None


def main():
    names = sys.argv[1:]
    unknown = set(names) - {mutant[0] for mutant in MUTANTS}
    if unknown:
        sys.exit(f"no such mutant: {', '.join(sorted(unknown))}")
    chosen = [mutant for mutant in MUTANTS if not names or mutant[0] in names]
    for mutant in MUTANTS:
        source(mutant)

    began = time.monotonic()
    prepare()
    program = build()
    if program is None:
        return 1
    unharmed = killer(program, SIMULATION + LOCAL)
    print(f"{'(unchanged)':30} {unharmed or 'passes'}", flush=True)
    if unharmed:
        return 1
    alive = 0
    for mutant in chosen:
        name, file = mutant[:2]
        path = WORK / "src" / "cluster" / file
        path.write_text(source(mutant))
        since = time.monotonic()
        program = build()
        suites = LOCAL if file.startswith("local/") else SIMULATION
        killed = killer(program, suites) if program else None
        shutil.copy(ROOT / "src" / "cluster" / file, path)
        alive += killed is None
        said = killed or ("SURVIVES" if program else "DOES NOT COMPILE")
        print(f"{name:30} {said:110} {time.monotonic() - since:5.1f} s", flush=True)
    print(f"\n{len(chosen) - alive} of {len(chosen)} killed, {time.monotonic() - began:.0f} s")
    return 0 if alive == 0 else 1


if __name__ == "__main__":
    sys.exit(main())

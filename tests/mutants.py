#!/usr/bin/env python3
"""Breaks the core on purpose, and checks that the loom models notice.

    python3 tests/mutants.py [--search] [NAME...]

Each mutant is one change of one file. It is applied to a copy of the crate under
`target/mutants`, the models are built, and those named beside the mutant are run: the first that
fails has killed it. `--search` tries all models on a mutant that those named let live.
Exit status 1 if a mutant survives, 2 if a text is not found exactly once (so the list cannot rot).
"""

import concurrent.futures
import json
import os
import pathlib
import queue
import re
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
WORK = ROOT / "target" / "mutants"
# A model that runs longer has not killed the mutant.
LIMIT_S = 60

# (name, file, old text, new text, models that kill it: the quickest first)
MUTANTS = [
    # The word.
    ("acquire-relaxed", "word.rs", "compare_exchange(FREE, HELD, Ordering::Acquire,",
     "compare_exchange(FREE, HELD, Ordering::Relaxed,", ["exclusion::try_lock_fails_or_excludes"]),
    ("release-relaxed", "word.rs", "self.state.store(FREE, Ordering::Release)",
     "self.state.store(FREE, Ordering::Relaxed)", ["exclusion::try_lock_fails_or_excludes"]),
    # The barrier.
    ("light-empty", "barrier/symmetric.rs",
     "in `heavy` (StoreLoad on both sides).\n    fence(Ordering::SeqCst);", "",
     ["exclusion::park_races_unlock"]),
    ("heavy-empty", "barrier/symmetric.rs", "in `light`.\n    fence(Ordering::SeqCst);", "",
     ["exclusion::park_races_unlock"]),
    # The lobby.
    ("enter-no-fence", "lobby.rs", "    fence(Ordering::SeqCst);\n    hint(addr)", "    hint(addr)",
     ["lobby::slow_path_has_its_own_fence"]),
    ("enter-fence-acqrel", "lobby.rs", "    fence(Ordering::SeqCst);\n    hint(addr)",
     "    fence(Ordering::AcqRel);\n    hint(addr)", ["lobby::slow_path_has_its_own_fence"]),
    ("anyone-waits-fence-acqrel", "lobby.rs",
     "fence(Ordering::SeqCst);\n        // ORDERING: Relaxed; the fences order it.",
     "fence(Ordering::AcqRel);", ["lobby::slow_path_has_its_own_fence"]),
    ("anyone-waits-no-fence", "lobby.rs",
     "fence(Ordering::SeqCst);\n        // ORDERING: Relaxed; the fences order it.", "",
     ["lobby::slow_path_has_its_own_fence"]),
    ("enter-no-count", "lobby.rs", "bucket.waiters.fetch_add(1, Ordering::Relaxed) == 0",
     "bucket.waiters.load(Ordering::Relaxed) == 0", ["exclusion::park_races_unlock"]),
    ("arm-armed-as-ready", "lobby/hint.rs", "if seen & READY != 0 {", "if seen & (READY | ARMED) != 0 {",
     ["lobby::unlocker_races_two_parkers"]),
    ("arm-without-heavy", "lobby/hint.rs", "if barrier::heavy() == Heavy::Refused {", "if false {", ["exclusion::park_races_unlock"]),
    ("arm-ready-before-heavy", "lobby/hint.rs", "{ seen.wrapping_add(EPOCH) | ARMED }",
     "{ seen.wrapping_add(EPOCH) | ARMED | READY }",
     ["lobby::unlocker_races_two_parkers"]),
    ("arm-same-epoch", "lobby/hint.rs", "{ seen.wrapping_add(EPOCH) | ARMED }", "{ seen | ARMED }",
     ["late_steps::announcement_of_an_old_armer_fails"]),
    ("arm-load-relaxed", "lobby/hint.rs", "self.0.load(Ordering::Acquire)", "self.0.load(Ordering::Relaxed)",
     ["lobby::unlocker_races_two_parkers"]),
    ("disarm-one-step", "lobby/hint.rs", """let Some(unready) = self.withdraw(seen) else { return };
        // ORDERING: SeqCst, between d1 and d2; the partner is the fence in `lobby::enter`.
        fence(Ordering::SeqCst);
        let to = if anyone_waits() {
            reach(Place::Rearmed);
            unready | READY
        } else {
            reach(Place::Disarmed);
            unready & !ARMED""", """let unready = seen;
        fence(Ordering::SeqCst);
        let to = if anyone_waits() {
            reach(Place::Rearmed);
            unready | READY
        } else {
            reach(Place::Disarmed);
            unready & !FLAGS""", ["lobby::armed_from_enter_to_leave"]),
    ("disarm-same-epoch", "lobby/hint.rs", "(seen & !READY).wrapping_add(EPOCH)", "(seen & !READY)",
     ["late_steps::last_step_of_an_old_disarmer_fails"]),
    ("disarm-no-fence", "lobby/hint.rs", "fence(Ordering::SeqCst);\n        let to", "let to",
     ["lobby::armed_from_enter_to_leave"]),
    ("disarm-fence-acqrel", "lobby/hint.rs", "fence(Ordering::SeqCst);\n        let to",
     "fence(Ordering::AcqRel);\n        let to", ["lobby::armed_from_enter_to_leave"]),
    ("disarm-ignores-waiters", "lobby/hint.rs", "let to = if anyone_waits() {",
     "let to = if anyone_waits() && false {", ["lobby::armed_from_enter_to_leave"]),
    ("disarm-never", "lobby.rs", "if is_time_to_look() {", "if false && is_time_to_look() {",
     ["lobby::armed_from_enter_to_leave"]),
    ("disarm-blind-store", "lobby/hint.rs", "        self.swap(unready, to);",
     "        self.0.store(to, Ordering::Release);", ["lobby::armed_from_enter_to_leave"]),
    # The duty.
    ("taken-by-any-lock", "duty.rs", "self.slot.load(Ordering::Relaxed) & !3 == entry(addr, 0)",
     "{ let _ = addr; self.slot.load(Ordering::Relaxed) != 0 }",
     ["lobby::heir_and_duty_of_another_lock"]),
    ("grant-relaxed", "duty.rs", "compare_exchange(from, to, Ordering::Release,",
     "compare_exchange(from, to, Ordering::Relaxed,", ["handover::waiter_races_barger"]),
    ("accept-relaxed", "duty.rs", "self.slot.load(Ordering::Acquire)",
     "self.slot.load(Ordering::Relaxed)", ["handover::waiter_races_barger"]),
    ("resign-relaxed", "duty.rs", "compare_exchange(from, 0, Ordering::Relaxed, Ordering::Acquire)",
     "compare_exchange(from, 0, Ordering::Relaxed, Ordering::Relaxed)",
     ["handover::waiter_races_barger"]),
    ("accept-keeps-duty", "duty.rs", "if granted {\n            self.end();\n        }", "",
     ["handover::waiter_races_barger"]),
    ("end-nothing", "duty.rs", "self.slot.store(0, Ordering::Relaxed);", "",
     ["handover::waiter_races_barger"]),
    ("take-steals", "duty.rs",
     "self.slot\n            .compare_exchange(0, entry(addr, kind as u64), Ordering::Relaxed,"
     " Ordering::Relaxed)\n            .is_ok()",
     "self.slot.store(entry(addr, kind as u64), Ordering::Relaxed);\n        true",
     ["lobby::heir_and_duty_of_another_lock", "exclusion::three_threads"]),
    # Locking and unlocking.
    ("park-unseen", "raw/lock.rs", "acquired.set(word.try_acquire());", "",
     ["exclusion::park_races_unlock"]),
    ("park-invalid-counted", "raw/lock.rs", "debug_assert!(acquired.get());\n            waiter.leave();",
     "debug_assert!(acquired.get());", ["exclusion::park_races_unlock"]),
    ("unlock-one-look", "raw.rs",
     "            if lobby::is_quiet(addr) {\n                return;\n            }\n"
     "            unlock_slow(&raw const self.word, addr, Word::Released);",
     "            let _ = Word::Released;", ["exclusion::park_races_unlock"]),
    ("unlock-wakes-nobody", "raw/unlock.rs",
     "oversee(addr, bucket);\n    } else {\n        queue::wake_one(addr, bucket);",
     "oversee(addr, bucket);\n    } else {", ["exclusion::park_races_unlock"]),
    ("unlock-minds-any-duty", "raw/unlock.rs", "} else if bucket.duty.is_taken(addr) {",
     "} else if !bucket.duty.is_open() {", ["lobby::heir_and_duty_of_another_lock"]),
    ("unlock-counts-before-release", "raw/unlock.rs", "        word.release();\n    } else if",
     "        let waiting = bucket.seems_busy();\n        word.release();\n        if !waiting {\n"
     "            return;\n        }\n    } else if", ["lobby::slow_path_has_its_own_fence"]),
    ("park-on-duty", "raw/lock.rs", "if let Some(kind) = duty.take() {\n            match",
     "if let Some(kind) = duty.take_if(|_| is_past(deadline)) {\n            match",
     ["exclusion::three_threads"]),
    ("timeout-drops-duty", "raw/lock.rs", "queue::wake_one(word.addr(), bucket);", "",
     ["timeout::duty_passes_on_at_a_timeout"]),
    ("acquired-keeps-duty", "raw/lock.rs",
     "if duty.take().is_some() {\n                bucket.duty.end();\n            }", "",
     ["handover::waiter_races_barger"]),
    # The queue.
    ("hand-and-free", "queue.rs", "hand, nobody) {\n        reach(Place::HandedToHeir);",
     "hand, nobody) {\n        word.release();\n        reach(Place::HandedToHeir);",
     ["handover::oldest_heir_comes_first"]),
    ("wake-hands-held", "queue.rs", "if word.try_acquire() {", "if word.try_acquire() || true {",
     ["handover::heir_is_left_to_the_holder"]),
    ("take-no-leave", "queue.rs", "waiter.leave();\n                Pick::Unpark", "Pick::Unpark",
     ["exclusion::park_races_unlock"]),
    ("frees-beside-waiters", "queue.rs", "        if !others.get() {", "        {",
     ["lobby::heir_of_another_lock_beside_waiters"]),
    ("heir-not-woken", "queue.rs", "|waiter| unless(waiter.is_heir(oldest)), || ())",
     "|waiter| unless(waiter.is_heir(oldest)), || ()) || true",
     ["handover::waiter_races_barger_in_no_time"]),
    ("youngest-heir-first", "queue.rs", "waiter.since_us.get() < oldest)",
     "waiter.since_us.get() > oldest)",
     ["handover::oldest_heir_comes_first"]),
    ("any-heir-first", "queue.rs", "oldest.is_none_or(|since_us| since_us == self.since_us.get())",
     "oldest.is_none_or(|_| true)", ["handover::oldest_heir_comes_first"]),
    ("walk-takes-all-locks", "queue.rs", "if waiter.word.addr() != addr {", "if false {",
     ["lobby::two_locks_in_one_bucket"]),
    ("heir-stays", "queue.rs", "self.bucket.remove_heir();", "", ["handover::waiter_races_barger"]),
    ("fair-frees-late", "queue.rs",
     "hand, || word.release()) {\n        reach(Place::HandedFairly);\n    }",
     "hand, || ()) {\n        reach(Place::HandedFairly);\n    } else {\n"
     "        word.release();\n    }", ["handover::fair_unlock_races_park"]),
    ("wake-heirs-only", "queue.rs", "        take_first(addr, wake, || ());", "let _ = wake;",
     ["exclusion::park_races_unlock"]),
    ("wake-ends-at-any-heir", "queue.rs",
     "take_first(addr, hand, || ()) || left.get()",
     "take_first(addr, hand, || ()) || left.get() || true",
     ["lobby::heir_and_duty_of_another_lock"]),
    # The Condvar.
    ("wait-releases-early", "condvar.rs", "let release = || unsafe { mutex.unlock() };",
     "unsafe { mutex.unlock() };\n        let release = || ();", ["condvar::notify_races_wait"]),
    ("notify-no-leave", "condvar.rs", "may not be.\n            self.leave();", "may not be.",
     ["condvar::notify_races_wait"]),
    ("notify-takes-all", "condvar.rs", "if token != addr {", "if false {",
     ["condvar::two_condvars_in_one_queue"]),
    ("wait-no-count", "condvar.rs", "self.waiters.fetch_add(1, Ordering::Relaxed);", "",
     ["condvar::notify_races_wait"]),
    # Who waits for a key of the cluster, and what wakes a thread that does.
    ("wait-queue-woken-for-ever", "cluster/local/wait_queue.rs", "            waiter.is_woken = false;\n", "",
     ["wait_queue::an_overtaken_waiter_is_woken_again"]),
    ("parker-notify-relaxed", "cluster/local/parker.rs",
     "self.state.swap(NOTIFIED, Ordering::Release)", "self.state.swap(NOTIFIED, Ordering::Relaxed)",
     ["parker::a_take_sees_the_changes_before_the_notification"]),
    ("parker-take-relaxed", "cluster/local/parker.rs",
     "self.state.swap(IDLE, Ordering::Acquire) == NOTIFIED",
     "self.state.swap(IDLE, Ordering::Relaxed) == NOTIFIED",
     ["parker::a_take_sees_the_changes_before_the_notification"]),
    ("parker-take-by-store", "cluster/local/parker.rs",
     "&& self.state.swap(IDLE, Ordering::Acquire) == NOTIFIED",
     "&& {\n                crate::primitive::fence(Ordering::Acquire);\n"
     "                self.state.store(IDLE, Ordering::Relaxed);\n                true\n            }",
     ["parker::a_thread_that_polls_first_loses_no_notification"]),
    ("parker-park-by-store", "cluster/local/parker.rs",
     "        self.state.swap(IDLE, Ordering::Acquire);\n",
     "        self.state.store(IDLE, Ordering::Relaxed);\n",
     ["parker::a_sleeper_is_woken_by_the_last_of_two_notifications"]),
    ("parker-park-unsaid", "cluster/local/parker.rs",
     "compare_exchange(IDLE, ASLEEP, ", "compare_exchange(IDLE, IDLE, ",
     ["parker::a_sleeper_is_woken_by_the_last_of_two_notifications"]),
]

# (change, why no model can tell it from the original)
EQUIVALENT = [
    ("swap is Relaxed",
     "The model's heavy() is a SeqCst fence, which makes the store after it a release all the same."
     " In membarrier.rs the fence comes before the system call, so Release is right there."),
    ("unlock_slow does not ask is_taken",
     "The duty only saves wake-ups: without it every unlock wakes one, and a woken thread that is"
     " not needed tries, spins and parks again. Costs time, which the models do not have."),
    ("a waiter counted too often for a while (leave later than now)",
     "A count that is too high sends an unlock to the slow path, where it finds nobody; the models"
     " see only a count that stays (is_idle at the end)."),
    ("go_permanent does nothing, Nap treated as Sound",
     "The model's heavy() cannot be refused; tests/membarrier.rs refuses it by seccomp."),
    ("may_grant says no",
     "An unlock that grants nothing frees the word and wakes somebody: the woken waiter may be"
     " passed over once more."),
    ("volunteer, grant and may_hand ignore their clocks",
     "The models say how long has passed (Clock in models.rs), and run with both answers."),
    ("leave_heir does nothing",
     "The heir is left to the next wake-up instead: it waits a little longer."),
    ("bits of spin.rs",
     "A model does not spin; how long a thread does changes no outcome."),
]


def source(mutant):
    """The mutated text of the mutant's file."""
    name, file, old, new, _ = mutant
    text = (ROOT / "src" / file).read_text()
    if text.count(old) != 1:
        print(f"{name}: its text occurs {text.count(old)} times in src/{file}, not once")
        sys.exit(2)
    return text.replace(old, new)


class Copy:
    """A copy of the crate in which one worker builds."""

    def __init__(self, number):
        self.root = WORK / str(number)
        shutil.rmtree(self.root / "src", ignore_errors=True)
        shutil.copytree(ROOT / "src", self.root / "src")
        # Neither benches nor tests are there, and the models need nothing of theirs.
        manifest = (ROOT / "Cargo.toml").read_text()
        manifest = re.sub(r"(?ms)^\[(dev-dependencies|\[bench\]|\[test\]).*?(?=^\[(?!\[)|\Z)", "", manifest)
        (self.root / "Cargo.toml").write_text(manifest + "\n[workspace]\n")
        for name in ("Cargo.lock", "README.md"):
            shutil.copy(ROOT / name, self.root / name)

    def build(self):
        """Builds the models. Returns the path of the program, or None."""
        environment = os.environ | {
            "RUSTFLAGS": "--cfg lockword_loom --cap-lints allow",
            "CARGO_PROFILE_RELEASE_DEBUG": "0",
            "CARGO_TARGET_DIR": str(self.root / "target"),
        }
        command = ["cargo", "test", "--release", "--lib", "--no-run", "--offline", "--quiet",
                   "--message-format=json"]
        built = subprocess.run(command, cwd=self.root, env=environment, capture_output=True, text=True)
        for line in built.stdout.splitlines():
            message = json.loads(line)
            if message.get("executable") and message["reason"] == "compiler-artifact":
                return message["executable"]
            if message["reason"] == "compiler-message" and message["message"]["level"] == "error":
                print(message["message"]["rendered"])
        print(built.stderr)
        return None


def run(program, model):
    """Runs one model. Returns "passed", "failed" or "too long"."""
    try:
        parent = "lobby::hint" if model.startswith("late_steps::") else "models"
        command = [program, "--exact", f"{parent}::{model}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        return "too long"
    if "running 0 tests" in done.stdout:
        sys.exit(f"no such model: {model}")
    return "passed" if done.returncode == 0 else "failed"


def models(program):
    """All models there are."""
    listed = subprocess.run([program, "--list"], capture_output=True, text=True).stdout
    return re.findall(r"(?m)^models::(\S+): test$", listed)


def check(mutant, copies, search):
    """Returns who killed the mutant (or None), and a line for the table."""
    name, file, _, _, killers = mutant
    copy = copies.get()
    began = time.monotonic()
    path = copy.root / "src" / file
    path.write_text(source(mutant))
    try:
        program = copy.build()
        if program is None:
            return None, f"{name:26} DOES NOT COMPILE"
        others = [model for model in models(program) if model not in killers] if search else []
        killed = next((model for model in killers + others if run(program, model) == "failed"), None)
    finally:
        shutil.copy(ROOT / "src" / file, path)
        copies.put(copy)
    seconds = time.monotonic() - began
    return killed, f"{name:26} {killed or 'SURVIVES':45} {seconds:5.1f} s"


def main():
    names = [name for name in sys.argv[1:] if not name.startswith("-")]
    search = "--search" in sys.argv
    unknown = set(names) - {mutant[0] for mutant in MUTANTS}
    if unknown:
        sys.exit(f"no such mutant: {', '.join(sorted(unknown))}")
    chosen = [mutant for mutant in MUTANTS if not names or mutant[0] in names]
    for mutant in MUTANTS:
        source(mutant)

    began = time.monotonic()
    workers = os.cpu_count() or 1
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        copies = queue.Queue()
        everyone = [Copy(number) for number in range(workers)]
        programs = list(pool.map(Copy.build, everyone))
        for copy in everyone:
            copies.put(copy)
        if None in programs:
            return 1

        def passes(model):
            began = time.monotonic()
            outcome = run(programs[0], model)
            print(f"{'(unchanged)':26} {model:45} {time.monotonic() - began:5.1f} s {outcome}", flush=True)
            return outcome == "passed"

        used = sorted({model for mutant in chosen for model in mutant[4]})
        sound = all(list(pool.map(passes, used)))
        alive = 0
        for future in concurrent.futures.as_completed(
                [pool.submit(check, mutant, copies, search) for mutant in chosen]):
            killed, line = future.result()
            alive += killed is None
            print(line, flush=True)
    print("\nEquivalent, or out of the models' reach:")
    for change, why in EQUIVALENT:
        print(f"- {change}: {why}")
    print(f"\n{len(chosen) - alive} of {len(chosen)} killed, {time.monotonic() - began:.0f} s")
    return 0 if sound and alive == 0 else 1


if __name__ == "__main__":
    sys.exit(main())

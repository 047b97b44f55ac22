#!/usr/bin/env python3
"""Breaks the crate on purpose, and checks that a loom model or a test notices.

    python3 .ci/mutants/run.py core [--search] [NAME...]
    python3 .ci/mutants/run.py cluster [NAME...]
    python3 .ci/mutants/run.py node [NAME...]
    python3 .ci/mutants/run.py program [NAME...]
    python3 .ci/mutants/run.py debug [NAME...]
    python3 .ci/mutants/run.py profile [NAME...]
    python3 .ci/mutants/run.py ci             # of all lists, what CI applies to this commit
    python3 .ci/mutants/run.py models [--quick]

A mutant is one change of one file: the files *.toml beside this one list them. It is applied to a copy of
the crate under `target/mutants`, which is built, and the tests that must notice it are run until
one fails. `core` runs loom models; `--search` tries all of them on a mutant that those named let
live. `cluster` runs 2,000 seeds of one of the two simulations (`sim` with its scenarios, `real`), or
the tests of one of its parts; the known killer is tried first. `node` runs the tests of
tests/cluster that are named, `program` those of tests/cli, `debug` those of tests/debug, and `profile` those of
tests/profile. `ci` takes a sixteenth of all, which the hash of `src` chooses: a commit that changes only texts
changes nothing here. `models` runs all models on the crate as it is, each for at most 60 s of processor
time; `--quick` leaves out those that core.toml lists as slow.
Exit status 1 if a mutant survives, 2 if a text is not found exactly once (so the lists cannot rot).
"""

import concurrent.futures
import json
import os
import pathlib
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
WORKERS = os.cpu_count() or 1
# In seconds of processor time, so that a busy machine changes nothing. A model that takes longer has
# not killed the mutant; a simulation is stuck.
MODEL_LIMIT, SUITE_LIMIT = 60, 150


class Copy:
    """A copy of the crate, in which one worker builds one list's tests."""

    def __init__(self, tests, number=0):
        self.tests = tests
        self.root = TARGET / "mutants" / f"{tests.name}-{number}"
        # The first worker uses what the steps of CI have built of the dependencies.
        self.target = self.root / "target" if number else TARGET / tests.folder
        shutil.rmtree(self.root / "src", ignore_errors=True)
        # With the time of now: cargo takes the last mutant for fresh otherwise.
        shutil.copytree(ROOT / "src", self.root / "src", copy_function=shutil.copy)
        # Mutants leave things unused. `lockword` itself need not be fast, its dependencies are as
        # in other builds, so that they can be shared.
        manifest = (ROOT / "Cargo.toml").read_text()
        manifest = re.sub(r"(?ms)^\[lints\b.*?(?=^\[|\Z)", "", manifest) + tests.profile
        (self.root / "Cargo.toml").write_text(manifest)
        for name in ("Cargo.lock", "README.md", "benches", "tests"):
            link = self.root / name
            link.unlink(missing_ok=True)
            link.symlink_to(ROOT / name)

    def build(self):
        """Builds the tests. Returns the path of their program, or None."""
        environment = os.environ | self.tests.environment | {
            "CARGO_TARGET_DIR": str(self.target), "CARGO_INCREMENTAL": "1",
        }
        command = ["cargo", "test", *self.tests.target, "--no-run", "--offline", "--quiet",
                   "--message-format=json", *self.tests.arguments]
        built = subprocess.run(command, cwd=self.root, env=environment, capture_output=True, text=True)
        for line in built.stdout.splitlines():
            message = json.loads(line)
            # Not the program `lockword`, which is built along with its tests.
            if message.get("executable") and message["profile"]["test"]:
                return message["executable"]
            if message["reason"] == "compiler-message" and message["message"]["level"] == "error":
                print(message["message"]["rendered"])
        print(built.stderr)
        return None


def run(program, arguments, limit, **variables):
    """Runs tests. Returns whether they passed (None: no end), and what they printed."""
    command = ["prlimit", f"--cpu={limit}:{limit + 5}", program, *arguments]
    # A file, since what a failed test has started may keep a pipe open.
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        try:
            # One that sleeps for ever takes no time.
            code = subprocess.run(command, env=os.environ | variables, timeout=5 * limit,
                                  stdin=subprocess.DEVNULL, stdout=output, stderr=output).returncode
        except subprocess.TimeoutExpired:
            return None, ""
        output.seek(0)
        printed = output.read()
    if code == -signal.SIGXCPU:
        return None, printed
    if "running 0 tests" in printed:
        sys.exit(f"no such test: {' '.join(arguments)}")
    return code == 0, printed


class Core:
    """The core's mutants are killed by loom models."""

    name, folder, target, arguments = "core", "loom", ["--lib"], ["--release"]
    environment = {"RUSTFLAGS": "--cfg lockword_loom"}
    profile = '\n[profile.release.package.lockword]\nopt-level = 1\n'

    def __init__(self, search=False, trusts_models=False):
        self.data = tomllib.loads((ROOT / ".ci/mutants/core.toml").read_text())
        self.search, self.trusts_models = search, trusts_models

    def models(self, program):
        """All models there are."""
        return re.findall(r"(?m)^(\S+): test$", run(program, ["--list"], MODEL_LIMIT)[1])

    def unharmed(self, program, mutants):
        """What fails on the crate as it is."""
        if self.trusts_models:
            return []
        used = sorted({model for mutant in mutants for model in mutant["killers"]})
        with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
            passed = pool.map(lambda model: run(program, ["--exact", model], MODEL_LIMIT)[0], used)
            return [model for model, ok in zip(used, passed) if not ok]

    def killer(self, program, mutant):
        """The model that fails, or None."""
        models = mutant["killers"]
        if self.search:
            models = models + [model for model in self.models(program) if model not in models]
        return next((model for model in models
                     if run(program, ["--exact", model], MODEL_LIMIT)[0] is False), None)


class Cluster:
    """The cluster's mutants are killed by the simulation, or by tests of `local` or `protocol`."""

    name, folder, target = "cluster", ".", ["--lib"]
    arguments = ["--features", "cluster,conformance,sealed"]
    environment = {}
    profile = '\n[profile.dev.package.lockword]\nopt-level = 1\n'

    def __init__(self):
        self.data = tomllib.loads((ROOT / ".ci/mutants/cluster.toml").read_text())
        self.suites = self.data["suites"]

    def unharmed(self, program, mutants):
        """What fails on the crate as it is."""
        known = sorted({mutant["killer"] for mutant in mutants if "killer" in mutant})
        suites = sorted({mutant["suite"] for mutant in mutants if "killer" not in mutant})
        return [killer for killer in known if self.known(program, killer)] + [
            found for suite in suites if (found := self.fails(program, self.suites[suite]))]

    def killer(self, program, mutant):
        """What fails first, as `killer` in the list has it; None if nothing does."""
        if known := mutant.get("killer"):
            if self.known(program, known):
                return known
            print(f"{mutant['name']}: '{known}' does not kill it any more", flush=True)
        return self.fails(program, self.suites[mutant["suite"]])

    def known(self, program, killer):
        """Whether this killer strikes."""
        if "::" in killer:
            if f"{killer}: test" not in run(program, ["--list"], SUITE_LIMIT)[1]:
                return False
            return not run(program, ["--exact", killer], SUITE_LIMIT)[0]
        profile, seed = killer.split()
        suite = "real" if profile.startswith("real_") else "sim"
        replay = self.suites[suite][0].replace("many_seeds", "replay")
        return not run(program, ["--exact", replay], SUITE_LIMIT, LOCKWORD_PROFILE=profile,
                       LOCKWORD_SEED=seed)[0]

    def fails(self, program, suites):
        """The first seed or test of these that fails."""
        for tests in suites:
            passed, text = run(program, [tests], SUITE_LIMIT, LOCKWORD_SEEDS="2000")
            if passed:
                continue
            if seed := re.search(r"(?m)^profile (\w+), seed (\d+): ", text):
                return f"{seed[1]} {seed[2]}"
            test = re.search(r"(?m)^test (\S+) \.\.\. FAILED", text)
            return test[1] if test else f"{tests} has no end" if passed is None else f"{tests} aborts"
        return None


class Named:
    """Mutants that are killed by the test of one folder that each of them names."""

    folder, environment, profile = ".", {}, ""

    def __init__(self):
        self.data = tomllib.loads((ROOT / f".ci/mutants/{self.name}.toml").read_text())

    def unharmed(self, program, mutants):
        """What fails on the crate as it is."""
        return [killer for killer in sorted({mutant["killer"] for mutant in mutants})
                if not run(program, ["--exact", killer], SUITE_LIMIT)[0]]

    def killer(self, program, mutant):
        """The test that fails, or None."""
        passed = run(program, ["--exact", mutant["killer"]], SUITE_LIMIT, LOCKWORD_TEST_LIMIT="10")[0]
        return None if passed else mutant["killer"]


class Node(Named):
    """What a node offers beside the lock: mutants are killed by tests of tests/cluster."""

    name, target = "node", ["--test", "cluster"]
    arguments = ["--features", "audit,cluster,conformance,metrics,tracing"]


class Program(Named):
    """The program's mutants are killed by tests of tests/cli."""

    name, target = "program", ["--test", "cli"]
    arguments = ["--features", "cli,redis,postgres,etcd"]


class Debug(Named):
    """Deadlock detection: mutants are killed by tests of tests/debug."""

    name, target = "debug", ["--test", "debug"]
    arguments = ["--features", "arc_lock,deadlock_detection,serde"]


class Profile(Named):
    """The contention profile's mutants are killed by tests of tests/profile."""

    name, target = "profile", ["--test", "profile"]
    arguments = ["--features", "profile"]


def mutated(mutant):
    """The text of the mutant's file with the change."""
    text = (ROOT / mutant["file"]).read_text()
    if text.count(mutant["old"]) != 1:
        print(f"{mutant['name']}: its text occurs {text.count(mutant['old'])} times in"
              f" {mutant['file']}, not once")
        sys.exit(2)
    return text.replace(mutant["old"], mutant["new"])


def apply(mutants, tests, workers):
    """Applies the mutants. Returns how many survive, or are not to be judged."""
    copies = queue.Queue()
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        everyone = [Copy(tests, number) for number in range(workers)]
        programs = list(pool.map(Copy.build, everyone))
        if None in programs:
            return len(mutants)
        if failed := tests.unharmed(programs[0], mutants):
            print(f"on the crate as it is: {', '.join(failed)}")
            return len(mutants)
        for copy in everyone:
            copies.put(copy)

        def check(mutant):
            copy, began = copies.get(), time.monotonic()
            path = copy.root / mutant["file"]
            path.write_text(mutated(mutant))
            program = copy.build()
            built = time.monotonic()
            killer = tests.killer(program, mutant) if program else None
            path.write_text((ROOT / mutant["file"]).read_text())
            copies.put(copy)
            said = killer or ("SURVIVES" if program else "DOES NOT COMPILE")
            print(f"{mutant['name']:30} {said:60} {built - began:5.1f} + {time.monotonic() - built:4.1f} s",
                  flush=True)
            return killer is None

        return sum(pool.map(check, mutants))


def share(mutants):
    """What CI applies to this source, and what it leaves out."""
    source = subprocess.run(["git", "rev-parse", "HEAD:src"], cwd=ROOT, check=True, text=True,
                            capture_output=True).stdout
    is_left = [(number + int(source, 16)) % 16 != 0 for number in range(len(mutants))]
    return ([mutant for mutant, left in zip(mutants, is_left) if not left],
            [mutant for mutant, left in zip(mutants, is_left) if left])


def note(text):
    """Says it, and lets the summary of CI say it again."""
    print(text)
    if "NOTES" in os.environ:
        with open(os.environ["NOTES"], "a") as notes:
            print(text, file=notes)


def ci():
    """All lists, two at once with a worker each. Returns how many survive."""
    work = []
    # CI has run the models on the crate as it is in a step of their own.
    for tests in (Core(trusts_models=True), Cluster(), Node(), Program(), Debug(), Profile()):
        mutants, left = share(tests.data["mutant"])
        work.append((mutants, tests, 1))
        note(f"mutants: {len(mutants)} of {len(mutants) + len(left)} in {tests.name}.toml;"
             f" another source's turn: {' '.join(mutant['name'] for mutant in left)}")
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        return sum(pool.map(lambda arguments: apply(*arguments), work))


def models(quick):
    """Runs the models on the crate as it is. Returns how many fail."""
    core = Core()
    program = Copy(core).build()
    if program is None:
        return 1
    slow = core.data["slow"]
    names = core.models(program)
    if unknown := set(slow) - set(names):
        sys.exit(f"no such model: {', '.join(sorted(unknown))}")
    # The slowest first, so that none of them runs alone at the end.
    names = ([] if quick else slow) + [name for name in names if name not in slow]

    def check(model):
        began = time.monotonic()
        passed, text = run(program, ["--exact", model], MODEL_LIMIT)
        said = "ok" if passed else f"no end after {MODEL_LIMIT} s" if passed is None else f"FAILED\n{text}"
        print(f"{model:60} {time.monotonic() - began:5.1f} s  {said}", flush=True)
        return not passed

    with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
        failed = sum(pool.map(check, names))
    print(f"{len(names) - failed} of {len(names)} models pass")
    return failed or not names


def by_hand(tests, names):
    """One list, or those of it with these names. Returns how many survive."""
    mutants = tests.data["mutant"]
    if unknown := set(names) - {mutant["name"] for mutant in mutants}:
        sys.exit(f"no such mutant: {', '.join(sorted(unknown))}")
    chosen = [mutant for mutant in mutants if not names or mutant["name"] in names]
    began = time.monotonic()
    alive = apply(chosen, tests, min(WORKERS, len(chosen)))
    for equivalent in tests.data.get("equivalent", []):
        print(f"Not a mutant: {equivalent['change']}. {equivalent['why']}")
    print(f"{len(chosen) - alive} of {len(chosen)} killed, {time.monotonic() - began:.0f} s")
    return alive


def main():
    command, *names = sys.argv[1:] or [""]
    options = {name for name in names if name.startswith("-")}
    names = [name for name in names if name not in options]
    for tests in (Core(), Cluster(), Node(), Program(), Debug(), Profile()):
        for mutant in tests.data["mutant"]:
            mutated(mutant)
    match command:
        case "core":
            failed = by_hand(Core("--search" in options), names)
        case "cluster":
            failed = by_hand(Cluster(), names)
        case "node":
            failed = by_hand(Node(), names)
        case "program":
            failed = by_hand(Program(), names)
        case "debug":
            failed = by_hand(Debug(), names)
        case "profile":
            failed = by_hand(Profile(), names)
        case "ci":
            failed = ci()
        case "models":
            failed = models("--quick" in options)
        case _:
            sys.exit(__doc__)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

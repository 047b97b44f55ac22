#!/usr/bin/env python3
"""Real programs over `lockword::sync`: takes crates from the registry, replaces `std::sync` by
`lockword::sync` in a copy, and runs their own tests, before and after. Both must give the same
result, test by test.

    python3 .ci/real_programs.py             # all
    python3 .ci/real_programs.py parking     # one of them

The copies, and what is built of them, are in target/real_programs. Nothing of theirs is kept in
this repository. (So their dev-dependencies are the newest that fit, unless they ship a lock file.)
"""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
WORK = ROOT / "target" / "real_programs"

# (crate, version, the fewest tests that must pass). Chosen for what hangs on a Mutex and a Condvar
# of std in them: a wake-up that is lost hangs their tests, a lock that lets two in breaks them.
CRATES = [
    # Work stealing: idle workers sleep on a Condvar each, and latches are a Mutex and a Condvar.
    ("rayon-core", "1.13.0", 100),
    # Its Parker and its WaitGroup are a Mutex and a Condvar each.
    ("crossbeam-utils", "0.8.21", 200),
    # A pool of threads that sleep on a Condvar until there is something to do, or for a while.
    ("blocking", "1.6.2", 15),
    # One token handed from thread to thread, by a Mutex and a Condvar where it has to sleep.
    ("parking", "2.2.1", 15),
]
# Far longer than the tests of any of them take; in seconds.
LIMIT_S = 200


def run(command, **options):
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE, **options).stdout


def sources(crates):
    """The folders of the crates' sources, which cargo fetches."""
    scratch = WORK / "fetch"
    scratch.mkdir(parents=True, exist_ok=True)
    (scratch / "lib.rs").write_text("")
    lines = [f'{name} = "={version}"' for name, version, _ in crates]
    (scratch / "Cargo.toml").write_text(
        '[package]\nname = "fetch"\nversion = "0.0.0"\nedition = "2024"\n'
        '[lib]\npath = "lib.rs"\n[workspace]\n[dependencies]\n' + "\n".join(lines) + "\n"
    )
    found = json.loads(run(["cargo", "metadata", "--format-version=1"], cwd=scratch))
    folders = {p["name"]: pathlib.Path(p["manifest_path"]).parent for p in found["packages"]}
    return [folders[name] for name, _, _ in crates]


def copy(source, to):
    """A copy that depends on lockword, whether it uses it or not: so both are built alike."""
    shutil.rmtree(to, ignore_errors=True)
    # With the time of now: cargo takes what was built of older files for fresh.
    shutil.copytree(source, to, copy_function=shutil.copy)
    manifest = to / "Cargo.toml"
    text = manifest.read_text()
    dependency = f'[dependencies.lockword]\npath = "{ROOT}"\n'
    manifest.write_text(f"{text}\n{dependency}\n[workspace]\n")


def split_groups(text):
    """`use std::{a, sync::{b, c}};` names `sync` inside braces: takes it out, on the same line."""
    at = 0
    while found := re.compile(r"\buse (?:::)?std::\{").search(text, at):
        start, depth = found.end(), 1
        end = start
        while depth:
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        items, level, item = [], 0, ""
        for letter in text[start : end - 1] + ",":
            level += {"{": 1, "}": -1}.get(letter, 0)
            if letter == "," and level == 0:
                items.append(item)
                item = ""
            else:
                item += letter
        ours = [each.strip() for each in items if re.match(r"\s*sync\b", each)]
        rest = [each for each in items if not re.match(r"\s*sync\b", each)]
        if ours:
            lines = sum(each.count("\n") for each in items if each.strip() in ours)
            uses = "".join(f"use lockword::{' '.join(each.split())}; " for each in ours)
            group = f"{uses}use std::{{{','.join(rest)}" + "\n" * lines + "}"
            text = text[: found.start()] + group + text[end:]
            at = found.start() + len(group)
        else:
            at = end
    return text


def replace(folder):
    """Replaces std::sync by lockword::sync. Returns in how many places."""
    places, named = 0, set()
    for path in sorted(folder.rglob("*.rs")):
        before = path.read_text()
        after = re.sub(r"(?<![\w:])(::)?std::sync\b", r"lockword::sync", split_groups(before))
        places += after.count("lockword::sync")
        if before.count("\n") != after.count("\n"):
            sys.exit(f"{path}: the lines have moved")
        if left := re.search(r"\bstd::\{?[\s\w:,]*\bsync\b", after):
            sys.exit(f"{path}: not replaced: {left[0]}")
        if "lockword::sync" in after:
            named |= {"Mutex", "Condvar"} & set(re.findall(r"\w+", after))
        path.write_text(after)
    if named != {"Mutex", "Condvar"}:
        sys.exit(f"{folder}: there is no Mutex or no Condvar to replace")
    return places


def test(folder, name):
    """Runs the crate's tests. Returns the status, each test with its result, and the text."""
    # One target folder for all, so that lockword is built once. Lints are the crates' business.
    environment = {**os.environ, "CARGO_TARGET_DIR": str(WORK / "target")}
    environment["RUSTFLAGS"] = "--cap-lints warn"
    cargo = subprocess.Popen(
        ["cargo", "test", "--no-fail-fast"], cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )
    try:
        text, _ = cargo.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        # The test that hangs is a child of cargo's.
        os.killpg(cargo.pid, signal.SIGKILL)
        text, _ = cargo.communicate()
        text += f"\nno end after {LIMIT_S} s\n"
    if not re.search(rf"Compiling {name} v", text):
        sys.exit(f"{text}\n{name}: it was not built anew")
    results, binary = {}, ""
    for line in text.splitlines():
        if found := re.match(r" *(?:Running|Doc-tests) (?:unittests )?(\S+)", line):
            binary = found[1]
        elif found := re.match(r"test (.+) \.\.\. (ok|FAILED|ignored)\b", line):
            results[binary, found[1]] = found[2]
    return cargo.returncode, results, text


def main():
    wanted = sys.argv[1:]
    crates = [crate for crate in CRATES if not wanted or crate[0] in wanted]
    if unknown := set(wanted) - {crate[0] for crate in CRATES}:
        sys.exit(f"no such crate here: {', '.join(unknown)}")
    failed = False
    for (name, version, fewest), source in zip(crates, sources(crates)):
        # In one place after the other: a path in a test's output must not tell them apart.
        folder = WORK / f"{name}-{version}"
        copy(source, folder)
        status, before, text = test(folder, name)
        passed = sum(result == "ok" for result in before.values())
        if status != 0 or passed < fewest:
            print(text)
            sys.exit(f"{name}: its tests fail with std already, or too few ran ({passed})")
        places = replace(folder)
        status_after, after, text = test(folder, name)
        same = status_after == status and after == before
        print(f"{name} {version}: {places} places, {passed} tests pass with std,",
              f"{sum(result == 'ok' for result in after.values())} with lockword:",
              "the same" if same else "NOT THE SAME", flush=True)
        if not same:
            print(text)
            for key in sorted(before.keys() | after.keys()):
                if before.get(key) != after.get(key):
                    print(f"  {key}: {before.get(key)} -> {after.get(key)}")
        failed |= not same
    sys.exit(failed)


main()

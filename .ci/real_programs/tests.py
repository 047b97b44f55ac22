#!/usr/bin/env python3
"""Real programs over `lockword::sync`: takes crates from the registry, replaces `std::sync` by
`lockword::sync` in a copy, and runs their own tests, before and after. Both must give the same
result, test by test.

    python3 .ci/real_programs/tests.py             # all
    python3 .ci/real_programs/tests.py parking     # one of them
    python3 .ci/real_programs/tests.py --watched   # with deadlock_detection, which must report nothing

Their dev-dependencies are the newest that fit, unless they ship a lock file.
"""

import os
import re
import signal
import subprocess
import sys

from copies import WORK, copy, depend_on_lockword, environment, replace_std, sources

# (crate, version, the fewest tests that must pass, the locks that are replaced). Chosen for what hangs on the locks
# of std in them: a wake-up that is lost hangs their tests, a lock that lets two in breaks them.
BLOCKING = {"Mutex", "Condvar"}
CRATES = [
    # Work stealing: idle workers sleep on a Condvar each, and latches are a Mutex and a Condvar.
    ("rayon-core", "1.13.0", 100, BLOCKING),
    # Its Parker and its WaitGroup are a Mutex and a Condvar each, its ShardedLock is eight of RwLock.
    ("crossbeam-utils", "0.8.21", 200, BLOCKING | {"RwLock"}),
    # A pool of threads that sleep on a Condvar until there is something to do, or for a while.
    ("blocking", "1.6.2", 15, BLOCKING),
    # One token handed from thread to thread, by a Mutex and a Condvar where it has to sleep.
    ("parking", "2.2.1", 15, BLOCKING),
    # Its list of dispatchers is behind a RwLock: a new callsite reads it, a new dispatcher writes.
    ("tracing-core", "0.1.36", 20, {"RwLock"}),
]
# Far longer than the tests of any of them take; in seconds.
LIMIT_S = 200


def test(folder, name, *arguments):
    """Runs the crate's tests. Returns the status, each test with its result, and the text."""
    cargo = subprocess.Popen(
        ["cargo", "test", "--no-fail-fast", *arguments], cwd=folder, env=environment(), text=True,
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


def watched(source, folder, name, fewest, locks):
    """Whether the tests pass with deadlock detection, and it reports nothing."""
    manifest, text = copy(source, folder)
    manifest.write_text(depend_on_lockword(text, ["deadlock_detection"]) + "\n[workspace]\n")
    _, named = replace_std(folder)
    if not locks <= named:
        sys.exit(f"{folder}: there is no {' or no '.join(locks - named)} to replace")
    # What a test prints that passes would be kept from us.
    status, _, text = test(folder, name, "--", "--nocapture")
    passed = sum(map(int, re.findall(r"(?m)^test result: ok. (\d+) passed", text)))
    reports = len(re.findall(r"lockword: ", text))
    print(f"{name}: status {status}, {passed} tests pass, {reports} reports", flush=True)
    well = status == 0 and passed >= fewest and reports == 0
    if not well:
        print(text)
    return well


def main():
    wanted = [word for word in sys.argv[1:] if word != "--watched"]
    crates = [crate for crate in CRATES if not wanted or crate[0] in wanted]
    if unknown := set(wanted) - {crate[0] for crate in CRATES}:
        sys.exit(f"no such crate here: {', '.join(unknown)}")
    failed = False
    versions = {name: version for name, version, *_ in crates}
    for (name, version, fewest, locks), source in zip(crates, sources(versions)):
        # In one place after the other: a path in a test's output must not tell them apart.
        folder = WORK / f"{name}-{version}"
        if "--watched" in sys.argv:
            failed |= not watched(source, folder, name, fewest, locks)
            continue
        # It depends on lockword before the change too: so both are built alike.
        manifest, text = copy(source, folder)
        manifest.write_text(depend_on_lockword(text) + "\n[workspace]\n")
        status, before, text = test(folder, name)
        passed = sum(result == "ok" for result in before.values())
        if status != 0 or passed < fewest:
            print(text)
            sys.exit(f"{name}: its tests fail with std already, or too few ran ({passed})")
        places, named = replace_std(folder)
        if not locks <= named:
            sys.exit(f"{folder}: there is no {' or no '.join(locks - named)} to replace")
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

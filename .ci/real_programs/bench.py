#!/usr/bin/env python3
"""How fast crates of the registry are before and after lockword takes the place of their locks:
`lockword::sync` that of `std::sync`, or `lockword` that of `parking_lot`.

    python3 .ci/real_programs/bench.py                  # all, 15 pairs: some 6 minutes after the build
    python3 .ci/real_programs/bench.py flume r2d2       # some of them
    python3 .ci/real_programs/bench.py --pairs 31       # at least 11, for an interval
    python3 .ci/real_programs/bench.py --quick          # once, shortly: shows only that it works
    python3 .ci/real_programs/bench.py --control        # the published crate against itself

Each crate has a load of ours in loads/, which has some cells. It is built twice, with the crate as
it is published and with a copy of its sources; all other crates are the same in both. The two
programs take turns, and which of them is first alternates. Both begin with a batch that is not
measured. The threads are not pinned.

A ratio is the throughput (or CPU time, or context switches, per operation) after the change over
that before it: the median of the pairs with the 95 % interval of the median. A crate's ratio is the
geometric mean of its cells in each pair, then the median of these; the last line does the same with
the crates. The status is 1 if the geometric mean of the crates is below 1.0, or the upper end of
the interval of a crate or cell is below 0.97. All samples are in target/real_programs/bench.json.
"""

import argparse
import itertools
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import time

from copies import (
    ROOT, WORK, copy, depend_on_lockword, environment, replace_parking_lot, replace_std, sources,
)

LOADS = ROOT / ".ci" / "real_programs" / "loads"
BENCH = WORK / "bench"
# The crates: the version, whose locks are replaced, and more of the load's dependencies.
# What they do with their locks is at the head of their load.
CRATES = {
    "flume": ("0.12.0", "std", ""),
    "crossbeam-channel": ("0.5.17", "std", ""),
    "rayon-core": ("1.13.0", "std", ""),
    "threadpool": ("1.8.1", "std", ""),
    "blocking": ("1.6.2", "std", 'futures-lite = "2"'),
    "tokio": ("1.54.1", "std", ""),
    "r2d2": ("0.8.10", "parking_lot", ""),
    "scheduled-thread-pool": ("0.2.8", "parking_lot", ""),
    "quick_cache": ("0.7.0", "std", ""),
    "prometheus": ("0.14.0", "parking_lot", ""),
}
FEATURES = {"tokio": ["rt-multi-thread", "sync"]}
# Crates without their default features: quick_cache takes parking_lot's locks with them.
BARE = {"quick_cache", "prometheus"}
# The slowest that a cell may be, and the crates on average.
LEAST_CELL, LEAST_MEAN = 0.97, 1.0
# Some hundred times the time that a program takes, in seconds: a lost wake-up hangs.
LIMIT_S = 120


def package(name, side, dependency, more):
    """Writes a package whose program is the crate's load."""
    folder = BENCH / f"{name}-{side}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "Cargo.toml").write_text(
        f'[package]\nname = "{folder.name}"\nversion = "0.0.0"\nedition = "2024"\n'
        f'[[bin]]\nname = "{folder.name}"\npath = "{LOADS / name}.rs"\n'
        f"[dependencies]\n{more}\n[dependencies.{name}]\n{dependency}"
        f"features = {json.dumps(FEATURES.get(name, []))}\n"
        f"default-features = {json.dumps(name not in BARE)}\n"
    )
    return folder.name


def prepare(crates):
    """Writes a workspace with two packages for each crate: one lock file for all."""
    members = []
    for (name, (version, kind, more)), source in zip(
        crates.items(), sources({name: version for name, (version, *_) in crates.items()})
    ):
        folder = BENCH / "copies" / f"{name}-{version}"
        manifest, text = copy(source, folder)
        # There may be one package with a `links` of that name. Nothing is linked here.
        text = "".join(line for line in text.splitlines(True) if not line.startswith("links = "))
        if kind == "parking_lot":
            manifest.write_text(replace_parking_lot(text))
        else:
            manifest.write_text(depend_on_lockword(text))
            places, named = replace_std(folder / "src")
            if not named:
                sys.exit(f"{name}: there is no lock to replace")
            if "edition =" not in text:
                root = folder / "src" / "lib.rs"
                root.write_text(root.read_text().replace(
                    "extern crate", "extern crate lockword; extern crate", 1
                ))
        members.append(package(name, "before", f'version = "={version}"\n', more))
        members.append(package(name, "after", f'path = "{folder}"\n', more))
    (BENCH / "Cargo.toml").write_text(
        f'[workspace]\nresolver = "3"\nmembers = {json.dumps(members)}\nexclude = ["copies"]\n'
    )
    # The lock file of other crates would keep what is no longer asked for.
    (BENCH / "Cargo.lock").unlink(missing_ok=True)
    return members


def build(member):
    """Builds a program. Alone, so that no other one's features are in it."""
    command = ["cargo", "build", "--release", "--quiet", "-p", member]
    if jobs := os.environ.get("CARGO_BUILD_JOBS"):
        command.append(f"-j{jobs}")
    built = subprocess.run(
        command, cwd=BENCH, env=environment(), text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if built.returncode != 0:
        sys.exit(f"{built.stdout}\n{member}: it does not compile")
    program = WORK / "target" / "release" / member
    # Its symbols tell whose locks are in it.
    if (b"8lockword" in program.read_bytes()) != member.endswith("-after"):
        sys.exit(f"{member}: the wrong locks are in it")
    return program


def measure(program, cell, milliseconds):
    """Runs a program. Returns its operations per second, and per operation its CPU seconds and
    context switches."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    try:
        text = subprocess.run(
            [program, cell, str(milliseconds)], check=True, text=True, stdout=subprocess.PIPE,
            timeout=LIMIT_S,
        ).stdout
    except subprocess.TimeoutExpired:
        sys.exit(f"{program.name} {cell}: no end after {LIMIT_S} s")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = [a - b for a, b in zip(after, before)]
    measured, nanoseconds, all_of_them = map(int, text.split())
    return {
        "throughput": measured / nanoseconds * 1e9,
        "cpu": (spent[0] + spent[1]) / all_of_them,
        "switches": (spent[14] + spent[15]) / all_of_them,
    }


def median(samples):
    """The median with its distribution-free 95 % interval, as lockword::contention::statistics."""
    ordered, count = sorted(samples), len(samples)
    skip, tail = 0, 2.0**-count
    while True:
        tail += math.comb(count, skip + 1) * 2.0**-count
        if 2 * tail > 0.05 or skip + 1 > (count - 1) // 2:
            break
        skip += 1
    return statistics.median(ordered), ordered[skip], ordered[count - 1 - skip]


def ratios(pairs, what):
    """The ratio after over before of each pair. Less than one switch in 10,000 operations counts
    as none, and two of none are equal."""
    floor = 1e-4 if what == "switches" else 1e-12
    return [max(after[what], floor) / max(before[what], floor) for before, after in pairs]


def means(lists):
    """The geometric mean of several lists of ratios, pair by pair."""
    return [statistics.geometric_mean(each) for each in zip(*lists)]


def line(name, cell, samples, figures, judged):
    """Prints a line of the table. Returns whether it is significantly too slow."""
    mid, low, high = median(samples["throughput"])
    cpu, switches = (median(samples[what])[0] for what in ("cpu", "switches"))
    slow = judged and high < LEAST_CELL
    interval = f"[{low:.2f}, {high:.2f}]"
    print(f"{name:22} {cell:15} {mid:6.2f} {interval:14} {cpu:6.2f} {switches:8.2f}  {figures}",
          "  TOO SLOW" if slow else "", flush=True)
    return slow


def report(measured, judged):
    """Prints the table. Returns whether the figures are what is asked for."""
    kinds = ("throughput", "cpu", "switches")
    print(f"\n{'crate':22} {'cell':15} {'ratio':>6} {'95 %':14} {'CPU':>6} {'switches':>8}  "
          "operations/s before, after")
    well, crates = True, []
    for name, cells in itertools.groupby(measured.items(), lambda item: item[0][0]):
        of_cells = []
        for (_, cell), pairs in cells:
            samples = {what: ratios(pairs, what) for what in kinds}
            of_cells.append(samples)
            before, after = (statistics.median(side["throughput"] for side in sides)
                             for sides in zip(*pairs))
            well &= not line(name, cell, samples, f"{before:,.0f}, {after:,.0f}", judged)
        crate = {what: means([samples[what] for samples in of_cells]) for what in kinds}
        crates.append(crate)
        if len(of_cells) > 1:
            well &= not line(name, "all cells", crate, "", judged)
    overall = {what: means([crate[what] for crate in crates]) for what in kinds}
    # The geometric mean of the crates' own figures, too: it is what is asked for.
    mean = statistics.geometric_mean(median(crate["throughput"])[0] for crate in crates)
    line("all crates", f"(mean {mean:.3f})", overall, "", judged)
    return well and mean >= LEAST_MEAN


def main():
    options = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    options.add_argument("crates", nargs="*", metavar="CRATE")
    options.add_argument("--pairs", type=int, default=15)
    options.add_argument("--milliseconds", type=int, default=500, help="of a program's run")
    options.add_argument("--quick", action="store_true", help="one short pair, no verdict")
    options.add_argument("--control", action="store_true", help="before against before")
    options = options.parse_args()
    if unknown := set(options.crates) - set(CRATES):
        options.error(f"no such crate here: {', '.join(unknown)}")
    if options.quick:
        options.pairs, options.milliseconds = 1, 1
    elif options.pairs < 11:
        options.error("at least 11 pairs, or --quick")
    crates = {n: crate for n, crate in CRATES.items() if not options.crates or n in options.crates}

    programs = {member: build(member) for member in prepare(crates)}
    measured = {}
    for name in crates:
        sides = [programs[f"{name}-before"], programs[f"{name}-after"]]
        if options.control:
            sides[1] = sides[0]
        listed = subprocess.run(sides[0], check=True, text=True, stdout=subprocess.PIPE).stdout
        measured |= {(name, cell): (sides, []) for cell in listed.split()}
    started = time.monotonic()
    for number in range(options.pairs):
        for (_, cell), (sides, pairs) in measured.items():
            order = (0, 1) if number % 2 == 0 else (1, 0)
            pair = {side: measure(sides[side], cell, options.milliseconds) for side in order}
            pairs.append((pair[0], pair[1]))
    measured = {key: pairs for key, (_, pairs) in measured.items()}
    (WORK / "bench.json").write_text(json.dumps(
        [{"crate": n, "cell": c, "pairs": pairs} for (n, c), pairs in measured.items()]
    ))
    print(f"{options.pairs} pairs in {time.monotonic() - started:.0f} s,",
          f"{os.cpu_count()} processors,",
          "the published crate on both sides" if options.control else "after over before")
    well = report(measured, judged=not (options.quick or options.control))
    if options.quick:
        print("\nQuick: these figures say nothing.")
    elif not well and not options.control:
        sys.exit(f"below {LEAST_MEAN} on average, or {LEAST_CELL} in a cell or crate")


main()

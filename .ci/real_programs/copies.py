"""Copies of crates from the registry in which a lock of lockword takes the place of another one.

The copies, and what is built of them, are in target/real_programs. Nothing of theirs is kept in
this repository.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
WORK = ROOT / "target" / "real_programs"


def environment():
    """One target folder for all, so that lockword is built once. Lints are the crates' business."""
    return {
        **os.environ, "CARGO_TARGET_DIR": str(WORK / "target"), "RUSTFLAGS": "--cap-lints warn"
    }


def sources(versions):
    """The folders of the sources of crates, which cargo fetches. From {name: version}."""
    scratch = WORK / "fetch"
    scratch.mkdir(parents=True, exist_ok=True)
    (scratch / "lib.rs").write_text("")
    lines = [f'{name} = "={version}"' for name, version in versions.items()]
    (scratch / "Cargo.toml").write_text(
        '[package]\nname = "fetch"\nversion = "0.0.0"\nedition = "2024"\n'
        '[lib]\npath = "lib.rs"\n[workspace]\n[dependencies]\n' + "\n".join(lines) + "\n"
    )
    metadata = subprocess.run(
        ["cargo", "metadata", "--quiet", "--format-version=1"], cwd=scratch, check=True, text=True,
        stdout=subprocess.PIPE,
    ).stdout
    folders = {
        (package["name"], package["version"]): pathlib.Path(package["manifest_path"]).parent
        for package in json.loads(metadata)["packages"]
    }
    return [folders[each] for each in versions.items()]


def copy(source, to):
    """Copies a crate's sources. Returns the path of the manifest of the copy, and its text."""
    shutil.rmtree(to, ignore_errors=True)
    # With the time of now: cargo takes what was built of older files for fresh.
    shutil.copytree(source, to, copy_function=shutil.copy)
    manifest = to / "Cargo.toml"
    return manifest, manifest.read_text()


def depend_on_lockword(text, features=()):
    """The text of a manifest with a dependency on lockword, which must not be optional."""
    return f'{text}\n[dependencies.lockword]\npath = "{ROOT}"\nfeatures = {list(features)}\n'


def split_groups(text):
    """`use std::{a, sync::{b, c}};` names `sync` inside braces: takes it out, on the same line."""
    at = 0
    while found := re.compile(r"\b(pub(?:\([\w ]+\))? )?use (?:::)?std::\{").search(text, at):
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
            visible = found[1] or ""
            uses = "".join(f"{visible}use lockword::{' '.join(each.split())}; " for each in ours)
            group = f"{uses}{visible}use std::{{{','.join(rest)}" + "\n" * lines + "}"
            text = text[: found.start()] + group + text[end:]
            at = found.start() + len(group)
        else:
            at = end
    return text


def replace_std(folder):
    """Replaces std::sync by lockword::sync. Returns in how many places, and which of Mutex, Condvar and
    RwLock these files name."""
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
            named |= {"Mutex", "Condvar", "RwLock"} & set(re.findall(r"\w+", after))
        path.write_text(after)
    return places, named


def replace_parking_lot(text, package="lockword", path=ROOT):
    """The text of a manifest in which a package takes the place of parking_lot, with the features
    that parking_lot was asked for."""
    section = re.compile(r"^\[dependencies\.parking_lot\]\n((?:(?!\[).*\n?)*)", re.MULTILINE)
    if len(found := section.findall(text)) != 1:
        sys.exit("the manifest has no section for parking_lot, or more than one")
    rest = re.sub(r"^version = .*\n", "", found[0], flags=re.MULTILINE)
    ours = f'[dependencies.parking_lot]\npackage = "{package}"\npath = "{path}"\n{rest}'
    return section.sub(lambda _: ours, text)

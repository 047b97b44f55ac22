#!/usr/bin/env python3
"""Which users of `parking_lot` in the registry compile with lockword under its name, and what keeps
the others from it.

    python3 .ci/real_programs/parking_lot.py                # all, some minutes
    python3 .ci/real_programs/parking_lot.py r2d2 tokio     # some of them

In a copy of the crate, `parking_lot = { package = "lockword" }` takes the place of its dependency.
Where a name is missing, the crate is compiled again with this name from parking_lot 0.13 beside
what lockword has: so the list is complete, and shows what would not compile even then. The status
is 1 if the list is not the one that is expected below.
"""

import json
import re
import subprocess
import sys

from copies import ROOT, WORK, copy, environment, replace_parking_lot, sources

# The version, the features that bring parking_lot, the names that lockword lacks, and what each
# error says that is left with these names there.
CRATES = {
    "bb8": ("0.9.1", [], [], ""),
    "governor": ("0.10.4", ["std"], [], ""),
    "libp2p-core": ("0.44.0", [], [], ""),
    "r2d2": ("0.8.10", [], [], ""),
    "salsa": ("0.28.5", [], [], ""),
    "scheduled-thread-pool": ("0.2.8", [], [], ""),
    "serial_test": ("4.0.1", [], [], ""),
    "string_cache": ("0.11.0", [], [], ""),
    "tokio-postgres": ("0.7.18", [], [], ""),
    "thingbuf": ("0.1.6", ["parking_lot"], ["const_mutex"], ""),
    # Its own types are generic over the traits of lock_api 0.4.
    "futures-intrusive": (
        "0.5.0", [], ["RawMutex"], "multiple different versions of crate `lock_api`"
    ),
    # All of these lean on RwLock, some on its mapped guards.
    "cached": ("4.1.0", [], [], ""),
    "fred": ("10.1.0", [], [], ""),
    "moka": ("0.12.16", ["sync"], [], ""),
    "prometheus": ("0.14.0", [], [], ""),
    "quick_cache": ("0.7.0", [], [], ""),
    "sled": ("0.34.7", [], [], ""),
    "tracing-appender": ("0.2.5", ["parking_lot"], [], ""),
    "tracing-subscriber": ("0.3.23", ["parking_lot"], [], ""),
    "gix-features": ("0.50.0", ["parallel"], [], ""),
    "prometheus-client": ("0.26.0", [], [], ""),
    "epaint": ("0.37.0", [], [], ""),
    "tokio": ("1.54.1", ["full", "parking_lot"], ["const_mutex"], ""),
}
LISTS = WORK / "parking_lot"
# parking_lot 0.13 lacks what 0.12 had. Here it is, of what is there.
FORMER = {
    "const_mutex": "pub const fn const_mutex<T>(value: T) -> Mutex<T> { Mutex::new(value) }",
    "const_rwlock":
        "pub const fn const_rwlock<T>(value: T) -> parking_lot::RwLock<T> {"
        " parking_lot::RwLock::new(value) }",
    "const_reentrant_mutex":
        "pub const fn const_reentrant_mutex<T>(value: T) -> ReentrantMutex<T> {"
        " ReentrantMutex::new(value) }",
    "RawMutex": "pub use lockword::RawLock as RawMutex;",
}


def substitute(names):
    """Writes a package that has what lockword has, and some names more. Returns its folder."""
    folder = LISTS / "substitute"
    (folder / "src").mkdir(parents=True, exist_ok=True)
    (folder / "Cargo.toml").write_text(
        '[package]\nname = "substitute"\nversion = "0.0.0"\nedition = "2024"\n[dependencies]\n'
        f'lockword = {{ path = "{ROOT}" }}\nparking_lot = "0.13"\n'
    )
    more = [FORMER.get(name, f"pub use parking_lot::{name};") for name in sorted(names)]
    (folder / "src" / "lib.rs").write_text("\n".join(["pub use lockword::*;", *more]) + "\n")
    return folder


def check(name, version):
    """Compiles a copy without making a program of it. Returns the errors: of cargo as text, of the
    compiler as (message, text)."""
    checked = subprocess.run(
        ["cargo", "check", "--lib", "--quiet", "--message-format=json", "-p", f"{name}-user"],
        cwd=LISTS, env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )
    errors = []
    for line in checked.stdout.splitlines():
        message = json.loads(line)
        if message["reason"] == "compiler-message" and message["message"]["level"] == "error":
            if f"{name}-{version}" not in message["manifest_path"]:
                sys.exit(f"{name}: {message['message']['rendered']}")
            errors.append((message["message"]["message"], message["message"]["rendered"]))
    if checked.returncode != 0 and not errors:
        return checked.stderr, []
    return None, errors


def missing(errors):
    """The names of parking_lot that the errors miss."""
    names = set()
    for message, text in errors:
        if message.startswith("unresolved import"):
            names |= set(re.findall(r"`parking_lot::(\w+)", message))
            names |= set(re.findall(r"no `(\w+)` in the root", text))
        elif "in `parking_lot`" in message or "in crate `parking_lot`" in message:
            names |= set(re.findall(r"cannot find .*?`(\w+)` in", message))
    return names


def examine(name, version, features, source):
    """Returns the names that keep a crate from compiling, and what else does."""
    folder = LISTS / "copies" / f"{name}-{version}"
    user = LISTS / f"{name}-user"
    (user / "src").mkdir(parents=True, exist_ok=True)
    (user / "src" / "lib.rs").write_text("")
    (user / "Cargo.toml").write_text(
        f'[package]\nname = "{name}-user"\nversion = "0.0.0"\nedition = "2024"\n'
        f'[dependencies.{name}]\npath = "{folder}"\nfeatures = {json.dumps(features)}\n'
    )
    (LISTS / "Cargo.toml").write_text(
        f'[workspace]\nresolver = "3"\nmembers = ["{name}-user"]\n'
        'exclude = ["copies", "substitute"]\n'
    )
    manifest, text = copy(source, folder)
    manifest.write_text(replace_parking_lot(text))
    names = set()
    while True:
        refused, errors = check(name, version)
        if refused:
            return names, [refused]
        more = missing(errors) - names
        if not more:
            return names, [text for _, text in errors]
        names |= more
        manifest.write_text(replace_parking_lot(text, "substitute", substitute(names)))


def main():
    wanted = sys.argv[1:]
    if unknown := set(wanted) - set(CRATES):
        sys.exit(f"no such crate here: {', '.join(unknown)}")
    crates = {name: crate for name, crate in CRATES.items() if not wanted or name in wanted}
    LISTS.mkdir(parents=True, exist_ok=True)
    found = sources({name: version for name, (version, *_) in crates.items()})
    failed = False
    for (name, (version, features, lacks, left)), source in zip(crates.items(), found):
        names, others = examine(name, version, features, source)
        unexpected = [text for text in others if not left or left not in text]
        well = names == set(lacks) and not unexpected and bool(others) == bool(left)
        failed |= not well
        result = f"lacks {', '.join(sorted(names))}" if names else "compiles"
        if others:
            result = f"{result}; {len(others)} errors more"
        print(f"{name} {version}: {result}{'' if well else '  NOT AS EXPECTED'}", flush=True)
        for text in unexpected:
            print(text)
    sys.exit(failed)


main()

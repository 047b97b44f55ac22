# The steps of .ci/run, a function each.
# Builds whose flags are equal share a folder under target/.

# No debug information: it costs a third of the build time, and nobody debugs here.
export CARGO_PROFILE_DEV_DEBUG=0 CARGO_PROFILE_RELEASE_DEBUG=0 CARGO_PROFILE_BENCH_DEBUG=0
export CARGO_INCREMENTAL=0 CARGO_TERM_COLOR=never CARGO_TERM_PROGRESS_WHEN=never
export RUST_BACKTRACE=1 DEBIAN_FRONTEND=noninteractive

HOST=x86_64-unknown-linux-gnu
# The library's features: what is not for the program.
LIBRARY=arc_lock,serde,peers
CLUSTER=cluster,conformance,tracing

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

step_install() {
    # python3 runs the mutants; cargo-fuzz compiles libFuzzer, which takes a C++ compiler.
    # The client of etcd is built with protoc. The rest are the engines, a pooler, and what cuts
    # their clients off.
    local packages=(rustc-web cargo-web rust-web-src rust-web-llvm binutils-mingw-w64-x86-64
        build-essential python3 protobuf-compiler libprotobuf-dev
        etcd-server redis-server postgresql pgbouncer iproute2)
    if ! dpkg-query --show "${packages[@]}" >/dev/null 2>&1; then
        apt-get -o DPkg::Lock::Timeout=120 -qq update
        apt-get -o DPkg::Lock::Timeout=120 -qq install -y --no-install-recommends \
            "${packages[@]}" >/dev/null
    fi
    # Debian leaves out the sanitizers' runtimes; rustup's toolchain has them.
    cp "$(rustc --print sysroot)/lib/rustlib/$HOST/lib/"librustc-*_rt.tsan.a \
        "/usr/lib/rustlib/$HOST/lib/"
    cargo fuzz --version || cargo install --quiet --locked cargo-fuzz
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

step_lint() {
    cargo clippy --all-targets --all-features -- -D warnings
    # cargo-fuzz sets this, and some of what the targets use is there for them alone.
    with_flags fuzzing "--cfg fuzzing" \
        cargo clippy --all-targets --manifest-path fuzz/Cargo.toml -- -D warnings
    with_flags symmetric "--cfg lockword_symmetric" \
        cargo clippy --all-targets --all-features -- -D warnings
    # Under loom there is nothing but the algorithm and its models.
    with_flags loom "--cfg lockword_loom" \
        cargo clippy --lib --profile test --all-features -- -D warnings
}

step_test() {
    $(readme_command "cargo test --features cluster,conformance")
}

# Without features, what the README's command does not build.
step_test_default() {
    cargo test --lib --tests
}

# Only what the features change.
step_test_all_features() {
    cargo test --all-features --test core --test contention --test cli --test cluster --bin lockword
    cargo test --all-features --lib contention
    cargo test --all-features --doc
}

# The transports against real servers, which the tests start.
step_engines() {
    export LOCKWORD_ENGINES=required
    cargo test --all-features --test engines
    # For longer than a test run takes, and with nothing beside it.
    local long=(cargo test --all-features --test engines processes_contend)
    some_tests "${long[@]}"
    LOCKWORD_ENGINE_SECS=30 "${long[@]}"
}

# Many nodes in virtual time, more seeds than a test run takes.
step_simulation() {
    some_tests cargo test --release --features cluster --lib cluster::sim
    LOCKWORD_SEEDS=20000 cargo test --release --features cluster --lib cluster::sim -- --nocapture
}

# Breaks the state machine in every place, and expects each time that the simulation notices.
step_cluster_mutants() {
    python3 tests/mutants_cluster.py
}

step_documentation() {
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --all-features
}

# The mode of targets that have no process-wide barrier.
step_symmetric() {
    with_flags symmetric "--cfg lockword_symmetric" cargo test --features $LIBRARY
}

# The models; one that takes more than 60 s fails. One at a time, as they run anyway: the time
# that a model waits for its turn would count too.
step_loom() {
    local models=(with_flags loom "--cfg lockword_loom" cargo test --release --lib)
    some_tests "${models[@]}"
    RUST_TEST_TIME_UNIT=60000,60000 \
    CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="env RUSTC_BOOTSTRAP=1" \
        "${models[@]}" -- --test-threads=1 -Zunstable-options --report-time --ensure-time
}

# Weakens the algorithm in every place, and expects each time that a model or a test fails.
step_mutants() {
    python3 tests/mutants.py
}

# Store buffering on the machine itself, with the barrier and (the control) without.
step_litmus() {
    some_tests cargo test --release --lib litmus
    cargo test --release --lib litmus -- --nocapture
}

# The tests of other crates, over std::sync and over lockword::sync.
step_real_programs() {
    python3 tests/real_programs.py
}

step_stress() {
    LOCKWORD_STRESS_SECS=30 cargo test --release --test stress -- --nocapture
}

step_destroy() {
    LOCKWORD_DESTROY_ROUNDS=2000000 cargo test --release --test destroy
}

# The README's first command, cut short. Then every bench once, without measuring.
step_benches() {
    local bench
    $(readme_command "cargo run --release --features cli -- bench") --rounds 1 --slice 5
    $(readme_command "cargo bench --features peers --bench uncontended") -- --test
    for bench in contended starvation condvar many_locks sync; do
        cargo bench --features peers --bench "$bench" -- --test
    done
    $(readme_command "cargo bench --features cluster,peers --bench cluster") -- --test
}

# Those that fork, filter system calls or read assembly have no place under a sanitizer.
SANITIZED=(--test core --test stress --test destroy)

# The parking lot of children needs no fork to be tested. Those tests first, they are quick; then
# the rest: sanitized COMMAND ...
sanitized() {
    some_tests "$@" --lib park::own
    "$@" --lib park::own
    "$@" "${SANITIZED[@]}"
}

step_address_sanitizer() {
    export LOCKWORD_STRESS_SECS=10 LOCKWORD_DESTROY_ROUNDS=500000 RUSTC_BOOTSTRAP=1 \
        CARGO_PROFILE_RELEASE_DEBUG=1
    sanitized with_flags asan -Zsanitizer=address \
        cargo test --release --target $HOST --features $LIBRARY
}

# Debian's Rust, so that std is instrumented too: otherwise there are false alarms.
step_thread_sanitizer() {
    export LOCKWORD_STRESS_SECS=10 LOCKWORD_DESTROY_ROUNDS=300000 TSAN_OPTIONS=halt_on_error=1 \
        CARGO_PROFILE_RELEASE_DEBUG=1
    sanitized with_flags tsan -Zsanitizer=thread \
        debian_cargo test --release -Zbuild-std --target $HOST --features $LIBRARY
}

# cargo-fuzz wants a nightly compiler; the stable one can pass for it.
step_fuzz() {
    RUSTC_BOOTSTRAP=1 cargo fuzz run operations -- \
        -max_total_time=30 -len_control=0 -max_len=600 -timeout=60 -print_final_stats=1
    local target
    for target in register protocol; do
        RUSTC_BOOTSTRAP=1 cargo fuzz run "$target" -- \
            -max_total_time=20 -timeout=60 -print_final_stats=1
    done
}

# The rows of the README's table of platforms; the library, with all that is not for the program.
step_targets() {
    local target targets=() check=(debian_cargo check --lib -Zbuild-std=std --features)
    for target in x86_64-unknown-freebsd aarch64-apple-darwin x86_64-unknown-linux-musl \
        x86_64-pc-windows-gnu i686-unknown-linux-gnu aarch64-unknown-linux-gnu; do
        targets+=(--target "$target")
    done
    with_flags targets "-D warnings" "${check[@]}" $LIBRARY,$CLUSTER "${targets[@]}"
    # There is no network there.
    with_flags targets "-D warnings" "${check[@]}" $LIBRARY --target wasm32-unknown-unknown
}

#!/usr/bin/env bash
# Runs a fuzz target of fuzz/ on the stable toolchain, without cargo-fuzz.
#
#   scripts/fuzz.sh TARGET [SECONDS]      for example: scripts/fuzz.sh redis_requests 900
#
# It begins with fuzz/corpus/TARGET. What it finds interesting goes beside what is built, what fails into fuzz/artifacts/TARGET; it fails when anything
# does. `-merge=1` of the built program makes a small corpus of a large one.
# Needs a C++ compiler, for libFuzzer. CARGO_TARGET_DIR says where it is built, fuzz/target by default.
set -euo pipefail

if [ $# -lt 1 ]; then
    echo "usage: $0 TARGET [SECONDS]   (targets: $(cd "$(dirname "$0")/../fuzz/fuzz_targets" && ls | sed 's/\.rs$//' | tr '\n' ' '))" >&2
    exit 2
fi
target=$1
seconds=${2:-60}
cd "$(dirname "$0")/../fuzz"
built=${CARGO_TARGET_DIR:-$PWD/target}
triple=$(rustc -vV | sed -n 's/^host: //p')

# What cargo-fuzz asks the compiler for, without the address sanitizer, which only nightly has: there is no unsafe code of ours to watch.
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares -Cdebug-assertions -Coverflow-checks -Ccodegen-units=1"
cargo build --release --quiet --bin "$target" --target "$triple" --target-dir "$built"

found=$built/corpus/$target
mkdir -p "$found" "corpus/$target" "artifacts/$target"
exec "$built/$triple/release/$target" "$found" "corpus/$target" "-artifact_prefix=artifacts/$target/" \
    "-max_total_time=$seconds" -max_len=4096 -timeout=300 -rss_limit_mb=2048 -print_final_stats=1

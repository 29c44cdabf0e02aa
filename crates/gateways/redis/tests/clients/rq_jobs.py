"""RQ end to end: jobs, dependencies, failures and retries, run by a worker until the queues are empty. Usage: rq_jobs.py HOST PORT"""

import sys

import redis
from rq import Queue, Retry, SimpleWorker
from rq.job import JobStatus

RUNS = {}


def square(number):
    return number * number


def third_time(name):
    RUNS[name] = RUNS.get(name, 0) + 1
    if RUNS[name] < 3:
        raise RuntimeError("not yet")
    return RUNS[name]


def fails():
    raise ValueError("on purpose")


if __name__ == "__main__":
    import rq_jobs  # Jobs are named by their module, so that the worker finds them.

    connection = redis.Redis(sys.argv[1], int(sys.argv[2]), db=7)
    connection.flushdb()
    high, low = Queue("high", connection=connection), Queue("low", connection=connection)
    jobs = [low.enqueue(rq_jobs.square, at) for at in range(50)]
    urgent = high.enqueue(rq_jobs.square, 100)
    after = low.enqueue(rq_jobs.square, 9, depends_on=jobs[-1])
    retried = high.enqueue(rq_jobs.third_time, "x", retry=Retry(max=3))
    failed = low.enqueue(rq_jobs.fails)
    assert len(low) == 51 and len(high) == 2, (len(low), len(high))
    worker = SimpleWorker([high, low], connection=connection)
    assert worker.work(burst=True)
    worker.work(burst=True)
    assert [job.return_value(refresh=True) for job in jobs] == [at * at for at in range(50)]
    assert urgent.return_value(refresh=True) == 10000 and after.return_value(refresh=True) == 81
    assert retried.get_status(refresh=True) == JobStatus.FINISHED and retried.return_value() == 3
    assert failed.get_status(refresh=True) == JobStatus.FAILED
    assert failed.id in low.failed_job_registry.get_job_ids()
    assert len(low) == 0 and len(high) == 0
    connection.flushdb()
    print("53 jobs, dependencies, retries and failures: done")

"""RQ while leaders are killed. Usage: rq_jobs.py [work], with NODES=HOST:PORT,…, RAN and KILLS (files)

A worker of two queues pops with BLPOP: what a connection popped whose answer was cut off is gone, as with any Redis. Everything else that was accepted
ran or is still there.
"""

import os
import subprocess
import sys
import time

import support
from rq import Queue, SimpleWorker
from support import again, saw, stop

RAN = os.environ["RAN"] + ".rq"
WORKERS = 2


def job(number):
    support.note(RAN, number)
    return number


def work():
    """A worker; begun anew by whoever runs it when it ends."""
    connection = support.connect(7)
    SimpleWorker([Queue("high", connection=connection), Queue("low", connection=connection)], connection=connection).work(logging_level="ERROR")


def worker():
    folder = os.path.dirname(os.path.abspath(__file__))
    return subprocess.Popen([sys.executable, "rq_jobs.py", "work"], cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=open(f"{RAN}.log", "a"))


def main():
    import rq_jobs  # Jobs are named by their module, so that the worker finds them.

    support.listen()
    open(RAN, "w").close()
    workers = [worker() for _ in range(WORKERS)]
    restarts = 0
    try:
        connection = support.connect(7)
        queues = [Queue("high", connection=connection), Queue("low", connection=connection)]
        accepted, unclear, count, told = [], [], 0, False
        while not stop.is_set():
            count += 1
            try:
                queues[count % 2].enqueue(rq_jobs.job, count, job_id=f"job-{count}", result_ttl=600)
                accepted.append(count)
            except Exception as error:
                saw(error)
                unclear.append(count)
                time.sleep(0.1)
            time.sleep(0.01)
            for number, one in enumerate(workers):
                if one.poll() is not None:  # As whoever runs it would, systemd or Kubernetes.
                    restarts += 1
                    workers[number] = worker()
            if not told and count % 10 == 0 and len(support.ran(RAN)) > 10:
                told = True
                print("ready", flush=True)
        end = time.monotonic() + 45
        while time.monotonic() < end:
            for number, one in enumerate(workers):
                if one.poll() is not None:
                    restarts += 1
                    workers[number] = worker()
            if again(lambda: sum(len(queue) for queue in queues)) == 0:
                break
            time.sleep(0.2)
        time.sleep(1)
        ran = support.ran(RAN)
        waiting = again(lambda: {int(name.split("-")[1]) for queue in queues for name in queue.get_job_ids()})
        missing = set(accepted) - set(ran) - waiting
        kills = int(open(os.environ["KILLS"]).read() or 0)
        counts = {"accepted": len(accepted), "ran": len(set(accepted) & set(ran)), "queued": len(waiting), "popped_by_a_cut_connection": len(missing)}
        counts.update(ran_again=sum(1 for times in ran.values() if times > 1), unclear=len(unclear), worker_restarts=restarts, kills=kills)
        assert len(missing) <= kills * WORKERS, f"more jobs are gone than connections were cut: {counts} {sorted(missing)[:20]}"
        assert set(ran) <= set(accepted) | set(unclear), counts
        support.tell(**counts)
    finally:
        for one in workers:
            one.kill()
            one.wait()


if __name__ == "__main__":
    work() if sys.argv[1:2] == ["work"] else main()

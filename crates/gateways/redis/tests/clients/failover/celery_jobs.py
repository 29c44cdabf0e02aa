"""Celery while leaders are killed: broker and results by Sentinel. Usage: celery_jobs.py, with NODES=HOST:PORT,…, RAN and KILLS (files)

A worker pops a task and then notes that it has it; a connection that is cut between these loses the task, as it does with any Redis. Everything
else that was accepted ran or is still there.
"""

import os
import subprocess
import sys
import threading
import time

import support
from celery import Celery
from support import NODES, again, saw, stop

RAN = os.environ["RAN"] + ".celery"
WORKERS = 2

urls = ";".join(f"sentinel://{host}:{port}/5" for host, port in NODES)
results = ";".join(f"sentinel://{host}:{port}/6" for host, port in NODES)
app = Celery("celery_jobs", broker=urls, backend=results)
options = {"master_name": "mymaster", "visibility_timeout": 4, "socket_timeout": 5, "socket_connect_timeout": 2}
app.conf.broker_transport_options = options
app.conf.result_backend_transport_options = options
app.conf.task_acks_late = True
app.conf.worker_prefetch_multiplier = 4
app.conf.broker_connection_retry_on_startup = True
app.conf.broker_connection_max_retries = None


@app.task
def job(number):
    support.note(RAN, number)
    return number


def worker(number):
    command = [sys.executable, "-m", "celery", "-A", "celery_jobs", "worker", "--pool=threads", "--concurrency=2", "--loglevel=ERROR"]
    command += ["--without-mingle", "--without-gossip", "--without-heartbeat", "-n", f"worker{number}"]
    return subprocess.Popen(command, cwd=os.path.dirname(os.path.abspath(__file__)), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def main():
    support.listen()
    open(RAN, "w").close()
    workers = [worker(number) for number in range(WORKERS)]
    restarts = 0
    try:
        accepted, unclear, count = [], [], 0
        told = False
        while not stop.is_set():
            count += 1
            try:
                job.apply_async((count,), retry=False)
                accepted.append(count)
            except Exception as error:
                saw(error)
                unclear.append(count)
                time.sleep(0.1)
            time.sleep(0.01)
            for number, one in enumerate(workers):
                if one.poll() is not None:  # As whoever runs it would, systemd or Kubernetes.
                    restarts += 1
                    workers[number] = worker(number)
            if not told and count % 10 == 0 and len(support.ran(RAN)) > 10:
                told = True
                print("ready", flush=True)
        connection = support.connect(5)
        end = time.monotonic() + 60
        # What a worker had when its connection was cut comes back once its visibility timeout is over; until then it is among the unacknowledged.
        empty_since = None
        while time.monotonic() < end:
            if again(lambda: connection.llen("celery") + connection.hlen("unacked")) > 0:
                empty_since = None
            elif not set(accepted) - set(support.ran(RAN)):
                break
            else:
                empty_since = empty_since or time.monotonic()
                if time.monotonic() - empty_since > 4:
                    break
            time.sleep(0.2)
        ran = support.ran(RAN)
        missing = set(accepted) - set(ran)
        queued = again(lambda: connection.llen("celery") + connection.hlen("unacked"))
        kills = int(open(os.environ["KILLS"]).read() or 0)
        lost = max(0, len(missing) - queued)
        counts = {"accepted": len(accepted), "ran": len(set(accepted) & set(ran)), "queued": queued, "popped_by_a_cut_connection": lost}
        counts.update(ran_again=sum(1 for times in ran.values() if times > 1), unclear=len(unclear), worker_restarts=restarts, kills=kills)
        # A worker pops over one connection: a kill cuts each once.
        assert lost <= kills * WORKERS, f"more tasks are gone than connections were cut: {counts} {sorted(missing)[:20]}"
        assert set(ran) <= set(accepted) | set(unclear), counts
        support.tell(**counts)
    finally:
        for one in workers:
            one.terminate()
        for one in workers:
            try:
                one.wait(timeout=10)
            except subprocess.TimeoutExpired:
                one.kill()
                one.wait()


if __name__ == "__main__":
    main()

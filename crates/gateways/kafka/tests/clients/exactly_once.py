"""Consume, transform, produce: each input comes to one output, and to one change of a key in the same commit, although the worker is killed again and again. Argument: the addresses of all nodes; the
environment's `QUORATE_HTTP` has those of their HTTP gateways, where the keys are read in the end.

As `worker`: one run of the worker, until it is killed or has done all; it says so in the middle of each transaction. Prints the number of the leader once workers are under way, if there are several nodes:
whoever started this kills that node then.
"""
import os
import random
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

COUNT, KILLS = 2000, 8


def work(servers):
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "workers", "enable.auto.commit": False, "isolation.level": "read_committed"})
    settings = {"transactional.id": "worker", "linger.ms": 2, "transaction.timeout.ms": 30_000}
    producer = Producer({"bootstrap.servers": servers, **settings})
    # Whoever was here before is fenced off, and what it had open is dropped, before it is asked how far it had come.
    producer.init_transactions(60)
    place = TopicPartition("in", 0)
    committed = consumer.committed([place], timeout=60)[0].offset
    place.offset = max(committed, 0)
    consumer.assign([place])
    done = place.offset
    while done < COUNT:
        messages = consumer.consume(random.randint(1, 30), timeout=0.2)
        messages = [message for message in messages if not message.error()]
        if not messages:
            continue
        producer.begin_transaction()
        for message in messages:
            number = message.value().decode()
            # Counters, which would tell of any that was done twice or not at all, of all together and of each.
            headers = [("q-add:done", b"1"), ("q-add:done/" + number, b"1")]
            producer.produce("out", b"done " + message.value(), partition=int(number) % 2, headers=headers)
        done = messages[-1].offset() + 1
        print(done, flush=True)
        producer.send_offsets_to_transaction([TopicPartition("in", 0, done)], consumer.consumer_group_metadata(), 60)
        producer.commit_transaction(60)


def main(addresses):
    servers = ",".join(addresses)
    admin = AdminClient({"bootstrap.servers": servers})
    for future in admin.create_topics([NewTopic("in", 1), NewTopic("out", 2, config={"quorate.guards": "true"})]).values():
        future.result(20)
    source = Producer({"bootstrap.servers": servers, "enable.idempotence": True})
    for number in range(COUNT):
        source.produce("in", str(number).encode())
    assert source.flush(60) == 0
    kills = 0
    leader = admin.list_topics("in", timeout=10).topics["in"].partitions[0].leader
    while True:
        worker = subprocess.Popen([sys.executable, __file__, "worker", servers], stdout=subprocess.PIPE)
        if kills == 2 and len(addresses) > 1:
            print(leader, flush=True)
        if kills == KILLS:
            worker.communicate(timeout=120)
            assert worker.returncode == 0
            break
        # In the middle of a transaction: before its offsets are sent, or while it ends, as it happens.
        for _ in range(random.randint(1, 8)):
            assert worker.stdout.readline(), "the worker has ended by itself"
        worker.kill()
        worker.wait()
        kills += 1
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "readers", "enable.auto.commit": False, "isolation.level": "read_committed"})
    for partition in range(2):
        place = TopicPartition("out", partition, OFFSET_BEGINNING)
        consumer.assign([place])
        end = consumer.get_watermark_offsets(place, timeout=20)[1]
        found, deadline = [], time.time() + 30
        while len(found) < end:
            assert time.time() < deadline, f"{len(found)} of {end} have come"
            message = consumer.poll(1)
            if message is not None and not message.error():
                found.append(message.value().decode())
        wanted = [f"done {number}" for number in range(partition, COUNT, 2)]
        assert found == wanted, f"partition {partition}: {len(found)} outputs for {len(wanted)} inputs"
    consumer.close()
    assert key("done") == str(COUNT), f"{key('done')} were counted"
    twice = [number for number in range(COUNT) if key(f"done/{number}") != "1"]
    assert not twice, f"the keys of {twice} were not changed once"


def key(name):
    """The value of a key, as the first node has it that answers."""
    for address in os.environ["QUORATE_HTTP"].split(","):
        try:
            with urllib.request.urlopen(f"http://{address}/v1/keys/{urllib.parse.quote(name, safe='')}", timeout=20) as answer:
                return answer.read().decode()
        except (ConnectionError, urllib.error.URLError) as error:
            if isinstance(error, urllib.error.HTTPError):
                raise
    raise AssertionError("no node answers")


if sys.argv[1] == "worker":
    work(sys.argv[2])
else:
    main(sys.argv[1:])

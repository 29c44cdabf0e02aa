"""Two members of a group while the leader is killed: none of them is told to give anything up, and nothing is lost. Arguments: the group
protocol, and the addresses of all nodes.

Prints the number of the leader once both read: whoever started this kills that node then. With `member` as the last argument it is the second of the two,
which prints what it is told and reads, until it is killed.
"""
import signal
import subprocess
import sys
import threading
import time

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

is_second = sys.argv[-1] == "member"
is_classic = sys.argv[1] == "classic"
servers = ",".join(sys.argv[2:-1] if is_second else sys.argv[2:])
nodes = len(sys.argv) - 2


def member(tell):
    consumer = Consumer({
        "bootstrap.servers": servers, "group.id": "g", "auto.offset.reset": "earliest", "enable.auto.commit": False,
    } | ({"session.timeout.ms": 6000, "heartbeat.interval.ms": 200} if is_classic else {"group.protocol": "consumer"}))

    # What the consumer protocol tells is what comes and what goes.
    def on(what, then=None):
        def tell_it(consumer, partitions):
            if partitions:
                tell(what, len(partitions))
            if not is_classic and then:
                getattr(consumer, then)(partitions)
        return tell_it

    on_assign, on_revoke = on("assigned", "incremental_assign"), on("revoked", "incremental_unassign")
    consumer.subscribe(["jobs"], on_assign=on_assign, on_revoke=on_revoke, on_lost=on("lost", "incremental_unassign"))
    return consumer


if is_second:
    # Who is asked to end leaves its group: sessions of the consumer protocol are the server's to set, and too long for a story.
    signal.signal(signal.SIGTERM, lambda *_: (consumer.close(), sys.exit()))
    consumer = member(lambda *what: print(*what, flush=True))
    while True:
        message = consumer.poll(0.05)
        if message is not None and not message.error():
            print("read", message.value().decode(), flush=True)

admin = AdminClient({"bootstrap.servers": servers})
admin.create_topics([NewTopic("jobs", num_partitions=2)])["jobs"].result(20)
deadline = time.time() + 20
while len(admin.list_topics(timeout=10).brokers) < nodes:
    assert time.time() < deadline
    time.sleep(0.1)
leader = admin.list_topics(timeout=10).topics["jobs"].partitions[0].leader
producer = Producer({"bootstrap.servers": servers, "linger.ms": 5, "message.timeout.ms": 60_000})
failed = []


def produce(values):
    for number in values:
        producer.produce("jobs", str(number), partition=number % 2, on_delivery=lambda error, _: error and failed.append(error))
        producer.poll(0)


told, read, others, others_told = [], set(), set(), []
first = member(lambda *what: told.append(what))


def until(what, done, seconds=40):
    deadline = time.time() + seconds
    while not done():
        assert time.time() < deadline, (what, told, others_told, len(read), len(others), failed)
        message = first.poll(0.02)
        if message is not None and not message.error():
            read.add(int(message.value()))


produce(range(100))
until("the first reads all", lambda: len(read) == 100)
first.commit(asynchronous=False)
second = subprocess.Popen([sys.executable, __file__, *sys.argv[1:], "member"], stdout=subprocess.PIPE, text=True)


def listen():
    for line in second.stdout:
        what, value = line.split()
        others.add(int(value)) if what == "read" else others_told.append((what, int(value)))


threading.Thread(target=listen, daemon=True).start()
until("they share", lambda: others_told == [("assigned", 1)] and told[-1] == (("assigned", 1) if is_classic else ("revoked", 1)))
before = list(told)
produce(range(100, 200))
until("both read on", lambda: len(read | others) == 200 and others)
print(leader, flush=True)
# While the leader dies, and after.
for start in range(200, 1000, 10):
    produce(range(start, start + 10))
    until("it goes on", lambda: True)
    time.sleep(0.005)
until("all is read", lambda: len(read | others) == 1000)
assert producer.flush(60) == 0 and not failed, failed
assert admin.list_topics(timeout=20).topics["jobs"].partitions[0].leader != leader, "another one leads"
marks = {mark.partition: mark.offset for mark in first.commit(asynchronous=False)}
# Longer than a classic session, and than the other protocol's interval: heartbeats have found the new leader.
pause = time.time() + 7
until("a session passes", lambda: time.time() > pause)
assert told == before and others_told == [("assigned", 1)], ("somebody was told to give something up", told, others_told)

# A member that is killed gives its partition to the other, which reads on.
second.kill() if is_classic else second.terminate()
until("the first has both", lambda: len(first.assignment()) == 2)
produce(range(1000, 1100))
until("it reads both", lambda: set(range(1000, 1100)) <= read)
kept = {mark.partition: mark.offset for mark in first.committed([TopicPartition("jobs", each) for each in marks], timeout=20)}
assert kept == marks, (kept, marks)
first.close()

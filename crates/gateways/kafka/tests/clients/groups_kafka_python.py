"""What applications do with groups of kafka-python: share partitions, commit and resume, be killed."""
import subprocess
import sys
import threading
import time

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import NewTopic

server = sys.argv[1]


class Member(threading.Thread):
    """A consumer on a thread of its own, since each waits for the others when they share."""

    def __init__(self, **more):
        super().__init__(daemon=True)
        self.read, self.partitions, self.ends, self.failed = [], set(), False, None
        self.position = 0
        self.more = more
        self.start()

    def run(self):
        try:
            consumer = KafkaConsumer(
                "jobs", bootstrap_servers=server, group_id="g", auto_offset_reset="earliest", enable_auto_commit=False,
                session_timeout_ms=3000, heartbeat_interval_ms=300, **self.more,
            )
            while not self.ends:
                for records in consumer.poll(timeout_ms=50).values():
                    self.read += [int(record.value) for record in records]
                self.partitions = {partition.partition for partition in consumer.assignment()}
                self.position = sum(consumer.position(partition) or 0 for partition in consumer.assignment())
            consumer.commit()
            consumer.close()
        except Exception as failed:
            self.failed = failed

    def end(self):
        self.ends = True
        self.join(30)
        assert not self.is_alive()


def until(what, done, *members):
    deadline = time.time() + 30
    while not done():
        for member in members:
            assert member.failed is None, member.failed
        assert time.time() < deadline, (what, [(member.partitions, len(member.read)) for member in members])
        time.sleep(0.01)


if len(sys.argv) > 2:
    member = Member()
    member.join()

admin = KafkaAdminClient(bootstrap_servers=server)
admin.create_topics([NewTopic("jobs", 4, 1)])
producer = KafkaProducer(bootstrap_servers=server, enable_idempotence=False)


def produce(values):
    for number in values:
        producer.send("jobs", str(number).encode(), partition=number % 4)
    producer.flush(20)


produce(range(400))
first = Member()
until("all is read", lambda: len(first.read) == 400, first)
second = Member()
until("they share", lambda: len(first.partitions) == len(second.partitions) == 2, first, second)
assert first.partitions | second.partitions == {0, 1, 2, 3}
# What was not committed is read again by the new owner.
until("the rest is read again", lambda: len(second.read) >= 200, first, second)
second.end()
until("the first has all", lambda: len(first.partitions) == 4, first)
killed = subprocess.Popen([sys.executable, __file__, server, "member"])
until("they share again", lambda: len(first.partitions) == 2, first)
killed.kill()
killed.wait()
until("the first has all again", lambda: len(first.partitions) == 4, first)
# What the killed one had taken and not committed is read once more.
until("it is at the end again", lambda: first.position == 400, first)
assert set(first.read) == set(range(400))
first.end()
produce(range(400, 440))
third = Member(group_instance_id="one")
until("it resumes", lambda: len(third.read) >= 40, third)
assert sorted(third.read) == list(range(400, 440))
third.end()
found = admin.list_group_offsets("g") if hasattr(admin, "list_group_offsets") else admin.list_consumer_group_offsets("g")
found = found.get("g", found) if isinstance(found, dict) else found
assert found[TopicPartition("jobs", 0)].offset == 110, found
admin.close()
producer.close()

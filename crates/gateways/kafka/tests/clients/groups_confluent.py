"""What applications do with groups of confluent-kafka (librdkafka): share partitions, commit and resume, come back under one's name, be killed.

With a second argument it is a member, which prints how many partitions it has and goes on until it is killed.
"""
import subprocess
import sys
import time

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewPartitions, NewTopic, ResourceType

server = sys.argv[1]


class Member:
    """A consumer, with what it was told and has read."""

    def __init__(self, group, **more):
        self.told, self.read = [], []
        settings = {
            "bootstrap.servers": server, "group.id": group, "auto.offset.reset": "earliest", "enable.auto.commit": False,
            "session.timeout.ms": 2000, "heartbeat.interval.ms": 200, "topic.metadata.refresh.interval.ms": 1000,
        }
        self.consumer = Consumer(settings | more)
        on = lambda what: lambda _, partitions: self.told.append((what, len(partitions)))
        self.consumer.subscribe(["jobs"], on_assign=on("assigned"), on_revoke=on("revoked"), on_lost=on("lost"))

    def poll(self):
        message = self.consumer.poll(0.02)
        if message is not None:
            assert not message.error(), message.error()
            self.read.append((message.partition(), message.offset(), message.value()))

    def partitions(self):
        return sorted(partition.partition for partition in self.consumer.assignment())


def until(what, done, *members):
    deadline = time.time() + 30
    while not done():
        assert time.time() < deadline, (what, [(member.partitions(), member.told) for member in members])
        for member in members:
            member.poll()


if len(sys.argv) > 2:
    member = Member(sys.argv[2])
    shown = None
    while True:
        member.poll()
        if member.partitions() != shown:
            shown = member.partitions()
            print(len(shown), flush=True)

admin = AdminClient({"bootstrap.servers": server})
admin.create_topics([NewTopic("jobs", num_partitions=4)])["jobs"].result(10)
producer = Producer({"bootstrap.servers": server})


def produce(values):
    for number in values:
        producer.produce("jobs", str(number), partition=number % 4)
    assert producer.flush(20) == 0


produce(range(400))
first = Member("g")
until("all is read", lambda: len(first.read) == 400, first)
assert sorted(int(value) for _, _, value in first.read) == list(range(400))
marks = [TopicPartition("jobs", partition, 100, metadata=f"after {partition}") for partition in range(4)]
first.consumer.commit(offsets=marks, asynchronous=False)
kept = first.consumer.committed(marks, timeout=10)
assert [(mark.offset, mark.metadata) for mark in kept] == [(100, f"after {partition}") for partition in range(4)], kept

# Two share, and one that leaves gives its partitions back.
second = Member("g")
until("they share", lambda: len(first.partitions()) == len(second.partitions()) == 2, first, second)
assert sorted(first.partitions() + second.partitions()) == [0, 1, 2, 3]
produce(range(400, 440))
until("both read on", lambda: len(first.read) + len(second.read) == 440, first, second)
first.consumer.commit(asynchronous=False)
second.consumer.commit(asynchronous=False)
second.consumer.close()
until("the first has all", lambda: len(first.partitions()) == 4, first)

# One that is killed gives them back when its session ends.
killed = subprocess.Popen([sys.executable, __file__, server, "g"], stdout=subprocess.PIPE, text=True)
until("they share again", lambda: len(first.partitions()) == 2, first)
killed.kill()
killed.wait()
until("the first has all again", lambda: len(first.partitions()) == 4, first)
groups = admin.list_consumer_groups().result(10).valid
assert [(group.group_id, group.state.name) for group in groups] == [("g", "STABLE")]
shown = admin.describe_consumer_groups(["g"])["g"].result(10)
assert len(shown.members) == 1 and len(shown.members[0].assignment.topic_partitions) == 4, shown.members
first.consumer.close()

# Whoever comes next resumes.
produce(range(440, 480))
third = Member("g")
until("it resumes", lambda: len(third.read) == 40, third)
assert sorted(int(value) for _, _, value in third.read) == list(range(440, 480))
third.consumer.close()

# Under one's name: it comes back to what it had, and nobody else hears of it.
named = Member("named", **{"group.instance.id": "one", "session.timeout.ms": 30_000})
other = Member("named", **{"group.instance.id": "two", "session.timeout.ms": 30_000})
until("they share under names", lambda: len(named.partitions()) == len(other.partitions()) == 2, named, other)
before, told = named.partitions(), list(other.told)
named.consumer.close()
named = Member("named", **{"group.instance.id": "one", "session.timeout.ms": 30_000})
until("it is back", lambda: named.partitions(), named, other)
assert (named.partitions(), other.told) == (before, told)
until("and reads", lambda: len(named.read) == 240, named, other)
named.consumer.close()
other.consumer.close()

# An operator looks after groups.
asked = [ConsumerGroupTopicPartitions("g", [TopicPartition("jobs", 0)])]
found = admin.list_consumer_group_offsets(asked)["g"].result(10)
assert found.topic_partitions[0].offset > 100
moved = [ConsumerGroupTopicPartitions("g", [TopicPartition("jobs", 0, 7)])]
admin.alter_consumer_group_offsets(moved)["g"].result(10)
assert admin.list_consumer_group_offsets(asked)["g"].result(10).topic_partitions[0].offset == 7
admin.delete_consumer_groups(["g"])["g"].result(10)
gone = admin.delete_consumer_groups(["g"])["g"].exception(10)
assert gone.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND, gone

# And after topics: settings, partitions, records.
topic = ConfigResource(ResourceType.TOPIC, "jobs")
shown = admin.describe_configs([topic])[topic].result(10)
assert shown["retention.ms"].value == "-1" and shown["retention.ms"].is_default, shown["retention.ms"]
entry = ConfigEntry("retention.ms", "3600000", incremental_operation=AlterConfigOpType.SET)
change = ConfigResource(ResourceType.TOPIC, "jobs", incremental_configs=[entry])
admin.incremental_alter_configs([change])[change].result(10)
assert admin.describe_configs([topic])[topic].result(10)["retention.ms"].value == "3600000"
admin.create_partitions([NewPartitions("jobs", 6)])["jobs"].result(10)
assert len(admin.list_topics("jobs", timeout=10).topics["jobs"].partitions) == 6
gone = admin.delete_records([TopicPartition("jobs", 0, 50)])
assert [future.result(10).low_watermark for future in gone.values()] == [50]

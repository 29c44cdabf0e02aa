"""What applications do with groups of the consumer protocol (KIP-848) of confluent-kafka: share partitions, come and go, be killed, come back under
one's name, subscribe by an expression; and what an operator sees of them.

With a second argument it is a member, which prints how many partitions it has and goes on until it is killed.
"""
import subprocess
import sys
import time

from confluent_kafka import Consumer, ConsumerGroupState, ConsumerGroupTopicPartitions, ConsumerGroupType, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic

server = sys.argv[1]


class Member:
    """A consumer, with what it was told and has read."""

    def __init__(self, group, topics=("jobs",), **more):
        self.told, self.read = [], []
        settings = {
            "bootstrap.servers": server, "group.id": group, "group.protocol": "consumer", "auto.offset.reset": "earliest",
            "enable.auto.commit": False, "topic.metadata.refresh.interval.ms": 1000,
        }
        self.consumer = Consumer(settings | more)

        # As the protocol is incremental: what is told is what comes and what goes.
        def assigned(consumer, partitions):
            if partitions:
                self.told.append(("assigned", len(partitions)))
            consumer.incremental_assign(partitions)

        def revoked(consumer, partitions):
            self.told.append(("revoked", len(partitions)))
            consumer.incremental_unassign(partitions)

        self.consumer.subscribe(list(topics), on_assign=assigned, on_revoke=revoked)

    def poll(self):
        message = self.consumer.poll(0.02)
        if message is not None:
            assert not message.error(), message.error()
            self.read.append((message.topic(), message.partition(), message.offset(), message.value()))

    def partitions(self):
        return sorted((partition.topic, partition.partition) for partition in self.consumer.assignment())


def until(what, done, *members):
    deadline = time.time() + 40
    while not done():
        assert time.time() < deadline, (what, [(member.partitions(), member.told, len(member.read)) for member in members])
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


def produce(values, topic="jobs", partitions=4):
    for number in values:
        producer.produce(topic, str(number), partition=number % partitions)
    assert producer.flush(20) == 0


def count(member):
    return len(member.partitions())


produce(range(400))
first = Member("g")
until("all is read", lambda: len(first.read) == 400, first)
assert sorted(int(value) for *_, value in first.read) == list(range(400))
marks = [TopicPartition("jobs", partition, 100, metadata=f"after {partition}") for partition in range(4)]
first.consumer.commit(offsets=marks, asynchronous=False)
kept = first.consumer.committed(marks, timeout=10)
assert [(mark.offset, mark.metadata) for mark in kept] == [(100, f"after {partition}") for partition in range(4)], kept

# A second comes: only what moves is revoked, and what stays is read all the while.
second = Member("g")
until("they share", lambda: count(first) == count(second) == 2, first, second)
assert sorted(first.partitions() + second.partitions()) == [("jobs", number) for number in range(4)]
assert first.told == [("assigned", 4), ("revoked", 2)] and second.told[-1] == ("assigned", 2), (first.told, second.told)
produce(range(400, 440))
until("both read on", lambda: len(first.read) + len(second.read) == 440, first, second)
first.consumer.commit(asynchronous=False)
second.consumer.commit(asynchronous=False)

# As an operator sees it.
listed = admin.list_consumer_groups(types={ConsumerGroupType.CONSUMER}).result(10).valid
assert [(group.group_id, group.type) for group in listed] == [("g", ConsumerGroupType.CONSUMER)], listed
assert admin.list_consumer_groups(types={ConsumerGroupType.CLASSIC}).result(10).valid == []
shown = admin.describe_consumer_groups(["g"])["g"].result(10)
assert shown.state == ConsumerGroupState.STABLE and shown.partition_assignor == "uniform", (shown.state, shown.partition_assignor)
assert sorted(len(member.assignment.topic_partitions) for member in shown.members) == [2, 2]
assert sorted(len(member.target_assignment.topic_partitions) for member in shown.members) == [2, 2]
gone = admin.delete_consumer_groups(["g"])["g"].exception(10)
assert gone.args[0].code() == KafkaError.NON_EMPTY_GROUP, gone

# Partitions that are added are shared, too.
admin.create_partitions([NewPartitions("jobs", 6)])["jobs"].result(10)
until("the new ones are read", lambda: count(first) == count(second) == 3, first, second)
second.consumer.close()
until("the first has all", lambda: count(first) == 6, first)

# One that is killed gives them back when its session ends.
killed = subprocess.Popen([sys.executable, __file__, server, "g"], stdout=subprocess.PIPE, text=True)
until("they share again", lambda: count(first) == 3, first)
killed.kill()
killed.wait()
until("the first has all again", lambda: count(first) == 6, first)
first.consumer.close()

# Whoever comes next resumes, of the classic protocol too: the group is empty.
produce(range(440, 480))
third = Member("g")
until("it resumes", lambda: len(third.read) == 40, third)
assert sorted(int(value) for *_, value in third.read) == list(range(440, 480))
third.consumer.commit(asynchronous=False)
third.consumer.close()
settings = {"bootstrap.servers": server, "group.id": "g", "auto.offset.reset": "earliest", "session.timeout.ms": 2000}
classic = Consumer(settings | {"heartbeat.interval.ms": 200, "enable.auto.commit": False})
classic.subscribe(["jobs"])
produce(range(480, 500))
read, deadline = [], time.time() + 30
while len(read) < 20:
    assert time.time() < deadline, read
    message = classic.poll(0.05)
    if message is not None:
        assert not message.error(), message.error()
        read.append(int(message.value()))
assert sorted(read) == list(range(480, 500)), read
classic.close()

# Under one's name: it comes back to what it had, and nobody else hears of it.
named = Member("named", **{"group.instance.id": "one"})
other = Member("named", **{"group.instance.id": "two"})
until("they share under names", lambda: count(named) == count(other) == 3, named, other)
before, told = named.partitions(), list(other.told)
named.consumer.close()
named = Member("named", **{"group.instance.id": "one"})
until("it is back", lambda: named.partitions(), named, other)
assert (named.partitions(), other.told) == (before, told), (named.partitions(), before, other.told, told)
# Another of the same name is refused while that one is there.
twin = Consumer({"bootstrap.servers": server, "group.id": "named", "group.protocol": "consumer", "group.instance.id": "one"})
twin.subscribe(["jobs"])
deadline, error = time.time() + 20, None
while error is None:
    assert time.time() < deadline
    try:
        message = twin.poll(0.1)
        error = message and message.error()
    except KafkaException as raised:
        error = raised.args[0]
    named.poll(), other.poll()
assert error.code() in (KafkaError._FATAL, KafkaError.UNRELEASED_INSTANCE_ID), error
named.consumer.close()
other.consumer.close()

# By an expression: a topic that comes later is read as well.
by = Member("by", topics=["^logs-.*"], **{"group.remote.assignor": "range"})
admin.create_topics([NewTopic("logs-a", num_partitions=1), NewTopic("more-logs-a", num_partitions=1)])["logs-a"].result(10)
produce(range(3), "logs-a", 1)
until("the topic is found", lambda: len(by.read) == 3, by)
admin.create_topics([NewTopic("logs-b", num_partitions=2)])["logs-b"].result(10)
produce(range(4), "logs-b", 2)
until("another is found", lambda: len(by.read) == 7, by)
assert by.partitions() == [("logs-a", 0), ("logs-b", 0), ("logs-b", 1)], by.partitions()
assert admin.describe_consumer_groups(["by"])["by"].result(10).partition_assignor == "range"
by.consumer.close()
admin.delete_consumer_groups(["by"])["by"].result(10)

# Offsets are an operator's as in any group.
asked = [ConsumerGroupTopicPartitions("g", [TopicPartition("jobs", 0)])]
assert admin.list_consumer_group_offsets(asked)["g"].result(10).topic_partitions[0].offset > 100

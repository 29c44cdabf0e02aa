"""What applications do with transactions: commit, abort, a zombie that is fenced off, in confluent-kafka (librdkafka), kafka-python and aiokafka."""
import asyncio
import sys
import time

from aiokafka import AIOKafkaProducer
from aiokafka.errors import ProducerFenced
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from kafka import KafkaProducer
from kafka.errors import KafkaError

server = sys.argv[1]
admin = AdminClient({"bootstrap.servers": server})
for future in admin.create_topics([NewTopic("left", 2), NewTopic("right", 1)]).values():
    future.result(10)


def read(topic, partition, isolation):
    consumer = Consumer({"bootstrap.servers": server, "group.id": "none", "enable.auto.commit": False, "isolation.level": isolation})
    consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING)])
    low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=10)
    found, deadline = [], time.time() + 20
    while len(found) < high:
        assert time.time() < deadline, f"{len(found)} of {high} have come"
        message = consumer.poll(1)
        if message is not None and not message.error():
            found.append(message.value().decode())
    consumer.close()
    return found


def confluent():
    def producer():
        made = Producer({"bootstrap.servers": server, "transactional.id": "confluent", "linger.ms": 1})
        made.init_transactions(20)
        return made

    first = producer()
    for name, commits in [("confluent a", True), ("lost", False), ("confluent b", True)]:
        first.begin_transaction()
        for number in range(100):
            first.produce("left", f"{name} {number}".encode(), partition=0)
        first.produce("right", name.encode())
        assert first.flush(20) == 0
        if commits:
            first.commit_transaction(20)
        else:
            first.abort_transaction(20)
    # Its place is taken while it has something open.
    first.begin_transaction()
    first.produce("left", b"of a zombie", partition=0)
    assert first.flush(20) == 0
    second = producer()
    try:
        first.commit_transaction(20)
        raise AssertionError("a zombie commits")
    except KafkaException as why:
        assert why.args[0].fatal() or why.args[0].txn_requires_abort(), why
    second.begin_transaction()
    second.produce("right", b"second")
    second.commit_transaction(20)


def kafka_python():
    producer = KafkaProducer(bootstrap_servers=server, transactional_id="kafka-python")
    producer.init_transactions()
    for name, commits in [("kafka-python", True), ("lost", False)]:
        producer.begin_transaction()
        for number in range(100):
            producer.send("left", f"{name} {number}".encode(), partition=0)
        producer.send("right", name.encode())
        if commits:
            producer.commit_transaction()
        else:
            producer.flush()
            producer.abort_transaction()
    other = KafkaProducer(bootstrap_servers=server, transactional_id="kafka-python")
    other.init_transactions()
    try:
        producer.begin_transaction()
        producer.send("left", b"of a zombie", partition=0)
        producer.commit_transaction()
        raise AssertionError("a zombie commits")
    except KafkaError:
        pass
    producer.close(timeout=0)
    other.close()


async def aio():
    async with AIOKafkaProducer(bootstrap_servers=server, transactional_id="aio") as producer:
        async with producer.transaction():
            for number in range(100):
                await producer.send("left", f"aio {number}".encode(), partition=0)
            await producer.send("right", b"aio")
        try:
            async with producer.transaction():
                await producer.send("left", b"lost", partition=0)
                raise ValueError
        except ValueError:
            pass
        async with AIOKafkaProducer(bootstrap_servers=server, transactional_id="aio"):
            try:
                async with producer.transaction():
                    await producer.send_and_wait("left", b"of a zombie", partition=0)
                raise AssertionError("a zombie commits")
            except ProducerFenced:
                pass


confluent()
kafka_python()
asyncio.run(aio())
names = ["confluent a", "confluent b", "kafka-python", "aio"]
for isolation in ["read_committed", "read_uncommitted"]:
    assert read("left", 0, isolation) == [f"{name} {number}" for name in names for number in range(100)]
    assert read("right", 0, isolation) == ["confluent a", "confluent b", "second", "kafka-python", "aio"]

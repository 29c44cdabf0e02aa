"""What applications do with confluent-kafka (librdkafka): topics, produce in every compression, consume from an offset and a time."""
import sys
import time

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

server = sys.argv[1]
admin = AdminClient({"bootstrap.servers": server})
admin.create_topics([NewTopic("made", num_partitions=3)])["made"].result(10)
again = admin.create_topics([NewTopic("made", num_partitions=3)])["made"].exception(10)
assert again.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS, again
assert sorted(admin.list_topics(timeout=10).topics["made"].partitions) == [0, 1, 2]

told = []
values = []
for codec in ["none", "gzip", "snappy", "lz4", "zstd"]:
    producer = Producer({"bootstrap.servers": server, "compression.type": codec, "linger.ms": 5, "acks": "all", "enable.idempotence": codec != "gzip"})
    for number in range(200):
        value = f"{codec} {number} ".encode() * 10
        values.append(value)
        headers = [("codec", codec.encode()), ("codec", b"again")]
        producer.produce("orders", value, key=str(number), headers=headers, on_delivery=lambda *found: told.append(found))
    assert producer.flush(20) == 0
assert [error for error, _ in told if error] == []
assert [message.offset() for _, message in told] == list(range(1000))

consumer = Consumer({"bootstrap.servers": server, "group.id": "none", "enable.auto.commit": False, "enable.partition.eof": True})


def read(offset, count):
    consumer.assign([TopicPartition("orders", 0, offset)])
    found, deadline = [], time.time() + 20
    while len(found) < count:
        assert time.time() < deadline, f"{len(found)} of {count} have come"
        message = consumer.poll(1)
        if message is None or (message.error() and message.error().code() == KafkaError._PARTITION_EOF):
            continue
        assert not message.error(), message.error()
        found.append(message)
    return found


found = read(OFFSET_BEGINNING, 1000)
assert [message.value() for message in found] == values
assert [message.offset() for message in found] == list(range(1000))
assert found[250].headers() == [("codec", b"gzip"), ("codec", b"again")] and found[250].key() == b"50"
assert read(555, 1)[0].offset() == 555, "inside a batch"
assert consumer.get_watermark_offsets(TopicPartition("orders", 0), timeout=10) == (0, 1000)
stamp = found[600].timestamp()[1]
at = consumer.offsets_for_times([TopicPartition("orders", 0, stamp)], timeout=10)[0].offset
first = next(message.offset() for message in found if message.timestamp()[1] >= stamp)
assert at == first, (at, first)

# Somebody waits at the end and is told at once.
consumer.assign([TopicPartition("orders", 0, 1000)])
consumer.poll(0.3)
producer = Producer({"bootstrap.servers": server})
producer.produce("orders", b"late")
producer.flush(10)
deadline = time.time() + 10
while True:
    assert time.time() < deadline
    message = consumer.poll(1)
    if message is not None and not message.error():
        break
assert message.value() == b"late"
consumer.close()
admin.delete_topics(["made"])["made"].result(10)
assert "made" not in admin.list_topics(timeout=10).topics

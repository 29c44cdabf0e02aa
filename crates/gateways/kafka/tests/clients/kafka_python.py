"""What applications do with kafka-python: topics, produce in every compression, consume without a group."""
import sys

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import NewTopic

server = sys.argv[1]
admin = KafkaAdminClient(bootstrap_servers=server)
admin.create_topics([NewTopic("made", 2, 1)])
assert "made" in admin.list_topics()

values = []
for codec in [None, "gzip", "snappy", "lz4", "zstd"]:
    producer = KafkaProducer(bootstrap_servers=server, compression_type=codec, enable_idempotence=codec != "gzip", acks="all", linger_ms=5)
    for number in range(100):
        value = f"{codec} {number} ".encode() * 10
        values.append(value)
        sent = producer.send("orders", value, key=b"k", headers=[("h", b"x")], timestamp_ms=1000 + len(values))
    assert sent.get(timeout=20).offset == len(values) - 1
    producer.close()

consumer = KafkaConsumer(bootstrap_servers=server, consumer_timeout_ms=10_000)
partition = TopicPartition("orders", 0)
consumer.assign([partition])
consumer.seek_to_beginning(partition)
found = [next(consumer) for _ in values]
assert [record.value for record in found] == values
assert [record.offset for record in found] == list(range(500))
assert [record.timestamp for record in found] == [1001 + at for at in range(500)]
assert list(found[321].headers)[0][1] == b"x" and found[321].key == b"k"
consumer.seek(partition, 333)
assert next(consumer).offset == 333
assert consumer.beginning_offsets([partition])[partition] == 0
assert consumer.end_offsets([partition])[partition] == 500
assert consumer.offsets_for_times({partition: 1234})[partition].offset == 233
assert consumer.offsets_for_times({partition: 9999})[partition] is None
consumer.close()
admin.delete_topics(["made"])
assert "made" not in admin.list_topics()
admin.close()

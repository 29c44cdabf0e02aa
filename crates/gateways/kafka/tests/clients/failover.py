"""Produces while the leader is killed: what was acknowledged is there afterwards. Arguments: whether the producer numbers its batches (then nothing is
there twice or in another order) as "idempotent" or "plain", and the addresses of all nodes.

Prints the number of the leader once it is under way: whoever started this kills that node then.
"""
import sys
import time

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

COUNT = 3000
idempotent, addresses = sys.argv[1] == "idempotent", sys.argv[2:]
servers = ",".join(addresses)
admin = AdminClient({"bootstrap.servers": servers})
admin.create_topics([NewTopic("orders", num_partitions=2)])["orders"].result(20)
deadline = time.time() + 20
while True:
    cluster = admin.list_topics(timeout=10)
    if len(cluster.brokers) == len(addresses) and "orders" in cluster.topics:
        break
    assert time.time() < deadline, f"nodes that are named: {cluster.brokers}"
    time.sleep(0.1)
leader = cluster.topics["orders"].partitions[0].leader

acknowledged, refused = set(), []


def told(error, message):
    if error:
        refused.append(error)
    else:
        acknowledged.add(message.value())


settings = {"acks": "all", "linger.ms": 5, "message.timeout.ms": 60_000, "enable.idempotence": idempotent}
producer = Producer({"bootstrap.servers": servers, **settings})
for number in range(COUNT):
    if number == COUNT // 3:
        producer.flush(20)
        print(leader, flush=True)
    producer.produce("orders", str(number).encode(), partition=number % 2, on_delivery=told)
    producer.poll(0.001)
assert producer.flush(60) == 0
assert not refused, refused[0]
assert len(acknowledged) == COUNT

consumer = Consumer({"bootstrap.servers": servers, "group.id": "none", "enable.auto.commit": False})
consumer.assign([TopicPartition("orders", partition, OFFSET_BEGINNING) for partition in range(2)])
found, deadline = {0: [], 1: []}, time.time() + 30
ends = [consumer.get_watermark_offsets(TopicPartition("orders", partition), timeout=10)[1] for partition in range(2)]
while sum(map(len, found.values())) < sum(ends) or acknowledged - set(found[0]) - set(found[1]):
    assert time.time() < deadline, f"{len(acknowledged - set(found[0]) - set(found[1]))} of {COUNT} are lost"
    message = consumer.poll(1)
    if message is not None and not message.error():
        assert message.offset() == len(found[message.partition()])
        found[message.partition()].append(message.value())
consumer.close()
if idempotent:
    for partition, values in found.items():
        assert values == [str(number).encode() for number in range(partition, COUNT, 2)], f"partition {partition} has others"
now = admin.list_topics(timeout=10).topics["orders"].partitions[0].leader
assert now != leader, "another one leads"

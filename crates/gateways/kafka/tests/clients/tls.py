"""TLS, by confluent-kafka, kafka-python and aiokafka. Arguments: the server's address, the certificate of its authority, and that of another."""
import asyncio
import ssl
import sys

from aiokafka import AIOKafkaProducer
from confluent_kafka import Consumer, Producer, TopicPartition
from kafka import KafkaProducer
from kafka.errors import KafkaError

SERVERS, OURS, OTHER = sys.argv[1:]


def confluent(authority):
    settings = {"bootstrap.servers": SERVERS, "security.protocol": "ssl", "ssl.ca.location": authority, "error_cb": lambda error: None}
    producer = Producer({**settings, "enable.idempotence": True})
    producer.produce("t", b"confluent" * 10_000)
    producer.flush(20 if authority == OURS else 3)
    if len(producer) > 0:
        producer.purge()
        return False
    consumer = Consumer({**settings, "group.id": "g", "auto.offset.reset": "earliest"})
    consumer.subscribe(["t"])
    assert consumer.poll(20).value().startswith(b"confluent")
    consumer.close()
    return True


def python(authority):
    try:
        producer = KafkaProducer(bootstrap_servers=SERVERS, security_protocol="SSL", ssl_cafile=authority, bootstrap_timeout_ms=20_000 if authority == OURS else 1000)
        producer.send("t", b"python").get(20)
        producer.close()
        return True
    except KafkaError:
        return False


async def aio(authority):
    producer = AIOKafkaProducer(bootstrap_servers=SERVERS, security_protocol="SSL", ssl_context=ssl.create_default_context(cafile=authority))
    try:
        await producer.start()
        await producer.send_and_wait("t", b"aio")
        return True
    except Exception:
        return False
    finally:
        await producer.stop()


for client in (confluent, python, lambda authority: asyncio.run(aio(authority))):
    assert client(OURS) is True, client
    assert client(OTHER) is False, client
# Whoever speaks without TLS is not understood.
plain = Producer({"bootstrap.servers": SERVERS, "error_cb": lambda error: None})
plain.produce("t", b"plain")
assert plain.flush(2) == 1
plain.purge()

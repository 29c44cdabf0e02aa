"""Who a client is, by PLAIN and SCRAM-SHA-256, to confluent-kafka, kafka-python and aiokafka. Argument: the address of a server that has the users `ann` and `ann,=é`."""
import asyncio
import sys

from aiokafka import AIOKafkaProducer
from aiokafka.errors import SaslAuthenticationFailed as AioFailed
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from kafka import KafkaProducer
from kafka.errors import KafkaError as PythonError

SERVERS = sys.argv[1]
USER, PASSWORD = "ann,=é", "correct horse, é"
# Clients try again and again with what was refused: how long that is looked at, and how long it may take to enter.
WAIT_MS = (1000, 20_000)


def confluent(mechanism, user, password):
    told = []
    settings = {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": mechanism, "sasl.username": user, "sasl.password": password}
    producer = Producer({"bootstrap.servers": SERVERS, "error_cb": told.append, "log_level": 0, **settings})
    producer.produce("t", b"confluent")
    producer.flush(WAIT_MS[(user, password) == (USER, PASSWORD)] / 1000)
    if len(producer) == 0:
        consumer = Consumer({"bootstrap.servers": SERVERS, "group.id": "g", **settings})
        assert consumer.get_watermark_offsets(TopicPartition("t", 0), timeout=20)[1] > 0
        consumer.close()
        return "entered"
    producer.purge()
    return next((error.code() for error in told if error.code() == KafkaError._AUTHENTICATION), told)


def python(mechanism, user, password):
    wait = WAIT_MS[(user, password) == (USER, PASSWORD)]
    # It does not escape what RFC 5802 wants to be escaped in a name.
    user = "ann" if user == USER else user
    try:
        producer = KafkaProducer(bootstrap_servers=SERVERS, security_protocol="SASL_PLAINTEXT", sasl_mechanism=mechanism, sasl_plain_username=user, sasl_plain_password=password, bootstrap_timeout_ms=wait)
        producer.send("t", b"python").get(10)
        producer.close()
        return "entered"
    except PythonError as error:
        return type(error).__name__


async def aio(mechanism, user, password):
    producer = AIOKafkaProducer(bootstrap_servers=SERVERS, security_protocol="SASL_PLAINTEXT", sasl_mechanism=mechanism, sasl_plain_username=user, sasl_plain_password=password)
    try:
        await producer.start()
        await producer.send_and_wait("t", b"aio")
        return "entered"
    except Exception as error:
        return type(error).__name__
    finally:
        await producer.stop()


for mechanism in ("PLAIN", "SCRAM-SHA-256"):
    for client in (confluent, python, lambda *of: asyncio.run(aio(*of))):
        found = client(mechanism, USER, PASSWORD)
        assert found == "entered", (mechanism, client, found)
        for user, password in ((USER, "wrong"), ("bob", PASSWORD)):
            found = client(mechanism, user, password)
            assert found != "entered", (mechanism, user)
# What is not offered is said, and no way in.
assert python("SCRAM-SHA-512", USER, PASSWORD) != "entered"

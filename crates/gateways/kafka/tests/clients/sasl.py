"""Who a client is, by PLAIN and SCRAM, to confluent-kafka, kafka-python and aiokafka. Argument: the address of a server that has the users `ann` and `ann,=é`."""
import asyncio
import sys

from aiokafka import AIOKafkaProducer
from aiokafka.errors import SaslAuthenticationFailed as AioFailed
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ScramCredentialInfo, ScramMechanism, UserScramCredentialDeletion, UserScramCredentialUpsertion
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


for mechanism in ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"):
    for client in (confluent, python, lambda *of: asyncio.run(aio(*of))):
        found = client(mechanism, USER, PASSWORD)
        assert found == "entered", (mechanism, client, found)
        for user, password in ((USER, "wrong"), ("bob", PASSWORD)):
            found = client(mechanism, user, password)
            assert found != "entered", (mechanism, user)

# Kafka's own way to make and change users at runtime, by one who may.
admin = AdminClient({"bootstrap.servers": SERVERS, "security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "SCRAM-SHA-512", "sasl.username": USER, "sasl.password": PASSWORD})


def alter(*changes):
    for future in admin.alter_user_scram_credentials(list(changes)).values():
        future.result(20)


def told(*users):
    found = {}
    for user, future in admin.describe_user_scram_credentials(list(users)).items():
        found[user] = [(info.mechanism.name, info.iterations) for info in future.result(20).scram_credential_infos]
    return found


wide, narrow = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 8192), ScramCredentialInfo(ScramMechanism.SCRAM_SHA_256, 4096)
alter(UserScramCredentialUpsertion("eve", wide, b"first"))
assert told("eve", "ann") == {"eve": [("SCRAM_SHA_512", 8192)], "ann": [("SCRAM_SHA_256", 10000), ("SCRAM_SHA_512", 10000)]}, told("eve", "ann")


def who(mechanism, password):
    """What eve is told: she enters, and may do nothing yet."""
    told = []
    client = AdminClient({"bootstrap.servers": SERVERS, "security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": mechanism, "sasl.username": "eve", "sasl.password": password, "error_cb": told.append, "log_level": 0})
    try:
        client.list_topics(timeout=WAIT_MS[0] / 1000)
        return "entered"
    except KafkaException:
        client.poll(0)
        assert any(error.code() == KafkaError._AUTHENTICATION for error in told), told
        return "refused"


assert [who("SCRAM-SHA-512", "first"), who("PLAIN", "first")] == ["entered"] * 2
assert [who("SCRAM-SHA-256", "first"), who("SCRAM-SHA-512", "other")] == ["refused"] * 2
alter(UserScramCredentialUpsertion("eve", wide, b"second"), UserScramCredentialUpsertion("eve", narrow, b"second"))
assert [who("SCRAM-SHA-512", "second"), who("SCRAM-SHA-256", "second"), who("SCRAM-SHA-512", "first")] == ["entered", "entered", "refused"]
alter(UserScramCredentialDeletion("eve", ScramMechanism.SCRAM_SHA_512))
assert [who("SCRAM-SHA-512", "second"), who("SCRAM-SHA-256", "second"), who("PLAIN", "second")] == ["refused", "entered", "entered"]
try:
    alter(UserScramCredentialDeletion("nobody", ScramMechanism.SCRAM_SHA_512))
    raise AssertionError("nobody has a credential")
except KafkaException as error:
    assert error.args[0].name() == "RESOURCE_NOT_FOUND", error

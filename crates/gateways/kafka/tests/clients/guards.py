"""Guards and changes of keys in the headers of records, by confluent-kafka. Argument: the server's address; `QUORATE_HTTP` has that of its HTTP gateway."""
import json
import os
import sys
import urllib.error
import urllib.request

from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic, ResourceType

SERVERS = sys.argv[1]
HTTP = "http://" + os.environ["QUORATE_HTTP"]


def http(path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(HTTP + path, data=data, headers={"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)


def key(name):
    try:
        with urllib.request.urlopen(f"{HTTP}/v1/keys/{name}", timeout=20) as answer:
            return answer.read().decode()
    except urllib.error.HTTPError as error:
        assert error.code == 404, error
        return None


def acquire():
    """The token of lock `l`."""
    return http("/v1/locks/l/acquire", {"ttl": "60s"})["token"]


def send(producer, topic, value, headers):
    """The offset of a record that is sent alone, or the error."""
    told = []
    producer.produce(topic, value, headers=headers, on_delivery=lambda error, message: told.append(error or message.offset()))
    assert producer.flush(30) == 0
    return told[0].code() if isinstance(told[0], KafkaError) else told[0]


admin = AdminClient({"bootstrap.servers": SERVERS})
for future in admin.create_topics([NewTopic("t", 1, config={"quorate.guards": "true"}), NewTopic("plain", 1)]).values():
    future.result(20)
resource = ConfigResource(ResourceType.TOPIC, "t")
shown = admin.describe_configs([resource])[resource].result(20)
assert shown["quorate.guards"].value == "true", shown

token = acquire()
for idempotent in (False, True):
    for codec in ("none", "gzip", "snappy", "lz4", "zstd"):
        producer = Producer({"bootstrap.servers": SERVERS, "enable.idempotence": idempotent, "compression.type": codec, "linger.ms": 0})
        name = f"{codec}-{idempotent}"
        fence = ("q-fence:l", str(token).encode())
        first = send(producer, "t", b"one" * 100, [fence, ("q-set:" + name, b"1")])
        assert isinstance(first, int) and first >= 0 and key(name) == "1", (name, first, key(name))
        # A stale fence: neither the record nor the key, and the producer goes on.
        stale = ("q-fence:l", str(token + 1).encode())
        assert send(producer, "t", b"two", [stale, ("q-set:" + name, b"2")]) == KafkaError.POLICY_VIOLATION
        assert send(producer, "t", b"two", [("q-fnece:l", b"1")]) == KafkaError.INVALID_RECORD
        assert key(name) == "1"
        assert send(producer, "t", b"three", [fence, ("q-version:" + name, b"1"), ("q-set:" + name, b"3")]) == first + 1
        assert key(name) == "3"

# An idempotency key: another producer that sends the same is answered as the first was, and its next record follows.
places = []
for run in range(2):
    producer = Producer({"bootstrap.servers": SERVERS, "enable.idempotence": True, "linger.ms": 0})
    places.append(send(producer, "t", b"order 7", [("q-idempotent:order-7", b"60000"), ("q-add:orders", b"1")]))
    assert send(producer, "t", b"order 7b", [("q-idempotent:order-7", b"60000")]) == KafkaError.POLICY_VIOLATION
    assert isinstance(send(producer, "t", b"other", []), int)
assert places[0] == places[1] and key("orders") == "1", (places, key("orders"))

# Headers of a topic that does not opt in are headers.
assert send(Producer({"bootstrap.servers": SERVERS}), "plain", b"x", [("q-set:no", b"1"), ("q-fence:l", b"x")]) == 0
assert key("no") is None

# A limit that is used up lets clients try again.
producer = Producer({"bootstrap.servers": SERVERS, "linger.ms": 0, "retries": 0})
assert isinstance(send(producer, "t", b"a", [("q-limit:slow", b"1 60000 1")]), int)
assert send(producer, "t", b"b", [("q-limit:slow", b"1 60000 1")]) == 89

# A transaction is decided when it ends: a worker that has lost its lock meanwhile is told to drop it, and nothing of it was.
producer = Producer({"bootstrap.servers": SERVERS, "transactional.id": "tx"})
producer.init_transactions(30)
producer.begin_transaction()
producer.produce("t", b"held", headers=[("q-fence:l", str(token).encode()), ("q-add:tx", b"1")])
producer.flush(30)
http("/v1/commit", {"then": [{"release": {"lock": "l", "token": token}}]})
try:
    producer.commit_transaction(30)
    raise AssertionError("the fence holds no more")
except KafkaException as error:
    assert error.args[0].txn_requires_abort(), error
producer.abort_transaction(30)
assert key("tx") is None
token = acquire()
producer.begin_transaction()
for _ in range(2):
    producer.produce("t", b"held", headers=[("q-fence:l", str(token).encode()), ("q-add:tx", b"1")])
producer.commit_transaction(30)
assert key("tx") == "2"

# The topic can be told to take its headers for headers again.
change = ConfigResource(ResourceType.TOPIC, "t", incremental_configs=[ConfigEntry("quorate.guards", "false", incremental_operation=AlterConfigOpType.SET)])
admin.incremental_alter_configs([change])[change].result(20)
assert isinstance(send(Producer({"bootstrap.servers": SERVERS}), "t", b"x", [("q-set:no", b"1")]), int)
assert key("no") is None

"""python-etcd3 as applications use it: keys, transactions, watches, leases, locks, members and status.

usage: python_etcd3.py HOST PORT
"""

import hashlib
import io
import sys
import threading
import time

import etcd3

client = etcd3.client(host=sys.argv[1], port=int(sys.argv[2]), timeout=10)
client.delete_prefix("py/")

client.put("py/a", "1")
assert client.get("py/a")[0] == b"1"
meta = client.get("py/a")[1]
assert meta.version == 1 and meta.create_revision == meta.mod_revision
assert client.get("py/none") == (None, None)
assert client.put_if_not_exists("py/a", "2") is False
assert client.put_if_not_exists("py/b", "2") is True
assert client.replace("py/a", "1", "3") is True and client.replace("py/a", "1", "4") is False
assert [value for value, _ in client.get_prefix("py/", sort_order="descend", sort_target="key")] == [b"2", b"3"]
assert [value for value, _ in client.get_range("py/a", "py/b")] == [b"3"]

done, answers = client.transaction(
    compare=[client.transactions.value("py/a") == "3", client.transactions.version("py/b") > 0],
    success=[client.transactions.put("py/c", "5"), client.transactions.get("py/a")],
    failure=[client.transactions.delete("py/a")])
assert done and answers[1][0][0] == b"3", answers
done, answers = client.transaction(compare=[client.transactions.create("py/a") == 0], success=[], failure=[
    client.transactions.delete("py/c")])
assert not done and client.get("py/c")[0] is None

# A watch hears what happens, and one that begins in the past what has happened.
events, cancel = client.watch_prefix("py/w")
for n in range(50):
    client.put(f"py/w{n % 3}", str(n))
client.delete("py/w0")
heard = [next(events) for _ in range(51)]
assert [event.value for event in heard[:50]] == [str(n).encode() for n in range(50)]
assert isinstance(heard[50], etcd3.events.DeleteEvent)
cancel()
events, cancel = client.watch_prefix("py/w", start_revision=heard[40].mod_revision)
assert [next(events).mod_revision for _ in range(11)] == [event.mod_revision for event in heard[40:]]
cancel()
heard, told = [], threading.Event()
watch = client.add_watch_callback("py/x", lambda answer: (heard.extend(answer.events), told.set()))
client.put("py/x", "!")
assert told.wait(10) and heard[0].value == b"!"
client.cancel_watch(watch)

client.put("py/p", "before")
events, cancel = client.watch("py/p", prev_kv=True, progress_notify=True)
client.put("py/p", "after")
once = next(events)
assert (once.value, once.prev_value) == (b"after", b"before"), (once.value, once.prev_value)
client.delete("py/p")
assert next(events).prev_value == b"after"
cancel()
assert client.watch_once("py/p", timeout=10, start_revision=once.mod_revision).value == b"after"

lease = client.lease(60)
client.put("py/l", "1", lease=lease)
assert lease.granted_ttl == 60 and 50 < lease.remaining_ttl <= 60 and lease.keys == [b"py/l"]
assert lease.refresh()[0].TTL == 60
lease.revoke()
assert client.get("py/l")[0] is None
short = client.lease(2)
client.put("py/s", "1", lease=short)
end = time.time() + 15
while client.get("py/s")[0] is not None:
    assert time.time() < end, "a lease ends"
    time.sleep(0.1)

# One lock, two who want it.
order = []
with client.lock("py-lock", ttl=10) as lock:
    assert lock.is_acquired()
    other = etcd3.client(host=sys.argv[1], port=int(sys.argv[2]))
    waiting = threading.Thread(target=lambda: (other.lock("py-lock", ttl=10).acquire(15), order.append("second")))
    waiting.start()
    time.sleep(0.5)
    order.append("first")
waiting.join(20)
assert order == ["first", "second"], order

status = client.status()
assert status.version and status.leader is not None and status.db_size > 0
members = list(client.members)
assert len(members) == 1 and members[0].client_urls, members
assert list(client.list_alarms()) == []
raised = client.create_alarm()
assert [alarm.alarm_type for alarm in client.list_alarms()] == [alarm.alarm_type for alarm in raised] == [1]
try:
    client.put("py/full", "x")
    raise SystemExit("a put has to be refused while NOSPACE is up")
except Exception as why:
    assert "database space exceeded" in str(why), why
client.delete("py/b")
client.disarm_alarm()
client.put("py/b", "2")
assert client.hash() != 0
saved = io.BytesIO()
client.snapshot(saved)
# etcd's own database, and its SHA-256 behind it.
saved = saved.getvalue()
assert hashlib.sha256(saved[:-32]).digest() == saved[-32:] and len(saved) > 4096
client.defragment()
client.compact(client.get("py/a")[1].mod_revision)
try:
    events, cancel = client.watch("py/a", start_revision=1)
    next(events)
    raise SystemExit("a watch of what is compacted has to be refused")
except etcd3.exceptions.RevisionCompactedError as why:
    assert why.compacted_revision > 1
assert client.delete_prefix("py/").deleted >= 3

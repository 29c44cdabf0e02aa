"""What Kubernetes' apiserver asks of etcd, call by call, through the generated client of python-etcd3: create, update and delete by Txn on the
revision of a key, lists in pages at one revision, counts, watches with prev_kv and progress from a revision, compaction under a key of its own.

usage: kubernetes.py HOST PORT    prints every answer, revisions told from the first one on, without what tells one server from another
"""

import queue
import sys

import grpc
from etcd3 import etcdrpc as rpc

channel = grpc.insecure_channel(f"{sys.argv[1]}:{sys.argv[2]}")
kv, leases, watch, maintenance = (
    rpc.KVStub(channel), rpc.LeaseStub(channel), rpc.WatchStub(channel), rpc.MaintenanceStub(channel))
PREFIX = b"/registry/pods/"
END = b"/registry/pods0"
LEADER = (("hasleader", "true"),)
kv.DeleteRange(rpc.DeleteRangeRequest(key=b"/registry/", range_end=b"/registry0"))
kv.DeleteRange(rpc.DeleteRangeRequest(key=b"compact_rev_key"))
BASE = kv.Put(rpc.PutRequest(key=b"/base", value=b"")).header.revision


def at(revision):
    return revision - BASE if revision else 0


def shown(one):
    return (one.key.decode(), one.value.decode(), at(one.create_revision), at(one.mod_revision), one.version, bool(one.lease))


def tell(what, answer):
    """Prints an answer; revisions count from the base."""
    parts = [at(answer.header.revision)]
    if isinstance(answer, rpc.RangeResponse):
        parts += [answer.count, answer.more] + [shown(one) for one in answer.kvs]
    if isinstance(answer, rpc.TxnResponse):
        parts.append(answer.succeeded)
        for response in answer.responses:
            parts.append(response.WhichOneof("response"))
            parts += [shown(one) for one in response.response_range.kvs]
            parts += [shown(one) for one in response.response_delete_range.prev_kvs]
    print(what, *parts)
    return answer


def refused(what, ask):
    try:
        ask()
        raise SystemExit(f"{what}: it was not refused")
    except grpc.RpcError as why:
        print(what, why.code().name, why.details())


def unmodified(key, revision):
    return rpc.Compare(result=rpc.Compare.EQUAL, target=rpc.Compare.MOD, key=key, mod_revision=revision)


def put(key, value, lease=0):
    return rpc.RequestOp(request_put=rpc.PutRequest(key=key, value=value, lease=lease))


def get(key):
    return rpc.RequestOp(request_range=rpc.RangeRequest(key=key))


def delete(key):
    return rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=key))


def txn(what, key, revision, then, otherwise):
    return tell(what, kv.Txn(rpc.TxnRequest(compare=[unmodified(key, revision)], success=then, failure=otherwise)))


def listed(what, **more):
    return tell(what, kv.Range(rpc.RangeRequest(key=more.pop("key", PREFIX), range_end=END, **more)))


class Watching:
    """One stream of watches, as a client of the apiserver holds it."""

    def __init__(self):
        self.asks = queue.Queue()
        self.answers = watch.Watch(iter(self.asks.get, None), metadata=LEADER, timeout=30)

    def create(self, **more):
        create = rpc.WatchCreateRequest(key=PREFIX, range_end=END, prev_kv=True, progress_notify=True, **more)
        self.asks.put(rpc.WatchRequest(create_request=create))

    def until(self, what, key):
        """Prints events until one of the key comes; how they are put into answers may differ."""
        while True:
            answer = next(self.answers)
            assert not answer.canceled, answer
            for event in answer.events:
                prev = shown(event.prev_kv) if event.HasField("prev_kv") else None
                print(what, event.type, shown(event.kv), prev)
                if event.kv.key == key:
                    return


key = [PREFIX + b"default/p%d" % n for n in range(7)]
watching = Watching()
watching.create()
assert next(watching.answers).created

# Create: only where there is nothing. Update and delete: only what was seen; what is there instead comes back.
for n in range(7):
    txn("create", key[n], 0, [put(key[n], b"v%d" % n)], [get(key[n])])
txn("create again", key[0], 0, [put(key[0], b"no")], [get(key[0])])
seen = listed("list").kvs
txn("update", key[0], seen[0].mod_revision, [put(key[0], b"w0")], [get(key[0])])
txn("update of what was", key[0], seen[0].mod_revision, [put(key[0], b"no")], [get(key[0])])
txn("delete", key[1], seen[1].mod_revision, [delete(key[1])], [get(key[1])])
txn("delete of what is gone", key[1], seen[1].mod_revision, [delete(key[1])], [get(key[1])])

# Pages at the revision of the first one, while things change beneath.
page = listed("page", limit=3)
revision = page.header.revision
txn("change beneath", key[6], seen[6].mod_revision, [put(key[6], b"w6")], [get(key[6])])
while page.more:
    page = listed("page", key=page.kvs[-1].key + b"\0", limit=3, revision=revision)
listed("count", count_only=True)
listed("one", limit=1, revision=revision)
tell("get", kv.Range(rpc.RangeRequest(key=key[0], serializable=True)))
tell("get of nothing", kv.Range(rpc.RangeRequest(key=key[1])))

# Events live under a lease.
lease = leases.LeaseGrant(rpc.LeaseGrantRequest(TTL=3660))
print("lease", lease.TTL)
txn("event", key[5] + b"e", 0, [put(key[5] + b"e", b"e", lease.ID)], [])
leases.LeaseRevoke(rpc.LeaseRevokeRequest(ID=lease.ID))
watching.until("watch", key[5] + b"e")
watching.until("watch", key[5] + b"e")

# A watch that goes on from where a list stood.
again = Watching()
again.create(start_revision=revision + 1)
assert next(again.answers).created
again.until("watch again", key[6])
# This client's protocol is older than the request for progress: field 3, empty.
again.asks.put(rpc.WatchRequest.FromString(b"\x1a\x00"))
while True:
    answer = next(again.answers)
    if not answer.events:
        print("progress", at(answer.header.revision), answer.watch_id)
        break
many = Watching()
for n in range(100):
    many.create(start_revision=revision + 1)
print("watches of one stream", len({next(many.answers).watch_id for n in range(100)}) > 0)

# Compaction: whoever moves the key forward may compact up to what it said.
compact = b"compact_rev_key"


def compare_version(version):
    return rpc.Compare(result=rpc.Compare.EQUAL, target=rpc.Compare.VERSION, key=compact, version=version)


for version in (0, 0, 1):
    ask = rpc.TxnRequest(compare=[compare_version(version)], success=[put(compact, b"r")], failure=[get(compact)])
    tell("compact_rev_key", kv.Txn(ask))
tell("compact", kv.Compact(rpc.CompactionRequest(revision=revision)))
refused("compact again", lambda: kv.Compact(rpc.CompactionRequest(revision=revision)))
refused("page too late", lambda: listed("", revision=revision - 1, limit=3))
refused("page of tomorrow", lambda: listed("", revision=revision + 1000))
listed("page in time", revision=revision, limit=2)
late = Watching()
late.create(start_revision=revision - 2)
next(late.answers)
answer = next(late.answers)
print("watch too late", answer.canceled, at(answer.compact_revision), answer.cancel_reason)
status = maintenance.Status(rpc.StatusRequest())
print("status", bool(status.version), status.leader == status.header.member_id, status.dbSize > 0)
for stream in (watching, again, many, late):
    stream.asks.put(None)
    stream.answers.cancel()

"""Two members of a Patroni cluster elect, keep, hand over and lose their leader through Patroni's own class for etcd 3 (JSON, by urllib3).

usage: patroni_members.py HOST PORT    prints what happened, without what tells one server from another
"""

import json
import logging
import sys
import time

from patroni.dcs import get_dcs
from patroni.dcs.etcd3 import LeaseNotFound

logging.basicConfig(level=logging.ERROR)
HOST, PORT = sys.argv[1], sys.argv[2]


def member(name, ctl=False):
    etcd = {"host": f"{HOST}:{PORT}"}
    config = {"scope": "demo", "namespace": "/service/", "name": name, "ttl": 30, "loop_wait": 1, "retry_timeout": 5}
    return get_dcs({**config, "patronictl": ctl, "etcd3": etcd})


def say(what, value):
    print(f"{what}: {value}")


def until(what, found):
    end = time.time() + 15
    while not found():
        assert time.time() < end, what
        time.sleep(0.02)
    say(what, "seen")


member("x", ctl=True).delete_cluster()
one, two = member("one"), member("two")
assert one._lease != two._lease
say("version prefix", one._client.version_prefix)
say("initialize", [bool(one.initialize(True, "sys")), bool(two.initialize(True, "other"))])
say("config", one.set_config_value(json.dumps({"ttl": 30})))
for dcs in (one, two):
    say("member", dcs.touch_member({"conn_url": f"postgres://{dcs._name}", "state": "running", "role": "replica"}))
say("race", [bool(dcs.attempt_to_acquire_leader()) for dcs in (one, two)])

cluster = two.get_cluster()
say("leader", cluster.leader.name)
say("session is the lease", cluster.leader.session == one._lease)
say("members", sorted((m.name, m.data["state"]) for m in cluster.members))
say("initialized", cluster.initialize)
say("config", cluster.config.data)

# The cache of the other one is told by its watch.
say("status", one.update_leader(cluster, 4711, None, None))
until("status by watch", lambda: two.get_cluster().status.last_lsn == 4711)
say("failover", one.manual_failover("one", "two"))
until("failover by watch", lambda: two.get_cluster().failover is not None)
version = two.get_cluster().failover.version
say("failover of an old version", bool(one.set_failover_value("{}", "1")))
say("failover of its version", bool(one.set_failover_value("{}", version)))
sync = one.write_sync_state("one", "two", 0, version=None)
say("sync", sync is not None and sync.leader)
say("sync of an old version", one.write_sync_state("one", None, 0, version=1))
say("history", one.set_history_value(json.dumps([[1, 2, "x"]])))

say("keepalive", [bool(one.refresh_lease()), bool(two.refresh_lease())])
say("update", one.update_leader(two.get_cluster(), 4712, None, None))

# The leader's lease is gone: its keys go, the other one sees it and takes over.
one._client.call_rpc("/lease/revoke", {"ID": one._lease})
until("leader gone", lambda: two.get_cluster().is_unlocked())
say("members", sorted(m.name for m in two.get_cluster().members))
say("race", bool(two.attempt_to_acquire_leader()))
try:
    one._client.put("/service/demo/x", "y", one._lease)
except LeaseNotFound as why:
    say("put with the old lease", repr(why))
say("race of the old one", bool(one.attempt_to_acquire_leader()))
until("new leader", lambda: one.get_cluster().leader is not None)
say("leader", one.get_cluster().leader.name)
say("delete", [bool(one.delete_leader(one.get_cluster().leader)), bool(two.delete_leader(two.get_cluster().leader))])
until("unlocked", lambda: one.get_cluster().is_unlocked())
say("delete cluster", bool(member("x", ctl=True).delete_cluster()))
until("nothing left", lambda: not one.get_cluster().members)
sys.stdout.flush()
# Its watching threads would go on.
import os

os._exit(0)

"""redis-py in cluster mode: what applications do with it, and that it goes on at another node. Usage: cluster.py HOST PORT"""

import sys
import time

from redis.cluster import RedisCluster

r = RedisCluster(host=sys.argv[1], port=int(sys.argv[2]), decode_responses=True, socket_timeout=5)
assert len(r.get_primaries()) == 1 and len(r.get_replicas()) == 1
first = r.get_primaries()[0].port
r.flushdb()
for n in range(100):
    assert r.set(f"k{n}", n)
assert [r.get(f"k{n}") for n in range(100)] == [str(n) for n in range(100)]
assert r.mset_nonatomic({"a": 1, "b": 2, "c": 3}) and r.mget_nonatomic("a", "b", "c") == ["1", "2", "3"]
assert r.eval("return redis.call('incrby', KEYS[1], ARGV[1])", 1, "{t}n", 5) == 5
with r.pipeline() as pipe:
    for n in range(20):
        pipe.incr(f"p{n}")
    assert pipe.execute() == [1] * 20
assert r.keyslot("foo") == 12182 == r.cluster_keyslot("foo")
assert r.cluster_info()["cluster_state"] == "ok"
print("ready", flush=True)
sys.stdin.readline()
until = time.monotonic() + 30
while True:
    try:
        assert r.set("after", "1") and r.get("after") == "1"
        break
    except Exception as error:
        assert time.monotonic() < until, error
        time.sleep(0.05)
assert r.get_primaries()[0].port != first
print("done", flush=True)

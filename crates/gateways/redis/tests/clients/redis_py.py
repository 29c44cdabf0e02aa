"""redis-py end to end: what applications do with it, in RESP2 and RESP3. Usage: redis_py.py HOST PORT"""

import sys
import threading
import time
import uuid

import redis
from redis.cache import CacheConfig
from redis.exceptions import LockError, ResponseError, WatchError

HOST, PORT = sys.argv[1], int(sys.argv[2])


def client(protocol, **more):
    return redis.Redis(HOST, PORT, db=1, protocol=protocol, decode_responses=True, socket_timeout=20, **more)


def types(r):
    assert r.ping() is True
    assert r.set("s", "1", ex=100) is True
    assert r.set("s", "2", nx=True) is None
    assert r.incr("s", 4) == 5
    assert 0 < r.ttl("s") <= 100
    assert r.getdel("s") == "5" and r.get("s") is None
    assert r.mset({"a": 1, "b": 2}) is True
    assert r.mget("a", "b", "none") == ["1", "2", None]
    assert r.hset("h", mapping={"x": 1, "y": "two"}) == 2
    assert r.hgetall("h") == {"x": "1", "y": "two"}
    assert r.hincrbyfloat("h", "x", 0.5) == 1.5
    assert r.rpush("l", *range(5)) == 5
    assert r.lrange("l", 1, -2) == ["1", "2", "3"]
    assert r.lpos("l", "3") == 3
    assert r.sadd("set", "p", "q", "q") == 2
    assert r.smembers("set") == {"p", "q"}
    assert r.zadd("z", {"one": 1, "two": 2.5}) == 2
    scored = [tuple(pair) for pair in r.zrange("z", 0, -1, withscores=True)]
    assert scored == [("one", 1.0), ("two", 2.5)], scored
    assert r.zscore("z", "two") == 2.5
    assert r.bitcount("s") == 0
    assert r.pfadd("hll", *range(100)) == 1 and 95 <= r.pfcount("hll") <= 105
    try:
        r.lpush("h", "x")
        raise AssertionError("a list command on a hash was taken")
    except ResponseError as error:
        assert str(error).startswith("WRONGTYPE"), error
    assert r.type("z") == "zset"


def scans(r):
    pipe = r.pipeline(transaction=False)
    for at in range(500):
        pipe.set(f"scan:{at}", at)
    assert all(pipe.execute())
    assert len(set(r.scan_iter("scan:*", count=37))) == 500
    r.hset("bighash", mapping={f"f{at}": at for at in range(300)})
    assert len(dict(r.hscan_iter("bighash"))) == 300
    r.sadd("bigset", *range(300))
    assert len(set(r.sscan_iter("bigset"))) == 300
    r.zadd("bigzset", {f"m{at}": at for at in range(300)})
    assert len(dict(r.zscan_iter("bigzset"))) == 300


def transactions(r):
    with r.pipeline() as pipe:
        assert pipe.multi() is None
        pipe.set("t", 1).incr("t").lpush("t", "x").get("t")
        answers = pipe.execute(raise_on_error=False)
        assert answers[:2] == [True, 2] and isinstance(answers[2], ResponseError) and answers[3] == "2", answers
    with r.pipeline() as pipe:
        pipe.watch("t")
        r.set("t", 50)
        pipe.multi()
        pipe.set("t", 0)
        try:
            pipe.execute()
            raise AssertionError("a watched key had changed")
        except WatchError:
            pass
    assert r.get("t") == "50"

    def add(pipe):
        value = int(pipe.get("counter") or 0)
        pipe.multi()
        pipe.set("counter", value + 1)

    def many():
        for _ in range(25):
            r.transaction(add, "counter")

    threads = [threading.Thread(target=many) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert r.get("counter") == "100", r.get("counter")


def scripts(r):
    double = r.register_script("return redis.call('incrby', KEYS[1], ARGV[1] * 2)")
    r.script_flush()
    assert double(keys=["n"], args=[21]) == 42
    assert double(keys=["n"], args=[1]) == 44
    assert r.eval("return {KEYS[1], ARGV[1]}", 1, "k", "v") == ["k", "v"]
    assert r.script_exists(double.sha) == [True]


def locks(r):
    lock = r.lock("mutex", timeout=5)
    assert lock.acquire(blocking=False)
    other = r.lock("mutex", timeout=5)
    assert not other.acquire(blocking=False)
    assert lock.extend(5) and lock.owned()
    waited = []

    def wait():
        with r.lock("mutex", timeout=5, blocking_timeout=10):
            waited.append(time.monotonic())

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.3)
    released = time.monotonic()
    lock.release()
    thread.join()
    assert waited and waited[0] >= released
    try:
        lock.release()
        raise AssertionError("a lock was released twice")
    except LockError:
        pass


def channels(r):
    hub = r.pubsub()
    hub.subscribe("news")
    hub.psubscribe("n*s")
    heard = []
    until = time.monotonic() + 10
    while len(heard) < 2 and time.monotonic() < until:
        message = hub.get_message(timeout=1)
        heard += [message["type"]] if message else []
    assert heard == ["subscribe", "psubscribe"], heard
    assert r.publish("news", "hello") == 2
    heard = []
    while len(heard) < 2 and time.monotonic() < until:
        message = hub.get_message(timeout=1)
        heard += [(message["type"], message["data"])] if message else []
    assert sorted(heard) == [("message", "hello"), ("pmessage", "hello")], heard
    hub.close()


def blocking(r):
    assert r.blpop(["nothing"], timeout=0.1) is None
    got = []
    thread = threading.Thread(target=lambda: got.append(r.blpop(["q1", "q2"], timeout=10)))
    thread.start()
    time.sleep(0.2)
    r.rpush("q2", "job")
    thread.join()
    assert [list(item) for item in got] == [["q2", "job"]], got
    got.clear()
    thread = threading.Thread(target=lambda: got.append(r.bzpopmin("zq", timeout=10)))
    thread.start()
    time.sleep(0.2)
    r.zadd("zq", {"job": 7})
    thread.join()
    assert [list(item) for item in got] == [["zq", "job", 7.0]], got
    r.rpush("from", "x")
    assert r.blmove("from", "to", timeout=1) == "x"


def streams(r):
    first = r.xadd("events", {"kind": "made", "n": 1})
    second = r.xadd("events", {"kind": "paid", "n": 2})
    assert r.xlen("events") == 2
    assert [entry[0] for entry in r.xrange("events")] == [first, second]
    assert r.xrange("events")[1][1] == {"kind": "paid", "n": "2"}
    r.xgroup_create("events", "workers", id="0")
    answer = r.xreadgroup("workers", "w1", {"events": ">"}, count=10)
    entries = answer["events"][0] if isinstance(answer, dict) else answer[0][1]
    assert [entry[0] for entry in entries] == [first, second], answer
    assert r.xpending("events", "workers")["pending"] == 2
    assert r.xack("events", "workers", first) == 1
    claimed = r.xautoclaim("events", "workers", "w2", min_idle_time=0)
    assert [entry[0] for entry in claimed[1]] == [second], claimed
    got = []
    thread = threading.Thread(target=lambda: got.append(r.xread({"events": "$"}, block=10000)))
    thread.start()
    time.sleep(0.3)
    third = r.xadd("events", {"kind": "sent"})
    thread.join()
    entries = got[0]["events"][0] if isinstance(got[0], dict) else got[0][0][1]
    assert entries[0][0] == third, got


def expiry(r):
    r.set("soon", "x", px=120)
    assert r.get("soon") == "x"
    time.sleep(0.3)
    assert r.get("soon") is None and r.exists("soon") == 0


def fifty_connections_count_together(r):
    name = str(uuid.uuid4())

    def many():
        own = client(2)
        for _ in range(20):
            own.incr(name)
        own.close()

    threads = [threading.Thread(target=many) for _ in range(50)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert r.get(name) == "1000"


def remembers(r):
    cached = client(3, cache_config=CacheConfig())
    r.mset({"k": 1, "other": 2})
    assert cached.get("k") == "1" and cached.get("k") == "1" and cached.get("other") == "2"
    assert cached.get_cache().size == 2
    for n in range(200):
        r.set("k", n)
        until = time.monotonic() + 20
        while cached.get("k") != str(n):
            assert time.monotonic() < until, "it never heard of a change"
    r.hset("h", mapping={"a": 1})
    assert cached.hgetall("h") == {"a": "1"}
    r.pexpire("h", 50)
    until = time.monotonic() + 20
    while cached.hgetall("h") != {}:
        assert time.monotonic() < until, "it never heard of an end"
    cached.close()


for protocol in (2, 3):
    r = client(protocol)
    for story in (
        types, scans, transactions, scripts, locks, channels, blocking, streams, expiry, fifty_connections_count_together,
        remembers,
    ):
        r.flushdb()
        began = time.monotonic()
        story(r)
        print(f"redis-py {redis.__version__} RESP{protocol} {story.__name__}: {time.monotonic() - began:.2f} s")
    r.flushdb()

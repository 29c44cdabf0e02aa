"""python-redis-lock and limits end to end. Usage: python_limits.py HOST PORT"""

import sys
import threading
import time

import redis
import redis_lock
from limits import RateLimitItemPerSecond, storage, strategies

HOST, PORT = sys.argv[1], int(sys.argv[2])
connection = redis.Redis(HOST, PORT, db=8)
connection.flushdb()

inside, most, count = 0, 0, 0


def enter():
    global inside, most, count
    for _ in range(10):
        with redis_lock.Lock(connection, "door", expire=10):
            inside += 1
            most = max(most, inside)
            time.sleep(0.002)
            count += 1
            inside -= 1


threads = [threading.Thread(target=enter) for _ in range(5)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert (most, count) == (1, 50), (most, count)
lock = redis_lock.Lock(connection, "held", expire=2, auto_renewal=True)
assert lock.acquire(blocking=False)
assert not redis_lock.Lock(connection, "held", expire=2).acquire(blocking=False)
time.sleep(2.5)
assert lock.locked(), "the lock was renewed"
lock.release()
print("python-redis-lock: 50 entries, one at a time; renewals hold")

store = storage.RedisStorage(f"redis://{HOST}:{PORT}/8")
for strategy in (
    strategies.FixedWindowRateLimiter,
    strategies.MovingWindowRateLimiter,
    strategies.SlidingWindowCounterRateLimiter,
):
    limiter = strategy(store)
    limit = RateLimitItemPerSecond(5, 60)
    passed = sum(limiter.hit(limit, strategy.__name__, "client") for _ in range(12))
    assert passed == 5, (strategy, passed)
    limiter.get_window_stats(limit, strategy.__name__, "client")
    limiter.clear(limit, strategy.__name__, "client")
connection.flushdb()
print("limits: three strategies let 5 of 12 pass")

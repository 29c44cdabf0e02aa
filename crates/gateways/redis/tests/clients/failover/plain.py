"""redis-py with a list of addresses: what was acknowledged is there, whichever node says it. Usage: plain.py, with NODES=HOST:PORT,…"""

import threading

import redis
import support
from support import NODES, again, saw, stop

acknowledged = []
unclear = []


def client(at):
    host, port = NODES[at % len(NODES)]
    return redis.Redis(host, port, db=10, retry=None, socket_timeout=15, socket_connect_timeout=2)


def write(number):
    """Each write is tried once; whoever gets no answer goes on at the next node."""
    at, connection, count = number, client(number), 0
    while not stop.is_set():
        count += 1
        mine = f"{number}:{count}"
        try:
            with connection.pipeline(transaction=True) as both:
                both.rpush("written", mine)
                both.incr("count")
                both.execute()
            acknowledged.append(mine)
            # It is read at another node, by whoever comes later in real time.
            newest = again(lambda: client(at + 1 + count % 2).lrange("written", -200, -1), 30)
            assert mine.encode() in newest, f"{mine} was acknowledged, and another node does not see it"
        except (redis.ConnectionError, redis.TimeoutError, redis.ResponseError) as error:
            saw(error)
            text = str(error)
            # These say that nothing happened; of everything else that nobody knows.
            if not text.startswith(("CLUSTERDOWN", "LOADING", "TRYAGAIN", "EXECABORT")):
                unclear.append(mine)
            at += 1
            connection = client(at)
            stop.wait(0.05)


failed = []


def guarded(number):
    try:
        write(number)
    except BaseException as error:
        failed.append(error)


if __name__ == "__main__":
    support.listen()
    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(4)]
    [thread.start() for thread in threads]
    support.until("the first writes", lambda: len(acknowledged) > 50 or failed)
    print("ready", flush=True)
    [thread.join() for thread in threads]
    if failed:
        raise failed[0]
    written = [one.decode() for one in again(lambda: client(0).lrange("written", 0, -1))]
    count = int(again(lambda: client(1).get("count")))
    there = set(written)
    lost = [one for one in acknowledged if one not in there]
    known = set(acknowledged) | set(unclear)
    assert not lost, f"acknowledged and gone: {lost[:10]}"
    assert len(written) == len(there) == count, f"{len(written)} written, {len(there)} different, counted {count}"
    assert there <= known, f"refused, and there: {list(there - known)[:10]}"
    support.tell(acknowledged=len(acknowledged), lost=0, unclear=len(unclear), took_effect=len(there) - len(acknowledged))

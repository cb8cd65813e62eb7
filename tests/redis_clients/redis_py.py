"""redis-py: what applications do with it."""
import os
import threading
import time

import redis

WHERE = dict(host=os.environ["REDIS_HOST"], port=int(os.environ["REDIS_PORT"]), password=os.environ.get("REDIS_PASSWORD"))

# At most `limit` calls in the last `window` milliseconds: a sliding window in a sorted set.
RATE = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], 0, now - ARGV[2])
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[1]) then return 0 end
redis.call('ZADD', KEYS[1], now, now .. '-' .. redis.call('INCR', KEYS[1] .. ':n'))
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
"""


def flow(protocol):
    r = redis.Redis(**WHERE, protocol=protocol, decode_responses=True)
    at = lambda name: f"py:{protocol}:{name}"
    assert r.ping()

    # Values of each type.
    assert r.set(at("text"), "grüße", ex=100) and r.get(at("text")) == "grüße" and 0 < r.ttl(at("text")) <= 100
    assert r.incrbyfloat(at("float"), 1.5) == 1.5
    r.hset(at("hash"), mapping={"a": 1, "b": "two"})
    assert r.hgetall(at("hash")) == {"a": "1", "b": "two"}
    r.rpush(at("list"), *range(10))
    assert r.lrange(at("list"), -3, -1) == ["7", "8", "9"]
    assert r.sadd(at("set"), "x", "y") == 2 and r.smembers(at("set")) == {"x", "y"}
    r.zadd(at("board"), {"ann": 3, "bob": 1.5})
    board = [[name, score] for name, score in r.zrange(at("board"), 0, -1, withscores=True)]
    assert board == [["bob", 1.5], ["ann", 3.0]], board
    assert r.bitfield(at("bits")).set("u8", 0, 200).get("u8", 0).execute() == [0, 200]
    assert r.geoadd(at("geo"), (13.361389, 38.115556, "Palermo")) == 1
    assert r.pfadd(at("count"), *range(100)) == 1 and 95 < r.pfcount(at("count")) < 105
    large = "v" * 2_000_000
    r.set(at("large"), large)
    assert r.get(at("large")) == large
    assert len(set(r.scan_iter(match=at("*"), count=5))) == len(set(r.keys(at("*"))))

    # A pipeline, and a transaction that is tried again.
    with r.pipeline(transaction=False) as pipe:
        for number in range(1000):
            pipe.set(at(f"many:{number}"), number)
        assert all(pipe.execute())
    r.set(at("sum"), 0)
    tries = 0

    def add(pipe):
        nonlocal tries
        tries += 1
        value = int(pipe.get(at("sum")))
        if tries == 1:
            r.incr(at("sum"))
        pipe.multi()
        pipe.set(at("sum"), value + 10)

    r.transaction(add, at("sum"))
    assert (tries, r.get(at("sum"))) == (2, "11")

    # Messages.
    listener = r.pubsub()
    listener.subscribe(at("news"))
    listener.psubscribe(at("n*"))
    deadline, got = time.time() + 20, []
    while len(got) < 4 and time.time() < deadline:
        message = listener.get_message(timeout=1)
        if message:
            got.append((message["type"], message["data"]))
        if len(got) == 2 and got[-1][0] == "psubscribe":
            assert r.publish(at("news"), "hello") == 2
    assert sorted(got[2:]) == [("message", "hello"), ("pmessage", "hello")], got
    listener.close()

    # Who waits.
    waiting = []
    thread = threading.Thread(target=lambda: waiting.append(r.blpop(at("queue"), timeout=20)))
    thread.start()
    time.sleep(0.2)
    r.rpush(at("queue"), "job")
    thread.join()
    assert [list(one) for one in waiting] == [[at("queue"), "job"]], waiting
    assert r.blpop(at("nothing"), timeout=1) is None

    # Scripts: its own lock, and a rate limiter.
    with r.lock(at("lock"), timeout=30, blocking_timeout=1) as lock:
        assert lock.owned() and not r.lock(at("lock"), timeout=30).acquire(blocking=False)
        assert lock.extend(10) and lock.reacquire()
    assert r.get(at("lock")) is None
    lost = r.lock(at("lost"), timeout=0.05)
    assert lost.acquire()
    time.sleep(0.1)
    try:
        lost.release()
        raise AssertionError("a lock whose time was over was released")
    except redis.exceptions.LockNotOwnedError:
        pass
    limiter = r.register_script(RATE)
    assert [limiter(keys=[at("rate")], args=[3, 60_000]) for _ in range(5)] == [1, 1, 1, 0, 0]
    r.script_flush()
    assert limiter(keys=[at("rate")], args=[3, 60_000]) == 0
    assert r.eval("return cjson.decode(ARGV[1]).a[2]", 0, '{"a": [1, 2]}') == 2
    assert r.eval("return #cmsgpack.pack({1, 2, 3})", 0) == 4
    assert r.eval_ro("return redis.call('get', KEYS[1])", 1, at("sum")) == "11"
    try:
        r.eval("return redis.call('incr', KEYS[1])", 1, at("text"))
        raise AssertionError("a text was incremented")
    except redis.exceptions.ResponseError as error:
        assert "not an integer" in str(error)

    # Functions.
    name = f"py{protocol}"
    r.function_load(f"#!lua name={name}\nredis.register_function('{name}', function(keys, args) return redis.call('INCRBY', keys[1], args[1]) end)", replace=True)
    assert r.fcall(name, 1, at("sum"), 4) == 15
    r.function_delete(name)

    # Streams, with a group.
    first = r.xadd(at("stream"), {"n": 1})
    r.xgroup_create(at("stream"), "workers", id="0")
    r.xadd(at("stream"), {"n": 2})
    read = r.xreadgroup("workers", "one", {at("stream"): ">"}, count=10, block=1000)
    entries = read[at("stream")][0] if isinstance(read, dict) else read[0][1]
    assert [fields for _, fields in entries] == [{"n": "1"}, {"n": "2"}] and entries[0][0] == first
    assert r.xack(at("stream"), "workers", first) == 1 and r.xpending(at("stream"), "workers")["pending"] == 1
    r.close()


flow(2)
flow(3)
print("redis-py", redis.__version__, "works")

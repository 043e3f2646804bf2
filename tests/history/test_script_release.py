"""release.lua by itself: keys and arguments in, reply out."""

from __future__ import annotations

from tests.lua_scripts import KEYS, Caller

ALIVE, HELD, RUNNING = LEASE = KEYS.leases("alive", "held:i", "running:i")


def test_the_lease_of_an_incarnation_that_runs_nothing_is_given_up(redis_url: str) -> None:
    release = Caller("release", redis_url)
    release.redis.zadd(ALIVE, {"i": 1, "other": 1})
    release.redis.hset(HELD, "job", "JOB")
    assert release(LEASE, "i") == 1
    assert release.redis.zrange(ALIVE, 0, -1) == [b"other"]
    assert release.redis.exists(HELD) == 0


def test_the_lease_of_an_incarnation_with_a_job_that_has_not_ended_is_left_to_lapse(redis_url: str) -> None:
    release = Caller("release", redis_url)
    release.redis.zadd(ALIVE, {"i": 1})
    release.redis.hset(RUNNING, "0:job", "JOB")
    assert release(LEASE, "i") == 0
    assert release.redis.zrange(ALIVE, 0, -1) == [b"i"]
    assert release.redis.hkeys(RUNNING) == [b"0:job"]

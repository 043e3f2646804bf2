"""reap.lua by itself: keys and arguments in, reply out."""

from __future__ import annotations

from typing import Any

import pytest

from tests.lua_scripts import KEYS, Caller

ALIVE, REAPER, EXPIRING, EXPIRING_JOBS, STALLING, STALLING_JOBS, NOTED, LAPSED = REAP = KEYS.leases(
    "alive", "reaper", "expiring", "expiring-jobs", "stalling", "stalling-jobs", "noted", "lapsed"
)


class Reap:
    """Looks as a reaper that has looked before, after a lease of 10 seconds."""

    def __init__(self, url: str) -> None:
        self._call = Caller("reap", url)
        self.redis = self._call.redis
        self.now = self._call.time()
        self.redis.hset(REAPER, mapping={"seen": self.now, "grace_until": 0})

    def __call__(self, expiry_grace: float = 3) -> list[Any]:
        reply: list[Any] = self._call(REAP, 10, 2, expiry_grace, *KEYS.leases("held:", "running:"))
        return reply


@pytest.fixture
def reap(redis_url: str) -> Reap:
    return Reap(redis_url)


def test_a_lapsed_lease_is_returned_with_running_jobs_before_held_ones_and_then_hidden(reap: Reap) -> None:
    reap.redis.zadd(ALIVE, {"lapsed": reap.now - 11, "alive": reap.now - 5})
    reap.redis.hset(KEYS.leases("held:lapsed")[0], "job", "HELD")
    reap.redis.hset(KEYS.leases("running:lapsed")[0], "0:job", "RUNNING")
    assert reap() == [[b"lapsed", [b"RUNNING", b"HELD"]], [], []]
    assert reap() == [[], [], []]
    reap.redis.zadd(ALIVE, {"lapsed": reap.now - 11})
    assert reap()[0][0] == b"lapsed"


def test_an_incarnation_that_runs_jobs_and_never_had_a_lease_is_returned_too(reap: Reap) -> None:
    reap.redis.zadd(NOTED, {"lapsed": reap.now - 11, "new": reap.now - 5})
    reap.redis.hset(KEYS.leases("running:lapsed")[0], "0:job", "RUNNING")
    assert reap()[0] == [b"lapsed", [b"RUNNING"]]
    assert reap.redis.hgetall(LAPSED) == {b"lapsed": b"1"}
    assert reap.redis.ttl(LAPSED) > 60  # type: ignore[operator]
    assert reap()[0] == []


@pytest.mark.parametrize("seen", [None, -7.0])
def test_after_a_time_in_which_nobody_looked_no_lease_lapses(reap: Reap, seen: float | None) -> None:
    reap.redis.zadd(ALIVE, {"lapsed": reap.now - 11})
    if seen is None:
        reap.redis.delete(REAPER)
    else:
        reap.redis.hset(REAPER, "seen", reap.now + seen)
    assert reap()[0] == []
    assert 9 < float(reap.redis.hget(REAPER, "grace_until")) - reap.now < 60  # type: ignore[arg-type]
    assert reap()[0] == []


def test_where_reapers_are_always_late_leases_lapse_all_the_same(reap: Reap) -> None:
    for _ in range(2):
        reap.redis.zadd(ALIVE, {"lapsed": reap.now - 11})
        found = []
        for _ in range(4):
            reap.redis.hset(REAPER, "seen", reap.now - 7)
            found.append(reap()[0])
        assert found == [[], [], [], [b"lapsed", []]]
    reap.redis.zadd(ALIVE, {"lapsed": reap.now - 11})
    assert reap()[0] == [b"lapsed", []]  # a look in time


def test_an_expired_job_is_returned_after_the_grace_and_then_hidden(reap: Reap) -> None:
    reap.redis.zadd(EXPIRING, {"expired": reap.now - 4, "just expired": reap.now - 2, "nameless": 1})
    reap.redis.hset(EXPIRING_JOBS, "expired", "EXPIRED")
    assert reap()[1] == [b"nameless", b"", b"expired", b"EXPIRED"]
    assert reap()[1] == []
    assert reap(expiry_grace=0)[1] == [b"just expired", b""]


def test_a_stalled_job_is_returned_once(reap: Reap) -> None:
    reap.redis.zadd(STALLING, {"stalled": reap.now - 1, "not yet": reap.now + 60})
    reap.redis.hset(STALLING_JOBS, mapping={"stalled": "STALLED", "not yet": "NOT YET"})
    assert reap()[2] == [b"STALLED"]
    assert reap()[2] == []
    assert reap.redis.hkeys(STALLING_JOBS) == [b"not yet"]

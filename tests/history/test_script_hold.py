"""hold.lua by itself: keys and arguments in, reply and stored jobs out."""

from __future__ import annotations

from tests.lua_scripts import KEYS, Caller

ALIVE, HELD, RUNNING, NOTED, LAPSED = LEASE = KEYS.leases("alive", "held:i", "running:i", "noted", "lapsed")


def test_a_lease_is_renewed_and_says_whether_it_was_there(redis_url: str) -> None:
    hold = Caller("hold", redis_url)
    assert hold(LEASE, "i", 60) == 0
    first = hold.redis.zscore(ALIVE, "i")
    assert hold(LEASE, "i", 60) == 1
    assert hold.redis.zscore(ALIVE, "i") > first  # type: ignore[operator]


def test_the_jobs_that_are_held_replace_those_before_and_what_runs_is_left_alone(redis_url: str) -> None:
    hold = Caller("hold", redis_url)
    hold.redis.hset(RUNNING, "0:child's", "noted by a child")
    hold(LEASE, "i", 60, "one", "ONE", "two", "TWO")
    hold(LEASE, "i", 60, "two", "TWO again")
    assert hold.redis.hgetall(HELD) == {b"two": b"TWO again"}
    assert hold.redis.hgetall(RUNNING) == {b"0:child's": b"noted by a child"}


def test_it_all_is_kept_for_the_time_that_is_asked_for(redis_url: str) -> None:
    hold = Caller("hold", redis_url)
    hold.redis.hset(RUNNING, "0:job", "JOB")
    hold(LEASE, "i", 60, "job", "JOB")
    assert all(0 < hold.redis.ttl(key) <= 60 for key in (ALIVE, HELD, RUNNING))  # type: ignore[operator]


def test_a_lease_that_has_lapsed_is_said_not_to_be_there_until_all_that_was_found_has_been_reported(
    redis_url: str,
) -> None:
    hold, reported = Caller("hold", redis_url), Caller("reported", redis_url)
    hold(LEASE, "i", 60)
    hold.redis.hset(LAPSED, mapping={"i": 2, "other": 1})
    for _ in range(2):
        assert [hold(LEASE, "i", 60) for _ in range(2)] == [0, 0]
        reported([LAPSED], "i")
    assert [hold(LEASE, "i", 60) for _ in range(2)] == [0, 1]
    reported([LAPSED], "i")
    assert hold(LEASE, "i", 60) == 1
    assert hold.redis.hgetall(LAPSED) == {b"other": b"1"}

"""note_running.lua by itself: keys and arguments in, stored jobs out."""

from __future__ import annotations

from tests.lua_scripts import KEYS, Caller

ALIVE, HELD, RUNNING, NOTED = LEASE = KEYS.leases("alive", "held:i", "running:i", "noted")


def test_jobs_are_noted_beside_those_that_run_already(redis_url: str) -> None:
    note = Caller("note_running", redis_url)
    note(LEASE, "i", 60, "0::one", "ONE")
    note(LEASE, "i", 60, "0::two", "TWO", "0::three", "THREE")
    assert note.redis.hgetall(RUNNING) == {b"0::one": b"ONE", b"0::two": b"TWO", b"0::three": b"THREE"}
    assert all(0 < note.redis.ttl(key) <= 60 for key in (RUNNING, NOTED))  # type: ignore[operator]


def test_an_incarnation_without_a_lease_is_noted_once_until_it_has_one(redis_url: str) -> None:
    note = Caller("note_running", redis_url)
    note(LEASE, "i", 60, "0::one", "ONE")
    first = note.redis.zscore(NOTED, "i")
    note(LEASE, "i", 60, "0::two", "TWO")
    assert note.redis.zscore(NOTED, "i") == first
    assert Caller("hold", redis_url)([*LEASE, *KEYS.leases("lapsed")], "i", 60) == 0
    note(LEASE, "i", 60, "0::three", "THREE")
    assert note.redis.zscore(NOTED, "i") is None

"""await_stall.lua by itself: keys and arguments in, stored times out."""

from __future__ import annotations

from tests.lua_scripts import KEYS, Caller

STALLING, STALLING_JOBS = KEYS_OF_STALLS = KEYS.leases("stalling", "stalling-jobs")


def test_each_job_has_its_time_and_its_progress_and_a_later_note_replaces_an_earlier(redis_url: str) -> None:
    await_stall = Caller("await_stall", redis_url)
    now = await_stall.time()
    await_stall(KEYS_OF_STALLS, "one", 1000, "ONE", "two", 2000, "TWO")
    await_stall(KEYS_OF_STALLS, "two", 3000.5, "TWO again")
    times = dict(await_stall.redis.zrange(STALLING, 0, -1, withscores=True))  # type: ignore[arg-type]
    assert times.keys() == {b"one", b"two"}
    assert times[b"one"] >= now + 1000
    assert times[b"two"] >= now + 3000
    assert await_stall.redis.hgetall(STALLING_JOBS) == {b"one": b"ONE", b"two": b"TWO again"}

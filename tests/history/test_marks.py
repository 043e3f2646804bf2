"""What was cancelled, and what was revoked."""

from __future__ import annotations

import pytest
import redis

from celery_realtime.history.lua import Runner
from celery_realtime.history.marks import CANCELLED_TTL, REVOKED_TTL, Marks
from tests.lua_scripts import KEYS


@pytest.fixture
def client(redis_url: str) -> redis.Redis:
    return redis.Redis.from_url(redis_url)


@pytest.fixture
def marks(client: redis.Redis) -> Marks:
    return Marks(KEYS, Runner(client))


def test_the_cancelled_ones_of_some_jobs_are_named(marks: Marks) -> None:
    odd = ["a b", "ü", "{x}", "caf\udce9", "x:y"]
    for job_id in odd:
        marks.cancel(job_id)
    assert marks.cancelled(["other", *odd, "another"]) == odd
    assert marks.cancelled([]) == []


def test_a_cancellation_is_forgotten_in_the_end(marks: Marks, client: redis.Redis) -> None:
    marks.cancel("job")
    assert 0 < client.ttl(KEYS.cancelled("job")) <= CANCELLED_TTL  # type: ignore[operator]


def test_revocations_are_kept_by_user_and_project_with_their_time(marks: Marks, client: redis.Redis) -> None:
    assert marks.revocations() == {}
    marks.revoke("ada", "p", 5.25)
    marks.revoke("ada", "q", 6.0)
    marks.revoke("ada", "p", 7.5)
    assert marks.revocations() == {("ada", "p"): 7.5, ("ada", "q"): 6.0}
    assert 0 < client.ttl(KEYS.leases("revoked")[0]) <= REVOKED_TTL  # type: ignore[operator]


def test_entries_of_another_writer_hide_no_revocation(marks: Marks, client: redis.Redis) -> None:
    marks.revoke("ada", "p", 5.0)
    client.hset(KEYS.leases("revoked")[0], mapping={"junk": "1", '["a"]': "1", '["a","b"]': "junk"})
    assert marks.revocations() == {("ada", "p"): 5.0}

"""What was cancelled."""

from __future__ import annotations

import pytest
import redis

from celery_realtime.events import Cancellation
from celery_realtime.history.lua import Runner
from celery_realtime.history.marks import CANCELLED_TTL, Marks
from tests.lua_scripts import KEYS

ALL = Cancellation()


@pytest.fixture
def client(redis_url: str) -> redis.Redis:
    return redis.Redis.from_url(redis_url)


@pytest.fixture
def marks(client: redis.Redis) -> Marks:
    return Marks(KEYS, Runner(client))


def test_the_cancelled_ones_of_some_jobs_are_named(marks: Marks) -> None:
    odd = ["a b", "ü", "{x}", "caf\udce9", "x:y"]
    for job_id in odd:
        marks.cancel(job_id, ALL)
    assert marks.cancelled(["other", *odd, "another"]) == dict.fromkeys(odd, ALL)
    assert marks.cancelled([]) == {}


def test_a_cancellation_says_which_runs_it_concerns(marks: Marks, client: redis.Redis) -> None:
    of_one = Cancellation.of("1700000000000-0000abcd")
    marks.cancel("job", of_one)
    assert marks.cancelled(["job"]) == {"job": of_one}
    client.set(KEYS.cancelled("job"), "1")  # of another writer
    assert marks.cancelled(["job"]) == {"job": Cancellation()}


def test_a_cancellation_is_forgotten_in_the_end(marks: Marks, client: redis.Redis) -> None:
    marks.cancel("job", ALL)
    assert 0 < client.ttl(KEYS.cancelled("job")) <= CANCELLED_TTL  # type: ignore[operator]


def test_cancellations_are_listed_once_to_each_worker_that_asks(marks: Marks) -> None:
    assert marks.cancelled_since(0.0) == ({}, 0.0)
    marks.cancel("one", ALL)
    marks.cancel("two", ALL)
    jobs, since = marks.cancelled_since(0.0)
    assert jobs == {"one": ALL, "two": ALL}
    assert marks.cancelled_since(since) == ({}, since)
    marks.cancel("one", ALL)
    assert marks.cancelled_since(since)[0] == {"one": ALL}


def test_a_cancellation_is_listed_although_the_clock_of_redis_was_put_back(marks: Marks, client: redis.Redis) -> None:
    [cancellations] = KEYS.leases("cancellations")
    marks.cancel("one", ALL)
    client.zadd(cancellations, {"later": client.time()[0] + 1000})  # type: ignore[index,operator]
    _, since = marks.cancelled_since(0.0)
    marks.cancel("two", ALL)
    assert marks.cancelled_since(since)[0] == {"two": ALL}


def test_the_list_of_cancellations_is_bounded(
    marks: Marks, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("celery_realtime.history.marks.MOST_CANCELLED", 3)
    [cancellations] = KEYS.leases("cancellations")
    client.zadd(cancellations, {"old": client.time()[0] - CANCELLED_TTL - 1})  # type: ignore[index,operator]
    for number in range(5):
        marks.cancel(f"job-{number}", ALL)
    assert list(marks.cancelled_since(0.0)[0]) == ["job-2", "job-3", "job-4"]
    assert 0 < client.ttl(cancellations) <= CANCELLED_TTL  # type: ignore[operator]


def test_the_worker_that_cancels_a_job_answers_whoever_asked(marks: Marks, client: redis.Redis) -> None:
    marks.answer("job", {"how": "terminate"})
    marks.cancel("job", ALL)
    assert marks.answer_of("job") is None
    marks.answer("job", {"how": "terminate"})
    assert marks.answer_of("job") == {"how": "terminate"}
    assert marks.cancelled(["job"]) == {"job": ALL}
    marks.cancel("job", ALL)
    assert marks.answer_of("job") is None
    client.set(KEYS.cancel_answer("job"), "1")  # of another writer
    assert marks.answer_of("job") is None

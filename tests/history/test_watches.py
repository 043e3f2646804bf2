"""Which projects somebody watches, as web servers note it and workers are answered."""

from __future__ import annotations

import pytest
import redis

from celery_realtime.history import watches
from celery_realtime.history.lua import Runner
from celery_realtime.history.store import History
from celery_realtime.history.watches import MARK_TTL, Watches
from tests.appended import append, custom, progress, status
from tests.lua_scripts import KEYS
from tests.waiting import wait_for


@pytest.fixture
def client(redis_url: str) -> redis.Redis:
    return redis.Redis.from_url(redis_url)


@pytest.fixture
def marks(client: redis.Redis) -> Watches:
    return Watches(KEYS, Runner(client))


@pytest.fixture
def history(redis_url: str) -> History:
    return History(redis_url, "tests", size=1000, ttl=60.0)


def test_those_of_some_projects_that_are_marked_are_named(marks: Watches) -> None:
    odd = ["a b", "ü", "{x}", "x:y", "p}watched"]
    marks.mark(odd)
    assert marks.of(["other", *odd, "another"]) == set(odd)
    assert marks.of([]) == set()


def test_a_mark_is_renewed_and_lapses_by_itself(
    marks: Watches, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    marks.mark(["p"])
    assert 0 < client.ttl(KEYS.watched("p")) <= MARK_TTL  # type: ignore[operator]
    client.expire(KEYS.watched("p"), 1000)
    marks.mark(["p"])
    assert client.ttl(KEYS.watched("p")) <= MARK_TTL  # type: ignore[operator]
    monkeypatch.setattr(watches, "MARK_TTL", 1)
    marks.mark(["p"])
    wait_for(lambda: not marks.of(["p"]))


def test_a_mark_does_not_outlast_those_who_watch_because_something_is_appended(
    history: History, client: redis.Redis
) -> None:
    history.watches.mark(["p"])
    append(history, status("PENDING"))
    assert 0 < client.ttl(history.keys.watched("p")) <= MARK_TTL  # type: ignore[operator]


def test_a_mark_has_no_member_that_says_who_watches(marks: Watches, client: redis.Redis) -> None:
    marks.mark(["p"])
    assert client.get(KEYS.watched("p")) == b"1"


def test_many_projects_are_marked_in_few_round_trips(
    marks: Watches, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    trips: list[int] = []
    replies = Runner.replies
    monkeypatch.setattr(
        Runner, "replies", lambda self, commands: trips.append(len(commands)) or replies(self, commands)
    )
    marks.mark(f"p{number}" for number in range(2500))
    assert trips == [1000, 1000, 500]
    marks.mark([])
    assert len(trips) == 3
    assert client.dbsize() == 2500


def test_a_refusal_to_mark_is_raised_and_one_to_answer_counts_as_nobody(
    marks: Watches, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusal = redis.exceptions.ResponseError("OOM command not allowed when used memory > 'maxmemory'.")
    monkeypatch.setattr(Runner, "replies", lambda _self, commands: [refusal for _ in commands])
    with pytest.raises(redis.exceptions.ResponseError, match="OOM"):
        marks.mark(["p"])
    assert marks.of(["p"]) == set()


# -- the answer to an append --------------------------------------------------------------------------------------


def test_an_append_answers_of_each_project_whether_it_is_watched(history: History) -> None:
    answers: list[tuple[str, bool]] = []
    history.on_watch(lambda project_id, is_watched: answers.append((project_id, is_watched)))
    history.watches.mark(["q"])
    append(history, status("STARTED", project="p"), status("STARTED", project="q"), progress(10, project="q"))
    assert answers == [("p", False), ("q", True)]


def test_the_same_write_is_answered_again_with_who_watches_now(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[bool] = []
    history.on_watch(lambda _, is_watched: answers.append(is_watched))
    append(history, custom({"n": 1}))
    history.watches.mark(["p"])
    replies = Runner.replies
    # As where a write is sent a second time, since the line broke before its answer.
    monkeypatch.setattr(Runner, "replies", lambda self, commands: (replies(self, commands), replies(self, commands))[1])
    append(history, custom({"n": 2}))
    assert answers == [False, True]
    monkeypatch.undo()
    assert len(history.recent("p")) == 2


def test_a_mark_is_no_part_of_the_project(history: History, client: redis.Redis) -> None:
    history.watches.mark(["p"])
    assert history.read("p").offset == 0
    append(history, custom({"n": 1}))
    epoch = history.read("p").epoch
    client.delete(history.keys.watched("p"))
    append(history, custom({"n": 2}))
    assert (history.read("p").epoch, history.read("p").offset) == (epoch, 2)

"""append.lua by itself: keys and arguments in, reply and stored entries out."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from tests.lua_scripts import KEYS, Caller

PROJECT = KEYS.project("p")
NAMES = dict(zip(("meta", "events", "jobs", "ended", "flows", "live", "flows-ended"), PROJECT, strict=True))


class Append:
    """Appends events to the project ``p``."""

    def __init__(self, url: str) -> None:
        self._call = Caller("append", url)
        self.redis = self._call.redis
        self.limits: dict[str, Any] = {"max_events": 1000, "ttl": 60, "ended_ttl": 60, "max_live": 100}

    def __call__(
        self, *events: list[Any], witnessed: tuple[str, int] = ("", 0), server: bool = False
    ) -> tuple[str, list[int], list[Any]]:
        limits = self.limits
        epoch, offsets, updates = self._call(
            [*PROJECT, *KEYS.project("p", "server")[7:]] if server else PROJECT,
            *("new", limits["max_events"], limits["ttl"], limits["ended_ttl"], '"now"', '"p"', *witnessed),
            *(limits["max_live"], msgspec.msgpack.encode([event[:-1] for event in events])),
            *(event[-1] for event in events),
        )
        return epoch.decode(), [int(word) for word in offsets.split()], updates

    def entry(self, job: str = "job") -> list[str]:
        """Return the words and lines of a job's entry."""
        head, *lines = self.redis.hget(NAMES["jobs"], job).decode().split("\n")  # type: ignore[union-attr]
        return [*head.split(), *lines]


def event(rank: str, payload: str, **more: Any) -> list[Any]:
    """Return the description of an event, and its payload."""
    kind = {"0": "queued", "1": "running", "2": "done", "L": "failed", "E": "failed"}.get(rank, "")
    fields = {"job": "job", "attempt": 0, "percent": 0, "incarnation": "-", "kind": kind, "root": "-", "tag": payload}
    fields |= more
    name = {"p": "agent_progress", "c": "line"}.get(rank, "agent_status")
    return [name, fields["job"], fields["attempt"], rank, *list(fields.values())[2:], payload]


@pytest.fixture
def append(redis_url: str) -> Append:
    return Append(redis_url)


def test_events_are_counted_and_stored_in_order_with_their_time_and_tag(append: Append) -> None:
    assert append(event("0", "q"), event("1", "r"), event("c", "c")) == ("new", [1, 2, 3], [])
    entries: Any = append.redis.xrange(NAMES["events"])
    assert [name for name, _ in entries] == [b"1-0", b"2-0", b"3-0"]
    assert [(fields[b"e"], fields[b"p"], fields[b"b"]) for _, fields in entries] == [
        (b"agent_status", b"q", b"q"),
        (b"agent_status", b"r", b"r"),
        (b"line", b"c", b"c"),
    ]
    assert append.redis.hgetall(NAMES["meta"]) == {b"epoch": b"new", b"offset": b"3", b"jobs": b"1"}


def test_a_job_has_one_entry_of_its_latest_status_and_progress(append: Append) -> None:
    append(event("1", "r", incarnation="i1", root="root", attempt=2), event("p", "p", percent=40.5, attempt=2))
    assert append.entry() == ["2", "1", "40.5", "1", "2", "i1", "running", "40.5", "root", "r", "p"]


@pytest.mark.parametrize(
    ("first", "then", "is_news"),
    [
        (("0", 0, "-"), ("1", 0, "a"), True),
        (("1", 0, "a"), ("0", 0, "-"), False),
        (("1", 0, "a"), ("1", 0, "a"), False),
        (("1", 0, "a"), ("1", 0, "b"), True),
        (("1", 0, "a"), ("L", 0, "a"), True),
        (("1", 0, "a"), ("L", 0, "b"), False),
        (("1", 0, "-"), ("L", 0, "b"), True),
        (("1", 0, "a"), ("E", 0, "-"), False),
        (("0", 0, "-"), ("E", 0, "-"), True),
        (("0", 0, "-"), ("L", 0, "a"), False),
        (("L", 0, "a"), ("0", 0, "-"), False),
        (("L", 0, "a"), ("1", 0, "b"), True),
        (("2", 0, "a"), ("1", 0, "b"), False),
        (("2", 0, "a"), ("0", 1, "-"), True),
        (("0", 1, "-"), ("2", 0, "a"), False),
    ],
)
def test_of_two_reports_attempt_and_rank_decide(append: Append, first: Any, then: Any, is_news: bool) -> None:
    if first[0] == "L":
        append(event("1", "before", incarnation=first[2]))
    for number, (rank, attempt, incarnation) in enumerate((first, then)):
        _, offsets, _ = append(event(rank, f"{number}", attempt=attempt, incarnation=incarnation))
    assert (offsets != [0]) is is_news


def test_progress_does_not_go_back_within_an_attempt(append: Append) -> None:
    steps = [event("p", f"{percent}", percent=percent) for percent in (10, 5, 20)]
    assert append(*steps)[1] == [1, 0, 2]
    assert append(event("p", "again", percent=1, attempt=1))[1] == [3]


def test_a_doubtful_event_is_looked_for_by_its_tag(append: Append) -> None:
    append(event("c", "first", tag="t1"))
    assert append(event("c", "first", tag="?t1"), event("c", "second", tag="?t2"))[1] == [1, 2]
    assert append.redis.xlen(NAMES["events"]) == 2


def test_an_entry_that_cannot_be_read_is_written_anew(append: Append) -> None:
    append(event("1", "r"))
    append.redis.hset(NAMES["jobs"], "job", "junk")
    assert append(event("0", "q"))[1] == [2]
    assert append.entry()[1] == "0"


def test_workflows_are_counted_from_their_second_job_on(append: Append) -> None:
    assert append(event("1", "a", job="r", root="r"))[2] == []
    _, offsets, updates = append(event("0", "b", job="s", root="r"), event("2", "c", job="r", root="r"))
    assert offsets == [2, 4]
    assert [(index, offset) for index, _, offset in updates] == [(0, 3), (1, 5)]
    assert json.loads(updates[1][1]) == {
        "event": "workflow_update",
        "root_id": "r",
        "project_id": "p",
        "timestamp": "now",
        "total": 2,
        "queued": 1,
        "running": 0,
        "done": 1,
        "failed": 0,
        "progress": 50,
    }
    append(event("2", "d", job="s", root="r"))
    assert append.redis.zrange(NAMES["flows-ended"], 0, -1) == [b"r"]


def test_jobs_are_live_until_they_have_ended(append: Append) -> None:
    append(event("1", "a", job="one"), event("1", "b", job="two"), event("2", "c", job="one"))
    assert append.redis.zrange(NAMES["live"], 0, -1) == [b"two"]
    assert append.redis.zrange(NAMES["ended"], 0, -1) == [b"one"]


def test_what_is_beyond_the_limits_is_forgotten(append: Append) -> None:
    append.limits |= {"max_events": 2, "max_live": 1}
    append(*(event("2", f"e{n}", job=f"ended{n}") for n in range(4)))
    append(*(event("1", f"l{n}", job=f"live{n}") for n in range(3)))
    assert set(append.redis.hkeys(NAMES["jobs"])) == {b"ended2", b"ended3", b"live2"}
    append.limits["ended_ttl"] = -1
    append(event("c", "later"))
    assert set(append.redis.hkeys(NAMES["jobs"])) == {b"live2"}


def test_every_key_expires(append: Append) -> None:
    append(event("1", "a", job="r", root="r"), event("2", "b", job="s", root="r"), event("2", "c", job="r", root="r"))
    assert [0 < append.redis.ttl(key) <= 60 for key in PROJECT if append.redis.exists(key)] == [True] * 6  # type: ignore[operator]


@pytest.mark.parametrize("key", ["meta", "events", "jobs"])
def test_a_project_of_which_a_part_was_lost_begins_anew(append: Append, key: str) -> None:
    append(event("1", "a"))
    append.redis.hset(NAMES["meta"], "epoch", "old")
    append.redis.delete(NAMES[key])
    assert append(event("c", "b"))[:2] == ("new", [1])


def test_a_project_begins_anew_when_the_caller_has_stored_more(append: Append) -> None:
    append(event("1", "a"), event("c", "b"))
    append.redis.hset(NAMES["meta"], "epoch", "old")
    assert append(event("c", "c"), witnessed=("old", 2))[:2] == ("old", [3])
    assert append(event("c", "d"), witnessed=("other", 9))[:2] == ("old", [4])
    assert append(event("c", "e"), witnessed=("old", 9))[:2] == ("new", [1])


def test_another_server_counts_on_in_another_epoch(append: Append) -> None:
    append(event("1", "a"), event("c", "b"), server=True)
    append.redis.hset(NAMES["meta"], "epoch", "old")
    assert append(event("c", "c"), server=True)[:2] == ("old", [3])
    append.redis.set(KEYS.project("p", "server")[-1], "another")
    assert append(event("c", "d"), server=True)[:2] == ("new", [4])
    assert append.entry()[-2] == "a"

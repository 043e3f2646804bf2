"""settle.lua by itself."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from tests.history.test_script_append import NAMES, Append, event
from tests.lua_scripts import KEYS, Caller


class Settle:
    """Settles what a writer has appended to the project ``p``."""

    def __init__(self, url: str) -> None:
        self._call = Caller("settle", url)

    def __call__(self, write: int, writer: str = "me") -> tuple[str, dict[int, int], list[Any], int]:
        epoch, numbers, offsets, updates, is_due = self._call(KEYS.project_and_begun("p"), "fresh", 60, writer, write)
        pairs = zip(map(int, numbers.split()), map(int, offsets.split()), strict=True)
        return epoch.decode(), dict(pairs), updates, is_due


@pytest.fixture
def append(redis_url: str) -> Append:
    return Append(redis_url)


@pytest.fixture
def settle(redis_url: str) -> Settle:
    return Settle(redis_url)


def test_a_write_that_was_stored_is_told_with_its_offsets_however_much_came_after_it(
    append: Append, settle: Settle
) -> None:
    append(event("c", "a"), event("2", "b"), event("1", "c"), write=4)
    for start in range(15):
        append(*(event("c", f"{start} {number}") for number in range(100)), writer="other", write=start + 1)
    expected = ("new", {100: 1, 101: 2, 102: 0}, [], 0)
    assert settle(4) == expected
    assert settle(4) == expected
    assert settle(5) == expected


def test_updates_of_workflows_come_as_they_were_stored(append: Append, settle: Settle) -> None:
    _, _, updates = append(event("0", "q", root="r"), event("0", "s", job="other", root="r"), write=1)
    assert len(updates) == 1
    append(event("0", "t", job="third", root="r"), writer="other", write=1)
    assert settle(1) == ("new", {100: 1, 101: 2}, updates, 1)


def test_of_a_write_that_never_came_nothing_is_told_and_it_is_refused_when_it_comes(
    append: Append, settle: Settle
) -> None:
    assert settle(3) == ("fresh", {}, [], 0)
    with pytest.raises(redis.ResponseError, match="STALE"):
        append(event("c", "a"), write=2)
    assert append(event("c", "a"), write=4)[:2] == ("fresh", [1])
    assert settle(4)[1] == {100: 1}


def test_an_earlier_write_is_refused_and_a_later_one_is_not(append: Append, settle: Settle) -> None:
    append(event("c", "a"), write=5)
    assert settle(3)[1] == {100: 1}
    with pytest.raises(redis.ResponseError, match="STALE"):
        append(event("c", "b"), write=4)
    assert append(event("c", "b"), write=6)[1] == [2]


def test_what_was_lost_since_is_not_told(append: Append, settle: Settle) -> None:
    append(event("c", "a"), write=1)
    append.redis.delete(NAMES["events"])
    assert settle(1) == ("fresh", {}, [], 0)
    assert append(event("c", "a"), write=2)[:2] == ("fresh", [2])
    append.redis.flushdb()
    assert settle(2)[1:] == ({}, [], 0)
    assert 0 < append.redis.ttl(NAMES["meta"]) <= 60  # type: ignore[operator]


def test_a_look_costs_the_same_whatever_the_stream_holds(own_redis_url: str) -> None:
    append, settle = Append(own_redis_url), Settle(own_redis_url)
    append(event("c", "a"), write=1)
    settle(1)
    costs = []
    for start in range(2):
        append.redis.config_resetstat()
        settle(1)
        stats: Any = append.redis.info("commandstats")
        costs.append({name: of_command["calls"] for name, of_command in stats.items()})
        append(*(event("c", f"{start} {number}") for number in range(500)), writer="other", write=start + 1)
    assert {name: calls for name, calls in costs[0].items() if name != "cmdstat_info"} == {
        name: calls for name, calls in costs[1].items() if name != "cmdstat_info"
    }

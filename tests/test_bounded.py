from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_realtime.bounded import BoundedDict


def test_what_was_set_is_returned_and_what_was_not_is_the_default() -> None:
    recent: BoundedDict[str, int] = BoundedDict(2)
    recent["a"] = 1
    assert recent.get("a") == 1
    assert recent.get("b") is None
    assert recent.get("b", 7) == 7


def test_the_oldest_entry_makes_room_for_the_newest() -> None:
    recent: BoundedDict[str, int] = BoundedDict(2)
    for number, key in enumerate("abc"):
        recent[key] = number
    assert [recent.get(key) for key in "abc"] == [None, 1, 2]
    assert len(recent) == 2


def test_an_entry_that_is_set_again_is_young_again() -> None:
    recent: BoundedDict[str, int] = BoundedDict(2)
    recent["a"], recent["b"], recent["a"], recent["c"] = 1, 2, 3, 4
    assert [recent.get(key) for key in "abc"] == [3, None, 4]


def test_reading_an_entry_does_not_keep_it() -> None:
    recent: BoundedDict[str, int] = BoundedDict(1)
    recent["a"] = 1
    recent.get("a")
    recent["b"] = 2
    assert recent.get("a") is None


def test_popping_forgets_an_entry_and_returns_it() -> None:
    recent: BoundedDict[str, int] = BoundedDict(2)
    recent["a"] = 1
    assert recent.pop("a") == 1
    assert recent.pop("a") is None
    assert len(recent) == 0


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans())), st.integers(1, 5))
def test_it_holds_the_entries_that_were_set_last(steps: list[tuple[int, bool]], limit: int) -> None:
    recent: BoundedDict[int, int] = BoundedDict(limit)
    model: dict[int, int] = {}
    for number, (key, pops) in enumerate(steps):
        before = model.pop(key, None)
        if pops:
            assert recent.pop(key) == before
        else:
            recent[key] = model[key] = number
            model = dict(list(model.items())[-limit:])
        assert {k: recent.get(k) for k in range(10)} == {k: model.get(k) for k in range(10)}
        assert len(recent) == len(model)


@pytest.mark.parametrize("limit", [1, 50])
def test_threads_at_once_neither_break_it_nor_make_it_grow(limit: int) -> None:
    recent: BoundedDict[int, int] = BoundedDict(limit)
    errors: list[Exception] = []

    def work(start: int) -> None:
        try:
            for number in range(1000):
                recent[(start + number) % 80] = number
                recent.get(number % 80)
                recent.pop((start + number * 7) % 80)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(start,)) for start in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(recent) <= limit

"""A page waits for the events that it includes, and knows those behind it."""

from __future__ import annotations

from typing import Any

import pytest

from celery_realtime.client.messages import Item
from celery_realtime.client.ordering import MAX_HELD
from celery_realtime.client.pages import Pages


class Reading:
    """Pages of which the second is at ``next``, and what was asked for."""

    def __init__(self) -> None:
        self.requests: list[tuple[int, dict[str, Any]]] = []
        self.pages = Pages("p", lambda number, request: self.requests.append((number, request)))
        self.pages.next = "2"

    def note(self, offset: int | None, event: str = "agent_progress") -> None:
        self.pages.note(Item(event, {"job_id": "a"}, "e", offset), numbered=offset is not None)


def page(offset: Any, **more: Any) -> dict[str, Any]:
    return {"ok": True, "epoch": "e", "offset": offset, "jobs": ["a"], "next": "3", **more}


def test_it_is_given_out_once_with_what_came_behind_it() -> None:
    reading = Reading()
    reading.note(4)
    reading.pages.ask()
    for offset in (5, 6, None, 7):
        reading.note(offset)
    reading.note(8, "line")
    reading.pages.answered(1, page(6), "e")

    assert reading.requests == [(1, {"project_id": "p", "from": "2"})]
    assert reading.pages.take(5) is None
    taken = reading.pages.take(8)
    assert taken is not None
    jobs, updates, asked = taken
    assert asked is None
    assert (jobs, [numbered for _, _, numbered in updates]) == (["a"], [False, True])
    assert (reading.pages.next, reading.pages.take(8)) == ("3", None)


@pytest.mark.parametrize(
    ("number", "answer"),
    [
        *(
            (1, answer)
            for answer in (None, {"ok": False}, page(None), page("6"), page(6, epoch="f"), page(6, epoch=None))
        ),
        (2, page(6)),
    ],
)
def test_an_answer_that_is_of_no_use_is_none(number: int, answer: Any) -> None:
    reading = Reading()
    reading.pages.ask()
    reading.pages.answered(number, answer, "e")
    assert reading.pages.take(10) is None


def test_too_many_events_meanwhile_drop_it() -> None:
    reading = Reading()
    reading.pages.ask()
    for offset in range(MAX_HELD + 1):
        reading.note(offset)
    reading.pages.answered(1, page(6), "e")
    assert reading.pages.take(MAX_HELD) is None


def test_without_a_way_to_ask_there_is_nothing_further() -> None:
    pages = Pages("p", None)
    pages.next = "2"
    pages.ask()
    assert not pages.are_left
    assert Reading().pages.are_left

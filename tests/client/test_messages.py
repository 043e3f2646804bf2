"""What a server sends is read once, and malformed parts of it are left out."""

from __future__ import annotations

from typing import Any

import pytest

from celery_realtime.client.messages import Item, items_of, read_answer, refusal_in

MARK = {"project_id": "p", "epoch": "e", "offset": 4}
ANSWER = {"ok": True, "epoch": "e", "offset": 4, "recovered": True, "jobs": [], "workflows": [], "events": []}


def items(name: str, data: Any) -> list[Item]:
    return list(items_of(name, data, "p"))


def test_an_event_of_ours_has_its_position_in_its_data() -> None:
    assert items("agent_status", MARK) == [Item("agent_status", MARK, "e", 4)]


def test_a_custom_event_has_its_position_under_the_mark() -> None:
    data = {"n": 1, "_realtime": MARK}
    assert items("step", data) == [Item("step", data, "e", 4)]
    assert items("step", MARK) == []


def test_in_a_batch_the_position_may_stand_beside_the_data() -> None:
    batch = [{**MARK, "event": "volume", "data": 5}, {"event": "step", "data": {"_realtime": MARK}}]
    assert [(item.event, item.offset) for item in items("agent_batch", batch)] == [("volume", 4), ("step", 4)]


@pytest.mark.parametrize("change", [{"project_id": "q"}, {"project_id": None}, {"replayed": True}])
def test_events_of_other_projects_and_replays_are_left_out(change: dict[str, Any]) -> None:
    assert items("agent_status", {**MARK, **change}) == []


@pytest.mark.parametrize("change", [{"epoch": None}, {"offset": None}, {"offset": "4"}, {"offset": True}, {"epoch": 5}])
def test_half_a_position_is_none(change: dict[str, Any]) -> None:
    [item] = items("agent_status", {**MARK, **change})
    assert (item.epoch, item.offset) == (None, None)


def test_the_events_of_an_answer_end_at_its_offset() -> None:
    answer = read_answer({**ANSWER, "events": [{"event": "a", "data": 1}, {"event": "b"}]})
    assert answer is not None
    assert answer.events == [Item("a", 1, "e", 3), Item("b", None, "e", 4)]
    assert answer.recovered


def test_without_a_history_nothing_is_recovered() -> None:
    answer = read_answer({**ANSWER, "epoch": None, "offset": None})
    assert answer is not None
    assert (answer.epoch, answer.offset, answer.recovered) == (None, None, False)


@pytest.mark.parametrize(
    "answer",
    [None, 5, {}, {"ok": False}, {**ANSWER, "epoch": None}, {**ANSWER, "events": None}, {**ANSWER, "events": [5]}],
)
def test_an_answer_that_does_not_say_how_to_go_on_is_none(answer: Any) -> None:
    assert read_answer(answer) is None


def test_only_a_refusal_gives_a_reason_and_only_with_a_code() -> None:
    error = {"code": "forbidden", "message": "no"}
    assert refusal_in({"ok": False, "error": error}) == error
    for answer in (None, {"ok": True, "error": error}, {"ok": False, "error": "no"}, {"ok": False, "error": {}}):
        assert refusal_in(answer) is None

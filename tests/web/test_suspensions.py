"""What is emitted for clients whose access is in doubt is held, once for all of them, in order, and bounded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from celery_realtime.channel.wire import Heard
from celery_realtime.web import suspensions
from celery_realtime.web.delivery import Emit
from celery_realtime.web.suspensions import Suspensions

if TYPE_CHECKING:
    from collections.abc import Callable

ROOM = "project:alpha"


def emitted(number: int, project: str = "alpha", **more: Any) -> Emit:
    heard = Heard(project, None, "step", {"number": number}, "e", number)
    return Emit("step", {"number": number}, "/", f"project:{project}", **{"events": (heard,), **more})


class Stage:
    """Suspensions, and who is in the room of the project."""

    def __init__(self) -> None:
        self.present = {"ada", "bob"}
        self.suspensions = Suspensions(self)

    def is_in_room(self, sid: str, namespace: str, room: str) -> bool:
        assert namespace == "/"
        return room == sid or (room == ROOM and sid in self.present)

    def members(self) -> list[tuple[str, str]]:
        return [(sid, "alpha") for sid in self.present]

    def skipped(self, *emits: Emit) -> list[set[str]]:
        """Emit, and return whom each emit is not for."""
        return [set(rest.skip_sid or ()) - {None} for emit in emits for rest in self.suspensions.split(emit)]

    def released(self, sid: str, may: Callable[[], bool] = lambda: True) -> list[Any]:
        return [emit.data.get("number", emit.event) for emit in self.suspensions.release(sid, "alpha", may)]


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_others_are_emitted_to_at_once_and_what_is_held_comes_in_order(stage: Stage) -> None:
    assert stage.suspensions.is_idle
    stage.suspensions.begin("ada", "alpha")
    assert stage.skipped(emitted(1), emitted(2), emitted(3, "beta")) == [{"ada"}, {"ada"}, set()]
    stage.suspensions.begin("bob", "alpha")
    assert stage.skipped(emitted(4)) == [{"ada", "bob"}]
    assert stage.suspensions.held == 3
    assert stage.released("ada") == [1, 2, 4]
    assert stage.skipped(emitted(5)) == [{"bob"}]
    assert stage.released("bob") == [4, 5]
    assert stage.suspensions.is_idle
    assert stage.skipped(emitted(6)) == [set()]


def test_what_comes_while_it_is_released_is_released_behind(stage: Stage) -> None:
    stage.suspensions.begin("ada", "alpha")
    stage.skipped(emitted(1))
    numbers = []
    for emit in stage.suspensions.release("ada", "alpha", lambda: True):
        numbers.append(emit.data["number"])
        if len(numbers) < 3:
            assert stage.skipped(emitted(len(numbers) + 1)) == [{"ada"}]
    assert numbers == [1, 2, 3]


def test_it_is_released_for_as_long_as_it_may_be(stage: Stage) -> None:
    stage.suspensions.begin("ada", "alpha")
    stage.skipped(emitted(1), emitted(2))
    answers = [True, False]
    assert stage.released("ada", lambda: answers.pop(0)) == [1]
    assert stage.skipped(emitted(3)) == [{"ada"}]
    assert stage.released("ada") == [2, 3]


def test_whom_an_emit_was_not_for_and_who_has_left_the_room_gets_nothing_of_it(stage: Stage) -> None:
    for sid in ("ada", "bob"):
        stage.suspensions.begin(sid, "alpha")
    assert stage.skipped(emitted(1, skip_sid="bob")) == [{"ada", "bob"}]
    stage.skipped(emitted(2, skip_sid=["bob"]), emitted(3))
    assert stage.released("bob") == [3]
    stage.present.clear()
    assert stage.released("ada") == []


def test_doubting_twice_loses_nothing(stage: Stage) -> None:
    stage.suspensions.begin("ada", "alpha")
    stage.skipped(emitted(1))
    stage.suspensions.begin("ada", "alpha")
    assert stage.released("ada") == [1]


@pytest.mark.parametrize("end", ["drop", "forget"])
def test_what_nobody_waits_for_is_dropped(stage: Stage, end: str) -> None:
    stage.suspensions.begin("ada", "alpha")
    stage.skipped(emitted(1))
    stage.suspensions.drop("ada", "alpha") if end == "drop" else stage.suspensions.forget("ada")
    assert stage.suspensions.is_idle
    assert stage.released("ada") == []


def test_the_oldest_of_too_many_are_dropped_and_that_is_told(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suspensions, "MOST_HELD_OF_ONE", 3)
    stage.suspensions.begin("ada", "alpha")
    stage.skipped(*map(emitted, range(1, 6)))
    stage.suspensions.begin("bob", "alpha")
    [first, *_] = stage.suspensions.release("ada", "alpha", lambda: True)
    assert (first.event, first.data, first.room) == (
        *("agent_resync", {"project_id": "alpha", "epoch": "e", "offset": 2}),
        "ada",
    )
    assert stage.released("bob") == []


def test_what_is_held_of_all_projects_is_bounded(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suspensions, "MOST_HELD", 10)
    for project in range(5):
        stage.suspensions.begin("ada", str(project))
        stage.skipped(*(emitted(number, str(project)) for number in range(5)))
    assert stage.suspensions.held <= 10


def test_what_is_no_event_of_a_project_is_not_held(stage: Stage) -> None:
    stage.suspensions.begin("ada", "alpha")
    assert stage.skipped(Emit("error", {}, "/", "ada")) == [set()]

"""Requests of a client come one after the other, and clients in turn."""

from __future__ import annotations

import functools
from collections.abc import Callable

from celery_realtime.web.turns import Kind, Turn, Turns


class Desk:
    """Answers requests when it is told to."""

    def __init__(self, **kinds: Kind) -> None:
        self.turns = Turns(kinds)
        self.begun: list[str] = []
        self._open: dict[str, Turn] = {}

    def ask(self, name: str, kind: str = "slow") -> bool | None:
        """Ask for something; the first letter is the client."""
        turn = Turn(name[0], kind)
        comes = self.turns.enter(turn, functools.partial(self._begin, name, turn))
        if comes:
            self._begin(name, turn)
        return comes

    def _begin(self, name: str, turn: Turn) -> None:
        turn.has_begun = True
        self.begun.append(name)
        self._open[name] = turn

    def answer(self, name: str) -> None:
        run(self.turns.leave(self._open.pop(name)))


def run(starts: list[Callable[[], object]]) -> None:
    for start in starts:
        start()


def test_a_client_has_one_request_of_a_kind_in_flight() -> None:
    desk = Desk(slow=Kind(), other=Kind())
    assert [desk.ask(name) for name in ("a1", "a2", "a3", "b1")] == [True, False, False, True]
    assert desk.ask("a4", "other")
    desk.answer("a1")
    assert desk.begun == ["a1", "b1", "a4", "a2"]
    desk.answer("b1")
    assert desk.begun == ["a1", "b1", "a4", "a2"]
    desk.answer("a2")
    assert desk.begun[-1] == "a3"


def test_clients_come_in_turn_when_there_is_no_room_for_all() -> None:
    desk = Desk(slow=Kind(at_once=1))
    for name in ("a1", "a2", "a3", "b1", "c1"):
        desk.ask(name)
    for _ in range(5):
        desk.answer(desk.begun[-1])
    assert desk.begun == ["a1", "a2", "b1", "c1", "a3"]


def test_a_client_for_which_too_much_waits_is_refused() -> None:
    desk = Desk(slow=Kind(most_waiting=2))
    assert [desk.ask(f"a{number}") for number in range(4)] == [True, False, False, None]
    assert desk.ask("b1")
    assert desk.turns.is_waiting("a", "slow")
    assert not desk.turns.is_waiting("b", "slow")


def test_what_waits_of_a_client_that_has_gone_is_dropped() -> None:
    desk = Desk(slow=Kind(at_once=1))
    for name in ("a1", "b1", "b2", "c1"):
        desk.ask(name)
    run(desk.turns.forget("b"))
    desk.answer("a1")
    assert desk.begun == ["a1", "c1"]


def test_a_turn_that_nobody_began_ends_with_its_client() -> None:
    desk = Desk(slow=Kind(at_once=1))
    assert desk.turns.enter(Turn("a", "slow"), lambda: None)
    assert desk.ask("b1") is False
    run(desk.turns.forget("a"))
    assert desk.begun == ["b1"]


def test_nothing_is_remembered_of_those_that_were_answered() -> None:
    turns = Turns({"slow": Kind(at_once=2)})
    for number in range(10):
        turn = Turn(str(number), "slow")
        assert turns.enter(turn, lambda: None)
        assert turns.leave(turn) == []
        assert turns.leave(turn) == []
        assert turns.forget(str(number)) == []
    assert not turns._running
    assert not turns._of_client
    assert not turns._of_kind
    assert not turns._waiting

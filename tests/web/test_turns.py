"""Requests of a client come one after the other, and clients in turn."""

from __future__ import annotations

import functools
from collections.abc import Callable

from celery_realtime.web.turns import WEIGHT, Kind, Owner, Turn, Turns


def owner(name: str) -> Owner:
    *names, client = name.rstrip("0123456789").split("/")
    peer, user = names or ("peer", client)
    return Owner(peer, user, client)


class Desk:
    """Answers requests when it is told to."""

    def __init__(self, **kinds: Kind) -> None:
        self.turns = Turns(kinds)
        self.begun: list[str] = []
        self._open: dict[str, Turn] = {}

    def ask(self, name: str, kind: str = "slow") -> bool | None:
        """Ask for something; what stands before the number is the client, or ``peer/user/client``."""
        turn = Turn(owner(name), kind)
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
    assert desk.turns.is_waiting(owner("a"), "slow")
    assert not desk.turns.is_waiting(owner("b"), "slow")


def test_what_waits_of_a_client_that_has_gone_is_dropped() -> None:
    desk = Desk(slow=Kind(at_once=1))
    for name in ("a1", "b1", "b2", "c1"):
        desk.ask(name)
    run(desk.turns.forget(owner("b")))
    desk.answer("a1")
    assert desk.begun == ["a1", "c1"]


def test_a_turn_that_nobody_began_ends_with_its_client() -> None:
    desk = Desk(slow=Kind(at_once=1))
    assert desk.turns.enter(Turn(owner("a"), "slow"), lambda: None)
    assert desk.ask("b1") is False
    run(desk.turns.forget(owner("a")))
    assert desk.begun == ["b1"]


def test_nothing_is_remembered_of_those_that_were_answered() -> None:
    turns = Turns({"slow": Kind(at_once=2)})
    for number in range(10):
        turn = Turn(Owner("peer", str(number), str(number)), "slow")
        assert turns.enter(turn, lambda: None)
        assert turns.leave(turn) == []
        assert turns.leave(turn) == []
        assert turns.forget(turn.owner) == []
    assert not turns._running
    assert not turns._of_name
    assert not turns._of_kind
    assert not any(turns._waiting.values())


def test_what_has_waited_is_not_remembered() -> None:
    desk = Desk(slow=Kind(at_once=1))
    for name in ("a1", "a2", "b1", "p/u/c1", "p/u/d1"):
        desk.ask(name)
    run(desk.turns.forget(owner("p/u/d")))
    for _ in range(4):
        desk.answer(desk.begun[-1])
    assert desk.begun == ["a1", "a2", "p/u/c1", "b1"]
    assert not any(desk.turns._waiting.values())
    assert (desk.turns._weight, dict(desk.turns._weights)) == (0, {})


def test_a_user_with_many_connections_has_one_turn_like_others() -> None:
    desk = Desk(slow=Kind(at_once=1))
    for name in (*(f"p/greedy/{letter}1" for letter in "abcde"), "p/ada/x1", "p/bob/y1"):
        desk.ask(name)
    for _ in range(6):
        desk.answer(desk.begun[-1])
    order = [name.split("/")[1] for name in desk.begun]
    assert order == ["greedy", "greedy", "ada", "bob", "greedy", "greedy", "greedy"]


def test_an_address_with_many_users_has_one_turn_like_others() -> None:
    desk = Desk(slow=Kind(at_once=1))
    for name in (*(f"greedy/{letter}/{letter}1" for letter in "abcde"), "home/ada/x1", "home/bob/y1"):
        desk.ask(name)
    for _ in range(6):
        desk.answer(desk.begun[-1])
    order = [name.split("/")[0] for name in desk.begun]
    assert order == ["greedy", "greedy", "home", "greedy", "home", "greedy", "greedy"]


def test_a_user_and_an_address_leave_room_for_others() -> None:
    desk = Desk(slow=Kind(at_once=4, of_peer=3, of_user=2))
    names = ["p/greedy/a1", "p/greedy/b1", "p/greedy/c1", "p/friend/d1", "p/friend/e1", "q/ada/f1"]
    assert [desk.ask(name) for name in names] == [True, True, False, True, False, True]
    desk.answer("p/friend/d1")
    assert desk.begun[-1] == "p/friend/e1"
    desk.answer("p/greedy/a1")
    assert desk.begun[-1] == "p/greedy/c1"


def test_a_user_is_the_same_at_several_addresses() -> None:
    desk = Desk(slow=Kind(of_user=1))
    assert [desk.ask(name) for name in ("p/ada/a1", "q/ada/b1", "q/bob/c1")] == [True, False, True]


def test_little_waits_of_a_user_altogether() -> None:
    desk = Desk(slow=Kind(at_once=1, most_weight=2 * WEIGHT))
    names = ["p/ada/a1", "p/ada/b1", "p/ada/c1", "p/ada/d1", "p/bob/e1"]
    assert [desk.ask(name) for name in names] == [True, False, False, None, False]
    long = Turn(owner("p/eve/f"), "slow")
    assert desk.turns.enter(long, lambda: None, size=WEIGHT) is None

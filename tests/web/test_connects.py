"""Attempts to connect wait for their turn: first attempts are not kept waiting by what is tried again and again."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from celery_realtime.settings import Settings
from celery_realtime.web import connects
from celery_realtime.web.budgets import Allowance, Budget
from celery_realtime.web.connects import Arriving, ConnectTurns
from celery_realtime.web.metering import BUDGET_KEY
from celery_realtime.web.sessions import Limits
from celery_realtime.web.turns import Kind
from tests.waiting import wait_for
from tests.web_servers import Web


class Server:
    @staticmethod
    def is_asyncio_based() -> bool:
        return False


class Arrivals:
    """Attempts, by name."""

    def __init__(self) -> None:
        self._gone: list[Callable[[str], None]] = []
        self.turns = ConnectTurns(Server(), self._gone.append)
        self._stacks: dict[str, ExitStack] = {}

    def begin(self, name: str, peer: str = "1.2.3.4", *, attempts: int = 1, given: Any = None, **more: str) -> Arriving:
        budget = Budget(Allowance.before_token(Limits.of(Settings())), peer, lambda _: None)
        budget.eio_sid, budget.connects = name, attempts
        environ = {"REMOTE_ADDR": peer, BUDGET_KEY: budget, **more}
        stack = self._stacks.setdefault(name, ExitStack())
        return stack.enter_context(self.turns.deciding(name, environ, given, threading.Event))

    def end(self, name: str) -> None:
        self._stacks.pop(name).close()

    def forget(self, name: str) -> None:
        for gone in self._gone:
            gone(name)


@pytest.fixture
def arrivals(monkeypatch: pytest.MonkeyPatch) -> Arrivals:
    monkeypatch.setattr(connects, "OF_THREADS", Kind(at_once=4, of_peer=3, of_user=2, most_weight=20_000))
    return Arrivals()


def begun(arriving: dict[str, Arriving]) -> list[str]:
    return [name for name, one in arriving.items() if one.event.is_set()]


def test_what_is_tried_again_leaves_room_for_first_attempts(arrivals: Arrivals) -> None:
    made = {f"again-{number}": arrivals.begin(f"again-{number}", attempts=2) for number in range(5)}
    assert begun(made) == ["again-0", "again-1"]
    made["first"] = arrivals.begin("first")
    assert "first" in begun(made)
    made["elsewhere"] = arrivals.begin("elsewhere", "5.6.7.8")
    assert "elsewhere" in begun(made)


SHOWN: list[tuple[list[dict[str, Any]], dict[str, Any]]] = [
    ([{"given": {"token": "mallory:a"}}, {"given": {"token": "mallory:b"}}], {"given": {"token": "ada:a"}}),
    ([{"given": {"token": "header.mallory.x"}}], {"given": {"token": "header.ada.x"}}),
    ([{"QUERY_STRING": "token=mallory%3Aa"}, {"given": {"token": "mallory:b"}}], {"QUERY_STRING": "token=ada%3Aa"}),
    ([{"HTTP_COOKIE": "session=mallory"}], {"HTTP_COOKIE": "session=ada"}),
    ([{"given": {"token": ["mallory"]}}, {"given": {"token": {"a": 1}}}], {"given": {"token": "ada:a"}}),
]


@pytest.mark.parametrize(("flood", "other"), SHOWN)
def test_a_user_with_many_connections_does_not_keep_others_of_the_address_waiting(
    arrivals: Arrivals, flood: list[dict[str, Any]], other: dict[str, Any]
) -> None:
    made = {f"flood-{number}": arrivals.begin(f"flood-{number}", **flood[number % len(flood)]) for number in range(9)}
    assert begun(made) == ["flood-0", "flood-1"]
    made |= {name: arrivals.begin(name, **other) for name in ("other", "later")}
    assert begun(made) == ["flood-0", "flood-1", "other"]
    for name in ("flood-0", "flood-1"):
        arrivals.end(name)
    assert "later" in begun(made)


def test_those_that_wait_begin_in_turn(arrivals: Arrivals) -> None:
    made = {name: arrivals.begin(name, attempts=2) for name in ("a", "b", "c", "d")}
    arrivals.end("a")
    assert begun(made) == ["a", "b", "c"]
    arrivals.end("b")
    assert begun(made) == ["a", "b", "c", "d"]
    for name in ("c", "d"):
        arrivals.end(name)
    assert len(arrivals.turns) == 0


def test_a_connection_that_has_gone_waits_no_more_and_takes_no_turn(arrivals: Arrivals) -> None:
    made = {name: arrivals.begin(name) for name in ("a", "b", "gone", "c")}
    assert begun(made) == ["a", "b"]
    arrivals.forget("gone")
    assert made["gone"].event.is_set()
    with pytest.raises(ZeroDivisionError):
        made["gone"].check(lambda _: ZeroDivisionError())
    arrivals.end("gone")
    assert begun(made) == ["a", "b", "gone"]
    arrivals.end("a")
    assert begun(made) == ["a", "b", "gone", "c"]
    made["c"].check(lambda _: ZeroDivisionError())


def test_one_that_has_gone_while_it_was_decided_gives_its_turn_back_once(arrivals: Arrivals) -> None:
    made = {name: arrivals.begin(name) for name in ("a", "b", "c", "d", "e")}
    arrivals.forget("a")
    arrivals.end("a")
    assert begun(made) == ["a", "b", "c"]


def test_too_many_are_refused_at_once(arrivals: Arrivals) -> None:
    made = [arrivals.begin(f"a-{number}") for number in range(40)]
    refused = [one for one in made if one.refusal is not None]
    assert refused
    assert all(one.event.is_set() for one in refused)


def test_no_more_tokens_are_looked_at_at_once_than_a_server_decides(
    kind: Any, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connects, "OF_THREADS", Kind(at_once=3))
    monkeypatch.setattr(connects, "OF_LOOPS", Kind(at_once=3))
    lock, now, most, may_answer = threading.Lock(), [0], [0], threading.Event()

    def authenticate(token: Any, _environ: dict[str, Any]) -> Any:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        assert may_answer.wait(60)
        with lock:
            now[0] -= 1
        return token

    web = (
        Web(kind, redis_url, connect_timeout=120.0).attach(authenticate=authenticate, authorize=lambda *_: True).start()
    )
    clients: list[Any] = []
    threads = [threading.Thread(target=lambda: clients.append(web.connect("ada")), daemon=True) for _ in range(8)]
    try:
        for thread in threads:
            thread.start()
        wait_for(lambda: now[0] == 3, timeout=30)
        may_answer.set()
        for thread in threads:
            thread.join(60)
        assert (len(clients), most[0]) == (8, 3)
    finally:
        may_answer.set()
        web.stop()


def test_a_user_whose_tokens_take_long_to_look_at_does_not_keep_others_from_connecting(
    kind: Any, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OF_THREADS", "OF_LOOPS"):
        monkeypatch.setattr(connects, name, Kind(at_once=3, of_peer=3, of_user=2))
    looked_at, may_answer = [], threading.Event()

    def authenticate(token: str, _environ: dict[str, Any]) -> str:
        user = token.partition(":")[0]
        if user == "mallory":
            looked_at.append(token)
            assert may_answer.wait(300)
        return user

    web = Web(kind, redis_url, connect_timeout=300.0)
    web.attach(authenticate=authenticate, authorize=lambda *_: True).start()
    crowd = [
        threading.Thread(target=web.connect, args=(f"mallory:{number}",), kwargs={"timeout": 300}, daemon=True)
        for number in range(6)
    ]
    try:
        for thread in crowd:
            thread.start()
        wait_for(lambda: len(looked_at) == 2)
        for _ in range(3):
            web.connect("ada:1")
        assert len(looked_at) == 2
    finally:
        may_answer.set()
        for thread in crowd:
            thread.join(60)
        web.stop()

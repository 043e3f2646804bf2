"""Of polls of sessions without a token few wait; those beyond are answered at once."""

from __future__ import annotations

import contextlib
import json
import socket
from typing import TYPE_CHECKING, Any

import pytest

from celery_realtime.web.budgets import Allowance, Budget
from celery_realtime.web.polls import LAST_KEY, Polls
from tests.attacks.raw import Polling, handshake
from tests.waiting import wait_for

if TYPE_CHECKING:
    from tests.web_servers import Web

ALLOWANCE = Allowance(max_message=1_000_000, byte_rate=1_000_000, packet_rate=100, frame_rate=100)


class Waiting:
    """Polls of addresses, each of a session with its number."""

    def __init__(self, most: int) -> None:
        self.answered: list[str] = []
        self.polls = Polls(self.answered.append, most)

    def begin(self, peer: str, eio_sid: str) -> tuple[Budget, dict[str, Any]]:
        budget = Budget(ALLOWANCE, peer, lambda _: None)
        budget.eio_sid = eio_sid
        environ: dict[str, Any] = {}
        self.polls.begin(budget, environ)
        return budget, environ


def test_of_too_many_the_oldest_of_the_address_with_most_is_answered() -> None:
    waiting = Waiting(most=3)
    _, first = waiting.begin("near", "1")
    _, second = waiting.begin("far", "2")
    waiting.begin("near", "3")
    assert waiting.answered == []
    waiting.begin("near", "4")
    assert waiting.answered == ["1"]
    waiting.begin("near", "5")
    assert waiting.answered == ["1", "3"]
    assert LAST_KEY in first
    assert LAST_KEY not in second
    assert len(waiting.polls) == 3


def test_one_that_was_answered_does_not_count() -> None:
    waiting = Waiting(most=1)
    for number in range(3):
        waiting.polls.end(*waiting.begin("near", str(number)))
    assert waiting.answered == []
    assert len(waiting.polls) == 0


def test_the_end_of_another_request_changes_nothing() -> None:
    waiting = Waiting(most=1)
    budget, _ = waiting.begin("near", "1")
    waiting.polls.end(budget, {})
    assert len(waiting.polls) == 1


@pytest.fixture
def crowded(web: Web, monkeypatch: pytest.MonkeyPatch) -> Web:
    handshake(web.url)  # with the first request it becomes known how many there may be
    monkeypatch.setattr(web.handlers.housekeeper.gate.polls, "most", 2)
    return web


def answer_of(connection: socket.socket) -> bytes:
    """Return what is answered to a request after which the connection is closed."""
    connection.settimeout(60)
    answer = b""
    with contextlib.suppress(ConnectionError):
        while data := connection.recv(65536):
            answer += data
    return answer


def test_a_poll_that_is_one_too_many_has_the_oldest_answered(crowded: Web) -> None:
    polls = crowded.handlers.housekeeper.gate.polls
    sessions = [Polling(crowded.url) for _ in range(3)]
    connections = []
    for count, session in enumerate(sessions, 1):
        connections.append(session.get())
        if count < 3:
            wait_for(lambda count=count: len(polls) == count)
    answer = answer_of(connections[0])
    assert b" 200 " in answer
    assert answer.rstrip().endswith((b"6", b"0"))  # nothing; the latter ends what comes in chunks
    assert len(polls) == 2
    for connection in connections:
        connection.close()


def test_browsers_that_poll_connect_all_the_same(crowded: Web) -> None:
    held = [session.get() for session in [Polling(crowded.url) for _ in range(4)]]
    session = Polling(crowded.url)
    session.post("40" + json.dumps({"token": crowded.token()}))
    with session.get() as connection:
        assert b'40{"sid"' in answer_of(connection)
    session.post("1")
    for connection in held:
        connection.close()

"""A connection is waited for until its client has closed, and nothing else waits for that meanwhile."""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from celery_realtime.web import lingering
from celery_realtime.web.lingering import MOST_READ, Lingering
from tests.waiting import wait_for

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    here, there = socket.socketpair()
    yield here, there
    here.close()
    there.close()


def is_closed(connection: socket.socket) -> bool:
    return connection.fileno() == -1


def test_a_connection_whose_client_has_closed_is_closed_at_once(pair: Pair) -> None:
    here, there = pair
    there.sendall(b"what nobody has read")
    there.shutdown(socket.SHUT_WR)
    Lingering().close(here)
    assert is_closed(here)


def test_one_whose_client_has_not_is_closed_later(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lingering, "LONGEST", 3600.0)
    here, there = pair
    waiting = Lingering()
    waiting.close(here)
    assert there.recv(1) == b""
    assert not is_closed(here)
    there.sendall(b"more")
    there.close()
    wait_for(lambda: is_closed(here))
    wait_for(lambda: len(waiting) == 0)


def test_it_is_not_waited_for_longer_than_gunicorn_would(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lingering, "LONGEST", 0.0)
    here, _ = pair
    Lingering().close(here)
    wait_for(lambda: is_closed(here))


def test_not_more_is_read_than_gunicorn_would(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lingering, "LONGEST", 3600.0)
    here, there = pair
    there.settimeout(60)
    Lingering().close(here)
    with contextlib.suppress(ConnectionError):
        for _ in range(64):
            there.sendall(bytes(MOST_READ))
    wait_for(lambda: is_closed(here))


def test_of_too_many_the_oldest_is_waited_for_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lingering, "LONGEST", 3600.0)
    monkeypatch.setattr(lingering, "MOST", 2)
    waiting, pairs = Lingering(), [socket.socketpair() for _ in range(3)]
    for here, _ in pairs:
        waiting.close(here)
    assert is_closed(pairs[0][0])
    for _, there in pairs:
        there.close()
    wait_for(lambda: all(is_closed(here) for here, _ in pairs))


@pytest.fixture
def gthread() -> Iterator[Any]:
    """The module of gunicorn's workers with threads; servers of later tests must not take this process for one."""
    was_loaded = "gunicorn.workers.gthread" in sys.modules
    yield pytest.importorskip("gunicorn.workers.gthread")
    if not was_loaded:
        sys.modules.pop("gunicorn.workers.gthread", None)


def test_a_worker_of_gunicorn_does_not_wait(pair: Pair, gthread: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without this, the call returns after two seconds, and with the connection closed."""
    monkeypatch.setattr(lingering, "LONGEST", 3600.0)
    monkeypatch.setattr(gthread.TConn, "close", gthread.TConn.close)
    Lingering().install()
    here, there = pair
    gthread.TConn.close(SimpleNamespace(sock=here), graceful=True)
    assert not is_closed(here)
    assert there.recv(1) == b""
    there.close()
    wait_for(lambda: is_closed(here))


def test_one_that_is_not_to_be_waited_for_is_closed_as_ever(
    pair: Pair, gthread: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gthread.TConn, "close", gthread.TConn.close)
    Lingering().install()
    gthread.TConn.close(SimpleNamespace(sock=pair[0]))
    assert is_closed(pair[0])

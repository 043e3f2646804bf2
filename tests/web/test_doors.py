"""Connections that have not finished a request are bounded on the servers that let themselves be changed."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from celery_realtime.web import doors
from celery_realtime.web.doors import Doors, Waiting, follow
from tests.waiting import wait_for


class Holder:
    """What handles a connection."""


@pytest.fixture
def pairs() -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    made = [socket.socketpair() for _ in range(3)]
    yield made
    for pair in made:
        for end in pair:
            end.close()


def test_the_oldest_of_too_many_is_closed(pairs: list[tuple[socket.socket, socket.socket]]) -> None:
    waiting, holders = Waiting(2, at_once=2), [Holder() for _ in pairs]
    for holder, (ours, _) in zip(holders, pairs, strict=True):
        waiting.enter(holder, ours)
    assert len(waiting) == 2
    pairs[0][1].settimeout(60)
    assert pairs[0][1].recv(1) == b""
    pairs[1][0].sendall(b"x")
    assert pairs[1][1].recv(1) == b"x"


def test_a_request_may_take_a_moment_to_come(pairs: list[tuple[socket.socket, socket.socket]]) -> None:
    """As when many clients connect at once; those that have waited for long are closed when another comes."""
    (first, _), (second, _), (third, _) = pairs
    closed: list[Any] = []
    waiting = Waiting(1, lambda connection: bool(closed.append(connection)), at_once=3, grace=3600)
    for connection in (first, second, third):
        waiting.enter(connection, connection)
    assert closed == []
    waiting.enter(waiting, waiting)
    assert closed == [first]
    waiting = Waiting(1, lambda connection: bool(closed.append(connection)), at_once=3, grace=0)
    for connection in (first, second, third):
        waiting.enter(connection, connection)
    assert closed == [first, first, second]


def test_what_waits_again_is_the_newest(pairs: list[tuple[socket.socket, socket.socket]]) -> None:
    closed: list[Any] = []
    waiting = Waiting(2, lambda connection: bool(closed.append(connection)), at_once=2)
    for connection in "abac":
        waiting.enter(connection, connection)
    assert closed == ["b"]


def test_what_has_sent_its_request_is_not_counted(pairs: list[tuple[socket.socket, socket.socket]]) -> None:
    waiting, holders = Waiting(1, at_once=1), [Holder() for _ in pairs]
    for holder, (ours, _) in zip(holders, pairs, strict=True):
        waiting.enter(holder, ours)
        waiting.leave(holder)
    assert len(waiting) == 0
    for ours, theirs in pairs:
        ours.sendall(b"x")
        assert theirs.recv(1) == b"x"


def test_a_server_of_another_kind_is_left_as_it_is() -> None:
    assert not follow(Holder())
    Doors().install()  # nobody who has called this is a server


def test_werkzeug_is_bounded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from werkzeug.serving import make_server

    monkeypatch.setattr(doors, "MOST_WAITING", 1)
    monkeypatch.setattr(doors, "MOST_THREADS", 1)

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [b"seen"]

    http = make_server("127.0.0.1", 0, application, threaded=True)
    try:
        holder = http.RequestHandlerClass.__new__(http.RequestHandlerClass)
        holder.server = http
        assert follow(holder)
        followed: Any = http.RequestHandlerClass
        assert follow(holder)
        assert http.RequestHandlerClass is followed
        thread = threading.Thread(target=http.serve_forever, args=[0.02], daemon=True)
        thread.start()
        silent = [socket.create_connection(("127.0.0.1", http.port), 60) for _ in range(3)]
        assert silent[0].recv(1) == b""
        with socket.create_connection(("127.0.0.1", http.port), 60) as client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert client.recv(1000)
        wait_for(lambda: len(followed.waiting_connections) <= 1)
        for connection in silent:
            connection.close()
        http.shutdown()
    finally:
        http.server_close()

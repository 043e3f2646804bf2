"""The tests' proxy breaks connections in the way that it says."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.processes import HOST
from tests.proxy import Proxy
from tests.waiting import wait_for


@pytest.fixture
def echo() -> Iterator[str]:
    """The address of a server that says again what it is told."""
    listener = socket.create_server((HOST, 0))
    threading.Thread(target=_accept, args=(listener,), daemon=True).start()
    yield f"tcp://{HOST}:{listener.getsockname()[1]}/"
    # A thread in accept() keeps a socket open that is merely closed.
    with contextlib.suppress(OSError):
        listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def _accept(listener: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            threading.Thread(target=_repeat, args=(listener.accept()[0],), daemon=True).start()


def _repeat(connection: socket.socket) -> None:
    with connection, contextlib.suppress(OSError):
        while data := connection.recv(100):
            connection.sendall(data)


@pytest.fixture
def proxy(echo: str) -> Iterator[Proxy]:
    with Proxy(echo) as proxy:
        yield proxy


@pytest.fixture
def connection(proxy: Proxy) -> Iterator[socket.socket]:
    """A connection on which something has been said already."""
    with connect(proxy) as connection:
        assert ask(connection) == b"hello"
        yield connection


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection((HOST, proxy.port), timeout=60)


def ask(connection: socket.socket, timeout: float = 60.0) -> bytes:
    """Say something, and return the answer: nothing when there is none in time, or no connection."""
    connection.settimeout(timeout)
    with contextlib.suppress(OSError):
        connection.sendall(b"hello")
        return connection.recv(100)
    return b""


def test_killed_cuts_what_is_there_and_refuses_what_comes(proxy: Proxy, connection: socket.socket) -> None:
    proxy.refuse()

    assert ask(connection) == b""
    with pytest.raises(ConnectionRefusedError):
        connect(proxy)


def test_a_black_hole_cuts_what_is_there_and_accepts_what_comes_without_a_word(
    proxy: Proxy, connection: socket.socket
) -> None:
    proxy.black_hole()

    assert ask(connection) == b""
    with connect(proxy) as late:
        wait_for(lambda: proxy.accepted == 2)
        assert ask(late, timeout=0.2) == b""


def test_stalled_keeps_what_is_there_and_passes_nothing_on(proxy: Proxy, connection: socket.socket) -> None:
    proxy.stall()

    assert ask(connection, timeout=0.2) == b""
    connection.setblocking(False)
    with pytest.raises(BlockingIOError):  # not b"", which a closed connection returns
        connection.recv(100)


def test_what_was_said_meanwhile_is_passed_on_after_a_pause_and_is_not_after_a_loss(
    proxy: Proxy, connection: socket.socket
) -> None:
    proxy.stall()
    connection.sendall(b"held back")
    proxy.heal()
    with connect(proxy) as late:
        assert ask(late) == b"hello"
    connection.settimeout(0.2)
    with pytest.raises(TimeoutError):
        connection.recv(100)

    proxy.resume()
    connection.settimeout(5)
    assert connection.recv(100) == b"held back"


@pytest.mark.parametrize("outage", [Proxy.refuse, Proxy.black_hole, Proxy.stall])
def test_a_healed_proxy_has_the_same_address(
    proxy: Proxy, connection: socket.socket, outage: Callable[[Proxy], None]
) -> None:
    outage(proxy)
    proxy.heal()

    with connect(proxy) as late:
        assert ask(late) == b"hello"


def test_round_trips_are_counted_and_not_what_is_said_in_between(echo: str) -> None:
    with Proxy(echo) as proxy, socket.create_connection((HOST, proxy.port), timeout=60) as client:
        for _ in range(3):
            client.sendall(b"ask")
            assert client.recv(100) == b"ask"
        assert proxy.round_trips == 3

"""Each host cuts a connection that sends what it may not; ``tests/web/test_gate.py`` has two of them in full."""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from celery_realtime.web.doors import MOST_WAITING
from tests.attacks.hosts import KINDS, PROJECT, Attacked, is_missing, token_of
from tests.attacks.raw import TEXT, Raw, Refused, frame, handshake, http
from tests.attacks.senders import AFTER, BEFORE, ENDLESS_BODIES, HEAD, LONG, Send, sent
from tests.launcher import Launcher
from tests.variants import long_unless
from tests.waiting import wait_for

pytestmark = pytest.mark.service

#: Those whose WebSockets are read in another way than by the servers of tests/web/test_gate.py.
SAMPLE = ("eventlet", "gthread")

#: Those whose connections without a request are bounded.
WITH_DOORS = ("threading", "gthread", "gevent", "ggevent", "eventlet", "wsproto", "websockets", "hypercorn")

#: Those that throw away the rest of a body while others have their turn.
WITH_LOOPS = ("wsproto", "websockets", "hypercorn", "granian", "daphne")

#: What may be the last of a connection for a long time: nothing, half a request, and one that is behind another.
BEGINNINGS = (b"", b"GET / HTTP/1.1\r\nHost:", b"GET /socket.io/?EIO=1 HTTP/1.1\r\nHost: x\r\n\r\nGET / HT")

#: Bytes that no host takes that reads no more than it has to: what the kernels of both sides hold is less.
MOST_READ = 100_000_000

#: These close each connection after its answer.
ONE_REQUEST = ("threading",)


@pytest.fixture(scope="module", params=long_unless(SAMPLE, KINDS))
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    if is_missing(request.param):
        pytest.skip(f"{request.param} is not installed: run this with the venv of make attack, .venv/attack")
    folder = tmp_path_factory.mktemp(request.param)
    with Launcher(folder) as launcher:
        env = {"CELERY_BROKER_URL": "memory://", "HOST_COUNTS": "1"}
        yield launcher.start(Attacked(request.param, Path(folder), env))


@pytest.mark.parametrize("send", BEFORE)
def test_a_connection_without_a_token_is_cut_that_sends(host: Attacked, send: Send) -> None:
    connection = Raw(host.url)
    connection.wait_for("0")
    sent(connection, send)
    assert connection.is_closed(60)
    connection.close()


@pytest.mark.parametrize("send", AFTER)
def test_a_client_is_cut_that_sends(host: Attacked, send: Send) -> None:
    connection = Raw(host.url).enter(token_of())
    sent(connection, send)
    assert connection.is_closed(60)
    connection.close()


def test_nothing_is_inflated(host: Attacked) -> None:
    connection = Raw(host.url, deflate=True)
    assert not connection.deflates
    sent(connection, lambda raw: raw.write(raw.bomb(LONG)))
    assert connection.is_closed(60)


def test_nobody_looks_at_the_tokens_of_those_that_have_gone(host: Attacked) -> None:
    if host.kind == "daphne":
        pytest.skip("Daphne does not show its sockets")
    before = looked_at(host)
    for _ in range(5):
        connection = Raw(host.url)
        connection.wait_for("0")
        connection.write(frame(TEXT, b'40{"token":"bad"}') * 8)
        connection.close()
    client = Raw(host.url).enter(token_of())
    wait_for(lambda: looked_at(host) > before)
    for _ in range(8):  # as long as another eight tokens take
        with pytest.raises(Refused):
            Raw(host.url).enter("bad")
    client.close()
    assert looked_at(host) - before - 9 < 5 * 8


def test_connections_that_wait_for_a_request_are_bounded(host: Attacked) -> None:
    if host.kind not in WITH_DOORS:
        pytest.skip(f"{host.kind} does not let itself be changed: docs/security.md says what to do")
    Raw(host.url).enter(token_of()).close()
    waiting = [http(host.url, beginning) for beginning in BEGINNINGS * (MOST_WAITING // 2)]
    # Those that have had time for it.
    wait_for(lambda: bool(http(host.url, b"").close()) or closed(waiting) >= len(waiting) - MOST_WAITING)
    client = Raw(host.url, timeout=60).enter(token_of())
    assert '"ok":true' in client.ask("subscribe_project", {"project_id": PROJECT})
    for connection in [client, *waiting]:
        connection.close()


def closed(connections: list[socket.socket]) -> int:
    """Return how many of some connections, on which nothing is answered, the server has closed."""
    return len(select.select(connections, [], [], 0)[0])


def looked_at(host: Attacked) -> int:
    return host.log.count("a token is looked at")


@pytest.mark.parametrize("name", ENDLESS_BODIES)
def test_a_body_that_does_not_end_is_not_read_to_its_end(host: Attacked, name: str) -> None:
    if host.kind in WITH_LOOPS:
        pytest.skip(f"{host.kind} throws away what comes, and others have their turn meanwhile")
    beginning, more = ENDLESS_BODIES[name]
    with http(host.url, beginning.replace("SID", handshake(host.url)).encode(), timeout=60) as connection:
        assert is_closed_while_sending(connection, more, MOST_READ)


def is_closed_while_sending(connection: socket.socket, more: bytes, most: int) -> bool:
    """Return whether the server closes a connection over which at most so many bytes are sent."""
    connection.setblocking(False)
    sent, unsent = 0, more
    with contextlib.suppress(ConnectionError):
        while sent < most:
            readable, writable, _ = select.select([connection], [connection], [], 60)
            assert readable or writable
            if readable and not connection.recv(65536):
                return True
            if writable:
                count = connection.send(unsent)
                sent, unsent = sent + count, unsent[count:] or more
        return False
    return True


def test_a_connection_is_closed_after_a_refusal(host: Attacked) -> None:
    with http(host.url, HEAD.format("GET", "nobody").encode() + b"\r\n", timeout=60) as connection:
        answer = b""
        while data := connection.recv(4096):
            answer += data
    assert b" 400 " in answer


def test_a_session_goes_on_over_one_connection(host: Attacked) -> None:
    request = HEAD.format("POST", handshake(host.url)).encode() + b"Content-Length: 1\r\n\r\n3"
    answers = b""
    with http(host.url, b"", timeout=60) as connection:
        for count in range(1, 2 if host.kind in ONE_REQUEST else 4):
            connection.sendall(request)
            while answers.count(b" 200 ") < count:
                data = connection.recv(4096)
                assert data
                answers += data


def test_others_are_served_after_all_that(host: Attacked) -> None:
    client = Raw(host.url).enter(token_of())
    assert '"ok":true' in client.ask("subscribe_project", {"project_id": PROJECT})
    client.close()

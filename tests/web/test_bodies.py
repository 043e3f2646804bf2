"""No more of a request is read than it is said to have, and nothing once its connection is over."""

from __future__ import annotations

import io
import socket
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from celery_realtime.web import bodies
from celery_realtime.web.bodies import SLICE, Body, discard_in_slices, end_input, let_others_read
from celery_realtime.web.budgets import Allowance, Budget

ALLOWANCE = Allowance(max_message=1_000_000, byte_rate=1_000_000, packet_rate=100, frame_rate=100)


def budget() -> Budget:
    return Budget(ALLOWANCE, "127.0.0.1", lambda _: None)


def posted(data: bytes, **more: Any) -> dict[str, Any]:
    return {"REQUEST_METHOD": "POST", "CONTENT_LENGTH": str(len(data)), "wsgi.input": io.BytesIO(data), **more}


def nobody_waits(_: float) -> None:
    """Take no breath."""


# -- what Engine.IO reads ------------------------------------------------------------------------------------------


def test_a_body_is_read_whole() -> None:
    data = b"x" * (3 * SLICE + 1)
    environ = posted(data)
    theirs = environ["wsgi.input"]
    body = Body(environ, budget(), nobody_waits)
    assert body.has_more
    assert environ["wsgi.input"].read(len(data)) == data
    assert not body.has_more
    body.release()
    assert environ["wsgi.input"] is theirs


def test_not_more_is_read_than_was_said() -> None:
    body = Body(posted(b"12345", CONTENT_LENGTH="3"), budget(), nobody_waits)
    assert body.read() == b"123"
    assert body.read(5) == b""
    assert not body.has_more


def test_one_that_ends_too_soon_has_more() -> None:
    body = Body(posted(b"12", CONTENT_LENGTH="3"), budget(), nobody_waits)
    assert body.read(3) == b"12"
    assert body.has_more


def test_nothing_is_read_of_a_connection_that_is_over_its_budget() -> None:
    its = budget()
    body = Body(posted(b"12345"), its, nobody_waits)
    its.exceed("packets a second")
    assert body.read(5) == b""
    assert body.has_more


@pytest.mark.parametrize(
    "more",
    [{"HTTP_TRANSFER_ENCODING": "chunked"}, {"CONTENT_LENGTH": "5x"}, {"CONTENT_LENGTH": "-5"}],
    ids=["chunked", "no number", "negative"],
)
def test_a_body_of_unknown_length_is_not_read(more: dict[str, str]) -> None:
    environ = posted(b"12345", **more)
    body = Body(environ, budget(), nobody_waits)
    assert body.has_more
    assert not isinstance(environ["wsgi.input"], Body)


def test_a_request_without_a_body_has_no_more() -> None:
    assert not Body({"REQUEST_METHOD": "GET"}, budget(), nobody_waits).has_more


def test_one_that_should_have_none_has_more() -> None:
    assert Body(posted(b"1", REQUEST_METHOD="GET"), budget(), nobody_waits).has_more


# -- what servers read ---------------------------------------------------------------------------------------------

#: Bytes that have come of a body by the time its request is refused.
COME = b"5\r\n12345\r\n" * 1000

Reader = Callable[[], Any]


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    here, there = socket.socketpair()
    here.settimeout(60)
    there.sendall(COME)
    yield here, there
    here.close()
    there.close()


def of_werkzeug(file: Any, connection: Any) -> tuple[dict[str, Any], Reader]:
    serving: Any = pytest.importorskip("werkzeug.serving")
    return {"wsgi.input": serving.DechunkedInput(file)}, lambda: file.read(10_000_000)


def of_gevent(file: Any, connection: Any) -> tuple[dict[str, Any], Reader]:
    pywsgi: Any = pytest.importorskip("gevent.pywsgi")
    body = pywsgi.Input(file, None, chunked_input=True)
    return {"wsgi.input": body}, body._discard


def of_gevent_with_length(file: Any, connection: Any) -> tuple[dict[str, Any], Reader]:
    pywsgi: Any = pytest.importorskip("gevent.pywsgi")
    body = pywsgi.Input(file, 1_000_000)
    return {"wsgi.input": body}, body._discard


def of_eventlet(file: Any, connection: Any) -> tuple[dict[str, Any], Reader]:
    wsgi: Any = pytest.importorskip("eventlet.wsgi")
    body = wsgi.Input(file, "0", connection, chunked_input=True)
    return {"wsgi.input": body, "eventlet.input": body}, body.discard


SERVERS = [of_werkzeug, of_gevent, of_gevent_with_length, of_eventlet]


@pytest.mark.parametrize("make", SERVERS)
def test_a_server_reads_no_more_and_has_no_other_request(make: Callable[..., Any], pair: Any) -> None:
    """Without the end, each of these would wait for what the client does not send."""
    here, _ = pair
    file = here.makefile("rb")
    assert file.peek()  # the head was read from it
    environ, discard = make(file, here)
    end_input(environ, None, here)
    assert not discard()
    assert file.readline() == b""
    file.close()


def test_gevent_reads_no_more_of_a_request_for_a_websocket(pair: Any) -> None:
    pywsgi: Any = pytest.importorskip("gevent.pywsgi")
    here, _ = pair
    file = here.makefile("rb")
    body = pywsgi.Input(file, None, chunked_input=True)
    handler = SimpleNamespace(wsgi_input=body)
    start_response = SimpleNamespace(__self__=handler)
    end_input({"wsgi.input": file}, start_response, here)
    body._discard()
    assert file.readline() == b""
    file.close()


class Message:
    """As a request of gunicorn's."""

    def __init__(self) -> None:
        self.must_close = False

    def force_close(self) -> None:
        self.must_close = True


@pytest.mark.parametrize("is_wrapped", [False, True])
def test_gunicorn_closes_after_a_body_in_chunks(is_wrapped: bool, pair: Any) -> None:
    http_body: Any = pytest.importorskip("gunicorn.http.body")
    unreader: Any = pytest.importorskip("gunicorn.http.unreader")
    here, _ = pair
    response, message = Message(), Message()
    body = http_body.Body(http_body.ChunkedReader(message, unreader.SocketUnreader(here)))
    end_input({"wsgi.input": body}, None if is_wrapped else SimpleNamespace(__self__=response), here)
    assert (message if is_wrapped else response).must_close


def test_gunicorn_has_no_other_request_in_a_body_with_a_length(pair: Any) -> None:
    http_body: Any = pytest.importorskip("gunicorn.http.body")
    unreader: Any = pytest.importorskip("gunicorn.http.unreader")
    here, _ = pair
    reader = unreader.SocketUnreader(here)
    reader.unread(b"GET / HTTP/1.1\r\n\r\n")
    end_input({"wsgi.input": http_body.Body(http_body.LengthReader(reader, 1_000_000))}, None, here)
    assert reader.read() == b""


def test_a_client_that_has_sent_little_can_read_the_answer(pair: Any) -> None:
    """A connection that is closed with something unread is reset, and the answer may be lost."""
    here, there = pair
    end_input({}, None, here)
    here.sendall(b"refused")
    here.close()
    assert there.recv(100) == b"refused"
    assert there.recv(100) == b""


def test_a_connection_that_has_been_closed_is_none(pair: Any) -> None:
    here, _ = pair
    here.close()
    end_input({"wsgi.input": io.BytesIO()}, None, here)
    end_input({}, None, None)


@pytest.mark.parametrize("name", ["gevent.pywsgi", "eventlet.wsgi"])
def test_others_have_their_turn_while_a_server_of_greenlets_reads(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = pytest.importorskip(name)
    for server in ("gevent.pywsgi", "eventlet.wsgi"):
        inputs: Any = pytest.importorskip(server).Input
        monkeypatch.setattr(inputs, "read", getattr(inputs.read, "__wrapped__", inputs.read))
    monkeypatch.setattr(bodies, "Breaths", lambda sleep: SimpleNamespace(take=lambda: sleep(0)))
    breaths: list[float] = []
    let_others_read(breaths.append)
    let_others_read(breaths.append)  # another server in the process changes nothing
    body = module.Input(io.BytesIO(b"x" * 50_000), 50_000, None)
    assert body.read(16_384) == b"x" * 16_384
    assert breaths == [0]


class Measured(io.RawIOBase):
    """What a client sends, of which the largest read is noted."""

    def __init__(self, size: int) -> None:
        self.left, self.largest = size, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self.largest = max(self.largest, len(buffer))
        size = min(self.left, len(buffer))
        self.left -= size
        return size


@pytest.fixture
def werkzeug(monkeypatch: pytest.MonkeyPatch) -> Any:
    serving: Any = pytest.importorskip("werkzeug.serving")
    theirs = serving.WSGIRequestHandler.make_environ
    monkeypatch.setattr(serving.WSGIRequestHandler, "make_environ", getattr(theirs, "__wrapped__", theirs))
    discard_in_slices()
    discard_in_slices()  # another server in the process changes nothing
    return serving


def test_werkzeug_discards_in_slices(werkzeug: Any) -> None:
    """Of a request on a path of the application's own, too, which reads what it wants as before."""
    client = Measured(4_000_000)
    read: list[int] = []

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        read.append(len(environ["wsgi.input"].read(1_000_000)))
        client.largest = 0
        there.sendall(b"more to come")
        start_response("413 Content Too Large", [])
        return [b"too long"]

    here, there = socket.socketpair()
    with here, there:
        there.sendall(b"POST /uploads HTTP/1.1\r\nHost: x\r\nContent-Length: 4000000\r\n\r\n")

        class Handler(werkzeug.WSGIRequestHandler):  # type: ignore[misc]  # pytest imports it
            def make_environ(self) -> Any:
                self.rfile = io.BufferedReader(client)
                return super().make_environ()

        server = SimpleNamespace(
            app=application,
            multithread=True,
            multiprocess=False,
            server_address=("", 80),
            ssl_context=None,
            passthrough_errors=True,
            _send_silently=False,
            log=lambda *_: None,
        )
        Handler(here, ("127.0.0.1", 1), server)
        here.shutdown(socket.SHUT_WR)
        assert b"413" in b"".join(iter(lambda: there.recv(65_536), b""))
    assert read == [1_000_000]
    assert client.left == 0
    assert 0 < client.largest <= max(SLICE, io.DEFAULT_BUFFER_SIZE)  # that of Python 3.14 is the larger one

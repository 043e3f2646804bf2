"""What a connection sends too much of ends it, before anything of it reaches python-socketio."""

from __future__ import annotations

import contextlib
import gc
import json
import select
import socket
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from celery_realtime.web import failures, gate
from celery_realtime.web.budgets import MOST_CONNECTS, SHORT_MESSAGE
from tests.attacks.raw import Raw, Refused, handshake, http
from tests.attacks.senders import AFTER, BEFORE, LONG, Send, no_packet, sent
from tests.variants import in_a_loop
from tests.waiting import wait_for

if TYPE_CHECKING:
    from tests.web_servers import Web


@pytest.mark.parametrize("send", BEFORE)
def test_a_connection_without_a_token_is_cut_that_sends(web: Web, send: Send) -> None:
    connection = Raw(web.url)
    connection.wait_for("0")
    sent(connection, send)
    assert connection.is_closed(60)
    connection.close()
    wait_for(lambda: not web.server.eio.sockets)


@pytest.mark.parametrize("send", AFTER)
def test_a_client_is_cut_that_sends(web: Web, send: Send) -> None:
    connection = Raw(web.url).enter(web.token())
    sent(connection, send)
    assert connection.is_closed(60)
    connection.close()
    wait_for(lambda: not web.handlers.clients())


def test_a_client_reads_why_it_is_cut(web: Web) -> None:
    connection = Raw(web.url).enter(web.token())
    connection.text("4" + json.dumps(["no event"]))
    answer = connection.wait_for('42\\["error"')
    assert json.loads(answer[2:])[1]["code"] == "too_many_requests"
    assert connection.is_closed(60)


def test_a_message_may_be_longer_once_a_token_was_shown(web: Web) -> None:
    text = "x" * (4 * SHORT_MESSAGE)
    client = web.connect()
    assert client.call("subscribe_project", {"project_id": text})["error"]["code"] == "bad_request"
    assert client.call("subscribe_project", {"project_id": "alpha"})["ok"]


def test_nothing_is_inflated(web: Web) -> None:
    connection = Raw(web.url, deflate=True)
    assert not connection.deflates
    sent(connection, lambda raw: raw.write(raw.bomb(LONG)))
    assert connection.is_closed(60)


def test_what_a_client_is_cut_with_is_gone_at_once(web: Web) -> None:
    earlier = set(web.server.eio.sockets)
    connection = Raw(web.url, receive_buffer=4096).enter(web.token())
    [eio_sid] = set(web.server.eio.sockets) - earlier
    held = web.server.eio.sockets[eio_sid]
    assert connection.ask("subscribe_project", {"project_id": "alpha"})
    for number in range(20):
        web.emit("alpha", number)
    web.settle()
    no_packet(connection)
    wait_for(lambda: held.queue.qsize() <= 1)
    wait_for(lambda: eio_sid not in web.server.eio.sockets)


def test_what_a_websocket_has_taken_is_free_when_it_has_gone(web: Web) -> None:
    if web.server.is_asyncio_based():
        pytest.skip("in an event loop, tasks and futures refer to each other, and Python looks for that itself")
    earlier = set(web.server.eio.sockets)
    connection = Raw(web.url)
    connection.wait_for("0")
    [eio_sid] = set(web.server.eio.sockets) - earlier
    held = weakref.ref(web.server.eio.sockets[eio_sid])
    gc.disable()
    try:
        connection.close()
        wait_for(lambda: held() is None)
    finally:
        gc.enable()


def test_while_an_address_fails_all_the_time_its_connections_wait(
    make_web: Callable[..., Web], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures, "MOST_FAILURES", 2)
    monkeypatch.setattr(failures, "FAILURE_RATE", 0.001)
    monkeypatch.setattr(failures, "MEMORY", 600.0)
    web = make_web().attach().start()
    for _ in range(3):
        with pytest.raises(Refused, match="unauthorized"):
            Raw(web.url).enter("bad")
    monkeypatch.setattr(failures, "LONGEST", -1.0)
    with pytest.raises((Refused, ConnectionError)):
        Raw(web.url)
    monkeypatch.setattr(failures, "LONGEST", 60.0)
    Raw(web.url).enter(web.token()).close()


# -- polling ---------------------------------------------------------------------------------------------------------


def post(url: str, sid: str, body: bytes) -> bytes:
    head = f"POST /socket.io/?EIO=4&transport=polling&sid={sid} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    with http(url, f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body) as connection:
        return connection.recv(65536)


def test_a_polling_session_that_posts_too_much_ends(web: Web) -> None:
    sid = handshake(web.url)
    assert b" 200 " in post(web.url, sid, b"3")
    with contextlib.suppress(OSError):
        post(web.url, sid, b"4" + b"x" * (2 * SHORT_MESSAGE))
    wait_for(lambda: sid not in web.server.eio.sockets)


def test_a_polling_session_has_few_requests_at_a_time(web: Web) -> None:
    sid = handshake(web.url)
    request = f"GET /socket.io/?EIO=4&transport=polling&sid={sid} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    waiting = [http(web.url, request) for _ in range(5)]
    wait_for(lambda: len(answered(waiting)) >= 3)
    assert [b" 429 " in connection.recv(65536) for connection in answered(waiting)] == [True] * 3
    for connection in waiting:
        connection.close()


def answered(connections: list[socket.socket]) -> list[socket.socket]:
    return select.select(connections, [], [], 0)[0]


# -- time and number -------------------------------------------------------------------------------------------------


def test_a_connection_has_its_time_whatever_it_sends(make_web: Callable[..., Web]) -> None:
    looked_at: list[float] = []

    def authenticate(_token: Any, _environ: dict[str, Any]) -> None:
        looked_at.append(time.monotonic())
        time.sleep(0.3)  # noqa: TID251 - a question to a database

    web = make_web(connect_timeout=1).attach(authenticate=authenticate).start()
    connection = Raw(web.url)
    connection.wait_for("0")

    def goes_on() -> bool:
        try:
            connection.text('40{"token":"bad"}')
        except OSError:
            return False
        return len(looked_at) <= MOST_CONNECTS

    wait_for(lambda: not goes_on())
    assert connection.is_closed(60)
    assert len(looked_at) < MOST_CONNECTS


@in_a_loop
def test_who_leaves_the_namespace_has_to_show_a_token_again(make_web: Callable[..., Web]) -> None:
    web = make_web(connect_timeout=5).attach().start()
    connection = Raw(web.url).enter(web.token())
    connection.text("41")
    assert connection.is_closed(60)


def test_of_too_many_connections_without_a_token_the_oldest_of_the_same_address_goes(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "MOST_IDLE", 3)
    monkeypatch.setattr(gate, "PATIENCE", 0.0)
    silent = [Raw(web.url) for _ in range(5)]
    assert silent[0].is_closed(60)
    assert silent[1].is_closed(60)
    client = Raw(web.url).enter(web.token())
    assert '"ok":true' in client.ask("subscribe_project", {"project_id": "alpha"})
    assert not silent[4].is_closed(0.5)
    for connection in [client, *silent]:
        connection.close()


def test_of_too_many_connections_altogether_the_oldest_goes(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web.handlers.housekeeper.gate, "most_newcomers", 3)
    silent = [Raw(web.url) for _ in range(4)]
    assert silent[0].is_closed(60)
    assert not silent[3].is_closed(0.5)
    for connection in silent:
        connection.close()


def test_a_bad_token_is_refused_as_ever(web: Web) -> None:
    with pytest.raises(Refused, match="unauthorized"):
        Raw(web.url).enter("bad")


def test_a_body_that_does_not_come_is_not_waited_for_longer_than_for_a_token(make_web: Callable[..., Web]) -> None:
    web = make_web(connect_timeout=1).attach().start()
    sid = handshake(web.url)
    head = f"POST /socket.io/?EIO=4&transport=polling&sid={sid} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
    connection = http(web.url, f"{head}40".encode(), timeout=60)
    with contextlib.suppress(ConnectionError):
        assert not connection.recv(65536).startswith(b"HTTP/1.1 200")
    connection.close()
    wait_for(lambda: sid not in web.server.eio.sockets)


def test_a_session_whose_requests_wait_ends_in_time_too(make_web: Callable[..., Web]) -> None:
    web = make_web(connect_timeout=1).attach().start()
    sid = handshake(web.url)
    request = f"GET /socket.io/?EIO=4&transport=polling&sid={sid} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    waiting = [http(web.url, request, timeout=60) for _ in range(2)]
    for connection in waiting:
        with contextlib.suppress(ConnectionError):
            connection.recv(65536)
        connection.close()
    wait_for(lambda: sid not in web.server.eio.sockets)

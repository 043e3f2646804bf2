"""All clients of a server are pinged from one place, as Engine.IO would."""

from __future__ import annotations

import asyncio
import gc
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import socketio
from celery import Celery
from engineio.async_socket import AsyncSocket
from engineio.exceptions import SocketIsClosedError
from engineio.packet import PING
from engineio.socket import Socket

from celery_realtime import Realtime
from celery_realtime.web.pings import Pings
from celery_realtime.web.seams import packets_in
from tests.attacks.hosts import PROJECT, SECRET, Attacked
from tests.attacks.raw import Raw, handshake
from tests.launcher import Launcher
from tests.variants import long_unless, on_threads
from tests.waiting import wait_for

if TYPE_CHECKING:
    from tests.web_servers import Web

#: Those that answer have to do so in time on a busy machine, too.
INTERVAL, TIMEOUT = 0.3, 5.0


def quickly(web: Web) -> Web:
    web.server.eio.ping_interval = INTERVAL
    web.server.eio.ping_timeout = TIMEOUT
    return web


def test_clients_are_pinged_again_and_again_and_answer(make_web: Callable[..., Web]) -> None:
    web = quickly(make_web().attach()).start()
    clients = [Raw(web.url).enter(web.token()) for _ in range(2)]
    for client in clients:
        for _ in range(3):
            client.wait_for("2")
    assert '"ok":true' in clients[0].ask("subscribe_project", {"project_id": "alpha"})
    for client in clients:
        client.close()


def test_a_client_that_answers_no_ping_is_closed(make_web: Callable[..., Web]) -> None:
    web = quickly(make_web().attach()).start()
    client = Raw(web.url).enter(web.token())
    for message in client.messages():
        assert message != "hello"  # pings are not answered
    wait_for(lambda: not web.handlers.clients())


@on_threads
def test_connections_that_have_gone_keep_no_thread_and_are_forgotten(make_web: Callable[..., Web]) -> None:
    web = make_web(connect_timeout=8).attach()
    web.server.eio.ping_interval = 10.0
    web.start()
    before = threading.active_count()
    for _ in range(40):
        handshake(web.url)
    assert web.handlers.housekeeper.pings.waiting == 40
    assert sum("_send_ping" in thread.name for thread in threading.enumerate()) == 0
    assert threading.active_count() < before + 20
    wait_for(lambda: not web.server.eio.sockets)
    gc.collect()
    wait_for(lambda: not web.handlers.housekeeper.pings.waiting)


# -- green threads ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=long_unless(["gevent"], ["gevent", "eventlet"]))
def green(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    pytest.importorskip(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    env = {"CELERY_BROKER_URL": "memory://", "PING_INTERVAL": str(INTERVAL), "PING_TIMEOUT": str(TIMEOUT)}
    with Launcher(folder) as launcher:
        yield launcher.start(Attacked(request.param, Path(folder), env))


@pytest.fixture(scope="module")
def token() -> str:
    realtime = Realtime(Celery("issuer", broker="memory://", set_as_current=False), secret_key=SECRET)
    return realtime.issue_token("ada", projects=[PROJECT])


def pings_of(client: Raw) -> Iterator[str]:
    """Yield the pings that a client answers."""
    while True:
        yield client.wait_for("2")


@pytest.mark.service
def test_in_green_threads_who_answers_stays_and_who_does_not_is_cut(green: Attacked, token: str) -> None:
    clients = [Raw(green.url).enter(token) for _ in range(3)]
    silent, leaving, answering = clients
    leaving.close()  # without a word, while its ping is to come
    is_cut = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        answers = pool.submit(lambda: list(itertools.takewhile(lambda _: not is_cut.is_set(), pings_of(answering))))
        began = time.monotonic()
        pinged = sum(message == "2" for message in silent.messages())  # not answered; ends when the server closes
        lasted = time.monotonic() - began
        is_cut.set()
        assert (pinged, lasted >= TIMEOUT) == (1, True)
        assert len(answers.result(60)) >= 2
    assert '"ok":true' in answering.ask("subscribe_project", {"project_id": PROJECT})
    answering.close()


# -- what may go wrong --------------------------------------------------------------------------------------------


class Pinged:
    """A server of Engine.IO's own sockets, which are pinged at once, of the threads or of an event loop."""

    def __init__(self, *, is_asyncio: bool) -> None:
        make: Any = socketio.AsyncServer if is_asyncio else socketio.Server
        self.server = make(async_mode="asgi" if is_asyncio else "threading", ping_interval=0)
        self.pings = Pings(self.server)
        self._make_socket: Any = AsyncSocket if is_asyncio else Socket

    def connect(self) -> Any:
        sid = f"sid{len(self.server.eio.sockets)}"
        connection = self.server.eio.sockets[sid] = self._make_socket(self.server.eio, sid)
        self.pings.take_over(connection)
        return connection


def fails(error: Exception, *, is_asyncio: bool) -> Callable[[Any], Any]:
    def send(_packet: Any) -> None:
        raise error

    async def send_async(_packet: Any) -> None:
        raise error

    return send_async if is_asyncio else send


def is_pinged(connection: Any) -> bool:
    return [packet.packet_type for packet in packets_in(connection.queue) or []] == [PING]


@pytest.mark.parametrize(("error", "failures"), [(OSError("broken"), 1), (SocketIsClosedError(), 0)])
@pytest.mark.parametrize("is_asyncio", [False, True])
def test_a_connection_that_cannot_be_pinged_keeps_no_other_from_it(
    error: Exception, failures: int, *, is_asyncio: bool
) -> None:
    async def run() -> None:
        pinged = Pinged(is_asyncio=is_asyncio)
        broken, *others = [pinged.connect() for _ in range(3)]
        broken.send = fails(error, is_asyncio=is_asyncio)
        for connection in (broken, *others):
            connection.schedule_ping()
        for _ in range(1000):
            if all(is_pinged(connection) for connection in others):
                break
            await asyncio.sleep(0.01)
        assert all(is_pinged(connection) for connection in others)
        assert pinged.pings.loop.failures == failures

    asyncio.run(run())


@pytest.mark.parametrize("state", ["closing", "closed"])
def test_a_connection_that_is_closed_before_its_ping_is_due_gets_none(state: str) -> None:
    pinged = Pinged(is_asyncio=False)
    leaving, staying = pinged.connect(), pinged.connect()
    setattr(leaving, state, True)
    leaving.schedule_ping()
    staying.schedule_ping()
    wait_for(lambda: is_pinged(staying))
    assert not is_pinged(leaving)


def test_a_loop_that_could_not_begin_begins_with_the_next_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise RuntimeError("can't start new thread")

    pinged = Pinged(is_asyncio=False)
    first, second = pinged.connect(), pinged.connect()
    with monkeypatch.context() as patch:
        patch.setattr(pinged.server, "start_background_task", refuse)
        with pytest.raises(RuntimeError, match="new thread"):
            first.schedule_ping()
    second.schedule_ping()
    wait_for(lambda: is_pinged(first) and is_pinged(second))

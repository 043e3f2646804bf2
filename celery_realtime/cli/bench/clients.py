"""Clients of a web server, all in one thread, that count what they are sent and note when it comes."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

import click

from celery_realtime.cli.bench.arrivals import Arrivals
from celery_realtime.client.messages import items_of
from celery_realtime.client.protocol import BATCH_EVENT
from celery_realtime.clocks import time
from celery_realtime.jobs.measuring import MEASURED_EVENT, PROBE_EVENT
from celery_realtime.urls import place_of_socket, redact

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")

#: Seconds that the web server may take to connect a client, or to answer it.
PATIENCE = 15.0

#: Seconds between two tries of a request that the web server refuses for now.
PAUSE = 0.5


class Clients:
    """Clients that follow one project, connected in the block.

    Args:
        url: The web server.
        token: What they connect with.
        project: The project.
        namespace: The Socket.IO namespace.
        arrivals: Notes what arrives at the first of them.

    Attributes:
        arrivals: The same.
        delivered: How many probes all have been sent.

    Raises:
        ClickException: What clients need is not installed; in the block: the web server refuses them.
    """

    def __init__(self, url: str, token: str, project: str, namespace: str, arrivals: Arrivals) -> None:
        _check_installed()
        self._url, self._token = url, token
        self._project, self._namespace = project, namespace
        self.arrivals = arrivals
        self._clients: list[Any] = []
        self._changed = threading.Condition()
        self.delivered = 0
        self._refusal: Any = None
        #: The HTTP session of all clients, made in the loop.
        self._session: Any = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="celery-realtime-bench", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(click.ClickException):  # it does not answer, and is left
            self._run(self._disconnect())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        if not self._thread.is_alive():
            self._loop.close()

    def _run(self, work: Coroutine[Any, Any, T], timeout: float = PATIENCE) -> T:
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout)
        except concurrent.futures.TimeoutError:
            raise click.ClickException(f"{redact(self._url)} does not answer within {timeout:g} s") from None

    # -- connecting -----------------------------------------------------------------------------------------------

    def connect(self, count: int) -> None:
        """Connect and subscribe clients until there are so many.

        Raises:
            ClickException: The web server refuses one.
        """
        while len(self._clients) < count:
            client = self._run(self._connected(), 3 * PATIENCE)
            self._clients.append(client)
            self._run(self._subscribe(client), 3 * PATIENCE)

    async def _connected(self) -> Any:
        """Return a new client, connected.

        Raises:
            ClickException: The web server is away, or refuses it.
        """
        from socketio import exceptions

        reason = ""
        for transports in (["websocket"], ["polling"]):
            client, is_decided = self._new_client()
            try:
                where, path = place_of_socket(self._url)
                options = {"auth": {"token": self._token}, "socketio_path": path, "transports": transports}
                await client.connect(where, namespaces=[self._namespace], wait=False, **options)
                await asyncio.wait_for(is_decided.wait(), PATIENCE)
            except (exceptions.ConnectionError, ValueError) as error:
                reason = str(error)
                continue
            except asyncio.TimeoutError:
                self._refusal = "it does not answer; is its Socket.IO server one of this package?"
            if self._refusal is None:
                return client
            await client.disconnect()
            refusal = self._refusal
            reason = str(refusal.get("message") if isinstance(refusal, dict) else refusal)
            break
        raise click.ClickException(f"{redact(self._url)} cannot be connected to: {reason}")

    def _new_client(self) -> tuple[Any, asyncio.Event]:
        """Return a client, and what is set as soon as the web server has let it in, or refused it."""
        import aiohttp
        import socketio

        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        client = socketio.AsyncClient(reconnection=False, http_session=self._session)
        is_decided = asyncio.Event()
        is_first = not self._clients

        async def note_connection() -> None:
            is_decided.set()

        async def note_refusal(error: Any = None) -> None:
            self._refusal = error or "it gives no reason"
            is_decided.set()

        for event in (PROBE_EVENT, MEASURED_EVENT, BATCH_EVENT):
            client.on(event, self._taking(event, is_first), namespace=self._namespace)
        client.on("connect", note_connection, namespace=self._namespace)
        client.on("connect_error", note_refusal, namespace=self._namespace)
        return client, is_decided

    async def _subscribe(self, client: Any) -> None:
        from socketio import exceptions

        request = {"project_id": self._project, "batch": True}
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                answer = await client.call("subscribe_project", request, namespace=self._namespace, timeout=PATIENCE)
            except exceptions.TimeoutError:
                answer = None
            error = (answer.get("error") or {}) if isinstance(answer, dict) else {}
            if not error and isinstance(answer, dict) and answer.get("ok"):
                return
            if error.get("code") not in ("unavailable", "too_many_requests") or time.monotonic() > deadline:
                text = error.get("message") or "its answer to subscribe_project is not that of this package"
                raise click.ClickException(f"{redact(self._url)} refuses the project {self._project}: {text}")
            await asyncio.sleep(PAUSE)

    async def _disconnect(self) -> None:
        for client in self._clients:
            await client.disconnect()
        if self._session is not None:
            await self._session.close()

    # -- what they are sent ---------------------------------------------------------------------------------------

    def _taking(self, event: str, is_first: bool) -> Any:
        async def take(data: Any) -> None:
            items = list(items_of(event, data, self._project))
            if is_first:
                for item in items:
                    self.arrivals.note(item.event, item.data)
            with self._changed:
                self.delivered += sum(item.event == PROBE_EVENT for item in items)
                self._changed.notify_all()

        return take

    def wait(self, delivered: int, timeout: float) -> bool:
        """Wait until so many events have been delivered to all; returns whether they have."""
        with self._changed:
            return self._changed.wait_for(lambda: self.delivered >= delivered, timeout)

    def processor_time(self) -> float:
        """Return the seconds that the thread of the clients has kept a processor busy."""

        async def look() -> float:
            return time.thread_time()

        return self._run(look())


def _check_installed() -> None:
    try:
        import aiohttp  # noqa: F401 - the extra brings it, and the rest of what a client needs
        import socketio  # noqa: F401
    except ImportError as error:
        raise click.ClickException(f"{error}: pip install 'celery-realtime[client]'") from None

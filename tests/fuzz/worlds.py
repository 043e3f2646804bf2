"""Worlds of stories: web servers in this process, of threads and of asyncio, in each of which some of all happens."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal

import socketio
from celery import Celery

from celery_realtime import Realtime
from tests.fuzz.direct import AsyncDirectClient, DirectClient
from tests.web_servers import SECRET

if TYPE_CHECKING:
    from celery_realtime.events import Job, Outgoing
    from tests.fuzz.stories import Deed

Kind = Literal["sync", "asgi"]
KINDS: tuple[Kind, ...] = ("sync", "asgi")


class World:
    """A web server of threads, in which some of all happens.

    Args:
        url: Of a Redis of its own.
        happens: Tells what of all happens in it.
        event_filter: Of the ``Realtime``.
        audience: Of the server.
    """

    def __init__(
        self,
        url: str,
        happens: Callable[[Deed], bool],
        *,
        event_filter: Callable[..., Any],
        audience: Callable[[Any, str], str],
    ) -> None:
        self.happens = happens
        app = Celery("world", broker=url, backend=url, set_as_current=False)
        self.realtime = Realtime(
            app, history_url=url, secret_key=SECRET, linger=0.0, request_rate=1e6, event_filter=event_filter
        )
        self.server = self.make_server()
        self.manager = self.server.manager
        self._settled = threading.Event()
        self.manager.on_order(self._note_settled)
        self.realtime.init_socketio(self.server, audience=audience)
        #: Jobs whose progress may not have been sent yet.
        self._in_progress: set[tuple[str, str]] = set()
        self._is_settled = True
        self._orders = 0
        self._until = -1

    def make_server(self) -> Any:
        manager = self.realtime.client_manager()
        return socketio.Server(async_mode="threading", async_handlers=False, client_manager=manager)

    def client(self) -> DirectClient:
        """Return a client, which is not connected yet."""
        return DirectClient(self.server)

    def _note_settled(self, order: dict[str, Any]) -> None:
        if order.get("action") == "settle" and order.get("number") == self._until:
            self._settled.set()

    def begin(self) -> None:
        assert self.manager.reader.listener.wait(60)

    def do(self, deed: Deed, job: Job, outgoing: Outgoing, content: str) -> None:
        """Let something happen, if it does in this world."""
        if not self.happens(deed):
            return
        if deed.kind == "progress":
            self._send_progress_before((str(job.project_id), job.job_id))
        if deed.with_result and deed.kind in ("SUCCESS", "FAILURE"):
            result = ValueError(content) if deed.kind == "FAILURE" else content
            self.realtime.app.backend.store_result(job.job_id, result, deed.kind)
        (self.realtime.manager.put if outgoing.part is None else self.realtime.manager.put_part)(outgoing)
        self._is_settled = False

    def _send_progress_before(self, job: tuple[str, str]) -> None:
        """Send the last progress of a job: whether newer progress replaces it depends on the machine."""
        if job in self._in_progress:
            assert self.realtime.flush(60)
            self._in_progress.clear()
        self._in_progress.add(job)

    def begin_to_settle(self) -> None:
        """Send an order that comes after all else."""
        if self._is_settled:
            return
        assert self.realtime.flush(60)
        self._in_progress.clear()
        self._orders += 1
        self._until = self._orders
        self._settled.clear()
        assert self.realtime.manager.publisher.order({"action": "settle", "number": self._orders})

    def settle(self) -> None:
        """Wait until the server has received everything that was published before."""
        assert self._is_settled or self._settled.wait(60), "a world does not settle"
        self._is_settled = True

    @property
    def _listener(self) -> threading.Thread:
        thread: threading.Thread = self.manager.thread
        return thread

    def stop(self) -> None:
        self.realtime.keeper.stop()
        self.realtime.access.stop()
        self.manager.stop_listening()
        self.realtime.manager.publisher.order({"action": "wake up"})
        self._listener.join(60)
        self.realtime.manager.publisher.close()


class AsyncWorld(World):
    """The same with a server of asyncio, whose event loop runs in a thread of its own."""

    def make_server(self) -> Any:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="world", daemon=True)
        self._thread.start()
        manager = self.realtime.async_client_manager()
        return socketio.AsyncServer(async_mode="asgi", async_handlers=False, client_manager=manager)

    def client(self) -> DirectClient:
        return AsyncDirectClient(self.server, self._loop)

    @property
    def _listener(self) -> threading.Thread:
        thread: threading.Thread = self.manager.listener_thread
        return thread

    def stop(self) -> None:
        super().stop()
        asyncio.run_coroutine_threadsafe(_end_tasks(), self._loop).result(60)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)
        self._loop.close()


async def _end_tasks() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def world_of(kind: Kind) -> type[World]:
    return {"sync": World, "asgi": AsyncWorld}[kind]


def read_all(clients: Iterable[DirectClient]) -> None:
    """Let what clients have asked for be answered, in all worlds at the same time, and read what they are given."""
    begun = [client.begin_to_read() for client in clients]
    for wait in begun:
        wait()

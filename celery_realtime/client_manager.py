"""Be the client manager of a server with clients: publish as others do, and listen."""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from socketio.async_pubsub_manager import AsyncPubSubManager

from celery_realtime import wire
from celery_realtime.catchup import CatchUp
from celery_realtime.delivery import Delivery
from celery_realtime.forks import after_fork
from celery_realtime.kombu_manager import RealtimeKombuManager
from celery_realtime.listener import Listener
from celery_realtime.logs import RateLimitedLogger
from celery_realtime.pacer import Pacer
from celery_realtime.urls import is_redis, redact


class RealtimeClientManager(RealtimeKombuManager):
    """A :class:`socketio.KombuManager` for a server with clients: publishes, and listens for what others publish.

    Args:
        url: Broker URL.
        channel: Fan-out exchange, the same on every side.
        write_only: True to publish only, such as beside a server of another kind.
        connection_options: Further keyword arguments of :class:`kombu.Connection`; ``transport_options`` are merged.
        stock: Publish one stock message an event, which python-socketio's own KombuManager hears too.
        namespace: Socket.IO namespace of the events.
        **options: Further keyword arguments of :class:`socketio.KombuManager`.
    """

    def __init__(self, url: str, channel: str = "socketio", write_only: bool = False, **options: Any) -> None:
        #: The manager that knows the server's clients.
        self.members: Any = self
        options.setdefault("queue_options", {"exclusive": True, "auto_delete": True})
        super().__init__(url, channel, write_only, **options)
        #: Which rooms of this server a message goes to.
        self.delivery = Delivery(self.is_occupied)
        #: What is passed on to this server's clients when the broker was away.
        self.catch_up = CatchUp(self.is_occupied, self.namespace, self.delivery.is_watched)
        #: What is due to clients that read slowly.
        self.pacer = Pacer()
        #: Takes orders that are meant for every server of the channel.
        self.obey: Callable[[dict[str, Any]], None] | None = None
        self._failures = RateLimitedLogger(logging.getLogger(__name__))
        self._listener = Listener(functools.partial(self._connection, reading=True), self._queue_maker(), redact(url))
        after_fork(self.after_fork)

    def _queue_maker(self) -> Callable[[], Any]:
        # Redis remembers each queue's name for ever, so there it keeps it; RabbitMQ may still lock the last one.
        kept = self._queue()
        return lambda: kept if is_redis(self.url) else self._queue()

    def after_fork(self) -> None:
        """Begin anew in a child process; the thread that listened is the parent's."""
        self._listener.after_fork()
        if self.server is not None:
            self.server.manager_initialized = False

    # -- listening ----------------------------------------------------------------------------------------------

    def start_listening(self) -> None:
        """Listen from now on, and not from the server's first client on.

        Raises:
            RuntimeError: The server runs in a mode that needs monkey patching, and nothing is patched.
        """
        if not self.server.manager_initialized:
            self.initialize()
            self.server.manager_initialized = True

    def wait_until_listening(self, timeout: float) -> bool:
        """Wait until messages are heard, at most ``timeout`` seconds; returns whether they are."""
        return self._listener.wait(timeout)

    @property
    def is_hearing(self) -> bool:
        """Whether there is proof from the last five seconds that messages are heard, such as an echo of our own."""
        return self._listener.is_hearing

    @property
    def generation(self) -> int:
        """How many connections have been listened on; when it changes, messages may have been missed."""
        return self._listener.generation

    @property
    def last_heard(self) -> float | None:
        """When the last message came, of :func:`time.monotonic`; None before the first."""
        return self._listener.last_heard

    def is_occupied(self, namespace: str, room: str) -> bool:
        """Tell whether any client of this server is in a room."""
        return bool(self.members.rooms.get(namespace, {}).get(room))

    def _listen(self) -> Iterator[dict[str, Any]]:
        generation = 0
        for message in self._listener.messages():
            if message is None and generation != self.generation:
                generation = self.generation
                self.catch_up.fall_behind()
            yield from self.delivery.spread(self._news_in(message))

    def _news_in(self, message: Any) -> list[dict[str, Any]]:
        if message is None:
            return list(self.catch_up.missed())
        told = wire.decode_message(message.body, message.content_type)
        if told and told[0]["method"] == wire.ORDER_METHOD:
            self._obey(told[0])
            return []
        return [one for one in told if self.catch_up.is_news(one)]

    def _obey(self, order: dict[str, Any]) -> None:
        if self.obey is not None:
            try:
                self.obey(order)
            except Exception as error:  # whatever it is, the listener goes on
                self._failures.error("an order from the channel failed: %r", error)

    def _handle_emit(self, message: dict[str, Any]) -> None:
        for paced in self.pacer.paced(message, self):
            super()._handle_emit(paced)

    def emit_here(self, message: dict[str, Any]) -> None:
        """Emit on this server only."""
        super()._handle_emit(message)


class AsyncRealtimeClientManager(AsyncPubSubManager):
    """The asyncio counterpart: hears the same messages on every broker that kombu fans out on.

    kombu blocks, so a :class:`RealtimeClientManager` listens in a daemon thread and hands over to the event loop.
    Takes the arguments of :class:`RealtimeClientManager`.
    """

    name = "celery-realtime-async"

    def __init__(self, url: str, channel: str = "socketio", write_only: bool = False, **options: Any) -> None:
        super().__init__(channel=channel, write_only=write_only, logger=options.get("logger"))
        self.sync = RealtimeClientManager(url, channel=channel, write_only=write_only, **options)
        self.sync.members = self
        self.after_fork()
        after_fork(self.after_fork)

    def after_fork(self) -> None:
        """Begin anew in a child process, which has the parent's event loop as little as its threads."""
        self._pump: threading.Thread | None = None
        self._hand_over: Callable[[dict[str, Any]], Any] | None = None
        self._attached = threading.Event()
        self._waiting: asyncio.Task[bool] | None = None

    @property
    def is_hearing(self) -> bool:
        """Whether there is proof from the last five seconds that messages are heard, such as an echo of our own."""
        return self.sync.is_hearing

    @property
    def generation(self) -> int:
        """How many connections have been listened on; when it changes, messages may have been missed."""
        return self.sync.generation

    @property
    def last_heard(self) -> float | None:
        """When the last message came, of :func:`time.monotonic`; None before the first."""
        return self.sync.last_heard

    @property
    def catch_up(self) -> CatchUp:
        """What is passed on to this server's clients when the broker was away."""
        return self.sync.catch_up

    @property
    def delivery(self) -> Delivery:
        """Which rooms of this server a message goes to."""
        return self.sync.delivery

    @property
    def namespace(self) -> str:
        """The namespace of the projects."""
        return self.sync.namespace

    @property
    def obey(self) -> Callable[[dict[str, Any]], None] | None:
        """Takes orders that are meant for every server of the channel, in the thread that listens."""
        return self.sync.obey

    @obey.setter
    def obey(self, take: Callable[[dict[str, Any]], None]) -> None:
        self.sync.obey = take

    @property
    def pacer(self) -> Pacer:
        """What is due to clients that read slowly."""
        return self.sync.pacer

    def start_listening(self) -> None:
        """Listen from now on; what is heard before the event loop runs is for nobody, since there is no client."""
        if self._pump is None or not self._pump.is_alive():
            self._pump = threading.Thread(target=self._run_pump, name="celery-realtime-listener", daemon=True)
            self._pump.start()

    async def wait_until_listening(self, timeout: float) -> bool:
        """Wait until messages are heard, at most ``timeout`` seconds; returns whether they are."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while not self._is_listening() and (left := deadline - loop.time()) > 0:
            # One thread waits for all: in an outage every client of a server may come here at once.
            if self._waiting is None or self._waiting.done():
                self._waiting = loop.create_task(asyncio.to_thread(self._wait, left))
            await asyncio.wait([self._waiting], timeout=left)
        return self._is_listening()

    def _is_listening(self) -> bool:
        return self._attached.is_set() and self.sync.wait_until_listening(0)

    def _wait(self, timeout: float) -> bool:
        return self._attached.wait(timeout) and self.sync.wait_until_listening(timeout)

    async def _listen(self) -> AsyncIterator[dict[str, Any]]:
        heard: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        self._hand_over = lambda message: loop.call_soon_threadsafe(heard.put_nowait, message)
        self._attached.set()
        self.start_listening()
        while True:
            yield await heard.get()

    def _run_pump(self) -> None:
        for message in self.sync._listen():
            if self._hand_over is not None:
                try:
                    self._hand_over(message)
                except RuntimeError:  # the loop has been closed: the server is gone
                    return

    async def _publish(self, data: Any) -> bool:
        return await asyncio.to_thread(self.sync._publish, data)

    async def _handle_emit(self, message: dict[str, Any]) -> None:
        for paced in self.pacer.paced(message, self):
            await super()._handle_emit(paced)

    async def emit_here(self, message: dict[str, Any]) -> None:
        """Emit on this server only."""
        await super()._handle_emit(message)

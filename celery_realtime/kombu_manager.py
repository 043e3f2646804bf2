"""Speak to the broker: the only module that knows kombu and python-socketio's managers."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
import os
import queue
import random
import socket
import threading
import time
import weakref
from collections.abc import AsyncIterator, Iterator
from typing import Any

import kombu
import msgspec
import socketio
from socketio.async_pubsub_manager import AsyncPubSubManager

from celery_realtime.events import Outgoing
from celery_realtime.rooms import project_room
from celery_realtime.settings import is_redis, redact

logger = logging.getLogger(__name__)

FRAME_METHOD = "celery_realtime"
FRAME_VERSION = 1
MAX_FRAME = 262144
MAX_MESSAGE = 16 * 1024 * 1024
CONNECT_TIMEOUT = 1.0
SOCKET_TIMEOUT = 1.0
POLL_INTERVAL = 1.0
LONGEST_BACKOFF = 2.0
COOLDOWN = 2.0
LOG_INTERVAL = 60.0
CONTENT_TYPES = (None, "", "text/plain", "application/json", "application/data")

#: Not the module's own generator: a task that seeds that one counts on its numbers.
_jitter = random.Random()

_NO_RETRY = {"max_retries": 0, "interval_start": 0, "interval_step": 0, "interval_max": 0}

#: A child must not let go of its parent's connections: py-amqp shuts the shared socket down when collected.
_inherited: list[object] = []


def _keepalive() -> dict[int, int]:
    wanted = {"TCP_KEEPIDLE": 10, "TCP_KEEPALIVE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
    return {getattr(socket, name): value for name, value in wanted.items() if hasattr(socket, name)}


def _bounds(url: str) -> dict[str, Any]:
    """Return the transport options that keep every call on the network short."""
    if is_redis(url):
        return {
            **_NO_RETRY,
            "socket_timeout": SOCKET_TIMEOUT,
            "socket_connect_timeout": CONNECT_TIMEOUT,
            "socket_keepalive": True,
            "socket_keepalive_options": _keepalive(),
            "ack_emulation": False,
        }
    return {**_NO_RETRY, "read_timeout": SOCKET_TIMEOUT, "write_timeout": SOCKET_TIMEOUT}


class RealtimeKombuManager(socketio.KombuManager):
    """A :class:`socketio.KombuManager` that is bounded in time, safe over threads and forks, and speaks frames.

    Args:
        url: Broker URL.
        channel: Fan-out exchange, the same on every side.
        write_only: True in processes that hold no clients, such as workers.
        connection_options: Further keyword arguments of :class:`kombu.Connection`; ``transport_options`` are merged.
        stock: Publish one stock message an event, which python-socketio's own KombuManager hears too.
        namespace: Socket.IO namespace of the events.
    """

    name = "celery-realtime"

    def __init__(
        self,
        url: str,
        channel: str = "socketio",
        write_only: bool = False,
        logger: Any = None,
        json: Any = None,
        connection_options: dict[str, Any] | None = None,
        stock: bool = False,
        namespace: str = "/",
        **options: Any,
    ) -> None:
        self._reset_state()
        self.stock = stock
        self.namespace = namespace
        self.generation = 0
        self.last_heard: float | None = None
        options.setdefault("queue_options", {"exclusive": True, "auto_delete": True})
        super().__init__(
            url,
            channel=channel,
            write_only=write_only,
            logger=logger,
            json=json,
            connection_options=connection_options,
            **options,
        )
        _reset_at_fork(self)

    def _reset_state(self) -> None:
        self._lock = threading.Lock()
        self._producer: Any = None
        self.publisher_connection: Any = None
        self._broken_until = 0.0
        self._logged_at = -LOG_INTERVAL
        self._listening = threading.Event()

    def _connection(self, reading: bool = False) -> Any:
        given = dict(self.connection_options)
        bounds = _bounds(self.url)
        if reading:
            for name in ("read_timeout", "write_timeout"):
                bounds.pop(name, None)
        transport_options = {**bounds, **(given.pop("transport_options", None) or {})}
        given.setdefault("connect_timeout", CONNECT_TIMEOUT)
        return kombu.Connection(self.url, transport_options=transport_options, **given)

    # -- sending ------------------------------------------------------------------------------------------------

    def publish_events(self, events: list[Outgoing]) -> int:
        """Publish encoded events in order.

        Returns:
            How many of the first ones the broker took. A failure is logged at most once a minute.
        """
        sent = 0
        for count, body in self._bodies(events):
            try:
                self._send(body)
            except Exception as error:
                self._log_failure(error)
                break
            sent += count
        return sent

    def _bodies(self, events: list[Outgoing]) -> Iterator[tuple[int, bytes]]:
        if self.stock:
            yield from ((1, self._stock_message(event)) for event in events)
            return
        chunk: list[bytes] = []
        size = 0
        for event in events:
            entry = self._frame_entry(event)
            if chunk and size + len(entry) > MAX_FRAME:
                yield len(chunk), self._frame(chunk)
                chunk, size = [], 0
            chunk.append(entry)
            size += len(entry)
        if chunk:
            yield len(chunk), self._frame(chunk)

    def _frame_entry(self, event: Outgoing) -> bytes:
        return msgspec.json.encode([event.event, project_room(event.project_id), msgspec.Raw(event.payload)])

    def _frame(self, entries: list[bytes]) -> bytes:
        head = {"method": FRAME_METHOD, "v": FRAME_VERSION, "host_id": self.host_id, "namespace": self.namespace}
        return msgspec.json.encode(head)[:-1] + b',"events":[' + b",".join(entries) + b"]}"

    def _stock_message(self, event: Outgoing) -> bytes:
        return msgspec.json.encode(
            {
                "method": "emit",
                "event": event.event,
                "data": [msgspec.Raw(event.payload)],
                "binary": False,
                "namespace": self.namespace,
                "room": project_room(event.project_id),
                "skip_sid": None,
                "callback": None,
                "host_id": self.host_id,
            }
        )

    def _publish(self, data: Any) -> bool:
        """Publish python-socketio's own message; returns whether the broker took it."""
        body = self.json.dumps(data)
        if time.monotonic() < self._broken_until:
            return False
        try:
            self._send(body)
        except Exception as error:
            self._broken_until = time.monotonic() + COOLDOWN
            self._log_failure(error)
            return False
        return True

    def _send(self, body: str | bytes) -> None:
        with self._lock:
            try:
                self._publish_once(body)
            except Exception:
                self._discard_connection()
                self._publish_once(body)

    def _publish_once(self, body: str | bytes) -> None:
        # Not through kombu's ensure(): it retries for ever once a connection has worked.
        try:
            if self._producer is None:
                channel = self.publisher_connection.default_channel
                self._producer = self.publisher_connection.Producer(
                    channel, exchange=self._exchange(), **self.producer_options
                )
            self._producer.publish(body, content_type="text/plain", content_encoding="utf-8")
        except Exception:
            self._producer = None
            raise

    def _discard_connection(self) -> None:
        self._producer = None
        try:
            self.publisher_connection.collect(socket_timeout=0.1)
        finally:
            self.publisher_connection = self._connection()

    def _log_failure(self, error: BaseException) -> None:
        if time.monotonic() - self._logged_at >= LOG_INTERVAL:
            self._logged_at = time.monotonic()
            logger.error("cannot publish to %s: %r", redact(self.url), error)

    def close(self) -> None:
        """Let go of the publishing connection; the next publish makes a new one."""
        with self._lock:
            self._producer = None
            try:
                self.publisher_connection.release()
            except Exception as error:  # a broker that is away takes no leave
                logger.debug("parting from %s: %r", redact(self.url), error)
            self.publisher_connection = self._connection()

    def _start_over(self) -> None:
        _inherited.append((self._producer, self.publisher_connection))
        self._reset_state()
        self.publisher_connection = self._connection()

    # -- listening ----------------------------------------------------------------------------------------------

    def wait_until_listening(self, timeout: float) -> bool:
        """Wait until messages are heard, at most ``timeout`` seconds; returns whether they are."""
        return self._listening.wait(timeout)

    def _listen(self) -> Iterator[dict[str, Any]]:
        backoff = 0.1
        while True:
            try:
                for message in self._consume():
                    backoff = 0.1
                    yield from decode_message(message.body, message.content_type)
            except Exception as error:
                self._listening.clear()
                logger.error("not hearing %s: %r; again in %.1f s", redact(self.url), error, backoff)
                time.sleep(backoff * _jitter.uniform(0.5, 1.0))
                backoff = min(backoff * 2, LONGEST_BACKOFF)

    def _consume(self) -> Iterator[Any]:
        inbox: collections.deque[Any] = collections.deque()
        with self._connection(reading=True) as connection:
            consumer = connection.Consumer(
                self._queue(),
                on_message=inbox.append,
                on_decode_error=_ignore_message,
                no_ack=True,
                accept=["json", "text/plain"],
            )
            with consumer:
                self._drain(connection, 0.02)  # kombu subscribes on Redis at the first poll only
                self.generation += 1
                self._listening.set()
                while True:
                    while inbox:
                        self.last_heard = time.monotonic()
                        yield inbox.popleft()
                    self._drain(connection, POLL_INTERVAL)

    @staticmethod
    def _drain(connection: Any, timeout: float) -> None:
        with _surviving_poison(connection), contextlib.suppress(TimeoutError):
            connection.drain_events(timeout=timeout)
        # kombu leaves in redis-py's buffer what came in one packet behind a message that it cannot read.
        channel = connection.default_channel
        subclient = vars(channel).get("subclient")
        while subclient is not None and subclient.connection is not None and subclient.connection.can_read(timeout=0):
            with _surviving_poison(connection), contextlib.suppress(queue.Empty):
                channel._receive_one(subclient)


@contextlib.contextmanager
def _surviving_poison(connection: Any) -> Iterator[None]:
    """Go on after a message that kombu cannot read: only a broken connection is a reason to make a new one."""
    try:
        yield
    except Exception as error:
        # Among kombu's connection errors for Redis is KeyError, which a message without an envelope raises.
        broken = isinstance(error, (*connection.connection_errors, *connection.channel_errors))
        if broken and not isinstance(error, (LookupError, TypeError, ValueError)):
            raise
        _ignore(repr(error))


def _ignore_message(_message: Any, error: Exception) -> None:
    _ignore(repr(error))


def decode_message(body: str | bytes, content_type: str | None = None) -> list[dict[str, Any]]:
    """Return what a broker message says, as python-socketio's own messages.

    Only JSON is ever decoded. Whatever has another type or shape is logged and says nothing, so that one hostile or
    broken message cannot stop the listener.
    """
    if content_type not in CONTENT_TYPES or len(body) > MAX_MESSAGE:
        return _ignore(f"content type {content_type!r}, {len(body)} bytes")
    try:
        message = msgspec.json.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        return _ignore(repr(error))
    if not isinstance(message, dict) or not isinstance(message.get("method"), str):
        return _ignore("no message of python-socketio's")
    if message["method"] != FRAME_METHOD:
        return [message]
    return _expand_frame(message)


def _expand_frame(frame: dict[str, Any]) -> list[dict[str, Any]]:
    events = frame.get("events")
    if frame.get("v") != FRAME_VERSION or not isinstance(events, list):
        return _ignore(f"a frame of version {frame.get('v')!r}")
    return [_expand_entry(frame, entry) for entry in events if _is_entry(entry)]


def _is_entry(entry: object) -> bool:
    return (
        isinstance(entry, list) and len(entry) == 3 and all(isinstance(text, str) and text != "" for text in entry[:2])
    )


def _expand_entry(frame: dict[str, Any], entry: list[Any]) -> dict[str, Any]:
    return {
        "method": "emit",
        "event": entry[0],
        "room": entry[1],
        "data": [entry[2]],
        "namespace": frame.get("namespace") or "/",
        "host_id": frame.get("host_id"),
    }


def _ignore(reason: str) -> list[dict[str, Any]]:
    logger.warning("ignored a message on the channel: %s", reason)
    return []


class AsyncRealtimeKombuManager(AsyncPubSubManager):
    """The asyncio counterpart: hears the same messages on every broker that kombu fans out on.

    kombu blocks, so a :class:`RealtimeKombuManager` listens in a daemon thread and hands over to the event loop.
    Takes the arguments of :class:`RealtimeKombuManager`.
    """

    name = "celery-realtime-async"

    def __init__(self, url: str, channel: str = "socketio", write_only: bool = False, **options: Any) -> None:
        super().__init__(channel=channel, write_only=write_only, logger=options.get("logger"))
        self.sync = RealtimeKombuManager(url, channel=channel, write_only=write_only, **options)
        self._pump: threading.Thread | None = None
        self._heard: asyncio.Queue[dict[str, Any]] | None = None

    async def wait_until_listening(self, timeout: float) -> bool:
        """Wait until messages are heard, at most ``timeout`` seconds; returns whether they are."""
        return await asyncio.to_thread(self.sync.wait_until_listening, timeout)

    async def _listen(self) -> AsyncIterator[dict[str, Any]]:
        if self._heard is None:
            self._heard = asyncio.Queue()
            loop = asyncio.get_running_loop()
            self._pump = threading.Thread(
                target=self._run_pump, args=(loop, self._heard), name="celery-realtime-listener", daemon=True
            )
            self._pump.start()
        while True:
            yield await self._heard.get()

    def _run_pump(self, loop: asyncio.AbstractEventLoop, heard: asyncio.Queue[dict[str, Any]]) -> None:
        for message in self.sync._listen():
            try:
                loop.call_soon_threadsafe(heard.put_nowait, message)
            except RuntimeError:  # the loop has been closed: the server is gone
                return

    async def _publish(self, data: Any) -> bool:
        return await asyncio.to_thread(self.sync._publish, data)


def _reset_at_fork(manager: RealtimeKombuManager) -> None:
    reference = weakref.ref(manager)

    def start_over() -> None:
        alive = reference()
        if alive is not None:
            alive._start_over()

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=start_over)

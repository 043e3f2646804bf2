"""Keep clients that read slowly from holding up others, and from filling the server's memory."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

from celery_realtime.events import BATCH_EVENT, PROGRESS_EVENT, STATUS_EVENT
from celery_realtime.rooms import is_ours

Message = dict[str, Any]


class Pacer:
    """Coalesce the progress of clients that lag behind, and give up those that lag too far.

    Engine.IO keeps what a client has not read in a queue without a bound. Beyond a quarter of ``most`` such packets, a
    client's progress is held back, the newest of each job, until it has caught up. Beyond ``most`` packets, or
    ``most_bytes``, the client is given up: it comes back when it can, and recovers.
    """

    def __init__(self) -> None:
        self.most = 1000
        self.most_bytes = 16 * 1024 * 1024
        #: Gives up a client, given its session id and that of its Engine.IO socket.
        self.give_up: Callable[[str, str], Any] | None = None
        #: Lets those who do read have a turn; None where emitting itself does.
        self.give_way: Callable[[], Any] | None = None
        self._held: dict[str, dict[str, Message]] = {}
        self._gone: set[str] = set()
        # Held while what was held back is emitted, so that nothing newer overtakes it.
        self._lock = threading.RLock()

    def paced(self, message: Message, manager: Any) -> Iterator[Message]:
        """Yield what to emit for a message of the channel: it, without those who are behind, and what they get."""
        room, namespace = message.get("room"), message.get("namespace") or "/"
        if not isinstance(room, str) or not is_ours(room) or self.give_up is None:
            yield message
            return
        behind = self._behind(manager, namespace, room)
        if behind and self.give_way is not None:
            self.give_way()
            behind = self._behind(manager, namespace, room)
        if not behind:
            yield message
            return
        skipped = message.get("skip_sid")
        skipped = skipped if isinstance(skipped, list) else [skipped]
        yield {**message, "skip_sid": [*skipped, *(sid for sid, _ in behind)]}
        for sid, eio_sid in behind:
            if sid not in skipped:
                yield from self._for_slow(message, sid, eio_sid, manager)

    def _behind(self, manager: Any, namespace: str, room: str) -> list[tuple[str, str]]:
        """Return who has much to read, or is still owed what was held back."""
        participants = list(manager.get_participants(namespace, room))
        return [(sid, eio_sid) for sid, eio_sid in participants if sid in self._held or self._lags(eio_sid, manager)]

    def _lags(self, eio_sid: str, manager: Any) -> bool:
        return _waiting(eio_sid, manager) > self.most // 4

    def _for_slow(self, message: Message, sid: str, eio_sid: str, manager: Any) -> Iterator[Message]:
        if _waiting(eio_sid, manager) > self.most:
            self._give_up(sid, eio_sid)
            return
        with self._lock:
            kept: Message | None = message
            yield from self._released(sid, eio_sid, manager)
            if sid in self._held or self._lags(eio_sid, manager):
                kept = self._without_progress(message, self._held.setdefault(sid, {}))
            if kept is not None:
                yield {**kept, "room": sid, "skip_sid": None}

    def is_loaded(self, sid: str, promised: int, manager: Any) -> bool:
        """Tell whether half of what may wait for a client does, or is about to, in bytes: nothing more is due to it."""
        packets, size = _backlog(manager.eio_sid_from_sid(sid, manager.namespace), manager)
        return packets > self.most // 2 or size + promised > self.most_bytes // 2

    def part_from_overloaded(self, manager: Any) -> None:
        """Give up every client for which too much waits, whatever it is: answers that it does not read, too."""
        for sid, eio_sid in list(manager.get_participants(manager.namespace, None)):
            packets, size = _backlog(eio_sid, manager)
            if packets > self.most or size > self.most_bytes:
                self._give_up(sid, eio_sid)

    def _give_up(self, sid: str, eio_sid: str) -> None:
        with self._lock:
            self._held.pop(sid, None)
            if sid in self._gone or self.give_up is None:
                return
            self._gone.add(sid)
        self.give_up(sid, eio_sid)

    def _without_progress(self, message: Message, held: dict[str, Message]) -> Message | None:
        """Hold back the progress in a message, and return the rest of it."""
        event, data = message["event"], message["data"]
        if event == BATCH_EVENT:
            rest = [item for item in data[0] if not _hold(item["event"], item["data"], message, held)]
            return {**message, "data": [rest]} if rest else None
        return None if _hold(event, data[0] if data else None, message, held) else message

    def due(self, manager: Any) -> Iterator[Message]:
        """Yield what was held back of clients that have caught up, to be emitted on this server at once."""
        for sid in [*self._held, *self._gone]:
            eio_sid = manager.eio_sid_from_sid(sid, manager.namespace)
            if eio_sid is None or eio_sid not in manager.server.eio.sockets:
                self.forget(sid)
                continue
            with self._lock:
                yield from self._released(sid, eio_sid, manager)

    def _released(self, sid: str, eio_sid: str, manager: Any) -> Iterator[Message]:
        """Yield what was held back of a client, as long as it keeps up; nothing of what it has left meanwhile."""
        held = self._held.get(sid, {})
        for job_id in list(held):
            if self._lags(eio_sid, manager):
                return
            one = held.pop(job_id, None)
            if one is not None and sid in manager.rooms.get(one.get("namespace") or "/", {}).get(one["room"], ()):
                yield {**one, "room": sid, "skip_sid": None}
        if not self._lags(eio_sid, manager):
            self._held.pop(sid, None)

    def forget(self, sid: str) -> None:
        """Forget a client."""
        with self._lock:
            self._held.pop(sid, None)
            self._gone.discard(sid)


def _waiting(eio_sid: str, manager: Any) -> int:
    """Return how many packets a client has not read; 0 of one that is gone."""
    held = manager.server.eio.sockets.get(eio_sid)
    return 0 if held is None else int(held.queue.qsize())


def _backlog(eio_sid: str | None, manager: Any) -> tuple[int, int]:
    """Return how many packets a client has not read, and how many bytes those are, about."""
    held = manager.server.eio.sockets.get(eio_sid)
    if held is None or not held.queue.qsize():
        return 0, 0
    # A deque with all kinds of queue; asyncio has no public name for it.
    packets = list(held.queue.queue if hasattr(held.queue, "queue") else held.queue._queue)
    return len(packets), sum(_length_of(packet) for packet in packets)


def _length_of(packet: Any) -> int:
    data = getattr(packet, "data", None)  # the end of a queue is None
    return len(data) if isinstance(data, (str, bytes, bytearray)) else 0


def _hold(event: str, data: Any, message: Message, held: dict[str, Message]) -> bool:
    """Hold back one event if it is progress, and return whether it is; a job's end makes its progress pointless."""
    job_id = data.get("job_id") if isinstance(data, dict) else None
    if event == PROGRESS_EVENT and isinstance(job_id, str):
        held[job_id] = {**message, "event": event, "data": [data]}
        return True
    if event == STATUS_EVENT and isinstance(job_id, str):
        held.pop(job_id, None)
    return False


def cut(environ: dict[str, Any]) -> None:
    """End a WebSocket that somebody may be writing to in vain, and would go on to for as long as the client lives.

    Args:
        environ: The request that it came with; where that says nothing of a connection, nothing is done.
    """
    with contextlib.suppress(Exception):  # every server has its own ways, and may have closed it by now
        transport = _transport_of(environ)
        if transport is not None:
            transport.abort()
            return
        connection = _socket_of(environ)
        if connection is not None:
            connection.shutdown(socket.SHUT_RDWR)


def _transport_of(environ: dict[str, Any]) -> Any:
    """Return the transport of an ASGI server's connection, such as uvicorn's; None if that is not known."""
    protocols = (getattr(environ.get(name), "__self__", None) for name in ("asgi.receive", "asgi.send"))
    return next((found for found in (getattr(one, "transport", None) for one in protocols) if found is not None), None)


def _socket_of(environ: dict[str, Any]) -> Any:
    """Return the socket of a WSGI server's connection, where simple-websocket finds it, too."""
    for name in ("werkzeug.socket", "gunicorn.socket"):
        if name in environ:
            return environ[name]
    if "eventlet.input" in environ:
        return environ["eventlet.input"].get_socket()
    given = environ.get("wsgi.input")
    raw = getattr(given, "raw", None) or getattr(getattr(given, "rfile", None), "raw", None)
    return getattr(raw, "_sock", None)  # gevent

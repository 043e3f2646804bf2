"""Keep clients that read slowly from holding up others, and from filling the server's memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

from celery_realtime.events import BATCH_EVENT, PROGRESS_EVENT, STATUS_EVENT
from celery_realtime.rooms import is_ours

Message = dict[str, Any]


class Pacer:
    """Coalesce the progress of clients that lag behind, and give up those that lag too far.

    Engine.IO keeps what a client has not read in a queue without a bound. Beyond a quarter of ``most`` such packets, a
    client's progress is held back, the newest of each job, until it has caught up. Beyond ``most`` the client is given
    up: it comes back when it can, and recovers.
    """

    def __init__(self) -> None:
        self.most = 1000
        #: Gives up a client, given its session id and that of its Engine.IO socket.
        self.give_up: Callable[[str, str], Any] | None = None
        self._held: dict[str, dict[str, Message]] = {}
        self._gone: set[str] = set()
        self._lock = threading.Lock()

    def paced(self, message: Message, manager: Any) -> Iterator[Message]:
        """Yield what to emit for a message of the channel: it, without those who are behind, and what they get."""
        room, namespace = message.get("room"), message.get("namespace") or "/"
        if not isinstance(room, str) or not is_ours(room) or self.give_up is None:
            yield message
            return
        behind = self._behind(manager, namespace, room)
        if not behind:
            yield message
            return
        yield {**message, "skip_sid": [sid for sid, _, _ in behind]}
        for sid, eio_sid, waiting in behind:
            yield from self._for_slow(message, sid, eio_sid, waiting)

    def _behind(self, manager: Any, namespace: str, room: str) -> list[tuple[str, str, int]]:
        sockets, bound = manager.server.eio.sockets, self.most // 4
        found = []
        for sid, eio_sid in list(manager.get_participants(namespace, room)):
            socket = sockets.get(eio_sid)
            if socket is not None and socket.queue.qsize() > bound:
                found.append((sid, eio_sid, socket.queue.qsize()))
        return found

    def _for_slow(self, message: Message, sid: str, eio_sid: str, waiting: int) -> Iterator[Message]:
        if waiting > self.most:
            self._give_up(sid, eio_sid)
            return
        with self._lock:
            kept = self._without_progress(message, self._held.setdefault(sid, {}))
        if kept is not None:
            yield {**kept, "room": sid, "skip_sid": None}

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

    def due(self, manager: Any) -> list[Message]:
        """Return what was held back of clients that have caught up, to be emitted on this server."""
        told = []
        with self._lock:
            for sid in list(self._held):
                eio_sid = manager.eio_sid_from_sid(sid, manager.namespace)
                socket = None if eio_sid is None else manager.server.eio.sockets.get(eio_sid)
                if socket is None:
                    del self._held[sid]
                elif socket.queue.qsize() <= self.most // 4:
                    told += [{**one, "room": sid, "skip_sid": None} for one in self._held.pop(sid).values()]
        return told

    def forget(self, sid: str) -> None:
        """Forget a client."""
        with self._lock:
            self._held.pop(sid, None)
            self._gone.discard(sid)


def _hold(event: str, data: Any, message: Message, held: dict[str, Message]) -> bool:
    """Hold back one event if it is progress, and return whether it is; a job's end makes its progress pointless."""
    job_id = data.get("job_id") if isinstance(data, dict) else None
    if event == PROGRESS_EVENT and isinstance(job_id, str):
        held[job_id] = {**message, "event": event, "data": [data]}
        return True
    if event == STATUS_EVENT and isinstance(job_id, str):
        held.pop(job_id, None)
    return False

"""Keep clients that read slowly from delaying others, and from filling the server's memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import msgspec

from celery_realtime.events import BATCH_EVENT, PROGRESS_EVENT, STATUS_EVENT
from celery_realtime.stream_parts import STREAM_EVENT
from celery_realtime.web.delivery import Emit

#: Characters, or bytes of items, about, of all streams that are held for a client that lags; beyond, it sees by the
#: position of what comes next that it has to read what is before.
MOST_OF_STREAMS = 1024 * 1024


class Clients(Protocol):
    """The clients of this server, and what waits for each of them."""

    def participants(self, namespace: str, room: str | None) -> list[tuple[str, str]]:
        """Return the session id, and that of the Engine.IO socket, of each client in a room; of all when None."""

    def eio_sid_of(self, sid: str) -> str | None:
        """Return the id of a client's Engine.IO socket; None if the client is gone."""

    def is_in_room(self, sid: str, namespace: str, room: str) -> bool:
        """Return whether a client is in a room."""

    def is_open(self, eio_sid: str) -> bool:
        """Return whether an Engine.IO socket is there."""

    def packets_waiting(self, eio_sid: str) -> int:
        """Return how many packets a client has not read; 0 for one that is gone."""

    def backlog(self, eio_sid: str | None) -> tuple[int, int]:
        """Return how many packets a client has not read, and about how many bytes they have."""


class SlowClients:
    """Coalesces the progress of clients that lag behind, and disconnects those that lag too far.

    Engine.IO keeps what a client has not read in a queue without a bound. Beyond a quarter of ``max_backlog`` such
    packets, a client's progress is held back, the newest of each job, and so are chunks of streams, which become fewer
    and larger, until it has caught up. Beyond ``max_backlog`` packets, or ``max_backlog_bytes``, the client is
    disconnected: it comes back when it can, and recovers.

    Args:
        clients: The clients of this server.
        namespace: The namespace of the projects.
        max_backlog: Packets that may wait for a client.
        max_backlog_bytes: Bytes that may wait for a client.
        disconnect: Disconnects a client, given its session id and that of its Engine.IO socket.
        give_way: Lets the threads that write to clients have a turn; None where emitting itself does.
        anybody_lags: Tells whether more than a quarter of ``max_backlog`` packets wait for any client; None where each
            has to be looked at.

    Attributes:
        disconnections: How many clients it has disconnected.
    """

    def __init__(
        self,
        clients: Clients,
        namespace: str,
        *,
        max_backlog: int,
        max_backlog_bytes: int,
        disconnect: Callable[[str, str], Any],
        give_way: Callable[[], Any] | None,
        anybody_lags: Callable[[], bool] | None = None,
    ) -> None:
        self._clients = clients
        self._namespace = namespace
        self._max_backlog = max_backlog
        self._max_backlog_bytes = max_backlog_bytes
        self._disconnect_client = disconnect
        self._give_way = give_way
        self._anybody_lags = anybody_lags
        #: By client, the newest progress of each job that is held back; and what is of each stream.
        self._held: dict[str, _HeldBack] = {}
        self._disconnected: set[str] = set()
        self.disconnections = 0
        # Held while what was held back is emitted, so that nothing newer overtakes it.
        self._lock = threading.RLock()

    @property
    def held(self) -> dict[str, int]:
        """By session id of each client that lags behind, how many jobs' progress is held back."""
        return {sid: len(held) for sid, held in list(self._held.items())}

    def paced(self, emit: Emit) -> Iterator[Emit]:
        """Yield what to emit instead: it, without the clients that lag behind, and what each of these gets."""
        lagging = self._lagging_in(emit)
        if lagging and self._give_way is not None:
            self._give_way()
            lagging = self._lagging_in(emit)
        if not lagging:
            yield emit
            return
        skipped = emit.skip_sid if isinstance(emit.skip_sid, list) else [emit.skip_sid]
        yield msgspec.structs.replace(emit, skip_sid=[*skipped, *(sid for sid, _ in lagging)])
        for sid, eio_sid in lagging:
            if sid not in skipped:
                yield from self._for_slow(emit, sid, eio_sid)

    def _lagging_in(self, emit: Emit) -> list[tuple[str, str]]:
        """Return the clients of a room that have much to read, or for which something is held back."""
        if not self._held and self._anybody_lags is not None and not self._anybody_lags():
            return []
        participants = self._clients.participants(emit.namespace, emit.room)
        return [(sid, eio_sid) for sid, eio_sid in participants if sid in self._held or self._lags(eio_sid)]

    def _lags(self, eio_sid: str) -> bool:
        return self._clients.packets_waiting(eio_sid) > self._max_backlog // 4

    def _for_slow(self, emit: Emit, sid: str, eio_sid: str) -> Iterator[Emit]:
        if self._clients.packets_waiting(eio_sid) > self._max_backlog:
            self._disconnect(sid, eio_sid)
            return
        with self._lock:
            rest: Emit | None = emit
            yield from self._released(sid, eio_sid)
            if sid in self._held or self._lags(eio_sid):
                rest = self._held.setdefault(sid, _HeldBack()).hold_back(emit)
            if rest is not None:
                yield msgspec.structs.replace(rest, room=sid, skip_sid=None)

    def is_loaded(self, sid: str, bytes_in_flight: int) -> bool:
        """Return whether half of what may wait for a client does, or is about to: it is given no more answers.

        Args:
            sid: The client.
            bytes_in_flight: The size of the answers that are about to be sent to it.
        """
        packets, size = self._clients.backlog(self._clients.eio_sid_of(sid))
        return packets > self._max_backlog // 2 or size + bytes_in_flight > self._max_backlog_bytes // 2

    def disconnect_overloaded(self) -> None:
        """Disconnect every client for which too much waits, whatever it is: unread answers, too."""
        for sid, eio_sid in self._clients.participants(self._namespace, None):
            packets, size = self._clients.backlog(eio_sid)
            if packets > self._max_backlog or size > self._max_backlog_bytes:
                self._disconnect(sid, eio_sid)

    def _disconnect(self, sid: str, eio_sid: str) -> None:
        with self._lock:
            self._held.pop(sid, None)
            if sid in self._disconnected:
                return
            self._disconnected.add(sid)
            self.disconnections += 1
        self._disconnect_client(sid, eio_sid)

    def due(self) -> Iterator[Emit]:
        """Yield what was held back for clients that have caught up, to be emitted on this server at once."""
        for sid in [*self._held, *self._disconnected]:
            eio_sid = self._clients.eio_sid_of(sid)
            if eio_sid is None or not self._clients.is_open(eio_sid):
                self.forget(sid)
                continue
            with self._lock:
                yield from self._released(sid, eio_sid)

    def _released(self, sid: str, eio_sid: str) -> Iterator[Emit]:
        """Yield what was held back for a client, while it keeps up; nothing of rooms that it has left meanwhile."""
        held = self._held.get(sid, _HeldBack())
        for name in held.names():
            if self._lags(eio_sid):
                return
            emit = held.pop(name)
            if emit is not None and self._clients.is_in_room(sid, emit.namespace, emit.room):
                yield msgspec.structs.replace(emit, room=sid, skip_sid=None)
        if not self._lags(eio_sid):
            self._held.pop(sid, None)

    def drop_progress(self, sid: str, project_id: str) -> None:
        """Drop the progress that is held back of a project: the client is about to get what is newer."""
        with self._lock:
            self._held.get(sid, _HeldBack()).drop_progress(project_id)

    def forget(self, sid: str) -> None:
        """Forget a client that has disconnected."""
        with self._lock:
            self._held.pop(sid, None)
            self._disconnected.discard(sid)


class _Name(NamedTuple):
    """Names what is held back: two projects may have jobs of one id."""

    project_id: Any
    job_id: str
    stream: str | None = None


class _HeldBack:
    """What is held back for one client: the newest progress of each job, and what comes next of each stream."""

    def __init__(self) -> None:
        self._emits: dict[_Name, Emit] = {}
        #: About how many bytes are held of each stream, and of all.
        self._sizes: dict[_Name, int] = {}
        self._size = 0

    def __len__(self) -> int:
        return len(self._emits)

    def names(self) -> list[_Name]:
        """Return what names each emit that is held."""
        return list(self._emits)

    def pop(self, name: _Name) -> Emit | None:
        """Hold an emit no more, and return it; None if it is not held."""
        self._size -= self._sizes.pop(name, 0)
        return self._emits.pop(name, None)

    def hold_back(self, emit: Emit) -> Emit | None:
        """Hold the progress and the chunks in what is emitted, and return the rest of it."""
        if emit.event != BATCH_EVENT:
            return None if self._hold(emit.event, emit.data, emit) else emit
        rest = [item for item in emit.data if not self._hold(item["event"], item["data"], emit)]
        return msgspec.structs.replace(emit, data=rest) if rest else None

    def _hold(self, event: str, data: Any, emit: Emit) -> bool:
        """Hold one event if it is progress or a chunk, and return whether it is; a job's end drops its progress."""
        job_id = data.get("job_id") if isinstance(data, dict) else None
        if not isinstance(job_id, str):
            return False
        name = _Name(data.get("project_id"), job_id)
        if event == STREAM_EVENT:
            self._hold_chunk(name._replace(stream=data["stream"]), data, emit)
            return True
        if event == PROGRESS_EVENT:
            self._emits[name] = msgspec.structs.replace(emit, event=event, data=data)
            return True
        if event == STATUS_EVENT:
            self.pop(name)
        return False

    def _hold_chunk(self, name: _Name, data: dict[str, Any], emit: Emit) -> None:
        before, size_before = self._emits.get(name), self._sizes.get(name, 0)
        joined = None if before is None else _joined(before.data, data)
        held, size = joined or data, _size_of(data["chunk"]) + (0 if joined is None else size_before)
        self._size -= size_before
        if self._size + size > MOST_OF_STREAMS:
            held, size = _end_of(data), 0
        # Without the other events of a list, which may be long.
        events = tuple(msgspec.structs.replace(one, event=STREAM_EVENT, data=held) for one in emit.events[:1])
        self._emits[name] = msgspec.structs.replace(emit, event=STREAM_EVENT, data=held, events=events)
        self._sizes[name] = size
        self._size += size

    def drop_progress(self, project_id: str) -> None:
        """Drop the progress of a project."""
        for name in [name for name, emit in self._emits.items() if _is_progress_of(project_id, emit)]:
            self.pop(name)


def _is_progress_of(project_id: str, emit: Emit) -> bool:
    return emit.event == PROGRESS_EVENT and emit.data.get("project_id") == project_id


def _size_of(content: Any) -> int:
    return len(content if isinstance(content, str) else repr(content))


def _end_of(data: dict[str, Any]) -> dict[str, Any]:
    """Return where a chunk ends, and the state of its stream, as a chunk."""
    end = _position_behind(data)
    return {
        **{name: value for name, value in data.items() if name != "end"},
        "position": end,
        "chunk": data["chunk"][:0],
    }


def _position_behind(data: dict[str, Any]) -> int:
    end: int | None = data.get("end")
    return data["position"] + len(data["chunk"]) if end is None else end


def _joined(before: dict[str, Any], data: dict[str, Any]) -> dict[str, Any] | None:
    """Return a chunk with what is held before it; None if it does not follow that."""
    if before["generation"] != data["generation"] or _position_behind(before) != data["position"]:
        return None
    joined = {**data, "position": before["position"], "chunk": before["chunk"] + data["chunk"]}
    if "end" in before or "end" in data:
        joined["end"] = _position_behind(data)
    return joined

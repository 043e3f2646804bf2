"""Hold what is emitted for clients whose access to a project has to be decided again."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Protocol

import msgspec

from celery_realtime.channel.wire import Heard
from celery_realtime.events import RESYNC_EVENT
from celery_realtime.web.delivery import Emit

#: Emits that are held for the clients of a project, and for those of all projects.
MOST_HELD_OF_ONE = 2000
MOST_HELD = 10_000


class _Held:
    """What is held of one project: each emit once, however many clients wait for it."""

    def __init__(self) -> None:
        self.emits: deque[Emit] = deque()
        #: How many of the first emits have been dropped.
        self.first = 0
        #: By client that waits, the number of the next emit that it gets.
        self.waiting: dict[str, int] = {}
        self.dropped_up_to: Heard | None = None

    @property
    def end(self) -> int:
        """The number that the next emit gets."""
        return self.first + len(self.emits)

    def drop_first(self) -> None:
        """Drop the oldest emit: clients that have not had it will be told to synchronise."""
        self.dropped_up_to = self.emits.popleft().events[-1]
        self.first += 1


class Rooms(Protocol):
    """Who is in which room of this server."""

    def is_in_room(self, sid: str, namespace: str, room: str) -> bool:
        """Return whether a client is in a room."""

    def members(self) -> list[tuple[str, str]]:
        """Return which clients are in the room of which project, by session id and project id."""


class Suspensions:
    """Holds the events of projects for clients that may have lost access to them, until that has been decided.

    What is held is bounded. A client that is to get what has been dropped gets ``agent_resync`` in its place, at which
    clients of ours read the history.

    Args:
        rooms: Who is in which room of this server.
    """

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self._lock = threading.Lock()
        self._projects: dict[str, _Held] = {}

    @property
    def is_idle(self) -> bool:
        """Whether nothing is held for anybody."""
        return not self._projects

    @property
    def held(self) -> int:
        """How many emits are held."""
        with self._lock:
            return sum(len(held.emits) for held in self._projects.values())

    def members(self) -> list[tuple[str, str]]:
        """Return which clients of this server are in the room of which project."""
        return self._rooms.members()

    def begin(self, sid: str, project_id: str) -> None:
        """Hold from now on what is emitted of a project for a client."""
        with self._lock:
            held = self._projects.setdefault(project_id, _Held())
            held.waiting.setdefault(sid, held.end)

    def split(self, emit: Emit) -> Iterator[Emit]:
        """Yield what to emit instead: it, without the clients that it is held for."""
        with self._lock:
            held = self._projects.get(emit.events[0].project_id) if emit.events else None
            suspended = list(held.waiting) if held is not None else []
            if held is not None:
                held.emits.append(emit)
                self._drop_surplus(held)
        if not suspended:
            yield emit
            return
        skipped = emit.skip_sid if isinstance(emit.skip_sid, list) else [emit.skip_sid]
        yield msgspec.structs.replace(emit, skip_sid=[*skipped, *suspended])

    def _drop_surplus(self, held: _Held) -> None:
        total = sum(len(of_one.emits) for of_one in self._projects.values())
        if len(held.emits) > MOST_HELD_OF_ONE or total > MOST_HELD:
            held.drop_first()

    def release(self, sid: str, project_id: str, may: Callable[[], bool]) -> Iterator[Emit]:
        """Yield, in order, what was held for a client that may have it; when all is, it gets what others get.

        Args:
            sid: The client.
            project_id: The project.
            may: Whether it may still; asked before each emit.
        """
        while (emit := self._next(sid, project_id, may)) is not None:
            if emit.is_for(sid) and any(self._rooms.is_in_room(sid, emit.namespace, room) for room in emit.rooms):
                yield emit

    def _next(self, sid: str, project_id: str, may: Callable[[], bool]) -> Emit | None:
        with self._lock:
            held = self._projects.get(project_id)
            number = None if held is None else held.waiting.get(sid)
            if held is None or number is None or not may():
                return None
            if number < held.first and held.dropped_up_to is not None:
                held.waiting[sid] = held.first
                return _resync(held.dropped_up_to, sid)
            if number < held.end:
                held.waiting[sid] = number + 1
                return held.emits[number - held.first]
            self._end(project_id, sid)
            return None

    def drop(self, sid: str, project_id: str) -> None:
        """Drop what is held for a client."""
        with self._lock:
            self._end(project_id, sid)

    def _end(self, project_id: str, sid: str) -> None:
        held = self._projects.get(project_id)
        if held is not None:
            held.waiting.pop(sid, None)
            if not held.waiting:
                del self._projects[project_id]

    def forget(self, sid: str) -> None:
        """Drop all that is held for a client that has disconnected."""
        with self._lock:
            for project_id in list(self._projects):
                self._end(project_id, sid)


def _resync(dropped: Heard, sid: str) -> Emit:
    data = {"project_id": dropped.project_id, "epoch": dropped.epoch, "offset": dropped.offset}
    return Emit(RESYNC_EVENT, data, dropped.namespace, sid, events=(dropped,))
